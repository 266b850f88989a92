//! Request heads (RFC 9112 §2 to §6): the bytes up to the empty line, parsed once into an owned value.
//!
//! `httparse` knows the grammar; here are the rules between headers, the limits, and the queries that the rest asks.
//! A head that two parties could read differently (obs-fold, repeated Host, contradicting lengths) is refused, since
//! proxies stand in between.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{Framing, Refusal};

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
    framing: Framing,
    expects_continue: bool,
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

    /// How the request says where its body ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// The length of the body, if it is declared.
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked => None,
        }
    }

    /// A body follows the head (RFC 9112 §6).
    pub fn has_body(&self) -> bool {
        !matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// The client may wait for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }
}

/// Parses the request head at the front of `bytes`: the request and how many bytes it took.
///
/// `None`: more bytes are needed, fewer than `head_bytes_max` in all. Refused are: what is not HTTP/1.x, as soon as
/// it shows (400); obs-fold, whitespace before a colon, more than one Host or none in HTTP/1.1, a Host that names
/// several, contradicting lengths (400; RFC 9112 §3.2, §5.1, §5.2, §6.3); a transfer coding that is not chunked (501);
/// an expectation that is not `100-continue` (417); a head over a limit (431).
///
/// Of a target in absolute form the host counts, and replaces the Host header's value (RFC 9112 §3.2.2).
pub fn parse_request(bytes: &[u8], limits: &HeadLimits) -> Result<Option<(Request, usize)>, Refusal> {
    if bytes == &TLS_RECORD[..1] {
        // The next byte tells TLS from garbage, and the answer must not depend on how the bytes came.
        return Ok(None);
    }
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
    let Target { authority, path, query } = split_target(target)?;
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
        framing: Framing::None,
        expects_continue: false,
    };
    check_host(&request)?;
    if let Some(authority) = authority {
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        request.headers.push(("Host".to_owned(), authority.to_owned()));
    }
    check_host_value(&request)?;
    request.framing = framing(&request)?;
    request.expects_continue = expects_continue(&request)?;
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

/// The parts of a request target, as they were sent.
struct Target<'a> {
    /// Host and port of the absolute form.
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

/// The parts of a request target (RFC 9112 §3.2): `/path?query`, `http://host/path?query`, or `*`.
fn split_target(target: &str) -> Result<Target<'_>, Refusal> {
    let absolute = ["http://", "https://"]
        .iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let (authority, local) = match absolute {
        Some(scheme) => {
            let after = &target[scheme.len()..];
            let (authority, local) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
            if authority.is_empty() {
                // RFC 9110 §4.2.1
                return Err(Refusal::bad_request("target", "the request target must name a host"));
            }
            (Some(authority), local)
        }
        None if target.starts_with('/') || target == "*" => (None, target),
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
    Ok(Target { authority, path: if path.is_empty() { "/" } else { path }, query })
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

/// What can't be one host and port (RFC 9112 §3.2): a proxy may have joined two Host lines with a comma, and what
/// stands before an `@` is for people to misread (RFC 9110 §4.2.4).
fn check_host_value(request: &Request) -> Result<(), Refusal> {
    let odd = |c: char| c.is_ascii_whitespace() || ",/@?#\\".contains(c);
    match request.header("host") {
        Some(host) if host.contains(odd) => Err(Refusal::bad_request(
            "host_value",
            "the Host header must be one host, with a port or without",
        )),
        _ => Ok(()),
    }
}

/// RFC 9112 §6.3: where the body ends. A length beside a transfer coding is how requests are smuggled past a proxy.
fn framing(request: &Request) -> Result<Framing, Refusal> {
    match (content_length(request)?, request.header("transfer-encoding").is_some()) {
        (None, false) => Ok(Framing::None),
        (Some(length), false) => Ok(Framing::Length(length)),
        (None, true) => check_transfer_codings(request).map(|()| Framing::Chunked),
        (Some(_), true) => Err(Refusal::bad_request(
            "content_length",
            "the request has both Content-Length and Transfer-Encoding: send only one",
        )),
    }
}

/// RFC 9112 §6.1: chunked, once, and only from a client that knows it.
fn check_transfer_codings(request: &Request) -> Result<(), Refusal> {
    if request.list("transfer-encoding").any(|coding| !coding.eq_ignore_ascii_case("chunked")) {
        return Err(Refusal::new(
            501,
            "transfer_coding",
            "the only transfer coding that is understood here is chunked",
        ));
    }
    if request.list("transfer-encoding").count() != 1 || request.version == Version::Http10 {
        return Err(Refusal::bad_request(
            "transfer_encoding",
            "Transfer-Encoding must say chunked, once, and in HTTP/1.1: or send Content-Length",
        ));
    }
    Ok(())
}

/// RFC 9110 §10.1.1: what an HTTP/1.0 client expects is ignored.
fn expects_continue(request: &Request) -> Result<bool, Refusal> {
    if request.version == Version::Http10 {
        return Ok(false);
    }
    if request.list("expect").any(|expectation| !expectation.eq_ignore_ascii_case("100-continue")) {
        return Err(Refusal::new(
            417,
            "expectation",
            "the only expectation that can be met here is 100-continue",
        ));
    }
    Ok(request.list("expect").next().is_some())
}

/// One length, however often it is said.
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
    Ok(length)
}

/// A TLS record begins so: handshake (22), version 3.x.
const TLS_RECORD: [u8; 2] = [0x16, 0x03];

/// Bytes that are no HTTP/1.x head, with the likeliest reason.
fn malformed(bytes: &[u8], error: httparse::Error) -> Refusal {
    if bytes.starts_with(&TLS_RECORD) {
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
mod tests;
