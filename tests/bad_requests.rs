//! What is no request, or none that can be granted: each gets its status, a line that says what to do, and a counter
//! with its reason, and nobody else on the same worker notices. `docs/bad-input.md` has the table.

mod common;

use std::{io::Write, time::Duration};

use common::{
    Client, TestServer,
    client::{TEXT, upgrade_request},
    config, frame,
    refusals::{KEY, NamedCase, Neighbour, changed, check_bad_input, get},
};
use stentor::config::Config;

/// One worker, so that who misbehaves and who does not share it.
fn one_worker() -> TestServer {
    TestServer::start(&Config { workers: 1, ..config() })
}

fn with_line(line: &str) -> Vec<u8> {
    get("/health").replace("Host: localhost", &format!("Host: localhost\r\n{line}")).into_bytes()
}

#[test]
fn garbage_instead_of_http() {
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    check_bad_input(
        &one_worker(),
        &[
            ("words", "garbage\r\n\r\n".into(), 400, "malformed_head", "HTTP/1.1"),
            ("noise", (0..=255).rev().collect(), 400, "malformed_head", "HTTP/1.1"),
            ("zeros", vec![0; 1000], 400, "malformed_head", "HTTP/1.1"),
            ("a frame before the handshake", frame(TEXT, b"x"), 400, "malformed_head", "HTTP/1.1"),
            ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01".into(), 400, "tls_on_plain_port", "TLS"),
            ("the preface of HTTP/2", preface.into(), 400, "http_version", "HTTP/1.1"),
            ("HTTP/2.0", get("/").replace("1.1", "2.0").into(), 400, "http_version", "HTTP/1.1"),
            ("HTTP/0.9", "GET /\r\n".into(), 400, "malformed_head", "HTTP/1.1"),
            ("no target", "GET HTTP/1.1\r\n\r\n".into(), 400, "malformed_head", "HTTP/1.1"),
        ],
    );
}

#[test]
fn heads_that_two_parties_could_read_differently() {
    let target = |target: &str| get(target).into_bytes();
    check_bad_input(
        &one_worker(),
        &[
            ("obs-fold", with_line("X: a\r\n folded"), 400, "malformed_head", "HTTP/1.1"),
            ("obs-fold with a tab", with_line("X: a\r\n\tfolded"), 400, "malformed_head", "HTTP/1.1"),
            ("a space before the colon", with_line("X : a"), 400, "malformed_head", "HTTP/1.1"),
            ("a line without a colon", with_line("X"), 400, "malformed_head", "HTTP/1.1"),
            ("NUL in a value", with_line("X: a\0b"), 400, "malformed_head", "HTTP/1.1"),
            ("NUL in a name", with_line("X\0Y: a"), 400, "malformed_head", "HTTP/1.1"),
            ("NUL in the target", target("/he\0alth"), 400, "malformed_head", "HTTP/1.1"),
            ("NUL in the method", b"G\0T / HTTP/1.1\r\n\r\n".into(), 400, "malformed_head", "HTTP/1.1"),
            ("a carriage return in a value", with_line("X: a\rb"), 400, "malformed_head", "HTTP/1.1"),
            ("a target without a slash", target("elsewhere"), 400, "target", "/"),
            ("a target that is host and port", target("localhost:80"), 400, "target", "/"),
            ("a target with a fragment", target("/#top"), 400, "target", "fragment"),
            ("an absolute target without a host", target("http:///health"), 400, "target", "host"),
            ("an absolute target with a user", target("http://localhost@x/"), 400, "host_value", "Host"),
            ("an absolute target elsewhere", target("http://example.com/"), 403, "host", "--anonymous"),
            ("two lengths", with_line("Content-Length: 1, 2"), 400, "content_length", "Content-Length"),
            ("a length that is none", with_line("Content-Length: x"), 400, "content_length", "number"),
            (
                "a length and chunks",
                with_line("Content-Length: 5\r\nTransfer-Encoding: chunked"),
                400,
                "content_length",
                "only one",
            ),
        ],
    );
}

#[test]
fn the_host_of_an_absolute_target_counts() {
    let server = one_worker();
    let request = changed(&[("GET /ws/t", "GET http://localhost/ws/t"), ("Host: localhost", "Host: x.y")]);
    assert_eq!(Client::connect(&server).request(&request).status, 101);
}

#[test]
fn each_requirement_of_the_handshake() {
    let host = |lines: &str| changed(&[("Host: localhost\r\n", lines)]).into_bytes();
    let upgrade = |lines: &str| changed(&[("Upgrade: websocket\r\n", lines)]).into_bytes();
    let connection = |lines: &str| changed(&[("Connection: Upgrade\r\n", lines)]).into_bytes();
    let key = |lines: &str| changed(&[(KEY, lines)]).into_bytes();
    let version = |lines: &str| changed(&[("Sec-WebSocket-Version: 13\r\n", lines)]).into_bytes();
    let method = |method: &str| changed(&[("GET", method)]).into_bytes();
    let two_hosts = "Host: localhost\r\nHost: localhost\r\n";
    // RFC 6455 section 4.2.1, in its order.
    let cases: &[NamedCase<'_>] = &[
        ("POST", method("POST"), 405, "upgrade_method", "GET"),
        ("HEAD", method("HEAD"), 405, "upgrade_method", ""),
        ("get", method("get"), 405, "upgrade_method", "GET"),
        ("HTTP/1.0", changed(&[("1.1", "1.0")]).into(), 426, "upgrade_http_version", "HTTP/1.1"),
        ("no Host", host(""), 400, "host_missing", "Host"),
        ("two Hosts", host(two_hosts), 400, "host_repeated", "Host"),
        ("two Hosts that differ", host("Host: localhost\r\nHost: x\r\n"), 400, "host_repeated", "Host"),
        ("two Hosts on one line", host("Host: localhost, x\r\n"), 400, "host_value", "Host"),
        ("an empty Host", host("Host:\r\n"), 403, "host", "localhost"),
        ("no Upgrade", upgrade(""), 426, "upgrade_missing", "proxy"),
        ("another Upgrade", upgrade("Upgrade: h2c\r\n"), 426, "upgrade_missing", "proxy"),
        ("no Connection", connection(""), 400, "connection_upgrade_missing", "proxy"),
        (
            "a Connection without upgrade",
            connection("Connection: keep-alive\r\n"),
            400,
            "connection_upgrade_missing",
            "proxy",
        ),
        ("no key", key(""), 400, "key_count", "Sec-WebSocket-Key"),
        ("two keys", key(&KEY.repeat(2)), 400, "key_count", "Sec-WebSocket-Key"),
        ("an empty key", key("Sec-WebSocket-Key:\r\n"), 400, "key_value", "16 bytes"),
        ("a key of 15 bytes", key("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j\r\n"), 400, "key_value", "16"),
        ("a key of 17 bytes", key("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\n"), 400, "key_value", "16"),
        ("a key without its end", key("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n"), 400, "key_value", ""),
        (
            "a key that is no base64",
            key("Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ==\r\n"),
            400,
            "key_value",
            "",
        ),
        ("no version", version(""), 426, "version", "13"),
        ("two versions", version(&"Sec-WebSocket-Version: 13\r\n".repeat(2)), 426, "version", "13"),
        ("version 8", version("Sec-WebSocket-Version: 8\r\n"), 426, "version", "13"),
        ("version 14", version("Sec-WebSocket-Version: 14\r\n"), 426, "version", "13"),
        ("a list of versions", version("Sec-WebSocket-Version: 13, 8\r\n"), 426, "version", "13"),
    ];
    // HEAD is answered without the body that this checks.
    let (head, others): (Vec<_>, Vec<_>) = cases.iter().cloned().partition(|case| case.0 == "HEAD");
    check_bad_input(&one_worker(), &others);
    let server = one_worker();
    for (name, request, status, reason, _) in head {
        let mut client = Client::connect(&server);
        client.send(&request);
        assert_eq!(client.response_head().status, status, "{name}");
        client.end();
        assert_eq!(server.metrics().reason("refused", reason), 1, "{name}");
    }
}

#[test]
fn lists_may_be_doubled() {
    let server = one_worker();
    for (name, line) in [("Upgrade", "Upgrade: websocket\r\n"), ("Connection", "Connection: Upgrade\r\n")] {
        let response = Client::connect(&server).request(&changed(&[(line, &line.repeat(2))]));
        assert_eq!(response.status, 101, "two lines of {name} are one list: {response:?}");
    }
}

#[test]
fn endless_heads() {
    let close_timeout = Duration::from_millis(300);
    let server = TestServer::start(&Config { workers: 1, close_timeout, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let start = "GET / HTTP/1.1\r\nHost: localhost\r\n";
    for (number, (name, start, more, reason)) in [
        ("a method", "", "A", "head_too_long"),
        ("a target", "GET /", "a", "head_too_long"),
        ("a header's name", start, "a", "head_too_long"),
        ("a header's value", &format!("{start}X: "), "a", "head_too_long"),
        ("many lines", start, "X: y\r\n", "too_many_headers"),
        ("few long lines", start, &format!("X: {}\r\n", "y".repeat(1000)), "head_too_long"),
        ("empty lines before the request", "", "\r\n", "head_too_long"),
    ]
    .into_iter()
    .enumerate()
    {
        let before = server.metrics().reason("refused", reason);
        let mut client = Client::connect(&server);
        client.send(start.as_bytes());
        let mut sender = client.sender();
        let more = more.repeat(4096 / more.len() + 1).into_bytes();
        let endless = std::thread::spawn(move || while sender.write_all(&more).is_ok() {});
        let response = client.response();
        assert_eq!(response.status, 431, "{name}");
        assert!(
            response.body.contains(["16384", "100"][usize::from(reason != "head_too_long")]),
            "{response:?}"
        );
        // Answered while it was still being sent; whoever goes on is cut off.
        endless.join().expect("no panic");
        let metrics = server.metrics();
        assert_eq!(metrics.reason("refused", reason), before + 1, "{name}");
        let ended = number as u64 + 1;
        server.until(name, |metrics| metrics.reason("closed", "http") == ended);
        neighbour.unhurt_by(name);
    }
}

#[test]
fn request_bodies() {
    let chunked = "Transfer-Encoding: chunked";
    let body = |request: String, line: &str, body: &str| {
        request.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n{body}")).into_bytes()
    };
    let post = |path: &str| get(path).replace("GET", "POST");
    let inner = get("/metrics");
    check_bad_input(
        &one_worker(),
        &[
            ("POST, length", body(post("/health"), "Content-Length: 5", "12345"), 413, "body", "body"),
            ("POST, chunks", body(post("/ws/t"), chunked, "1\r\nx\r\n0\r\n\r\n"), 413, "body", "body"),
            ("GET, length", body(get("/health"), "Content-Length: 5", "12345"), 413, "body", "body"),
            ("GET, chunks", body(get("/health"), chunked, "0\r\n\r\n"), 413, "body", "body"),
            (
                "a body that looks like a request",
                body(get("/"), "Content-Length: 42", &inner),
                413,
                "body",
                "",
            ),
            ("a body that never comes", body(get("/"), "Content-Length: 99999999", ""), 413, "body", ""),
            ("an upgrade, length", body(upgrade_request("/ws/t"), "Content-Length: 1", "x"), 413, "body", ""),
            ("an upgrade, chunks", body(upgrade_request("/ws/t"), chunked, "0\r\n\r\n"), 413, "body", ""),
            ("POST without a body", post("/health").into(), 405, "method", "GET"),
        ],
    );
}

#[test]
fn http_1_0_is_for_load_balancers() {
    let server = one_worker();
    let mut neighbour = Neighbour::open(&server);
    for path in ["/health", "/metrics"] {
        for host in ["", "Host: localhost\r\n"] {
            let mut client = Client::connect(&server);
            let response = client.request(&format!("GET {path} HTTP/1.0\r\n{host}\r\n"));
            assert_eq!((response.status, response.header("connection")), (200, "close"), "{path} {host}");
            client.end();
        }
    }
    server.until("answered and closed", |metrics| metrics.reason("closed", "http") == 4);
    let upgrade = changed(&[("HTTP/1.1", "HTTP/1.0"), ("Host: localhost\r\n", "")]);
    let response = Client::connect(&server).request(&upgrade);
    assert_eq!((response.status, response.header("sec-websocket-version")), (426, "13"));
    assert_eq!(server.metrics().reason("refused", "upgrade_http_version"), 1);
    neighbour.unhurt_by("HTTP/1.0");
}

#[test]
fn topic_names() {
    let topic = |topic: &str| upgrade_request(&format!("/ws/{topic}")).into_bytes();
    let raw = |bytes: &[u8]| [b"GET /ws/", bytes, b" HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat();
    check_bad_input(
        &one_worker(),
        &[
            ("empty", topic(""), 400, "topic_name", ""),
            ("256 bytes", topic(&"a".repeat(256)), 400, "topic_name", "255"),
            ("256 bytes of 128 characters", topic(&"%D1%8F".repeat(128)), 400, "topic_name", "255"),
            ("a line feed", topic("a%0Ab"), 400, "topic_name", "control"),
            ("NUL", topic("%00"), 400, "topic_name", "control"),
            ("DEL", topic("%7F"), 400, "topic_name", "control"),
            ("U+0085", topic("%C2%85"), 400, "topic_name", "control"),
            ("a wildcard", topic("*"), 400, "topic_name", "*"),
            ("a wildcard below", topic("news/*"), 400, "topic_name", "*"),
            ("an encoded wildcard", topic("news%2A"), 400, "topic_name", "*"),
            ("the server's own", topic("_stentor/x"), 400, "topic_name", "_stentor"),
            ("the server's own, encoded", topic("%5Fstentor%2Fx"), 400, "topic_name", "_stentor"),
            ("no UTF-8", topic("%FF"), 400, "path_utf8", "UTF-8"),
            ("half a character", topic("%D1"), 400, "path_utf8", "UTF-8"),
            ("a surrogate", topic("%ED%A0%80"), 400, "path_utf8", "UTF-8"),
            ("no UTF-8, not encoded", raw(b"\xff"), 400, "malformed_head", "HTTP/1.1"),
            ("a percent sign", topic("100%"), 400, "path_escape", "%25"),
            ("no hexadecimal digits", topic("%zz"), 400, "path_escape", "%25"),
            ("an unknown mode", topic("t?mode=all"), 400, "query", "mode"),
            ("an unknown echo", topic("t?echo=maybe"), 400, "query", "echo"),
            ("none, without commands", upgrade_request("/ws").into(), 400, "query", "/ws/TOPIC"),
        ],
    );
}

#[test]
fn who_may_not_come_in() {
    let host = |host: &str| changed(&[("Host: localhost", &format!("Host: {host}"))]).into_bytes();
    let origin = |origin: &str| {
        changed(&[("Host: localhost", &format!("Host: localhost\r\nOrigin: {origin}"))]).into_bytes()
    };
    let post = |path: &str| get(path).replace("GET", "POST").into_bytes();
    let metrics = get("/metrics").replace("localhost", "evil.example");
    check_bad_input(
        &one_worker(),
        &[
            ("a foreign host", host("example.com"), 403, "host", "--anonymous"),
            ("a host that begins as ours", host("localhost.example.com"), 403, "host", "--anonymous"),
            ("an address of the network", host("192.168.0.1"), 403, "host", "--anonymous"),
            ("metrics of a foreign host", metrics.into(), 403, "host", "--anonymous"),
            ("a foreign page", origin("https://example.com"), 403, "origin", "--allow-origin"),
            ("a page without an origin", origin("null"), 403, "origin", "--allow-origin"),
            ("a page whose host begins as ours", origin("http://localhost.x.com"), 403, "origin", "--allow"),
            ("an unknown path", get("/nothing").into(), 404, "no_route", "/ws/TOPIC"),
            ("an upgrade elsewhere", upgrade_request("/WS/t").into(), 404, "no_route", "/ws/TOPIC"),
            ("POST", post("/health"), 405, "method", "GET"),
            ("POST to a topic", post("/ws/t"), 405, "upgrade_method", "GET"),
            ("a topic without an upgrade", get("/ws/t").into(), 426, "upgrade_missing", "proxy"),
            ("commands without an upgrade", get("/ws").into(), 426, "upgrade_missing", "proxy"),
        ],
    );
}
