//! What waits for one connection alone: the rest of a unit that its socket took half of, control frames,
//! replies. A connection has an [`Outgoing`] only while something waits.
//!
//! Of several pongs that wait for a socket that is full only the newest is kept (RFC 6455 section 5.5.3 allows
//! it), so that pings cost a client that never reads no memory of ours.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::broker::log::Extent;

/// From this many bytes on a reply is queued as it is instead of copied behind the others.
const KEPT_BYTES: usize = 16 * 1024;

/// From this many bytes on what is shared is queued as it is: a part costs about as much.
const SHARED_BYTES: usize = 256;

/// Parts of one send at most.
const PARTS_MAX: usize = 16;

/// Bytes that must leave one after another.
#[derive(Debug)]
enum Part {
    /// Small things, copied.
    Small(BytesMut),
    /// A large one, as it came.
    Kept(Bytes),
    /// What others are sent as well.
    Shared(Bytes),
    /// A pong, whole.
    Pong(Bytes),
    /// A range of a log's extent, which stays alive for it.
    Rest { extent: Extent, from: usize, to: usize },
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Small(bytes) => bytes,
            Part::Kept(bytes) | Part::Shared(bytes) | Part::Pong(bytes) => bytes,
            Part::Rest { extent, from, to } => &extent.bytes()[*from..*to],
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Outgoing {
    parts: VecDeque<Part>,
    /// Small things, behind the parts.
    tail: BytesMut,
    /// Bytes of the first part (or of the tail) that have left.
    sent: usize,
    len: usize,
    /// Bytes of the parts that others are sent as well.
    shared: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes that wait for this connection alone.
    pub fn own_len(&self) -> usize {
        self.len.saturating_sub(self.shared)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes of somebody else's buffer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds bytes that can stay where they are.
    pub fn push_kept(&mut self, bytes: Bytes) {
        if bytes.len() < KEPT_BYTES {
            self.push(&bytes);
            return;
        }
        self.seal_tail();
        self.len += bytes.len();
        self.parts.push_back(Part::Kept(bytes));
    }

    /// Adds bytes that others are sent as well: they stay where they are.
    pub fn push_shared(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED_BYTES {
            self.push(&bytes);
            return;
        }
        self.seal_tail();
        self.len += bytes.len();
        self.shared += bytes.len();
        self.parts.push_back(Part::Shared(bytes));
    }

    /// Adds all of another queue, of which nothing has left yet.
    pub fn append(&mut self, mut other: Outgoing) {
        debug_assert_eq!(other.sent, 0);
        if self.is_empty() {
            *self = other;
            return;
        }
        self.seal_tail();
        self.len += other.len;
        self.shared += other.shared;
        self.parts.append(&mut other.parts);
        self.tail = other.tail;
    }

    /// Adds a pong. It takes the place of one of which nothing has left yet: true if there was one.
    pub fn push_pong(&mut self, frame: &[u8]) -> bool {
        self.seal_tail();
        let begun = usize::from(self.sent > 0);
        let older = (begun..self.parts.len()).find(|&at| matches!(self.parts[at], Part::Pong(_)));
        if let Some(at) = older {
            let pong = self.parts.remove(at).expect("found just now");
            self.len -= pong.bytes().len();
            self.join_small(at);
        }
        self.len += frame.len();
        self.parts.push_back(Part::Pong(Bytes::copy_from_slice(frame)));
        older.is_some()
    }

    /// Adds a range of an extent, which is kept alive until it has left.
    pub fn push_rest(&mut self, extent: Extent, from: usize, to: usize) {
        self.seal_tail();
        self.len += to - from;
        self.parts.push_back(Part::Rest { extent, from, to });
    }

    /// Whether some of the logs' memory is kept alive.
    pub fn keeps_extent(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Rest { .. } | Part::Shared(_)))
    }

    /// What leaves next: at most 16 parts, none empty.
    pub fn slices<'a>(&'a self, into: &mut smallvec::SmallVec<[IoSlice<'a>; PARTS_MAX]>) {
        let mut skip = self.sent;
        for bytes in self.parts.iter().map(Part::bytes).chain([&self.tail[..]]).take(PARTS_MAX) {
            if skip < bytes.len() {
                into.push(IoSlice::new(&bytes[skip..]));
            }
            skip = 0;
        }
    }

    /// What leaves next, if it lies in one piece: all that waits.
    pub fn only_run(&self) -> Option<&[u8]> {
        let run = match self.parts.len() {
            0 => &self.tail[..],
            1 if self.tail.is_empty() => self.parts[0].bytes(),
            _ => return None,
        };
        (!run.is_empty()).then(|| &run[self.sent..])
    }

    /// `n` bytes from the front have left.
    pub fn sent(&mut self, n: usize) {
        self.len -= n;
        self.sent += n;
        while let Some(first) = self.parts.front() {
            let len = first.bytes().len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            if let Some(Part::Shared(_)) = self.parts.pop_front() {
                self.shared -= len;
            }
        }
        // What has left makes room for what comes, also where the queue never runs empty.
        self.tail.advance(self.sent);
        self.sent = 0;
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        self.parts.push_back(Part::Small(std::mem::take(&mut self.tail)));
    }

    /// Joins the part at `at` to the one before it if both are small: messages and pings in turn must not
    /// leave a part each. What is moved came after the last pong, so each byte is moved once.
    fn join_small(&mut self, at: usize) {
        if at == 0 || !matches!(self.parts.get(at), Some(Part::Small(_))) {
            return;
        }
        if let Some(Part::Small(second)) = self.parts.remove(at) {
            match &mut self.parts[at - 1] {
                Part::Small(first) => first.extend_from_slice(&second),
                _ => self.parts.insert(at, Part::Small(second)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smallvec::SmallVec;

    fn take(outgoing: &mut Outgoing, most: usize) -> Vec<u8> {
        let mut slices = SmallVec::new();
        outgoing.slices(&mut slices);
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(most).collect();
        drop(slices);
        outgoing.sent(bytes.len());
        bytes
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in prop::collection::vec(
            prop_oneof![
                (1usize..200).prop_map(Some),
                (KEPT_BYTES..KEPT_BYTES + 3).prop_map(Some),
                Just(None),
            ], 1..60), most in 1usize..20_000)
        {
            let (mut outgoing, mut expected, mut got) = (Outgoing::default(), Vec::new(), Vec::new());
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    Some(len) => {
                        let bytes = vec![u8::try_from(i).unwrap(); len];
                        expected.extend_from_slice(&bytes);
                        if len % 2 == 0 { outgoing.push(&bytes) } else { outgoing.push_kept(bytes.into()) }
                    }
                    None => got.extend(take(&mut outgoing, most)),
                }
                prop_assert_eq!(outgoing.len(), expected.len() - got.len());
            }
            while !outgoing.is_empty() {
                got.extend(take(&mut outgoing, most));
            }
            prop_assert!(got == expected);
            let longest = 60 * (KEPT_BYTES + 3);
            prop_assert!(outgoing.tail.capacity() <= 2 * longest);
            let mut slices = SmallVec::new();
            outgoing.slices(&mut slices);
            prop_assert!(slices.is_empty());
        }
    }

    #[test]
    fn of_several_pongs_only_the_newest_waits_and_one_that_has_begun_is_finished() {
        let mut outgoing = Outgoing::default();
        assert!(!outgoing.push_pong(b"<pong 1>"));
        assert!(outgoing.push_pong(b"<pong 2>"));
        assert_eq!(take(&mut outgoing, 3), b"<po");
        assert!(!outgoing.push_pong(b"<pong 3>"), "the second has begun");
        outgoing.push(b"[message]");
        assert!(outgoing.push_pong(b"<pong 4>"));
        assert_eq!(take(&mut outgoing, 100), b"ng 2>[message]<pong 4>");
        assert!(outgoing.is_empty());
    }

    #[test]
    fn messages_and_pings_in_turn_stay_a_few_parts() {
        let mut outgoing = Outgoing::default();
        for _ in 0..10_000 {
            outgoing.push(b"m");
            outgoing.push_pong(b"p");
        }
        assert_eq!(outgoing.len(), 10_001);
        assert!(outgoing.parts.len() <= 3, "{}", outgoing.parts.len());
        let all: Vec<u8> = std::iter::from_fn(|| Some(take(&mut outgoing, 7)).filter(|all| !all.is_empty()))
            .flatten()
            .collect();
        assert_eq!(all, [vec![b'm'; 10_000], vec![b'p']].concat());
    }

    #[test]
    fn a_queue_that_never_runs_empty_keeps_its_size() {
        let mut outgoing = Outgoing::default();
        outgoing.push(&[7; 1000]);
        for _ in 0..10_000 {
            outgoing.push(&[7; 1000]);
            outgoing.sent(1000);
        }
        assert_eq!(outgoing.len(), 1000);
        assert!(outgoing.tail.capacity() < 10_000, "{}", outgoing.tail.capacity());
    }
}
