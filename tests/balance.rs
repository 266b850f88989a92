//! Connections are spread over the workers: a broadcast ends when its last worker is done.

mod common;

use common::{Client, TestServer, config};
use stentor::config::Config;

#[test]
fn connections_stay_within_five_percent_of_the_mean() {
    const CONNECTIONS: u64 = 800;
    let server = TestServer::start(&Config { workers: 4, ..config() });
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::open(&server, "/ws/spread?mode=sub")).collect();
    let mean = CONNECTIONS / 4;
    server.until("every worker has its share", |metrics| {
        metrics.by_worker("connections").iter().all(|&connections| connections.abs_diff(mean) <= mean / 20)
    });
    let metrics = server.metrics();
    assert!(metrics.sum("handed_over") > 0, "the kernel's hash alone does not balance them");

    // Those that were handed over get the same as the others.
    let mut clients = clients;
    Client::open(&server, "/ws/spread?mode=pub").send_text("to all");
    for client in &mut clients {
        assert_eq!(client.text(), "to all");
    }
}
