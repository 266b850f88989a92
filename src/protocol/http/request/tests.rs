//! Request heads as literal text, and what becomes of noise.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { head_bytes_max: 1000, headers_max: 10 };

fn parse(head: &str) -> Result<Option<(Request, usize)>, Refusal> {
    parse_request(head.as_bytes(), &LIMITS)
}

#[track_caller]
fn request(head: &str) -> Request {
    parse(head).expect("not refused").expect("complete").0
}

#[track_caller]
fn refused(head: &str) -> (u16, &'static str) {
    let refusal = parse(head).expect_err("refused");
    (refusal.status, refusal.reason)
}

#[test]
fn a_browsers_request() {
    let head = "GET /ws/chat%2Froom?history=10&token=a%2Bb+c HTTP/1.1\r\nHost: example.com:8000\r\n\
                Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nX-Empty:\r\n\r\n";
    let next = format!("{head}GET / HTTP/1.1\r\n");
    let (request, consumed) = parse(&next).expect("not refused").expect("complete");
    assert_eq!(consumed, head.len());
    assert_eq!(request.method, Method::Get);
    assert_eq!(request.path, "/ws/chat%2Froom");
    assert_eq!(request.query.as_deref(), Some("history=10&token=a%2Bb+c"));
    assert_eq!(request.version, Version::Http11);
    assert_eq!(request.header("HOST"), Some("example.com:8000"));
    assert_eq!(request.header("x-empty"), Some(""));
    assert_eq!(request.header("x-none"), None);
    assert_eq!(request.all_headers().count(), 4);
    assert!(request.keep_alive() && !request.has_body());
}

#[test]
fn every_front_of_a_head_asks_for_more() {
    let head = "\r\nPOST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    for cut in 0..head.len() {
        assert_eq!(parse(&head[..cut]), Ok(None), "{cut}");
    }
    let request = request(head);
    assert_eq!((request.method, request.content_length()), (Method::Post, Some(5)));
    assert!(request.has_body());
}

#[test]
fn several_lines_of_one_header() {
    let request = request(
        "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Protocol: one ,, two\r\nsec-websocket-protocol: three\r\n\r\n",
    );
    assert_eq!(request.headers("Sec-Websocket-Protocol").collect::<Vec<_>>(), ["one ,, two", "three"]);
    assert_eq!(request.list("sec-websocket-protocol").collect::<Vec<_>>(), ["one", "two", "three"]);
}

#[test]
fn query_is_decoded_as_a_form() {
    let request =
        request("GET /?a=1&b&&c=x%20y+z%3D%26&a=2&%C3%A4=%E2%82%AC&bad=%ff%4 HTTP/1.1\r\nHost: a\r\n\r\n");
    let pairs: Vec<_> = request.query_pairs().collect();
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
    assert_eq!(
        pairs,
        [("a", "1"), ("b", ""), ("c", "x y z=&"), ("a", "2"), ("ä", "€"), ("bad", "\u{FFFD}%4")]
    );
    assert_eq!(request.query_value("a").as_deref(), Some("1"));
    assert_eq!(request.query_value("b").as_deref(), Some(""));
    assert_eq!(request.query_value("d"), None);
}

#[test]
fn segments_are_decoded_one_by_one() {
    let decoded = |path| decode_segments(path).expect("valid");
    assert_eq!(decoded("/"), Vec::<String>::new());
    assert_eq!(decoded("/ws/chat/room1"), ["ws", "chat", "room1"]);
    assert_eq!(decoded("/ws/a%2Fb%20%c3%a4+"), ["ws", "a/b ä+"]);
    assert_eq!(decoded("/ws//x/"), ["ws", "", "x", ""]);
    for (path, reason) in
        [("/%", "path_escape"), ("/a/%2", "path_escape"), ("/%zz", "path_escape"), ("/%ff", "path_utf8")]
    {
        let refusal = decode_segments(path).expect_err(path);
        assert_eq!((refusal.status, refusal.reason), (400, reason));
    }
}

#[test]
fn targets() {
    // RFC 9112 §3.2.2: a server takes the absolute form too.
    let request_line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    for (target, path, query) in [
        ("http://example.com/ws/x?y=1", "/ws/x", Some("y=1")),
        ("HTTPS://example.com", "/", None),
        ("http://example.com?y", "/", Some("y")),
        ("/?a?b", "/", Some("a?b")),
        ("*", "*", None),
    ] {
        let request = request(&request_line(target));
        assert_eq!((request.path.as_str(), request.query.as_deref()), (path, query), "{target}");
    }
    let absolute = request(&request_line("http://b:8080/"));
    assert_eq!(absolute.headers("host").collect::<Vec<_>>(), ["b:8080"], "it replaces the Host header's");
    for target in ["example.com:443", "ws/x", "/ws#part", "http:///ws", "http://?x", "http://a#part"] {
        assert_eq!(refused(&request_line(target)), (400, "target"), "{target}");
    }
}

#[test]
fn connections_live_on_as_the_version_says() {
    // RFC 9112 §9.3
    let keeps = |version: &str, connection: &str| {
        request(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n")).keep_alive()
    };
    assert!(keeps("1.1", "upgrade") && keeps("1.0", "Keep-Alive"));
    assert!(!keeps("1.1", "x, Close") && !keeps("1.0", "upgrade") && !keeps("1.0", "keep-alive, close"));
}

#[test]
fn what_two_parties_could_read_differently_is_refused() {
    let with = |lines: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), (400, "host_repeated")); // §3.2
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), (400, "host_repeated"));
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), (400, "host_missing"));
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
    for host in ["a, b", "a b", "a@b", "a/b"] {
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            (400, "host_value"),
            "{host}"
        );
    }
    assert_eq!(refused("GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n"), (400, "host_value"));
    assert_eq!(refused(&with("X: a\r\n folded")), (400, "malformed_head")); // §5.2
    assert_eq!(refused(&with("X : a")), (400, "malformed_head")); // §5.1
    assert_eq!(refused(&with("X: a\0b")), (400, "malformed_head"));
    assert_eq!(refused(&with("Content-Length: 5\r\nContent-Length: 6")), (400, "content_length")); // §6.3
    assert_eq!(refused(&with("Content-Length: 5, 6")), (400, "content_length"));
    for length in ["+5", "-1", "5x", "", "99999999999999999999"] {
        assert_eq!(refused(&with(&format!("Content-Length: {length}"))), (400, "content_length"), "{length}");
    }
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked";
    assert_eq!(refused(&with(both)), (400, "content_length"));
    assert_eq!(request(&with("Content-Length: 5\r\nContent-Length: 5")).content_length(), Some(5));
    assert!(!request(&with("Content-Length: 0")).has_body());
    assert!(request(&with("Transfer-Encoding: chunked")).has_body());
}

#[test]
fn what_is_not_http_is_refused_at_once() {
    assert_eq!(refused("GET /\r\n"), (400, "malformed_head"));
    assert_eq!(refused("\0"), (400, "malformed_head"));
    assert_eq!(refused("GET / HTTP/2.0\r\n\r\n"), (400, "http_version"));
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (400, "http_version"));
    assert_eq!(refused("\u{16}\u{3}\u{1}\u{2}"), (400, "tls_on_plain_port"));
    assert_eq!(parse_request(b"\x16", &LIMITS), Ok(None), "the next byte tells");
    assert_eq!(refused("\u{16}GET"), (400, "malformed_head"));
}

#[test]
fn limits_hold_for_complete_and_endless_heads() {
    let head = |len: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(len - frame))
    };
    assert!(parse(&head(1000)).is_ok_and(|it| it.is_some()));
    assert_eq!(refused(&head(1001)), (431, "head_too_long"));
    assert_eq!(parse(&head(5000)[..999]), Ok(None));
    assert_eq!(refused(&head(5000)[..1000]), (431, "head_too_long"));
    let lines = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
    assert!(parse(&lines(10)).is_ok_and(|it| it.is_some()));
    assert_eq!(refused(&lines(11)), (431, "too_many_headers"));
    // A body behind a short head does not count.
    assert!(parse(&format!("{}{}", head(500), "x".repeat(5000))).is_ok_and(|it| it.is_some()));
}

#[test]
fn values_that_are_not_utf8_are_kept_readable() {
    let (request, _) = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: caf\xe9\r\n\r\n", &LIMITS)
        .expect("not refused")
        .expect("complete");
    assert_eq!(request.header("cookie"), Some("caf\u{FFFD}"));
}

proptest! {
    #[test]
    fn noise_never_panics(
        start in prop_oneof![Just(""), Just("GET "), Just("GET /"), Just("GET / HTTP/1.1\r\nHost: a\r\n")],
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start.as_bytes(), &noise].concat();
        let limits = HeadLimits { head_bytes_max: 200, headers_max: 5 };
        match parse_request(&bytes, &limits) {
            Ok(None) => prop_assert!(bytes.len() < limits.head_bytes_max),
            Ok(Some((_, consumed))) => prop_assert!(consumed <= limits.head_bytes_max),
            Err(refusal) => prop_assert!(matches!(refusal.status, 400 | 431)),
        }
        let _ = decode_segments(&String::from_utf8_lossy(&noise));
    }

    #[test]
    fn segments_survive_encoding(segments in prop::collection::vec(".{1,20}", 1..5)) {
        let encode = |segment: &String| {
            percent_encoding::utf8_percent_encode(segment, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let path: String = segments.iter().map(|segment| format!("/{}", encode(segment))).collect();
        prop_assert_eq!(decode_segments(&path), Ok(segments));
    }
}
