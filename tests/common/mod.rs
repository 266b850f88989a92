//! What the integration tests share: a server on free ports, clients over real sockets, the metrics' reader, and
//! waits that end.
//!
//! [`Client`] is written from RFC 6455 and uses nothing of the server's own protocol code, so that both can't be
//! wrong in the same way. Every socket has timeouts; a condition is polled, never slept for.

#![allow(dead_code, reason = "each test crate uses its own part")]

pub mod client;
pub mod crowd;
pub mod in_memory;
pub mod process;
pub mod refusals;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use stentor::{
    cli::{self, Command},
    config::Config,
    engine::driver::{Descriptors, Uring},
    server::{Server, ServerHandle, StartError},
    session::Router,
};

#[allow(unused_imports, reason = "each test crate uses its own part")]
pub use client::{Client, Frame, frame};

/// How long anything may take that should happen at once. Only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration that most tests begin with: two workers, ends that come quickly.
pub fn config() -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        workers: 2,
        drain_timeout: Duration::from_millis(200),
        close_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

/// Flags that all servers are started with, so that a suite can be run on another driver: `STENTOR_FLAGS`, as in
/// `--driver=uring --direct-descriptors`.
pub fn flags() -> Vec<String> {
    let flags = std::env::var("STENTOR_FLAGS").unwrap_or_default();
    flags.split_whitespace().map(str::to_owned).collect()
}

/// Why no server here can run on io_uring; `None`: one can.
pub fn why_no_uring(descriptors: Descriptors) -> Option<String> {
    // On a thread of its own: the end of a ring interrupts what its maker waits in.
    let made = std::thread::spawn(move || Uring::new(Vec::new(), descriptors, Instant::now()).map(drop));
    made.join().expect("no panic").err().map(|error| error.to_string())
}

/// The configuration on the driver that `STENTOR_FLAGS` asks for.
fn driven(config: &Config) -> Config {
    let command = std::iter::once("stentor".into()).chain(flags().into_iter().map(Into::into));
    let Ok(Command::Serve(flags)) = cli::parse(command) else {
        panic!("STENTOR_FLAGS are flags: {:?}", flags())
    };
    Config { driver: flags.driver, direct_descriptors: flags.direct_descriptors, ..config.clone() }
}

/// A server in this process. Dropped, it is drained, and the test fails if one of its workers had panicked.
pub struct TestServer {
    server: Option<Server>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl TestServer {
    /// A server with its own routes.
    pub fn start(config: &Config) -> TestServer {
        TestServer::of(Server::start(&driven(config)).expect("the server starts"))
    }

    /// A server with the test's routes.
    pub fn start_with(config: &Config, router: Arc<dyn Router>) -> TestServer {
        TestServer::of(Server::start_with(&driven(config), router).expect("the server starts"))
    }

    /// A server that the test starts itself, with this configuration or another on the same driver.
    pub fn started(start: impl FnOnce(Config) -> Result<Server, StartError>, config: &Config) -> TestServer {
        TestServer::of(start(driven(config)).expect("the server starts"))
    }

    fn of(server: Server) -> TestServer {
        TestServer { address: server.addresses()[0], server: Some(server) }
    }

    /// What any thread can do with it.
    pub fn handle(&self) -> ServerHandle {
        self.server.as_ref().expect("it runs").handle()
    }

    /// What `/metrics` says now.
    pub fn metrics(&self) -> Metrics {
        Metrics(self.server.as_ref().expect("it runs").metrics())
    }

    /// Waits until a condition on the metrics holds.
    pub fn until(&self, what: &str, condition: impl Fn(&Metrics) -> bool) {
        until(what, || self.metrics(), condition);
    }

    /// Waits until so many connections are open.
    pub fn until_connections(&self, connections: u64) {
        // The gauge is set ten times a second, these are counted at once.
        self.until("connections", |metrics| metrics.sum("accepted") == metrics.sum("closed") + connections);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        server.drain();
        let ended = server.join();
        if !std::thread::panicking() {
            ended.expect("no worker failed");
        }
    }
}

impl From<&TestServer> for SocketAddr {
    fn from(server: &TestServer) -> SocketAddr {
        server.address
    }
}

/// The text of `/metrics`.
pub struct Metrics(pub String);

impl Metrics {
    /// Asks for them; the connection can be asked again.
    pub fn asked_on(client: &mut Client) -> Metrics {
        let response = client.request("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(response.status, 200, "{response:?}");
        Metrics(response.body)
    }

    /// The sum of a counter or gauge over all its labels. Its name stands without `stentor_` and `_total`.
    pub fn sum(&self, name: &str) -> u64 {
        self.lines(name).map(|(_, value)| value).sum()
    }

    /// The same for the lines of one reason.
    pub fn reason(&self, name: &str, reason: &str) -> u64 {
        let label = format!("reason=\"{reason}\"");
        self.lines(name).filter(|(labels, _)| labels.contains(&label)).map(|(_, value)| value).sum()
    }

    /// The values of a counter or gauge, worker by worker.
    pub fn by_worker(&self, name: &str) -> Vec<u64> {
        self.lines(name).map(|(_, value)| value).collect()
    }

    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix("stentor_")?.strip_prefix(name)?;
            let rest = rest.strip_prefix("_total").unwrap_or(rest);
            let (labels, value) = rest.rsplit_once(' ')?;
            if !labels.is_empty() && !labels.starts_with('{') {
                return None;
            }
            Some((labels, value.parse().unwrap_or_else(|_| panic!("a whole number: {line}"))))
        })
    }
}

/// Waits until a condition on the metrics holds; how long that took.
pub fn until(what: &str, metrics: impl Fn() -> Metrics, condition: impl Fn(&Metrics) -> bool) -> Duration {
    let (began, mut last) = (Instant::now(), Metrics(String::new()));
    let held = poll(|| {
        last = metrics();
        condition(&last)
    });
    assert!(held, "{what}: not within {PATIENCE:?}; metrics:\n{}", last.0);
    began.elapsed()
}

/// Polls until the condition holds; false if it never does.
pub fn poll(mut condition: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Polls until the condition holds.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(poll(condition), "{what}: not within {PATIENCE:?}");
}

/// Kernel memory that all TCP sockets of this machine hold for data, in bytes.
pub fn tcp_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").expect("Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).expect("a line for TCP");
    let pages = line
        .split(' ')
        .skip_while(|field| *field != "mem")
        .nth(1)
        .and_then(|field| field.parse::<u64>().ok());
    pages.expect("a number of pages") * rustix::param::page_size() as u64
}

/// Raises the limit on open files as far as it goes, for tests whose server is another process.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit one may");
}

/// Numbers that look random and are the same in every run (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).expect("below a usize")
    }

    /// Random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.number().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// Text of exactly `len` bytes: ASCII, Cyrillic and emoji.
    pub fn text(&mut self, len: usize) -> String {
        let mut text = String::with_capacity(len);
        while text.len() < len {
            let next = ['a', 'Я', '☃', '🦀', ' ', 'z'][self.below(6)];
            text.push(if text.len() + next.len_utf8() <= len { next } else { '.' });
        }
        text
    }
}
