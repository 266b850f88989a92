//! Payloads that are text, and finding them wherever a server puts them.
//!
//! ```text
//! 0       5                        27           end-1
//! | ~stn: | stamp, base64url       | pattern …  | . |       all printable, nothing that JSON would escape
//! ```
//!
//! A [`Finder`] reads the bytes of a connection's messages as one stream, so a payload may lie anywhere: wrapped in
//! JSON, several in a message, cut between messages. No other byte of a payload is the marker's first, and no
//! marker overlaps itself, so neither search nor resumption ever goes back. Wrapping is handed over as well, since
//! heartbeats may lie in it. The last byte is compared on every connection, as a length is with binary payloads.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::stamp::{Pattern, STAMP_BYTES, Stamp};

/// Begins a payload. Its first byte occurs in no other place of one.
pub(crate) const MARKER: &[u8; 5] = b"~stn:";

/// Bytes of a stamp in base64 without padding.
const CODE_BYTES: usize = 22;

/// Marker and stamp.
pub(crate) const HEAD_BYTES: usize = MARKER.len() + CODE_BYTES;

/// Ends a payload.
pub(crate) const END: u8 = b'.';

/// The smallest text payload, in bytes: one without a pattern.
pub(crate) const TEXT_BYTES_MIN: usize = HEAD_BYTES + 1;

/// Marker and stamp.
pub(crate) fn encode_head(stamp: Stamp) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..MARKER.len()].copy_from_slice(MARKER);
    let written = URL_SAFE_NO_PAD.encode_slice(stamp.encode(), &mut head[MARKER.len()..]);
    written.expect("16 bytes are 22 characters");
    head
}

/// Base64 of a stamp.
type Code = [u8; CODE_BYTES];

fn decode(code: &Code) -> Option<Stamp> {
    // The crate wants room for whole groups of three.
    let mut bytes = [0; STAMP_BYTES + 2];
    let written = URL_SAFE_NO_PAD.decode_slice(code, &mut bytes).ok()?;
    let bytes = bytes.first_chunk().filter(|_| written == STAMP_BYTES)?;
    Some(Stamp::decode(bytes))
}

fn decode_head(head: &[u8; HEAD_BYTES]) -> Option<Stamp> {
    head.last_chunk().and_then(decode)
}

/// Decodes stamps. All subscribers of a topic get the same ones, so a thread remembers what it has decoded: to
/// compare 22 bytes costs a tenth of decoding them.
#[derive(Debug)]
pub(crate) struct Decoder {
    known: Box<[(Code, Option<Stamp>); Self::SLOTS]>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { known: Box::new([([0; CODE_BYTES], None); Self::SLOTS]) }
    }
}

impl Decoder {
    const SLOTS: usize = 512;

    #[inline]
    fn decode(&mut self, code: &Code) -> Option<Stamp> {
        // These two characters hold the sequence's low byte: of one publisher, 256 messages in a row have slots of
        // their own.
        let slot = usize::from(code[11] & 127) | usize::from(code[10] & 3) << 7;
        let (known, stamp) = &mut self.known[slot];
        if known != code {
            (*known, *stamp) = (*code, decode(code));
        }
        *stamp
    }
}

/// What is in the stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'a> {
    /// A payload, all of whose bytes have come. Without a stamp: a marker that none follows.
    Payload {
        /// Which message.
        stamp: Option<Stamp>,
        /// The bytes that were compared are those that were published.
        intact: bool,
    },
    /// A piece of what lies between payloads.
    Wrapping(&'a [u8]),
}

/// Finds the payloads in one connection's stream.
#[derive(Clone, Debug)]
pub(crate) struct Finder {
    /// Payload bytes behind the head that are still to come.
    left: u32,
    head_len: u8,
    intact: bool,
    /// Marker and stamp of the current payload, of which `head_len` bytes are there while they come in.
    head: [u8; HEAD_BYTES],
}

impl Default for Finder {
    fn default() -> Self {
        Self { left: 0, head_len: 0, intact: true, head: [0; HEAD_BYTES] }
    }
}

impl Finder {
    /// Takes the next bytes of the stream. With `checked`, every byte of a payload is compared.
    #[inline]
    pub(crate) fn feed(
        &mut self,
        decoder: &mut Decoder,
        pattern: &Pattern,
        checked: bool,
        mut bytes: &[u8],
        mut found: impl FnMut(Found<'_>),
    ) {
        while !bytes.is_empty() {
            if self.left == 0 && self.head_len == 0 {
                let Some(at) = memchr::memchr(MARKER[0], bytes) else {
                    return found(Found::Wrapping(bytes));
                };
                let (wrapping, rest) = bytes.split_at(at);
                if !wrapping.is_empty() {
                    found(Found::Wrapping(wrapping));
                }
                bytes = rest;
                if let Some(payload) = bytes.get(..pattern.payload_bytes())
                    && payload.starts_with(MARKER)
                    && let Some(code) = payload[MARKER.len()..].first_chunk()
                    && let Some(stamp) = decoder.decode(code)
                    && payload.last() == Some(&END)
                {
                    let intact =
                        !checked || &payload[HEAD_BYTES..payload.len() - 1] == pattern_of(pattern, stamp);
                    found(Found::Payload { stamp: Some(stamp), intact });
                    bytes = &bytes[payload.len()..];
                    continue;
                }
                (self.head[0], self.head_len) = (MARKER[0], 1);
                bytes = &bytes[1..];
            } else {
                bytes = self.resume(pattern, checked, bytes, &mut found);
            }
        }
    }

    /// Goes on with a payload that was cut, or that is damaged; the bytes that are left.
    #[cold]
    fn resume<'a>(
        &mut self,
        pattern: &Pattern,
        checked: bool,
        bytes: &'a [u8],
        found: &mut impl FnMut(Found<'_>),
    ) -> &'a [u8] {
        if self.left > 0 {
            let (piece, rest) = bytes.split_at(bytes.len().min(self.left as usize));
            self.compare(pattern, checked, piece);
            if self.left == 0 {
                found(Found::Payload { stamp: decode_head(&self.head), intact: self.intact });
            }
            return rest;
        }
        let at = usize::from(self.head_len);
        if at < MARKER.len() && bytes[0] != MARKER[at] {
            // Not a marker after all, and none begins inside it.
            self.head_len = 0;
            found(Found::Wrapping(&MARKER[..at]));
            return bytes;
        }
        self.head[at] = bytes[0];
        self.head_len += 1;
        if usize::from(self.head_len) == HEAD_BYTES {
            self.head_len = 0;
            self.intact = true;
            match decode_head(&self.head) {
                Some(_) => self.left = (pattern.payload_bytes() - HEAD_BYTES) as u32,
                None => found(Found::Payload { stamp: None, intact: false }),
            }
        }
        &bytes[1..]
    }

    /// Compares a piece of the payload behind the head.
    fn compare(&mut self, pattern: &Pattern, checked: bool, piece: &[u8]) {
        let at = pattern.payload_bytes() - self.left as usize;
        self.left -= piece.len() as u32;
        let last = self.left == 0;
        let pattern_piece = &piece[..piece.len() - usize::from(last)];
        self.intact &= !last || piece.last() == Some(&END);
        if checked && let Some(stamp) = decode_head(&self.head) {
            let want = pattern.expect(stamp.publisher, stamp.sequence, at..at + pattern_piece.len());
            self.intact &= pattern_piece == want;
        }
    }
}

fn pattern_of(pattern: &Pattern, stamp: Stamp) -> &[u8] {
    pattern.expect(stamp.publisher, stamp.sequence, HEAD_BYTES..pattern.payload_bytes() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::PayloadKind;
    use proptest::prelude::*;

    fn stamp(sequence: u32) -> Stamp {
        Stamp { due_ns: u64::from(sequence) * 1_000_003, publisher: 3, sequence, late_us: 7 }
    }

    fn payload(pattern: &Pattern, sequence: u32) -> Vec<u8> {
        pattern.payload(stamp(sequence)).parts().concat()
    }

    fn find(pattern: &Pattern, pieces: &[&[u8]]) -> (Vec<(Option<u32>, bool)>, Vec<u8>) {
        let (mut finder, mut payloads, mut wrapping) = (Finder::default(), Vec::new(), Vec::new());
        let mut decoder = Decoder::default();
        for piece in pieces {
            finder.feed(&mut decoder, pattern, true, piece, |found| match found {
                Found::Payload { stamp, intact } => {
                    payloads.push((stamp.map(|stamp| stamp.sequence), intact));
                }
                Found::Wrapping(bytes) => wrapping.extend_from_slice(bytes),
            });
        }
        (payloads, wrapping)
    }

    #[test]
    fn bytes_of_a_payload() {
        let pattern = Pattern::new(PayloadKind::Text, 40);
        let bytes = payload(&pattern, 5);
        assert_eq!(bytes.len(), 40);
        assert!(bytes.starts_with(b"~stn:") && bytes.ends_with(b"."));
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        assert!(bytes[5..39].iter().all(plain), "{}", String::from_utf8_lossy(&bytes));
        let least = Pattern::new(PayloadKind::Text, TEXT_BYTES_MIN);
        assert_eq!(find(&least, &[&payload(&least, 9)]).0, [(Some(9), true)]);
    }

    #[test]
    fn damage_is_told_and_what_follows_is_found() {
        let pattern = Pattern::new(PayloadKind::Text, 60);
        let good = payload(&pattern, 1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'!' { b'?' } else { b'!' };
            let (payloads, _) = find(&pattern, &[&bad, b"\r\n", &payload(&pattern, 2)]);
            let want = match at {
                0..5 => vec![(Some(2), true)],
                5..27 => vec![(None, false), (Some(2), true)],
                _ => vec![(Some(1), false), (Some(2), true)],
            };
            assert_eq!(payloads, want, "byte {at}");
        }
    }

    #[test]
    fn markers_that_are_none() {
        let pattern = Pattern::new(PayloadKind::Text, 30);
        let stream = [b"~~stn~stn;~s".as_slice(), &payload(&pattern, 4), b"~stn"].concat();
        for size in 1..stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let (payloads, wrapping) = find(&pattern, &pieces);
            assert_eq!(payloads, [(Some(4), true)]);
            assert_eq!(wrapping, b"~~stn~stn;~s");
        }
    }

    proptest! {
        /// Any wrapping, any cuts, any number in a row: the same stamps, and the wrapping byte for byte.
        #[test]
        fn wherever_it_lies(
            parts in proptest::collection::vec(("[ -}\r\n]{0,40}(~s)?", any::<bool>()), 1..12),
            cuts in proptest::collection::vec(1usize..90, 1..40),
            payload_bytes in TEXT_BYTES_MIN..120,
        ) {
            let pattern = Pattern::new(PayloadKind::Text, payload_bytes);
            let (mut stream, mut wrapping, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
            for (index, (text, has_payload)) in parts.iter().enumerate() {
                stream.extend_from_slice(text.as_bytes());
                wrapping.extend_from_slice(text.as_bytes());
                if *has_payload {
                    stream.extend_from_slice(&payload(&pattern, index as u32));
                    sequences.push((Some(index as u32), true));
                }
            }
            // Whatever might be a marker's beginning is decided by what follows.
            stream.push(b'\n');
            wrapping.push(b'\n');
            let (mut pieces, mut rest) = (Vec::new(), stream.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(find(&pattern, &pieces), (sequences, wrapping));
        }
    }
}
