//! Requests that are refused: what every refusal looks like, that it is counted, and that it hurts nobody else.

use std::io::Write;

use super::{Client, TestServer, client::upgrade_request};

/// The header line of a valid key.
pub const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The request of RFC 6455 section 1.3 with other header lines: what `changes` names is replaced.
pub fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(upgrade_request("/ws/t"), |request, (from, to)| {
        assert!(request.contains(from), "{from} is in {request}");
        request.replacen(from, to, 1)
    })
}

/// A request without a body.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A request, the status of its refusal, the reason that is counted, and what its hint contains.
pub type Case<'a> = (String, u16, &'a str, &'a str);

/// Sends each request on a connection of its own, and checks the answer, the counter and the end.
#[track_caller]
pub fn check_refusals(server: &TestServer, cases: &[Case<'_>]) {
    for (request, status, reason, hint) in cases {
        let shown = &request[..request.len().min(300)];
        check_refusal(server, shown, request.as_bytes(), *status, reason, hint);
    }
}

/// A case with a name, and a request of any bytes.
pub type NamedCase<'a> = (&'a str, Vec<u8>, u16, &'a str, &'a str);

/// The same, beside a neighbour that must not notice.
#[track_caller]
pub fn check_bad_input(server: &TestServer, cases: &[NamedCase<'_>]) {
    let mut neighbour = Neighbour::open(server);
    for (name, request, status, reason, hint) in cases {
        check_refusal(server, name, request, *status, reason, hint);
        neighbour.unhurt_by(name);
    }
    let metrics = server.metrics();
    assert_eq!((metrics.sum("upgrades"), metrics.sum("session_failures")), (1, 0), "the neighbour's alone");
}

#[track_caller]
fn check_refusal(server: &TestServer, name: &str, request: &[u8], status: u16, reason: &str, hint: &str) {
    let before = server.metrics().reason("refused", reason);
    let mut client = Client::connect(server);
    // Of a long request the server may answer, and close, before all of it was sent.
    let _ = client.stream.write_all(request);
    let response = client.response();
    assert_eq!(response.status, status, "{name}\n{response:?}");
    assert!(response.body.contains(hint), "{name}: {hint}: {response:?}");
    let line = response.body.strip_suffix('\n').expect("one line");
    assert!(
        line.len() > 10 && !line.contains(char::is_control),
        "{name}: one line that says what to do: {line:?}"
    );
    assert!(response.header("connection").contains("close"), "{name}: {response:?}");
    match status {
        405 => assert!(response.header("allow").contains("GET"), "{name}: {response:?}"),
        426 => {
            assert_eq!(response.header("sec-websocket-version"), "13", "{name}");
            assert_eq!(response.header("upgrade"), "websocket", "{name}");
        }
        503 => assert!(response.header("retry-after").parse::<u32>().expect("seconds") > 0, "{name}"),
        _ => {}
    }
    client.end();
    assert_eq!(server.metrics().reason("refused", reason), before + 1, "{name} counts as {reason}");
}

/// A well-behaved client beside whatever the test does. It is on the same worker where the server has but one.
pub struct Neighbour {
    client: Client,
    said: u32,
}

impl Neighbour {
    /// Connects.
    pub fn open(server: &TestServer) -> Neighbour {
        Neighbour::at(server.address)
    }

    /// The same, to an address.
    pub fn at(address: std::net::SocketAddr) -> Neighbour {
        Neighbour { client: Client::to(address).upgraded("/ws/neighbours"), said: 0 }
    }

    /// It publishes, and gets what it published; nothing else came meanwhile.
    #[track_caller]
    pub fn unhurt_by(&mut self, what: &str) {
        self.said += 1;
        let text = format!("still here {}", self.said);
        self.client.send_text(&text);
        assert_eq!(self.client.text(), text, "beside {what}");
    }
}
