//! Workers over the driver in memory, all of them on the test's own thread: what costs are counted on, and what
//! benchmarks run on. Time stands still unless a test moves it.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc};

use stentor::{
    broker::{home::home_of, ids::WorkerId, limits::Gauge, name::TopicName},
    config::Config,
    engine::{
        Settings, Shared, Worker,
        driver::{
            Driver,
            sim::{Buffers, Net, Personality, Sim, SocketId},
        },
        stats::Stats,
    },
    session::{Router, routes::Routes},
};

use super::client::upgrade_request;

const SEED: u64 = 7;

/// More than any test has under way on one socket.
const BUFFER_BYTES: usize = 64 << 20;

/// Some workers and their net.
pub struct World {
    /// The clients' side.
    pub net: Net,
    stats: Arc<Vec<Stats>>,
    workers: Vec<Worker<Sim>>,
}

impl World {
    /// Workers that are idle, with the server's own routes.
    pub fn new(workers: u16, personality: Personality, config: &Config) -> World {
        let routes = Routes::new(config, Box::new(String::new)).expect("the default patterns are valid");
        World::routed(workers, personality, config, Arc::new(routes))
    }

    /// The same with other routes.
    pub fn routed(workers: u16, personality: Personality, config: &Config, router: Arc<dyn Router>) -> World {
        let net = Net::new(workers.into(), SEED);
        let drivers: Vec<Sim> = (0..workers).map(|worker| net.driver(worker.into(), personality)).collect();
        let stats = Arc::new(drivers.iter().map(|_| Stats::default()).collect::<Vec<_>>());
        let shared = Arc::new(Shared::new(
            Settings::new(config, 1 << 20, SEED),
            router,
            Arc::clone(&stats),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            drivers.iter().map(Driver::wake).collect(),
        ));
        let worker = |(id, driver)| Worker::new(WorkerId(id), driver, Arc::clone(&shared));
        World { net, stats, workers: (0..).zip(drivers).map(worker).collect() }
    }

    /// A topic whose home is the given worker.
    pub fn topic_at(&self, worker: u16) -> String {
        let workers = u16::try_from(self.workers.len()).expect("a few");
        let mut names = (0..).map(|i| format!("topic/{i}"));
        let is_home = |name: &String| {
            home_of(&TopicName::parse(name).expect("a name"), workers, SEED) == WorkerId(worker)
        };
        names.find(is_home).expect("each worker is a home")
    }

    /// A client of a worker that has become a WebSocket. Workers keep what they accept only as long as none has two
    /// connections more than another: connect to them in turn.
    pub fn connect(&mut self, worker: u16, path: &str) -> SocketId {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let buffers = Buffers { to_client: BUFFER_BYTES, to_server: BUFFER_BYTES };
        let client = self.net.connect(worker.into(), address, buffers).expect("it listens");
        self.net.write(client, upgrade_request(path).as_bytes());
        self.settle();
        let answer = self.net.read(client, usize::MAX);
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&answer));
        assert_eq!(self.count("handed_over"), 0, "it stayed where it came in");
        client
    }

    /// The same, and all that the client is sent from now on is counted and thrown away.
    pub fn connect_discarding(&mut self, worker: u16, path: &str) -> SocketId {
        let client = self.connect(worker, path);
        self.net.discard(client);
        client
    }

    /// One turn of each worker. False if none had anything to do.
    pub fn turn(&mut self) -> bool {
        let mut worked = false;
        for worker in &mut self.workers {
            match worker.tick() {
                Ok(_) => worked = true,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        worked
    }

    /// Turns until nobody has anything to do.
    pub fn settle(&mut self) {
        while self.turn() {}
    }

    /// A counter or gauge, over all workers.
    pub fn count(&self, name: &str) -> u64 {
        let value = |stats: &Stats| stats.all().find(|(_, other, ..)| *other == name).expect("a counter").3;
        self.stats.iter().map(value).sum()
    }

    /// The same of one worker.
    pub fn stats(&self, worker: u16) -> &Stats {
        &self.stats[usize::from(worker)]
    }
}
