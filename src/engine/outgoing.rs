//! What waits for one connection alone: the rest of a unit that its socket took half of, control frames,
//! replies. A connection has an [`Outgoing`] only while something waits.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

use crate::broker::log::Extent;

/// From this many bytes on a reply is queued as it is instead of copied behind the others.
const KEPT_BYTES: usize = 16 * 1024;

/// Parts of one send at most.
const PARTS_MAX: usize = 16;

/// Bytes that must leave one after another.
#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    /// A range of a log's extent, which stays alive for it.
    Rest {
        extent: Extent,
        from: usize,
        to: usize,
    },
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes) => bytes,
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
}

impl Outgoing {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
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
        self.parts.push_back(Part::Bytes(bytes));
    }

    /// Adds a range of an extent, which is kept alive until it has left.
    pub fn push_rest(&mut self, extent: Extent, from: usize, to: usize) {
        self.seal_tail();
        self.len += to - from;
        self.parts.push_back(Part::Rest { extent, from, to });
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
            self.parts.pop_front();
        }
        // What has left makes room for what comes, also where the queue never runs empty.
        self.tail.advance(self.sent);
        self.sent = 0;
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        // What has left of the tail stays counted in `sent`, as it does for a first part.
        let tail = self.tail.split().freeze();
        self.parts.push_back(Part::Bytes(tail));
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
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(most);
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
