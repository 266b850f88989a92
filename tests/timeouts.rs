//! Timeouts, each with a short value: who lives is kept, who does not is ended and counted under its name.

mod common;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use common::{
    Client, Frame, TestServer,
    client::{BINARY, PING, PONG},
    config, frame,
};
use stentor::config::Config;

const SHORT: Duration = Duration::from_millis(300);
/// Time is counted in these, so anything may come so much early.
const TICK: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

fn closed(server: &TestServer, reason: &str) -> u64 {
    server.metrics().reason("closed", reason)
}

#[test]
fn who_answers_pings_stays() {
    let server = TestServer::start(&Config { ping_interval: Some(SHORT), pong_timeout: SHORT, ..config() });
    let mut client = Client::open(&server, "/ws/t");
    for _ in 0..4 {
        let ping = client.frame();
        assert_eq!(ping, Frame { first: PING, payload: Vec::new() });
        client.send_frame(PONG, &ping.payload);
    }
    client.send_text("here");
    assert_eq!(client.message(), Frame::text("here"));
    server.until("they are counted", |metrics| metrics.sum("pongs_received") == 4);
    assert_eq!(closed(&server, "pong_timeout"), 0);
}

#[test]
fn who_does_not_answer_is_gone() {
    let server = TestServer::start(&Config { ping_interval: Some(SHORT), pong_timeout: SHORT, ..config() });
    let mut silent = Client::open(&server, "/ws/t");
    let began = Instant::now();
    silent.gone();
    // The first ping of a connection may come earlier, the time for the pong is as long as ever.
    assert!(began.elapsed() >= SHORT - TICK, "{:?}", began.elapsed());
    server.until("it is counted", |metrics| metrics.reason("closed", "pong_timeout") == 1);
    server.until_connections(0);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let server = TestServer::start(&Config { ping_interval: Some(SHORT), pong_timeout: SHORT, ..config() });
    let mut client = Client::open(&server, "/ws/t?mode=pub");
    let message = frame(BINARY, b"slowly");
    // A byte for each ping, of one message.
    for byte in message {
        assert_eq!(client.frame().first, PING);
        client.send(&[byte]);
    }
    server.until("the message is whole", |metrics| metrics.sum("messages_received") == 1);
    assert_eq!(closed(&server, "pong_timeout"), 0);
}

#[test]
fn who_sends_is_not_pinged() {
    let server = TestServer::start(&Config { ping_interval: Some(SHORT), pong_timeout: SHORT, ..config() });
    let mut client = Client::open(&server, "/ws/t?mode=pub");
    // It may get one right at the beginning.
    assert_eq!(client.frame().first, PING);
    let began = Instant::now();
    while began.elapsed() < 5 * SHORT {
        client.send_text("x");
        assert!(client.is_silent_for(Duration::from_millis(30)));
    }
    assert_eq!(server.metrics().sum("pings_sent"), 1);
}

#[test]
fn a_message_has_its_time() {
    let server = TestServer::start(&Config { message_timeout: SHORT, ..config() });
    let mut half = Client::open(&server, "/echo");
    let mut fragment = Client::open(&server, "/echo");
    let mut idle = Client::open(&server, "/echo");
    let began = Instant::now();
    half.send(&frame(BINARY, &[0; 1000])[..500]);
    fragment.send_frame(0x02, b"first");
    for (client, name) in [(&mut half, "half a frame"), (&mut fragment, "a fragment")] {
        // Control frames between fragments don't extend it; here they keep nobody waiting.
        assert_eq!(client.close_frame().0, Some(1008), "{name}");
        assert!(began.elapsed() >= SHORT - TICK, "{:?}", began.elapsed());
    }
    // Between messages nothing is due; a further message has a time of its own.
    for _ in 0..3 {
        let bytes = frame(BINARY, &[1; 100]);
        idle.send(&bytes[..50]);
        assert!(idle.is_silent_for(SHORT / 2));
        idle.send(&bytes[50..]);
        assert_eq!(idle.message().payload, [1; 100]);
    }
    drop((half, fragment));
    server.until("both are counted", |metrics| metrics.reason("closed", "message_timeout") == 2);
}

#[test]
fn idle_means_without_a_message() {
    let server = TestServer::start(&Config {
        idle_timeout: Some(2 * SHORT),
        ping_interval: Some(SHORT),
        pong_timeout: LONG,
        ..config()
    });
    let mut listener = Client::open(&server, "/ws/t?mode=sub");
    let mut talker = Client::open(&server, "/ws/t?mode=pub");
    let began = Instant::now();
    while began.elapsed() < 5 * SHORT {
        talker.send_text("x");
        assert!(closed(&server, "protocol_error") == 0);
        std::thread::sleep(Duration::from_millis(50));
    }
    // What it received, and its pongs, did not count.
    listener.send_frame(PONG, b"");
    let (code, _) = listener.close_frame();
    assert_eq!(code, Some(1000));
    talker.send_text("still here");
    drop(listener);
    server.until("one was idle", |metrics| metrics.reason("closed", "idle_timeout") == 1);
    server.until_connections(1);
}

#[test]
fn a_socket_that_takes_nothing_is_reset() {
    let server = TestServer::start(&Config { write_timeout: SHORT, ..config() });
    let client = Client::narrow(&server).upgraded("/echo");
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || while sender.write_all(&frame(BINARY, &[0; 60_000])).is_ok() {});
    server.until("it is counted", |metrics| metrics.reason("closed", "write_timeout") == 1);
    writer.join().expect("no panic");
    server.until_connections(0);
}

#[test]
fn a_slow_reader_is_not_one_that_takes_nothing() {
    let server = TestServer::start(&Config { write_timeout: 2 * SHORT, ..config() });
    let mut client = Client::narrow(&server).upgraded("/echo");
    let mut sender = client.sender();
    let messages = 100;
    let writer = std::thread::spawn(move || {
        for _ in 0..messages {
            sender.write_all(&frame(BINARY, &[0; 8_000])).expect("not cut off");
        }
    });
    let began = Instant::now();
    for _ in 0..messages {
        assert_eq!(client.message().payload.len(), 8_000);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() > 3 * SHORT);
    writer.join().expect("no panic");
}

#[test]
fn a_close_that_is_not_answered_has_its_time() {
    let server = TestServer::start(&Config { idle_timeout: Some(SHORT), close_timeout: SHORT, ..config() });
    let mut client = Client::open(&server, "/echo");
    assert_eq!(client.close_frame().0, Some(1000));
    let began = Instant::now();
    client.end();
    assert!(began.elapsed() >= SHORT / 2, "it was waited for: {:?}", began.elapsed());
    server.until("it counts as what it was", |metrics| metrics.reason("closed", "idle_timeout") == 1);
    server.until_connections(0);
}
