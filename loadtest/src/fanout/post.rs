//! Publishing by HTTP: POST requests, one under way per connection (RFC 9112), which lasts as long as the server likes.
//!
//! Owns the bytes of a request, the reading of its response, and what the end of a connection means for it; sockets
//! and schedule are the `publishers`'. All of a request but the payload is made up once per topic, unless each has to
//! be signed (Pusher's HTTP API).

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

use super::Plan;
use crate::dialect::PublishArgs;
use crate::dialect::greeting::excerpt;
use crate::dialect::template::Wrap;
use crate::failure::Failure;

/// Longest response accepted, in bytes.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Makes up the requests of one topic.
pub(super) struct Post {
    /// `POST path`, if it is the same for all.
    path: String,
    /// Header lines, each with its line end, and the empty line.
    headers: String,
    wrap: Wrap,
    signer: Option<Signer>,
}

impl Post {
    /// For `topic`, to the plan's publishing target.
    pub(super) fn new(plan: &Plan, topic: usize) -> Result<Self, Failure> {
        let (args, url) = (&plan.args.publish, &plan.publisher_target.url);
        let name = plan.topic(topic).name;
        let payload_bytes = plan.args.payload_bytes as usize;
        let mut wrap = args.wrap(&name, payload_bytes);
        let signer = args.publish_pusher.as_deref().map(Signer::parse).transpose()?;
        if signer.is_some() && args.publish_template.is_none() {
            wrap.before = format!("{{\"name\":\"m\",\"channel\":\"{name}\",\"data\":\"").into_bytes();
            wrap.after = b"\"}".to_vec();
        }
        let path = match &signer {
            Some(signer) => signer.path(),
            None => args.request_target(url, plan.topic(topic)),
        };
        let content_bytes = wrap.before.len() + payload_bytes + wrap.after.len();
        let mut headers = format!("Host: {}\r\nContent-Length: {content_bytes}\r\n", url.authority());
        let is = |header: &str| header.to_ascii_lowercase().starts_with("content-type:");
        if !args.publish_header.iter().any(|header| is(header)) {
            headers.push_str(content_type(args));
        }
        for header in &args.publish_header {
            headers.push_str(&format!("{}\r\n", header.replace("{topic}", &name)));
        }
        headers.push_str("\r\n");
        Ok(Self { path, headers, wrap, signer })
    }

    /// Appends the request that publishes a payload, given in parts.
    pub(super) fn append(&self, out: &mut Vec<u8>, payload: &[&[u8]]) {
        let body = [&[self.wrap.before.as_slice()], payload, &[&self.wrap.after]].concat();
        let query = self.signer.as_ref().map_or(String::new(), |signer| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("?{}", signer.query(&self.path, &body, now.as_secs()))
        });
        let head = format!("POST {}{query} HTTP/1.1\r\n{}", self.path, self.headers);
        out.extend_from_slice(head.as_bytes());
        body.iter().for_each(|part| out.extend_from_slice(part));
    }
}

fn content_type(args: &PublishArgs) -> &'static str {
    if args.publish_template.is_some() || args.publish_pusher.is_some() {
        "Content-Type: application/json\r\n"
    } else {
        "Content-Type: application/octet-stream\r\n"
    }
}

/// `--publish-pusher`: signs requests to `/apps/{id}/events`.
struct Signer {
    app_id: String,
    key: String,
    secret: String,
}

impl Signer {
    fn parse(text: &str) -> Result<Self, Failure> {
        let parts: Vec<&str> = text.splitn(3, ':').collect();
        match parts[..] {
            [app_id, key, secret] => {
                Ok(Self { app_id: app_id.into(), key: key.into(), secret: secret.into() })
            }
            _ => Err(Failure::Usage("--publish-pusher: write APP_ID:KEY:SECRET".into())),
        }
    }

    fn path(&self) -> String {
        format!("/apps/{}/events", self.app_id)
    }

    /// The query of a POST of `body` to `path`: its names are sorted, as the signature wants them.
    fn query(&self, path: &str, body: &[&[u8]], seconds: u64) -> String {
        let mut md5 = Md5::new();
        body.iter().for_each(|part| md5.update(part));
        let query = format!(
            "auth_key={}&auth_timestamp={seconds}&auth_version=1.0&body_md5={}",
            self.key,
            hex(&md5.finalize())
        );
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("a key of any length will do");
        mac.update(format!("POST\n{path}\n{query}").as_bytes());
        format!("{query}&auth_signature={}", hex(&mac.finalize().into_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One publisher's request and response.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// A request has gone out, and its response has not come.
    pub(super) under_way: bool,
    response: Vec<u8>,
    /// Responses that came on this connection.
    answered: u32,
    /// The last of them said that the connection ends with it.
    last: bool,
    /// The server ends connections after one response and does not say so.
    one_each: bool,
}

/// What becomes of a publisher whose connection has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    /// Nothing was under way: the next request needs another connection.
    Idle,
    /// A request crossed with the end, and goes out once more. Should the server have taken it in spite of that, the
    /// books will show the message twice.
    Again,
    /// A request was not answered, and there is no telling what became of it.
    Unanswered,
}

impl Exchange {
    /// Goes on with a connection that is new.
    pub(super) fn renew(&mut self) {
        (self.answered, self.last) = (0, false);
        self.response.clear();
    }

    /// The connection has had its last response: the next request needs another.
    pub(super) fn is_over(&self) -> bool {
        !self.under_way && (self.last || self.one_each && self.answered > 0)
    }

    /// The connection has ended, without a word in its last response.
    pub(super) fn ended(&mut self) -> Ended {
        self.one_each |= self.answered == 1;
        match self.under_way {
            false => Ended::Idle,
            // A server that has answered here and goes without a byte more went, as a rule, before the request came.
            true if self.answered > 0 && self.response.is_empty() => Ended::Again,
            true => Ended::Unanswered,
        }
    }

    /// Takes the next bytes of a response. The error says what came instead of a 2xx response.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.response.extend_from_slice(bytes);
        while let Some(Response { status, body, bytes, last }) = whole(&self.response)? {
            if !(200..300).contains(&status.code) {
                return Err(format!("a POST was answered with HTTP {status}: {}", excerpt(&body)));
            }
            if !std::mem::take(&mut self.under_way) {
                return Err("a response came to no request".into());
            }
            self.answered += 1;
            self.last = last;
            self.response.drain(..bytes);
        }
        if self.response.len() > RESPONSE_BYTES_MAX {
            return Err("a response is longer than 1 MiB".into());
        }
        Ok(())
    }
}

struct Status {
    code: u16,
    reason: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.reason)
    }
}

struct Response {
    status: Status,
    body: Vec<u8>,
    /// Its length in all.
    bytes: usize,
    /// The connection ends with it.
    last: bool,
}

/// The response at the front of `bytes`; `None` while it is incomplete.
fn whole(bytes: &[u8]) -> Result<Option<Response>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(format!("a POST was not answered with HTTP/1.1: {}", excerpt(bytes))),
    };
    let status =
        Status { code: response.code.unwrap_or(0), reason: response.reason.unwrap_or("").to_string() };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_ascii_lowercase())
    };
    let options = header("Connection").unwrap_or_default();
    let has = |option: &str| options.split(',').any(|word| word.trim() == option);
    let last = has("close") || response.version == Some(0) && !has("keep-alive");
    let rest = &bytes[head_bytes..];
    if header("Transfer-Encoding").is_some_and(|value| value.ends_with("chunked")) {
        let chunked = unchunk(rest)?;
        return Ok(chunked.map(|(body, used)| Response { status, body, bytes: head_bytes + used, last }));
    }
    let length = match header("Content-Length") {
        Some(text) => text.parse::<usize>().map_err(|_| format!("Content-Length {text} is no number"))?,
        None if status.code == 204 => 0,
        None => return Err(format!("HTTP {status} with neither Content-Length nor chunks: no keep-alive")),
    };
    // The excerpt of a long error is there with its first bytes.
    let enough = if status.code < 300 { length } else { length.min(1024) };
    let body = rest.get(..enough).map(<[u8]>::to_vec);
    Ok(body.map(|body| Response { status, body, bytes: head_bytes + length, last }))
}

/// A chunked body (RFC 9112 section 7.1) without trailers, and its length with all chunk headers.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (used, len) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((used, len))) => (used, len as usize),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("a chunk of a response has no valid size".into()),
        };
        at += used;
        if len > RESPONSE_BYTES_MAX {
            return Err("a chunk of a response is longer than 1 MiB".into());
        }
        let Some(chunk) = bytes.get(at..at + len + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..len]);
        at += len + 2;
        if len == 0 {
            return Ok(Some((body, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Pusher's documentation of its HTTP API.
    #[test]
    fn pushers_signature() {
        let signer = Signer::parse("3:278d425bdf160c739803:7ad3773142a6692b25b8").unwrap();
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        assert_eq!(
            signer.query(&signer.path(), &[body.as_bytes()], 1_353_088_179),
            "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&\
             body_md5=ec365a775a4cd0599faeb73354201b6f&\
             auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
        assert!(Signer::parse("a:b").is_err());
    }

    fn feed(response: &str, piece: usize) -> Result<bool, String> {
        let mut exchange = Exchange { under_way: true, ..Exchange::default() };
        for piece in response.as_bytes().chunks(piece) {
            exchange.feed(piece)?;
        }
        assert!(exchange.under_way || exchange.response.is_empty());
        Ok(!exchange.under_way)
    }

    #[test]
    fn responses_however_they_are_cut() {
        let complete = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        ];
        for response in complete {
            for piece in 1..=response.len() {
                assert_eq!(feed(response, piece), Ok(true), "{response:?} in pieces of {piece}");
            }
            assert_eq!(feed(&response[..response.len() - 1], 7), Ok(false));
        }
    }

    #[test]
    fn a_response_may_be_the_last() {
        for (response, last) in [
            ("HTTP/1.1 204 N\r\n\r\n", false),
            ("HTTP/1.1 204 N\r\nConnection: keep-alive\r\n\r\n", false),
            ("HTTP/1.1 204 N\r\nconnection: x, Close\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
            ("HTTP/1.0 204 N\r\n\r\n", true),
            ("HTTP/1.0 204 N\r\nConnection: Keep-Alive\r\n\r\n", false),
        ] {
            let mut exchange = Exchange { under_way: true, ..Exchange::default() };
            exchange.feed(response.as_bytes()).unwrap();
            assert_eq!(exchange.is_over(), last, "{response}");
            exchange.renew();
            assert!(!exchange.is_over());
        }
    }

    #[test]
    fn what_the_end_of_a_connection_means() {
        const OK: &[u8] = b"HTTP/1.1 204 N\r\n\r\n";
        let mut exchange = Exchange { under_way: true, ..Exchange::default() };
        assert_eq!(exchange.ended(), Ended::Unanswered, "nobody has ever answered here");
        exchange.feed(OK).unwrap();
        exchange.under_way = true;
        exchange.feed(OK).unwrap();
        assert_eq!(exchange.ended(), Ended::Idle);
        assert!(
            !exchange.is_over(),
            "it had answered twice: it does not end connections after each response"
        );
        exchange.under_way = true;
        assert_eq!(exchange.ended(), Ended::Again);
        exchange.feed(&OK[..9]).unwrap();
        assert_eq!(exchange.ended(), Ended::Unanswered, "half a response");

        exchange.renew();
        exchange.feed(OK).unwrap();
        exchange.under_way = true;
        assert_eq!((exchange.ended(), exchange.is_over()), (Ended::Again, false));
        exchange.renew();
        exchange.feed(OK).unwrap();
        assert!(exchange.is_over(), "once it has ended one after its first response, no other is waited for");
    }

    #[test]
    fn other_responses_are_quoted() {
        for (response, words) in [
            ("HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nno\nentry", r#"403 Forbidden: "no\nentry""#),
            ("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", r#"500 Oh: "no""#),
            ("HTTP/1.1 200 OK\r\n\r\n", "keep-alive"),
            ("SSH-2.0\r\n", "SSH-2.0"),
            ("HTTP/1.1 204 N\r\n\r\nHTTP/1.1 204 N\r\n\r\n", "no request"),
        ] {
            let error = feed(response, response.len()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
