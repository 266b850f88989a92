//! Unmasking a client's payload (RFC 6455 §5.3).
//!
//! Plain Rust in blocks of fixed width, which the compiler turns into vector instructions for the target at hand;
//! hand-written intrinsics would need `unsafe` for what is bound by memory in any case.

/// A block holds the mask a whole number of times, so that it starts with the same mask byte as the one before.
const BLOCK: usize = 64;

/// Unmasks `bytes` in place. `phase` is the offset of `bytes[0]` in its frame's payload; only `phase % 4` matters.
///
/// XOR is its own inverse: the same call masks.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let word = rotated(mask, phase);
    let (blocks, rest) = bytes.as_chunks_mut::<BLOCK>();
    if !blocks.is_empty() {
        let mut wide = [0; BLOCK];
        for four in wide.as_chunks_mut::<4>().0 {
            *four = word;
        }
        for block in blocks {
            for (byte, mask) in block.iter_mut().zip(&wide) {
                *byte ^= mask;
            }
        }
    }
    let (words, rest) = rest.as_chunks_mut::<4>();
    for four in words {
        *four = (u32::from_ne_bytes(*four) ^ u32::from_ne_bytes(word)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(word) {
        *byte ^= mask;
    }
}

/// The mask as it stands at `phase` bytes into the payload.
fn rotated(mask: [u8; 4], phase: usize) -> [u8; 4] {
    // As a number, since rotating an array by a variable is a call.
    u32::from_le_bytes(mask).rotate_right(8 * (phase % 4) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// §5.3 as it is written: octet i of the payload is XORed with octet i MOD 4 of the key.
    fn unmask_slowly(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[(phase + i) % 4];
        }
    }

    #[test]
    fn rfc_example() {
        // §5.7
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn every_phase_alignment_and_short_length() {
        let original: Vec<u8> = (0..=255).collect();
        let mask = [0x11, 0x22, 0x44, 0x88];
        for phase in 0..8 {
            for start in 0..33 {
                for len in 0..200 {
                    let (mut fast, mut slow) = (original.clone(), original.clone());
                    unmask(&mut fast[start..start + len], mask, phase);
                    unmask_slowly(&mut slow[start..start + len], mask, phase);
                    assert_eq!(fast, slow, "phase {phase}, start {start}, len {len}");
                }
            }
        }
    }

    #[test]
    fn every_split_point() {
        let masked: Vec<u8> = (0..200u8).map(|i| i.wrapping_mul(7)).collect();
        let mask = [0x11, 0x22, 0x44, 0x88];
        for len in 0..=masked.len() {
            let mut whole = masked[..len].to_vec();
            unmask_slowly(&mut whole, mask, 0);
            for cut in 0..=len {
                let mut pieces = masked[..len].to_vec();
                unmask(&mut pieces[..cut], mask, 0);
                unmask(&mut pieces[cut..], mask, cut);
                assert_eq!(pieces, whole, "{len} bytes, cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn like_the_slow_twin(
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            mask: [u8; 4],
            phase in 0..1000usize,
            cut: prop::sample::Index,
        ) {
            let (mut fast, mut slow) = (bytes.clone(), bytes);
            let cut = cut.index(fast.len() + 1);
            unmask(&mut fast[..cut], mask, phase);
            unmask(&mut fast[cut..], mask, phase + cut);
            unmask_slowly(&mut slow, mask, phase);
            prop_assert_eq!(fast, slow);
        }
    }
}
