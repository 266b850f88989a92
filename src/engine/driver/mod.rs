//! The driver contract: what moves bytes between sockets and connections.
//!
//! It suits readiness (epoll) and completion (io_uring) alike. A driver knows sockets by the slot of their
//! connection and nothing else of the engine; the engine never sees a descriptor.
//!
//! What a driver provides:
//! - one wait for everything: sockets, listeners, wake-ups ([`Driver::wait`]). Readiness is reported once
//!   per change (edge-triggered), so the engine remembers what it has not finished;
//! - receiving into the worker's buffer, or directly into a connection's where a frame is incomplete; and from several
//!   sockets in one call, if that is worth it ([`Driver::receives_per_call`]);
//! - sending at once ([`Driver::send`]), and sending the runs of many connections ([`Driver::queue`]): a driver
//!   may leave such a run to be sent with others ([`Sent::Queued`]). It is then given to [`Driver::submit`], which
//!   reports those that were short, refused or failed; silence means that all bytes went. A connection has at most
//!   one send in flight, and when the submit has returned nothing is: bytes need no reference beyond the call;
//! - sockets that were just accepted and can move to another worker ([`Driver::Socket`]);
//! - the time ([`Driver::now`]): a simulated driver brings its own.

mod epoll;
pub mod listener;
pub mod sim;
mod sockets;
mod uring;

pub use epoll::Epoll;
pub use uring::{Descriptors, Uring};

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// Something happened. Slots are those given to [`Driver::add`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Connections wait at a listener.
    Acceptable,
    /// Bytes can be received. `to_end`: the peer has finished or failed, so receive until
    /// [`Received::End`] or [`Received::Failed`]; a short receive then does not mean that nothing is left.
    Readable {
        /// Which connection.
        slot: u32,
        /// Whether the stream's end is near.
        to_end: bool,
    },
    /// A socket that refused bytes takes some again.
    Writable(u32),
    /// Nothing more goes either way. What was received before can still be read.
    Broken(u32),
}

/// What a receive gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// So many bytes (≥ 1) lie at the front of the buffer.
    Bytes(usize),
    /// Nothing is there; an event follows when something is.
    Empty,
    /// The peer has finished.
    End,
    /// The connection is broken.
    Failed(io::ErrorKind),
}

/// What a send gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// So many bytes (≥ 1) went. Fewer than asked: the socket is full, an event follows when it is not.
    Bytes(usize),
    /// None went: the socket is full, an event follows when it is not.
    Refused,
    /// Nothing was done: the run goes with others, by [`Driver::submit`]. Unless that names the slot, all bytes go.
    Queued,
    /// The connection is broken.
    Failed,
}

/// How a socket ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// What was sent is still delivered.
    Close,
    /// The kernel's buffers are freed at once, the peer sees a reset.
    Reset,
}

/// Wakes a worker that waits, from another thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// See the head of this file.
pub trait Driver {
    /// An accepted socket that no worker owns yet.
    type Socket: Send;

    /// Waits until something happens, the timeout (`None`: endless) has passed or the worker is woken, and
    /// appends what happened.
    ///
    /// # Errors
    /// The driver itself is broken; the worker can't go on.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Time since the start, which is the same moment for all drivers of a process. Never goes back.
    fn now(&self) -> Duration;

    /// What wakes [`Driver::wait`].
    fn wake(&self) -> Wake;

    /// Takes one waiting connection; `None` when no more wait.
    ///
    /// # Errors
    /// The system can't give a socket now, mostly because descriptors have run out.
    fn accept(&mut self) -> io::Result<Option<(Self::Socket, SocketAddr)>>;

    /// Listens no more. Connections that wait at the listener are reset by the system.
    fn stop_listening(&mut self);

    /// Owns `socket` from now on as `slot`.
    ///
    /// # Errors
    /// The socket can't be registered; it is closed.
    fn add(&mut self, slot: u32, socket: Self::Socket) -> io::Result<()>;

    /// Receives into the front of `buffer` (not empty).
    fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received;

    /// From how many sockets at most [`Driver::receive_each`] receives with one system call: 1 if it takes one for each.
    fn receives_per_call(&self) -> usize {
        1
    }

    /// Receives from several sockets, each into the front of its own buffer (not empty), and appends what each gave.
    fn receive_each<'a>(
        &mut self,
        receives: impl Iterator<Item = (u32, &'a mut [u8])>,
        received: &mut Vec<Received>,
    ) {
        for (slot, buffer) in receives {
            received.push(self.receive(slot, buffer));
        }
    }

    /// Sends one run of bytes (not empty), at once.
    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent;

    /// Sends several runs of bytes (at least one, none empty), at once and in one system call.
    fn send_vectored(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> Sent;

    /// Sends one run (not empty), or leaves it to [`Driver::submit`] ([`Sent::Queued`]).
    #[inline(always)]
    fn queue(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        self.send(slot, bytes)
    }

    /// Sends the runs that were queued, one per connection, and appends the outcome of each that did not go whole.
    fn submit<'a>(&mut self, runs: impl Iterator<Item = (u32, &'a [u8])>, outcomes: &mut Vec<(u32, Sent)>) {
        for (slot, run) in runs {
            let sent = self.send(slot, run);
            if sent != Sent::Bytes(run.len()) {
                outcomes.push((slot, sent));
            }
        }
    }

    /// Sends no more: the peer sees the end of the stream, and can still send.
    fn finish(&mut self, slot: u32);

    /// Lets go of a socket. The slot can be used again.
    fn remove(&mut self, slot: u32, end: End);
}
