//! The JSON of every command has exactly the keys and types that `README.md` documents.

#[expect(dead_code, reason = "these tests order no faults")]
mod server;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use server::{Fault, start};

const README: &str = include_str!("../README.md");

/// Keys and types of the table under a heading of the README.
fn documented(heading: &str) -> BTreeMap<String, String> {
    let section = README.split("\n### ").find(|section| section.lines().next() == Some(heading));
    let rows = section.unwrap_or_else(|| panic!("no heading {heading}")).lines();
    rows.take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let (key, rest) = row.split_once("` | ").unwrap();
            (key.to_string(), rest.split_once(" |").unwrap().0.to_string())
        })
        .collect()
}

const DISTRIBUTION: [&str; 10] =
    ["count", "lower_bounds", "max", "mean", "p50", "p90", "p99", "p999", "percentiles", "waiting"];

/// The README's word for a value's type.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(list) if list.iter().all(Value::is_object) && !list.is_empty() => "objects",
        Value::Array(_) => "strings",
        Value::Object(map) => {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            if keys == DISTRIBUTION { "distribution" } else { "object" }
        }
    }
}

#[track_caller]
fn compare(found: &BTreeMap<String, &'static str>, documented: &BTreeMap<String, String>) {
    let keys = |map: Vec<&String>| map.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found.keys().collect()), keys(documented.keys().collect()));
    for (key, kind) in found {
        let allowed = &documented[key];
        assert!(allowed.split(" or ").any(|word| word == *kind), "{key}: {kind} is not {allowed}");
    }
}

fn check(command: &str, path: &str, flags: &[&str]) {
    check_at(&format!("ws://{}{path}", start(Fault::None)), command, flags);
}

fn check_at(url: &str, command: &str, flags: &[&str]) {
    let pid = std::process::id().to_string();
    for server in [&["--server-pid", pid.as_str()][..], &[]] {
        let output = Command::new(env!("CARGO_BIN_EXE_stentor-load"))
            .args([command, "--json", "--url", url])
            .args(flags)
            .args(server)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("verdict  valid"), "text for people goes to standard error: {text}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((json["command"].as_str(), json["verdict"].as_str()), (Some(command), Some("valid")));

        let mut common = BTreeMap::new();
        for (key, value) in json.as_object().unwrap() {
            match value {
                Value::Object(parts) if key != "figures" => {
                    if key == "server" {
                        common.insert(key.clone(), "object");
                    }
                    common.extend(parts.iter().map(|(part, value)| (format!("{key}.{part}"), kind(value))));
                }
                value => {
                    common.insert(key.clone(), kind(value));
                }
            }
        }
        let mut want = documented("Every command");
        if server.is_empty() {
            want.retain(|key, _| !key.starts_with("server."));
        }
        compare(&common, &want);

        let figures = json["figures"].as_object().unwrap();
        let figures = figures.iter().map(|(key, value)| (key.clone(), kind(value))).collect();
        let mut want = documented(&format!("Figures of {command}"));
        if command == "recover" {
            let word = if server.is_empty() { "null" } else { "object" };
            want.insert("server_memory".into(), word.into());
        }
        if command == "idle" && server.is_empty() {
            // An empty list shows no type.
            want.insert("steps".into(), "strings".into());
        }
        compare(&figures, &want);
    }
}

const SHORT: [&str; 4] = ["--warm-up", "0s", "--duration", "200ms"];

#[test]
fn fanout() {
    check("fanout", "/ws/bench", &[&SHORT[..], &["--subscribers", "3", "--rate", "100"]].concat());
}

#[test]
fn echo() {
    check("echo", "/echo", &[&SHORT[..], &["--connections", "2"]].concat());
}

#[test]
fn api() {
    let url = format!("http://{}/api/publish", server::http::start(server::http::Fault::None));
    check_at(&url, "api", &SHORT);
}

#[test]
fn recover() {
    let flags =
        ["--clients", "3", "--staying", "1", "--before", "200ms", "--away", "50ms", "--within", "50ms"];
    check("recover", "/ws/bench", &flags);
}

#[test]
fn idle() {
    check("idle", "/ws/bench", &["--connections", "2", "--settle", "0s", "--duration", "200ms"]);
}

#[test]
fn handshakes() {
    check("handshakes", "/echo", &SHORT);
}

#[test]
fn topics() {
    check("topics", "/ws/bench", &["--count", "5", "--settle", "0s"]);
}
