//! Frame headers (RFC 6455 §5.2): a client's are parsed, the server's are written.
//!
//! A client's header is 6, 8 or 14 bytes with the mask; the server's header for the same payload is always exactly
//! 4 bytes shorter. So it fits over the client's, right in front of the payload, and the frame leaves where it lies.

use std::ops::Deref;

use super::ProtocolError;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0F;
const MASKED: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7F;
/// The 7-bit length that says: the next 2 bytes are the length.
const LENGTH_16: u8 = 126;
/// The 7-bit length that says: the next 8 bytes are the length.
const LENGTH_64: u8 = 127;

/// The most bytes that a control frame's payload may have (RFC 6455 §5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// The longest header that the server writes, in bytes.
pub const HEADER_ROOM: usize = 10;

/// What a frame is (RFC 6455 §5.2, §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    /// 0: a further fragment of a message.
    Continuation,
    /// 1: a text message, or its first fragment.
    Text,
    /// 2: a binary message, or its first fragment.
    Binary,
    /// 8: the closing handshake.
    Close,
    /// 9: to be answered with a pong of the same payload.
    Ping,
    /// 10: answers a ping, or stands alone.
    Pong,
}

impl OpCode {
    /// Close, ping or pong: at most 125 bytes, never fragmented, allowed between fragments (RFC 6455 §5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// This frame ends its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: OpCode,
    /// The key that the payload is masked with.
    pub mask: [u8; 4],
    /// Bytes of payload that follow, < 2^63; for a control frame ≤ 125. No limit has been applied yet.
    pub payload_len: u64,
    /// Bytes of the header itself: 6, 8 or 14.
    pub header_len: usize,
}

/// Parses the header at the front of `bytes`, as a server reads it (RFC 6455 §5.1, §5.2, §5.5).
///
/// `None`: more bytes are needed, at most 14 in all. Errors are found as early as the bytes allow, most of them in
/// the first two: a reserved bit or opcode, no mask, a fragmented or long control frame, a length that is not
/// minimal or has its top bit set. All of them mean close code 1002.
pub fn parse_header(bytes: &[u8]) -> Result<Option<FrameHeader>, ProtocolError> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    if first & RESERVED_BITS != 0 {
        return Err(ProtocolError::ReservedBit);
    }
    let opcode_bits = first & OPCODE_BITS;
    let opcode = OpCode::from_bits(opcode_bits).ok_or(ProtocolError::ReservedOpcode(opcode_bits))?;
    let fin = first & FIN != 0;
    if opcode.is_control() && !fin {
        return Err(ProtocolError::FragmentedControl);
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & MASKED == 0 {
        return Err(ProtocolError::Unmasked);
    }
    let short_len = second & LENGTH_BITS;
    if opcode.is_control() && usize::from(short_len) > CONTROL_PAYLOAD_MAX {
        return Err(ProtocolError::ControlTooLong);
    }

    let rest = &bytes[2..];
    let (payload_len, rest) = match short_len {
        LENGTH_16 => {
            let Some((extended, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let len = u64::from(u16::from_be_bytes(*extended));
            if len <= CONTROL_PAYLOAD_MAX as u64 {
                return Err(ProtocolError::NonMinimalLength);
            }
            (len, rest)
        }
        LENGTH_64 => {
            let Some((extended, rest)) = rest.split_first_chunk() else { return Ok(None) };
            let len = u64::from_be_bytes(*extended);
            if len >> 63 != 0 {
                return Err(ProtocolError::LengthTopBit);
            }
            if len <= u64::from(u16::MAX) {
                return Err(ProtocolError::NonMinimalLength);
            }
            (len, rest)
        }
        short => (u64::from(short), rest),
    };
    let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
    Ok(Some(FrameHeader { fin, opcode, mask, payload_len, header_len: bytes.len() - rest.len() }))
}

/// How many bytes the server's header for a payload of `payload_len` bytes has: 2, 4 or 10.
pub const fn server_header_len(payload_len: usize) -> usize {
    if payload_len <= CONTROL_PAYLOAD_MAX {
        2
    } else if payload_len <= u16::MAX as usize {
        4
    } else {
        HEADER_ROOM
    }
}

/// Writes the server's header (FIN, no mask) for the payload `buffer[payload_start..]` right in front of it.
///
/// Returns where the frame starts. `payload_start` must be at least [`server_header_len`] of that payload: a
/// [`Payload`](super::Payload) always is that far in, since a client's header is longer.
pub fn write_header_before(buffer: &mut [u8], payload_start: usize, opcode: OpCode) -> usize {
    let payload_len = buffer.len() - payload_start;
    let header_len = server_header_len(payload_len);
    let frame_start = payload_start - header_len;
    let header = &mut buffer[frame_start..payload_start];
    header[0] = FIN | opcode.bits();
    // The casts keep every bit: `server_header_len` chose the width by the value.
    match header_len {
        2 => header[1] = payload_len as u8,
        4 => {
            header[1] = LENGTH_16;
            header[2..].copy_from_slice(&(payload_len as u16).to_be_bytes());
        }
        _ => {
            header[1] = LENGTH_64;
            header[2..].copy_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
    frame_start
}

/// The opcode and the payload of a whole frame that the server wrote; `None` if it is none.
///
/// Payloads are kept as such frames: here they are had back.
pub fn parse_server_frame(frame: &[u8]) -> Option<(OpCode, &[u8])> {
    let (&first, rest) = frame.split_first()?;
    let opcode = OpCode::from_bits(first ^ FIN)?;
    let (&short_len, rest) = rest.split_first()?;
    let (payload_len, payload) = match short_len {
        LENGTH_16 => {
            let (extended, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*extended)), rest)
        }
        LENGTH_64 => {
            let (extended, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*extended), rest)
        }
        short => (u64::from(short), rest),
    };
    (payload.len() as u64 == payload_len).then_some((opcode, payload))
}

/// A finished close, ping or pong frame of the server: 2 to 127 bytes, held inline.
#[derive(Clone, Copy, Debug)]
pub struct ControlFrame {
    bytes: [u8; 2 + CONTROL_PAYLOAD_MAX],
    len: u8,
}

impl Deref for ControlFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Makes the server's control frame. Of a payload over 125 bytes only the first 125 are taken.
pub fn control_frame(opcode: OpCode, payload: &[u8]) -> ControlFrame {
    let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
    let len = 2 + payload.len();
    let mut bytes = [0; 2 + CONTROL_PAYLOAD_MAX];
    bytes[2..len].copy_from_slice(payload);
    write_header_before(&mut bytes[..len], 2, opcode);
    ControlFrame { bytes, len: len as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn with_mask(start: &[u8]) -> Vec<u8> {
        [start, &MASK].concat()
    }

    #[test]
    fn rfc_example_masked_hello() {
        // §5.7: a single-frame masked text message "Hello".
        let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let expected =
            FrameHeader { fin: true, opcode: OpCode::Text, mask: MASK, payload_len: 5, header_len: 6 };
        assert_eq!(parse_header(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn lengths_in_all_three_forms() {
        for (start, payload_len) in [
            (&[0x82, 0x80][..], 0),
            (&[0x82, 0xFD], 125),
            (&[0x82, 0xFE, 0x00, 0x7E], 126),
            (&[0x82, 0xFE, 0xFF, 0xFF], 65_535),
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            (&[0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], i64::MAX as u64),
        ] {
            let bytes = with_mask(start);
            let header_len = bytes.len();
            let expected =
                FrameHeader { fin: true, opcode: OpCode::Binary, mask: MASK, payload_len, header_len };
            assert_eq!(parse_header(&bytes), Ok(Some(expected)));
            for cut in 0..header_len {
                assert_eq!(parse_header(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:02x?}");
            }
        }
    }

    #[test]
    fn refused_from_as_few_bytes_as_possible() {
        use ProtocolError::*;
        for (bytes, error) in [
            (&[0x91][..], ReservedBit),   // RSV3, §5.2
            (&[0xA1], ReservedBit),       // RSV2
            (&[0xC1], ReservedBit),       // RSV1
            (&[0x83], ReservedOpcode(3)), // §5.2
            (&[0x87], ReservedOpcode(7)),
            (&[0x8B], ReservedOpcode(11)),
            (&[0x8F], ReservedOpcode(15)),
            (&[0x08], FragmentedControl), // §5.5
            (&[0x09], FragmentedControl),
            (&[0x0A], FragmentedControl),
            (&[0x81, 0x05], Unmasked),       // §5.1
            (&[0x89, 0xFE], ControlTooLong), // §5.5
            (&[0x88, 0xFF], ControlTooLong),
            (&[0x81, 0xFE, 0x00, 0x7D], NonMinimalLength), // §5.2: minimal number of bytes
            (&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], NonMinimalLength),
            (&[0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], LengthTopBit),
        ] {
            assert_eq!(parse_header(bytes), Err(error), "{bytes:02x?}");
            assert_eq!(parse_header(&bytes[..bytes.len() - 1]), Ok(None), "one byte less than {bytes:02x?}");
            assert_eq!(error.close_code().get(), 1002);
        }
    }

    /// The figure of §5.2, bit by bit, with the rules of §5.1, §5.2 and §5.5 each as soon as its bytes are there.
    fn parse_slowly(bytes: &[u8]) -> Result<Option<FrameHeader>, ProtocolError> {
        let bits = |range: std::ops::Range<usize>| {
            range.into_iter().try_fold(0u64, |number, i| {
                let byte = bytes.get(i / 8)?;
                Some(number << 1 | u64::from(byte >> (7 - i % 8) & 1))
            })
        };
        let Some(reserved) = bits(1..4) else { return Ok(None) };
        let (fin, opcode) = (bits(0..1) == Some(1), bits(4..8).expect("the byte is there"));
        let control = opcode >= 8;
        if reserved != 0 {
            return Err(ProtocolError::ReservedBit);
        }
        let names = [OpCode::Continuation, OpCode::Text, OpCode::Binary];
        let control_names = [OpCode::Close, OpCode::Ping, OpCode::Pong];
        let opcode = match opcode {
            0..=2 => names[opcode as usize],
            8..=10 => control_names[opcode as usize - 8],
            _ => return Err(ProtocolError::ReservedOpcode(opcode as u8)),
        };
        if control && !fin {
            return Err(ProtocolError::FragmentedControl);
        }
        let Some(short_len) = bits(9..16) else { return Ok(None) };
        if bits(8..9) == Some(0) {
            return Err(ProtocolError::Unmasked);
        }
        if control && short_len > 125 {
            return Err(ProtocolError::ControlTooLong);
        }
        let len_end = match short_len {
            126 => 32,
            127 => 80,
            _ => 16,
        };
        let Some(payload_len) = bits(if len_end == 16 { 9..16 } else { 16..len_end }) else {
            return Ok(None);
        };
        if payload_len >= 1 << 63 {
            return Err(ProtocolError::LengthTopBit);
        }
        if (len_end == 32 && payload_len < 126) || (len_end == 80 && payload_len < 65_536) {
            return Err(ProtocolError::NonMinimalLength);
        }
        let Some(mask) = bits(len_end..len_end + 32) else { return Ok(None) };
        let mask = (mask as u32).to_be_bytes();
        Ok(Some(FrameHeader { fin, opcode, mask, payload_len, header_len: len_end / 8 + 4 }))
    }

    #[test]
    fn every_start_and_every_split_point_like_the_slow_twin() {
        let lengths: [[u8; 8]; 7] = [
            [0; 8],
            [0, 125, 0, 0, 0, 0, 0, 1],
            [0, 126, 1, 2, 3, 4, 5, 6],
            [0, 0, 0, 0, 0, 0, 0xFF, 0xFF],
            [0, 0, 0, 0, 0, 1, 0, 0],
            [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            [0x80, 0, 0, 0, 0, 0, 0, 0],
        ];
        for start in 0..=u16::MAX {
            for length in lengths {
                let bytes = [&start.to_be_bytes()[..], &length, &MASK, b"payload"].concat();
                let whole = parse_header(&bytes);
                assert_eq!(whole, parse_slowly(&bytes), "{bytes:02x?}");
                // Where the start alone decides, one length is enough.
                if length != lengths[0] && start & 0x7F < 126 {
                    continue;
                }
                for cut in 0..15 {
                    assert_eq!(
                        parse_header(&bytes[..cut]),
                        parse_slowly(&bytes[..cut]),
                        "{bytes:02x?} cut at {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn header_is_written_right_before_the_payload() {
        for (payload_len, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xFF, 0xFF]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(server_header_len(payload_len), header.len());
            let mut buffer = vec![0xEE; 14 + payload_len];
            let start = write_header_before(&mut buffer, 14, OpCode::Binary);
            let payload = &buffer[14..];
            assert_eq!(parse_server_frame(&buffer[start..]), Some((OpCode::Binary, payload)));
            assert_eq!(parse_server_frame(&buffer[start..buffer.len() - 1]), None);
            assert_eq!(parse_server_frame(&[&buffer[start..], b"x"].concat()), None);
            assert_eq!(start, 14 - header.len());
            assert_eq!(&buffer[start..14], header);
            assert!(buffer[..start].iter().chain(&buffer[14..]).all(|&byte| byte == 0xEE));
        }
    }

    #[test]
    fn control_frames_are_inline_and_cut_at_125() {
        assert_eq!(*control_frame(OpCode::Pong, b"Hello"), *b"\x8a\x05Hello");
        assert_eq!(*control_frame(OpCode::Ping, b""), [0x89, 0x00]);
        let cut = control_frame(OpCode::Ping, &[7; 200]);
        assert_eq!((cut.len(), cut[1]), (127, 125));
    }
}
