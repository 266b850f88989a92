//! The readiness driver: epoll through mio.
//!
//! Each socket is registered once, edge-triggered, for both directions; after that no `epoll_ctl` is ever
//! needed. A socket that never refuses bytes costs no write event.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};

use super::{
    Driver, End, Event, Received, Sent, Wake,
    sockets::{self, Readiness},
};

/// Events taken from the kernel per wait.
const EVENTS_PER_WAIT: usize = 1024;

const WAKER: Token = Token(usize::MAX);
/// Listeners have the tokens from here up to the waker's; sockets have their slots'.
const LISTENERS: usize = usize::MAX - 1024;

/// epoll through mio.
pub struct Epoll {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    listeners: Vec<TcpListener>,
    sockets: Vec<Option<TcpStream>>,
    started: Instant,
}

impl Epoll {
    /// A driver that accepts from `listeners`, and whose time began at `started`.
    ///
    /// # Errors
    /// The kernel gives no epoll or event descriptor.
    pub fn new(listeners: Vec<std::net::TcpListener>, started: Instant) -> io::Result<Epoll> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut listeners: Vec<_> = listeners.into_iter().map(TcpListener::from_std).collect();
        for (i, listener) in listeners.iter_mut().enumerate() {
            poll.registry().register(listener, Token(LISTENERS + i), Interest::READABLE)?;
        }
        let events = Events::with_capacity(EVENTS_PER_WAIT);
        Ok(Epoll { poll, events, waker, listeners, sockets: Vec::new(), started })
    }

    #[inline]
    fn socket(&self, slot: u32) -> Option<&TcpStream> {
        self.sockets.get(slot as usize)?.as_ref()
    }
}

impl Driver for Epoll {
    type Socket = TcpStream;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &self.events {
            let token = event.token();
            if token == WAKER {
                continue;
            }
            if token.0 >= LISTENERS {
                events.push(Event::Acceptable);
                continue;
            }
            let slot = u32::try_from(token.0).expect("sockets' tokens are slots");
            let finished = event.is_read_closed();
            let readiness = Readiness {
                readable: event.is_readable(),
                writable: event.is_writable(),
                finished,
                broken: event.is_error() || (finished && event.is_write_closed()),
            };
            readiness.report(slot, events);
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake(&self) -> Wake {
        let waker = Arc::clone(&self.waker);
        Arc::new(move || {
            // Can only fail when the counter of the event descriptor is full, and then it is awake.
            let _ = waker.wake();
        })
    }

    fn accept(&mut self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        for listener in &self.listeners {
            loop {
                match listener.accept() {
                    Ok(accepted) => return Ok(Some(accepted)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The peer was gone before it was accepted: go on with the next.
                    Err(error)
                        if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    fn stop_listening(&mut self) {
        self.listeners.clear();
    }

    fn add(&mut self, slot: u32, mut socket: TcpStream) -> io::Result<()> {
        self.poll.registry().register(
            &mut socket,
            Token(slot as usize),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let at = slot as usize;
        if at >= self.sockets.len() {
            self.sockets.resize_with(at + 1, || None);
        }
        self.sockets[at] = Some(socket);
        Ok(())
    }

    fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        match self.socket(slot) {
            Some(socket) => sockets::receive(socket, buffer),
            None => Received::Failed(ErrorKind::NotConnected),
        }
    }

    #[inline(always)]
    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        match self.socket(slot) {
            Some(socket) => sockets::send(socket, bytes),
            None => Sent::Failed,
        }
    }

    fn send_vectored(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> Sent {
        self.socket(slot).map_or(Sent::Failed, |socket| sockets::send_vectored(socket, parts))
    }

    fn finish(&mut self, slot: u32) {
        if let Some(socket) = self.socket(slot) {
            sockets::finish(socket);
        }
    }

    fn remove(&mut self, slot: u32, end: End) {
        let Some(socket) = self.sockets.get_mut(slot as usize).and_then(Option::take) else { return };
        if end == End::Reset {
            sockets::reset_when_closed(&socket);
        }
    }
}
