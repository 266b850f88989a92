//! Connections with several topics: what is new for them leaves together.

use super::*;
use crate::engine::mailboxes::Patience;

impl Test {
    /// A connection that subscribes to further topics, as a session with several does. `slot` is its own.
    fn connect_to_several(&mut self, slot: u32, topics: &[String]) -> SocketId {
        let client = self.connect(&format!("/ws/{}?mode=sub", topics[0]));
        for topic in &topics[1..] {
            self.worker.subscribe(slot, &TopicName::parse(topic).unwrap());
        }
        self.ticks(3);
        client
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("t{n}")).collect()
}

#[test]
fn what_is_new_on_many_topics_leaves_in_one_send_per_connection() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let topics = names(12);
        let publishers: Vec<SocketId> =
            topics.iter().map(|topic| test.connect(&format!("/ws/{topic}?mode=pub"))).collect();
        let readers: Vec<SocketId> = (12..52).map(|slot| test.connect_to_several(slot, &topics)).collect();
        let before = (test.count("sends"), test.count("deliveries"));
        for (publisher, topic) in publishers.iter().zip(&topics) {
            test.write(*publisher, &[frame(topic.as_bytes()), frame(b"2nd")].concat());
        }
        test.ticks(1);
        assert_eq!(test.count("sends") - before.0, 40, "{personality:?}: one for each connection");
        assert_eq!(test.count("deliveries") - before.1, 2 * 12 * 40);
        for reader in readers {
            let mut got: Vec<Vec<u8>> =
                frames(&test.read(reader, LARGE)).into_iter().map(|(_, payload)| payload).collect();
            let of_topics: Vec<Vec<u8>> =
                topics.iter().flat_map(|topic| [topic.clone().into_bytes(), b"2nd".to_vec()]).collect();
            assert!(got.chunks(2).all(|pair| pair[1] == b"2nd"), "in order within each topic: {got:?}");
            got.sort();
            let mut expected = of_topics;
            expected.sort();
            assert_eq!(got, expected);
        }
    }
}

#[test]
fn more_topics_than_a_send_takes_are_served_in_turn() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let topics = names(40);
    let publishers: Vec<SocketId> =
        topics.iter().map(|topic| test.connect(&format!("/ws/{topic}?mode=pub"))).collect();
    let reader = test.connect_to_several(40, &topics);
    let before = test.count("sends");
    for publisher in publishers {
        test.write(publisher, &frame(b"x"));
    }
    test.ticks(4);
    assert_eq!(frames(&test.read(reader, LARGE)).len(), 40);
    assert_eq!(test.count("sends") - before, 3, "16 + 16 + 8 topics");
}

#[test]
fn a_lone_message_of_many_topics_leaves_in_the_tick_that_read_it() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let topics = names(5);
    let publisher = test.connect("/ws/t3?mode=pub");
    let reader = test.connect_to_several(1, &topics);
    test.write(publisher, &frame(b"hello"));
    test.ticks(1);
    assert_eq!(test.read(reader, LARGE), served(b"hello"));
}

#[test]
fn topics_that_were_left_are_not_sent_and_a_floor_waits_for_what_was_gathered() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let topics = names(3);
    let publishers: Vec<SocketId> =
        topics.iter().map(|topic| test.connect(&format!("/ws/{topic}?mode=pub"))).collect();
    let reader = test.connect_to_several(3, &topics);
    for (publisher, topic) in publishers.iter().zip(&topics) {
        test.write(*publisher, &frame(topic.as_bytes()));
    }
    // Gathered, and held back as if further lanes were to be gone through.
    test.worker.wait().unwrap();
    test.worker.read_ready();
    test.worker.take_mail();
    test.worker.post(Patience::Now);
    let lane = test.worker.lanes.find(&TopicName::parse("t1").unwrap(), Encoding::CANONICAL).unwrap();
    for lane in test.worker.dirty.drain(..).collect::<Vec<_>>() {
        test.worker.lanes.at(lane).queued = false;
        while test.worker.lanes.at(lane).lane.next_visit().is_some() {
            assert_eq!(test.worker.visit_several(lane, 8), 1);
        }
    }
    let floor = test.worker.lanes.at(lane).lane.floor();
    assert_eq!((floor.offset, test.worker.lanes.at(lane).lane.gathered()), (Offset(0), 1));
    test.worker.unsubscribe(3, &TopicName::parse("t0").unwrap());
    test.worker.audit().unwrap();
    test.ticks(2);
    assert_eq!(test.worker.lanes.at(lane).lane.floor().offset, Offset(1));
    let mut got: Vec<Vec<u8>> =
        frames(&test.read(reader, LARGE)).into_iter().map(|(_, payload)| payload).collect();
    got.sort();
    assert_eq!(got, [b"t1", b"t2"]);
}

#[test]
fn topics_take_turns_on_a_slow_socket() {
    let mut lanes = Lanes::new(0);
    let mut first = NONE;
    for (lane, name) in ["a", "b", "c"].into_iter().enumerate() {
        let lane_index =
            lanes.create(TopicName::parse(name).unwrap(), rule(), Encoding::CANONICAL, WorkerId(0), Tick(0));
        assert_eq!(lane_index as usize, lane);
        lanes.subscribe(0, lane_index, &mut first);
    }
    let order = |lanes: &Lanes, first| lanes.list(first).collect::<Vec<_>>();
    assert_eq!(order(&lanes, first), [2, 1, 0]);
    lanes.rotate(&mut first);
    assert_eq!(order(&lanes, first), [0, 2, 1]);
    lanes.rotate(&mut first);
    assert_eq!(order(&lanes, first), [1, 0, 2]);
}

#[test]
fn who_is_closed_as_slow_holds_up_no_other_topic() {
    let config = Config { lag_messages_max: 8, ..Config::default() };
    let mut test = Test::new(Personality::Readiness, &config);
    let [publisher_a, publisher_b, publisher_x] =
        ["a", "b", "x"].map(|topic| test.connect(&format!("/ws/{topic}?mode=pub")));
    let healthy = test.connect("/ws/b?mode=sub");
    test.connect("/ws/a?mode=sub");
    let slow = test.connect_to_several(5, &["a".into(), "b".into()]);
    for slot in 6..76 {
        test.connect_to_several(slot, &["x".into(), "y".into()]);
    }
    test.read(slow, 1);
    for _ in 0..12 {
        test.write(publisher_a, &frame(b"aaaa"));
        test.ticks(3);
    }
    // The slow one is the last of more than a slice that are gathered when the next tenth of a second closes it: then
    // the lap of b ends while floors are told.
    test.write(publisher_b, &[frame(b"b1"), frame(b"b2"), frame(b"b3"), frame(b"b4"), frame(b"b5")].concat());
    test.write(publisher_x, &frame(b"x1"));
    test.write(publisher_a, &frame(b"last"));
    test.ticks(1);
    test.pass(Duration::from_secs(1));
    assert_eq!(frames(&test.read(healthy, LARGE)).len(), 5);
    test.worker.audit().unwrap();
}

#[test]
fn large_messages_of_two_topics_fill_the_sends() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let publishers = ["t0", "t1"].map(|topic| test.connect(&format!("/ws/{topic}?mode=pub")));
    let reader = test.connect_to_several(2, &names(2));
    let before = test.count("sends");
    for publisher in publishers {
        test.write(publisher, &frame(&[1; 40_000]).repeat(6));
    }
    test.ticks(20);
    assert_eq!(frames(&test.read(reader, LARGE)).len(), 12);
    assert!(test.count("sends") - before <= 4, "{} sends of 480 kB", test.count("sends") - before);
}

#[test]
fn a_topic_waits_for_no_other_topics_connections() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let publishers = ["s", "x"].map(|topic| test.connect(&format!("/ws/{topic}?mode=pub")));
    let reader = test.connect("/ws/s?mode=sub");
    for slot in 3..903 {
        test.connect_to_several(slot, &["x".into(), "y".into()]);
    }
    // This one stands behind all of them.
    let several = test.connect_to_several(903, &["s".into(), "z".into()]);
    test.write(publishers[1], &frame(b"x"));
    test.ticks(1);
    for message in [b"m1", b"m2", b"m3"] {
        test.write(publishers[0], &frame(message));
        test.ticks(1);
        assert_eq!(test.read(reader, LARGE), served(message));
        assert!(test.read(several, LARGE).is_empty());
    }
    let lane = test.worker.lanes.find(&TopicName::parse("s").unwrap(), Encoding::CANONICAL).unwrap();
    assert_eq!(test.worker.lanes.at(lane).lane.floor().offset, Offset(0), "not all have what was published");
    test.ticks(20);
    assert_eq!(test.read(several, LARGE), [served(b"m1"), served(b"m2"), served(b"m3")].concat());
    assert_eq!(test.worker.lanes.at(lane).lane.floor().offset, Offset(3));
}
