//! `idle`: holds connections open, answers pings, and reads what they cost the server in memory and CPU.
//!
//! The memory of one connection is a slope between two numbers of connections: what the server has anyway, and
//! what it allocates once, cancels out.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use serde::Serialize;

use crate::cli::IdleArgs;
use crate::client::Target;
use crate::dialect::answers::{Answer, Ear};
use crate::dialect::greeting::Greeting;
use crate::distribution::{Distribution, Latencies, latencies, merge};
use crate::failure::Failure;
use crate::harness::{Control, LiveServer, PATIENCE, Screen};
use crate::poller::{Handler, Opened, Poller, Received, receive};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, bytes, quantity};
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// What all threads of a run see.
struct Shared {
    args: IdleArgs,
    target: Target,
    threads: usize,
    control: Control,
    watch: Watch,
    /// Connections to hold now, all threads together.
    goal: AtomicU64,
    opened: AtomicU64,
    /// Connections answered with 503, where `--refusals` counts them …
    refused: AtomicU64,
    /// … and those that ended without an answer.
    reset: AtomicU64,
    pings: AtomicU64,
    messages: AtomicU64,
}

impl Shared {
    fn request_target(&self) -> String {
        let topic = self.args.common.address.topic(0, 1);
        self.args.dialect.request_target(&self.target.url, topic)
    }
}

/// Runs the scenario; the report says whether its figures count. Once it is `interrupted`, it holds no longer.
pub(crate) fn measure(
    args: &IdleArgs,
    screen: &Screen,
    interrupted: &AtomicBool,
) -> Result<Report<Idle>, Failure> {
    if !args.steps.is_sorted_by(|a, b| a < b) || args.steps.first() == Some(&0) {
        return Err(Failure::Usage("--steps must rise, from at least 1: for example 5000,15000".into()));
    }
    let last_step = args.steps.last().copied();
    let connections = args.connections.or(last_step).unwrap_or(1000);
    if Some(connections) < last_step {
        return Err(Failure::Usage(format!("--connections {connections} is less than the last of --steps")));
    }
    ensure_files(connections as usize)?;
    let threads = args.common.threads(connections as usize);
    let shared = &Shared {
        target: args.common.target()?,
        threads,
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        goal: AtomicU64::new(0),
        opened: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        reset: AtomicU64::new(0),
        pings: AtomicU64::new(0),
        messages: AtomicU64::new(0),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let holding: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(hold(shared, thread))))
            .collect();
        let measured = shared.control.guard(phases(shared, screen, u64::from(connections), interrupted));
        shared.control.stop();
        let outcomes: Option<Vec<_>> =
            holding.into_iter().map(|thread| thread.join().expect("a holding thread panicked")).collect();
        (measured, outcomes)
    });
    shared.control.outcome()?;
    let (Some(measured), Some(outcomes)) = (measured, outcomes) else {
        unreachable!("a thread that ends without an outcome leaves a failure");
    };
    Ok(report(shared, connections, measured, &outcomes))
}

/// What the main thread measured.
struct Measured {
    usage: Usage,
    /// Time in which connections were opened, in seconds.
    connect_seconds: f64,
    steps: Vec<Step>,
    pings: u64,
}

/// The server's memory with some number of connections.
#[derive(Clone, Copy, Debug, Serialize)]
struct Step {
    connections: u64,
    server_rss_anon_bytes: u64,
}

fn phases(
    shared: &Shared,
    screen: &Screen,
    connections: u64,
    interrupted: &AtomicBool,
) -> Result<Measured, Failure> {
    let (args, control) = (&shared.args, &shared.control);
    let mut server = LiveServer::new(&shared.watch);
    let pings = || shared.pings.load(Ordering::Relaxed);
    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    let mut lines = || {
        let opened = shared.opened.load(Ordering::Acquire);
        let mut lines = vec![("connections", format!("{opened} open, {} pings answered", pings()))];
        server.append(&mut lines);
        lines
    };
    let mut steps = Vec::new();
    let read = |connections| -> Result<Option<Step>, Failure> {
        let server = shared.watch.server()?;
        Ok(server.map(|server| Step { connections, server_rss_anon_bytes: server.rss_anon_bytes }))
    };
    steps.extend(read(0)?);
    let mut goals: Vec<u64> = args.steps.iter().map(|step| u64::from(*step)).collect();
    if goals.last() != Some(&connections) {
        goals.push(connections);
    }
    let mut connecting = Duration::ZERO;
    for goal in goals {
        let began = Instant::now();
        shared.goal.store(goal, Ordering::Release);
        screen.phase("connect", goal);
        let answered = || {
            let answered =
                [&shared.opened, &shared.refused, &shared.reset].map(|n| n.load(Ordering::Acquire));
            Some(answered.iter().sum()).filter(|answered| *answered < goal && !is_interrupted())
        };
        screen.wait(control, None, answered, &mut lines);
        connecting += began.elapsed();
        screen.wait_for_unless(control, "settle", args.settle, is_interrupted, &mut lines);
        if control.stopped() || is_interrupted() {
            break;
        }
        steps.extend(read(goal)?);
    }
    let (sample, before) = (shared.watch.sample()?, pings());
    screen.wait_for_unless(control, "hold", args.duration, is_interrupted, &mut lines);
    let (end_sample, after) = (shared.watch.sample()?, pings());
    let usage = shared.watch.between(&sample, &end_sample);
    Ok(Measured { usage, connect_seconds: connecting.as_secs_f64(), steps, pings: after - before })
}

/// Connections that the server closed, and how the first one was.
struct Outcome {
    closed: u64,
    closed_how: Option<String>,
    /// From SYN to 101.
    handshake: Latencies,
}

/// One thread: opens its share of the goal, however that rises, and holds it until the run is stopped.
fn hold(shared: &Shared, thread: usize) -> Result<Outcome, Failure> {
    shared.args.common.pin_thread(thread)?;
    shared.watch.enrol(format!("hold {thread}"));
    let request_target = shared.request_target();
    let mut poller = Poller::new(shared.target.clone())?;
    let new_ramp = || shared.args.common.storm(shared.threads, shared.args.concurrency as usize);
    let mut ramp = new_ramp();
    let outcome = Outcome { closed: 0, closed_how: None, handshake: latencies() };
    let mut crew = Crew { shared, connections: Vec::new(), greeting: 0, buffer: vec![0; 16 * 1024], outcome };
    let (mut goal_seen, mut overdue_check) = (0, Instant::now());
    while !shared.control.stopped() {
        let goal = shared.goal.load(Ordering::Acquire) as usize;
        let share = (thread..goal).step_by(shared.threads).count();
        if goal != goal_seen {
            // The pause between two steps is no arrears to catch up on.
            ramp = new_ramp();
            goal_seen = goal;
        }
        while crew.connections.len() < share && ramp.allowed(poller.dialling()) > 0 {
            poller.dial(crew.connections.len(), &request_target)?;
            crew.connections.push(Connection::default());
            ramp.count();
        }
        let patience = if crew.connections.len() < share { Duration::from_millis(1) } else { PATIENCE };
        poller.turn(&mut crew, patience)?;
        if overdue_check.elapsed() > Duration::from_millis(100) {
            overdue_check = Instant::now();
            crew.check_overdue(overdue_check)?;
        }
    }
    Ok(crew.outcome)
}

struct Crew<'a> {
    shared: &'a Shared,
    connections: Vec<Connection>,
    /// How many are not ready yet.
    greeting: usize,
    buffer: Vec<u8>,
    outcome: Outcome,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    walker: Walker,
    greeting: Option<Box<Greeting>>,
    ear: Ear,
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        self.outcome.handshake.saturating_record(opened.took.as_nanos() as u64);
        let (args, mut out) = (&self.shared.args, Vec::new());
        let script = args.dialect.script(&args.common.address.topic(0, 1).name);
        let connection = &mut self.connections[token];
        connection.stream = Some(opened.stream);
        connection.greeting = Greeting::begin(script, &mut out);
        if connection.greeting.is_none() {
            self.shared.opened.fetch_add(1, Ordering::Release);
        } else {
            self.greeting += 1;
        }
        self.walk(token, &opened.rest, out)?;
        self.ready(token)
    }

    fn failed(&mut self, _token: usize, failure: Failure) -> Result<(), Failure> {
        let counter = match failure {
            Failure::Status { status: 503, .. } => &self.shared.refused,
            Failure::Connect { .. } | Failure::Handshake { .. } | Failure::Refused { .. } => {
                &self.shared.reset
            }
            other => return Err(other),
        };
        if !self.shared.args.refusals {
            return Err(failure);
        }
        counter.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = &mut self.connections[token].stream {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.walk(token, &buffer[..len], Vec::new())?;
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how)?,
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

impl Crew<'_> {
    /// Walks over what has come, and sends `out` and the answers to it.
    fn walk(&mut self, token: usize, bytes: &[u8], out: Vec<u8>) -> Result<(), Failure> {
        let Connection { stream: Some(stream), walker, greeting, ear } = &mut self.connections[token] else {
            return Ok(());
        };
        let answers = &self.shared.args.dialect.answer;
        let was_greeting = greeting.is_some();
        let mut sink = Replies { greeting, ear, answers, out, heard: 0, pings: 0, messages: 0, closed: None };
        let walked = walker.feed(bytes, &mut sink);
        if was_greeting && sink.greeting.is_none() {
            self.greeting -= 1;
            self.shared.opened.fetch_add(1, Ordering::Release);
        }
        self.shared.pings.fetch_add(sink.pings, Ordering::Relaxed);
        self.shared.messages.fetch_add(sink.messages, Ordering::Relaxed);
        let mut closed = sink.closed.or(walked.err().map(String::from));
        // Little is ever sent here, so the socket has room for it unless it has failed.
        if let Err(error) = stream.write_all(&sink.out) {
            closed.get_or_insert(format!("cannot send a greeting or a pong: {error}"));
        }
        closed.map_or(Ok(()), |how| self.end(token, how))
    }

    /// A connection has ended: refused, if it was not ready.
    #[cold]
    fn end(&mut self, token: usize, how: String) -> Result<(), Failure> {
        let connection = &mut self.connections[token];
        connection.stream = None;
        if let Some(greeting) = connection.greeting.take() {
            self.greeting -= 1;
            return self.failed(token, self.refused(greeting.cut_short(&how)));
        }
        self.outcome.closed += 1;
        self.outcome.closed_how.get_or_insert(how);
        Ok(())
    }

    fn refused(&self, how: String) -> Failure {
        Failure::Refused { url: self.shared.target.url_of(&self.shared.request_target()), how }
    }

    /// Fails if a connection is not ready in time.
    fn check_overdue(&self, now: Instant) -> Result<(), Failure> {
        if self.greeting == 0 {
            return Ok(());
        }
        let greetings = self.connections.iter().filter_map(|connection| connection.greeting.as_ref());
        let overdue =
            greetings.filter_map(|greeting| greeting.overdue(now, self.shared.target.timeout)).next();
        overdue.map_or(Ok(()), |how| Err(self.refused(how)))
    }
}

/// What comes in on an idle connection.
struct Replies<'a> {
    greeting: &'a mut Option<Box<Greeting>>,
    ear: &'a mut Ear,
    answers: &'a [Answer],
    out: Vec<u8>,
    /// Heartbeats in the current message.
    heard: u64,
    pings: u64,
    messages: u64,
    closed: Option<String>,
}

impl Sink for Replies<'_> {
    fn data(&mut self, _at: u64, bytes: &[u8], end: bool) {
        self.heard += self.ear.hear(self.answers, bytes, end, &mut self.out);
        if let Some(greeting) = self.greeting {
            if greeting.hear(bytes, end, &mut self.out) {
                *self.greeting = None;
            }
        } else {
            self.messages += u64::from(end && self.heard == 0);
        }
        if end {
            self.pings += std::mem::take(&mut self.heard);
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => {
                self.pings += 1;
                append_frame(&mut self.out, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]);
            }
            Opcode::Close => self.closed = Some(close_text(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    connections: u32,
    threads: usize,
    opened: u64,
    refused: u64,
    reset: u64,
    connect_seconds: f64,
    handshake_us: Distribution,
    closed: u64,
    pings: u64,
    pings_per_second: f64,
    messages: u64,
    steps: Vec<Step>,
    server_bytes_per_connection: Option<f64>,
    server_cpu_us_per_connection_second: Option<f64>,
}

impl Figures for Idle {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("load", format!("{} idle connections, {} closed", self.connections, self.closed)),
            (
                "handshakes",
                format!(
                    "{} in {:.2} s ({}/s): {} opened, {} refused with 503, {} reset",
                    self.connections,
                    self.connect_seconds,
                    quantity(f64::from(self.connections) / self.connect_seconds),
                    self.opened,
                    self.refused,
                    self.reset
                ),
            ),
            ("latency", format!("{}  (from SYN to 101)", self.handshake_us.text())),
            ("pings", format!("{} answered, {:.1}/s", self.pings, self.pings_per_second)),
        ];
        for step in &self.steps {
            let text =
                format!("{} with {} connections", bytes(step.server_rss_anon_bytes as f64), step.connections);
            lines.push(("server memory", text));
        }
        if let Some(slope) = self.server_bytes_per_connection {
            lines.push(("server memory", format!("{slope:.0} B per connection (slope)")));
        }
        if let Some(us) = self.server_cpu_us_per_connection_second {
            lines.push(("server CPU", format!("{us:.3} µs per connection and second")));
        }
        lines
    }
}

/// Bytes per connection between the first and the last step that was asked for.
fn slope(steps: &[Step], first_step: Option<u32>) -> Option<f64> {
    let first =
        steps.iter().find(|step| first_step.is_none_or(|first| step.connections >= u64::from(first)))?;
    let last = steps.last().filter(|last| last.connections > first.connections)?;
    let grown = last.server_rss_anon_bytes as f64 - first.server_rss_anon_bytes as f64;
    Some(grown / (last.connections - first.connections) as f64)
}

fn report(shared: &Shared, connections: u32, measured: Measured, outcomes: &[Outcome]) -> Report<Idle> {
    let Measured { usage, connect_seconds, steps, pings } = measured;
    let closed = outcomes.iter().map(|outcome| outcome.closed).sum();
    let mut void = Vec::new();
    if closed > 0 {
        let how = outcomes.iter().find_map(|outcome| outcome.closed_how.as_deref());
        void.push(format!("{closed} connections closed, the first with: {}", how.unwrap_or("unknown")));
    }
    let answered: u64 =
        [&shared.opened, &shared.refused, &shared.reset].iter().map(|n| n.load(Ordering::Acquire)).sum();
    if answered < u64::from(connections) {
        void.push(format!("interrupted with {answered} of {connections} connections"));
    }
    let mut notes = Vec::new();
    let messages = shared.messages.load(Ordering::Relaxed);
    if messages > 0 {
        notes.push(format!("{messages} messages were received: the connections were not idle"));
    }
    if shared.args.steps.len() < 2 && !steps.is_empty() {
        notes.push(
            "the slope begins at 0 connections and includes what the server allocates once: --steps N,M"
                .into(),
        );
    }
    let first_step = shared.args.steps.first().copied().filter(|first| *first < connections);
    let figures = Idle {
        connections,
        threads: shared.threads,
        opened: shared.opened.load(Ordering::Relaxed),
        refused: shared.refused.load(Ordering::Relaxed),
        reset: shared.reset.load(Ordering::Relaxed),
        connect_seconds,
        handshake_us: Distribution::of(&merge(outcomes.iter().map(|outcome| &outcome.handshake))),
        closed,
        pings,
        pings_per_second: pings as f64 / usage.seconds,
        messages,
        server_bytes_per_connection: slope(&steps, first_step),
        server_cpu_us_per_connection_second: usage.server_cpu_us_per(f64::from(connections) * usage.seconds),
        steps,
    };
    Report::new("idle", shared.target.url.to_string(), figures, usage, void, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes() {
        let step = |connections, server_rss_anon_bytes| Step { connections, server_rss_anon_bytes };
        let steps = [step(0, 1000), step(100, 50_000), step(300, 80_000)];
        assert_eq!(slope(&steps, Some(100)), Some(150.0));
        assert_eq!(slope(&steps[..2], None), Some(490.0));
        assert_eq!(slope(&steps[..1], None), None);
        assert_eq!(slope(&[], None), None);
    }
}
