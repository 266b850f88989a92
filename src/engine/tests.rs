//! One worker over a driver in memory, in both of the contract's personalities: sends that end at once
//! (readiness) and sends whose outcome comes with the submit (completion). Sockets have little room, so
//! that sends are short and refused.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;
use smallvec::SmallVec;

mod several_topics;
mod streams;
mod timeouts;
mod topic_rules;

use super::{
    driver::{
        Driver,
        sim::{Buffers, Ended, Net, Personality, Sim, SocketId},
    },
    lanes::{Lanes, NONE, tests::rule},
    shared::{Settings, Shared},
    stats::{Family, Stats},
    worker::Worker,
};
use crate::{
    broker::{
        encoding::Encoding,
        home::Head,
        ids::{Epoch, Mark, Offset, Position, Tick, WorkerId},
        limits::Gauge,
        name::TopicName,
    },
    config::{Config, SlowConsumer},
    session::routes::Routes,
};

const LARGE: usize = 1 << 20;

struct Test {
    worker: Worker<Sim>,
    net: Net,
}

impl Test {
    fn new(personality: Personality, config: &Config) -> Test {
        let net = Net::new(1, 7);
        let driver = net.driver(0, personality);
        let routes = Routes::new(config, Box::new(String::new)).unwrap();
        let shared = Shared::new(
            Settings::new(config, 1000, 7),
            Arc::new(routes),
            Arc::new(vec![Stats::default()]),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            vec![driver.wake()],
        );
        Test { worker: Worker::new(WorkerId(0), driver, Arc::new(shared)), net }
    }

    /// So many turns of the worker; one that would have to wait ends at once.
    fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            let turn = self.worker.tick();
            assert!(!turn.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
        }
    }

    /// Time passes, with a turn in each tenth of a second.
    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 100 {
            self.net.advance(Duration::from_millis(100));
            self.ticks(3);
        }
    }

    fn write(&mut self, client: SocketId, bytes: &[u8]) {
        assert_eq!(self.net.write(client, bytes), bytes.len());
    }

    /// Takes what has arrived and makes room for `room` bytes more.
    fn read(&mut self, client: SocketId, room: usize) -> Vec<u8> {
        let bytes = self.net.read(client, usize::MAX);
        self.net.resize(client, room);
        bytes
    }

    fn connect(&mut self, path: &str) -> SocketId {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let buffers = Buffers { to_client: LARGE, to_server: LARGE };
        let client = self.net.connect(0, address, buffers).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        self.ticks(1);
        self.write(client, request.as_bytes());
        self.ticks(3);
        let answer = self.read(client, LARGE);
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&answer));
        client
    }

    fn count(&self, name: &str) -> u64 {
        self.worker.stats().all().find(|(_, other, ..)| *other == name).unwrap().3
    }
}

/// A client's binary frame, masked with zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = match payload.len() {
        len @ 0..126 => vec![0x82, 0x80 | u8::try_from(len).unwrap()],
        len => [&[0x82, 0x80 | 126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
    };
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// The server's form of it.
fn served(payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(payload);
    let header = frame.len() - payload.len();
    frame.drain(header - 4..header);
    frame[1] &= 0x7f;
    frame
}

/// Each has its own bytes, and what its socket does not take comes later.
#[test]
fn what_waits_for_single_connections_leaves_together() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let clients: Vec<SocketId> = (0..20).map(|_| test.connect("/echo")).collect();
        let before = (test.count("receives"), test.count("sends"));
        let payload = |i: usize| vec![u8::try_from(i).unwrap(); 100 * i];
        for (i, client) in clients.iter().enumerate() {
            test.write(*client, &frame(&payload(i)));
        }
        let room = |i: usize| if i < 15 { LARGE } else { i - 15 };
        clients.iter().enumerate().for_each(|(i, client)| test.net.resize(*client, room(i)));
        test.ticks(1);
        assert_eq!((test.count("receives"), test.count("sends")), (before.0 + 20, before.1 + 20));
        for (i, client) in clients.iter().enumerate() {
            let mut echoed = test.read(*client, LARGE);
            assert_eq!(echoed.len(), served(&payload(i)).len().min(room(i)), "{personality:?} {i}");
            test.ticks(2);
            echoed.extend(test.read(*client, LARGE));
            assert_eq!(echoed, served(&payload(i)), "{personality:?} {i}");
        }
        assert_eq!(test.count("sends_refused"), 5, "{personality:?}");
    }
}

/// A piece holds the beginning of a large message; the rest is received into the message's own buffer, as always.
#[test]
fn large_messages_among_small_ones_are_received_whole() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let clients: Vec<SocketId> = (0..10).map(|_| test.connect("/echo")).collect();
        for round in 0..3 {
            let payload = |i: usize| {
                vec![u8::try_from(i).unwrap(); if (i + round).is_multiple_of(3) { 60_000 } else { 7 }]
            };
            for (i, client) in clients.iter().enumerate() {
                test.write(*client, &frame(&payload(i)).repeat(3));
            }
            test.ticks(3);
            for (i, client) in clients.iter().enumerate() {
                assert!(test.read(*client, LARGE) == served(&payload(i)).repeat(3), "{personality:?} {i}");
            }
        }
    }
}

#[test]
fn a_crowd_with_much_to_say_is_read_in_turns() {
    const TICK: u64 = 1 << 20;
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let clients: Vec<SocketId> = (0..20).map(|_| test.connect("/ws/t?mode=pub")).collect();
        let much = frame(&[7; 60_000]).repeat(10);
        clients.iter().for_each(|client| test.write(*client, &much));
        let before = test.count("bytes_received");
        let mut last = before;
        while test.count("bytes_received") < before + 20 * much.len() as u64 {
            test.ticks(1);
            let now = test.count("bytes_received");
            assert!((1..TICK + (400 << 10)).contains(&(now - last)), "{personality:?}: {}", now - last);
            last = now;
        }
        assert_eq!(test.count("messages_received"), 200);
    }
}

/// Messages that a piece does not hold are received alone after the first, with one receive each.
#[test]
fn who_sends_more_than_a_piece_holds_is_received_from_alone() {
    for len in [5_000, 10_000, 17_000] {
        let mut test = Test::new(Personality::Completion, &Config::default());
        let clients: Vec<SocketId> = (0..4).map(|_| test.connect("/ws/t?mode=pub")).collect();
        let round = |test: &mut Test| {
            let before = test.count("receives");
            clients.iter().for_each(|client| test.write(*client, &frame(&vec![7; len])));
            test.ticks(3);
            test.count("receives") - before
        };
        assert!(round(&mut test) > 4);
        assert_eq!([round(&mut test), round(&mut test)], [4, 4], "{len}");
    }
}

#[test]
fn a_lone_message_leaves_in_the_tick_that_read_it() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let clients: Vec<SocketId> = (0..60).map(|_| test.connect("/ws/t")).collect();
        test.write(clients[0], &frame(b"hello"));
        test.ticks(1);
        for client in clients {
            assert_eq!(test.read(client, 1000), served(b"hello"), "{personality:?}");
        }
        assert_eq!((test.count("deliveries"), test.count("sends")), (60, 120), "with 60 handshakes");
    }
}

#[test]
fn what_piles_up_leaves_in_one_send() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let publisher = test.connect("/ws/t?mode=pub");
    let reader = test.connect("/ws/t?mode=sub");
    let before = test.count("sends");
    let payloads: Vec<Vec<u8>> = (0..50u8).map(|i| vec![i; usize::from(i) * 3]).collect();
    test.write(publisher, &payloads.iter().flat_map(|payload| frame(payload)).collect::<Vec<_>>());
    test.ticks(2);
    assert_eq!(
        test.read(reader, 1000),
        payloads.iter().flat_map(|payload| served(payload)).collect::<Vec<_>>()
    );
    assert_eq!(test.count("sends") - before, 1);
}

#[test]
fn a_reader_that_never_reads_is_closed_and_the_others_get_everything() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let config = Config { lag_bytes_max: 10_000, max_message_bytes: 10_000, ..Config::default() };
        let mut test = Test::new(personality, &config);
        let publisher = test.connect("/ws/t?mode=pub");
        let (stuck, healthy) = (test.connect("/ws/t?mode=sub"), test.connect("/ws/t?mode=sub"));
        test.read(stuck, 70);
        let mut got = Vec::new();
        for _ in 0..200 {
            test.write(publisher, &frame(&[7; 100]));
            test.ticks(2);
            got.extend(test.read(healthy, LARGE));
        }
        assert_eq!(got, served(&[7; 100]).repeat(200), "{personality:?}");
        // It had room for most of one frame; when it reads, it gets the rest of that, and the close frame.
        let half = test.read(stuck, LARGE);
        test.ticks(2);
        let rest = test.read(stuck, LARGE);
        let all = [half, rest].concat();
        let (message, close) = all.split_at(served(&[7; 100]).len());
        assert_eq!(message, served(&[7; 100]));
        assert_eq!(
            &close[..4],
            [&[0x88, u8::try_from(close.len() - 2).unwrap()][..], &1013u16.to_be_bytes()].concat()
        );
        assert_eq!(test.worker.stats().reasons(Family::Closed), [], "it has its second to answer");
    }
}

#[test]
fn what_one_published_oneself_is_left_out() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let (one, other) = (test.connect("/ws/t?echo=off"), test.connect("/ws/t"));
        let own: Vec<u8> = [frame(b"own 1"), frame(b"own 2")].concat();
        test.write(one, &own);
        test.write(other, &frame(b"other"));
        test.write(one, &frame(b"own 3"));
        test.ticks(3);
        assert_eq!(test.read(one, 1000), served(b"other"), "{personality:?}");
        let all = test.read(other, 1000);
        assert_eq!(
            all.len(),
            [served(b"own 1"), served(b"own 2"), served(b"own 3"), served(b"other")].concat().len()
        );
        assert_eq!(test.count("deliveries_left_out"), 3);
    }
}

#[test]
fn who_can_be_written_to_again_is_not_called_slow() {
    let config = Config { lag_bytes_max: 10_000, max_message_bytes: 10_000, ..Config::default() };
    let mut test = Test::new(Personality::Readiness, &config);
    let crowd: Vec<SocketId> = (0..300).map(|_| test.connect("/ws/crowd?mode=sub")).collect();
    let (reader, publisher) = (test.connect("/ws/v?mode=sub"), test.connect("/ws/v?mode=pub"));
    let to_crowd = test.connect("/ws/crowd?mode=pub");
    // All are blocked, in the middle of a message.
    crowd.iter().chain([&reader]).for_each(|&client| drop(test.read(client, 10)));
    test.write(to_crowd, &frame(&[1; 5000]));
    test.write(publisher, &frame(&[2; 1000]));
    test.ticks(10);
    assert_eq!(test.worker.lanes.behind(), 301);
    // All can be written to at once, and the server has a lot to do.
    crowd.iter().chain([&reader]).for_each(|&client| drop(test.read(client, LARGE)));
    for _ in 0..10 {
        test.write(publisher, &frame(&[2; 2400]).repeat(4));
        test.ticks(1);
    }
    test.ticks(100);
    let got = test.read(reader, 0);
    assert_eq!(got.len(), served(&[2; 1000]).len() - 10 + 40 * served(&[2; 2400]).len());
    assert_eq!(test.worker.stats().reasons(Family::Closed), []);
}

#[test]
fn the_newest_message_alone_makes_nobody_slow() {
    let config = Config { lag_bytes_max: 50_000, max_message_bytes: 50_000, ..Config::default() };
    let mut test = Test::new(Personality::Readiness, &config);
    let (reader, publisher) = (test.connect("/ws/t?mode=sub"), test.connect("/ws/t?mode=pub"));
    test.read(reader, 1000);
    // The first has begun and its rest waits; the second is a lag of its own size, more than the bound.
    test.write(publisher, &frame(&[3; 50_000]).repeat(2));
    test.ticks(10);
    let mut got = Vec::new();
    for _ in 0..300 {
        got.extend(test.read(reader, 1000));
        test.ticks(1);
    }
    assert_eq!(got, served(&[3; 50_000]).repeat(2));
}

#[test]
fn publishers_are_held_back_while_the_window_is_full_and_nothing_is_lost() {
    for personality in [Personality::Readiness, Personality::Completion] {
        // A window of 1,000 bytes, a quarter of the lag bound.
        let config = Config { lag_bytes_max: 4000, max_message_bytes: 4000, ..Config::default() };
        let mut test = Test::new(personality, &config);
        let (publisher, reader) = (test.connect("/ws/t?mode=pub"), test.connect("/ws/t?mode=sub"));
        let payloads: Vec<Vec<u8>> = (0..20u8).map(|i| vec![i; 900]).collect();
        test.write(publisher, &payloads.iter().flat_map(|payload| frame(payload)).collect::<Vec<_>>());
        test.ticks(1);
        assert_eq!(test.read(reader, LARGE), served(&payloads[0]), "one fits the window");
        assert_eq!(test.count("messages_received"), 2, "the second waits, and what follows is not read");
        assert_eq!(test.worker.shared.assemblies.load(Ordering::Relaxed), served(&payloads[1]).len());
        test.ticks(60);
        assert_eq!(
            test.read(reader, 0),
            payloads[1..].iter().flat_map(|payload| served(payload)).collect::<Vec<_>>()
        );
        assert_eq!(test.worker.shared.assemblies.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_connection_that_breaks_in_a_batch_does_not_disturb_the_visit_under_way() {
    let mut test = Test::new(Personality::Completion, &Config::default());
    // A tick flushes 64 connections: the pong of the last reader is still to leave when it is visited.
    let others: Vec<SocketId> = (0..64).map(|_| test.connect("/ws/other")).collect();
    let publisher = test.connect("/ws/t?mode=pub");
    let [breaks, second, last] = [(); 3].map(|()| test.connect("/ws/t?mode=sub"));
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    others.iter().chain([&last]).for_each(|&client| test.write(client, &ping));
    test.write(publisher, &frame(b"hello"));
    test.net.reset_unseen(breaks);
    test.ticks(5);
    test.read(breaks, 0);
    assert_eq!(test.net.ended(breaks), Some(Ended::Reset));
    assert_eq!(test.read(second, 0), served(b"hello"));
    assert_eq!(test.read(last, 0), [&[0x8a, 0][..], &served(b"hello")].concat());
}

/// Cuts a stream into its frames, which must all be whole: first byte and payload.
fn frames(mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !stream.is_empty() {
        let (header, len) = match stream[1] {
            126 => (4, usize::from(u16::from_be_bytes([stream[2], stream[3]]))),
            len => (2, usize::from(len)),
        };
        frames.push((stream[0], stream[header..header + len].to_vec()));
        stream = &stream[header + len..];
    }
    frames
}

const DATA: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

fn with_policy(slow_consumer: SlowConsumer) -> Config {
    Config {
        slow_consumer,
        lag_bytes_max: 4096,
        lag_messages_max: 20,
        max_message_bytes: 4096,
        ..Config::default()
    }
}

const POLICIES: [SlowConsumer; 3] = [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest];

#[test]
fn who_never_reads_holds_nothing_and_goes_on_at_the_head_with_skip() {
    let mut test = Test::new(Personality::Readiness, &with_policy(SlowConsumer::Skip));
    let (publisher, reader) = (test.connect("/ws/t?mode=pub"), test.connect("/ws/t?mode=sub"));
    test.read(reader, 10);
    for i in 0..1000u16 {
        test.write(publisher, &frame(&i.to_be_bytes().repeat(50)));
        test.ticks(2);
        if i % 50 == 0 {
            test.pass(Duration::from_millis(200));
        }
    }
    test.pass(Duration::from_secs(3));
    assert_eq!(test.worker.shared.logs.used(), 0, "nothing is kept for it");
    test.read(reader, LARGE);
    test.ticks(2);
    test.write(publisher, &frame(b"new"));
    test.ticks(2);
    let got = frames(&[served(&[0; 100])[..10].to_vec(), test.read(reader, LARGE)].concat());
    assert_eq!(got, [(DATA, vec![0; 100]), (DATA, b"new".to_vec())]);
    assert_eq!(test.count("deliveries_skipped"), 999);
}

#[test]
fn with_latest_every_visit_sends_the_newest_alone() {
    let mut test = Test::new(Personality::Readiness, &with_policy(SlowConsumer::Latest));
    let publisher = test.connect("/ws/t?mode=pub");
    let (quick, slow) = (test.connect("/ws/t?mode=sub"), test.connect("/ws/t?mode=sub"));
    test.write(publisher, &[frame(b"1"), frame(b"2"), frame(b"3")].concat());
    test.ticks(2);
    assert_eq!(frames(&test.read(quick, LARGE)), [(DATA, b"3".to_vec())], "three at once are one value");
    test.read(slow, 0);
    for value in [b"4", b"5", b"6"] {
        test.write(publisher, &frame(value));
        test.ticks(2);
        assert_eq!(frames(&test.read(quick, LARGE)), [(DATA, value.to_vec())]);
    }
    test.pass(Duration::from_secs(2));
    test.read(slow, LARGE);
    test.ticks(3);
    assert_eq!(frames(&test.read(slow, LARGE)), [(DATA, b"6".to_vec())], "the newest was kept for it");
    assert_eq!(test.count("deliveries_conflated"), 2 + 2 + 2);
}

/// Readers that are stuck in a message, or before one, each on a topic of its own: when the logs are full a
/// healthy topic waits for them a second or two, and not for the write timeout.
#[test]
fn full_logs_are_relieved_under_every_policy() {
    for policy in POLICIES {
        for stop in [0, 100] {
            let config = Config {
                slow_consumer: policy,
                log_bytes_max: 400_000,
                lag_bytes_max: 200_000,
                max_message_bytes: 100_000,
                ..Config::default()
            };
            let mut test = Test::new(Personality::Readiness, &config);
            for topic in 0..6 {
                let reader = test.connect(&format!("/ws/stuck{topic}?mode=sub"));
                let publisher = test.connect(&format!("/ws/stuck{topic}?mode=pub"));
                test.read(reader, stop);
                test.write(publisher, &frame(&[7; 60_000]));
                test.ticks(3);
            }
            let (reader, publisher) =
                (test.connect("/ws/healthy?mode=sub"), test.connect("/ws/healthy?mode=pub"));
            test.write(publisher, &frame(&[8; 60_000]));
            test.pass(Duration::from_secs(3));
            assert_eq!(
                test.read(reader, LARGE).len(),
                served(&[8; 60_000]).len(),
                "{policy:?} stopped at {stop}"
            );
            let slow = test.worker.stats().reasons(Family::SlowConsumer);
            assert!(matches!(slow[..], [("reset", 1..=6)]), "{policy:?}: {slow:?}");
        }
    }
}

#[test]
fn own_messages_are_left_out_and_not_skipped() {
    let config = Config { lag_messages_max: 20, ..with_policy(SlowConsumer::Skip) };
    let mut test = Test::new(Personality::Readiness, &config);
    let (one, other) = (test.connect("/ws/t?echo=off"), test.connect("/ws/t?mode=pub"));
    test.read(one, 0);
    for _ in 0..30 {
        test.write(one, &frame(b"own"));
        test.write(other, &frame(b"other"));
        test.ticks(2);
    }
    test.pass(Duration::from_secs(2));
    test.write(one, &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    test.ticks(3);
    assert_eq!(
        (test.count("deliveries_left_out"), test.count("deliveries_skipped")),
        (30, 30),
        "also at its end"
    );
}

#[test]
fn a_late_head_finds_nobody_where_its_lane_was() {
    let mut test = Test::new(Personality::Readiness, &Config::default());
    let worker = &mut test.worker;
    let mut create = |name: &str| {
        let lane = worker.lanes.create(
            TopicName::parse(name).unwrap(),
            rule(),
            Encoding::CANONICAL,
            WorkerId(0),
            Tick(0),
        );
        (lane, worker.lanes.key(lane))
    };
    let (old, key) = create("old");
    test.worker.lanes.remove(old);
    let new = test.worker.lanes.create(
        TopicName::parse("new").unwrap(),
        rule(),
        Encoding::CANONICAL,
        WorkerId(0),
        Tick(0),
    );
    assert_eq!(new, old, "the index is used again");
    let head = Mark { position: Position::START.advanced(7), offset: Offset(1) };
    let (epoch, extents) = (Epoch(1), SmallVec::new());
    test.worker.apply_head(Head {
        lane: key,
        topic: key,
        epoch,
        from: head,
        head,
        extents,
        notes: Vec::new(),
        hurried: false,
    });
    assert!(test.worker.lanes.at(new).topic.is_none());
}

/// What happens while a send has stopped in the middle.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Nothing,
    LagGrows,
    NeverReads,
    Drain,
    ClientCloses,
    ClientPings,
    ClientBreaksTheProtocol,
}

/// A send that stops at any byte, under each policy, with whatever happens next: the client's stream is whole
/// frames, what was begun is finished before anything else, and all that is missing was counted.
#[test]
fn a_stop_at_every_byte() {
    let messages: Vec<Vec<u8>> = vec![vec![1; 5], vec![2; 130], vec![3; 3]];
    let first: Vec<u8> = messages.iter().flat_map(|message| served(message)).collect();
    let all = [
        Then::Nothing,
        Then::LagGrows,
        Then::NeverReads,
        Then::Drain,
        Then::ClientCloses,
        Then::ClientPings,
        Then::ClientBreaksTheProtocol,
    ];
    for personality in [Personality::Readiness, Personality::Completion] {
        for policy in POLICIES {
            for then in all {
                for stop in 0..=first.len() {
                    stop_at(personality, policy, then, stop, &messages);
                }
            }
        }
    }
}

fn stop_at(personality: Personality, policy: SlowConsumer, then: Then, stop: usize, messages: &[Vec<u8>]) {
    let case = format!("{personality:?} {policy:?} {then:?} at byte {stop}");
    let mut test = Test::new(personality, &with_policy(policy));
    let (publisher, reader) = (test.connect("/ws/t?mode=pub"), test.connect("/ws/t?mode=sub"));
    test.read(reader, stop);
    let mut published = messages.to_vec();
    for message in messages {
        test.write(publisher, &frame(message));
        // Conflated only where the socket refuses: each message has a visit of its own.
        test.ticks(2);
    }
    match then {
        Then::Nothing => {}
        Then::LagGrows | Then::NeverReads => {
            for i in 0..30 {
                published.push(vec![100 + i; 90]);
                test.write(publisher, &frame(&published[published.len() - 1]));
                test.ticks(2);
                if i == 28 {
                    // Lags are looked at once in a tenth of a second.
                    test.pass(Duration::from_millis(100));
                }
            }
        }
        Then::Drain => test.worker.shared.drain(),
        Then::ClientCloses => test.write(reader, &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]),
        Then::ClientPings => test.write(reader, &[0x89, 0x80, 0, 0, 0, 0]),
        Then::ClientBreaksTheProtocol => test.write(reader, &[0x83, 0x80, 0, 0, 0, 0]),
    }
    test.ticks(3);
    if then == Then::NeverReads {
        test.pass(Duration::from_secs(2));
        let slow = test.worker.stats().reasons(Family::SlowConsumer);
        let expected: &[_] = if policy == SlowConsumer::Disconnect { &[("reset", 1)] } else { &[] };
        assert_eq!(slow, expected, "{case}");
        assert_eq!(test.net.is_gone(reader), policy == SlowConsumer::Disconnect, "{case}");
        // Whoever stays is ended at last by the time for a write.
        test.pass(Config::default().write_timeout + Duration::from_secs(1));
        assert!(test.net.is_gone(reader), "{case}");
        return;
    }
    let mut got = test.read(reader, LARGE);
    assert_eq!(got.len(), stop.min(got.len()), "{case}: no more than there was room for");
    test.ticks(3);
    got.extend(test.read(reader, LARGE));
    test.pass(Duration::from_millis(300));
    got.extend(test.read(reader, LARGE));
    let got = frames(&got);
    let case = format!(
        "{case}: {:?}",
        got.iter().map(|(first, payload)| (first, payload.first())).collect::<Vec<_>>()
    );
    let data: Vec<&Vec<u8>> =
        got.iter().filter(|(first, _)| *first == DATA).map(|(_, payload)| payload).collect();
    let others: Vec<&(u8, Vec<u8>)> = got.iter().filter(|(first, _)| *first != DATA).collect();

    // What came is in order, nothing twice, and begins with all that had begun.
    let mut expected = published.iter();
    assert!(data.iter().all(|payload| expected.any(|other| other == *payload)), "{case}");
    let mut end = 0;
    let begun = messages.iter().take_while(|message| {
        let begins_at = end;
        end += served(message).len();
        begins_at < stop
    });
    let begun = begun.count();
    assert!(data.iter().zip(&published).take(begun).all(|(got, sent)| *got == sent), "{case}");
    assert!(data.len() >= begun, "{case}");

    let closed_with = |code: u16| {
        let last = got.last().map(|(first, payload)| (*first, payload[..2].to_vec()));
        assert_eq!(last, Some((CLOSE, code.to_be_bytes().to_vec())), "{case}");
        assert_eq!(others.len(), 1, "{case}");
        assert_eq!(data.len(), begun, "{case}: nothing new behind a close");
    };
    let missing = (published.len() - data.len()) as u64;
    match then {
        Then::Drain => closed_with(1001),
        Then::ClientCloses => closed_with(1000),
        Then::ClientBreaksTheProtocol => closed_with(1002),
        Then::LagGrows if policy == SlowConsumer::Disconnect => closed_with(1013),
        _ => {
            let pongs = usize::from(then == Then::ClientPings);
            assert_eq!(others.iter().filter(|(first, _)| *first == PONG).count(), pongs, "{case}");
            assert_eq!(others.len(), pongs, "{case}");
            let (skipped, conflated) = (test.count("deliveries_skipped"), test.count("deliveries_conflated"));
            let counted = match policy {
                SlowConsumer::Disconnect => (0, 0),
                SlowConsumer::Skip if then == Then::LagGrows => (missing, 0),
                SlowConsumer::Skip => (0, 0),
                SlowConsumer::Latest => (0, missing),
            };
            assert_eq!((skipped, conflated), counted, "{case}");
            if policy != SlowConsumer::Skip || then != Then::LagGrows {
                assert_eq!(data.last(), published.last().as_ref(), "{case}");
                assert!(policy == SlowConsumer::Latest || missing == 0, "{case}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever room the sockets have, every reader that reads gets one stream of whole frames, and pongs
    /// come between them.
    #[test]
    fn short_and_refused_sends_keep_the_stream(
        completion in any::<bool>(),
        steps in prop::collection::vec((0usize..300, 0usize..400, 0usize..400, any::<bool>()), 1..60),
    ) {
        let personality = if completion { Personality::Completion } else { Personality::Readiness };
        let mut test = Test::new(personality, &Config::default());
        let publisher = test.connect("/ws/t?mode=pub");
        let readers = [test.connect("/ws/t"), test.connect("/ws/t?echo=off")];
        let (mut sent, mut pings) = (Vec::new(), 0u64);
        let mut got = [Vec::new(), Vec::new()];
        for (i, (len, first_room, second_room, ping)) in steps.into_iter().enumerate() {
            let payload = vec![u8::try_from(i).unwrap(); len];
            sent.extend(served(&payload));
            test.write(publisher, &frame(&payload));
            if ping {
                pings += 1;
                test.write(readers[0], &[0x89, 0x80, 0, 0, 0, 0]);
            }
            test.ticks(1);
            got[0].extend(test.read(readers[0], first_room));
            got[1].extend(test.read(readers[1], second_room));
        }
        for _ in 0..200 {
            test.ticks(1);
            for i in 0..2 {
                got[i].extend(test.read(readers[i], LARGE));
            }
        }
        prop_assert_eq!(&got[1], &sent);
        // The pongs are whole, and without them the stream is the same.
        let all = frames(&got[0]);
        let pongs = all.iter().filter(|(first, _)| *first == PONG).count() as u64;
        let messages: Vec<u8> =
            all.iter().filter(|(first, _)| *first != PONG).flat_map(|(_, payload)| served(payload)).collect();
        prop_assert_eq!(messages, sent);
        prop_assert_eq!(pongs + test.count("pings_superseded"), pings);
    }
}
