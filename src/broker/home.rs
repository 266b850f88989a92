//! The topics that one worker orders: it is their *home*.
//!
//! A home gives each message its offset and appends it to the log, as long as the log's head is within the
//! window of what every interested worker has swept (its floor). What does not fit waits here, in order,
//! and whoever sent it is held back: a connection of this worker is not read, another worker has not got
//! its credit back. So overload becomes push-back and never a drop, but for messages that say how long they may wait.
//!
//! Effects are read out by the caller: [`Homes::dirty`] topics to post, [`Homes::released`] senders to let go.

mod delivery;
mod history;
mod keys;
mod stones;
mod topic;
mod units;

pub use self::{
    delivery::{Delivery, Extras, NotPublished, Place, Receipt, Receipted},
    history::{NoPage, PageRequest, Run, Start},
};

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use foldhash::quality::FixedState;
use smallvec::SmallVec;

use self::{
    history::{Making, Noted},
    keys::Keys,
    stones::{Stone, Stones},
    topic::{Held, Topic},
    units::{Scratch, Units},
};
use super::{
    encoding::{Encoding, SharedEncoder},
    ids::{ConnectionId, Epoch, Key, Mark, Offset, Position, Tick, UnixTime, WorkerId},
    limits::Gauge,
    log::{Extent, Unit},
    name::TopicName,
    rules::Rules,
};

/// A topic that was quiet for this long lets go of its segments.
const QUIET: u32 = Tick::PER_SECOND;

/// The worker that orders `name`, out of `workers` (≥ 1): rendezvous hashing, the same on all workers that
/// share `seed`.
pub fn home_of(name: &TopicName, workers: u16, seed: u64) -> WorkerId {
    use std::hash::BuildHasher;
    let hash = FixedState::with_seed(seed).hash_one(name.as_str());
    let weight = |worker: u16| scramble(hash ^ u64::from(worker).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    WorkerId((0..workers.max(1)).max_by_key(|&worker| weight(worker)).unwrap_or(0))
}

/// Topics whose messages grow old are looked at so often.
const AGING: u32 = 10 * Tick::PER_SECOND;

/// Whether three quarters or more of an array of some size are unused.
pub fn mostly_unused(len: usize, capacity: usize) -> bool {
    capacity > 4096 && len < capacity / 4
}

/// Mixes all bits of a number into all bits of another (the finisher of SplitMix64).
pub(super) fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Who waits for a message to be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A connection of this worker, and the bytes of its message.
    Connection(ConnectionId, usize),
    /// Another worker, whose request holds a credit of this many bytes.
    Worker(WorkerId, usize),
    /// A thread that is no worker, whose message holds a credit of this many bytes.
    Outside(usize),
    /// The server itself: the scheduled message of this number.
    Schedule(u64),
    /// The server itself: one of the messages of an announcement, of so many bytes.
    Announcement(usize),
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Published {
    /// It has its offset.
    Taken,
    /// It waits in the topic's queue; its sender is named in [`Homes::released`] once it was taken, or dropped for its time.
    Held,
    /// The topic does not exist and no further one may be created. The message is dropped.
    TooManyTopics,
    /// Its time was over when it came. The message is dropped; if its publisher wants to know, it is in
    /// [`Homes::receipted`].
    TooLate,
}

/// The number of topics is at its bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyTopics;

/// A range of a log that one subscription must not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Except {
    /// Whose subscription.
    pub connection: ConnectionId,
    /// First position left out.
    pub from: Position,
    /// First position after the range.
    pub to: Position,
    /// Messages in it.
    pub messages: u32,
}

/// What a worker must know of single messages in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// One subscription must not get some.
    Except(Except),
    /// Somebody wants to know what becomes of one.
    Report(ReportRequest),
}

/// What the publisher of a message wants to know of each lane: how many subscriptions have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportRequest {
    /// Who wants to know.
    pub receipt: Receipt,
    /// The place behind the message.
    pub end: Mark,
    /// Whose subscription does not get it.
    pub exclude: Option<ConnectionId>,
}

/// What a worker learns of a log: how far it may read, with the right to do so.
#[derive(Clone, Debug)]
pub struct Head {
    /// The worker's lane.
    pub lane: Key,
    /// The topic at its home, for the floors that come back.
    pub topic: Key,
    /// The topic's life.
    pub epoch: Epoch,
    /// What it was told the last time. A lane that hears of the log for the first time begins here.
    pub from: Mark,
    /// All before it may be read.
    pub head: Mark,
    /// What was appended since the last time.
    pub extents: SmallVec<[Extent; 1]>,
    /// What must be known of single messages before they are sent.
    pub notes: Vec<Note>,
    /// A publisher waits until this has been swept.
    pub hurried: bool,
}

impl Head {
    /// Takes in a newer one for the same lane, so that both are one piece of mail.
    pub fn conflate(&mut self, newer: Head) {
        self.topic = newer.topic;
        self.epoch = newer.epoch;
        self.head = newer.head;
        for extent in newer.extents {
            match self.extents.last_mut() {
                Some(last) if last.start().position == extent.start().position => *last = extent,
                _ => self.extents.push(extent),
            }
        }
        self.notes.extend(newer.notes);
        self.hurried |= newer.hurried;
    }
}

/// What a subscriber that comes back, or wants some of the past, gets.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The topic's life.
    pub epoch: Epoch,
    /// The message before the first that follows, of the replay or of the live log.
    pub behind: Offset,
    /// Where the replay ends and the live log begins: a place in the log of the subscriber's encoding.
    pub head: Mark,
    /// Whether a place was named to go on behind, and all that came after it follows.
    pub recovered: bool,
    /// Runs of whole units.
    pub runs: Vec<Run>,
}

/// Why a message is not taken now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NotYet {
    /// A log that is read is as far ahead as it may be.
    Window,
    /// All logs together are at their bound.
    LogFull,
}

struct Slot {
    generation: u32,
    topic: Option<Topic>,
}

/// Bounds of the topics of one worker.
#[derive(Clone)]
pub struct Limits {
    /// Ticks after which an idle topic vanishes.
    pub idle: u32,
    /// All topics of the process.
    pub topics: Arc<Gauge>,
    /// Bytes of all logs of the process.
    pub logs: Arc<Gauge>,
    /// What holds for each topic.
    pub rules: Arc<Rules>,
    /// Topics that are remembered after they have vanished.
    pub stones: usize,
    /// Ticks for which they are.
    pub stone_ticks: u32,
    /// Idempotency keys that are remembered.
    pub keys: usize,
    /// Ticks for which they are.
    pub key_ticks: u32,
}

/// The topics whose home one worker is.
pub struct Homes {
    limits: Limits,
    names: HashMap<TopicName, u32, FixedState>,
    slots: Vec<Slot>,
    /// What a new slot's generations begin with: none of a slot that was here before comes again.
    first_generation: u32,
    free: Vec<u32>,
    /// Per worker: topics whose head in an encoding it has not been told.
    dirty: Vec<Vec<(Key, Encoding)>>,
    released: Vec<Sender>,
    receipted: Vec<Receipted>,
    live: VecDeque<(Tick, Key)>,
    idle: VecDeque<(Tick, Key)>,
    /// Topics whose next message found the logs' bound reached.
    starved: VecDeque<Key>,
    /// Topics with a history.
    aging: VecDeque<(Tick, Key)>,
    /// Topics that hold a message back which is dropped at some time.
    timed: Vec<Key>,
    stones: Stones,
    keys: Keys,
    encoder: SharedEncoder,
    /// What the message that is being taken is in other encodings.
    scratch: Scratch,
    time: UnixTime,
    epochs: u64,
    taken: u64,
    late: u64,
}

impl Homes {
    /// No topics yet, on one of `workers` workers. Hashes and epochs depend on `seed`.
    pub fn new(limits: Limits, encoder: SharedEncoder, workers: usize, seed: u64) -> Homes {
        Homes {
            stones: Stones::new(limits.stones, limits.stone_ticks, seed),
            keys: Keys::new(limits.keys, limits.key_ticks, seed),
            limits,
            names: HashMap::with_hasher(FixedState::with_seed(seed)),
            slots: Vec::new(),
            first_generation: 0,
            free: Vec::new(),
            dirty: (0..workers).map(|_| Vec::new()).collect(),
            released: Vec::new(),
            receipted: Vec::new(),
            live: VecDeque::new(),
            idle: VecDeque::new(),
            starved: VecDeque::new(),
            aging: VecDeque::new(),
            timed: Vec::new(),
            encoder,
            scratch: Scratch::default(),
            time: UnixTime::default(),
            epochs: scramble(seed),
            taken: 0,
            late: 0,
        }
    }

    /// Topics that live here.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no topic lives here.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What time it is for messages that come now.
    pub fn set_time(&mut self, time: UnixTime) {
        self.time = time;
    }

    /// What time it is for messages.
    pub fn time(&self) -> UnixTime {
        self.time
    }

    /// Slots that topics may be in.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("the bound on topics is a u32")
    }

    /// The topic in a slot, if any worker has subscriptions to it.
    pub fn subscribed_in(&self, slot: u32) -> Option<&TopicName> {
        let topic = self.slots.get(slot as usize)?.topic.as_ref()?;
        (!topic.interests.is_empty()).then_some(&topic.name)
    }

    /// Messages that got an offset here since this was last asked.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.taken)
    }

    /// Messages that were dropped here for their time since this was last asked.
    pub fn take_late_count(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    /// Publishes one message: appends it, or keeps it until the window has room.
    pub fn publish(
        &mut self,
        name: &TopicName,
        unit: Unit<'_>,
        delivery: Delivery,
        sender: Sender,
        now: Tick,
    ) -> Published {
        if let Some(place) = self.known(name, &delivery, now) {
            self.receipted.extend(delivery.receipted(Ok(place)));
            return Published::Taken;
        }
        if delivery.is_late(now) {
            self.late += 1;
            self.receipted.extend(delivery.receipted(Err(NotPublished::TooLate)));
            return Published::TooLate;
        }
        let Ok(key) = self.find_or_create(name, now) else { return Published::TooManyTopics };
        let topic = self.slots[key.index as usize].topic.as_mut().expect("just found");
        if topic.held.is_none() && topic.has_room(unit.bytes().len()) {
            match self.take(key, &unit, &delivery, now) {
                Ok(()) => return Published::Taken,
                Err(NotYet::LogFull) => self.starve(key),
                Err(NotYet::Window) => self.hurry(key),
            }
        } else if topic.held.is_none() {
            self.hurry(key);
        }
        let is_timed = delivery.until.is_some();
        let held = Held { unit: unit.into_owned(), delivery, sender };
        let topic = self.topic_mut(key).expect("just found");
        let held_back = topic.held.get_or_insert_default();
        held_back.messages.push_back(held);
        if is_timed && !std::mem::replace(&mut held_back.listed_timed, true) {
            self.timed.push(key);
        }
        Published::Held
    }

    /// Where the message is that came with the same idempotency key before.
    fn known(&self, name: &TopicName, delivery: &Delivery, now: Tick) -> Option<Place> {
        let key = delivery.extras.as_ref()?.idempotency_key.as_deref()?;
        self.keys.find(name, key, now)
    }

    /// A worker has its first subscription to a topic, or wants to hear of it again: creates the topic if
    /// need be. The worker's first [`Head`] says where its view begins.
    ///
    /// # Errors
    /// [`TooManyTopics`]
    pub fn join(
        &mut self,
        name: &TopicName,
        encoding: Encoding,
        worker: WorkerId,
        lane: Key,
        now: Tick,
    ) -> Result<(), TooManyTopics> {
        let key = self.find_or_create(name, now)?;
        self.topic_mut(key).expect("just found").join(encoding, worker, lane);
        self.dirty[worker.index()].push((key, encoding));
        Ok(())
    }

    /// What a subscriber of `worker` gets of a topic's past before the live log. The worker has joined, and is told of the head
    /// before or with this. `None`: it has left since.
    pub fn replay(
        &mut self,
        name: &TopicName,
        encoding: Encoding,
        start: Start,
        now: Tick,
    ) -> Option<Replay> {
        let &index = self.names.get(name)?;
        let Homes { slots, limits, encoder, time, .. } = self;
        let topic = slots[index as usize].topic.as_mut()?;
        let head = topic.encoded(encoding)?.log.head();
        topic.active_at = now;
        let making =
            Making { topic: &topic.name, epoch: topic.epoch, encoder: &**encoder, gauge: &limits.logs };
        let mut found = |start| match (&mut topic.history, start) {
            (_, Start::Head) => Some((head.offset, Vec::new())),
            (Some(history), start) => {
                let from = history.behind(start, making.epoch, *time)?;
                Some((from.offset, history.replay(encoding, from, &making, *time).ok()?))
            }
            // Without a history nothing is missed only where nothing was published.
            (None, Start::Behind { epoch, offset, .. }) => {
                (epoch == making.epoch && offset == head.offset).then(|| (offset, Vec::new()))
            }
            (None, Start::Newest(_)) => None,
        };
        let (wanted, recovered) = match (found(start), start) {
            (Some(found), Start::Behind { .. }) => (Some(found), true),
            (None, Start::Behind { or_newest, .. }) => (found(Start::Newest(or_newest)), false),
            (found, _) => (found, false),
        };
        let (behind, runs) = wanted.unwrap_or((head.offset, Vec::new()));
        Some(Replay { epoch: making.epoch, behind, head, recovered, runs })
    }

    /// Hands messages of a topic's history to `visit`, as long as that wants more: each with its number, its bytes in the
    /// canonical encoding, and its tags. Gives the topic's life and its last message; `None` if nothing was ever
    /// published to it that anybody remembers.
    ///
    /// # Errors
    /// See [`NoPage`].
    pub fn page(
        &self,
        name: &TopicName,
        request: &PageRequest,
        visit: impl FnMut(Offset, &[u8], Option<&str>) -> bool,
    ) -> Result<Option<Place>, NoPage> {
        if self.limits.rules.rule_for(name).history.is_none() {
            return Err(NoPage::NoHistory);
        }
        let Some(&index) = self.names.get(name) else {
            let stone = self.stones.look(name);
            let place = stone.map(|stone| Place { epoch: stone.epoch, offset: stone.last });
            return request.check_end(place).map(|()| place);
        };
        let topic = self.slots[index as usize].topic.as_ref().expect("named topics exist");
        let place = Place { epoch: topic.epoch, offset: topic.last() };
        request.check_end(Some(place))?;
        let history = topic.history.as_ref().ok_or(NoPage::NoHistory)?;
        history.page(request, self.time, visit)?;
        Ok(Some(place))
    }

    /// Forgets what was published to a topic so far. Its numbers go on.
    pub fn remove_history(&mut self, name: &TopicName) {
        let Some(&index) = self.names.get(name) else { return };
        let topic = self.slots[index as usize].topic.as_mut().expect("named topics exist");
        if let Some(history) = &mut topic.history {
            history.clear();
        }
    }

    /// A worker has no more subscriptions to a topic.
    pub fn leave(&mut self, name: &TopicName, worker: WorkerId, lane: Key, now: Tick) {
        let Some(&index) = self.names.get(name) else { return };
        let key = Key { index, generation: self.slots[index as usize].generation };
        let topic = self.topic_mut(key).expect("named topics exist");
        topic.leave(worker, lane);
        topic.active_at = now;
        if topic.interests.is_empty() && !topic.listed_idle {
            topic.listed_idle = true;
            self.idle.push_back((now, key));
        }
        self.take_held(key, now);
    }

    /// A worker's swept subscriptions all have what lies before `floor`.
    pub fn raise_floor(&mut self, key: Key, worker: WorkerId, lane: Key, floor: Mark, now: Tick) {
        let Some(topic) = self.topic_mut(key) else { return };
        if topic.raise_floor(worker, lane, floor) && topic.held.is_some() {
            self.take_held(key, now);
        }
    }

    /// The topics that `worker` must be told of, to be asked for one by one with [`Homes::head_for`].
    pub fn dirty(&mut self, worker: WorkerId) -> &mut Vec<(Key, Encoding)> {
        &mut self.dirty[worker.index()]
    }

    /// What `worker` has not been told of a topic's log in an encoding. It counts as told.
    pub fn head_for(&mut self, key: Key, encoding: Encoding, worker: WorkerId) -> Option<Head> {
        self.topic_mut(key)?.head_for(key, encoding, worker)
    }

    /// Senders whose held message was taken, or dropped for its time; the caller empties the list.
    pub fn released(&mut self) -> &mut Vec<Sender> {
        &mut self.released
    }

    /// What became of messages whose publishers want to know; the caller empties the list.
    pub fn receipted(&mut self) -> &mut Vec<Receipted> {
        &mut self.receipted
    }

    /// Whether there are any.
    pub fn has_receipts(&self) -> bool {
        !self.receipted.is_empty()
    }

    /// What is due ten times a second: quiet topics let go of their segments, idle ones vanish, messages
    /// that found the logs full are tried again.
    pub fn tick(&mut self, now: Tick) {
        for _ in 0..self.starved.len() {
            let Some(key) = self.starved.pop_front() else { break };
            if let Some(topic) = self.topic_mut(key) {
                topic.listed_starved = false;
            }
            self.take_held(key, now);
        }
        self.forget(now);
        self.keys.tick(now);
        if !self.timed.is_empty() {
            let mut timed = std::mem::take(&mut self.timed);
            // A topic that held nothing back for a moment is listed again.
            timed.sort_unstable_by_key(|key| (key.index, key.generation));
            timed.dedup();
            timed.into_iter().for_each(|key| self.drop_late(key, now));
        }
        // Where memory is short, what nobody needs any more is not kept for the next message.
        let quiet = if self.starved.is_empty() { QUIET } else { 0 };
        for _ in 0..self.live.len() {
            let Some(&(_, key)) = self.live.front().filter(|(since, _)| now.since(*since) >= quiet) else {
                break;
            };
            self.live.pop_front();
            self.quieten(key, quiet, now);
        }
        while let Some(&(since, key)) = self.idle.front()
            && now.since(since) >= self.limits.idle
        {
            self.idle.pop_front();
            self.retire(key, now);
        }
    }

    /// Lets go of the tables' memory that topics had which have gone, where that is most of it; says whether there was
    /// any. Looks at every slot, so it is for once in a while.
    pub fn shrink(&mut self) -> bool {
        if !mostly_unused(self.names.len(), self.names.capacity().max(self.slots.capacity())) {
            return false;
        }
        let used = self.slots.iter().rposition(|slot| slot.topic.is_some()).map_or(0, |last| last + 1);
        if used == self.slots.len() {
            return false;
        }
        let newest = self.slots[used..].iter().map(|slot| slot.generation).max();
        self.first_generation = newest.map_or(0, |newest| newest + 1).max(self.first_generation);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.free.retain(|&index| (index as usize) < used);
        self.free.shrink_to_fit();
        self.names.shrink_to(2 * self.names.len());
        self.idle.shrink_to(2 * self.idle.len());
        self.live.shrink_to(2 * self.live.len());
        self.aging.shrink_to(2 * self.aging.len());
        self.dirty.iter_mut().for_each(|dirty| dirty.shrink_to(2 * dirty.len()));
        true
    }

    /// What must be true between two turns. For simulations.
    ///
    /// # Errors
    /// What is not so.
    pub fn audit(&self) -> Result<(), String> {
        for topic in self.slots.iter().filter_map(|slot| slot.topic.as_ref()) {
            let ((bytes, messages), name, window) = (topic.ahead(), &topic.name, topic.window());
            if messages > window.messages.max(1) || (messages > 1 && bytes > window.bytes) {
                return Err(format!("{name} is {bytes} bytes, {messages} messages ahead of its floor"));
            }
            let first =
                topic.held.as_ref().map(|held| held.messages.front().map_or(0, |held| held.unit.len()));
            let has_room = first.is_some_and(|first| topic.has_room(first)) && topic.is_canonical_only();
            if has_room && !topic.listed_starved {
                return Err(format!("{name} has room, and holds messages back"));
            }
        }
        Ok(())
    }

    fn quieten(&mut self, key: Key, quiet: u32, now: Tick) {
        let Some(topic) = self.topic_mut(key) else { return };
        let posted = topic.interests.iter().all(|interest| !interest.dirty);
        if now.since(topic.active_at) >= quiet && posted {
            topic.release();
            topic.listed_live = false;
        } else {
            let since = if posted { topic.active_at } else { now };
            self.live.push_back((since, key));
        }
    }

    fn retire(&mut self, key: Key, now: Tick) {
        let (idle, time) = (self.limits.idle, self.time);
        let Some(topic) = self.topic_mut(key) else { return };
        if let Some(history) = &mut topic.history {
            history.expire(time);
        }
        let has_past = topic.history.as_ref().is_some_and(|history| !history.is_empty());
        if !topic.interests.is_empty() {
            topic.listed_idle = false;
        } else if has_past {
            self.idle.push_back((now, key));
        } else if now.since(topic.active_at) >= idle && topic.held.is_none() {
            let name = topic.name.clone();
            let stone = Stone { epoch: topic.epoch, last: topic.last() };
            if topic.history.is_some() && stone.last > Mark::START.offset {
                self.stones.lay(name.clone(), stone, now);
            }
            self.names.remove(&name);
            let slot = &mut self.slots[key.index as usize];
            slot.topic = None;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(key.index);
        } else {
            let since = topic.active_at.max(Tick(now.0 - idle + 1));
            self.idle.push_back((since, key));
        }
    }

    fn topic_mut(&mut self, key: Key) -> Option<&mut Topic> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.topic.as_mut() } else { None }
    }

    fn find_or_create(&mut self, name: &TopicName, now: Tick) -> Result<Key, TooManyTopics> {
        if let Some(&index) = self.names.get(name) {
            return Ok(Key { index, generation: self.slots[index as usize].generation });
        }
        let charge = self.limits.topics.charge(1).ok_or(TooManyTopics)?;
        self.epochs = self.epochs.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let new = Stone { epoch: Epoch::new(scramble(self.epochs)), last: Mark::START.offset };
        let Stone { epoch, last } = self.stones.take(name, now).unwrap_or(new);
        let rule = Arc::clone(self.limits.rules.rule_for(name));
        let mut topic = Topic::new(name.clone(), epoch, last, rule, now, charge);
        topic.listed_idle = true;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: self.first_generation, topic: None });
            u32::try_from(self.slots.len() - 1).expect("the bound on topics is a u32")
        });
        let slot = &mut self.slots[index as usize];
        slot.topic = Some(topic);
        let key = Key { index, generation: slot.generation };
        self.names.insert(name.clone(), index);
        self.idle.push_back((now, key));
        Ok(key)
    }

    /// Gives a message its place.
    fn take(&mut self, key: Key, unit: &Unit<'_>, delivery: &Delivery, now: Tick) -> Result<(), NotYet> {
        match &delivery.extras {
            None => self.append(key, unit, delivery, None, now),
            Some(extras) => self.take_with(extras, key, unit, delivery, now),
        }
    }

    /// The same for one of which more is asked.
    #[cold]
    fn take_with(
        &mut self,
        extras: &Arc<Extras>,
        key: Key,
        unit: &Unit<'_>,
        delivery: &Delivery,
        now: Tick,
    ) -> Result<(), NotYet> {
        let topic = self.topic_mut(key).expect("the caller found it");
        let (name, has_history) = (topic.name.clone(), topic.history.is_some());
        // It may have been held behind the first one with its key.
        if let Some(place) = self.known(&name, delivery, now) {
            self.receipted.extend(delivery.receipted(Ok(place)));
            return Ok(());
        }
        let noted = Noted::of(extras).filter(|_| has_history);
        let charge = match &noted {
            Some(noted) => Some(self.limits.logs.charge(noted.bytes()).ok_or(NotYet::LogFull)?),
            None => None,
        };
        self.append(key, unit, delivery, extras.tags.as_deref(), now)?;
        let topic = self.topic_mut(key).expect("still there");
        let place = Place { epoch: topic.epoch, offset: topic.last() };
        if let (Some(history), Some(noted), Some(charge)) = (&mut topic.history, noted, charge) {
            history.note_message(place.offset, noted, charge);
        }
        if let Some(receipt) = delivery.receipt.filter(|_| extras.report) {
            let lanes = topic.ask_for_reports(receipt, delivery.exclude);
            // Its receipt was made just now.
            if let Some(receipted) = self.receipted.last_mut() {
                receipted.reports = lanes;
            }
        }
        if let Some(key) = &extras.idempotency_key {
            self.keys.remember(name, key.clone(), place, now);
        }
        Ok(())
    }

    fn append(
        &mut self,
        key: Key,
        unit: &Unit<'_>,
        delivery: &Delivery,
        tags: Option<&str>,
        now: Tick,
    ) -> Result<(), NotYet> {
        let Homes { slots, limits, dirty, live, aging, receipted, taken, encoder, scratch, time, .. } = self;
        let (topic, time) = (slots[key.index as usize].topic.as_mut().expect("the caller found it"), *time);
        let logs = &limits.logs;
        let kept = topic.keeps();
        let units = if topic.is_plain() && topic.canonical.log.append(unit, now, time, logs).is_ok() {
            Units::default()
        } else if kept {
            let units = topic.encode(unit.bytes(), time, tags, &**encoder, scratch);
            topic.append(unit, units, now, time, limits)?;
            units
        } else {
            topic.canonical.log.pass();
            Units::default()
        };
        // Not before: a topic that finds the logs full must become quiet, and let go of what it has.
        topic.active_at = now;
        *taken += 1;
        if let Some(receipt) = delivery.receipt {
            receipted.push(topic.receipted(receipt));
        }
        if !kept {
            return Ok(());
        }
        if !std::mem::replace(&mut topic.listed_live, true) {
            live.push_back((now, key));
        }
        if topic.history.is_some() && !std::mem::replace(&mut topic.listed_aging, true) {
            aging.push_back((now, key));
        }
        topic.tell(|worker, encoding| dirty[worker.index()].push((key, encoding)));
        if let Some(connection) = delivery.exclude {
            topic.leave_out(connection, unit.bytes().len(), units);
        }
        Ok(())
    }

    /// Lets go of what histories keep no longer, and of more where the logs are nearly full: publishers come first.
    fn forget(&mut self, now: Tick) {
        let time = self.time;
        let logs = Arc::clone(&self.limits.logs);
        let is_full = || logs.used() >= logs.max() / 8 * 7;
        // Whose message is longer than what is left waits even where the logs are not nearly full.
        let mut starved = !self.starved.is_empty();
        for _ in 0..self.aging.len() {
            let Some(&(since, key)) = self.aging.front() else { break };
            if !starved && !is_full() && now.since(since) < AGING {
                break;
            }
            self.aging.pop_front();
            let Some(topic) = self.topic_mut(key) else { continue };
            let Some(history) = &mut topic.history else { continue };
            history.expire(time);
            while (starved || is_full()) && history.shrink() {
                starved = false;
            }
            if history.is_empty() {
                topic.listed_aging = false;
            } else {
                self.aging.push_back((now, key));
            }
        }
        self.stones.tick(now);
    }

    /// Its next message found the logs full: it is tried again at each tick.
    fn starve(&mut self, key: Key) {
        let topic = self.topic_mut(key).expect("the caller found it");
        if !std::mem::replace(&mut topic.listed_starved, true) {
            self.starved.push_back(key);
        }
    }

    /// Drops the messages that a topic holds back and whose time is over.
    fn drop_late(&mut self, key: Key, now: Tick) {
        let Some(topic) = self.topic_mut(key) else { return };
        let Some(held_back) = &mut topic.held else { return };
        let (mut senders, mut receipts) = (Vec::new(), Vec::new());
        held_back.messages.retain(|held| {
            let is_late = held.delivery.is_late(now);
            if is_late {
                senders.push(held.sender);
                receipts.extend(held.delivery.receipted(Err(NotPublished::TooLate)));
            }
            !is_late
        });
        held_back.listed_timed = held_back.messages.iter().any(|held| held.delivery.until.is_some());
        if held_back.listed_timed {
            self.timed.push(key);
        } else if held_back.messages.is_empty() {
            topic.held = None;
        }
        if senders.is_empty() {
            return;
        }
        self.late += senders.len() as u64;
        self.released.append(&mut senders);
        self.receipted.append(&mut receipts);
        // What is behind them may have been waiting for nothing else.
        self.take_held(key, now);
    }

    /// Its next message found the window full: lanes that wait for the end of an interval must not.
    fn hurry(&mut self, key: Key) {
        let Homes { slots, dirty, .. } = self;
        let topic = slots[key.index as usize].topic.as_mut().expect("the caller found it");
        topic.hurry(|worker, encoding| dirty[worker.index()].push((key, encoding)));
    }

    /// Takes what waits, as far as the window allows.
    fn take_held(&mut self, key: Key, now: Tick) {
        loop {
            let Some(topic) = self.topic_mut(key) else { return };
            let Some(held_back) = &mut topic.held else { return };
            let Some(first) = held_back.messages.pop_front() else {
                topic.held = None;
                return;
            };
            let (has_room, name) = (topic.has_room(first.unit.len()), topic.name.clone());
            // One that is known already needs no room.
            if !has_room && self.known(&name, &first.delivery, now).is_none() {
                let topic = self.topic_mut(key).expect("still there");
                topic.held.get_or_insert_default().messages.push_front(first);
                self.hurry(key);
                return;
            }
            match self.take(key, &Unit::Owned(first.unit.clone()), &first.delivery, now) {
                Ok(()) => self.released.push(first.sender),
                Err(why) => {
                    match why {
                        NotYet::LogFull => self.starve(key),
                        NotYet::Window => self.hurry(key),
                    }
                    let topic = self.topic_mut(key).expect("still there");
                    topic.held.get_or_insert_default().messages.push_front(first);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
