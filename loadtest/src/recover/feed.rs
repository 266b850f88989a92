//! The one publisher: its messages are due at fixed instants, and some more when it is told so.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::net::TcpStream;

use super::Shared;
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, Received, receive};
use crate::stamp::Stamp;
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// Bytes framed ahead of what the socket has taken.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// Publishes until the run is stopped.
pub(super) fn run(shared: &Shared) -> Result<(), Failure> {
    shared.watch.enrol("publish");
    let mut poller = Poller::new(shared.target.clone())?;
    let request_target = shared.topic().request_target(&shared.target.url, "mode=pub");
    poller.dial(0, &request_target)?;
    let mut publisher = Publisher::default();
    while publisher.stream.is_none() && !shared.control.stopped() {
        poller.turn(&mut publisher, PATIENCE)?;
    }
    shared.control.ready();
    // Due times count from the moment when the feed begins.
    let (mut began_ns, mut fed) = (None, 0u64);
    while !shared.control.stopped() {
        let now = shared.clock.now();
        let feeding = shared.feeding.load(Ordering::Acquire);
        let due_ns =
            feeding.then(|| *began_ns.get_or_insert(now) + (fed as f64 * 1e9 / shared.args.rate) as u64);
        let has_room = publisher.out.len() < OUT_BYTES_MAX;
        let extra = shared.extra.load(Ordering::Acquire);
        if let Some(due_ns) = due_ns.filter(|due_ns| *due_ns <= now && has_room) {
            fed += 1;
            publisher.frame(shared, due_ns, now);
        } else if extra > 0 && has_room {
            publisher.frame(shared, now, now);
            shared.extra.store(extra - 1, Ordering::Release);
        } else {
            let wait = due_ns.map_or(PATIENCE, |due_ns| Duration::from_nanos(due_ns.saturating_sub(now)));
            // A poll's timeout is in whole milliseconds.
            std::thread::sleep(wait.clamp(Duration::from_micros(10), PATIENCE / 4));
            poller.turn(&mut publisher, Duration::ZERO)?;
        }
        publisher.send()?;
    }
    Ok(())
}

#[derive(Default)]
struct Publisher {
    stream: Option<TcpStream>,
    walker: Walker,
    out: Vec<u8>,
    written: usize,
    sequence: u32,
}

impl Publisher {
    fn frame(&mut self, shared: &Shared, due_ns: u64, now: u64) {
        let late_us = u32::try_from((now - due_ns) / 1000).unwrap_or(u32::MAX);
        let stamp = Stamp { due_ns, publisher: 0, sequence: self.sequence, late_us };
        // Before it is sent: a receiver asks whether a sequence exists.
        self.sequence += 1;
        shared.published.store(self.sequence, Ordering::Release);
        let key = fastrand::u32(..).to_ne_bytes();
        append_frame(&mut self.out, Opcode::Text, key, &shared.pattern.payload(stamp).parts());
    }

    fn send(&mut self) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(len) => self.written += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Failure::System { what: "cannot publish".into(), source }),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

impl Handler for Publisher {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        self.stream = Some(opened.stream);
        self.ready(token)
    }

    fn ready(&mut self, _token: usize) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        while let Some(stream) = &mut self.stream {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, .. } => {
                    let mut replies = Replies { out: &mut self.out, closed: None };
                    let walked = self.walker.feed(&buffer[..len], &mut replies);
                    if let Some(how) = replies.closed.or(walked.err().map(String::from)) {
                        return Err(ended(how));
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => return Err(ended(how)),
            }
        }
        Ok(())
    }
}

fn ended(how: String) -> Failure {
    Failure::Refused { url: "the publisher's connection".into(), how }
}

/// What comes in on the publisher's connection.
struct Replies<'a> {
    out: &'a mut Vec<u8>,
    closed: Option<String>,
}

impl Sink for Replies<'_> {
    fn data(&mut self, _at: u64, _bytes: &[u8], _end: bool) {}

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => append_frame(self.out, Opcode::Pong, fastrand::u32(..).to_ne_bytes(), &[payload]),
            Opcode::Close => self.closed = Some(close_text(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}
