//! Server-Sent Events over real sockets: who gets what in which order, who comes back with which id, and how streams end.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    Client, Rng, TestServer,
    client::{BINARY, Response},
    config,
    process::Process,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use stentor::{
    broker::pattern::Pattern,
    config::{Anonymous, Config, SlowConsumer, TopicRule},
    server::Server,
    session::{Refusal, Request},
};

/// Topics under `kept/` keep so many messages.
fn keeping(messages: u64) -> Config {
    let pattern = Pattern::parse("kept/**").unwrap();
    let rule = TopicRule { history: Some(messages), ..TopicRule::new(pattern) };
    Config { topics: vec![rule], workers: 4, ..config() }
}

/// An event as a browser sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Event {
    name: String,
    data: String,
    id: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// An event stream (WHATWG HTML section 9.2.6). Heartbeats are passed over, and counted.
struct Stream {
    client: Client,
    head: Response,
    id: String,
    heartbeats: u64,
    retry: Option<u64>,
}

impl Stream {
    fn open(server: &TestServer, path: &str) -> Stream {
        Stream::with(Client::connect(server), path, "")
    }

    fn back(server: &TestServer, path: &str, id: &str) -> Stream {
        Stream::with(Client::connect(server), path, &format!("Last-Event-ID: {id}\r\n"))
    }

    fn with(mut client: Client, path: &str, headers: &str) -> Stream {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes());
        let head = client.response_head();
        assert_eq!(head.status, 200, "{path}: {head:?}");
        assert_eq!(head.header("content-type"), "text/event-stream");
        Stream { client, head, id: String::new(), heartbeats: 0, retry: None }
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> std::io::Result<Option<Event>> {
        loop {
            let Some(block) = self.client.next_block()? else { return Ok(None) };
            let (mut name, mut data) = ("message".to_owned(), None::<String>);
            for line in block.split('\n') {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "" => self.heartbeats += 1,
                    "event" => value.clone_into(&mut name),
                    "id" => value.clone_into(&mut self.id),
                    "retry" => self.retry = value.parse().ok(),
                    "data" => {
                        data = Some(match data {
                            Some(data) => data + "\n" + value,
                            None => value.to_owned(),
                        });
                    }
                    _ => panic!("{block:?}"),
                }
            }
            if let Some(data) = data {
                return Ok(Some(Event { name, data, id: self.id.clone() }));
            }
        }
    }

    fn event(&mut self) -> Event {
        self.next().expect("an event comes").expect("an event, not the end")
    }

    /// The next message's text.
    fn message(&mut self) -> String {
        let event = self.event();
        assert_eq!(event.name, "message", "{event:?}");
        event.data
    }

    /// Where a topic begins, and whether it was recovered.
    fn subscribed(&mut self, topic: &str) -> (u64, bool) {
        let event = self.event();
        let notice = event.json();
        assert_eq!((&*event.name, &notice["subscribed"]), ("subscribed", &json!(topic)), "{event:?}");
        (notice["offset"].as_u64().expect("an offset"), notice["recovered"].as_bool().expect("a bool"))
    }

    /// The end, in order.
    fn end(&mut self) {
        let next = self.next().expect("the end of the stream");
        assert!(next.is_none(), "nothing more: {next:?}");
    }
}

/// Epochs and offsets of an id.
fn places(id: &str) -> Vec<(String, u64)> {
    let place = |place: &str| {
        let (epoch, offset) = place.split_once('-').unwrap_or_else(|| panic!("a place: {id:?}"));
        (epoch.to_owned(), offset.parse().expect("an offset"))
    };
    id.split(',').map(place).collect()
}

fn offsets(id: &str) -> Vec<u64> {
    places(id).into_iter().map(|(_, offset)| offset).collect()
}

/// Publishes numbers, and waits until the server has taken them.
fn publish(server: &TestServer, topic: &str, numbers: std::ops::Range<u64>) {
    let mut publisher = Client::open(server, &format!("/ws/{topic}?mode=pub"));
    let before = server.metrics().sum("messages_published");
    let many = numbers.end - numbers.start;
    numbers.for_each(|number| publisher.send_text(&number.to_string()));
    server.until("all are taken", |metrics| metrics.sum("messages_published") >= before + many);
}

/// The answer to a request without a stream.
fn answer(server: &TestServer, request: &str) -> Response {
    Client::connect(server).request(request)
}

fn get(server: &TestServer, path: &str, headers: &str) -> Response {
    answer(server, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
}

#[test]
fn a_stream_says_where_it_begins_and_then_what_comes() {
    let server = TestServer::start(&keeping(10));
    let mut stream = Stream::open(&server, "/sse/kept/t");
    for (name, value) in [
        ("cache-control", "no-store, no-transform"),
        ("connection", "close"),
        ("x-accel-buffering", "no"),
        ("vary", "Origin"),
        ("content-length", ""),
        ("transfer-encoding", ""),
        ("access-control-allow-origin", ""),
    ] {
        assert_eq!(stream.head.header(name), value, "{name}");
    }
    assert_eq!(stream.subscribed("kept/t"), (0, false));
    assert!(stream.retry.is_some_and(|ms| (2000..=4047).contains(&ms)), "{:?}", stream.retry);
    let (epoch, at) = places(&stream.id).remove(0);
    assert_eq!(at, 0, "who is cut off now can come back");
    let mut publisher = Client::open(&server, "/ws/kept/t");
    for text in ["one", "two\nlines", "", " {\"json\":\ttrue}"] {
        publisher.send_text(text);
    }
    publisher.send_frame(BINARY, &[0, 0xff]);
    publisher.send_text("a\rb");
    for (offset, (name, data)) in (1..).zip([
        ("message", "one"),
        ("message", "two\nlines"),
        ("message", ""),
        ("message", " {\"json\":\ttrue}"),
        ("binary", "AP8="),
        ("binary", "YQ1i"),
    ]) {
        let expected =
            Event { name: name.to_owned(), data: data.to_owned(), id: format!("{epoch}-{offset}") };
        assert_eq!(stream.event(), expected);
    }
    server.until("it is counted", |metrics| metrics.sum("streams") == 1);
    assert_eq!(server.metrics().sum("upgrades"), 1, "the publisher's");
    drop(stream);
    server.until_connections(1);
}

/// On all workers, whatever they speak; far more than the window holds.
#[test]
fn raw_json_and_event_subscribers_see_one_order() {
    const MESSAGES: usize = 2000;
    let server = TestServer::start(&keeping(10));
    let mut raw: Vec<Client> = (0..4).map(|_| Client::open(&server, "/ws/kept/t?mode=sub")).collect();
    let mut json: Vec<Client> =
        (0..4).map(|_| Client::open(&server, "/ws/kept/t?format=json&mode=sub")).collect();
    json.iter_mut().for_each(|client| assert!(client.text().contains("subscribed")));
    let mut single: Vec<Stream> = (0..4).map(|_| Stream::open(&server, "/sse/kept/t")).collect();
    single.iter_mut().for_each(|stream| _ = stream.subscribed("kept/t"));
    let mut several: Vec<Stream> =
        (0..4).map(|_| Stream::open(&server, "/sse/other?topic=kept/t&topic=third")).collect();
    for stream in &mut several {
        ["other", "kept/t", "third"].iter().for_each(|topic| _ = stream.subscribed(topic));
    }
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let mut client = Client::open(&server, "/ws/kept/t?mode=pub");
            std::thread::spawn(move || {
                (0..MESSAGES).for_each(|number| client.send_text(&format!("{publisher}:{number}")));
                client
            })
        })
        .collect();
    let orders: Vec<Vec<String>> =
        raw.iter_mut().map(|client| (0..4 * MESSAGES).map(|_| client.text()).collect()).collect();
    assert!(orders.iter().all(|order| *order == orders[0]));
    for client in &mut json {
        for text in &orders[0] {
            let message: Value = serde_json::from_str(&client.text()).unwrap();
            assert_eq!(&message["data"], &json!(text));
        }
    }
    for stream in &mut single {
        for (number, text) in (1..).zip(&orders[0]) {
            let event = stream.event();
            assert_eq!((&event.data, offsets(&event.id)), (text, vec![number]));
        }
    }
    for stream in &mut several {
        for (number, text) in (1..).zip(&orders[0]) {
            let event = stream.event();
            assert_eq!((&event.data, offsets(&event.id)), (text, vec![0, number, 0]));
        }
    }
    let workers = server.metrics().by_worker("streams");
    assert!(workers.iter().filter(|&&streams| streams > 0).count() > 1, "{workers:?}");
    publishers.into_iter().for_each(|publisher| drop(publisher.join().unwrap()));
}

/// Takes `most` bytes of what comes, or what there is, and not one more; gives the whole blocks.
fn take(stream: &mut TcpStream, most: usize) -> String {
    let mut all = vec![0; most];
    let mut len = 0;
    while len < most {
        match stream.read(&mut all[len..]) {
            Ok(0) => break,
            Ok(bytes) => len += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let text = String::from_utf8(all[..len].to_vec()).expect("only ASCII is sent here");
    text.rsplit_once("\n\n").map_or(String::new(), |(whole, _)| whole.to_owned())
}

/// A gap or a repeat would be one here: streams are cut at any byte, and come back with their last id, on any worker, while
/// messages flow.
#[test]
fn cuts_at_any_byte_lose_and_repeat_nothing() {
    const RETURNS: usize = 40;
    const TOPICS: [&str; 3] = ["kept/a", "kept/b", "kept/c"];
    let server = Arc::new(TestServer::start(&keeping(100_000)));
    let over = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..)
        .zip(TOPICS)
        .map(|(seed, topic)| {
            let (server, over) = (Arc::clone(&server), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut client = Client::open(&*server, &format!("/ws/{topic}?mode=pub"));
                let (mut number, mut rng) = (0u64, Rng(seed));
                while !over.load(Ordering::Relaxed) {
                    for _ in 0..=rng.below(10) {
                        number += 1;
                        let padding = "x".repeat([0, 10, 300, 3000][rng.below(4)]);
                        client.send_text(&format!("{topic} {number} {padding}"));
                    }
                    std::thread::sleep(Duration::from_micros(rng.below(4000) as u64));
                }
                client
            })
        })
        .collect();
    let clients: Vec<_> = (0..8usize)
        .map(|number| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                let mut rng = Rng(number as u64 + 100);
                let topics = if number < 4 { &TOPICS[number % 3..=number % 3] } else { &TOPICS[..] };
                let query: Vec<String> = topics.iter().map(|topic| format!("topic={topic}")).collect();
                let (mut id, mut last) = (String::new(), vec![0u64; topics.len()]);
                for cut in 0..RETURNS {
                    let mut stream = TcpStream::connect(server.address).expect("it listens");
                    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                    let path = format!("/sse?{}", query.join("&"));
                    let header =
                        if id.is_empty() { String::new() } else { format!("Last-Event-ID: {id}\r\n") };
                    let ask = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
                    stream.write_all(ask.as_bytes()).unwrap();
                    let most = [600, 3000, 60_000][rng.below(3)];
                    let got = take(&mut stream, 1 + rng.below(most));
                    let Some((_, body)) = got.split_once("\r\n\r\n") else { continue };
                    let first = cut == 0 || id.is_empty();
                    for block in body.split("\n\n") {
                        let line = |field: &str| {
                            block.lines().find_map(|line| {
                                line.strip_prefix(field)?.strip_prefix(": ").map(str::to_owned)
                            })
                        };
                        if line("event").is_some() {
                            let notice: Value = serde_json::from_str(&line("data").unwrap()).unwrap();
                            assert!(first || notice["recovered"] == true, "{notice}");
                            let at = topics.iter().position(|topic| notice["subscribed"] == *topic).unwrap();
                            let offset = notice["offset"].as_u64().unwrap();
                            if first {
                                last[at] = offset;
                            }
                            assert_eq!(offset, last[at]);
                        } else if let Some(data) = line("data") {
                            let mut words = data.split(' ');
                            let (topic, number) = (words.next().unwrap(), words.next().unwrap());
                            let at = topics.iter().position(|other| *other == topic).unwrap();
                            last[at] += 1;
                            assert_eq!(number.parse(), Ok(last[at]), "no gap, no repeat");
                        }
                        if let Some(new) = line("id") {
                            assert_eq!(offsets(&new), last);
                            id = new;
                        }
                    }
                    // Mostly in the middle of what the server sends.
                    drop(stream);
                    std::thread::sleep(Duration::from_micros(rng.below(2000) as u64));
                }
                last
            })
        })
        .collect();
    let seen: Vec<Vec<u64>> =
        clients.into_iter().map(|client| client.join().expect("no gap, no repeat")).collect();
    over.store(true, Ordering::Relaxed);
    publishers.into_iter().for_each(|publisher| drop(publisher.join().unwrap()));
    assert!(seen.iter().all(|last| last.iter().sum::<u64>() > 50), "{seen:?}");
}

#[test]
fn who_comes_back_says_where_it_was_in_three_ways() {
    let server = TestServer::start(&keeping(10));
    publish(&server, "kept/t", 0..10);
    let mut stream = Stream::open(&server, "/sse/kept/t?history=2");
    assert_eq!(stream.subscribed("kept/t"), (8, false));
    assert_eq!(offsets(&stream.id), [8]);
    assert_eq!([stream.message(), stream.message()], ["8", "9"]);
    let (epoch, _) = places(&stream.id).remove(0);
    let begins = |mut stream: Stream, at: u64| {
        assert_eq!(stream.subscribed("kept/t"), (at, true));
        for number in at..10 {
            assert_eq!(stream.message(), number.to_string());
        }
    };
    begins(Stream::back(&server, "/sse/kept/t", &format!("{epoch}-3")), 3);
    begins(Stream::open(&server, &format!("/sse/kept/t?lastEventId={epoch}-4")), 4);
    begins(Stream::open(&server, &format!("/sse/kept/t?since=5&epoch={epoch}")), 5);
    // A browser comes back to the address that it began with: what its header says is newer.
    let path = format!("/sse/kept/t?since=5&epoch={epoch}&lastEventId={epoch}-6&history=3");
    begins(Stream::back(&server, &path, &format!("{epoch}-7")), 7);
    // An empty one says nothing.
    begins(Stream::back(&server, &path, ""), 6);
    begins(Stream::back(&server, "/sse/kept/t", &format!("{epoch}-10")), 10);
}

#[test]
fn who_can_not_recover_is_told_so() {
    let server = TestServer::start(&keeping(5));
    publish(&server, "kept/t", 0..10);
    publish(&server, "kept/u", 0..3);
    let mut stream = Stream::open(&server, "/sse/kept/t?topic=kept/u");
    assert_eq!((stream.subscribed("kept/t"), stream.subscribed("kept/u")), ((10, false), (3, false)));
    let of: Vec<String> = places(&stream.id).into_iter().map(|(epoch, _)| epoch).collect();
    let (t, u) = (&of[0], &of[1]);
    for id in [
        "nonsense",
        "-",
        "7",
        &format!("{t}-4"),
        &format!("{t}-11"),
        &format!("{t}-18446744073709551615"),
        &format!("{t}-99999999999999999999"),
        "00000000-7",
        &format!("{t}-9,{u}-3"),
        &format!("{t}-9,"),
        &"x".repeat(3000),
        &format!("{t}--1"),
    ] {
        let mut stream = Stream::back(&server, "/sse/kept/t", id);
        assert_eq!(stream.subscribed("kept/t"), (10, false), "{id}");
        assert_eq!(offsets(&stream.id), [10]);
        let mut stream = Stream::back(&server, "/sse/kept/t?history=2", id);
        assert_eq!(stream.subscribed("kept/t"), (8, false), "{id}, and the newest instead");
        assert_eq!([stream.message(), stream.message()], ["8", "9"]);
    }
    // Of several topics some may be recovered.
    let mut stream = Stream::back(&server, "/sse/kept/t?topic=kept/u", &format!("{t}-2,{u}-1"));
    assert_eq!((stream.subscribed("kept/t"), stream.subscribed("kept/u")), ((10, false), (1, true)));
    assert_eq!([stream.message(), stream.message()], ["1", "2"]);
    assert_eq!(offsets(&stream.id), [10, 3]);
    // An id of other topics, or in another order, is one of other lives.
    let mut stream = Stream::back(&server, "/sse/kept/t?topic=kept/u", &format!("{u}-1,{t}-9"));
    assert_eq!((stream.subscribed("kept/t"), stream.subscribed("kept/u")), ((10, false), (3, false)));
    let mut stream = Stream::back(&server, "/sse/kept/t?topic=kept/u", &format!("{t}-9"));
    assert_eq!((stream.subscribed("kept/t"), stream.subscribed("kept/u")), ((10, false), (3, false)));
}

/// The past of all topics comes first; ids never say that a client has what it has not.
#[test]
fn several_topics_begin_with_their_past() {
    let server = TestServer::start(&keeping(100));
    for topic in ["kept/a", "kept/b", "kept/c"] {
        publish(&server, topic, 0..50);
    }
    let mut stream = Stream::open(&server, "/sse/kept/a?topic=kept/b&topic=kept/a&topic=kept/c&history=30");
    for topic in ["kept/a", "kept/b", "kept/c"] {
        assert_eq!(stream.subscribed(topic), (20, false));
    }
    let mut last = vec![20; 3];
    for _ in 0..90 {
        let event = stream.event();
        let now = offsets(&event.id);
        let moved: Vec<usize> = (0..3).filter(|&at| now[at] != last[at]).collect();
        assert_eq!((moved.len(), now[moved[0]]), (1, last[moved[0]] + 1), "{now:?} behind {last:?}");
        assert_eq!(event.data, (now[moved[0]] - 1).to_string());
        last = now;
    }
    assert_eq!(last, [50; 3]);
    publish(&server, "kept/b", 50..51);
    assert_eq!((stream.message(), offsets(&stream.id)), ("50".to_owned(), vec![50, 51, 50]));
}

#[test]
fn heartbeats_come_where_nothing_else_does() {
    let ping_interval = Some(Duration::from_millis(300));
    let server = TestServer::start(&Config { ping_interval, ..keeping(10) });
    let mut streams = ["/sse/t", "/sse/t?topic=u"].map(|path| Stream::open(&server, path));
    for stream in &mut streams {
        stream.subscribed("t");
    }
    streams[1].subscribed("u");
    std::thread::sleep(Duration::from_millis(1500));
    publish(&server, "t", 0..1);
    for stream in &mut streams {
        assert_eq!(stream.message(), "0");
        assert!((3..=7).contains(&stream.heartbeats), "{}", stream.heartbeats);
    }
    server.until_connections(2);
}

#[test]
fn a_slow_stream_is_treated_as_its_policy_says() {
    for slow_consumer in [SlowConsumer::Disconnect, SlowConsumer::Skip, SlowConsumer::Latest] {
        for path in ["/sse/slow", "/sse/slow?topic=other"] {
            let server = TestServer::start(&Config {
                lag_bytes_max: 256 << 10,
                max_message_bytes: 64 << 10,
                send_buffer_bytes: 16 << 10,
                slow_consumer,
                ..config()
            });
            let mut slow = Stream::with(Client::narrow(&server), path, "");
            slow.subscribed("slow");
            server.until("the gauge is set", |metrics| metrics.sum("subscriptions") > 0);
            let mut publisher = Client::open(&server, "/ws/slow?mode=pub");
            let what = format!("{slow_consumer:?} {path}");
            let mut sent = 0;
            let is_over = |sent| match slow_consumer {
                SlowConsumer::Disconnect => server.metrics().sum("subscriptions") == 0,
                SlowConsumer::Skip | SlowConsumer::Latest => sent == 300,
            };
            while !is_over(sent) {
                sent += 1;
                publisher.send_text(&format!("{sent}:{}", "x".repeat(9000)));
                assert!(sent < 10_000, "nobody was called slow");
            }
            server.until("all are taken", |metrics| metrics.sum("messages_published") == sent);
            let (mut last, mut told) = (0, 0);
            let mut read = |slow: &mut Stream| -> Option<u64> {
                let event = slow.next().ok()??;
                if event.name != "message" {
                    told += u64::from(event.name == "skipped");
                    return Some(0);
                }
                let (number, rest) = event.data.split_once(':').expect("whole");
                assert_eq!(rest.len(), 9000, "{what}: no event is cut");
                let number: u64 = number.parse().expect("a number");
                assert!(number > last, "{what}");
                assert_eq!(offsets(&event.id)[0], number, "{what}");
                last = number;
                Some(number)
            };
            match slow_consumer {
                SlowConsumer::Disconnect => {
                    // What it got is the front of the stream, and the end, which is a reset where something was left.
                    let mut whole = 0;
                    while let Some(number) = read(&mut slow) {
                        assert!(number <= whole + 1, "{what}");
                        whole = number;
                    }
                    assert!(whole < sent, "{what}");
                    drop(slow);
                    server.until("it is counted", |metrics| metrics.reason("closed", "slow_consumer") == 1);
                    assert_eq!(server.metrics().sum("slow_consumers"), 1);
                }
                SlowConsumer::Skip | SlowConsumer::Latest => {
                    // It reads on, and once it has all that is there it gets what comes.
                    slow.client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    let (mut count, mut newest) = (0, sent);
                    while read(&mut slow).inspect(|_| count += 1).is_none_or(|number| number <= sent) {
                        if slow.client.is_silent_for(Duration::from_millis(200)) {
                            newest += 1;
                            publisher.send_text(&format!("{newest}:{}", "x".repeat(9000)));
                        }
                        assert!(newest < sent + 50, "{what}: it stays");
                    }
                    assert!(count < sent, "{what}: {count} of {sent}");
                    assert_eq!(told > 0, slow_consumer == SlowConsumer::Skip, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_drain_ends_streams_and_counts_them() {
    let mut process = Process::start(&["--workers=2", "--drain-timeout=5s"]);
    let paths = ["/sse/a", "/sse/a?topic=b", "/sse/c"];
    let mut streams: Vec<Stream> =
        paths.iter().map(|path| Stream::with(Client::to(process.address), path, "")).collect();
    for (stream, topic) in streams.iter_mut().zip(["a", "a", "c"]) {
        stream.subscribed(topic);
    }
    streams[1].subscribed("b");
    let began = std::time::Instant::now();
    process.signal(Signal::TERM);
    for mut stream in streams {
        stream.end();
    }
    assert_eq!(process.ended().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn pages_of_other_origins_may_read_a_stream_if_they_are_on_the_list() {
    let allow_origin = vec!["https://*.example.com".to_owned()];
    let server = TestServer::start(&Config { open_loopback: false, allow_origin, ..keeping(10) });
    let stream = Stream::with(Client::connect(&server), "/sse/t", "Origin: https://www.example.com\r\n");
    assert_eq!(stream.head.header("access-control-allow-origin"), "https://www.example.com");
    assert_eq!(stream.head.header("vary"), "Origin");
    assert_eq!(Stream::open(&server, "/sse/t").head.header("access-control-allow-origin"), "");
    let foreign = get(&server, "/sse/t", "Origin: https://example.org\r\n");
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (403, ""));
    let refused = get(&server, "/sse/a*", "Origin: https://www.example.com\r\n");
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (400, "https://www.example.com"),
        "the page may see why"
    );
    let preflight = |origin: &str| {
        answer(
            &server,
            &format!(
                "OPTIONS /sse/t HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
                 Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: last-event-id\r\n\r\n"
            ),
        )
    };
    let allowed = preflight("https://www.example.com");
    assert_eq!(allowed.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://www.example.com"),
        ("access-control-allow-methods", "GET"),
        ("access-control-allow-headers", "Last-Event-ID, Cache-Control"),
        ("access-control-max-age", "7200"),
        ("vary", "Origin"),
        ("content-length", ""),
    ] {
        assert_eq!(allowed.header(name), value, "{name}");
    }
    assert_eq!(preflight("https://example.org").status, 403);
    assert_eq!(server.metrics().reason("refused", "origin"), 2);
    // Without a list, pages of the host itself.
    let server = TestServer::start(&Config { open_loopback: false, ..keeping(10) });
    Stream::with(Client::connect(&server), "/sse/t", "Origin: http://localhost\r\n");
    assert_eq!(get(&server, "/sse/t", "Origin: https://example.org\r\n").status, 403);
}

#[test]
fn http_1_0_and_head() {
    let server = TestServer::start(&keeping(10));
    let mut client = Client::connect(&server);
    client.send(b"GET /sse/t HTTP/1.0\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.header("connection")), (200, "close"));
    let mut stream = Stream { client, head, id: String::new(), heartbeats: 0, retry: None };
    stream.subscribed("t");
    publish(&server, "t", 0..1);
    assert_eq!(stream.message(), "0");

    let mut client = Client::connect(&server);
    client.send(b"HEAD /sse/t?topic=u HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.header("content-type")), (200, "text/event-stream"));
    assert_eq!(head.header("content-length"), "");
    client.end();
    assert_eq!(server.metrics().sum("streams"), 1, "a head is no stream");
}

#[test]
fn what_is_no_request_for_a_stream_is_told_why() {
    let server = TestServer::start(&Config { max_subscriptions: 70, ..keeping(10) });
    let topics = |count: usize| (0..count).map(|n| format!("topic=t{n}")).collect::<Vec<_>>().join("&");
    for (path, headers, status, reason) in [
        ("/sse", "", 400, "query"),
        ("/sse?topic=", "", 400, "topic_name"),
        ("/sse/", "", 400, "topic_name"),
        ("/sse/a*", "", 400, "topic_name"),
        ("/sse/a?topic=_stentor/x", "", 400, "topic_name"),
        ("/sse/a%", "", 400, "path_escape"),
        ("/sse/a?history=x", "", 400, "query"),
        ("/sse/a?since=1", "", 400, "query"),
        ("/sse/a?since=1&epoch=short", "", 400, "query"),
        ("/sse/a?topic=b&since=1&epoch=00000000", "", 400, "query"),
        (&format!("/sse?{}", topics(65)), "", 400, "query"),
        (&format!("/sse?{}", topics(71)), "", 403, "subscribe"),
        ("/sse/a", "Accept: application/json\r\n", 406, "not_acceptable"),
        ("/sse/a", "Accept: application/json, image/*;q=0.5\r\n", 406, "not_acceptable"),
        ("/sse/a", "Host: example.com\r\n", 400, "host_repeated"),
        ("/sses/a", "", 404, "no_route"),
    ] {
        let before = server.metrics().reason("refused", reason);
        let response = get(&server, path, headers);
        assert_eq!((response.status, response.body.lines().count()), (status, 1), "{path} {headers}");
        assert_eq!(server.metrics().reason("refused", reason), before + 1, "{path} {headers}");
    }
    for accept in
        ["*/*", "text/*;q=0.1", "text/event-stream", "application/json, Text/Event-Stream;q=0.9", ""]
    {
        Stream::with(Client::connect(&server), "/sse/t0", &format!("Accept: {accept}\r\n"));
    }
    for (request, status) in [
        ("POST /sse/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 405),
        ("DELETE /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /sse/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 413),
        ("GET /sse/a HTTP/1.1\r\nHost: example.com\r\n\r\n", 403),
        (&common::client::upgrade_request("/sse/a"), 404),
    ] {
        let response = answer(&server, request);
        assert_eq!(response.status, status, "{request}");
        if status == 405 {
            assert_eq!(response.header("allow"), "GET, HEAD, OPTIONS");
        }
    }
    let few = TestServer::start(&Config { max_topics: 3, ..keeping(10) });
    let response = get(&few, &format!("/sse?{}", topics(4)), "");
    assert_eq!((response.status, response.header("retry-after")), (503, "10"));
    few.until("nothing is left", |metrics| metrics.sum("subscriptions") == 0);
    let none = TestServer::start(&Config { anonymous: Anonymous::None, ..keeping(10) });
    assert_eq!(get(&none, "/sse/a", "").status, 403);
    let subscribe = TestServer::start(&Config { anonymous: Anonymous::Subscribe, ..keeping(10) });
    Stream::open(&subscribe, "/sse/a").subscribed("a");
}

#[test]
fn a_stream_counts_as_a_connection() {
    let server = TestServer::start(&Config { max_connections: Some(2), ..keeping(10) });
    let mut streams = ["/sse/a", "/sse/a?topic=b"].map(|path| Stream::open(&server, path));
    streams[0].subscribed("a");
    let response = get(&server, "/sse/a", "");
    assert_eq!((response.status, response.header("retry-after")), (503, "5"));
    drop(streams);
    server.until("they have gone", |metrics| metrics.reason("closed", "eof") == 2);
    Stream::open(&server, "/sse/a").subscribed("a");
}

/// Frames, requests, noise: a stream's client is not listened to, and may not talk for ever.
#[test]
fn who_talks_on_a_stream_is_not_heard() {
    let server = TestServer::start(&keeping(10));
    let mut neighbour = Stream::open(&server, "/sse/t");
    neighbour.subscribed("t");
    let mut rng = Rng(3);
    for path in ["/sse/t", "/sse/t?topic=u"] {
        let mut stream = Stream::open(&server, path);
        stream.subscribed("t");
        stream.client.send_text("a frame");
        stream.client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.client.send(&rng.bytes(10_000));
        publish(&server, "t", 0..1);
        let mut next = stream.event();
        if next.name == "subscribed" {
            next = stream.event();
        }
        assert_eq!((&*next.data, &*neighbour.message()), ("0", "0"));
        let mut sender = stream.client.sender();
        let noise = rng.bytes(1 << 20);
        let writer = std::thread::spawn(move || _ = sender.write_all(&noise));
        assert!(stream.next().is_ok_and(|next| next.is_none()) || writer.is_finished());
        drop(stream);
        writer.join().unwrap();
    }
    server.until("both have gone", |metrics| metrics.reason("closed", "protocol_error") == 2);
    publish(&server, "t", 0..1);
    assert_eq!(neighbour.message(), "0");
    // Behind the request at once.
    let mut client = Client::connect(&server);
    client.send(b"GET /sse/t HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.send(&[b'x'; 17_000]);
    let ended = client.gone();
    assert!(!ended || server.metrics().reason("closed", "protocol_error") == 3);
}

/// Who finishes its side of TCP has gone: a browser's tab that was closed says no more than that.
#[test]
fn the_end_of_a_client_is_the_end_of_its_stream() {
    let server = TestServer::start(&keeping(10));
    for path in ["/sse/t", "/sse/t?topic=u"] {
        let mut stream = Stream::open(&server, path);
        stream.subscribed("t");
        stream.client.half_close();
        while stream.next().expect("the end comes").is_some() {}
    }
    server.until("both have gone", |metrics| metrics.reason("closed", "eof") == 2);
    server.until("with what they had", |metrics| metrics.sum("subscriptions") == 0);
}

/// Of several topics each id moves one: what is left out of a history moves none.
#[test]
fn what_is_left_out_of_a_history_moves_no_other_events_id() {
    let server = TestServer::start(&keeping(10));
    let mut backend = Client::connect(&server);
    for (topic, data, skip) in [("a", "a1", false), ("a", "a2", false), ("a", "a3", true), ("b", "b1", false)]
    {
        let body =
            json!({"channel": format!("kept/{topic}"), "data": data, "skip_history": skip}).to_string();
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}", body.len());
        assert_eq!(backend.request(&format!("{head}\r\n\r\n{body}")).status, 200);
    }
    let mut stream = Stream::open(&server, "/sse/kept/a?topic=kept/b&history=10");
    stream.subscribed("kept/a");
    stream.subscribed("kept/b");
    let mut before = offsets(&stream.id);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let message = stream.message();
        let now = offsets(&stream.id);
        let moved: Vec<usize> = (0..2).filter(|&at| now[at] != before[at]).collect();
        assert_eq!(moved, [usize::from(message == "b1")], "{message}: {before:?} {now:?}");
        before = now;
        seen.push(message);
    }
    seen.sort();
    assert_eq!(seen, ["a1", "a2", "b1"]);
}

/// Whoever does not go on where it was is welcomed, behind the word of where it begins and before the past.
#[test]
fn a_topics_welcome_is_an_event_without_an_id() {
    let mut config = keeping(10);
    config.topics[0].welcome = Some("{\"system\":\"hello\"}".into());
    let server = TestServer::start(&config);
    publish(&server, "kept/a", 0..3);
    let mut stream = Stream::open(&server, "/sse/kept/a?history=1");
    assert_eq!(stream.subscribed("kept/a"), (2, false));
    let id = stream.id.clone();
    let welcome = stream.event();
    assert_eq!((&*welcome.name, &*welcome.data, &welcome.id), ("message", "{\"system\":\"hello\"}", &id));
    assert_eq!(stream.message(), "2");
    let mut stream = Stream::back(&server, "/sse/kept/a", &id);
    assert_eq!(stream.subscribed("kept/a"), (2, true));
    assert_eq!(stream.message(), "2", "nobody is welcomed twice");

    let mut stream = Stream::open(&server, "/sse/kept/a?topic=kept/b&topic=other&history=1");
    for topic in ["kept/a", "kept/b", "other"] {
        stream.subscribed(topic);
    }
    for message in ["{\"system\":\"hello\"}", "{\"system\":\"hello\"}", "2"] {
        assert_eq!(stream.message(), message);
    }
    let mut stream = Stream::back(&server, "/sse/kept/a?topic=kept/b&topic=other", &stream.id);
    for topic in ["kept/a", "kept/b", "other"] {
        assert!(stream.subscribed(topic).1);
    }
    publish(&server, "kept/b", 7..8);
    assert_eq!(stream.message(), "7");
}

/// A program with routes of its own serves streams beside them, to those whom its hook lets in.
#[test]
fn a_hook_decides_about_streams_as_well() {
    let start = |config: Config| {
        let accept = |request: &Request| match request.query_value("key").as_deref() {
            Some("right") => Ok(()),
            _ => Err(Refusal::new(401, "key", "a key is asked for")),
        };
        Server::builder().config(config).with_own_routes().accept(move |asks| accept(asks.request)).start()
    };
    let server = TestServer::started(start, &keeping(10));
    let mut stream = Stream::open(&server, "/sse/t?key=right");
    stream.subscribed("t");
    publish_with_key(&server);
    assert_eq!(stream.message(), "hello");
    assert_eq!(get(&server, "/sse/t", "").status, 401);
    assert_eq!(get(&server, "/sse/t?key=wrong", "").status, 401);
}

fn publish_with_key(server: &TestServer) {
    Client::open(server, "/ws/t?mode=pub&key=right").send_text("hello");
}
