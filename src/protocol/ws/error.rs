//! The ways in which a client can break the WebSocket protocol or exceed a limit, each under its own name.

use std::fmt;

use super::CloseCode;

/// Why a connection must be closed because of what its client sent.
///
/// [`close_code`](Self::close_code) goes to the client, [`reason`](Self::reason) labels the metric, `Display` is for
/// people. After such an error nothing more can be read from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// RSV1, RSV2 or RSV3 was set though no extension was negotiated (RFC 6455 §5.2).
    ReservedBit,
    /// An opcode of 3 to 7 or 11 to 15 (§5.2).
    ReservedOpcode(u8),
    /// A client's frame without a mask (§5.1).
    Unmasked,
    /// A ping, pong or close frame without FIN (§5.5).
    FragmentedControl,
    /// A ping, pong or close frame with more than 125 bytes of payload (§5.5).
    ControlTooLong,
    /// A payload length in more bytes than it needs (§5.2).
    NonMinimalLength,
    /// A 64-bit payload length with the most significant bit set (§5.2).
    LengthTopBit,
    /// A continuation frame while no message was under way (§5.4).
    UnexpectedContinuation,
    /// A new text or binary frame while a fragmented message was under way (§5.4).
    ExpectedContinuation,
    /// A close frame's body of one byte, which can't hold a code (§5.5.1).
    CloseBodyTooShort,
    /// A close code that must not be sent (§7.4).
    InvalidCloseCode(u16),
    /// A close reason that is not UTF-8 (§5.5.1, §8.1).
    InvalidCloseReason,
    /// A text message that is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A message of more bytes than the server takes.
    MessageTooBig {
        /// The message's length as far as its headers have declared it.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// A message in more fragments than the server takes.
    TooManyFragments {
        /// Fragments up to and including the one that was refused.
        fragments: u32,
        /// The limit.
        fragments_max: u32,
    },
}

impl ProtocolError {
    /// The code that tells the client what was wrong (RFC 6455 §7.4.1).
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::InvalidCloseReason => CloseCode::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => CloseCode::TOO_BIG,
            // Not 1009: the message may well be short. The number of frames is the server's own policy.
            Self::TooManyFragments { .. } => CloseCode::POLICY,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// A stable word for metrics and logs: lower case, with underscores.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReservedBit => "reserved_bit",
            Self::ReservedOpcode(_) => "reserved_opcode",
            Self::Unmasked => "unmasked",
            Self::FragmentedControl => "fragmented_control",
            Self::ControlTooLong => "control_too_long",
            Self::NonMinimalLength => "non_minimal_length",
            Self::LengthTopBit => "length_top_bit",
            Self::UnexpectedContinuation => "unexpected_continuation",
            Self::ExpectedContinuation => "expected_continuation",
            Self::CloseBodyTooShort => "close_body_too_short",
            Self::InvalidCloseCode(_) => "invalid_close_code",
            Self::InvalidCloseReason => "invalid_close_reason",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::MessageTooBig { .. } => "message_too_big",
            Self::TooManyFragments { .. } => "too_many_fragments",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBit => f.write_str("a reserved bit is set, but no extension was negotiated"),
            Self::ReservedOpcode(opcode) => write!(f, "opcode {opcode} is reserved"),
            Self::Unmasked => f.write_str("a client's frame must be masked"),
            Self::FragmentedControl => f.write_str("a control frame must not be fragmented"),
            Self::ControlTooLong => f.write_str("a control frame's payload is at most 125 bytes"),
            Self::NonMinimalLength => {
                f.write_str("a payload length must be encoded in as few bytes as it needs")
            }
            Self::LengthTopBit => f.write_str("a 64-bit payload length must not have its top bit set"),
            Self::UnexpectedContinuation => {
                f.write_str("a continuation frame came, but no message was begun")
            }
            Self::ExpectedContinuation => {
                f.write_str("a new message began before the last fragment of another")
            }
            Self::CloseBodyTooShort => {
                f.write_str("a close frame's body is empty or begins with a 2-byte code")
            }
            Self::InvalidCloseCode(code) => write!(f, "close code {code} must not be sent"),
            Self::InvalidCloseReason => f.write_str("a close reason must be UTF-8"),
            Self::InvalidUtf8 => f.write_str("a text message must be UTF-8"),
            Self::MessageTooBig { bytes, bytes_max } => {
                write!(f, "a message of {bytes} bytes or more is over the limit of {bytes_max}")
            }
            Self::TooManyFragments { fragments, fragments_max } => {
                write!(f, "a message of {fragments} fragments or more is over the limit of {fragments_max}")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}
