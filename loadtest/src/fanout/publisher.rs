//! One publisher: what it owes, what is on its way, and what comes in on its connection.

use mio::net::TcpStream;

use super::post::Exchange;
use crate::dialect::answers::{Answer, Ear};
use crate::dialect::greeting::Greeting;
use crate::dialect::text::MARKER;
use crate::stamp::PayloadKind;
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// Bytes framed ahead of what the socket has taken. Frames carry the time of sending, so few may wait.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// How a publisher stands with the server.
#[derive(Debug, Default)]
pub(super) enum Connection {
    /// On its way.
    #[default]
    Dialling,
    Open(TcpStream),
    /// It has ended, and the next request gets another.
    Spent,
    /// It has ended, and the publisher with it.
    Gone,
}

/// A publisher and its connection.
#[derive(Default)]
pub(super) struct Publisher {
    pub(super) connection: Connection,
    pub(super) walker: Walker,
    pub(super) greeting: Option<Box<Greeting>>,
    pub(super) ear: Ear,
    /// The request that is under way, where messages are posted.
    pub(super) exchange: Exchange,
    /// Frames, of which `sent` bytes are with the kernel; or a request, which stays until it is answered.
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    pub(super) sequence: u32,
    /// Messages released to it that are not framed yet.
    pub(super) owed: u64,
}

impl Publisher {
    pub(super) fn stream(&mut self) -> Option<&mut TcpStream> {
        match &mut self.connection {
            Connection::Open(stream) => Some(stream),
            Connection::Dialling | Connection::Spent | Connection::Gone => None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.connection, Connection::Gone)
    }

    /// A message is owed, and there is room for it.
    pub(super) fn may_frame(&self) -> bool {
        self.owed > 0 && self.out.len() < OUT_BYTES_MAX && !self.exchange.under_way
    }

    /// There is something to send for which it has no connection.
    pub(super) fn wants_connection(&self) -> bool {
        matches!(self.connection, Connection::Spent) && (self.owed > 0 || self.exchange.under_way)
    }

    /// All of `out` is with the kernel.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Forgets what has been sent and will not be asked for again.
    pub(super) fn forget_sent(&mut self, payload_bytes: usize) {
        if self.is_sent() && !self.exchange.under_way {
            self.out.clear();
            self.sent = 0;
            // A burst of large messages must not pin its memory for the rest of the run.
            self.out.shrink_to(OUT_BYTES_MAX + 2 * payload_bytes);
        }
    }
}

/// What comes in on a publisher's connection: pings, and messages that it did not ask for.
pub(super) struct Replies<'a> {
    pub(super) answers: &'a [Answer],
    pub(super) payload: PayloadKind,
    pub(super) greeting: &'a mut Option<Box<Greeting>>,
    pub(super) ear: &'a mut Ear,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) received: &'a mut u64,
    /// Heartbeats in the current message.
    pub(super) heard: u64,
    pub(super) closed: Option<String>,
}

impl Sink for Replies<'_> {
    fn data(&mut self, _at: u64, bytes: &[u8], end: bool) {
        self.heard += self.ear.hear(self.answers, bytes, end, self.out);
        if let Some(greeting) = self.greeting {
            if greeting.hear(bytes, end, self.out) {
                *self.greeting = None;
            }
        } else {
            // It is for a note only, so that a marker which is cut may be missed.
            *self.received += match self.payload {
                PayloadKind::Binary => u64::from(end && self.heard == 0),
                PayloadKind::Text => memchr::memmem::find_iter(bytes, MARKER).count() as u64,
            };
        }
        if end {
            self.heard = 0;
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            // Whole frames only are in the buffer, so a pong may go behind them.
            Opcode::Ping => append_frame(self.out, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]),
            Opcode::Close => self.closed = Some(close_text(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}
