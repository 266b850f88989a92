//! The opening handshake (RFC 6455 §4.2): checks the client's request, writes the server's 101.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

use crate::protocol::http::{Method, Refusal, Request, Version};

/// What proves that the server understood the handshake (RFC 6455 §1.3).
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Takes keys whose last digit carries bits that are not used: nobody decodes them but to see that they are there.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A request to become a WebSocket that may be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    key: String,
    /// `Sec-WebSocket-Protocol`: what the client would like to speak, best first.
    pub subprotocols: Vec<String>,
    /// The page that opens the WebSocket; browsers always send it, others seldom do.
    pub origin: Option<String>,
}

/// Whether a request asks to become a WebSocket at all, be it rightly or not.
///
/// Any one of its headers tells: a proxy may have removed the others, and the refusal can then say so.
pub fn is_upgrade(request: &Request) -> bool {
    has_member(request, "upgrade", "websocket")
        || request.header("sec-websocket-key").is_some()
        || request.header("sec-websocket-version").is_some()
}

/// Checks the requirements of RFC 6455 §4.2.1, each with a refusal of its own.
///
/// That there is exactly one Host (requirement 2) has been checked with the head. Whether the origin is welcome
/// (§10.2) is not decided here.
pub fn check_upgrade(request: &Request) -> Result<Upgrade, Refusal> {
    if request.method != Method::Get {
        return Err(Refusal::method_not_allowed("upgrade_method", "a WebSocket is opened with GET", "GET"));
    }
    if request.version < Version::Http11 {
        return Err(Refusal::upgrade_required(
            "upgrade_http_version",
            "a WebSocket needs HTTP/1.1; a proxy in front must be told to use it (nginx: proxy_http_version 1.1)",
        ));
    }
    if !has_member(request, "upgrade", "websocket") {
        return Err(Refusal::upgrade_required(
            "upgrade_missing",
            "this address is a WebSocket: open it with a WebSocket client; a proxy in front must pass on \
             'Upgrade: websocket' and 'Connection: upgrade'",
        ));
    }
    if !has_member(request, "connection", "upgrade") {
        return Err(Refusal::bad_request(
            "connection_upgrade_missing",
            "'Connection: upgrade' is missing; a proxy in front must pass it on",
        ));
    }
    // Before the key, which the drafts of 2010 did not have.
    if only(request, "sec-websocket-version") != Some("13") {
        return Err(Refusal::upgrade_required("version", "'Sec-WebSocket-Version: 13' is needed (RFC 6455)"));
    }
    let key = only(request, "sec-websocket-key")
        .ok_or_else(|| Refusal::bad_request("key_count", "exactly one Sec-WebSocket-Key is needed"))?;
    if KEY_BASE64.decode(key).map_or(0, |nonce| nonce.len()) != 16 {
        return Err(Refusal::bad_request("key_value", "Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    if request.has_body() {
        return Err(Refusal::bad_request(
            "upgrade_body",
            "a request that opens a WebSocket must not have a body",
        ));
    }
    Ok(Upgrade {
        key: key.to_owned(),
        subprotocols: request.list("sec-websocket-protocol").map(str::to_owned).collect(),
        origin: request.header("origin").map(str::to_owned),
    })
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2, step 5.4).
pub fn accept_key(key: &str) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

/// The first of the client's subprotocols that the server supports; names are compared as they are (§4.1, §4.2.2).
pub fn select_subprotocol<'a>(offered: &[String], supported: &'a [String]) -> Option<&'a str> {
    offered.iter().find_map(|offer| supported.iter().find(|name| *name == offer)).map(String::as_str)
}

/// The 101 response (RFC 6455 §4.2.2), after which frames may be sent. No extension is ever accepted.
///
/// `subprotocol` must be one that the client offered; without one the header is left out.
pub fn switching_protocols(upgrade: &Upgrade, subprotocol: Option<&str>) -> Vec<u8> {
    let mut head =
        String::from("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    head.push_str("Sec-WebSocket-Accept: ");
    head.push_str(&accept_key(&upgrade.key));
    head.push_str("\r\n");
    if let Some(subprotocol) = subprotocol {
        head.push_str("Sec-WebSocket-Protocol: ");
        head.push_str(subprotocol);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn has_member(request: &Request, list: &str, member: &str) -> bool {
    request.list(list).any(|other| other.eq_ignore_ascii_case(member))
}

/// The header's value if there is exactly one line of it.
fn only<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut values = request.headers(name);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::{HeadLimits, parse_request};

    /// The client's handshake of RFC 6455 §1.3.
    const EXAMPLE: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn request(head: &str) -> Request {
        let limits = HeadLimits { head_bytes_max: 2000, headers_max: 20 };
        parse_request(head.as_bytes(), &limits).expect("not refused").expect("complete").0
    }

    /// The example with one text replaced by another.
    #[track_caller]
    fn changed(from: &str, to: &str) -> Request {
        assert!(EXAMPLE.contains(from), "{from} is not in the example");
        request(&EXAMPLE.replacen(from, to, 1))
    }

    #[track_caller]
    fn refused(from: &str, to: &str) -> (u16, &'static str) {
        let refusal = check_upgrade(&changed(from, to)).expect_err("refused");
        (refusal.status, refusal.reason)
    }

    #[test]
    fn rfc_example() {
        let request = request(EXAMPLE);
        assert!(is_upgrade(&request));
        let upgrade = check_upgrade(&request).expect("granted");
        assert_eq!(upgrade.subprotocols, ["chat", "superchat"]);
        assert_eq!(upgrade.origin.as_deref(), Some("http://example.com"));
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(
            switching_protocols(&upgrade, Some("chat")),
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        );
    }

    #[test]
    fn any_case_lists_and_lines() {
        // §4.2.1, requirements 3 and 4; Firefox sends "keep-alive, Upgrade".
        assert!(check_upgrade(&changed("Upgrade: websocket", "upgrade: h2c, WebSocket")).is_ok());
        assert!(check_upgrade(&changed("Connection: Upgrade", "Connection: keep-alive, upgrade")).is_ok());
        assert!(
            check_upgrade(&changed("Connection: Upgrade", "Connection: x\r\nconnection: UPGRADE")).is_ok()
        );
    }

    #[test]
    fn each_requirement_has_its_refusal() {
        // §4.2.1, in its order. Host: see the request's own tests.
        assert_eq!(refused("GET", "POST"), (405, "upgrade_method"));
        assert_eq!(refused("HTTP/1.1", "HTTP/1.0"), (426, "upgrade_http_version"));
        assert_eq!(refused("Upgrade: websocket\r\n", ""), (426, "upgrade_missing"));
        assert_eq!(refused("Upgrade: websocket", "Upgrade: websockets"), (426, "upgrade_missing"));
        assert_eq!(refused("Connection: Upgrade\r\n", ""), (400, "connection_upgrade_missing"));
        assert_eq!(refused("Connection: Upgrade", "Connection: close"), (400, "connection_upgrade_missing"));
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(refused(key, ""), (400, "key_count"));
        assert_eq!(refused(key, &key.repeat(2)), (400, "key_count"));
        for value in ["", "!", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZWVl"] {
            assert_eq!(refused("dGhlIHNhbXBsZSBub25jZQ==", value), (400, "key_value"), "{value}");
        }
        for value in ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13, 8", "X: y"] {
            assert_eq!(refused("Sec-WebSocket-Version: 13", value), (426, "version"), "{value}");
        }
        assert_eq!(refused("Origin: ", "Content-Length: 3\r\nOrigin: "), (400, "upgrade_body"));
    }

    #[test]
    fn a_wrong_version_is_told_the_right_one() {
        // §4.4
        let refusal = check_upgrade(&changed("Version: 13", "Version: 14")).expect_err("refused");
        assert!(refusal.headers.contains(&("Sec-WebSocket-Version", "13".into())));
    }

    #[test]
    fn a_request_that_lost_its_upgrade_still_asks() {
        assert!(is_upgrade(&changed("Upgrade: websocket\r\n", "")));
        assert!(!is_upgrade(&request("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n")));
    }

    #[test]
    fn subprotocols_in_the_clients_order() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let supported = names(&["json", "protobuf"]);
        assert_eq!(select_subprotocol(&names(&["x", "protobuf", "json"]), &supported), Some("protobuf"));
        assert_eq!(select_subprotocol(&names(&["JSON"]), &supported), None);
        assert_eq!(select_subprotocol(&[], &supported), None);
    }
}
