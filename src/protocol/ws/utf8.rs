//! UTF-8 validation (RFC 6455 §8.1, RFC 3629), whole or piece by piece.
//!
//! A message is assembled contiguously, so validating it piece by piece needs no decoder state: the bytes of a
//! character that is not complete (at most 3) are simply looked at again when more have come. A validator that
//! carries them along in itself was the alternative; it needs a second copy of them and a case for each length.

/// The bytes are not UTF-8, and no bytes that could follow would make them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Takes `bytes` as text if they are UTF-8 as a whole.
pub(super) fn whole(bytes: &[u8]) -> Result<&str, InvalidUtf8> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| InvalidUtf8)
}

/// How many bytes at the front of `bytes` are complete characters; the rest (≤ 3 bytes) begins another.
///
/// Fails fast: as soon as the byte is there that makes the whole invalid, such as the second one of `F4 90` (beyond
/// U+10FFFF), `ED A0` (a surrogate) or `E0 80` (overlong), or `C0` alone.
pub fn complete_prefix(bytes: &[u8]) -> Result<usize, InvalidUtf8> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(InvalidUtf8),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fails_with_the_byte_that_makes_it_invalid() {
        for bytes in [
            &b"\x80"[..],        // continuation byte alone
            b"\xc0",             // overlong 2-byte form
            b"\xc1",             //
            b"\xf5",             // beyond U+10FFFF
            b"\xff",             // never in UTF-8
            b"\xc3\x28",         // no continuation byte
            b"\xe0\x80",         // overlong 3-byte form
            b"\xe0\x9f",         //
            b"\xed\xa0",         // surrogate D800
            b"\xed\xbf",         // surrogate DFFF
            b"\xf0\x80",         // overlong 4-byte form
            b"\xf0\x8f",         //
            b"\xf4\x90",         // U+110000
            b"\xe2\x82\x28",     // third byte wrong
            b"\xf0\x9f\x98\x28", // fourth byte wrong
        ] {
            for before in ["", "ä", &"x".repeat(200)] {
                let text = [before.as_bytes(), bytes].concat();
                assert_eq!(complete_prefix(&text), Err(InvalidUtf8), "{bytes:02x?}");
                assert_eq!(
                    complete_prefix(&text[..text.len() - 1]),
                    Ok(before.len()),
                    "{bytes:02x?} but its last"
                );
                assert!(whole(&text).is_err());
            }
        }
    }

    #[test]
    fn boundaries_of_each_length_are_valid() {
        for text in [
            "\u{7f}",
            "\u{80}",
            "\u{7ff}",
            "\u{800}",
            "\u{d7ff}",
            "\u{e000}",
            "\u{ffff}",
            "\u{10000}",
            "\u{10ffff}",
        ] {
            assert_eq!(complete_prefix(text.as_bytes()), Ok(text.len()));
            for cut in 1..text.len() {
                assert_eq!(complete_prefix(&text.as_bytes()[..cut]), Ok(0));
            }
        }
    }

    /// Bytes that are often text, and otherwise nearly.
    fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            2 => "[a-z]{0,40}".prop_map(String::into_bytes),
            1 => prop::collection::vec(prop_oneof![Just(0xED), Just(0xF4), Just(0xE0), 0x80u8..=0xBF, any::<u8>()], 1..3),
        ];
        prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn like_std(bytes in nearly_text()) {
            let expected = match std::str::from_utf8(&bytes) {
                Ok(_) => Ok(bytes.len()),
                Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
                Err(_) => Err(InvalidUtf8),
            };
            prop_assert_eq!(complete_prefix(&bytes), expected);
            prop_assert_eq!(whole(&bytes).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }

        /// As a message that comes in two pieces is validated: the rest of the first is looked at again.
        #[test]
        fn every_split_point(bytes in nearly_text()) {
            let expected = complete_prefix(&bytes);
            for cut in 0..=bytes.len() {
                let pieces = complete_prefix(&bytes[..cut])
                    .and_then(|before| complete_prefix(&bytes[before..]).map(|after| before + after));
                prop_assert_eq!(pieces, expected, "cut at {}", cut);
            }
        }
    }
}
