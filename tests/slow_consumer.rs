//! Slow consumers: who does not read is cut off at the bound of its lag, and only then, and nobody else notices.

mod common;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{
    Client, Frame, Rng, TestServer,
    client::{BINARY, CLOSE, TEXT, server_frame},
    config,
    crowd::Crowd,
    frame,
    process::Process,
};
use stentor::config::Config;

fn tight() -> Config {
    Config {
        workers: 4,
        lag_bytes_max: 256 << 10,
        max_message_bytes: 64 << 10,
        send_buffer_bytes: 16 << 10,
        ..config()
    }
}

#[test]
fn who_never_reads_is_cut_off_and_the_others_get_everything() {
    let server = TestServer::start(&tight());
    let stuck: Vec<_> = (0..4).map(|_| Client::narrow(&server).upgraded("/ws/slow?mode=sub")).collect();
    let mut rng = Rng(1);
    let messages: Vec<Vec<u8>> = (0..2000)
        .map(|_| {
            let len = rng.below(8_000);
            rng.bytes(len)
        })
        .collect();
    let expected = messages.iter().flat_map(|bytes| server_frame(BINARY, bytes)).collect();
    let crowd = Crowd::expecting(&server, "/ws/slow?mode=sub", 20, expected, Duration::from_secs(40));
    let mut publisher = Client::open(&server, "/ws/slow?mode=pub");
    let mut sent = 0;
    for message in &messages {
        // Those who read are given the time to, however busy this machine is.
        common::eventually("the readers read", || sent < crowd.least() + (100 << 10));
        publisher.send_frame(BINARY, message);
        sent += message.len();
    }
    crowd.finish();
    assert!(publisher.close().is_empty(), "not cut off");
    server.until("the stuck ones are gone", |metrics| metrics.sum("slow_consumers") == 4);
    assert_eq!(server.metrics().reason("closed", "slow_consumer"), 4);
    for mut client in stuck {
        // What they got is the front of the stream: whole messages in order, then 1013 where it still fitted.
        for message in &messages {
            match client.next_frame() {
                Ok(Some(frame)) if frame.first == CLOSE => {
                    assert_eq!(frame.code(), Some(1013));
                    break;
                }
                Ok(Some(frame)) => assert_eq!(frame, Frame { first: BINARY, payload: message.clone() }),
                Ok(None) => panic!("an end without a word must be a reset"),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
    }
}

#[test]
fn who_comes_to_read_in_time_is_told_why() {
    // The slow consumer reads on after it was called slow: then the close frame reaches it.
    let server = TestServer::start(&tight());
    let mut slow = Client::narrow(&server).upgraded("/ws/told?mode=sub");
    let mut publisher = Client::open(&server, "/ws/told?mode=pub");
    let mut sent = 0;
    server.until("it is subscribed", |metrics| metrics.sum("subscriptions") == 1);
    while server.metrics().sum("subscriptions") > 0 {
        publisher.send_frame(BINARY, &[7; 10_000]);
        sent += 1;
        assert!(sent < 10_000, "nobody was called slow");
    }
    let mut whole = 0;
    let (code, reason) = loop {
        let frame = slow.message();
        if frame.first == CLOSE {
            break (frame.code(), String::from_utf8_lossy(&frame.payload[2..]).into_owned());
        }
        assert_eq!(frame.payload, [7; 10_000]);
        whole += 1;
    };
    assert!(whole < sent);
    assert_eq!(code, Some(1013));
    assert!(reason.contains("slow"), "{reason}");
    drop(slow);
    server.until("it is counted", |metrics| metrics.reason("slow_consumers", "close") == 1);
    assert!(publisher.close().is_empty());
}

#[test]
fn a_lag_within_the_bounds_loses_nothing() {
    let server = TestServer::start(&Config { lag_bytes_max: 2 << 20, ..tight() });
    let mut slow = Client::narrow(&server).upgraded("/ws/within?mode=sub");
    let mut fast = Client::open(&server, "/ws/within?mode=sub");
    let mut publisher = Client::open(&server, "/ws/within?mode=pub");
    let mut rng = Rng(2);
    for round in 0..3 {
        // Below the bound, far above what the sockets hold.
        let messages: Vec<String> = (0..150)
            .map(|_| {
                let len = rng.below(20_000);
                rng.text(len)
            })
            .collect();
        let copy = messages.clone();
        let reader = std::thread::spawn(move || {
            copy.iter().for_each(|message| assert!(fast.text() == *message));
            fast
        });
        messages.iter().for_each(|message| publisher.send_text(message));
        fast = reader.join().expect("gets everything");
        for message in &messages {
            assert!(slow.text() == *message, "round {round}");
        }
    }
    assert_eq!(server.metrics().sum("slow_consumers"), 0);
}

#[test]
fn messages_count_as_well_as_bytes() {
    let server = TestServer::start(&Config { lag_messages_max: 1_000, lag_bytes_max: 64 << 20, ..tight() });
    let _stuck = Client::narrow(&server).upgraded("/ws/many?mode=sub");
    let mut publisher = Client::open(&server, "/ws/many?mode=pub");
    server.until("it is subscribed", |metrics| metrics.sum("subscriptions") == 1);
    let burst = frame(TEXT, &[b'x'; 40]).repeat(500);
    let mut sent = 0;
    while server.metrics().sum("subscriptions") > 0 {
        publisher.send(&burst);
        sent += burst.len();
        assert!(sent < 32 << 20, "nobody was called slow");
    }
    assert!(publisher.close().is_empty());
}

#[test]
fn the_servers_own_lateness_closes_nobody() {
    const PUBLISHERS: usize = 4;
    const MESSAGES: usize = 250;
    // The flood passes the bound several times over, yet the sockets' own buffers hold all of it: whoever lags does
    // so because the sweep has not come round.
    let server = TestServer::start(&Config {
        lag_bytes_max: 32 << 10,
        max_message_bytes: 16 << 10,
        send_buffer_bytes: 256 << 10,
        ..tight()
    });
    let payload = |publisher: usize, number: usize| format!("{publisher}:{number:06}:{}", "x".repeat(200));
    let len = PUBLISHERS * MESSAGES * server_frame(TEXT, payload(0, 0).as_bytes()).len();
    let crowd = Crowd::agreeing(&server, "/ws/flood?mode=sub", 1_000, len, Duration::from_secs(60));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut client = Client::open(&server, "/ws/flood?mode=pub");
            client.stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    client.send_text(&payload(publisher, number));
                }
                client
            })
        })
        .collect();
    let bytes = crowd.finish();
    for publisher in publishers {
        assert!(publisher.join().expect("not cut off").close().is_empty());
    }
    let mut next = [0; PUBLISHERS];
    let mut rest = &bytes[..];
    while let Some((frame, len)) = Frame::parse(rest) {
        rest = &rest[len..];
        let text = String::from_utf8(frame.payload).expect("text");
        let publisher: usize = text[..1].parse().expect("a number");
        assert_eq!(text, payload(publisher, next[publisher]));
        next[publisher] += 1;
    }
    assert_eq!((next, rest.len()), ([MESSAGES; PUBLISHERS], 0));
    let metrics = server.metrics();
    assert_eq!(metrics.sum("slow_consumers"), 0);
    assert!(metrics.sum("messages_held") > 0, "publishers were held back");
}

/// Subscribers that never read.
const STUCK: u64 = 1_000;

/// Messages sent at once.
const BURST: usize = 100;

/// Default of `--send-buffer-bytes`.
const SEND_BUFFER: &str = "64KiB";

/// Default of `--lag-messages-max`.
const LAG_MESSAGES_MAX: usize = 10_000;

/// A server process with subscribers that never read, and what it took before messages passed.
struct StuckReaders {
    process: Process,
    clients: Vec<Client>,
    /// Messages that pass while they do not read.
    passing: usize,
    payload_len: usize,
    anonymous_bytes: u64,
    tcp_memory_bytes: u64,
    /// The most that the topic's log has had, as far as was seen. An allocator keeps some of it.
    log_bytes_peak: Cell<u64>,
}

impl StuckReaders {
    fn start(policy: &str, send_buffer: &str, passing: usize, payload_len: usize) -> StuckReaders {
        common::raise_open_files();
        let policy = format!("--slow-consumer={policy}");
        let send_buffer = format!("--send-buffer-bytes={send_buffer}");
        // Neither pings nor the write timeout end them: this is about policies.
        let flags = ["--workers=2", "--ping-interval=off", "--write-timeout=1h", &send_buffer, &policy];
        let process = Process::start(&flags);
        let clients = (0..STUCK).map(|_| Client::narrow(&process).upgraded("/ws/feed?mode=sub")).collect();
        let mut stuck = StuckReaders {
            process,
            clients,
            passing,
            payload_len,
            anonymous_bytes: 0,
            tcp_memory_bytes: 0,
            log_bytes_peak: Cell::new(0),
        };
        stuck.until("all are subscribed", |metrics| metrics.sum("subscriptions") == STUCK);
        stuck.anonymous_bytes = stuck.process.anonymous_bytes();
        stuck.tcp_memory_bytes = common::tcp_memory_bytes();
        stuck
    }

    fn until(&self, what: &str, condition: impl Fn(&common::Metrics) -> bool) -> Duration {
        common::until(what, || self.process.metrics(), condition)
    }

    fn payload(&self, number: usize) -> Vec<u8> {
        format!("{number:0len$}", len = self.payload_len).into_bytes()
    }

    /// Readers that must get every message.
    fn readers_of_all(&self) -> Crowd {
        let expected =
            (0..self.passing).flat_map(|number| server_frame(TEXT, &self.payload(number))).collect();
        Crowd::expecting(&self.process, "/ws/feed?mode=sub", 10, expected, Duration::from_secs(60))
    }

    /// Publishes messages `from` up to `to`, each burst when the readers have what they must have before its first.
    fn publish(
        &self,
        publisher: &mut Client,
        from: usize,
        to: usize,
        mut readers_have: impl FnMut(usize) -> bool,
    ) {
        for first in (from..to).step_by(BURST) {
            common::eventually("the readers read", || readers_have(first));
            let burst: Vec<u8> =
                (first..first + BURST).flat_map(|number| frame(TEXT, &self.payload(number))).collect();
            publisher.send(&burst);
            if (first / BURST).is_multiple_of(4) {
                self.look_at_log();
            }
        }
    }

    fn look_at_log(&self) {
        let log_bytes = self.process.metrics().sum("log_bytes");
        self.log_bytes_peak.set(self.log_bytes_peak.get().max(log_bytes));
    }

    /// What the server's memory beside its logs has grown by, for each of those that do not read.
    fn report(&self, policy: &str) -> u64 {
        self.look_at_log();
        let log_bytes = self.log_bytes_peak.get();
        let grown = self.process.anonymous_bytes().saturating_sub(self.anonymous_bytes);
        let kernel = common::tcp_memory_bytes().saturating_sub(self.tcp_memory_bytes);
        println!(
            "{policy}, {} messages of {} B pass {STUCK} that never read: server memory grew by {} bytes each, logs \
             included, which had up to {log_bytes} bytes; kernel memory of all TCP sockets by {} each",
            self.passing,
            self.payload_len,
            grown / STUCK,
            kernel / STUCK,
        );
        grown.saturating_sub(log_bytes) / STUCK
    }
}

/// `disconnect`: they are closed with 1013, or reset, once their lag has passed the bound, and not before.
fn stuck_readers_are_disconnected(passing: usize, payload_len: usize) {
    let mut stuck = StuckReaders::start("disconnect", SEND_BUFFER, passing, payload_len);
    let crowd = stuck.readers_of_all();
    let all = STUCK + 10;
    stuck.until("readers are subscribed", |metrics| metrics.sum("subscriptions") == all);
    let mut publisher = Client::open(&stuck.process, "/ws/feed?mode=pub");
    let unit_len = server_frame(TEXT, &stuck.payload(0)).len();
    let keep_up = |first: usize| crowd.least() + LAG_MESSAGES_MAX / 4 * unit_len >= first * unit_len;

    stuck.publish(&mut publisher, 0, LAG_MESSAGES_MAX - BURST, keep_up);
    stuck.until("all is taken", |metrics| {
        metrics.sum("messages_published") == (LAG_MESSAGES_MAX - BURST) as u64
    });
    assert_eq!(stuck.process.metrics().sum("slow_consumers"), 0, "within the bound nobody is slow");

    // What the kernel has taken does not count as lag: about twice the send buffer, and the narrow receive buffer.
    let bound = (LAG_MESSAGES_MAX + (140 << 10) / unit_len).next_multiple_of(BURST) + BURST;
    stuck.publish(&mut publisher, LAG_MESSAGES_MAX - BURST, bound, keep_up);
    let began = Instant::now();
    stuck.until("all are closed", |metrics| metrics.sum("slow_consumers") == STUCK);
    let took = began.elapsed();
    stuck.publish(&mut publisher, bound, passing, keep_up);
    crowd.finish();
    assert!(publisher.close().is_empty());

    let metrics = stuck.process.metrics();
    assert_eq!(metrics.reason("closed", "slow_consumer"), STUCK);
    let (closes, resets) =
        (metrics.reason("slow_consumers", "close"), metrics.reason("slow_consumers", "reset"));
    stuck.report("disconnect");
    println!("{bound} messages passed, then all were over within {took:?}: {closes} closed, {resets} reset");
    assert_eq!(closes + resets, STUCK);
    // A tenth of a second until lags are looked at, or one where nothing more is published, and one for the close
    // frame; the rest is for machines with other things to do.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut told = 0;
    for client in &mut stuck.clients {
        for number in 0.. {
            match client.next_frame() {
                Ok(Some(frame)) if frame.first == CLOSE => {
                    assert_eq!(frame.code(), Some(1013));
                    told += 1;
                    break;
                }
                Ok(Some(frame)) => assert_eq!(frame.payload, format!("{number:0payload_len$}").into_bytes()),
                Ok(None) => panic!("an end without a word must be a reset"),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                    break;
                }
            }
        }
    }
    assert_eq!(told, closes);
}

/// `skip`: they stay, cost nothing, and those who read get everything.
fn stuck_readers_are_skipped(passing: usize, payload_len: usize) {
    let stuck = StuckReaders::start("skip", SEND_BUFFER, passing, payload_len);
    let crowd = stuck.readers_of_all();
    let all = STUCK + 10;
    stuck.until("readers are subscribed", |metrics| metrics.sum("subscriptions") == all);
    let mut publisher = Client::open(&stuck.process, "/ws/feed?mode=pub");
    let unit_len = server_frame(TEXT, &stuck.payload(0)).len();
    stuck.publish(&mut publisher, 0, passing, |first| {
        crowd.least() + LAG_MESSAGES_MAX / 4 * unit_len >= first * unit_len
    });
    crowd.finish();
    assert!(publisher.close().is_empty());
    stuck.assert_they_stay("skip");
}

/// `latest`: they stay, cost nothing, and those who read end with the newest.
fn stuck_readers_get_the_latest(passing: usize, payload_len: usize) {
    const READERS: usize = 4;
    // The newest messages alone are few bytes: the kernel must not take too many of them.
    let stuck = StuckReaders::start("latest", "4KiB", passing, payload_len);
    let newest: Arc<Vec<AtomicUsize>> = Arc::new((0..READERS).map(|_| AtomicUsize::new(0)).collect());
    let readers: Vec<JoinHandle<()>> = (0..READERS)
        .map(|reader| {
            let mut client = Client::open(&stuck.process, "/ws/feed?mode=sub");
            let newest = Arc::clone(&newest);
            std::thread::spawn(move || {
                let mut next = 0;
                while next < passing {
                    let text = client.text();
                    assert_eq!(text.len(), payload_len);
                    let number: usize = text.parse().expect("a number");
                    assert!(number >= next, "{number} after {next}");
                    next = number + 1;
                    newest[reader].store(next, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let all = STUCK + READERS as u64;
    stuck.until("readers are subscribed", |metrics| metrics.sum("subscriptions") == all);
    let mut publisher = Client::open(&stuck.process, "/ws/feed?mode=pub");
    // Each burst's last message must reach everybody before the next: a thousand visits for each of those stuck.
    stuck.publish(&mut publisher, 0, passing, |first| {
        newest.iter().all(|newest| newest.load(Ordering::Relaxed) == first)
    });
    readers.into_iter().for_each(|reader| reader.join().expect("gets the newest"));
    assert!(publisher.close().is_empty());
    stuck.assert_they_stay("latest");
}

impl StuckReaders {
    fn assert_they_stay(&self, policy: &str) {
        self.until("all of them are behind", |metrics| metrics.sum("subscriptions_behind") == STUCK);
        let metrics = self.process.metrics();
        assert_eq!(metrics.sum("slow_consumers"), 0);
        assert!(metrics.sum("subscriptions") >= STUCK);
        let grown = self.report(policy);
        assert!(grown <= 4 << 10, "{grown} bytes for each of those that do not read");
    }
}

#[test]
fn stuck_readers_disconnect_small() {
    stuck_readers_are_disconnected(100_000, 64);
}

#[test]
fn stuck_readers_disconnect_1_kib() {
    stuck_readers_are_disconnected(20_000, 1 << 10);
}

#[test]
fn stuck_readers_skip_small() {
    stuck_readers_are_skipped(100_000, 64);
}

#[test]
fn stuck_readers_skip_1_kib() {
    stuck_readers_are_skipped(20_000, 1 << 10);
}

#[test]
fn stuck_readers_latest_small() {
    stuck_readers_get_the_latest(100_000, 64);
}

#[test]
fn stuck_readers_latest_1_kib() {
    stuck_readers_get_the_latest(20_000, 1 << 10);
}
