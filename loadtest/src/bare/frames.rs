//! Frames as a server sees them (RFC 6455 section 5): masked ones in, whole, however the bytes are cut.
//!
//! What is not needed is not served: a fragmented message ends the connection, since frames of several publishers
//! go into one log; pings and pongs are skipped.

/// Longest payload taken, in bytes: the longest that this tool publishes.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// One message in one frame, still masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// FIN and opcode: 0x81 or 0x82.
    pub(super) first: u8,
    /// Masking key.
    pub(super) key: [u8; 4],
    /// Masked payload.
    pub(super) payload: &'a [u8],
}

/// The client has closed, or sent what this server does not serve: the connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End;

/// One client's stream.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// A frame that has come in part.
    cut: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes and hands over the messages that are whole now.
    pub(super) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&Frame<'_>)) -> Result<(), End> {
        if self.cut.is_empty() {
            let used = walk(bytes, &mut take)?;
            self.cut.extend_from_slice(&bytes[used..]);
        } else {
            self.cut.extend_from_slice(bytes);
            let used = walk(&self.cut, &mut take)?;
            self.cut.drain(..used);
        }
        Ok(())
    }
}

/// Hands over the whole messages at the front of `bytes`; the length of all whole frames.
fn walk(bytes: &[u8], take: &mut impl FnMut(&Frame<'_>)) -> Result<usize, End> {
    let mut used = 0;
    while let Some((frame, len)) = split(&bytes[used..])? {
        used += len;
        match frame.first & 0x0f {
            1 | 2 => take(&frame),
            8 => return Err(End),
            _ => {}
        }
    }
    Ok(used)
}

/// The frame at the front of `bytes` and its length, header included; `None` if it is not whole.
fn split(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, End> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    // One frame per message, no reserved bit, known opcodes, masked.
    if !matches!(first, 0x81 | 0x82 | 0x88 | 0x89 | 0x8a) || second & 0x80 == 0 {
        return Err(End);
    }
    let (len, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        len => (u64::from(len), rest),
    };
    if len > PAYLOAD_BYTES_MAX {
        return Err(End);
    }
    let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let Some(payload) = rest.get(..len as usize) else { return Ok(None) };
    let used = bytes.len() - rest.len() + payload.len();
    Ok(Some((Frame { first, key: *key, payload }, used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First byte, key, payload as it lies in the stream.
    type Message = (u8, [u8; 4], Vec<u8>);

    fn feed(pieces: &[&[u8]]) -> (Vec<Message>, Result<(), End>) {
        let (mut frames, mut messages) = (Frames::default(), Vec::new());
        for piece in pieces {
            let fed = frames.feed(piece, |frame| {
                messages.push((frame.first, frame.key, frame.payload.to_vec()));
            });
            if fed.is_err() {
                return (messages, fed);
            }
        }
        (messages, Ok(()))
    }

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
        [header, &KEY, payload].concat()
    }

    /// The masked "Hello" of RFC 6455 section 5.7, an empty message, a ping, both longer lengths, then a close.
    fn stream() -> (Vec<u8>, Vec<Message>) {
        let hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let (middle, large) = (vec![7; 300], vec![9; 0x1_0001]);
        let stream = [
            frame(&[0x81, 0x85], &hello),
            frame(&[0x82, 0x80], &[]),
            frame(&[0x89, 0x82], b"hi"),
            frame(&[0x82, 0xfe, 0x01, 0x2c], &middle),
            frame(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1], &large),
            frame(&[0x8a, 0x80], &[]),
            frame(&[0x88, 0x82], &[0x03, 0xe8]),
        ]
        .concat();
        let messages =
            vec![(0x81, KEY, hello.into()), (0x82, KEY, vec![]), (0x82, KEY, middle), (0x82, KEY, large)];
        (stream, messages)
    }

    #[test]
    fn every_cut_gives_the_same() {
        let (stream, want) = stream();
        // The long payload is alike all over: cutting inside it once in a while is enough.
        for cut in (0..stream.len()).filter(|i| *i < 400 || *i > stream.len() - 30 || i % 4099 == 0) {
            let (a, b) = stream.split_at(cut);
            assert_eq!(feed(&[a, b]), (want.clone(), Err(End)), "cut at {cut}");
        }
        let single: Vec<&[u8]> = stream[..400].chunks(1).collect();
        assert_eq!(feed(&single), (want[..3].to_vec(), Ok(())));
    }

    #[test]
    fn what_is_not_served_ends_the_connection() {
        for bytes in [
            &[0x82, 0x05][..],                                 // not masked
            &[0xc2, 0x80],                                     // a reserved bit
            &[0x02, 0x80],                                     // the first of several frames
            &[0x80, 0x80],                                     // a continuation
            &[0x83, 0x80],                                     // an unknown opcode
            &[0x82, 0xff, 0, 0, 0, 0, 4, 0, 0, 1],             // 64 MiB and 1 byte
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // the top bit of the length
        ] {
            assert_eq!(feed(&[bytes]), (vec![], Err(End)), "{bytes:x?}");
        }
    }
}
