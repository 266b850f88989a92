//! Request heads (RFC 9112 §2 to §6): the bytes up to the empty line, parsed once into an owned value.
//!
//! `httparse` knows the grammar; here are the rules between headers, the limits, and the queries that the rest asks.
//! A head that two parties could read differently (obs-fold, repeated Host, contradicting lengths) is refused, since
//! proxies stand in between.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::Refusal;

/// What a request head may measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// The most bytes from the request line to the empty line.
    pub head_bytes_max: usize,
    /// The most header lines.
    pub headers_max: usize,
}

/// The request's method (RFC 9110 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: like GET, but the answer has no body.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
    /// Any other token; methods are case-sensitive, so `get` is one.
    Other,
}

impl Method {
    fn parse(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// The protocol version of the request (RFC 9112 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no upgrade, and the connection ends after the answer unless asked otherwise.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// A request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// The path as it was sent, percent-encoded, beginning with `/`; `*` for `OPTIONS *`. See [`decode_segments`].
    pub path: String,
    /// What follows the first `?`, as it was sent.
    pub query: Option<String>,
    /// The version on the request line.
    pub version: Version,
    headers: Vec<(String, String)>,
    content_length: Option<u64>,
}

impl Request {
    /// The value of the first header line of this name, in any case; without the whitespace around it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// The values of all header lines of this name, in the order of the request.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.all_headers().filter_map(move |(other, value)| other.eq_ignore_ascii_case(name).then_some(value))
    }

    /// All header lines, as name and value. Bytes that are not UTF-8 have become U+FFFD.
    pub fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The members of a comma-separated list over all header lines of this name, trimmed, without empty ones
    /// (RFC 9110 §5.6.1).
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
    }

    /// The first value of this key in the query, decoded; an empty one for a key without `=`.
    pub fn query_value(&self, key: &str) -> Option<String> {
        self.query_pairs().find_map(|(other, value)| (other == key).then(|| value.into_owned()))
    }

    /// All keys and values of the query, with `+` and percent-encoding decoded as browsers write them
    /// (WHATWG URL, application/x-www-form-urlencoded). Bytes that are not UTF-8 become U+FFFD.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        let query = self.query.as_deref().unwrap_or_default();
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key), decode_form(value))
        })
    }

    /// The connection may serve another request after this one (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        let says = |option: &str| self.list("connection").any(|member| member.eq_ignore_ascii_case(option));
        match self.version {
            Version::Http11 => !says("close"),
            Version::Http10 => says("keep-alive") && !says("close"),
        }
    }

    /// The length of the body, if it is declared.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The body comes in chunks or another transfer coding, so its length is not known.
    pub fn has_transfer_encoding(&self) -> bool {
        self.header("transfer-encoding").is_some()
    }

    /// A body follows the head (RFC 9112 §6).
    pub fn has_body(&self) -> bool {
        self.content_length.is_some_and(|len| len > 0) || self.has_transfer_encoding()
    }
}

/// Parses the request head at the front of `bytes`: the request and how many bytes it took.
///
/// `None`: more bytes are needed, fewer than `head_bytes_max` in all. Refused are: what is not HTTP/1.x, as soon as
/// it shows (400); obs-fold, whitespace before a colon, more than one Host or none in HTTP/1.1, contradicting lengths
/// (400; RFC 9112 §3.2, §5.1, §5.2, §6.3); a head over a limit (431).
pub fn parse_request(bytes: &[u8], limits: &HeadLimits) -> Result<Option<(Request, usize)>, Refusal> {
    let in_limit = &bytes[..bytes.len().min(limits.head_bytes_max)];
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers_max];
    let mut head = httparse::Request::new(&mut headers);
    let consumed = match head.parse(in_limit) {
        Ok(httparse::Status::Complete(consumed)) => consumed,
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(Refusal::headers_too_large(
                "head_too_long",
                format!(
                    "the request head is longer than {} bytes: send fewer or shorter headers",
                    limits.head_bytes_max
                ),
            ));
        }
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::headers_too_large(
                "too_many_headers",
                format!("the request has more than {} headers: send fewer", limits.headers_max),
            ));
        }
        Err(error) => return Err(malformed(bytes, error)),
    };
    // Present, since the parse was complete.
    let (method, target) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let (path, query) = split_target(target)?;
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut request = Request {
        method: Method::parse(method),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        version: if head.version == Some(0) { Version::Http10 } else { Version::Http11 },
        headers,
        content_length: None,
    };
    check_host(&request)?;
    request.content_length = content_length(&request)?;
    Ok(Some((request, consumed)))
}

/// Splits a path at `/` and percent-decodes each segment: `/ws/a%2Fb` is `["ws", "a/b"]`.
///
/// `/` alone has no segments; a slash at the end makes a last, empty one. Refused with 400: a `%` without two
/// hexadecimal digits, bytes that are not UTF-8.
pub fn decode_segments(path: &str) -> Result<Vec<String>, Refusal> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(Vec::new()),
        path => path.split('/').map(decode_segment).collect(),
    }
}

fn decode_segment(segment: &str) -> Result<String, Refusal> {
    let hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = segment.as_bytes();
    let bad_escape =
        memchr::memchr_iter(b'%', bytes).any(|at| !hex(bytes.get(at + 1)) || !hex(bytes.get(at + 2)));
    if bad_escape {
        return Err(Refusal::bad_request(
            "path_escape",
            "the path has a '%' without two hexadecimal digits: write '%' itself as %25",
        ));
    }
    match percent_decode_str(segment).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Refusal::bad_request("path_utf8", "the percent-encoded path is not UTF-8")),
    }
}

fn decode_form(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Path and query of a request target (RFC 9112 §3.2): `/path?query`, `http://host/path?query`, or `*`.
fn split_target(target: &str) -> Result<(&str, Option<&str>), Refusal> {
    let absolute = ["http://", "https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let local = match absolute {
        Some(scheme) => {
            let after = &target[scheme.len()..];
            &after[after.find(['/', '?']).unwrap_or(after.len())..]
        }
        None if target.starts_with('/') || target == "*" => target,
        None => {
            return Err(Refusal::bad_request(
                "target",
                "the request target must be a path that begins with '/'",
            ));
        }
    };
    if local.contains('#') {
        return Err(Refusal::bad_request("target", "the request target must not have a fragment ('#')"));
    }
    let (path, query) = match local.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (local, None),
    };
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// RFC 9112 §3.2: exactly one Host line; an HTTP/1.0 client may leave it out.
fn check_host(request: &Request) -> Result<(), Refusal> {
    match (request.headers("host").count(), request.version) {
        (1, _) | (0, Version::Http10) => Ok(()),
        (0, Version::Http11) => {
            Err(Refusal::bad_request("host_missing", "an HTTP/1.1 request must have a Host header"))
        }
        _ => Err(Refusal::bad_request("host_repeated", "the request must have only one Host header")),
    }
}

/// RFC 9112 §6.3: one length, however often it is said, and none beside a transfer coding.
fn content_length(request: &Request) -> Result<Option<u64>, Refusal> {
    let mut length = None;
    for member in request.headers("content-length").flat_map(|value| value.split(',')) {
        let member = member.trim();
        // Digits only: parse alone would take "+1".
        let parsed = member.bytes().all(|byte| byte.is_ascii_digit()).then(|| member.parse().ok()).flatten();
        let Some(parsed) = parsed else {
            return Err(Refusal::bad_request("content_length", "Content-Length must be a number of bytes"));
        };
        if length.is_some_and(|earlier| earlier != parsed) {
            return Err(Refusal::bad_request(
                "content_length",
                "the request has two different Content-Lengths",
            ));
        }
        length = Some(parsed);
    }
    if length.is_some() && request.has_transfer_encoding() {
        return Err(Refusal::bad_request(
            "content_length",
            "the request has both Content-Length and Transfer-Encoding: send only one",
        ));
    }
    Ok(length)
}

/// Bytes that are no HTTP/1.x head, with the likeliest reason.
fn malformed(bytes: &[u8], error: httparse::Error) -> Refusal {
    // A TLS record: handshake (22), version 3.x.
    if bytes.starts_with(&[0x16, 0x03]) {
        return Refusal::bad_request(
            "tls_on_plain_port",
            "this port does not speak TLS: use ws:// or http://, or the port that does",
        );
    }
    match error {
        httparse::Error::Version => {
            Refusal::bad_request("http_version", "only HTTP/1.1 and HTTP/1.0 are spoken here")
        }
        error => Refusal::bad_request("malformed_head", format!("not an HTTP/1.1 request: {error}")),
    }
}

#[cfg(test)]
mod tests {
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
        let request = request(
            "GET /?a=1&b&&c=x%20y+z%3D%26&a=2&%C3%A4=%E2%82%AC&bad=%ff%4 HTTP/1.1\r\nHost: a\r\n\r\n",
        );
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
        for target in ["example.com:443", "ws/x", "/ws#part"] {
            assert_eq!(refused(&request_line(target)), (400, "target"), "{target}");
        }
    }

    #[test]
    fn connections_live_on_as_the_version_says() {
        // RFC 9112 §9.3
        let keeps = |version: &str, connection: &str| {
            request(&format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n"))
                .keep_alive()
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
        assert_eq!(refused(&with("X: a\r\n folded")), (400, "malformed_head")); // §5.2
        assert_eq!(refused(&with("X : a")), (400, "malformed_head")); // §5.1
        assert_eq!(refused(&with("X: a\0b")), (400, "malformed_head"));
        assert_eq!(refused(&with("Content-Length: 5\r\nContent-Length: 6")), (400, "content_length")); // §6.3
        assert_eq!(refused(&with("Content-Length: 5, 6")), (400, "content_length"));
        for length in ["+5", "-1", "5x", "", "99999999999999999999"] {
            assert_eq!(
                refused(&with(&format!("Content-Length: {length}"))),
                (400, "content_length"),
                "{length}"
            );
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
        let lines =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(count - 1));
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
}
