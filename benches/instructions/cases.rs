//! The parts of the hot path whose instructions are counted. Each checks its own result, outside of what is counted.
//!
//! A copy of some KiB is one instruction per byte here (`rep movsb`, of which callgrind counts each step), so what is
//! copied once more shows.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use stentor::{
    config::Config,
    engine::driver::sim::{Buffers, Personality, SocketId},
    protocol::ws::{Event, Inbox, Limits, Reader},
};

use crate::{
    common::{
        client::{PING, PONG, TEXT, frame, server_frame, upgrade_request},
        in_memory::World,
    },
    meter::Meter,
    topics,
};

/// One thing that is counted.
pub struct Case {
    /// As it stands in the baseline.
    pub name: &'static str,
    /// What the instructions are divided by.
    pub operation: &'static str,
    /// Prepares, and lets the meter count.
    pub run: fn(&mut Meter),
}

macro_rules! cases {
    ($($name:literal per $operation:literal: $run:expr,)*) => {
        /// All cases, the quick ones first.
        pub const CASES: &[Case] = &[$(Case { name: $name, operation: $operation, run: $run },)*];
    };
}

cases! {
    "read_text/64" per "message": |meter| read_text(meter, 64),
    "read_text/1024" per "message": |meter| read_text(meter, 1024),
    "read_text/16384" per "message": |meter| read_text(meter, 16384),
    "publish/64" per "message": |meter| publish(meter, 1, 64, 1),
    "publish/64x64" per "message": |meter| publish(meter, 1, 64, 64),
    "publish/16384" per "message": |meter| publish(meter, 1, 16384, 1),
    "publish_by_mail/64" per "message": |meter| publish(meter, 2, 64, 1),
    "publish_by_mail/64x64" per "message": |meter| publish(meter, 2, 64, 64),
    "echo/64" per "message": echo,
    "ping_pong/64" per "ping": ping_pong,
    "sweep/readiness/100" per "delivery": |meter| sweep(meter, Personality::Readiness, 100),
    "sweep/completion/100" per "delivery": |meter| sweep(meter, Personality::Completion, 100),
    "handshake" per "connection": handshake,
    "keepalive" per "ping interval": keepalive,
    "idle_tick/10000" per "tick": idle_tick,
    "sweep/readiness/10000" per "delivery": |meter| sweep(meter, Personality::Readiness, 10_000),
    "sweep/completion/10000" per "delivery": |meter| sweep(meter, Personality::Completion, 10_000),
    "many_topics/10000x100" per "delivery": |meter| topics::deliver(meter, 10_000, 100),
    "many_topics/500000x2" per "delivery": |meter| topics::deliver(meter, 500_000, 2),
}

/// A frame's header, unmasking, UTF-8 and the server's header over the client's; two bytes per character.
fn read_text(meter: &mut Meter, len: usize) {
    const FRAMES: usize = 16;
    let limits = Limits { message_bytes_max: 1 << 20, fragments_max: 1000 };
    let text: String = "Привет".chars().cycle().take(len / 2).collect();
    let burst = frame(TEXT, text.as_bytes()).repeat(FRAMES);
    let served = server_frame(TEXT, text.as_bytes());
    let mut reader = Reader::default();
    for _ in 0..10 {
        let mut inbox = Inbox::from_buffer(BytesMut::from(&burst[..]), burst.len());
        let mut frames = Vec::with_capacity(FRAMES);
        meter.count(FRAMES as u64, || {
            while let Some(event) = reader.next(&mut inbox, &limits).expect("the frames are valid") {
                let Event::Message(message) = event else { panic!("{event:?}") };
                let frame = message.payload.into_frame(message.kind);
                let bytes = frame.bytes();
                frames.push((bytes.as_ptr().addr(), bytes.len()));
            }
        });
        let buffer = inbox.into_buffer();
        assert_eq!(frames.len(), FRAMES);
        for (address, len) in frames {
            let start = address - buffer.as_ptr().addr();
            assert_eq!(buffer[start..start + len], served);
        }
    }
}

/// From a client's bytes to one subscriber; with two workers the topic's home and the subscriber are on the other one.
fn publish(meter: &mut Meter, workers: u16, len: usize, messages: usize) {
    let home = workers - 1;
    let mut world = World::new(workers, Personality::Readiness, &Config::default());
    let topic = world.topic_at(home);
    let publisher = world.connect(0, &format!("/ws/{topic}?mode=pub"));
    let subscriber = world.connect_discarding(home, &format!("/ws/{topic}?mode=sub"));
    let payload = vec![b'a'; len];
    let bytes = frame(TEXT, &payload).repeat(messages);
    let served = (server_frame(TEXT, &payload).len() * messages) as u64;
    rounds(meter, &mut world, 100, messages as u64, |world| {
        let sent = world.net.sent(subscriber);
        world.net.write(publisher, &bytes);
        Box::new(move |world| assert_eq!(world.net.sent(subscriber), sent + served))
    });
    assert_eq!(world.stats(home).mail_taken.get() > 0, workers > 1);
}

/// One message to all subscribers of a topic.
fn sweep(meter: &mut Meter, personality: Personality, subscribers: u64) {
    let mut world = World::new(1, personality, &Config::default());
    let publisher = world.connect(0, "/ws/t?mode=pub");
    for _ in 0..subscribers {
        world.connect_discarding(0, "/ws/t?mode=sub");
    }
    let bytes = frame(TEXT, &[b'a'; 64]);
    rounds(meter, &mut world, 10, subscribers, |world| {
        let deliveries = world.stats(0).deliveries.get();
        world.net.write(publisher, &bytes);
        Box::new(move |world| assert_eq!(world.stats(0).deliveries.get(), deliveries + subscribers))
    });
}

/// A message of a client back to it.
fn echo(meter: &mut Meter) {
    let config = Config { echo: true, ..Config::default() };
    let mut world = World::new(1, Personality::Readiness, &config);
    let client = world.connect(0, "/echo");
    let payload = [b'a'; 64];
    answered(meter, &mut world, client, &frame(TEXT, &payload), &server_frame(TEXT, &payload));
}

/// A client's ping, and the pong.
fn ping_pong(meter: &mut Meter) {
    let mut world = World::new(1, Personality::Readiness, &Config::default());
    let client = world.connect(0, "/ws/t");
    let payload = [b'a'; 64];
    answered(meter, &mut world, client, &frame(PING, &payload), &server_frame(PONG, &payload));
}

fn answered(meter: &mut Meter, world: &mut World, client: SocketId, bytes: &[u8], answer: &[u8]) {
    rounds(meter, world, 100, 1, |world| {
        world.net.write(client, bytes);
        let answer = answer.to_vec();
        Box::new(move |world| assert_eq!(world.net.read(client, usize::MAX), answer))
    });
}

/// Accept, request head, the subscription, the 101.
fn handshake(meter: &mut Meter) {
    const BUFFERS: Buffers = Buffers { to_client: 1 << 16, to_server: 1 << 16 };
    let mut world = World::new(1, Personality::Readiness, &Config::default());
    rounds(meter, &mut world, 500, 1, |world| {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let client = world.net.connect(0, address, BUFFERS).expect("it listens");
        world.net.write(client, upgrade_request("/ws/t").as_bytes());
        Box::new(move |world| {
            assert!(world.net.read(client, usize::MAX).starts_with(b"HTTP/1.1 101 "));
        })
    });
}

/// What a connection costs that says nothing by itself: for each interval a ping, the pong to it, and its part of all
/// ticks.
fn keepalive(meter: &mut Meter) {
    const CONNECTIONS: usize = 1000;
    const INTERVALS: u64 = 3;
    let config = Config { ping_interval: Some(Duration::from_secs(10)), ..Config::default() };
    let mut world = World::new(1, Personality::Readiness, &config);
    let clients: Vec<SocketId> =
        (0..CONNECTIONS).map(|_| world.connect_discarding(0, "/ws/t?mode=sub")).collect();
    let pong = frame(PONG, b"");
    for tick in 1..=INTERVALS * 100 {
        world.net.advance(Duration::from_millis(100));
        let sent: Vec<u64> = clients.iter().map(|&client| world.net.sent(client)).collect();
        let is_last = tick % 100 == 0;
        meter.count(if is_last { CONNECTIONS as u64 } else { 0 }, || world.settle());
        for (&client, sent) in clients.iter().zip(sent) {
            if world.net.sent(client) > sent {
                world.net.write(client, &pong);
            }
        }
        meter.count(0, || world.settle());
    }
    let pings = world.stats(0).pings_sent.get();
    // When in its interval a connection's turn comes is not said.
    let expected = (INTERVALS - 1) * CONNECTIONS as u64..=INTERVALS * CONNECTIONS as u64;
    assert!(expected.contains(&pings), "{pings} pings");
    assert_eq!(world.stats(0).pongs_received.get(), pings);
    assert_eq!(world.count("connections"), CONNECTIONS as u64);
}

/// A tenth of a second in which nothing happens and nothing is due.
fn idle_tick(meter: &mut Meter) {
    const CONNECTIONS: u64 = 10_000;
    let config = Config { ping_interval: None, ..Config::default() };
    let mut world = World::new(1, Personality::Readiness, &config);
    for _ in 0..CONNECTIONS {
        world.connect_discarding(0, "/ws/t?mode=sub");
    }
    let mut tick = |meter: &mut Meter, operations| {
        world.net.advance(Duration::from_millis(100));
        let ticks = world.stats(0).ticks.get();
        meter.count(operations, || world.settle());
        world.stats(0).ticks.get() - ticks
    };
    // The handshakes' deadlines are behind it then.
    let mut silent = Meter::default();
    for _ in 0..300 {
        tick(&mut silent, 0);
    }
    for _ in 0..100 {
        assert_eq!(tick(meter, 1), 1);
    }
    assert_eq!(world.count("connections"), CONNECTIONS);
}

/// What a round has to have led to.
type Check = Box<dyn FnOnce(&mut World)>;

/// Counts what workers do in so many rounds. Before that come as many that are not counted, in which lists and queues
/// grow to what they need. `prepare` writes what clients write, and gives a check of what came of it.
fn rounds(
    meter: &mut Meter,
    world: &mut World,
    rounds: usize,
    operations: u64,
    prepare: impl Fn(&mut World) -> Check,
) {
    for _ in 0..rounds {
        let check = prepare(world);
        world.settle();
        check(world);
    }
    for _ in 0..rounds {
        let check = prepare(world);
        meter.count(operations, || world.settle());
        check(world);
    }
}
