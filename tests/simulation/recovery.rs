//! Worlds of clients that come back: cut off at any moment, to any worker, while messages flow and mail is stuck, each
//! must find what it has missed, once and in order, in all encodings of the same topics.

use std::{
    collections::{BTreeMap, VecDeque},
    io::ErrorKind,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use stentor::{
    broker::{limits::Gauge, pattern::Pattern},
    config::{Config, SlowConsumer, TopicRule},
    engine::{
        Settings, Shared, Worker,
        driver::{
            Driver,
            sim::{Buffers, Dice, Ended, Net, Personality, Sim, SocketId},
        },
        stats::Stats,
    },
    session::routes::Routes,
};

use crate::{
    setup::weather,
    wire::{self, CLOSE, Found, Parser, TEXT},
    world::{LARGE, id},
};

/// What a reader speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dialect {
    Raw,
    Json,
    /// Events of one topic.
    Events,
    /// Events of all topics on one stream.
    AllEvents,
}

const DIALECTS: [Dialect; 5] =
    [Dialect::Json, Dialect::AllEvents, Dialect::Events, Dialect::Raw, Dialect::Json];

/// Where a reader stands in a topic.
#[derive(Clone, Default)]
struct Place {
    epoch: String,
    /// The last message that it has got; `None`: it has never been there.
    last: Option<u64>,
    subscribed: bool,
    /// A welcome must come next.
    is_new: bool,
    /// Messages that it was told to be made to skip, on an event stream: the next one's id leaves them out.
    skipped: u64,
}

/// What topics welcome with.
const WELCOME: &str = r#"{"welcome":"here"}"#;

struct Reader {
    socket: SocketId,
    parser: Parser,
    dialect: Dialect,
    places: BTreeMap<String, Place>,
    /// The id of the last event.
    id: String,
    to_send: VecDeque<u8>,
    /// Returns so far, and messages.
    returns: u64,
    messages: u64,
    is_over: bool,
}

struct Recoveries {
    net: Net,
    dice: Dice,
    shared: Arc<Shared<SocketId>>,
    workers: Vec<Worker<Sim>>,
    paused: Vec<Duration>,
    jams: Vec<(usize, usize, Duration)>,
    readers: Vec<Reader>,
    /// By topic: its publisher, what it has to send, and how many messages it has published.
    publishers: Vec<(SocketId, VecDeque<u8>, u64)>,
    /// Who is slow is made to skip messages.
    skips: bool,
}

fn topic(number: usize) -> String {
    format!("kept/{number}")
}

impl Recoveries {
    fn new(seed: u64) -> Recoveries {
        let mut dice = Dice::new(seed);
        let workers = 1 + dice.below(4);
        let rule = TopicRule {
            history: Some(1_000_000),
            history_bytes: Some(LARGE / 2),
            slow_consumer: dice.happens(128).then_some(SlowConsumer::Skip),
            min_interval: dice.happens(128).then(|| Duration::from_millis(10 + dice.below(40) as u64)),
            welcome: Some(WELCOME.into()),
            ..TopicRule::new(Pattern::parse("kept/*").expect("a pattern"))
        };
        let skips = rule.slow_consumer == Some(SlowConsumer::Skip);
        let config = Config {
            workers,
            topics: vec![rule],
            lag_bytes_max: [8000, 200_000][dice.below(2)],
            lag_messages_max: [10, 1000][dice.below(2)],
            max_message_bytes: 8000,
            log_bytes_max: LARGE,
            mail_len_max: [1, 3, 256][dice.below(3)],
            accepts_per_tick: 1 + dice.below(5),
            ..Config::default()
        };
        let personality = if dice.happens(128) { Personality::Readiness } else { Personality::Completion };
        let net = Net::new(workers, dice.bits());
        let drivers: Vec<Sim> = (0..workers).map(|worker| net.driver(worker, personality)).collect();
        let mut settings = Settings::new(&config, 1000, dice.bits());
        settings.slice_sends = [1, 2, 5, 64][dice.below(4)];
        let shared = Arc::new(Shared::new(
            settings,
            Arc::new(Routes::new(&config, Box::new(String::new)).expect("the origins are valid")),
            Arc::new((0..workers).map(|_| Stats::default()).collect()),
            Gauge::new(config.max_topics),
            Gauge::new(config.log_bytes_max),
            drivers.iter().map(Driver::wake).collect(),
        ));
        let worker = |(number, driver)| Worker::new(id(number), driver, Arc::clone(&shared));
        let mut world = Recoveries {
            workers: drivers.into_iter().enumerate().map(worker).collect(),
            paused: vec![Duration::ZERO; workers],
            jams: Vec::new(),
            readers: Vec::new(),
            publishers: Vec::new(),
            skips,
            net,
            dice,
            shared,
        };
        for number in 0..1 + world.dice.below(3) {
            let socket = world.connect(LARGE);
            world.net.shelter(socket);
            let hello = wire::upgrade(&format!("/ws/{}?mode=pub", topic(number)));
            world.publishers.push((socket, hello.into(), 0));
            // It comes in before anything goes wrong.
            for _ in 0..5 {
                world.send(number);
                (0..workers).for_each(|worker| world.turn(worker).expect("nothing is wrong yet"));
            }
        }
        world.net.set_weather(weather(&mut world.dice));
        for number in 0..2 + world.dice.below(6) {
            let socket = world.connect(LARGE);
            world.readers.push(Reader {
                socket,
                parser: Parser::default(),
                dialect: DIALECTS[number % DIALECTS.len()],
                places: BTreeMap::new(),
                id: String::new(),
                to_send: VecDeque::new(),
                returns: 0,
                messages: 0,
                is_over: true,
            });
        }
        world
    }

    fn connect(&mut self, to_client: usize) -> SocketId {
        let worker = self.dice.below(self.workers.len());
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        self.net.connect(worker, address, Buffers { to_client, to_server: LARGE }).expect("it listens")
    }

    /// A reader comes, or comes back: by its request, or by commands.
    fn join(&mut self, number: usize) {
        let room = [200, 3000, LARGE][self.dice.below(3)];
        let socket = self.connect(room);
        let by_request = self.dice.happens(128);
        let topics = self.publishers.len();
        let Recoveries { readers, dice, .. } = self;
        let reader = &mut readers[number];
        (reader.socket, reader.parser, reader.is_over) = (socket, Parser::default(), false);
        reader.to_send.clear();
        reader.returns += 1;
        reader.places.values_mut().for_each(|place| (place.subscribed, place.skipped) = (false, 0));
        let first = topic(number % topics);
        match reader.dialect {
            Dialect::Raw => {
                // A raw reader can't go on where it was: it begins anew.
                reader.places = BTreeMap::from([(first.clone(), Place { is_new: true, ..Place::default() })]);
                reader.to_send.extend(wire::upgrade(&format!("/ws/{first}?mode=sub")));
                return;
            }
            Dialect::Events | Dialect::AllEvents => {
                let asked: Vec<String> = match reader.dialect {
                    Dialect::Events => vec![first],
                    _ => (0..topics).map(topic).collect(),
                };
                if reader.id.is_empty() {
                    // It has not been told all that it needs to come back.
                    reader.places = asked.iter().map(|topic| (topic.clone(), Place::default())).collect();
                }
                let query: Vec<String> = asked.iter().map(|topic| format!("topic={topic}")).collect();
                let header = match &*reader.id {
                    "" => String::new(),
                    id => format!("Last-Event-ID: {id}\r\n"),
                };
                let path = format!("/sse?{}", query.join("&"));
                reader
                    .to_send
                    .extend(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n").into_bytes());
                if dice.happens(40) {
                    // What nobody waits for.
                    reader.to_send.extend((0..100).map(|_| dice.below(256) as u8));
                }
                return;
            }
            Dialect::Json => {}
        }
        if by_request {
            let place = reader.places.entry(first.clone()).or_default();
            let since =
                place.last.map_or(String::new(), |last| format!("&since={last}&epoch={}", place.epoch));
            reader.to_send.extend(wire::upgrade(&format!("/ws/{first}?format=json&mode=sub{since}")));
        } else {
            reader.to_send.extend(wire::upgrade("/ws?format=json&mode=sub"));
        }
        for other in (0..topics).map(topic).filter(|other| !by_request || *other != first) {
            let place = reader.places.entry(other.clone()).or_default();
            let mut command = json!({ "subscribe": other });
            if let Some(last) = place.last {
                command["since"] = json!(last);
                command["epoch"] = json!(place.epoch);
            }
            reader.to_send.extend(wire::message(TEXT, command.to_string().as_bytes(), None, dice));
        }
    }

    fn act(&mut self, number: usize) -> Result<(), String> {
        if self.readers[number].is_over {
            self.join(number);
            return Ok(());
        }
        if self.dice.happens(6) {
            // Cut off, in the middle of whatever comes.
            self.net.reset(self.readers[number].socket);
            self.readers[number].is_over = true;
            return Ok(());
        }
        let most = if self.dice.happens(128) { usize::MAX } else { 1 + self.dice.below(500) };
        self.read(number, most)
    }

    fn read(&mut self, number: usize, most: usize) -> Result<(), String> {
        let Recoveries { readers, net, dice, skips, .. } = self;
        let reader = &mut readers[number];
        let sending: Vec<u8> = reader.to_send.iter().copied().collect();
        let taken = net.write(reader.socket, &sending);
        reader.to_send.drain(..taken);
        reader.parser.push(&net.read(reader.socket, most));
        while let Some(found) = reader.parser.next()? {
            match found {
                Found::Response(101) | Found::Pong(_) => {}
                Found::Response(200) if reader.parser.is_stream() => {}
                Found::Block(block) => {
                    reader.block(&block, *skips).map_err(|what| format!("reader {number}: {what}"))?;
                }
                Found::Response(status) => return Err(format!("reader {number} was answered with {status}")),
                Found::Ping(payload) => reader.to_send.extend(wire::whole(wire::PONG, &payload, dice)),
                Found::Message(payload) => {
                    reader.got(&payload, *skips).map_err(|what| format!("reader {number}: {what}"))?;
                }
                // Too slow: it comes back.
                Found::Close(code) => {
                    reader.to_send.extend(wire::whole(CLOSE, &code.to_be_bytes(), dice));
                    reader.is_over = true;
                }
            }
        }
        let ended = net.ended(reader.socket);
        let cut = ended == Some(Ended::Finished) && reader.parser.is_stream() && !reader.parser.is_between();
        if cut {
            return Err(format!("reader {number}: the stream ends inside an event"));
        }
        reader.is_over |= ended.is_some();
        Ok(())
    }

    fn publish(&mut self, number: usize) {
        let len = [0, 10, 300, 6000][self.dice.below(4)];
        let (_, to_send, published) = &mut self.publishers[number];
        if to_send.len() < 20_000 {
            let payload = format!("{published}:{}", "x".repeat(len));
            to_send.extend(wire::message(TEXT, payload.as_bytes(), None, &mut self.dice));
            *published += 1;
        }
        self.send(number);
    }

    /// A publisher writes what it has, and takes what comes.
    fn send(&mut self, number: usize) {
        let (socket, to_send, _) = &mut self.publishers[number];
        let sending: Vec<u8> = to_send.iter().copied().collect();
        let taken = self.net.write(*socket, &sending);
        to_send.drain(..taken);
        self.net.read(*socket, usize::MAX);
    }

    fn turn(&mut self, number: usize) -> Result<(), String> {
        if self.paused[number] > self.net.now() || self.net.asleep(number).is_some() {
            return Ok(());
        }
        let worker = &mut self.workers[number];
        match worker.tick() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.to_string()),
            _ => worker.audit().map_err(|what| format!("worker {number}: {what}")),
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.net.advance(Duration::from_micros(self.dice.below(400) as u64));
        let (worker, other) = (self.dice.below(self.workers.len()), self.dice.below(self.workers.len()));
        let now = self.net.now();
        match self.dice.below(1000) {
            0..500 => self.turn(worker)?,
            500..800 => {
                let reader = self.dice.below(self.readers.len());
                self.act(reader)?;
            }
            800..930 => {
                let publisher = self.dice.below(self.publishers.len());
                self.publish(publisher);
            }
            930..960 => {
                self.shared.jam_mail(id(worker), id(other), true);
                self.jams.push((worker, other, now + Duration::from_millis(self.dice.below(30) as u64)));
            }
            960..970 => self.paused[worker] = now + Duration::from_millis(self.dice.below(50) as u64),
            _ => self.net.advance(Duration::from_millis(self.dice.below(20) as u64)),
        }
        let shared = Arc::clone(&self.shared);
        self.jams.retain(|&(from, to, until)| {
            let over = until <= now;
            if over {
                shared.jam_mail(id(from), id(to), false);
            }
            !over
        });
        Ok(())
    }

    /// Runs a world; gives the returns and messages of its readers, and how many of the messages were events.
    fn run(&mut self) -> Result<[u64; 3], String> {
        for _ in 0..6000 {
            self.step()?;
        }
        for (from, to, _) in std::mem::take(&mut self.jams) {
            self.shared.jam_mail(id(from), id(to), false);
        }
        self.paused.fill(Duration::ZERO);
        for round in 0..3000 {
            self.net.advance(Duration::from_millis(1));
            for number in 0..self.readers.len() {
                if self.readers[number].is_over {
                    self.join(number);
                }
                self.net.resize(self.readers[number].socket, LARGE);
                self.read(number, usize::MAX)?;
            }
            (0..self.publishers.len()).for_each(|number| self.send(number));
            for worker in 0..self.workers.len() {
                self.turn(worker)?;
            }
            let has_all = |reader: &Reader| {
                let all = |(number, published): (usize, u64)| {
                    let place = reader.places.get(&topic(number));
                    place.and_then(|place| Some(place.last? + place.skipped)) == Some(published)
                        || (place.is_none() && reader.dialect == Dialect::Events)
                };
                reader.dialect == Dialect::Raw
                    || self.publishers.iter().map(|(.., published)| *published).enumerate().all(all)
            };
            if round > 50 && self.readers.iter().all(has_all) {
                let returns = self.readers.iter().map(|reader| reader.returns).sum();
                let is_event =
                    |reader: &&Reader| matches!(reader.dialect, Dialect::Events | Dialect::AllEvents);
                let messages = |reader: &Reader| reader.messages;
                let all = self.readers.iter().map(messages).sum();
                return Ok([returns, all, self.readers.iter().filter(is_event).map(messages).sum()]);
            }
        }
        let published: Vec<u64> = self.publishers.iter().map(|(.., published)| *published).collect();
        let places = |reader: &Reader| {
            let places =
                reader.places.iter().map(|(topic, place)| (topic.clone(), place.last, place.subscribed));
            (reader.dialect, reader.is_over, reader.returns, places.collect::<Vec<_>>())
        };
        let readers: Vec<_> = self.readers.iter().map(places).collect();
        let taken: u64 = self.shared.stats.iter().map(|stats| stats.messages_published.get()).sum();
        let ended: Vec<_> = self
            .publishers
            .iter()
            .map(|(socket, to_send, _)| (self.net.ended(*socket), to_send.len()))
            .collect();
        Err(format!(
            "published {published:?}, of which {taken} were taken, {ended:?}; not all have all: {readers:?}"
        ))
    }
}

impl Reader {
    fn got(&mut self, payload: &[u8], skips: bool) -> Result<(), String> {
        let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
        if self.dialect == Dialect::Raw {
            let place = self.places.values_mut().next().expect("a raw reader has one topic");
            if std::mem::take(&mut place.is_new) {
                return if text == WELCOME { Ok(()) } else { Err(format!("no welcome: {text:.80}")) };
            }
            let number = number_of(text)?;
            let expected = place.last.replace(number + 1).unwrap_or(number);
            // It is not told what it was made to skip.
            let expected = if skips { expected.max(number) } else { expected };
            return self.messages_of(number, expected);
        }
        let json: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text:.80}"))?;
        if json["subscribed"].is_string() {
            return self.begins(&json);
        }
        let word = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        if let Some(skipped) = json["skipped"].as_u64().filter(|&skipped| skips && skipped > 0) {
            let place = self.places.get_mut(&word("topic")).filter(|place| place.subscribed);
            let last = place.and_then(|place| place.last.as_mut());
            *last.ok_or_else(|| format!("skipped before its subscription: {text:.80}"))? += skipped;
            return Ok(());
        }
        if json["welcome"] == true {
            let place = self.places.get_mut(&word("topic"));
            let is_due = place.is_some_and(|place| std::mem::take(&mut place.is_new));
            let is_it = json["data"] == serde_json::from_str::<Value>(WELCOME).expect("JSON");
            return if is_due && is_it { Ok(()) } else { Err(format!("not to be welcomed: {text:.80}")) };
        }
        let offset = json["offset"].as_u64().ok_or_else(|| format!("no offset: {text:.80}"))?;
        let topic = word("topic");
        let place = self.places.get_mut(&topic).filter(|place| place.subscribed && !place.is_new);
        let place = place.ok_or_else(|| format!("a message before its subscription: {text:.80}"))?;
        let before = place.last.replace(offset);
        if before != Some(offset - 1) || place.epoch != word("epoch") {
            return Err(format!("after {before:?} of {topic} comes {offset}"));
        }
        let number = number_of(&word("data"))?;
        self.messages_of(number, offset - 1)
    }

    fn begins(&mut self, notice: &Value) -> Result<(), String> {
        let word = |key: &str| notice[key].as_str().unwrap_or_default().to_owned();
        let offset = notice["offset"].as_u64().ok_or_else(|| format!("no offset: {notice}"))?;
        let topic = word("subscribed");
        let place = self.places.get_mut(&topic).ok_or_else(|| format!("never asked for {topic}"))?;
        if place.subscribed {
            return Err(format!("subscribed to {topic} twice"));
        }
        let recovered = notice["recovered"] == true;
        if place.last.is_some_and(|last| (last, &place.epoch) != (offset, &word("epoch")) || !recovered) {
            return Err(format!("at {:?} of {topic}: {notice}", place.last));
        }
        *place = Place {
            epoch: word("epoch"),
            last: Some(offset),
            subscribed: true,
            is_new: !recovered,
            ..Place::default()
        };
        Ok(())
    }

    /// Of an event stream.
    fn block(&mut self, block: &str, skips: bool) -> Result<(), String> {
        let line = |field: &str| {
            block.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": ").map(str::to_owned))
        };
        let (data, id) = (line("data"), line("id"));
        match (&data, line("event").as_deref(), &id) {
            (Some(data), Some("subscribed"), _) => {
                let notice: Value = serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))?;
                self.begins(&notice)?;
            }
            (Some(data), None, Some(id)) => {
                // A message moves its own topic's place in the id, by one.
                if !self.places.values().all(|place| place.subscribed && !place.is_new) {
                    return Err(format!("a message before all begin: {block:.80}"));
                }
                let mut moved = Vec::new();
                for (place, text) in self.places.values_mut().zip(id.split(',')) {
                    let offset = text.split_once('-').and_then(|(_, offset)| offset.parse().ok());
                    if place.last != offset {
                        let before = place.last.replace(offset.ok_or(format!("no id: {id}"))?);
                        let skipped = std::mem::take(&mut place.skipped);
                        moved.push((before.map(|before| before + skipped), offset));
                    }
                }
                let [(Some(before), Some(offset))] = moved[..] else {
                    return Err(format!("behind {} comes {id}: {moved:?}", self.id));
                };
                if offset != before + 1 {
                    return Err(format!("after {before} comes {offset}"));
                }
                self.messages_of(number_of(data)?, before)?;
            }
            (Some(data), Some("skipped"), None) => {
                let notice: Value = serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))?;
                let skipped = notice["skipped"].as_u64().filter(|&skipped| skips && skipped > 0);
                let place = self.places.get_mut(notice["topic"].as_str().unwrap_or_default());
                let place =
                    place.filter(|place| place.subscribed).ok_or_else(|| format!("skipped: {data}"))?;
                place.skipped += skipped.ok_or_else(|| format!("nothing is skipped here: {data}"))?;
            }
            (Some(data), None, None) if data == WELCOME => {
                let begun = self.places.values().all(|place| place.subscribed);
                let new = self.places.values_mut().find(|place| place.is_new).filter(|_| begun);
                new.ok_or_else(|| "not to be welcomed".to_owned())?.is_new = false;
            }
            (None, None, None) if block == ":" || block.starts_with("retry: ") => {}
            _ => return Err(format!("a block that nobody expects: {block:.80}")),
        }
        let Some(id) = id else { return Ok(()) };
        let place = |place: &Place| format!("{}-{}", place.epoch, place.last.unwrap_or_default());
        let places: Vec<String> = self.places.values().map(place).collect();
        if places.join(",") != id {
            return Err(format!("the id {id} at {places:?}"));
        }
        self.id = id;
        Ok(())
    }

    fn messages_of(&mut self, number: u64, expected: u64) -> Result<(), String> {
        self.messages += 1;
        if number == expected { Ok(()) } else { Err(format!("message {number} instead of {expected}")) }
    }
}

fn number_of(text: &str) -> Result<u64, String> {
    let number = text.split_once(':').and_then(|(number, _)| number.parse().ok());
    number.ok_or_else(|| format!("not one of ours: {text:.40}"))
}

#[test]
fn recoveries_lose_and_repeat_nothing() {
    let (first, seeds) = match crate::number("SEED") {
        Some(seed) => (seed, 1),
        None => (crate::number("FIRST_SEED").unwrap_or(0), crate::number("SEEDS").unwrap_or(1000) / 5),
    };
    let mut sums = [0; 3];
    for seed in first..first + seeds.max(1) {
        let what = Recoveries::new(seed).run();
        let more = what.unwrap_or_else(|what| {
            panic!("seed {seed}: {what}\n  again: SEED={seed} cargo test --test simulation recoveries")
        });
        sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    let [returns, messages, events] = sums;
    println!("{returns} returns, {messages} messages, {events} of them events");
    assert!(returns > 10 * seeds && messages > 100 * seeds && events > 30 * seeds, "{sums:?}");
}
