//! Homes, lanes and views under any series of operations, against a naive model: each topic is a list of messages, each
//! subscriber the number of those that it has got.
//!
//! What must hold: a subscriber reads the model's messages, from where it began, in order, without those that it is
//! excluded from; a message is taken exactly if the window and the logs have room, and what is held is taken later in
//! order; whoever rests has all; and when all is over the gauges stand at 0.
//!
//! The first byte is the number of workers, then each operation has three: what, where (worker and topic), how much.

mod lane;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use stentor::broker::{
    encoding::{Encoder, Encoding, Stamp},
    home::{Delivery, Head, Homes, Limits, Note, Published, Sender},
    ids::{ConnectionId, Epoch, Key, Mark, Tick, WorkerId},
    lane::Lane,
    limits::{Gauge, Window},
    log::{LARGE_BYTES, Unit},
    name::TopicName,
    rules::{Rule, Rules, SlowConsumer},
};

use lane::{LaneRecord, Message, Subscriber};

const TOPICS: usize = 3;
/// So the third one is refused.
const TOPICS_MAX: usize = 2;
const WINDOW: Window = Window { bytes: 48 * 1024, messages: 24 };
/// Room for a few large messages.
const LOG_BYTES_MAX: usize = 400_000;
/// The largest segment.
const SEGMENT_BYTES: usize = 256 * 1024;
const IDLE: u32 = 30;
const OPERATIONS_MAX: usize = 400;

/// What the model knows of a topic, as its home must see it.
#[derive(Default)]
struct Topic {
    /// Those with an offset, in this life; while nobody is interested, perhaps of earlier ones too.
    messages: Vec<Message>,
    /// With the number that its sender carries.
    held: VecDeque<(u32, Message)>,
    epoch: Option<Epoch>,
    /// Known since the first head of this interest.
    head: Option<Mark>,
    /// Workers that joined: their lane, and their floor if it is known.
    interests: BTreeMap<usize, (Key, Option<Mark>)>,
}

impl Topic {
    fn take(&mut self, message: Message) {
        if let Some(head) = &mut self.head {
            head.position = head.position.advanced(message.bytes.len());
            head.offset.0 += 1;
        }
        self.messages.push(message);
    }

    /// Whether a message fits the window; `None` while a floor is not known.
    fn has_room(&self, len: usize) -> Option<bool> {
        let mut room = true;
        for (_, floor) in self.interests.values() {
            let (floor, head) = ((*floor)?, self.head?);
            let ahead = head.position.since(floor.position);
            room &= ahead == 0
                || (ahead + len as u64 <= WINDOW.bytes && head.offset.since(floor.offset) < WINDOW.messages);
        }
        Some(room)
    }
}

enum Control {
    Join(usize, Key),
    Leave(usize, Key),
    Refused(Key),
}

/// From one worker to another, taken whole; heads and floors replace those that wait.
#[derive(Default)]
struct Mail {
    control: Vec<Control>,
    floors: Vec<(Key, Key, Mark)>,
    heads: Vec<Head>,
}

/// Nothing is kept.
fn rules() -> Rules {
    let otherwise = Rule {
        slow_consumer: SlowConsumer::Disconnect,
        // Publishers have a quarter of it.
        lag: Window { bytes: 4 * WINDOW.bytes, messages: 4 * WINDOW.messages },
        max_message_bytes: 1 << 20,
        history: None,
        welcome: None,
        min_interval: None,
    };
    Rules::new([], otherwise)
}

/// Only the canonical encoding is read.
struct Nobody;

impl Encoder for Nobody {
    fn encode(&self, encoding: Encoding, _: &Stamp<'_>, _: &[u8], _: &mut Vec<u8>) {
        panic!("nobody reads {encoding:?}");
    }
}

struct World {
    workers: usize,
    now: Tick,
    homes: Vec<Homes>,
    /// Worker by worker, topic by topic.
    lanes: Vec<[Option<LaneRecord>; TOPICS]>,
    /// From worker `i` to worker `j` at `[i][j]`.
    mail: Vec<Vec<Mail>>,
    topics: [Topic; TOPICS],
    /// Counts lanes, subscribers and messages.
    born: u32,
    topics_gauge: Arc<Gauge>,
    logs_gauge: Arc<Gauge>,
}

fn name(topic: usize) -> TopicName {
    TopicName::parse(["a", "b", "c"][topic]).expect("a valid name")
}

fn id(worker: usize) -> WorkerId {
    WorkerId(u16::try_from(worker).expect("few workers"))
}

impl World {
    fn new(workers: usize) -> World {
        let (topics_gauge, logs_gauge) = (Gauge::new(TOPICS_MAX), Gauge::new(LOG_BYTES_MAX));
        let limits = Limits {
            idle: IDLE,
            topics: Arc::clone(&topics_gauge),
            logs: Arc::clone(&logs_gauge),
            rules: Arc::new(rules()),
            stones: 0,
            stone_ticks: 0,
            keys: 0,
            key_ticks: 0,
        };
        World {
            workers,
            now: Tick(0),
            homes: (0..workers)
                .map(|home| Homes::new(limits.clone(), Arc::new(Nobody), workers, home as u64))
                .collect(),
            lanes: (0..workers).map(|_| Default::default()).collect(),
            mail: (0..workers).map(|_| (0..workers).map(|_| Mail::default()).collect()).collect(),
            topics: Default::default(),
            born: 0,
            topics_gauge,
            logs_gauge,
        }
    }

    fn home(&self, topic: usize) -> usize {
        topic % self.workers
    }

    fn next(&mut self) -> u32 {
        self.born += 1;
        self.born
    }

    fn publish(&mut self, topic: usize, len: usize, exclude: Option<ConnectionId>, owned: bool) {
        let number = self.next();
        let mut bytes = vec![number.to_le_bytes()[0]; len];
        let marked = len.min(4);
        bytes[..marked].copy_from_slice(&number.to_le_bytes()[..marked]);
        let message = Message { bytes, exclude };
        let home = self.home(topic);
        let room = self.topics[topic].has_room(len);
        let logs_may_be_full = self.logs_gauge.used() + SEGMENT_BYTES.max(len) > LOG_BYTES_MAX;
        let nobody_waits = self.topics[topic].held.is_empty();

        let copy = Bytes::copy_from_slice(&message.bytes);
        let unit = if owned { Unit::Owned(copy) } else { Unit::Borrowed(&message.bytes) };
        let connection = ConnectionId { worker: id(home), generation: 0, slot: number };
        let sender = Sender::Connection(connection, len);
        match self.homes[home].publish(&name(topic), unit, Delivery::excluding(exclude), sender, self.now) {
            Published::Taken => {
                assert!(nobody_waits, "nobody overtakes");
                assert_ne!(room, Some(false), "taken beyond the window");
                self.topics[topic].take(message);
            }
            Published::Held => {
                assert!(!nobody_waits || room != Some(true) || logs_may_be_full, "held without need");
                self.topics[topic].held.push_back((number, message));
            }
            Published::TooManyTopics => {
                assert_eq!(self.topics_gauge.used(), TOPICS_MAX);
                assert!(nobody_waits && self.topics[topic].interests.is_empty());
            }
            Published::TooLate => panic!("it may wait for good"),
        }
    }

    /// What the last call of a home has taken of what it held.
    fn release(&mut self, home: usize) {
        for sender in std::mem::take(self.homes[home].released()) {
            let Sender::Connection(connection, len) = sender else { panic!("all senders are connections") };
            let is_next =
                |topic: &&mut Topic| topic.held.front().is_some_and(|(number, _)| *number == connection.slot);
            let topic = self.topics.iter_mut().find(is_next).expect("held messages are taken in order");
            let (_, message) = topic.held.pop_front().expect("looked at just now");
            assert_eq!(message.bytes.len(), len);
            assert_ne!(topic.has_room(len), Some(false), "taken beyond the window");
            topic.take(message);
        }
    }

    fn subscribe(&mut self, worker: usize, topic: usize) {
        if self.lanes[worker][topic].is_none() {
            let key = Key { index: u32::try_from(topic).expect("few topics"), generation: self.next() };
            self.lanes[worker][topic] = Some(LaneRecord::new(key));
            self.control(worker, self.home(topic), Control::Join(topic, key));
        }
        let slot = self.next();
        let Some(record) = &mut self.lanes[worker][topic] else { return };
        let id = ConnectionId { worker: id(worker), generation: 0, slot };
        record.subscribers.insert(slot, Subscriber { id, seat: None, has: 0, holes: Vec::new() });
        if record.topic.is_some() {
            record.seat_at_head(slot);
        }
    }

    fn unsubscribe(&mut self, worker: usize, topic: usize, nth: usize) {
        let Some(record) = &mut self.lanes[worker][topic] else { return };
        let Some(&slot) = record.subscribers.keys().nth(nth % record.subscribers.len().max(1)) else {
            return;
        };
        if let Some(seat) = record.subscribers[&slot].seat {
            record.remove(seat);
        }
        record.subscribers.remove(&slot);
    }

    /// A lane without subscribers goes.
    fn drop_lane(&mut self, worker: usize, topic: usize) {
        if let Some(record) = self.lanes[worker][topic].take_if(|record| record.subscribers.is_empty()) {
            self.control(worker, self.home(topic), Control::Leave(topic, record.key));
        }
    }

    fn control(&mut self, from: usize, to: usize, control: Control) {
        if from == to {
            self.open_control(from, to, &control);
        } else {
            self.mail[from][to].control.push(control);
        }
    }

    fn open_control(&mut self, from: usize, to: usize, control: &Control) {
        match *control {
            Control::Join(topic, lane) => {
                match self.homes[to].join(&name(topic), Encoding::CANONICAL, id(from), lane, self.now) {
                    Ok(()) => drop(self.topics[topic].interests.insert(from, (lane, None))),
                    Err(_) => {
                        assert_eq!(self.topics_gauge.used(), TOPICS_MAX);
                        self.control(to, from, Control::Refused(lane));
                    }
                }
            }
            Control::Leave(topic, lane) => {
                let known = &mut self.topics[topic];
                if known.interests.get(&from).is_some_and(|(key, _)| *key == lane) {
                    known.interests.remove(&from);
                    if known.interests.is_empty() {
                        known.head = None;
                    }
                }
                self.homes[to].leave(&name(topic), id(from), lane, self.now);
                self.release(to);
            }
            Control::Refused(lane) => {
                // Whoever waited for it is told, and gone.
                self.lanes[to][lane.index as usize].take_if(|record| record.key == lane);
            }
        }
    }

    fn raise_floor(&mut self, from: usize, to: usize, topic: Key, lane: Key, floor: Mark) {
        if let Some((key, known)) = self.topics[lane.index as usize].interests.get_mut(&from)
            && *key == lane
        {
            *known = Some(floor);
        }
        self.homes[to].raise_floor(topic, id(from), lane, floor, self.now);
        self.release(to);
    }

    /// What a worker has for others: floors of its lanes, heads of its topics.
    fn post(&mut self, worker: usize) {
        for topic in 0..TOPICS {
            let home = self.home(topic);
            let Some(record) = &mut self.lanes[worker][topic] else { continue };
            let (Some(at_home), key, floor) = (record.topic, record.key, record.lane.floor()) else {
                continue;
            };
            if floor == std::mem::replace(&mut record.floor_sent, floor) {
                continue;
            }
            record.trim();
            if home == worker {
                self.raise_floor(worker, home, at_home, key, floor);
                continue;
            }
            let floors = &mut self.mail[worker][home].floors;
            floors.retain(|(topic, ..)| *topic != at_home);
            floors.push((at_home, key, floor));
        }
        for to in 0..self.workers {
            while let Some((key, encoding)) = self.homes[worker].dirty(id(to)).pop() {
                let Some(head) = self.homes[worker].head_for(key, encoding, id(to)) else { continue };
                self.check_head(&head);
                if to == worker {
                    self.apply_head(to, head);
                    continue;
                }
                let heads = &mut self.mail[worker][to].heads;
                match heads.iter_mut().find(|waiting| waiting.lane == head.lane) {
                    Some(waiting) => waiting.conflate(head),
                    None => heads.push(head),
                }
            }
        }
    }

    fn check_head(&mut self, head: &Head) {
        let topic = &mut self.topics[head.lane.index as usize];
        let count = usize::try_from(head.head.offset.0).expect("few messages");
        if topic.epoch.replace(head.epoch) != Some(head.epoch) {
            // Another life of the topic: what came before it is forgotten.
            let before = topic.messages.len().checked_sub(count).expect("no more than were published");
            topic.messages.drain(..before);
        }
        assert_eq!(topic.messages.len(), count);
        assert_eq!(*topic.head.get_or_insert(head.head), head.head);
    }

    fn apply_head(&mut self, worker: usize, news: Head) {
        let Some(record) = &mut self.lanes[worker][news.lane.index as usize] else { return };
        if record.key != news.lane {
            return;
        }
        if record.topic.replace(news.topic).is_none() {
            record.lane = Lane::new(news.head);
            let waiting: Vec<_> = record.subscribers.keys().copied().collect();
            waiting.into_iter().for_each(|slot| record.seat_at_head(slot));
            return;
        }
        for note in news.notes {
            let Note::Except(except) = note else { panic!("nobody asked for a report") };
            if let Some(subscriber) = record.subscribers.get_mut(&except.connection.slot) {
                subscriber.holes.push(except.from..except.to);
            }
        }
        record.lane.view.apply(news.head, news.extents);
    }

    fn take_mail(&mut self, from: usize, to: usize) {
        let mail = std::mem::take(&mut self.mail[from][to]);
        for control in mail.control {
            self.open_control(from, to, &control);
        }
        for (topic, lane, floor) in mail.floors {
            self.raise_floor(from, to, topic, lane, floor);
        }
        for head in mail.heads {
            self.apply_head(to, head);
        }
    }

    fn visit(&mut self, worker: usize, topic: usize, takes: usize) -> bool {
        let Some(record) = &mut self.lanes[worker][topic] else { return false };
        record.topic.is_some() && record.visit(takes, &self.topics[topic].messages)
    }

    fn tick(&mut self, ticks: u32) {
        self.now = self.now.after(ticks);
        for home in 0..self.workers {
            self.homes[home].tick(self.now);
            self.release(home);
        }
        for record in self.lanes.iter_mut().flatten().flatten() {
            if record.lane.behind().is_empty() && record.lane.next_visit().is_none() {
                record.lane.view.release();
            }
        }
    }

    fn operate(&mut self, [what, place, amount]: [u8; 3]) {
        let (worker, topic) = (usize::from(place) % self.workers, usize::from(place / 16) % TOPICS);
        let amount = usize::from(amount);
        let (owned, policy) = (what & 0x40 != 0, what & 0x80 != 0);
        let exclude = self.lanes[worker][topic]
            .as_ref()
            .and_then(|record| record.subscribers.values().nth(amount % 4))
            .filter(|_| policy)
            .map(|subscriber| subscriber.id);
        match what % 16 {
            0 => self.subscribe(worker, topic),
            1 => self.publish(topic, amount + 1, exclude, owned),
            2 => self.publish(topic, amount * 80 + 1, exclude, owned),
            3 => self.publish(topic, LARGE_BYTES - 64 + amount * 64, exclude, owned),
            4 => drop(self.visit(worker, topic, usize::MAX)),
            5 => drop(self.visit(worker, topic, amount * amount)),
            6 => drop(self.visit(worker, topic, 0)),
            7 => self.lanes[worker][topic].iter_mut().for_each(|record| record.rejoin(amount, policy)),
            8 => self.unsubscribe(worker, topic, amount),
            9 => self.drop_lane(worker, topic),
            10 => self.post(worker),
            11 => self.take_mail(worker, amount % self.workers),
            12 => {
                if let Some(record) = &mut self.lanes[worker][topic] {
                    if policy {
                        record.lose(amount);
                    }
                    record.trim();
                }
            }
            13 => self.tick(u32::from(place % 16) + 1),
            14 => while self.visit(worker, topic, usize::MAX) {},
            _ => (0..amount % 32).for_each(|i| self.publish(topic, i * 7 + 1, exclude, owned)),
        }
    }

    /// All sockets take everything until nothing moves any more.
    fn settle(&mut self) {
        let mut still = 0;
        for _ in 0..10_000 {
            for from in 0..self.workers {
                (0..self.workers).for_each(|to| self.take_mail(from, to));
            }
            still += 1;
            for worker in 0..self.workers {
                for topic in 0..TOPICS {
                    let Some(record) = &mut self.lanes[worker][topic] else { continue };
                    (0..record.lane.behind().len()).for_each(|_| record.rejoin(0, false));
                    while self.visit(worker, topic, usize::MAX) {
                        still = 0;
                    }
                }
                self.post(worker);
            }
            self.tick(1);
            let idle =
                |mail: &Mail| mail.control.is_empty() && mail.floors.is_empty() && mail.heads.is_empty();
            let nothing_waits =
                self.topics.iter().all(|topic| topic.held.is_empty()) && self.mail.iter().flatten().all(idle);
            if !nothing_waits {
                still = 0;
            } else if still > 2 {
                return;
            }
            // What a tick has released is posted in the next turn, and visited in the one after.
        }
        panic!("messages are held for ever");
    }

    fn end(mut self) {
        self.settle();
        for worker in 0..self.workers {
            for topic in 0..TOPICS {
                let Some(record) = &self.lanes[worker][topic] else { continue };
                for subscriber in record.subscribers.values() {
                    assert!(subscriber.seat.is_some(), "whoever subscribes gets a seat or is told");
                    assert_eq!(subscriber.has, self.topics[topic].messages.len() as u64);
                }
                for _ in 0..record.subscribers.len() {
                    self.unsubscribe(worker, topic, 0);
                }
                self.drop_lane(worker, topic);
            }
        }
        self.settle();
        (0..4 * IDLE).for_each(|_| self.tick(1));
        assert!(self.homes.iter().all(Homes::is_empty), "idle topics vanish");
        assert_eq!((self.topics_gauge.used(), self.logs_gauge.used()), (0, 0));
    }
}

/// See the head of this file.
pub fn broker_operations(data: &[u8]) {
    let Some((&workers, operations)) = data.split_first() else { return };
    let mut world = World::new(usize::from(workers % 3) + 1);
    for operation in operations.as_chunks().0.iter().take(OPERATIONS_MAX) {
        world.operate(*operation);
    }
    world.end();
}
