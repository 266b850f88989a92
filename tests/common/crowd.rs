//! Very many subscribers of one topic, read by few threads.
//!
//! All of them must receive the same bytes: frames carry nothing that differs between clients. So what comes is
//! compared with one reference, at each subscriber's own position, as fast as memory can be compared. The reference
//! is known beforehand, or is what the fastest subscriber has received.

use std::{
    io::{ErrorKind, Read},
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::Client;

/// The bytes that everybody must receive.
struct Reference {
    bytes: RwLock<Vec<u8>>,
    /// Whether `bytes` may grow by what comes.
    learns: bool,
    len: usize,
    /// Bytes per second that each subscriber reads at most.
    pace: Option<usize>,
    /// How far each subscriber has come.
    positions: Vec<AtomicUsize>,
}

impl Reference {
    /// Compares bytes received at a position.
    fn check(&self, position: usize, bytes: &[u8]) -> Result<(), String> {
        let known = self.bytes.read().expect("no reader panics here");
        let overlap = known.len().saturating_sub(position).min(bytes.len());
        if known[position..position + overlap] != bytes[..overlap] {
            let differs = (0..overlap).find(|&i| known[position + i] != bytes[i]).unwrap_or(0);
            return Err(format!(
                "other bytes than expected at {}: {:?}",
                position + differs,
                &bytes[differs..bytes.len().min(differs + 40)]
            ));
        }
        drop(known);
        let end = position + bytes.len();
        if overlap == bytes.len() {
            return Ok(());
        }
        if !self.learns || end > self.len {
            return Err(format!("more than the {} bytes expected", self.len));
        }
        let mut known = self.bytes.write().expect("no reader panics here");
        if known.len() == position + overlap {
            known.extend_from_slice(&bytes[overlap..]);
            return Ok(());
        }
        drop(known);
        // Somebody else was faster meanwhile: compare again.
        self.check(position, bytes)
    }
}

/// See the head of this file.
pub struct Crowd {
    threads: Vec<JoinHandle<Result<(), String>>>,
    reference: Arc<Reference>,
}

const THREADS: usize = 2;

impl Crowd {
    /// Connects subscribers that must all receive exactly `expected`, within `time` from now.
    pub fn expecting(
        server: impl Into<SocketAddr>,
        path: &str,
        subscribers: usize,
        expected: Vec<u8>,
        time: Duration,
    ) -> Crowd {
        let len = expected.len();
        let bytes = RwLock::new(expected);
        let reference = Reference { bytes, learns: false, len, pace: None, positions: Vec::new() };
        Crowd::start(server.into(), path, subscribers, reference, time)
    }

    /// Connects subscribers that must all receive the same `len` bytes.
    pub fn agreeing(
        server: impl Into<SocketAddr>,
        path: &str,
        subscribers: usize,
        len: usize,
        time: Duration,
    ) -> Crowd {
        let bytes = RwLock::new(Vec::with_capacity(len));
        let reference = Reference { bytes, learns: true, len, pace: None, positions: Vec::new() };
        Crowd::start(server.into(), path, subscribers, reference, time)
    }

    /// The same, and none of them reads more than `pace` bytes per second.
    pub fn reading_at(
        pace: usize,
        server: impl Into<SocketAddr>,
        path: &str,
        subscribers: usize,
        len: usize,
        time: Duration,
    ) -> Crowd {
        let bytes = RwLock::new(Vec::with_capacity(len));
        let reference = Reference { bytes, learns: true, len, pace: Some(pace), positions: Vec::new() };
        Crowd::start(server.into(), path, subscribers, reference, time)
    }

    fn start(
        server: SocketAddr,
        path: &str,
        subscribers: usize,
        mut reference: Reference,
        time: Duration,
    ) -> Crowd {
        reference.positions = (0..subscribers).map(|_| AtomicUsize::new(0)).collect();
        let reference = Arc::new(reference);
        let mut sockets: Vec<Vec<TcpStream>> = (0..THREADS).map(|_| Vec::new()).collect();
        for number in 0..subscribers {
            let client = Client::open(server, path);
            client.stream.set_nonblocking(true).expect("a socket");
            sockets[number % THREADS].push(TcpStream::from_std(client.stream));
        }
        let threads = sockets.into_iter().enumerate().map(|(thread, sockets)| {
            let reference = Arc::clone(&reference);
            std::thread::spawn(move || {
                let mut readers = Readers {
                    thread,
                    positions: vec![0; sockets.len()],
                    missing: sockets.len(),
                    sockets,
                    reference: &reference,
                    buffer: vec![0; 256 * 1024],
                };
                let read = readers.read_all(time);
                // Whoever waits for the crowd to come on may give up before it is asked.
                read.inspect_err(|error| eprintln!("{error}"))
            })
        });
        Crowd { threads: threads.collect(), reference }
    }

    /// How many bytes everybody has received by now.
    pub fn least(&self) -> usize {
        let positions = self.reference.positions.iter().map(|position| position.load(Ordering::Relaxed));
        positions.min().unwrap_or(0)
    }

    /// Waits until everybody has everything; gives the bytes.
    pub fn finish(self) -> Vec<u8> {
        for thread in self.threads {
            if let Err(error) = thread.join().expect("no reader panics") {
                panic!("{error}");
            }
        }
        self.reference.bytes.read().expect("no reader panics").clone()
    }
}

/// How often those read who read slowly.
const ROUND: Duration = Duration::from_millis(50);

/// The subscribers of one thread.
struct Readers<'a> {
    thread: usize,
    sockets: Vec<TcpStream>,
    positions: Vec<usize>,
    /// Sockets that have not received everything.
    missing: usize,
    reference: &'a Reference,
    buffer: Vec<u8>,
}

impl Readers<'_> {
    /// Reads all sockets until each has received the reference's length, and nothing more.
    fn read_all(&mut self, time: Duration) -> Result<(), String> {
        let mut poll = Poll::new().map_err(|error| error.to_string())?;
        for (i, socket) in self.sockets.iter_mut().enumerate() {
            let registered = poll.registry().register(socket, Token(i), Interest::READABLE);
            registered.map_err(|error| error.to_string())?;
        }
        let mut events = Events::with_capacity(1024);
        let began = Instant::now();
        let mut round = began;
        while self.missing > 0 {
            let left = time.saturating_sub(began.elapsed());
            if left.is_zero() {
                let lowest = self.positions.iter().min().expect("there are sockets");
                return Err(format!(
                    "after {time:?} {} subscribers have not got everything; the last one has {lowest} of {} bytes",
                    self.missing, self.reference.len
                ));
            }
            if let Some(pace) = self.reference.pace {
                std::thread::sleep(ROUND.saturating_sub(round.elapsed()));
                // A round that was late is no reason to read on faster than ever.
                let share = pace as f64 * round.elapsed().min(2 * ROUND).as_secs_f64();
                round = Instant::now();
                for i in 0..self.sockets.len() {
                    self.read(i, share as usize)?;
                }
                continue;
            }
            // A signal may interrupt the wait; the loop goes on then.
            let _ = poll.poll(&mut events, Some(left));
            for event in &events {
                self.read(event.token().0, usize::MAX)?;
            }
        }
        for socket in &mut self.sockets {
            match socket.read(&mut self.buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return Err(format!("after all bytes: {other:?}")),
            }
        }
        Ok(())
    }

    /// Reads what has come on one socket, at most `share` bytes.
    fn read(&mut self, i: usize, mut share: usize) -> Result<(), String> {
        let (socket, position) = (&mut self.sockets[i], &mut self.positions[i]);
        while share > 0 && *position < self.reference.len {
            let room = share.min(self.buffer.len());
            let bytes = match socket.read(&mut self.buffer[..room]) {
                Ok(0) => return Err(format!("a subscriber was closed at {position}")),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("a subscriber was cut off at {position}: {error}")),
            };
            share -= bytes;
            self.reference.check(*position, &self.buffer[..bytes])?;
            *position += bytes;
            self.reference.positions[self.thread + THREADS * i].store(*position, Ordering::Relaxed);
            if *position == self.reference.len {
                self.missing -= 1;
            }
        }
        Ok(())
    }
}
