//! A world: some workers, one net, clients of all kinds, and what must be true after every turn.
//!
//! Everything follows from one seed: the configuration, who does what and when, which worker runs next, what
//! goes wrong on the way. Time is virtual.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use stentor::{
    broker::{ids::WorkerId, limits::Gauge},
    config::{Config, SlowConsumer},
    engine::{
        Settings, Shared, Turn, Worker,
        driver::{
            Driver,
            sim::{Buffers, Dice, Ended, Net, Personality, Sim, SocketId, Weather},
        },
        stats::{Family, Stats},
    },
    session::routes::Routes,
};

use crate::{
    client::{Client, Kind, News, Reading},
    model::{self, Order, Reader, Topic},
    session::SimRouter,
};

const LARGE: usize = 1 << 30;

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

struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

pub struct World {
    config: Config,
    net: Net,
    dice: Dice,
    shared: Arc<Shared<SocketId>>,
    workers: Vec<Option<Worker<Sim>>>,
    /// Until when a worker does not run.
    paused: Vec<Duration>,
    jams: Vec<(usize, usize, Duration)>,
    clients: Vec<Client>,
    /// The last one has no witness: it may vanish and come back.
    topics: Vec<Topic>,
    /// Nobody publishes.
    quiet: bool,
    connections_max: usize,
    hash: Hash,
    /// Turns of workers and acts of clients so far.
    pub step: u64,
    turns: u64,
    calm: bool,
    draining: bool,
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
            slow_consumer, lag_bytes_max, lag_messages_max, max_message_bytes, log_bytes_max, ..
        } = &self.config;
        format!(
            "{} workers, {} topics, {slow_consumer:?}, lag {lag_bytes_max} B or {lag_messages_max} messages, messages to \
             {max_message_bytes} B, logs to {log_bytes_max} B, {} connections",
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
            // Long enough for lanes and topics to go and come back.
            self.quiet = true;
            let until = self.net.now() + Duration::from_secs(12);
            while self.net.now() < until {
                self.net.advance(Duration::from_millis(self.dice.below(5) as u64));
                self.step()?;
            }
            self.quiet = false;
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
    fn witnessed(&self) -> usize {
        self.topics.len() - 1
    }

    fn order_of(&self, topic: usize) -> Order {
        match self.config.slow_consumer {
            _ if topic >= self.witnessed() => Order::OfEachPublisher,
            SlowConsumer::Disconnect => Order::Whole,
            SlowConsumer::Skip => Order::WithGaps,
            SlowConsumer::Latest => Order::OfEachPublisher,
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.step += 1;
        self.net.advance(Duration::from_micros(self.dice.below(400) as u64));
        match self.dice.below(1000) {
            0..600 => self.run_a_worker()?,
            600..940 if !self.clients.is_empty() => {
                let client = self.dice.below(self.clients.len());
                self.act(client)?;
            }
            940..960 => self.jam(),
            960..965 if !self.draining => {
                let worker = self.dice.below(self.workers.len());
                let until = self.net.now() + Duration::from_millis(self.dice.below(1000) as u64);
                self.paused[worker] = until;
            }
            965..975 => self.net.advance(Duration::from_millis(self.dice.below(100) as u64)),
            975..990 => self.somebody_comes(),
            _ => self.somebody_goes(),
        }
        if self.step.is_multiple_of(64) {
            for number in 0..self.clients.len() {
                if self.clients[number].good {
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

    fn run_a_worker(&mut self) -> Result<(), String> {
        let now = self.net.now();
        let can_run = |world: &World, worker: usize| {
            world.workers[worker].is_some()
                && world.paused[worker] <= now
                && (world.net.asleep(worker).is_none() || world.shared.has_mail(id(worker)))
        };
        let ready: Vec<usize> = (0..self.workers.len()).filter(|&worker| can_run(self, worker)).collect();
        if ready.is_empty() {
            self.net.advance(Duration::from_millis(5));
            return Ok(());
        }
        let worker = ready[self.dice.below(ready.len())];
        self.turn(worker)
    }

    fn turn(&mut self, number: usize) -> Result<(), String> {
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

    fn check_bounds(&self) -> Result<(), String> {
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

    fn jam(&mut self) {
        let (from, to) = (self.dice.below(self.workers.len()), self.dice.below(self.workers.len()));
        let most = if self.dice.happens(40) { 600 } else { 30 };
        let until = self.net.now() + Duration::from_millis(self.dice.below(most) as u64);
        self.shared.jam_mail(id(from), id(to), true);
        self.jams.push((from, to, until));
    }

    fn join(&mut self, kind: Kind, reading: Reading, good: bool) -> Option<usize> {
        let number = self.clients.len();
        let address = SocketAddr::from(([127, 0, 0, 1 + self.dice.below(3) as u8], 1));
        let (small, large) = ([60, 300, 2000, 20_000], if good { LARGE } else { 70_000 });
        let to_client = if good || self.dice.happens(100) { large } else { small[self.dice.below(4)] };
        let to_server = if good { 70_000 } else { small[1 + self.dice.below(3)] };
        let worker = self.dice.below(self.workers.len());
        let socket = self.net.connect(worker, address, Buffers { to_client, to_server })?;
        if good {
            self.net.shelter(socket);
        }
        let max = self.config.max_message_bytes;
        let mut client = Client::new(number, socket, kind, reading, max, &mut self.dice);
        client.good = good;
        self.clients.push(client);
        Some(number)
    }

    fn somebody_comes(&mut self) {
        let topic = self.dice.below(self.topics.len());
        let flip = |dice: &mut Dice| dice.happens(128);
        let kind = match self.dice.below(20) {
            0..6 => Kind::Member { topic, publishes: false, subscribes: true, echo_off: false },
            6..9 => Kind::Member { topic, publishes: true, subscribes: false, echo_off: false },
            9..14 => {
                Kind::Member { topic, publishes: true, subscribes: true, echo_off: flip(&mut self.dice) }
            }
            14 => Kind::Echo,
            15 | 16 => Kind::Multi,
            17 => [Kind::Visitor, Kind::Silent, Kind::Garbage, Kind::HalfHead][self.dice.below(4)],
            18 => Kind::Breaker,
            _ => Kind::HalfMessage,
        };
        let good = self.dice.happens(60);
        let reading = match self.dice.below(10) {
            _ if good => Reading::Fast,
            0..4 => Reading::Fast,
            4..6 => Reading::Slow(1 + self.dice.below(300)),
            6..9 => Reading::Stalling,
            _ => Reading::Never,
        };
        self.join(kind, reading, good);
    }

    fn somebody_goes(&mut self) {
        let number = 2 * self.witnessed() + self.dice.below(self.clients.len());
        let Some(client) = self.clients.get_mut(number).filter(|client| client.ended.is_none()) else {
            return;
        };
        let goes = self.dice.below(8);
        if goes < 3 {
            (client.mute, client.misbehaved, client.good) = (true, true, false);
        }
        match goes {
            0 => {
                client.leaving = true;
                client.ended = Some(Ended::Reset);
                self.net.reset(client.socket);
            }
            1 => {
                client.leaving = true;
                self.net.finish(client.socket);
            }
            // It vanishes.
            2 => client.reading = Reading::Never,
            _ => client.close(&mut self.dice),
        }
    }

    /// A client does something: publishes, reads, writes.
    fn act(&mut self, number: usize) -> Result<(), String> {
        let most = match self.clients[number].reading {
            Reading::Fast => usize::MAX,
            Reading::Slow(bytes) => bytes,
            Reading::Stalling if self.dice.happens(20) => usize::MAX,
            Reading::Stalling | Reading::Never => 0,
        };
        self.read(number, most)?;
        if !self.calm && !self.quiet && self.clients[number].to_send.len() < 4000 {
            self.talk(number);
        }
        let most =
            if self.calm || self.clients[number].good { usize::MAX } else { 1 + self.dice.below(3000) };
        self.clients[number].write(&self.net, most);
        Ok(())
    }

    fn talk(&mut self, number: usize) {
        // The witnesses, and those that publish the last message.
        let waits = number < 2 * self.witnessed();
        let max = self.config.max_message_bytes - 30;
        let len = match self.dice.below(20) {
            0 => self.dice.below(max),
            1..5 => self.dice.below(max.min(600)),
            _ => self.dice.below(40),
        };
        let client = &mut self.clients[number];
        if waits {
            return;
        }
        if client.kind == Kind::Multi && client.is_open() {
            self.talk_multi(number, len.min(max - 10));
            return;
        }
        if let Kind::Member { topic, publishes: true, .. } = client.kind
            && client.is_open()
        {
            for _ in 0..1 + self.dice.below(3) {
                publish(client, &mut self.topics, topic, len, self.step, &mut self.dice);
            }
        }
        client.send_something(len, &mut self.dice);
    }

    fn read(&mut self, number: usize, most: usize) -> Result<(), String> {
        let World { clients, net, dice, hash, .. } = self;
        let client = &mut clients[number];
        hash.add(&number.to_le_bytes());
        let about = {
            let kind = client.kind;
            move |what: String| format!("client {number} ({kind:?}): {what}")
        };
        let client_news = client.read(net, most, dice, &mut |bytes| hash.add(bytes));
        let news = client_news.map_err(about)?;
        for news in news {
            match news {
                News::Opened => self.opened(number),
                News::Message(payload) => self.got(number, &payload)?,
            }
        }
        self.check_close(number)
    }

    fn opened(&mut self, number: usize) {
        let step = self.step;
        let (topic, leaves_out, opened) = match self.clients[number].kind {
            Kind::Member { topic, subscribes: true, echo_off, .. } => {
                (topic, echo_off.then_some(number), Some(step))
            }
            // It is subscribed to one from the start.
            Kind::Multi => (0, None, Some(step)),
            _ => return,
        };
        let reader = Reader::new(self.order_of(topic), leaves_out, opened);
        self.clients[number].readers.insert(topic, reader);
    }

    fn got(&mut self, number: usize, payload: &[u8]) -> Result<(), String> {
        let (topic, id) = model::identify(payload).map_err(|what| format!("client {number}: {what}"))?;
        let what = |what: String| format!("client {number} on topic {topic}: {what}");
        let Some(reader) = self.clients[number].readers.get_mut(&topic) else {
            return Err(what("a message nobody asked for".into()));
        };
        reader.got(id);
        if number < self.topics.len() - 1 && self.config.slow_consumer != SlowConsumer::Latest {
            self.topics[topic].witnessed(id).map_err(what)?;
        }
        reader.check(&self.topics[topic]).map_err(what)
    }

    /// Publishes, subscribes or unsubscribes somewhere.
    fn talk_multi(&mut self, number: usize, len: usize) {
        let topic = self.dice.below(self.witnessed());
        let order = self.order_of(topic);
        let World { clients, topics, dice, step, .. } = self;
        let client = &mut clients[number];
        match dice.below(4) {
            0 => {
                let reader = Reader::new(order, None, None);
                let reader = client.readers.entry(topic).or_insert(reader);
                reader.subscribed = true;
                client.send_text(format!("+t{topic}").as_bytes(), dice);
            }
            1 => {
                if let Some(reader) = client.readers.get_mut(&topic) {
                    reader.subscribed = false;
                    reader.was_away += 1;
                }
                client.send_text(format!("-t{topic}").as_bytes(), dice);
            }
            _ => publish(client, topics, topic, len, *step, dice),
        }
    }

    /// Whether the client was closed for a reason.
    fn check_close(&self, number: usize) -> Result<(), String> {
        let client = &self.clients[number];
        let Some(code) = client.close_code else {
            let cut = client.ended == Some(Ended::Reset)
                && client.good
                && !client.leaving
                && client.status == Some(101);
            return if cut && !self.draining {
                Err(format!("client {number}, a good one, was reset"))
            } else {
                Ok(())
            };
        };
        let may = match code {
            1000 => client.leaving,
            1001 => self.draining,
            // The logs or half messages may be full for whoever comes in their way.
            1013 => {
                !client.good
                    || self.config.assembly_bytes_max < LARGE
                    || self.config.max_topics < self.topics.len()
            }
            1008 => !client.good || client.misbehaved,
            1002 | 1007 | 1009 => client.misbehaved,
            _ => false,
        };
        if may { Ok(()) } else { Err(format!("client {number} ({:?}) was closed with {code}", client.kind)) }
    }

    /// Runs until nothing happens any more and `quiet` has passed so.
    fn settle(&mut self, quiet: Duration) -> Result<(), String> {
        let mut quiet_since = self.net.now();
        for _ in 0..200_000 {
            self.step += 1;
            let before = (self.hash.0, self.net.now());
            for number in 0..self.clients.len() {
                if self.clients[number].ended.is_none() {
                    let unsent = self.clients[number].to_send.len();
                    let received = self.clients[number].received();
                    self.act(number)?;
                    let client = &self.clients[number];
                    let now_received = client.received();
                    if unsent > client.to_send.len() || now_received > received || client.ended.is_some() {
                        quiet_since = before.1;
                    }
                }
            }
            let mut slept = true;
            for worker in 0..self.workers.len() {
                if self.workers[worker].is_some()
                    && (self.net.asleep(worker).is_none() || self.shared.has_mail(id(worker)))
                {
                    self.turn(worker)?;
                    slept = false;
                }
            }
            if slept {
                self.net.advance(Duration::from_millis(10));
            }
            if self.net.now() - quiet_since > quiet {
                return Ok(());
            }
            self.net.advance(Duration::from_micros(50));
        }
        Err(format!("it does not settle: {} connections", self.shared.connections()))
    }

    /// All goes well from now on, and everybody reads: everything that was published arrives.
    fn quiesce(&mut self) -> Result<(), String> {
        self.calm = true;
        self.net.set_weather(Weather::default());
        for (from, to, _) in std::mem::take(&mut self.jams) {
            self.shared.jam_mail(id(from), id(to), false);
        }
        self.paused.fill(Duration::ZERO);
        for client in &mut self.clients {
            client.reading = Reading::Fast;
            self.net.resize(client.socket, LARGE);
        }
        self.settle(Duration::from_secs(5))?;
        // One more message for each topic: it comes after all that was held, skipped or conflated.
        for topic in 0..self.witnessed() {
            let publisher = self.witnessed() + topic;
            publish(&mut self.clients[publisher], &mut self.topics, topic, 10, self.step, &mut self.dice);
        }
        self.settle(Duration::from_secs(2))?;
        for number in 0..self.clients.len() {
            self.check_in_the_end(number).map_err(|what| {
                let client = &self.clients[number];
                format!("client {number} ({:?}, {:?}): {what}", client.kind, client.reading)
            })?;
        }
        self.check_counts()
    }

    fn check_in_the_end(&mut self, number: usize) -> Result<(), String> {
        let client = &mut self.clients[number];
        let said_all = client.is_open() || (client.leaving && client.close_code == Some(1000));
        if said_all && !client.misbehaved && self.config.slow_consumer != SlowConsumer::Latest {
            for (&at, &numbers) in client.numbers.iter().filter(|(at, _)| **at < self.topics.len() - 1) {
                let topic = &self.topics[at];
                if let Some(lost) = (0..numbers).find(|&number| !topic.has((client.id, number))) {
                    return Err(format!("its message {lost} of {numbers} to topic {at} was lost"));
                }
            }
        }
        if !client.is_open() {
            return Ok(());
        }
        if client.mute {
            return Ok(());
        }
        if !client.to_send.is_empty() || !client.echoes.is_empty() || !client.pings.is_empty() {
            return Err(format!(
                "{} bytes are not read, {} echoes and {} pongs have not come",
                client.to_send.len(),
                client.echoes.len(),
                client.pings.len()
            ));
        }
        let witnessed = self.topics.len() - 1;
        let mut readers =
            client.readers.iter_mut().filter(|(topic, reader)| **topic < witnessed && reader.subscribed);
        readers.try_for_each(|(topic, reader)| {
            reader.check_complete(&self.topics[*topic]).map_err(|what| format!("on topic {topic}: {what}"))
        })
    }

    /// What was left out was counted, and no more than that.
    fn check_counts(&self) -> Result<(), String> {
        let (skipped, conflated) = (self.count("deliveries_skipped"), self.count("deliveries_conflated"));
        let (mut seen, mut most) = (0, 0);
        for client in &self.clients {
            let topics = match client.kind {
                Kind::Member { topic, subscribes: true, .. } => topic..topic + 1,
                Kind::Multi => 0..self.topics.len(),
                _ => continue,
            };
            seen += client.readers.values().map(|reader| reader.gaps).sum::<u64>();
            // Who has not read its 101 may have missed everything.
            let made: u64 = self.topics[topics].iter().map(Topic::made).sum();
            most += made - client.received() as u64;
        }
        let counted = match self.config.slow_consumer {
            SlowConsumer::Disconnect => {
                return if skipped + conflated == 0 { Ok(()) } else { Err("counted as skipped".into()) };
            }
            SlowConsumer::Skip => skipped,
            SlowConsumer::Latest => conflated,
        };
        if counted < seen || counted > most {
            return Err(format!("{counted} are counted as left out; seen were {seen}, at most {most}"));
        }
        Ok(())
    }

    /// Everybody leaves. After a while nothing is left of them.
    fn leave(&mut self) -> Result<(), String> {
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            if client.ended.is_none() {
                if self.dice.happens(128) && !client.leaving && !client.mute {
                    client.close(&mut self.dice);
                } else {
                    client.ended = Some(Ended::Reset);
                    self.net.reset(client.socket);
                }
            }
        }
        self.settle(self.config.topic_idle_timeout + Duration::from_secs(12))?;
        for worker in self.workers.iter_mut().flatten() {
            worker.audit_empty()?;
        }
        let shared = &self.shared;
        let left = (
            shared.connections(),
            shared.logs.used(),
            shared.topics.used(),
            shared.assemblies.load(Ordering::Relaxed),
        );
        if left == (0, 0, 0, 0) {
            Ok(())
        } else {
            Err(format!("connections, bytes of logs, topics, bytes of halves left: {left:?}"))
        }
    }

    /// The server stops in the middle of it all, in time.
    fn drain(&mut self) -> Result<(), String> {
        self.draining = true;
        self.shared.drain();
        let began = self.net.now();
        // A worker may be paused for a second, and be late by a tick or two.
        let limit = self.config.drain_timeout + self.config.close_timeout + Duration::from_millis(1500);
        while self.workers.iter().any(Option::is_some) {
            if self.net.now() - began > limit {
                let left: Vec<usize> =
                    (0..self.workers.len()).filter(|&worker| self.workers[worker].is_some()).collect();
                return Err(format!("workers {left:?} have not ended in {limit:?}"));
            }
            self.step()?;
        }
        Ok(())
    }

    fn count(&self, name: &str) -> u64 {
        let one =
            |stats: &Stats| stats.all().find(|(_, other, ..)| *other == name).map_or(0, |(.., value)| value);
        self.shared.stats.iter().map(one).sum()
    }

    /// Why what happened to clients.
    pub fn reasons(&self, family: Family) -> Vec<(&'static str, u64)> {
        self.shared.stats.iter().flat_map(|stats| stats.reasons(family)).collect()
    }

    fn outcome(&mut self) -> Outcome {
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

fn id(worker: usize) -> WorkerId {
    WorkerId(worker as u16)
}

/// A client publishes its next message to a topic.
fn publish(client: &mut Client, topics: &mut [Topic], topic: usize, len: usize, step: u64, dice: &mut Dice) {
    let number = client.numbers.entry(topic).or_default();
    let id = (client.id, *number);
    *number += 1;
    topics[topic].make(id, step);
    let payload = model::payload(topic, id, len);
    if client.kind == Kind::Multi {
        client.send_text(&[format!("=t{topic} ").as_bytes(), &payload].concat(), dice);
    } else {
        client.send_message(&payload, dice);
    }
}

/// Small bounds, so that they are met.
fn configuration(dice: &mut Dice, workers: usize) -> Config {
    let seconds = |dice: &mut Dice, most: usize| Duration::from_millis(1500 + dice.below(most * 1000) as u64);
    let max_message_bytes = [1024, 5000, 40_000, 100_000][dice.below(4)];
    let lag_bytes_max = max_message_bytes.max([1024, 8000, 200_000][dice.below(3)]);
    Config {
        workers,
        max_message_bytes,
        lag_bytes_max,
        lag_messages_max: [2, 10, 50, 1000][dice.below(4)],
        slow_consumer: [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest][dice.below(3)],
        log_bytes_max: if dice.happens(80) { lag_bytes_max.max(64 << 10) } else { LARGE },
        assembly_bytes_max: if dice.happens(30) { max_message_bytes * 2 } else { LARGE },
        reply_bytes_max: [100, 2000, 100_000][dice.below(3)],
        mail_len_max: [1, 3, 256][dice.below(3)],
        max_topics: if dice.happens(30) { 3 } else { 1000 },
        accepts_per_tick: 1 + dice.below(5),
        max_connections_per_ip: None,
        handshake_timeout: seconds(dice, 2),
        message_timeout: seconds(dice, 3),
        ping_interval: dice.happens(200).then(|| seconds(dice, 3)),
        pong_timeout: seconds(dice, 2) + Duration::from_secs(1),
        write_timeout: seconds(dice, 4) + Duration::from_secs(1),
        close_timeout: seconds(dice, 2),
        drain_timeout: seconds(dice, 2),
        topic_idle_timeout: seconds(dice, 3),
        ..Config::default()
    }
}

fn weather(dice: &mut Dice) -> Weather {
    let chance = |dice: &mut Dice, most: usize| if dice.happens(128) { dice.below(most) as u8 } else { 0 };
    Weather {
        short_send: chance(dice, 128),
        pieces: chance(dice, 255),
        late_event: chance(dice, 200),
        false_event: chance(dice, 60),
        accept_fails: chance(dice, 60),
        add_fails: chance(dice, 30),
    }
}
