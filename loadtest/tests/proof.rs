//! `scripts/proof`: its parts and the rows of its table belong together, and the table judges what the JSON says.
//!
//! It needs bash and python3: without them these tests say so, and pass.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name)
}

/// Runs a script; nothing if this machine has no `program` for it.
fn run(program: &str, name: &str, arguments: &[&str]) -> Option<Output> {
    if Command::new(program).arg("--version").output().is_err() {
        eprintln!("not tested: there is no {program}");
        return None;
    }
    Some(Command::new(program).arg(script(name)).args(arguments).output().unwrap())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first words of lines, up to an empty one.
fn first_words(text: &str) -> BTreeSet<String> {
    let lines = text.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_whitespace().next()).map(Into::into).collect()
}

#[test]
fn every_part_has_rows_and_every_row_a_part() {
    let Some(list) = run("bash", "proof", &["--list"]) else { return };
    let Some(table) = run("python3", "proof-table", &[]) else { return };
    assert_eq!((list.status.code(), table.status.code()), (Some(0), Some(0)));
    let mut parts = first_words(&text(&table));
    assert!(parts.remove("part"), "the head of the table");
    assert_eq!(first_words(&text(&list)), parts);
}

#[test]
fn an_unknown_part_is_named() {
    let Some(output) = run("bash", "proof", &["growht"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("no part growht") && said.contains("growth"), "{said}");
}

/// A run with one figure.
fn of(scenario: &str, variant: &str, peer: &str, round: u32, figures: &Value) -> Value {
    json!({"scenario": scenario, "variant": variant, "peer": peer, "round": round, "failure": null, "report": {
        "verdict": "valid", "figures": figures, "generator": {"busy": false}, "server": {"cores": 0.95}}})
}

/// The table of one part's runs, and the exit status.
fn judged(test: &str, part: &str, runs: &[Value]) -> Option<(String, i32)> {
    let directory = std::env::temp_dir().join(format!("stentor-proof-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{part}.json"));
    let environment = json!({"cpu": "a processor", "cpus": 2, "kernel": "6", "date": "today"});
    fs::write(&file, json!({"environment": environment, "runs": runs}).to_string()).unwrap();
    let output = run("python3", "proof-table", &[file.to_str().unwrap()]);
    fs::remove_dir_all(&directory).unwrap();
    let output = output?;
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((text(&output), output.status.code().unwrap()))
}

/// The row that begins so, with single spaces.
#[track_caller]
fn row(table: &str, start: &str) -> String {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no row {start}: {table}"))
}

/// Latencies of both in a flood, round by round.
fn flood(rounds: &[(f64, f64)]) -> Vec<Value> {
    let pairs = (1..).zip(rounds).map(|(round, (own, other))| {
        [("stentor", own), ("bun", other)].map(|(peer, p99)| {
            of("flood", "", peer, round, &json!({"latency_us": {"count": 9, "p99": p99}, "unsent": 0}))
        })
    });
    pairs.flatten().collect()
}

const FLOOD: &str = "flood flood of 4000/s: p99 by Bun's ";

#[test]
fn ratios_are_of_pairs() {
    // The medians of each would give 0.5.
    let rounds = [(1.0, 10.0), (5.0, 100.0), (9.0, 9.5), (1.0, 10.0), (5.0, 100.0), (9.0, 9.5), (5.0, 50.0)];
    let Some((table, status)) = judged("pairs", "flood", &flood(&rounds)) else { return };
    assert_eq!(row(&table, FLOOD), format!("{FLOOD}≤ 0.40 0.10 (0.05 to 0.95, 7 pairs) met"));
    assert!(row(&table, "lone").ends_with("not measured"));
    assert_eq!((status, table.lines().last().unwrap().starts_with("2 met, 0 short, ")), (0, true));

    let Some((table, status)) = judged("short", "flood", &flood(&[(5.0, 10.0); 7])) else { return };
    assert_eq!(row(&table, FLOOD), format!("{FLOOD}≤ 0.40 0.50 (0.50 to 0.50, 7 pairs) short"));
    assert_eq!(status, 1);

    let Some((table, status)) = judged("few", "flood", &flood(&[(1.0, 10.0); 6])) else { return };
    assert_eq!(row(&table, FLOOD), format!("{FLOOD}≤ 0.40 0.10 (0.10 to 0.10, 6 pairs) too few"));
    assert_eq!(status, 0);
}

#[test]
fn one_message_that_was_not_sent_is_one_too_many_and_a_lower_bound_is_not_met() {
    let mut runs = flood(&[(1.0, 10.0); 7]);
    runs[0]["report"]["figures"]["unsent"] = 3.into();
    let Some((table, _)) = judged("unsent", "flood", &runs) else { return };
    let unsent = row(&table, "flood flood of 4000/s: messages not sent");
    assert!(unsent.ends_with("≤ 0 0 (0 to 3, 7 runs) short"), "{unsent}");
    assert!(row(&table, FLOOD).ends_with("met"));
    runs[0]["report"]["figures"]["latency_us"]["lower_bounds"] = json!(["p99"]);
    let Some((table, status)) = judged("bound", "flood", &runs) else { return };
    let marked = "short a lower bound (stentor: 1 of 7)";
    assert!(row(&table, FLOOD).ends_with(marked) && status == 1, "{table}");
}

#[test]
fn what_is_void_has_no_figures_and_is_not_met() {
    let mut runs = flood(&[(1.0, 10.0); 8]);
    runs[3]["report"]["verdict"] = "void".into();
    let Some((table, status)) = judged("other", "flood", &runs) else { return };
    let marked = "≤ 0.40 0.10 (0.10 to 0.10, 7 pairs) met VOID OR FAILED (bun: 1 of 8)";
    assert_eq!((row(&table, FLOOD), status), (format!("{FLOOD}{marked}"), 0));
    runs[4]["report"] = Value::Null;
    runs[4]["failure"] = "it did not start".into();
    let Some((table, status)) = judged("own", "flood", &runs) else { return };
    let marked = "(0.10 to 0.10, 6 pairs) short VOID OR FAILED (stentor: 1 of 8, bun: 1 of 8)";
    assert!(row(&table, FLOOD).ends_with(marked) && status == 1, "{table}");
    let Some((table, status)) = judged("nothing", "flood", &[]) else { return };
    assert_eq!((row(&table, FLOOD), status), (format!("{FLOOD}≤ 0.40 no figure short"), 1));
}

#[test]
fn what_the_generator_limits_is_no_verdict() {
    // Rates of the run with stuck readers and of that without, and whether the generator limits them.
    let verdict = |test: &str, own: (f64, bool), by: (f64, bool)| {
        let mut runs = Vec::new();
        for round in 1..=7 {
            for (stuck, (rate, limited)) in [(100, own), (0, by)] {
                let figures = json!({"deliveries_per_second": rate, "latency_us": {"count": 1, "p99": 10.0}});
                let mut run = of("stuck-10-percent", &format!("stuck={stuck}"), "stentor", round, &figures);
                run["report"]["generator"]["busy"] = true.into();
                if limited {
                    run["report"]["server"]["cores"] = 0.6.into();
                }
                runs.push(run);
            }
        }
        let (table, _) = judged(test, "stuck", &runs)?;
        assert!(row(&table, "stuck 10 % stuck: p99").contains("≤ 1.10 1.00 (1.00 to 1.00, 7 pairs) met"));
        let row = row(&table, "stuck 10 % stuck: rate");
        Some(row.split_once("7 pairs) ").expect("a verdict").1.to_owned())
    };
    let Some(both) = verdict("both", (100.0, true), (100.0, true)) else { return };
    assert_eq!(both, "limited limited (stentor stuck=100: 7 of 7, stentor stuck=0: 7 of 7)");
    // Who is saturated beside a busy generator is measured.
    assert_eq!(verdict("neither", (95.0, false), (100.0, false)).unwrap(), "met");
    assert_eq!(verdict("slow", (85.0, false), (100.0, false)).unwrap(), "short");
    // At least so much is enough, or says nothing.
    assert!(verdict("enough", (95.0, true), (100.0, false)).unwrap().starts_with("met limited"));
    assert!(verdict("unknown", (85.0, true), (100.0, false)).unwrap().starts_with("limited limited"));
}

#[test]
fn growth_is_compared_with_growth() {
    let cost = |count: u32, peer: &str, round: u32, cost: f64| {
        let figures = json!({"server_cpu_us_per_delivery": cost});
        let scenario = format!("limit-{count}x64");
        of(&scenario, "outstanding=1 against=bare-send-1", peer, round, &figures)
    };
    let rounds = (1..=7).flat_map(|round| {
        [
            cost(1000, "stentor", round, 4.0),
            cost(1000, "bare-send-1", round, 4.0),
            cost(15_000, "stentor", round, 6.0),
            cost(15_000, "bare-send-1", round, 5.0),
        ]
    });
    let runs: Vec<Value> = rounds.collect();
    let Some((table, status)) = judged("growth", "growth", &runs) else { return };
    let seen = row(&table, "growth");
    assert!(seen.ends_with("≤ 1.15 1.20 (1.20 to 1.20, 7 pairs) short") && status == 1, "{seen}");
}
