//! Bytes as they came from the socket, in the buffer that they were received into.
//!
//! The buffer usually is the worker's and goes back to it: [`Inbox::from_buffer`], read to the end,
//! [`Inbox::into_buffer`]. It is an owned `BytesMut` so that a large frame can be split off with its memory. All of
//! it is initialised, from the first to the last byte of its capacity that is used; which part of it is valid is
//! kept beside it, since to receive into spare capacity would need `unsafe`.

use std::ops::Range;

use bytes::{Buf, BytesMut};

/// Received bytes, consumed from the front by a [`Reader`](super::Reader). The default is empty.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// What is valid and unread. Before it lies what was read, after it room that nothing was received into.
    unread: Range<usize>,
}

impl Inbox {
    /// Takes a buffer of which the first `len` bytes have been received.
    ///
    /// The room behind them is of use: a large frame that has begun is continued there. `len` is at most the length
    /// of the buffer.
    pub fn from_buffer(buffer: BytesMut, len: usize) -> Self {
        assert!(
            len <= buffer.len(),
            "{len} bytes can't have been received into a buffer of {}",
            buffer.len()
        );
        Self { buffer, unread: 0..len }
    }

    /// Everything has been read.
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    /// What has not been read yet, still masked.
    pub fn remaining(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    /// Takes what has not been read out as a copy, to be fed again later through [`from_buffer`](Self::from_buffer).
    ///
    /// A copy, since a few bytes that wait would keep the whole buffer from its worker.
    pub fn rest(&mut self) -> BytesMut {
        let rest = BytesMut::from(self.remaining());
        self.unread.start = self.unread.end;
        rest
    }

    /// Gives the buffer back for the next receive.
    ///
    /// It is shorter than before if large frames were split off, and then shares its allocation with them; a worker
    /// takes a new one when it has become too short.
    pub fn into_buffer(self) -> BytesMut {
        self.buffer
    }

    /// Consumes `n` bytes, and says where in the buffer they are.
    pub(super) fn take(&mut self, n: usize) -> Range<usize> {
        let start = self.unread.start;
        assert!(n <= self.unread.len(), "{n} bytes taken of {}", self.unread.len());
        self.unread.start += n;
        start..start + n
    }

    /// The part of the buffer that [`take`](Self::take) named.
    pub(super) fn part(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.buffer[range]
    }

    /// How many bytes there are from the front of what is unread to the end of the buffer.
    pub(super) fn reach(&self) -> usize {
        self.buffer.len() - self.unread.start
    }

    /// Splits off the next `len` bytes of the buffer with their memory, received or not. `len` ≤ [`reach`](Self::reach).
    pub(super) fn split_off(&mut self, len: usize) -> BytesMut {
        let end = self.unread.start + len;
        let mut front = self.buffer.split_to(end);
        front.advance(self.unread.start);
        self.unread = 0..self.unread.end.saturating_sub(end);
        front
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(received: &[u8], room: usize) -> Inbox {
        let mut buffer = BytesMut::zeroed(received.len() + room);
        buffer[..received.len()].copy_from_slice(received);
        Inbox::from_buffer(buffer, received.len())
    }

    #[test]
    fn only_what_was_received_is_read() {
        let mut inbox = inbox(b"abcdef", 10);
        assert_eq!(inbox.take(2), 0..2);
        assert_eq!(inbox.remaining(), b"cdef");
        assert_eq!(inbox.rest(), b"cdef"[..]);
        assert!(inbox.is_empty());
        assert_eq!(inbox.into_buffer().len(), 16);
    }

    #[test]
    fn split_off_takes_the_memory_along() {
        let mut inbox = inbox(b"abcdef", 10);
        let address = inbox.remaining().as_ptr();
        inbox.take(1);
        let front = inbox.split_off(3);
        assert_eq!(front, b"bcd"[..]);
        assert_eq!(front.as_ptr(), address.wrapping_add(1));
        assert_eq!(inbox.remaining(), b"ef");
        // Beyond what was received.
        let front = inbox.split_off(8);
        assert_eq!(front, b"ef\0\0\0\0\0\0"[..]);
        assert!(inbox.is_empty());
        assert_eq!(inbox.into_buffer().len(), 4);
    }
}
