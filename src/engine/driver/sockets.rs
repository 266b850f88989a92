//! What the drivers have in common: calls on sockets with ordinary descriptors, what results mean, and how readiness
//! becomes events.

use std::{
    io::{self, ErrorKind, IoSlice},
    os::fd::AsFd,
    time::Duration,
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use super::{Event, Received, Sent};

/// What a socket's readiness says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Readiness {
    /// Bytes can be received.
    pub readable: bool,
    /// Bytes can be sent.
    pub writable: bool,
    /// The peer has finished.
    pub finished: bool,
    /// Nothing more goes either way.
    pub broken: bool,
}

impl Readiness {
    /// Appends the events of it. Room comes first: what may leave makes room for what comes in.
    pub(super) fn report(self, slot: u32, events: &mut Vec<Event>) {
        if self.writable {
            events.push(Event::Writable(slot));
        }
        if self.broken {
            events.push(Event::Broken(slot));
        } else if self.readable || self.finished {
            events.push(Event::Readable { slot, to_end: self.finished });
        }
    }
}

/// Sends one run of bytes.
#[inline(always)]
pub(super) fn send(socket: impl AsFd, bytes: &[u8]) -> Sent {
    // Not through the C library, whose `send` prepares for being cancelled in a process with threads.
    sent(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
}

/// Sends several runs of bytes.
pub(super) fn send_vectored(socket: impl AsFd, parts: &[IoSlice<'_>]) -> Sent {
    let nothing_beside = &mut SendAncillaryBuffer::default();
    sent(sendmsg(socket, parts, nothing_beside, SendFlags::NOSIGNAL))
}

/// Receives into the front of a buffer.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Received {
    loop {
        match recv(&socket, &mut *buffer, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return received(result.map(|(bytes, _)| bytes).map_err(io::Error::from)),
        }
    }
}

/// What the result of a send means. With epoll it is part of the sweep's loop, but for what is rare.
#[inline(always)]
pub(super) fn sent<E: Into<io::Error>>(result: Result<usize, E>) -> Sent {
    match result {
        Ok(bytes) if bytes > 0 => Sent::Bytes(bytes),
        rare => match is_full(rare.map_err(Into::into)) {
            true => Sent::Refused,
            false => Sent::Failed,
        },
    }
}

/// Whether a send that took nothing found the socket full.
#[cold]
fn is_full(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// What the result of a receive means.
pub(super) fn received(result: io::Result<usize>) -> Received {
    match result {
        Ok(0) => Received::End,
        Ok(bytes) => Received::Bytes(bytes),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Empty,
        Err(error) => Received::Failed(error.kind()),
    }
}

/// Sends no more.
pub(super) fn finish(socket: impl AsFd) {
    // Fails only where the peer is gone already; the next receive says so.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
}

/// When the socket is closed, it is reset: that is what a linger time of 0 means. Where that can't be set it is closed.
pub(super) fn reset_when_closed(socket: impl AsFd) {
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
