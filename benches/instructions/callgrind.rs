//! Runs cases of this program under callgrind, as many at a time as there are cores, each in a process of its own.

use std::{
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{cases::Case, meter::TOGGLE};

/// A number that was found out.
pub struct Count {
    /// The case, and what of it, if it is not instructions.
    pub name: String,
    /// What is counted, and per what.
    pub unit: String,
    /// How many.
    pub value: f64,
}

/// All counts of these cases, in their order.
pub fn count(cases: &[&Case]) -> Result<Vec<Count>, String> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<_>> = Mutex::new(cases.iter().map(|_| None).collect());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    // Those that take long stand at the end of the list and begin first.
                    let taken = next.fetch_add(1, Ordering::Relaxed);
                    let Some(at) = cases.len().checked_sub(taken + 1) else { return };
                    let counts = count_one(cases[at]);
                    results.lock().expect("no thread panics with it")[at] = Some(counts);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread has panicked");
    let mut counts = Vec::new();
    for result in results {
        counts.extend(result.expect("each case has run")?);
    }
    Ok(counts)
}

fn count_one(case: &Case) -> Result<Vec<Count>, String> {
    let name = case.name;
    let this = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect={TOGGLE}"))
        .arg(this)
        .args(["--case", name])
        .output()
        .map_err(|error| format!("valgrind does not start: {error} (Debian: apt-get install valgrind)"))?;
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    if !status.success() {
        return Err(format!("{name}: {status}\n{stderr}"));
    }
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    let instructions: f64 = collected
        .filter(|&instructions| instructions > 0.0)
        .ok_or_else(|| format!("{name}: callgrind has counted nothing between {TOGGLE}:\n{stderr}"))?;
    let mut numbers = stdout.lines().filter_map(|line| {
        let (what, value) = line.rsplit_once(' ')?;
        Some((what, value.parse::<f64>().ok()?))
    });
    let operations = match numbers.next() {
        Some(("operations", operations)) if operations > 0.0 => operations,
        _ => return Err(format!("{name}: it does not say how many operations there were:\n{stdout}")),
    };
    let mut counts = vec![Count {
        name: name.to_owned(),
        unit: format!("instructions per {}", case.operation),
        value: instructions / operations,
    }];
    counts.extend(numbers.map(|(what, value)| Count {
        name: format!("{name}/{}", what.split(' ').next().unwrap_or(what)),
        unit: what.to_owned(),
        value,
    }));
    Ok(counts)
}
