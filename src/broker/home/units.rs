//! What the message that is being taken is in other encodings than the canonical one.

/// What is kept of the memory that messages are encoded in.
const KEPT_BYTES: usize = 256 * 1024;

/// Memory for one message's units, used for one message after another.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Scratch {
    /// Forgets the last message, and its memory if that was long.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.ends.clear();
    }

    /// One more unit: what `write` appends.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// All that was pushed.
    pub(super) fn units(&self) -> Units<'_> {
        Units { bytes: &self.bytes, ends: &self.ends }
    }
}

/// A message's units in the other encodings of its topic, in the order of the logs. None for most topics.
#[derive(Clone, Copy, Default)]
pub(super) struct Units<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
}

impl<'a> Units<'a> {
    /// Each one's bytes.
    pub(super) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.bytes[std::mem::replace(&mut start, end)..end])
    }
}
