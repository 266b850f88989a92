//! `api`: publishes by HTTP over connections that are kept, and counts what is answered.
//!
//! Closed loop: a request goes out when an answer has come, `--in-flight` of them on each connection, one behind the other
//! (pipelining, RFC 9112 section 9.3.2). Each thread sends and receives for its own connections. Every answer names the
//! offset that its message has got: on one connection they rise, and together they leave none out and give none twice, as
//! long as nobody else publishes to the topic.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use mio::net::TcpStream;
use serde::Serialize;

use crate::cli::ApiArgs;
use crate::client::Target;
use crate::dialect::greeting::excerpt;
use crate::distribution::{Distribution, Latencies, latencies, merge};
use crate::failure::Failure;
use crate::harness::{Control, LiveRate, LiveServer, PATIENCE, Screen, nothing};
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, quantity};
use crate::stamp::Clock;

/// What all threads of a run see.
struct Shared {
    args: ApiArgs,
    target: Target,
    /// The same for every message.
    request: Vec<u8>,
    threads: usize,
    clock: Clock,
    control: Control,
    watch: Watch,
    counters: Vec<Counters>,
    /// Connections may send.
    go: AtomicBool,
    /// Answers to what was sent between these two are measured.
    measuring: AtomicBool,
    /// No more is to be sent.
    over: AtomicBool,
}

/// What a thread tells the main thread while it runs. Only its thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    opened: AtomicU64,
    sent: AtomicU64,
    answered: AtomicU64,
}

impl Shared {
    fn sum(&self, of: fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
    }
}

/// What a thread found out.
struct Outcome {
    latency: Latencies,
    /// The lowest and the highest offset.
    offsets: Option<(u64, u64)>,
    /// Answers whose offset was not above the one before it on the same connection.
    out_of_order: u64,
    /// Answers that are no publication, and what the first one was.
    refused: u64,
    refused_how: Option<String>,
    closed: u64,
    closed_how: Option<String>,
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &ApiArgs, screen: &Screen) -> Result<Report<Api>, Failure> {
    let connections = args.connections as usize;
    ensure_files(connections)?;
    let threads = args.common.threads(connections);
    let target = args.common.target_http("--url", args.common.url())?;
    let shared = &Shared {
        request: request(args, &target),
        target,
        threads,
        clock: Clock::start(),
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        counters: (0..threads).map(|_| Counters::default()).collect(),
        go: AtomicBool::new(false),
        measuring: AtomicBool::new(false),
        over: AtomicBool::new(false),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(ask(shared, thread))))
            .collect();
        let measured = shared.control.guard(phases(shared, screen));
        shared.control.stop();
        let outcomes: Option<Vec<_>> =
            asking.into_iter().map(|thread| thread.join().expect("an asking thread panicked")).collect();
        (measured, outcomes)
    });
    shared.control.outcome()?;
    let (Some((usage, answers)), Some(outcomes)) = (measured, outcomes) else {
        unreachable!("a thread that ends without an outcome leaves a failure");
    };
    Ok(report(shared, usage, answers, &outcomes))
}

/// One publication to the topic, as it goes over the wire.
fn request(args: &ApiArgs, target: &Target) -> Vec<u8> {
    let topic = &args.common.address.topic(0, 1).name;
    let data = "x".repeat(args.payload_bytes as usize);
    let body = format!("{{\"channel\":\"{topic}\",\"data\":\"{data}\"}}");
    let headers: String = args.common.address.header.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        target.url.target(None, ""),
        target.url.authority(),
        body.len()
    )
    .into_bytes()
}

/// Leads the threads through the run. Gives what was used during the measurement, and the answers that came in it.
fn phases(shared: &Shared, screen: &Screen) -> Result<(Usage, u64), Failure> {
    let (args, control) = (&shared.args, &shared.control);
    screen.phase("connect", u64::from(args.connections));
    let opened =
        || (control.ready_threads() < shared.threads).then(|| shared.sum(|counters| &counters.opened));
    screen.wait(control, None, opened, nothing);
    shared.go.store(true, Ordering::Release);
    let (mut live, mut server) = (LiveRate::new(), LiveServer::new(&shared.watch));
    let answered = || shared.sum(|counters| &counters.answered);
    let mut lines = || {
        let mut lines = vec![("publishes", format!("{}/s", quantity(live.update(answered()))))];
        server.append(&mut lines);
        lines
    };
    screen.wait_for(control, "warm up", args.warm_up, &mut lines);
    let (sample, before) = (shared.watch.sample()?, answered());
    shared.measuring.store(true, Ordering::Relaxed);
    screen.wait_for(control, "measure", args.duration, &mut lines);
    let (end_sample, after) = (shared.watch.sample()?, answered());
    shared.measuring.store(false, Ordering::Relaxed);
    shared.over.store(true, Ordering::Release);

    screen.phase("drain", 1);
    // Threads look at `over` between turns; what they send until then is drained as well.
    std::thread::sleep(2 * PATIENCE);
    let under_way = || shared.sum(|counters| &counters.sent).saturating_sub(answered());
    screen.wait(
        control,
        Some(Instant::now() + args.drain_timeout),
        || (under_way() > 0).then_some(0),
        || vec![("publishes", format!("{} under way", under_way()))],
    );
    Ok((shared.watch.between(&sample, &end_sample), after - before))
}

/// One thread: opens its share of the connections and publishes until the run is stopped.
fn ask(shared: &Shared, thread: usize) -> Result<Outcome, Failure> {
    let common = &shared.args.common;
    common.pin_thread(thread)?;
    shared.watch.enrol(format!("ask {thread}"));
    let connections = (thread..shared.args.connections as usize).step_by(shared.threads).count();
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = common.ramp(shared.threads);
    let mut crew = Crew {
        shared,
        connections: (0..connections).map(|_| Connection::default()).collect(),
        buffer: vec![0; RECEIVE_BYTES],
        going: false,
        over: false,
        opened: 0,
        sent: 0,
        answered: 0,
        outcome: Outcome {
            latency: latencies(),
            offsets: None,
            out_of_order: 0,
            refused: 0,
            refused_how: None,
            closed: 0,
            closed_how: None,
        },
    };
    let (mut dialled, mut announced) = (0, false);
    while !shared.control.stopped() {
        while dialled < connections && ramp.allowed(poller.dialling()) > 0 {
            poller.dial_plain(dialled)?;
            ramp.count();
            dialled += 1;
        }
        if !announced && crew.opened == connections {
            announced = true;
            shared.control.ready();
        }
        if !crew.going && shared.go.load(Ordering::Acquire) {
            crew.going = true;
            (0..connections).for_each(|token| crew.pump(token));
        }
        crew.over = shared.over.load(Ordering::Acquire);
        poller.turn(&mut crew, PATIENCE)?;
        crew.show(thread);
    }
    Ok(crew.outcome)
}

/// A thread's connections and all that they share.
struct Crew<'a> {
    shared: &'a Shared,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    going: bool,
    over: bool,
    opened: usize,
    sent: u64,
    answered: u64,
    outcome: Outcome,
}

/// One connection: requests that wait for the socket, and those that wait for their answers.
#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    /// Requests, of which `written` bytes are with the kernel.
    out: Vec<u8>,
    written: usize,
    /// When each that is not answered was made.
    under_way: VecDeque<u64>,
    /// An answer that is not whole.
    begun: Vec<u8>,
    /// Of the last answer.
    offset: u64,
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        self.opened += 1;
        self.connections[token].stream = Some(opened.stream);
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = &mut self.connections[token].stream {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.hear(token, &buffer[..len]);
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how),
            }
        }
        self.buffer = buffer;
        self.pump(token);
        Ok(())
    }
}

impl Crew<'_> {
    /// Takes the answers that have come, one after another; the start of one is kept.
    fn hear(&mut self, token: usize, bytes: &[u8]) {
        let now_ns = self.shared.clock.now();
        let mut begun = std::mem::take(&mut self.connections[token].begun);
        let mut rest = if begun.is_empty() {
            bytes
        } else {
            begun.extend_from_slice(bytes);
            &begun
        };
        loop {
            match Answer::first(rest) {
                Ok(Some((answer, len))) => {
                    self.answer(token, answer, &rest[..len], now_ns);
                    rest = &rest[len..];
                }
                Ok(None) => break,
                Err(how) => return self.end(token, how),
            }
        }
        self.connections[token].begun = rest.to_vec();
    }

    fn answer(&mut self, token: usize, answer: Answer, bytes: &[u8], now_ns: u64) {
        let Connection { under_way, offset: last, .. } = &mut self.connections[token];
        let Some(made_ns) = under_way.pop_front() else {
            return self.end(token, "an answer came to no request".into());
        };
        self.answered += 1;
        if self.shared.measuring.load(Ordering::Relaxed) {
            self.outcome.latency.saturating_record(now_ns.saturating_sub(made_ns).max(1));
        }
        match answer.offset.filter(|_| answer.status == 200) {
            None => {
                self.outcome.refused += 1;
                self.outcome.refused_how.get_or_insert_with(|| excerpt(bytes));
            }
            Some(offset) => {
                self.outcome.out_of_order += u64::from(offset <= *last);
                *last = offset;
                let (lowest, highest) = self.outcome.offsets.get_or_insert((offset, offset));
                (*lowest, *highest) = ((*lowest).min(offset), (*highest).max(offset));
            }
        }
    }

    /// Keeps `--in-flight` requests under way on a connection.
    fn pump(&mut self, token: usize) {
        let (shared, connection) = (self.shared, &mut self.connections[token]);
        let Some(stream) = &mut connection.stream else { return };
        let more = self.going && !self.over;
        while more && connection.under_way.len() < shared.args.in_flight as usize {
            connection.out.extend_from_slice(&shared.request);
            connection.under_way.push_back(shared.clock.now());
            self.sent += 1;
        }
        while connection.written < connection.out.len() {
            match stream.write(&connection.out[connection.written..]) {
                Ok(len) => connection.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.end(token, error.to_string()),
            }
        }
        connection.out.clear();
        connection.written = 0;
    }

    #[cold]
    fn end(&mut self, token: usize, how: String) {
        self.connections[token].stream = None;
        self.outcome.closed += 1;
        self.outcome.closed_how.get_or_insert(how);
    }

    fn show(&self, thread: usize) {
        let counters = &self.shared.counters[thread];
        counters.opened.store(self.opened as u64, Ordering::Relaxed);
        counters.sent.store(self.sent, Ordering::Relaxed);
        counters.answered.store(self.answered, Ordering::Relaxed);
    }
}

/// One response, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Answer {
    status: u16,
    /// What stands behind `"offset":` in its body.
    offset: Option<u64>,
}

impl Answer {
    /// The whole response at the front of `bytes`, and its length. The server's time is measured here, so no more is read of
    /// a response than is needed.
    fn first(bytes: &[u8]) -> Result<Option<(Answer, usize)>, String> {
        let Some(head) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let (head, body) = (&bytes[..head], &bytes[head + 4..]);
        let no_http = || format!("not answered with HTTP/1.1: {}", excerpt(head));
        let status = number(head.strip_prefix(b"HTTP/1.1 ").ok_or_else(no_http)?).ok_or_else(no_http)?;
        let length = behind(head, b"\r\nContent-Length: ").or_else(|| behind(head, b"\r\ncontent-length: "));
        let length = length.ok_or_else(|| format!("no Content-Length: {}", excerpt(head)))? as usize;
        let Some(body) = body.get(..length) else { return Ok(None) };
        let answer = Answer { status: status as u16, offset: behind(body, b"\"offset\":") };
        Ok(Some((answer, head.len() + 4 + length)))
    }
}

/// The number behind some text.
fn behind(bytes: &[u8], text: &[u8]) -> Option<u64> {
    memchr::memmem::find(bytes, text).and_then(|at| number(&bytes[at + text.len()..]))
}

/// The number at the front of some bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Api {
    connections: u32,
    in_flight: u32,
    payload_bytes: u32,
    threads: usize,
    sent: u64,
    answered: u64,
    refused: u64,
    out_of_order: u64,
    closed: u64,
    publishes_per_second: f64,
    server_cpu_us_per_publish: Option<f64>,
    latency_us: Distribution,
}

impl Figures for Api {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            (
                "load",
                format!(
                    "{} connections, {} requests under way on each, {} B",
                    self.connections, self.in_flight, self.payload_bytes
                ),
            ),
            ("publishes", format!("{}/s", quantity(self.publishes_per_second))),
        ];
        if let Some(us) = self.server_cpu_us_per_publish {
            lines.push(("server CPU", format!("{us:.2} µs per publish")));
        }
        lines.push(("latency", self.latency_us.text()));
        lines.push((
            "accounts",
            format!(
                "{} sent, {} answered, {} refused, {} out of order, {} closed",
                self.sent, self.answered, self.refused, self.out_of_order, self.closed
            ),
        ));
        lines
    }
}

fn report(shared: &Shared, usage: Usage, answers: u64, outcomes: &[Outcome]) -> Report<Api> {
    let args = &shared.args;
    let (sent, answered) = (shared.sum(|counters| &counters.sent), shared.sum(|counters| &counters.answered));
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let (refused, out_of_order) = (sum(|outcome| outcome.refused), sum(|outcome| outcome.out_of_order));
    let closed = sum(|outcome| outcome.closed);
    let first = |of: fn(&Outcome) -> Option<&String>| {
        outcomes.iter().find_map(of).cloned().unwrap_or_else(|| "unknown".into())
    };
    let mut void = Vec::new();
    if sent != answered {
        void.push(format!("{sent} requests were sent and {answered} answered"));
    }
    if refused > 0 {
        void.push(format!(
            "{refused} were not published, the first: {}",
            first(|outcome| outcome.refused_how.as_ref())
        ));
    }
    if out_of_order > 0 {
        void.push(format!("{out_of_order} answers named an offset that was not above the last"));
    }
    let lowest = outcomes.iter().filter_map(|outcome| outcome.offsets).map(|(lowest, _)| lowest).min();
    let highest = outcomes.iter().filter_map(|outcome| outcome.offsets).map(|(_, highest)| highest).max();
    if let (Some(lowest), Some(highest)) = (lowest, highest)
        && highest - lowest + 1 != answered - refused
    {
        let offsets = highest - lowest + 1;
        void.push(format!("{} publishes were answered with {offsets} offsets", answered - refused));
    }
    if closed > 0 {
        void.push(format!(
            "{closed} connections closed, the first with: {}",
            first(|outcome| outcome.closed_how.as_ref())
        ));
    }
    if answers == 0 {
        void.push("nothing was answered during the measurement".into());
    }
    let figures = Api {
        connections: args.connections,
        in_flight: args.in_flight,
        payload_bytes: args.payload_bytes,
        threads: shared.threads,
        sent,
        answered,
        refused,
        out_of_order,
        closed,
        publishes_per_second: answers as f64 / usage.seconds,
        server_cpu_us_per_publish: usage.server_cpu_us_per(answers as f64),
        latency_us: Distribution::of(&merge(outcomes.iter().map(|outcome| &outcome.latency))),
    };
    Report::new("api", shared.target.url.to_string(), figures, usage, void, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_whole() {
        let body = "{\"result\":{\"offset\":17,\"epoch\":\"abc\"}}";
        let one = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX: y\r\n\r\n{body}", body.len());
        let two = format!("{one}{one}");
        let answer = Answer { status: 200, offset: Some(17) };
        assert_eq!(Answer::first(two.as_bytes()), Ok(Some((answer, one.len()))));
        for cut in 0..one.len() {
            assert_eq!(Answer::first(&one.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        let answer = Answer { status: 503, offset: None };
        assert_eq!(Answer::first(refused), Ok(Some((answer, refused.len()))));
        for bad in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
            assert!(Answer::first(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
