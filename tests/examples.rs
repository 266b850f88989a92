//! The programs in `examples/`, run.

mod common;

use std::time::{Duration, Instant};

use common::{Client, TestServer, client::CLOSE, client::close_body, config};
use stentor::{
    config::Config,
    server::{Server, StartError},
};

#[path = "../examples/chat.rs"]
#[allow(dead_code, reason = "its main")]
mod chat;
#[path = "../examples/echo.rs"]
#[allow(dead_code, reason = "its main")]
mod echo;
#[path = "../examples/hello.rs"]
#[allow(dead_code, reason = "its main")]
mod hello;
#[path = "../examples/ticker.rs"]
#[allow(dead_code, reason = "its main")]
mod ticker;

fn start(example: fn(Config) -> Result<Server, StartError>) -> TestServer {
    TestServer::started(example, &config())
}

fn page(server: &TestServer) -> String {
    let response = Client::connect(server).request("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(response.status, 200);
    response.body
}

#[test]
fn echo_sends_back() {
    let server = start(echo::start);
    assert!(page(&server).contains("/echo"));
    let mut client = Client::open(&server, "/echo");
    client.send_text("hello");
    assert_eq!(client.text(), "hello");
}

#[test]
fn hello_greets_and_says_goodbye() {
    let server = start(hello::start);
    assert!(page(&server).contains("new WebSocket"));
    let began = Instant::now();
    let mut client = Client::open(&server, "/hello");
    client.send_text("Ада");
    assert_eq!(client.text(), "Hello, Ада!");
    assert_eq!(client.close_frame(), (Some(1000), "the visit is over".into()));
    assert!(began.elapsed() >= Duration::from_millis(4900), "{:?}", began.elapsed());
    client.send_frame(CLOSE, &close_body(1000, ""));
    client.end();
    let mut client = Client::open(&server, "/hello");
    client.send_frame(common::client::BINARY, &[1]);
    assert_eq!(client.close_frame().0, Some(1003));
}

#[test]
fn ticker_makes_ten_prices_a_second() {
    let server = start(ticker::start);
    assert!(page(&server).contains("/prices/"));
    let mut client = Client::open(&server, "/prices/SALT");
    let began = Instant::now();
    let prices: Vec<String> = (0..11).map(|_| client.text()).collect();
    assert!(prices.iter().all(|price| price.starts_with(r#"{"symbol":"SALT","price":"#)), "{prices:?}");
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    client.send_text("1000000");
    assert_eq!(client.close_frame().0, Some(1008));
    let refused = Client::connect(&server).request(&common::client::upgrade_request("/prices/GOLD"));
    assert_eq!(refused.status, 404);
}

/// A server of the chat whose own messages and heartbeats come often.
fn chat(every: Duration, heartbeat: Duration) -> TestServer {
    let start = |config| chat::start(config, every);
    let config = Config {
        ping_interval: Some(heartbeat),
        pong_timeout: heartbeat,
        max_message_bytes: chat::config().max_message_bytes,
        ..config()
    };
    TestServer::started(start, &config)
}

/// Somebody in the chat's room, who has read what was said there before.
struct Visitor(Client);

impl Visitor {
    fn enter(server: &TestServer) -> Visitor {
        let mut client = Client::open(server, "/ws");
        client.send_text(r#"{"subscribe":"room","history":100}"#);
        assert!(client.text().starts_with(r#"{"subscribed":"room""#));
        Visitor(client)
    }

    /// Asks for something, as the page does.
    fn ask(&mut self, data: &str) {
        self.0.send_text(&format!(r#"{{"publish":"room","data":{data},"id":1}}"#));
    }

    /// The next message of the room.
    fn reads(&mut self) -> String {
        self.next(r#""data":"#)
    }

    /// What became of what was asked for.
    fn is_told(&mut self) -> String {
        self.next(r#""id":"#)
    }

    fn next(&mut self, part: &str) -> String {
        loop {
            let text = self.0.text();
            if let Some((_, rest)) = text.split_once(part) {
                return if part == r#""id":"# {
                    text
                } else {
                    rest.strip_suffix('}').expect("JSON").to_owned()
                };
            }
        }
    }
}

#[test]
fn chat_has_names_history_and_goodbyes() {
    let server = chat(Duration::from_secs(600), Duration::from_secs(600));
    assert!(page(&server).contains("chat.js"));
    for (path, status) in
        [("/chat.js", 200), ("/chat.css", 200), ("/client.js", 200), ("/else", 404), ("/metrics", 404)]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(Client::connect(&server).request(&request).status, status, "{path}");
    }

    let mut ada = Visitor::enter(&server);
    ada.ask(r#"{"text":"who am I?"}"#);
    assert!(ada.is_told().contains(r#""code":1001"#));
    ada.ask(r#"{"name":"Ada"}"#);
    assert_eq!(ada.reads(), r#"{"here":1,"joined":"Ada"}"#);
    ada.ask(r#"{"text":" <b>hello</b>\n"}"#);
    assert_eq!(ada.reads(), r#"{"name":"Ada","text":"<b>hello</b>"}"#);

    let mut boris = Visitor::enter(&server);
    assert_eq!(boris.reads(), r#"{"here":1,"joined":"Ada"}"#);
    assert_eq!(boris.reads(), r#"{"name":"Ada","text":"<b>hello</b>"}"#);
    for name in ["ADA", "", " Boris", "a\u{202e}b", "A  B", "a name of more than 24 characters"] {
        let mut other = Visitor::enter(&server);
        other.ask(&format!(r#"{{"name":"{name}"}}"#));
        let told = other.is_told();
        assert!(told.contains(r#""code":1002"#) || told.contains(r#""code":1003"#), "{name}: {told}");
    }
    // Under another's name nothing is said, whatever is sent.
    boris.ask(r#"{"name":"Ada","text":"I am not Ada"}"#);
    assert!(boris.is_told().contains(r#""code":107"#));
    boris.ask(r#"{"name":"Boris"}"#);
    boris.ask(r#"{"name":"Bob"}"#);
    for visitor in [&mut ada, &mut boris] {
        assert_eq!(visitor.reads(), r#"{"here":2,"joined":"Boris"}"#);
        assert_eq!(visitor.reads(), r#"{"here":2,"renamed":"Boris","to":"Bob"}"#);
    }
    drop(boris);
    assert_eq!(ada.reads(), r#"{"here":1,"left":"Bob"}"#);
    let mut again = Visitor::enter(&server);
    again.ask(r#"{"name":"Boris"}"#);
    assert_eq!(ada.reads(), r#"{"here":2,"joined":"Boris"}"#);
}

#[test]
fn chat_bounds_what_one_person_says() {
    let server = chat(Duration::from_secs(600), Duration::from_secs(600));
    let mut ada = Visitor::enter(&server);
    ada.ask(r#"{"name":"Ada"}"#);
    assert!(ada.is_told().starts_with(r#"{"published":"room""#));
    ada.ask(&format!(r#"{{"text":"{}"}}"#, "ы".repeat(1001)));
    assert!(ada.is_told().contains(r#""code":1004"#));
    let mut refused = 0;
    for _ in 0..20 {
        ada.ask(r#"{"text":"quick"}"#);
        refused += u32::from(ada.is_told().contains(r#""code":111"#));
    }
    assert!(refused >= 15, "{refused}");
    for (topic, code) in [("notices", 103), ("elsewhere", 103)] {
        ada.0.send_text(&format!(r#"{{"publish":"{topic}","data":{{"text":"x"}},"id":1}}"#));
        assert!(ada.is_told().contains(&format!(r#""code":{code}"#)));
    }
    ada.0.send_text(r#"{"subscribe":"elsewhere"}"#);
    assert!(ada.next(r#""error":"#).contains(r#""code":102"#));
}

#[test]
fn chat_says_something_by_itself_and_notices_who_is_dead() {
    let heartbeat = Duration::from_secs(1);
    let server = chat(Duration::from_millis(100), heartbeat);
    let mut ada = Visitor::enter(&server);
    let mut dead = Visitor::enter(&server);
    dead.ask(r#"{"name":"Ghost"}"#);
    assert_eq!(ada.reads(), r#"{"here":1,"joined":"Ghost"}"#);
    // It answers no ping from here on, and does not close either.
    let silent = Instant::now();
    ada.0.send_text(r#"{"subscribe":"notices"}"#);
    assert_eq!(ada.next(r#""topic":"notices""#).split_once(r#""data":"#).expect("data").1, r#"{"here":1}"#);
    while !ada.reads().contains(r#""left":"Ghost""#) {
        // Whoever says something lives.
        ada.0.send_text(r#"{"ping":1}"#);
    }
    // Within two intervals, and the tenth of a second in which it is looked at.
    assert!(silent.elapsed() < 2 * heartbeat + Duration::from_millis(1500), "{:?}", silent.elapsed());
    drop(dead);
}
