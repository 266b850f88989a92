//! The completion driver: io_uring, one ring per worker.
//!
//! What is done once per slice is one system call: the sends of a slice, and with the wait all that was asked for since
//! the last one. One poll per socket, which goes on (multishot), tells the readiness of both directions when it
//! changes; bytes are received when they are there, so an idle connection needs no buffer. One accept per listener
//! goes on as well.
//!
//! With [`Descriptors::Direct`] the sockets are in the ring's own table, under their connections' slots, and have no
//! descriptor: the limit on open files then holds for each table and not for the process. A socket that is accepted has
//! a descriptor until a worker owns it: so it can move to another worker, and tell its address.

mod ring;
mod tag;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::{SocketAddr, TcpListener},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    net::getpeername,
};
use smallvec::SmallVec;

use self::{
    ring::{Completion, Lengths, Ring, Target},
    tag::{GENERATIONS, Owner, Tag},
};
use super::{
    Driver, End, Event, Received, Sent, Wake,
    sockets::{self, Readiness},
};

/// Room for four slices' sends. The table of polls that the kernel searches when it cancels one grows with the
/// completions, up to this.
const LENGTHS: Lengths = Lengths { submissions: 256, completions: 8192 };

/// Sockets that are received from together.
const RECEIVES: usize = 16;

/// Accepted sockets that may wait for the worker; more wait at the listener.
const DOOR: usize = 256;

/// The kernel's own bound on a ring's table (`IORING_MAX_FIXED_FILES`).
const PLACES_MAX: u64 = 1 << 20;

/// How a worker's sockets are held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptors {
    /// Each has one of the process' descriptors.
    Ordinary,
    /// In the ring's table, with so many places: not more than the process may have open files.
    Direct {
        /// Places in the table.
        places: u32,
    },
}

impl Descriptors {
    /// Direct ones, as many as a process with this limit on open files can have in one ring.
    pub fn direct(open_files: u64) -> Descriptors {
        Descriptors::Direct { places: u32::try_from(open_files.min(PLACES_MAX)).expect("below 2^20") }
    }
}

/// A listener, and whether the ring accepts there.
struct Listener {
    socket: TcpListener,
    accepting: Accepting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepting {
    Not,
    Yes,
    /// It was cancelled, and has not ended yet.
    Ending,
}

/// A connection's socket.
struct Socket {
    /// `None`: it is in the table.
    descriptor: Option<OwnedFd>,
    generation: u32,
}

/// See the head of this file.
pub struct Uring {
    ring: Ring,
    wake: Arc<OwnedFd>,
    listeners: Vec<Listener>,
    /// Sockets that were accepted and not asked for yet.
    door: VecDeque<OwnedFd>,
    accept_error: Option<io::Error>,
    sockets: Vec<Option<Socket>>,
    generation: u32,
    started: Instant,
}

impl Uring {
    /// A driver that accepts from `listeners`, and whose time began at `started`. Only the calling thread can use it.
    ///
    /// # Errors
    /// There is no io_uring here, or it lacks what is needed; the text or the system's error says why.
    pub fn new(listeners: Vec<TcpListener>, descriptors: Descriptors, started: Instant) -> io::Result<Uring> {
        Uring::with_lengths(listeners, descriptors, started, LENGTHS)
    }

    fn with_lengths(
        listeners: Vec<TcpListener>,
        descriptors: Descriptors,
        started: Instant,
        lengths: Lengths,
    ) -> io::Result<Uring> {
        let places = match descriptors {
            Descriptors::Ordinary => 0,
            Descriptors::Direct { places } => places,
        };
        let mut ring = Ring::new(lengths, places)?;
        if places > 0
            && let Some(missing) = ring.rehearse()?
        {
            let why = format!("sockets without descriptors: this kernel's io_uring {missing}");
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        ring.poll_wake(wake.as_raw_fd());
        let listeners =
            listeners.into_iter().map(|socket| Listener { socket, accepting: Accepting::Not }).collect();
        let mut driver = Uring {
            ring,
            wake,
            listeners,
            door: VecDeque::new(),
            accept_error: None,
            sockets: Vec::new(),
            generation: 0,
            started,
        };
        driver.open_doors();
        Ok(driver)
    }

    /// Accepts at all listeners.
    fn open_doors(&mut self) {
        for (number, listener) in (0..).zip(&mut self.listeners) {
            if listener.accepting == Accepting::Not {
                listener.accepting = Accepting::Yes;
                self.ring.accept(listener.socket.as_raw_fd(), number);
            }
        }
    }

    /// Accepts nowhere, once that has ended: what comes until then is accepted still.
    fn close_doors(&mut self) {
        for (number, listener) in (0..).zip(&mut self.listeners) {
            if listener.accepting == Accepting::Yes {
                listener.accepting = Accepting::Ending;
                self.ring.cancel(Tag::Accept(number));
            }
        }
    }

    fn note(&mut self, completion: Completion, events: &mut Vec<Event>) {
        match completion {
            Completion::Polled { owner, mask, more } => self.polled(owner, mask, more, events),
            Completion::Accepted { listener, socket, more } => {
                self.accepted(listener, socket, more);
                // Also where accepting has ended: whoever asks then begins it again.
                events.push(Event::Acceptable);
            }
            Completion::Woken { more: true } => {}
            Completion::Woken { more: false } => self.ring.poll_wake(self.wake.as_raw_fd()),
        }
    }

    fn polled(&mut self, owner: Owner, mask: Option<u32>, more: bool, events: &mut Vec<Event>) {
        // Late, for a socket that is gone: the slot may have another by now.
        let Some(target) = self.target(owner.slot, |socket| socket.generation == owner.generation) else {
            return;
        };
        let Some(mask) = mask else {
            events.push(Event::Broken(owner.slot));
            return;
        };
        let is = |flags: i16| mask & flags as u32 != 0;
        let readiness = Readiness {
            readable: is(libc::POLLIN),
            writable: is(libc::POLLOUT),
            finished: is(libc::POLLRDHUP | libc::POLLHUP),
            broken: is(libc::POLLERR | libc::POLLHUP),
        };
        readiness.report(owner.slot, events);
        if !more {
            // The kernel ends it where a completion had no room. A new one begins by telling what is.
            self.ring.poll(target, owner);
        }
    }

    fn accepted(&mut self, listener: u32, socket: io::Result<OwnedFd>, more: bool) {
        match socket {
            Ok(socket) => self.door.push_back(socket),
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => self.accept_error = Some(error),
        }
        if let (false, Some(listener)) = (more, self.listeners.get_mut(listener as usize)) {
            listener.accepting = Accepting::Not;
        }
        if self.door.len() > DOOR {
            self.close_doors();
        }
    }

    /// The socket of a slot, if there is one and it is the one that is meant.
    fn target(&self, slot: u32, is_meant: impl FnOnce(&Socket) -> bool) -> Option<Target> {
        let socket = self.sockets.get(slot as usize)?.as_ref().filter(|socket| is_meant(socket))?;
        Some(socket.target(slot))
    }

    fn socket(&self, slot: u32) -> Option<&Socket> {
        self.sockets.get(slot as usize)?.as_ref()
    }
}

impl Socket {
    fn target(&self, slot: u32) -> Target {
        match &self.descriptor {
            Some(descriptor) => Target::Descriptor(descriptor.as_raw_fd()),
            None => Target::Place(slot),
        }
    }
}

impl Driver for Uring {
    type Socket = OwnedFd;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.ring.wait(timeout)?;
        while let Some(completion) = self.ring.next() {
            self.note(completion, events);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake(&self) -> Wake {
        let wake = Arc::clone(&self.wake);
        Arc::new(move || {
            // Can only fail when the counter is full, after 2^64 wake-ups.
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        })
    }

    fn accept(&mut self) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
        while let Some(socket) = self.door.pop_front() {
            // A peer that is gone already has no address.
            let address = getpeername(&socket).ok().flatten();
            if let Some(address) = address.and_then(|address| SocketAddr::try_from(address).ok()) {
                return Ok(Some((socket, address)));
            }
        }
        if let Some(error) = self.accept_error.take() {
            return Err(error);
        }
        self.open_doors();
        Ok(None)
    }

    fn stop_listening(&mut self) {
        self.close_doors();
        // An accept under way holds its listener, and the address, even after the process has gone.
        let mut others = VecDeque::new();
        while self.listeners.iter().any(|listener| listener.accepting != Accepting::Not) {
            if self.ring.wait(Some(Duration::from_secs(1))).is_err() {
                break;
            }
            while let Some(completion) = self.ring.next() {
                match completion {
                    Completion::Accepted { listener, socket, more } => self.accepted(listener, socket, more),
                    other => others.push_back(other),
                }
            }
        }
        self.ring.put_back(others);
        self.listeners.clear();
        self.door.drain(..).for_each(sockets::reset_when_closed);
    }

    fn add(&mut self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        let descriptor = match self.ring.places() {
            0 => Some(socket),
            places if slot < places => {
                self.ring.put(slot, socket)?;
                None
            }
            places => {
                return Err(io::Error::other(format!("the ring's table is full, with {places} connections")));
            }
        };
        self.generation = (self.generation + 1) % GENERATIONS;
        let socket = Socket { descriptor, generation: self.generation };
        self.ring.poll(socket.target(slot), Owner { slot, generation: self.generation });
        let at = slot as usize;
        if at >= self.sockets.len() {
            self.sockets.resize_with(at + 1, || None);
        }
        self.sockets[at] = Some(socket);
        Ok(())
    }

    fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        match self.socket(slot) {
            Some(Socket { descriptor: Some(socket), .. }) => sockets::receive(socket, buffer),
            Some(Socket { descriptor: None, .. }) => sockets::received(self.ring.receive(slot, buffer)),
            None => Received::Failed(ErrorKind::NotConnected),
        }
    }

    fn receives_per_call(&self) -> usize {
        RECEIVES
    }

    fn receive_each<'a>(
        &mut self,
        receives: impl Iterator<Item = (u32, &'a mut [u8])>,
        received: &mut Vec<Received>,
    ) {
        let Uring { ring, sockets, .. } = self;
        let first = received.len();
        let receives = receives.map(|(slot, buffer)| {
            let socket = sockets[slot as usize].as_ref().expect("who is received from is there");
            received.push(Received::Failed(ErrorKind::NotConnected));
            (socket.target(slot), buffer)
        });
        let mut results: SmallVec<[_; RECEIVES]> = SmallVec::new();
        ring.receive_each(receives, |number, result| results.push((number, result)));
        for (number, result) in results {
            received[first + number as usize] = sockets::received(result);
        }
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        match self.socket(slot) {
            Some(Socket { descriptor: Some(socket), .. }) => sockets::send(socket, bytes),
            Some(Socket { descriptor: None, .. }) => sockets::sent(self.ring.send(slot, bytes)),
            None => Sent::Failed,
        }
    }

    fn send_vectored(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> Sent {
        match self.socket(slot) {
            Some(Socket { descriptor: Some(socket), .. }) => sockets::send_vectored(socket, parts),
            Some(Socket { descriptor: None, .. }) => sockets::sent(self.ring.send_vectored(slot, parts)),
            None => Sent::Failed,
        }
    }

    fn queue(&mut self, _slot: u32, _bytes: &[u8]) -> Sent {
        Sent::Queued
    }

    fn submit<'a>(&mut self, runs: impl Iterator<Item = (u32, &'a [u8])>, outcomes: &mut Vec<(u32, Sent)>) {
        let Uring { ring, sockets, .. } = self;
        let runs = runs.map(|(slot, run)| {
            let socket = sockets[slot as usize].as_ref().expect("nobody is removed with a send in flight");
            (slot, socket.target(slot), run)
        });
        ring.send_all(runs, |slot, result| outcomes.push((slot, sockets::sent(result))));
    }

    fn finish(&mut self, slot: u32) {
        match self.socket(slot) {
            Some(Socket { descriptor: Some(socket), .. }) => sockets::finish(socket),
            // Without a descriptor to spare the end of the stream comes with the close.
            Some(Socket { descriptor: None, .. }) => _ = self.ring.descriptor(slot).map(sockets::finish),
            None => {}
        }
    }

    fn remove(&mut self, slot: u32, end: End) {
        let Some(socket) = self.sockets.get_mut(slot as usize).and_then(Option::take) else { return };
        let generation = socket.generation;
        match socket.descriptor {
            Some(socket) => {
                if end == End::Reset {
                    sockets::reset_when_closed(&socket);
                }
                self.ring.close_descriptor(socket);
            }
            None => {
                if end == End::Reset {
                    self.ring.reset_when_closed(slot);
                }
                self.ring.close(slot);
            }
        }
        // The poll holds the socket.
        self.ring.cancel(Tag::Poll(Owner { slot, generation }));
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.stop_listening();
        // Sockets that were removed are closed now, and not when the kernel comes to it.
        let _ = self.ring.wait(Some(Duration::ZERO));
    }
}
