//! What topics needed which have gone goes back to the system. It is this process' memory that is looked at, so this
//! file has one test.

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::{Client, TestServer, config, eventually};
use stentor::{
    config::Config,
    server::prepare_allocator,
    session::{Audience, Context, Failure, Message, Request, Route, Router, Session, TopicName, text},
};

const TOPICS: usize = 200_000;
const PER_MESSAGE: usize = 1000;
const MIB: u64 = 1 << 20;

/// Publishes to many topics for each message of its client, which hears of one.
struct Many;

impl Session for Many {
    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let first: usize = message.text().expect("a number").parse()?;
        if first == 0 {
            context.subscribe(&topic(TOPICS));
        }
        for number in first..first + PER_MESSAGE {
            context.publish(&topic(number), text("x"), Audience::All);
        }
        Ok(())
    }
}

struct Everywhere;

impl Router for Everywhere {
    fn route(&self, request: &Request, _address: SocketAddr) -> Route {
        Route::upgrade(request, Box::new(Many))
    }
}

fn topic(number: usize) -> TopicName {
    TopicName::parse(&format!("sensors/building/{number}")).expect("a name")
}

/// Memory that is not mapped from files.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells it");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}

/// A client that has had a message published to each topic.
fn use_all_topics(server: &TestServer) -> Client {
    let mut client = Client::open(server, "/");
    let published = server.metrics().sum("messages_published") + TOPICS as u64;
    for first in (0..TOPICS).step_by(PER_MESSAGE) {
        client.send_text(&first.to_string());
    }
    server.until("all have one", |metrics| metrics.sum("messages_published") == published);
    client
}

#[test]
fn memory_of_topics_that_have_gone_returns() {
    prepare_allocator();
    let server = TestServer::start_with(
        &Config { topic_idle_timeout: Duration::from_secs(5), max_topics: 2 * TOPICS, ..config() },
        Arc::new(Everywhere),
    );
    drop(Client::open(&server, "/"));
    let before = anonymous_bytes();
    let returned = |when: &str| {
        let peak = anonymous_bytes();
        assert!(peak > before + 30 * MIB, "{when}: only from {before} to {peak}");
        // What is free at the end of each worker's heap stays, up to a bound; and what sockets and mail needed.
        let most = before + 4 * MIB + (peak - before) / 10;
        eventually(&format!("{when}: from {before} to {peak}, and back"), || anonymous_bytes() <= most);
        println!("{when}: from {before} to {peak} and to {}", anonymous_bytes());
    };
    let client = use_all_topics(&server);
    returned("while a client holds one topic");
    drop(client);
    drop(use_all_topics(&server));
    returned("while nobody is there");
}
