//! History and recovery: who comes back gets exactly what it has missed, or is told that it can't; and the JSON dialect
//! around it.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Client, Rng, TestServer, client::BINARY, config};
use serde_json::{Value, json};
use stentor::{
    broker::pattern::Pattern,
    config::{Config, TopicRule},
};

/// Topics under `kept/` keep so many messages.
fn keeping(messages: u64) -> Config {
    let pattern = Pattern::parse("kept/**").unwrap();
    let rule = TopicRule { history: Some(messages), ..TopicRule::new(pattern) };
    Config { topics: vec![rule], workers: 4, ..config() }
}

fn next(client: &mut Client) -> Value {
    serde_json::from_str(&client.text()).expect("JSON")
}

fn command(client: &mut Client, command: &Value) {
    client.send_text(&command.to_string());
}

/// Where a subscription begins, and whether it was recovered.
fn subscribed(client: &mut Client, topic: &str) -> (String, u64, bool) {
    let notice = next(client);
    assert_eq!(notice["subscribed"], topic, "{notice}");
    let epoch = notice["epoch"].as_str().expect("an epoch").to_owned();
    (epoch, notice["offset"].as_u64().expect("an offset"), notice["recovered"].as_bool().expect("a bool"))
}

fn offsets(client: &mut Client, messages: usize) -> Vec<u64> {
    (0..messages).map(|_| next(client)["offset"].as_u64().expect("an offset")).collect()
}

/// Publishes numbers, and waits until the server has taken them.
fn publish(server: &TestServer, topic: &str, numbers: std::ops::Range<u64>) {
    let mut publisher = Client::open(server, &format!("/ws/{topic}?mode=pub"));
    let before = server.metrics().sum("messages_published");
    let many = numbers.end - numbers.start;
    numbers.for_each(|number| publisher.send_text(&number.to_string()));
    server.until("all are taken", |metrics| metrics.sum("messages_published") >= before + many);
}

#[test]
fn who_comes_back_gets_exactly_what_it_has_missed() {
    let server = TestServer::start(&keeping(10));
    let path = "/ws/kept/t?format=json&mode=sub";
    let mut client = Client::open(&server, path);
    let (epoch, start, recovered) = subscribed(&mut client, "kept/t");
    assert_eq!((start, recovered), (0, false), "nothing was asked for");
    publish(&server, "kept/t", 0..3);
    assert_eq!(offsets(&mut client, 3), [1, 2, 3]);
    drop(client);
    publish(&server, "kept/t", 3..10);
    let mut client = Client::open(&server, &format!("{path}&since=3&epoch={epoch}"));
    assert_eq!(subscribed(&mut client, "kept/t"), (epoch.clone(), 3, true));
    for number in 3..10 {
        let message = next(&mut client);
        assert_eq!((&message["data"], &message["offset"]), (&json!(number.to_string()), &json!(number + 1)));
        assert_eq!((&message["topic"], &message["epoch"]), (&json!("kept/t"), &json!(epoch)));
    }
    // What comes now comes behind it.
    publish(&server, "kept/t", 10..12);
    assert_eq!(offsets(&mut client, 2), [11, 12]);
    assert!(client.close().is_empty());
}

#[test]
fn who_can_not_recover_is_told_so() {
    let server = TestServer::start(&keeping(5));
    publish(&server, "kept/t", 0..10);
    publish(&server, "other", 0..10);
    let path = "/ws/kept/t?format=json&mode=sub";
    let (epoch, ..) = subscribed(&mut Client::open(&server, path), "kept/t");
    for (since, of, what) in [
        (4, &*epoch, "too old"),
        (11, &*epoch, "from the future"),
        (u64::MAX, &*epoch, "far"),
        (7, "00000000", "foreign"),
    ] {
        let mut client = Client::open(&server, &format!("{path}&since={since}&epoch={of}"));
        assert_eq!(subscribed(&mut client, "kept/t"), (epoch.clone(), 10, false), "{what}");
        let mut client = Client::open(&server, &format!("{path}&since={since}&epoch={of}&history=2"));
        assert_eq!(
            subscribed(&mut client, "kept/t"),
            (epoch.clone(), 8, false),
            "{what}, and the newest instead"
        );
        assert_eq!(offsets(&mut client, 2), [9, 10]);
        assert!(client.close().is_empty());
    }
    let mut client = Client::open(&server, &format!("{path}&since=5&epoch={epoch}"));
    assert_eq!(subscribed(&mut client, "kept/t"), (epoch.clone(), 5, true), "just not too old");
    assert_eq!(offsets(&mut client, 5), [6, 7, 8, 9, 10]);
    // Without a history there is nothing to recover from.
    let mut client = Client::open(&server, "/ws/other?format=json&mode=sub&history=5");
    let (of_other, head, recovered) = subscribed(&mut client, "other");
    assert_eq!((head, recovered), (10, false));
    let mut client =
        Client::open(&server, &format!("/ws/other?format=json&mode=sub&since=9&epoch={of_other}"));
    assert_eq!(subscribed(&mut client, "other"), (of_other.clone(), 10, false));
    let mut client =
        Client::open(&server, &format!("/ws/other?format=json&mode=sub&since=10&epoch={of_other}"));
    assert_eq!(subscribed(&mut client, "other"), (of_other, 10, true), "it has missed nothing");
}

#[test]
fn a_raw_client_begins_with_the_newest_messages() {
    let server = TestServer::start(&keeping(5));
    publish(&server, "kept/t", 0..10);
    for history in [0, 1, 3, 100] {
        let mut client = Client::open(&server, &format!("/ws/kept/t?history={history}"));
        let kept = history.min(5);
        assert_eq!(
            (0..kept).map(|_| client.text()).collect::<Vec<_>>(),
            (10 - kept..10).map(|n| n.to_string()).collect::<Vec<_>>()
        );
        client.send_text("live");
        assert_eq!(client.text(), "live");
        assert!(client.close().is_empty());
        // The live one is in the history now.
        publish(&server, "kept/t", 0..10);
    }
}

/// A gap or a repeat would be one here: clients are cut at any place and come back, on any worker, while messages flow.
#[test]
fn cuts_at_any_place_lose_and_repeat_nothing() {
    const CLIENTS: u64 = 8;
    const RETURNS: usize = 40;
    let server = Arc::new(TestServer::start(&keeping(100_000)));
    let over = Arc::new(AtomicBool::new(false));
    let publisher = {
        let (server, over) = (Arc::clone(&server), Arc::clone(&over));
        std::thread::spawn(move || {
            let mut client = Client::open(&*server, "/ws/kept/feed?mode=pub");
            let (mut number, mut rng) = (0u64, Rng(7));
            while !over.load(Ordering::Relaxed) {
                for _ in 0..=rng.below(30) {
                    number += 1;
                    client.send_text(&number.to_string());
                }
                std::thread::sleep(Duration::from_micros(rng.below(3000) as u64));
            }
            client
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                let mut rng = Rng(seed + 1);
                let mut client = Client::open(&*server, "/ws/kept/feed?format=json&mode=sub");
                let (epoch, mut last, _) = subscribed(&mut client, "kept/feed");
                for _ in 0..RETURNS {
                    for _ in 0..rng.below(60) {
                        let message = next(&mut client);
                        last += 1;
                        assert_eq!(
                            (&message["offset"], &message["data"]),
                            (&json!(last), &json!(last.to_string()))
                        );
                    }
                    // Mostly in the middle of what the server sends.
                    drop(client);
                    std::thread::sleep(Duration::from_micros(rng.below(2000) as u64));
                    let path = format!("/ws/kept/feed?format=json&mode=sub&since={last}&epoch={epoch}");
                    client = Client::open(&*server, &path);
                    assert_eq!(subscribed(&mut client, "kept/feed"), (epoch.clone(), last, true));
                }
                last
            })
        })
        .collect();
    let seen: Vec<u64> =
        clients.into_iter().map(|client| client.join().expect("no gap, no repeat")).collect();
    over.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    assert!(seen.iter().all(|&last| last > 100), "{seen:?}");
}

/// Far more than the window holds: each encoding's floor must come back to the home.
#[test]
fn raw_and_json_subscribers_see_one_order() {
    const MESSAGES: usize = 4000;
    let server = TestServer::start(&keeping(10));
    let mut raw: Vec<Client> = (0..4).map(|_| Client::open(&server, "/ws/kept/t?mode=sub")).collect();
    let mut json: Vec<Client> =
        (0..4).map(|_| Client::open(&server, "/ws/kept/t?format=json&mode=sub")).collect();
    json.iter_mut().for_each(|client| _ = subscribed(client, "kept/t"));
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
        for (number, text) in (1..).zip(&orders[0]) {
            let message = next(client);
            assert_eq!((&message["data"], &message["offset"]), (&json!(text), &json!(number)));
        }
    }
    publishers.into_iter().for_each(|publisher| drop(publisher.join().unwrap()));
}

#[test]
fn commands_subscribe_publish_and_unsubscribe() {
    let server = TestServer::start(&Config { max_subscriptions: 3, ..keeping(10) });
    let mut client = Client::connect(&server);
    client.send(
        b"GET /ws?topic=kept/a&topic=b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Protocol: other, stentor.json\r\n\r\n",
    );
    let response = client.response_head();
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, "stentor.json"));
    // Topics with different homes answer in any order.
    let mut begun =
        [next(&mut client), next(&mut client)].map(|notice| notice["subscribed"].as_str().map(str::to_owned));
    begun.sort_unstable();
    assert_eq!(begun, [Some("b".into()), Some("kept/a".into())]);

    command(&mut client, &json!({"publish": "b", "data": {"text": "hi"}, "id": 7}));
    let mut seen = [next(&mut client), next(&mut client)];
    seen.sort_by_key(|value| value.get("published").is_none());
    assert_eq!((&seen[1]["topic"], &seen[1]["data"]), (&json!("b"), &json!({"text": "hi"})));
    assert_eq!(seen[0], json!({"published": "b", "epoch": seen[1]["epoch"], "offset": 1, "id": 7}));
    command(&mut client, &json!({"publish": "kept/c", "b64": "AAEC"}));
    command(&mut client, &json!({"subscribe": "kept/c", "history": 5}));
    assert_eq!(subscribed(&mut client, "kept/c").1, 0);
    assert_eq!(next(&mut client)["b64"], "AAEC");

    let refused = |client: &mut Client, asked: &Value| {
        command(client, asked);
        let error = next(client);
        (error["error"]["code"].as_u64().expect("a code"), error["topic"].clone())
    };
    assert_eq!(refused(&mut client, &json!({"subscribe": "b"})), (105, json!("b")));
    assert_eq!(refused(&mut client, &json!({"subscribe": "d"})), (106, json!("d")));
    assert_eq!(refused(&mut client, &json!({"subscribe": 5})).0, 107);
    assert_eq!(refused(&mut client, &json!({"dance": "b"})).0, 107);
    client.send_frame(BINARY, br#"{"ping":1}"#);
    assert_eq!(next(&mut client)["error"]["code"], 107);
    command(&mut client, &json!({"unsubscribe": "b"}));
    assert_eq!(next(&mut client), json!({"unsubscribed": "b"}));
    command(&mut client, &json!({"unsubscribe": "nothing"}));
    assert_eq!(next(&mut client), json!({"unsubscribed": "nothing"}));
    publish(&server, "b", 0..1);
    command(&mut client, &json!({"ping": [1]}));
    assert_eq!(next(&mut client), json!({"pong": [1]}), "and nothing of b");
    command(&mut client, &json!({"subscribe": "d"}));
    subscribed(&mut client, "d");
    assert!(client.close().is_empty(), "none of that was a reason to close");
}

/// On any worker, for topics of any home, held back or not.
#[test]
fn a_publish_with_an_id_is_answered_with_its_offset() {
    const MESSAGES: u64 = 2000;
    let server = TestServer::start(&Config { mail_len_max: 4, lag_messages_max: 16, ..keeping(10) });
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let server = server.address;
            std::thread::spawn(move || {
                let topic = format!("t{}", number % 2);
                let mut client = Client::open(server, "/ws?format=json");
                let mut sender = client.sender();
                let writer = std::thread::spawn({
                    let topic = topic.clone();
                    move || {
                        for id in 0..MESSAGES {
                            let publish = json!({"publish": topic, "data": id, "id": id}).to_string();
                            let frame = common::frame(common::client::TEXT, publish.as_bytes());
                            std::io::Write::write_all(&mut sender, &frame).unwrap();
                        }
                    }
                });
                let mut last = 0;
                let mut offsets = Vec::new();
                for id in 0..MESSAGES {
                    let answer = next(&mut client);
                    assert_eq!((&answer["published"], &answer["id"]), (&json!(topic), &json!(id)));
                    let offset = answer["offset"].as_u64().unwrap();
                    assert!(offset > last, "in order");
                    last = offset;
                    offsets.push(offset);
                }
                writer.join().unwrap();
                (number % 2, offsets)
            })
        })
        .collect();
    let mut all = [Vec::new(), Vec::new()];
    for client in clients {
        let (topic, offsets) = client.join().unwrap();
        all[topic].extend(offsets);
    }
    for mut offsets in all {
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=3 * MESSAGES).collect::<Vec<_>>(), "each number once");
    }
}

#[test]
fn a_publish_to_one_topic_too_many_is_refused_by_its_id() {
    let server = TestServer::start(&Config { max_topics: 2, ..keeping(10) });
    let mut client = Client::open(&server, "/ws?format=json");
    for (number, topic) in ["a", "b", "c", "d"].iter().enumerate() {
        command(&mut client, &json!({"publish": topic, "data": "x", "id": number}));
        let answer = next(&mut client);
        assert_eq!(answer["id"], number);
        assert_eq!(answer["error"]["code"].as_u64(), (number > 1).then_some(102), "{answer}");
    }
    assert!(client.close().is_empty(), "that hurts nothing else");
}

/// What one publishes oneself is left out wherever the subscription begins, and of the replay nothing is.
#[test]
fn a_client_that_recovers_is_not_sent_its_own() {
    let server = TestServer::start(&keeping(100));
    for round in 0..20 {
        let topic = format!("kept/{round}");
        publish(&server, &topic, 0..3);
        let mut client = Client::open(&server, "/ws?format=json&echo=off");
        let commands = [
            json!({"subscribe": topic, "history": 10}),
            json!({"publish": topic, "data": "own"}),
            json!({"publish": topic, "data": "own", "id": 1}),
        ];
        let frames =
            commands.map(|command| common::frame(common::client::TEXT, command.to_string().as_bytes()));
        client.send(&frames.concat());
        let (mut seen, mut answered) = (Vec::new(), false);
        publish(&server, &topic, 3..4);
        while !answered || seen.last() != Some(&4) {
            let next = next(&mut client);
            answered |= next.get("published").is_some();
            seen.extend(
                next["data"].as_str().map(|text| text.parse::<u64>().expect("a number, not one's own") + 1),
            );
        }
        assert_eq!(seen, [1, 2, 3, 4]);
    }
}

/// More than may be under way, and nobody waits for the answers.
#[test]
fn a_client_that_subscribes_and_unsubscribes_all_the_time_is_served() {
    let server = TestServer::start(&keeping(100));
    publish(&server, "kept/t", 0..50);
    let mut client = Client::open(&server, "/ws?format=json");
    let pair = [json!({"subscribe": "kept/t", "history": 50}), json!({"unsubscribe": "kept/t"})];
    let frames =
        pair.map(|command| common::frame(common::client::TEXT, command.to_string().as_bytes())).concat();
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || {
        (0..2000).for_each(|_| std::io::Write::write_all(&mut sender, &frames).expect("it is served"));
    });
    let mut unsubscribed = 0;
    while unsubscribed < 2000 {
        unsubscribed += u32::from(next(&mut client).get("unsubscribed").is_some());
    }
    writer.join().unwrap();
    command(&mut client, &json!({"ping": 1}));
    while next(&mut client) != json!({"pong": 1}) {}
    assert!(client.close().is_empty());
}

#[test]
fn who_may_only_do_one_thing_does_no_other() {
    let server = TestServer::start(&keeping(10));
    let mut publisher = Client::open(&server, "/ws?format=json&mode=pub");
    command(&mut publisher, &json!({"subscribe": "a"}));
    assert_eq!(next(&mut publisher)["error"]["code"], 103);
    let mut reader = Client::open(&server, "/ws/kept/a?format=json&mode=sub");
    subscribed(&mut reader, "kept/a");
    command(&mut reader, &json!({"publish": "kept/a", "data": 1, "id": "x"}));
    let error = next(&mut reader);
    assert_eq!((&error["error"]["code"], &error["id"]), (&json!(103), &json!("x")));
    command(&mut publisher, &json!({"publish": "kept/a", "data": 1}));
    assert_eq!(next(&mut reader)["data"], "1");
}

#[test]
fn nonsense_in_the_query_is_refused() {
    let server = TestServer::start(&keeping(10));
    for query in [
        "format=xml",
        "format=json&since=1",
        "format=json&epoch=00000000",
        "format=json&since=x&epoch=00000000",
        "format=json&since=-1&epoch=00000000",
        "format=json&since=1&epoch=short",
        "format=json&since=99999999999999999999&epoch=00000000",
        "format=json&since=1&epoch=00000000&topic=more",
        "format=json&topic=",
        "history=many",
    ] {
        let mut client = Client::connect(&server);
        client.send(common::client::upgrade_request(&format!("/ws/kept/t?{query}")).as_bytes());
        assert_eq!(client.response().status, 400, "{query}");
    }
    let mut client = Client::connect(&server);
    client.send(common::client::upgrade_request("/ws").as_bytes());
    assert_eq!(client.response().status, 400, "no topic, and no way to name one");
}

/// A client that takes nothing while it is replayed to holds nobody up, and gets all when it reads.
#[test]
fn a_slow_client_gets_its_replay_in_its_own_time() {
    let server = TestServer::start(&Config { send_buffer_bytes: 16 << 10, ..keeping(1000) });
    let long = "x".repeat(5000);
    let mut publisher = Client::open(&server, "/ws/kept/t?mode=pub");
    (0..300).for_each(|number| publisher.send_text(&format!("{number} {long}")));
    server.until("all are taken", |metrics| metrics.sum("messages_published") >= 300);
    let mut slow = Client::narrow(&server);
    slow.send(common::client::upgrade_request("/ws/kept/t?history=300").as_bytes());
    server.until("the replay waits", |metrics| metrics.sum("sends_refused") > 0);
    (300..310).for_each(|number| publisher.send_text(&format!("{number} {long}")));
    assert_eq!(slow.response_head().status, 101);
    for number in 0..310 {
        assert!(slow.text().starts_with(&format!("{number} x")));
    }
    assert!(slow.close().is_empty());
}

#[test]
fn the_client_for_browsers_is_served() {
    let server = TestServer::start(&config());
    let response = Client::connect(&server).request("GET /client.js HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((response.status, response.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert!(response.body.contains("export class Stentor"));
}
