//! Nothing is allocated per delivery: what a message costs of the heap does not depend on how many get it. And what it
//! does cost: segments of its topic's log, where it is small; its receive buffer, where it is large.
//!
//! Allocations are counted on the thread that runs the workers, and only while they run, after a warm-up in which
//! lists and queues grow to what they need.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    client::{BINARY, frame, upgrade_request},
    in_memory::World,
};
use stentor::{
    broker::{ids::WorkerId, limits::Gauge, name::TopicName, pattern::Pattern},
    config::{Config, SlowConsumer, TopicRule},
    engine::{
        Settings, Shared, Worker,
        driver::{Descriptors, Driver, Epoll, Uring, listener, sim::Personality},
        stats::Stats,
    },
    session::routes::Routes,
};

/// Rounds that are counted, and as many before them that are not.
const ROUNDS: usize = 200;

/// What is published in each round, and what all rounds together may allocate.
struct Load {
    payload_bytes: usize,
    messages_per_round: usize,
    allocations_max: u64,
}

const LOADS: [Load; 5] = [
    // Two allocations per segment (its memory, and what counts the references to it). At 1,000 messages per second
    // segments of small ones have 16 KiB, else 256 KiB. Another two, with subscribers that are blocked or on another
    // worker, are lists of segments that grow.
    Load { payload_bytes: 64, messages_per_round: 1, allocations_max: 5 },
    Load { payload_bytes: 64, messages_per_round: 64, allocations_max: 20 },
    Load { payload_bytes: 4 << 10, messages_per_round: 1, allocations_max: 10 },
    Load { payload_bytes: 16 << 10, messages_per_round: 1, allocations_max: 30 },
    // Three per message: a new receive buffer for the worker, what shares the old one between the message and the
    // rest of it, and the message's entry in the log.
    Load { payload_bytes: 64 << 10, messages_per_round: 1, allocations_max: 3 * ROUNDS as u64 + 5 },
];

#[derive(Clone, Copy, Debug)]
struct Case {
    personality: Personality,
    slow_consumer: SlowConsumer,
    workers: u16,
    /// The worker that orders the topic; the publisher is on worker 0.
    home: u16,
    /// Subscribers whose sockets take nothing, beside those that take all.
    blocked: u16,
}

/// Allocations of [`ROUNDS`] rounds.
fn allocations(case: Case, load: &Load, subscribers: u16) -> u64 {
    let config = Config {
        slow_consumer: case.slow_consumer,
        // Who is blocked stays.
        lag_bytes_max: 1 << 30,
        lag_messages_max: 1 << 30,
        log_bytes_max: 2 << 30,
        ..Config::default()
    };
    let mut world = World::new(case.workers, case.personality, &config);
    let topic = world.topic_at(case.home);
    let publisher = world.connect(0, &format!("/ws/{topic}?mode=pub"));
    let path = format!("/ws/{topic}?mode=sub");
    for i in 1..=subscribers {
        world.connect_discarding(i % case.workers, &path);
    }
    for i in 1..=case.blocked {
        let client = world.connect((subscribers + i) % case.workers, &path);
        world.net.resize(client, 10);
    }
    let bytes = frame(BINARY, &vec![7; load.payload_bytes]).repeat(load.messages_per_round);
    let mut rounds = || {
        let mut count = 0;
        for _ in 0..ROUNDS {
            world.net.write(publisher, &bytes);
            count += allocation_counter::measure(|| world.settle()).count_total;
            world.net.advance(Duration::from_millis(1));
        }
        count
    };
    rounds();
    let count = rounds();
    let published = (2 * ROUNDS * load.messages_per_round) as u64;
    assert_eq!(world.count("messages_published"), published);
    if case.slow_consumer == SlowConsumer::Disconnect {
        assert_eq!(world.count("deliveries"), published * u64::from(subscribers) + u64::from(case.blocked));
    } else {
        // A burst is one value.
        let visits = (2 * ROUNDS) as u64 * u64::from(subscribers);
        assert_eq!(world.count("deliveries"), visits + u64::from(case.blocked));
    }
    count
}

fn check(personality: Personality, slow_consumer: SlowConsumer) {
    for (workers, home) in [(1, 0), (2, 0), (2, 1)] {
        for blocked in [0, 10] {
            let case = Case { personality, slow_consumer, workers, home, blocked };
            for load in &LOADS {
                let (few, many) = (allocations(case, load, 10), allocations(case, load, 1000));
                let name = format!("{} × {} bytes, {case:?}", load.messages_per_round, load.payload_bytes);
                assert_eq!(few, many, "to 10 and to 1,000 subscribers: {name}");
                assert!(many <= load.allocations_max, "{many} in {ROUNDS} rounds: {name}");
                assert!(many > 0, "the test's own sense: {name}");
            }
        }
    }
}

#[test]
fn a_delivery_allocates_nothing() {
    check(Personality::Readiness, SlowConsumer::Disconnect);
}

#[test]
fn a_delivery_allocates_nothing_with_sends_that_complete_later() {
    check(Personality::Completion, SlowConsumer::Disconnect);
}

#[test]
fn a_delivery_of_the_latest_value_allocates_nothing() {
    check(Personality::Readiness, SlowConsumer::Latest);
}

#[test]
fn a_delivery_of_the_latest_value_allocates_nothing_with_sends_that_complete_later() {
    check(Personality::Completion, SlowConsumer::Latest);
}

/// Allocations of [`ROUNDS`] rounds of a topic whose rule has all that a rule can say, with an interval of ten rounds.
fn allocations_by_rule(case: Case, subscribers: u16) -> u64 {
    let rule = TopicRule {
        slow_consumer: Some(case.slow_consumer),
        lag_bytes_max: Some(1 << 20),
        lag_messages_max: Some(10_000),
        max_message_bytes: Some(64),
        welcome: Some("welcome".into()),
        min_interval: Some(Duration::from_millis(10)),
        ..TopicRule::new(Pattern::parse("topic/*").expect("a pattern"))
    };
    let mut world =
        World::new(case.workers, case.personality, &Config { topics: vec![rule], ..Config::default() });
    let topic = world.topic_at(case.home);
    let publisher = world.connect(0, &format!("/ws/{topic}?mode=pub"));
    for i in 1..=subscribers {
        world.connect_discarding(i % case.workers, &format!("/ws/{topic}?mode=sub"));
    }
    let bytes = frame(BINARY, &[7; 64]);
    let mut rounds = || {
        let mut count = 0;
        for _ in 0..ROUNDS {
            world.net.write(publisher, &bytes);
            count += allocation_counter::measure(|| world.settle()).count_total;
            world.net.advance(Duration::from_millis(1));
        }
        count
    };
    rounds();
    let count = rounds();
    let delivered = world.count("deliveries") + world.count("deliveries_conflated");
    assert!(delivered > u64::from(subscribers) * (2 * ROUNDS as u64 - 12), "{delivered} to {subscribers}");
    count
}

#[test]
fn a_delivery_by_a_rule_allocates_nothing() {
    for slow_consumer in [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest] {
        for personality in [Personality::Readiness, Personality::Completion] {
            for (workers, home) in [(1, 0), (2, 0), (2, 1)] {
                let case = Case { personality, slow_consumer, workers, home, blocked: 0 };
                let (few, many) = (allocations_by_rule(case, 10), allocations_by_rule(case, 1000));
                assert_eq!(few, many, "to 10 and to 1,000 subscribers: {case:?}");
                assert!(many <= 20, "{many} in {ROUNDS} rounds: {case:?}");
            }
        }
    }
}

/// A socket that stops inside a message gets a queue of its own for the message's rest, which goes when it has left.
#[test]
fn a_send_that_stops_inside_a_message_allocates_the_messages_rest() {
    for personality in [Personality::Readiness, Personality::Completion] {
        let mut world = World::new(1, personality, &Config::default());
        let publisher = world.connect(0, "/ws/t?mode=pub");
        let subscribers: Vec<_> = (0..100).map(|_| world.connect(0, "/ws/t?mode=sub")).collect();
        let bytes = frame(BINARY, &[7; 1000]);
        let mut rounds = || {
            let (refused_before, mut count) = (world.count("sends_refused"), 0);
            for _ in 0..ROUNDS {
                // Room for half a message, then for its rest.
                subscribers.iter().for_each(|&subscriber| world.net.resize(subscriber, 500));
                world.net.write(publisher, &bytes);
                count += allocation_counter::measure(|| world.settle()).count_total;
                for &subscriber in &subscribers {
                    world.net.read(subscriber, usize::MAX);
                    world.net.resize(subscriber, 2000);
                }
                count += allocation_counter::measure(|| world.settle()).count_total;
                subscribers.iter().for_each(|&subscriber| drop(world.net.read(subscriber, usize::MAX)));
            }
            (count, world.count("sends_refused") - refused_before)
        };
        rounds();
        let (count, refused) = rounds();
        assert_eq!(refused, (ROUNDS * subscribers.len()) as u64, "each message, for each subscriber");
        // The queue and its bytes; beside them only segments.
        let beside = count.checked_sub(2 * refused);
        assert!(beside.is_some_and(|beside| beside < 20), "{count} for {refused} stops, {personality:?}");
    }
}

/// One worker over real sockets, on this thread.
struct Real<D: Driver> {
    worker: Worker<D>,
    stats: Arc<Vec<Stats>>,
    address: SocketAddr,
}

impl<D: Driver> Real<D> {
    fn new(driver: impl FnOnce(Vec<TcpListener>) -> std::io::Result<D>) -> Real<D> {
        let config = Config::default();
        let options = listener::Options {
            backlog: config.backlog,
            send_buffer_bytes: config.send_buffer_bytes,
            receive_buffer_bytes: config.receive_buffer_bytes,
        };
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (mut listeners, addresses) = listener::bind(&[anywhere], 1, options).expect("a free port");
        let driver = driver(listeners.remove(0)).expect("a driver");
        let stats = Arc::new(vec![Stats::default()]);
        let shared = Shared::new(
            Settings::new(&config, 1000, 7),
            Arc::new(Routes::new(&config, Box::new(String::new)).expect("the default patterns are valid")),
            Arc::clone(&stats),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            vec![driver.wake()],
        );
        let worker = Worker::new(WorkerId(0), driver, Arc::new(shared));
        Real { worker, stats, address: addresses[0] }
    }

    fn until(&mut self, condition: impl Fn(&Stats) -> bool) {
        let began = Instant::now();
        while !condition(&self.stats[0]) {
            self.worker.tick().expect("the driver works");
            assert!(began.elapsed() < common::PATIENCE, "{:?}", self.stats);
        }
    }

    fn connect(&mut self, path: &str) -> TcpStream {
        let upgrades = self.stats[0].upgrades.get() + 1;
        let sends = self.stats[0].sends.get() + 1;
        let mut client = TcpStream::connect(self.address).expect("it listens");
        client.write_all(upgrade_request(path).as_bytes()).expect("a few bytes");
        self.until(|stats| stats.upgrades.get() == upgrades && stats.sends.get() == sends);
        client.set_nonblocking(true).expect("a socket");
        drain(&client);
        client
    }
}

/// Reads what has come.
fn drain(mut client: &TcpStream) {
    let mut buffer = [0; 64 << 10];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => panic!("the server has closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Over real sockets it is the same. As time passes by itself there, segments have the size that fits the machine's
/// speed, and their number is not known before: it is less than one per message, and each has 200 deliveries.
#[test]
fn a_delivery_over_real_sockets_allocates_nothing() {
    deliver_over(|listeners| Epoll::new(listeners, Instant::now()));
}

#[test]
fn a_delivery_over_real_sockets_allocates_nothing_with_io_uring() {
    for descriptors in [Descriptors::Ordinary, Descriptors::Direct { places: 1000 }] {
        match common::why_no_uring(descriptors) {
            None => deliver_over(|listeners| Uring::new(listeners, descriptors, Instant::now())),
            Some(why) => println!("NOT RUN: {why}"),
        }
    }
}

fn deliver_over<D: Driver>(driver: impl Fn(Vec<TcpListener>) -> std::io::Result<D>) {
    const MESSAGES: u64 = 500;
    for payload_bytes in [64, 16 << 10] {
        let mut real = Real::new(&driver);
        let mut publisher = real.connect("/ws/t?mode=pub");
        let subscribers: Vec<TcpStream> = (0..200).map(|_| real.connect("/ws/t?mode=sub")).collect();
        let bytes = frame(BINARY, &vec![7; payload_bytes]);
        let mut messages = || {
            let mut count = 0;
            for _ in 0..MESSAGES {
                publisher.write_all(&bytes).expect("room for one message");
                let deliveries = real.stats[0].deliveries.get() + subscribers.len() as u64;
                let delivered = |stats: &Stats| stats.deliveries.get() == deliveries;
                count += allocation_counter::measure(|| real.until(delivered)).count_total;
                subscribers.iter().for_each(drain);
            }
            count
        };
        messages();
        let count = messages();
        assert!(count < MESSAGES, "{count} for {MESSAGES} messages of {payload_bytes} bytes");
    }
}

#[test]
fn finding_the_rule_of_a_topic_allocates_nothing() {
    let patterns = (0..300).map(|at| format!("tenant{at}/*/{}", if at % 2 == 0 { "*" } else { "**" }));
    let patterns = patterns.map(|text| Pattern::parse(&text).expect("a pattern"));
    let config = Config { topics: patterns.map(TopicRule::new).collect(), ..Config::default() };
    let rules = config.rules();
    let name = |text: &str| TopicName::parse(text).expect("a name");
    let names = [name("tenant0/a/b"), name("tenant299/a/b/c"), name("tenant/a"), name("other")];
    let count = allocation_counter::measure(|| {
        names.iter().for_each(|name| drop(std::hint::black_box(rules.rule_for(name).clone())));
        names.iter().for_each(|name| _ = std::hint::black_box(rules.takes(name, 1 << 30)));
    });
    assert_eq!(count.count_total, 0);
}
