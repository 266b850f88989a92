//! The front of a frame that has no other place: an incomplete header, or an incomplete control frame.
//!
//! A control frame may come between two fragments, so it can't wait in the message's buffer; it is small enough to
//! be kept inline.

use std::ops::Range;

use super::frame::{CONTROL_PAYLOAD_MAX, FrameHeader, parse_header};
use super::inbox::Inbox;
use super::{ProtocolError, mask};

/// The longest header of a control frame, with its payload. Any header of a data frame is shorter.
const STASH_MAX: usize = 6 + CONTROL_PAYLOAD_MAX;

/// A frame's first bytes, inline: until the header is complete, and for a control frame until all of it is.
#[derive(Debug)]
pub(super) struct Stash {
    bytes: [u8; STASH_MAX],
    len: u8,
    /// The last event borrows from it; free for the next frame as soon as that event is gone.
    delivered: bool,
}

impl Default for Stash {
    fn default() -> Self {
        Self { bytes: [0; STASH_MAX], len: 0, delivered: false }
    }
}

impl Stash {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.delivered = false;
    }

    /// What the last event borrows from it is no longer of use.
    pub(super) fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// The part that [`deliver`](Self::deliver) named.
    pub(super) fn part(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Takes up to `n` bytes from the inbox, and says whether it had as many.
    pub(super) fn push(&mut self, inbox: &mut Inbox, n: usize) -> bool {
        let taken = n.min(inbox.remaining().len()).min(STASH_MAX - self.len());
        let range = inbox.take(taken);
        let len = self.len();
        self.bytes[len..len + taken].copy_from_slice(inbox.part(range));
        self.len += taken as u8;
        taken == n
    }

    /// Takes exactly what is missing: to a data frame's header, or to a whole control frame. `None`: not all there.
    pub(super) fn complete(&mut self, inbox: &mut Inbox) -> Result<Option<FrameHeader>, ProtocolError> {
        loop {
            let Some(header) = parse_header(&self.bytes[..self.len()])? else {
                // One at a time: only the header itself tells its length, and it is 14 bytes at most.
                if self.push(inbox, 1) {
                    continue;
                }
                return Ok(None);
            };
            if header.opcode.is_control() {
                let missing = header.header_len + header.payload_len as usize - self.len();
                if !self.push(inbox, missing) {
                    return Ok(None);
                }
            }
            return Ok(Some(header));
        }
    }

    /// Unmasks the complete control frame, and says where its payload is.
    pub(super) fn deliver(&mut self, header: &FrameHeader) -> Range<usize> {
        self.delivered = true;
        let payload = header.header_len..self.len();
        mask::unmask(&mut self.bytes[payload.clone()], header.mask, 0);
        payload
    }
}
