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
