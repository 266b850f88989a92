//! The way in: requests over real sockets, what becomes a WebSocket, and who may come in. What can't be a request is
//! in `bad_requests.rs`.

mod common;

use std::time::{Duration, Instant};

use common::{
    Client, Frame, TestServer,
    client::{BINARY, TEXT, upgrade_request},
    config, frame,
    refusals::{changed, check_refusals, get},
};
use stentor::config::{Anonymous, Config};

#[test]
fn the_example_of_the_rfc() {
    let server = TestServer::start(&config());
    let mut client = Client::connect(&server);
    let response = client.request(&upgrade_request("/echo"));
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade").to_ascii_lowercase(), "websocket");
    assert_eq!(response.header("connection").to_ascii_lowercase(), "upgrade");
    assert_eq!(response.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(response.headers.len(), 3, "{response:?}");
    client.send_text("Hello");
    assert_eq!(client.text(), "Hello");
    server.until("one upgrade", |metrics| metrics.sum("upgrades") == 1);
}

#[test]
fn another_implementation_connects() {
    let server = TestServer::start(&config());
    let mut client = common::client::tungstenite(&server, "/echo");
    for message in [tungstenite::Message::text("Привет 🦀"), tungstenite::Message::binary(vec![0, 255])]
    {
        client.send(message.clone()).expect("sent");
        assert_eq!(client.read().expect("echo"), message);
    }
    client.close(None).expect("closing");
    while let Ok(message) = client.read() {
        assert!(message.is_close(), "{message:?}");
    }
    server.until("a clean close", |metrics| metrics.reason("closed", "client") == 1);
}

#[test]
fn what_a_header_may_look_like() {
    let server = TestServer::start(&config());
    for changes in [
        // Names are in any case, and so are these values.
        &[("Upgrade: websocket", "uPGRADE: WebSocket"), ("Connection: Upgrade", "connection: UPGRADE")][..],
        &[
            ("Host", "HOST"),
            ("Sec-WebSocket-Key", "sec-websocket-key"),
            ("Sec-WebSocket-Version", "SEC-WEBSOCKET-VERSION"),
        ],
        // Lists, on one line and on several.
        &[("Connection: Upgrade", "Connection: keep-alive, Upgrade")],
        &[("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade")],
        &[("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket")],
        // Whitespace around values.
        &[("Host: localhost", "Host:  \t localhost \t")],
        &[("Host: localhost", "Host:localhost")],
        // All the names of this machine.
        &[("Host: localhost", "Host: 127.0.0.1:8080")],
        &[("Host: localhost", "Host: [::1]")],
        &[("Host: localhost", "Host: localhost\r\nOrigin: http://localhost:3000")],
        // Extensions are offered by every browser.
        &[(
            "Host: localhost",
            "Host: localhost\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x",
        )],
        &[("Host: localhost", "Host: localhost\r\nSec-WebSocket-Protocol: chat, superchat")],
        // A target with scheme and host.
        &[("GET /ws/t", "GET http://localhost/ws/t")],
    ] {
        let mut client = Client::connect(&server);
        let response = client.request(&changed(changes));
        assert_eq!(response.status, 101, "{changes:?}: {response:?}");
        assert!(!response.headers.contains_key("sec-websocket-extensions"), "{response:?}");
        assert!(!response.headers.contains_key("sec-websocket-protocol"), "{response:?}");
        assert!(client.close().is_empty());
    }
}

#[test]
fn a_subprotocol_is_the_clients_first_that_the_server_knows() {
    let config = Config { subprotocols: vec!["json".into(), "v2.json".into()], ..config() };
    let server = TestServer::start(&config);
    for (offered, selected) in [
        ("json", Some("json")),
        ("x, v2.json, json", Some("v2.json")),
        ("x\r\nSec-WebSocket-Protocol: json", Some("json")),
        ("JSON", None),
        ("x, y", None),
    ] {
        let offer = format!("Host: localhost\r\nSec-WebSocket-Protocol: {offered}");
        let mut client = Client::connect(&server);
        let response = client.request(&changed(&[("Host: localhost", &offer)]));
        assert_eq!(response.status, 101);
        assert_eq!(response.headers.get("sec-websocket-protocol").map(String::as_str), selected);
    }
}

#[test]
fn frames_in_the_requests_own_segment_are_not_lost() {
    let server = TestServer::start(&config());
    for path in ["/echo", "/ws/pipelined"] {
        let mut bytes = upgrade_request(path).into_bytes();
        for number in 0..100 {
            bytes.extend(frame(TEXT, format!("early {number}").as_bytes()));
        }
        // The last one is cut.
        let last = frame(BINARY, &[7; 70_000]);
        bytes.extend(&last[..50_000]);
        let mut client = Client::connect(&server);
        client.send(&bytes);
        assert_eq!(client.response().status, 101);
        client.send(&last[50_000..]);
        for number in 0..100 {
            assert_eq!(client.text(), format!("early {number}"), "{path}");
        }
        assert_eq!(client.message(), Frame::binary(&[7; 70_000]));
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = TestServer::start(&config());
    let mut client = Client::connect(&server);
    for byte in upgrade_request("/echo").bytes() {
        client.send(&[byte]);
    }
    assert_eq!(client.response().status, 101);
    client.send_text("x");
    assert_eq!(client.text(), "x");
}

#[test]
fn topic_and_query_are_percent_encoded() {
    let server = TestServer::start(&config());
    let longest = format!("/ws/{}", "%61".repeat(255));
    for (one, same) in [
        ("/ws/a%20b", "/ws/%61%20%62"),
        ("/ws/%D0%BF%D1%80", "/ws/%d0%bf%d1%80"),
        ("/ws/room/1", "/ws/room%2F1"),
        ("/ws/a+b", "/ws/a%2Bb"),
        (longest.as_str(), longest.as_str()),
    ] {
        let mut subscriber = Client::open(&server, &format!("{one}?mode=%73ub"));
        let mut publisher = Client::open(&server, &format!("{same}?x=1&mode=pub"));
        publisher.send_text("here");
        assert_eq!(subscriber.text(), "here", "{one} is {same}");
    }
}

#[test]
fn echo_may_be_off_and_anonymous_clients_may_be_kept_out() {
    let server = TestServer::start(&Config { echo: false, anonymous: Anonymous::None, ..config() });
    check_refusals(
        &server,
        &[
            (upgrade_request("/echo"), 404, "echo_off", "--echo"),
            (upgrade_request("/ws/t"), 403, "anonymous", "--anonymous"),
        ],
    );
    let server = TestServer::start(&Config { anonymous: Anonymous::Subscribe, ..config() });
    check_refusals(
        &server,
        &[
            (upgrade_request("/ws/t?mode=pub"), 403, "anonymous", "mode=sub"),
            (upgrade_request("/ws/t?mode=both"), 403, "anonymous", "mode=sub"),
        ],
    );
    // What is not asked for is not refused: it only subscribes.
    let mut client = Client::open(&server, "/ws/t");
    client.send_text("x");
    assert_eq!(client.close_frame().0, Some(1008));
}

#[test]
fn what_is_open_to_others_has_its_own_rules() {
    let open = Config { open_loopback: false, ..config() };
    let server = TestServer::start(&open);
    let request = |host: &str, origin: &str| {
        changed(&[("Host: localhost", &format!("Host: {host}\r\nOrigin: {origin}"))])
    };
    for (host, origin) in [
        ("chat.example.com", "https://chat.example.com"),
        ("chat.example.com:8080", "http://chat.example.com:8080"),
    ] {
        assert_eq!(Client::connect(&server).request(&request(host, origin)).status, 101, "{host} {origin}");
    }
    check_refusals(
        &server,
        &[
            (request("chat.example.com", "https://example.com"), 403, "origin", "--allow-origin"),
            (request("chat.example.com", "http://localhost"), 403, "origin", "--allow-origin"),
        ],
    );
    let server = TestServer::start(&Config { allow_origin: vec!["https://*.example.com".into()], ..open });
    assert_eq!(Client::connect(&server).request(&request("x", "https://a.example.com")).status, 101);
    check_refusals(&server, &[(request("x", "https://x"), 403, "origin", "--allow-origin")]);
}

#[test]
fn a_bound_that_is_reached_says_when_to_come_back() {
    let server = TestServer::start(&Config { max_topics: 2, ..config() });
    let _first = Client::open(&server, "/ws/1");
    let _second = Client::open(&server, "/ws/2");
    check_refusals(&server, &[(upgrade_request("/ws/3"), 503, "too_many_topics", "--max-topics")]);

    for config in [
        Config { max_connections: Some(2), ..config() },
        Config { max_connections_per_ip: Some(2), ..config() },
    ] {
        let server = TestServer::start(&config);
        let _first = Client::open(&server, "/ws/1");
        let _second = Client::open(&server, "/ws/1");
        check_refusals(
            &server,
            &[
                (upgrade_request("/ws/1"), 503, "too_many_connections", "later"),
                (get("/health"), 503, "too_many_connections", "later"),
            ],
        );
    }
}

#[test]
fn http_requests_share_a_connection() {
    let server = TestServer::start(&config());
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        let response = client.request(&get("/health"));
        assert_eq!((response.status, response.body.as_str()), (200, "ok\n"));
        assert_eq!(response.header("connection"), "");
    }
    // Several at once, and an upgrade with a frame behind them.
    let head = "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut bytes =
        [get("/health"), get("/metrics"), head.into(), upgrade_request("/echo")].concat().into_bytes();
    bytes.extend(frame(TEXT, b"last"));
    client.send(&bytes);
    assert_eq!(client.response().body, "ok\n");
    let metrics = client.response();
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"), "{metrics:?}");
    assert!(metrics.body.contains("stentor_connections{worker=\"0\"}"), "{}", metrics.body);
    assert!(metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
    let page = client.response_head();
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-length").parse::<usize>().expect("a length") > 100);
    assert_eq!(client.response().status, 101);
    assert_eq!(client.text(), "last");
}

#[test]
fn a_client_that_wants_to_close_is_closed() {
    let server = TestServer::start(&config());
    let old = |path: &str| format!("GET {path} HTTP/1.0\r\n\r\n");
    let close = |path: &str| get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    for (request, body) in
        [(old("/health"), "ok\n"), (old("/metrics"), "# EOF\n"), (close("/health"), "ok\n")]
    {
        let mut client = Client::connect(&server);
        let response = client.request(&request);
        assert_eq!(response.status, 200);
        assert!(response.body.ends_with(body), "{response:?}");
        assert_eq!(response.header("connection"), "close");
        client.end();
    }
    let mut client = Client::connect(&server);
    let keep = old("/health").replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.request(&keep).header("connection"), "keep-alive");
    assert_eq!(client.request(&keep).status, 200);
}

#[test]
fn a_request_is_answered_though_its_sender_has_finished() {
    let server = TestServer::start(&config());
    for request in [get("/health"), "GET /health HTTP/1.0\r\n\r\n".into()] {
        let mut client = Client::connect(&server);
        client.send(request.as_bytes());
        client.half_close();
        assert_eq!(client.response().body, "ok\n");
        client.end();
    }
    server.until_connections(0);
}

#[test]
fn a_handshake_has_its_time() {
    let limit = Duration::from_millis(300);
    let server = TestServer::start(&Config { handshake_timeout: limit, ..config() });
    let began = Instant::now();
    let mut silent = Client::connect(&server);
    let mut slow = Client::connect(&server);
    let slow_sender = slow.sender();
    // Bytes that trickle in don't extend it.
    let trickle = std::thread::spawn(move || {
        use std::io::Write;
        for byte in upgrade_request("/echo").bytes().cycle().take(1000) {
            if (&slow_sender).write_all(&[byte]).is_err() || began.elapsed() > Duration::from_secs(5) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    silent.end();
    // Time is counted in tenths of a second.
    assert!(began.elapsed() >= limit - Duration::from_millis(100), "{:?}", began.elapsed());
    // Who has begun to ask is told.
    let response = slow.response();
    assert_eq!((response.status, response.header("connection")), (408, "close"));
    slow.gone();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    trickle.join().expect("no panic");
    server.until("both are counted", |metrics| metrics.reason("closed", "handshake_timeout") == 2);
    assert_eq!(server.metrics().reason("refused", "handshake_timeout"), 1);

    // An answer begins the time anew; a WebSocket has none.
    let mut idle = Client::connect(&server);
    assert_eq!(idle.request(&get("/health")).status, 200);
    let mut open = Client::open(&server, "/echo");
    idle.end();
    open.send_text("still here");
    assert_eq!(open.text(), "still here");
}
