//! The bare server under the tool's own load: every way of sending with every way of taking messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A bare server that lives as long as the test.
struct Bare {
    process: Child,
    address: SocketAddr,
    /// Held open: the server writes there.
    _stderr: BufReader<ChildStderr>,
}

impl Bare {
    /// Starts one on a free port, or says in one line why it cannot be.
    fn start(flags: &[&str]) -> Result<Self, String> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
            .args(["bare", "--listen", "127.0.0.1:0"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        match line.trim_end().strip_prefix("bare: listening on ") {
            Some(address) => Ok(Self { process, address: address.parse().unwrap(), _stderr: stderr }),
            None => {
                stderr.read_to_string(&mut line).unwrap();
                assert_eq!(process.wait().unwrap().code(), Some(2), "{line}");
                Err(line)
            }
        }
    }

    fn fanout(&self, flags: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
            .args(["fanout", "--json", "--url", &format!("ws://{}/any/path", self.address)])
            .args(["--subscribers", "100", "--warm-up", "200ms", "--duration", "1s"])
            .args(flags)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{flags:?}: {text}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["verdict"], "valid", "{flags:?}: {text}");
        json
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // An end by signal is the only one that it has.
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Messages per receive call with each way of taking. Where sends hold exactly N, only a pause of the whole machine
/// can make it fewer.
fn check(sends: &[&str]) {
    for (take, outstanding, range) in [
        ("1", 1, 0.99..=1.01),
        ("8", 8, 7.0..=8.1),
        ("32", 32, 28.0..=32.5),
        // Half-batches at least: what came during a walk goes out in the next.
        ("snapshot", 64, 8.0..=64.5),
        ("ring", 1, 0.99..=1.01),
        ("ring", 64, 16.0..=64.5),
    ] {
        let server = match Bare::start(&[sends, &["--take", take]].concat()) {
            Ok(server) => server,
            Err(why) if sends.contains(&"uring") => return println!("skipped: {}", why.trim_end()),
            Err(why) => panic!("{why}"),
        };
        // Twice: the second load finds the places of the first vacated.
        for _ in 0..2 {
            let json = server.fanout(&["--outstanding", &outstanding.to_string()]);
            let messages = json["figures"]["messages_per_receive_call"].as_f64().unwrap();
            assert!(range.contains(&messages), "{sends:?} --take {take}: {messages} per call: {json}");
        }
    }
}

#[test]
fn send_calls() {
    check(&["--sends", "send"]);
}

#[test]
fn io_uring() {
    check(&["--sends", "uring"]);
}

#[test]
fn io_uring_with_direct_descriptors() {
    check(&["--sends", "uring", "--direct-descriptors"]);
}

/// Several publishers, large messages at a fixed rate, sockets that fill.
#[test]
fn large_messages_and_several_publishers() {
    for sends in ["send", "uring"] {
        for take in ["1", "snapshot", "ring"] {
            let server = match Bare::start(&["--sends", sends, "--take", take]) {
                Ok(server) => server,
                Err(why) if sends == "uring" => return println!("skipped: {}", why.trim_end()),
                Err(why) => panic!("{why}"),
            };
            let json = server.fanout(&["--rate", "30", "--payload-bytes", "300000", "--publishers", "3"]);
            assert!(json["figures"]["published"].as_u64().unwrap() > 3, "{json}");
        }
    }
}

/// A load that ends between two batches loses nothing: here a single message, sent by hand.
#[test]
fn what_is_left_over_goes_out() {
    let server = Bare::start(&["--take", "8"]).unwrap();
    let open = |target: &str| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream
    };
    let (mut subscriber, mut publisher) = (open("/x"), open("/x?mode=pub"));
    publisher.write_all(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).unwrap();
    let mut frame = [0; 7];
    subscriber.read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\x81\x05Hello");
    // A close frame ends the connection, a subscriber's as a publisher's.
    for mut stream in [subscriber, publisher] {
        stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
        assert_eq!(stream.read(&mut frame).unwrap(), 0);
    }
}

#[test]
fn flags_that_make_no_sense_together_are_refused() {
    let why = Bare::start(&["--direct-descriptors"]).err().unwrap();
    assert!(why.contains("--sends uring") && why.lines().count() == 1, "{why}");
    let taken = Bare::start(&[]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
        .args(["bare", "--listen", &taken.address.to_string()])
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{why}");
    assert!(why.contains(&format!("--listen {}", taken.address)) && why.lines().count() == 1, "{why}");
}
