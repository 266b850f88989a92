//! Event streams: cut anywhere, an event keeps its id, and the id says what the client has had of all topics.

use super::*;
use crate::{
    broker::{
        home::{Delivery, Sender},
        log::Unit,
        pattern::Pattern,
    },
    config::TopicRule,
    engine::connections::Flag,
    session::{Assignment, binary, text},
};

const BOTH: [Personality; 2] = [Personality::Readiness, Personality::Completion];

/// All topics keep their past.
fn keeping() -> Config {
    let rule = TopicRule { history: Some(1000), ..TopicRule::new(Pattern::parse("**").unwrap()) };
    Config { topics: vec![rule], ..Config::default() }
}

/// A block of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Block {
    name: Option<String>,
    data: Vec<String>,
    /// Offsets in the order of the request.
    id: Option<Vec<u64>>,
    retry: Option<u64>,
}

/// The whole blocks of a stream, without its head and its heartbeats; and what comes behind them.
fn parsed(stream: &[u8]) -> (Vec<Block>, String) {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    let body = text.split_once("\r\n\r\n").map_or(&*text, |(_, body)| body);
    let (whole, rest) = body.rsplit_once("\n\n").unwrap_or(("", body));
    let read = |block: &str| {
        let mut read = Block::default();
        for line in block.split('\n') {
            match line.split_once(':').unwrap_or_else(|| panic!("{block:?}")) {
                ("", "") => return None,
                ("event", name) => read.name = Some(name.trim_start().to_owned()),
                ("data", data) => read.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned()),
                ("retry", ms) => read.retry = ms.trim().parse().ok(),
                ("id", id) => {
                    assert_eq!(block.lines().last(), Some(line), "nothing comes between an id and its end");
                    let offset = |place: &str| place.split_once('-').unwrap().1.parse().unwrap();
                    read.id = Some(id.trim().split(',').map(offset).collect());
                }
                _ => panic!("{block:?}"),
            }
        }
        Some(read)
    };
    let whole = whole.split("\n\n").filter(|block| !block.is_empty());
    (whole.filter_map(read).collect(), rest.to_owned())
}

/// Reads messages `topic:offset…` in a stream of the topics 0, 1, …: each moves its own position in the id, by one.
fn follow(blocks: &[Block], mut places: Vec<u64>) -> Vec<u64> {
    for block in blocks.iter().filter(|block| block.name.is_none() && block.retry.is_none()) {
        let mut message = block.data[0].split(':');
        let mut number = || message.next().unwrap().parse::<u64>().unwrap();
        let (topic, offset) = (usize::try_from(number()).unwrap(), number());
        assert_eq!(offset, places[topic] + 1, "topic {topic}, behind {places:?}");
        places[topic] = offset;
        assert_eq!(block.id.as_ref(), Some(&places), "{block:?}");
    }
    places
}

impl Test {
    fn ask(&mut self, path: &str, headers: &str) -> SocketId {
        self.ask_with_room(path, headers, LARGE)
    }

    fn ask_with_room(&mut self, path: &str, headers: &str, to_client: usize) -> SocketId {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let buffers = Buffers { to_client, to_server: LARGE };
        let client = self.net.connect(0, address, buffers).unwrap();
        self.ticks(1);
        self.write(client, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
        self.ticks(3);
        client
    }

    /// A stream whose opening was read; gives its last id as well.
    fn stream(&mut self, path: &str) -> (SocketId, String) {
        let client = self.ask(path, "");
        let opening = String::from_utf8(self.read(client, LARGE)).unwrap();
        assert!(opening.starts_with("HTTP/1.1 200 OK\r\n"), "{opening}");
        let id = opening.rsplit_once("id: ").unwrap().1.trim().to_owned();
        (client, id)
    }

    fn slot(&self) -> u32 {
        self.worker.connections.slots() - 1
    }

    fn publish_to(&mut self, topic: &str, payload: &str, exclude: Option<u32>) {
        let exclude = exclude.map(|slot| self.worker.connections.id(slot));
        let frame = served(payload.as_bytes());
        let frame = [&[0x81][..], &frame[1..]].concat();
        let topic = TopicName::parse(topic).unwrap();
        let sender = Sender::Outside(frame.len());
        let (delivery, now) = (Delivery::excluding(exclude), self.worker.now);
        self.worker.homes.publish(&topic, Unit::Borrowed(&frame), delivery, sender, now);
    }
}

/// Wherever the socket stops taking bytes, and whatever else is to be sent then.
#[test]
fn an_event_keeps_its_id_wherever_it_is_cut() {
    // Copied with its id, sent from where it lies, and its rest copied or kept.
    let lens = [30, 1500, 9000];
    for personality in BOTH {
        for stop in (0..400).chain((400..24_000).step_by(197)) {
            let mut test = Test::new(personality, &Config::default());
            let (client, _) = test.stream("/sse/t0?topic=t1");
            test.read(client, stop);
            for (at, len) in (1..).zip(lens) {
                test.publish_to("t0", &format!("0:{at}:{}", "x".repeat(len)), None);
                test.publish_to("t1", &format!("1:{at}:{}", "y".repeat(len)), None);
                test.ticks(1);
            }
            test.worker.audit().unwrap();
            let cut = test.read(client, LARGE);
            assert!(cut.len() <= stop);
            // What comes meanwhile waits behind the rest.
            test.publish_to("t0", "0:4:", None);
            test.ticks(4);
            test.worker.audit().unwrap();
            let all = [cut, test.read(client, LARGE)].concat();
            let (blocks, rest) = parsed(&all);
            assert_eq!((follow(&blocks, vec![0, 0]), &*rest), (vec![4, 3], ""), "{personality:?} at {stop}");
            assert_eq!(test.count("deliveries"), 7);
        }
    }
}

#[test]
fn what_is_new_on_many_topics_leaves_in_one_send() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let names: Vec<String> = (0..12).map(|topic| format!("topic=t{topic}")).collect();
    let (client, _) = test.stream(&format!("/sse?{}", names.join("&")));
    let before = test.count("sends");
    for topic in 0..12 {
        test.publish_to(&format!("t{topic}"), &format!("{topic}:1"), None);
        test.publish_to(&format!("t{topic}"), &format!("{topic}:2"), None);
    }
    test.ticks(1);
    assert_eq!(test.count("sends") - before, 1);
    assert_eq!(follow(&parsed(&test.read(client, LARGE)).0, vec![0; 12]), [2; 12]);
}

/// More than one send takes, of one topic and of many.
#[test]
fn a_burst_is_sent_in_turns() {
    for (topics, messages, len) in [(2, 1000, 10), (40, 10, 10), (2, 60, 60_000), (2, 40, 2000)] {
        for personality in BOTH {
            let config = Config { lag_messages_max: 100_000, lag_bytes_max: 64 << 20, ..Config::default() };
            let mut test = Test::new(personality, &config);
            let names: Vec<String> = (0..topics).map(|topic| format!("topic=t{topic}")).collect();
            let (client, _) = test.stream(&format!("/sse?{}", names.join("&")));
            let mut all = Vec::new();
            for message in 1..=messages {
                for topic in 0..topics {
                    let payload = format!("{topic}:{message}:{}", "z".repeat(len));
                    test.publish_to(&format!("t{topic}"), &payload, None);
                }
            }
            for _ in 0..200 {
                test.ticks(1);
                test.worker.audit().unwrap();
                all.extend(test.read(client, LARGE));
            }
            assert_eq!(follow(&parsed(&all).0, vec![0; topics]), vec![messages; topics], "{personality:?}");
        }
    }
}

/// A topic with more than a send takes, always, does not keep the others from their turn.
#[test]
fn a_busy_topic_does_not_starve_the_others() {
    for personality in BOTH {
        let config = Config { lag_messages_max: 100_000, lag_bytes_max: 64 << 20, ..Config::default() };
        let mut test = Test::new(personality, &config);
        let (client, _) = test.stream("/sse?topic=t0&topic=t1");
        let mut all = Vec::new();
        let mut waited = 0;
        for turn in 0..50 {
            for _ in 0..300 {
                test.publish_to("t0", "busy", None);
            }
            if turn == 10 {
                test.publish_to("t1", "quiet", None);
            }
            test.ticks(1);
            all.extend(test.read(client, LARGE));
            let has_come = parsed(&all).0.iter().any(|block| block.data.iter().any(|line| line == "quiet"));
            waited += usize::from(turn >= 10 && !has_come);
        }
        assert!(waited <= 3, "{personality:?}: {waited} turns");
    }
}

#[test]
fn what_is_left_out_leaves_ids_right() {
    for personality in BOTH {
        for (path, topics) in [("/sse/t0", 1), ("/sse/t0?topic=t1", 2)] {
            let mut test = Test::new(personality, &Config::default());
            let (client, _) = test.stream(path);
            let slot = test.slot();
            for excludes in
                [[true, false, false, true, true, false], [false, true, false, false, false, true]]
            {
                for exclude in excludes {
                    test.publish_to("t0", "m", exclude.then_some(slot));
                }
                test.ticks(2);
                test.worker.audit().unwrap();
            }
            test.publish_to("t1", "other", None);
            test.publish_to("t0", "last", None);
            test.ticks(4);
            let (blocks, _) = parsed(&test.read(client, LARGE));
            let ids: Vec<u64> = blocks
                .iter()
                .filter(|block| block.data != ["other"])
                .map(|block| block.id.as_ref().unwrap()[0])
                .collect();
            assert_eq!(ids, [2, 3, 6, 7, 9, 10, 11, 13], "{personality:?}");
            let others = blocks.iter().filter(|block| block.data == ["other"]);
            assert_eq!(others.filter(|block| block.id.as_ref().unwrap()[1] == 1).count(), topics - 1);
            assert_eq!(test.count("deliveries_left_out"), 5);
        }
    }
}

/// Each cut is followed by a return with the last id that was whole.
#[test]
fn who_comes_back_with_an_id_misses_nothing_wherever_it_was_cut() {
    let lens = [0, 20, 400, 1500, 9000];
    for personality in BOTH {
        for room in [40, 150, 700, 3000, LARGE] {
            for topics in [1usize, 3] {
                let mut test = Test::new(personality, &keeping());
                let path = format!("/sse?{}", ["topic=t0", "topic=t1", "topic=t2"][..topics].join("&"));
                let (mut client, mut id) = test.stream(&path);
                let mut places = vec![0; topics];
                let mut published = vec![0; topics];
                for cut in 0..25 {
                    for n in 0..7 {
                        let topic = (cut + n) % topics;
                        published[topic] += 1;
                        let payload =
                            format!("{topic}:{}:{}", published[topic], "p".repeat(lens[(cut + n) % 5]));
                        test.publish_to(&format!("t{topic}"), &payload, None);
                    }
                    test.read(client, 1 + cut * 391 % 16_000);
                    test.ticks(2);
                    let got = test.read(client, 0);
                    let (blocks, _) = parsed(&got);
                    places = follow(&blocks, places);
                    if let Some(last) = blocks.iter().rposition(|block| block.id.is_some()) {
                        assert_eq!(blocks[last].id.as_ref(), Some(&places));
                        let text = String::from_utf8(got).unwrap();
                        let whole = &text[..text.rfind("\n\n").unwrap()];
                        id = whole.rsplit_once("id: ").unwrap().1.split('\n').next().unwrap().to_owned();
                    }
                    test.net.reset(client);
                    test.ticks(2);
                    client = test.ask_with_room(&path, &format!("Last-Event-ID: {id}\r\n"), room);
                    let mut all = Vec::new();
                    let is_over = |all: &[u8]| {
                        let (blocks, _) = parsed(all);
                        blocks.iter().any(|block| block.id.is_some())
                            && follow(&blocks, places.clone()) == published
                    };
                    while !is_over(&all) {
                        test.ticks(1);
                        test.worker.audit().unwrap();
                        all.extend(test.read(client, room));
                    }
                    let (blocks, _) = parsed(&all);
                    let told: Vec<&Block> =
                        blocks.iter().filter(|block| block.name.as_deref() == Some("subscribed")).collect();
                    assert_eq!(told.len(), topics);
                    assert!(told.iter().all(|block| block.data[0].contains("\"recovered\":true,")));
                    assert_eq!(told[topics - 1].id.as_ref(), Some(&places), "it begins where it was");
                    places = follow(&blocks, places);
                    id = String::from_utf8(all).unwrap().rsplit_once("id: ").unwrap().1.trim().to_owned();
                }
            }
        }
    }
}

/// The past of several topics, each event with its id, is made as it is taken: it must not be in memory whole.
#[test]
fn a_long_past_costs_its_stream_little_memory() {
    let mut test = Test::new(Personality::Readiness, &keeping());
    for message in 1..=1000 {
        for topic in 0..2 {
            test.publish_to(&format!("t{topic}"), &format!("{topic}:{message}:{}", "p".repeat(300)), None);
        }
    }
    let client = test.ask_with_room("/sse/t0?topic=t1&history=1000", "", 10);
    let (mut all, slot) = (Vec::new(), test.slot());
    for _ in 0..2000 {
        all.extend(test.read(client, 3000));
        assert!(test.worker.connections.outgoing_len(slot) < 20_000);
        test.ticks(1);
        test.worker.audit().unwrap();
    }
    assert_eq!(follow(&parsed(&all).0, vec![0, 0]), [1000, 1000]);
    assert!(!test.worker.connections.positions(slot).unwrap().replays());
    test.publish_to("t1", "1:1001", None);
    test.ticks(2);
    assert_eq!(follow(&parsed(&test.read(client, LARGE)).0, vec![1000, 1000]), [1000, 1001]);
}

/// It is charged to all logs as long as a stream has it before it.
#[test]
fn who_takes_nothing_of_its_past_is_reset_where_memory_is_short() {
    let mut test = Test::new(Personality::Readiness, &keeping());
    (1..=500).for_each(|message| test.publish_to("t0", &format!("0:{message}:{}", "p".repeat(300)), None));
    test.ask_with_room("/sse/t0?topic=t1&history=500", "", 2000);
    test.pass(Duration::from_secs(3));
    assert_eq!(test.worker.stats().reasons(Family::Closed), []);
    let logs = Arc::clone(&test.worker.shared.logs);
    let _rest = logs.charge(logs.max() - logs.used()).unwrap();
    test.pass(Duration::from_millis(200));
    assert_eq!(test.worker.stats().reasons(Family::Closed), [("slow_consumer", 1)]);
}

/// As one with a close frame that it does not take.
#[test]
fn a_slow_stream_that_takes_nothing_has_a_second() {
    for path in ["/sse/t0", "/sse/t0?topic=t1"] {
        let config = Config { lag_bytes_max: 10_000, max_message_bytes: 10_000, ..Config::default() };
        let mut test = Test::new(Personality::Readiness, &config);
        let (client, _) = test.stream(path);
        test.read(client, 130);
        (1..=200).for_each(|message| {
            test.publish_to("t0", &format!("0:{message}:{}", "x".repeat(100)), None);
            test.ticks(2);
        });
        test.pass(Duration::from_millis(900));
        assert_eq!(test.worker.stats().reasons(Family::Closed), []);
        test.pass(Duration::from_millis(500));
        assert_eq!(test.worker.stats().reasons(Family::Closed), [("slow_consumer", 1)]);
        assert_eq!(test.worker.stats().reasons(Family::SlowConsumer), [("reset", 1)]);
    }
}

#[test]
fn what_a_session_sends_is_an_event_and_its_ping_a_comment() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let (client, _) = test.stream("/sse/t0");
    let slot = test.slot();
    let send = |test: &mut Test, slot| {
        test.worker.with_session(slot, |_, context| {
            context.send(text("two\nlines"));
            context.send(binary(&[0, 0xff]));
            context.ping(b"");
            context.send_block(b"event: mine\ndata: 1\n\n");
            Ok(())
        });
        test.ticks(2);
    };
    send(&mut test, slot);
    let expected = "data: two\ndata: lines\n\nevent: binary\ndata: AP8=\n\n:\n\nevent: mine\ndata: 1\n\n";
    assert_eq!(String::from_utf8(test.read(client, LARGE)).unwrap(), expected);
    // Frames are not for it, and a block is not for a WebSocket.
    test.worker.subscribe(slot, &TopicName::parse("t2").unwrap());
    test.ticks(2);
    test.publish_to("t2", "frame", None);
    test.ticks(2);
    assert_eq!(test.read(client, LARGE), b"");
    let client = test.connect("/ws/t0");
    let slot = test.slot();
    send(&mut test, slot);
    let got = frames(&test.read(client, LARGE));
    assert_eq!(got.iter().map(|(op_code, _)| *op_code).collect::<Vec<_>>(), [0x81, 0x82, 0x89]);
}

#[test]
fn heartbeats_come_at_the_ping_interval_and_want_no_answer() {
    for path in ["/sse/t0", "/sse/t0?topic=t1"] {
        let ping_interval = Some(Duration::from_secs(10));
        let idle_timeout = Some(Duration::from_secs(30));
        let config = Config { ping_interval, idle_timeout, ..Config::default() };
        let mut test = Test::new(Personality::Readiness, &config);
        let (client, _) = test.stream(path);
        let mut seen = Vec::new();
        for second in 0..100 {
            test.pass(Duration::from_secs(1));
            let got = test.read(client, LARGE);
            assert!(got.is_empty() || got == b":\n\n", "{got:?}");
            if !got.is_empty() {
                seen.push(second);
            }
        }
        assert!(seen.len() >= 9, "{seen:?}");
        assert!(seen.windows(2).all(|two| (9..=10).contains(&(two[1] - two[0]))), "{seen:?}");
        assert_eq!(test.worker.stats().reasons(Family::Closed), [], "nothing is expected of it");
        // While it takes nothing one waits, however long.
        test.read(client, 0);
        test.publish_to("t0", "0:1", None);
        test.pass(Duration::from_secs(25));
        let slot = test.slot();
        assert!(test.worker.connections.hot(slot).is(Flag::Blocked));
        assert!(test.worker.connections.outgoing_len(slot) <= 3);
        test.pass(Duration::from_secs(10));
        assert_eq!(test.worker.stats().reasons(Family::Closed), [("write_timeout", 1)]);
    }
}

#[test]
fn what_a_client_sends_is_ignored_up_to_a_bound() {
    for personality in BOTH {
        let mut test = Test::new(personality, &Config::default());
        let (client, _) = test.stream("/sse/t0");
        // A frame, a request, and noise.
        test.write(client, &frame(b"hello"));
        test.write(client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        test.write(client, &[0xff; 10_000]);
        test.ticks(3);
        test.publish_to("t0", "0:1", None);
        test.ticks(2);
        let (seen, _) = parsed(&test.read(client, LARGE));
        assert_eq!(follow(&seen, vec![0]), [1], "{personality:?}");
        assert_eq!(test.count("requests"), 0);
        test.write(client, &[0xff; 10_000]);
        test.ticks(3);
        assert_eq!(test.net.ended(client), Some(Ended::Finished));
        assert_eq!(test.read(client, LARGE), b"");
        test.net.finish(client);
        test.ticks(3);
        assert_eq!(test.worker.stats().reasons(Family::Closed), [("protocol_error", 1)]);
    }
}

#[test]
fn what_comes_while_it_opens_counts_as_well() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let client = test.ask("/sse/t0", "\r\nGET / HTTP/1.1\r\n\r\n");
    test.ticks(3);
    test.write(client, &[0; 16 * 1024]);
    test.ticks(3);
    test.read(client, LARGE);
    assert_eq!(test.net.ended(client), Some(Ended::Finished));
}

/// The policies, for streams of one topic and of several.
#[test]
fn slow_streams_are_treated_as_their_policy_says() {
    for personality in BOTH {
        for (path, topics) in [("/sse/t0", 1), ("/sse/t0?topic=t1", 2)] {
            for slow_consumer in [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest] {
                let config = Config {
                    lag_bytes_max: 10_000,
                    max_message_bytes: 10_000,
                    slow_consumer,
                    ..Config::default()
                };
                let mut test = Test::new(personality, &config);
                let (client, _) = test.stream(path);
                test.read(client, 130);
                for message in 1..=200 {
                    test.publish_to("t0", &format!("0:{message}:{}", "x".repeat(100)), None);
                    test.ticks(2);
                    test.worker.audit().unwrap();
                }
                let mut all = test.read(client, LARGE);
                test.ticks(3);
                test.publish_to("t0", "0:201:", None);
                test.ticks(3);
                all.extend(test.read(client, LARGE));
                let (blocks, rest) = parsed(&all);
                assert_eq!(rest, "", "the event that was begun is finished");
                let (told, blocks): (Vec<Block>, Vec<Block>) =
                    blocks.into_iter().partition(|block| block.name.is_some());
                let ids: Vec<u64> = blocks.iter().map(|block| block.id.as_ref().unwrap()[0]).collect();
                let data = |block: &Block| block.data[0].split(':').nth(1).unwrap().parse::<u64>().unwrap();
                assert_eq!(ids, blocks.iter().map(data).collect::<Vec<_>>());
                assert!(blocks.iter().all(|block| block.id.as_ref().unwrap().len() == topics));
                let what = format!("{personality:?} {path} {slow_consumer:?}: {ids:?}");
                match slow_consumer {
                    SlowConsumer::Disconnect => {
                        assert!(ids == [1] || ids == [1, 2], "{what}");
                        assert_eq!(test.net.ended(client), Some(Ended::Finished), "{what}");
                        test.net.finish(client);
                        test.ticks(3);
                        assert_eq!(test.worker.stats().reasons(Family::Closed), [("slow_consumer", 1)]);
                        assert_eq!(test.worker.stats().reasons(Family::SlowConsumer), [("close", 1)]);
                    }
                    SlowConsumer::Skip => {
                        assert_eq!((ids[0], *ids.last().unwrap()), (1, 201), "{what}");
                        assert!(ids.len() < 100 && test.count("deliveries_skipped") > 100, "{what}");
                        let skipped = test.count("deliveries_skipped");
                        assert_eq!(skipped + ids.len() as u64, 201, "{what}");
                        let notice = format!("{{\"skipped\":{skipped},\"topic\":\"t0\"}}");
                        assert_eq!(told.len(), 1, "{what}");
                        assert_eq!((told[0].name.as_deref(), &told[0].data[0]), (Some("skipped"), &notice));
                    }
                    SlowConsumer::Latest => {
                        assert!(ids.len() < 5 && ids.ends_with(&[200, 201]), "{what}");
                    }
                }
            }
        }
    }
}

/// An end cuts no event: what has begun leaves, with its id.
#[test]
fn a_drain_ends_streams_behind_a_whole_event() {
    for personality in BOTH {
        for stop in 0..120 {
            let mut test = Test::new(personality, &keeping());
            (1..=3).for_each(|message| test.publish_to("t0", &format!("0:{message}:abcdefghijklmnop"), None));
            let (client, _) = test.stream("/sse/t0?topic=t1");
            test.read(client, stop);
            (4..=6).for_each(|message| test.publish_to("t0", &format!("0:{message}:abcdefghijklmnop"), None));
            test.publish_to("t1", "1:1", None);
            test.ticks(2);
            test.worker.shared.drain();
            test.pass(Duration::from_millis(200));
            let mut all = test.read(client, LARGE);
            test.pass(Duration::from_millis(200));
            all.extend(test.read(client, LARGE));
            let (blocks, rest) = parsed(&all);
            assert_eq!(rest, "", "{personality:?} at {stop}");
            follow(&blocks, vec![3, 0]);
            assert_eq!(test.net.ended(client), Some(Ended::Finished));
            test.net.finish(client);
            test.pass(Duration::from_millis(300));
            assert_eq!(test.worker.stats().reasons(Family::Closed), [("drain", 1)]);
        }
    }
}

#[test]
fn a_stream_of_several_that_loses_one_goes_on_with_the_ids_of_all() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let (client, _) = test.stream("/sse/t0?topic=t1");
    let slot = test.slot();
    test.publish_to("t0", "0:1", None);
    test.publish_to("t1", "1:1", None);
    test.ticks(2);
    let mut assign = |topic: &str, assignment| {
        let topic = TopicName::parse(topic).unwrap();
        let mut assigned = Ok(());
        test.worker.with_session(slot, |session, context| {
            assigned = session.assigned(context, &topic, assignment);
            Ok(())
        });
        assigned
    };
    assert_eq!(assign("t0", Assignment::Subscribe), Ok(()), "it is there");
    for _ in 0..2 {
        assert_eq!(assign("t0", Assignment::Unsubscribe), Ok(()));
    }
    assert!(assign("t0", Assignment::Subscribe).is_err());
    assert!(assign("t2", Assignment::Subscribe).is_err());
    assert_eq!(assign("t2", Assignment::Unsubscribe), Ok(()), "nothing is to be done");
    // Frames are not for it.
    test.worker.subscribe(slot, &TopicName::parse("t2").unwrap());
    for topic in ["t0", "t2"] {
        test.publish_to(topic, "nobody's", None);
    }
    test.publish_to("t1", "1:2", None);
    test.ticks(3);
    test.worker.audit().unwrap();
    let (blocks, _) = parsed(&test.read(client, LARGE));
    assert_eq!(follow(&blocks, vec![0, 0]), [1, 2]);
    let told: Vec<&str> =
        blocks.iter().filter(|block| block.name.is_some()).map(|block| &*block.data[0]).collect();
    assert_eq!(told, ["{\"unsubscribed\":\"t0\"}"]);
}
