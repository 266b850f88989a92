//! What is quiet costs nearly nothing: segments go after a second, topics after `--topic-idle-timeout`.

mod common;

use std::time::Duration;

use common::{Client, TestServer, config};
use stentor::config::Config;

#[test]
fn a_quiet_topic_holds_no_segment_and_goes_on_where_it_stood() {
    let server = TestServer::start(&Config { workers: 2, ..config() });
    let mut clients: Vec<_> = (0..40).map(|i| Client::open(&server, &format!("/ws/quiet/{i}"))).collect();
    for client in &mut clients {
        client.send_text("first");
        assert_eq!(client.text(), "first");
    }
    assert!(server.metrics().sum("log_bytes") > 0, "segments while messages come");
    server.until("all segments are gone", |metrics| metrics.sum("log_bytes") == 0);
    assert_eq!(server.metrics().sum("topics"), 40, "the topics are still there");
    for client in &mut clients {
        client.send_text("second");
        assert_eq!(client.text(), "second");
    }
}

#[test]
fn a_message_that_nobody_reads_is_counted_and_not_kept() {
    let server = TestServer::start(&config());
    let mut publisher = Client::open(&server, "/ws/alone?mode=pub");
    publisher.send_text("to nobody");
    server.until("it has its offset", |metrics| metrics.sum("messages_published") == 1);
    assert_eq!(server.metrics().sum("log_bytes"), 0);
}

#[test]
fn topics_vanish_when_idle_and_come_back_on_first_use() {
    let server = TestServer::start(&Config { topic_idle_timeout: Duration::from_millis(300), ..config() });
    let mut publisher = Client::open(&server, "/ws/passing?mode=pub");
    publisher.send_text("one");
    server.until("the topic is there", |metrics| metrics.sum("topics") == 1);
    server.until("the topic is gone", |metrics| metrics.sum("topics") == 0);
    let mut subscriber = Client::open(&server, "/ws/passing?mode=sub");
    publisher.send_text("two");
    assert_eq!(subscriber.text(), "two");
}
