//! What rules of a file say of topics, over real sockets: policies and bounds, the longest message, welcomes, the least
//! time between deliveries, and what clients are told that were made to skip messages.

mod common;

use std::time::{Duration, Instant};

use common::{
    Client, Frame, TestServer,
    client::{BINARY, TEXT},
    config, frame,
};
use serde_json::{Value, json};
use stentor::{
    broker::pattern::Pattern,
    config::{Config, SlowConsumer, TopicRule},
    server::HandleError,
    session::{TopicName, text},
};

fn rule(pattern: &str, change: impl FnOnce(&mut TopicRule)) -> TopicRule {
    let mut rule = TopicRule::new(Pattern::parse(pattern).expect("a pattern"));
    change(&mut rule);
    rule
}

/// Four workers, so that most topics are ordered elsewhere.
fn with(rules: impl Into<Vec<TopicRule>>) -> Config {
    Config { topics: rules.into(), workers: 4, ..config() }
}

fn next(client: &mut Client) -> Value {
    serde_json::from_str(&client.text()).expect("JSON")
}

fn command(client: &mut Client, command: &Value) {
    client.send_text(&command.to_string());
}

#[test]
fn a_raw_message_longer_than_its_topic_takes_closes_with_1009() {
    let server = TestServer::start(&with([rule("short/*", |rule| rule.max_message_bytes = Some(100))]));
    for at in 0..8 {
        let path = format!("/ws/short/{at}");
        let mut subscriber = Client::open(&server, &format!("{path}?mode=sub"));
        let mut publisher = Client::open(&server, &format!("{path}?mode=pub"));
        // What comes behind it in the same packet is not published.
        let messages = [frame(BINARY, &[7; 100]), frame(BINARY, &[8; 101]), frame(BINARY, &[9; 10])];
        publisher.send(&messages.concat());
        let (code, reason) = publisher.close_frame();
        assert_eq!(code, Some(1009));
        assert!(reason.contains("max-message-bytes"), "{reason}");
        assert_eq!(subscriber.message(), Frame::binary(&[7; 100]));
        assert!(subscriber.close().is_empty(), "the first one alone");
        let mut other = Client::open(&server, &format!("/ws/other/{at}"));
        other.send_frame(BINARY, &[8; 101]);
        assert_eq!(other.message(), Frame::binary(&[8; 101]));
    }
    let metrics = server.metrics();
    assert_eq!(metrics.reason("refused", "message_too_long"), 8);
    assert_eq!(metrics.sum("messages_published"), 16);
}

#[test]
fn a_command_with_a_message_longer_than_its_topic_takes_is_refused() {
    let rules = [
        rule("short", |rule| rule.max_message_bytes = Some(10)),
        rule("shorter/*", |rule| rule.max_message_bytes = Some(5)),
    ];
    let server = TestServer::start(&with(rules));
    let mut client = Client::open(&server, "/ws?topic=short&topic=shorter/1&topic=other&format=json");
    (0..3).for_each(|_| assert!(next(&mut client)["subscribed"].is_string()));
    let refused = json!({
        "code": 106,
        "message": "the message is longer than its topic's max-message-bytes: send less",
    });
    for (topic, longest) in [("short", 10), ("shorter/1", 5)] {
        // The payload counts: not how it is written in JSON.
        let escaped = "\u{7}".repeat(longest);
        for data in
            [json!({ "data": escaped }), json!({ "b64": "AAAAAAAAAAAAAA=="[..longest.div_ceil(3) * 4] })]
        {
            let mut publish = data;
            (publish["publish"], publish["id"]) = (json!(topic), json!(1));
            if publish["b64"].is_string() {
                publish["b64"] = json!(if longest == 10 { "AAAAAAAAAAAAAA==" } else { "AAAAAAA=" });
            }
            command(&mut client, &publish);
            let two = [next(&mut client), next(&mut client)];
            assert!(two.iter().any(|one| one["published"] == topic), "{two:?}");
            assert!(two.iter().any(|one| one["topic"] == topic), "{two:?}");
        }
        let long = "x".repeat(longest + 1);
        command(&mut client, &json!({ "publish": topic, "data": long, "id": [topic] }));
        assert_eq!(next(&mut client), json!({ "error": refused, "id": [topic] }));
        command(&mut client, &json!({ "publish": topic, "data": long }));
        assert_eq!(next(&mut client), json!({ "error": refused }));
    }
    command(&mut client, &json!({ "publish": "other", "data": "x".repeat(11) }));
    assert_eq!(next(&mut client)["topic"], "other", "the connection goes on");
    assert!(client.close().is_empty());
    assert_eq!(server.metrics().reason("refused", "message_too_long"), 4);
}

#[test]
fn a_handle_is_told_that_a_topic_takes_no_message_so_long() {
    let server = TestServer::start(&with([rule("short/*", |rule| rule.max_message_bytes = Some(4))]));
    let handle = server.handle().patient(common::PATIENCE);
    let topic = |name| TopicName::parse(name).expect("a name");
    let mut short = Client::open(&server, "/ws/short/t?mode=sub");
    let mut other = Client::open(&server, "/ws/other?mode=sub");
    assert_eq!(handle.publish(&topic("short/t"), text("12345")), Err(HandleError::TooLong));
    assert_eq!(handle.publish(&topic("other"), text("12345")), Ok(()));
    assert_eq!(handle.publish(&topic("short/t"), text("1234")), Ok(()));
    assert_eq!(other.text(), "12345");
    assert_eq!(short.text(), "1234");
    // An announcement is for those who take it.
    assert_eq!(handle.broadcast(text("to all of you")), Ok(()));
    assert_eq!(handle.broadcast(text("all")), Ok(()));
    assert_eq!((other.text(), other.text()), ("to all of you".into(), "all".into()));
    assert_eq!(short.text(), "all");
    assert_eq!(server.metrics().reason("refused", "message_too_long"), 1);
}

#[test]
fn a_welcome_comes_before_all_else() {
    const WELCOME: &str = "be kind\nto each other";
    let rules = [
        rule("chat/*", |rule| {
            rule.welcome = Some(WELCOME.into());
            rule.history = Some(3);
        }),
        rule("objects", |rule| rule.welcome = Some(r#"{"system": "hello"}"#.into())),
        // So long that it is shared and not copied.
        rule("long", |rule| rule.welcome = Some("é".repeat(20_000).into())),
    ];
    let server = TestServer::start(&with(rules));
    // Raw: a text message, whatever the topic's place.
    for at in 0..8 {
        let path = format!("/ws/chat/{at}");
        let mut first = Client::open(&server, &path);
        assert_eq!(first.text(), WELCOME);
        first.send_frame(BINARY, b"one");
        assert_eq!(first.message(), Frame::binary(b"one"));
        let mut second = Client::open(&server, &format!("{path}?history=5"));
        assert_eq!(second.text(), WELCOME, "before what it gets of the past");
        assert_eq!(second.message(), Frame::binary(b"one"));
        let mut third = Client::open(&server, &path);
        assert_eq!(third.text(), WELCOME, "each of them");
        assert!(Client::open(&server, &format!("{path}?mode=pub")).close().is_empty(), "subscribers alone");
        [first, second, third].into_iter().for_each(|client| assert!(client.close().is_empty()));
    }
    for _ in 0..3 {
        let mut client = Client::open(&server, "/ws/long?mode=sub");
        assert_eq!(client.text(), "é".repeat(20_000));
        assert!(client.close().is_empty());
    }

    // JSON: behind the notice, without numbers, and for whoever does not go on where it was.
    let welcome = json!({ "topic": "chat/0", "welcome": true, "data": WELCOME });
    let mut client = Client::open(&server, "/ws/chat/0?format=json&history=1");
    let subscribed = next(&mut client);
    assert_eq!((&subscribed["subscribed"], &subscribed["offset"]), (&json!("chat/0"), &json!(0)));
    assert_eq!(next(&mut client), welcome);
    assert_eq!(next(&mut client)["offset"], 1);
    command(&mut client, &json!({ "subscribe": "objects" }));
    assert_eq!(next(&mut client)["subscribed"], "objects");
    assert_eq!(
        client.text(),
        r#"{"topic":"objects","welcome":true,"data":{"system": "hello"}}"#,
        "as other text"
    );
    command(&mut client, &json!({ "unsubscribe": "objects" }));
    assert_eq!(next(&mut client)["unsubscribed"], "objects");
    command(&mut client, &json!({ "subscribe": "objects" }));
    assert_eq!(next(&mut client)["subscribed"], "objects");
    assert_eq!(next(&mut client)["welcome"], true, "a new subscription");
    command(&mut client, &json!({ "publish": "chat/0", "data": "two" }));
    assert_eq!(next(&mut client)["offset"], 2);
    assert!(client.close().is_empty());

    let epoch = subscribed["epoch"].as_str().expect("an epoch");
    let mut back = Client::open(&server, &format!("/ws/chat/0?format=json&since=1&epoch={epoch}"));
    assert_eq!(next(&mut back)["recovered"], true);
    assert_eq!(next(&mut back)["offset"], 2, "it was here before");
    assert!(back.close().is_empty());
    let mut lost = Client::open(&server, "/ws/chat/0?format=json&since=1&epoch=00000000&history=1");
    assert_eq!(next(&mut lost)["recovered"], false);
    assert_eq!(next(&mut lost), welcome);
    assert_eq!(next(&mut lost)["offset"], 2);
    assert!(lost.close().is_empty());
}

/// Stops to read, and has two topics: what it misses of one it is told, of the other it has the newest.
#[test]
fn who_is_made_to_skip_is_told_how_many_and_topics_differ_on_one_connection() {
    let rules = [
        rule("skip", |rule| {
            rule.slow_consumer = Some(SlowConsumer::Skip);
            rule.lag_messages_max = Some(40);
        }),
        rule("latest", |rule| rule.slow_consumer = Some(SlowConsumer::Latest)),
    ];
    let server = TestServer::start(&Config { send_buffer_bytes: 16 << 10, ..with(rules) });
    let mut slow = Client::narrow(&server).upgraded("/ws?topic=skip&topic=latest&format=json&mode=sub");
    let mut raw = Client::narrow(&server).upgraded("/ws/skip?mode=sub");
    let subscribed = [next(&mut slow), next(&mut slow)];
    let mut publishers =
        ["skip", "latest"].map(|topic| Client::open(&server, &format!("/ws/{topic}?mode=pub")));
    let mut published = 0;
    for _ in 0..10 {
        for _ in 0..100 {
            let payload = format!("{published:04}{}", "x".repeat(4000));
            publishers.iter_mut().for_each(|publisher| publisher.send_text(&payload));
            published += 1;
        }
        server.until("all are taken", |metrics| metrics.sum("messages_published") == 2 * published);
        // Lags are looked at ten times a second.
        std::thread::sleep(Duration::from_millis(30));
    }
    let (mut at, mut told, mut newest) = (0, 0, 0);
    assert!(subscribed.iter().all(|notice| notice["offset"] == 0));
    let number = |data: &str| data[..4].parse::<u64>().expect("a number");
    while at < published || newest < published {
        let json = next(&mut slow);
        if let Some(skipped) = json["skipped"].as_u64() {
            assert_eq!(json, json!({ "skipped": skipped, "topic": "skip" }));
            (at, told) = (at + skipped, told + skipped);
            continue;
        }
        let offset = json["offset"].as_u64().expect("an offset");
        assert_eq!(number(json["data"].as_str().expect("text")) + 1, offset);
        if json["topic"] == "skip" {
            at += 1;
            assert_eq!(offset, at, "nothing is missing but what it was told");
        } else {
            assert!(offset > newest, "{offset} after {newest}");
            newest = offset;
        }
    }
    assert!(told > 500, "{told} were skipped, of {published}");
    // The raw dialect has no word for it: after what had left comes what is new.
    let mut got = Vec::new();
    while server.metrics().sum("deliveries_skipped") == told {
        if !raw.is_silent_for(Duration::from_millis(20)) {
            got.push(number(&raw.text()));
        }
    }
    publishers[0].send_text("9999 is new");
    while got.last() != Some(&9999) {
        got.push(number(&raw.text()));
    }
    got.pop();
    let before = u64::try_from(got.len()).expect("few");
    assert_eq!(got, (0..before).collect::<Vec<_>>());
    let metrics = server.metrics();
    assert_eq!(metrics.sum("deliveries_skipped"), told + published - before);
    assert!(metrics.sum("deliveries_conflated") > 500);
    assert_eq!(metrics.sum("closed"), 0, "nobody was cut off");
}

/// Of its topics one cuts off whoever is slow: then the connection ends for all of them.
#[test]
fn the_strictest_topic_of_a_connection_ends_it() {
    let rules = [
        rule("skip", |rule| rule.slow_consumer = Some(SlowConsumer::Skip)),
        rule("strict", |rule| rule.lag_messages_max = Some(20)),
    ];
    let server = TestServer::start(&Config { send_buffer_bytes: 16 << 10, ..with(rules) });
    let slow =
        ["skip", "strict"].map(|topic| Client::narrow(&server).upgraded(&format!("/ws/{topic}?mode=sub")));
    for topic in ["skip", "strict"] {
        let mut publisher = Client::open(&server, &format!("/ws/{topic}?mode=pub"));
        (0..300).for_each(|_| publisher.send_frame(BINARY, &[7; 4000]));
        assert!(publisher.close().is_empty());
    }
    server.until("one is gone", |metrics| metrics.sum("slow_consumers") == 1);
    assert_eq!(server.metrics().reason("closed", "slow_consumer"), 1);
    server.until_connections(1);
    let [mut skips, mut strict] = slow;
    assert_eq!(skips.message(), Frame::binary(&[7; 4000]));
    assert!(strict.gone() || strict.is_silent_for(Duration::from_millis(1)));
}

const INTERVAL: Duration = Duration::from_millis(150);

/// Publishes a number every 5 ms; what a subscriber has got by then, and how many deliveries there may have been.
fn paced(policy: SlowConsumer) -> (TestServer, Vec<u64>, u64, u64) {
    let rules = [rule("paced/*", |rule| {
        rule.min_interval = Some(INTERVAL);
        rule.slow_consumer = Some(policy);
    })];
    let server = TestServer::start(&with(rules));
    let mut reader = Client::open(&server, "/ws/paced/t?mode=sub");
    let mut publisher = Client::open(&server, "/ws/paced/t?mode=pub");
    // What was sent is counted by then.
    let counting = Duration::from_millis(50);
    std::thread::sleep(counting);
    let (sends, began) = (server.metrics().sum("sends"), Instant::now());
    let read = |reader: &mut Client| reader.text().parse::<u64>().expect("a number");
    for number in 0..200 {
        publisher.send_text(&number.to_string());
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut got = vec![read(&mut reader)];
    while *got.last().expect("some") != 199 {
        got.push(read(&mut reader));
    }
    let intervals = u64::try_from(began.elapsed().as_millis() / INTERVAL.as_millis()).expect("few");
    std::thread::sleep(counting);
    let sends = server.metrics().sum("sends") - sends;
    assert_eq!(server.metrics().sum("messages_held"), 0, "no publisher waits");
    (server, got, sends, intervals + 1)
}

#[test]
fn with_an_interval_messages_come_in_batches() {
    let (server, got, sends, most) = paced(SlowConsumer::Disconnect);
    assert_eq!(got, (0..200).collect::<Vec<_>>(), "all of them");
    assert!((2..=most).contains(&sends), "{sends} sends, at most {most}");
    assert_eq!(server.metrics().sum("deliveries"), 200);
}

#[test]
fn with_an_interval_and_latest_the_newest_value_alone_comes() {
    let (server, got, sends, most) = paced(SlowConsumer::Latest);
    assert!(got.is_sorted() && got.len() as u64 == sends, "{got:?} in {sends} sends");
    assert!((2..=most).contains(&sends), "{sends} sends, at most {most}");
    assert_eq!(server.metrics().sum("deliveries_conflated"), 200 - sends);
}

#[test]
fn a_long_interval_delays_neither_the_first_message_nor_a_replay_nor_publishers() {
    let rules = [rule("slow", |rule| {
        rule.min_interval = Some(Duration::from_secs(3600));
        rule.lag_messages_max = Some(40);
        rule.history = Some(1000);
    })];
    let server = TestServer::start(&with(rules));
    let mut reader = Client::open(&server, "/ws/slow?mode=sub");
    let mut publisher = Client::open(&server, "/ws/slow?mode=pub");
    publisher.send_text("0");
    assert_eq!(reader.text(), "0", "the first one at once");
    publisher.send_text("1");
    server.until("it is taken", |metrics| metrics.sum("messages_published") == 2);
    assert!(reader.is_silent_for(Duration::from_millis(300)));
    let mut newcomer = Client::open(&server, "/ws/slow?mode=sub&history=10");
    assert_eq!((newcomer.text(), newcomer.text()), ("0".into(), "1".into()));
    for number in 2..100 {
        publisher.send_text(&number.to_string());
    }
    // A quarter of the bound is the window: what does not fit ends the wait.
    for number in 1..90 {
        assert_eq!(reader.text(), number.to_string());
    }
    for number in 2..90 {
        assert_eq!(newcomer.text(), number.to_string());
    }
    server.until("all are taken", |metrics| metrics.sum("messages_published") == 100);
    let mut last = Client::open(&server, "/ws/slow?mode=sub&history=1");
    assert_eq!(last.message(), Frame { first: TEXT, payload: b"99".to_vec() });
}
