//! What an idle socket takes in the kernel once somebody waits for what comes: beside what the socket takes itself, and
//! beside its place in a table of descriptors.
//!
//! The kernel tells it of the whole machine alone. So what others do meanwhile is in the figures. And it fills room that is
//! left in its slabs before it takes more: where many connections have just gone, the figures are too low.

use std::{fs, io, thread, time::Duration};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::{
    receive::Connected,
    ways::{Epoll, Multishot, Polls, Way},
};

/// Sockets, each of which has a peer in this process.
const IDLE: usize = 8000;

/// The kernel adds up its counters every second, and ends rings and sockets in its own time.
const SETTLED: Duration = Duration::from_secs(3);

/// Prints what each way takes.
pub fn idle() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let connected = Connected::new(IDLE)?;
    measure::<Epoll>("epoll", &connected)?;
    measure::<Polls<1>>("poll", &connected)?;
    measure::<Multishot>("multishot", &connected)
}

fn measure<W: Way>(name: &str, connected: &Connected) -> io::Result<()> {
    let mut way = W::new(&connected.sockets)?;
    let before = slab()?;
    way.arm()?;
    let each = (slab()? - before) / IDLE as i64;
    println!("memory: {name}: {each} B per idle socket");
    Ok(())
}

/// Bytes of the kernel's small objects.
fn slab() -> io::Result<i64> {
    thread::sleep(SETTLED);
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    kibibytes.map(|kibibytes| kibibytes << 10).ok_or_else(|| io::Error::other("/proc/meminfo has no Slab"))
}
