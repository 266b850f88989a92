//! The server API over real sockets: who may call it, and what becomes of a request that is no call.

mod common;

use common::{Client, TestServer, client::Response, config, process::Process, refusals::Neighbour};
use stentor::config::Config;

const KEY: &str = "0123456789abcdef";

fn post_with(method: &str, lines: &str, body: &str) -> String {
    let len = body.len();
    format!("POST /api/{method} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len}\r\n\r\n{body}")
}

fn post(method: &str, body: &str) -> String {
    post_with(method, "", body)
}

fn with_keys() -> Config {
    let keys = ["ops:fedcba9876543210", "backend:0123456789abcdef"];
    Config { workers: 1, api_keys: keys.map(|key| key.parse().expect("a key")).into(), ..config() }
}

fn status_and_body(response: &Response) -> (u16, &str) {
    (response.status, response.body.as_str())
}

#[test]
fn what_is_no_call_is_told_why() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    let mut neighbour = Neighbour::open(&server);
    let mut client = Client::connect(&server);
    let deep = "[".repeat(100_000);
    for (method, body, says) in [
        ("publish", "", "empty"),
        ("publish", "channel=t&data=x", "JSON object"),
        ("publish", r#"{"channel":"t","data":"#, "line 1"),
        ("publish", r#"{"channel":5,"data":1}"#, "invalid type: integer `5`"),
        ("publish", &format!(r#"{{"channel":"t","data":1,"tags":{deep}"#), "line 1"),
        ("history", r#"{"channel":"t","since":{"offset":18446744073709551616}}"#, "invalid"),
        ("batch", r#"{"commands":[{"publish":[]}]}"#, "commands[0]"),
    ] {
        let response = client.request(&post(method, body));
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.body.contains(says), "{says}: {response:?}");
        neighbour.unhurt_by(says);
    }
    assert_eq!(server.metrics().reason("refused", "api_body"), 7);
    // What a method refuses is an answer of its own.
    for (method, body, json) in [
        (
            "publish",
            r#"{"data":1}"#,
            r#"{"error":{"code":107,"message":"bad request: channel is missing or empty"}}"#,
        ),
        ("presence", r#"{"channel":"t"}"#, r#"{"error":{"code":108,"message":"not available"}}"#),
        ("refresh", r#"{"user":"u"}"#, r#"{"error":{"code":108,"message":"not available"}}"#),
    ] {
        let response = client.request(&post(method, body));
        assert_eq!(status_and_body(&response), (200, json));
        assert_eq!(response.header("content-type"), "application/json");
    }
    // All on one connection.
    assert_eq!(server.metrics().sum("accepted"), 2);
}

#[test]
fn a_method_is_called_by_its_name_with_post() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    for path in ["/api/", "/api/dance", "/api/publish/", "/api/Publish", "/api/%70ublish", "/api/rpc"] {
        let response = Client::connect(&server).request(&post("publish", "{}").replace("/api/publish", path));
        assert_eq!(response.status, 404, "{path}: {response:?}");
    }
    assert_eq!(server.metrics().reason("refused", "api_unknown"), 6);
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let response = Client::connect(&server).request(&post("info", "{}").replace("POST", method));
        assert_eq!((response.status, response.header("allow")), (405, "POST"), "{method}");
    }
    assert_eq!(server.metrics().reason("refused", "api_method"), 4);
    let large = format!(r#"{{"channel":"t","data":"{}"}}"#, "x".repeat(3 << 20));
    let mut client = Client::connect(&server);
    let response = client.request(&post("publish", &large)[..100]);
    assert_eq!(response.status, 413, "told from the length, before it has come");
}

#[test]
fn calls_of_other_machines_and_pages() {
    let server = TestServer::start(&Config { workers: 1, ..config() });
    for (from, to) in [
        ("Host: localhost", "Host: example.com"),
        ("Host: localhost", "Host: localhost\r\nOrigin: https://example.com"),
        ("Host: localhost", "Host: localhost\r\nOrigin: null"),
    ] {
        let mut client = Client::connect(&server);
        assert_eq!(client.request(&post("info", "").replace(from, to)).status, 403, "{to}");
        client.end();
    }
    // Said by the operator or not, without a key it is for this machine.
    let server = TestServer::start(&Config { workers: 1, open_loopback: false, ..config() });
    let request = post("info", "").replace("Host: localhost", "Host: example.com");
    assert_eq!(Client::connect(&server).request(&request).status, 403);
    assert_ne!(Client::connect(&server).request(&post("info", "")).status, 403);
}

#[test]
fn without_a_key_others_have_no_api() {
    // Port 0 of all addresses: loopback reaches it as well, and is not asked.
    let listen = vec![([0, 0, 0, 0], 0).into()];
    let server = TestServer::start(&Config { workers: 1, open_loopback: false, listen, ..config() });
    let response = Client::to(([127, 0, 0, 1], server.address.port()).into()).request(&post("info", ""));
    assert_eq!(response.status, 403);
    assert!(response.body.contains("--api-key"));
    assert_eq!(server.metrics().reason("refused", "api_closed"), 1);
}

#[test]
fn a_key_is_asked_for() {
    let server = TestServer::start(&with_keys());
    let mut client = Client::connect(&server);
    // What is wrong with the call shows only to who may call.
    for lines in [
        format!("X-API-Key: {KEY}\r\n"),
        format!("Authorization: apikey {KEY}\r\n"),
        format!("Authorization: Apikey {KEY}\r\nContent-Type: application/x-www-form-urlencoded\r\n"),
    ] {
        assert_eq!(client.request(&post_with("publish", &lines, "{}")).status, 200, "{lines}");
    }
    let in_query = post("publish", "{}").replace("/api/publish", &format!("/api/publish?api_key={KEY}"));
    assert_eq!(client.request(&in_query).status, 200);
    for lines in ["", "Authorization: Bearer 0123456789abcdef\r\n"] {
        let mut client = Client::connect(&server);
        let response = client.request(&post_with("dance", lines, "{"));
        assert_eq!((response.status, response.header("www-authenticate")), (401, "apikey"), "{response:?}");
        assert!(response.body.contains("X-API-Key"));
        client.end();
    }
    assert_eq!(server.metrics().reason("refused", "api_key_missing"), 2);
}

#[test]
fn a_wrong_key_ten_thousand_times() {
    let server = TestServer::start(&Config { max_wrong_keys: 10_000, ..with_keys() });
    let mut neighbour = Neighbour::open(&server);
    let clients: Vec<_> = (0..4)
        .map(|thread| {
            let address = server.address;
            std::thread::spawn(move || {
                for number in 0..2500 {
                    let wrong = format!("X-API-Key: 0123456789abcde{thread}{number}\r\n");
                    let mut client = Client::to(address);
                    let response =
                        client.request(&post_with("publish", &wrong, r#"{"channel":"t","data":1}"#));
                    assert_eq!(response.status, 401);
                    assert!(!response.body.contains("0123456789abcde"), "it is not repeated");
                }
            })
        })
        .collect();
    for _ in 0..50 {
        neighbour.unhurt_by("guesses");
    }
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    neighbour.unhurt_by("guesses");
    assert_eq!(server.metrics().reason("refused", "api_key"), 10_000);
    let key = format!("X-API-Key: {KEY}\r\n");
    assert_eq!(Client::connect(&server).request(&post_with("publish", &key, "{}")).status, 200);
}

#[test]
fn who_guesses_is_told_to_wait_and_locks_nobody_out() {
    let server = TestServer::start(&Config { max_wrong_keys: 3, ..with_keys() });
    let mut neighbour = Neighbour::open(&server);
    let ask = |lines: &str| Client::connect(&server).request(&post_with("info", lines, "{}"));
    let right = format!("X-API-Key: {KEY}\r\n");
    for lines in ["X-API-Key: wrong-0123456789\r\n", "", "X-API-Key: wrong-9876543210\r\n"] {
        assert_eq!(ask(lines).status, 401);
        assert_eq!(ask(&right).status, 200);
    }
    for _ in 0..5 {
        let response = ask("X-API-Key: wrong-0123456789\r\n");
        assert_eq!((response.status, response.header("retry-after")), (429, "60"), "{response:?}");
        assert!(response.body.contains("--max-wrong-keys"));
        assert_eq!(ask(&right).status, 200, "a right key is taken");
    }
    neighbour.unhurt_by("guesses");
    let metrics = server.metrics();
    let refused =
        ["api_key", "api_key_missing", "api_keys_guessed"].map(|reason| metrics.reason("refused", reason));
    assert_eq!(refused, [2, 1, 5]);
}

#[test]
fn keys_are_nowhere_to_be_read() {
    let flags = ["--api-key=backend:0123456789abcdef", "--log-level=trace", "--workers=1"];
    let process = Process::start(&flags);
    for key in [KEY, "wrong-0123456789abcdef"] {
        let lines = format!("X-API-Key: {key}\r\n");
        Client::to(process.address).request(&post_with("publish", &lines, "{}"));
    }
    assert!(!process.metrics().0.contains(KEY));
    assert_eq!(process.logged(KEY), 0);
}
