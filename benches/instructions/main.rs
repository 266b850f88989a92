//! What the hot path costs in instructions, which a noisy clock can't blur: a change of one per cent shows.
//!
//! This program runs itself under callgrind, once for each case, and compares what was counted with `baseline.toml`.
//! `scripts/instructions` is how it is called; it knows whether the counts of this machine can be compared at all.
//!
//! - `cases`, `topics`: what is counted;
//! - `peers`: what others take for the same, which has no baseline;
//! - `meter`: between which two moments, and per what;
//! - `callgrind`: one case under valgrind;
//! - `baseline`: the committed counts, and the table.
//!
//! Only what a worker does is counted, not what its clients do. What the driver in memory does is in the figures: it
//! stands for the kernel, and no system call is made.

#[path = "../../tests/common/mod.rs"]
mod common;

mod baseline;
mod callgrind;
mod cases;
mod meter;
mod peers;
#[path = "../peers/readers.rs"]
mod readers;
mod topics;

use std::process::ExitCode;

use baseline::Baseline;
use cases::{CASES, Case};
use meter::Meter;

/// What is asked for on the command line.
#[derive(Default)]
struct Arguments {
    /// Run this case and nothing else; callgrind counts around it.
    case: Option<String>,
    /// Take the counts as the baseline, measured with these tools.
    update: Option<String>,
    /// Print the counts beside the baseline, but judge nothing.
    print_only: bool,
    /// Count what others take beside us instead.
    peers: bool,
    /// Only cases whose names contain this.
    filter: String,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                "--case" => parsed.case = Some(value()?),
                "--update" => parsed.update = Some(value()?),
                "--peers" => parsed.peers = true,
                "--print-only" => parsed.print_only = true,
                // Cargo says so.
                "--bench" => {}
                option if option.starts_with('-') => {
                    return Err(format!(
                        "unknown option {option}; there are --peers, --print-only, --update TOOLS, --case NAME, and a part of a name"
                    ));
                }
                part => parsed.filter = part.to_owned(),
            }
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: something has become dearer.
fn run(arguments: &Arguments) -> Result<bool, String> {
    if let Some(name) = &arguments.case {
        let mut all = CASES.iter().chain(peers::CASES);
        let case = all.find(|case| case.name == name).ok_or(format!("there is no case {name}"))?;
        let mut meter = Meter::default();
        (case.run)(&mut meter);
        meter.report();
        return Ok(true);
    }
    let list = if arguments.peers { peers::CASES } else { CASES };
    let cases: Vec<&Case> = list.iter().filter(|case| case.name.contains(&arguments.filter)).collect();
    if cases.is_empty() {
        return Err(format!("no case's name contains {}", arguments.filter));
    }
    let counts = callgrind::count(&cases)?;
    if arguments.peers {
        peers::print(&counts);
        return Ok(true);
    }
    let mut baseline = Baseline::read()?;
    let all = cases.len() == CASES.len();
    if let Some(tools) = &arguments.update {
        baseline.update(&counts, tools, all)?;
    }
    let complaints = baseline.compare(&counts, all);
    if complaints.is_empty() || arguments.print_only {
        return Ok(true);
    }
    complaints.iter().for_each(|complaint| println!("FAILED: {complaint}"));
    println!(
        "If that is as it should be: scripts/instructions --update, and commit the baseline with the reason."
    );
    Ok(false)
}
