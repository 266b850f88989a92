//! Overload: workers that are late, that flood each other or stand still push publishers back, and cost nobody a
//! message or a connection.
//!
//! The server runs in this process, with sessions that hold their worker up when they are told to.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{
    Client, Frame, TestServer,
    client::{BINARY, TEXT, server_frame},
    config,
    crowd::Crowd,
    eventually, frame,
};
use stentor::{
    config::Config,
    session::{
        Audience, Context, Failure, Handshake, Message, Refusal, Request, Route, Router, Session, TopicName,
        raw::{Mode, Raw},
        text,
    },
};

/// The test's routes.
///
/// | path | session |
/// | --- | --- |
/// | `/in/{topic}` | raw, subscribes |
/// | `/to/{topic}` | raw, publishes; says first which worker it is on |
/// | `/at/{topic}` | raw, subscribes; says first which worker it is on |
/// | `/sleep/{ms}` | each message holds the worker up for so long; says first which worker it is on |
/// | `/many/{topics}` | subscribes to many topics |
struct Hooks {
    /// Workers that are being held up by `/sleep` now.
    asleep: Arc<AtomicUsize>,
}

impl Router for Hooks {
    fn route(&self, request: &Request, _: SocketAddr) -> Route {
        let (verb, rest) = request.path[1..].split_once('/').expect("the test's own paths");
        let raw = |mode| Raw::new(topic(rest), mode, Audience::All, 0);
        let session: Box<dyn Session> = match verb {
            "in" => Box::new(raw(Mode::Subscribe)),
            "to" => Box::new(Placed(raw(Mode::Publish))),
            "at" => Box::new(Placed(raw(Mode::Subscribe))),
            "sleep" => {
                let time = Duration::from_millis(rest.parse().expect("a number"));
                Box::new(Placed(Sleep { time, asleep: Arc::clone(&self.asleep) }))
            }
            "many" => Box::new(Many(rest.to_owned())),
            _ => panic!("no session for {}", request.path),
        };
        Route::upgrade(request, session)
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

/// Tells its client which worker it is on.
struct Placed<S>(S);

impl<S: Session> Session for Placed<S> {
    fn open(&mut self, context: &mut Context<'_>, handshake: &Handshake<'_>) -> Result<(), Refusal> {
        context.send(text(std::thread::current().name().expect("workers have names")));
        self.0.open(context, handshake)
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        self.0.message(context, message)
    }
}

/// Holds its worker up with each message.
struct Sleep {
    time: Duration,
    asleep: Arc<AtomicUsize>,
}

impl Session for Sleep {
    fn message(&mut self, _: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        self.asleep.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.time);
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Subscribes to [`TOPICS_EACH`] topics at once.
struct Many(String);

const TOPICS_EACH: usize = 100;

impl Session for Many {
    fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
        (0..TOPICS_EACH).for_each(|i| _ = context.subscribe(&topic(&format!("{}/{i}", self.0))));
        Ok(())
    }

    fn message(&mut self, _: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

fn start(config: &Config) -> TestServer {
    start_asleep(config).0
}

/// A server, and how many of its workers are held up by `/sleep` now.
fn start_asleep(config: &Config) -> (TestServer, Arc<AtomicUsize>) {
    let asleep = Arc::new(AtomicUsize::new(0));
    (TestServer::start_with(config, Arc::new(Hooks { asleep: Arc::clone(&asleep) })), asleep)
}

/// A client that was told which worker it is on, and that worker.
fn placed(server: &TestServer, path: &str) -> (Client, usize) {
    let mut client = Client::narrow(server).upgraded(path);
    let name = client.text();
    (client, name.strip_prefix("worker-").and_then(|number| number.parse().ok()).expect("its number"))
}

/// A client on `worker`.
fn placed_on(server: &TestServer, path: &str, worker: usize) -> Client {
    // Those on the other workers stay for a while, so that this one gets some.
    let mut elsewhere = Vec::new();
    loop {
        let (client, on) = placed(server, path);
        if on == worker {
            return client;
        }
        elsewhere.push(client);
        assert!(elsewhere.len() < 100, "worker {worker} gets no connection");
    }
}

/// Slows one worker down: while it is on, each tick reads 64 to 256 KiB of its connection, two to eight messages,
/// and each of them holds the worker up.
struct Brake {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What each message of a brake takes its worker.
const BRAKE: Duration = Duration::from_millis(5);

impl Brake {
    fn on(server: &TestServer) -> Brake {
        let mut client = Client::open(server, &format!("/sleep/{}", BRAKE.as_millis()));
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (over, message) = (Arc::clone(&over), frame(BINARY, &[0; 32_000]));
            move || {
                while !over.load(Ordering::Relaxed) {
                    client.send(&message);
                }
            }
        });
        Brake { over, thread }
    }

    fn off(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the brake was not cut off");
    }
}

const PUBLISHERS: usize = 4;

/// What publisher `publisher` sends as its `number`th message: 64 bytes.
fn payload(publisher: usize, number: usize) -> String {
    format!("{publisher}:{number:06}:{}", "x".repeat(55))
}

/// Bytes that each subscriber gets of `messages` messages.
fn wire_len(messages: usize) -> usize {
    messages * server_frame(TEXT, payload(0, 0).as_bytes()).len()
}

/// Publishers that send `each` messages as fast as they are read, or all together `rate` per second. Gives them
/// back with the time that it took.
fn flood(clients: Vec<Client>, each: usize, rate: Option<usize>) -> Vec<JoinHandle<(Client, Duration)>> {
    let publishers = clients.len();
    let began = Instant::now();
    let spawn = |(publisher, mut client): (usize, Client)| {
        client.stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        std::thread::spawn(move || {
            for number in 0..each {
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64((number * publishers) as f64 / rate as f64);
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
                client.send_text(&payload(publisher, number));
            }
            (client, began.elapsed())
        })
    };
    clients.into_iter().enumerate().map(spawn).collect()
}

/// Nobody was cut off; the time that the slowest of them took.
fn unharmed(publishers: Vec<JoinHandle<(Client, Duration)>>) -> Duration {
    let ended = publishers.into_iter().map(|publisher| {
        let (client, took) = publisher.join().expect("not cut off");
        assert!(client.close().is_empty());
        took
    });
    ended.max().expect("there are publishers")
}

/// Each publisher's messages are there in its order, and nothing else.
fn assert_each_in_order(bytes: &[u8], publishers: usize, each: usize) {
    let mut next = vec![0; publishers];
    let mut rest = bytes;
    while let Some((frame, len)) = Frame::parse(rest) {
        rest = &rest[len..];
        let text = String::from_utf8(frame.payload).expect("text");
        let publisher: usize =
            text.split(':').next().and_then(|number| number.parse().ok()).expect("a number");
        assert_eq!(text, payload(publisher, next[publisher]));
        next[publisher] += 1;
    }
    assert_eq!((next, rest.len()), (vec![each; publishers], 0));
}

/// No pings among what is compared byte by byte.
fn quiet() -> Config {
    Config { ping_interval: None, ..config() }
}

/// A thousand readers of a flood, one of two workers slowed down. `rate`: what publishers offer per second, of
/// which each reader reads a tenth; without it all go as fast as they can.
fn overload_by_a_slow_worker(each: usize, rate: Option<usize>) {
    let server = start(&quiet());
    let len = wire_len(PUBLISHERS * each);
    let time = Duration::from_secs(60);
    let crowd = match rate {
        Some(rate) => Crowd::reading_at(wire_len(rate / 10), &server, "/in/flood", 1_000, len, time),
        None => Crowd::agreeing(&server, "/in/flood", 1_000, len, time),
    };
    let publishers = (0..PUBLISHERS).map(|_| placed(&server, "/to/flood").0).collect();
    let brake = Brake::on(&server);
    let publishing = flood(publishers, each, rate);
    let bytes = crowd.finish();
    let took = unharmed(publishing);
    brake.off();
    assert_each_in_order(&bytes, PUBLISHERS, each);
    let metrics = server.metrics();
    println!(
        "{} messages were taken in {took:?}; {} of them waited; refused sends: {}",
        PUBLISHERS * each,
        metrics.sum("messages_held"),
        metrics.sum("sends_refused"),
    );
    assert_eq!(metrics.sum("slow_consumers"), 0);
    assert!(metrics.sum("messages_held") > 0, "publishers were held back");
    // 500 readers take the slow worker 7 or more slices of 64 sends, each in a tick of its own. In one lap of it
    // publishers get no further than 2,500 messages, a quarter of the lag bound; some thousand wait in the kernel.
    let laps = (PUBLISHERS * each / 2_500 - 3) as u32;
    assert!(took > laps * 7 * BRAKE, "publishers were slowed: {took:?} for {laps} laps");
}

#[test]
fn a_slow_worker_pushes_publishers_back_and_readers_lose_nothing() {
    overload_by_a_slow_worker(4_000, None);
}

#[test]
fn readers_at_a_tenth_of_what_is_offered_lose_nothing_while_a_worker_is_slow() {
    overload_by_a_slow_worker(5_000, Some(100_000));
}

/// Bounds that a flood of a test of its own length can't pass, so that nobody is slow because this machine is busy.
fn roomy() -> Config {
    Config { lag_messages_max: 100_000, ..quiet() }
}

/// So many topics whose home is `worker`.
fn topics_of(server: &TestServer, worker: usize, topics: usize) -> Vec<String> {
    let published = || server.metrics().by_worker("messages_published");
    let names = (0..100).map(|i| format!("{worker}-{i}")).filter(|name| {
        let before = published();
        placed(server, &format!("/to/{name}")).0.send_text("where?");
        eventually("the message is taken", || published() != before);
        published()[worker] > before[worker]
    });
    names.take(topics).collect()
}

#[test]
fn two_workers_that_flood_each_other_lose_nothing() {
    const EACH: usize = 10_000;
    let server = start(&roomy());
    let mut floods = Vec::new();
    for worker in [0, 1] {
        for name in topics_of(&server, worker, 2) {
            let path = format!("/in/{name}");
            let crowd = Crowd::agreeing(&server, &path, 50, wire_len(2 * EACH), Duration::from_secs(60));
            let path = format!("/to/{name}");
            let publishers = (0..2).map(|_| placed_on(&server, &path, 1 - worker)).collect::<Vec<_>>();
            floods.push((crowd, publishers));
        }
    }
    let began = Instant::now();
    let under_way: Vec<_> =
        floods.into_iter().map(|(crowd, publishers)| (crowd, flood(publishers, EACH, None))).collect();
    let mut log_bytes = 0;
    eventually("all is taken", || {
        let metrics = server.metrics();
        log_bytes = log_bytes.max(metrics.sum("log_bytes"));
        metrics.sum("messages_published") >= (8 * EACH) as u64
    });
    for (crowd, publishing) in under_way {
        assert_each_in_order(&crowd.finish(), 2, EACH);
        unharmed(publishing);
    }
    let metrics = server.metrics();
    println!(
        "{} messages, each through the other worker, in {:?}; {} waited; logs: at most {log_bytes} bytes",
        8 * EACH,
        began.elapsed(),
        metrics.sum("messages_held"),
    );
    assert_eq!(metrics.sum("slow_consumers"), 0);
    assert!(metrics.by_worker("messages_held").iter().all(|&held| held > 0), "both were pushed back");
    // Each message lies in one log, with 8 bytes of index, whatever the number of readers; segments have 256 KiB.
    let bound = 8 * EACH * (wire_len(1) + 8) + 4 * 2 * (256 << 10);
    assert!(log_bytes <= bound as u64, "{log_bytes} bytes of logs");
    server.until("the logs are empty", |metrics| metrics.sum("log_bytes") == 0);
}

#[test]
fn a_home_that_stands_still_holds_its_publishers_and_nobody_else() {
    const EACH: usize = 10_000;
    let (server, asleep) = start_asleep(&roomy());
    let (still, alive) = (topics_of(&server, 0, 1).remove(0), topics_of(&server, 1, 1).remove(0));
    let crowd =
        Crowd::agreeing(&server, &format!("/in/{still}"), 50, wire_len(2 * EACH), Duration::from_secs(60));
    let publishers = (0..2).map(|_| placed_on(&server, &format!("/to/{still}"), 1)).collect();
    let mut publisher = placed_on(&server, &format!("/to/{alive}"), 1);
    let mut reader = placed_on(&server, &format!("/at/{alive}"), 1);
    let mut sleeper = placed_on(&server, "/sleep/1000", 0);
    let by_home = || server.metrics().by_worker("messages_published")[0];

    sleeper.send_text("now");
    let is_asleep = || asleep.load(Ordering::Relaxed) > 0;
    eventually("the home stands still", is_asleep);
    let before = by_home();
    let publishing = flood(publishers, EACH, None);
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    loop {
        let began = Instant::now();
        publisher.send_text("on");
        assert_eq!(reader.text(), "on");
        let taken = by_home();
        if !is_asleep() {
            break;
        }
        assert_eq!(taken, before, "it stands still");
        rounds += 1;
        longest = longest.max(began.elapsed());
    }
    let held = server.metrics().by_worker("messages_held")[1];
    println!("{rounds} messages of another home went there and back meanwhile; the longest took {longest:?}");
    assert!(rounds > 0 && longest < Duration::from_millis(500), "{rounds} rounds, {longest:?}");
    assert!(held > 0, "publishers on the other worker are held back");
    assert_each_in_order(&crowd.finish(), 2, EACH);
    unharmed(publishing);
    assert_eq!(server.metrics().sum("slow_consumers"), 0);
}

#[test]
fn a_hundred_thousand_subscriptions_reset_at_once_leave_nothing_behind() {
    const CONNECTIONS: usize = 1_000;
    let (server, asleep) = start_asleep(&Config { topic_idle_timeout: Duration::from_secs(2), ..quiet() });
    let reset = |client: &Client| {
        let socket = socket2::SockRef::from(&client.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    };
    // Ten connections to each topic, ten thousand topics.
    let clients: Vec<_> =
        (0..CONNECTIONS).map(|i| Client::open(&server, &format!("/many/{}", i / 10))).collect();
    clients.iter().for_each(reset);
    let mut reader = Client::open(&server, "/in/feed");
    let over = Arc::new(AtomicBool::new(false));
    let feed = std::thread::spawn({
        let (mut publisher, over) = (Client::open(&server, "/to/feed"), Arc::clone(&over));
        move || {
            while !over.load(Ordering::Relaxed) {
                publisher.send_text("tick");
                std::thread::sleep(Duration::from_millis(1));
            }
            publisher.send_text("over");
        }
    });
    let listening = std::thread::spawn(move || {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while reader.text() != "over" {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    });
    let all = (CONNECTIONS * TOPICS_EACH + 1) as u64;
    server.until("all are subscribed", |metrics| metrics.sum("subscriptions") == all);

    // Both workers find all resets when they wake up: they are the work of one tick.
    let mut sleepers = [0, 1].map(|worker| placed_on(&server, "/sleep/200", worker));
    sleepers.iter_mut().for_each(|sleeper| sleeper.send_text("now"));
    eventually("both stand still", || asleep.load(Ordering::Relaxed) == 2);
    let began = Instant::now();
    drop(clients);
    let resets = began.elapsed();
    server.until("the subscriptions are gone", |metrics| metrics.sum("subscriptions") <= 1);
    let gone = began.elapsed();
    server.until("their lanes are gone", |metrics| metrics.sum("lanes") == 1);
    server.until("their topics are gone", |metrics| metrics.sum("topics") == 1);
    over.store(true, Ordering::Relaxed);
    feed.join().expect("the publisher was not cut off");
    let longest = listening.join().expect("the reader was not cut off");
    println!(
        "reset within {resets:?}, subscriptions gone after {gone:?}; the feed's longest gap was {longest:?}, \
         of which 200 ms stood still"
    );
    assert!(longest < Duration::from_millis(1_200), "{longest:?}");
    assert_eq!(server.metrics().sum("slow_consumers"), 0);
}
