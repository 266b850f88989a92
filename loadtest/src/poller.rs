//! The event loop under every scenario: edge-triggered readiness, and connections on their way to open.
//!
//! Owns the poll and the handshakes under way; an open connection belongs to the scenario's [`Handler`]. Each
//! thread has one. Sockets are registered once, for both directions: re-registering would cost a system call per
//! change, and an edge that nobody waits for costs nothing.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::client::{Handshake, Progress, Target};
use crate::failure::Failure;

/// Bytes of a thread's receive buffer. Large enough that one receive call takes what has come, small enough to
/// stay in the second-level cache.
pub(crate) const RECEIVE_BYTES: usize = 256 * 1024;

/// Handshakes under way at once, per thread: below the usual listen backlog, so that no SYN is dropped.
pub(crate) const DIALS_MAX: usize = 128;

const WAKER: Token = Token(usize::MAX);

/// A connection that has just been upgraded.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The socket, registered under the token it was dialled with.
    pub(crate) stream: TcpStream,
    /// Bytes that came behind the response head.
    pub(crate) rest: Vec<u8>,
    /// From the first SYN to the answer.
    pub(crate) took: Duration,
}

/// What a scenario does with its connections.
pub(crate) trait Handler {
    /// The connection dialled as `token` is open. The handler must read the socket until it would block, since
    /// its edge may have been used up.
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure>;
    /// The connection dialled as `token` could not be opened.
    fn failed(&mut self, _token: usize, failure: Failure) -> Result<(), Failure> {
        Err(failure)
    }
    /// The socket of `token` may have bytes (or its end), or take some.
    fn ready(&mut self, token: usize) -> Result<(), Failure>;
}

struct Dial {
    stream: TcpStream,
    handshake: Handshake,
    began: Instant,
}

/// One thread's loop.
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    target: Target,
    dials: HashMap<usize, Dial>,
    dialled: usize,
    overdue_check: Instant,
}

impl Poller {
    /// A loop that dials `target`.
    pub(crate) fn new(target: Target) -> Result<Self, Failure> {
        Ok(Self {
            poll: Poll::new().map_err(Failure::system("cannot create an epoll instance"))?,
            events: Events::with_capacity(1024),
            target,
            dials: HashMap::new(),
            dialled: 0,
            overdue_check: Instant::now(),
        })
    }

    /// Something with which another thread ends this one's wait.
    pub(crate) fn waker(&self) -> Result<Arc<Waker>, Failure> {
        let waker = Waker::new(self.poll.registry(), WAKER);
        Ok(Arc::new(waker.map_err(Failure::system("cannot create an eventfd"))?))
    }

    /// Registers another source of wake-ups (a timer); its events reach no handler.
    pub(crate) fn wake_on(&self, source: &mut impl mio::event::Source) -> Result<(), Failure> {
        let done = self.poll.registry().register(source, WAKER, Interest::READABLE);
        done.map_err(Failure::system("cannot watch a timer"))
    }

    /// Handshakes under way.
    pub(crate) fn dialling(&self) -> usize {
        self.dials.len()
    }

    /// Starts connection `token`, asking for `request_target`.
    pub(crate) fn dial(&mut self, token: usize, request_target: &str) -> Result<(), Failure> {
        self.start(token, Handshake::new(&self.target, request_target))
    }

    fn start(&mut self, token: usize, handshake: Handshake) -> Result<(), Failure> {
        let url = handshake.url().to_string();
        let fail = |source| Failure::Connect { url: url.clone(), source };
        let began = Instant::now();
        // The token spreads over source addresses across threads as well, as it is dealt out round robin.
        let mut stream = self.target.connect(self.dialled).map_err(fail)?;
        self.dialled += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(token), interest).map_err(fail)?;
        self.dials.insert(token, Dial { stream, handshake, began });
        Ok(())
    }

    /// Starts connection `token` without an upgrade: it is open when TCP is.
    pub(crate) fn dial_plain(&mut self, token: usize) -> Result<(), Failure> {
        self.start(token, Handshake::none(&self.target))
    }

    /// Waits for events, at most `timeout`, and hands them to `handler`.
    pub(crate) fn turn(&mut self, handler: &mut impl Handler, timeout: Duration) -> Result<(), Failure> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(Failure::System { what: "epoll_wait".into(), source: error });
            }
            _ => {}
        }
        for event in &self.events {
            let Token(token) = event.token();
            if event.token() == WAKER {
                continue;
            }
            if self.dials.is_empty() || !self.dials.contains_key(&token) {
                handler.ready(token)?;
                continue;
            }
            let dial = self.dials.get_mut(&token).expect("the dial was just found");
            let progress = dial.handshake.advance(&mut dial.stream);
            if matches!(progress, Ok(Progress::Pending)) {
                continue;
            }
            let Dial { stream, began, .. } = self.dials.remove(&token).expect("the dial was just found");
            match progress {
                Ok(Progress::Pending) => {}
                Ok(Progress::Open(rest)) => {
                    handler.opened(token, Opened { stream, rest, took: began.elapsed() })?;
                }
                Err(failure) => handler.failed(token, failure)?,
            }
        }
        self.check_overdue()
    }

    fn check_overdue(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if self.dials.is_empty() || now - self.overdue_check < Duration::from_millis(100) {
            return Ok(());
        }
        self.overdue_check = now;
        match self.dials.values().find(|dial| now - dial.began > self.target.timeout) {
            None => Ok(()),
            Some(dial) => {
                Err(Failure::Timeout { url: dial.handshake.url().into(), after: self.target.timeout })
            }
        }
    }
}

/// Paces the opening of many connections by one thread.
#[derive(Debug)]
pub(crate) struct Ramp {
    rate: f64,
    dials_max: usize,
    began: Option<Instant>,
    started: usize,
}

impl Ramp {
    /// `rate` connections per second (0: no bound), and at most `dials_max` under way.
    pub(crate) fn new(rate: f64, dials_max: usize) -> Self {
        Self { rate, dials_max, began: None, started: 0 }
    }

    /// How many connections may be started now, given `dialling` under way.
    pub(crate) fn allowed(&mut self, dialling: usize) -> usize {
        let room = self.dials_max.saturating_sub(dialling);
        if self.rate == 0.0 {
            return room;
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        let due = 1 + (began.elapsed().as_secs_f64() * self.rate) as usize;
        room.min(due.saturating_sub(self.started))
    }

    /// One was started.
    pub(crate) fn count(&mut self) {
        self.started += 1;
    }
}

/// One receive call's outcome.
pub(crate) enum Received {
    /// This many bytes; `more` if the buffer was filled, so that more may wait.
    Bytes {
        /// Length, at least 1.
        len: usize,
        /// Call again.
        more: bool,
    },
    /// Nothing there now.
    WouldBlock,
    /// The peer has closed, or the connection failed.
    End(String),
}

/// Receives once. A call that does not fill the buffer has emptied the socket: the next byte makes a new edge
/// (epoll(7)), so no call is spent on hearing `EAGAIN`.
#[inline]
pub(crate) fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> Received {
    loop {
        return match stream.read(buffer) {
            Ok(0) => Received::End("the server closed the connection without a close frame".into()),
            Ok(len) => Received::Bytes { len, more: len == buffer.len() },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::WouldBlock,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Received::End(error.to_string()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_without_rate_keeps_its_dials_under_way() {
        let mut ramp = Ramp::new(0.0, 8);
        assert_eq!([ramp.allowed(0), ramp.allowed(7), ramp.allowed(9)], [8, 1, 0]);
    }

    #[test]
    fn a_ramp_starts_with_one_and_keeps_its_rate() {
        let mut ramp = Ramp::new(0.001, 8);
        assert_eq!(ramp.allowed(0), 1);
        ramp.count();
        assert_eq!(ramp.allowed(1), 0);
        let mut brisk = Ramp::new(1e9, 8);
        brisk.allowed(0);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(brisk.allowed(3), 5);
    }
}
