//! One worker over a driver in memory, in both of the contract's personalities: sends that end at once
//! (readiness) and sends whose outcome comes with the submit (completion). Sockets have little room, so
//! that sends are short and refused.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    driver::{Driver, End, Event, Received, Sent, Wake},
    shared::{Settings, Shared},
    stats::{Family, Stats},
    worker::Worker,
};
use crate::{
    broker::{ids::WorkerId, limits::Gauge},
    config::Config,
    session::routes::Routes,
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Personality {
    Readiness,
    Completion,
}

/// One client's two byte streams.
#[derive(Default)]
struct Peer {
    to_server: VecDeque<u8>,
    from_server: Vec<u8>,
    /// Bytes that the socket takes until the client reads again.
    room: usize,
    refused: bool,
    readable: bool,
    slot: Option<u32>,
    ended: Option<End>,
    /// Sends fail.
    broken: bool,
}

#[derive(Default)]
struct World {
    peers: Vec<Peer>,
    waiting: VecDeque<usize>,
}

#[derive(Clone)]
struct Memory {
    world: Rc<RefCell<World>>,
    personality: Personality,
    queued: Vec<(u32, Vec<u8>)>,
    started: Instant,
}

impl Memory {
    fn of(&self, slot: u32, act: impl FnOnce(&mut Peer) -> Sent) -> Sent {
        let mut world = self.world.borrow_mut();
        world.peers.iter_mut().find(|peer| peer.slot == Some(slot)).map_or(Sent::Failed, act)
    }

    fn write(&self, slot: u32, bytes: &[u8]) -> Sent {
        self.of(slot, |peer| {
            if peer.broken {
                return Sent::Failed;
            }
            let taken = bytes.len().min(peer.room);
            peer.from_server.extend_from_slice(&bytes[..taken]);
            peer.room -= taken;
            peer.refused |= taken < bytes.len();
            if taken == 0 { Sent::Refused } else { Sent::Bytes(taken) }
        })
    }
}

impl Driver for Memory {
    type Socket = usize;

    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        if !world.waiting.is_empty() {
            events.push(Event::Acceptable);
        }
        for peer in &mut world.peers {
            let Some(slot) = peer.slot else { continue };
            if peer.refused && peer.room > 0 {
                peer.refused = false;
                events.push(Event::Writable(slot));
            }
            if std::mem::take(&mut peer.readable) {
                events.push(Event::Readable { slot, to_end: false });
            }
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake(&self) -> Wake {
        Arc::new(|| {})
    }

    fn accept(&mut self) -> io::Result<Option<(usize, SocketAddr)>> {
        let accepted = self.world.borrow_mut().waiting.pop_front();
        Ok(accepted.map(|peer| (peer, SocketAddr::from(([127, 0, 0, 1], 1)))))
    }

    fn stop_listening(&mut self) {}

    fn add(&mut self, slot: u32, socket: usize) -> io::Result<()> {
        self.world.borrow_mut().peers[socket].slot = Some(slot);
        Ok(())
    }

    fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        let mut world = self.world.borrow_mut();
        let peer = world.peers.iter_mut().find(|peer| peer.slot == Some(slot)).unwrap();
        let bytes = buffer.len().min(peer.to_server.len());
        buffer.iter_mut().zip(peer.to_server.drain(..bytes)).for_each(|(to, byte)| *to = byte);
        if bytes == 0 { Received::Empty } else { Received::Bytes(bytes) }
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        assert!(!bytes.is_empty());
        if self.personality == Personality::Readiness {
            return self.write(slot, bytes);
        }
        assert!(self.queued.iter().all(|(other, _)| *other != slot), "one send in flight per connection");
        self.queued.push((slot, bytes.to_vec()));
        Sent::Queued
    }

    fn send_vectored(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> Sent {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.send(slot, &bytes)
    }

    fn submit(&mut self, outcomes: &mut Vec<(u32, Sent)>) {
        for (slot, bytes) in std::mem::take(&mut self.queued) {
            let sent = self.write(slot, &bytes);
            if sent != Sent::Bytes(bytes.len()) {
                outcomes.push((slot, sent));
            }
        }
    }

    fn finish(&mut self, _slot: u32) {}

    fn remove(&mut self, slot: u32, end: End) {
        self.of(slot, |peer| {
            peer.slot = None;
            peer.ended = Some(end);
            Sent::Failed
        });
    }
}

struct Test {
    worker: Worker<Memory>,
    world: Rc<RefCell<World>>,
}

impl Test {
    fn new(personality: Personality, config: &Config) -> Test {
        let world = Rc::<RefCell<World>>::default();
        let driver =
            Memory { world: Rc::clone(&world), personality, queued: Vec::new(), started: Instant::now() };
        let routes = Routes::new(config, Box::new(String::new)).unwrap();
        let shared = Shared::new(
            Settings::new(config, 1000, 7),
            Arc::new(routes),
            Arc::new(vec![Stats::default()]),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            vec![driver.wake()],
        );
        let worker = Worker::new(WorkerId(0), driver, Arc::new(shared));
        Test { worker, world }
    }

    fn ticks(&mut self, n: usize) {
        for _ in 0..n {
            self.worker.tick().unwrap();
        }
    }

    fn write(&mut self, client: usize, bytes: &[u8]) {
        let mut world = self.world.borrow_mut();
        world.peers[client].to_server.extend(bytes);
        world.peers[client].readable = true;
    }

    /// Takes what has arrived and makes room for `room` bytes more.
    fn read(&mut self, client: usize, room: usize) -> Vec<u8> {
        let peer = &mut self.world.borrow_mut().peers[client];
        peer.room = room;
        std::mem::take(&mut peer.from_server)
    }

    fn connect(&mut self, path: &str) -> usize {
        let client = {
            let mut world = self.world.borrow_mut();
            world.peers.push(Peer { room: 1 << 20, ..Peer::default() });
            let client = world.peers.len() - 1;
            world.waiting.push_back(client);
            client
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        self.ticks(1);
        self.write(client, request.as_bytes());
        self.ticks(3);
        let answer = self.read(client, 1 << 20);
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

#[test]
fn a_lone_message_leaves_in_the_tick_that_read_it() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut test = Test::new(personality, &Config::default());
        let clients: Vec<usize> = (0..60).map(|_| test.connect("/ws/t")).collect();
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
            got.extend(test.read(healthy, 1 << 20));
        }
        assert_eq!(got, served(&[7; 100]).repeat(200), "{personality:?}");
        // It had room for most of one frame; when it reads, it gets the rest of that, and the close frame.
        let half = test.read(stuck, 1 << 20);
        test.ticks(2);
        let rest = test.read(stuck, 1 << 20);
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
    let crowd: Vec<usize> = (0..300).map(|_| test.connect("/ws/crowd?mode=sub")).collect();
    let (reader, publisher) = (test.connect("/ws/v?mode=sub"), test.connect("/ws/v?mode=pub"));
    let to_crowd = test.connect("/ws/crowd?mode=pub");
    // All are blocked, in the middle of a message.
    crowd.iter().chain([&reader]).for_each(|&client| drop(test.read(client, 10)));
    test.write(to_crowd, &frame(&[1; 5000]));
    test.write(publisher, &frame(&[2; 1000]));
    test.ticks(10);
    assert_eq!(test.worker.lanes.behind(), 301);
    // All can be written to at once, and the server has a lot to do.
    crowd.iter().chain([&reader]).for_each(|&client| drop(test.read(client, 1 << 20)));
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
        assert_eq!(test.read(reader, 1 << 20), served(&payloads[0]), "one fits the window");
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
    let others: Vec<usize> = (0..64).map(|_| test.connect("/ws/other")).collect();
    let publisher = test.connect("/ws/t?mode=pub");
    let [breaks, second, last] = [(); 3].map(|()| test.connect("/ws/t?mode=sub"));
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    others.iter().chain([&last]).for_each(|&client| test.write(client, &ping));
    test.write(publisher, &frame(b"hello"));
    test.world.borrow_mut().peers[breaks].broken = true;
    test.ticks(5);
    assert_eq!(test.world.borrow().peers[breaks].ended, Some(End::Reset));
    assert_eq!(test.read(second, 0), served(b"hello"));
    assert_eq!(test.read(last, 0), [&[0x8a, 0][..], &served(b"hello")].concat());
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
                got[i].extend(test.read(readers[i], 1 << 20));
            }
        }
        prop_assert_eq!(&got[1], &sent);
        // Frame by frame: the pongs are whole, and without them the stream is the same.
        let (mut rest, mut messages, mut pongs) = (&got[0][..], Vec::new(), 0u64);
        while !rest.is_empty() {
            let len = match rest[1] {
                126 => 4 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
                len => 2 + usize::from(len),
            };
            let (frame, behind) = rest.split_at(len);
            if frame[0] == 0x8a { pongs += 1 } else { messages.extend_from_slice(frame) }
            rest = behind;
        }
        prop_assert_eq!(messages, sent);
        prop_assert_eq!(pongs + test.count("pings_superseded"), pings);
    }
}
