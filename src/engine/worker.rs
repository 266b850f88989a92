//! A worker and its tick.
//!
//! ```text
//! wait     not at all if there is work, else until the next tenth of a second, or the end of an interval
//! accept   a bounded number
//! read     the ready list, a bounded number of bytes
//! mail     what others sent, threads that are no workers included; as a home: append
//! api      what is due by schedule; errands of calls, a bounded number
//! post     floors, heads, requests, receipts; the calls that are answered with these
//! resume   connections whose messages were taken: what they sent meanwhile
//! due      ten times a second: timeouts, pings, idle topics, the drain
//! flush    what waits for single connections, a bounded number of them
//! sweep    a slice of 64 sends, then as many to connections with several topics
//! ```
//!
//! A lone message is sent in the tick that read it; bursts grow by themselves, since each visit of the
//! sweep sends up to the head of that moment.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    api::{Assigned, Lengthy},
    closing::Draining,
    connections::{Connections, Flag, Phase},
    deadlines::Deadlines,
    driver::{Driver, End, Event, Sent},
    due::Beat,
    farewell::Why,
    gather::Gathered,
    interval::Intervals,
    lanes::Lanes,
    mail::{Batch, Recovered},
    mailboxes::Patience,
    outbox::Outbox,
    outside::{self, Orders},
    read::Buffers,
    reports::Watch,
    shared::Shared,
    stats::Stats,
    sweep::InFlight,
    trim::HighWater,
    welcome::Welcomes,
};
use crate::{
    broker::{
        home::{self, Delivery, Homes, Receipt, home_of, mostly_unused},
        ids::{ConnectionId, Key, Tick, UnixTime, WorkerId},
        schedule::{Content, Schedule, Schedules},
    },
    session::Error,
};

/// A worker that has not run for more ticks than this was stopped or starved: its clients could not show that
/// they live. Then nobody's time runs out before so many ticks more have passed.
const STALL: u32 = 5;
const GRACE: u32 = Tick::PER_SECOND;

/// Topics that have vanished are remembered, so many per worker and for a day.
const STONES: usize = 100_000;
const STONE_TICKS: u32 = 24 * 60 * 60 * Tick::PER_SECOND;

/// How often memory is looked for that most of its users have left.
const SHRINK: u32 = 10 * Tick::PER_SECOND;

/// What a tick says about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There will be another.
    Again,
    /// The drain is over.
    Over,
}

/// One worker. Everything in it is its own; others reach it by mail.
pub struct Worker<D: Driver> {
    pub(super) id: WorkerId,
    pub(super) driver: D,
    pub(super) shared: Arc<Shared<D::Socket>>,
    pub(super) connections: Connections,
    pub(super) deadlines: Deadlines,
    pub(super) lanes: Lanes,
    pub(super) homes: Homes,
    pub(super) outboxes: Vec<Outbox<D::Socket>>,
    pub(super) buffers: Buffers,
    /// Connections that have something to receive.
    pub(super) ready: VecDeque<u32>,
    /// Connections with something of their own to send.
    pub(super) to_flush: VecDeque<u32>,
    /// Lanes to sweep.
    pub(super) dirty: VecDeque<u32>,
    /// Connections that something is gathered for.
    pub(super) gathered: Gathered,
    /// Lanes whose home must be told their floor.
    pub(super) floors: Vec<u32>,
    /// Lanes that may have segments or may go, with the time to look at them again.
    pub(super) quiet: VecDeque<(Tick, u32)>,
    /// Connections whose messages were taken: they may be read again.
    pub(super) resumed: Vec<u32>,
    /// Lanes whose topic can't be created.
    pub(super) refused: Vec<Key>,
    /// Answers of topics whose home is here, to subscriptions of this worker that want some of the past.
    pub(super) recovered: Vec<Recovered>,
    /// What sessions must be told.
    pub(super) errors: Vec<(ConnectionId, Error)>,
    /// Messages that were dropped and whose publishers want to know.
    pub(super) failed: Vec<(Receipt, Error)>,
    pub(super) intervals: Intervals,
    pub(super) welcomes: Welcomes,
    pub(super) in_flight: Vec<InFlight>,
    /// Connections whose own queues were begun to be sent, and how many bytes of each.
    pub(super) flushing: Vec<(u32, usize)>,
    pub(super) outcomes: Vec<(u32, Sent)>,
    /// What a send to an event stream is put together in.
    pub(super) scratch: Vec<u8>,
    pub(super) mail: Batch<D::Socket>,
    /// What was asked from outside.
    pub(super) orders: Orders,
    /// Connections whose call of the server API can go on.
    pub(super) calls: VecDeque<ConnectionId>,
    /// Errands of such calls that take more than a turn.
    pub(super) errands: VecDeque<Lengthy>,
    /// Subscriptions that backends have made and that do not stand yet.
    pub(super) assignments: Vec<Assigned>,
    /// Messages that their publishers want reports of.
    pub(super) watches: Vec<Watch>,
    /// Connections whose calls wait for reports.
    pub(super) reporting: Vec<ConnectionId>,
    /// The last call's.
    pub(super) call_serial: u8,
    /// Messages of topics whose home is here that wait for their time.
    pub(super) schedules: Schedules,
    pub(super) acceptable: bool,
    /// No accept before this tick, after one failed.
    pub(super) accept_after: Tick,
    pub(super) surplus: usize,
    pub(super) draining: Option<Draining>,
    pub(super) now: Tick,
    /// Nobody's time runs out before this tick.
    pub(super) grace_until: Tick,
    /// What pings leave in.
    pub(super) beat: Beat,
    shrunk_at: Tick,
    high_water: HighWater,
    events: Vec<Event>,
    due: Vec<u32>,
}

impl<D: Driver> Worker<D> {
    /// A worker that owns what `driver` accepts.
    pub fn new(id: WorkerId, driver: D, shared: Arc<Shared<D::Socket>>) -> Worker<D> {
        let workers = usize::from(shared.workers());
        let settings = &shared.settings;
        let limits = home::Limits {
            idle: settings.topic_idle,
            topics: Arc::clone(&shared.topics),
            logs: Arc::clone(&shared.logs),
            rules: Arc::clone(&settings.rules),
            stones: STONES,
            stone_ticks: STONE_TICKS,
            keys: settings.idempotency_keys_max,
            key_ticks: settings.idempotency,
        };
        let schedules = schedules(id, &shared);
        // Epochs must differ between workers and runs, hashes of names must not differ between workers.
        let encoder = Arc::clone(&settings.encoder);
        let homes = Homes::new(limits, encoder, workers, settings.seed ^ (u64::from(id.0) << 48));
        Worker {
            id,
            driver,
            connections: Connections::new(id),
            deadlines: Deadlines::default(),
            lanes: Lanes::new(settings.seed),
            homes,
            outboxes: (0..workers).map(|_| Outbox::new(settings.mail_len_max)).collect(),
            buffers: Buffers::default(),
            ready: VecDeque::new(),
            to_flush: VecDeque::new(),
            dirty: VecDeque::new(),
            gathered: Gathered::default(),
            floors: Vec::new(),
            quiet: VecDeque::new(),
            resumed: Vec::new(),
            refused: Vec::new(),
            recovered: Vec::new(),
            errors: Vec::new(),
            failed: Vec::new(),
            intervals: Intervals::default(),
            welcomes: Welcomes::default(),
            in_flight: Vec::new(),
            flushing: Vec::new(),
            outcomes: Vec::new(),
            scratch: Vec::new(),
            mail: Batch::default(),
            orders: Orders::default(),
            calls: VecDeque::new(),
            errands: VecDeque::new(),
            assignments: Vec::new(),
            watches: Vec::new(),
            reporting: Vec::new(),
            call_serial: 0,
            schedules,
            acceptable: true,
            accept_after: Tick(0),
            surplus: 0,
            draining: None,
            now: Tick::START,
            grace_until: Tick(0),
            beat: Beat::of(0, 1),
            shrunk_at: Tick::START,
            high_water: HighWater::default(),
            events: Vec::new(),
            due: Vec::new(),
            shared,
        }
    }

    /// Ticks until the drain is over.
    ///
    /// # Errors
    /// The driver is broken.
    pub fn run(&mut self) -> io::Result<()> {
        outside::mark_thread();
        while self.tick()? == Turn::Again {}
        Ok(())
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// The driver is broken.
    pub fn tick(&mut self) -> io::Result<Turn> {
        self.wait()?;
        self.stats().ticks.add(1);
        let next_tick = self.read_clock();

        self.accept();
        // Between the slices of a sweep most of what follows has nothing to do, and must cost next to nothing.
        if !self.ready.is_empty() {
            self.read_ready();
        }
        self.take_mail();
        self.publish_due();
        self.go_on_with_calls();
        self.post(Patience::Later);
        self.go_on_with_calls();
        if !self.resumed.is_empty() {
            self.resume();
        }
        if next_tick {
            self.each_tenth();
        }
        if self.shared.is_draining() && (next_tick || self.draining.is_none()) {
            self.drain_some();
        }
        if !self.errors.is_empty() {
            self.tell_errors();
        }
        self.end_intervals();
        if !self.to_flush.is_empty() {
            self.flush_some();
        }
        self.sweep();
        if !self.watches.is_empty() {
            self.look_at_watches();
        }
        Ok(self.turn())
    }

    pub(super) fn wait(&mut self) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let mut busy = self.has_work();
        if !busy {
            self.post(Patience::Now);
            busy = self.has_work();
        }
        let timeout = if busy || !self.shared.post.sleep(self.id) {
            Some(Duration::ZERO)
        } else if self.connections.len() == 0
            && !self.acceptable
            && self.homes.is_empty()
            && self.lanes.len() == 0
            && self.schedules.next_at().is_none()
            && self.draining.is_none()
        {
            // Nobody here has a deadline, so there will be no tick.
            self.shrink();
            self.set_gauges();
            None
        } else {
            Some(self.until_next_turn())
        };
        let result = self.driver.wait(timeout, &mut events);
        if result.is_err() {
            // A simulated driver has put it to sleep: the flag stays up, or the bell would not be rung.
            self.events = events;
            return result;
        }
        self.shared.post.awake(self.id);
        for event in events.drain(..) {
            self.note(event);
        }
        self.events = events;
        result
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Acceptable => self.acceptable = true,
            Event::Readable { slot, to_end } => {
                if self.connections.phase(slot) == Phase::Free {
                    return;
                }
                let hot = self.connections.hot(slot);
                hot.set(Flag::Readable);
                if to_end {
                    hot.set(Flag::ToEnd);
                }
                self.list_ready(slot);
            }
            Event::Writable(slot) => {
                if self.connections.phase(slot) != Phase::Free
                    && self.connections.hot(slot).clear(Flag::Blocked)
                {
                    // From now on what its subscriptions lag is the server's own.
                    self.rejoin(slot);
                    self.list_flush(slot);
                }
            }
            Event::Broken(slot) => {
                if self.connections.phase(slot) == Phase::Free {
                    return;
                }
                if self.may_read(slot) {
                    self.note(Event::Readable { slot, to_end: true });
                } else {
                    self.end(slot, End::Reset, Why::Reset);
                }
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.to_flush.is_empty()
            || !self.dirty.is_empty()
            || !self.gathered.slots.is_empty()
            || !self.resumed.is_empty()
            || !self.refused.is_empty()
            || !self.errors.is_empty()
            || !self.recovered.is_empty()
            || !self.failed.is_empty()
            || self.homes.has_receipts()
            || (self.acceptable && self.now >= self.accept_after)
            || self.orders.wait()
            || !self.errands.is_empty()
            || !self.calls.is_empty()
            || self.shared.post.waits(self.id)
            || self.shared.is_draining() != self.draining.is_some()
    }

    /// Reads the clock; true if a new tenth of a second has begun.
    fn read_clock(&mut self) -> bool {
        let millis = u64::try_from(self.driver.now().as_millis()).unwrap_or(u64::MAX);
        self.homes.set_time(UnixTime(self.shared.settings.began.0 + millis));
        self.intervals.millis = millis;
        let tenths = millis / u64::from(1000 / Tick::PER_SECOND);
        let now = Tick::START.after(u32::try_from(tenths).unwrap_or(u32::MAX));
        let before = std::mem::replace(&mut self.now, now);
        // Not time and again: whoever is always late must still find out who has gone.
        if now.since(before) > STALL && now >= self.grace_until.after(5 * GRACE) {
            self.grace_until = now.after(GRACE);
        }
        before != now
    }

    /// Until the next tenth of a second, or the next lap that waits for its time.
    fn until_next_turn(&self) -> Duration {
        let tenth = 1_000_000 / u64::from(Tick::PER_SECOND);
        let now = self.driver.now();
        let passed = u64::try_from(now.as_micros()).unwrap_or(u64::MAX) % tenth;
        let tick = Duration::from_micros(tenth - passed);
        let schedule = self.schedules.next_at().map(|at| self.until(at, now));
        [schedule, self.until_next_lap()].into_iter().flatten().fold(tick, Duration::min)
    }

    /// How long it is from a driver's time to a wall-clock time.
    fn until(&self, at: UnixTime, now: Duration) -> Duration {
        Duration::from_millis(at.since(self.shared.settings.began)).saturating_sub(now)
    }

    /// What is due ten times a second.
    fn each_tenth(&mut self) {
        if let Some(interval) = self.shared.settings.ping {
            self.beat = Beat::of(self.connections.len(), interval);
        }
        let mut due = std::mem::take(&mut self.due);
        self.deadlines.take_due(self.now, &mut due);
        due.drain(..).for_each(|slot| self.look(slot));
        self.due = due;
        self.homes.tick(self.now);
        self.drop_late();
        self.end_reports();
        self.quieten_lanes();
        self.relieve_logs();
        self.high_water.note(self.pieces());
        if self.now.since(self.shrunk_at) >= SHRINK {
            self.shrink();
        }
        self.set_gauges();
    }

    /// Lets go of memory that most of its users have left.
    fn shrink(&mut self) {
        self.shrunk_at = self.now;
        let shrunk = self.homes.shrink() | self.lanes.shrink();
        if mostly_unused(self.quiet.len(), self.quiet.capacity()) {
            self.quiet.shrink_to_fit();
        }
        // A table may shrink long after the pieces have gone: when its last slots are free.
        if self.high_water.has_ebbed(self.pieces()) | shrunk {
            self.shared.trimmer.ask();
        }
    }

    /// What owns small pieces of the heap.
    fn pieces(&self) -> usize {
        self.homes.len() + self.lanes.len() + self.connections.len()
    }

    fn set_gauges(&self) {
        let stats = self.stats();
        stats.connections.set(self.connections.len());
        stats.subscriptions.set(self.lanes.subscriptions.len());
        stats.subscriptions_behind.set(self.lanes.behind());
        stats.lanes.set(self.lanes.len());
        stats.topics.set(self.homes.len());
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.shared.stats[self.id.index()]
    }

    /// Puts a connection that may be read on the ready list.
    pub(super) fn list_ready(&mut self, slot: u32) {
        let hot = self.connections.hot(slot);
        if !hot.is(Flag::ListedReady) {
            hot.set(Flag::ListedReady);
            self.ready.push_back(slot);
        }
    }

    /// Puts a connection on the list of those with something of their own to send.
    pub(super) fn list_flush(&mut self, slot: u32) {
        let hot = self.connections.hot(slot);
        if !hot.is(Flag::ListedFlush) {
            hot.set(Flag::ListedFlush);
            self.to_flush.push_back(slot);
        }
    }

    /// Puts a lane whose head has moved on the list of those to sweep.
    pub(super) fn list_dirty(&mut self, lane: u32) {
        let record = self.lanes.at(lane);
        if !record.queued {
            record.queued = true;
            self.dirty.push_back(lane);
        }
    }
}

/// What the server publishes by itself to the topics whose home a worker is.
fn schedules<S>(id: WorkerId, shared: &Shared<S>) -> Schedules {
    let settings = &shared.settings;
    let seed = settings.seed ^ u64::from(id.0);
    let run = u32::try_from(settings.run >> 32).expect("half of its bits");
    let bytes = Arc::clone(&shared.schedules);
    let mut schedules = Schedules::new(id, run, settings.schedules_max, bytes, seed);
    for Schedule { name, topic, every, payload } in settings.schedules.iter() {
        if home_of(topic, shared.workers(), settings.seed) == id {
            let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
            let first = UnixTime(settings.began.0.saturating_add(millis));
            let content = Content::Text(payload.clone());
            let added =
                schedules.add(name.clone(), topic.clone(), content, Delivery::default(), first, Some(*every));
            if added.is_err() {
                tracing::warn!(%topic, "a schedule does not begin: --schedule-bytes-max is reached");
            }
        }
    }
    schedules
}

/// The address that a socket's other end has, in its canonical form.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
