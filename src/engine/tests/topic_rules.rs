//! Rules of topics, above all the least time between deliveries: here time is ours.

use super::*;
use crate::{broker::pattern::Pattern, config::TopicRule};

const MILLI: Duration = Duration::from_millis(1);
const INTERVAL: Duration = Duration::from_millis(250);

/// Topics of a pattern have such a rule.
fn rule(pattern: &str, change: impl FnOnce(&mut TopicRule)) -> TopicRule {
    let mut rule = TopicRule::new(Pattern::parse(pattern).unwrap());
    change(&mut rule);
    rule
}

/// Topics under `paced/` have an interval.
fn paced(change: impl FnOnce(&mut TopicRule)) -> Config {
    let rule = rule("paced/**", |rule| {
        rule.min_interval = Some(INTERVAL);
        change(rule);
    });
    Config { topics: vec![rule], ping_interval: None, ..Config::default() }
}

impl Test {
    /// Time passes, millisecond by millisecond.
    fn advance(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.net.advance(MILLI);
            self.ticks(3);
            self.worker.audit().unwrap();
        }
    }

    fn publish(&mut self, publisher: SocketId, payload: &[u8]) {
        self.write(publisher, &frame(payload));
        self.ticks(3);
        self.worker.audit().unwrap();
    }

    /// The payloads that have arrived.
    fn payloads(&mut self, client: SocketId) -> Vec<String> {
        let got = frames(&self.read(client, LARGE));
        got.into_iter().map(|(_, payload)| String::from_utf8(payload).unwrap()).collect()
    }
}

#[test]
fn what_comes_within_an_interval_leaves_as_one_batch_at_its_end() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &paced(|_| {}));
        let (publisher, reader) =
            (test.connect("/ws/paced/t?mode=pub"), test.connect("/ws/paced/t?mode=sub"));
        test.publish(publisher, b"1");
        assert_eq!(test.payloads(reader), ["1"], "the first one at once");
        let before = test.count("sends");
        test.publish(publisher, b"2");
        test.advance(100 * MILLI);
        test.publish(publisher, b"3");
        test.advance(149 * MILLI);
        assert!(test.payloads(reader).is_empty(), "not before");
        test.advance(2 * MILLI);
        assert_eq!(test.payloads(reader), ["2", "3"]);
        assert_eq!(test.count("sends") - before, 1, "a batch");
        test.publish(publisher, b"4");
        test.advance(INTERVAL - MILLI);
        assert!(test.payloads(reader).is_empty(), "from the last delivery on");
        test.advance(2 * MILLI);
        assert_eq!(test.payloads(reader), ["4"]);
        test.advance(INTERVAL + MILLI);
        test.publish(publisher, b"5");
        assert_eq!(test.payloads(reader), ["5"], "after a quiet interval at once");
    }
}

#[test]
fn with_latest_an_interval_is_one_value_and_holds_nobody_up() {
    let config = paced(|rule| rule.slow_consumer = Some(SlowConsumer::Latest));
    let mut test = Test::new(Personality::Readiness, &config);
    let (publisher, reader) = (test.connect("/ws/paced/t?mode=pub"), test.connect("/ws/paced/t?mode=sub"));
    let mine = test.connect("/ws/paced/t?echo=off");
    test.publish(publisher, b"first");
    assert_eq!((test.payloads(reader), test.payloads(mine)), (vec!["first".into()], vec!["first".into()]));
    // Far more than the window takes, and what a client must not get again: its own.
    for i in 0..20_000 {
        test.write(publisher, &frame(&[b'x'; 1000]));
        if i % 10 == 0 {
            test.write(mine, &frame(b"own"));
        }
        test.ticks(1);
        assert!(test.worker.shared.logs.used() < 1 << 20, "{} bytes of logs", test.worker.shared.logs.used());
    }
    assert_eq!(test.count("messages_published"), 22_001, "nobody waits");
    assert_eq!(test.count("messages_held"), 0);
    assert!(test.worker.lanes.holes.values().all(|holes| holes.len() < 5), "holes are joined");
    test.publish(publisher, b"last");
    assert!(test.payloads(reader).is_empty() && test.payloads(mine).is_empty());
    test.advance(INTERVAL + MILLI);
    assert_eq!((test.payloads(reader), test.payloads(mine)), (vec!["last".into()], vec!["last".into()]));
    assert_eq!(test.count("deliveries_conflated"), 22_000 + 20_000);
    assert_eq!(test.count("deliveries_left_out"), 2000);
    test.publish(mine, b"own");
    test.advance(INTERVAL + MILLI);
    assert_eq!((test.payloads(reader), test.payloads(mine)), (vec!["own".into()], vec![]));
}

/// A wait has an end where a publisher would have to wait.
#[test]
fn a_window_that_fills_ends_the_interval() {
    for policy in [SlowConsumer::Disconnect, SlowConsumer::Skip] {
        for large in [false, true] {
            let config = paced(|rule| {
                rule.slow_consumer = Some(policy);
                rule.lag_messages_max = Some(if large { 1000 } else { 20 });
                rule.lag_bytes_max = Some(8000);
                rule.max_message_bytes = Some(4000);
            });
            let mut test = Test::new(Personality::Readiness, &config);
            let publisher = test.connect("/ws/paced/t?mode=pub");
            let reader = test.connect("/ws/paced/t?mode=sub");
            test.publish(publisher, b"first");
            assert_eq!(test.payloads(reader).len(), 1);
            let len = if large { 1900 } else { 5 };
            let mut got = Vec::new();
            for i in 0..100 {
                test.publish(publisher, format!("{i:0len$}").as_bytes());
                got.extend(test.payloads(reader));
            }
            let messages: Vec<String> = (0..100).map(|i| format!("{i:0len$}")).collect();
            let waiting = if large { 1 } else { 5 };
            assert!(got.len() >= 100 - waiting, "{policy:?}, large: {large}: {} have come", got.len());
            test.advance(INTERVAL + MILLI);
            got.extend(test.payloads(reader));
            assert!(got == messages, "{policy:?}, large: {large}");
            assert!(test.count("messages_held") > 0, "the test's own sense");
            // Then it is kept again.
            test.publish(publisher, b"a");
            assert!(test.payloads(reader).is_empty());
            test.advance(INTERVAL + MILLI);
            assert_eq!(test.payloads(reader), ["a"]);
        }
    }
}

#[test]
fn full_logs_end_all_intervals() {
    let mut config = paced(|rule| {
        rule.lag_bytes_max = Some(400_000);
        rule.min_interval = Some(Duration::from_secs(3600));
    });
    (config.log_bytes_max, config.max_message_bytes, config.lag_bytes_max) = (400_000, 50_000, 400_000);
    let mut test = Test::new(Personality::Readiness, &config);
    let names = (0..5).map(|i| format!("paced/{i}"));
    let mut topics: Vec<(SocketId, SocketId)> = names
        .map(|name| {
            (test.connect(&format!("/ws/{name}?mode=pub")), test.connect(&format!("/ws/{name}?mode=sub")))
        })
        .collect();
    for &mut (publisher, reader) in &mut topics {
        test.publish(publisher, b"first");
        assert_eq!(test.payloads(reader).len(), 1);
    }
    for &mut (publisher, _) in &mut topics {
        test.publish(publisher, &[b'x'; 45_000]);
        test.publish(publisher, &[b'y'; 45_000]);
    }
    // Long before the end of an interval.
    test.pass(Duration::from_secs(2));
    let got: Vec<usize> = topics.iter().map(|&(_, reader)| test.payloads(reader).len()).collect();
    assert_eq!(got, [2, 2, 2, 2, 0], "the last one finds room, and waits");
    assert_eq!(test.count("messages_published"), 15);
}

#[test]
fn what_waits_is_kept_however_long() {
    for policy in POLICIES {
        let config = paced(|rule| {
            rule.slow_consumer = Some(policy);
            rule.min_interval = Some(Duration::from_secs(20));
        });
        let mut test = Test::new(Personality::Readiness, &config);
        let publisher = test.connect("/ws/paced/t?mode=pub");
        let reader = test.connect("/ws/paced/t?mode=sub");
        test.publish(publisher, b"1");
        test.publish(publisher, b"2");
        test.pass(Duration::from_secs(19));
        assert_eq!(test.payloads(reader), ["1"]);
        test.worker.audit().unwrap();
        test.pass(Duration::from_millis(1200));
        assert_eq!(test.payloads(reader), ["2"], "{policy:?}");
        test.pass(Duration::from_secs(2));
        assert_eq!(test.worker.shared.logs.used(), 0, "and then let go of");
    }
}

/// Several topics on one connection, of which one has an interval.
#[test]
fn an_interval_is_its_topics_alone() {
    let mut test = Test::new(Personality::Readiness, &paced(|_| {}));
    let [paced, quick] = ["paced/t", "quick"].map(|topic| test.connect(&format!("/ws/{topic}?mode=pub")));
    let reader = test.connect("/ws/paced/t?mode=sub");
    test.worker.subscribe(2, &TopicName::parse("quick").unwrap());
    test.ticks(3);
    test.publish(paced, b"p1");
    test.publish(quick, b"q1");
    assert_eq!(test.payloads(reader), ["p1", "q1"]);
    let mut got = Vec::new();
    for i in 2..30 {
        test.publish(paced, format!("p{i}").as_bytes());
        test.publish(quick, format!("q{i}").as_bytes());
        got.extend(test.payloads(reader));
        assert_eq!(got.last(), Some(&format!("q{i}")), "at once");
        test.advance(10 * MILLI);
        let waited = test.payloads(reader);
        if i == 27 {
            assert_eq!(waited, (2..28).map(|i| format!("p{i}")).collect::<Vec<_>>(), "as one batch");
        } else {
            assert!(waited.is_empty(), "{i}: {waited:?}");
        }
    }
}

/// Who had no room for its batch does not wait an interval for the rest of it.
#[test]
fn a_batch_that_stops_goes_on_when_its_socket_takes_bytes() {
    let mut test = Test::new(Personality::Readiness, &paced(|_| {}));
    let publisher = test.connect("/ws/paced/t?mode=pub");
    let (slow, reader) = (test.connect("/ws/paced/t?mode=sub"), test.connect("/ws/paced/t?mode=sub"));
    test.read(slow, 50);
    test.publish(publisher, &[b'a'; 200]);
    assert_eq!(test.payloads(reader).len(), 1);
    test.publish(publisher, b"b");
    test.advance(MILLI);
    let mut bytes = test.read(slow, LARGE);
    test.ticks(3);
    bytes.extend(test.read(slow, LARGE));
    assert_eq!(frames(&bytes), [(DATA, vec![b'a'; 200])], "its rest, and no new batch");
    test.advance(INTERVAL + MILLI);
    assert_eq!((test.payloads(slow), test.payloads(reader)), (vec!["b".into()], vec!["b".into()]));
}

#[test]
fn who_goes_while_a_lane_waits_leaves_nothing() {
    let mut config = paced(|_| {});
    config.topic_idle_timeout = Duration::from_secs(1);
    let mut test = Test::new(Personality::Readiness, &config);
    let (publisher, reader) = (test.connect("/ws/paced/t?mode=pub"), test.connect("/ws/paced/t?mode=sub"));
    test.publish(publisher, b"1");
    test.publish(publisher, b"2");
    for client in [reader, publisher] {
        test.write(client, &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        test.ticks(3);
        test.net.reset(client);
    }
    test.advance(INTERVAL + MILLI);
    test.pass(Duration::from_secs(20));
    test.worker.audit_empty().unwrap();
    assert_eq!(test.worker.shared.logs.used(), 0);
}

/// What was published and when, by reader.
#[derive(Default)]
struct Reader {
    /// Number of the last message that came.
    last: u32,
    came_at: Option<Duration>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is published when, and whoever stalls meanwhile: who reads gets no two batches within an interval,
    /// nothing is lost, out of order or later than an interval.
    #[test]
    fn an_interval_is_kept_and_costs_no_more_than_itself(
        policy in prop::sample::select(&POLICIES[..]),
        interval in 10u64..120,
        steps in prop::collection::vec((0u8..4, 0u64..40, 0usize..40), 10..120),
        several in any::<bool>(),
        personality in prop::sample::select(&[Personality::Readiness, Personality::Completion][..]),
    ) {
        let interval = Duration::from_millis(interval);
        let mut config = paced(|rule| {
            rule.slow_consumer = Some(policy);
            rule.min_interval = Some(interval);
        });
        config.topics[0].history = Some(1000);
        let mut test = Test::new(personality, &config);
        let publisher = test.connect("/ws/paced/t?mode=pub");
        let clients: Vec<SocketId> = (0..3).map(|_| test.connect("/ws/paced/t?mode=sub")).collect();
        if several {
            for slot in 1..4 {
                test.worker.subscribe(slot, &TopicName::parse("other").unwrap());
            }
            test.ticks(3);
        }
        let stalls = test.connect("/ws/paced/t?mode=sub");
        test.read(stalls, 0);
        let mut readers: Vec<Reader> = clients.iter().map(|_| Reader::default()).collect();
        // When each message was published; the first has number 1.
        let mut published: Vec<Duration> = Vec::new();
        let settle = Duration::from_millis(1);
        for (what, wait, len) in steps.into_iter().chain([(9, 500, 0)]) {
            match what {
                0 => drop(test.read(stalls, len)),
                1 => {
                    let newcomer = test.connect("/ws/paced/t?mode=sub&history=1");
                    test.net.reset(newcomer);
                }
                9 => {}
                _ => {
                    published.push(test.net.now());
                    test.write(publisher, &frame(format!("{:0len$}", published.len()).as_bytes()));
                }
            }
            for _ in 0..=wait {
                test.ticks(3);
                test.worker.audit().unwrap();
                let now = test.net.now();
                for (reader, &client) in readers.iter_mut().zip(&clients) {
                    let got = test.payloads(client);
                    if got.is_empty() {
                        let next = published.get(reader.last as usize);
                        prop_assert!(next.is_none_or(|&next| now - next <= interval + 2 * settle), "too late");
                        continue;
                    }
                    let numbers: Vec<u32> = got.iter().map(|text| text.parse().unwrap()).collect();
                    prop_assert!(reader.came_at.is_none_or(|at| now - at >= interval), "two batches");
                    reader.came_at = Some(now);
                    let newest = u32::try_from(published.len()).unwrap();
                    if policy == SlowConsumer::Latest {
                        prop_assert_eq!(&numbers[..], &[newest][..]);
                    } else {
                        prop_assert_eq!(&numbers, &(reader.last + 1..=newest).collect::<Vec<_>>());
                    }
                    reader.last = newest;
                }
                test.net.advance(settle);
            }
        }
        for reader in readers {
            prop_assert_eq!(reader.last as usize, published.len());
        }
    }
}

/// Two topics of different policies on one worker.
#[test]
fn each_topic_has_its_policy_and_bounds() {
    let config = Config {
        topics: vec![
            rule("skip/*", |rule| {
                rule.slow_consumer = Some(SlowConsumer::Skip);
                rule.lag_messages_max = Some(8);
            }),
            rule("latest/*", |rule| rule.slow_consumer = Some(SlowConsumer::Latest)),
            rule("patient/*", |rule| rule.lag_messages_max = Some(1000)),
        ],
        lag_messages_max: 20,
        ..Config::default()
    };
    let mut test = Test::new(Personality::Readiness, &config);
    let names = ["skip/t", "latest/t", "patient/t", "other"];
    let clients = names.map(|name| {
        (test.connect(&format!("/ws/{name}?mode=pub")), test.connect(&format!("/ws/{name}?mode=sub")))
    });
    for (_, reader) in clients {
        test.read(reader, 0);
    }
    for i in 0..100 {
        for (publisher, _) in clients {
            test.publish(publisher, format!("{i}").as_bytes());
        }
        test.pass(Duration::from_millis(100));
    }
    let [skip, latest, patient, other] = clients.map(|(_, reader)| {
        test.read(reader, LARGE);
        test.ticks(3);
        test.read(reader, LARGE)
    });
    assert!(frames(&skip).is_empty(), "all was skipped: {:?}", frames(&skip));
    assert_eq!(frames(&latest), [(DATA, b"99".to_vec())]);
    assert_eq!(frames(&patient).len(), 100);
    assert!(other.is_empty() || frames(&other)[0].0 == CLOSE, "{other:?}");
    assert_eq!((test.count("deliveries_skipped"), test.count("deliveries_conflated")), (100, 99));
    assert_eq!(test.worker.stats().reasons(Family::Closed)[0].0, "slow_consumer");
}

/// The publishers' window is a quarter of the topic's lag bound, not of the flag's.
#[test]
fn publishers_have_a_quarter_of_their_topics_bound() {
    let rules = [("small", 40), ("large", 400)].map(|(name, messages)| {
        rule(name, |rule| {
            rule.lag_messages_max = Some(messages);
            // Nothing is swept for a while.
            rule.min_interval = Some(Duration::from_secs(60));
            rule.slow_consumer = Some(SlowConsumer::Skip);
        })
    });
    let mut test = Test::new(Personality::Readiness, &Config { topics: rules.into(), ..Config::default() });
    for (name, window) in [("small", 10), ("large", 100)] {
        let publisher = test.connect(&format!("/ws/{name}?mode=pub"));
        let reader = test.connect(&format!("/ws/{name}?mode=sub"));
        test.publish(publisher, b"first");
        for _ in 0..window {
            test.publish(publisher, b"x");
        }
        assert_eq!(
            (test.payloads(reader).len(), test.count("messages_held")),
            (1, u64::from(name == "large"))
        );
        test.publish(publisher, b"one too many");
        assert_eq!(test.payloads(reader).len(), window, "the reader gets what is in its way");
    }
    assert_eq!(test.count("messages_held"), 2);
}
