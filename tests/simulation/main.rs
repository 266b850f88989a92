//! Whole worlds in memory, each from one seed: several workers, clients that stall, reset, return, flood and
//! misbehave, a network that loses no chance, and a naive model that looks after every turn.
//!
//! ```console
//! $ cargo test --test simulation                      # 1,000 seeds, each twice
//! $ SEED=17 cargo test --test simulation              # one seed, as a failure names it
//! $ SEEDS=100000 cargo test --release --test simulation
//! ```
//!
//! `FIRST_SEED` begins somewhere else; with `ONCE` no seed is run a second time to compare.

#![allow(clippy::cast_possible_truncation, reason = "numbers are small, and cut on purpose where not")]

mod client;
mod crowd;
mod endings;
mod model;
mod recovery;
mod session;
mod setup;
mod wire;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use stentor::engine::stats::Family;
use world::{Outcome, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs one world; says what is wrong with it, and where.
fn run(seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(seed);
    let description = world.describe();
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let what = match result {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
        }
    };
    Err(format!(
        "seed {seed}, step {}: {what}\n  the world: {description}\n  ended so far: {:?}\n  again: SEED={seed} \
         cargo test --test simulation",
        world.step,
        world.reasons(Family::Closed),
    ))
}

/// The same seed gives the same bytes, twice.
fn check(seed: u64) -> Result<Outcome, String> {
    let first = run(seed)?;
    if std::env::var_os("ONCE").is_some() {
        return Ok(first);
    }
    let second = run(seed)?;
    if first == second {
        Ok(first)
    } else {
        Err(format!("seed {seed} gives two outcomes: {first:?} and {second:?}"))
    }
}

#[test]
fn worlds() {
    if let Some(seed) = number("SEED") {
        println!("{}", World::new(seed).describe());
        println!("{:?}", check(seed).unwrap_or_else(|what| panic!("{what}")));
        return;
    }
    let (first, seeds) = (number("FIRST_SEED").unwrap_or(0), number("SEEDS").unwrap_or(1000));
    let next = AtomicU64::new(first);
    let (all, failures) = (Mutex::new(Outcome::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || failures.lock().unwrap().len() >= 5 {
                        return;
                    }
                    match check(seed) {
                        Ok(outcome) => add(&mut all.lock().unwrap(), &outcome),
                        Err(what) => failures.lock().unwrap().push(what),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let all = all.into_inner().unwrap();
    println!("{seeds} seeds: {all:?}");
    // A world in which nothing happens proves nothing.
    let happened = [all.deliveries, all.skipped, all.conflated, all.held, all.slow, all.refused, all.resets];
    assert!(happened.iter().all(|&count| count > seeds / 10) || seeds < 100, "{all:?}");
}

fn add(all: &mut Outcome, one: &Outcome) {
    all.hash ^= one.hash;
    all.turns += one.turns;
    all.clients += one.clients;
    all.deliveries += one.deliveries;
    all.skipped += one.skipped;
    all.conflated += one.conflated;
    all.held += one.held;
    all.slow += one.slow;
    all.refused += one.refused;
    all.resets += one.resets;
}
