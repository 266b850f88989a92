//! `--direct-descriptors`: connections that are none of the process' open files.

mod common;

use common::{Client, client::TEXT, process::Process, why_no_uring};
use stentor::engine::driver::Descriptors;

const FLAGS: [&str; 4] = ["--driver=uring", "--direct-descriptors", "--workers=2", "--log-level=debug"];

/// The limit on open files holds for each worker, and not for the process.
#[test]
fn more_connections_than_open_files() {
    const FILES: u32 = 200;
    // 2 workers, 64 of 65 places in each but 66.
    const HELD: usize = 2 * 2 * 64;
    if let Some(why) = why_no_uring(Descriptors::Direct { places: FILES }) {
        println!("NOT RUN: {why}");
        return;
    }
    let process = Process::start_with_files(FILES, &FLAGS);
    let mut publisher = Client::to(process.address).upgraded("/ws/t?mode=pub");
    let mut subscribers: Vec<Client> =
        (1..HELD).map(|_| Client::to(process.address).upgraded("/ws/t?mode=sub")).collect();
    assert!(subscribers.len() > FILES as usize);
    assert!(process.open_files() < 60, "{}", process.open_files());

    for text in ["one", "two"] {
        publisher.send_frame(TEXT, text.as_bytes());
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.text(), text);
        }
    }
    // One more is told so, as with any driver.
    let refused = Client::to(process.address).request("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(refused.status, 503);

    // Who leaves makes room, and slots are used again.
    subscribers.drain(..100).for_each(|subscriber| drop(subscriber.close()));
    let next = (0..100).map(|_| Client::to(process.address).upgraded("/ws/t?mode=sub"));
    subscribers.extend(next.collect::<Vec<_>>());
    publisher.send_frame(TEXT, b"three");
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.text(), "three");
    }
}

#[test]
fn as_many_as_the_tables_hold_can_be_asked_for() {
    const FILES: u32 = 200;
    if let Some(why) = why_no_uring(Descriptors::Direct { places: FILES }) {
        println!("NOT RUN: {why}");
        return;
    }
    let most = [&FLAGS[..], &["--max-connections=256"]].concat();
    assert_eq!(Process::start_with_files(FILES, &most).metrics().sum("accepted"), 1);
}
