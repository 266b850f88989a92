//! What it costs to receive a short message from each of some sockets. Only the receiving thread's part is timed: the
//! messages are there when it begins to wait. Their acknowledgements are in the figures, and the same for all ways.

use std::{
    io::{self, Write},
    net::{TcpListener, TcpStream},
    rc::Rc,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use socket2::SockRef;

use crate::{
    median, memory,
    ways::{Epoll, Multishot, Polls, Way},
};

/// Sockets that are open.
const OPEN: usize = 200;
const MESSAGE_LEN: usize = 64;
/// Receives in one system call at most.
const TOGETHER: u16 = 16;

/// Connected sockets and their peers, which are reset when this is dropped: so no port waits for late packets.
pub struct Connected {
    peers: Vec<TcpStream>,
    /// Those that are received from.
    pub sockets: Rc<[TcpStream]>,
}

impl Connected {
    /// So many.
    pub fn new(count: usize) -> io::Result<Connected> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let pair = || {
            let peer = TcpStream::connect(address)?;
            peer.set_nodelay(true)?;
            SockRef::from(&peer).set_linger(Some(Duration::ZERO))?;
            let (socket, _) = listener.accept()?;
            socket.set_nonblocking(true)?;
            Ok((peer, socket))
        };
        let (peers, sockets): (_, Vec<_>) = (0..count).map(|_| pair()).collect::<io::Result<_>>()?;
        Ok(Connected { peers, sockets: sockets.into() })
    }
}

/// A message on each of `ready` sockets, in one way. Says whether it was asked for.
fn measure<W: Way>(group: &mut BenchmarkGroup<'_, WallTime>, ready: usize) -> bool {
    let connected = Connected::new(OPEN).expect("sockets");
    let mut way = W::new(&connected.sockets).expect("a way");
    way.arm().expect("it is armed");
    let before = way.calls();
    let mut rounds = Vec::new();
    let mut peers = connected.peers.iter().cycle();
    group.throughput(Throughput::Elements(ready as u64));
    group.bench_function(BenchmarkId::new(W::NAME, ready), |bencher| {
        bencher.iter_custom(|iterations| {
            let first = rounds.len();
            for _ in 0..iterations {
                // No buffer has this one already.
                let message = rounds.len().to_ne_bytes().repeat(MESSAGE_LEN / size_of::<usize>());
                for mut peer in peers.by_ref().take(ready) {
                    peer.write_all(&message).expect("there is room");
                }
                let started = Instant::now();
                way.receive(ready, &message);
                rounds.push(started.elapsed());
            }
            rounds[first..].iter().sum()
        });
    });
    if rounds.is_empty() {
        return false;
    }
    let calls = (way.calls() - before) as f64 / (rounds.len() * ready) as f64;
    let median = median(&mut rounds) / ready as u32;
    println!("receive/{}/{ready}: {calls:.3} calls and, in the median, {median:?} per message\n", W::NAME);
    true
}

pub fn receiving(criterion: &mut Criterion) {
    // A process with one thread alone finds its descriptors more cheaply, which no server is.
    let (alive, ended) = mpsc::channel::<()>();
    let other = thread::spawn(move || ended.recv());

    let mut group = criterion.benchmark_group("receive");
    let mut any = false;
    for ready in [1, 16, 64] {
        any |= measure::<Epoll>(&mut group, ready);
        any |= measure::<Polls<1>>(&mut group, ready);
        any |= measure::<Polls<TOGETHER>>(&mut group, ready);
        any |= measure::<Multishot>(&mut group, ready);
    }
    group.finish();
    if any && let Err(error) = memory::idle() {
        println!("NOT RUN: memory: {error}");
    }

    drop(alive);
    let _ = other.join();
}
