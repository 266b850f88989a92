//! The `Session` trait as an embedding program uses it: what it is told, what it can do, and that one that fails
//! hurts nobody else.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use common::{
    Client, Frame, PATIENCE, TestServer,
    client::{BINARY, CLOSE, PING, PONG, close_body},
    config, frame,
};
use stentor::{
    config::Config,
    protocol::ws,
    session::{
        Audience, Close, CloseCode, Context, Error, Failure, Handshake, Message, Refusal, Request, Route,
        Router, Session, State, TopicName, text,
    },
};

/// A session that does what its client's messages say, and reports what it is told.
struct Scripted {
    path: String,
    reports: Sender<String>,
}

impl Scripted {
    fn report(&self, what: impl Into<String>) {
        // The test may be over.
        let _ = self.reports.send(what.into());
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

impl Session for Scripted {
    fn open(&mut self, context: &mut Context<'_>, handshake: &Handshake<'_>) -> Result<(), Refusal> {
        assert_eq!(context.state(), State::Opening);
        assert!(handshake.address.ip().is_loopback());
        match self.path.as_str() {
            "/refused" => return Err(Refusal::forbidden("no_entry", "not you")),
            "/panics" => panic!("in open, as the test wants it"),
            "/closes" => context.close(CloseCode::NORMAL, "no"),
            path => {
                if let Some(name) = path.strip_prefix("/in/") {
                    context.subscribe(&topic(name));
                }
            }
        }
        self.report(format!("open {}", handshake.request.query.clone().unwrap_or_default()));
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let Some(words) = message.text().map(str::to_owned) else { return Ok(()) };
        let (verb, rest) = words.split_once(' ').unwrap_or((&words, ""));
        match verb {
            "fail" => return Err("as the test wants it".into()),
            "panic" => panic!("in message, as the test wants it"),
            "close" => context.close(CloseCode::new(4001).expect("allowed"), rest),
            "terminate" => context.terminate(),
            "ping" => context.ping(rest.as_bytes()),
            "send" => context.send(text(rest)),
            "timer" => context.set_timer(rest.parse().ok().map(Duration::from_millis)),
            "subscribe" => assert_eq!(context.subscribe(&topic(rest)).as_str(), rest),
            "unsubscribe" => context.unsubscribe(&topic(rest)),
            "publish" => context.publish(&topic(rest), text(&words), Audience::All),
            "others" => context.publish(&topic(rest), text(&words), Audience::Others),
            "enter" => {
                let topic = context.subscribe(&topic(rest));
                context.publish(&topic, text(&words), Audience::Others);
            }
            "flood" => context.send(text(&"x".repeat(rest.parse()?))),
            "buffered" => self.report(format!("buffered {}", context.buffered_amount())),
            "state" => {
                let before = context.state();
                context.close(CloseCode::NORMAL, "");
                self.report(format!("{before:?} {:?}", context.state()));
            }
            _ => self.report(words),
        }
        Ok(())
    }

    fn ping(&mut self, _: &mut Context<'_>, payload: &[u8]) -> Result<(), Failure> {
        self.report(format!("ping {}", String::from_utf8_lossy(payload)));
        if payload == b"fail" { Err("in ping".into()) } else { Ok(()) }
    }

    fn pong(&mut self, _: &mut Context<'_>, payload: &[u8]) -> Result<(), Failure> {
        self.report(format!("pong {}", String::from_utf8_lossy(payload)));
        Ok(())
    }

    fn timer(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        self.report("timer");
        context.send(text("timer"));
        Ok(())
    }

    fn error(&mut self, context: &mut Context<'_>, error: &Error) -> Result<(), Failure> {
        self.report(format!("error {error}"));
        if self.path == "/merciless" {
            context.terminate();
        }
        Ok(())
    }

    fn close(&mut self, close: &Close<'_>) {
        self.report(format!("close {} {:?} {}", close.code, close.reason, close.clean));
        assert_ne!(self.path, "/panics-at-the-end", "as the test wants it");
    }
}

struct Everywhere(Sender<String>);

impl Router for Everywhere {
    fn route(&self, request: &Request, _: SocketAddr) -> Route {
        match ws::check_upgrade(request) {
            Ok(upgrade) => Route::Upgrade {
                response: ws::switching_protocols(&upgrade, None),
                session: Box::new(Scripted { path: request.path.clone(), reports: self.0.clone() }),
                subprotocol: None,
            },
            Err(refusal) => Route::Refuse(refusal),
        }
    }
}

/// What sessions report, in order.
struct Reports(Receiver<String>);

impl Reports {
    fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("the session reports something")
    }

    #[track_caller]
    fn expect(&self, what: &str) {
        assert_eq!(self.next(), what);
    }
}

fn start(config: &Config) -> (TestServer, Reports) {
    let (sender, reports) = channel();
    (TestServer::start_with(config, Arc::new(Everywhere(sender))), Reports(reports))
}

#[test]
fn what_a_session_is_told() {
    let (server, reports) = start(&config());
    let mut client = Client::open(&server, "/any?a=b");
    reports.expect("open a=b");
    client.send_text("hello there");
    reports.expect("hello there");
    client.send_frame(PING, b"are you there?");
    reports.expect("ping are you there?");
    assert_eq!(client.frame(), Frame { first: PONG, payload: b"are you there?".to_vec() });
    client.send_frame(PONG, b"unasked");
    reports.expect("pong unasked");
    client.send_text("ping 123");
    assert_eq!(client.frame(), Frame { first: PING, payload: b"123".to_vec() });
    client.send_text("send back");
    assert_eq!(client.text(), "back");
    client.send_frame(CLOSE, &close_body(4002, "до свидания"));
    client.close_frame();
    drop(client);
    reports.expect("close 4002 \"до свидания\" true");
}

/// The first subscriber of a topic has not got its place in the log when it publishes to all others.
#[test]
fn who_enters_and_tells_all_others_gets_what_comes_next() {
    for workers in 1..=2 {
        let (server, _reports) = start(&Config { workers, ..config() });
        for round in 0..10 {
            let mut first = Client::open(&server, "/any");
            first.send_text(&format!("enter room{round}"));
            let mut second = Client::open(&server, "/any");
            second.send_text(&format!("publish room{round}"));
            // When it has its place is not told.
            while first.is_silent_for(Duration::from_millis(20)) {
                second.send_text(&format!("publish room{round}"));
            }
            assert_eq!(first.text(), format!("publish room{round}"));
        }
        assert_eq!(server.metrics().reason("closed", "reset"), 0);
    }
}

#[test]
fn how_a_connection_ended() {
    let (server, reports) = start(&config());
    let open = |path: &str| {
        let client = Client::open(&server, path);
        reports.expect("open ");
        client
    };
    // Without a code; without a word; in the middle of a message.
    let mut client = open("/any");
    client.send_frame(CLOSE, b"");
    drop(client);
    reports.expect("close 1005 \"\" true");
    drop(open("/any"));
    reports.expect("close 1006 \"\" false");
    open("/any").send(&frame(BINARY, &[0; 500])[..100]);
    reports.expect("close 1006 \"\" false");
    // The client answers the session's close frame with a code of its own, or does not answer.
    let mut client = open("/any");
    client.send_text("close enough");
    assert_eq!(client.close_frame(), (Some(4001), "enough".into()));
    client.send_frame(CLOSE, &close_body(4003, "yes"));
    drop(client);
    reports.expect("close 4003 \"yes\" true");
    let mut client = open("/any");
    client.send_text("close enough");
    client.close_frame();
    drop(client);
    reports.expect("close 4001 \"enough\" false");
    // At once.
    let mut client = open("/any");
    client.send_text("terminate");
    assert!(client.gone(), "a reset");
    reports.expect("close 1006 \"\" false");
    // The client broke the protocol: the session hears of it first.
    let mut client = open("/any");
    client.send(&[0xff; 4]);
    assert_eq!(client.close_frame().0, Some(1002));
    assert!(reports.next().starts_with("error "));
    drop(client);
    assert!(reports.next().starts_with("close 1002 "));
    // After a close nothing more is sent.
    let mut client = open("/any");
    client.send_text("state");
    reports.expect("Open Closing");
    assert_eq!(client.close_frame().0, Some(1000));
}

#[test]
fn a_session_that_fails_hurts_nobody_else() {
    let (server, reports) = start(&Config { workers: 1, ..config() });
    let mut bystander = Client::open(&server, "/in/t");
    reports.expect("open ");
    for (words, kind) in [("fail", "error"), ("panic", "panic"), ("subscribe *", "panic")] {
        let before = server.metrics().reason("session_failures", kind);
        let mut client = Client::open(&server, "/in/t");
        client.send_text(words);
        client.send_text("never heard");
        assert_eq!(client.close_frame().0, Some(1011), "{words}");
        drop(client);
        server.until(words, |metrics| metrics.reason("session_failures", kind) == before + 1);
        reports.expect("open ");
        assert!(reports.next().starts_with("close 1011"));
        bystander.send_text("publish t");
        assert_eq!(bystander.text(), "publish t");
    }
    let mut client = Client::open(&server, "/any");
    client.send_frame(PING, b"fail");
    assert_eq!(client.close_frame().0, Some(1011));
    // In open: an answer in HTTP.
    for (path, status, counted) in [("/refused", 403, 0), ("/panics", 500, 1), ("/closes", 403, 0)] {
        let before = server.metrics().reason("session_failures", "panic");
        let mut client = Client::connect(&server);
        let response = client.request(&common::client::upgrade_request(path));
        assert_eq!(response.status, status, "{path}");
        client.end();
        assert_eq!(server.metrics().reason("session_failures", "panic"), before + counted);
    }
    // In close.
    let before = server.metrics().reason("session_failures", "panic");
    Client::open(&server, "/panics-at-the-end").close();
    server.until("it is counted", |metrics| metrics.reason("session_failures", "panic") == before + 1);
    bystander.send_text("publish t");
    assert_eq!(bystander.text(), "publish t");
}

#[test]
fn timers() {
    let (server, reports) = start(&config());
    let mut client = Client::open(&server, "/any");
    reports.expect("open ");
    let began = Instant::now();
    client.send_text("timer 300");
    assert_eq!(client.text(), "timer");
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    reports.expect("timer");
    // One takes the place of another, and can be taken away.
    client.send_text("timer 60000");
    client.send_text("timer 200");
    assert_eq!(client.text(), "timer");
    client.send_text("timer 200");
    client.send_text("timer off");
    assert!(client.is_silent_for(Duration::from_millis(600)));
}

#[test]
fn subscriptions_come_and_go() {
    let (server, _reports) = start(&Config { workers: 4, ..config() });
    let mut publisher = Client::open(&server, "/any");
    let mut client = Client::open(&server, "/in/a");
    let mut publish = |words: &str| publisher.send_text(words);
    publish("publish a");
    assert_eq!(client.text(), "publish a");
    // A subscription made later stands once something answers behind it.
    client.send_text("subscribe b");
    client.send_text("subscribe b");
    server.until("both stand", |metrics| metrics.sum("subscriptions") == 2);
    common::eventually("it hears b", || {
        publish("publish b");
        client.text() == "publish b"
    });
    client.send_text("unsubscribe a");
    client.send_text("unsubscribe a");
    client.send_text("unsubscribe never");
    server.until("one stands", |metrics| metrics.sum("subscriptions") == 1);
    publish("publish a");
    publish("publish b");
    assert_eq!(client.text(), "publish b");
    // All hear it but the publisher itself.
    let mut other = Client::open(&server, "/in/b");
    client.send_text("others b");
    client.send_text("publish b");
    assert_eq!((other.text(), other.text()), ("others b".into(), "publish b".into()));
    assert_eq!(client.text(), "publish b");
}

#[test]
fn what_waits_for_a_client_can_be_asked() {
    let (server, reports) =
        start(&Config { reply_bytes_max: 8 << 20, send_buffer_bytes: 16 << 10, ..config() });
    let mut client = Client::narrow(&server).upgraded("/in/t");
    reports.expect("open ");
    client.send_text("buffered");
    reports.expect("buffered 0");
    let mut ask = |words: &str| {
        client.send_text(words);
        client.send_text("buffered");
        let report = reports.next();
        report.strip_prefix("buffered ").and_then(|n| n.parse::<usize>().ok()).expect("a number")
    };
    let sizes: Vec<_> = (0..5).map(|_| ask("flood 200000")).collect();
    assert!(sizes.is_sorted() && sizes[4] >= 4 * 200_000, "{sizes:?}");
    for _ in 0..5 {
        assert_eq!(client.message().payload.len(), 200_000);
    }
    client.send_text("buffered");
    reports.expect("buffered 0");
    // Messages of a topic count as well.
    let mut publisher = Client::open(&server, "/any");
    reports.expect("open ");
    for _ in 0..30 {
        publisher.send_text(&format!("publish t{}", ""));
    }
    for _ in 0..30 {
        assert_eq!(client.text(), "publish t");
    }
    client.send_text("buffered");
    reports.expect("buffered 0");
}

#[test]
fn a_half_message_of_a_terminated_client_is_given_back_once() {
    let (server, reports) = start(&Config { assembly_bytes_max: 256 << 10, workers: 1, ..config() });
    for _ in 0..3 {
        let mut client = Client::open(&server, "/merciless");
        reports.expect("open ");
        client.send(&[frame(0x02, &[0; 100_000]), frame(BINARY, b"not a continuation")].concat());
        client.gone();
        assert!(reports.next().starts_with("error "));
        assert!(reports.next().starts_with("close "));
    }
    // The gauge would have fallen below zero, and nothing more be received in parts.
    let mut client = Client::open(&server, "/any");
    client.send(&[frame(0x01, b"in "), frame(0x80, b"parts")].concat());
    reports.expect("open ");
    reports.expect("in parts");
}
