//! The server API over real sockets: what calls do.

mod common;

use std::time::{Duration, Instant};

use common::{Client, Frame, TestServer, client::Response, config, eventually, refusals::Neighbour};
use serde_json::{Value, json};
use stentor::{
    broker::{
        name::TopicName,
        pattern::Pattern,
        schedule::{Schedule, Template},
    },
    config::{Config, SlowConsumer, TopicRule},
};

/// A server on several workers, since topics have different homes then; those below `kept` keep a hundred messages.
fn server_with(more: impl FnOnce(&mut Config)) -> TestServer {
    let rule =
        TopicRule { history: Some(100), ..TopicRule::new(Pattern::parse("kept/**").expect("a pattern")) };
    let mut config = Config { topics: vec![rule], workers: 3, ..config() };
    more(&mut config);
    TestServer::start(&config)
}

fn server() -> TestServer {
    server_with(|_| ())
}

fn request(method: &str, body: &str) -> String {
    let len = body.len();
    format!("POST /api/{method} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}")
}

fn parsed(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {response:?}"))
}

/// A backend with one connection.
struct Backend(Client);

impl Backend {
    fn of(server: &TestServer) -> Backend {
        Backend(Client::connect(server))
    }

    fn call(&mut self, method: &str, body: impl Into<Value>) -> Value {
        parsed(&self.0.request(&request(method, &body.into().to_string())))
    }

    fn result(&mut self, method: &str, body: impl Into<Value>) -> Value {
        let mut reply = self.call(method, body);
        assert!(reply.get("error").is_none(), "{reply}");
        reply["result"].take()
    }

    fn error(&mut self, method: &str, body: impl Into<Value>) -> (u64, String) {
        let reply = self.call(method, body);
        let error = reply.get("error").unwrap_or_else(|| panic!("no error: {reply}"));
        (error["code"].as_u64().expect("a code"), error["message"].as_str().expect("a text").to_owned())
    }

    fn history(&mut self, topic: &str) -> Value {
        self.result("history", json!({"channel": topic, "limit": -1}))
    }
}

#[test]
fn one_publish_reaches_all_kinds_of_subscribers_with_its_offset() {
    let server = server();
    let mut raw = Client::open(&server, "/ws/kept/a");
    let mut json = Client::open(&server, "/ws/kept/a?format=json");
    json.text();
    let mut backend = Backend::of(&server);
    let published = backend
        .result("publish", json!({"channel": "kept/a", "data": {"x": [1, 2]}, "tags": {"kind": "test"}}));
    assert_eq!(published["offset"], 1);
    assert_eq!(raw.text(), r#"{"x":[1,2]}"#);
    let message: Value = serde_json::from_str(&json.text()).expect("JSON");
    assert_eq!(
        (&message["offset"], &message["epoch"], &message["data"], &message["tags"]),
        (&json!(1), &published["epoch"], &json!({"x": [1, 2]}), &json!({"kind": "test"}))
    );
    assert_eq!(backend.result("publish", json!({"channel": "kept/a", "b64data": "AAEC"}))["offset"], 2);
    assert_eq!(raw.message(), Frame::binary(&[0, 1, 2]));
    let message: Value = serde_json::from_str(&json.text()).expect("JSON");
    assert_eq!(message["b64"], "AAEC");
    assert_eq!(message.get("tags"), None);
    // The same tags for those who come later.
    let mut late = Client::open(&server, "/ws/kept/a?format=json&history=10");
    late.text();
    let message: Value = serde_json::from_str(&late.text()).expect("JSON");
    assert_eq!((&message["offset"], &message["tags"]), (&json!(1), &json!({"kind": "test"})));
    assert_eq!(server.metrics().sum("api_calls"), 2);
}

#[test]
fn an_idempotency_key_publishes_once() {
    let server = server();
    let mut subscriber = Client::open(&server, "/ws/once");
    let mut backend = Backend::of(&server);
    let publish = |data: &str, key: &str| json!({"channel": "once", "data": data, "idempotency_key": key});
    let first = backend.result("publish", publish("a", "k"));
    // From another worker's connection as well, as likely as not.
    for _ in 0..5 {
        assert_eq!(Backend::of(&server).result("publish", publish("b", "k")), first);
    }
    assert_eq!(backend.result("publish", publish("c", "l"))["offset"], 2);
    assert_eq!((subscriber.text(), subscriber.text()), ("a".into(), "c".into()));
    let (code, message) = backend.error("publish", publish("d", &"k".repeat(256)));
    assert!(code == 107 && message.contains("255 bytes"), "{message}");
}

#[test]
fn what_skips_history_is_delivered_and_not_kept() {
    let server = server();
    let mut json = Client::open(&server, "/ws/kept/a?format=json");
    json.text();
    let mut backend = Backend::of(&server);
    for (data, skip) in [("a", false), ("b", true), ("c", false)] {
        backend.result("publish", json!({"channel": "kept/a", "data": data, "skip_history": skip}));
    }
    let live: Vec<Value> =
        (0..3).map(|_| serde_json::from_str::<Value>(&json.text()).expect("JSON")["data"].clone()).collect();
    assert_eq!(live, ["a", "b", "c"]);
    let history = backend.history("kept/a");
    assert_eq!(history["publications"], json!([{"data": "a", "offset": 1}, {"data": "c", "offset": 3}]));
    for path in ["/ws/kept/a?history=10", "/ws/kept/a?history=3"] {
        let mut late = Client::open(&server, path);
        assert_eq!((late.text(), late.text()), ("a".into(), "c".into()));
    }
}

#[test]
fn a_publisher_can_leave_one_connection_out() {
    let server = server_with(|config| config.workers = 1);
    let mut first = Client::open(&server, "/ws/a");
    let mut second = Client::open(&server, "/ws/a");
    let mut backend = Backend::of(&server);
    backend.result("publish", json!({"channel": "a", "data": "x", "exclude": "0-0-0"}));
    assert_eq!(second.text(), "x");
    backend.result("publish", json!({"channel": "a", "data": "y", "exclude": "7-0-0"}));
    assert_eq!((first.text(), second.text()), ("y".into(), "y".into()));
    let (code, message) = backend.error("publish", json!({"channel": "a", "data": "x", "exclude": "me"}));
    assert!(code == 107 && message.contains("exclude"), "{message}");
}

#[test]
fn a_report_says_what_has_become_of_a_message() {
    let server = server();
    let report = |published: Value| {
        let report = published["report"].clone();
        ["sent", "behind", "skipped", "conflated", "closed"]
            .map(|key| report[key].as_u64().unwrap_or_else(|| panic!("{published}")))
    };
    let mut backend = Backend::of(&server);
    let publish = json!({"channel": "r", "data": "x", "report": true, "exclude": "9-9-9"});
    assert_eq!(report(backend.result("publish", publish.clone())), [0; 5], "nobody is there");
    let mut clients: Vec<Client> = (0..20).map(|_| Client::open(&server, "/ws/r")).collect();
    let mut json = Client::open(&server, "/ws/r?format=json");
    json.text();
    let began = Instant::now();
    assert_eq!(report(backend.result("publish", publish.clone())), [21, 0, 0, 0, 0]);
    assert!(began.elapsed() < Duration::from_millis(900), "as soon as all have it: {:?}", began.elapsed());
    for client in &mut clients {
        assert_eq!(client.text(), "x");
    }
    // In a list and in a batch it is the same.
    let reply = backend.result("broadcast", json!({"channels": ["r", "none"], "data": "y", "report": true}));
    let responses = reply["responses"].as_array().expect("a list");
    assert_eq!(report(responses[0]["result"].clone()), [21, 0, 0, 0, 0]);
    assert_eq!(report(responses[1]["result"].clone()), [0; 5]);
    // What is in no topic is nothing to report of.
    let long = json!({"channel": "r", "data": "x".repeat(1_100_000), "report": true});
    assert_eq!(backend.error("publish", long.clone()).0, 106);
    let batch = json!({"commands": [{"publish": long}, {"publish": publish}]});
    let replies = backend.call("batch", batch)["replies"].clone();
    assert_eq!(replies[0]["error"]["code"], 106);
    assert_eq!(report(replies[1]["publish"].clone())[0], 21);
    let key = json!({"channel": "r", "data": "z", "report": true, "idempotency_key": "k"});
    assert_eq!(report(backend.result("publish", key.clone()))[0], 21);
    assert_eq!(report(backend.result("publish", key)), [0; 5], "it was not published again");
    assert_eq!(server.metrics().sum("assembly_bytes"), 0);
}

#[test]
fn a_report_leaves_out_who_does_not_get_the_message() {
    let server = server_with(|config| config.workers = 1);
    let _excluded = Client::open(&server, "/ws/r");
    let mut others: Vec<Client> = (0..3).map(|_| Client::open(&server, "/ws/r")).collect();
    let mut backend = Backend::of(&server);
    let body = json!({"channel": "r", "data": "x", "report": true, "exclude": "0-0-0"});
    let report = backend.result("publish", body)["report"].clone();
    assert_eq!(report, json!({"sent": 3, "behind": 0, "skipped": 0, "conflated": 0, "closed": 0}));
    others.iter_mut().for_each(|other| assert_eq!(other.text(), "x"));
}

#[test]
fn a_report_tells_the_slow_from_the_others() {
    for (policy, expected) in
        [(SlowConsumer::Skip, [1, 0, 1, 0, 0]), (SlowConsumer::Disconnect, [1, 0, 0, 0, 1])]
    {
        let server = server_with(|config| {
            config.workers = 1;
            config.slow_consumer = policy;
            config.lag_messages_max = 100;
        });
        let mut backend = Backend::of(&server);
        let mut reader = Client::open(&server, "/ws/r");
        let _stuck = Client::narrow(&server).upgraded("/ws/r");
        let reads = std::thread::spawn(move || while reader.message().payload.len() > 10 {});
        // Its socket refuses bytes, and then its lag grows message by message.
        let filler = json!({"channel": "r", "data": "x".repeat(60_000)});
        eventually("one is behind", || {
            backend.result("publish", filler.clone());
            server.metrics().sum("subscriptions_behind") == 1
        });
        let last = json!({"channel": "r", "data": "x".repeat(100), "report": true});
        let report = |published: Value| {
            ["sent", "behind", "skipped", "conflated", "closed"]
                .map(|key| published["report"][key].as_u64().expect("a number"))
        };
        let mut seen = Vec::new();
        eventually("the policy acts", || {
            seen.push(report(backend.result("publish", last.clone())));
            seen.last().is_some_and(|report| report[1] == 0)
        });
        assert!(seen.iter().rev().skip(1).all(|report| *report == [1, 1, 0, 0, 0]), "{seen:?}");
        assert_eq!(seen.last(), Some(&expected), "{seen:?}");
        backend.result("publish", json!({"channel": "r", "data": "end"}));
        reads.join().expect("no panic");
    }
}

#[test]
fn a_broadcast_goes_to_topics_or_to_all_that_match() {
    let server = server();
    let mut clients =
        ["news/a", "news/b", "other"].map(|topic| Client::open(&server, &format!("/ws/{topic}")));
    let mut backend = Backend::of(&server);
    let reply = backend.result("broadcast", json!({"channels": ["news/a", "other", ""], "data": "x"}));
    let responses = reply["responses"].as_array().expect("a list");
    assert_eq!(responses.len(), 3);
    assert_eq!(
        (&responses[0]["result"]["offset"], &responses[1]["result"]["offset"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(responses[2]["error"]["code"], 107);
    assert_eq!((clients[0].text(), clients[2].text()), ("x".into(), "x".into()));

    assert_eq!(backend.result("broadcast", json!({"match": "news/*", "data": "y"}))["topics"], 2);
    assert_eq!((clients[0].text(), clients[1].text()), ("y".into(), "y".into()));
    assert_eq!(backend.result("broadcast", json!({"match": "**", "data": "z"}))["topics"], 3);
    for client in &mut clients {
        assert_eq!(client.text(), "z");
    }
    let (code, message) = backend.error("broadcast", json!({"match": "a/**/b", "data": "z"}));
    assert!(code == 107 && message.contains("match"), "{message}");
    let (code, _) = backend.error("broadcast", json!({"match": "**", "data": "z", "delay": "1s"}));
    assert_eq!(code, 107);
}

#[test]
fn commands_of_a_batch_have_their_effects_in_order() {
    let server = server();
    let mut backend = Backend::of(&server);
    let reply = backend.call(
        "batch",
        json!({"commands": [
            {"publish": {"channel": "kept/a", "data": "x"}},
            {"history": {"channel": "kept/a", "limit": 10}},
            {"history_remove": {"channel": "kept/a"}},
            {"publish": {"channel": "kept/a", "data": "y"}},
            {"history": {"channel": "kept/a", "limit": 10}},
            {"broadcast": {"channels": ["b", "c"], "data": 1}},
            {"dance": {}},
            {"presence": {"channel": "a"}},
        ]}),
    );
    let replies = reply["replies"].as_array().expect("a list");
    assert_eq!(replies.len(), 8);
    assert_eq!(replies[1]["history"]["publications"], json!([{"data": "x", "offset": 1}]));
    assert_eq!(replies[2]["history_remove"], json!({}));
    assert_eq!(replies[4]["history"]["publications"], json!([{"data": "y", "offset": 2}]));
    assert_eq!(replies[5]["broadcast"]["responses"].as_array().map(Vec::len), Some(2));
    assert_eq!((&replies[6]["error"]["code"], &replies[7]["error"]["code"]), (&json!(104), &json!(108)));
    let many: Vec<Value> =
        (0..1000).map(|i| json!({"publish": {"channel": format!("t/{}", i % 7), "data": i}})).collect();
    let reply = backend.call("batch", json!({"commands": many, "parallel": true}));
    let offsets: Vec<u64> = reply["replies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|reply| reply["publish"]["offset"].as_u64().expect("a number"))
        .collect();
    assert_eq!(offsets, (0..1000).map(|i| i / 7 + 1).collect::<Vec<u64>>());
}

#[test]
fn histories_are_read_in_pages() {
    let server = server();
    let mut backend = Backend::of(&server);
    for i in 1..=5 {
        backend.result("publish", json!({"channel": "kept/a", "data": i}));
    }
    let mut read = |body: Value| {
        let mut body = body;
        body["channel"] = "kept/a".into();
        let page = backend.result("history", body);
        assert_eq!(page["offset"], 5);
        let list = page["publications"].as_array().expect("a list");
        let offsets = list.iter().map(|item| item["offset"].as_u64().expect("a number")).collect();
        (offsets, page["epoch"].as_str().expect("a text").to_owned())
    };
    let (none, epoch): (Vec<u64>, _) = read(json!({}));
    assert!(none.is_empty());
    assert_eq!(read(json!({"limit": 2})).0, [1, 2]);
    assert_eq!(read(json!({"limit": 2, "since": {"offset": 2, "epoch": epoch}})).0, [3, 4]);
    assert_eq!(read(json!({"limit": -1, "since": {"offset": 4}})).0, [5]);
    assert!(read(json!({"limit": -1, "since": {"offset": 5}})).0.is_empty());
    assert_eq!(read(json!({"limit": 2, "reverse": true})).0, [5, 4]);
    assert_eq!(read(json!({"limit": 2, "reverse": true, "since": {"offset": 4}})).0, [3, 2]);

    for since in [
        json!({"offset": 6}),
        json!({"offset": 2, "epoch": "00000000"}),
        json!({"offset": 2, "epoch": "not one"}),
    ] {
        let body = json!({"channel": "kept/a", "limit": 1, "since": since});
        assert_eq!(backend.error("history", body).0, 112, "{since}");
    }
    backend.result("history_remove", json!({"channel": "kept/a"}));
    assert_eq!(backend.history("kept/a")["publications"], json!([]));
    assert_eq!(
        backend.error("history", json!({"channel": "kept/a", "limit": 1, "since": {"offset": 2}})).0,
        112
    );
    assert_eq!(backend.error("history", json!({"channel": "lost"})).0, 108);
    let nothing = backend.history("kept/never");
    assert_eq!(nothing, json!({"publications": [], "offset": 0, "epoch": ""}));
    eventually("reading makes no topic", || server.metrics().sum("topics") == 1);
}

#[test]
fn topics_and_the_server_are_described() {
    let server = server();
    let _clients = ["a/1", "a/1", "a/2", "b"].map(|topic| Client::open(&server, &format!("/ws/{topic}")));
    let _json = Client::open(&server, "/ws/a/1?format=json").text();
    let mut backend = Backend::of(&server);
    let json = Client::open(&server, "/ws/a/1?format=json");
    let channels = backend.result("channels", json!({"pattern": "a/*"}));
    assert_eq!(channels, json!({"channels": {"a/1": {"num_clients": 3}, "a/2": {"num_clients": 1}}}));
    drop(json);
    eventually("it is gone", || {
        backend.result("channels", json!({}))
            == json!({"channels": {"a/1": {"num_clients": 2}, "a/2": {"num_clients": 1}, "b": {"num_clients": 1}}})
    });
    eventually("gauges are set ten times a second", || {
        let node = backend.result("info", json!({}))["nodes"][0].clone();
        (node["num_clients"].as_u64(), node["num_subs"].as_u64()) == (Some(5), Some(4))
    });
    let node = backend.result("info", json!({}))["nodes"][0].clone();
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(node["uid"].as_str().map(str::len), Some(16));
}

#[test]
fn a_backend_subscribes_and_ends_connections() {
    let server = server_with(|config| (config.workers, config.max_subscriptions) = (1, 3));
    let mut raw = Client::open(&server, "/ws/a");
    let raw_name = "0-0-0";
    let mut backend = Backend::of(&server);
    for topic in ["b", "b", "c"] {
        assert_eq!(backend.result("subscribe", json!({"channel": topic, "client": raw_name})), json!({}));
    }
    let (code, message) = backend.error("subscribe", json!({"channel": "d", "client": raw_name}));
    assert!(code == 106 && message.contains("--max-subscriptions"), "{message}");
    backend.result("publish", json!({"channel": "b", "data": "to b"}));
    assert_eq!(raw.text(), "to b");
    backend.result("unsubscribe", json!({"channel": "b", "client": raw_name}));
    backend.result("publish", json!({"channel": "b", "data": "nobody"}));
    backend.result("publish", json!({"channel": "a", "data": "to a"}));
    assert_eq!(raw.text(), "to a");
    // Whoever is gone, or was never here, needs nothing.
    for client in ["0-77-3", "99-0-0"] {
        assert_eq!(backend.result("subscribe", json!({"channel": "b", "client": client})), json!({}));
        assert_eq!(backend.result("disconnect", json!({"client": client})), json!({}));
    }
    for body in [json!({"client": "x"}), json!({"user": "u"}), json!({})] {
        let code = backend.error("disconnect", body.clone()).0;
        assert_eq!(code, if body.get("user").is_some() { 108 } else { 107 }, "{body}");
    }
    backend.result("disconnect", json!({"client": raw_name, "disconnect": {"code": 4001, "reason": "go"}}));
    assert_eq!(raw.close_frame(), (Some(4001), "go".into()));
    assert_eq!(server.metrics().reason("closed", "api"), 0, "its answer is awaited");
}

#[test]
fn a_json_connection_is_told_of_its_subscriptions() {
    let server = server_with(|config| config.workers = 1);
    let mut json = Client::open(&server, "/ws?format=json");
    let mut backend = Backend::of(&server);
    let client = "0-0-0";
    backend.result("subscribe", json!({"channel": "b", "client": client}));
    assert!(json.text().starts_with(r#"{"subscribed":"b""#));
    backend.result("subscribe", json!({"channel": "b", "client": client}));
    backend.result("publish", json!({"channel": "b", "data": 1}));
    assert!(json.text().contains(r#""offset":1"#));
    backend.result("unsubscribe", json!({"channel": "b", "client": client}));
    assert_eq!(json.text(), r#"{"unsubscribed":"b"}"#);
    backend.result("disconnect", json!({"client": client}));
    assert_eq!(json.close_frame(), (Some(3503), "force disconnect".into()));
}

#[test]
fn messages_come_at_their_time() {
    let server = server();
    let mut subscriber = Client::open(&server, "/ws/timed");
    let mut backend = Backend::of(&server);
    let began = Instant::now();
    let id = backend.result("publish", json!({"channel": "timed", "data": "late", "delay": "400ms"}))["id"]
        .clone();
    assert!(id.is_string());
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    let at = u64::try_from(now).expect("for long") + 200;
    backend.result("schedule", json!({"channel": "timed", "data": "soon", "at": at}));
    let never =
        backend.result("schedule", json!({"channel": "timed", "data": "never", "delay": "300ms"}))["id"]
            .clone();
    let listed = backend.result("schedules", json!({}))["schedules"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    assert_eq!(backend.result("schedule_cancel", json!({"id": never})), json!({}));
    assert_eq!(backend.error("schedule_cancel", json!({"id": never})).0, 107);
    assert_eq!((subscriber.text(), subscriber.text()), ("soon".into(), "late".into()));
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert_eq!(backend.result("schedules", json!({}))["schedules"], json!([]));

    // Again and again, until it is cancelled.
    let id = backend.result("schedule", json!({"channel": "timed", "data": "beat", "every": "50ms"}))["id"]
        .clone();
    let began = Instant::now();
    for _ in 0..4 {
        assert_eq!(subscriber.text(), "beat");
    }
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
    backend.result("schedule_cancel", json!({"id": id}));
    while !subscriber.is_silent_for(Duration::from_millis(200)) {
        subscriber.text();
    }
    for (body, says) in [
        (json!({"at": 1}), "past"),
        (json!({"at": u64::MAX}), "366 days"),
        (json!({"delay": "9000h"}), "366 days"),
        (json!({"every": "0s"}), "more than no time"),
        (json!({}), "one of delay, at and every"),
    ] {
        let mut body = body;
        (body["channel"], body["data"]) = ("timed".into(), "x".into());
        let (code, message) = backend.error("schedule", body);
        assert!(code == 107 && message.contains(says), "{message}");
    }
}

#[test]
fn the_number_of_schedules_is_bounded() {
    let server = server_with(|config| (config.workers, config.max_schedules) = (1, 3));
    let mut backend = Backend::of(&server);
    let body = json!({"channel": "t", "data": "x", "delay": "1h"});
    for _ in 0..3 {
        backend.result("publish", body.clone());
    }
    let (code, message) = backend.error("publish", body);
    assert!(code == 106 && message.contains("--max-schedules"), "{message}");
    server.handle().drain().expect("it runs");
}

#[test]
fn the_file_has_messages_that_come_again_and_again() {
    let schedule = Schedule {
        name: Some("beat".into()),
        topic: TopicName::parse("clock").expect("a name"),
        every: Duration::from_millis(100),
        payload: Template::parse("n {{count}}").expect("a template"),
    };
    let server = server_with(|config| config.schedules = vec![schedule]);
    let mut subscriber = Client::open(&server, "/ws/clock");
    let number =
        |text: String| text.strip_prefix("n ").and_then(|n| n.parse::<u64>().ok()).expect("a number");
    let first = number(subscriber.text());
    assert_eq!(number(subscriber.text()), first + 1);
    let mut backend = Backend::of(&server);
    let listed = backend.result("schedules", json!({}))["schedules"][0].clone();
    assert_eq!(
        (&listed["name"], &listed["channel"], &listed["every"]),
        (&json!("beat"), &json!("clock"), &json!("100ms"))
    );
    backend.result("schedule_cancel", json!({"id": "beat"}));
    while !subscriber.is_silent_for(Duration::from_millis(300)) {
        subscriber.text();
    }
}

#[test]
fn what_finds_no_room_in_time_is_refused_and_not_published() {
    // In two encodings the message is longer than all logs may be.
    let server = server_with(|config| {
        config.log_bytes_max = 128 << 10;
        config.lag_bytes_max = 128 << 10;
        config.max_message_bytes = 100 << 10;
        config.publish_timeout = Duration::from_millis(300);
    });
    let mut raw = Client::open(&server, "/ws/t");
    let mut json = Client::open(&server, "/ws/t?format=json");
    json.text();
    let mut neighbour = Neighbour::open(&server);
    let large = json!({"channel": "t", "data": "x".repeat(90 << 10)});
    let began = Instant::now();
    let mut backend = Backend::of(&server);
    let response = backend.0.request(&request("publish", &large.to_string()));
    assert_eq!((response.status, response.header("retry-after")), (503, "1"), "{response:?}");
    assert!(response.body.contains("--publish-timeout"));
    assert!(began.elapsed() >= Duration::from_millis(300));
    neighbour.unhurt_by("a message without room");
    // What waited behind it, and what comes now, is published; the connection goes on.
    assert_eq!(backend.result("publish", json!({"channel": "t", "data": "y"}))["offset"], 1);
    assert_eq!(raw.text(), "y");
    let reply = backend.result("broadcast", json!({"channels": ["t", "u"], "data": "x".repeat(90 << 10)}));
    assert_eq!(reply["responses"][0]["error"]["code"], 111);
    assert_eq!(reply["responses"][1]["result"]["offset"], 1);
    let metrics = server.metrics();
    assert_eq!((metrics.sum("messages_late"), metrics.reason("refused", "publish_timeout")), (2, 1));
    assert_eq!(metrics.sum("assembly_bytes"), 0);
}

#[test]
fn what_can_not_be_is_said() {
    let server = server_with(|config| {
        config.max_topics = 1;
        config.max_message_bytes = 100;
    });
    let mut backend = Backend::of(&server);
    backend.result("publish", json!({"channel": "a", "data": "x"}));
    let (code, message) = backend.error("publish", json!({"channel": "b", "data": "x"}));
    assert!(code == 106 && message.contains("--max-topics"), "{message}");
    let (code, message) = backend.error("publish", json!({"channel": "a", "data": "x".repeat(101)}));
    assert!(code == 106 && message.contains("--max-message-bytes"), "{message}");
    let (code, _) =
        backend.error("schedule", json!({"channel": "a", "data": "x".repeat(101), "delay": "1s"}));
    assert_eq!(code, 106);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let server = server();
    let mut client = Client::connect(&server);
    let bodies: Vec<String> =
        (0..100).map(|i| json!({"channel": format!("t/{}", i % 5), "data": i}).to_string()).collect();
    let all: String = bodies.iter().map(|body| request("publish", body)).collect();
    client.send(all.as_bytes());
    for i in 0..100 {
        assert_eq!(parsed(&client.response())["result"]["offset"], i / 5 + 1, "{i}");
    }
    // In chunks, in pieces, and with a question first.
    let chunked = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
                   10\r\n{\"channel\":\"t/0\"\r\nb\r\n,\"data\":77}\r\n0\r\n\r\n";
    for piece in chunked.as_bytes().chunks(7) {
        client.send(piece);
    }
    assert_eq!(parsed(&client.response())["result"]["offset"], 21);
}

#[test]
fn a_backend_that_leaves_in_the_middle_hurts_nobody() {
    let server = server();
    let mut subscriber = Client::open(&server, "/ws/t/0");
    let mut neighbour = Neighbour::open(&server);
    for round in 0..50 {
        let client = Client::connect(&server);
        let mut all = String::new();
        for i in 0..20 {
            all +=
                &request("publish", &json!({"channel": format!("t/{}", i % 5), "data": round}).to_string());
            all += &request("channels", "{}");
        }
        client.sender().set_nonblocking(false).expect("a socket");
        {
            let mut client = client;
            client.send(all.as_bytes());
        }
        neighbour.unhurt_by("a backend that left");
    }
    eventually("its calls are over", || {
        let metrics = server.metrics();
        metrics.sum("assembly_bytes") == 0 && metrics.sum("connections") <= 3
    });
    subscriber.text();
    assert_eq!(Backend::of(&server).result("publish", json!({"channel": "x", "data": 1}))["offset"], 1);
}

#[test]
fn a_hundred_thousand_topics_that_match() {
    let server = server_with(|config| config.max_topics = 200_000);
    let (connections, each) = (1_001, 100);
    let topics = connections * each;
    let mut clients: Vec<Client> = (0..connections)
        .map(|connection| {
            let names = (0..each).map(|i| format!("&topic=many/{}", connection * each + i));
            Client::open(&server, &format!("/ws?format=json{}", names.collect::<String>()))
        })
        .collect();
    for client in &mut clients {
        (0..each).for_each(|_| drop(client.text()));
    }
    let mut neighbour = Neighbour::open(&server);
    let mut backend = Backend::of(&server);
    assert_eq!(backend.result("broadcast", json!({"match": "many/**", "data": "x"}))["topics"], topics);
    neighbour.unhurt_by("an announcement");
    for client in &mut clients {
        (0..each).for_each(|_| assert!(client.text().contains(r#""data":"x""#)));
    }
    let (code, message) = backend.error("channels", json!({"pattern": "many/*"}));
    assert!(code == 106 && message.contains("narrower"), "{message}");
    let narrower = backend.result("channels", json!({"pattern": "many/1000"}));
    assert_eq!(narrower, json!({"channels": {"many/1000": {"num_clients": 1}}}));
}
