//! A complete message: its payload, unmasked and validated, in memory that has room for the server's header.
//!
//! Invariant: at least [`server_header_len`](super::server_header_len) bytes lie before the payload. They held the
//! client's header, which is longer, or were left free for this. So [`Payload::into_frame`] never moves a byte.

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{OpCode, write_header_before};
use super::utf8;

/// What a message is made of (RFC 6455 §5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// The kind of message that a frame begins; `None` if it begins none.
    pub fn of(opcode: OpCode) -> Option<Self> {
        match opcode {
            OpCode::Text => Some(Self::Text),
            OpCode::Binary => Some(Self::Binary),
            _ => None,
        }
    }

    /// The opcode of a frame that is one such message.
    pub fn opcode(self) -> OpCode {
        match self {
            Self::Text => OpCode::Text,
            Self::Binary => OpCode::Binary,
        }
    }
}

/// A complete message from the client.
#[derive(Debug)]
pub struct Message<'a> {
    /// Text or binary.
    pub kind: Kind,
    /// Unmasked; valid UTF-8 if the kind is text.
    pub payload: Payload<'a>,
}

impl Message<'_> {
    /// The payload as text; `None` for a binary message.
    ///
    /// Looks at the bytes once more, at some tens of GB/s: the price of a payload that can still be written to and
    /// of no `unsafe`. Dialects that pass text through unread don't pay it.
    pub fn text(&self) -> Option<&str> {
        match self.kind {
            Kind::Text => utf8::whole(self.payload.bytes()).ok(),
            Kind::Binary => None,
        }
    }
}

/// Where a message's payload lies.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the worker's receive buffer: gone with the next event.
    Borrowed {
        /// The payload, up to the end of the slice, and the room before it.
        buffer: &'a mut [u8],
        /// Where the payload starts.
        start: usize,
    },
    /// In a buffer that can be kept: a large message, or one that came in pieces.
    Owned {
        /// The payload, up to the end of the buffer, and the room before it.
        buffer: BytesMut,
        /// Where the payload starts.
        start: usize,
    },
}

impl<'a> Payload<'a> {
    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed { buffer, start } => &buffer[*start..],
            Self::Owned { buffer, start } => &buffer[*start..],
        }
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// There is no payload: the message is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the payload a frame of the server, by writing the header in front of it where it lies.
    pub fn into_frame(self, kind: Kind) -> Frame<'a> {
        match self {
            Self::Borrowed { buffer, start } => {
                let frame_start = write_header_before(buffer, start, kind.opcode());
                Frame::Borrowed(&buffer[frame_start..])
            }
            Self::Owned { mut buffer, start } => {
                let frame_start = write_header_before(&mut buffer, start, kind.opcode());
                buffer.advance(frame_start);
                Frame::Owned(buffer.freeze())
            }
        }
    }
}

/// A finished frame of the server, header and payload, ready to be sent to any number of clients.
#[derive(Clone, Debug)]
pub enum Frame<'a> {
    /// To be copied to where it shall stay.
    Borrowed(&'a [u8]),
    /// Can stay where it is.
    Owned(Bytes),
}

impl Frame<'_> {
    /// Header and payload.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_written_over_the_clients_header() {
        // The client's header has 6 bytes, the server's 2.
        let mut received = *b"\x81\x85MASKHello";
        let payload = Payload::Borrowed { buffer: &mut received, start: 6 };
        assert_eq!((payload.bytes(), payload.len()), (&b"Hello"[..], 5));
        assert_eq!(payload.into_frame(Kind::Text).bytes(), b"\x81\x05Hello");

        let payload = Payload::Owned { buffer: BytesMut::from(&b"..........Hello"[..]), start: 10 };
        let address = payload.bytes().as_ptr();
        let frame = payload.into_frame(Kind::Binary);
        assert_eq!(frame.bytes(), b"\x82\x05Hello");
        assert_eq!(frame.bytes()[2..].as_ptr(), address);
    }

    #[test]
    fn only_text_is_text() {
        let mut buffer = *b"      Hello";
        let mut message =
            Message { kind: Kind::Text, payload: Payload::Borrowed { buffer: &mut buffer, start: 6 } };
        assert_eq!(message.text(), Some("Hello"));
        message.kind = Kind::Binary;
        assert_eq!(message.text(), None);
    }
}
