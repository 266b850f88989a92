//! One thread of subscribers: receives, checks, enters in the books, and measures.
//!
//! The cost per delivery must be low and always the same, since it is paid on the machine under test: one receive
//! call per readiness, a walk over frame headers, 16 bytes read of each message. The whole payload is compared on
//! one connection in [`CHECK_EVERY`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::Shared;
use super::completion::Tally;
use crate::accounting::{Arrival, Ledger, Totals};
use crate::dialect::answers::{Answer, Ear};
use crate::dialect::greeting::Greeting;
use crate::dialect::text::{Decoder, Finder, Found};
use crate::distribution::{Latencies, latencies};
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::schedule::Schedule;
use crate::series::Recorder;
use crate::stamp::{PayloadKind, STAMP_BYTES, Stamp};
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// One connection in this many compares every byte.
const CHECK_EVERY: usize = 64;

/// What one thread tells the main thread while it runs. On a cache line of its own; only its thread writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// Connections that are ready.
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
    /// Receive time minus time of sending, per delivery; empty in a closed loop, where that is the latency.
    pub(super) service: Latencies,
    /// Receive time of the last subscriber minus due time, per message that this thread completed.
    pub(super) last: Latencies,
}

/// Runs the `thread`th of the plan's threads until the run is stopped.
pub(super) fn run(shared: &Shared, thread: usize, recorder: Recorder) -> Result<Outcome, Failure> {
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
                service: latencies(),
                last: latencies(),
            },
            message_done: false,
            recorder,
        },
        decoder: Decoder::default(),
        buffer: vec![0; RECEIVE_BYTES],
        opened: 0,
        calls: 0,
        bytes: 0,
    };
    let (mut dialled, mut announced, mut overdue_check) = (0, false, Instant::now());
    while !shared.control.stopped() {
        while dialled < ids.len() && ramp.allowed(poller.dialling()) > 0 {
            let topic = plan.topic_of_subscriber(ids[dialled]);
            poller.dial(dialled, &plan.subscriber_target(topic))?;
            ramp.count();
            dialled += 1;
        }
        if !announced && crew.opened == ids.len() {
            announced = true;
            shared.control.ready();
        }
        if !announced && overdue_check.elapsed() > Duration::from_millis(100) {
            overdue_check = Instant::now();
            crew.check_overdue(overdue_check)?;
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
    decoder: Decoder,
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

/// What a connection's messages are taken for.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// It is not ready yet: see `Link::greeting`.
    Greeting,
    /// Each message is a payload.
    Binary,
    /// Payloads lie anywhere in the messages.
    Text,
}

impl Stage {
    fn of(kind: PayloadKind) -> Self {
        match kind {
            PayloadKind::Binary => Self::Binary,
            PayloadKind::Text => Self::Text,
        }
    }
}

/// The message that is coming in on a connection.
struct Link {
    topic: u32,
    stage: Stage,
    /// Compares every byte.
    checked: bool,
    corrupt: bool,
    stamp: [u8; STAMP_BYTES],
    finder: Finder,
    ear: Ear,
    greeting: Option<Box<Greeting>>,
    /// Pongs and other answers to send.
    reply: Vec<u8>,
    /// How the server closed it.
    closed: Option<String>,
}

impl Subscriber {
    fn new(topic: usize, id: usize) -> Self {
        let link = Link {
            topic: topic as u32,
            stage: Stage::Greeting,
            checked: id.is_multiple_of(CHECK_EVERY),
            corrupt: false,
            stamp: [0; STAMP_BYTES],
            finder: Finder::default(),
            ear: Ear::default(),
            greeting: None,
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
    recorder: Recorder,
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let Subscriber { stream, link, .. } = &mut self.subscribers[token];
        *stream = Some(opened.stream);
        link.greeting = Greeting::begin(plan.subscriber_script(link.topic as usize), &mut link.reply);
        if link.greeting.is_none() {
            link.stage = Stage::of(plan.args.publish.payload);
            self.opened += 1;
        }
        self.walk(token, Bytes::Behind(&opened.rest))?;
        self.ready(token)
    }

    #[inline]
    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        while let Some(stream) = &mut self.subscribers[token].stream {
            match receive(stream, &mut self.buffer) {
                Received::Bytes { len, more } => {
                    self.calls += 1;
                    self.bytes += len as u64;
                    self.walk(token, Bytes::Received(len))?;
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how)?,
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
    fn walk(&mut self, token: usize, bytes: Bytes<'_>) -> Result<(), Failure> {
        let bytes = match bytes {
            Bytes::Received(len) => &self.buffer[..len],
            Bytes::Behind(bytes) => bytes,
        };
        let Subscriber { stream, walker, link } = &mut self.subscribers[token];
        let now_ns = self.shared.clock.now();
        if self.desk.recorder.is_over(now_ns) {
            let from_ns = self.shared.from_ns.load(Ordering::Relaxed);
            self.desk.recorder.turn(now_ns, from_ns, self.desk.ledger.totals().received);
        }
        let was_ready = link.stage != Stage::Greeting;
        let closed_loop = matches!(self.shared.plan.schedule, Schedule::Closed { .. });
        let topic = link.topic as usize;
        let clerk = Clerk { shared: self.shared, desk: &mut self.desk, topic, token, now_ns, closed_loop };
        let mut sink = Receipt { clerk, link, decoder: &mut self.decoder };
        let walked = walker.feed(bytes, &mut sink);
        if self.desk.message_done {
            self.desk.message_done = false;
            self.shared.completion.wake();
        }
        if !was_ready && link.stage != Stage::Greeting {
            self.opened += 1;
        }
        if !link.reply.is_empty() {
            let reply = std::mem::take(&mut link.reply);
            // Little is ever sent here, so the socket has room for it unless it has failed.
            if let Some(Err(error)) = stream.as_mut().map(|stream| std::io::Write::write_all(stream, &reply))
            {
                link.closed.get_or_insert(format!("cannot send a greeting or a pong: {error}"));
            }
        }
        if let Err(violation) = walked {
            link.closed.get_or_insert(violation.into());
        }
        match link.closed.take() {
            Some(how) => self.end(token, how),
            None => Ok(()),
        }
    }

    /// A connection has ended: a failure while messages have yet to be published, a matter of the verdict later.
    #[cold]
    fn end(&mut self, token: usize, how: String) -> Result<(), Failure> {
        let Subscriber { stream, link, .. } = &mut self.subscribers[token];
        *stream = None;
        if self.shared.start_ns.load(Ordering::Acquire) == 0 {
            let how = link.greeting.as_ref().map_or(how.clone(), |greeting| greeting.cut_short(&how));
            return Err(self.refused(token, format!("a subscriber was closed: {how}")));
        }
        self.desk.outcome.closed += 1;
        self.desk.outcome.closed_how.get_or_insert(how);
        Ok(())
    }

    fn refused(&self, token: usize, how: String) -> Failure {
        let plan = &self.shared.plan;
        let topic = self.subscribers[token].link.topic as usize;
        Failure::Refused { url: plan.target.url_of(&plan.subscriber_target(topic)), how }
    }

    /// Fails if a connection is not ready in time.
    fn check_overdue(&self, now: Instant) -> Result<(), Failure> {
        let limit = self.shared.plan.target.timeout;
        let greetings = self.subscribers.iter().map(|subscriber| subscriber.link.greeting.as_ref());
        let overdue =
            greetings.enumerate().find_map(|(token, greeting)| Some((token, greeting?.overdue(now, limit)?)));
        overdue.map_or(Ok(()), |(token, how)| Err(self.refused(token, how)))
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
        let received = self.desk.ledger.totals().received;
        for (index, subscriber) in self.subscribers.iter().enumerate() {
            for publisher in plan.publishers_of(subscriber.link.topic as usize) {
                let published = self.shared.published[publisher].load(Ordering::Relaxed);
                self.desk.ledger.close(plan.pair(index, publisher), published);
            }
        }
        let Desk { ledger, mut outcome, recorder, .. } = self.desk;
        recorder.finish(received);
        outcome.totals = ledger.totals();
        outcome
    }
}

/// Takes the messages of one receive call.
struct Receipt<'a> {
    clerk: Clerk<'a>,
    link: &'a mut Link,
    decoder: &'a mut Decoder,
}

/// Enters them in the books.
struct Clerk<'a> {
    shared: &'a Shared,
    desk: &'a mut Desk,
    topic: usize,
    token: usize,
    now_ns: u64,
    closed_loop: bool,
}

impl Sink for Receipt<'_> {
    #[inline]
    fn data(&mut self, at: u64, bytes: &[u8], end: bool) {
        match self.link.stage {
            Stage::Binary => match bytes.first_chunk() {
                Some(stamp) if at == 0 && end && !self.link.checked => {
                    let len = bytes.len();
                    if len == self.clerk.shared.pattern.payload_bytes() {
                        self.clerk.message(Stamp::decode(stamp));
                    } else {
                        self.foreign(bytes, true);
                    }
                }
                _ => self.piece(at, bytes, end),
            },
            Stage::Text => self.text(bytes, end),
            Stage::Greeting => self.greet(bytes, end),
        }
    }

    #[cold]
    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => {
                self.clerk.desk.outcome.pings += 1;
                append_frame(&mut self.link.reply, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]);
            }
            Opcode::Close => {
                self.link.closed.get_or_insert_with(|| close_text(payload));
            }
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}

impl Receipt<'_> {
    /// A piece of a binary message that is cut, or whose bytes are to be compared.
    #[inline(never)]
    fn piece(&mut self, at: u64, bytes: &[u8], end: bool) {
        let Self { clerk, link, .. } = self;
        let pattern = &clerk.shared.pattern;
        let (mut rest, len) = (bytes, at + bytes.len() as u64);
        let mut at = at as usize;
        if at < STAMP_BYTES {
            let (stamp, behind) = rest.split_at(rest.len().min(STAMP_BYTES - at));
            link.stamp[at..at + stamp.len()].copy_from_slice(stamp);
            at += stamp.len();
            rest = behind;
        }
        let stamp = Stamp::decode(&link.stamp);
        if link.checked && !rest.is_empty() && len <= pattern.payload_bytes() as u64 {
            let want = pattern.expect(stamp.publisher, stamp.sequence, at..at + rest.len());
            link.corrupt |= rest != want;
        }
        if end && len == pattern.payload_bytes() as u64 {
            clerk.desk.outcome.corrupt += u64::from(std::mem::take(&mut link.corrupt));
            link.ear = Ear::default();
            clerk.message(stamp);
        } else {
            self.foreign(bytes, end);
        }
    }

    /// A piece of a message that is no payload, as far as can be told: a heartbeat, or a mistake.
    #[cold]
    fn foreign(&mut self, bytes: &[u8], end: bool) {
        let answers = &self.clerk.shared.plan.args.dialect.answer;
        let heard = self.link.ear.hear(answers, bytes, end, &mut self.link.reply);
        self.clerk.desk.outcome.pings += heard;
        if end {
            self.link.corrupt = false;
            self.clerk.desk.outcome.corrupt += u64::from(heard == 0);
        }
    }

    /// A piece of a message in which payloads may lie. Out of line, so that binary messages have a short way.
    #[inline(never)]
    fn text(&mut self, bytes: &[u8], end: bool) {
        let Self { clerk, link, decoder } = self;
        let Link { finder, ear, reply, checked, .. } = &mut **link;
        let (shared, answers): (_, &[Answer]) = (clerk.shared, &clerk.shared.plan.args.dialect.answer);
        finder.feed(decoder, &shared.pattern, *checked, bytes, |found| match found {
            Found::Payload { stamp, intact } => {
                ear.spoil();
                clerk.desk.outcome.corrupt += u64::from(!intact);
                if let Some(stamp) = stamp {
                    clerk.message(stamp);
                }
            }
            Found::Wrapping(bytes) if !answers.is_empty() => {
                clerk.desk.outcome.pings += ear.hear(answers, bytes, false, reply);
            }
            Found::Wrapping(_) => {}
        });
        if end && !answers.is_empty() {
            clerk.desk.outcome.pings += ear.end(answers, reply);
        }
    }

    /// A piece of a message that comes before the connection is ready.
    #[cold]
    fn greet(&mut self, bytes: &[u8], end: bool) {
        let plan = &self.clerk.shared.plan;
        let Link { greeting, ear, reply, stage, .. } = &mut *self.link;
        self.clerk.desk.outcome.pings += ear.hear(&plan.args.dialect.answer, bytes, end, reply);
        if greeting.as_mut().is_none_or(|greeting| greeting.hear(bytes, end, reply)) {
            *greeting = None;
            *stage = Stage::of(plan.args.publish.payload);
        }
    }
}

impl Clerk<'_> {
    /// A message is complete.
    #[inline]
    fn message(&mut self, stamp: Stamp) {
        let (plan, publisher) = (&self.shared.plan, usize::from(stamp.publisher));
        let known = publisher < plan.publishers && plan.topic_of_publisher(publisher) == self.topic;
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
            self.desk.recorder.record(latency_ns);
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
