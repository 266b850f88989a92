//! `echo`: every connection keeps some messages under way and compares every byte that comes back.
//!
//! Closed loop: a message goes out when one has returned. Each thread sends and receives for its own connections.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use serde::Serialize;

use crate::cli::EchoArgs;
use crate::client::Target;
use crate::distribution::{Distribution, Latencies, latencies, merge};
use crate::failure::Failure;
use crate::harness::{Control, LiveRate, LiveServer, PATIENCE, Screen, nothing};
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::proc::ensure_files;
use crate::report::{Figures, Report, Usage, Watch, bytes, quantity};
use crate::stamp::{Clock, Pattern, PayloadKind, STAMP_BYTES, Stamp, nanos};
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// What all threads of a run see.
struct Shared {
    args: EchoArgs,
    target: Target,
    threads: usize,
    clock: Clock,
    pattern: Pattern,
    control: Control,
    watch: Watch,
    counters: Vec<Counters>,
    /// Connections may send.
    go: AtomicBool,
    /// No more is to be sent.
    over: AtomicBool,
    /// Messages sent from here …
    from_ns: AtomicU64,
    /// … until here are measured.
    until_ns: AtomicU64,
}

/// What a thread tells the main thread while it runs. Only its thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    opened: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    calls: AtomicU64,
}

impl Shared {
    fn sum(&self, of: fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
    }
}

/// What a thread found out.
struct Outcome {
    latency: Latencies,
    /// Messages that came back with other bytes, or in another order.
    corrupt: u64,
    closed: u64,
    closed_how: Option<String>,
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &EchoArgs, screen: &Screen) -> Result<Report<Echo>, Failure> {
    let connections = args.connections as usize;
    ensure_files(connections)?;
    let threads = args.common.threads(connections);
    let shared = &Shared {
        target: args.common.target()?,
        threads,
        clock: Clock::start(),
        pattern: Pattern::new(PayloadKind::Binary, args.payload_bytes as usize),
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        counters: (0..threads).map(|_| Counters::default()).collect(),
        go: AtomicBool::new(false),
        over: AtomicBool::new(false),
        from_ns: AtomicU64::new(u64::MAX),
        until_ns: AtomicU64::new(u64::MAX),
        args: args.clone(),
    };
    let (measured, outcomes) = std::thread::scope(|scope| {
        let echoing: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || shared.control.guard(echo(shared, thread))))
            .collect();
        let measured = shared.control.guard(phases(shared, screen));
        shared.control.stop();
        let outcomes: Option<Vec<_>> =
            echoing.into_iter().map(|thread| thread.join().expect("an echoing thread panicked")).collect();
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
    messages: u64,
    calls: u64,
}

fn phases(shared: &Shared, screen: &Screen) -> Result<Measured, Failure> {
    let (args, control) = (&shared.args, &shared.control);
    screen.phase("connect", u64::from(args.connections));
    let opened =
        || (control.ready_threads() < shared.threads).then(|| shared.sum(|counters| &counters.opened));
    screen.wait(control, None, opened, nothing);
    let from_ns = shared.clock.now() + nanos(args.warm_up);
    shared.from_ns.store(from_ns, Ordering::Release);
    shared.until_ns.store(from_ns + nanos(args.duration), Ordering::Release);
    shared.go.store(true, Ordering::Release);
    let (mut live, mut server) = (LiveRate::new(), LiveServer::new(&shared.watch));
    let received = || shared.sum(|counters| &counters.received);
    let mut lines = || {
        let mut lines = vec![("messages", format!("{}/s", quantity(live.update(received()))))];
        server.append(&mut lines);
        lines
    };
    screen.wait_for(control, "warm up", args.warm_up, &mut lines);
    let (sample, messages, calls) =
        (shared.watch.sample()?, received(), shared.sum(|counters| &counters.calls));
    screen.wait_for(control, "measure", args.duration, &mut lines);
    let (end_sample, end_messages) = (shared.watch.sample()?, received());
    let end_calls = shared.sum(|counters| &counters.calls);
    shared.over.store(true, Ordering::Release);

    screen.phase("drain", 1);
    // Threads look at `over` between turns; what they send until then is drained as well.
    std::thread::sleep(2 * PATIENCE);
    let under_way = || shared.sum(|counters| &counters.sent).saturating_sub(received());
    screen.wait(
        control,
        Some(Instant::now() + args.drain_timeout),
        || (under_way() > 0).then_some(0),
        || vec![("messages", format!("{} under way", under_way()))],
    );
    Ok(Measured {
        usage: shared.watch.between(&sample, &end_sample),
        messages: end_messages - messages,
        calls: end_calls - calls,
    })
}

/// One thread: opens its share of the connections and echoes until the run is stopped.
fn echo(shared: &Shared, thread: usize) -> Result<Outcome, Failure> {
    shared.args.common.pin_thread(thread)?;
    shared.watch.enrol(format!("echo {thread}"));
    let ids: Vec<u32> = (thread as u32..shared.args.connections).step_by(shared.threads).collect();
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = shared.args.common.ramp(shared.threads);
    let mut crew = Crew {
        shared,
        connections: ids.iter().map(|id| Connection::new(*id as u16)).collect(),
        buffer: vec![0; RECEIVE_BYTES],
        going: false,
        over: false,
        opened: 0,
        sent: 0,
        received: 0,
        calls: 0,
        outcome: Outcome { latency: latencies(), corrupt: 0, closed: 0, closed_how: None },
    };
    let request_target = shared.args.common.address.topic(0, 1).request_target(&shared.target.url, "");
    let (mut dialled, mut announced) = (0, false);
    while !shared.control.stopped() {
        while dialled < ids.len() && ramp.allowed(poller.dialling()) > 0 {
            poller.dial(dialled, &request_target)?;
            ramp.count();
            dialled += 1;
        }
        if !announced && crew.opened == ids.len() {
            announced = true;
            shared.control.ready();
        }
        if !crew.going && shared.go.load(Ordering::Acquire) {
            crew.going = true;
            (0..ids.len()).for_each(|token| crew.pump(token));
        }
        crew.over = shared.over.load(Ordering::Acquire);
        let patience = if dialled < ids.len() { Duration::from_millis(1) } else { PATIENCE };
        poller.turn(&mut crew, patience)?;
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
    received: u64,
    calls: u64,
    outcome: Outcome,
}

/// One connection, and the message that is coming in on it.
struct Connection {
    stream: Option<TcpStream>,
    walker: Walker,
    /// Frames, of which `written` bytes are with the kernel.
    out: Vec<u8>,
    written: usize,
    publisher: u16,
    sent: u32,
    received: u32,
    stamp: [u8; STAMP_BYTES],
    corrupt: bool,
}

impl Connection {
    fn new(publisher: u16) -> Self {
        Self {
            stream: None,
            walker: Walker::default(),
            out: Vec::new(),
            written: 0,
            publisher,
            sent: 0,
            received: 0,
            stamp: [0; STAMP_BYTES],
            corrupt: false,
        }
    }
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        self.opened += 1;
        self.connections[token].stream = Some(opened.stream);
        self.walk(token, &opened.rest);
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = &mut self.connections[token].stream {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.calls += 1;
                    self.walk(token, &buffer[..len]);
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
    fn walk(&mut self, token: usize, bytes: &[u8]) {
        let Connection { walker, out, publisher, received, stamp, corrupt, .. } =
            &mut self.connections[token];
        let before = *received;
        let mut sink = Receipt {
            shared: self.shared,
            outcome: &mut self.outcome,
            now_ns: self.shared.clock.now(),
            out,
            publisher: *publisher,
            received,
            stamp,
            corrupt,
            closed: None,
        };
        let walked = walker.feed(bytes, &mut sink);
        let closed = sink.closed.or(walked.err().map(String::from));
        self.received += u64::from(self.connections[token].received - before);
        if let Some(how) = closed {
            self.end(token, how);
        }
    }

    /// Keeps `--in-flight` messages under way on a connection.
    fn pump(&mut self, token: usize) {
        let (shared, connection) = (self.shared, &mut self.connections[token]);
        let Some(stream) = &mut connection.stream else { return };
        let more = self.going && !self.over;
        while more && connection.sent.wrapping_sub(connection.received) < shared.args.in_flight {
            let (publisher, sequence) = (connection.publisher, connection.sent);
            let stamp = Stamp { due_ns: shared.clock.now(), publisher, sequence, late_us: 0 };
            let key = fastrand::u32(..).to_ne_bytes();
            append_frame(&mut connection.out, Opcode::Binary, key, &shared.pattern.payload(stamp).parts());
            connection.sent = connection.sent.wrapping_add(1);
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
        counters.received.store(self.received, Ordering::Relaxed);
        counters.calls.store(self.calls, Ordering::Relaxed);
    }
}

/// Takes the messages of one receive call.
struct Receipt<'a> {
    shared: &'a Shared,
    outcome: &'a mut Outcome,
    now_ns: u64,
    out: &'a mut Vec<u8>,
    publisher: u16,
    received: &'a mut u32,
    stamp: &'a mut [u8; STAMP_BYTES],
    corrupt: &'a mut bool,
    closed: Option<String>,
}

impl Sink for Receipt<'_> {
    fn data(&mut self, at: u64, mut bytes: &[u8], end: bool) {
        let len = at + bytes.len() as u64;
        let mut at = at as usize;
        if at < STAMP_BYTES {
            let (stamp, rest) = bytes.split_at(bytes.len().min(STAMP_BYTES - at));
            self.stamp[at..at + stamp.len()].copy_from_slice(stamp);
            at += stamp.len();
            bytes = rest;
        }
        let pattern = &self.shared.pattern;
        if len > pattern.payload_bytes() as u64 {
            *self.corrupt = true;
        } else if at >= STAMP_BYTES {
            *self.corrupt |= bytes != pattern.expect(self.publisher, *self.received, at..at + bytes.len());
        }
        if end {
            let stamp = Stamp::decode(self.stamp);
            let good = !std::mem::take(self.corrupt)
                && len == pattern.payload_bytes() as u64
                && stamp.publisher == self.publisher
                && stamp.sequence == *self.received;
            self.outcome.corrupt += u64::from(!good);
            *self.received = self.received.wrapping_add(1);
            let (from, until) = (&self.shared.from_ns, &self.shared.until_ns);
            if good
                && stamp.due_ns >= from.load(Ordering::Relaxed)
                && stamp.due_ns < until.load(Ordering::Relaxed)
            {
                self.outcome.latency.saturating_record(self.now_ns.saturating_sub(stamp.due_ns).max(1));
            }
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => append_frame(self.out, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]),
            Opcode::Close => self.closed = Some(close_text(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Echo {
    connections: u32,
    in_flight: u32,
    payload_bytes: u32,
    threads: usize,
    sent: u64,
    received: u64,
    corrupt: u64,
    closed: u64,
    messages_per_second: f64,
    server_cpu_us_per_message: Option<f64>,
    latency_us: Distribution,
    messages_per_receive_call: f64,
}

impl Figures for Echo {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            (
                "load",
                format!(
                    "{} connections, {} messages under way on each, {} B",
                    self.connections, self.in_flight, self.payload_bytes
                ),
            ),
            (
                "messages",
                format!(
                    "{}/s, {}/s of payload each way",
                    quantity(self.messages_per_second),
                    bytes(self.messages_per_second * f64::from(self.payload_bytes))
                ),
            ),
        ];
        if let Some(us) = self.server_cpu_us_per_message {
            lines.push(("server CPU", format!("{us:.3} µs per message")));
        }
        lines.extend([
            ("latency", self.latency_us.text()),
            ("receive calls", format!("{:.2} messages each", self.messages_per_receive_call)),
            (
                "accounts",
                format!(
                    "{} sent, {} received, {} corrupt, {} closed",
                    self.sent, self.received, self.corrupt, self.closed
                ),
            ),
        ]);
        lines
    }
}

fn report(shared: &Shared, measured: Measured, outcomes: &[Outcome]) -> Report<Echo> {
    let (args, Measured { usage, messages, calls }) = (&shared.args, measured);
    let (sent, received) = (shared.sum(|counters| &counters.sent), shared.sum(|counters| &counters.received));
    let corrupt = outcomes.iter().map(|outcome| outcome.corrupt).sum();
    let closed = outcomes.iter().map(|outcome| outcome.closed).sum();
    let mut void = Vec::new();
    if sent != received {
        void.push(format!("{sent} messages were sent and {received} came back"));
    }
    if corrupt > 0 {
        void.push(format!("{corrupt} messages came back with other bytes or in another order"));
    }
    if closed > 0 {
        let how = outcomes.iter().find_map(|outcome| outcome.closed_how.as_deref());
        void.push(format!("{closed} connections closed, the first with: {}", how.unwrap_or("unknown")));
    }
    if messages == 0 {
        void.push("nothing came back during the measurement".into());
    }
    let figures = Echo {
        connections: args.connections,
        in_flight: args.in_flight,
        payload_bytes: args.payload_bytes,
        threads: shared.threads,
        sent,
        received,
        corrupt,
        closed,
        messages_per_second: messages as f64 / usage.seconds,
        server_cpu_us_per_message: usage.server_cpu_us_per(messages as f64),
        latency_us: Distribution::of(&merge(outcomes.iter().map(|outcome| &outcome.latency))),
        messages_per_receive_call: messages as f64 / (calls as f64).max(1.0),
    };
    Report::new("echo", shared.target.url.to_string(), figures, usage, void, Vec::new())
}
