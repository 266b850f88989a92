//! Sending a slice: offers to up to 64 sockets, one system call each, or one for all (see `uring`).

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::log::Log;
use super::subscribers::{GONE, Subscribers};
use super::uring::Ring;
use crate::cli::SendBy;
use crate::failure::Failure;

/// Most offers of one slice.
pub(super) const SLICE: usize = 64;

/// What is to go to one subscriber: everything from its cursor to `end`. In a slice no position is named twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Whose turn it is.
    pub(super) position: u32,
    /// Position in the log, beyond the subscriber's cursor.
    pub(super) end: u64,
}

/// How the sockets of a slice took what was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Some socket took some bytes.
    pub(super) any: bool,
    /// Sockets that took less than was offered, or nothing.
    pub(super) refused: u64,
}

impl Taken {
    /// Notes that `position`, which was offered `offered` bytes from `from` on, took what `result` says.
    #[inline]
    pub(super) fn note(
        &mut self,
        subscribers: &mut Subscribers,
        position: usize,
        from: u64,
        offered: usize,
        result: Result<usize, Errno>,
    ) {
        match result {
            Ok(taken) => {
                self.any = true;
                self.refused += u64::from(taken < offered);
                subscribers.cursors[position] = from + taken as u64;
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                self.refused += 1;
                subscribers.cursors[position] = from;
            }
            // Reset or closed by the client: epoll says so as well, and the connection is ended there.
            Err(_) => subscribers.cursors[position] = GONE,
        }
    }
}

/// By which means bytes go out.
pub(super) enum Sender {
    /// A `send` system call for each offer.
    Calls,
    /// One `io_uring_enter` for a slice.
    Ring(Box<Ring>),
}

impl Sender {
    /// As the flags say; the process may have `files` open files.
    pub(super) fn new(by: SendBy, direct_descriptors: bool, files: u64) -> Result<Self, Failure> {
        match by {
            SendBy::Send => Ok(Self::Calls),
            SendBy::Uring => Ok(Self::Ring(Box::new(Ring::new(direct_descriptors, files)?))),
        }
    }

    /// Prepares for sending to connection `slot`; gives its socket back unless only the ring has it now.
    pub(super) fn admit(&mut self, slot: u32, socket: OwnedFd) -> Result<Option<OwnedFd>, Failure> {
        match self {
            Self::Calls => Ok(Some(socket)),
            Self::Ring(ring) => ring.admit(slot, socket),
        }
    }

    /// Nothing will be sent to connection `slot` any more.
    pub(super) fn dismiss(&mut self, slot: u32) -> Result<(), Failure> {
        match self {
            Self::Calls => Ok(()),
            Self::Ring(ring) => ring.dismiss(slot),
        }
    }

    /// Receives from a socket that only the ring has.
    pub(super) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Result<Result<usize, Errno>, Failure> {
        match self {
            Self::Calls => Ok(Err(Errno::BADF)),
            Self::Ring(ring) => ring.receive(slot, buffer),
        }
    }

    /// Sends a slice and moves the cursors by what was taken.
    pub(super) fn send(
        &mut self,
        log: &Log,
        subscribers: &mut Subscribers,
        slice: &[Offer],
    ) -> Result<Taken, Failure> {
        match self {
            Self::Calls => Ok(send_each(log, subscribers, slice)),
            Self::Ring(ring) => ring.send(log, subscribers, slice),
        }
    }
}

fn send_each(log: &Log, subscribers: &mut Subscribers, slice: &[Offer]) -> Taken {
    let mut taken = Taken::default();
    for &Offer { position, end } in slice {
        let position = position as usize;
        let from = subscribers.cursors[position];
        let bytes = log.between(from, end);
        let Some(socket) = &subscribers.sockets[position] else { continue };
        let result = send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        taken.note(subscribers, position, from, bytes.len(), result);
    }
    taken
}
