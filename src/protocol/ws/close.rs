//! Close codes and close frames (RFC 6455 §5.5.1, §7.4).

use std::fmt;

use super::frame::{CONTROL_PAYLOAD_MAX, ControlFrame, OpCode, control_frame};
use super::{ProtocolError, utf8};

/// Why a connection ends, in the numbers of RFC 6455 §7.4.1 and the IANA registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server is shutting down, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data that this end does not take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1005, never on the wire: the close frame had no code.
    pub const NO_STATUS: Self = Self(1005);
    /// 1006, never on the wire: the connection ended without a close frame.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: against this end's policy.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: something unexpected on the server.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1013: come back later; a slow consumer gets it too.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// The code, if an endpoint may send it: 1000 to 1003, 1007 to 1014, 3000 to 4999 (RFC 6455 §7.4).
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client's close frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// `None` if the frame had no body: to be reported as [`CloseCode::NO_STATUS`].
    pub code: Option<CloseCode>,
    /// For people; often empty. At most 123 bytes.
    pub reason: &'a str,
}

/// Parses a close frame's unmasked payload: nothing, or a code (2 bytes, big-endian) and a UTF-8 reason.
///
/// Errors (RFC 6455 §5.5.1, §7.4): a body of one byte or a code that must not be sent (1002); a reason that is not
/// UTF-8 (1007).
pub fn parse_close(payload: &[u8]) -> Result<CloseFrame<'_>, ProtocolError> {
    if payload.is_empty() {
        return Ok(CloseFrame { code: None, reason: "" });
    }
    let (&code, reason) = payload.split_first_chunk().ok_or(ProtocolError::CloseBodyTooShort)?;
    let code = u16::from_be_bytes(code);
    let code = CloseCode::new(code).ok_or(ProtocolError::InvalidCloseCode(code))?;
    let reason = utf8::whole(reason).map_err(|_| ProtocolError::InvalidCloseReason)?;
    Ok(CloseFrame { code: Some(code), reason })
}

/// Makes the server's close frame. A reason over 123 bytes is cut between two characters.
///
/// The two codes that are never on the wire give a frame without a body, which is how one answers them.
pub fn close_frame(code: CloseCode, reason: &str) -> ControlFrame {
    if CloseCode::new(code.get()).is_none() {
        return control_frame(OpCode::Close, &[]);
    }
    let mut reason_len = reason.len().min(CONTROL_PAYLOAD_MAX - 2);
    while !reason.is_char_boundary(reason_len) {
        reason_len -= 1;
    }
    let reason = &reason[..reason_len];
    let mut payload = [0; CONTROL_PAYLOAD_MAX];
    payload[..2].copy_from_slice(&code.get().to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason.as_bytes());
    control_frame(OpCode::Close, &payload[..2 + reason.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        // §5.5.1
        assert_eq!(parse_close(b""), Ok(CloseFrame { code: None, reason: "" }));
        assert_eq!(parse_close(b"\x03\xe8"), Ok(CloseFrame { code: Some(CloseCode::NORMAL), reason: "" }));
        assert_eq!(
            parse_close(b"\x03\xe9bye \xc3\xa4"),
            Ok(CloseFrame { code: Some(CloseCode::GOING_AWAY), reason: "bye ä" })
        );
        assert_eq!(parse_close(b"\x03"), Err(ProtocolError::CloseBodyTooShort));
        assert_eq!(parse_close(b"\x03\xe8\xff"), Err(ProtocolError::InvalidCloseReason));
        assert_eq!(ProtocolError::CloseBodyTooShort.close_code().get(), 1002);
        assert_eq!(ProtocolError::InvalidCloseReason.close_code().get(), 1007);
    }

    #[test]
    fn codes_that_may_be_sent() {
        // §7.4.1, §7.4.2; 1012 to 1014 are from the IANA registry.
        let may_be_sent = |code: u16| CloseCode::new(code).is_some();
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999] {
            assert!(may_be_sent(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert!(!may_be_sent(code), "{code}");
            assert_eq!(parse_close(&code.to_be_bytes()), Err(ProtocolError::InvalidCloseCode(code)));
        }
    }

    #[test]
    fn frames() {
        assert_eq!(*close_frame(CloseCode::NORMAL, "bye"), *b"\x88\x05\x03\xe8bye");
        assert_eq!(*close_frame(CloseCode::NO_STATUS, "never sent"), [0x88, 0]);
        // "ä" has 2 bytes: 61 of them and the "x" are 123, so a 62nd would have to be cut in half.
        let reason = format!("x{}", "ä".repeat(100));
        let frame = close_frame(CloseCode::POLICY, &reason);
        assert_eq!(frame.len(), 2 + 125);
        assert_eq!(parse_close(&frame[2..]).expect("valid").reason, &reason[..123]);
        let frame = close_frame(CloseCode::POLICY, &reason[1..]);
        assert_eq!(frame.len(), 2 + 124);
        assert_eq!(parse_close(&frame[2..]).expect("valid").reason, "ä".repeat(61));
    }
}
