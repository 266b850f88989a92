//! The whole tool against a small server: honest runs are valid, and every kind of damage is found and named.

mod server;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Fault, http, start};

fn load(fault: Fault, command: &str, path: &str, flags: &[&str]) -> (Output, Value) {
    let url = format!("ws://{}{path}", start(fault));
    let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
        .args([command, "--json", "--url", &url])
        .args(flags)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

const SHORT: [&str; 6] = ["--warm-up", "200ms", "--duration", "500ms", "--drain-timeout", "1s"];

fn fanout(fault: Fault, flags: &[&str]) -> (Output, Value) {
    load(fault, "fanout", "/ws/bench", &[&SHORT[..], &["--subscribers", "10"], flags].concat())
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn count(json: &Value, name: &str) -> u64 {
    json["figures"][name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"))
}

#[track_caller]
fn assert_accounts(json: &Value, lost: u64, repeated: u64, out_of_order: u64, corrupt: u64) {
    let found = ["lost", "repeated", "out_of_order", "corrupt"].map(|name| count(json, name));
    assert_eq!(found, [lost, repeated, out_of_order, corrupt], "{json}");
    assert_eq!(count(json, "received") + count(json, "lost"), count(json, "expected"), "{json}");
    assert_eq!(count(json, "expected"), count(json, "published") * 10, "{json}");
}

#[test]
fn closed_loop_is_valid() {
    let (output, json) = fanout(Fault::None, &["--outstanding", "4", "--threads", "3"]);
    assert_status(&output, 0);
    assert_eq!(json["verdict"], "valid");
    assert_accounts(&json, 0, 0, 0, 0);
    assert!(count(&json, "published") > 20, "{json}");
    assert_eq!(count(&json, "pings"), 10, "{json}");
    let last = &json["figures"]["last_subscriber_us"];
    assert!(last["count"].as_u64().unwrap() > 0 && last["p50"].as_f64().unwrap() > 0.0, "{json}");
}

fn api(fault: http::Fault, flags: &[&str]) -> (Output, Value) {
    let url = format!("http://{}/api/publish", http::start(fault));
    let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
        .args(["api", "--json", "--url", &url])
        .args(SHORT)
        .args(flags)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

#[test]
fn publishes_by_http_are_counted() {
    for flags in [&["--connections", "3"][..], &["--connections", "2", "--in-flight", "8"]] {
        let (output, json) = api(http::Fault::None, flags);
        assert_status(&output, 0);
        assert!(count(&json, "answered") > 20, "{json}");
        assert_eq!(count(&json, "answered"), count(&json, "sent"), "{json}");
    }
    for (fault, word) in [
        (http::Fault::Skip, "offsets"),
        (http::Fault::Repeat, "not above the last"),
        (http::Fault::Refuse, "503"),
        (http::Fault::Close, "closed"),
    ] {
        let (output, json) = api(fault, &["--in-flight", "4"]);
        assert_status(&output, 1);
        let why = json["void_because"].to_string();
        assert!(why.contains(word), "{fault:?}: {why}");
    }
}

const STORM: [&str; 14] = [
    "--clients",
    "10",
    "--staying",
    "2",
    "--rate",
    "200",
    "--before",
    "300ms",
    "--away",
    "100ms",
    "--within",
    "200ms",
    "--drain-timeout",
    "3s",
];

#[test]
fn who_comes_back_has_all_or_the_run_is_void() {
    let recover = |fault, flags: &[&str]| load(fault, "recover", "/ws/bench", flags);
    let (output, json) = recover(Fault::None, &STORM);
    assert_status(&output, 0);
    assert_eq!(count(&json, "received"), 12 * count(&json, "published"), "{json}");
    assert!(count(&json, "missed") >= 15, "{json}");
    assert_eq!(json["figures"]["back_us"]["count"], 10, "{json}");
    let (output, json) =
        recover(Fault::None, &["--clients", "5", "--rate", "0", "--missed", "50", "--before", "0s"]);
    assert_status(&output, 0);
    assert_eq!((count(&json, "published"), count(&json, "received")), (50, 250), "{json}");

    for (fault, name) in [(Fault::Forget, "lost"), (Fault::Again, "repeated")] {
        let (output, json) = recover(fault, &STORM);
        assert_status(&output, 1);
        assert_eq!(count(&json, name), 10, "{json}");
    }
    let (output, json) = recover(Fault::Drop, &STORM);
    assert_status(&output, 1);
    assert_eq!(count(&json, "lost"), 1, "{json}");
}

#[test]
fn open_loop_keeps_its_rate() {
    let (output, json) =
        fanout(Fault::None, &["--rate", "200", "--publishers", "3", "--payload-bytes", "70000"]);
    assert_status(&output, 0);
    assert_accounts(&json, 0, 0, 0, 0);
    // 700 ms at 200 per second; the last is due just before the end.
    assert_eq!(count(&json, "published"), 140, "{json}");
    assert_eq!(json["figures"]["latency_us"]["count"], 1000, "{json}");
}

#[test]
fn messages_that_were_held_back_count_with_the_time_they_had_waited() {
    let flags =
        ["--rate", "200", "--payload-bytes", "524288", "--subscribers", "2", "--drain-timeout", "20s"];
    let (output, json) = load(Fault::Backpressure, "fanout", "/ws/bench", &[&SHORT[..4], &flags].concat());
    assert_status(&output, 0);
    let unsent = count(&json, "unsent");
    assert!(unsent > 0 && count(&json, "published") + unsent == 140, "{json}");
    let figure = |name: &str, key: &str| json["figures"][name][key].as_u64().unwrap();
    // 500 ms at 200 per second, sent or not.
    for (name, each) in [("latency_us", 2), ("last_subscriber_us", 1), ("publish_late_us", 1)] {
        assert_eq!(figure(name, "count"), 100 * each, "{name} in {json}");
        assert!((1..=unsent * each).contains(&figure(name, "waiting")), "{name} in {json}");
        let bounds: Vec<&str> = json["figures"][name]["lower_bounds"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(bounds.contains(&"mean") && bounds.contains(&"max"), "{name} in {json}");
        // The server held them for three seconds.
        assert!(json["figures"][name]["max"].as_f64().unwrap() > 1e6, "{name} in {json}");
    }
    assert_eq!(figure("service_latency_us", "waiting"), 0, "{json}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("max ≥ ") && text.contains(&format!("{unsent} messages that were due")), "{text}");
}

#[test]
fn topics_have_their_own_subscribers() {
    let flags = [
        "--topics",
        "3",
        "--publishers",
        "6",
        "--outstanding",
        "12",
        "--threads",
        "2",
        "--source-addresses",
        "3",
    ];
    let (output, json) = fanout(Fault::None, &flags);
    assert_status(&output, 0);
    assert_eq!(count(&json, "received"), count(&json, "expected"), "{json}");
    assert!(count(&json, "expected") < count(&json, "published") * 4 + 1, "{json}");
}

#[test]
fn a_lost_message_voids_the_run() {
    let (output, json) = fanout(Fault::Drop, &["--rate", "200"]);
    assert_status(&output, 1);
    assert_eq!(json["verdict"], "void");
    assert_accounts(&json, 1, 0, 0, 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("VOID: 1 lost"));
}

#[test]
fn a_lost_message_stalls_no_closed_loop_for_ever() {
    let began = Instant::now();
    let (output, json) = load(
        Fault::Drop,
        "fanout",
        "/ws/bench",
        &["--subscribers", "10", "--warm-up", "0s", "--duration", "60s", "--drain-timeout", "1s"],
    );
    assert_status(&output, 1);
    assert_accounts(&json, 1, 0, 0, 0);
    assert!(json["void_because"].to_string().contains("nothing arrived for 1s"), "{json}");
    assert!(began.elapsed().as_secs() < 20);
}

#[test]
fn a_repeated_message_voids_the_run() {
    let (output, json) = fanout(Fault::Repeat, &["--rate", "200"]);
    assert_status(&output, 1);
    assert_accounts(&json, 0, 1, 0, 0);
}

#[test]
fn messages_out_of_order_void_the_run() {
    let (output, json) = fanout(Fault::Swap, &["--rate", "200"]);
    assert_status(&output, 1);
    assert_accounts(&json, 0, 0, 1, 0);
}

#[test]
fn a_damaged_message_voids_the_run() {
    // One subscriber: it is the one whose bytes are compared.
    let flags = [&SHORT[..], &["--rate", "200", "--subscribers", "1"]].concat();
    let (output, json) = load(Fault::Damage, "fanout", "/ws/bench", &flags);
    assert_status(&output, 1);
    assert_eq!([count(&json, "corrupt"), count(&json, "lost")], [1, 0], "{json}");
}

#[test]
fn a_closed_subscriber_voids_the_run() {
    let (output, json) = fanout(Fault::Close, &["--rate", "200"]);
    assert_status(&output, 1);
    assert_eq!(count(&json, "closed"), 1);
    assert_eq!(count(&json, "received") + count(&json, "lost"), count(&json, "expected"));
    assert!(json["void_because"].to_string().contains("1 subscribers closed"), "{json}");
}

#[test]
fn stuck_subscribers_are_not_accounted_for() {
    let (output, json) = fanout(Fault::None, &["--rate", "200", "--stuck", "7"]);
    assert_status(&output, 0);
    assert_accounts(&json, 0, 0, 0, 0);
    assert_eq!([count(&json, "stuck"), count(&json, "stuck_closed")], [7, 0], "{json}");
}

#[test]
fn stuck_subscribers_that_are_closed_are_counted_and_void_nothing() {
    let (output, json) = fanout(Fault::Impatience, &["--rate", "200", "--stuck", "7"]);
    assert_status(&output, 0);
    assert_accounts(&json, 0, 0, 0, 0);
    assert_eq!([count(&json, "closed"), count(&json, "stuck_closed")], [0, 7], "{json}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("7 that never read, 7 of them were closed"));
}

#[test]
fn slow_readers_read_what_they_may() {
    let read_bytes = |bytes_per_second| {
        let flags = ["--rate", "200", "--slow-readers", "3", "--slow-bytes-per-second", bytes_per_second];
        let (output, json) = fanout(Fault::None, &flags);
        assert_status(&output, 0);
        assert_accounts(&json, 0, 0, 0, 0);
        assert_eq!(["slow_readers", "slow_closed"].map(|name| count(&json, name)), [3, 0], "{json}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("3 that read slowly, "));
        count(&json, "slow_read_bytes")
    };
    // 140 messages of 66 bytes with their headers come to each.
    let all = read_bytes("100000");
    assert!((2 * 140 * 66..4 * 140 * 66).contains(&all), "{all}");
    // What is allowed in ten seconds, which the run does not take.
    let few = read_bytes("100");
    assert!((1..3000).contains(&few), "{few}");
}

#[test]
fn an_http_error_is_no_run() {
    let (output, _) = fanout(Fault::Refuse, &[]);
    assert_status(&output, 2);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("HTTP 503") && text.contains("ws://127.0.0.1:"), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}

#[test]
fn a_silent_server_is_no_run() {
    let (output, _) = fanout(Fault::Silence, &["--connect-timeout", "300ms"]);
    assert_status(&output, 2);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("within 300ms"), "{text}");
}

#[test]
fn a_refused_connection_is_no_run() {
    // Nobody listens on a port that has just been closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{port}/x");
    let output =
        Command::new(env!("CARGO_BIN_EXE_stentor-load")).args(["fanout", "--url", &url]).output().unwrap();
    assert_status(&output, 2);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("connection refused") && text.contains(&url), "{text}");
}

#[test]
fn too_many_connections_are_no_run() {
    let (output, _) = load(Fault::None, "fanout", "/x", &["--subscribers", "9000000"]);
    assert_status(&output, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("open files"));
}

#[test]
fn echo_is_valid() {
    let flags = ["--connections", "5", "--in-flight", "3", "--payload-bytes", "1000", "--threads", "2"];
    let (output, json) = load(Fault::None, "echo", "/echo", &[&SHORT[..], &flags[..]].concat());
    assert_status(&output, 0);
    assert_eq!(json["verdict"], "valid");
    assert!(count(&json, "received") > 20 && count(&json, "received") == count(&json, "sent"), "{json}");
}

#[test]
fn a_damaged_echo_voids_the_run() {
    let (output, json) =
        load(Fault::Damage, "echo", "/echo", &[&SHORT[..], &["--connections", "2"]].concat());
    assert_status(&output, 1);
    assert_eq!(count(&json, "corrupt"), 2, "{json}");
}

#[test]
fn idle_connections_answer_pings() {
    let pid = std::process::id().to_string();
    let flags = ["--steps", "3,8", "--settle", "50ms", "--duration", "300ms", "--server-pid", &pid];
    let (output, json) = load(Fault::None, "idle", "/ws/bench", &flags);
    assert_status(&output, 0);
    assert_eq!(count(&json, "connections"), 8);
    let steps = json["figures"]["steps"].as_array().unwrap();
    let connections: Vec<_> = steps.iter().map(|step| step["connections"].as_u64().unwrap()).collect();
    assert_eq!(connections, [0, 3, 8], "{json}");
    assert!(json["figures"]["server_bytes_per_connection"].is_f64(), "{json}");
}

#[test]
fn idle_reports_early_when_it_is_interrupted() {
    for (signal, connect_rate, status) in [("INT", "1000", 0), ("TERM", "1000", 0), ("INT", "0.001", 1)] {
        let url = format!("ws://{}/ws/bench", start(Fault::None));
        let flags = ["--connections", "3", "--connect-rate", connect_rate, "--duration", "1h"];
        let began = Instant::now();
        let idle = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
            .args(["idle", "--json", "--url", &url])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Long enough for it to have begun, on a machine that is busy with other tests.
        std::thread::sleep(Duration::from_secs(3));
        let pid = idle.id().to_string();
        assert!(
            Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().unwrap().success()
        );
        let output = idle.wait_with_output().unwrap();
        assert_status(&output, status);
        assert!(began.elapsed() < Duration::from_secs(60));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(count(&json, "opened"), if status == 0 { 3 } else { 1 }, "{json}");
        assert_eq!(json.to_string().contains("interrupted with 1 of 3 connections"), status == 1, "{json}");
    }
}

#[test]
fn refusals_are_counted_where_they_are_asked_for() {
    let flags = ["--connections", "5", "--settle", "0s", "--duration", "100ms"];
    let (output, json) = load(Fault::Refuse, "idle", "/ws/bench", &[&flags[..], &["--refusals"]].concat());
    assert_status(&output, 0);
    assert_eq!(["opened", "refused", "reset"].map(|name| count(&json, name)), [0, 5, 0], "{json}");
    let (output, _) = load(Fault::Refuse, "idle", "/ws/bench", &flags);
    assert_status(&output, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("HTTP 503"));
}

#[test]
fn handshakes_are_counted() {
    let flags = ["--concurrency", "3", "--warm-up", "100ms", "--duration", "300ms", "--threads", "2"];
    let (output, json) = load(Fault::None, "handshakes", "/echo", &flags);
    assert_status(&output, 0);
    assert!(count(&json, "handshakes") > 10, "{json}");
    assert!(json["figures"]["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{json}");
}

#[test]
fn topics_get_one_message_each() {
    let pid = std::process::id().to_string();
    let flags =
        ["--count", "50", "--concurrency", "7", "--settle", "0s", "--threads", "2", "--server-pid", &pid];
    let (output, json) = load(Fault::None, "topics", "/ws/bench", &flags);
    assert_status(&output, 0);
    assert_eq!([count(&json, "done"), count(&json, "failed")], [50, 0], "{json}");
    assert!(json["figures"]["server_bytes_per_topic"].is_f64(), "{json}");
}
