//! What every message carries: 16 bytes that say which message it is and when it was due, then a pattern.
//!
//! ```text
//! 0      6        8        12         16
//! | due  | publisher | sequence | late | pattern …      all numbers little-endian
//! ```
//!
//! That is a binary payload; a text payload holds the same stamp in base64 (see `dialect::text`).
//! Times are nanoseconds since the run's clock began. The pattern depends on publisher and sequence, so that
//! a receiver which compares it notices bytes of another message as well as damaged ones.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::dialect::text::{END, HEAD_BYTES, encode_head};

/// Bytes of a stamp; the smallest binary payload.
pub(crate) const STAMP_BYTES: usize = 16;

/// The run's one clock. Sender and receiver live in one process, so they share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that stands at zero now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    #[inline]
    pub(crate) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Which message this is, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// When the schedule wanted it sent, in nanoseconds of the run's clock; below 2^48 (78 hours).
    pub(crate) due_ns: u64,
    /// Number of the publisher (or of the echo connection, modulo 65,536).
    pub(crate) publisher: u16,
    /// 0, 1, 2, … per publisher.
    pub(crate) sequence: u32,
    /// How much later than due it was really sent, in microseconds; saturates at 71 minutes.
    pub(crate) late_us: u32,
}

impl Stamp {
    /// The 16 bytes.
    pub(crate) fn encode(self) -> [u8; STAMP_BYTES] {
        let first = self.due_ns & ((1 << 48) - 1) | u64::from(self.publisher) << 48;
        let second = u64::from(self.sequence) | u64::from(self.late_us) << 32;
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&second.to_le_bytes());
        bytes
    }

    /// Reads what `encode` wrote. Any 16 bytes are some stamp; the receiver judges its values.
    #[inline]
    pub(crate) fn decode(bytes: &[u8; STAMP_BYTES]) -> Self {
        let whole = u128::from_le_bytes(*bytes);
        Self {
            due_ns: whole as u64 & ((1 << 48) - 1),
            publisher: (whole >> 48) as u16,
            sequence: (whole >> 64) as u32,
            late_us: (whole >> 96) as u32,
        }
    }

    /// When it was really sent, in nanoseconds of the run's clock.
    #[inline]
    pub(crate) fn sent_ns(self) -> u64 {
        self.due_ns + u64::from(self.late_us) * 1000
    }
}

/// What payloads look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PayloadKind {
    /// A stamp at the front of the whole message, then any bytes
    #[default]
    Binary,
    /// Printable, and found wherever it lies in what the server sends
    Text,
}

/// The bytes that follow the stamps of one run's messages.
#[derive(Debug)]
pub(crate) struct Pattern {
    kind: PayloadKind,
    bytes: Vec<u8>,
    payload_bytes: usize,
}

/// One payload, in parts that follow each other.
#[derive(Debug)]
pub(crate) struct Payload<'a> {
    head: [u8; HEAD_BYTES],
    head_len: usize,
    rest: &'a [u8],
    end: &'static [u8],
}

impl Payload<'_> {
    /// The parts.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        [&self.head[..self.head_len], self.rest, self.end]
    }
}

/// Distinct offsets into the pattern; messages whose stamps differ a little get different bytes.
const OFFSETS: usize = 4096;

/// Bytes of a text payload's pattern: base64's, none of which any text protocol escapes.
const PRINTABLE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Pattern {
    /// For payloads of `payload_bytes`, stamp included (at least [`STAMP_BYTES`], or
    /// [`crate::dialect::text::TEXT_BYTES_MIN`]).
    pub(crate) fn new(kind: PayloadKind, payload_bytes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(0x57e7_7012);
        let byte = || match kind {
            PayloadKind::Binary => random.u8(..),
            PayloadKind::Text => PRINTABLE[random.usize(..PRINTABLE.len())],
        };
        let bytes = std::iter::repeat_with(byte).take(payload_bytes + OFFSETS).collect();
        Self { kind, bytes, payload_bytes }
    }

    /// The payload with `stamp`.
    pub(crate) fn payload(&self, stamp: Stamp) -> Payload<'_> {
        let (publisher, sequence) = (stamp.publisher, stamp.sequence);
        match self.kind {
            PayloadKind::Binary => {
                let mut head = [0; HEAD_BYTES];
                head[..STAMP_BYTES].copy_from_slice(&stamp.encode());
                let rest = self.expect(publisher, sequence, STAMP_BYTES..self.payload_bytes);
                Payload { head, head_len: STAMP_BYTES, rest, end: &[] }
            }
            PayloadKind::Text => {
                let rest = self.expect(publisher, sequence, HEAD_BYTES..self.payload_bytes - 1);
                Payload { head: encode_head(stamp), head_len: HEAD_BYTES, rest, end: &[END] }
            }
        }
    }

    /// Bytes of a whole message.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// What a message has in `range` of its payload. The range begins behind the stamp and ends within the
    /// pattern.
    #[inline]
    pub(crate) fn expect(&self, publisher: u16, sequence: u32, range: Range<usize>) -> &[u8] {
        let offset = (sequence as usize).wrapping_mul(31).wrapping_add(publisher as usize * 17) % OFFSETS;
        &self.bytes[offset + range.start..offset + range.end]
    }
}

/// Nanoseconds of a duration, as the clock counts them.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_stamp() {
        let stamp = Stamp {
            due_ns: 0x0605_0403_0201,
            publisher: 0x0807,
            sequence: 0x0c0b_0a09,
            late_us: 0x100f_0e0d,
        };
        let bytes = stamp.encode();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(Stamp::decode(&bytes), stamp);
    }

    #[test]
    fn extremes_survive() {
        for stamp in [
            Stamp { due_ns: 0, publisher: 0, sequence: 0, late_us: 0 },
            Stamp { due_ns: (1 << 48) - 1, publisher: u16::MAX, sequence: u32::MAX, late_us: u32::MAX },
        ] {
            assert_eq!(Stamp::decode(&stamp.encode()), stamp);
        }
        assert_eq!(Stamp { due_ns: 5, publisher: 1, sequence: 2, late_us: 3 }.sent_ns(), 3005);
    }

    #[test]
    fn neighbours_have_different_patterns() {
        let pattern = Pattern::new(PayloadKind::Binary, 64);
        let rest = |publisher, sequence| pattern.expect(publisher, sequence, STAMP_BYTES..64);
        assert_ne!(rest(0, 0), rest(0, 1));
        assert_ne!(rest(0, 0), rest(1, 0));
        assert_eq!(&rest(3, 9)[10..20], pattern.expect(3, 9, 26..36));
        let stamp = Stamp { due_ns: 1, publisher: 3, sequence: 9, late_us: 0 };
        assert_eq!(pattern.payload(stamp).parts().concat(), [&stamp.encode(), rest(3, 9)].concat());
        let least = Pattern::new(PayloadKind::Binary, STAMP_BYTES);
        assert_eq!(least.payload(stamp).parts().concat(), stamp.encode());
    }
}
