//! Responses, and refusals that become one.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::Version;

/// What a client that waits with its body is told once its head was accepted (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A request that is not served: what the client gets, and what the metric counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// A stable word for metrics and logs: lower case, with underscores.
    pub reason: &'static str,
    /// One line for whoever has to repair the client: what is wrong and what to do.
    pub hint: Cow<'static, str>,
    /// Headers that the status asks for, such as `Allow`.
    pub headers: Vec<(&'static str, String)>,
}

impl Refusal {
    /// A refusal with any status; the functions below name the usual ones.
    pub fn new(status: u16, reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, hint: hint.into(), headers: Vec::new() }
    }

    /// 400: the request breaks a rule.
    pub fn bad_request(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, reason, hint)
    }

    /// 403: understood, and not allowed.
    pub fn forbidden(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, reason, hint)
    }

    /// 404: nothing is at this path.
    pub fn not_found(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, reason, hint)
    }

    /// 405: the path is right, the method is not; `allow` lists those that are (RFC 9110 §15.5.6).
    pub fn method_not_allowed(
        reason: &'static str,
        hint: impl Into<Cow<'static, str>>,
        allow: &'static str,
    ) -> Self {
        Self::new(405, reason, hint).with_header("Allow", allow)
    }

    /// 413: the body is over the limit.
    pub fn content_too_large(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(413, reason, hint)
    }

    /// 426: only to be had as a WebSocket, version 13 (RFC 6455 §4.2.2, RFC 9110 §15.5.22).
    pub fn upgrade_required(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(426, reason, hint)
            .with_header("Upgrade", "websocket")
            .with_header("Sec-WebSocket-Version", "13")
    }

    /// 431: the head is over the limit.
    pub fn headers_too_large(reason: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(431, reason, hint)
    }

    /// 503: not now; try again after `retry_after`, which is rounded up to whole seconds.
    pub fn unavailable(
        reason: &'static str,
        hint: impl Into<Cow<'static, str>>,
        retry_after: Duration,
    ) -> Self {
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        Self::new(503, reason, hint).with_header("Retry-After", seconds.to_string())
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status, 200 to 599.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// Further headers. `Content-Length` and `Connection` are written by [`encode`](Self::encode).
    pub headers: Vec<(&'static str, String)>,
    /// The whole body.
    pub body: Bytes,
}

impl Response {
    /// A response with a body and no further headers.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes on the wire, head and body.
    ///
    /// `version` is the request's, `close` says that the connection ends after this response, and `head_only` leaves
    /// the body out but states its length, as the answer to HEAD does (RFC 9110 §9.3.2).
    pub fn encode(&self, version: Version, close: bool, head_only: bool) -> Vec<u8> {
        // RFC 9110 §8.6, §15.4.5: these never have a body, and 204 must not state a length.
        let bodiless = matches!(self.status, 204 | 304);
        let mut head = self.start();
        if !bodiless {
            put_header(&mut head, "Content-Type", self.content_type);
            put_header(&mut head, "Content-Length", &self.body.len().to_string());
        }
        if let Some(options) = self.connection(version, close) {
            put_header(&mut head, "Connection", options);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !bodiless && !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    /// The head of a response whose body has no length, and ends with the connection (RFC 9112 §6.3, rule 8).
    ///
    /// The body so far, if any, follows it.
    pub fn encode_until_close(&self) -> Vec<u8> {
        let mut head = self.start();
        put_header(&mut head, "Content-Type", self.content_type);
        put_header(&mut head, "Connection", "close");
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Status line and the headers that every kind of response has.
    fn start(&self) -> String {
        // RFC 9110 §2.5: the version is the server's own, whatever the request's was.
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        for (name, value) in &self.headers {
            put_header(&mut head, name, value);
        }
        put_header(&mut head, "X-Content-Type-Options", "nosniff");
        head
    }

    /// RFC 9112 §9.3; and RFC 9110 §7.8: whoever sends Upgrade names it here.
    fn connection(&self, version: Version, close: bool) -> Option<&'static str> {
        let upgrade = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
        match (upgrade, close, version) {
            (true, true, _) => Some("upgrade, close"),
            (true, false, Version::Http11) => Some("upgrade"),
            (true, false, Version::Http10) => Some("upgrade, keep-alive"),
            (false, true, _) => Some("close"),
            (false, false, Version::Http11) => None,
            (false, false, Version::Http10) => Some("keep-alive"),
        }
    }
}

impl From<Refusal> for Response {
    /// The hint as one line of plain text.
    fn from(refusal: Refusal) -> Self {
        let body = format!("{}\n", refusal.hint);
        Self {
            status: refusal.status,
            content_type: "text/plain; charset=utf-8",
            headers: refusal.headers,
            body: body.into(),
        }
    }
}

/// Writes a header line. Control characters become spaces: no value can end its line or begin another.
fn put_header(head: &mut String, name: &str, value: &str) {
    head.push_str(name);
    head.push_str(": ");
    head.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
    head.push_str("\r\n");
}

/// The reason phrase, for people who read traffic; clients ignore it (RFC 9112 §4).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: &Response, version: Version, close: bool, head_only: bool) -> String {
        String::from_utf8(response.encode(version, close, head_only)).expect("ASCII here")
    }

    #[test]
    fn a_response() {
        let response = Response::new(200, "application/json", "{}").with_header("ETag", "\"1\"");
        assert_eq!(
            encoded(&response, Version::Http11, false, false),
            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nX-Content-Type-Options: nosniff\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
    }

    #[test]
    fn connection_is_said_where_it_is_not_the_default() {
        // RFC 9112 §9.3
        let response = Response::new(200, "text/plain", "x");
        let says = |version, close| {
            let head = encoded(&response, version, close, false);
            head.lines().find_map(|line| line.strip_prefix("Connection: ").map(str::to_owned))
        };
        assert_eq!(says(Version::Http11, false), None);
        assert_eq!(says(Version::Http11, true).as_deref(), Some("close"));
        assert_eq!(says(Version::Http10, false).as_deref(), Some("keep-alive"));
        assert_eq!(says(Version::Http10, true).as_deref(), Some("close"));
    }

    #[test]
    fn head_states_the_length_and_204_has_none() {
        let response = Response::new(200, "text/plain", "12345");
        let head = encoded(&response, Version::Http11, false, true);
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"));
        let head = encoded(&Response::new(204, "text/plain", ""), Version::Http11, false, false);
        assert!(!head.contains("Content-Length") && head.starts_with("HTTP/1.1 204 No Content\r\n"));
    }

    #[test]
    fn a_stream_ends_with_its_connection() {
        let head = Response::new(200, "text/event-stream", ":\n\n").with_header("Cache-Control", "no-store");
        assert_eq!(
            head.encode_until_close(),
            b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
              Content-Type: text/event-stream\r\nConnection: close\r\n\r\n:\n\n"
        );
    }

    #[test]
    fn refusals_say_what_to_do() {
        let refusal = Refusal::upgrade_required("version", "use version 13");
        assert_eq!(
            encoded(&refusal.into(), Version::Http11, true, false),
            "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n\
             Connection: upgrade, close\r\n\r\nuse version 13\n"
        );
        let header = |refusal: Refusal| refusal.headers;
        assert_eq!(
            header(Refusal::method_not_allowed("m", "", "GET, HEAD")),
            [("Allow", "GET, HEAD".into())]
        );
        let busy = |millis| header(Refusal::unavailable("busy", "", Duration::from_millis(millis)));
        assert_eq!(busy(1500), [("Retry-After", "2".into())]);
        assert_eq!(busy(2000), [("Retry-After", "2".into())]);
    }

    #[test]
    fn no_value_can_begin_a_line() {
        let response = Response::new(200, "text/plain", "").with_header("Location", "/a\r\nSet-Cookie: b\0");
        let head = encoded(&response, Version::Http11, false, false);
        assert!(head.contains("Location: /a  Set-Cookie: b \r\n"), "{head}");
    }
}
