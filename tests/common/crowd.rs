//! Very many subscribers of one topic, read by few threads.
//!
//! All of them must receive the same bytes: frames carry nothing that differs between clients. So what comes is
//! compared with one reference, at each subscriber's own position, as fast as memory can be compared. The reference
//! is known beforehand, or is what the fastest subscriber has received.

use std::{
    io::{ErrorKind, Read},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{Client, TestServer};

/// The bytes that everybody must receive.
struct Reference {
    bytes: RwLock<Vec<u8>>,
    /// Whether `bytes` may grow by what comes.
    learns: bool,
    len: usize,
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
        server: &TestServer,
        path: &str,
        subscribers: usize,
        expected: Vec<u8>,
        time: Duration,
    ) -> Crowd {
        let len = expected.len();
        let reference = Reference { bytes: RwLock::new(expected), learns: false, len, positions: Vec::new() };
        Crowd::start(server, path, subscribers, reference, time)
    }

    /// Connects subscribers that must all receive the same `len` bytes.
    pub fn agreeing(
        server: &TestServer,
        path: &str,
        subscribers: usize,
        len: usize,
        time: Duration,
    ) -> Crowd {
        let bytes = RwLock::new(Vec::with_capacity(len));
        let reference = Reference { bytes, learns: true, len, positions: Vec::new() };
        Crowd::start(server, path, subscribers, reference, time)
    }

    fn start(
        server: &TestServer,
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
                let read = read_all(sockets, thread, &reference, time);
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

/// Reads all sockets until each has received the reference's length, and nothing more.
fn read_all(
    mut sockets: Vec<TcpStream>,
    thread: usize,
    reference: &Reference,
    time: Duration,
) -> Result<(), String> {
    let mut poll = Poll::new().map_err(|error| error.to_string())?;
    for (i, socket) in sockets.iter_mut().enumerate() {
        let registered = poll.registry().register(socket, Token(i), Interest::READABLE);
        registered.map_err(|error| error.to_string())?;
    }
    let mut events = Events::with_capacity(1024);
    let mut positions = vec![0; sockets.len()];
    let mut missing = sockets.len();
    let mut buffer = vec![0; 256 * 1024];
    let began = Instant::now();
    while missing > 0 {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            let lowest = positions.iter().min().expect("there are sockets");
            return Err(format!(
                "after {time:?} {missing} subscribers have not got everything; the last one has {lowest} of {} bytes",
                reference.len
            ));
        }
        // A signal may interrupt the wait; the loop goes on then.
        let _ = poll.poll(&mut events, Some(left));
        for event in &events {
            let (socket, position) = (&mut sockets[event.token().0], &mut positions[event.token().0]);
            loop {
                let bytes = match socket.read(&mut buffer) {
                    Ok(0) => return Err(format!("a subscriber was closed at {position}")),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(format!("a subscriber was cut off at {position}: {error}")),
                };
                reference.check(*position, &buffer[..bytes])?;
                *position += bytes;
                reference.positions[thread + THREADS * event.token().0].store(*position, Ordering::Relaxed);
                if *position == reference.len {
                    missing -= 1;
                }
            }
        }
    }
    for socket in &mut sockets {
        match socket.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return Err(format!("after all bytes: {other:?}")),
        }
    }
    Ok(())
}
