//! `handshakes`: connect, upgrade, reset, and again: what accepting a client costs the server.
//!
//! Connections end with a reset (`SO_LINGER` 0): a polite close would leave each port in TIME_WAIT for a minute
//! and end the run after about 28,000.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::cli::HandshakesArgs;
use crate::client::Target;
use crate::distribution::{Distribution, Latencies, latencies, merge};
use crate::failure::Failure;
use crate::harness::{Control, LiveRate, LiveServer, PATIENCE, Screen};
use crate::poller::{Handler, Opened, Poller};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, quantity};

/// What all threads of a run see.
struct Shared {
    args: HandshakesArgs,
    target: Target,
    threads: usize,
    control: Control,
    watch: Watch,
    measuring: AtomicBool,
    /// Handshakes answered with 101.
    done: AtomicU64,
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &HandshakesArgs, screen: &Screen) -> Result<Report<Handshakes>, Failure> {
    let concurrency = args.concurrency as usize;
    ensure_files(concurrency)?;
    let threads = args.common.threads(concurrency);
    let shared = &Shared {
        target: args.common.target()?,
        threads,
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        measuring: AtomicBool::new(false),
        done: AtomicU64::new(0),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let knocking: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(knock(shared, thread))))
            .collect();
        let measured = shared.control.guard(phases(shared, screen));
        shared.control.stop();
        let outcomes: Option<Vec<_>> =
            knocking.into_iter().map(|thread| thread.join().expect("a connecting thread panicked")).collect();
        (measured, outcomes)
    });
    shared.control.outcome()?;
    let (Some((usage, done)), Some(outcomes)) = (measured, outcomes) else {
        unreachable!("a thread that ends without an outcome leaves a failure");
    };
    let mut void = Vec::new();
    if done == 0 {
        void.push("no handshake was answered during the measurement".into());
    }
    let figures = Handshakes {
        concurrency: args.concurrency,
        threads,
        handshakes: done,
        handshakes_per_second: done as f64 / usage.seconds,
        server_cpu_us_per_handshake: usage.server_cpu_us_per(done as f64),
        latency_us: Distribution::of(&merge(outcomes.iter())),
    };
    let url = shared.target.url.to_string();
    Ok(Report::new("handshakes", url, figures, usage, void, Vec::new()))
}

fn phases(shared: &Shared, screen: &Screen) -> Result<(Usage, u64), Failure> {
    let control = &shared.control;
    let (mut live, mut server) = (LiveRate::new(), LiveServer::new(&shared.watch));
    let done = || shared.done.load(Ordering::Relaxed);
    let mut lines = || {
        let mut lines = vec![("handshakes", format!("{}/s", quantity(live.update(done()))))];
        server.append(&mut lines);
        lines
    };
    screen.wait_for(control, "warm up", shared.args.warm_up, &mut lines);
    let (sample, before) = (shared.watch.sample()?, done());
    shared.measuring.store(true, Ordering::Relaxed);
    screen.wait_for(control, "measure", shared.args.duration, &mut lines);
    let (end_sample, after) = (shared.watch.sample()?, done());
    shared.measuring.store(false, Ordering::Relaxed);
    Ok((shared.watch.between(&sample, &end_sample), after - before))
}

/// One thread: keeps its share of the handshakes under way until the run is stopped.
fn knock(shared: &Shared, thread: usize) -> Result<Latencies, Failure> {
    let common = &shared.args.common;
    common.pin_thread(thread)?;
    shared.watch.enrol(format!("connect {thread}"));
    let concurrency = (thread..shared.args.concurrency as usize).step_by(shared.threads).count();
    let request_target = common.address.topic(0, 1).request_target(&shared.target.url, "");
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = common.churn(shared.threads, concurrency);
    let mut guests = Guests { shared, latency: latencies() };
    let mut token = 0;
    while !shared.control.stopped() {
        while ramp.allowed(poller.dialling()) > 0 {
            // Every connection has a token of its own: an event of one that has gone finds nobody.
            poller.dial(token, &request_target)?;
            ramp.count();
            token += 1;
        }
        let patience = if poller.dialling() < concurrency { Duration::from_millis(1) } else { PATIENCE };
        poller.turn(&mut guests, patience)?;
    }
    Ok(guests.latency)
}

struct Guests<'a> {
    shared: &'a Shared,
    latency: Latencies,
}

impl Handler for Guests<'_> {
    fn opened(&mut self, _token: usize, opened: Opened) -> Result<(), Failure> {
        self.shared.done.fetch_add(1, Ordering::Relaxed);
        if self.shared.measuring.load(Ordering::Relaxed) {
            self.latency.saturating_record(opened.took.as_nanos() as u64);
        }
        Ok(())
    }

    fn ready(&mut self, _token: usize) -> Result<(), Failure> {
        Ok(())
    }
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Handshakes {
    concurrency: u32,
    threads: usize,
    handshakes: u64,
    handshakes_per_second: f64,
    server_cpu_us_per_handshake: Option<f64>,
    latency_us: Distribution,
}

impl Figures for Handshakes {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("load", format!("{} handshakes under way, reset when answered", self.concurrency)),
            ("handshakes", format!("{}/s", quantity(self.handshakes_per_second))),
        ];
        if let Some(us) = self.server_cpu_us_per_handshake {
            lines.push(("server CPU", format!("{us:.1} µs per handshake")));
        }
        lines.push(("latency", format!("{}  (from SYN to 101)", self.latency_us.text())));
        lines
    }
}
