//! A world: some workers, one net, clients of all kinds, and what must be true after every turn.
//!
//! Everything follows from one seed: the configuration, who does what and when, which worker runs next, what
//! goes wrong on the way. Time is virtual.

use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use stentor::{
    broker::{ids::WorkerId, limits::Gauge, name::TopicName, rules::Rule},
    config::{Config, SlowConsumer},
    engine::{
        Settings, Shared, Turn, Worker,
        driver::{
            Driver,
            sim::{Dice, Ended, Net, Personality, Sim, SocketId},
        },
        stats::{Family, Stats},
    },
    session::routes::Routes,
};

use crate::{
    client::{Client, Kind, Reading},
    model::{Order, Topic},
    session::SimRouter,
    setup::{configuration, name, weather},
};

pub const LARGE: usize = 1 << 30;

/// What a world did; the same for the same seed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Of every byte that any client got, and of all counters.
    pub hash: u64,
    pub turns: u64,
    pub clients: usize,
    pub deliveries: u64,
    pub skipped: u64,
    pub conflated: u64,
    pub held: u64,
    pub slow: u64,
    pub refused: u64,
    pub resets: u64,
}

pub struct Hash(u64);

impl Hash {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

pub struct World {
    pub config: Config,
    pub net: Net,
    pub dice: Dice,
    pub shared: Arc<Shared<SocketId>>,
    pub workers: Vec<Option<Worker<Sim>>>,
    /// Until when a worker does not run.
    pub paused: Vec<Duration>,
    /// When the last long one began.
    pub long_pause: Duration,
    pub jams: Vec<(usize, usize, Duration)>,
    pub clients: Vec<Client>,
    /// The last one has no witness: it may vanish and come back.
    pub topics: Vec<Topic>,
    /// Nobody publishes.
    pub quiet: bool,
    pub connections_max: usize,
    pub hash: Hash,
    /// Turns of workers and acts of clients so far.
    pub step: u64,
    pub turns: u64,
    pub calm: bool,
    pub draining: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let workers = 1 + dice.below(4);
        let topics = 1 + dice.below(3);
        let config = configuration(&mut dice, workers);
        // The topics' witnesses and final publishers must come in.
        let connections_max = if dice.happens(30) { 2 * topics + 6 } else { 1000 };
        let personality = if dice.happens(128) { Personality::Readiness } else { Personality::Completion };
        let net = Net::new(workers, dice.bits());
        let drivers: Vec<Sim> = (0..workers).map(|worker| net.driver(worker, personality)).collect();
        let mut settings = Settings::new(&config, connections_max, dice.bits());
        settings.slice_sends = [1, 2, 5, 64][dice.below(4)];
        let shared = Arc::new(Shared::new(
            settings,
            Arc::new(SimRouter(Routes::new(&config, Box::new(String::new)).expect("the origins are valid"))),
            Arc::new((0..workers).map(|_| Stats::default()).collect()),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            drivers.iter().map(Driver::wake).collect(),
        ));
        let worker = |(id, driver)| Some(Worker::new(WorkerId(id), driver, Arc::clone(&shared)));
        World {
            workers: (0..).zip(drivers).map(worker).collect(),
            paused: vec![Duration::ZERO; workers],
            long_pause: Duration::ZERO,
            jams: Vec::new(),
            clients: Vec::new(),
            topics: (0..=topics).map(|_| Topic::default()).collect(),
            hash: Hash(0xcbf2_9ce4_8422_2325),
            step: 0,
            turns: 0,
            quiet: false,
            calm: true,
            draining: false,
            config,
            net,
            dice,
            shared,
            connections_max,
        }
    }

    /// One line that says what kind of world it is.
    pub fn describe(&self) -> String {
        let Config {
            slow_consumer,
            lag_bytes_max,
            lag_messages_max,
            max_message_bytes,
            log_bytes_max,
            topics,
            ..
        } = &self.config;
        format!(
            "{} workers, {} topics, {slow_consumer:?}, lag {lag_bytes_max} B or {lag_messages_max} messages, messages to \
             {max_message_bytes} B, logs to {log_bytes_max} B, {} connections, rules: {topics:?}",
            self.workers.len(),
            self.topics.len(),
            self.connections_max,
        )
    }

    /// The whole life of the world.
    pub fn run(&mut self) -> Result<Outcome, String> {
        for topic in 0..self.witnessed() {
            let witness = Kind::Member { topic, publishes: false, subscribes: true, echo_off: false };
            self.join(witness, Reading::Fast, true);
        }
        for topic in 0..self.witnessed() {
            let last = Kind::Member { topic, publishes: true, subscribes: false, echo_off: false };
            self.join(last, Reading::Fast, true);
        }
        self.settle(Duration::from_millis(50))?;
        if !self.clients.iter().all(Client::is_open) {
            return Err("a witness or last publisher was not let in".into());
        }
        self.calm = false;
        self.net.set_weather(weather(&mut self.dice));
        for _ in 0..2 + self.dice.below(12) {
            self.somebody_comes();
        }
        for _ in 0..300 + self.dice.below(1500) {
            self.step()?;
        }
        if self.dice.happens(64) {
            self.quiet_spell()?;
            for _ in 0..500 {
                self.step()?;
            }
        }
        if self.dice.happens(64) {
            self.drain()?;
        } else {
            self.quiesce()?;
            self.leave()?;
        }
        Ok(self.outcome())
    }

    /// Topics with a witness: client 0 has that of topic 0, and so on.
    pub fn witnessed(&self) -> usize {
        self.topics.len() - 1
    }

    /// What holds for a topic.
    pub fn rule(&self, topic: usize) -> &Rule {
        let name = TopicName::parse(&name(topic)).expect("a valid name");
        self.shared.settings.rules.rule_for(&name)
    }

    pub fn policy(&self, topic: usize) -> SlowConsumer {
        self.rule(topic).slow_consumer
    }

    pub fn order_of(&self, topic: usize) -> Order {
        match self.policy(topic) {
            _ if topic >= self.witnessed() => Order::OfEachPublisher,
            SlowConsumer::Disconnect => Order::Whole,
            SlowConsumer::Skip => Order::WithGaps,
            SlowConsumer::Latest => Order::OfEachPublisher,
        }
    }

    pub fn step(&mut self) -> Result<(), String> {
        self.step += 1;
        self.net.advance(Duration::from_micros(self.dice.below(400) as u64));
        match self.dice.below(1000) {
            0..600 => self.run_a_worker()?,
            600..940 if !self.clients.is_empty() => {
                let client = self.dice.below(self.clients.len());
                self.act(client)?;
            }
            940..960 => self.jam(),
            960..965 if !self.draining => self.pause(),
            965..975 => self.net.advance(Duration::from_millis(self.dice.below(100) as u64)),
            975..990 => self.somebody_comes(),
            _ => self.somebody_goes(),
        }
        if self.step.is_multiple_of(64) {
            for number in 0..self.clients.len() {
                if self.clients[number].is_healthy() {
                    self.act(number)?;
                }
            }
        }
        let now = self.net.now();
        let shared = Arc::clone(&self.shared);
        self.jams.retain(|(from, to, until)| {
            let over = *until <= now;
            if over {
                shared.jam_mail(id(*from), id(*to), false);
            }
            !over
        });
        Ok(())
    }

    /// A worker does not run for a while. A long one is forgiven once in a few seconds only, and so is rare.
    fn pause(&mut self) {
        let now = self.net.now();
        let worker = self.dice.below(self.workers.len());
        let long = now >= self.long_pause + Duration::from_secs(8);
        if long {
            self.long_pause = now;
        }
        let most = if long { 1000 } else { 100 };
        self.paused[worker] = now + Duration::from_millis(self.dice.below(most) as u64);
    }

    pub fn run_a_worker(&mut self) -> Result<(), String> {
        let now = self.net.now();
        let can_run = |world: &World, worker: usize| {
            world.workers[worker].is_some()
                && world.paused[worker] <= now
                && world.net.asleep(worker).is_none()
        };
        let ready: Vec<usize> = (0..self.workers.len()).filter(|&worker| can_run(self, worker)).collect();
        if ready.is_empty() {
            self.net.advance(Duration::from_millis(5));
            return Ok(());
        }
        let worker = ready[self.dice.below(ready.len())];
        self.turn(worker)
    }

    pub fn turn(&mut self, number: usize) -> Result<(), String> {
        self.turns += 1;
        let worker = self.workers[number].as_mut().expect("the caller looked");
        match worker.tick() {
            Ok(Turn::Again) => {}
            Ok(Turn::Over) => {
                worker.audit_empty_of_clients()?;
                self.workers[number] = None;
                return if self.draining { Ok(()) } else { Err(format!("worker {number} ended")) };
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(format!("worker {number}: {error}")),
        }
        worker.audit().map_err(|what| format!("worker {number}: {what}"))?;
        self.check_bounds()
    }

    pub fn check_bounds(&self) -> Result<(), String> {
        let shared = &self.shared;
        let check = |what: &str, used: usize, max: usize| {
            if used > max { Err(format!("{what}: {used}, of which {max} are allowed")) } else { Ok(()) }
        };
        check("bytes of logs", shared.logs.used(), shared.logs.max())?;
        check("topics", shared.topics.used(), shared.topics.max())?;
        // Each worker may find out with one message, or one batch of a held connection's, that it is too much.
        let slack = self.workers.len() * (shared.settings.messages.message_bytes_max + 70 * 1024);
        let held = shared.assemblies.load(Ordering::Relaxed);
        check("bytes of half messages", held, shared.settings.assembly_bytes_max + slack)
    }

    pub fn jam(&mut self) {
        let (from, to) = (self.dice.below(self.workers.len()), self.dice.below(self.workers.len()));
        let most = if self.dice.happens(40) { 600 } else { 30 };
        let until = self.net.now() + Duration::from_millis(self.dice.below(most) as u64);
        self.shared.jam_mail(id(from), id(to), true);
        self.jams.push((from, to, until));
    }

    pub fn count(&self, name: &str) -> u64 {
        let one =
            |stats: &Stats| stats.all().find(|(_, other, ..)| *other == name).map_or(0, |(.., value)| value);
        self.shared.stats.iter().map(one).sum()
    }

    /// Why what happened to clients.
    pub fn reasons(&self, family: Family) -> Vec<(&'static str, u64)> {
        self.shared.stats.iter().flat_map(|stats| stats.reasons(family)).collect()
    }

    pub fn outcome(&mut self) -> Outcome {
        let mut counts = Vec::new();
        for stats in self.shared.stats.iter() {
            counts.extend(stats.all().flat_map(|(.., value)| value.to_le_bytes()));
        }
        self.hash.add(&counts);
        let reasons = |family| self.reasons(family).iter().map(|(_, count)| count).sum();
        Outcome {
            hash: self.hash.0,
            turns: self.turns,
            clients: self.clients.len(),
            deliveries: self.count("deliveries"),
            skipped: self.count("deliveries_skipped"),
            conflated: self.count("deliveries_conflated"),
            held: self.count("messages_held"),
            slow: reasons(Family::SlowConsumer),
            refused: reasons(Family::Refused),
            resets: self.clients.iter().filter(|client| client.ended == Some(Ended::Reset)).count() as u64,
        }
    }
}

pub fn id(worker: usize) -> WorkerId {
    WorkerId(worker as u16)
}
