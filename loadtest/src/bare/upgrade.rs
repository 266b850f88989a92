//! The upgrade, as much of it as a client needs (RFC 6455 section 4.2): any path, no extension, no subprotocol.

use crate::client::accept_for;

/// Longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What is sent before a connection is closed whose request is no upgrade.
pub(super) const REFUSAL: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its messages go to all subscribers: `mode=pub` is in the query.
    Publisher,
    /// It gets all messages.
    Subscriber,
}

/// What the beginning of a connection's bytes amounts to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// More bytes are needed.
    Incomplete,
    /// An upgrade.
    Upgrade {
        /// Length of its head, in bytes; frames follow.
        head_bytes: usize,
        /// What the connection is for.
        role: Role,
        /// The answer.
        response: String,
    },
    /// Something else.
    Invalid,
}

/// Reads a request head.
pub(super) fn parse(bytes: &[u8]) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Request::Incomplete,
        _ => return Request::Invalid,
    };
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    let (Some(key), Some(target)) = (key.and_then(|key| str::from_utf8(key.value).ok()), request.path) else {
        return Request::Invalid;
    };
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let publishes = query.split('&').any(|pair| pair == "mode=pub");
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_for(key.trim())
    );
    let role = if publishes { Role::Publisher } else { Role::Subscriber };
    Request::Upgrade { head_bytes, role, response }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of RFC 6455 section 1.3, with a target.
    fn request(target: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    }

    #[test]
    fn the_query_decides_what_a_connection_is_for() {
        for (target, want) in [
            ("/ws/bench", Role::Subscriber),
            ("/?mode=sub", Role::Subscriber),
            ("/x?mode=public", Role::Subscriber),
            ("/x?mode=pub", Role::Publisher),
            ("/x?token=1&mode=pub", Role::Publisher),
        ] {
            let text = request(target);
            let bytes = format!("{text}\u{1}frames");
            let Request::Upgrade { head_bytes, role, response } = parse(bytes.as_bytes()) else {
                panic!("{target}")
            };
            assert_eq!((head_bytes, role), (text.len(), want), "{target}");
            assert!(response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        }
    }

    #[test]
    fn part_of_a_request_and_no_request() {
        let text = request("/");
        for len in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..len]), Request::Incomplete, "{len}");
        }
        let endless = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        for text in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH\r\n", &endless] {
            assert_eq!(parse(text.as_bytes()), Request::Invalid, "{text:.20}");
        }
    }
}
