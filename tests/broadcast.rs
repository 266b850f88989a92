//! What broadcasting promises: one order for all, every byte as it was sent, nothing missed and nothing twice.

mod common;

use std::{io::Write, time::Duration};

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, CLOSE, TEXT},
    config, frame,
};
use stentor::config::Config;

fn four_workers() -> Config {
    Config { workers: 4, ..config() }
}

#[test]
fn all_subscribers_see_one_order() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 1500;
    let server = TestServer::start(&four_workers());
    let subscribers: Vec<_> = (0..12).map(|_| Client::open(&server, "/ws/order?mode=sub")).collect();
    assert!(server.metrics().by_worker("upgrades").iter().all(|&upgrades| upgrades > 0), "on all workers");
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut client = Client::open(&server, "/ws/order?mode=pub");
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    client.send_text(&format!("{publisher}:{number}"));
                }
                client
            })
        })
        .collect();
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || (0..PUBLISHERS * MESSAGES).map(|_| client.text()).collect::<Vec<_>>())
        })
        .collect();
    let seen: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("gets everything")).collect();
    for publisher in publishers {
        assert!(publisher.join().expect("no panic").close().is_empty(), "?mode=pub receives nothing");
    }
    assert!(seen.iter().all(|order| *order == seen[0]), "one order");
    let mut next = [0; PUBLISHERS];
    for text in &seen[0] {
        let (publisher, number) = text.split_once(':').expect("as sent");
        let publisher: usize = publisher.parse().expect("a number");
        assert_eq!(number.parse(), Ok(next[publisher]), "a publisher's messages keep their order");
        next[publisher] += 1;
    }
    server.until("deliveries are counted", |metrics| {
        metrics.sum("deliveries") == (12 * PUBLISHERS * MESSAGES) as u64
            && metrics.sum("messages_published") == (PUBLISHERS * MESSAGES) as u64
    });
}

#[test]
fn text_stays_text_and_binary_stays_binary() {
    let server = TestServer::start(&four_workers());
    let mut subscribers: Vec<_> = (0..4).map(|_| Client::open(&server, "/ws/kinds?mode=sub")).collect();
    let mut publisher = Client::open(&server, "/ws/kinds");
    let mut rng = Rng(1);
    for round in 0..200 {
        let sent = if round % 2 == 0 {
            Frame::text(&rng.text(round))
        } else {
            Frame { first: BINARY, payload: rng.bytes(round) }
        };
        publisher.send_frame(sent.first, &sent.payload);
        // The publisher subscribes too, unless it says otherwise.
        for client in subscribers.iter_mut().chain([&mut publisher]) {
            assert_eq!(client.message(), sent);
        }
    }
}

#[test]
fn modes() {
    let server = TestServer::start(&config());
    let mut both = Client::open(&server, "/ws/modes?mode=both");
    let mut only_publishes = Client::open(&server, "/ws/modes?mode=pub");
    let mut only_subscribes = Client::open(&server, "/ws/modes?mode=sub");
    both.send_text("1");
    assert_eq!((both.text(), only_subscribes.text()), ("1".into(), "1".into()));
    only_publishes.send_text("2");
    assert_eq!((both.text(), only_subscribes.text()), ("2".into(), "2".into()));
    assert!(only_publishes.close().is_empty());
    only_subscribes.send_text("3");
    let (code, reason) = only_subscribes.close_frame();
    assert_eq!((code, reason.contains("subscribe")), (Some(1008), true), "{reason}");
    assert!(both.close().is_empty(), "it was not published");
    server.until("its session closed it", |metrics| metrics.reason("closed", "session") == 0);
    only_subscribes.send_frame(CLOSE, b"");
    only_subscribes.end();
    server.until("its session closed it", |metrics| metrics.reason("closed", "session") == 1);
}

#[test]
fn echo_off_leaves_out_ones_own_and_nothing_else() {
    const MESSAGES: usize = 600;
    let server = TestServer::start(&four_workers());
    let mut observer = Client::open(&server, "/ws/talk?mode=sub");
    let publishers: Vec<_> = (0..4)
        .map(|own| {
            let mut client = Client::open(&server, "/ws/talk?echo=off");
            (own, client.sender(), move || {
                let texts = (0..3 * MESSAGES).map(|_| client.text()).collect::<Vec<_>>();
                (client, texts)
            })
        })
        .collect();
    let threads: Vec<_> = publishers
        .into_iter()
        .map(|(own, mut sender, read)| {
            let writer = std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    sender.write_all(&frame(TEXT, format!("{own}:{number}").as_bytes())).expect("sent");
                }
            });
            (own, writer, std::thread::spawn(read))
        })
        .collect();
    let all: Vec<String> = (0..4 * MESSAGES).map(|_| observer.text()).collect();
    let mut clients = Vec::new();
    for (own, writer, reader) in threads {
        writer.join().expect("not cut off");
        let own = format!("{own}:");
        let others: Vec<_> = all.iter().filter(|text| !text.starts_with(&own)).cloned().collect();
        let (client, texts) = reader.join().expect("gets everything");
        assert_eq!(texts, others);
        clients.push(client);
    }
    server.until("what was left out is counted", |metrics| {
        metrics.sum("deliveries_left_out") == 4 * MESSAGES as u64
    });
    for client in clients {
        assert!(client.close().is_empty(), "nothing of one's own comes later");
    }
}

#[test]
fn topics_have_names_in_any_language() {
    let server = TestServer::start(&four_workers());
    let names = ["новости/спорт", "🦀/🎉", "日本語", "עברית", "a b&c=d?e#f%g", "Ünï.cödé"];
    let encode = |name: &str| name.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut clients: Vec<_> =
        names.iter().map(|name| Client::open(&server, &format!("/ws/{}", encode(name)))).collect();
    for (i, name) in names.iter().enumerate() {
        let mut publisher = Client::open(&server, &format!("/ws/{}?mode=pub", encode(name)));
        publisher.send_text(name);
        assert_eq!(clients[i].text(), *name);
    }
    for client in clients {
        assert!(client.close().is_empty(), "no topic hears another");
    }
}

#[test]
fn large_messages_arrive_whole() {
    // Room for all of them, so that nobody is slow on a busy machine.
    let server = TestServer::start(&Config { lag_bytes_max: 8 << 20, ..four_workers() });
    let lengths = [32_767, 32_768, 100, 65_536, 0, 65_537, 1 << 20, 1, 500_000];
    let mut rng = Rng(2);
    // From publishers on the topic's own worker and on others.
    for _ in 0..4 {
        let sent: Vec<_> =
            lengths.iter().map(|&len| Frame { first: BINARY, payload: rng.bytes(len) }).collect();
        let subscribers: Vec<_> = (0..4)
            .map(|_| {
                let mut client = Client::open(&server, "/ws/large?mode=sub");
                std::thread::spawn(move || lengths.map(|_| client.message()))
            })
            .collect();
        let mut publisher = Client::open(&server, "/ws/large?mode=pub");
        sent.iter().for_each(|message| publisher.send_frame(BINARY, &message.payload));
        for subscriber in subscribers {
            assert!(subscriber.join().expect("gets everything")[..] == sent);
        }
    }
}

#[test]
fn who_is_connected_misses_nothing() {
    let server = TestServer::start(&four_workers());
    // The publishers are there already, on several workers.
    let topics = 40;
    let mut publishers: Vec<Vec<Client>> = (0..topics)
        .map(|topic| (0..4).map(|_| Client::open(&server, &format!("/ws/{topic}?mode=pub"))).collect())
        .collect();
    for round in 0..4 {
        for (topic, publishers) in publishers.iter_mut().enumerate() {
            let mut subscriber = Client::open(&server, &format!("/ws/{topic}?mode=sub"));
            let text = format!("{topic} {round}");
            publishers[round].send_text(&text);
            assert_eq!(subscriber.text(), text);
        }
    }
}

#[test]
fn who_joins_a_running_stream_gets_all_from_there_on() {
    // So wide that nobody is slow on a busy machine.
    let server = TestServer::start(&Config {
        lag_messages_max: 100_000_000,
        lag_bytes_max: 512 << 20,
        ..four_workers()
    });
    let mut publisher = Client::open(&server, "/ws/stream?mode=pub");
    let (done, stop) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut number = 0u64;
        while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            publisher.send_text(&number.to_string());
            number += 1;
        }
        publisher.send_text("end");
    });
    let readers: Vec<_> = (0..60)
        .map(|_| {
            let mut client = Client::open(&server, "/ws/stream?mode=sub");
            std::thread::spawn(move || {
                let mut last: Option<u64> = None;
                loop {
                    let text = client.text();
                    if text == "end" {
                        return last;
                    }
                    let number = text.parse().expect("a number");
                    assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
                    last = Some(number);
                }
            })
        })
        .collect();
    done.send(()).expect("the writer runs");
    writer.join().expect("not cut off");
    let last: Vec<_> = readers.into_iter().map(|reader| reader.join().expect("no gap")).collect();
    let newest = last.iter().max().expect("60 readers");
    assert!(newest.is_some(), "something came");
    assert!(last.iter().all(|last| last.is_none() || last == newest), "all got the last message");
}

#[test]
fn a_topic_vanishes_and_comes_back() {
    let server =
        TestServer::start(&Config { topic_idle_timeout: Duration::from_millis(200), ..four_workers() });
    for round in 0..2 {
        let mut subscribers: Vec<_> = (0..5).map(|_| Client::open(&server, "/ws/again")).collect();
        Client::open(&server, "/ws/again?mode=pub").send_text(&format!("round {round}"));
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.text(), format!("round {round}"));
        }
        drop(subscribers);
        server.until("the topic has vanished", |metrics| {
            metrics.sum("topics_all") == 0 && metrics.sum("lanes") == 0 && metrics.sum("log_bytes") == 0
        });
    }
}

#[test]
fn topics_do_not_mix() {
    const TOPICS: usize = 16;
    let server = TestServer::start(&four_workers());
    let mut subscribers: Vec<_> =
        (0..TOPICS).map(|topic| Client::open(&server, &format!("/ws/mix/{topic}?mode=sub"))).collect();
    let publishers: Vec<_> = (0..TOPICS)
        .map(|topic| {
            let mut publisher = Client::open(&server, &format!("/ws/mix/{topic}?mode=pub"));
            std::thread::spawn(move || {
                (0..300).for_each(|number| publisher.send_text(&format!("{topic}:{number}")));
                publisher
            })
        })
        .collect();
    for (topic, subscriber) in subscribers.iter_mut().enumerate() {
        for number in 0..300 {
            assert_eq!(subscriber.text(), format!("{topic}:{number}"));
        }
    }
    publishers.into_iter().for_each(|publisher| drop(publisher.join().expect("not cut off")));
}
