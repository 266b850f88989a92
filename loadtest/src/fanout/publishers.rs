//! The thread that publishes: keeps to the schedule, whatever the subscribers' threads are busy with.
//!
//! Publishers speak WebSocket, or HTTP (see `post`) with `--publish-http`. Message `n` of the run goes to publisher
//! `n` modulo their number. A publisher whose socket is full owes its messages: in the open loop they stay due when
//! they were due, and go out as soon as the server reads on. One whose server ends its HTTP connections (see `post`)
//! dials again when it has something to send.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::post::{Ended, Post};
use super::publisher::{Connection, Publisher, Replies};
use crate::dialect::greeting::Greeting;
use crate::dialect::template::Wrap;
use crate::distribution::{Latencies, latencies};
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, Received, receive};
use crate::schedule::{Schedule, Timer};
use crate::stamp::{Stamp, nanos};
use crate::wire::{Opcode, append_frame};

/// What the publishing thread found out.
pub(super) struct Outcome {
    /// Messages published in all, warm-up included.
    pub(super) published: u64,
    /// Messages due by the end of the measurement that the server's back-pressure kept from being sent.
    pub(super) unsent: Vec<Unsent>,
    /// Messages whose last receipt was not waited for any longer.
    pub(super) given_up: u64,
    /// Messages that a publisher's connection received.
    pub(super) received: u64,
    /// Connections opened anew after the server had ended one.
    pub(super) reconnects: u64,
    /// Requests that went out once more on such a connection.
    pub(super) resent: u64,
    /// How the server closed a publisher's connection.
    pub(super) closed_how: Option<String>,
    /// Nothing was received for `--drain-timeout`, though messages were under way.
    pub(super) stalled: bool,
    /// Time of sending minus due time, per message of the measurement.
    pub(super) late: Latencies,
    /// Times for which messages of the measurement had been waited for when they were given up.
    pub(super) given_up_after: Latencies,
}

/// A message that was not sent.
pub(super) struct Unsent {
    /// When it should have been, on the run's clock.
    pub(super) due_ns: u64,
    /// Subscribers that would have received it.
    pub(super) subscribers: u64,
}

/// Runs until the run is stopped.
pub(super) fn run(shared: &Shared) -> Result<Outcome, Failure> {
    let plan = &shared.plan;
    plan.args.common.pin_thread(plan.threads)?;
    shared.watch.enrol("publish");
    let mut poller = Poller::new(plan.publisher_target.clone())?;
    shared.completion.set_waker(poller.waker()?);
    let mut timer = Timer::new().map_err(Failure::system("cannot create a timer"))?;
    poller.wake_on(&mut timer)?;
    let mut desk = Desk {
        shared,
        publishers: (0..plan.publishers).map(|_| Publisher::default()).collect(),
        forms: (0..plan.topics).map(|topic| Form::new(shared, topic)).collect::<Result<_, _>>()?,
        opened: 0,
        redials: Vec::new(),
        buffer: vec![0; 16 * 1024],
        start_ns: 0,
        outcome: Outcome {
            published: 0,
            unsent: Vec::new(),
            given_up: 0,
            received: 0,
            reconnects: 0,
            resent: 0,
            closed_how: None,
            stalled: false,
            late: latencies(),
            given_up_after: latencies(),
        },
    };
    desk.open_all(&mut poller)?;
    desk.publish(&mut poller, &timer)?;
    while !shared.control.stopped() {
        desk.turn(&mut poller, PATIENCE)?;
    }
    Ok(desk.outcome)
}

/// All publishers.
struct Desk<'a> {
    shared: &'a Shared,
    publishers: Vec<Publisher>,
    /// One per topic.
    forms: Vec<Form>,
    opened: usize,
    /// Publishers that need another connection.
    redials: Vec<usize>,
    buffer: Vec<u8>,
    start_ns: u64,
    outcome: Outcome,
}

/// What a message looks like on its way to the server.
enum Form {
    /// A WebSocket message.
    Frame(Opcode, Wrap),
    /// An HTTP request.
    Post(Box<Post>),
}

impl Form {
    fn new(shared: &Shared, topic: usize) -> Result<Self, Failure> {
        let (plan, publish) = (&shared.plan, &shared.plan.args.publish);
        if plan.by_post {
            return Ok(Self::Post(Box::new(Post::new(plan, topic)?)));
        }
        let name = plan.topic(topic).name;
        Ok(Self::Frame(publish.opcode(), publish.wrap(&name, plan.args.payload_bytes as usize)))
    }
}

impl Desk<'_> {
    fn open_all(&mut self, poller: &mut Poller) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let mut ramp = plan.args.common.ramp(1);
        let (mut dialled, mut overdue_check) = (0, Instant::now());
        while self.opened < plan.publishers && !self.shared.control.stopped() {
            while dialled < plan.publishers && ramp.allowed(poller.dialling()) > 0 {
                if plan.by_post {
                    poller.dial_plain(dialled)?;
                } else {
                    poller.dial(dialled, &plan.publisher_target_of(dialled))?;
                }
                ramp.count();
                dialled += 1;
            }
            self.turn(poller, Duration::from_millis(1))?;
            if overdue_check.elapsed() > Duration::from_millis(100) {
                overdue_check = Instant::now();
                self.check_overdue(overdue_check)?;
            }
        }
        self.shared.control.ready();
        while self.shared.start_ns.load(Ordering::Acquire) == 0 && !self.shared.control.stopped() {
            self.turn(poller, Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Dials for those that need it, and waits for events, at most `timeout`.
    fn turn(&mut self, poller: &mut Poller, timeout: Duration) -> Result<(), Failure> {
        for index in self.redials.drain(..) {
            poller.dial_plain(index)?;
            self.outcome.reconnects += 1;
        }
        poller.turn(self, timeout)
    }

    /// Releases messages as the schedule says, until the measurement is over or nothing can move any more.
    fn publish(&mut self, poller: &mut Poller, timer: &Timer) -> Result<(), Failure> {
        let (shared, plan) = (self.shared, &self.shared.plan);
        self.start_ns = shared.start_ns.load(Ordering::Acquire);
        let until_ns = shared.until_ns.load(Ordering::Acquire);
        let stall_ns = nanos(plan.args.drain_timeout);
        let closed_loop = matches!(plan.schedule, Schedule::Closed { .. });
        let mut released = 0;
        let (mut progress, mut progress_ns) = (0, self.start_ns);
        while !shared.control.stopped() {
            shared.completion.woken();
            let now_ns = shared.clock.now();
            let all_closed = self.publishers.iter().all(Publisher::is_gone);
            let over = now_ns >= until_ns;
            if all_closed || over && closed_loop {
                break;
            }
            if now_ns >= self.start_ns {
                // In an open loop all that was due counts, however late this thread is itself.
                let elapsed_ns = now_ns.min(until_ns - 1).saturating_sub(self.start_ns);
                let target = plan.schedule.released(elapsed_ns, shared.completion.done());
                for n in released..target {
                    self.publishers[(n % plan.publishers as u64) as usize].owed += 1;
                }
                for n in released..target.min(released + plan.publishers as u64) {
                    self.pump((n % plan.publishers as u64) as usize)?;
                }
                released = target.max(released);
            }
            if over {
                break;
            }
            let received = shared.received();
            if received != progress {
                (progress, progress_ns) = (received, now_ns);
            } else if closed_loop && now_ns > progress_ns + stall_ns {
                self.outcome.stalled = true;
                break;
            }
            if let Some(due_ns) = plan.schedule.due_ns(released) {
                let after_ns = (self.start_ns + due_ns).saturating_sub(shared.clock.now());
                timer.set(Duration::from_nanos(after_ns)).map_err(Failure::system("cannot set a timer"))?;
            }
            let left = Duration::from_nanos(until_ns - now_ns);
            self.turn(poller, left.min(PATIENCE))?;
        }
        for index in 0..self.publishers.len() {
            self.give_up_owed(index);
        }
        shared.publishing_over.store(true, Ordering::Release);
        Ok(())
    }

    /// Enters what publisher `index` owes in the end. Nothing is due in a closed loop.
    fn give_up_owed(&mut self, index: usize) {
        let plan = &self.shared.plan;
        let subscribers = plan.subscribers_of_topic(plan.topic_of_publisher(index));
        let publisher = &mut self.publishers[index];
        let owed = std::mem::take(&mut publisher.owed);
        let next = u64::from(publisher.sequence);
        let due = (next..next + owed).filter_map(|sequence| self.due_ns(index, sequence));
        let unsent: Vec<_> = due.map(|due_ns| Unsent { due_ns, subscribers }).collect();
        self.outcome.unsent.extend(unsent);
    }

    /// When a publisher's message is due on the run's clock; `None` in a closed loop.
    fn due_ns(&self, index: usize, sequence: u64) -> Option<u64> {
        let n = sequence * self.publishers.len() as u64 + index as u64;
        self.shared.plan.schedule.due_ns(n).map(|due_ns| self.start_ns + due_ns)
    }

    /// Frames what publisher `index` owes and writes as much as its socket takes.
    fn pump(&mut self, index: usize) -> Result<(), Failure> {
        let payload_bytes = self.shared.plan.args.payload_bytes as usize;
        let publisher = &mut self.publishers[index];
        if publisher.is_gone() {
            publisher.owed = 0;
        }
        if publisher.wants_connection() {
            publisher.connection = Connection::Dialling;
            self.redials.push(index);
        }
        while self.publishers[index].stream().is_some() {
            self.publishers[index].forget_sent(payload_bytes);
            while self.publishers[index].may_frame() {
                self.frame(index);
            }
            let publisher = &mut self.publishers[index];
            if publisher.is_sent() {
                break;
            }
            let Connection::Open(stream) = &mut publisher.connection else { break };
            match stream.write(&publisher.out[publisher.sent..]) {
                Ok(len) => publisher.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.end(index, error.to_string())?;
                    return self.pump(index);
                }
            }
        }
        Ok(())
    }

    /// Frames one message of publisher `index`.
    fn frame(&mut self, index: usize) {
        let (shared, plan) = (self.shared, &self.shared.plan);
        let sequence = self.publishers[index].sequence;
        let now_ns = shared.clock.now();
        let due_ns = self.due_ns(index, sequence.into()).unwrap_or(now_ns);
        let late_ns = now_ns.saturating_sub(due_ns);
        let late_us = u32::try_from(late_ns / 1000).unwrap_or(u32::MAX);
        let stamp = Stamp { due_ns, publisher: index as u16, sequence, late_us };
        if shared.measured(due_ns) {
            self.outcome.late.saturating_record(late_ns.max(1));
        }
        let shares = plan.shares[plan.topic_of_publisher(index)];
        if !shared.completion.begin(index, sequence, shares) {
            self.outcome.given_up += 1;
            let earlier = u64::from(sequence).checked_sub(plan.window as u64);
            let due_ns = earlier.and_then(|earlier| self.due_ns(index, earlier));
            if let Some(due_ns) = due_ns.filter(|due_ns| shared.measured(*due_ns)) {
                self.outcome.given_up_after.saturating_record(now_ns.saturating_sub(due_ns).max(1));
            }
        }
        let publisher = &mut self.publishers[index];
        shared.published[index].store(sequence + 1, Ordering::Release);
        publisher.sequence += 1;
        publisher.owed -= 1;
        self.outcome.published += 1;
        let payload = shared.pattern.payload(stamp);
        let [head, rest, end] = payload.parts();
        match &self.forms[plan.topic_of_publisher(index)] {
            Form::Frame(opcode, Wrap { before, after }) => {
                let key = fastrand::u32(..).to_ne_bytes();
                append_frame(&mut publisher.out, *opcode, key, &[before, head, rest, end, after]);
            }
            Form::Post(post) => {
                post.append(&mut publisher.out, &[head, rest, end]);
                publisher.exchange.under_way = true;
            }
        }
    }

    /// A connection has ended: a failure while nothing has yet been published, a matter of the verdict later.
    #[cold]
    fn end(&mut self, index: usize, how: String) -> Result<(), Failure> {
        let publisher = &mut self.publishers[index];
        publisher.connection = Connection::Gone;
        if self.shared.start_ns.load(Ordering::Acquire) == 0 {
            let how = publisher.greeting.as_ref().map_or(how.clone(), |greeting| greeting.cut_short(&how));
            return Err(self.refused(index, format!("a publisher was closed: {how}")));
        }
        let how = match self.shared.plan.by_post.then(|| publisher.exchange.ended()) {
            None => how,
            Some(Ended::Unanswered) => "the connection ended, and a POST was not answered".into(),
            Some(ended) => {
                publisher.connection = Connection::Spent;
                if ended == Ended::Again {
                    publisher.sent = 0;
                    self.outcome.resent += 1;
                }
                return Ok(());
            }
        };
        self.outcome.closed_how.get_or_insert(how);
        Ok(())
    }

    fn refused(&self, index: usize, how: String) -> Failure {
        let plan = &self.shared.plan;
        Failure::Refused { url: plan.publisher_target.url_of(&plan.publisher_target_of(index)), how }
    }

    /// Fails if a connection is not ready in time.
    fn check_overdue(&self, now: Instant) -> Result<(), Failure> {
        let limit = self.shared.plan.publisher_target.timeout;
        let greetings = self.publishers.iter().map(|publisher| publisher.greeting.as_ref());
        let overdue =
            greetings.enumerate().find_map(|(index, greeting)| Some((index, greeting?.overdue(now, limit)?)));
        overdue.map_or(Ok(()), |(index, how)| Err(self.refused(index, how)))
    }

    fn walk(&mut self, index: usize, bytes: &[u8]) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let publisher = &mut self.publishers[index];
        if plan.by_post {
            let fed = match publisher.exchange.feed(bytes) {
                Ok(()) if !publisher.exchange.under_way && !publisher.is_sent() => {
                    Err("a POST was answered before it had been sent".into())
                }
                fed => fed,
            };
            if publisher.exchange.is_over() {
                publisher.connection = Connection::Spent;
            }
            return fed.map_err(|how| self.refused(index, how));
        }
        let was_ready = publisher.greeting.is_none();
        let mut sink = Replies {
            answers: &plan.args.dialect.answer,
            payload: plan.args.publish.payload,
            greeting: &mut publisher.greeting,
            ear: &mut publisher.ear,
            out: &mut publisher.out,
            received: &mut self.outcome.received,
            heard: 0,
            closed: None,
        };
        let walked = publisher.walker.feed(bytes, &mut sink);
        let closed = sink.closed.or(walked.err().map(String::from));
        self.opened += usize::from(!was_ready && publisher.greeting.is_none());
        closed.map_or(Ok(()), |how| self.end(index, how))
    }
}

impl Handler for Desk<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let publisher = &mut self.publishers[token];
        publisher.connection = Connection::Open(opened.stream);
        if plan.by_post {
            publisher.exchange.renew();
            // Before it is read: a server that ends every connection at once has left a request unanswered then.
            self.pump(token)?;
        } else {
            publisher.greeting = Greeting::begin(plan.publisher_script(token), &mut publisher.out);
        }
        self.opened += usize::from(self.publishers[token].greeting.is_none());
        self.walk(token, &opened.rest)?;
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = self.publishers[token].stream() {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.walk(token, &buffer[..len])?;
                    // The end of an HTTP connection may lie behind a response: the next request must not cross with it.
                    if !more && !self.shared.plan.by_post {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how)?,
            }
        }
        self.buffer = buffer;
        self.pump(token)
    }
}
