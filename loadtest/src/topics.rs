//! `topics`: one message to each of very many topics, and what that leaves in the server's memory.
//!
//! A connection per topic: it publishes, asks for the closing handshake, and is reset once the server has answered
//! that. The answer proves that the message was read, which a reset alone would not.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use serde::Serialize;

use crate::cli::TopicsArgs;
use crate::client::Target;
use crate::failure::Failure;
use crate::harness::{Control, LiveRate, LiveServer, PATIENCE, Screen, nothing};
use crate::poller::{Handler, Opened, Poller, Received, receive};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, bytes, quantity};
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// Close code 1000: the purpose has been fulfilled (RFC 6455 section 7.4.1).
const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();

/// What all threads of a run see.
struct Shared {
    args: TopicsArgs,
    target: Target,
    threads: usize,
    control: Control,
    watch: Watch,
    payload: Vec<u8>,
    /// Topics whose message the server has taken.
    done: AtomicU64,
    /// Topics whose connection ended in another way.
    failed: AtomicU64,
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &TopicsArgs, screen: &Screen) -> Result<Report<Topics>, Failure> {
    let concurrency = args.concurrency as usize;
    ensure_files(concurrency)?;
    let threads = args.common.threads(concurrency);
    let shared = &Shared {
        target: args.common.target()?,
        threads,
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        payload: std::iter::repeat_with(|| fastrand::u8(..)).take(args.payload_bytes as usize).collect(),
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let publishing: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(publish(shared, thread))))
            .collect();
        let measured = shared.control.guard(phases(shared, screen));
        shared.control.stop();
        let outcomes: Option<Vec<_>> = publishing
            .into_iter()
            .map(|thread| thread.join().expect("a publishing thread panicked"))
            .collect();
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
    usage: Usage,
    memory: Option<(u64, u64)>,
}

fn phases(shared: &Shared, screen: &Screen) -> Result<Measured, Failure> {
    let (args, control) = (&shared.args, &shared.control);
    let count = u64::from(args.count);
    let memory = || shared.watch.server().map(|server| server.map(|server| server.rss_anon_bytes));
    let before = memory()?;
    let sample = shared.watch.sample()?;
    let (mut live, mut server) = (LiveRate::new(), LiveServer::new(&shared.watch));
    let done = || shared.done.load(Ordering::Acquire);
    screen.phase("publish", count);
    screen.wait(
        control,
        None,
        || Some(done()).filter(|done| done + shared.failed.load(Ordering::Acquire) < count),
        || {
            let mut lines = vec![("topics", format!("{}/s", quantity(live.update(done()))))];
            server.append(&mut lines);
            lines
        },
    );
    let end_sample = shared.watch.sample()?;
    screen.wait_for(control, "settle", args.settle, nothing);
    let after = memory()?;
    Ok(Measured { usage: shared.watch.between(&sample, &end_sample), memory: before.zip(after) })
}

/// One thread: publishes to its share of the topics.
fn publish(shared: &Shared, thread: usize) -> Result<Option<String>, Failure> {
    let args = &shared.args;
    args.common.pin_thread(thread)?;
    shared.watch.enrol(format!("publish {thread}"));
    let concurrency = (thread..args.concurrency as usize).step_by(shared.threads).count();
    let mut topics = (thread..args.count as usize).step_by(shared.threads).peekable();
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = args.common.churn(shared.threads, concurrency);
    let mut visits = Visits { shared, open: HashMap::new(), buffer: vec![0; 16 * 1024], failed_how: None };
    let mut overdue_check = Instant::now();
    // One topic alone has a path of its own as well, so that runs of any count are alike.
    let (address, url, topics_count) =
        (&args.common.address, &shared.target.url, (args.count as usize).max(2));
    while !shared.control.stopped() {
        while topics.peek().is_some() && ramp.allowed(poller.dialling() + visits.open.len()) > 0 {
            if let Some(topic) = topics.next() {
                let request_target =
                    address.topic(topic, topics_count).request_target(url, &args.publisher_query);
                poller.dial(topic, &request_target)?;
                ramp.count();
            }
        }
        let room = poller.dialling() + visits.open.len() < concurrency && topics.peek().is_some();
        poller.turn(&mut visits, if room { Duration::from_millis(1) } else { PATIENCE })?;
        if overdue_check.elapsed() > Duration::from_millis(100) {
            overdue_check = Instant::now();
            visits.end_overdue(overdue_check);
        }
    }
    Ok(visits.failed_how)
}

struct Visits<'a> {
    shared: &'a Shared,
    open: HashMap<usize, Visit>,
    buffer: Vec<u8>,
    failed_how: Option<String>,
}

/// A connection that has been upgraded and publishes.
struct Visit {
    stream: TcpStream,
    walker: Walker,
    out: Vec<u8>,
    written: usize,
    began: Instant,
}

impl Handler for Visits<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        let mut out = Vec::new();
        let key = fastrand::u32(..).to_ne_bytes();
        append_frame(&mut out, Opcode::Binary, key, &[&self.shared.payload]);
        append_frame(&mut out, Opcode::Close, key, &[&NORMAL_CLOSURE]);
        let Opened { stream, rest, .. } = opened;
        let visit = Visit { stream, walker: Walker::default(), out, written: 0, began: Instant::now() };
        self.open.insert(token, visit);
        self.walk(token, &rest);
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write(token);
        while let Some(visit) = self.open.get_mut(&token) {
            match receive(&mut visit.stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.walk(token, &buffer[..len]);
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, Some(how)),
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

impl Visits<'_> {
    fn write(&mut self, token: usize) {
        let Some(visit) = self.open.get_mut(&token) else { return };
        while visit.written < visit.out.len() {
            match visit.stream.write(&visit.out[visit.written..]) {
                Ok(len) => visit.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.end(token, Some(error.to_string())),
            }
        }
    }

    fn walk(&mut self, token: usize, bytes: &[u8]) {
        let Some(visit) = self.open.get_mut(&token) else { return };
        let mut sink = CloseOnly(None);
        let walked = visit.walker.feed(bytes, &mut sink);
        if let Err(violation) = walked {
            self.end(token, Some(violation.into()));
        } else if let Some(close) = sink.0 {
            let normal = close.is_empty() || close.starts_with(&NORMAL_CLOSURE);
            self.end(token, (!normal).then(|| close_text(&close)));
        }
    }

    /// A visit is over: well, or with a reason why not.
    fn end(&mut self, token: usize, failed_how: Option<String>) {
        self.open.remove(&token);
        let counter = if failed_how.is_some() { &self.shared.failed } else { &self.shared.done };
        counter.fetch_add(1, Ordering::Release);
        self.failed_how = self.failed_how.take().or(failed_how);
    }

    fn end_overdue(&mut self, now: Instant) {
        let limit = self.shared.target.timeout;
        let overdue: Vec<usize> = self
            .open
            .iter()
            .filter(|(_, visit)| now - visit.began > limit)
            .map(|(token, _)| *token)
            .collect();
        for token in overdue {
            self.end(token, Some(format!("no answer to a close frame within {limit:?} (--connect-timeout)")));
        }
    }
}

/// Waits for the server's close frame. A ping may go unanswered: we have said good-bye already.
struct CloseOnly(Option<Vec<u8>>);

impl Sink for CloseOnly {
    fn data(&mut self, _at: u64, _bytes: &[u8], _end: bool) {}

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        if opcode == Opcode::Close {
            self.0 = Some(payload.to_vec());
        }
    }
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Topics {
    topics: u32,
    concurrency: u32,
    payload_bytes: u32,
    threads: usize,
    done: u64,
    failed: u64,
    topics_per_second: f64,
    server_rss_anon_bytes_before: Option<u64>,
    server_rss_anon_bytes_after: Option<u64>,
    server_bytes_per_topic: Option<f64>,
    server_cpu_us_per_topic: Option<f64>,
}

impl Figures for Topics {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("load", format!("{} topics, one message of {} B each", self.topics, self.payload_bytes)),
            (
                "published",
                format!(
                    "{} topics, {} failed, {}/s",
                    self.done,
                    self.failed,
                    quantity(self.topics_per_second)
                ),
            ),
        ];
        if let (Some(before), Some(after), Some(each)) =
            (self.server_rss_anon_bytes_before, self.server_rss_anon_bytes_after, self.server_bytes_per_topic)
        {
            let (before, after) = (bytes(before as f64), bytes(after as f64));
            lines.push(("server memory", format!("{before} before, {after} after: {each:.0} B per topic")));
        }
        if let Some(us) = self.server_cpu_us_per_topic {
            lines.push(("server CPU", format!("{us:.1} µs per topic, its connection included")));
        }
        lines
    }
}

fn report(shared: &Shared, measured: Measured, outcomes: &[Option<String>]) -> Report<Topics> {
    let (args, Measured { usage, memory }) = (&shared.args, measured);
    let (done, failed) = (shared.done.load(Ordering::Acquire), shared.failed.load(Ordering::Acquire));
    let mut void = Vec::new();
    if failed > 0 {
        let how = outcomes.iter().find_map(Option::as_deref);
        void.push(format!("{failed} topics failed, the first with: {}", how.unwrap_or("unknown")));
    }
    let figures = Topics {
        topics: args.count,
        concurrency: args.concurrency,
        payload_bytes: args.payload_bytes,
        threads: shared.threads,
        done,
        failed,
        topics_per_second: done as f64 / usage.seconds,
        server_rss_anon_bytes_before: memory.map(|(before, _)| before),
        server_rss_anon_bytes_after: memory.map(|(_, after)| after),
        server_bytes_per_topic: memory
            .map(|(before, after)| (after as f64 - before as f64) / f64::from(args.count)),
        server_cpu_us_per_topic: usage.server_cpu_us_per(done as f64),
    };
    Report::new("topics", shared.target.url.to_string(), figures, usage, void, Vec::new())
}
