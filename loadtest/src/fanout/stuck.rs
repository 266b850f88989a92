//! Connections that subscribe and never read, or slowly, so that it shows what they cost those beside them.
//!
//! They have the smallest receive buffers that the system gives and are not accounted for. Once ready, the stuck say
//! and read nothing; when all else is over they are read once, to see which of them the server had closed. Behind them
//! come the slow: a slow reader gets an allowance a few times a second, and reads and answers pings until it is used
//! up.

use std::io::Write as _;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::Shared;
use crate::dialect::greeting::Greeting;
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::wire::{Opcode, Sink, Walker, append_frame};

/// How long to read in the end, and how long nothing may come before it is taken to be over.
const READ: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(200);

/// Bytes read at once while a connection is not ready: what is left belongs into its receive buffer.
const GREETING_BYTES: usize = 1024;

/// How often a slow reader gets its allowance.
const SIP: Duration = Duration::from_millis(100);

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Those that never read and that the server had closed by the end.
    pub(super) stuck_closed: u64,
    /// Those that read slowly and that the server had closed by the end.
    pub(super) slow_closed: u64,
    /// Bytes that the slow ones read while the run went on.
    pub(super) slow_read_bytes: u64,
}

/// Opens the connections, leaves them alone or reads slowly until the run is stopped, and gives what became
/// of them.
pub(super) fn run(shared: &Shared) -> Result<Outcome, Failure> {
    let plan = &shared.plan;
    let all = plan.stuck + plan.slow_readers;
    if all == 0 {
        shared.control.ready();
        return Ok(Outcome::default());
    }
    plan.args.common.pin_thread(plan.threads + 1)?;
    shared.watch.enrol("stuck");
    let mut poller = Poller::new(shared.target.narrow())?;
    let mut ramp = plan.args.common.ramp(1);
    let mut crowd = Crowd {
        shared,
        connections: Vec::new(),
        opened: 0,
        buffer: vec![0; RECEIVE_BYTES],
        reads: false,
        heard: Instant::now(),
        stuck: plan.stuck,
        outcome: Outcome::default(),
    };
    let bytes_per_second = f64::from(plan.args.slow_bytes_per_second);
    let mut sipped = Instant::now();
    let mut announced = false;
    while !shared.control.stopped() {
        while crowd.connections.len() < all && ramp.allowed(poller.dialling()) > 0 {
            let id = crowd.connections.len();
            poller.dial(id, &plan.subscriber_target(plan.topic_of_subscriber(id)))?;
            crowd.connections.push(Connection::default());
            ramp.count();
        }
        if !announced && crowd.opened == all {
            announced = true;
            shared.control.ready();
        }
        if sipped.elapsed() >= SIP {
            let allowed = bytes_per_second * sipped.elapsed().as_secs_f64();
            sipped = Instant::now();
            (plan.stuck..crowd.connections.len()).for_each(|token| crowd.sip(token, allowed));
        }
        poller.turn(&mut crowd, if announced { PATIENCE } else { Duration::from_millis(1) })?;
    }
    crowd.reads = true;
    crowd.heard = Instant::now();
    let began = Instant::now();
    (0..crowd.connections.len()).for_each(|token| crowd.read(token));
    while began.elapsed() < READ && crowd.heard.elapsed() < SILENCE {
        poller.turn(&mut crowd, PATIENCE)?;
    }
    Ok(crowd.outcome)
}

struct Crowd<'a> {
    shared: &'a Shared,
    connections: Vec<Connection>,
    opened: usize,
    buffer: Vec<u8>,
    /// The end has come.
    reads: bool,
    /// When something was last read.
    heard: Instant,
    /// Tokens below are stuck, the others slow.
    stuck: usize,
    outcome: Outcome,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    walker: Walker,
    greeting: Option<Box<Greeting>>,
    /// What came behind the response head.
    rest: Vec<u8>,
    /// Bytes that a slow reader may read now.
    allowance: f64,
}

impl Connection {
    /// What is said here is little: the socket takes it, or has failed, which the end will show.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(bytes);
        }
    }
}

impl Handler for Crowd<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let connection = &mut self.connections[token];
        (connection.stream, connection.rest) = (Some(opened.stream), opened.rest);
        let mut out = Vec::new();
        connection.greeting =
            Greeting::begin(plan.subscriber_script(plan.topic_of_subscriber(token)), &mut out);
        connection.write(&out);
        self.opened += usize::from(connection.greeting.is_none());
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        if self.reads {
            self.read(token);
        } else if self.connections[token].greeting.is_some() {
            self.greet(token)?;
        } else if token >= self.stuck {
            self.read_allowed(token);
        }
        Ok(())
    }
}

impl Crowd<'_> {
    /// Reads until the connection is ready, and no further.
    fn greet(&mut self, token: usize) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let Connection { stream, walker, greeting, rest, .. } = &mut self.connections[token];
        let mut listen = Listen { greeting, out: Vec::new() };
        let _ = walker.feed(&std::mem::take(rest), &mut listen);
        while listen.greeting.is_some()
            && let Some(open) = stream
        {
            match receive(open, &mut self.buffer[..GREETING_BYTES]) {
                Received::Bytes { len, .. } => {
                    let _ = walker.feed(&self.buffer[..len], &mut listen);
                }
                Received::WouldBlock => break,
                Received::End(how) => {
                    let how =
                        listen.greeting.as_ref().map_or(how.clone(), |greeting| greeting.cut_short(&how));
                    let url = plan.target.url_of(&plan.subscriber_target(plan.topic_of_subscriber(token)));
                    return Err(Failure::Refused { url, how });
                }
            }
        }
        let (out, ready) = (listen.out, listen.greeting.is_none());
        self.connections[token].write(&out);
        self.opened += usize::from(ready);
        Ok(())
    }

    /// Reads what there is of one connection.
    fn read(&mut self, token: usize) {
        self.connections[token].allowance = f64::INFINITY;
        self.read_allowed(token);
    }

    /// Reads of one connection, `bytes` until the next time.
    fn sip(&mut self, token: usize, bytes: f64) {
        let connection = &mut self.connections[token];
        if connection.stream.is_some() && connection.greeting.is_none() {
            // What was not there to be read is not made up for later.
            connection.allowance = bytes + connection.allowance.fract();
            self.read_allowed(token);
        }
    }

    /// Reads of one connection what is there and allowed.
    fn read_allowed(&mut self, token: usize) {
        let Connection { stream, walker, rest, allowance, .. } = &mut self.connections[token];
        let mut sink = Answers { pongs: Vec::new(), closed: false };
        // What a server sends that breaks the protocol is a matter of those who are accounted for.
        let _ = walker.feed(&std::mem::take(rest), &mut sink);
        while let Some(open) = stream {
            let len = allowance.min(self.buffer.len() as f64) as usize;
            if len == 0 {
                break;
            }
            match receive(open, &mut self.buffer[..len]) {
                Received::Bytes { len, .. } => {
                    *allowance -= len as f64;
                    if token >= self.stuck && !self.reads {
                        self.outcome.slow_read_bytes += len as u64;
                    }
                    self.heard = Instant::now();
                    let _ = walker.feed(&self.buffer[..len], &mut sink);
                }
                Received::WouldBlock => break,
                Received::End(_) => sink.closed = true,
            }
            if sink.closed {
                *stream = None;
                if token < self.stuck {
                    self.outcome.stuck_closed += 1;
                } else {
                    self.outcome.slow_closed += 1;
                }
            }
        }
        if token >= self.stuck {
            self.connections[token].write(&sink.pongs);
        }
    }
}

/// Hands what comes to a greeting, until that is over.
struct Listen<'a> {
    greeting: &'a mut Option<Box<Greeting>>,
    out: Vec<u8>,
}

impl Sink for Listen<'_> {
    fn data(&mut self, _at: u64, bytes: &[u8], end: bool) {
        if self.greeting.as_mut().is_some_and(|greeting| greeting.hear(bytes, end, &mut self.out)) {
            *self.greeting = None;
        }
    }

    fn control(&mut self, _opcode: Opcode, _payload: &[u8]) {}
}

/// What a connection would say to what came.
struct Answers {
    pongs: Vec<u8>,
    /// A close frame came.
    closed: bool,
}

impl Sink for Answers {
    fn data(&mut self, _at: u64, _bytes: &[u8], _end: bool) {}

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => {
                append_frame(&mut self.pongs, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]);
            }
            Opcode::Close => self.closed = true,
            _ => {}
        }
    }
}
