//! A recorded stream of 100,000 lines, published to one topic, arrives byte for byte and in order at 1,000
//! subscribers that are spread over all workers.

mod common;

use std::time::Duration;

use common::{
    Client, Rng, TestServer,
    client::{BINARY, TEXT, server_frame},
    config,
    crowd::Crowd,
    frame,
};
use stentor::config::Config;

const LINES: usize = 100_000;
const SUBSCRIBERS: usize = 1_000;

/// Mostly short lines, some of them empty, some of up to 40 KiB; text in several scripts, and binary.
fn line(rng: &mut Rng) -> (u8, Vec<u8>) {
    let len = match rng.below(10_000) {
        0..=4 => 2_000 + rng.below(38_961),
        5..=300 => 126 + rng.below(1_900),
        301..=600 => 0,
        _ => rng.below(100),
    };
    if rng.below(3) == 0 { (BINARY, rng.bytes(len)) } else { (TEXT, rng.text(len).into_bytes()) }
}

#[test]
fn every_byte_reaches_every_subscriber() {
    let server = TestServer::start(&Config { workers: 4, ..config() });
    let mut rng = Rng(0x57e4);
    // The publisher's bytes in pieces, each with the length of what subscribers have before it.
    let (mut recorded, mut expected) = (vec![(0, Vec::new())], Vec::new());
    for _ in 0..LINES {
        let (first, payload) = line(&mut rng);
        let (_, piece) = recorded.last_mut().expect("at least one");
        piece.extend(frame(first, &payload));
        expected.extend(server_frame(first, &payload));
        if piece.len() > 64 << 10 {
            recorded.push((expected.len(), Vec::new()));
        }
    }
    let crowd =
        Crowd::expecting(&server, "/ws/recorded?mode=sub", SUBSCRIBERS, expected, Duration::from_secs(90));
    let by_worker = server.metrics().by_worker("upgrades");
    assert!(by_worker.iter().all(|&subscribers| subscribers >= 200), "spread: {by_worker:?}");

    let mut publisher = Client::open(&server, "/ws/recorded?mode=pub");
    for (before, piece) in recorded {
        // Well below the bound of the lag: whoever reads can't be slow, however busy this machine is.
        common::eventually("the subscribers read", || before < crowd.least() + (300 << 10));
        publisher.send(&piece);
    }
    crowd.finish();

    assert!(publisher.close().is_empty(), "the publisher is still there");
    let metrics = server.metrics();
    assert_eq!(metrics.sum("messages_published"), LINES as u64);
    assert_eq!(metrics.sum("slow_consumers"), 0);
    assert_eq!(metrics.sum("protocol_errors"), 0);
    server.until("all deliveries are counted", |metrics| {
        metrics.sum("deliveries") == (LINES * SUBSCRIBERS) as u64
    });
}
