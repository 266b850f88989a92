//! The page from the command line: of a document, and of a run that has just been measured.

#[expect(dead_code, reason = "these tests order no faults")]
mod server;

use std::path::PathBuf;
use std::process::{Command, Output};

use server::{Fault, start};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stentor-load")).args(args).output().unwrap()
}

/// A path in a directory that cargo keeps for tests.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/documents/echo.json");

#[test]
fn a_document_becomes_a_page() {
    let printed = run(&["html", DOCUMENT]);
    assert_eq!(printed.status.code(), Some(0));
    assert!(printed.stdout.starts_with(b"<!DOCTYPE html>"));

    let path = scratch("echo.html");
    let written = run(&["html", DOCUMENT, "--output", path.to_str().unwrap()]);
    assert_eq!((written.status.code(), written.stdout.as_slice()), (Some(0), &b""[..]));
    assert_eq!(std::fs::read(path).unwrap(), printed.stdout);
}

#[test]
fn what_is_no_document_is_named() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (input, said) in [("/nowhere.json", "cannot read /nowhere.json"), (manifest, "Cargo.toml: no JSON")] {
        let output = run(&["html", input]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_run_writes_its_page() {
    let url = format!("ws://{}/echo", start(Fault::None));
    let path = scratch("run.html");
    let short =
        ["echo", "--connections", "2", "--warm-up", "0s", "--duration", "200ms", "--url", &url, "--html"];
    let output = run(&[&short[..], &[path.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(0));
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains(&url) && page.contains("messages_per_second"));

    let output = run(&[&short[..], &["/nowhere/run.html"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the page to /nowhere/run.html"));
}
