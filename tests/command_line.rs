//! Mistakes at the start: one line on standard error that says what to do, exit code 2, and nothing runs.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary starts")
}

fn stentor(flags: &[&str]) -> Output {
    run(Command::new(env!("CARGO_BIN_EXE_stentor")).args(flags))
}

/// The one line.
#[track_caller]
fn mistake(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("a text");
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty());
    let line = stderr.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains(char::is_control), "one line: {line:?}");
    line.strip_prefix("stentor: ").expect("who speaks").to_owned()
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let line = mistake(&stentor(&["--listen=127.0.0.1:0", &format!("--listen={address}")]));
    assert!(line.contains(&address) && line.contains("--listen"), "{line}");
    assert!(taken.set_nonblocking(true).is_ok() && taken.accept().is_err(), "nobody connected");
}

#[test]
fn an_address_that_is_not_here() {
    // Kept for documentation (RFC 5737): no machine has it.
    let line = mistake(&stentor(&["--listen=192.0.2.1:0", "--anonymous=none"]));
    assert!(line.contains("192.0.2.1") && line.contains("--listen"), "{line}");
}

#[test]
fn what_others_can_reach_needs_a_word() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let line = mistake(&stentor(&[&format!("--listen={address}")]));
        assert!(line.contains("--anonymous"), "{line}");
    }
}

#[test]
fn flags_that_are_none() {
    for (flags, says) in [
        (&["--frobnicate"][..], "--frobnicate"),
        (&["--workers=0"], "--workers 0"),
        (&["--workers=many"], "--workers many"),
        (&["--lag-bytes-max=1"], "--lag-bytes-max"),
        (&["--ping-interval=25"], "unit"),
        (&["run"], "serve"),
        (&["--max-message-bytes=32MiB"], "--lag-bytes-max"),
        (&["--allow-origin=example.com"], "--allow-origin"),
        (&["--config=/nowhere/rules.toml"], "--config /nowhere/rules.toml"),
    ] {
        let line = mistake(&stentor(flags));
        assert!(line.contains(says), "{flags:?}: {line}");
    }
}

#[test]
fn more_connections_than_files() {
    // What would do: with direct descriptors the limit holds for each worker.
    for (flags, says) in
        [("", "ulimit -n 10"), ("--driver=uring --direct-descriptors --workers=2", "ulimit -n 586)")]
    {
        let script = format!(
            "ulimit -n 256 && exec '{}' --listen=127.0.0.1:0 --max-connections=1000 {flags}",
            env!("CARGO_BIN_EXE_stentor")
        );
        let line = mistake(&run(Command::new("sh").args(["-c", &script])));
        assert!(
            line.contains("open files") && line.contains("256") && line.contains("--max-connections"),
            "{line}"
        );
        assert!(line.contains(says), "it says what would do: {line}");
    }
}

#[test]
fn what_starts_nothing_ends_with_0() {
    for (flags, says) in [
        (&["--check"][..], "configuration is valid"),
        (&["--print-config"], "--listen=127.0.0.1:8080"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
        (&["--help"], "--lag-bytes-max"),
        (&["-h"], "--lag-bytes-max"),
    ] {
        let output = stentor(flags);
        assert_eq!(output.status.code(), Some(0), "{flags:?}");
        assert!(output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains(says), "{flags:?}");
    }
}
