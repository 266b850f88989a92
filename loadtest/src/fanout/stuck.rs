//! Connections that subscribe and never read, so that it shows what they cost those beside them.
//!
//! They have the smallest receive buffers that the system gives, answer nothing once they are ready, and are not
//! accounted for. When
//! all else is over they are read once, to see which of them the server had closed.

use std::io::Write as _;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::Shared;
use crate::dialect::greeting::Greeting;
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Received, receive};
use crate::wire::{Opcode, Sink, Walker};

/// How long to read in the end, and how long nothing may come before it is taken to be over.
const READ: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(200);

/// Bytes read at once while a connection is not ready: what is left belongs into its receive buffer.
const GREETING_BYTES: usize = 1024;

/// Opens the connections, leaves them alone until the run is stopped, and gives how many were closed.
pub(super) fn run(shared: &Shared) -> Result<u64, Failure> {
    let plan = &shared.plan;
    if plan.stuck == 0 {
        shared.control.ready();
        return Ok(0);
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
        closed: 0,
    };
    let mut announced = false;
    while !shared.control.stopped() {
        while crowd.connections.len() < plan.stuck && ramp.allowed(poller.dialling()) > 0 {
            let id = crowd.connections.len();
            poller.dial(id, &plan.subscriber_target(plan.topic_of_subscriber(id)))?;
            crowd.connections.push(Connection::default());
            ramp.count();
        }
        if !announced && crowd.opened == plan.stuck {
            announced = true;
            shared.control.ready();
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
    Ok(crowd.closed)
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
    closed: u64,
}

#[derive(Default)]
struct Connection {
    stream: Option<TcpStream>,
    walker: Walker,
    greeting: Option<Box<Greeting>>,
    /// What came behind the response head.
    rest: Vec<u8>,
}

impl Connection {
    /// What a greeting says is little: the socket takes it, or has failed, which the end will show.
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
        }
        Ok(())
    }
}

impl Crowd<'_> {
    /// Reads until the connection is ready, and no further.
    fn greet(&mut self, token: usize) -> Result<(), Failure> {
        let plan = &self.shared.plan;
        let Connection { stream, walker, greeting, rest } = &mut self.connections[token];
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
        let Connection { stream, walker, rest, .. } = &mut self.connections[token];
        let mut end = Closing(false);
        // What a server sends that breaks the protocol is a matter of those who are accounted for.
        let _ = walker.feed(&std::mem::take(rest), &mut end);
        while let Some(open) = stream {
            match receive(open, &mut self.buffer) {
                Received::Bytes { len, .. } => {
                    self.heard = Instant::now();
                    let _ = walker.feed(&self.buffer[..len], &mut end);
                }
                Received::WouldBlock => break,
                Received::End(_) => end.0 = true,
            }
            if end.0 {
                *stream = None;
                self.closed += 1;
            }
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

/// Whether a close frame came.
struct Closing(bool);

impl Sink for Closing {
    fn data(&mut self, _at: u64, _bytes: &[u8], _end: bool) {}

    fn control(&mut self, opcode: Opcode, _payload: &[u8]) {
        self.0 |= opcode == Opcode::Close;
    }
}
