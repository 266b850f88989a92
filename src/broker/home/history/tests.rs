//! What is kept, what is found again, and that a replay is exactly what was missed.

use proptest::prelude::*;

use super::*;
use crate::broker::{
    ids::{Position, Tick},
    log::{LARGE_BYTES, Unit},
};

const OTHER: Encoding = Encoding(1);

struct Numbers;

impl Encoder for Numbers {
    fn encode(&self, _: Encoding, stamp: &Stamp<'_>, unit: &[u8], out: &mut Vec<u8>) {
        out.extend(format!("[{} {} {}]", stamp.offset.0, stamp.time.0, unit.len()).bytes());
    }
}

fn behind(epoch: u64, offset: u64) -> Start {
    Start::Behind { epoch: Epoch(epoch), offset: Offset(offset), or_newest: 0 }
}

/// A topic's log and its history, one message per millisecond.
struct Test {
    log: Log,
    history: History,
    now: u64,
    gauge: Arc<Gauge>,
    name: TopicName,
}

impl Test {
    fn new(messages: u64, age_ms: Option<u64>, bytes: u64) -> Test {
        let age = Duration::from_millis(age_ms.unwrap_or(1 << 40));
        let log = Log::default();
        let history = History::new(log.head(), Retention { messages, age, bytes });
        Test { log, history, now: 0, gauge: Gauge::new(1 << 24), name: TopicName::parse("t").unwrap() }
    }

    fn publish(&mut self, len: usize) {
        self.now += 1;
        let unit = vec![(self.log.head().offset.0 + 1) as u8; len];
        let time = UnixTime(self.now);
        self.log.append(&Unit::Borrowed(&unit), Tick(0), time, &self.gauge).unwrap();
        self.history.note(&self.log, time);
        self.log.posted(self.log.head().position);
    }

    fn first(&self) -> u64 {
        self.history.first(UnixTime(self.now)).offset.0
    }

    fn behind(&self, epoch: u64, offset: u64) -> Option<u64> {
        self.history.behind(behind(epoch, offset), Epoch(7), UnixTime(self.now)).map(|mark| mark.offset.0)
    }

    fn replay(&mut self, encoding: Encoding, start: Start) -> Option<Vec<u8>> {
        let now = UnixTime(self.now);
        let from = self.history.behind(start, Epoch(7), now)?;
        let making = Making { topic: &self.name, epoch: Epoch(7), encoder: &Numbers, gauge: &self.gauge };
        let runs = self.history.replay(encoding, from, &making, now).unwrap();
        let (mut bytes, mut expected) = (Vec::new(), from.offset.0);
        for run in runs {
            let before = bytes.len();
            for (offset, unit) in run.clone() {
                expected += 1;
                assert_eq!(offset, Offset(expected), "units have their numbers");
                bytes.extend_from_slice(&unit);
            }
            assert_eq!(run.bytes(), bytes[before..], "units are all of a run");
        }
        Some(bytes)
    }
}

#[test]
fn all_three_bounds_hold() {
    let mut count = Test::new(3, None, 1 << 20);
    let mut age = Test::new(1000, Some(3), 1 << 20);
    let mut bytes = Test::new(1000, None, 350);
    for test in [&mut count, &mut age, &mut bytes] {
        (0..10).for_each(|_| test.publish(100));
    }
    assert_eq!((count.first(), bytes.first()), (7, 7));
    assert_eq!(age.first(), 6, "messages of the last 3 ms, and of the one before");
    age.now += 2;
    assert_eq!(age.first(), 8);
    age.now += 100;
    assert_eq!(age.first(), 10);
    age.history.expire(UnixTime(age.now));
    assert!(age.history.is_empty());
}

#[test]
fn who_comes_back_gets_all_or_is_told_that_it_does_not() {
    let mut test = Test::new(5, None, 1 << 20);
    (0..10).for_each(|_| test.publish(100));
    assert_eq!(test.behind(7, 5), Some(5));
    assert_eq!(test.behind(7, 10), Some(10), "it has missed nothing");
    assert_eq!(test.behind(7, 4), None, "the fifth is gone");
    assert_eq!(test.behind(7, 11), None, "nobody has got that yet");
    assert_eq!(test.behind(7, u64::MAX), None);
    assert_eq!(test.behind(8, 7), None, "another life of the topic");
    assert_eq!(test.replay(OTHER, Start::Head).unwrap(), b"");
    assert_eq!(test.replay(OTHER, Start::Newest(2)).unwrap(), b"[9 9 100][10 10 100]");
    assert_eq!(test.replay(OTHER, Start::Newest(100)).unwrap().split(|&byte| byte == b'[').count(), 6);
}

#[test]
fn what_is_made_for_a_replay_is_shared_and_given_back() {
    let mut test = Test::new(100, None, 1 << 20);
    (0..50).for_each(|_| test.publish(100));
    let before = test.gauge.used();
    let first = test.replay(OTHER, Start::Newest(50)).unwrap();
    let once = test.gauge.used();
    assert_eq!(once - before, first.len());
    for since in 1..50 {
        assert!(first.ends_with(&test.replay(OTHER, Start::Newest(since)).unwrap()));
    }
    assert_eq!(test.gauge.used(), once, "nothing is made twice");
    test.now += UNUSED_MS;
    test.history.expire(UnixTime(test.now));
    assert_eq!(test.gauge.used(), before);
}

#[test]
fn without_memory_there_is_no_replay_and_the_past_can_be_let_go() {
    let mut test = Test::new(100, None, 1 << 20);
    (0..50).for_each(|_| test.publish(1000));
    let _rest = test.gauge.charge(test.gauge.max() - test.gauge.used()).unwrap();
    let from = test.history.behind(Start::Newest(50), Epoch(7), UnixTime(test.now)).unwrap();
    let making = Making { topic: &test.name, epoch: Epoch(7), encoder: &Numbers, gauge: &test.gauge };
    let replay = test.history.replay(OTHER, from, &making, UnixTime(50));
    assert!(matches!(replay, Err(LogFull)), "{replay:?}");
    let full = test.gauge.used();
    while test.history.shrink() {}
    assert!(test.gauge.used() < full && test.history.is_empty());
    assert_eq!(test.first(), 50);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 256 }))]

    /// Against a list of all messages: what is kept is the newest of them, and a replay is what comes behind.
    #[test]
    fn a_replay_is_what_was_missed(
        messages in 1u64..30,
        steps in prop::collection::vec(
            prop_oneof![
                6 => (1usize..400).prop_map(Ok),
                1 => (LARGE_BYTES..LARGE_BYTES + 3).prop_map(Ok),
                4 => (0u64..40, any::<bool>()).prop_map(Err),
            ],
            1..80,
        ),
    ) {
        let mut test = Test::new(messages, None, 1 << 22);
        let mut all: Vec<usize> = Vec::new();
        for step in steps {
            match step {
                Ok(len) => {
                    test.publish(len);
                    all.push(len);
                }
                Err((back, canonical)) => {
                    let head = all.len() as u64;
                    let since = head.saturating_sub(back);
                    let encoding = if canonical { Encoding::CANONICAL } else { OTHER };
                    let replay = test.replay(encoding, behind(7, since));
                    prop_assert_eq!(replay.is_some(), back.min(head) <= messages, "{} of {}", back, head);
                    let Some(replay) = replay else { continue };
                    let missed = (since + 1..).zip(&all[since as usize..]);
                    let expected: Vec<u8> = missed.flat_map(|(offset, &len)| match canonical {
                        true => vec![offset as u8; len],
                        false => format!("[{offset} {offset} {len}]").into_bytes(),
                    }).collect();
                    prop_assert!(replay == expected);
                }
            }
            prop_assert_eq!(all.len() as u64 - test.first(), (all.len() as u64).min(messages));
            prop_assert!(test.history.kept.tail() >= Position::START);
        }
    }
}
