//! Bounds: what is one too many is refused or held back, never dropped, and room that was given back can be used.

mod common;

use std::{io::Write, time::Duration};

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, TEXT, header, server_frame, upgrade_request},
    config,
    crowd::Crowd,
    frame,
};
use stentor::config::Config;

#[test]
fn connections() {
    for config in [
        Config { max_connections: Some(3), ..config() },
        Config { max_connections_per_ip: Some(3), ..config() },
    ] {
        let server = TestServer::start(&config);
        for _ in 0..3 {
            let mut clients: Vec<_> = (0..3).map(|_| Client::open(&server, "/ws/t")).collect();
            let mut surplus = Client::connect(&server);
            assert_eq!(surplus.request(&upgrade_request("/ws/t")).status, 503);
            surplus.end();
            drop(surplus);
            clients[0].send_text("unhurt");
            assert!(clients.iter_mut().all(|client| client.text() == "unhurt"));
            drop(clients);
            server.until_connections(0);
        }
        assert_eq!(server.metrics().reason("refused", "too_many_connections"), 3);
    }
}

#[test]
fn a_crowd_beyond_the_bound_costs_little() {
    let server = TestServer::start(&Config { max_connections: Some(2), workers: 1, ..config() });
    let _first = Client::open(&server, "/ws/t");
    // Most of them are not even told.
    let crowd: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(server.address)).collect();
    server.until("they are counted", |metrics| metrics.reason("refused", "too_many_connections") >= 299);
    assert!(server.metrics().sum("connections") <= 2 + 64);
    drop(crowd);
    server.until("they are gone", |metrics| metrics.sum("connections") == 1);
}

#[test]
fn topics() {
    let server = TestServer::start(&Config {
        max_topics: 3,
        topic_idle_timeout: Duration::from_millis(200),
        ..config()
    });
    let mut clients: Vec<_> = (0..3).map(|i| Client::open(&server, &format!("/ws/{i}"))).collect();
    let mut refused = Client::connect(&server);
    assert_eq!(refused.request(&upgrade_request("/ws/other")).status, 503);
    // Who only publishes has no topic yet: the first message would begin one.
    let mut publisher = Client::open(&server, "/ws/other?mode=pub");
    publisher.send_text("x");
    assert_eq!(publisher.close_frame().0, Some(1013));
    assert_eq!(server.metrics().reason("refused", "too_many_topics"), 2);
    // What exists can be used.
    let mut second = Client::open(&server, "/ws/1");
    clients[1].send_text("unhurt");
    assert_eq!((clients[1].text(), second.text()), ("unhurt".into(), "unhurt".into()));
    assert_eq!(server.metrics().sum("topics_all"), 3);
    drop((clients, second));
    server.until("they vanish", |metrics| metrics.sum("topics_all") == 0);
    let mut again = Client::open(&server, "/ws/other");
    again.send_text("room");
    assert_eq!(again.text(), "room");
}

#[test]
fn subscriptions_of_one_connection() {
    let server = TestServer::start(&Config { max_subscriptions: 2, ..config() });
    let mut refused = Client::connect(&server);
    let three = upgrade_request("/ws?format=json&topic=a&topic=b&topic=c");
    assert_eq!(refused.request(&three).status, 403);
    assert_eq!(server.metrics().reason("refused", "subscribe"), 1);
    let mut client = Client::open(&server, "/ws?format=json&topic=a&topic=b");
    for _ in 0..2 {
        let notice = client.text();
        assert!(notice.starts_with(r#"{"subscribed""#), "{notice}");
    }
    client.send_text(r#"{"subscribe":"c"}"#);
    let notice = client.text();
    assert!(notice.contains("--max-subscriptions"), "{notice}");
    // Another's place can be had.
    client.send_text(r#"{"unsubscribe":"a"}"#);
    assert_eq!(client.text(), r#"{"unsubscribed":"a"}"#);
    client.send_text(r#"{"subscribe":"c"}"#);
    let notice = client.text();
    assert!(notice.starts_with(r#"{"subscribed":"c""#), "{notice}");
}

#[test]
fn messages_and_fragments() {
    let server = TestServer::start(&Config { max_message_bytes: 1000, max_fragments: 4, ..config() });
    let mut client = Client::open(&server, "/echo");
    client.send_frame(BINARY, &[1; 1000]);
    assert_eq!(client.message(), Frame::binary(&[1; 1000]));
    client.send(&[frame(0x02, &[2; 250]), frame(0, &[2; 250]).repeat(2), frame(0x80, &[2; 250])].concat());
    assert_eq!(client.message(), Frame::binary(&[2; 1000]));
    client.send(&header(BINARY, 1001));
    assert_eq!(client.close_frame().0, Some(1009));
    let mut client = Client::open(&server, "/echo");
    client.send(&[frame(0x02, b""), frame(0, b"").repeat(4)].concat());
    assert_eq!(client.close_frame().0, Some(1008));
    let metrics = server.metrics();
    assert_eq!(metrics.reason("protocol_errors", "message_too_big"), 1);
    assert_eq!(metrics.reason("protocol_errors", "too_many_fragments"), 1);
}

#[test]
fn half_messages_of_all_clients_together() {
    let server =
        TestServer::start(&Config { assembly_bytes_max: 256 << 10, max_message_bytes: 64 << 10, ..config() });
    let payload = Rng(1).bytes(60_000);
    let bytes = frame(BINARY, &payload);
    let mut all_refused = 0;
    for _ in 0..2 {
        let mut clients: Vec<_> = (0..30).map(|_| Client::open(&server, "/echo")).collect();
        let before = server.metrics().sum("bytes_received");
        for client in &mut clients {
            client.send(&bytes[..40_000]);
        }
        // 1.2 MB would wait by now.
        let all = before + 30 * 40_000;
        server.until("they are read", |metrics| metrics.sum("bytes_received") >= all);
        let (mut served, mut refused) = (0, 0);
        for mut client in clients {
            // Who was refused may have been cut off by now.
            let _ = client.stream.write_all(&bytes[40_000..]);
            match client.next_frame() {
                Ok(Some(frame)) if frame.first == BINARY => {
                    assert!(frame.payload == payload);
                    served += 1;
                }
                Ok(Some(frame)) => {
                    assert_eq!(frame.code(), Some(1013));
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((1..=8).contains(&served) && refused == 30 - served, "{served} served, {refused} refused");
        all_refused += refused;
        server.until_connections(0);
        // All was given back.
        let mut client = Client::open(&server, "/echo");
        client.send(&bytes);
        assert!(client.message().payload == payload);
        client.close();
        server.until_connections(0);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.reason("closed", "assembly_full"), all_refused);
    assert_eq!((metrics.sum("protocol_errors"), metrics.sum("assembly_bytes")), (0, 0));
}

#[test]
fn who_does_not_take_its_echoes_is_not_read() {
    let server =
        TestServer::start(&Config { reply_bytes_max: 64 << 10, send_buffer_bytes: 16 << 10, ..config() });
    let mut client = Client::narrow(&server).upgraded("/echo");
    let mut rng = Rng(2);
    let messages: Vec<Vec<u8>> = (0..400)
        .map(|i| {
            let len = rng.below(if i % 50 == 0 { 200_000 } else { 20_000 });
            rng.bytes(len)
        })
        .collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(BINARY, message)).collect();
    let all = bytes.len() as u64;
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || sender.write_all(&bytes).expect("held back, not cut off"));
    // The server stops reading: the count comes to rest, far below what was sent.
    let mut last = 0;
    common::eventually("it is not read", || {
        std::thread::sleep(Duration::from_millis(200));
        let received = server.metrics().sum("bytes_received");
        std::mem::replace(&mut last, received) == received && received > 50_000
    });
    assert!(last < all / 3 && last < 1 << 20, "{last} of {all} bytes were read");
    for message in &messages {
        let got = client.message();
        assert!(got.payload == *message, "{got:?} of {}", server.metrics().0);
    }
    writer.join().expect("no panic");
    client.send_text("and on");
    assert_eq!(client.text(), "and on");
}

#[test]
fn who_does_not_take_its_responses_is_not_read() {
    let server = TestServer::start(&Config {
        reply_bytes_max: 64 << 10,
        send_buffer_bytes: 16 << 10,
        handshake_timeout: Duration::from_secs(2),
        ..config()
    });
    let client = Client::narrow(&server);
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20_000);
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || {
        // Never read, it is not taken as a whole: the connection ends before.
        let _ = sender.write_all(requests.as_bytes());
    });
    let mut last = 0;
    common::eventually("it is not read", || {
        std::thread::sleep(Duration::from_millis(200));
        let answered = server.metrics().sum("requests");
        std::mem::replace(&mut last, answered) == answered && answered > 0
    });
    assert!(last < 2_000, "{last} of 20000 requests were answered");
    // The time of the next request runs out, since none is taken.
    server.until("it is counted", |metrics| metrics.reason("closed", "handshake_timeout") == 1);
    writer.join().expect("cut off");
    drop(client);
    server.until_connections(0);
}

#[test]
fn a_reader_of_pipelined_responses_gets_all() {
    let server =
        TestServer::start(&Config { reply_bytes_max: 16 << 10, send_buffer_bytes: 16 << 10, ..config() });
    let mut client = Client::narrow(&server);
    let mut bytes = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(300).into_bytes();
    bytes.extend(upgrade_request("/echo").bytes());
    bytes.extend(frame(TEXT, b"last"));
    let mut sender = client.sender();
    let writer = std::thread::spawn(move || sender.write_all(&bytes).expect("held back, not cut off"));
    for _ in 0..300 {
        assert!(client.response().body.ends_with("# EOF\n"));
    }
    assert_eq!(client.response().status, 101);
    assert_eq!(client.text(), "last");
    writer.join().expect("no panic");
}

#[test]
fn logs() {
    const TOPICS: usize = 12;
    const MESSAGES: usize = 60;
    // Much less than the topics' windows together.
    const LOGS: usize = 384 << 10;
    let server = TestServer::start(&Config { log_bytes_max: LOGS, workers: 4, ..config() });
    let payload = |topic: usize, number: usize| {
        let mut payload = vec![u8::try_from(topic).expect("few topics"); 8_000];
        payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
        payload
    };
    let crowds: Vec<_> = (0..TOPICS)
        .map(|topic| {
            let expected = (0..MESSAGES).flat_map(|i| server_frame(BINARY, &payload(topic, i))).collect();
            Crowd::expecting(&server, &format!("/ws/{topic}?mode=sub"), 4, expected, Duration::from_secs(60))
        })
        .collect();
    std::thread::scope(|scope| {
        for (topic, crowd) in crowds.iter().enumerate() {
            let mut publisher = Client::open(&server, &format!("/ws/{topic}?mode=pub"));
            scope.spawn(move || {
                for number in 0..MESSAGES {
                    // The readers' own sockets are not what is tested here.
                    let sent = number * 8_000;
                    common::eventually("the readers read", || sent < crowd.least() + (300 << 10));
                    publisher.send_frame(BINARY, &payload(topic, number));
                }
                assert!(publisher.close().is_empty(), "not cut off");
            });
        }
        common::eventually("all is published", || {
            let metrics = server.metrics();
            assert!(metrics.sum("log_bytes") <= LOGS as u64, "the bound holds");
            metrics.sum("messages_published") == (TOPICS * MESSAGES) as u64
        });
    });
    crowds.into_iter().for_each(|crowd| drop(crowd.finish()));
    // How many messages were held back depends on how fast this machine is now; none was lost.
    assert_eq!(server.metrics().sum("slow_consumers"), 0);
}
