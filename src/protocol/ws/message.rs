//! The reader: a connection's bytes become messages and control frames (RFC 6455 §5.4 to §6.2).
//!
//! What is complete in the inbox is unmasked, validated and given where it lies; a large frame is split off with its
//! memory. Only what is incomplete is stored, in one box that exists as long as something is: a connection at a
//! message boundary owns nothing. Limits are applied to headers, before a byte is stored. However the bytes are cut
//! into pieces, the events are the same.

use std::ops::Range;

use super::assembly::Assembly;
use super::close::{CloseFrame, parse_close};
use super::frame::{FrameHeader, OpCode, parse_header};
use super::inbox::Inbox;
use super::payload::{Kind, Message, Payload};
use super::stash::Stash;
use super::{ProtocolError, mask, utf8};

/// From so many bytes of payload on, a message is given as [`Payload::Owned`] without a copy, since it becomes a log
/// segment of its own. A smaller one would pin more of the receive buffer than its copy costs.
pub const LARGE: usize = 32 * 1024;

/// What a client's messages may measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of payload in a message, all fragments together.
    pub message_bytes_max: usize,
    /// The most frames in a message, ≥ 1; empty ones count, since they cost time without costing bytes.
    pub fragments_max: u32,
}

/// Something complete that a client sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A text or binary message.
    Message(Message<'a>),
    /// To be answered with a pong of the same payload.
    Ping(&'a [u8]),
    /// Answers a ping, or came unasked.
    Pong(&'a [u8]),
    /// The last event: nothing that follows may be read (§5.5.1).
    Close(CloseFrame<'a>),
}

/// Reads one connection's frames.
///
/// After each receive: [`next`](Self::next) until it gives `None`. Before each receive, [`direct_buffer`] may offer
/// memory that saves a copy. After an error or a close event the reader is not to be used again.
///
/// [`direct_buffer`]: Self::direct_buffer
#[derive(Debug, Default)]
pub struct Reader {
    partial: Option<Box<Partial>>,
}

/// What has begun and is not complete.
#[derive(Debug, Default)]
struct Partial {
    /// The data message.
    assembly: Option<Assembly>,
    /// The front of a frame that is not in the assembly: an incomplete header, or an incomplete control frame.
    stash: Stash,
}

/// Something complete, by its place. The event itself borrows, and is made when nothing else has to be looked at.
enum Found {
    /// Frame and header are in the inbox.
    InInbox {
        kind: Kind,
        frame: Range<usize>,
        header_len: usize,
    },
    Owned {
        kind: Kind,
        payload: Payload<'static>,
    },
    ControlInInbox {
        opcode: OpCode,
        payload: Range<usize>,
    },
    ControlInStash {
        opcode: OpCode,
        payload: Range<usize>,
    },
}

impl Reader {
    /// The next complete message or control frame; `None` when the inbox is used up.
    pub fn next<'a>(
        &'a mut self,
        inbox: &'a mut Inbox,
        limits: &Limits,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.drop_delivered();
        let Some(found) = self.find(inbox, limits)? else { return Ok(None) };
        let event = match found {
            Found::InInbox { kind, frame, header_len } => {
                let payload = Payload::Borrowed { buffer: inbox.part(frame), start: header_len };
                Event::Message(Message { kind, payload })
            }
            Found::Owned { kind, payload } => Event::Message(Message { kind, payload }),
            Found::ControlInInbox { opcode, payload } => control_event(opcode, inbox.part(payload))?,
            Found::ControlInStash { opcode, payload } => {
                let partial = self.partial.as_ref().expect("a control frame was found in it");
                control_event(opcode, partial.stash.part(payload))?
            }
        };
        Ok(Some(event))
    }

    /// At a message boundary: nothing has begun, nothing is stored.
    pub fn is_idle(&self) -> bool {
        self.partial.as_ref().is_none_or(|partial| partial.assembly.is_none() && partial.stash.is_delivered())
    }

    /// Something of a message or a frame has begun; the opposite of [`is_idle`](Self::is_idle).
    pub fn message_started(&self) -> bool {
        !self.is_idle()
    }

    /// Bytes of heap that the connection holds; 0 when idle and [`next`](Self::next) has given `None`.
    pub fn buffered(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            size_of::<Partial>() + partial.assembly.as_ref().map_or(0, Assembly::capacity)
        })
    }

    /// Memory that the connection's next bytes can be received into, without a copy.
    ///
    /// Offered only when at least 4 KiB of the current frame's payload are missing, and never longer than those.
    /// After receiving: [`filled`](Self::filled), then [`next`](Self::next) with an empty inbox. Not taking the offer
    /// is always allowed.
    pub fn direct_buffer(&mut self) -> Option<&mut [u8]> {
        self.partial.as_mut()?.assembly.as_mut()?.direct_buffer()
    }

    /// `n` bytes were received into the [direct buffer](Self::direct_buffer) that was offered last.
    pub fn filled(&mut self, n: usize) {
        if let Some(assembly) = self.partial.as_mut().and_then(|partial| partial.assembly.as_mut()) {
            assembly.filled(n);
        }
    }

    /// Frees what the last event borrowed.
    fn drop_delivered(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        if partial.stash.is_delivered() {
            partial.stash.clear();
            if partial.assembly.is_none() {
                self.partial = None;
            }
        }
    }

    fn find(&mut self, inbox: &mut Inbox, limits: &Limits) -> Result<Option<Found>, ProtocolError> {
        loop {
            match self.partial.as_deref_mut() {
                Some(partial) if !partial.stash.is_empty() => {
                    let Some(header) = partial.stash.complete(inbox)? else { return Ok(None) };
                    if header.opcode.is_control() {
                        let payload = partial.stash.deliver(&header);
                        return Ok(Some(Found::ControlInStash { opcode: header.opcode, payload }));
                    }
                    partial.stash.clear();
                    let data = self.admit(&header, limits)?;
                    self.begin(&header, data, limits);
                }
                Some(Partial { assembly: Some(assembly), .. }) if assembly.frame_open() => {
                    assembly.absorb(inbox)?;
                    if assembly.frame_open() {
                        return Ok(None);
                    }
                    if assembly.message_complete() {
                        return Ok(self.finish());
                    }
                }
                _ if inbox.is_empty() => return Ok(None),
                _ => {
                    let Some(header) = parse_header(inbox.remaining())? else { return Ok(self.stash(inbox)) };
                    let found = if header.opcode.is_control() {
                        let frame_len = header.header_len + header.payload_len as usize;
                        if inbox.remaining().len() < frame_len {
                            return Ok(self.stash(inbox));
                        }
                        inbox.take(header.header_len);
                        let payload = inbox.take(header.payload_len as usize);
                        mask::unmask(inbox.part(payload.clone()), header.mask, 0);
                        Some(Found::ControlInInbox { opcode: header.opcode, payload })
                    } else {
                        self.data_frame(&header, inbox, limits)?
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// Takes the data frame at the front of the inbox: gives it if it is there as a whole message, else begins it.
    fn data_frame(
        &mut self,
        header: &FrameHeader,
        inbox: &mut Inbox,
        limits: &Limits,
    ) -> Result<Option<Found>, ProtocolError> {
        let data = self.admit(header, limits)?;
        let DataFrame { first, payload_len } = data;
        if let (Some(kind), true) = (first, header.fin) {
            let frame_len = header.header_len.saturating_add(payload_len);
            let available = inbox.remaining().len();
            if available >= frame_len {
                return single_frame(kind, header, frame_len, inbox).map(Some);
            }
            // Continued where it has begun, if the buffer reaches. Half of it must be there: otherwise a few bytes
            // could keep a buffer from its worker that they merely promise to fill.
            if payload_len >= LARGE && frame_len <= inbox.reach() && available >= frame_len / 2 {
                let arrived = available - header.header_len;
                let buffer = inbox.split_off(frame_len);
                self.partial_mut().assembly = Some(Assembly::begin_in(kind, header, buffer, arrived));
                return Ok(None);
            }
        }
        inbox.take(header.header_len);
        self.begin(header, data, limits);
        Ok(None)
    }

    /// Checks a data frame's header against the message under way and the limits (§5.4, §10.4).
    fn admit(&self, header: &FrameHeader, limits: &Limits) -> Result<DataFrame, ProtocolError> {
        let assembly = self.partial.as_ref().and_then(|partial| partial.assembly.as_ref());
        let first = Kind::of(header.opcode);
        match (first, assembly) {
            (Some(_), Some(_)) => return Err(ProtocolError::ExpectedContinuation),
            (None, None) => return Err(ProtocolError::UnexpectedContinuation),
            _ => {}
        }
        let (bytes_before, frames_before) = assembly.map_or((0, 0), |it| (it.declared(), it.frames()));
        let bytes = header.payload_len.saturating_add(bytes_before as u64);
        if bytes > limits.message_bytes_max as u64 {
            return Err(ProtocolError::MessageTooBig { bytes, bytes_max: limits.message_bytes_max });
        }
        let fragments = frames_before + 1;
        if fragments > limits.fragments_max {
            return Err(ProtocolError::TooManyFragments { fragments, fragments_max: limits.fragments_max });
        }
        // The cast keeps every bit: the length is within a limit that is a usize.
        Ok(DataFrame { first, payload_len: header.payload_len as usize })
    }

    /// Begins a data frame of which the header has been taken from the inbox.
    fn begin(&mut self, header: &FrameHeader, DataFrame { first, payload_len }: DataFrame, limits: &Limits) {
        let assembly = &mut self.partial_mut().assembly;
        match (first, assembly) {
            (Some(kind), assembly) => {
                *assembly = Some(Assembly::begin(kind, header, payload_len, limits.message_bytes_max));
            }
            (None, Some(assembly)) => assembly.next_frame(header, payload_len, limits.message_bytes_max),
            (None, None) => unreachable!("a continuation without a message was not admitted"),
        }
    }

    /// Gives the complete message away; nothing of it stays.
    fn finish(&mut self) -> Option<Found> {
        let (kind, payload) = self.partial.take()?.assembly?.finish();
        Some(Found::Owned { kind, payload })
    }

    /// Keeps the front of a header or of a control frame, for lack of the rest.
    fn stash(&mut self, inbox: &mut Inbox) -> Option<Found> {
        self.partial_mut().stash.push(inbox, usize::MAX);
        None
    }

    fn partial_mut(&mut self) -> &mut Partial {
        self.partial.get_or_insert_default()
    }
}

/// A data frame that was admitted.
#[derive(Clone, Copy)]
struct DataFrame {
    /// The message's kind, if the frame begins one; `None` for a further fragment.
    first: Option<Kind>,
    /// Within the limit.
    payload_len: usize,
}

/// Takes the frame at the front of the inbox, which is a message by itself and wholly there.
fn single_frame(
    kind: Kind,
    header: &FrameHeader,
    frame_len: usize,
    inbox: &mut Inbox,
) -> Result<Found, ProtocolError> {
    let header_len = header.header_len;
    if frame_len - header_len >= LARGE {
        let mut buffer = inbox.split_off(frame_len);
        open(kind, header, &mut buffer)?;
        return Ok(Found::Owned { kind, payload: Payload::Owned { buffer, start: header_len } });
    }
    let frame = inbox.take(frame_len);
    open(kind, header, inbox.part(frame.clone()))?;
    Ok(Found::InInbox { kind, frame, header_len })
}

/// Unmasks and validates a whole frame where it lies.
fn open(kind: Kind, header: &FrameHeader, frame: &mut [u8]) -> Result<(), ProtocolError> {
    let payload = &mut frame[header.header_len..];
    mask::unmask(payload, header.mask, 0);
    if kind == Kind::Text {
        utf8::whole(payload).map_err(|_| ProtocolError::InvalidUtf8)?;
    }
    Ok(())
}

fn control_event(opcode: OpCode, payload: &[u8]) -> Result<Event<'_>, ProtocolError> {
    Ok(match opcode {
        OpCode::Ping => Event::Ping(payload),
        OpCode::Pong => Event::Pong(payload),
        _ => Event::Close(parse_close(payload)?),
    })
}

#[cfg(test)]
mod tests;
