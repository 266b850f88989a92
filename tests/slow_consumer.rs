//! Slow consumers: who does not read is cut off at the bound of its lag, and only then, and nobody else notices.

mod common;

use std::time::Duration;

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, CLOSE, TEXT, server_frame},
    config,
    crowd::Crowd,
    frame,
};
use stentor::config::Config;

fn tight() -> Config {
    Config {
        workers: 4,
        lag_bytes_max: 256 << 10,
        max_message_bytes: 64 << 10,
        send_buffer_bytes: 16 << 10,
        ..config()
    }
}

#[test]
fn who_never_reads_is_cut_off_and_the_others_get_everything() {
    let server = TestServer::start(&tight());
    let stuck: Vec<_> = (0..4).map(|_| Client::narrow(&server).upgraded("/ws/slow?mode=sub")).collect();
    let mut rng = Rng(1);
    let messages: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let len = rng.below(8_000);
            rng.bytes(len)
        })
        .collect();
    let expected = messages.iter().flat_map(|bytes| server_frame(BINARY, bytes)).collect();
    let crowd = Crowd::expecting(&server, "/ws/slow?mode=sub", 20, expected, Duration::from_secs(40));
    let mut publisher = Client::open(&server, "/ws/slow?mode=pub");
    let mut sent = 0;
    for message in &messages {
        // Those who read are given the time to, however busy this machine is.
        common::eventually("the readers read", || sent < crowd.least() + (100 << 10));
        publisher.send_frame(BINARY, message);
        sent += message.len();
    }
    crowd.finish();
    assert!(publisher.close().is_empty(), "not cut off");
    server.until("the stuck ones are gone", |metrics| metrics.sum("slow_consumers") == 4);
    assert_eq!(server.metrics().reason("closed", "slow_consumer"), 4);
    for mut client in stuck {
        // What they got is the front of the stream: whole messages in order, then 1013 where it still fitted.
        for message in &messages {
            match client.next_frame() {
                Ok(Some(frame)) if frame.first == CLOSE => {
                    assert_eq!(frame.code(), Some(1013));
                    break;
                }
                Ok(Some(frame)) => assert_eq!(frame, Frame { first: BINARY, payload: message.clone() }),
                Ok(None) => panic!("an end without a word must be a reset"),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
    }
}

#[test]
fn who_comes_to_read_in_time_is_told_why() {
    // The slow consumer reads on after it was called slow: then the close frame reaches it.
    let server = TestServer::start(&tight());
    let mut slow = Client::narrow(&server).upgraded("/ws/told?mode=sub");
    let mut publisher = Client::open(&server, "/ws/told?mode=pub");
    let mut sent = 0;
    server.until("it is subscribed", |metrics| metrics.sum("subscriptions") == 1);
    while server.metrics().sum("subscriptions") > 0 {
        publisher.send_frame(BINARY, &[7; 10_000]);
        sent += 1;
        assert!(sent < 10_000, "nobody was called slow");
    }
    let mut whole = 0;
    let (code, reason) = loop {
        let frame = slow.message();
        if frame.first == CLOSE {
            break (frame.code(), String::from_utf8_lossy(&frame.payload[2..]).into_owned());
        }
        assert_eq!(frame.payload, [7; 10_000]);
        whole += 1;
    };
    assert!(whole < sent);
    assert_eq!(code, Some(1013));
    assert!(reason.contains("slow"), "{reason}");
    drop(slow);
    server.until("it is counted", |metrics| metrics.reason("slow_consumers", "close") == 1);
    assert!(publisher.close().is_empty());
}

#[test]
fn a_lag_within_the_bounds_loses_nothing() {
    let server = TestServer::start(&Config { lag_bytes_max: 2 << 20, ..tight() });
    let mut slow = Client::narrow(&server).upgraded("/ws/within?mode=sub");
    let mut fast = Client::open(&server, "/ws/within?mode=sub");
    let mut publisher = Client::open(&server, "/ws/within?mode=pub");
    let mut rng = Rng(2);
    for round in 0..3 {
        // Below the bound, far above what the sockets hold.
        let messages: Vec<String> = (0..150)
            .map(|_| {
                let len = rng.below(20_000);
                rng.text(len)
            })
            .collect();
        let copy = messages.clone();
        let reader = std::thread::spawn(move || {
            copy.iter().for_each(|message| assert!(fast.text() == *message));
            fast
        });
        messages.iter().for_each(|message| publisher.send_text(message));
        fast = reader.join().expect("gets everything");
        for message in &messages {
            assert!(slow.text() == *message, "round {round}");
        }
    }
    assert_eq!(server.metrics().sum("slow_consumers"), 0);
}

#[test]
fn messages_count_as_well_as_bytes() {
    let server = TestServer::start(&Config { lag_messages_max: 1_000, lag_bytes_max: 64 << 20, ..tight() });
    let _stuck = Client::narrow(&server).upgraded("/ws/many?mode=sub");
    let mut publisher = Client::open(&server, "/ws/many?mode=pub");
    server.until("it is subscribed", |metrics| metrics.sum("subscriptions") == 1);
    let burst = frame(TEXT, &[b'x'; 40]).repeat(500);
    let mut sent = 0;
    while server.metrics().sum("subscriptions") > 0 {
        publisher.send(&burst);
        sent += burst.len();
        assert!(sent < 32 << 20, "nobody was called slow");
    }
    assert!(publisher.close().is_empty());
}

#[test]
fn the_servers_own_lateness_closes_nobody() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 250;
    // The flood passes the bound several times over, yet the sockets' own buffers hold all of it: whoever lags does
    // so because the sweep has not come round.
    let server = TestServer::start(&Config {
        lag_bytes_max: 32 << 10,
        max_message_bytes: 16 << 10,
        send_buffer_bytes: 256 << 10,
        ..tight()
    });
    let payload = |publisher: usize, number: usize| format!("{publisher}:{number:06}:{}", "x".repeat(200));
    let len = PUBLISHERS * MESSAGES * server_frame(TEXT, payload(0, 0).as_bytes()).len();
    let crowd = Crowd::agreeing(&server, "/ws/flood?mode=sub", 1_000, len, Duration::from_secs(60));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut client = Client::open(&server, "/ws/flood?mode=pub");
            client.stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    client.send_text(&payload(publisher, number));
                }
                client
            })
        })
        .collect();
    let bytes = crowd.finish();
    for publisher in publishers {
        assert!(publisher.join().expect("not cut off").close().is_empty());
    }
    let mut next = [0; PUBLISHERS];
    let mut rest = &bytes[..];
    while let Some((frame, len)) = Frame::parse(rest) {
        rest = &rest[len..];
        let text = String::from_utf8(frame.payload).expect("text");
        let publisher: usize = text[..1].parse().expect("a number");
        assert_eq!(text, payload(publisher, next[publisher]));
        next[publisher] += 1;
    }
    assert_eq!((next, rest.len()), ([MESSAGES; PUBLISHERS], 0));
    let metrics = server.metrics();
    assert_eq!(metrics.sum("slow_consumers"), 0);
    assert!(metrics.sum("messages_held") > 0, "publishers were held back");
}
