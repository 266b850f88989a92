//! A worker's lanes and the subscriptions in them, found by topic and by connection.
//!
//! Pure bookkeeping: who subscribes to what and sits where. What is sent when is the sweep's.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::quality::FixedState;
use slab::Slab;

use super::interval::Pace;
use crate::broker::{
    encoding::Encoding,
    home::{Except, mostly_unused},
    ids::{Epoch, Key, Mark, Position, Tick, WorkerId},
    lane::{Entry, Lane, Seat},
    log::View,
    name::TopicName,
    rules::{Rule, SlowConsumer},
};

/// No subscription: the end of a connection's list.
pub const NONE: u32 = u32::MAX;

/// What [`Subscription::next_gathered`] is while the subscription is not gathered.
const APART: u32 = u32::MAX;

/// One connection's subscription to one lane.
#[derive(Debug)]
pub struct Subscription {
    /// The connection's slot.
    pub connection: u32,
    /// The lane's index.
    pub lane: u32,
    /// The connection's next subscription, or [`NONE`].
    pub next: u32,
    /// The one gathered after it, around the ring of those that its connection has gathered.
    next_gathered: u32,
    /// `None` while the lane does not know yet where its log is, or the connection opens.
    pub seat: Option<Seat>,
}

/// A lane and what the worker knows of its topic.
#[derive(Debug)]
pub struct LaneRecord {
    /// The subscriptions and the log.
    pub lane: Lane,
    /// The topic's name, shared with all who hold it here.
    pub name: TopicName,
    /// What holds for the topic.
    pub rule: Arc<Rule>,
    /// Whose units its log has.
    pub encoding: Encoding,
    /// The topic's life, as the last head had it.
    pub epoch: Epoch,
    /// Who orders it.
    pub home: WorkerId,
    /// The topic at its home; `None` until the first head has come.
    pub topic: Option<Key>,
    /// Tells this record from others at the same index.
    pub generation: u32,
    /// Of a topic with a least time between deliveries.
    pub pace: Option<Box<Pace>>,
    /// In the queue of lanes to sweep.
    pub queued: bool,
    /// The floor that the home was told.
    pub floor_sent: Mark,
    /// Subscriptions that wait for the first head, or for their connection to open. A set, since all of them may be reset at once.
    pub waiting: BTreeSet<u32>,
    /// When the head last moved, or the last subscription went.
    pub active_at: Tick,
    /// When lags were last looked at.
    pub checked_at: Tick,
    /// In the list of lanes that may have segments, or may go.
    pub listed: bool,
}

impl LaneRecord {
    /// Whether subscribers get the newest message only.
    #[inline]
    pub fn is_latest(&self) -> bool {
        self.rule.slow_consumer == SlowConsumer::Latest
    }

    /// Whether what is new may wait, and all but the newest message of it can be let go of.
    pub fn keeps_newest_only(&self) -> bool {
        self.is_latest() && self.pace.is_some()
    }

    /// The log begins here, as far as this worker is concerned.
    pub fn begin(&mut self, head: Mark) {
        self.lane = Lane::new(head);
        if self.pace.is_some() {
            self.lane.hold_laps();
        }
    }

    /// Subscriptions, those that wait included.
    pub fn subscriptions(&self) -> usize {
        self.lane.len() + self.waiting.len()
    }
}

/// A range of a lane's log that a subscription must not get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// Its first position.
    pub from: Position,
    /// The first position after it.
    pub to: Position,
    /// Messages in it that are left out.
    pub messages: u32,
}

/// See the head of this file.
pub struct Lanes {
    records: Slab<LaneRecord>,
    names: HashMap<(TopicName, Encoding), u32, FixedState>,
    generations: u32,
    behind: usize,
    /// All subscriptions of this worker.
    pub subscriptions: Slab<Subscription>,
    /// Those that wait for some of the past, and the number of their question.
    recovering: HashMap<u32, u32, FixedState>,
    tickets: u32,
    /// Ranges to leave out, for the few subscriptions that have some; oldest first.
    pub holes: HashMap<u32, std::collections::VecDeque<Hole>, FixedState>,
}

impl Lanes {
    /// None yet; hashes depend on `seed`.
    pub fn new(seed: u64) -> Lanes {
        Lanes {
            records: Slab::new(),
            names: HashMap::with_hasher(FixedState::with_seed(seed)),
            generations: 0,
            behind: 0,
            subscriptions: Slab::new(),
            recovering: HashMap::with_hasher(FixedState::with_seed(seed)),
            tickets: 0,
            holes: HashMap::with_hasher(FixedState::with_seed(seed)),
        }
    }

    /// Indices of all lanes.
    pub fn indices(&self) -> Vec<u32> {
        self.records
            .iter()
            .map(|(index, _)| u32::try_from(index).expect("lanes are fewer than u32 counts"))
            .collect()
    }

    /// Number of lanes.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Subscriptions in the part behind, of all lanes.
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// Bytes that a subscription has before it.
    pub fn lag_bytes(&self, subscription: u32) -> u64 {
        let subscription = &self.subscriptions[subscription as usize];
        let lane = &self.records[subscription.lane as usize].lane;
        let entry = subscription.seat.map(|seat| lane.entry(seat)).filter(|entry| !entry.lost);
        entry.map_or(0, |entry| lane.view.head().position.since(entry.position))
    }

    /// The lane of a topic in an encoding.
    pub fn find(&self, name: &TopicName, encoding: Encoding) -> Option<u32> {
        self.names.get(&(name.clone(), encoding)).copied()
    }

    /// The lanes of a topic, in whatever encodings.
    pub fn all_of(&self, name: &TopicName) -> impl Iterator<Item = u32> {
        (0..Encoding::BOUND).filter_map(|encoding| self.find(name, Encoding(encoding)))
    }

    /// A new lane whose log is not known yet.
    pub fn create(
        &mut self,
        name: TopicName,
        rule: Arc<Rule>,
        encoding: Encoding,
        home: WorkerId,
        now: Tick,
    ) -> u32 {
        self.generations = self.generations.wrapping_add(1);
        let mut record = LaneRecord {
            lane: Lane::new(Mark::START),
            name: name.clone(),
            pace: rule.min_interval.map(|interval| Box::new(Pace::new(interval))),
            rule,
            encoding,
            epoch: Epoch(0),
            home,
            topic: None,
            generation: self.generations,
            queued: false,
            floor_sent: Mark::START,
            waiting: BTreeSet::new(),
            active_at: now,
            checked_at: now,
            listed: false,
        };
        record.begin(Mark::START);
        let index = u32::try_from(self.records.insert(record)).expect("lanes are fewer than u32 counts");
        self.names.insert((name, encoding), index);
        index
    }

    /// Removes a lane, which must have no subscriptions.
    pub fn remove(&mut self, index: u32) -> LaneRecord {
        let record = self.records.remove(index as usize);
        debug_assert_eq!(record.subscriptions(), 0);
        self.names.remove(&(record.name.clone(), record.encoding));
        record
    }

    /// Lets go of the tables' memory that lanes and subscriptions had which have gone, where that is most of it; says
    /// whether there was any.
    pub fn shrink(&mut self) -> bool {
        let before = self.capacity();
        if mostly_unused(self.records.len(), self.records.capacity().max(self.names.capacity())) {
            self.records.shrink_to_fit();
            self.names.shrink_to(2 * self.names.len());
        }
        if mostly_unused(self.subscriptions.len(), self.subscriptions.capacity()) {
            self.subscriptions.shrink_to_fit();
        }
        self.capacity() < before
    }

    /// Of the tables together.
    fn capacity(&self) -> usize {
        self.records.capacity() + self.names.capacity() + self.subscriptions.capacity()
    }

    /// The lane at an index that is in use.
    pub fn at(&mut self, index: u32) -> &mut LaneRecord {
        &mut self.records[index as usize]
    }

    /// The log at an index that is in use.
    #[inline]
    pub fn view(&self, index: u32) -> &View {
        &self.records[index as usize].lane.view
    }

    /// The lane at an index, if it is in use.
    pub fn get(&mut self, index: u32) -> Option<&mut LaneRecord> {
        self.records.get_mut(index as usize)
    }

    /// The name by which another worker can name a lane.
    pub fn key(&self, index: u32) -> Key {
        Key { index, generation: self.records[index as usize].generation }
    }

    /// The lane of that name, if it still is.
    pub fn by_key(&mut self, key: Key) -> Option<&mut LaneRecord> {
        self.records.get_mut(key.index as usize).filter(|record| record.generation == key.generation)
    }

    /// The lane of a subscription that has a seat, and the seat.
    pub fn seat(&mut self, subscription: u32) -> Option<(u32, Seat)> {
        let subscription = &self.subscriptions[subscription as usize];
        subscription.seat.map(|seat| (subscription.lane, seat))
    }

    /// The subscription of a connection to a lane; `first` heads the connection's list.
    pub fn of_connection(&self, first: u32, lane: u32) -> Option<u32> {
        self.list(first).find(|&subscription| self.subscriptions[subscription as usize].lane == lane)
    }

    /// The topic of a subscription.
    pub fn name_of(&self, subscription: u32) -> &TopicName {
        &self.records[self.subscriptions[subscription as usize].lane as usize].name
    }

    /// A connection's subscriptions.
    pub fn list(&self, first: u32) -> impl Iterator<Item = u32> {
        std::iter::successors((first != NONE).then_some(first), |&at| {
            let next = self.subscriptions[at as usize].next;
            (next != NONE).then_some(next)
        })
    }

    /// A new subscription at the front of the connection's list. It waits for its seat.
    pub fn subscribe(&mut self, connection: u32, lane: u32, first: &mut u32) -> u32 {
        let subscription = Subscription { connection, lane, next: *first, next_gathered: APART, seat: None };
        let key = u32::try_from(self.subscriptions.insert(subscription)).expect("subscriptions are u32");
        *first = key;
        self.records[lane as usize].waiting.insert(key);
        key
    }

    /// A subscription waits for some of the past: gives the number of its question.
    pub fn ask(&mut self, key: u32) -> u32 {
        self.tickets = self.tickets.wrapping_add(1);
        self.recovering.insert(key, self.tickets);
        self.tickets
    }

    /// The answer to a question has come: true if somebody still waits for it.
    pub fn answered(&mut self, key: u32, ticket: u32) -> bool {
        let is_awaited = self.recovering.get(&key) == Some(&ticket);
        if is_awaited {
            self.recovering.remove(&key);
        }
        is_awaited
    }

    /// Whether a subscription waits for some of the past.
    pub fn is_recovering(&self, key: u32) -> bool {
        self.recovering.contains_key(&key)
    }

    /// Whether a subscription has its place in the log.
    pub fn is_seated(&self, key: u32) -> bool {
        self.subscriptions[key as usize].seat.is_some()
    }

    /// Seats a subscription that gets all from the lane's head on.
    pub fn seat_at_head(&mut self, key: u32) {
        let head = self.records[self.subscriptions[key as usize].lane as usize].lane.view.head();
        self.seat_with(key, head, Lane::insert_swept);
    }

    /// Seats a subscription that gets all from a place on, once something else has left: it begins behind.
    pub fn seat_behind(&mut self, key: u32, from: Mark) {
        self.seat_with(key, from, Lane::insert_behind);
        self.behind += 1;
        let Some(holes) = self.holes.get_mut(&key) else { return };
        holes.retain(|hole| hole.from >= from.position);
        if holes.is_empty() {
            self.holes.remove(&key);
        } else if let Some((lane, seat)) = self.seat(key) {
            self.records[lane as usize].lane.entry_mut(seat).holes = true;
        }
    }

    fn seat_with(&mut self, key: u32, from: Mark, insert: impl FnOnce(&mut Lane, Entry) -> Seat) {
        let subscription = &mut self.subscriptions[key as usize];
        let record = &mut self.records[subscription.lane as usize];
        record.waiting.remove(&key);
        let entry = Entry {
            position: from.position,
            offset_low: low(from),
            connection: subscription.connection,
            subscription: key,
            holes: false,
            lost: false,
            round: 0,
        };
        subscription.seat = Some(insert(&mut record.lane, entry));
    }

    /// Moves a swept subscription to the part behind.
    pub fn demote(&mut self, key: u32) {
        let (lane, seat) = self.seat(key).expect("a seated subscription");
        let entry = self.take_out(lane, seat);
        let seat = self.records[lane as usize].lane.insert_behind(entry);
        self.behind += 1;
        self.subscriptions[key as usize].seat = Some(seat);
    }

    /// Moves a subscription from the part behind to the swept part, to be visited in the lap under way.
    /// Gives its lane.
    pub fn rejoin(&mut self, key: u32) -> u32 {
        let (lane, seat) = self.seat(key).expect("a seated subscription");
        let entry = self.take_out(lane, seat);
        let Lanes { records, subscriptions, .. } = self;
        let seat = records[lane as usize]
            .lane
            .rejoin(entry, |moved, seat| subscriptions[moved as usize].seat = Some(seat));
        subscriptions[key as usize].seat = Some(seat);
        lane
    }

    /// Puts a swept subscription behind those that its connection has gathered, of which `last` is the newest.
    pub fn gather(&mut self, key: u32, last: &mut u32) {
        let Lanes { records, subscriptions, .. } = self;
        if link_gathered(subscriptions, key, last) {
            let subscription = &subscriptions[key as usize];
            let seat = subscription.seat.expect("what is gathered has a seat");
            records[subscription.lane as usize].lane.gather(seat);
        }
    }

    /// A lane, beside all subscriptions.
    pub fn lane_and_subscriptions(&mut self, lane: u32) -> (&mut Lane, &mut Slab<Subscription>) {
        (&mut self.records[lane as usize].lane, &mut self.subscriptions)
    }

    /// Takes the oldest of those that a connection has gathered; gives its lane and seat as well.
    pub fn take_gathered(&mut self, last: &mut u32) -> Option<(u32, u32, Seat)> {
        let oldest = self.subscriptions.get(*last as usize)?.next_gathered;
        let taken = self.take_gathered_after(*last, oldest, last);
        Some((oldest, taken.0, taken.1))
    }

    /// Takes one subscription out of those that its connection has gathered, if it is among them.
    pub fn ungather(&mut self, key: u32, last: &mut u32) {
        if self.subscriptions[key as usize].next_gathered == APART {
            return;
        }
        let mut before = *last;
        while self.subscriptions[before as usize].next_gathered != key {
            before = self.subscriptions[before as usize].next_gathered;
        }
        self.take_gathered_after(before, key, last);
    }

    /// Those that a connection has gathered, oldest first.
    pub fn gathered(&self, last: u32) -> impl Iterator<Item = u32> {
        let next = |at: u32| self.subscriptions[at as usize].next_gathered;
        let first = (last != NONE).then(|| next(last));
        std::iter::successors(first, move |&at| (at != last).then(|| next(at)))
    }

    #[inline]
    fn take_gathered_after(&mut self, before: u32, key: u32, last: &mut u32) -> (u32, Seat) {
        let taken = &mut self.subscriptions[key as usize];
        let next = std::mem::replace(&mut taken.next_gathered, APART);
        let place = (taken.lane, taken.seat.expect("what is gathered has a seat"));
        self.records[place.0 as usize].lane.release_gathered(place.1);
        if key == before {
            *last = NONE;
            return place;
        }
        self.subscriptions[before as usize].next_gathered = next;
        if key == *last {
            *last = before;
        }
        place
    }

    /// Removes a subscription that is not gathered; gives its lane. The caller takes it out of the connection's
    /// list.
    pub fn unsubscribe(&mut self, key: u32) -> u32 {
        debug_assert_eq!(self.subscriptions[key as usize].next_gathered, APART);
        self.holes.remove(&key);
        self.recovering.remove(&key);
        match self.seat(key) {
            Some((lane, seat)) => {
                self.take_out(lane, seat);
            }
            None => {
                let lane = self.subscriptions[key as usize].lane;
                self.records[lane as usize].waiting.remove(&key);
            }
        }
        self.subscriptions.remove(key as usize).lane
    }

    /// The last subscription of a connection's list becomes the first: sockets that take little must not serve
    /// the same topic first each time.
    pub fn rotate(&mut self, first: &mut u32) {
        let Some(last) = self.list(*first).last().filter(|last| last != first) else { return };
        let before = self.list(*first).find(|&at| self.subscriptions[at as usize].next == last);
        self.subscriptions[before.expect("the list has two or more") as usize].next = NONE;
        self.subscriptions[last as usize].next = std::mem::replace(first, last);
    }

    /// Takes the holes before `until` from a subscription; gives the messages in them.
    pub fn messages_left_out(&mut self, subscription: u32, until: Position) -> u32 {
        let Some(holes) = self.holes.get_mut(&subscription) else { return 0 };
        let mut messages = 0;
        while let Some(hole) = holes.front_mut().filter(|hole| hole.from < until) {
            if hole.to > until {
                // Only the newest unit begins inside of a hole, and it is the hole's last.
                messages += hole.messages - 1;
                (hole.from, hole.messages) = (until, 1);
                break;
            }
            messages += hole.messages;
            holes.pop_front();
        }
        messages
    }

    /// A range that a subscription must not get, behind those that it has.
    pub fn add_hole(&mut self, subscription: u32, except: Except) {
        let holes = self.holes.entry(subscription).or_default();
        match holes.back_mut() {
            Some(last) if last.to == except.from => {
                last.to = except.to;
                last.messages += except.messages;
            }
            _ => holes.push_back(Hole { from: except.from, to: except.to, messages: except.messages }),
        }
    }

    /// Makes one of all holes but the last: what lies between them will be passed over as well.
    pub fn merge_old_holes(&mut self, subscription: u32) {
        let Some(holes) = self.holes.get_mut(&subscription) else { return };
        while holes.len() > 2 {
            let second = holes.remove(1).expect("there are three");
            holes[0].to = second.to;
            holes[0].messages += second.messages;
        }
        holes.shrink_to(4);
    }

    fn take_out(&mut self, lane: u32, seat: Seat) -> Entry {
        let Lanes { records, subscriptions, behind, .. } = self;
        *behind -= usize::from(matches!(seat, Seat::Behind(_)));
        records[lane as usize]
            .lane
            .remove(seat, |moved, seat| subscriptions[moved as usize].seat = Some(seat))
    }
}

/// Puts a subscription behind those that its connection has gathered, of which `last` is the newest. False: it is one
/// of them already.
#[inline]
pub fn link_gathered(subscriptions: &mut Slab<Subscription>, key: u32, last: &mut u32) -> bool {
    let next = &mut subscriptions[key as usize].next_gathered;
    if *next != APART {
        return false;
    }
    *next = key;
    if *last != NONE {
        let first = std::mem::replace(&mut subscriptions[*last as usize].next_gathered, key);
        subscriptions[key as usize].next_gathered = first;
    }
    *last = key;
    true
}

/// The low bits of a mark's offset, as an entry has them.
pub fn low(mark: Mark) -> u32 {
    (mark.offset.0 & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;

    /// As the flags' defaults say.
    pub fn rule() -> Arc<Rule> {
        Arc::clone(Config::default().rules().all().next().expect("one for all topics"))
    }

    /// A connection with a subscription to each of `count` lanes.
    fn several(count: u32) -> (Lanes, Vec<u32>) {
        let (mut lanes, mut first) = (Lanes::new(0), NONE);
        let keys = (0..count)
            .map(|at| {
                let lane = lanes.create(
                    TopicName::parse(&at.to_string()).unwrap(),
                    rule(),
                    Encoding::CANONICAL,
                    WorkerId(0),
                    Tick(0),
                );
                lanes.subscribe(7, lane, &mut first)
            })
            .collect();
        (lanes, keys)
    }

    #[test]
    fn what_is_gathered_first_leaves_first_whoever_goes_meanwhile() {
        let (mut lanes, keys) = several(5);
        let take = |lanes: &mut Lanes, last: &mut u32| lanes.take_gathered(last).map(|(key, ..)| key);
        let mut last = NONE;
        keys.iter().for_each(|&key| lanes.seat_at_head(key));
        assert_eq!(take(&mut lanes, &mut last), None);
        for &key in &keys {
            lanes.gather(key, &mut last);
            lanes.gather(key, &mut last);
        }
        assert_eq!(lanes.at(0).lane.gathered(), 1, "nobody is gathered twice");
        for gone in [keys[0], keys[2], keys[4]] {
            lanes.ungather(gone, &mut last);
            lanes.ungather(gone, &mut last);
        }
        assert_eq!(take(&mut lanes, &mut last), Some(keys[1]));
        lanes.gather(keys[2], &mut last);
        assert_eq!(take(&mut lanes, &mut last), Some(keys[3]));
        lanes.gather(keys[3], &mut last);
        lanes.ungather(keys[3], &mut last);
        assert_eq!(take(&mut lanes, &mut last), Some(keys[2]));
        assert_eq!((take(&mut lanes, &mut last), last), (None, NONE));
        for lane in lanes.indices() {
            assert_eq!(lanes.at(lane).lane.gathered(), 0);
        }
    }

    #[test]
    fn tables_shrink_once_whoever_stays() {
        const LANES: u32 = 20_000;
        let mut lanes = Lanes::new(0);
        let mut create = |at: u32| {
            lanes.create(
                TopicName::parse(&at.to_string()).unwrap(),
                rule(),
                Encoding::CANONICAL,
                WorkerId(0),
                Tick(0),
            )
        };
        let all: Vec<u32> = (0..LANES).map(&mut create).collect();
        assert!(!lanes.shrink());
        // The last one holds the records of all before it.
        all[1..all.len() - 1].iter().for_each(|&lane| _ = lanes.remove(lane));
        assert!(lanes.shrink(), "the names");
        assert!(!lanes.shrink());
        lanes.remove(all[all.len() - 1]);
        assert!(lanes.shrink(), "the records");
        assert!(!lanes.shrink() && lanes.capacity() < 100, "{}", lanes.capacity());
    }

    #[test]
    fn subscriptions_that_wait_can_all_go_at_once() {
        // With a list that is searched for each of them this takes seconds, in which the worker does nothing else.
        const WAITING: u32 = 100_000;
        let mut lanes = Lanes::new(0);
        let lane =
            lanes.create(TopicName::parse("new").unwrap(), rule(), Encoding::CANONICAL, WorkerId(1), Tick(0));
        let keys: Vec<u32> = (0..WAITING).map(|slot| lanes.subscribe(slot, lane, &mut { NONE })).collect();
        for &key in keys.iter().filter(|&key| key % 1000 != 1) {
            assert_eq!(lanes.unsubscribe(key), lane);
        }
        let left: Vec<u32> = lanes.at(lane).waiting.iter().copied().collect();
        assert_eq!(left, (0..WAITING).filter(|key| key % 1000 == 1).collect::<Vec<_>>());
        assert_eq!((lanes.at(lane).subscriptions(), lanes.subscriptions.len()), (100, 100));
    }
}
