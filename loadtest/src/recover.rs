//! `recover`: clients are cut off, all at once, and come back for what they have missed, while others stay.
//!
//! Owns the phases and the verdict. `clients` is what a thread does that holds connections, `feed` the one that publishes.
//!
//! It speaks the server's JSON dialect, since only that has offsets: a client says with which message it goes on
//! (`since`, `epoch`). Each message is counted, on each connection and across them: what comes after the return has to go on
//! where the last connection ended, without a gap and without a repeat.
//!
//! Phases: connect all → feed → cut → away → return → feed → drain.

mod clients;
mod feed;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::clients::Outcome;
use crate::accounting::Totals;
use crate::cli::RecoverArgs;
use crate::client::Target;
use crate::dialect::Topic;
use crate::distribution::{Distribution, merge};
use crate::failure::Failure;
use crate::harness::{Control, LiveServer, Screen, nothing};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, bytes, quantity};
use crate::stamp::{Clock, Pattern, PayloadKind};

/// What those who can be cut off are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Step {
    Connect,
    Cut,
    Return,
}

/// Parts of the run in which the latency of those who stay is measured.
const WINDOWS: usize = 3;

/// What all threads of a run see.
struct Shared {
    args: RecoverArgs,
    target: Target,
    threads: usize,
    clock: Clock,
    pattern: Pattern,
    control: Control,
    watch: Watch,
    step: AtomicU8,
    /// Which part of the run this is: before the cut, until all are back, and after it.
    window: AtomicU8,
    opened: AtomicU64,
    cut: AtomicU64,
    /// Clients that have all that had been published when they began to come back.
    back: AtomicU64,
    received: AtomicU64,
    /// The feed may run.
    feeding: AtomicBool,
    /// Messages to be published besides.
    extra: AtomicU32,
    published: AtomicU32,
}

impl Shared {
    fn step(&self) -> Step {
        match self.step.load(Ordering::Acquire) {
            0 => Step::Connect,
            1 => Step::Cut,
            _ => Step::Return,
        }
    }

    fn topic(&self) -> Topic {
        self.args.common.address.topic(0, 1)
    }

    fn connections(&self) -> u64 {
        u64::from(self.args.clients) + u64::from(self.args.staying)
    }
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &RecoverArgs, screen: &Screen) -> Result<Report<Recover>, Failure> {
    let connections = args.clients as usize + args.staying as usize;
    ensure_files(connections + 1)?;
    let threads = args.common.threads(connections);
    let shared = &Shared {
        target: args.common.target()?,
        threads,
        clock: Clock::start(),
        pattern: Pattern::new(PayloadKind::Text, args.payload_bytes as usize),
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        step: AtomicU8::new(Step::Connect as u8),
        window: AtomicU8::new(0),
        opened: AtomicU64::new(0),
        cut: AtomicU64::new(0),
        back: AtomicU64::new(0),
        received: AtomicU64::new(0),
        feeding: AtomicBool::new(false),
        extra: AtomicU32::new(0),
        published: AtomicU32::new(0),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let holding: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(clients::run(shared, thread))))
            .collect();
        let feeding = scope.spawn(|| shared.control.guard(feed::run(shared)));
        let measured = shared.control.guard(phases(shared, screen));
        shared.control.stop();
        let outcomes: Option<Vec<_>> =
            holding.into_iter().map(|thread| thread.join().expect("a holding thread panicked")).collect();
        feeding.join().expect("the publishing thread panicked");
        (measured, outcomes)
    });
    shared.control.outcome()?;
    let (Some(measured), Some(outcomes)) = (measured, outcomes) else {
        unreachable!("a thread that ends without an outcome leaves a failure");
    };
    Ok(report(shared, measured, &outcomes))
}

/// What the main thread measured.
struct Measured {
    /// From the moment when the first came back to the one when all had all.
    usage: Usage,
    missed: u32,
    drained: bool,
    memory: Option<Memory>,
}

/// Anonymous memory of the server, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Memory {
    /// With all connections, before the cut.
    before_bytes: u64,
    /// The most that was seen while they came back.
    most_bytes: u64,
}

fn phases(shared: &Shared, screen: &Screen) -> Result<Measured, Failure> {
    let (args, control) = (&shared.args, &shared.control);
    let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
    let published = || shared.published.load(Ordering::Acquire);
    let all = shared.connections();
    screen.phase("connect", all);
    let opened = || Some(load(&shared.opened)).filter(|opened| *opened < all || control.ready_threads() == 0);
    screen.wait(control, None, opened, nothing);
    let mut server = LiveServer::new(&shared.watch);
    let mut lines = || {
        let mut lines = vec![
            ("published", format!("{}", published())),
            ("back", format!("{} of {}", load(&shared.back), args.clients)),
        ];
        server.append(&mut lines);
        lines
    };
    shared.feeding.store(args.rate > 0.0, Ordering::Release);
    screen.wait_for(control, "feed", args.before, &mut lines);

    let memory =
        || -> Result<Option<u64>, Failure> { Ok(shared.watch.server()?.map(|server| server.rss_anon_bytes)) };
    let before_bytes = memory()?;
    let before = published();
    shared.window.store(1, Ordering::Release);
    shared.step.store(Step::Cut as u8, Ordering::Release);
    screen.phase("cut", u64::from(args.clients));
    let cut = || Some(load(&shared.cut)).filter(|cut| *cut < u64::from(args.clients));
    screen.wait(control, None, cut, &mut lines);
    shared.extra.store(args.missed, Ordering::Release);
    let deadline = Instant::now() + args.drain_timeout;
    screen.phase("away", args.away.as_millis() as u64);
    let sent = || Some(0).filter(|_| shared.extra.load(Ordering::Acquire) > 0);
    screen.wait(control, Some(deadline), sent, &mut lines);
    screen.wait_for(control, "away", args.away, &mut lines);

    let (sample, missed) = (shared.watch.sample()?, published() - before);
    let deadline = Instant::now() + args.drain_timeout;
    shared.step.store(Step::Return as u8, Ordering::Release);
    screen.phase("return", u64::from(args.clients));
    let mut most_bytes = before_bytes;
    let back = || {
        most_bytes = most_bytes.max(memory().ok().flatten());
        Some(load(&shared.back)).filter(|back| *back < u64::from(args.clients))
    };
    screen.wait(control, Some(deadline), back, &mut lines);
    let usage = shared.watch.between(&sample, &shared.watch.sample()?);
    shared.window.store(2, Ordering::Release);
    screen.wait_for(control, "feed", args.before, &mut lines);

    shared.feeding.store(false, Ordering::Release);
    screen.phase("drain", args.drain_timeout.as_millis() as u64);
    // The feed looks at its flag between messages.
    std::thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    let mut drained = false;
    let draining = || {
        drained = load(&shared.received) >= u64::from(published()) * all;
        (!drained).then(|| began.elapsed().as_millis() as u64)
    };
    screen.wait(control, Some(began + args.drain_timeout), draining, &mut lines);
    // Should a message come twice, it will come now.
    std::thread::sleep(Duration::from_millis(100));
    let memory = before_bytes.zip(most_bytes);
    let memory = memory.map(|(before_bytes, most_bytes)| Memory { before_bytes, most_bytes });
    Ok(Measured { usage, missed, drained, memory })
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Recover {
    clients: u32,
    staying: u32,
    payload_bytes: u32,
    threads: usize,
    published: u32,
    /// Messages that were published while the clients were away.
    missed: u32,
    /// From the moment when the first came back to the one when all had all that had been published when they did.
    recovery_seconds: f64,
    server_cpu_us_per_client: Option<f64>,
    server_memory: Option<Memory>,
    /// From a client's SYN to its last missed message.
    back_us: Distribution,
    /// Of those who stay, before the cut …
    before_us: Distribution,
    /// … from it until all were back …
    during_us: Distribution,
    /// … and after that.
    after_us: Distribution,
    received: u64,
    lost: u64,
    repeated: u64,
    out_of_order: u64,
    corrupt: u64,
    not_recovered: u64,
    closed: u64,
}

impl Figures for Recover {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            (
                "load",
                format!(
                    "{} clients cut off, {} that stay, {} B, {} messages missed by each",
                    self.clients, self.staying, self.payload_bytes, self.missed
                ),
            ),
            (
                "recovery",
                format!(
                    "all had all after {:.2} s ({} messages/s)",
                    self.recovery_seconds,
                    quantity(f64::from(self.clients) * f64::from(self.missed) / self.recovery_seconds)
                ),
            ),
            ("back", format!("{}  (from SYN to the last missed message)", self.back_us.text())),
        ];
        if let Some(us) = self.server_cpu_us_per_client {
            lines.push(("server CPU", format!("{us:.1} µs per client that came back")));
        }
        if let Some(Memory { before_bytes, most_bytes }) = self.server_memory {
            let (before, most) = (bytes(before_bytes as f64), bytes(most_bytes as f64));
            lines.push((
                "server memory",
                format!("{before} before the cut, at most {most} while they came back"),
            ));
        }
        if self.staying > 0 && self.published > self.missed {
            lines.extend([
                ("latency before", self.before_us.text()),
                ("latency during", self.during_us.text()),
                ("latency after", self.after_us.text()),
            ]);
        }
        lines.push((
            "accounts",
            format!(
                "{} published to {}, {} received, {} lost, {} repeated, {} out of order, {} corrupt, {} not recovered, {} closed",
                self.published,
                self.clients + self.staying,
                self.received,
                self.lost,
                self.repeated,
                self.out_of_order,
                self.corrupt,
                self.not_recovered,
                self.closed
            ),
        ));
        lines
    }
}

fn report(shared: &Shared, measured: Measured, outcomes: &[Outcome]) -> Report<Recover> {
    let (args, Measured { usage, missed, drained, memory }) = (&shared.args, measured);
    let mut totals = Totals::default();
    outcomes.iter().for_each(|outcome| totals += outcome.totals);
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (corrupt, closed) = (sum(|outcome| outcome.corrupt), sum(|outcome| outcome.closed));
    let not_recovered = sum(|outcome| outcome.not_recovered);
    let back = shared.back.load(Ordering::Acquire);
    let Totals { received, lost, repeated, out_of_order } = totals;
    let mut void = Vec::new();
    let counts = [
        (lost, "messages were lost"),
        (repeated, "messages came twice"),
        (out_of_order, "messages came after a later one"),
        (corrupt, "messages had other bytes, or were none"),
        (not_recovered, "clients were told that they are not recovered"),
        (u64::from(args.clients) - back, "clients did not get what they had missed in time"),
    ];
    void.extend(counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
    if closed > 0 {
        let how = outcomes.iter().find_map(|outcome| outcome.closed_how.as_deref());
        void.push(format!("{closed} connections closed, the first with: {}", how.unwrap_or("unknown")));
    }
    if !drained && lost == 0 {
        void.push("the last messages did not arrive within --drain-timeout".into());
    }
    let distribution =
        |window: usize| Distribution::of(&merge(outcomes.iter().map(|outcome| &outcome.latency[window])));
    let figures = Recover {
        clients: args.clients,
        staying: args.staying,
        payload_bytes: args.payload_bytes,
        threads: shared.threads,
        published: shared.published.load(Ordering::Acquire),
        missed,
        recovery_seconds: usage.seconds,
        server_cpu_us_per_client: usage.server_cpu_us_per(f64::from(args.clients)),
        server_memory: memory,
        back_us: Distribution::of(&merge(outcomes.iter().map(|outcome| &outcome.back))),
        before_us: distribution(0),
        during_us: distribution(1),
        after_us: distribution(2),
        received,
        lost,
        repeated,
        out_of_order,
        corrupt,
        not_recovered,
        closed,
    };
    Report::new("recover", shared.target.url.to_string(), figures, usage, void, Vec::new())
}
