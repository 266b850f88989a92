//! Frames over real sockets: whatever way they are cut they mean the same, and who breaks the rules of RFC 6455
//! gets the close code that it names and hurts nobody else.

mod common;

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, CLOSE, PING, PONG, TEXT, close_body, header, upgrade_request},
    config, frame,
    refusals::Neighbour,
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

/// What a client must not send: its name, its bytes, the code that it is closed with, and the reason that is counted.
struct Violation {
    name: String,
    bytes: Vec<u8>,
    code: u16,
    reason: &'static str,
}

fn violations() -> Vec<Violation> {
    let mut all = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>, code, reason| {
        all.push(Violation { name, bytes, code, reason });
    };
    let two = |first: Vec<u8>, second: Vec<u8>| [first, second].concat();
    // A header with a length in so many bytes, whether it needs them or not.
    let lengthy = |first: u8, marker: u8, len: &[u8]| [&[first, 0x80 | marker], len, &[1, 2, 3, 4]].concat();

    for bit in [0x40, 0x20, 0x10] {
        for (kind, first) in [("text", TEXT), ("ping", PING), ("close", CLOSE), ("a fragment", 0x01)] {
            add(format!("reserved bit {bit:#x} of {kind}"), frame(first | bit, b"x"), 1002, "reserved_bit");
        }
    }
    add("a ping flood with reserved bits".into(), frame(0xf9, b"x").repeat(10_000), 1002, "reserved_bit");
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        add(format!("opcode {opcode}"), frame(0x80 | opcode, b"x"), 1002, "reserved_opcode");
        add(format!("opcode {opcode}, fragmented"), frame(opcode, b"x"), 1002, "reserved_opcode");
    }
    for (kind, first) in [("text", TEXT), ("ping", PING), ("close", CLOSE)] {
        add(format!("{kind} without a mask"), vec![first, 1, b'x'], 1002, "unmasked");
        add(format!("empty {kind} without a mask"), vec![first, 0], 1002, "unmasked");
    }
    for (kind, first) in [("close", CLOSE), ("ping", PING), ("pong", PONG)] {
        add(format!("fragmented {kind}"), frame(first & 0x0f, b""), 1002, "fragmented_control");
        add(format!("{kind} of 126 bytes"), frame(first, &[3; 126]), 1002, "control_too_long");
        let len = &70_000u64.to_be_bytes();
        add(format!("{kind} with a 64-bit length"), lengthy(first, 127, len), 1002, "control_too_long");
    }
    for len in [0, 1, 125] {
        let bytes = lengthy(BINARY, 126, &u16::to_be_bytes(len));
        add(format!("length {len} in 16 bits"), bytes, 1002, "non_minimal_length");
    }
    for len in [0, 125, 126, 65_535] {
        let bytes = lengthy(BINARY, 127, &u64::to_be_bytes(len));
        add(format!("length {len} in 64 bits"), bytes, 1002, "non_minimal_length");
    }
    for len in [1 << 63, (1 << 63) | 1, u64::MAX] {
        let bytes = lengthy(BINARY, 127, &u64::to_be_bytes(len));
        add(format!("length {len:#x}"), bytes, 1002, "length_top_bit");
    }
    add("a continuation without a start".into(), frame(0x80, b"x"), 1002, "unexpected_continuation");
    add("a fragment without a start".into(), frame(0x00, b"x"), 1002, "unexpected_continuation");
    for (kind, start) in [("text", 0x01), ("binary", 0x02)] {
        for next in [TEXT, BINARY, 0x01, 0x02] {
            let bytes = two(frame(start, b"x"), frame(next, b"y"));
            add(format!("{next:#x} within fragmented {kind}"), bytes, 1002, "expected_continuation");
        }
    }

    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        add(format!("close code {code}"), frame(CLOSE, &close_body(code, "")), 1002, "invalid_close_code");
    }
    add("a close body of one byte".into(), frame(CLOSE, &[3]), 1002, "close_body_too_short");
    for reason in [&b"\xff"[..], b"\xed\xa0\x80", b"cut: \xd1"] {
        let body = [&close_body(1000, ""), reason].concat();
        add(format!("close reason {reason:x?}"), frame(CLOSE, &body), 1007, "invalid_close_reason");
    }

    // What ends inside a character is wrong only at the message's end.
    for text in
        [&b"\xff"[..], b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"cut: \xd1", b"\xf0\x9f\xa6"]
    {
        add(format!("text {text:x?}"), frame(TEXT, text), 1007, "invalid_utf8");
        let bytes = text.iter().map(|&byte| frame(0, &[byte])).collect::<Vec<_>>().concat();
        let bytes = [frame(0x01, b"ok"), bytes, frame(0x80, b"")].concat();
        add(format!("text {text:x?} in fragments of a byte"), bytes, 1007, "invalid_utf8");
    }
    let long = two(frame(TEXT, &[b'x'; 50_000]), frame(TEXT, &[0xff; 50_000]));
    add("long text".into(), long, 1007, "invalid_utf8");

    // The header alone says that it is too long.
    add("a declared byte too many".into(), header(BINARY, 65_537), 1009, "message_too_big");
    add("the largest length there is".into(), header(BINARY, u64::MAX >> 1), 1009, "message_too_big");
    let assembled = two(frame(0x02, &[0; 40_000]), header(0x80, 25_537));
    add("fragments that are too long together".into(), assembled, 1009, "message_too_big");
    let fragments = two(frame(0x02, b""), frame(0x00, b"").repeat(16));
    add("17 fragments".into(), fragments, 1008, "too_many_fragments");
    add("noise".into(), vec![0xff; 100], 1002, "reserved_bit");
    add("an HTTP request".into(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1002, "reserved_bit");
    all
}

#[test]
fn who_breaks_a_rule_hurts_only_itself() {
    let config = Config { max_message_bytes: 65_536, max_fragments: 16, workers: 1, ..config() };
    let server = TestServer::start(&config);
    let mut bystander = Client::open(&server, "/ws/t");
    for (number, Violation { name, bytes, code, reason }) in violations().into_iter().enumerate() {
        let before = server.metrics().reason("protocol_errors", reason);
        for path in ["/ws/t", "/echo"] {
            let mut breaker = Client::open(&server, path);
            // What came before the violation counts, in the same write too.
            let good = format!("good {number}");
            breaker.send(&[frame(TEXT, good.as_bytes()), bytes.clone(), frame(TEXT, b"not this")].concat());
            if path == "/ws/t" {
                assert_eq!(bystander.text(), good, "before {name}");
            } else {
                assert_eq!(breaker.text(), good, "before {name}");
            }
            let (given, why) = breaker.close_frame();
            assert_eq!(given, Some(code), "{name}: {why}");
            assert!(!why.is_empty(), "{name}");
            breaker.end();
        }
        server.until(&name, |metrics| metrics.reason("protocol_errors", reason) == before + 2);
        bystander.send_text("unhurt");
        // The valid first one of two messages came before.
        while bystander.text() != "unhurt" {}
    }
    server.until_connections(1);
    let metrics = server.metrics();
    assert_eq!(metrics.reason("closed", "protocol_error"), 2 * violations().len() as u64);
    assert_eq!((metrics.sum("session_failures"), metrics.sum("assembly_bytes")), (0, 0));
}

#[test]
fn junk_behind_the_upgrade() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let request = upgrade_request("/ws/t");
    for (number, (name, junk)) in
        [("noise", vec![0xff; 100]), ("a second request", request.clone().into_bytes())]
            .into_iter()
            .enumerate()
    {
        let mut client = Client::connect(&server);
        client.send(&[request.as_bytes(), &junk].concat());
        assert_eq!(client.response().status, 101, "{name}");
        assert_eq!(client.close_frame().0, Some(1002), "{name}");
        client.end();
        let count = number as u64 + 1;
        server.until(name, |metrics| metrics.reason("protocol_errors", "reserved_bit") == count);
        neighbour.unhurt_by(name);
    }
}

#[test]
fn text_fails_as_soon_as_it_can() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    // The front of a frame of which more is to come.
    let begun = |first: u8, text: &[u8]| {
        let mut bytes = frame(first, &[text, &[b'.'; 5000]].concat());
        bytes.truncate(bytes.len() - 5000);
        bytes
    };
    // What is sent, each part in a TCP segment of its own. The frame, or the message, is never completed.
    let x = "x".repeat(200_000);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("a byte that begins nothing", vec![begun(TEXT, b"good \xff")]),
        ("overlong", vec![begun(TEXT, b"\xc0")]),
        ("overlong, known by its second byte", vec![begun(TEXT, b"\xe0\x80")]),
        ("a surrogate, known by its second byte", vec![begun(TEXT, b"\xed\xa0")]),
        ("beyond U+10FFFF, known by its second byte", vec![begun(TEXT, b"\xf4\x90")]),
        ("a character that breaks off", vec![begun(TEXT, b"\xf0\x9f\xa6.")]),
        ("behind much that is good", vec![begun(TEXT, &[x.as_bytes(), b"\xff"].concat())]),
        ("split inside a character, across segments", {
            let bytes = begun(TEXT, b"\xf0\x9f.");
            let (front, rest) = bytes.split_at(bytes.len() - 1);
            vec![front.to_vec(), rest.to_vec()]
        }),
        ("byte by byte", begun(TEXT, b"\xf0\x9f\xa6\xff").iter().map(|&byte| vec![byte]).collect()),
        ("in a fragment", vec![frame(0x01, b"\xff")]),
        ("in the second fragment", vec![frame(0x01, b"good"), frame(0x00, b"\xff")]),
        ("split inside a character, across fragments", vec![frame(0x01, b"\xce"), frame(0x00, b".")]),
        ("split so, the second not complete", vec![frame(0x01, b"\xf0\x9f"), begun(0x80, b".")]),
        ("split so, with a ping between", vec![frame(0x01, b"\xce"), frame(PING, b""), begun(0x00, b".")]),
    ];
    for (number, (name, parts)) in cases.iter().enumerate() {
        let mut client = Client::open(&server, "/ws/t");
        for part in parts {
            let before = server.metrics().sum("bytes_received");
            client.send(part);
            server.until(name, |metrics| metrics.sum("bytes_received") >= before + part.len() as u64);
        }
        assert_eq!(client.close_frame().0, Some(1007), "{name}");
        client.end();
        let count = number as u64 + 1;
        server.until(name, |metrics| metrics.reason("protocol_errors", "invalid_utf8") == count);
        neighbour.unhurt_by(name);
    }
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_buffered() {
    let close_timeout = std::time::Duration::from_millis(300);
    let server = TestServer::start(&Config { workers: 1, close_timeout, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let max = config().max_message_bytes as u64;
    let start = frame(0x02, &[0; 1000]);
    for (number, (name, bytes)) in [
        ("a byte too many", header(BINARY, max + 1)),
        ("far too many", header(BINARY, u64::MAX >> 1)),
        ("a fragment too many", [start.clone(), header(0x00, max)].concat()),
        ("a fragment and the largest", [start, header(0x80, u64::MAX >> 1)].concat()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::open(&server, "/ws/t");
        client.send(&bytes);
        assert_eq!(client.close_frame().0, Some(1009), "{name}");
        // It was told from the header; what it sends all the same is not kept.
        let mut sender = client.sender();
        let endless = std::thread::spawn(move || {
            use std::io::Write;
            while sender.write_all(&[0; 65_536]).is_ok() {}
        });
        for _ in 0..20 {
            assert_eq!(server.metrics().sum("assembly_bytes"), 0, "{name}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        client.end();
        endless.join().expect("cut off in the end");
        let metrics = server.metrics();
        assert_eq!(metrics.reason("protocol_errors", "message_too_big"), number as u64 + 1, "{name}");
        neighbour.unhurt_by(name);
    }
    assert_eq!(server.metrics().sum("messages_received"), 4, "the neighbour's");
}

#[test]
fn two_hundred_thousand_empty_fragments() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let mut client = Client::open(&server, "/ws/t");
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        // After the hundred thousandth the server may cut it off.
        let _ = sender.write_all(&[frame(0x01, b""), frame(0x00, b"").repeat(200_000)].concat());
    });
    while !writer.is_finished() {
        neighbour.unhurt_by("200,000 empty fragments");
        assert!(server.metrics().sum("assembly_bytes") < 1024, "they cost no memory");
    }
    assert_eq!(client.close_frame().0, Some(1008));
    client.end();
    writer.join().expect("no panic");
    server.until("it is counted", |metrics| metrics.reason("protocol_errors", "too_many_fragments") == 1);
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
    neighbour.unhurt_by("200,000 empty fragments");
}

#[test]
fn a_close_between_fragments_ends_the_message() {
    // RFC 6455 section 5.4: control frames may stand between fragments, a close among them.
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let mut client = Client::open(&server, "/ws/t");
    let close = frame(CLOSE, &close_body(1000, ""));
    let rest = [frame(0x80, b"rest"), frame(TEXT, b"more"), vec![0xff; 100_000]].concat();
    client.send(&[frame(0x01, &[b'x'; 20_000]), close, rest].concat());
    assert_eq!(client.frame().code(), Some(1000));
    client.send(&[0xff; 1000]);
    client.end();
    server.until("a clean close", |metrics| metrics.reason("closed", "client") == 1);
    let metrics = server.metrics();
    assert_eq!((metrics.sum("protocol_errors"), metrics.sum("messages_received")), (0, 0));
    assert_eq!(metrics.sum("assembly_bytes"), 0);
    neighbour.unhurt_by("a close between fragments");
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
    server.until("a clean close", |metrics| metrics.reason("closed", "client") == 1);
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
    let metrics = server.metrics();
    assert_eq!((metrics.reason("closed", "client"), metrics.reason("closed", "eof")), (1, 1));
}

#[test]
fn half_closed_in_the_middle() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 1].to_vec();
    for (number, (name, bytes)) in [
        ("of nothing", vec![]),
        ("of a header", vec![BINARY]),
        ("of a frame", cut(frame(BINARY, &[0; 50_000]))),
        ("of a message", frame(0x01, b"half")),
        ("of a ping", cut(frame(PING, b"?"))),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::open(&server, "/ws/t");
        client.send(&bytes);
        client.half_close();
        client.end();
        let count = number as u64 + 1;
        server.until(name, |metrics| metrics.reason("closed", "eof") == count);
        neighbour.unhurt_by(name);
    }
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
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
