//! The tool against a server that it knows from flags alone: JSON around several payloads in a frame, lines cut
//! between frames, HTTP. Honest runs are valid, and what is lost, repeated or damaged is found through all wrapping.

mod polyglot;

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polyglot::{Fault, Server, start};
use serde_json::Value;

const SHORT: [&str; 6] = ["--warm-up", "200ms", "--duration", "600ms", "--drain-timeout", "2s"];

/// What it takes to subscribe by JSON.
const JSON: [&str; 14] = [
    "--payload",
    "text",
    "--subprotocol",
    "test.v1",
    "--subscribe-message",
    r#"{"hello":1}"#,
    "--subscribe-message",
    r#"{"subscribe":"{topic}"}"#,
    "--subscribe-after",
    "welcome",
    "--ready-message",
    r#""subscribed":"{topic}""#,
    "--answer",
    "{}={}",
];

/// And to publish.
const JSON_PUBLISH: [&str; 6] = [
    "--publisher-message",
    r#"{"hello":1}"#,
    "--publisher-ready-message",
    "welcome",
    "--publish-template",
    r#"{"publish":"{topic}","data":"{payload}"}"#,
];

const LINES: [&str; 14] = [
    "--payload",
    "text",
    "--topic-name",
    "orders.eu",
    "--subscribe-message",
    r"CONNECT {}\r\n",
    "--subscribe-message",
    r"SUB {topic} 1\r\nPING\r\n",
    "--ready-message",
    r"PONG\r\n",
    "--publish-template",
    r"PUB {topic} {payload_bytes}\r\n{payload}\r\n",
    "--answer",
    r"PING\r\n=PONG\r\n",
];

fn run(command: &str, server: &Server, path: &str, flags: &[&[&str]]) -> (Output, Value) {
    let url = format!("ws://{}{path}", server.address);
    let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
        .args([command, "--json", "--url", &url])
        .args(flags.concat())
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

fn by_json(fault: Fault, flags: &[&str]) -> (Arc<Server>, Output, Value) {
    let server = start(fault);
    let (output, json) = run("fanout", &server, "/json", &[&SHORT, &JSON, &JSON_PUBLISH, flags]);
    (server, output, json)
}

fn by_lines(fault: Fault, flags: &[&str]) -> (Arc<Server>, Output, Value) {
    let server = start(fault);
    let (output, json) = run("fanout", &server, "/lines", &[&SHORT, &LINES, flags]);
    (server, output, json)
}

fn by_post(fault: Fault, flags: &[&str]) -> (Output, Value) {
    let server = start(fault);
    let url = format!("http://{}/{{topic}}", server.address);
    let post = [
        "--publish-http",
        &url,
        "--publish-template",
        r#"{"data":"{payload}"}"#,
        "--publish-header",
        "X-Key: secret",
    ];
    run("fanout", &server, "/json", &[&SHORT, &JSON, &post, flags])
}

#[track_caller]
fn assert_accounts(output: &Output, json: &Value, status: i32, accounts: [u64; 4]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{text}");
    let found =
        ["lost", "repeated", "out_of_order", "corrupt"].map(|name| json["figures"][name].as_u64().unwrap());
    assert_eq!(found, accounts, "{text}");
    assert!(json["figures"]["received"].as_u64().unwrap() > 200, "{text}");
}

#[track_caller]
fn assert_failure(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

#[test]
fn several_payloads_in_a_frame_of_json() {
    let flags = ["--subscribers", "5", "--rate", "1000", "--topics", "2", "--publishers", "3"];
    let (server, output, json) = by_json(Fault::None, &flags);
    assert_accounts(&output, &json, 0, [0; 4]);
    let (sent, answered) =
        (server.heartbeats.load(Ordering::Relaxed), server.answers.load(Ordering::Relaxed));
    assert!(answered > 10 && answered + 10 >= sent, "{answered} of {sent} heartbeats were answered");
    assert_eq!(json["figures"]["pings"].as_u64(), Some(answered));
    assert!(json["figures"]["messages_per_receive_call"].as_f64().unwrap() > 1.2, "{json}");
    assert!(
        !json["notes"].to_string().contains("publishers received"),
        "what they are told is no delivery: {json}"
    );
}

#[test]
fn payloads_cut_between_frames() {
    for payload_bytes in ["28", "64", "1000"] {
        let flags =
            ["--subscribers", "5", "--rate", "1000", "--payload-bytes", payload_bytes, "--stuck", "2"];
        let (server, output, json) = by_lines(Fault::None, &flags);
        assert_accounts(&output, &json, 0, [0; 4]);
        assert!(server.answers.load(Ordering::Relaxed) > 10);
    }
}

#[test]
fn a_closed_loop_by_http() {
    let flags = ["--subscribers", "5", "--outstanding", "8", "--publishers", "4"];
    let (output, json) = by_post(Fault::None, &flags);
    assert_accounts(&output, &json, 0, [0; 4]);
    let (output, json) = by_post(Fault::None, &["--subscribers", "6", "--rate", "300", "--topics", "2"]);
    assert_accounts(&output, &json, 0, [0; 4]);
}

#[test]
fn a_server_that_ends_connections_after_a_response_gets_others() {
    let flags = ["--subscribers", "5", "--outstanding", "8", "--publishers", "4"];
    for fault in [Fault::SayGoodbye, Fault::Leave] {
        let (output, json) = by_post(fault, &flags);
        assert_accounts(&output, &json, 0, [0; 4]);
        let count = |name: &str| json["figures"][name].as_u64().unwrap();
        // The first message of each publisher has a connection already.
        assert!(
            (count("published") - 4..=count("published")).contains(&count("reconnects")),
            "{fault:?}: {json}"
        );
        // A publisher learns it once, if a request crosses with the end at all.
        let resent_max = if fault == Fault::Leave { 4 } else { 0 };
        assert!(count("resent") <= resent_max, "{fault:?}: {json}");
        assert!(json["notes"].to_string().contains("the server ends connections"), "{json}");
    }
}

#[test]
fn a_post_without_an_answer_voids_the_run() {
    let (output, json) =
        by_post(Fault::Vanish, &["--subscribers", "2", "--outstanding", "4", "--publishers", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        (&json["figures"]["published"], &json["figures"]["reconnects"]),
        (&2.into(), &0.into()),
        "{json}"
    );
    assert!(json["void_because"].to_string().contains("a POST was not answered"), "{json}");
}

#[test]
fn what_is_lost_repeated_or_damaged_is_found() {
    let flags = ["--subscribers", "1", "--rate", "1000"];
    for (fault, accounts) in
        [(Fault::Drop, [1, 0, 0, 0]), (Fault::Repeat, [0, 1, 0, 0]), (Fault::Damage, [0, 0, 0, 1])]
    {
        let (_, output, json) = by_json(fault, &flags);
        assert_accounts(&output, &json, 1, accounts);
        let (_, output, json) = by_lines(fault, &flags);
        assert_accounts(&output, &json, 1, accounts);
    }
    let (output, json) = by_post(Fault::Drop, &["--subscribers", "1", "--outstanding", "4"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json["figures"]["lost"], 1, "{json}");
}

#[test]
fn a_server_that_is_never_ready_is_quoted() {
    let (_, output, _) = by_json(Fault::Unready, &["--subscribers", "2", "--connect-timeout", "300ms"]);
    assert_failure(&output, &[r#""subscribed":"bench""#, "within 300ms", r#"{"welcome":"to all"}"#, "ws://"]);
}

#[test]
fn a_server_that_closes_says_why() {
    let (_, output, _) = by_json(Fault::Close, &["--subscribers", "2"]);
    assert_failure(&output, &["close 4001 (no such app)", "welcome", "ws://"]);
}

#[test]
fn a_post_that_is_refused_ends_the_run() {
    let (output, _) = by_post(Fault::Forbid, &["--subscribers", "2"]);
    assert_failure(&output, &["http://", "/bench", "403 Forbidden", "key unknown"]);
}

#[test]
fn idle_subscribers_are_ready_and_answer_heartbeats() {
    let server = start(Fault::None);
    let flags = ["--connections", "5", "--settle", "0s", "--duration", "500ms"];
    let (output, json) = run("idle", &server, "/json", &[&JSON[2..], &flags]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&json["figures"]["opened"], &json["figures"]["messages"]), (&5.into(), &0.into()), "{json}");
    assert!(json["figures"]["pings"].as_u64().unwrap() > 5, "{json}");
    let server = start(Fault::Unready);
    let (output, _) = run("idle", &server, "/json", &[&JSON[2..], &flags, &["--connect-timeout", "300ms"]]);
    assert_failure(&output, &["within 300ms", "welcome"]);
}

#[test]
fn flags_that_make_no_sense_are_named() {
    for (flags, words) in [
        (&["--publish-template", "{payload} {room}"][..], "{room}"),
        (&["--publish-template", "hello"], "{payload} is missing"),
        (&["--subscribe-message", "{payload}"], "{payload} has no meaning"),
        (&["--subscriber-query", "a={tpoic}"], "{tpoic}"),
        (&["--url", "ws://127.0.0.1:{port}/"], "{port}"),
        (&["--payload", "text", "--payload-bytes", "20"], "at least 28"),
        (&["--publish-opcode", "text"], "--payload text"),
        (&["--answer", "2"], "RECEIVED=SENT"),
        (&["--publish-http", "ftp://h/"], "http://host"),
        (&["--publish-http", "http://127.0.0.1/", "--publisher-url", "ws://h/"], "cannot be used with"),
        (&["--publish-header", "X: y"], "--publish-http"),
    ] {
        let url = if flags[0] == "--url" { &[][..] } else { &["--url", "ws://127.0.0.1:9/"] };
        let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
            .arg("fanout")
            .args(url)
            .args(flags)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(words), "{flags:?}: {text}");
    }
}
