//! `compare` and `limit`: servers through the same scenarios, interleaved and repeated.
//!
//! Owns what is common to both: the plan is carried out, shown while it runs, and summed up. `args` are the flags,
//! `peer` and `scenario` the files, `flags` and `load` the way to the load commands, `placement` the CPUs, `process`
//! the server's process, `plan` the order, `run` and `knee` one run, `metrics` and `table` the sums, `json` the
//! document, `view` the terminal, `limit` the bare server's part.
//!
//! Invariants: every run has a fresh server, and its outcome is kept, whatever it is. The load is the one of the
//! single commands, called in process with the same flags.

pub(crate) mod args;
mod flags;
mod json;
mod knee;
mod limit;
mod load;
mod metrics;
mod peer;
mod placement;
mod plan;
mod process;
mod run;
mod scenario;
mod table;
mod view;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use self::args::{CompareArgs, LimitArgs, Series};
use self::peer::Peer;
use self::placement::Placement;
use self::plan::{Contender, Plan, Run};
use self::run::Outcome;
use self::scenario::Scenario;
use crate::failure::Failure;
use crate::proc::ensure_files;
use crate::replace::replace;
use crate::report::Verdict;

/// `stentor-load compare`
pub(crate) fn compare(args: &CompareArgs) -> Result<Verdict, Failure> {
    let directory = peer::directory(args.series.peers_dir.as_deref())?;
    if args.list {
        return list(args, directory.as_deref());
    }
    let peers = peer::select(&args.peers, directory.as_deref())?;
    let asked = match &args.baseline {
        None => 0,
        Some(name) => peers.iter().position(|peer| peer.name == *name).ok_or_else(|| {
            let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
            Failure::Usage(format!("--baseline {name} is not among the peers: {}", names.join(", ")))
        })?,
    };
    if let Some(twice) =
        peers.iter().enumerate().find(|(n, peer)| peers[..*n].iter().any(|p| p.name == peer.name))
    {
        return Err(Failure::Usage(format!("two peers have the name {}: rename one", twice.1.name)));
    }
    let scenarios = args.scenarios.iter().map(|name| Scenario::find(name)).collect::<Result<_, _>>()?;
    let peers: Vec<Contender> = peers.into_iter().map(Contender::new).collect();
    // Nothing can be compared with what does not run.
    let runs = |index: &usize| peers[*index].skipped.is_none();
    let baseline = Some(asked).filter(runs).or_else(|| (0..peers.len()).find(runs)).unwrap_or(asked);
    let plan = Plan {
        command: "compare",
        peers,
        baseline,
        scenarios,
        variants: Vec::new(),
        placements: Placement::choose(&args.series)?,
        rounds: args.series.rounds,
    };
    if plan.baseline != asked {
        let [instead, skipped] = [plan.baseline, asked].map(|index| &plan.peers[index].peer.name);
        let _ = writeln!(io::stderr(), "{skipped} is skipped: ratios are to {instead} instead");
    }
    carry_out(plan_variants(plan, &args.series)?, &args.series)
}

/// `stentor-load limit`
pub(crate) fn limit(args: &LimitArgs) -> Result<Verdict, Failure> {
    let mut plan = limit::plan(args)?;
    for (flag, value) in &args.series.sets {
        if flag == "outstanding" || !plan.scenarios.iter_mut().all(|scenario| scenario.set(flag, value)) {
            return Err(Failure::Usage(format!(
                "--set {flag}: fanout has no such flag, or limit has its own"
            )));
        }
        plan.variants.iter_mut().for_each(|variant| variant.flags.set(flag, flags::Value::parse(value)));
    }
    carry_out(plan, &args.series)
}

/// Applies `--set`, and spreads the scenarios into variants with the peers that can do them.
fn plan_variants(mut plan: Plan, series: &Series) -> Result<Plan, Failure> {
    for (flag, value) in &series.sets {
        // Each of them: a flag that only some scenarios have is set in those.
        let taken: Vec<bool> = plan.scenarios.iter_mut().map(|scenario| scenario.set(flag, value)).collect();
        if !taken.contains(&true) {
            return Err(Failure::Usage(format!("--set {flag}: no command of these scenarios has that flag")));
        }
    }
    for (index, scenario) in plan.scenarios.iter().enumerate() {
        for mut variant in plan::variants(index, scenario, &plan.placements) {
            let able = |peer: &&usize| Plan::able(&plan.peers[**peer].peer, scenario);
            let all: Vec<usize> = (0..plan.peers.len()).collect();
            variant.peers = all.iter().filter(able).copied().collect();
            plan.variants.push(variant);
        }
    }
    Ok(plan)
}

/// Runs all of it, and prints what came of it.
fn carry_out(mut plan: Plan, series: &Series) -> Result<Verdict, Failure> {
    let runnable: Vec<bool> = plan.peers.iter().map(|contender| contender.skipped.is_none()).collect();
    plan.variants.iter_mut().for_each(|variant| variant.peers.retain(|peer| runnable[*peer]));
    check_flags(&plan)?;
    let order = plan.runs();
    if order.is_empty() {
        return Err(Failure::Usage(format!("nothing can run\n{}", left_out(&plan).trim_end())));
    }
    // Not after an hour of runs.
    for file in [&series.json, &series.html].into_iter().flatten().filter(|file| *file != Path::new("-")) {
        let opened = fs::OpenOptions::new().append(true).create(true).open(file);
        opened.map_err(Failure::system(format!("cannot write {}", file.display())))?;
    }
    // Servers that are started inherit the limit.
    ensure_files(0)?;
    process::end_on_signals()?;
    let environment = json::environment(&plan);
    let mut runs: Vec<(Run, Outcome)> = Vec::new();
    let mut saved = Ok(());
    let mut view = view::View::new(&plan, &order);
    for (n, run) in order.iter().enumerate() {
        view.begins(&plan, *run);
        let outcome = run::run(&plan, *run, &view.screen);
        view.ended(&plan, *run, &outcome);
        runs.push((*run, outcome));
        if order.get(n + 1).is_none_or(|next| next.round > run.round) {
            // Runs go on without: what cannot be written now may be writable after the next round.
            saved = save(series, || document(&plan, &environment, &runs));
        }
    }
    drop(view);
    let to_stdout = series.json == Some(PathBuf::from("-"));
    let text = summary(&plan, &environment, &runs);
    let printed = if to_stdout {
        let object = document(&plan, &environment, &runs);
        io::stderr().write_all(text.as_bytes()).and_then(|()| writeln!(io::stdout(), "{object}"))
    } else {
        io::stdout().write_all(text.as_bytes())
    };
    printed.map_err(Failure::system("cannot print the tables"))?;
    // After the tables: should the files have failed, they are there.
    saved?;
    if runs.iter().all(|(_, outcome)| outcome.report.is_none()) {
        return Err(Failure::Usage("no run has a report: see above".into()));
    }
    let valid = runs.iter().all(|(_, outcome)| outcome.valid());
    Ok(if valid { Verdict::Valid } else { Verdict::Void })
}

/// Fails before anything is started if a run's flags cannot be parsed.
fn check_flags(plan: &Plan) -> Result<(), Failure> {
    for variant in &plan.variants {
        let scenario = &plan.scenarios[variant.scenario];
        for &peer in &variant.peers {
            let peer = &plan.peers[peer].peer;
            let beside = scenario.beside.iter().map(|beside| (beside.command, &beside.flags));
            for (command, flags) in std::iter::once((scenario.command, &variant.flags)).chain(beside) {
                let spoken = peer.flags(command).cloned().unwrap_or_default();
                let mut all = spoken.with(flags);
                all.set("server-pid", flags::Value::Whole(1));
                command.check(&all.arguments()).map_err(|failure| {
                    Failure::Usage(format!("scenario {}, peer {}: {failure}", scenario.name, peer.name))
                })?;
            }
        }
    }
    Ok(())
}

fn document(plan: &Plan, environment: &Json, runs: &[(Run, Outcome)]) -> Json {
    json::document(plan, environment, runs, &table::rows(plan, runs))
}

/// Writes all there is so far to the files that are asked for.
fn save(series: &Series, document: impl Fn() -> Json) -> Result<(), Failure> {
    if let Some(file) = series.json.as_deref().filter(|file| *file != Path::new("-")) {
        let written = replace(file, format!("{}\n", document()).as_bytes());
        written.map_err(Failure::system(format!("cannot write {}", file.display())))?;
    }
    match &series.html {
        Some(file) => crate::html::write(&document(), file),
        None => Ok(()),
    }
}

/// All that is printed in the end.
fn summary(plan: &Plan, environment: &Json, runs: &[(Run, Outcome)]) -> String {
    let rows = table::rows(plan, runs);
    let baseline = &plan.peers[plan.baseline].peer.name;
    let mut text = format!("{}\n", json::environment_text(environment));
    let _ = writeln!(
        text,
        "medians of {} round{}; ratios are {}, of the same round: median [least–greatest] of so many pairs\n",
        plan.rounds,
        if plan.rounds == 1 { "" } else { "s" },
        match plan.command {
            "limit" => format!("{baseline}'s figure by that of the row"),
            _ => format!("the row's figure by that of {baseline}"),
        }
    );
    text.push_str(&table::text(plan, &rows, plan.command == "limit"));
    for (run, outcome) in runs {
        if let Some(wrong) = outcome.wrong() {
            let peer = &plan.peers[run.peer].peer.name;
            let _ = writeln!(text, "{peer}, {}, round {}: {wrong}", plan.title(run.variant), run.round);
        }
    }
    for (run, outcome) in runs {
        let because = outcome.knee.as_ref().and_then(|knee| knee.lower_bound_because.as_ref());
        if let Some(because) = because.filter(|_| outcome.valid()) {
            let (peer, title) = (&plan.peers[run.peer].peer.name, plan.title(run.variant));
            let _ = writeln!(text, "{peer}, {title}, round {}: may hold a higher rate: {because}", run.round);
        }
    }
    text.push_str(&left_out(plan));
    text
}

/// Peers that are not run, or not in everything, and why.
fn left_out(plan: &Plan) -> String {
    let mut text = String::new();
    for contender in &plan.peers {
        let name = &contender.peer.name;
        if let Some(why) = &contender.skipped {
            let _ = writeln!(text, "skipped: {name}: {why}");
            continue;
        }
        // The bare servers are made for one variant each.
        let unable = plan.scenarios.iter().filter(|scenario| !Plan::able(&contender.peer, scenario));
        for scenario in unable {
            let _ = writeln!(text, "not run: {name} has no section for what {} asks for", scenario.name);
        }
    }
    text
}

/// `--list`
fn list(args: &CompareArgs, directory: Option<&Path>) -> Result<Verdict, Failure> {
    let mut text = String::new();
    let peers = match (directory, args.peers.is_empty()) {
        (None, true) => {
            let _ = writeln!(text, "no peers here: name their directory by --peers-dir");
            Vec::new()
        }
        (directory, _) => peer::select(&args.peers, directory)?,
    };
    if !peers.is_empty() {
        text.push_str("peers\n");
    }
    let width = peers.iter().map(|peer| peer.name.len()).max().unwrap_or(0);
    for Contender { peer: Peer { name, about, .. }, version, skipped } in
        peers.into_iter().map(Contender::new)
    {
        let _ = writeln!(text, "  {name:width$}  {about}");
        let state = skipped.map_or_else(|| format!("installed: {version}"), |why| format!("skipped: {why}"));
        let _ = writeln!(text, "  {:width$}  {state}", "");
    }
    text.push_str("scenarios\n");
    let scenarios = Scenario::all()?;
    let width = scenarios.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    for Scenario { name, about, command, .. } in scenarios {
        let _ = writeln!(text, "  {name:width$}  {command}: {about}");
    }
    io::stdout().write_all(text.as_bytes()).map_err(Failure::system("cannot print the list"))?;
    Ok(Verdict::Valid)
}
