//! One topic at its home: its logs, who reads them, and what waits for room.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    Delivery, Except, Head, Limits, NotYet, Note, Place, Receipt, Receipted, ReportRequest, Sender,
    history::History,
    units::{Scratch, Units},
};
use crate::broker::{
    encoding::{Encoder, Encoding, Stamp},
    ids::{ConnectionId, Epoch, Key, Mark, Offset, Tick, UnixTime, WorkerId},
    limits::{Charge, Gauge, Window},
    log::{Log, LogFull, Unit},
    name::TopicName,
    rules::{Rule, SlowConsumer},
};

/// A worker that has subscriptions to a topic in one encoding.
pub(super) struct Interest {
    pub(super) worker: WorkerId,
    pub(super) lane: Key,
    pub(super) encoding: Encoding,
    /// What its swept part surely has.
    pub(super) floor: Mark,
    /// Up to where its head was posted.
    pub(super) sent: Mark,
    /// In that worker's dirty list.
    pub(super) dirty: bool,
    /// A publisher waits for its floor, which it is told with the next head.
    hurried: bool,
    pub(super) notes: Vec<Note>,
}

pub(super) struct Held {
    pub(super) unit: Bytes,
    pub(super) delivery: Delivery,
    pub(super) sender: Sender,
}

/// What a topic holds back, in order.
#[derive(Default)]
pub(super) struct HeldBack {
    pub(super) messages: VecDeque<Held>,
    /// In the list of topics that hold back a message which is dropped at some time.
    pub(super) listed_timed: bool,
}

/// The topic's log in one encoding.
pub(super) struct Encoded {
    encoding: Encoding,
    pub(super) log: Log,
    /// The lowest floor of those who read it.
    floor: Mark,
    /// Workers that read it.
    readers: u16,
}

impl Encoded {
    fn behind(encoding: Encoding, offset: Offset) -> Encoded {
        let log = Log::behind(offset);
        let floor = log.head();
        Encoded { encoding, log, floor, readers: 0 }
    }

    /// Looks at who reads it anew.
    #[inline]
    fn settle_floor(&mut self, interests: &[Interest]) {
        let (mut readers, mut lowest) = (0, None::<Mark>);
        for interest in interests.iter().filter(|interest| interest.encoding == self.encoding) {
            readers += 1;
            if lowest.is_none_or(|lowest| interest.floor.position < lowest.position) {
                lowest = Some(interest.floor);
            }
        }
        self.readers = readers;
        self.floor = lowest.unwrap_or(self.log.head());
    }

    /// Whether a message of `len` bytes fits the window: one of any size always fits an empty one.
    fn has_room(&self, len: usize, window: Window) -> bool {
        let head = self.log.head();
        let ahead = head.position.since(self.floor.position);
        let messages = head.offset.since(self.floor.offset);
        self.readers == 0 || ahead == 0 || (ahead + len as u64 <= window.bytes && messages < window.messages)
    }
}

/// See the head of this file.
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) epoch: Epoch,
    pub(super) rule: Arc<Rule>,
    pub(super) canonical: Encoded,
    /// The logs in other encodings that somebody reads.
    others: Vec<Encoded>,
    pub(super) interests: Vec<Interest>,
    pub(super) history: Option<Box<History>>,
    pub(super) held: Option<Box<HeldBack>>,
    pub(super) active_at: Tick,
    /// In the list of topics that may have segments.
    pub(super) listed_live: bool,
    /// In the list of topics that may vanish.
    pub(super) listed_idle: bool,
    /// In the list of topics that wait for log bytes.
    pub(super) listed_starved: bool,
    /// In the list of topics whose messages grow old.
    pub(super) listed_aging: bool,
    _charge: Charge,
}

impl Topic {
    /// A topic whose last message was `last`.
    pub(super) fn new(
        name: TopicName,
        epoch: Epoch,
        last: Offset,
        rule: Arc<Rule>,
        now: Tick,
        charge: Charge,
    ) -> Topic {
        let canonical = Encoded::behind(Encoding::CANONICAL, last);
        let history = rule.history.map(|kept| Box::new(History::new(canonical.log.head(), kept)));
        Topic {
            name,
            epoch,
            rule,
            canonical,
            others: Vec::new(),
            interests: Vec::new(),
            history,
            held: None,
            active_at: now,
            listed_live: false,
            listed_idle: false,
            listed_starved: false,
            listed_aging: false,
            _charge: charge,
        }
    }

    /// The last message's number.
    pub(super) fn last(&self) -> Offset {
        self.canonical.log.head().offset
    }

    /// Whether messages are kept: somebody reads them, or the history does.
    pub(super) fn keeps(&self) -> bool {
        !self.interests.is_empty() || self.history.is_some()
    }

    /// Whether one log has all of it: most topics are read in the canonical encoding, and by nobody who comes back.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.canonical.readers > 0 && self.others.is_empty() && self.history.is_none()
    }

    /// The log in an encoding, if somebody reads it.
    pub(super) fn encoded(&mut self, encoding: Encoding) -> Option<&mut Encoded> {
        self.logs().find(|log| log.encoding == encoding)
    }

    fn logs(&mut self) -> impl Iterator<Item = &mut Encoded> {
        std::iter::once(&mut self.canonical).chain(&mut self.others)
    }

    /// Whether nobody reads another encoding than the canonical one.
    pub(super) fn is_canonical_only(&self) -> bool {
        self.others.is_empty()
    }

    /// Whether any log holds memory beyond itself.
    pub(super) fn is_live(&self) -> bool {
        self.canonical.log.is_live() || self.others.iter().any(|other| other.log.is_live())
    }

    /// Lets go of the logs' memory: all was posted, and the history has noted it.
    pub(super) fn release(&mut self) {
        self.logs().for_each(|encoded| encoded.log.release());
    }

    /// How far its logs may be ahead of what has been swept.
    pub(super) fn window(&self) -> Window {
        self.rule.lag.for_publishers()
    }

    /// Whether a message fits the window of the canonical log.
    pub(super) fn has_room(&self, len: usize) -> bool {
        self.canonical.has_room(len, self.window())
    }

    /// How far the canonical log is ahead of its floor.
    pub(super) fn ahead(&self) -> (u64, u64) {
        let Encoded { log, floor, readers, .. } = &self.canonical;
        let head = log.head();
        if *readers == 0 {
            (0, 0)
        } else {
            (head.position.since(floor.position), head.offset.since(floor.offset))
        }
    }

    /// A worker reads the log in some encoding from now on: its view begins at the head.
    pub(super) fn join(&mut self, encoding: Encoding, worker: WorkerId, lane: Key) {
        self.interests.retain(|interest| interest.worker != worker || interest.encoding != encoding);
        let last = self.last();
        if self.encoded(encoding).is_none() {
            self.others.push(Encoded::behind(encoding, last));
        }
        let head = self.encoded(encoding).expect("made just now").log.head();
        self.interests.push(Interest {
            worker,
            lane,
            encoding,
            floor: head,
            sent: head,
            dirty: true,
            hurried: false,
            notes: Vec::new(),
        });
        self.settle_floors();
    }

    /// A worker reads for one of its lanes no more.
    pub(super) fn leave(&mut self, worker: WorkerId, lane: Key) {
        self.interests.retain(|interest| interest.worker != worker || interest.lane != lane);
        self.settle_floors();
        if self.canonical.readers == 0 && self.history.is_none() {
            self.canonical.log.release();
        }
        self.others.retain(|other| other.readers > 0);
    }

    /// What `worker` has not been told of the log in an encoding. It counts as told.
    pub(super) fn head_for(&mut self, key: Key, encoding: Encoding, worker: WorkerId) -> Option<Head> {
        let Topic { canonical, others, interests, epoch, .. } = self;
        let mut logs = std::iter::once(canonical).chain(others);
        let log = &mut logs.find(|log| log.encoding == encoding)?.log;
        let of_it = |interest: &&mut Interest| interest.encoding == encoding;
        let interest = interests.iter_mut().filter(of_it).find(|interest| interest.worker == worker)?;
        let head = log.head();
        let news = Head {
            lane: interest.lane,
            topic: key,
            epoch: *epoch,
            from: interest.sent,
            head,
            extents: log.extents_after(interest.sent.position).collect(),
            notes: std::mem::take(&mut interest.notes),
            hurried: std::mem::take(&mut interest.hurried),
        };
        interest.sent = head;
        interest.dirty = false;
        if log.has_sealed() {
            let sent = interests.iter_mut().filter(of_it).map(|interest| interest.sent.position).min();
            log.posted(sent.unwrap_or(head.position));
        }
        Some(news)
    }

    /// A worker's swept part has more. False: it reads no more.
    #[inline]
    pub(super) fn raise_floor(&mut self, worker: WorkerId, lane: Key, floor: Mark) -> bool {
        let Some(interest) = self.interests.iter_mut().find(|i| i.worker == worker && i.lane == lane) else {
            return false;
        };
        interest.floor = floor;
        self.settle_floors();
        true
    }

    /// Looks at all floors anew.
    #[inline]
    fn settle_floors(&mut self) {
        self.canonical.settle_floor(&self.interests);
        for other in &mut self.others {
            other.settle_floor(&self.interests);
        }
    }

    /// What the publisher of the last message wants to know.
    pub(super) fn receipted(&self, receipt: Receipt) -> Receipted {
        let place = Place { epoch: self.epoch, offset: self.last() };
        Receipted { receipt, outcome: Ok(place), reports: 0 }
    }

    /// Appends a message, and what it is in the encodings of the others, to all logs that keep it, or changes nothing that
    /// counts.
    pub(super) fn append(
        &mut self,
        unit: &Unit<'_>,
        units: Units<'_>,
        now: Tick,
        time: UnixTime,
        limits: &Limits,
    ) -> Result<(), NotYet> {
        if !self.others_have_room(units) {
            return Err(NotYet::Window);
        }
        self.make_room(unit.bytes().len(), units, now, time, &limits.logs)?;
        self.write(unit, units, time);
        Ok(())
    }

    /// What the next message is in the encodings of the other logs.
    pub(super) fn encode<'a>(
        &self,
        unit: &[u8],
        time: UnixTime,
        tags: Option<&str>,
        encoder: &dyn Encoder,
        scratch: &'a mut Scratch,
    ) -> Units<'a> {
        scratch.clear();
        let offset = Offset(self.last().0 + 1);
        let stamp = Stamp { topic: &self.name, epoch: self.epoch, offset, time, tags };
        for other in &self.others {
            scratch.push(|out| encoder.encode(other.encoding, &stamp, unit, out));
        }
        scratch.units()
    }

    /// Whether a message fits the windows of the other logs.
    fn others_have_room(&self, units: Units<'_>) -> bool {
        let window = self.window();
        self.others.iter().zip(units.iter()).all(|(other, unit)| other.has_room(unit.len(), window))
    }

    /// Makes room for a message in all logs that keep it. Where they are full, what the topic itself keeps and nobody needs
    /// goes.
    fn make_room(
        &mut self,
        len: usize,
        units: Units<'_>,
        now: Tick,
        time: UnixTime,
        gauge: &Arc<Gauge>,
    ) -> Result<(), NotYet> {
        let mut room = self.reserve(len, units, now, time, gauge);
        while room.is_err() && self.history.as_mut().is_some_and(|history| history.shrink()) {
            room = self.reserve(len, units, now, time, gauge);
        }
        if room.is_err() {
            // Its own segments may be in the way: the workers have their references to what they still need.
            if !self.is_live() || self.interests.iter().any(|interest| interest.dirty) {
                return Err(NotYet::LogFull);
            }
            self.release();
            room = self.reserve(len, units, now, time, gauge);
        }
        room.map_err(|LogFull| NotYet::LogFull)
    }

    /// Makes room for a message in all logs that keep it, or changes nothing that counts.
    fn reserve(
        &mut self,
        len: usize,
        units: Units<'_>,
        now: Tick,
        time: UnixTime,
        gauge: &Arc<Gauge>,
    ) -> Result<(), LogFull> {
        if self.canonical.readers > 0 || self.history.is_some() {
            self.canonical.log.reserve(len, now, time, gauge)?;
        }
        for (other, unit) in self.others.iter_mut().zip(units.iter()) {
            other.log.reserve(unit.len(), now, time, gauge)?;
        }
        Ok(())
    }

    /// Appends the message whose room was reserved.
    fn write(&mut self, unit: &Unit<'_>, units: Units<'_>, time: UnixTime) {
        let Encoded { log, readers, .. } = &mut self.canonical;
        if *readers > 0 || self.history.is_some() {
            log.write(unit, time);
        } else {
            log.pass();
        }
        if let Some(history) = &mut self.history {
            history.note(log, time);
            if *readers == 0 {
                log.posted(log.head().position);
            }
        }
        for (other, unit) in self.others.iter_mut().zip(units.iter()) {
            other.log.write(&Unit::Borrowed(unit), time);
        }
    }

    /// Tells the readers of what was written last: each that has something new goes to `dirty`.
    #[inline]
    pub(super) fn tell(&mut self, mut dirty: impl FnMut(WorkerId, Encoding)) {
        for interest in self.interests.iter_mut().filter(|interest| !interest.dirty) {
            interest.dirty = true;
            dirty(interest.worker, interest.encoding);
        }
    }

    /// A message waits for the floors of those who have not got all: each goes to `dirty`, if they may take their time. With
    /// `latest` they hold nobody up.
    pub(super) fn hurry(&mut self, mut dirty: impl FnMut(WorkerId, Encoding)) {
        let Topic { rule, canonical, others, interests, .. } = self;
        if rule.min_interval.is_none() || rule.slow_consumer == SlowConsumer::Latest {
            return;
        }
        let logs = || std::iter::once(&*canonical).chain(&*others);
        for interest in interests {
            let log = logs().find(|log| log.encoding == interest.encoding);
            if log.is_none_or(|log| interest.floor.position == log.log.head().position) {
                continue;
            }
            interest.hurried = true;
            if !std::mem::replace(&mut interest.dirty, true) {
                dirty(interest.worker, interest.encoding);
            }
        }
    }

    /// Asks all who read a log what becomes of the message that was written last; gives how many they are.
    pub(super) fn ask_for_reports(&mut self, receipt: Receipt, exclude: Option<ConnectionId>) -> u16 {
        let Topic { canonical, others, interests, .. } = self;
        for interest in &mut *interests {
            let mut logs = std::iter::once(&*canonical).chain(&*others);
            let Some(log) = logs.find(|log| log.encoding == interest.encoding) else { continue };
            let request = ReportRequest { receipt, end: log.log.head(), exclude };
            interest.notes.push(Note::Report(request));
        }
        u16::try_from(interests.len()).expect("workers and encodings are few")
    }

    /// `connection` does not get what was written last, `len` bytes in the canonical encoding.
    pub(super) fn leave_out(&mut self, connection: ConnectionId, len: usize, units: Units<'_>) {
        let Topic { canonical, others, interests, .. } = self;
        for interest in interests.iter_mut().filter(|interest| interest.worker == connection.worker) {
            let others = others.iter().zip(units.iter().map(<[u8]>::len));
            let mut logs = std::iter::once((&*canonical, len)).chain(others);
            let Some((log, len)) = logs.find(|(log, _)| log.encoding == interest.encoding) else { continue };
            let to = log.log.head().position;
            let from = to.back(len as u64);
            match interest.notes.last_mut() {
                Some(Note::Except(last)) if last.connection == connection && last.to == from => {
                    last.to = to;
                    last.messages += 1;
                }
                _ => interest.notes.push(Note::Except(Except { connection, from, to, messages: 1 })),
            }
        }
    }
}
