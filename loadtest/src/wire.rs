//! WebSocket frames as a client sees them (RFC 6455 section 5): masked ones out, unmasked ones in.
//!
//! Owns framing only; the handshake is in `client`. The [`Walker`] never collects a message: it hands over
//! pieces as they lie in the receive buffer, and keeps a few dozen bytes per connection. What a server must not
//! send is a [`Violation`].

use std::fmt;

/// Type of a frame (RFC 6455 section 5.2), as far as a client may meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// A text message.
    Text = 1,
    /// A binary message.
    Binary = 2,
    /// Closing handshake.
    Close = 8,
    /// Must be answered with a pong.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

/// Appends one masked frame with FIN set, its payload being `parts` one after the other.
pub(crate) fn append_frame(out: &mut Vec<u8>, opcode: Opcode, key: [u8; 4], parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode as u8);
    match len {
        0..=125 => out.push(0x80 | len as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    let payload = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    mask(&mut out[payload..], key);
}

/// Masks in place (RFC 6455 section 5.3), eight bytes at a time.
pub(crate) fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// What a server sent that no server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A reserved bit is set, though no extension was agreed.
    ReservedBit,
    /// The frame is masked.
    Masked,
    /// An opcode that RFC 6455 does not define.
    Opcode(u8),
    /// A control frame is fragmented or longer than 125 bytes.
    Control,
    /// A continuation without a message, or a new message inside another.
    Fragment,
    /// A length with the top bit set.
    Length,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBit => write!(f, "a reserved bit is set in a frame header"),
            Self::Masked => write!(f, "a frame is masked"),
            Self::Opcode(opcode) => write!(f, "unknown opcode {opcode}"),
            Self::Control => write!(f, "a control frame is fragmented or too long"),
            Self::Fragment => write!(f, "fragments of messages in the wrong order"),
            Self::Length => write!(f, "a frame length has its top bit set"),
        }
    }
}

/// Takes what a [`Walker`] finds.
pub(crate) trait Sink {
    /// `bytes` of the current message, which begin `at` bytes into it; `end` with its last byte.
    fn data(&mut self, at: u64, bytes: &[u8], end: bool);
    /// A whole control frame.
    fn control(&mut self, opcode: Opcode, payload: &[u8]);
}

/// Longest header of an unmasked frame, in bytes.
const HEADER_BYTES_MAX: usize = 10;

/// Walks the frames of one connection, however the bytes are cut.
#[derive(Debug, Default)]
pub(crate) struct Walker {
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// Bytes of the current message that have been handed over.
    at: u64,
    /// The beginning of a header that was cut.
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    /// The current frame's first byte: FIN and opcode.
    first: u8,
    /// A message has begun and not ended.
    in_message: bool,
    /// The beginning of a control payload that was cut; never allocated otherwise.
    control: Vec<u8>,
}

impl Walker {
    /// Takes the next bytes of the stream. After an error the connection is of no more use.
    #[inline]
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), Violation> {
        loop {
            if self.remaining > 0 {
                if bytes.is_empty() {
                    return Ok(());
                }
                let len = usize::try_from(self.remaining).map_or(bytes.len(), |left| left.min(bytes.len()));
                let (piece, rest) = bytes.split_at(len);
                bytes = rest;
                self.remaining -= len as u64;
                self.payload(piece, sink);
            } else {
                match self.header(&mut bytes)? {
                    None => return Ok(()),
                    // An empty frame has no payload bytes to bring its end to light.
                    Some(0) => self.payload(&[], sink),
                    Some(len) => self.remaining = len,
                }
            }
        }
    }

    /// Reads a header from the front of `bytes`; its payload length, or `None` if more bytes are needed.
    #[inline]
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, Violation> {
        if self.header_len == 0 && bytes.len() >= HEADER_BYTES_MAX {
            let (len, used) = self.parse(bytes)?;
            *bytes = &bytes[used..];
            return Ok(Some(len));
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            if usize::from(self.header_len) >= header_bytes(&self.header) && self.header_len >= 2 {
                self.header_len = 0;
                let header = self.header;
                return Ok(Some(self.parse(&header)?.0));
            }
        }
        Ok(None)
    }

    /// Checks a whole header; payload length and header length in bytes.
    #[inline]
    fn parse(&mut self, header: &[u8]) -> Result<(u64, usize), Violation> {
        let [first, second] = [header[0], header[1]];
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBit);
        }
        if second & 0x80 != 0 {
            return Err(Violation::Masked);
        }
        let used = header_bytes(header);
        let len = match used {
            2 => u64::from(second),
            4 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            _ => u64::from_be_bytes(std::array::from_fn(|i| header[2 + i])),
        };
        if len >> 63 != 0 {
            return Err(Violation::Length);
        }
        match (first & 0x0f, self.in_message) {
            (0, true) | (1 | 2, false) => self.in_message = true,
            (0, false) | (1 | 2, true) => return Err(Violation::Fragment),
            (8..=10, _) if first & 0x80 == 0 || len > 125 => return Err(Violation::Control),
            (8..=10, _) => {}
            (opcode, _) => return Err(Violation::Opcode(opcode)),
        }
        self.first = first;
        Ok((len, used))
    }

    /// Hands over a piece of the current frame's payload.
    #[inline]
    fn payload(&mut self, piece: &[u8], sink: &mut impl Sink) {
        let last = self.remaining == 0;
        let opcode = match self.first & 0x0f {
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => {
                let end = last && self.first & 0x80 != 0;
                sink.data(self.at, piece, end);
                self.at += piece.len() as u64;
                if end {
                    self.at = 0;
                    self.in_message = false;
                }
                return;
            }
        };
        if last && self.control.is_empty() {
            sink.control(opcode, piece);
        } else {
            self.control.extend_from_slice(piece);
            if last {
                sink.control(opcode, &std::mem::take(&mut self.control));
            }
        }
    }
}

/// Length in bytes of the header that begins with the two bytes at the front of `header`.
#[inline]
fn header_bytes(header: &[u8]) -> usize {
    match header[1] & 0x7f {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

/// What a server did that broke the protocol, for people to read.
impl From<Violation> for String {
    fn from(violation: Violation) -> Self {
        format!("the server broke the protocol: {violation}")
    }
}

/// A close frame's code and reason, for people to read (RFC 6455 section 5.5.1).
pub(crate) fn close_text(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let reason = String::from_utf8_lossy(reason);
            if reason.is_empty() { format!("close {code}") } else { format!("close {code} ({reason})") }
        }
        _ => "close without a code".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Puts messages together again.
    #[derive(Debug, Default, PartialEq)]
    struct Collect {
        open: Vec<u8>,
        messages: Vec<Vec<u8>>,
        controls: Vec<(u8, Vec<u8>)>,
    }

    impl Sink for Collect {
        fn data(&mut self, at: u64, bytes: &[u8], end: bool) {
            assert_eq!(at, self.open.len() as u64);
            self.open.extend_from_slice(bytes);
            if end {
                self.messages.push(std::mem::take(&mut self.open));
            }
        }

        fn control(&mut self, opcode: Opcode, payload: &[u8]) {
            self.controls.push((opcode as u8, payload.to_vec()));
        }
    }

    fn walk(pieces: &[&[u8]]) -> Result<Collect, Violation> {
        let (mut walker, mut sink) = (Walker::default(), Collect::default());
        for piece in pieces {
            walker.feed(piece, &mut sink)?;
        }
        Ok(sink)
    }

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(len as u8),
            len @ 126..=0xffff => {
                frame.push(126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                frame.push(127);
                frame.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    /// Every header length, an empty message, a ping inside a fragmented message, an empty last fragment.
    fn conversation() -> (Vec<u8>, Collect) {
        let (middle, large) = (vec![7; 300], vec![9; 66_000]);
        let stream = [
            server_frame(0x81, b"Hello"),
            server_frame(0x82, b""),
            server_frame(0x89, b"ping!"),
            server_frame(0x02, b"one "),
            server_frame(0x89, b""),
            server_frame(0x00, b"two"),
            server_frame(0x80, b""),
            server_frame(0x82, &middle),
            server_frame(0x82, &large),
            server_frame(0x88, &[0x03, 0xe8, b'x']),
        ]
        .concat();
        let collect = Collect {
            open: Vec::new(),
            messages: vec![b"Hello".into(), vec![], b"one two".into(), middle, large],
            controls: vec![(9, b"ping!".into()), (9, vec![]), (8, vec![0x03, 0xe8, b'x'])],
        };
        (stream, collect)
    }

    #[test]
    fn every_split_gives_the_same() {
        let (stream, want) = conversation();
        // The two long payloads are alike all over: cutting inside them once in a while is enough.
        let interesting = (0..stream.len()).filter(|i| *i < 400 || *i > stream.len() - 20 || i % 4099 == 0);
        for cut in interesting {
            let (a, b) = stream.split_at(cut);
            assert_eq!(walk(&[a, b]).unwrap(), want, "cut at {cut}");
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(walk(&single).unwrap(), want);
    }

    #[test]
    fn violations() {
        for (bytes, want) in [
            (&[0xc1, 0][..], Violation::ReservedBit),
            (&[0x81, 0x80], Violation::Masked),
            (&[0x83, 0], Violation::Opcode(3)),
            (&[0x09, 0], Violation::Control),
            (&[0x89, 126, 0, 126], Violation::Control),
            (&[0x80, 0], Violation::Fragment),
            (&[0x01, 0, 0x01, 0], Violation::Fragment),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::Length),
        ] {
            assert_eq!(walk(&[bytes]), Err(want), "{bytes:x?}");
        }
    }

    #[test]
    fn close_frames_read_well() {
        assert_eq!(close_text(&[0x03, 0xf5]), "close 1013");
        assert_eq!(close_text(&[0x03, 0xf5, b's', b'l', b'o', b'w']), "close 1013 (slow)");
        assert_eq!(close_text(&[]), "close without a code");
    }

    /// RFC 6455 section 5.7: a single-frame masked text message contains "Hello" (here as binary).
    #[test]
    fn masked_frame_of_the_rfc() {
        let mut out = Vec::new();
        append_frame(&mut out, Opcode::Binary, [0x37, 0xfa, 0x21, 0x3d], &[b"Hel", b"lo"]);
        assert_eq!(out, [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    proptest! {
        #[test]
        fn masking_equals_the_definition(bytes: Vec<u8>, key: [u8; 4]) {
            let mut masked = bytes.clone();
            mask(&mut masked, key);
            let slow: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            prop_assert_eq!(masked, slow);
        }

        #[test]
        fn any_bytes_are_walked_alike_in_one_piece_and_in_many(bytes: Vec<u8>, cut in 1usize..20) {
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(walk(&[&bytes]), walk(&pieces));
        }
    }
}
