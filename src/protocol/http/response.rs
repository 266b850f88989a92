//! Responses, and refusals that become one.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::Version;

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
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
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
