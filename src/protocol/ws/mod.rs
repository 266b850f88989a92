//! RFC 6455 in the server's role: the opening handshake, frames, messages, close codes.
//!
//! `handshake` checks the request and writes the 101; from then on `message` turns the bytes of a connection into
//! events, with `inbox` (bytes as they came) and `assembly` (a message that is not complete) beneath it. Frames go
//! out through `frame` and `close`, or through [`Payload::into_frame`], which sends a client's payload where it lies.
//! Extensions are not negotiated, so every reserved bit is an error.

mod assembly;
mod close;
mod error;
mod frame;
mod handshake;
mod inbox;
mod mask;
mod message;
mod payload;
mod stash;
mod utf8;

pub use close::{CloseCode, CloseFrame, close_frame, parse_close};
pub use error::ProtocolError;
pub use frame::{
    CONTROL_PAYLOAD_MAX, ControlFrame, FrameHeader, HEADER_ROOM, OpCode, control_frame, parse_header,
    parse_server_frame, server_header_len, write_header_before,
};
pub use handshake::{
    Upgrade, accept_key, check_upgrade, is_upgrade, select_subprotocol, switching_protocols,
};
pub use inbox::Inbox;
pub use mask::unmask;
pub use message::{Event, LARGE, Limits, Reader};
pub use payload::{Frame, Kind, Message, Payload};
pub use utf8::{InvalidUtf8, complete_prefix};
