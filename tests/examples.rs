//! The programs in `examples/`, run.

mod common;

use std::time::{Duration, Instant};

use common::{Client, TestServer, client::CLOSE, client::close_body, config};
use stentor::{
    config::Config,
    server::{Server, StartError},
};

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
