//! Bytes in: which connections are received from, in which order, and into what.
//!
//! Reading feeds and never writes. A connection that may not be read (its message waits for room or
//! credit, its own queue is full, its subscriptions are being made) keeps what was received already and is
//! left alone: the rest waits in the kernel, and then in the client.
//!
//! Where the driver receives from several sockets with one system call, connections that are at the start of a message
//! are received from together, each into a piece of memory of its own; who has more than fits is then received from
//! alone, as everyone is with other drivers.

use bytes::BytesMut;

use super::{
    connections::{Flag, Phase},
    driver::{Driver, End, Received},
    farewell::Why,
    worker::Worker,
};
use crate::{broker::ids::ConnectionId, protocol::ws::Inbox};

/// The worker's receive buffer. A message of 64 KiB that begins near its front ends in it.
const BUFFER_BYTES: usize = 68 * 1024;

/// A receive buffer of which large messages have taken more than this is replaced.
const BUFFER_BYTES_MIN: usize = 32 * 1024;

/// What one of several connections is received into. Most messages are shorter.
const PIECE_BYTES: usize = 4 * 1024;

/// Bytes that one connection may deliver in a turn, and all of them together.
const TURN_BYTES: usize = 256 * 1024;
const TICK_BYTES: usize = 1024 * 1024;

/// What is received into: the worker's, whatever the number of its connections. All of it is initialised.
#[derive(Default)]
pub struct Buffers {
    /// For one connection at a time.
    one: BytesMut,
    /// For several, one each.
    pieces: Vec<BytesMut>,
    /// Those connections, and what each receive gave.
    together: Vec<ConnectionId>,
    received: Vec<Received>,
}

impl Buffers {
    /// Whether nobody waits to be received from.
    pub(super) fn is_idle(&self) -> bool {
        self.together.is_empty() && self.received.is_empty()
    }
}

impl<D: Driver> Worker<D> {
    /// Receives from the connections on the ready list, within the tick's bound; who has more goes to the
    /// end of the list.
    pub(super) fn read_ready(&mut self) {
        let together_max = self.driver.receives_per_call();
        let mut left = TICK_BYTES;
        for listed in (0..self.ready.len()).rev() {
            let Some(slot) = self.ready.pop_front() else { break };
            if self.connections.hot(slot).clear(Flag::ListedReady) {
                if together_max > 1 && self.may_receive(slot) && self.fits_piece(slot) {
                    let id = self.connections.id(slot);
                    self.buffers.together.push(id);
                } else {
                    left = left.saturating_sub(self.read(slot, 0));
                }
            }
            let waiting = self.buffers.together.len();
            if waiting > 0 && (waiting == together_max || listed == 0 || left <= waiting * PIECE_BYTES) {
                left = left.saturating_sub(self.read_together(left));
            }
            if left == 0 {
                break;
            }
        }
    }

    /// Receives once from each of several connections, feeds what came, and goes on with those that have more, as far as
    /// the tick's bound allows; gives the bytes.
    fn read_together(&mut self, tick_bytes: usize) -> usize {
        let mut ids = std::mem::take(&mut self.buffers.together);
        // Others may have been read meanwhile, and have ended some.
        ids.retain(|id| self.connections.is_current(*id));
        let mut all = 0;
        if let [one] = ids[..] {
            all = self.read(one.slot, 0);
        } else {
            self.stats().receives.add(ids.len() as u64);
            let Buffers { pieces, received, .. } = &mut self.buffers;
            pieces.resize_with(pieces.len().max(ids.len()), BytesMut::default);
            for piece in pieces.iter_mut().filter(|piece| piece.len() < PIECE_BYTES) {
                *piece = BytesMut::zeroed(PIECE_BYTES);
            }
            let each = ids.iter().zip(pieces).map(|(id, piece)| (id.slot, &mut piece[..]));
            self.driver.receive_each(each, received);
            for (at, id) in ids.iter().enumerate() {
                let has_more = self.take_piece(at, *id, &mut all);
                if has_more && all < tick_bytes {
                    all += self.read(id.slot, PIECE_BYTES) - PIECE_BYTES;
                } else if has_more && self.may_receive(id.slot) {
                    self.list_ready(id.slot);
                }
            }
            self.buffers.received.clear();
        }
        ids.clear();
        self.buffers.together = ids;
        all
    }

    /// Feeds a connection what was received together with others, and counts it. True: more may be there.
    fn take_piece(&mut self, at: usize, id: ConnectionId, all: &mut usize) -> bool {
        if !self.connections.is_current(id) {
            // Ended by what another connection has sent.
            return false;
        }
        let slot = id.slot;
        let received = self.buffers.received[at];
        let Received::Bytes(bytes) = received else {
            return self.received(slot, received, 0);
        };
        *all += bytes;
        let piece = std::mem::take(&mut self.buffers.pieces[at]);
        let room = piece.len();
        let mut inbox = Inbox::from_buffer(piece, bytes);
        self.heard(slot, bytes);
        if self.may_read(slot) {
            inbox = self.feed(slot, inbox);
        } else {
            self.connections.extra(slot).unread = inbox.rest();
        }
        self.buffers.pieces[at] = inbox.into_buffer();
        if bytes == room && self.connections.is_current(id) {
            self.connections.hot(slot).set(Flag::SendsMuch);
        }
        self.received(slot, received, room)
    }

    /// Receives from one connection, which has delivered so many bytes in this turn, until nothing is left or it has
    /// had its turn; gives the bytes.
    fn read(&mut self, slot: u32, mut delivered: usize) -> usize {
        while self.may_receive(slot) {
            if delivered >= TURN_BYTES {
                self.list_ready(slot);
                break;
            }
            let (received, room) = self.receive_once(slot);
            if let Received::Bytes(bytes) = received {
                delivered += bytes;
            }
            if !self.received(slot, received, room) {
                break;
            }
        }
        delivered
    }

    /// What a receive into so much room says about the socket. True: more may be there.
    fn received(&mut self, slot: u32, received: Received, room: usize) -> bool {
        match received {
            Received::Bytes(bytes) => {
                if self.connections.phase(slot) == Phase::Free {
                    return false;
                }
                let hot = self.connections.hot(slot);
                if bytes < room && !hot.is(Flag::ToEnd) {
                    hot.clear(Flag::Readable);
                }
                return true;
            }
            Received::Empty => _ = self.connections.hot(slot).clear(Flag::Readable),
            Received::End => self.stream_ended(slot),
            Received::Failed(kind) => {
                // Where the peer has reset it there is nothing left to reset: a system call less.
                let gone = kind == std::io::ErrorKind::ConnectionReset;
                self.end(slot, if gone { End::Close } else { End::Reset }, Why::Reset);
            }
        }
        false
    }

    /// One receive, and the feeding of what it gave. Gives the room that there was, too.
    fn receive_once(&mut self, slot: u32) -> (Received, usize) {
        self.stats().receives.add(1);
        let warm = self.connections.warm(slot);
        let before = warm.reader.buffered();
        if let Some(buffer) = warm.reader.direct_buffer() {
            let room = buffer.len();
            let received = self.driver.receive(slot, buffer);
            if let Received::Bytes(bytes) = received {
                warm.reader.filled(bytes);
            }
            // The message's own buffer grows where it is offered.
            let after = warm.reader.buffered();
            self.account_assembly(slot, before, after);
            if let Received::Bytes(bytes) = received {
                self.heard(slot, bytes);
                self.feed(slot, Inbox::default());
            }
            return (received, room);
        }
        if self.buffers.one.len() < BUFFER_BYTES_MIN {
            self.buffers.one = BytesMut::zeroed(BUFFER_BYTES);
        }
        let room = self.buffers.one.len();
        let at_start = !self.connections.warm(slot).reader.message_started();
        let received = self.driver.receive(slot, &mut self.buffers.one);
        if let Received::Bytes(bytes) = received {
            self.heard(slot, bytes);
            if at_start && bytes < PIECE_BYTES {
                self.connections.hot(slot).clear(Flag::SendsMuch);
            }
            let inbox = Inbox::from_buffer(std::mem::take(&mut self.buffers.one), bytes);
            self.buffers.one = self.feed(slot, inbox).into_buffer();
        }
        (received, room)
    }

    fn heard(&mut self, slot: u32, bytes: usize) {
        self.stats().bytes_received.add(bytes as u64);
        let now = self.now;
        if matches!(self.connections.phase(slot), Phase::Open) {
            self.connections.warm(slot).received_at = now;
            self.connections.hot(slot).clear(Flag::AwaitsPong);
        }
    }

    /// Whether the connection's socket may be received from, and may have something.
    fn may_receive(&mut self, slot: u32) -> bool {
        self.may_read(slot) && !self.has_unread(slot) && self.connections.hot(slot).is(Flag::Readable)
    }

    /// Whether a piece will do for what comes next, most likely.
    fn fits_piece(&mut self, slot: u32) -> bool {
        !self.connections.hot(slot).is(Flag::SendsMuch)
            && !self.connections.warm(slot).reader.message_started()
    }

    /// Whether the connection's bytes may be looked at now.
    pub(super) fn may_read(&mut self, slot: u32) -> bool {
        match self.connections.phase(slot) {
            Phase::Free | Phase::Opening => false,
            Phase::Head | Phase::Open => !self.is_held(slot),
            Phase::Closing | Phase::Finishing => true,
        }
    }

    /// Whether something that was received is still to be fed: nothing may come before it. The flush lets a
    /// connection be read again after this tick's [`resume`](Self::resume), and before the next one reads.
    fn has_unread(&mut self, slot: u32) -> bool {
        self.connections.phase(slot) != Phase::Finishing
            && self.connections.warm(slot).extra.as_ref().is_some_and(|extra| !extra.unread.is_empty())
    }

    /// Whether the connection is not read because something of it waits.
    pub(super) fn is_held(&mut self, slot: u32) -> bool {
        self.connections.hot(slot).is(Flag::Paused)
            || self.connections.warm(slot).extra.as_ref().is_some_and(|extra| extra.holds())
    }

    /// The connection may be read again: first what was received already, then what has come since.
    pub(super) fn resume(&mut self) {
        for slot in std::mem::take(&mut self.resumed) {
            if !self.may_read(slot) {
                continue;
            }
            let unread =
                self.connections.warm(slot).extra.as_mut().map(|extra| std::mem::take(&mut extra.unread));
            self.connections.tidy(slot);
            if let Some(unread) = unread.filter(|unread| !unread.is_empty()) {
                let len = unread.len();
                self.feed(slot, Inbox::from_buffer(unread, len));
            } else if matches!(self.connections.phase(slot), Phase::Head | Phase::Open) {
                // An assembled message may be complete behind the one that waited, or a request.
                self.feed(slot, Inbox::default());
            }
            if self.connections.phase(slot) != Phase::Free && self.connections.hot(slot).is(Flag::Readable) {
                self.list_ready(slot);
            }
        }
    }
}
