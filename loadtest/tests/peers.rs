//! The peers of `stentor-load compare` are sound: every `peers/NAME/peer.toml` has what the tool needs, and nothing
//! that it does not know.
//!
//! Flags of the scenario sections are the tool's own; whether they fit together is the tool's to say when it runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// What every peer has.
const REQUIRED: [&str; 6] = ["about", "install", "requires", "version", "start", "options"];
/// One for each kind of scenario that the peer can do.
const SECTIONS: [&str; 5] = ["fanout", "echo", "idle", "handshakes", "topics"];
/// What the tool fills in when it starts a peer.
const OF_THE_RUN: [&str; 5] = ["port", "peers", "peer", "scratch", "bin"];
/// What a scenario fills in besides.
const OF_THE_SCENARIO: [&str; 3] = ["topic", "payload", "payload_bytes"];

fn peers() -> Vec<(String, PathBuf)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let mut peers: Vec<_> = std::fs::read_dir(&directory)
        .expect("the peers are part of the repository")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.join("peer.toml").exists())
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .collect();
    peers.sort();
    peers
}

fn read(path: &Path) -> Table {
    let file = path.join("peer.toml");
    let text = std::fs::read_to_string(&file).expect("a readable peer.toml");
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All strings below `value`, at any depth.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(strings).collect(),
        Value::Table(table) => table.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

/// The names in braces: `{port}`. Braces around anything else, as JSON has them, are none.
fn placeholders(text: &str) -> Vec<&str> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    text.match_indices('{')
        .filter_map(|(at, _)| text[at + 1..].split_once('}').map(|(name, _)| name))
        .filter(|name| is_name(name))
        .collect()
}

#[test]
fn all_peers_are_here() {
    let names: BTreeSet<_> = peers().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "bun",
        "centrifugo",
        "nats",
        "nchan",
        "sockudo",
        "socket.io",
        "soketi",
        "stentor",
        "tokio-tungstenite",
        "uwebsockets.js",
        "ws",
    ];
    assert_eq!(names, expected.map(String::from).into());
}

#[test]
fn keys_are_known_and_complete() {
    for (name, path) in peers() {
        let peer = read(&path);
        for key in REQUIRED {
            assert!(peer.contains_key(key), "{name}: {key} is missing");
        }
        for (key, value) in &peer {
            let fits = match key.as_str() {
                "about" | "install" | "options" => value.as_str().is_some_and(|text| !text.trim().is_empty()),
                "requires" | "version" | "start" => value
                    .as_array()
                    .is_some_and(|list| !list.is_empty() && list.iter().all(|part| part.as_str().is_some())),
                "environment" => {
                    value.as_table().is_some_and(|table| table.values().all(|text| text.as_str().is_some()))
                }
                section if SECTIONS.contains(&section) => value.is_table(),
                _ => panic!("{name}: {key} is no key of peer.toml"),
            };
            assert!(fits, "{name}: {key} has a value that does not fit: {value}");
        }
        assert!(
            SECTIONS.iter().any(|section| peer.contains_key(*section)),
            "{name}: it takes part in nothing"
        );
    }
}

#[test]
fn sections_are_flags() {
    for (name, path) in peers() {
        let peer = read(&path);
        for section in SECTIONS {
            let Some(flags) = peer.get(section).and_then(Value::as_table) else { continue };
            let url = flags.get("url").and_then(Value::as_str);
            assert!(
                url.is_some_and(|url| url.starts_with("ws://127.0.0.1:{port}/")),
                "{name}: [{section}] needs a url on the peer's port, not {url:?}"
            );
            for (flag, value) in flags {
                let spelled =
                    flag.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !flag.starts_with('-');
                assert!(spelled, "{name}: [{section}] {flag} is not spelled like a flag");
                let plain = |value: &Value| value.is_str() || value.is_integer() || value.is_bool();
                let fits = plain(value) || value.as_array().is_some_and(|values| values.iter().all(plain));
                assert!(fits, "{name}: [{section}] {flag} is neither a value nor a list of values: {value}");
            }
        }
    }
}

#[test]
fn a_peer_with_a_protocol_of_its_own_waits_until_it_is_subscribed() {
    for (name, path) in peers() {
        let peer = read(&path);
        let fanout =
            peer.get("fanout").and_then(Value::as_table).unwrap_or_else(|| panic!("{name}: no [fanout]"));
        for (messages, ready) in
            [("subscribe-message", "ready-message"), ("publisher-message", "publisher-ready-message")]
        {
            assert_eq!(
                fanout.contains_key(messages),
                fanout.contains_key(ready),
                "{name}: {messages} and {ready}"
            );
        }
        // What is wrapped has to survive as text.
        let wrapped = fanout.contains_key("publish-template");
        assert_eq!(wrapped, fanout.get("payload").and_then(Value::as_str) == Some("text"), "{name}: payload");
        if let Some(template) = fanout.get("publish-template").and_then(Value::as_str) {
            assert!(template.contains("{payload}"), "{name}: {template} carries no payload");
        }
        // Otherwise several topics would be one.
        assert!(strings(&peer["fanout"]).iter().any(|text| text.contains("{topic}")), "{name}: no {{topic}}");
    }
}

#[test]
fn placeholders_are_known() {
    for (name, path) in peers() {
        for (key, value) in read(&path) {
            let scenario = SECTIONS.contains(&key.as_str());
            for text in strings(&value) {
                for placeholder in placeholders(text) {
                    let known = OF_THE_RUN.contains(&placeholder)
                        || (scenario && OF_THE_SCENARIO.contains(&placeholder));
                    assert!(known, "{name}: {key} has {{{placeholder}}}, which nothing fills in");
                }
            }
        }
    }
}

#[test]
fn files_named_in_commands_exist() {
    for (name, path) in peers() {
        let peer = read(&path);
        for text in strings(&peer["start"]) {
            // What is built or installed is in `requires`; what is ours has to be here.
            let Some(file) = text.strip_prefix("{peer}/") else { continue };
            let installed = strings(&peer["requires"]).contains(&text);
            assert!(
                installed || path.join(file).is_file(),
                "{name}: {} is missing",
                path.join(file).display()
            );
        }
    }
}

#[test]
fn names_in_braces_are_placeholders_and_json_is_not() {
    assert_eq!(placeholders("ws://h:{port}/{topic}"), ["port", "topic"]);
    assert_eq!(placeholders("{}"), [""; 0]);
    assert_eq!(placeholders(r#"40{"topic":"{topic}"}"#), ["topic"]);
    assert_eq!(placeholders("{Port} {port"), [""; 0]);
}
