//! A home without workers: what it takes, holds, tells and lets go.

use std::time::Duration;

use super::*;
use crate::broker::{
    encoding::{Encoder, Stamp},
    limits::Window,
    log::View,
    pattern::Pattern,
    rules::{History, Rule, SlowConsumer},
};

const RAW: Encoding = Encoding::CANONICAL;

const HERE: WorkerId = WorkerId(0);
const THERE: WorkerId = WorkerId(1);
const LANE: Key = Key { index: 4, generation: 2 };

fn connection(slot: u32) -> ConnectionId {
    ConnectionId { worker: HERE, generation: 0, slot }
}

fn homes(bytes: u64, messages: u64, topics: usize) -> Homes {
    homes_that_keep(None, bytes, messages, topics)
}

/// Topics but `none` keep so many messages, for a minute.
fn homes_that_keep(kept: Option<u64>, bytes: u64, messages: u64, topics: usize) -> Homes {
    let rule = |kept: Option<u64>| Rule {
        slow_consumer: SlowConsumer::Disconnect,
        // Publishers have a quarter of it.
        lag: Window { bytes: 4 * bytes, messages: 4 * messages },
        max_message_bytes: 1 << 20,
        history: kept.map(|messages| History { messages, age: Duration::from_secs(60), bytes: 1 << 20 }),
        welcome: None,
        min_interval: None,
    };
    let none = (Pattern::parse("none").unwrap(), rule(None));
    let rules = Arc::new(Rules::new([none], rule(kept)));
    let limits = Limits {
        idle: 600,
        topics: Gauge::new(topics),
        logs: Gauge::new(1 << 20),
        rules,
        stones: 10,
        stone_ticks: 10_000,
        keys: 10,
        key_ticks: 100,
    };
    Homes::new(limits, Arc::new(Labels), 2, 42)
}

/// Encoding `n` of a message: its number, and its bytes `n` times.
struct Labels;

impl Encoder for Labels {
    fn encode(&self, encoding: Encoding, stamp: &Stamp<'_>, unit: &[u8], out: &mut Vec<u8>) {
        out.extend(format!("<{} {} {}", stamp.topic, stamp.offset.0, stamp.tags.unwrap_or_default()).bytes());
        (0..encoding.0).for_each(|_| out.extend_from_slice(unit));
        out.push(b'>');
    }
}

fn name(text: &str) -> TopicName {
    TopicName::parse(text).unwrap()
}

fn publish(homes: &mut Homes, text: &[u8], at: u32) -> Published {
    homes.publish(
        &name("t"),
        Unit::Borrowed(text),
        Delivery::default(),
        Sender::Connection(connection(9), 0),
        Tick(at),
    )
}

fn news(homes: &mut Homes, worker: WorkerId) -> Head {
    let (key, encoding) = homes.dirty(worker).pop().expect("the worker must be told");
    homes.head_for(key, encoding, worker).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of hashes, and no pointer")]
fn a_home_is_stable_and_spread() {
    let counts = (0..4000).fold([0; 4], |mut counts, i| {
        let topic = name(&format!("room/{i}"));
        assert_eq!(home_of(&topic, 4, 7), home_of(&topic, 4, 7));
        counts[home_of(&topic, 4, 7).index()] += 1;
        counts
    });
    assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
}

#[test]
fn interested_workers_are_told_once_per_post() {
    let mut homes = homes(1000, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.join(&name("t"), RAW, THERE, LANE, Tick(0)).unwrap();
    assert_eq!(news(&mut homes, HERE).head, Mark::START);
    assert_eq!(publish(&mut homes, b"one", 0), Published::Taken);
    assert_eq!(publish(&mut homes, b"two", 0), Published::Taken);
    for worker in [HERE, THERE] {
        let head = news(&mut homes, worker);
        assert_eq!((head.lane, head.head.offset), (LANE, Offset(2)));
        let mut view = View::new(Mark::START);
        view.apply(head.head, head.extents);
        assert_eq!(view.first_run(Position::START), b"onetwo");
        assert!(homes.dirty(worker).is_empty());
    }
}

#[test]
fn conflated_heads_are_as_good_as_two() {
    let mut homes = homes(1_000_000, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    let mut first = news(&mut homes, HERE);
    for text in [vec![1; 600], vec![2; 600], vec![3; 10]] {
        publish(&mut homes, &text, 0);
        first.conflate(news(&mut homes, HERE));
    }
    let mut view = View::new(Mark::START);
    view.apply(first.head, first.extents);
    assert_eq!(view.runs(Position::START).map(<[u8]>::len).sum::<usize>(), 1210);
}

#[test]
fn beyond_the_window_messages_wait_in_order_until_the_floor_rises() {
    let mut homes = homes(10, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.join(&name("t"), RAW, THERE, LANE, Tick(0)).unwrap();
    assert_eq!(publish(&mut homes, b"a message longer than the window", 0), Published::Taken);
    assert_eq!(publish(&mut homes, b"next", 0), Published::Held);
    assert_eq!(publish(&mut homes, b"last", 0), Published::Held);
    let head = news(&mut homes, HERE);
    homes.raise_floor(head.topic, HERE, LANE, head.head, Tick(0));
    assert!(homes.released().is_empty(), "the other worker has not swept it");
    homes.raise_floor(head.topic, THERE, LANE, head.head, Tick(0));
    assert_eq!(homes.released().len(), 2);
    let head = news(&mut homes, HERE);
    let mut view = View::new(head.head);
    view.apply(head.head, head.extents);
    let text: Vec<u8> = view.runs(view.tail()).flatten().copied().collect();
    assert!(text.ends_with(b"nextlast"));
}

#[test]
fn the_window_counts_messages_too() {
    let mut homes = homes(1000, 2, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    assert_eq!(publish(&mut homes, b"1", 0), Published::Taken);
    assert_eq!(publish(&mut homes, b"2", 0), Published::Taken);
    assert_eq!(publish(&mut homes, b"3", 0), Published::Held);
    homes.leave(&name("t"), HERE, LANE, Tick(0));
    assert_eq!(homes.released().len(), 1, "nobody is left to wait for");
}

#[test]
fn an_excluded_connection_is_told_to_its_worker_alone_and_ranges_merge() {
    let mut homes = homes(1000, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.join(&name("t"), RAW, THERE, LANE, Tick(0)).unwrap();
    for (text, exclude) in [("ab", Some(3)), ("cd", Some(3)), ("ef", None), ("gh", Some(3))] {
        let exclude = exclude.map(connection);
        let sender = Sender::Connection(connection(3), 0);
        homes.publish(
            &name("t"),
            Unit::Borrowed(text.as_bytes()),
            Delivery::excluding(exclude),
            sender,
            Tick(0),
        );
    }
    let at = |n| Position(Position::START.0 + n);
    let except = |from, to, messages| {
        Note::Except(Except { connection: connection(3), from: at(from), to: at(to), messages })
    };
    assert_eq!(news(&mut homes, HERE).notes, [except(0, 4, 2), except(6, 8, 1)]);
    assert!(news(&mut homes, THERE).notes.is_empty());
}

#[test]
fn topics_are_bounded_and_vanish_when_idle() {
    let mut homes = homes(1000, 100, 2);
    let sender = Sender::Connection(connection(0), 0);
    let to = |homes: &mut Homes, topic: &str, at| {
        homes.publish(&name(topic), Unit::Borrowed(b"x"), Delivery::default(), sender, Tick(at))
    };
    assert_eq!(to(&mut homes, "a", 0), Published::Taken);
    assert_eq!(to(&mut homes, "b", 0), Published::Taken);
    assert_eq!(to(&mut homes, "c", 0), Published::TooManyTopics);
    assert_eq!(homes.join(&name("c"), RAW, HERE, LANE, Tick(0)), Err(TooManyTopics));
    assert_eq!(to(&mut homes, "b", 300), Published::Taken);
    homes.tick(Tick(599));
    assert_eq!(homes.len(), 2);
    homes.tick(Tick(600));
    assert_eq!(homes.len(), 1, "a is gone");
    assert_eq!(to(&mut homes, "c", 600), Published::Taken);
    (601..=900).for_each(|at| homes.tick(Tick(at)));
    assert_eq!(homes.len(), 1, "b is gone, too");
}

#[test]
fn a_topic_with_subscribers_stays_and_an_old_key_finds_nobody() {
    let mut homes = homes(1000, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    let old = news(&mut homes, HERE);
    (0..2000).for_each(|at| homes.tick(Tick(at)));
    assert_eq!(homes.len(), 1);
    homes.leave(&name("t"), HERE, LANE, Tick(2000));
    (2000..2700).for_each(|at| homes.tick(Tick(at)));
    assert!(homes.is_empty());
    publish(&mut homes, b"x", 2700);
    assert!(homes.head_for(old.topic, RAW, HERE).is_none());
}

#[test]
fn a_quiet_topic_holds_no_segment() {
    let mut homes = homes(1000, 100, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    publish(&mut homes, b"x", 5);
    drop(news(&mut homes, HERE));
    (5..15).for_each(|at| homes.tick(Tick(at)));
    assert_eq!(homes.limits.logs.used(), 1024);
    homes.tick(Tick(15));
    assert_eq!(homes.limits.logs.used(), 0);
}

#[test]
fn messages_without_a_reader_take_no_memory() {
    let mut homes = homes(1000, 100, 10);
    assert_eq!(publish(&mut homes, b"x", 0), Published::Taken);
    assert_eq!(homes.limits.logs.used(), 0);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    assert_eq!(news(&mut homes, HERE).head.offset, Offset(1));
}

#[test]
fn full_logs_hold_publishers_back_until_memory_returns() {
    let mut homes = homes(1 << 30, 1000, 10);
    homes.limits.logs = Gauge::new(40_000);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    assert_eq!(publish(&mut homes, &[0; 33_000], 0), Published::Taken);
    assert_eq!(publish(&mut homes, &[0; 33_000], 0), Published::Held);
    homes.tick(Tick(1));
    assert!(homes.released().is_empty());
    drop(news(&mut homes, HERE));
    homes.tick(Tick(2));
    assert_eq!(homes.released().len(), 1);
}

#[test]
fn an_idle_topic_is_small() {
    assert!(size_of::<Slot>() <= 176, "{}", size_of::<Slot>());
}

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of topics, and no pointer")]
fn topics_that_have_gone_leave_no_memory_and_their_names_find_nobody() {
    const TOPICS: u32 = 20_000;
    let mut homes = homes(1000, 100, TOPICS as usize);
    let create = |homes: &mut Homes, i: u32, at: u32| {
        let sender = Sender::Connection(connection(9), 0);
        homes.publish(&name(&format!("t/{i}")), Unit::Borrowed(b"x"), Delivery::default(), sender, Tick(at));
        homes.find_or_create(&name(&format!("t/{i}")), Tick(at)).unwrap()
    };
    let old: Vec<Key> = (0..TOPICS).map(|i| create(&mut homes, i, 0)).collect();
    // One in the middle stays.
    homes.join(&name("t/777"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.tick(Tick(1000));
    homes.tick(Tick(2000));
    assert_eq!(homes.len(), 1);
    assert!(homes.shrink());
    assert!(!homes.shrink(), "there is nothing more");
    let (slots, names) = (homes.slots.capacity(), homes.names.capacity());
    assert!(slots <= 778 && names < 100 && homes.free.capacity() < 800, "{slots} slots, {names} names");
    assert!(homes.idle.capacity() < 1000 && homes.topic_mut(old[777]).is_some());
    // The slots are used again, under names that nobody has.
    let new: Vec<Key> = (0..TOPICS).map(|i| create(&mut homes, i, 2000)).collect();
    assert_eq!(new[777], old[777]);
    let stale = old.iter().filter(|&&key| key != old[777] && homes.topic_mut(key).is_some()).count();
    assert_eq!((homes.len(), stale), (TOPICS as usize, 0));
}

#[test]
#[cfg_attr(miri, ignore = "tens of thousands of topics, and no pointer")]
fn generations_only_rise_however_often_slots_go() {
    let mut homes = homes(1000, 100, 30_000);
    let named = |i: u32| name(&format!("t/{i}"));
    let mut at = 0;
    let mut pass = |homes: &mut Homes| {
        for _ in 0..3 {
            at += 1000;
            homes.tick(Tick(at));
        }
        Tick(at)
    };
    (0..5000).for_each(|i| homes.join(&named(i), RAW, HERE, LANE, Tick(0)).unwrap());
    let (mut stale, mut now) = (Vec::new(), Tick(0));
    for _ in 0..3 {
        stale.extend((5000..20_000).map(|i| homes.find_or_create(&named(i), now).unwrap()));
        now = pass(&mut homes);
    }
    // The slots that are left last are the ones with fewest owners.
    (0..4999).for_each(|i| homes.leave(&named(i), HERE, LANE, now));
    now = pass(&mut homes);
    homes.shrink();
    homes.leave(&named(4999), HERE, LANE, now);
    now = pass(&mut homes);
    homes.shrink();
    assert_eq!((homes.len(), homes.slots.len()), (0, 0));
    (0..20_000).for_each(|i| _ = homes.find_or_create(&named(i), now).unwrap());
    assert_eq!(stale.iter().filter(|&&key| homes.topic_mut(key).is_some()).count(), 0);
}

const JSON: Encoding = Encoding(2);
const OTHER_LANE: Key = Key { index: 5, generation: 2 };

/// All that a worker was told of a log, in the order of its heads.
fn read_all(view: &View) -> String {
    let text = view.runs(view.tail()).flatten().copied().collect();
    String::from_utf8(text).unwrap()
}

#[test]
fn each_encoding_that_is_read_has_all_messages_in_one_order() {
    let mut homes = homes(1000, 100, 10);
    publish(&mut homes, b"nobody reads this", 0);
    homes.join(&name("t"), JSON, HERE, OTHER_LANE, Tick(0)).unwrap();
    let first = news(&mut homes, HERE);
    assert_eq!((first.from, first.head.offset), (first.head, Offset(1)));
    publish(&mut homes, b"a", 0);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.join(&name("t"), RAW, THERE, LANE, Tick(0)).unwrap();
    publish(&mut homes, b"b", 0);
    let sender = Sender::Connection(connection(3), 0);
    homes.publish(
        &name("t"),
        Unit::Borrowed(b"c"),
        Delivery::excluding(Some(connection(3))),
        sender,
        Tick(0),
    );
    let mut heads: Vec<Head> = (0..2).map(|_| news(&mut homes, HERE)).collect();
    heads.sort_by_key(|head| head.lane.index);
    let read = |head: &Head| {
        let mut view = View::new(head.from);
        view.apply(head.head, head.extents.clone());
        assert_eq!(head.head.offset, Offset(4));
        assert_eq!(head.notes.len(), usize::from(head.lane == LANE || head.lane == OTHER_LANE));
        let Note::Except(except) = head.notes[0] else { panic!("no report was asked for") };
        let left_out = view.first_run(except.from)[..except.to.since(except.from) as usize].to_vec();
        (read_all(&view), String::from_utf8(left_out).unwrap())
    };
    assert_eq!(read(&heads[0]), ("bc".into(), "c".into()));
    assert_eq!(read(&heads[1]), ("<t 2 aa><t 3 bb><t 4 cc>".into(), "<t 4 cc>".into()));
    assert!(news(&mut homes, THERE).notes.is_empty());
    // Who reads no more costs nothing more.
    homes.leave(&name("t"), HERE, OTHER_LANE, Tick(0));
    publish(&mut homes, b"d", 0);
    assert_eq!(news(&mut homes, HERE).lane, LANE);
    assert!(homes.dirty(HERE).is_empty());
}

#[test]
fn the_slowest_reader_of_any_encoding_holds_publishers_back() {
    let mut homes = homes(1 << 20, 2, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    homes.join(&name("t"), JSON, HERE, OTHER_LANE, Tick(0)).unwrap();
    assert_eq!(
        [1, 2, 3].map(|_| publish(&mut homes, b"x", 0)),
        [Published::Taken, Published::Taken, Published::Held]
    );
    let heads = [news(&mut homes, HERE), news(&mut homes, HERE)];
    homes.raise_floor(heads[0].topic, HERE, heads[0].lane, heads[0].head, Tick(0));
    assert!(homes.released().is_empty());
    homes.raise_floor(heads[1].topic, HERE, heads[1].lane, heads[1].head, Tick(0));
    assert_eq!(homes.released().len(), 1);
}

fn replayed(homes: &mut Homes, topic: &str, encoding: Encoding, start: Start) -> (Replay, String) {
    let replay = homes.replay(&name(topic), encoding, start, Tick(0)).unwrap();
    let text = String::from_utf8(replay.runs.iter().map(Run::bytes).collect::<Vec<_>>().concat()).unwrap();
    (replay, text)
}

#[test]
fn a_replay_ends_where_the_live_log_begins() {
    let mut homes = homes_that_keep(Some(3), 1000, 100, 10);
    (0..5).for_each(|_| _ = publish(&mut homes, b"x", 0));
    assert!(homes.replay(&name("t"), JSON, Start::Newest(9), Tick(0)).is_none(), "nobody has joined");
    homes.join(&name("t"), JSON, HERE, LANE, Tick(0)).unwrap();
    let first = news(&mut homes, HERE);
    publish(&mut homes, b"y", 0);
    let (replay, text) = replayed(&mut homes, "t", JSON, Start::Newest(9));
    assert_eq!((replay.recovered, replay.behind, &*text), (false, Offset(3), "<t 4 xx><t 5 xx><t 6 yy>"));
    publish(&mut homes, b"z", 0);
    let second = news(&mut homes, HERE);
    let mut view = View::new(first.from);
    view.apply(second.head, second.extents);
    assert_eq!(view.first_run(replay.head.position), b"<t 7 zz>");
    let (lost, text) = replayed(
        &mut homes,
        "t",
        JSON,
        Start::Behind { epoch: replay.epoch, offset: Offset(1), or_newest: 2 },
    );
    assert_eq!((lost.recovered, lost.behind, &*text), (false, Offset(5), "<t 6 yy><t 7 zz>"));
    let (all, text) = replayed(
        &mut homes,
        "t",
        JSON,
        Start::Behind { epoch: replay.epoch, offset: Offset(6), or_newest: 2 },
    );
    assert_eq!((all.recovered, all.behind, &*text), (true, Offset(6), "<t 7 zz>"));
}

#[test]
fn without_a_history_only_who_has_missed_nothing_recovers() {
    let mut homes = homes_that_keep(Some(3), 1000, 100, 10);
    homes.join(&name("none"), JSON, HERE, LANE, Tick(0)).unwrap();
    let epoch = replayed(&mut homes, "none", JSON, Start::Head).0.epoch;
    assert!(
        replayed(&mut homes, "none", JSON, Start::Behind { epoch, offset: Offset(0), or_newest: 2 })
            .0
            .recovered
    );
    let sender = Sender::Connection(connection(0), 0);
    homes.publish(&name("none"), Unit::Borrowed(b"x"), Delivery::default(), sender, Tick(0));
    assert!(
        !replayed(&mut homes, "none", JSON, Start::Behind { epoch, offset: Offset(0), or_newest: 2 })
            .0
            .recovered
    );
    assert!(!replayed(&mut homes, "none", JSON, Start::Newest(1)).0.recovered);
}

#[test]
fn a_topic_that_comes_back_goes_on_with_its_numbers() {
    let mut homes = homes_that_keep(Some(3), 1000, 100, 10);
    publish(&mut homes, b"x", 0);
    homes.join(&name("t"), JSON, HERE, LANE, Tick(0)).unwrap();
    let epoch = news(&mut homes, HERE).epoch;
    homes.leave(&name("t"), HERE, LANE, Tick(0));
    for at in 1..2000 {
        homes.set_time(UnixTime(u64::from(at) * 100));
        homes.tick(Tick(at));
    }
    assert!(homes.is_empty(), "its messages are too old, and nobody is there");
    assert_eq!(homes.limits.logs.used(), 0);
    homes.join(&name("t"), JSON, HERE, LANE, Tick(2000)).unwrap();
    assert!(
        replayed(&mut homes, "t", JSON, Start::Behind { epoch, offset: Offset(1), or_newest: 2 }).0.recovered,
        "nothing was missed"
    );
    publish(&mut homes, b"y", 2000);
    let (replay, text) =
        replayed(&mut homes, "t", JSON, Start::Behind { epoch, offset: Offset(1), or_newest: 2 });
    assert_eq!((replay.recovered, &*text), (true, "<t 2 yy>"));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of messages, and no pointer")]
fn histories_give_way_to_publishers() {
    let mut homes = homes_that_keep(Some(1000), 1 << 30, 1000, 10);
    homes.limits.logs = Gauge::new(64 * 1024);
    let mut held = 0;
    for at in 0..20 {
        for _ in 0..100 {
            held += usize::from(publish(&mut homes, &[b'x'; 1000], at) == Published::Held);
        }
        homes.tick(Tick(at));
    }
    (20..100).for_each(|at| homes.tick(Tick(at)));
    assert_eq!(homes.released().len(), held, "all were taken, and the oldest were let go of");
    homes.join(&name("t"), JSON, HERE, LANE, Tick(100)).unwrap();
    assert_eq!(news(&mut homes, HERE).head.offset, Offset(2000));
}

fn asking(number: u32, until: Option<u32>, extras: Extras) -> Delivery {
    let receipt = Some(Receipt { connection: connection(1), number });
    let extras = (extras != Extras::default()).then(|| Arc::new(extras));
    Delivery { exclude: None, receipt, until: until.map(Tick), extras }
}

fn publish_asking(homes: &mut Homes, text: &[u8], delivery: Delivery, at: u32) -> Published {
    homes.publish(&name("t"), Unit::Borrowed(text), delivery, Sender::Announcement(0), Tick(at))
}

/// Numbers of messages and the offsets that they have got.
fn receipts(homes: &mut Homes) -> Vec<(u32, Result<u64, NotPublished>)> {
    let outcome = |receipted: Receipted| receipted.outcome.map(|place| place.offset.0);
    homes.receipted().drain(..).map(|receipted| (receipted.receipt.number, outcome(receipted))).collect()
}

#[test]
fn what_finds_no_room_in_time_is_dropped_and_what_is_behind_it_goes_on() {
    let mut homes = homes(100, 1, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    let publish = |homes: &mut Homes, number, until, at| {
        publish_asking(homes, b"x", asking(number, until, Extras::default()), at)
    };
    assert_eq!(publish(&mut homes, 1, Some(5), 0), Published::Taken);
    assert_eq!(publish(&mut homes, 2, Some(20), 0), Published::Held);
    // It comes from far away, and its time is over before that of the first one.
    assert_eq!(publish(&mut homes, 3, Some(10), 0), Published::Held);
    assert_eq!(publish(&mut homes, 4, None, 0), Published::Held);
    assert_eq!(publish(&mut homes, 5, Some(7), 7), Published::TooLate);
    homes.tick(Tick(9));
    assert_eq!(receipts(&mut homes), [(1, Ok(1)), (5, Err(NotPublished::TooLate))]);
    homes.tick(Tick(10));
    assert_eq!(receipts(&mut homes), [(3, Err(NotPublished::TooLate))]);
    homes.tick(Tick(20));
    assert_eq!(receipts(&mut homes), [(2, Err(NotPublished::TooLate))]);
    assert_eq!((homes.released().len(), homes.take_late_count()), (2, 3));
    let head = news(&mut homes, HERE).head;
    let key = Key { index: 0, generation: 0 };
    homes.raise_floor(key, HERE, LANE, head, Tick(21));
    assert_eq!(receipts(&mut homes), [(4, Ok(2))], "who may wait for good is taken");
    homes.tick(Tick(22));
    assert!(homes.timed.is_empty());
    homes.audit().unwrap();
}

#[test]
fn a_key_is_known_while_its_topic_is_full_and_behind_the_first() {
    let mut homes = homes(100, 1, 10);
    homes.join(&name("t"), RAW, HERE, LANE, Tick(0)).unwrap();
    let keyed = |number, key: &str| {
        asking(number, Some(50), Extras { idempotency_key: Some(key.into()), ..Extras::default() })
    };
    assert_eq!(publish_asking(&mut homes, b"x", keyed(1, "a"), 0), Published::Taken);
    assert_eq!(publish_asking(&mut homes, b"x", keyed(2, "b"), 0), Published::Held);
    assert_eq!(publish_asking(&mut homes, b"x", keyed(3, "b"), 0), Published::Held);
    assert_eq!(publish_asking(&mut homes, b"x", keyed(4, "a"), 0), Published::Taken, "it needs no room");
    assert_eq!(receipts(&mut homes), [(1, Ok(1)), (4, Ok(1))]);
    let head = news(&mut homes, HERE).head;
    homes.raise_floor(Key { index: 0, generation: 0 }, HERE, LANE, head, Tick(1));
    assert_eq!(receipts(&mut homes), [(2, Ok(2)), (3, Ok(2))], "once, for both");
    homes.tick(Tick(101));
    assert!(matches!(publish_asking(&mut homes, b"x", keyed(5, "a"), 101), Published::TooLate));
}

/// Numbers and tags of a part of the history.
fn page(homes: &mut Homes, request: &PageRequest) -> Result<Vec<(u64, String)>, NoPage> {
    let mut found = Vec::new();
    homes.page(&name("t"), request, |offset, _, tags| {
        if found.len() as u64 >= request.limit {
            return false;
        }
        found.push((offset.0, tags.unwrap_or_default().to_owned()));
        true
    })?;
    Ok(found)
}

#[test]
fn a_history_knows_tags_and_what_is_left_out() {
    let mut homes = homes_that_keep(Some(3), 1000, 100, 10);
    for number in 1..=8 {
        let extras = Extras {
            tags: (number == 5 || number == 6).then(|| "{}".into()),
            skip_history: matches!(number, 2 | 6 | 7),
            ..Extras::default()
        };
        assert_eq!(publish_asking(&mut homes, b"x", asking(number, None, extras), 0), Published::Taken);
    }
    let all = PageRequest { since: None, reverse: false, limit: 10 };
    let entry = |number, tags: &str| (number, tags.to_owned());
    let kept = vec![entry(4, ""), entry(5, "{}"), entry(8, "")];
    assert_eq!(page(&mut homes, &all), Ok(kept.clone()), "three that are found");
    let newest_two = PageRequest { since: None, reverse: true, limit: 2 };
    assert_eq!(page(&mut homes, &newest_two), Ok(vec![entry(8, ""), entry(5, "{}")]));
    let before = PageRequest { since: Some((None, Offset(8))), reverse: true, limit: 10 };
    assert_eq!(page(&mut homes, &before), Ok(vec![entry(5, "{}"), entry(4, "")]));
    let behind = PageRequest { since: Some((None, Offset(5))), reverse: false, limit: 10 };
    assert_eq!(page(&mut homes, &behind), Ok(vec![entry(8, "")]));
    for since in [2, 9] {
        let request = PageRequest { since: Some((None, Offset(since))), reverse: false, limit: 10 };
        assert_eq!(page(&mut homes, &request), Err(NoPage::Unrecoverable), "{since}");
    }
    homes.join(&name("t"), JSON, HERE, LANE, Tick(0)).unwrap();
    for encoding in [RAW, JSON] {
        homes.join(&name("t"), encoding, HERE, LANE, Tick(0)).unwrap();
        let (replay, text) = replayed(&mut homes, "t", encoding, Start::Newest(2));
        let expected = if encoding == RAW { "xx" } else { "<t 5 {}xx><t 8 xx>" };
        assert_eq!((replay.behind, &*text), (Offset(4), expected));
    }
    // Behind the last one there is nothing but what is left out.
    let (replay, text) = replayed(&mut homes, "t", JSON, Start::Newest(1));
    assert_eq!((replay.behind, &*text), (Offset(7), "<t 8 xx>"));

    homes.remove_history(&name("t"));
    assert_eq!(page(&mut homes, &all), Ok(vec![]));
    publish_asking(&mut homes, b"y", asking(9, None, Extras::default()), 0);
    assert_eq!(page(&mut homes, &all), Ok(vec![entry(9, "")]), "what was forgotten does not come back");
    assert_eq!(page(&mut homes, &behind), Err(NoPage::Unrecoverable));
}

#[test]
fn what_is_noted_is_charged_and_goes_with_its_message() {
    let mut homes = homes_that_keep(Some(1000), 1 << 20, 1000, 10);
    let extras = Extras { tags: Some("t".repeat(1000).into()), skip_history: true, ..Extras::default() };
    publish_asking(&mut homes, b"x", asking(1, None, extras), 0);
    let with_one = homes.limits.logs.used();
    assert!(with_one >= 1000 + 1024, "{with_one}");
    homes.remove_history(&name("t"));
    (1..100).for_each(|at| homes.tick(Tick(at)));
    assert_eq!(homes.limits.logs.used(), 0);
}
