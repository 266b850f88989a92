//! What a request is tagged with, to know its completions by: 64 bits that the kernel gives back.

/// Whose poll: a connection's slot, and which of the slot's owners it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    /// The slot.
    pub slot: u32,
    /// Below 2^24.
    pub generation: u32,
}

/// What a completion is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// A socket's readiness.
    Poll(Owner),
    /// A send of a slice.
    Send(u32),
    /// Connections at a listener.
    Accept(u32),
    /// The wake-up's readiness.
    Wake,
    /// A receive of several, by its number.
    Receive(u32),
    /// A request that is waited for at once.
    Now,
    /// Nobody asks how it ended.
    Unasked,
}

/// Generations are counted up to here.
pub(super) const GENERATIONS: u32 = 1 << 24;

impl Tag {
    /// As a request carries it.
    pub(super) fn bits(self) -> u64 {
        let (kind, middle, low) = match self {
            Tag::Unasked => (0u64, 0, 0),
            Tag::Poll(Owner { slot, generation }) => (1, generation, slot),
            Tag::Send(slot) => (2, 0, slot),
            Tag::Accept(listener) => (3, 0, listener),
            Tag::Wake => (4, 0, 0),
            Tag::Now => (5, 0, 0),
            Tag::Receive(number) => (6, 0, number),
        };
        kind << 56 | u64::from(middle) << 32 | u64::from(low)
    }

    /// Of a completion.
    pub(super) fn of(bits: u64) -> Tag {
        let low = bits as u32;
        match bits >> 56 {
            1 => Tag::Poll(Owner { slot: low, generation: (bits >> 32) as u32 % GENERATIONS }),
            2 => Tag::Send(low),
            3 => Tag::Accept(low),
            4 => Tag::Wake,
            5 => Tag::Now,
            6 => Tag::Receive(low),
            _ => Tag::Unasked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_what_it_was() {
        let owner = Owner { slot: u32::MAX - 1, generation: GENERATIONS - 1 };
        let tags = [
            Tag::Poll(owner),
            Tag::Send(u32::MAX),
            Tag::Accept(3),
            Tag::Wake,
            Tag::Receive(7),
            Tag::Now,
            Tag::Unasked,
        ];
        for tag in tags {
            assert_eq!(Tag::of(tag.bits()), tag);
        }
    }
}
