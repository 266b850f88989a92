//! Request bodies (RFC 9112 §6, §7.1): the bytes behind a head, with a length or in chunks, collected into one piece.
//!
//! Chunk extensions are ignored and trailers are read and dropped, both bounded. Nothing that two parties could read
//! differently is let through: no bare LF, no space that the grammar does not have, no sign before a size.

use bytes::{Bytes, BytesMut};

use super::Refusal;

/// How a request says where its body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// It does not, so it has none.
    None,
    /// By a number of bytes.
    Length(u64),
    /// It comes in chunks.
    Chunked,
}

/// Bytes of all chunk extensions of a body. Nobody is known to send any; tiny chunks with long ones would make the
/// bound on the body meaningless.
const EXTENSION_BYTES_MAX: usize = 4 * 1024;

/// Bytes of the trailer section. It is dropped; what is sent at all is a digest or a signature.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Hexadecimal digits of a chunk's size, leading zeros included: 64 bits.
const SIZE_DIGITS_MAX: u32 = 16;

/// Collects one body.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    body: BytesMut,
    body_bytes_max: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// One of so many that the head declared.
    Length { left: usize },
    /// A digit of a chunk's size, or what ends it.
    Size { digits: u32, size: u64 },
    /// Space behind the size, which only a `;` may follow.
    Space { size: usize },
    /// Of an extension.
    Extension { size: usize },
    /// The LF of the size's line.
    SizeLf { size: usize },
    /// One of so many of this chunk.
    Data { left: usize },
    /// The CR behind a chunk's data.
    DataCr,
    /// The LF behind that.
    DataLf,
    /// The first of a trailer field, or the CR of the last line.
    Trailer,
    /// Of a trailer field's name.
    TrailerName,
    /// Of its value.
    TrailerValue,
    /// The LF behind that.
    TrailerLf,
    /// The LF of the last line.
    LastLf,
    /// Not of this body.
    Done,
}

impl BodyReader {
    /// A reader of a body of at most `body_bytes_max` bytes.
    ///
    /// # Errors
    /// 413: the declared length is more.
    pub fn new(framing: Framing, body_bytes_max: usize) -> Result<BodyReader, Refusal> {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => match usize::try_from(length) {
                Ok(0) => State::Done,
                Ok(left) if left <= body_bytes_max => State::Length { left },
                _ => return Err(too_large(body_bytes_max)),
            },
            Framing::Chunked => State::Size { digits: 0, size: 0 },
        };
        Ok(BodyReader { state, body: BytesMut::new(), body_bytes_max, extension_bytes: 0, trailer_bytes: 0 })
    }

    /// Takes from the front of `bytes` what belongs to the body. Gives the body once it is whole; what is left of
    /// `bytes` then belongs to the next request.
    ///
    /// # Errors
    /// The framing is broken (400), or something is over its limit (413, 431). The connection can't be read any more.
    pub fn read(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
        loop {
            match self.state {
                State::Done => return Ok(Some(std::mem::take(&mut self.body).freeze())),
                _ if bytes.is_empty() => return Ok(None),
                State::Length { left } => {
                    let taken = self.take(bytes, left);
                    self.state =
                        if taken == left { State::Done } else { State::Length { left: left - taken } };
                }
                State::Data { left } => {
                    let taken = self.take(bytes, left);
                    self.state =
                        if taken == left { State::DataCr } else { State::Data { left: left - taken } };
                }
                _ => self.read_framing(bytes)?,
            }
        }
    }

    /// Bytes of the body that have come so far.
    pub fn buffered(&self) -> usize {
        self.body.len()
    }

    /// Moves up to `most` bytes into the body; gives how many.
    fn take(&mut self, bytes: &mut BytesMut, most: usize) -> usize {
        let taken = bytes.split_to(most.min(bytes.len()));
        let len = taken.len();
        // Empty before, it takes over the memory instead of copying.
        self.body.unsplit(taken);
        len
    }

    /// Takes what stands around data: sizes, extensions, trailers.
    fn read_framing(&mut self, bytes: &mut BytesMut) -> Result<(), Refusal> {
        let mut read = 0;
        while let Some(&byte) = bytes.get(read) {
            self.state = self.after(byte)?;
            read += 1;
            if matches!(self.state, State::Data { .. } | State::Done) {
                break;
            }
        }
        let _ = bytes.split_to(read);
        Ok(())
    }

    fn after(&mut self, byte: u8) -> Result<State, Refusal> {
        Ok(match (self.state, byte) {
            (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(Refusal::bad_request("chunk", "a chunk's size has more than 16 digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (State::Size { digits: 1.., size }, b'\r') => State::SizeLf { size: self.fitting(size)? },
            (State::Size { digits: 1.., size }, b';') => State::Extension { size: self.fitting(size)? },
            (State::Size { digits: 1.., size }, b' ' | b'\t') => State::Space { size: self.fitting(size)? },
            (State::Space { .. } | State::Extension { .. }, _)
                if self.extension_bytes == EXTENSION_BYTES_MAX =>
            {
                return Err(Refusal::bad_request("chunk_extension", "the chunks have too long extensions"));
            }
            (State::Space { size }, b' ' | b'\t') => {
                self.extension_bytes += 1;
                State::Space { size }
            }
            (State::Space { size }, b';') => State::Extension { size },
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, _) if in_value(byte) => {
                self.extension_bytes += 1;
                State::Extension { size }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (
                State::Trailer | State::TrailerName | State::TrailerValue | State::TrailerLf | State::LastLf,
                _,
            ) => {
                return self.after_in_trailer(byte);
            }
            _ => {
                return Err(Refusal::bad_request(
                    "chunk",
                    "the body's chunks are malformed: each is its size in hexadecimal digits, CR LF, so many bytes, \
                     CR LF; the last has size 0",
                ));
            }
        })
    }

    fn after_in_trailer(&mut self, byte: u8) -> Result<State, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return Err(Refusal::headers_too_large(
                "trailer_too_long",
                format!(
                    "the trailer behind the chunks is longer than {TRAILER_BYTES_MAX} bytes: leave it out"
                ),
            ));
        }
        Ok(match (self.state, byte) {
            (State::Trailer, b'\r') => State::LastLf,
            (State::Trailer | State::TrailerName, _) if in_token(byte) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if in_value(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Done,
            _ => {
                return Err(Refusal::bad_request(
                    "trailer",
                    "the trailer behind the chunks is malformed: lines of 'Name: value' and an empty one",
                ));
            }
        })
    }

    /// A chunk's size, if the body is within its limit with it.
    fn fitting(&self, size: u64) -> Result<usize, Refusal> {
        let room = self.body_bytes_max - self.body.len();
        usize::try_from(size).ok().filter(|size| *size <= room).ok_or_else(|| too_large(self.body_bytes_max))
    }
}

/// Of a field's value (RFC 9110 §5.5).
fn in_value(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// Of a token (RFC 9110 §5.6.2).
fn in_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn too_large(body_bytes_max: usize) -> Refusal {
    Refusal::content_too_large(
        "body_too_large",
        format!(
            "the request body is longer than {body_bytes_max} bytes: send less at once, or see --max-body-bytes"
        ),
    )
}

#[cfg(test)]
mod tests;
