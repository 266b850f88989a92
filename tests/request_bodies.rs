//! Request bodies over real sockets: collected whole however they come, bounded in length, time and memory, and answered in order.

mod common;

use std::{
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Client, Rng, TestServer, config, refusals::Neighbour};
use stentor::{
    config::Config,
    protocol::http::Response,
    session::{Answer, Refusal, Request, Route, Router, routes::Routes},
};

/// Answers `/echo-body` with the body, `/refuse` with a refusal once the body was read; all else is the server's.
struct Echo(Routes);

impl Router for Echo {
    fn route(&self, request: &Request, address: SocketAddr) -> Route {
        match request.path.as_str() {
            "/echo-body" | "/refuse" | "/panic" => Route::Body,
            _ => self.0.route(request, address),
        }
    }

    fn respond(&self, request: &Request, body: Bytes, _address: SocketAddr) -> Answer {
        match request.path.as_str() {
            "/refuse" => Answer::Refuse(Refusal::bad_request("test", "not this one")),
            "/panic" => panic!("a body too much"),
            _ => Answer::Respond(Response::new(200, "application/octet-stream", body)),
        }
    }
}

fn start(config: &Config) -> TestServer {
    let routes = Routes::new(config, Box::new(String::new)).expect("no patterns");
    TestServer::start_with(config, Arc::new(Echo(routes)))
}

fn head(lines: &str) -> String {
    format!("POST /echo-body HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

fn with_length(body: &str) -> String {
    head(&format!("Content-Length: {}\r\n", body.len())) + body
}

fn chunked(body: &str, size: usize) -> String {
    let mut text = head("Transfer-Encoding: chunked\r\n");
    // A body of very many chunks may not have an extension with each.
    let extension = if size > 50 { ";ignored=\"yes\"" } else { "" };
    for chunk in body.as_bytes().chunks(size) {
        let chunk = std::str::from_utf8(chunk).expect("ASCII");
        text += &format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len());
    }
    text + "0\r\nIgnored: yes\r\n\r\n"
}

/// Letters, and not always the same.
fn letters(rng: &mut Rng, len: usize) -> String {
    (0..len).map(|_| char::from(b'a' + u8::try_from(rng.below(26)).expect("a letter"))).collect()
}

#[test]
fn bodies_are_whole_however_they_come() {
    let server = start(&Config { workers: 1, ..config() });
    let mut rng = Rng(3);
    for (len, chunk, piece) in [
        (0, 1, 1),
        (1, 1, 1),
        (1000, 1, 7),
        (5000, 700, 1),
        (100_000, 5000, 1000),
        (2 << 20, 60_000, 1 << 16),
    ] {
        let body = letters(&mut rng, len);
        for request in [with_length(&body), chunked(&body, chunk)] {
            let mut client = Client::connect(&server);
            for piece in request.as_bytes().chunks(piece) {
                client.send(piece);
            }
            let response = client.response();
            assert_eq!(response.status, 200);
            assert!(response.body == body, "{len} bytes in pieces of {piece}");
            // And the connection goes on.
            assert_eq!(client.request(&with_length("next")).body, "next");
        }
    }
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start(&Config { workers: 1, ..config() });
    let mut rng = Rng(4);
    let bodies: Vec<String> = (0..100)
        .map(|_| {
            let len = rng.below(2000);
            letters(&mut rng, len)
        })
        .collect();
    let mut stream = String::new();
    for (at, body) in bodies.iter().enumerate() {
        stream += &if at % 2 == 0 { with_length(body) } else { chunked(body, 100) };
        if at % 10 == 0 {
            stream += "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        }
    }
    let mut client = Client::connect(&server);
    let mut sender = client.sender();
    let bytes = stream.into_bytes();
    let writer = std::thread::spawn(move || {
        bytes.chunks(3001).for_each(|piece| sender.write_all(piece).expect("it reads"));
    });
    for (at, body) in bodies.iter().enumerate() {
        assert!(client.response().body == *body, "the answer to request {at}");
        if at % 10 == 0 {
            assert_eq!(client.response().body, "ok\n");
        }
    }
    writer.join().expect("no panic");
}

#[test]
fn http_1_0_and_connections_that_end() {
    let server = start(&config());
    let request = "POST /echo-body HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = Client::connect(&server);
    let response = client.request(request);
    assert_eq!((response.body.as_str(), response.header("connection")), ("hi", "close"));
    client.end();
    let mut client = Client::connect(&server);
    let keeps = request.replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n");
    for _ in 0..2 {
        let response = client.request(&keeps);
        assert_eq!((response.body.as_str(), response.header("connection")), ("hi", "keep-alive"));
    }
    let response = client.request(&with_length("bye").replace("Host:", "Connection: close\r\nHost:"));
    assert_eq!((response.body.as_str(), response.header("connection")), ("bye", "close"));
    client.end();
    // HTTP/1.0 knows no chunks: who sends some is not who it says.
    let response = Client::connect(&server).request(&chunked("hi", 1).replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(response.status, 400);
    assert_eq!(server.metrics().reason("refused", "transfer_encoding"), 1);
}

#[test]
fn who_waits_with_a_body_is_told_to_go_on() {
    let server = start(&Config { max_body_bytes: 1000, ..config() });
    let expecting = |body: &str| head(&format!("Content-Length: {}\r\nExpect: 100-Continue\r\n", body.len()));
    let mut client = Client::connect(&server);
    for body in ["hello", "again"] {
        client.send(expecting(body).as_bytes());
        assert_eq!(client.response_head().status, 100);
        client.send(body.as_bytes());
        assert_eq!(client.response().body, body);
    }
    // Who did not wait needs no word, and neither does who has nothing to say.
    client.send((expecting("at once") + "at once").as_bytes());
    assert_eq!(client.response().body, "at once");
    assert_eq!(client.request(&expecting("")).body, "");
    // An HTTP/1.0 client does not know what it would be.
    client.send(expecting("old").replace("HTTP/1.1", "HTTP/1.0\r\nConnection: keep-alive").as_bytes());
    assert!(client.is_silent_for(Duration::from_millis(100)));
    client.send(b"old");
    assert_eq!(client.response().body, "old");
    // Who is refused is not told to go on first.
    let too_long = "x".repeat(1001);
    for (request, status) in [
        (expecting(&too_long), 413),
        (expecting("x").replace("/echo-body", "/health"), 413),
        (expecting("x").replace("100-Continue", "200-ok"), 417),
        (expecting("x").replace("100-Continue", "100-continue, magic"), 417),
    ] {
        let mut client = Client::connect(&server);
        assert_eq!(client.request(&request).status, status, "{request}");
        client.end();
    }
}

#[test]
fn bodies_have_their_length() {
    let server = start(&Config { workers: 1, max_body_bytes: 1000, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let declared = head("Content-Length: 99999999999\r\n");
    let long = chunked(&"x".repeat(1001), 500);
    let endless = head("Transfer-Encoding: chunked\r\n") + "ffffffff\r\n";
    for (request, status, reason) in [
        (&declared, 413, "body_too_large"),
        (&long, 413, "body_too_large"),
        (&endless, 413, "body_too_large"),
        (&(head("Transfer-Encoding: chunked\r\n") + "1;" + &"e".repeat(5000)), 400, "chunk_extension"),
        (&(head("Transfer-Encoding: chunked\r\n") + "0\r\nX: " + &"y".repeat(9000)), 431, "trailer_too_long"),
        (&(head("Transfer-Encoding: chunked\r\n") + "5\r\nhello!\r\n"), 400, "chunk"),
        (&(head("Transfer-Encoding: chunked\r\n") + "0\r\nX: y\r\n folded\r\n\r\n"), 400, "trailer"),
        (&(head("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"), 501, "transfer_coding"),
        (&(head("Transfer-Encoding: identity\r\n") + "x"), 501, "transfer_coding"),
        (&(head("Transfer-Encoding: chunked, chunked\r\n") + "0\r\n\r\n"), 400, "transfer_encoding"),
        (&(head("Transfer-Encoding:\r\n") + "0\r\n\r\n"), 400, "transfer_encoding"),
        (&(head("Expect: 200-ok\r\n")), 417, "expectation"),
    ] {
        let before = server.metrics().reason("refused", reason);
        let mut client = Client::connect(&server);
        let _ = client.stream.write_all(request.as_bytes());
        let response = client.response();
        assert_eq!(
            (response.status, response.header("connection")),
            (status, "close"),
            "{reason}: {response:?}"
        );
        client.end();
        assert_eq!(server.metrics().reason("refused", reason), before + 1, "{reason}");
        neighbour.unhurt_by(reason);
    }
    assert_eq!(
        Client::connect(&server).request(&chunked(&"x".repeat(1000), 300)).status,
        200,
        "exactly so many"
    );
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
}

#[test]
fn a_body_has_its_time() {
    let timeout = Duration::from_millis(500);
    let handshake_timeout = Duration::from_millis(200);
    let server = start(&Config { message_timeout: timeout, handshake_timeout, ..config() });
    let mut slow = Client::connect(&server);
    let began = Instant::now();
    slow.send(head("Content-Length: 3\r\n").as_bytes());
    for byte in [b"a", b"b"] {
        std::thread::sleep(Duration::from_millis(150));
        slow.send(byte);
    }
    let response = slow.response();
    assert_eq!((response.status, response.header("connection")), (408, "close"));
    assert!(response.body.contains("--message-timeout") && began.elapsed() >= timeout, "{response:?}");
    slow.end();
    // Longer than for a head, and then the next head has its own time.
    let mut client = Client::connect(&server);
    client.send(head("Content-Length: 3\r\n").as_bytes());
    std::thread::sleep(Duration::from_millis(300));
    client.send(b"abc");
    assert_eq!(client.response().body, "abc");
    client.end();
    server.until("they are counted", |metrics| {
        metrics.reason("closed", "message_timeout") == 1 && metrics.reason("closed", "handshake_timeout") == 1
    });
    let metrics = server.metrics();
    assert_eq!((metrics.reason("refused", "body_timeout"), metrics.sum("assembly_bytes")), (1, 0));
}

#[test]
fn half_bodies_of_all_clients_together() {
    let server =
        start(&Config { assembly_bytes_max: 256 << 10, max_body_bytes: 64 << 10, workers: 1, ..config() });
    let body = "x".repeat(60_000);
    let request = with_length(&body);
    let (first, second) = request.split_at(40_000);
    let mut clients: Vec<_> = (0..30).map(|_| Client::connect(&server)).collect();
    for client in &mut clients {
        client.send(first.as_bytes());
    }
    server.until("they are read", |metrics| metrics.sum("bytes_received") >= 30 * 40_000);
    let (mut served, mut refused) = (0, 0);
    for mut client in clients {
        let _ = client.stream.write_all(second.as_bytes());
        let response = client.response();
        match response.status {
            200 => {
                assert!(response.body == body);
                served += 1;
            }
            _ => {
                assert_eq!((response.status, response.header("retry-after")), (503, "5"), "{response:?}");
                refused += 1;
            }
        }
    }
    assert!((1..=6).contains(&served) && served + refused == 30, "{served} served, {refused} refused");
    assert_eq!(server.metrics().reason("refused", "assembly_full"), refused);
    // All was given back, also of those who leave in the middle.
    let mut client = Client::connect(&server);
    client.send(first.as_bytes());
    server.until("it is counted", |metrics| metrics.sum("assembly_bytes") > 30_000);
    drop(client);
    server.until("and given back", |metrics| metrics.sum("assembly_bytes") == 0);
}

#[test]
fn what_a_router_makes_of_a_body() {
    let server = start(&Config { workers: 1, ..config() });
    let mut client = Client::connect(&server);
    // Refused, but read: the connection goes on.
    for _ in 0..2 {
        let response = client.request(&with_length("x").replace("/echo-body", "/refuse"));
        assert_eq!((response.status, response.header("connection")), (400, ""));
    }
    assert_eq!(server.metrics().reason("refused", "test"), 2);
    let response = client.request(&with_length("x").replace("/echo-body", "/panic"));
    assert_eq!(response.status, 500);
    assert_eq!(client.request(&with_length("still there")).body, "still there");
    let metrics = server.metrics();
    assert_eq!(
        (metrics.reason("refused", "router_panic"), metrics.reason("session_failures", "panic")),
        (1, 1)
    );
}
