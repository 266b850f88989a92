//! `compare` and `limit` as a whole: peers that work, that lose a message, that cannot start, and that are missing.
//!
//! The peers are this test's own executable: their `peer.toml` starts it again with the ignored test
//! [`serves_as_a_peer`], which is the small server of the other tests.

#[expect(dead_code, reason = "these tests order few faults")]
mod server;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;
use server::{Fault, serve_all};

const README: &str = include_str!("../README.md");

#[test]
#[ignore = "a server process, which the other tests start"]
fn serves_as_a_peer() {
    let Ok(port) = env::var("PEER_PORT") else { return };
    let fault = match env::var("PEER_FAULT").as_deref() {
        Ok("drop") => Fault::Drop,
        Ok("exit") => {
            println!("no mood today");
            std::process::exit(7);
        }
        _ => Fault::None,
    };
    serve_all(&TcpListener::bind(format!("127.0.0.1:{port}")).unwrap(), fault);
}

/// A directory of peers that goes with the test.
struct Peers(PathBuf);

impl Peers {
    fn new(test: &str) -> Self {
        let directory = env::temp_dir().join(format!("stentor-load-test-{}-{test}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn add(self, name: &str, fault: &str, more: &str) -> Self {
        let program = env::current_exe().unwrap();
        let text = format!(
            r#"
            about = "the server of the tests"
            install = "make {{peers}}/{name}"
            version = ["echo", "v-{name}"]
            start = ["{}", "--ignored", "--exact", "--nocapture", "serves_as_a_peer"]
            environment = {{ PEER_PORT = "{{port}}", PEER_FAULT = "{fault}" }}
            options = "none"
            {more}
            [fanout]
            url = "ws://127.0.0.1:{{port}}/ws/bench"
            "#,
            program.display()
        );
        fs::create_dir_all(self.0.join(name)).unwrap();
        fs::write(self.0.join(name).join("peer.toml"), text).unwrap();
        self
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stentor-load"));
        command.args(words).env("STENTOR_PEERS", &self.0).env("TMPDIR", &self.0).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> (Output, Value) {
        let output = self.command(words).output().unwrap();
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output, json)
    }

    /// Temporary directories of servers that are still there.
    fn left(&self) -> usize {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("stentor-load-")).count()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SHORT: [&str; 12] = [
    "--set",
    "subscribers=5",
    "--set",
    "warm-up=200ms",
    "--set",
    "duration=400ms",
    "--set",
    "settle=100ms",
    "--set",
    "drain-timeout=1s",
    "--json",
    "-",
];

fn compare(peers: &Peers, words: &[&str]) -> (Output, Value) {
    peers.run(&[&["compare"][..], &SHORT, words].concat())
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `peer round` of all runs, in order.
fn order(json: &Value) -> Vec<String> {
    let runs = json["runs"].as_array().unwrap().iter();
    runs.map(|run| format!("{} {}", run["peer"].as_str().unwrap(), run["round"])).collect()
}

fn row<'a>(json: &'a Value, peer: &str) -> &'a Value {
    json["table"].as_array().unwrap().iter().find(|row| row["peer"] == peer).unwrap()
}

#[test]
fn good_ones_are_compared_and_the_missing_one_is_named() {
    let peers = Peers::new("good").add("one", "", "").add("two", "", "").add(
        "gone",
        "",
        "requires = [\"/no/such/server\"]",
    );
    let words = ["--scenario", "one-topic", "--set", "outstanding=1,4", "--rounds", "2", "--baseline", "two"];
    let (output, json) = compare(&peers, &words);
    assert_status(&output, 0);
    assert_eq!(json["command"], "compare");
    let variants = |round| match round {
        1 => ["one 1", "two 1", "one 1", "two 1"],
        _ => ["two 2", "one 2", "two 2", "one 2"],
    };
    assert_eq!(order(&json), [variants(1), variants(2)].concat());
    let one = row(&json, "one");
    assert_eq!(
        (&one["variant"], &one["rounds"], &one["void"]),
        (&"outstanding=1".into(), &2.into(), &0.into())
    );
    assert_eq!(one["ratio"]["to"], "two");
    let rate = &one["metrics"]["deliveries_per_second"];
    assert!(
        rate["min"].as_f64() <= rate["median"].as_f64() && rate["median"].as_f64() <= rate["max"].as_f64()
    );
    assert!(one["ratio"]["metrics"]["deliveries_per_second"]["median"].as_f64().unwrap() > 0.0, "{one}");
    assert!(row(&json, "two")["ratio"].is_null());
    let skipped = json["peers"].as_array().unwrap().iter().find(|peer| peer["name"] == "gone").unwrap();
    let why = skipped["skipped"].as_str().unwrap();
    assert!(why.contains("/no/such/server is not there; install: make /"), "{why}");
    let text = text(&output);
    assert!(text.contains("skipped: gone: /no/such/server") && text.contains("by two"), "{text}");
    assert_eq!(peers.left(), 0);
}

#[test]
fn void_and_failed_runs_are_kept_with_their_reasons() {
    let peers = Peers::new("bad").add("fine", "", "").add("loses", "drop", "").add("broken", "exit", "");
    let words = ["--scenario", "flood", "--set", "rate=200", "--rounds", "1", "--peer", "fine,loses,broken"];
    let file = peers.0.join("page.html");
    let (output, json) = compare(&peers, &[&words[..], &["--html", file.to_str().unwrap()]].concat());
    assert_status(&output, 1);
    let count = |peer, name: &str| row(&json, peer)[name].as_u64().unwrap();
    assert_eq!(["void", "failed", "lost"].map(|name| count("fine", name)), [0, 0, 0]);
    assert_eq!(["void", "failed", "lost"].map(|name| count("loses", name)), [1, 0, 1]);
    assert_eq!(["void", "failed", "lost"].map(|name| count("broken", name)), [1, 1, 0]);
    assert_eq!(row(&json, "loses")["metrics"], serde_json::json!({}), "void figures are in no median");
    let failure = json["runs"][2]["failure"].as_str().unwrap();
    assert!(failure.contains("exited with status 7") && failure.contains("no mood today"), "{failure}");
    let text = text(&output);
    assert!(text.contains("loses, flood, round 1: void: 1 lost"), "{text}");
    assert!(text.contains("broken, flood, round 1: failed: "), "{text}");
    assert!(fs::read_to_string(file).unwrap().contains("loses"));
    assert_eq!(peers.left(), 0);
}

#[test]
fn a_sweep_finds_a_rate_and_keeps_its_steps() {
    let peers = Peers::new("knee").add("one", "", "");
    let scenario = peers.0.join("sweep.toml");
    let knee = "[knee]\nrate_from = 50\nrate_max = 100\nfactor = 2\nbisections = 1\np99_ms_max = 5000";
    fs::write(&scenario, format!("about = \"a\"\ncommand = \"fanout\"\n{knee}")).unwrap();
    let (output, json) = compare(&peers, &["--scenario", scenario.to_str().unwrap(), "--rounds", "1"]);
    assert_status(&output, 0);
    let found = &json["runs"][0]["knee"];
    assert_eq!((&found["rate"], found["steps"].as_array().unwrap().len()), (&100.0.into(), 2), "{found}");
    assert_eq!(row(&json, "one")["metrics"]["knee_rate"]["median"], 100.0);
    assert_eq!(found["lower_bound_because"], "the scenario goes no further than 100 messages/s");
    let lower_bounds = row(&json, "one")["lower_bounds"].as_array().unwrap();
    assert!(lower_bounds.contains(&"knee_rate".into()), "{json}");
    let text = text(&output);
    assert!(text.contains("≥ 100 ") && text.contains("may hold a higher rate: the scenario goes"), "{text}");
    assert_eq!(json["runs"][0]["report"]["figures"]["rate"], 100.0);
}

#[test]
fn what_fails_beside_voids_what_it_ran_beside() {
    let peers = Peers::new("beside").add("one", "", "");
    let scenario = peers.0.join("beside.toml");
    // Nobody listens on a port that has just been closed.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let beside = format!(
        "[[beside]]\ncommand = \"fanout\"\nflags = {{ subscribers = 1, publish-http = \"http://127.0.0.1:{port}/\" }}"
    );
    fs::write(&scenario, format!("about = \"a\"\ncommand = \"fanout\"\n[flags]\nstuck = 1\n{beside}"))
        .unwrap();
    let (output, json) = compare(&peers, &["--scenario", scenario.to_str().unwrap(), "--rounds", "1"]);
    assert_status(&output, 2);
    let run = &json["runs"][0];
    assert!(run["failure"].as_str().unwrap().starts_with("beside: "), "{run}");
    assert!(run["report"].is_null(), "{run}");
    let row = row(&json, "one");
    assert_eq!((&row["failed"], &row["metrics"]), (&1.into(), &serde_json::json!({})), "{row}");
}

#[test]
fn what_cannot_run_says_what_to_do() {
    let peers =
        Peers::new("usage").add("gone", "", "requires = [\"/no/such/server\"]").add("broken", "exit", "");
    for (words, what) in [
        (&["--peer", "gone"][..], "nothing can run"),
        (&["--peer", "nobody"], "there are: broken, gone"),
        (&["--baseline", "nobody"], "--baseline nobody is not among the peers"),
        (&["--scenario", "nonsense"], "neither a file nor one of one-topic"),
        (&["--set", "no-such=1"], "--set no-such"),
        (
            &["--placement", "apart", "--server-cpus", "0", "--load-cpus", "0"],
            "give --server-cpus and --load-cpus",
        ),
        (&["--html", "/nowhere/page.html", "--peer", "broken"], "cannot write /nowhere/page.html"),
        (&["--set", "subscribers=many"], "invalid value 'many'"),
        (&["--peer", "broken", "--rounds", "1", "--scenario", "flood"], "no run has a report"),
    ] {
        let (output, json) = compare(&peers, words);
        assert_status(&output, 2);
        assert!(text(&output).contains(what), "{what}: {}", text(&output));
        assert!(json.is_null() || json["runs"].is_array());
    }
}

#[test]
fn the_list_names_all_there_is() {
    let peers = Peers::new("list").add("one", "", "").add("gone", "", "requires = [\"/no/such/server\"]");
    let (output, _) = peers.run(&["compare", "--list"]);
    assert_status(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["installed: v-one", "skipped: /no/such/server is not there; install: make /", "one-topic"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn limit_compares_with_the_bare_server() {
    let peers = Peers::new("limit").add("one", "", "");
    let own = ["limit", "--server", "one", "--subscribers", "5", "--outstanding", "1", "--rounds", "2"];
    let (output, json) =
        peers.run(&[&own[..], &["--against", "bare-ring,bare-send-1"], &SHORT[2..]].concat());
    assert_status(&output, 0);
    assert_eq!(json["command"], "limit");
    let pairs = |round| match round {
        1 => ["one 1", "bare-send-ring 1", "one 1", "bare-send-1 1"],
        _ => ["bare-send-1 2", "one 2", "bare-send-ring 2", "one 2"],
    };
    assert_eq!(order(&json), [pairs(1), pairs(2)].concat(), "each bare server has its run of the server");
    let variants: Vec<&str> =
        json["table"].as_array().unwrap().iter().map(|row| row["variant"].as_str().unwrap()).collect();
    let of = |bare| format!("outstanding=1 against={bare}");
    assert_eq!(variants, [of("bare-send-ring"), of("bare-send-ring"), of("bare-send-1"), of("bare-send-1")]);
    let ratio = &row(&json, "bare-send-1")["ratio"];
    assert_eq!(ratio["to"], "one");
    let (there, back) = (&ratio["metrics"], &ratio["inverse"]);
    let key = "deliveries_per_second";
    // Of the runs beside it, and of no others.
    let rate = |peer: &str, round: u32| {
        let mut runs = json["runs"].as_array().unwrap().iter();
        let of = |run: &&Value| {
            run["variant"] == of("bare-send-1").as_str() && run["peer"] == peer && run["round"] == round
        };
        runs.find(of).unwrap()["report"]["figures"][key].as_f64().unwrap()
    };
    let quotients = [1, 2].map(|round| rate("one", round) / rate("bare-send-1", round));
    let median = f64::midpoint(quotients[0], quotients[1]);
    assert!((back[key]["median"].as_f64().unwrap() / median - 1.0).abs() < 1e-9, "{ratio}");
    assert_eq!((&back[key]["count"], &there[key]["count"]), (&2.into(), &2.into()));
    let text = text(&output);
    assert!(text.contains("one by it") && text.contains("] of 2 "), "{text}");
}

#[test]
fn an_interruption_ends_the_server() {
    let peers = Peers::new("interrupt").add("one", "", "");
    let words = ["compare", "--scenario", "flood", "--set", "subscribers=5", "--set", "rate=10"];
    let mut child = peers.command(&words).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while peers.left() == 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "no server was started");
        thread::sleep(Duration::from_millis(10));
    }
    // The server is about to be spawned, or has just been.
    thread::sleep(Duration::from_millis(300));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(peers.left(), 0);
    // A peer inherits the environment, where nothing else has this.
    let mine = format!("STENTOR_PEERS={}", peers.0.display());
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("environ"));
    let left = processes.filter(|file| {
        fs::read(file).is_ok_and(|all| String::from_utf8_lossy(&all).split('\0').any(|one| one == mine))
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

#[test]
fn what_was_measured_before_an_interruption_is_there() {
    let peers = Peers::new("kept").add("one", "", "").add("two", "", "");
    let [json, page] = ["all.json", "page.html"].map(|name| peers.0.join(name));
    let words = ["compare", "--scenario", "flood", "--set", "rate=50", "--rounds", "1000"];
    let files = ["--json", json.to_str().unwrap(), "--html", page.to_str().unwrap()];
    let words = [&words[..], &SHORT[..10], &files].concat();
    let mut child = peers.command(&words).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    // The page is written last. If it never is, the child is ended all the same, and the page found empty.
    while fs::metadata(&page).map_or(0, |meta| meta.len()) == 0 && began.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(10));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let document: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(order(&document)[..2], ["one 1", "two 1"]);
    assert!(row(&document, "two")["ratio"]["metrics"]["deliveries_per_second"]["count"].as_u64() >= Some(1));
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("flood") && page.trim_end().ends_with("</html>"));
}

#[test]
fn tables_are_printed_though_a_file_cannot_be_written() {
    let peers = Peers::new("unwritable").add("one", "", "");
    let page = peers.0.join("page.html");
    // In the way of what is written beside it.
    fs::create_dir(peers.0.join("page.html.new")).unwrap();
    let words =
        ["--scenario", "flood", "--set", "rate=50", "--rounds", "2", "--html", page.to_str().unwrap()];
    let (output, json) = compare(&peers, &words);
    assert_status(&output, 2);
    assert_eq!(order(&json), ["one 1", "one 2"]);
    let text = text(&output);
    assert!(text.contains("medians of 2 rounds") && text.contains("cannot write the page"), "{text}");
}

/// Keys of the table under a heading of the README.
fn documented(heading: &str) -> BTreeSet<String> {
    let section = README.split("\n### ").find(|section| section.lines().next() == Some(heading));
    let rows = section.unwrap_or_else(|| panic!("no heading {heading}")).lines();
    let rows = rows.take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once('`').unwrap().0.to_string()).collect()
}

/// Paths of all keys, `[]` for the elements of a list; what `stop` names is not entered.
fn paths(value: &Value, path: &str, stop: &[&str], found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !stop.contains(&path) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.insert(path.clone());
                paths(value, &path, stop, found);
            }
        }
        Value::Array(list) if !stop.contains(&path) => {
            list.iter().for_each(|value| paths(value, &format!("{path}[]"), stop, found));
        }
        _ => {}
    }
}

#[test]
fn the_json_is_as_documented() {
    let peers = Peers::new("json").add("one", "", "").add("two", "", "");
    let scenario = peers.0.join("all.toml");
    let knee = "[knee]\nrate_from = 50\nrate_max = 50\nfactor = 2\nbisections = 1\np99_ms_max = 5000";
    let beside = "[[beside]]\ncommand = \"fanout\"\nflags = { subscribers = 1, duration = \"100ms\", warm-up = \"0s\" }";
    let text = format!("about = \"a\"\ncommand = \"fanout\"\n{knee}\n{beside}");
    fs::write(&scenario, text).unwrap();
    let (output, json) = compare(&peers, &["--scenario", scenario.to_str().unwrap(), "--rounds", "1"]);
    assert!(json["runs"].is_array(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeSet::new();
    let stop = [
        "scenarios[].flags",
        "scenarios[].vary",
        "scenarios[].knee",
        "scenarios[].beside",
        "runs[].report",
        "runs[].beside",
        "table[].metrics",
        "table[].ratio.metrics",
        "table[].ratio.inverse",
    ];
    paths(&json, "", &stop, &mut found);
    assert_eq!(found, documented("compare and limit"));
    assert!(Path::new(&scenario).exists());
}
