//! The bytes that all subscribers get: whole unmasked frames (RFC 6455 section 5.2), one after the other.
//!
//! Positions count all bytes ever appended. The buffer is flat, so that what a subscriber lacks is one slice; its
//! front is dropped once it is long and every cursor is past it.

use std::collections::VecDeque;

use super::frames::Frame;

/// Length from which the front may be dropped, in bytes: rarely, and small enough for the second-level cache.
const COMPACT_BYTES: usize = 1 << 20;

/// Length at which publishers are not read any more until the subscribers have caught up, in bytes.
const FULL_BYTES: usize = 64 << 20;

/// All frames that some subscriber may lack.
#[derive(Debug)]
pub(super) struct Log {
    bytes: Vec<u8>,
    /// Position of the first byte kept.
    base: u64,
    /// Length at which compaction is tried next.
    compact_at: usize,
    /// Messages between two marks; without it there are none.
    messages_per_mark: Option<u32>,
    /// Messages since the last mark.
    unmarked: u32,
    /// Ends of groups of messages which no walk has begun to send.
    marks: VecDeque<u64>,
}

impl Log {
    /// An empty log that marks the end of every `messages_per_mark` messages.
    pub(super) fn new(messages_per_mark: Option<u32>) -> Self {
        Self {
            bytes: Vec::with_capacity(2 * COMPACT_BYTES),
            base: 0,
            compact_at: COMPACT_BYTES,
            messages_per_mark,
            unmarked: 0,
            marks: VecDeque::new(),
        }
    }

    /// Position behind the last byte.
    pub(super) fn head(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// The bytes between two positions that are kept.
    #[inline]
    pub(super) fn between(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[(from - self.base) as usize..(to - self.base) as usize]
    }

    /// Appends a client's message as a server's.
    pub(super) fn append(&mut self, frame: &Frame<'_>) {
        let len = frame.payload.len();
        self.bytes.push(frame.first);
        match len {
            0..=125 => self.bytes.push(len as u8),
            126..=0xffff => {
                self.bytes.push(126);
                self.bytes.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                self.bytes.push(127);
                self.bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let payload = self.bytes.len();
        self.bytes.extend_from_slice(frame.payload);
        crate::wire::mask(&mut self.bytes[payload..], frame.key);
        if let Some(messages) = self.messages_per_mark {
            self.unmarked += 1;
            if self.unmarked >= messages {
                self.mark_leftover();
            }
        }
    }

    /// There are messages behind the last mark.
    pub(super) fn has_leftover(&self) -> bool {
        self.unmarked > 0
    }

    /// Ends a group here, though it is short.
    pub(super) fn mark_leftover(&mut self) {
        self.unmarked = 0;
        self.marks.push_back(self.head());
    }

    /// A group is whole.
    pub(super) fn has_mark(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The end of the first whole group that has not been taken.
    pub(super) fn take_mark(&mut self) -> Option<u64> {
        self.marks.pop_front()
    }

    /// No more should be appended before something is dropped.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES
    }

    /// Worth finding out how far all subscribers are.
    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() >= self.compact_at || self.is_full()
    }

    /// Drops what lies before `floor`, if that is at least half: so a byte is moved less than once on average.
    pub(super) fn compact(&mut self, floor: u64) {
        let done = (floor - self.base) as usize;
        if done * 2 >= self.bytes.len() {
            self.bytes.drain(..done);
            self.base = floor;
        }
        self.compact_at = (2 * self.bytes.len()).max(COMPACT_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(log: &mut Log, payload: &[u8]) {
        log.append(&Frame { first: 0x82, key: [0; 4], payload });
    }

    #[test]
    fn frames_are_unmasked_and_given_a_header_without_mask() {
        let mut log = Log::new(None);
        log.append(&Frame {
            first: 0x81,
            key: [0x37, 0xfa, 0x21, 0x3d],
            payload: &[0x7f, 0x9f, 0x4d, 0x51, 0x58],
        });
        assert_eq!(log.between(0, log.head()), b"\x81\x05Hello");
        for (len, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xffff, &[0x82, 126, 0xff, 0xff]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let from = log.head();
            append(&mut log, &vec![9; len]);
            let frame = log.between(from, log.head());
            assert_eq!((&frame[..header.len()], frame.len()), (header, header.len() + len));
            assert!(frame[header.len()..].iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn marks_are_where_groups_end() {
        let mut log = Log::new(Some(3));
        for _ in 0..7 {
            append(&mut log, b"12345678");
        }
        assert_eq!([log.take_mark(), log.take_mark(), log.take_mark()], [Some(30), Some(60), None]);
        assert!(log.has_leftover());
        log.mark_leftover();
        assert_eq!((log.take_mark(), log.has_leftover()), (Some(70), false));
        let mut unmarked = Log::new(None);
        append(&mut unmarked, b"x");
        assert!(!unmarked.has_mark() && !unmarked.has_leftover());
    }

    #[test]
    fn the_front_is_dropped_when_long_and_done_with() {
        let mut log = Log::new(None);
        let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
        while !log.is_long() {
            append(&mut log, &payload);
        }
        let (head, len) = (log.head(), log.bytes.len());
        let tail = log.between(head - 2500, head).to_vec();
        log.compact(1004);
        assert_eq!((log.bytes.len(), log.base, log.is_long()), (len, 0, false));
        log.compact(head - 2500);
        assert_eq!((log.bytes.len(), log.head()), (2500, head));
        assert_eq!(log.between(head - 2500, head), tail);
        assert_eq!(log.compact_at, COMPACT_BYTES);
    }

    #[test]
    fn a_full_log_is_looked_at_after_every_walk() {
        let mut log = Log::new(None);
        while !log.is_full() {
            append(&mut log, &vec![0; 1 << 20]);
        }
        log.compact(10);
        assert!(log.is_full() && log.is_long());
    }
}
