//! A data message that has begun and is not complete: its bytes so far, contiguous, unmasked and validated as they
//! come.
//!
//! Invariants: validated ≤ unmasked ≤ arrived ≤ end of the current frame ≤ the limit; the payload begins
//! [`HEADER_ROOM`] or a client's header into the buffer; the buffer grows with what has arrived, at most twice that
//! or [`DIRECT_MIN`] more, never with what was declared alone.

use bytes::BytesMut;

use super::frame::{FrameHeader, HEADER_ROOM};
use super::inbox::Inbox;
use super::payload::{Kind, Payload};
use super::{ProtocolError, mask, utf8};

/// From so many missing bytes on, the next read goes into the assembly itself. For fewer, a system call of their own
/// would cost more than the copy that it saves.
const DIRECT_MIN: usize = 4 * 1024;

/// The first allocation for the payload of a small message.
const SMALL: usize = 128;

#[derive(Debug)]
pub(super) struct Assembly {
    kind: Kind,
    /// All initialised; the payload starts at `start`.
    buffer: BytesMut,
    start: usize,
    /// The offsets below, and the frame's, count in bytes of the message's payload.
    arrived: usize,
    unmasked: usize,
    /// Text: whole characters, known to be valid.
    validated: usize,
    frames: u32,
    frame: CurrentFrame,
    /// The payload's size will not exceed this.
    size_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct CurrentFrame {
    fin: bool,
    mask: [u8; 4],
    begin: usize,
    end: usize,
    /// Not yet absorbed as a whole. An empty frame is open too, until its turn has come.
    open: bool,
}

impl CurrentFrame {
    fn new(header: &FrameHeader, begin: usize, payload_len: usize) -> Self {
        Self { fin: header.fin, mask: header.mask, begin, end: begin + payload_len, open: true }
    }
}

impl Assembly {
    /// Begins a message with its first frame, of which nothing has arrived. `payload_len` is the frame's.
    pub(super) fn begin(kind: Kind, header: &FrameHeader, payload_len: usize, bytes_max: usize) -> Self {
        Self::with_buffer(kind, header, payload_len, bytes_max, BytesMut::zeroed(HEADER_ROOM), HEADER_ROOM, 0)
    }

    /// Begins a message that is one frame, in the memory where its front has arrived.
    ///
    /// `buffer` spans the whole frame, header included; `arrived` counts bytes of payload.
    pub(super) fn begin_in(kind: Kind, header: &FrameHeader, buffer: BytesMut, arrived: usize) -> Self {
        let payload_len = buffer.len() - header.header_len;
        Self::with_buffer(kind, header, payload_len, payload_len, buffer, header.header_len, arrived)
    }

    fn with_buffer(
        kind: Kind,
        header: &FrameHeader,
        payload_len: usize,
        bytes_max: usize,
        buffer: BytesMut,
        start: usize,
        arrived: usize,
    ) -> Self {
        let frame = CurrentFrame::new(header, 0, payload_len);
        let size_max = if header.fin { payload_len } else { bytes_max };
        Self { kind, buffer, start, arrived, unmasked: 0, validated: 0, frames: 1, frame, size_max }
    }

    /// Goes on with a further fragment. Its length has been checked against the limit.
    ///
    /// The limit is given anew, since a reload may have changed it in between.
    pub(super) fn next_frame(&mut self, header: &FrameHeader, payload_len: usize, bytes_max: usize) {
        self.frame = CurrentFrame::new(header, self.arrived, payload_len);
        self.frames += 1;
        self.size_max = if header.fin { self.frame.end } else { bytes_max };
    }

    /// Bytes of payload up to the end of the current frame.
    pub(super) fn declared(&self) -> usize {
        self.frame.end
    }

    /// Frames so far, the current one included.
    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes of heap.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The current frame has to be [absorbed](Self::absorb), or the rest of it.
    pub(super) fn frame_open(&self) -> bool {
        self.frame.open
    }

    /// The last frame has been absorbed.
    pub(super) fn message_complete(&self) -> bool {
        self.frame.fin && !self.frame.open
    }

    /// Takes what the inbox has of the current frame, then unmasks and validates what has arrived.
    pub(super) fn absorb(&mut self, inbox: &mut Inbox) -> Result<(), ProtocolError> {
        let n = self.missing().min(inbox.remaining().len());
        if n > 0 {
            let size = self.arrived + n;
            if size > self.room() {
                self.grow((2 * size).max(SMALL));
            }
            let range = inbox.take(n);
            let at = self.start + self.arrived;
            self.buffer[at..at + n].copy_from_slice(inbox.part(range));
            self.arrived = size;
        }
        self.unmask_and_validate()
    }

    /// Room for the next bytes of the current frame, when it is worth a read of its own.
    pub(super) fn direct_buffer(&mut self) -> Option<&mut [u8]> {
        if self.missing() < DIRECT_MIN {
            return None;
        }
        if self.room() - self.arrived < DIRECT_MIN {
            self.grow(self.arrived + self.arrived.max(DIRECT_MIN));
        }
        let end = self.frame.end.min(self.room());
        Some(&mut self.buffer[self.start + self.arrived..self.start + end])
    }

    /// `n` bytes were received into the [direct buffer](Self::direct_buffer).
    pub(super) fn filled(&mut self, n: usize) {
        let room = self.frame.end.min(self.room()) - self.arrived;
        assert!(n <= room, "{n} bytes can't have been received into {room}");
        self.arrived += n;
    }

    /// The complete message.
    pub(super) fn finish(mut self) -> (Kind, Payload<'static>) {
        self.buffer.truncate(self.start + self.arrived);
        (self.kind, Payload::Owned { buffer: self.buffer, start: self.start })
    }

    fn missing(&self) -> usize {
        self.frame.end - self.arrived
    }

    /// The most payload that the buffer can hold.
    fn room(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Makes room for `size` bytes of payload, or the message's limit if that is less.
    ///
    /// A new buffer and a copy: growing a `BytesMut` in place may round up to twice what was asked for.
    fn grow(&mut self, size: usize) {
        let mut grown = BytesMut::zeroed(HEADER_ROOM + size.min(self.size_max));
        grown[HEADER_ROOM..HEADER_ROOM + self.arrived]
            .copy_from_slice(&self.buffer[self.start..self.start + self.arrived]);
        self.buffer = grown;
        self.start = HEADER_ROOM;
    }

    fn unmask_and_validate(&mut self) -> Result<(), ProtocolError> {
        let frame_complete = self.missing() == 0;
        let payload = &mut self.buffer[self.start..self.start + self.arrived];
        mask::unmask(&mut payload[self.unmasked..], self.frame.mask, self.unmasked - self.frame.begin);
        self.unmasked = self.arrived;
        self.frame.open = !frame_complete;
        if self.kind == Kind::Text {
            let valid =
                utf8::complete_prefix(&payload[self.validated..]).map_err(|_| ProtocolError::InvalidUtf8)?;
            self.validated += valid;
            if self.frame.fin && frame_complete && self.validated != self.arrived {
                return Err(ProtocolError::InvalidUtf8);
            }
        }
        Ok(())
    }
}
