//! One thread of subscribers: receives, checks, enters in the books, and measures.
//!
//! The cost per delivery must be low and always the same, since it is paid on the machine under test: one receive
//! call per readiness, a walk over frame headers, 16 bytes read of each message. The whole payload is compared on
//! one connection in [`CHECK_EVERY`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mio::net::TcpStream;

use super::Shared;
use super::completion::Tally;
use crate::accounting::{Arrival, Ledger, Totals};
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::report::{Latencies, latencies};
use crate::schedule::Schedule;
use crate::stamp::{STAMP_BYTES, Stamp};
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// One connection in this many compares every byte.
const CHECK_EVERY: usize = 64;

/// What one thread tells the main thread while it runs. On a cache line of its own; only its thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Connections that have been opened.
    pub(super) opened: AtomicU64,
    /// Distinct messages received.
    pub(super) received: AtomicU64,
    /// Messages missing so far.
    pub(super) lost: AtomicU64,
    /// Receive calls that returned bytes.
    pub(super) calls: AtomicU64,
    /// Bytes received.
    pub(super) bytes: AtomicU64,
}

/// What one thread found out.
pub(super) struct Outcome {
    pub(super) totals: Totals,
    /// Messages whose bytes are not those published.
    pub(super) corrupt: u64,
    /// Connections closed by the server, and how the first one was.
    pub(super) closed: u64,
    pub(super) closed_how: Option<String>,
    pub(super) pings: u64,
    /// Receive time minus due time, per delivery.
    pub(super) latency: Latencies,
    /// Receive time minus time of sending, per delivery; empty in a closed loop, where that is `latency`.
    pub(super) service: Latencies,
    /// Receive time of the last subscriber minus due time, per message that this thread completed.
    pub(super) last: Latencies,
}

/// Runs the `thread`th of the plan's threads until the run is stopped.
pub(super) fn run(shared: &Shared, thread: usize) -> Result<Outcome, Failure> {
    let plan = &shared.plan;
    plan.args.common.pin_thread(thread)?;
    shared.watch.enrol(format!("receive {thread}"));
    let ids: Vec<usize> = plan.subscribers_of(thread).collect();
    let mut per_topic = vec![0; plan.topics];
    for id in &ids {
        per_topic[plan.topic_of_subscriber(*id)] += 1;
    }
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = plan.args.common.ramp(plan.threads);
    let mut crew = Crew {
        shared,
        thread,
        subscribers: ids.iter().map(|id| Subscriber::new(plan.topic_of_subscriber(*id), *id)).collect(),
        desk: Desk {
            ledger: Ledger::new(ids.len() * plan.publishers_per_topic_max),
            tally: Tally::new(plan.publishers, plan.window, per_topic),
            outcome: Outcome {
                totals: Totals::default(),
                corrupt: 0,
                closed: 0,
                closed_how: None,
                pings: 0,
                latency: latencies(),
                service: latencies(),
                last: latencies(),
            },
            message_done: false,
        },
        buffer: vec![0; RECEIVE_BYTES],
        opened: 0,
        calls: 0,
        bytes: 0,
    };
    let (mut dialled, mut announced) = (0, false);
    while !shared.control.stopped() {
        while dialled < ids.len() && ramp.allowed(poller.dialling()) > 0 {
            let topic = plan.topic_of_subscriber(ids[dialled]);
            poller.dial(dialled, &plan.request_target(topic, &plan.args.subscriber_query))?;
            ramp.count();
            dialled += 1;
        }
        if !announced && crew.opened == ids.len() {
            announced = true;
            shared.control.ready();
        }
        let patience = if dialled < ids.len() { Duration::from_millis(1) } else { PATIENCE };
        poller.turn(&mut crew, patience)?;
        crew.show();
    }
    Ok(crew.close())
}

/// A thread's subscribers and all that they share.
struct Crew<'a> {
    shared: &'a Shared,
    thread: usize,
    subscribers: Vec<Subscriber>,
    desk: Desk,
    buffer: Vec<u8>,
    opened: usize,
    calls: u64,
    bytes: u64,
}

/// One subscription; its books are in the desk's ledger.
struct Subscriber {
    stream: Option<TcpStream>,
    walker: Walker,
    link: Link,
}

/// The message that is coming in on a connection.
struct Link {
    topic: u32,
    /// Compares every byte.
    checked: bool,
    corrupt: bool,
    stamp: [u8; STAMP_BYTES],
    /// Pongs to send.
    reply: Vec<u8>,
    /// How the server closed it.
    closed: Option<String>,
}

impl Subscriber {
    fn new(topic: usize, id: usize) -> Self {
        let link = Link {
            topic: topic as u32,
            checked: id.is_multiple_of(CHECK_EVERY),
            corrupt: false,
            stamp: [0; STAMP_BYTES],
            reply: Vec::new(),
            closed: None,
        };
        Self { stream: None, walker: Walker::default(), link }
    }
}

/// Books and measurements of a thread.
struct Desk {
    ledger: Ledger,
    tally: Tally,
    outcome: Outcome,
    /// A message has reached its last subscriber, and the publishers do not know yet.
    message_done: bool,
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        self.opened += 1;
        self.subscribers[token].stream = Some(opened.stream);
        self.walk(token, Bytes::Behind(&opened.rest));
        self.ready(token)
    }

    #[inline]
    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        while let Some(stream) = &mut self.subscribers[token].stream {
            match receive(stream, &mut self.buffer) {
                Received::Bytes { len, more } => {
                    self.calls += 1;
                    self.bytes += len as u64;
                    self.walk(token, Bytes::Received(len));
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how),
            }
        }
        Ok(())
    }
}

/// Which bytes to walk over.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    /// So many at the front of the thread's buffer.
    Received(usize),
    /// Those that came behind a response head.
    Behind(&'a [u8]),
}

impl Crew<'_> {
    #[inline]
    fn walk(&mut self, token: usize, bytes: Bytes<'_>) {
        let bytes = match bytes {
            Bytes::Received(len) => &self.buffer[..len],
            Bytes::Behind(bytes) => bytes,
        };
        let Subscriber { stream, walker, link } = &mut self.subscribers[token];
        let now_ns = self.shared.clock.now();
        let closed_loop = matches!(self.shared.plan.schedule, Schedule::Closed { .. });
        let mut sink =
            Receipt { shared: self.shared, desk: &mut self.desk, link, token, now_ns, closed_loop };
        let walked = walker.feed(bytes, &mut sink);
        if self.desk.message_done {
            self.desk.message_done = false;
            self.shared.completion.wake();
        }
        if !link.reply.is_empty() {
            let pongs = std::mem::take(&mut link.reply);
            // Nothing else is ever sent here, so the socket has room for a pong unless it has failed.
            if let Some(Err(error)) = stream.as_mut().map(|stream| std::io::Write::write_all(stream, &pongs))
            {
                link.closed.get_or_insert(format!("cannot answer a ping: {error}"));
            }
        }
        if let Err(violation) = walked {
            link.closed.get_or_insert(format!("the server broke the protocol: {violation}"));
        }
        if let Some(how) = link.closed.take() {
            self.end(token, how);
        }
    }

    #[cold]
    fn end(&mut self, token: usize, how: String) {
        self.subscribers[token].stream = None;
        self.desk.outcome.closed += 1;
        self.desk.outcome.closed_how.get_or_insert(how);
    }

    /// Tells the main thread.
    fn show(&self) {
        let counters = &self.shared.counters[self.thread];
        let totals = self.desk.ledger.totals();
        counters.opened.store(self.opened as u64, Ordering::Relaxed);
        counters.received.store(totals.received, Ordering::Relaxed);
        counters.lost.store(totals.lost, Ordering::Relaxed);
        counters.calls.store(self.calls, Ordering::Relaxed);
        counters.bytes.store(self.bytes, Ordering::Relaxed);
    }

    /// Closes the books.
    fn close(mut self) -> Outcome {
        let plan = &self.shared.plan;
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            for publisher in plan.publishers_of(subscriber.link.topic as usize) {
                let published = self.shared.published[publisher].load(Ordering::Relaxed);
                self.desk.ledger.close(plan.pair(index, publisher), published);
            }
        }
        self.desk.outcome.totals = self.desk.ledger.totals();
        self.desk.outcome
    }
}

/// Takes the messages of one receive call.
struct Receipt<'a> {
    shared: &'a Shared,
    desk: &'a mut Desk,
    link: &'a mut Link,
    token: usize,
    now_ns: u64,
    closed_loop: bool,
}

impl Sink for Receipt<'_> {
    #[inline]
    fn data(&mut self, at: u64, bytes: &[u8], end: bool) {
        let whole = at == 0 && end;
        match bytes.first_chunk() {
            Some(stamp) if whole && !self.link.checked => {
                self.message(Stamp::decode(stamp), bytes.len() as u64);
            }
            _ => self.piece(at, bytes, end),
        }
    }

    #[cold]
    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => {
                self.desk.outcome.pings += 1;
                append_frame(&mut self.link.reply, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]);
            }
            Opcode::Close => {
                self.link.closed.get_or_insert_with(|| close_text(payload));
            }
            Opcode::Binary | Opcode::Pong => {}
        }
    }
}

impl Receipt<'_> {
    /// A piece of a message that is cut, or whose bytes are to be compared.
    fn piece(&mut self, at: u64, mut bytes: &[u8], end: bool) {
        let len = at + bytes.len() as u64;
        let mut at = at as usize;
        if at < STAMP_BYTES {
            let (stamp, rest) = bytes.split_at(bytes.len().min(STAMP_BYTES - at));
            self.link.stamp[at..at + stamp.len()].copy_from_slice(stamp);
            at += stamp.len();
            bytes = rest;
        }
        let stamp = Stamp::decode(&self.link.stamp);
        let pattern = &self.shared.pattern;
        if self.link.checked && !bytes.is_empty() && len <= pattern.payload_bytes() as u64 {
            let want = pattern.expect(stamp.publisher, stamp.sequence, at..at + bytes.len());
            self.link.corrupt |= bytes != want;
        }
        if end {
            if std::mem::take(&mut self.link.corrupt) {
                self.desk.outcome.corrupt += 1;
            }
            self.message(stamp, len);
        }
    }

    /// A message is complete.
    #[inline]
    fn message(&mut self, stamp: Stamp, len: u64) {
        let (plan, publisher) = (&self.shared.plan, usize::from(stamp.publisher));
        let known = len == self.shared.pattern.payload_bytes() as u64
            && publisher < plan.publishers
            && plan.topic_of_publisher(publisher) == self.link.topic as usize;
        if !known {
            self.desk.outcome.corrupt += 1;
            return;
        }
        let pair = plan.pair(self.token, publisher);
        // A sequence that was never published would make every message before it count as lost.
        if stamp.sequence > self.desk.ledger.next(pair)
            && stamp.sequence >= self.shared.published[publisher].load(Ordering::Acquire)
        {
            self.desk.outcome.corrupt += 1;
            return;
        }
        if self.desk.ledger.receive(pair, stamp.sequence) == Arrival::Repeated {
            return;
        }
        let measured = self.shared.measured(stamp.due_ns);
        let latency_ns = self.now_ns.saturating_sub(stamp.due_ns).max(1);
        if measured {
            self.desk.outcome.latency.saturating_record(latency_ns);
            if !self.closed_loop {
                let service_ns = self.now_ns.saturating_sub(stamp.sent_ns()).max(1);
                self.desk.outcome.service.saturating_record(service_ns);
            }
        }
        if self.desk.tally.receive(publisher, stamp.sequence)
            && self.shared.completion.share_done(publisher, stamp.sequence)
        {
            self.desk.message_done = true;
            if measured {
                self.desk.outcome.last.saturating_record(latency_ns);
            }
        }
    }
}
