//! Frames over real sockets: whatever way they are cut they mean the same, and who breaks the rules of RFC 6455
//! gets the close code that it names and hurts nobody else.

mod common;

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, CLOSE, PING, PONG, TEXT, close_body, header},
    config, frame,
};
use stentor::config::Config;

#[test]
fn every_length_comes_back() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/echo");
    let mut rng = Rng(1);
    let lengths = [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        15,
        16,
        17,
        31,
        63,
        64,
        65,
        124,
        125,
        126,
        127,
        128,
        4095,
        4096,
        32_763,
        32_764,
        32_767,
        32_768,
        32_769,
        65_534,
        65_535,
        65_536,
        65_537,
        69_000,
        131_072,
        262_145,
        1 << 20,
    ];
    for len in lengths {
        let (text, bytes) = (rng.text(len), rng.bytes(len));
        client.send_text(&text);
        assert_eq!(client.message(), Frame::text(&text), "text of {len} bytes");
        client.send_frame(BINARY, &bytes);
        assert_eq!(client.message(), Frame::binary(&bytes), "{len} bytes");
    }
}

#[test]
fn byte_by_byte() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/echo");
    let text = Rng(2).text(300);
    let mut bytes = frame(TEXT, text.as_bytes());
    bytes.extend(frame(PING, b"?"));
    bytes.extend(frame(TEXT, b""));
    for byte in bytes {
        client.send(&[byte]);
    }
    assert_eq!(client.text(), text);
    assert_eq!(client.frame(), Frame { first: PONG, payload: b"?".to_vec() });
    assert_eq!(client.text(), "");
}

#[test]
fn cut_anywhere() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/echo");
    let mut rng = Rng(3);
    let messages: Vec<String> =
        (0..200).map(|i| rng.text(if i % 20 == 0 { 70_000 } else { i * 3 })).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|text| frame(TEXT, text.as_bytes())).collect();
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = (1 + rng.below(10_000)).min(rest.len());
            sender.write_all(&rest[..len]).expect("the server reads");
            rest = &rest[len..];
        }
    });
    for message in messages {
        assert_eq!(client.text(), message);
    }
    writer.join().expect("no panic");
}

#[test]
fn many_frames_in_one_write() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/echo");
    let bytes: Vec<u8> = (0..5000).flat_map(|i| frame(TEXT, format!("message {i}").as_bytes())).collect();
    client.send(&bytes);
    for number in 0..5000 {
        assert_eq!(client.text(), format!("message {number}"));
    }
    assert_eq!(server.metrics().sum("messages_received"), 5000);
}

#[test]
fn fragments_leave_as_one_frame() {
    let server = TestServer::start(&config());
    let mut rng = Rng(4);
    for path in ["/echo", "/ws/fragments"] {
        let mut client = Client::open(&server, path);
        let mut other = Client::open(&server, "/ws/fragments?mode=sub");
        for parts in
            [vec![0, 0], vec![1, 1, 1], vec![5, 0, 200, 70_000, 3], vec![64; 1000], vec![40_000, 40_000]]
        {
            let len = parts.iter().sum();
            let text = rng.text(len);
            let mut rest = text.as_bytes();
            let mut bytes = Vec::new();
            for (i, part) in parts.iter().enumerate() {
                let last = i + 1 == parts.len();
                let first = if i == 0 { TEXT & 0x0f } else { 0 } | if last { 0x80 } else { 0 };
                bytes.extend(frame(first, &rest[..*part]));
                rest = &rest[*part..];
                if !last && i < 3 {
                    bytes.extend(frame(PING, format!("ping {i}").as_bytes()));
                    bytes.extend(frame(PONG, b"unasked"));
                }
            }
            client.send(&bytes);
            for i in 0..(parts.len() - 1).min(3) {
                assert_eq!(client.frame(), Frame { first: PONG, payload: format!("ping {i}").into_bytes() });
            }
            assert_eq!(client.frame(), Frame::text(&text), "{path}");
            if path != "/echo" {
                assert_eq!(other.frame(), Frame::text(&text));
            }
        }
    }
}

#[test]
fn pings_of_every_length_are_answered_with_their_payload() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/ws/pings");
    for len in 0..=125 {
        let payload = Rng(5).bytes(len);
        client.send_frame(PING, &payload);
        assert_eq!(client.frame(), Frame { first: PONG, payload });
    }
    server.until("all are counted", |metrics| metrics.sum("pings_received") == 126);
}

/// What a client must not send, the code that it is closed with, and the reason that is counted.
fn violations() -> Vec<(Vec<u8>, u16, &'static str)> {
    let two = |first: Vec<u8>, second: Vec<u8>| [first, second].concat();
    let mut violations = vec![
        (frame(0xc1, b"x"), 1002, "reserved_bit"),
        (frame(0xa1, b"x"), 1002, "reserved_bit"),
        (frame(0x92, b"x"), 1002, "reserved_bit"),
        (frame(0xc9, b"x"), 1002, "reserved_bit"),
        (vec![TEXT, 1, b'x'], 1002, "unmasked"),
        (vec![PING, 0], 1002, "unmasked"),
        (frame(0x09, b"x"), 1002, "fragmented_control"),
        (frame(0x08, b""), 1002, "fragmented_control"),
        (frame(PING, &[0; 126]), 1002, "control_too_long"),
        (frame(CLOSE, &[3; 200]), 1002, "control_too_long"),
        (vec![BINARY, 0x80 | 126, 0, 125, 1, 2, 3, 4], 1002, "non_minimal_length"),
        (vec![BINARY, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], 1002, "non_minimal_length"),
        (vec![BINARY, 0x80 | 127, 0x80, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], 1002, "length_top_bit"),
        (frame(0x80, b"x"), 1002, "unexpected_continuation"),
        (frame(0x00, b"x"), 1002, "unexpected_continuation"),
        (two(frame(0x01, b"x"), frame(TEXT, b"y")), 1002, "expected_continuation"),
        (two(frame(0x02, b"x"), frame(0x02, b"y")), 1002, "expected_continuation"),
        (frame(CLOSE, &[3]), 1002, "close_body_too_short"),
        (
            frame(CLOSE, &close_body(1000, "\u{0}").into_iter().chain([0xff]).collect::<Vec<_>>()),
            1007,
            "invalid_close_reason",
        ),
        (frame(TEXT, b"\xff"), 1007, "invalid_utf8"),
        (frame(TEXT, b"\xed\xa0\x80"), 1007, "invalid_utf8"),
        (frame(TEXT, b"\xc0\xaf"), 1007, "invalid_utf8"),
        (frame(TEXT, "cut: я".as_bytes().split_last().expect("not empty").1), 1007, "invalid_utf8"),
        // Known before the message is complete.
        (frame(0x01, b"\xf5"), 1007, "invalid_utf8"),
        (two(frame(0x01, b"\xd1"), frame(0x80, b"x")), 1007, "invalid_utf8"),
        (two(frame(TEXT, &[b'x'; 50_000]), frame(TEXT, &[0xff; 50_000])), 1007, "invalid_utf8"),
        // The header alone says that it is too long.
        (header(BINARY, 65_537), 1009, "message_too_big"),
        (header(BINARY, u64::MAX >> 1), 1009, "message_too_big"),
        (two(frame(0x02, &[0; 40_000]), header(0x80, 25_537)), 1009, "message_too_big"),
        (two(frame(0x02, b""), frame(0x00, b"").repeat(16)), 1008, "too_many_fragments"),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        violations.push((frame(0x80 | opcode, b"x"), 1002, "reserved_opcode"));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        violations.push((frame(CLOSE, &close_body(code, "")), 1002, "invalid_close_code"));
    }
    violations
}

#[test]
fn who_breaks_a_rule_hurts_only_itself() {
    let server = TestServer::start(&Config { max_message_bytes: 65_536, max_fragments: 16, ..config() });
    let mut bystander = Client::open(&server, "/ws/t");
    for (number, (bytes, code, reason)) in violations().into_iter().enumerate() {
        let before = server.metrics().reason("protocol_errors", reason);
        for path in ["/ws/t", "/echo"] {
            let mut breaker = Client::open(&server, path);
            // What came before the violation counts, in the same write too.
            let good = format!("good {number}");
            breaker.send(&[frame(TEXT, good.as_bytes()), bytes.clone(), frame(TEXT, b"not this")].concat());
            if path == "/ws/t" {
                assert_eq!(bystander.text(), good);
            } else {
                assert_eq!(breaker.text(), good);
            }
            let (given, why) = breaker.close_frame();
            assert_eq!(given, Some(code), "{reason}: {why}");
            assert!(!why.is_empty(), "{reason}");
            breaker.end();
        }
        server.until(reason, |metrics| metrics.reason("protocol_errors", reason) == before + 2);
        bystander.send_text("unhurt");
        // The valid first one of two messages came before.
        while bystander.text() != "unhurt" {}
    }
    server.until_connections(1);
    let metrics = server.metrics();
    assert_eq!(metrics.reason("closed", "protocol_error"), 2 * violations().len() as u64);
    assert_eq!(metrics.sum("session_failures"), 0);
}

#[test]
fn a_close_is_answered_with_its_code() {
    let server = TestServer::start(&config());
    for path in ["/echo", "/ws/t"] {
        for code in
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
        {
            let mut client = Client::open(&server, path);
            client.send_frame(CLOSE, &close_body(code, "Пока"));
            assert_eq!(client.frame().code(), Some(code));
            // The server ends the TCP connection; the client only has to follow.
            client.end();
        }
        let mut client = Client::open(&server, path);
        client.send_frame(CLOSE, b"");
        assert_eq!(client.frame(), Frame { first: CLOSE, payload: Vec::new() });
        client.end();
    }
    server.until("all were clean", |metrics| metrics.reason("closed", "client") == 34);
    server.until_connections(0);
}

#[test]
fn nothing_counts_after_a_close() {
    let server = TestServer::start(&config());
    let mut listener = Client::open(&server, "/ws/t?mode=sub");
    let mut client = Client::open(&server, "/ws/t?mode=pub");
    let close = frame(CLOSE, &close_body(1000, ""));
    client.send(
        &[frame(TEXT, b"before"), close.clone(), frame(TEXT, b"after"), close, vec![0xff; 10]].concat(),
    );
    assert_eq!(client.frame().code(), Some(1000));
    // More of it later is not read as frames either.
    client.send_text("much later");
    client.end();
    assert_eq!(listener.text(), "before");
    Client::open(&server, "/ws/t?mode=pub").send_text("from another");
    assert_eq!(listener.text(), "from another");
    assert_eq!(server.metrics().sum("protocol_errors"), 0);
}

#[test]
fn a_client_that_never_ends_tcp_is_ended() {
    let close_timeout = std::time::Duration::from_millis(300);
    let server = TestServer::start(&Config { close_timeout, ..config() });
    let mut client = Client::open(&server, "/echo");
    client.send_frame(CLOSE, &close_body(1000, ""));
    client.close_frame();
    client.end();
    server.until_connections(0);
    drop(client);
}

#[test]
fn a_sender_that_has_finished_still_gets_its_answers() {
    let server = TestServer::start(&config());
    let mut client = Client::open(&server, "/echo");
    client.send(&[frame(TEXT, b"one"), frame(PING, b"two"), frame(CLOSE, &close_body(1001, ""))].concat());
    client.half_close();
    assert_eq!(client.text(), "one");
    assert_eq!(client.frame().first, PONG);
    assert_eq!(client.frame().code(), Some(1001));
    client.end();

    // Without a close handshake as well, and more than fits in the socket's buffers.
    let mut client = Client::narrow(&server).upgraded("/echo");
    let messages = 40;
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        sender.write_all(&frame(BINARY, &[1; 30_000]).repeat(messages)).expect("the server reads");
        sender.shutdown(std::net::Shutdown::Write).expect("open");
    });
    for _ in 0..messages {
        assert_eq!(client.message().payload.len(), 30_000);
    }
    client.end();
    writer.join().expect("no panic");
    server.until_connections(0);
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = TestServer::start(&config());
    for number in 0..50 {
        let mut client = Client::open(&server, "/ws/t");
        // In the middle of a frame, of a message, of nothing.
        client.send(&frame(0x02, &[0; 5000])[..number * 100]);
    }
    server.until("nobody is left", |metrics| {
        metrics.sum("connections") == 0 && metrics.sum("subscriptions") == 0
    });
}
