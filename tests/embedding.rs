//! What a program that embeds the server builds on: routes, pages, the accept hook, and handles in other threads.

mod common;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    Client, PATIENCE, TestServer,
    client::{CLOSE, close_body, upgrade_request},
    config, eventually,
};
use stentor::{
    config::Config,
    server::{Builder, HandleError, Server, ServerHandle},
    session::{
        Audience, Close, CloseCode, ConnectionId, Context, Denied, Failure, Guard, Handshake, Message,
        Opening, Refusal, Session, TopicName, Unguarded, binary,
        dialect::{Content, ErrorCode},
        text,
    },
};

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

/// Says one thing as soon as it is open.
struct Says(String);

impl Session for Says {
    fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
        context.send(text(&self.0));
        Ok(())
    }

    fn message(&mut self, _: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Subscribes to topics, says its own name, and publishes what it is sent to the first of them.
struct Member {
    topics: Vec<TopicName>,
    ended: Option<Sender<String>>,
}

impl Member {
    fn of(names: &str) -> Member {
        Member { topics: names.split(',').map(topic).collect(), ended: None }
    }
}

impl Session for Member {
    fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
        for topic in &mut self.topics {
            *topic = context.subscribe(topic);
        }
        context.send(text(&context.connection().to_string()));
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        context.publish(&self.topics[0], message, Audience::All);
        Ok(())
    }

    fn close(&mut self, close: &Close<'_>) {
        if let Some(ended) = &self.ended {
            let _ = ended.send(format!("{} {}", close.code, close.reason));
        }
    }
}

/// A server whose `/in/{topics}` subscribes.
fn members(config: &Config) -> TestServer {
    serve(config, |builder| {
        builder.route("/in/{*topics}", |opening| Ok(Member::of(opening.parameter("topics"))))
    })
}

fn serve<U: 'static>(config: &Config, build: impl FnOnce(Builder) -> Builder<U>) -> TestServer {
    TestServer::started(|config| build(Server::builder().config(config)).start(), config)
}

/// A client that subscribes, and its connection's name.
fn member(server: &TestServer, topics: &str) -> (Client, ConnectionId) {
    let mut client = Client::open(server, &format!("/in/{topics}"));
    let id = client.text().parse().expect("a connection's name");
    (client, id)
}

fn four_workers() -> Config {
    Config { workers: 4, ..config() }
}

#[test]
fn routes_with_parameters() {
    let server = serve(&config(), |builder| {
        builder
            .route("/{*all}", |opening| Ok(Says(format!("all {}", opening.parameter("all")))))
            .route("/chat/{room}", |opening| Ok(Says(format!("room {}", opening.parameter("room")))))
            .route("/chat/lobby", |_| Ok(Says("the lobby".into())))
            .route("/chat/{room}/{who}", |opening| {
                let (room, who) = (opening.parameter("room"), opening.parameter("who"));
                Ok(Says(format!("{who} in {room}, {:?}", opening.request.query_value("q"))))
            })
            .route("/topic/{*topic}", |opening| {
                Ok(Says(format!("topic {}", TopicName::parse(opening.parameter("topic"))?)))
            })
            .route("/broken/{name}", |opening| Ok(Says(opening.parameter("other").to_owned())))
    });
    let says = |path: &str| Client::open(&server, path).text();
    assert_eq!(says("/chat/lobby"), "the lobby");
    assert_eq!(says("/chat/lobb%79"), "the lobby");
    assert_eq!(says("/chat/a%20b%2Fc"), "room a b/c");
    assert_eq!(says("/chat/%D1%8F?q=1"), "room я");
    assert_eq!(says("/chat/r/w?q=%2B+1"), "w in r, Some(\"+ 1\")");
    assert_eq!(says("/chat/"), "all chat/");
    assert_eq!(says("/chat/a/b/c"), "all chat/a/b/c");
    assert_eq!(says("/topic/a/b"), "topic a/b");

    let refused = |path: &str| Client::connect(&server).request(&upgrade_request(path));
    assert_eq!(refused("/").status, 404);
    assert_eq!(refused("/chat/%zz").status, 400);
    let response = refused("/topic/a*");
    assert_eq!(response.status, 400);
    assert!(response.body.contains("'*'"), "{response:?}");
    assert_eq!(refused("/broken/x").status, 500, "a panic while a session is made");
    let response = Client::connect(&server).request("GET /chat/lobby HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(response.status, 426, "no WebSocket was asked for");
    let foreign =
        upgrade_request("/chat/lobby").replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n");
    assert_eq!(Client::connect(&server).request(&foreign).status, 403);
}

#[test]
fn paths_that_cannot_be() {
    let error = |builder: Builder| {
        let error = builder.config(config()).start().err().expect("refused");
        error.to_string()
    };
    fn says(_: Opening<'_, ()>) -> Result<Says, Refusal> {
        Ok(Says(String::new()))
    }
    let builder = Server::builder;
    let conflict = error(builder().route("/a/{x}", says).route("/a/{y}", says));
    assert_eq!(conflict, r#"the paths "/a/{x}" and "/a/{y}" fit the same requests: leave one out"#);
    assert!(
        error(builder().page("/", "text/plain", "").page("/", "text/plain", "")).contains("same requests")
    );
    assert!(error(builder().route("a", says)).contains("begins with '/'"));
    assert!(error(builder().route("/a{b}", says)).contains("whole segment"));
    assert!(error(builder().route("/{*a}/b", says)).contains("nothing can follow"));
    assert!(error(builder().page("/{a}", "text/plain", "")).contains("no parameters"));
    let origins = Config { allow_origin: vec!["nonsense".into()], ..config() };
    let refused = Server::builder().config(origins).start().err().expect("refused").to_string();
    assert!(refused.starts_with("--allow-origin"), "{refused}");
}

#[test]
fn a_bind_that_fails_is_an_error() {
    let first = members(&config());
    let builder = Server::builder().config(config()).listen(first.address);
    let handle = builder.handle();
    let error = builder.start().err().expect("the port is taken").to_string();
    assert!(error.starts_with(&format!("can't listen on {}", first.address)), "{error}");
    assert_eq!(handle.connections(), Err(HandleError::NotRunning));
    // The one that runs is not hurt.
    member(&first, "t").0.close();
}

#[test]
fn pages() {
    let server = serve(&config(), |builder| {
        builder
            .page("/", "text/html; charset=utf-8", "<p>front</p>")
            .page("/app.js", "text/javascript; charset=utf-8", vec![b'x'; 100_000])
            .route("/", |_| Ok(Says("a socket at the page's path".into())))
    });
    let mut client = Client::connect(&server);
    let mut ask = |request: &str| client.request(&format!("{request}\r\nHost: localhost\r\n\r\n"));
    let front = ask("GET / HTTP/1.1");
    assert_eq!((front.status, front.body.as_str()), (200, "<p>front</p>"));
    assert_eq!(front.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(front.header("cache-control"), "no-cache");
    let etag = front.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.len() > 10, "{etag}");
    assert_eq!(ask("GET /?a=b HTTP/1.1").header("etag"), etag);
    assert_eq!(ask("GET /app.js HTTP/1.1").body.len(), 100_000);
    for condition in [etag.clone(), format!("\"other\", W/{etag}"), "*".into()] {
        let unchanged = ask(&format!("GET / HTTP/1.1\r\nIf-None-Match: {condition}"));
        assert_eq!((unchanged.status, unchanged.header("etag")), (304, etag.as_str()), "{condition}");
    }
    assert_eq!(ask("GET / HTTP/1.1\r\nIf-None-Match: \"other\"").status, 200);

    let refused =
        |request: &str| Client::connect(&server).request(&format!("{request}\r\nHost: localhost\r\n\r\n"));
    let post = refused("POST / HTTP/1.1");
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    assert_eq!(refused("GET / HTTP/1.1\r\nContent-Length: 5").status, 413);
    assert_eq!(refused("GET /other HTTP/1.1").status, 404);
    assert_eq!(refused("GET /metrics HTTP/1.1").status, 404, "the server's own routes are off");
    assert_eq!(Client::connect(&server).request(&upgrade_request("/app.js")).status, 404);
    let elsewhere = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(Client::connect(&server).request(elsewhere).status, 403, "DNS rebinding");
    assert_eq!(Client::open(&server, "/").text(), "a socket at the page's path");

    let mut client = Client::connect(&server);
    client.send(b"HEAD /app.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let head = client.response_head();
    assert_eq!((head.status, head.header("content-length")), (200, "100000"));
    client.end();
}

#[test]
fn own_routes_beside() {
    let server = serve(&config(), |builder| {
        builder
            .with_own_routes()
            .page("/", "text/plain", "ours")
            .accept(|asks| match asks.request.query_value("token").as_deref() {
                Some("secret") => Ok(()),
                _ => Err(Refusal::new(401, "no_token", "a token is needed")),
            })
            .route("/ws/lobby", |_| Ok(Says("ours".into())))
    });
    let get = |path: &str| {
        Client::connect(&server).request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    };
    assert_eq!(get("/").body, "ours");
    assert_eq!(get("/health").body, "ok\n");
    assert!(get("/metrics").body.contains("stentor_connections"));
    assert_eq!(get("/nothing").status, 404);
    assert_eq!(Client::open(&server, "/ws/lobby?token=secret").text(), "ours");
    // The hook guards the server's own sockets as well.
    assert_eq!(Client::connect(&server).request(&upgrade_request("/ws/t")).status, 401);
    let mut client = Client::open(&server, "/ws/t?token=secret");
    client.send_text("hello");
    assert_eq!(client.text(), "hello");
    // The body of a call reaches the API.
    let call = |body: &str| {
        let len = body.len();
        let head = format!("POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n");
        Client::connect(&server).request(&format!("{head}{body}"))
    };
    let response = call(r#"{"data":1}"#);
    assert_eq!(response.status, 200);
    assert!(response.body.contains("channel is missing or empty"), "{response:?}");
    assert_eq!(call("no JSON").status, 400);
}

#[test]
fn without_own_routes_there_is_no_api() {
    let server = serve(&config(), |builder| builder.page("/", "text/plain", "ours"));
    let request = "POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(Client::connect(&server).request(request).status, 404);
}

#[test]
fn the_hook_sees_all_refuses_and_attaches() {
    struct User {
        name: String,
        level: u32,
    }
    let config = Config { subprotocols: vec!["v2".into(), "v1".into()], ..config() };
    let server = serve(&config, |builder| {
        builder
            .route("/before", |opening| {
                let () = opening.user;
                Ok(Says("nobody".into()))
            })
            .accept(|asks| {
                assert!(asks.address.ip().is_loopback());
                let words: Vec<&str> =
                    asks.request.header("authorization").unwrap_or("").split(' ').collect();
                match words[..] {
                    ["User", "panic"] => panic!("as the test wants it"),
                    ["User", name] => {
                        let level = u32::try_from(asks.subprotocols.len()).expect("a few");
                        Ok(User { name: format!("{name} at {}", asks.request.path), level })
                    }
                    _ => Err(Refusal::new(401, "no_user", "say who you are")
                        .with_header("WWW-Authenticate", "User")),
                }
            })
            .route("/after/{x}", |opening| {
                let User { name, level } = opening.user;
                Ok(Says(format!("{name} {level} {:?}", opening.subprotocol)))
            })
    });
    let ask = |path: &str, header: &str| {
        let request = upgrade_request(path).replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"));
        let mut client = Client::connect(&server);
        let response = client.request(&request);
        (client, response)
    };
    let (_, refused) = ask("/after/1", "X: y");
    assert_eq!((refused.status, refused.body.as_str()), (401, "say who you are\n"));
    assert_eq!(refused.header("www-authenticate"), "User");
    assert_eq!(server.metrics().reason("refused", "no_user"), 1);
    assert_eq!(ask("/after/1", "Authorization: User panic").1.status, 500);
    let (mut client, response) =
        ask("/after/1", "Authorization: User Ada\r\nSec-WebSocket-Protocol: v3, v1, v2");
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, "v1"));
    assert_eq!(client.text(), "Ada at /after/1 3 Some(\"v1\")");
    let (mut client, _) = ask("/before", "Authorization: User Ada");
    assert_eq!(client.text(), "nobody");
}

/// Four threads publish to four topics on four workers; all subscribers of a topic see one order, in which each
/// thread's messages keep theirs, and nothing is lost.
#[test]
fn four_threads_publish_in_one_order_and_nothing_is_lost() {
    const MESSAGES: usize = 3000;
    let server = members(&four_workers());
    let names: Vec<String> = (0..4).map(|i| format!("t{i}")).collect();
    let subscribers: Vec<(usize, Client)> =
        (0..4).flat_map(|i| (0..4).map(move |_| i)).map(|i| (i, member(&server, &names[i]).0)).collect();
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|(i, mut client)| {
            thread::spawn(move || (i, (0..4 * MESSAGES).map(|_| client.text()).collect::<Vec<_>>()))
        })
        .collect();
    let barrier = Arc::new(Barrier::new(4));
    let publishers: Vec<_> = (0..4)
        .map(|thread| {
            let (handle, barrier) = (server.handle().patient(PATIENCE), Arc::clone(&barrier));
            let topics: Vec<TopicName> = names.iter().map(|name| topic(name)).collect();
            thread::spawn(move || {
                barrier.wait();
                for number in 0..MESSAGES {
                    for topic in &topics {
                        handle.publish(topic, text(&format!("{thread} {number}"))).expect("room comes");
                    }
                }
            })
        })
        .collect();
    publishers.into_iter().for_each(|publisher| publisher.join().expect("it publishes"));
    let mut orders: Vec<Option<Vec<String>>> = vec![None; 4];
    for reader in readers {
        let (i, got) = reader.join().expect("it reads");
        for thread in 0..4 {
            let own = got.iter().filter_map(|text| text.strip_prefix(&format!("{thread} ")));
            assert!(own.map(|n| n.parse::<usize>().unwrap()).eq(0..MESSAGES), "thread {thread}, topic {i}");
        }
        assert_eq!(orders[i].get_or_insert_with(|| got.clone()), &got, "topic {i}");
    }
}

#[test]
fn a_session_learns_of_the_world_outside_by_its_subscriptions() {
    let server = members(&config());
    let handle = server.handle();
    let (mut client, _) = member(&server, "news");
    handle.publish(&topic("news"), text("текст")).expect("room");
    handle.publish(&topic("news"), binary(&[0, 255])).expect("room");
    handle.publish(&topic("other"), text("not for it")).expect("room");
    assert_eq!(client.text(), "текст");
    assert_eq!(client.frame(), common::Frame::binary(&[0, 255]));
    assert!(client.is_silent_for(Duration::from_millis(100)));
}

#[test]
fn a_broadcast_reaches_every_topic_that_has_subscribers() {
    let server = members(&four_workers());
    let handle = server.handle();
    handle.publish(&topic("nobody"), text("here")).expect("room");
    let names: Vec<String> = (0..3000).map(|i| format!("b{i}")).collect();
    let mut clients: Vec<Client> =
        names.chunks(300).map(|names| member(&server, &names.join(",")).0).collect();
    let published = server.metrics().sum("messages_published");
    handle.broadcast(text("to all")).expect("room");
    for client in &mut clients {
        for _ in 0..300 {
            assert_eq!(client.text(), "to all");
        }
    }
    server.until("counted", |metrics| metrics.sum("messages_published") == published + 3000);
    // What comes behind it stays behind it, topic by topic.
    let (mut reader, _) = member(&server, "b2999");
    for _ in 0..20 {
        handle.broadcast(text("first")).expect("room");
        handle.publish(&topic("b2999"), text("then")).expect("room");
        assert_eq!((reader.text(), reader.text()), ("first".into(), "then".into()));
    }
}

#[test]
fn counts() {
    let server = members(&four_workers());
    let handle = server.handle();
    assert_eq!((handle.connections(), handle.topics()), (Ok(0), Ok(0)));
    let clients: Vec<Client> = (0..10).map(|i| member(&server, ["a", "a,b"][i % 2]).0).collect();
    assert_eq!(handle.connections(), Ok(10));
    assert_eq!(handle.topics(), Ok(2));
    let subscribers = |name: &str| handle.subscribers(&topic(name));
    assert_eq!((subscribers("a"), subscribers("b"), subscribers("c")), (Ok(10), Ok(5), Ok(0)));
    clients.into_iter().for_each(|client| drop(client.close()));
    eventually("they have gone", || handle.connections() == Ok(0));
    assert_eq!(subscribers("a"), Ok(0));
}

#[test]
fn connections_and_topics_are_closed() {
    let (ended, ends) = channel::<String>();
    // Two hundred clients answer one after another.
    let config = Config { close_timeout: PATIENCE, ..four_workers() };
    let server = serve(&config, |builder| {
        builder.route("/in/{*topics}", move |opening| {
            Ok(Member { ended: Some(ended.clone()), ..Member::of(opening.parameter("topics")) })
        })
    });
    let handle = server.handle();
    let closed = |mut client: Client, code: u16, reason: &str| {
        assert_eq!(client.close_frame(), (Some(code), reason.to_owned()));
        client.send_frame(CLOSE, &close_body(code, reason));
        client.end();
    };
    let ended = |ends: &Receiver<String>| ends.recv_timeout(PATIENCE).expect("a session ends");

    let ((first, id), (mut second, _)) = (member(&server, "a"), member(&server, "a"));
    let code = CloseCode::new(4000).expect("allowed");
    handle.close(id, code, "you there").expect("room");
    closed(first, 4000, "you there");
    assert_eq!(ended(&ends), "4000 you there");
    assert_eq!(server.metrics().reason("closed", "handle"), 1);
    // Its name is nobody's now, and the slot's next owner has another.
    let (mut third, next) = member(&server, "a");
    handle.close(id, code, "again").expect("room");
    handle.close("999-0-0".parse().expect("a name"), code, "not of this server").expect("room");
    assert_ne!(id, next);
    for client in [&mut second, &mut third] {
        assert!(client.is_silent_for(Duration::from_millis(100)));
    }

    let many: Vec<Client> = (0..200).map(|_| member(&server, "a,b").0).collect();
    let (mut bystander, _) = member(&server, "b");
    handle.close_topic(&topic("a"), CloseCode::NORMAL, "a is over").expect("room");
    for client in [second, third].into_iter().chain(many) {
        closed(client, 1000, "a is over");
        assert_eq!(ended(&ends), "1000 a is over");
    }
    handle.publish(&topic("b"), text("b goes on")).expect("room");
    assert_eq!(bystander.text(), "b goes on");
}

/// A worker that stands still, because a session does.
struct Sleeper(Arc<AtomicBool>);

impl Session for Sleeper {
    fn message(&mut self, context: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        context.send(text("asleep"));
        let began = Instant::now();
        self.0.store(true, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_taken_arrives() {
    const TAKEN_MAX: usize = 64;
    let asleep = Arc::new(AtomicBool::new(false));
    let config = Config { workers: 1, mail_len_max: TAKEN_MAX, ..config() };
    let server = serve(&config, |builder| {
        let asleep = Arc::clone(&asleep);
        builder
            .route("/sleep", move |_| Ok(Sleeper(Arc::clone(&asleep))))
            .route("/in/{*topics}", |opening| Ok(Member::of(opening.parameter("topics"))))
    });
    let handle = server.handle();
    let (mut client, id) = member(&server, "t");
    let mut sleeper = Client::open(&server, "/sleep");
    let sleep = |sleeper: &mut Client| {
        sleeper.send_text("sleep");
        eventually("it sleeps", || asleep.load(Ordering::SeqCst));
    };
    sleep(&mut sleeper);
    let taken = (0..).take_while(|n| handle.publish(&topic("t"), text(&n.to_string())).is_ok()).count();
    assert_eq!(taken, TAKEN_MAX);
    assert_eq!(handle.publish(&topic("other"), text("x")), Err(HandleError::Full));
    assert_eq!(handle.broadcast(text("x")), Err(HandleError::Full));
    assert_eq!(handle.close(id, CloseCode::NORMAL, ""), Err(HandleError::Full));
    assert_eq!(handle.close_topic(&topic("t"), CloseCode::NORMAL, ""), Err(HandleError::Full));
    assert_eq!(handle.subscribers(&topic("t")), Err(HandleError::Full));
    let began = Instant::now();
    let patient = handle.patient(Duration::from_millis(200));
    assert_eq!(patient.publish(&topic("t"), text("x")), Err(HandleError::Full));
    assert!(began.elapsed() >= Duration::from_millis(200));
    // Who waits long enough gets in.
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let handle = handle.patient(PATIENCE);
            thread::spawn(move || handle.publish(&topic("t"), text("late")))
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    asleep.store(false, Ordering::SeqCst);
    for number in 0..TAKEN_MAX {
        assert_eq!(client.text(), number.to_string());
    }
    for waiting in waiting {
        assert_eq!(waiting.join().expect("no panic"), Ok(()));
        assert_eq!(client.text(), "late");
    }
    // Bytes are bounded as well; one message of any size may go.
    sleep(&mut sleeper);
    let large = "x".repeat(700 << 10);
    let taken = (0..10).take_while(|_| handle.publish(&topic("t"), text(&large)).is_ok()).count();
    assert_eq!(taken, 2);
    assert_eq!(
        handle.publish(&topic("t"), text(&"x".repeat(1 + config.max_message_bytes))),
        Err(HandleError::TooLong)
    );
    asleep.store(false, Ordering::SeqCst);
    for _ in 0..taken {
        assert_eq!(client.text().len(), large.len());
    }
    // A worker that does not answer.
    sleep(&mut sleeper);
    assert_eq!(handle.subscribers(&topic("t")), Err(HandleError::NoAnswer));
    asleep.store(false, Ordering::SeqCst);
    eventually("all room is back", || handle.subscribers(&topic("t")) == Ok(1));
}

/// Where topics are as far ahead of their sweep as they may be, messages from outside wait in order, keep their
/// credits, and none is lost.
#[test]
fn messages_from_outside_wait_at_topics_that_are_full() {
    const ORDERS_MAX: usize = 16;
    let asleep = Arc::new(AtomicBool::new(false));
    // Ten messages at a time: a quarter of the lag.
    let config = Config { workers: 1, lag_messages_max: 40, mail_len_max: ORDERS_MAX, ..config() };
    let server = serve(&config, |builder| {
        let asleep = Arc::clone(&asleep);
        builder
            .route("/sleep", move |_| Ok(Sleeper(Arc::clone(&asleep))))
            .route("/in/{*topics}", |opening| Ok(Member::of(opening.parameter("topics"))))
    });
    let handle = server.handle();
    let (mut one, _) = member(&server, "one");
    let (mut two, _) = member(&server, "two");
    let mut sleeper = Client::open(&server, "/sleep");
    let mut filled_while_asleep = |order: &dyn Fn(usize) -> Result<(), HandleError>| {
        sleeper.send_text("sleep");
        eventually("it sleeps", || asleep.load(Ordering::SeqCst));
        assert_eq!((0..).take_while(|&number| order(number).is_ok()).count(), ORDERS_MAX);
        let held = server.metrics().sum("messages_held");
        asleep.store(false, Ordering::SeqCst);
        held
    };
    for _ in 0..3 {
        let held = filled_while_asleep(&|n| handle.publish(&topic("one"), text(&n.to_string())));
        for number in 0..ORDERS_MAX {
            assert_eq!(one.text(), number.to_string());
        }
        server.until("some were held", |metrics| metrics.sum("messages_held") >= held + 6);
        // A broadcast waits at each of its topics, and is one order.
        let held = filled_while_asleep(&|n| handle.broadcast(text(&n.to_string())));
        for number in 0..ORDERS_MAX {
            assert_eq!((one.text(), two.text()), (number.to_string(), number.to_string()));
        }
        server.until("some were held", |metrics| metrics.sum("messages_held") >= held + 12);
        eventually("all room is back", || handle.subscribers(&topic("one")) == Ok(1));
    }
}

/// A session that uses a handle on its own worker.
struct Insider(ServerHandle);

impl Session for Insider {
    fn message(&mut self, context: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
        let patient = self.0.patient(PATIENCE);
        assert_eq!(patient.subscribers(&topic("t")), Err(HandleError::OnWorker));
        let taken =
            (0..1000).take_while(|_| patient.publish(&topic("t"), text("from inside")).is_ok()).count();
        context.send(text(&taken.to_string()));
        patient.close(context.connection(), CloseCode::NORMAL, "by itself").err();
        Ok(())
    }
}

#[test]
fn a_session_can_have_a_handle_but_never_waits() {
    let config = Config { workers: 1, mail_len_max: 100, ..config() };
    let server = serve(&config, |builder| {
        let handle = builder.handle();
        builder
            .route("/inside", move |_| Ok(Insider(handle.clone())))
            .route("/in/{*topics}", |opening| Ok(Member::of(opening.parameter("topics"))))
    });
    let (mut client, _) = member(&server, "t");
    let mut insider = Client::open(&server, "/inside");
    insider.send_text("go");
    assert_eq!(insider.text(), "100");
    for _ in 0..100 {
        assert_eq!(client.text(), "from inside");
    }
}

#[test]
fn after_the_stop_there_is_an_error() {
    let builder = Server::builder().config(config());
    let handle = builder.handle();
    let t = topic("t");
    assert_eq!(handle.publish(&t, text("too early")), Err(HandleError::NotRunning));
    let server =
        builder.route("/in/{*topics}", |opening| Ok(Member::of(opening.parameter("topics")))).start();
    let server = server.expect("a free port");
    // Threads that publish while it stops get errors, and none hangs.
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let (handle, t) = (handle.patient(PATIENCE), t.clone());
            thread::spawn(move || {
                let began = Instant::now();
                loop {
                    if let Err(error) = handle.publish(&t, text("x")) {
                        return (error, began.elapsed());
                    }
                }
            })
        })
        .collect();
    let counting = {
        let (handle, t) = (handle.clone(), t.clone());
        thread::spawn(move || {
            loop {
                match handle.subscribers(&t) {
                    Ok(_) | Err(HandleError::Full) => {}
                    Err(error) => return error,
                }
            }
        })
    };
    thread::sleep(Duration::from_millis(100));
    handle.drain().expect("it runs");
    server.join().expect("no worker failed");
    for publisher in publishers {
        let (error, took) = publisher.join().expect("no panic");
        assert_eq!(error, HandleError::NotRunning);
        assert!(took < PATIENCE / 2, "{took:?}");
    }
    assert_eq!(counting.join().expect("no panic"), HandleError::NotRunning);
    let id = "0-0-0".parse().expect("a name");
    assert_eq!(handle.publish(&t, text("x")), Err(HandleError::NotRunning));
    assert_eq!(handle.broadcast(text("x")), Err(HandleError::NotRunning));
    assert_eq!(handle.close(id, CloseCode::NORMAL, ""), Err(HandleError::NotRunning));
    assert_eq!(handle.close_topic(&t, CloseCode::NORMAL, ""), Err(HandleError::NotRunning));
    assert_eq!(handle.subscribers(&t), Err(HandleError::NotRunning));
    assert_eq!(handle.connections(), Err(HandleError::NotRunning));
    assert_eq!(handle.topics(), Err(HandleError::NotRunning));
    assert_eq!(handle.drain(), Err(HandleError::NotRunning));
}

/// Lets its client read what begins with its own name, and write under it.
struct Desk {
    name: String,
    ended: Option<Sender<String>>,
}

impl Guard for Desk {
    fn subscribe(&mut self, _: &mut Context<'_>, topic: &TopicName) -> Result<(), Denied> {
        if topic.as_str().starts_with(&self.name) {
            Ok(())
        } else {
            Err(Denied::new(ErrorCode::PermissionDenied, format!("{} reads its own", self.name)))
        }
    }

    fn publish(
        &mut self,
        _: &mut Context<'_>,
        _: &TopicName,
        content: &Content<'_>,
    ) -> Result<Message<'static>, Denied> {
        match content {
            Content::Text(words) => Ok(text(&format!("{}: {words}", self.name))),
            Content::Binary(_) => Err(Denied::new(ErrorCode::Own(1234), "only words")),
        }
    }

    fn close(&mut self, close: &Close<'_>) {
        if let Some(ended) = &self.ended {
            let _ = ended.send(format!("{} {}", self.name, close.code));
        }
    }
}

/// What a client of the JSON dialect is told of one command.
fn told(client: &mut Client, command: &str) -> String {
    client.send_text(command);
    client.text()
}

#[test]
fn guards_decide_what_clients_of_the_json_dialect_read_and_write() {
    let (ended, ends) = channel();
    let server = serve(&config(), |builder| {
        builder
            .topic("desk/*", |rule| rule.history = Some(2))
            .topic("desk/**", |rule| rule.history = Some(1))
            .json_route("/open", |_| Ok(Unguarded))
            .json_route("/at/{desk}", move |opening| match opening.parameter("desk") {
                "nobody" => Err(Refusal::forbidden("desk", "nobody sits there")),
                desk => Ok(Desk { name: desk.to_owned(), ended: Some(ended.clone()) }),
            })
    });
    assert_eq!(Client::connect(&server).request(&upgrade_request("/at/nobody")).status, 403);

    let mut client = Client::open(&server, "/at/desk");
    assert_eq!(
        told(&mut client, r#"{"subscribe":"chair"}"#),
        r#"{"error":{"code":103,"message":"desk reads its own"},"topic":"chair"}"#
    );
    assert_eq!(
        told(&mut client, r#"{"publish":"desk/a","b64":"AA==","id":7}"#),
        r#"{"error":{"code":1234,"message":"only words"},"id":7}"#
    );
    for number in 1..=3 {
        let answer = told(&mut client, &format!(r#"{{"publish":"desk/a","data":{number},"id":"n"}}"#));
        assert!(answer.contains(&format!(r#""offset":{number},"id":"n""#)), "{answer}");
    }
    // Two are kept; what nobody guards is as it was.
    let answer = told(&mut client, r#"{"subscribe":"desk/a","history":10}"#);
    assert!(answer.contains(r#""offset":1,"recovered":false"#), "{answer}");
    assert!(client.text().ends_with(r#""data":"desk: 2"}"#));
    assert!(client.text().ends_with(r#""data":"desk: 3"}"#));
    let mut open = Client::open(&server, "/open");
    assert!(told(&mut open, r#"{"publish":"desk/a","b64":"AA==","id":1}"#).contains(r#""offset":4"#));
    assert!(client.text().contains(r#""b64":"AA==""#));
    for _ in 0..2 {
        told(&mut open, r#"{"publish":"desk/a/b","data":"deeper","id":1}"#);
    }
    assert!(told(&mut open, r#"{"subscribe":"desk/a/b","history":10}"#).contains(r#""offset":1"#));

    client.send_frame(CLOSE, &close_body(4000, ""));
    assert_eq!(ends.recv_timeout(PATIENCE), Ok("desk 4000".to_owned()));
}

#[test]
fn the_json_route_selects_its_subprotocol() {
    let server = serve(&config(), |builder| builder.json_route("/ws", |_| Ok(Unguarded)));
    for (offered, selected) in
        [("stentor.json", "stentor.json"), ("other, stentor.json", "stentor.json"), ("other", "")]
    {
        let request = upgrade_request("/ws")
            .replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n"));
        let mut client = Client::connect(&server);
        client.send(request.as_bytes());
        let response = client.response_head();
        assert_eq!(
            (response.status, response.header("sec-websocket-protocol")),
            (101, selected),
            "{offered}"
        );
    }
}

#[test]
fn a_pattern_that_is_none_is_an_error_of_the_start() {
    let error =
        Server::builder().listen(([127, 0, 0, 1], 0)).topic("a/**/b", |_| {}).topic("", |_| {}).start();
    assert!(error.err().expect("no pattern").to_string().starts_with(r#"the topics "a/**/b": "#));
}
