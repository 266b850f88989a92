//! The configuration as an operator meets it: flags in; values, one-line mistakes, help and the page out.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use stentor::broker::name::TopicName;
use stentor::cli::{self, Command, Exit};
use stentor::config::{Anonymous, Config, Group, SlowConsumer, api_key::ApiKey, keys, reference};

fn parse<S: AsRef<str>>(flags: impl IntoIterator<Item = S>) -> Result<Command, Exit> {
    let program = OsString::from("stentor");
    cli::parse(std::iter::once(program).chain(flags.into_iter().map(|flag| OsString::from(flag.as_ref()))))
}

/// The configuration of flags that are right.
fn config<S: AsRef<str>>(flags: impl IntoIterator<Item = S>) -> Config {
    match parse(flags) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("not a configuration to serve: {other:?}"),
    }
}

/// The line that a mistake is told in, without `stentor: `; checks what holds for every mistake.
fn mistake<S: AsRef<str>>(flags: impl IntoIterator<Item = S>) -> String {
    let exit = parse(flags).expect_err("a mistake");
    assert_eq!((exit.code, exit.to_stdout), (2, false), "{exit:?}");
    let line = exit.message.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains(char::is_control), "{line:?}");
    line.strip_prefix("stentor: ").expect("who speaks").to_owned()
}

/// A file of this text, which goes with the value; its name has no need to be quoted.
struct RulesFile(PathBuf);

impl RulesFile {
    fn new(text: impl AsRef<[u8]>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rules-{}-{number}", std::process::id()));
        std::fs::write(&path, text).expect("a file can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a text")
    }

    fn flag(&self) -> String {
        format!("--config={}", self.path())
    }
}

impl Drop for RulesFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn help(flag: &str) -> String {
    let exit = parse([flag]).expect_err("help ends the program");
    assert_eq!((exit.code, exit.to_stdout), (0, true));
    exit.message
}

/// Flags that lift every bound which could contradict `name` alone being at either end of its range.
fn companions(name: &str) -> &'static [&'static str] {
    match name {
        "max-message-bytes" => &["--lag-bytes-max=1GiB", "--assembly-bytes-max=1GiB"],
        "lag-bytes-max" => &["--max-message-bytes=1", "--log-bytes-max=64GiB"],
        "max-body-bytes" => &["--assembly-bytes-max=1GiB"],
        "assembly-bytes-max" => &["--max-message-bytes=1", "--max-body-bytes=1KiB"],
        "log-bytes-max" => &["--max-message-bytes=1", "--lag-bytes-max=1KiB"],
        _ => &[],
    }
}

#[test]
fn without_flags_it_is_open_on_loopback_only() {
    let config = config([""; 0]);
    assert_eq!(config, Config::default());
    assert_eq!(config.listen, ["127.0.0.1:8080".parse::<SocketAddr>().expect("an address")]);
    assert!(config.open_loopback && config.echo);
    assert_eq!(config.anonymous, Anonymous::Publish);
    assert!((1..=256).contains(&config.workers));
}

#[test]
fn the_defaults_are_what_the_engine_was_designed_for() {
    let config = Config::default();
    assert_eq!((config.lag_bytes_max, config.lag_messages_max), (16 << 20, 10_000));
    assert_eq!((config.log_bytes_max, config.assembly_bytes_max), (1 << 30, 256 << 20));
    assert_eq!((config.max_message_bytes, config.max_head_bytes), (1 << 20, 16 << 10));
    assert_eq!(config.ping_interval, Some(Duration::from_secs(25)));
    assert_eq!(config.idle_timeout, None);
    assert_eq!((config.max_connections, config.max_connections_per_ip), (None, None));
    assert_eq!((config.send_buffer_bytes, config.receive_buffer_bytes), (64 << 10, None));
    // 4 MiB in fragments of 64 bytes, as conformance suites send.
    assert!(config.max_fragments >= 65_536);
}

#[test]
fn every_default_is_a_value_of_its_key_and_written_as_given() {
    for key in keys::ALL {
        for text in key.about().default {
            assert_eq!(key.canonical(text).as_deref(), Ok(*text), "--{}", key.about().name);
        }
        assert!(!key.about().default_text().is_empty(), "--{}", key.about().name);
    }
}

#[test]
fn giving_every_default_changes_nothing() {
    let mut flags = Vec::new();
    for key in keys::ALL {
        let about = key.about();
        flags.extend(about.default.iter().map(|text| format!("--{}={text}", about.name)));
    }
    assert_eq!(config(flags), Config::default());
}

#[test]
fn both_ends_of_a_range_are_allowed_and_what_is_beyond_is_not() {
    let mut ranges = 0;
    for key in keys::ALL {
        let accepts = key.accepts();
        let range = accepts.split(", or").next().unwrap_or_default();
        // Only ranges read `1 to 256`.
        let Some((from, to)) =
            range.split_once(" to ").filter(|_| range.starts_with(|c: char| c.is_ascii_digit()))
        else {
            continue;
        };
        ranges += 1;
        let name = key.about().name;
        for end in [from, to] {
            let flags = companions(name).iter().map(|flag| (*flag).to_owned());
            let config = config(flags.chain([format!("--{name}={end}")]));
            assert_eq!(key.effective(&config), [end], "--{name}");
        }
        let digits = to.find(|c: char| c.is_alphabetic()).unwrap_or(to.len());
        let number: u64 = to[..digits].replace('_', "").parse().expect("a number");
        let beyond = format!("{}{}", number + 1, &to[digits..]);
        assert_eq!(
            mistake([format!("--{name}={beyond}")]),
            format!("--{name} {beyond}: out of range, allowed is {accepts}")
        );
        let digits = from.find(|c: char| c.is_alphabetic()).unwrap_or(from.len());
        let number: u64 = from[..digits].replace('_', "").parse().expect("a number");
        // What is written as 0 may be the word for off.
        if number > 1 {
            let beyond = format!("{}{}", number - 1, &from[digits..]);
            let line = mistake([format!("--{name}={beyond}")]);
            assert!(line.starts_with(&format!("--{name} {beyond}: out of range")), "{line}");
        }
    }
    assert!(ranges > 20, "only {ranges} ranges recognised");
}

#[test]
fn a_mistake_is_one_line_that_names_the_flag() {
    for key in keys::ALL {
        let name = key.about().name;
        for text in ["", "\n", "a b\r\nc", "\u{1b}[31m", "{9999999999999999999999}"] {
            let line = mistake([format!("--{name}={text}")]);
            assert!(line.starts_with(&format!("--{name} ")), "{line}");
        }
        let line = mistake([format!("--{name}={}", "\u{7f}".repeat(100_000))]);
        assert!(line.len() < 1_000, "{line}");
    }
}

#[test]
fn mistakes_say_what_to_do() {
    for (flags, line) in [
        (&["--workers", "900"][..], "--workers 900: out of range, allowed is 1 to 256, or auto"),
        (&["--workers", "-3"], "--workers -3: expected a whole number such as 500 or 10_000, or auto"),
        (
            &["--pong-timeout", "25"],
            "--pong-timeout 25: a time needs its unit: ms, s, m or h, as in 500ms or 25s",
        ),
        (
            &["--ping-interval=soon"],
            "--ping-interval soon: expected a time such as 500ms, 25s, 2m or 1h (units: ms, s, m, h), or off or 0",
        ),
        (&["--anonymous=all"], "--anonymous all: expected none, subscribe or publish"),
        (&["--pong-timout=5s"], "--pong-timout: unknown flag, did you mean --pong-timeout?"),
        (&["--pong_timeout", "5s"], "--pong_timeout: unknown flag, did you mean --pong-timeout?"),
        (&["--frobnicate"], "--frobnicate: unknown flag, `stentor -h` lists all"),
        (&["--listen"], "--listen: its value is missing, as `stentor --help` describes"),
        (&["--workers=2", "--workers=2"], "--workers: given twice, but takes one value"),
        (&["--check=1"], "--check: takes no value"),
        (&["--anonymous=it's"], "--anonymous it's: expected none, subscribe or publish"),
        (&["--pin", "--pin"], "--pin: given twice, but takes one value"),
        (&["--check", "--print-config"], "--check: cannot be combined with --print-config"),
        (
            &["--pin", "on"],
            "on: not expected here; the only command is `serve`, and a switch takes its value as in --pin=on",
        ),
        (
            &["serve", "now"],
            "now: not expected here; the only command is `serve`, and a switch takes its value as in --pin=on",
        ),
        (
            &["--max-message-bytes=32MiB"],
            "--max-message-bytes 32MiB is more than --lag-bytes-max 16MiB: a single message could cut off subscribers \
             that keep up; give --lag-bytes-max 32MiB or more",
        ),
        (
            &["--assembly-bytes-max=64KiB"],
            "--max-message-bytes 1MiB is more than --assembly-bytes-max 64KiB: no message of the allowed size could \
             be received; give --assembly-bytes-max 1MiB or more",
        ),
        (
            &["--lag-bytes-max=2GiB"],
            "--lag-bytes-max 2GiB is more than --log-bytes-max 1GiB: one topic's lag alone could fill all logs; give \
             --log-bytes-max 2GiB or more",
        ),
        (
            &["--max-connections=10", "--max-connections-per-ip=11"],
            "--max-connections-per-ip 11 is more than --max-connections 10, so it bounds nothing: lower it or leave \
             it out",
        ),
        (
            &["--direct-descriptors"],
            "--direct-descriptors: only io_uring has them, give --driver uring with it",
        ),
        (&["--driver=kqueue"], "--driver kqueue: expected auto, epoll or uring"),
        (&["--listen=[::1]:80", "--listen=[::1]:80"], "--listen [::1]:80: given twice"),
        (
            &["--listen=127.0.0.1:80", "--listen=0.0.0.0:80"],
            "--listen 0.0.0.0:80 can be reached by others: say what clients without credentials may do, with \
             --anonymous none, --anonymous subscribe or --anonymous publish",
        ),
    ] {
        assert_eq!(mistake(flags), line);
    }
}

#[test]
fn keys_of_the_api_are_read_and_never_shown() {
    const KEY: &str = "0123456789abcdef";
    let directory = std::env::temp_dir().join(format!("stentor-keys-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a file");
        format!("--api-key-file={}", path.display())
    };
    let good = file("good", &format!("# for the backend\n\n  backend:{KEY}-1\r\nops:{KEY}-2\n"));
    let flag = format!("--api-key=flag:{KEY}-3");
    let config = config([&good, &flag]);
    assert_eq!(config.all_api_keys().map(ApiKey::name).collect::<Vec<_>>(), ["flag", "backend", "ops"]);
    for shown in [config.flags(), config.summary(), format!("{config:?}")] {
        assert!(!shown.contains(KEY) && shown.contains("flag"), "{shown}");
    }
    assert!(config.flags().contains("\n# --api-key=flag:…\n"), "{}", config.flags());
    assert!(config.flags().contains(&format!("\n{good}\n")), "{}", config.flags());
    assert!(config.summary().ends_with(", API keys: flag, backend, ops"), "{}", config.summary());

    let twice = [flag.as_str(), "--api-key=flag:fedcba9876543210"];
    assert_eq!(mistake(twice), "--api-key: there are two keys of the name flag");
    for (flag, says) in [
        (format!("--api-key=short:{}", &KEY[1..]), "--api-key (not shown): a key has 16 to 512 characters"),
        (format!("--api-key={KEY}"), "--api-key (not shown): expected NAME:KEY"),
        (format!("--api-key=a b:{KEY}"), "--api-key (not shown): the name before the colon"),
        (file("bad", &format!("a:{KEY}\nb {KEY}\n")), "bad: line 2: expected NAME:KEY"),
        (file("empty", "# none\n"), "empty: there is no key in it"),
        (format!("--api-key-file={}", directory.join("none").display()), "none: can't be read: No such file"),
    ] {
        let line = mistake([&flag]);
        assert!(line.contains(says) && !line.contains(&KEY[1..]), "{line}");
    }
    std::fs::remove_dir_all(&directory).expect("it is ours");
}

#[test]
fn keys_of_the_api_may_be_in_the_environment() {
    let run = |keys: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"))
            .args(["--check", "--api-key=flag:0123456789abcdef"])
            .env("STENTOR_API_KEYS", keys)
            .output()
            .expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("a text"))
    };
    let (code, text) = run("a:0123456789abcdef\nb:fedcba9876543210");
    assert!(code == Some(0) && text.ends_with(", API keys: flag, a, b\n"), "{text}");
    let (code, text) = run("a:0123456789abcdef b:fedcba987654321");
    assert_eq!(code, Some(2));
    assert!(
        text.starts_with("stentor: STENTOR_API_KEYS: --api-key (not shown): ") && !text.contains("fedcba"),
        "{text}"
    );
}

#[test]
fn arguments_that_are_no_text_are_a_mistake_too() {
    use std::os::unix::ffi::OsStringExt;
    for bytes in [&b"--listen=\xff"[..], b"--\xff", b"\xff", b"--\n=1", b"a\nb", b"--pin=\xff\n", b"-\n"] {
        let argument = OsString::from_vec(bytes.to_vec());
        let exit = cli::parse([OsString::from("stentor"), argument]).expect_err("a mistake");
        assert_eq!(exit.code, 2);
        assert_eq!(exit.message.matches('\n').count(), 1, "{:?}", exit.message);
        assert!(exit.message.starts_with("stentor: ") && exit.message.len() > 12, "{:?}", exit.message);
    }
}

#[test]
fn who_can_reach_the_server_decides_what_is_open() {
    for (listen, loopback) in [
        (&["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"][..], true),
        (&["127.8.9.10:80"], true),
        (&["[::ffff:127.0.0.1]:80"], true),
        (&["0.0.0.0:80"], false),
        (&["[::]:80"], false),
        (&["[::ffff:10.0.0.1]:80"], false),
        (&["127.0.0.1:80", "192.168.0.1:80"], false),
    ] {
        let listen: Vec<_> = listen.iter().map(|address| format!("--listen={address}")).collect();
        assert_eq!(parse(&listen).is_ok(), loopback, "{listen:?}");
        let flags = listen.iter().map(String::as_str);
        let given = config(flags.clone().chain(["--anonymous=subscribe"]));
        assert_eq!((given.open_loopback, given.anonymous), (false, Anonymous::Subscribe));
        assert_eq!(given.echo, loopback, "{listen:?}");
        assert!(config(flags.clone().chain(["--anonymous=none", "--echo"])).echo);
        assert!(!config(flags.chain(["--anonymous=none", "--echo=off"])).echo);
    }
}

#[test]
fn the_word_serve_is_optional_and_flags_choose_what_to_do() {
    assert_eq!(config(["serve", "--pin"]), Config { pin: true, ..Config::default() });
    assert_eq!(config(["--pin", "serve"]), Config { pin: true, ..Config::default() });
    assert!(matches!(parse(["serve", "--check"]), Ok(Command::Check(_))));
    assert!(matches!(parse(["--print-config"]), Ok(Command::PrintConfig(_))));
    let version = help("--version");
    assert_eq!(version, format!("stentor {}\n", env!("CARGO_PKG_VERSION")));
    let Ok(Command::Check(checked)) = parse(["--check", "--workers=1"]) else {
        panic!("a valid configuration")
    };
    assert_eq!(checked.summary(), "configuration is valid: 1 worker, listening on 127.0.0.1:8080");
}

#[test]
fn help_mentions_every_key_under_its_group() {
    let (short, long) = (help("-h"), help("--help"));
    for key in keys::ALL {
        let flag = format!(" --{}", key.about().name);
        assert!(short.contains(&flag) && long.contains(&flag), "{flag}");
        assert!(short.contains(&key.about().brief_sentence()), "{flag}");
    }
    for group in Group::ALL {
        assert!(short.contains(&format!("\n{}:\n", group.title())), "{group:?}");
        assert!(keys::ALL.iter().any(|key| key.about().group == group), "{group:?}");
    }
    let longest = long.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "{longest:?}");
}

#[test]
fn names_are_distinct_and_give_environment_names() {
    let mut names: Vec<_> = keys::ALL.iter().map(|key| key.about().environment()).collect();
    assert_eq!(keys::PONG_TIMEOUT.about.environment(), "STENTOR_PONG_TIMEOUT");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), keys::ALL.len());
}

#[test]
fn every_field_has_its_key_in_the_table() {
    // One line a field, but for lists: none of them has more than empty brackets here.
    let config =
        Config { listen: Vec::new(), max_connections: None, ping_interval: None, ..Config::default() };
    let shown = format!("{config:#?}");
    let fields: Vec<_> = shown.lines().filter_map(|line| line.trim().split_once(": ")).collect();
    // `open_loopback` follows from two others, `topics` and `schedules` stand in the file of `config_file`.
    assert_eq!(fields.len(), keys::ALL.len() + 3, "{fields:?}");
}

#[test]
fn prose_is_sentences() {
    for key in keys::ALL {
        let about = key.about();
        for text in [about.effect, about.reason, about.memory] {
            assert!(text.is_empty() || text.ends_with('.'), "--{}: {text}", about.name);
            assert!(!text.contains("  "), "--{}: {text}", about.name);
        }
        assert!(!about.effect.is_empty() && !about.reason.is_empty(), "--{}", about.name);
        assert!(!about.brief.ends_with('.') && about.brief.len() <= 80, "--{}", about.name);
    }
}

#[test]
fn the_reference_pages_are_current() {
    for (name, page) in [("config.md", reference::page()), ("topics.md", reference::topics_page())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).expect("a page can be written");
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == page, "docs/{name} is not current: run UPDATE_DOCS=1 cargo test --test config");
    }
}

#[test]
fn the_example_of_the_page_about_topics_is_right() {
    let page = reference::topics_page();
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let file = RulesFile::new(example);
    let config = config([file.flag()]);
    assert_eq!((config.topics.len(), config.schedules.len()), (3, 2));
    let Ok(Command::Check(checked)) = parse(["--check".to_owned(), "--workers=1".to_owned(), file.flag()])
    else {
        panic!("a valid configuration")
    };
    let what = checked.summary();
    assert!(what.contains("127.0.0.1:8080; 3 topic rules and 2 schedules from "), "{what}");

    let file = RulesFile::new("[[topic]]\nmatch = 'chat/*'\n\n\n[[topic]]\nmatch = 'chat/lobby'");
    let told = format!("stentor: {}\n", mistake([file.flag()]).replace(file.path(), "rules.toml"));
    assert!(page.contains(&told), "{told}");
}

#[test]
fn rules_fall_back_to_the_flags() {
    let file = RulesFile::new("[[topic]]\nmatch = 'a/*'\nlag-messages-max = 5");
    let flags = ["--slow-consumer=skip".to_owned(), "--lag-messages-max=50".to_owned(), file.flag()];
    let config = config(flags);
    let rules = config.rules();
    let rule = |name| rules.rule_for(&TopicName::parse(name).expect("a name"));
    assert_eq!((rule("a/b").slow_consumer, rule("a/b").lag.messages), (SlowConsumer::Skip, 5));
    assert_eq!((rule("b").slow_consumer, rule("b").lag.messages), (SlowConsumer::Skip, 50));
    // A configuration that is written out in code is no exception.
    let config = Config { slow_consumer: SlowConsumer::Latest, ..config };
    assert_eq!(
        config.rules().rule_for(&TopicName::parse("b").expect("a name")).slow_consumer,
        SlowConsumer::Latest
    );
}

#[test]
fn mistakes_in_the_file_name_it_with_the_line() {
    for (text, told) in [
        (
            &b"[[topic]]\nmatch = 'a'\nhistory = 'x'"[..],
            "3: history x: expected a whole number such as 500 or 10_000, or off or 0",
        ),
        (b"[[topic]]\n# \xff\nmatch = 'a'", "2: is not UTF-8: save the file as UTF-8"),
        (b"workers = 2", "1: workers: flags are not read from the file, give --workers on the command line"),
    ] {
        let file = RulesFile::new(text);
        assert_eq!(mistake([file.flag()]), format!("{}:{told}", file.path()));
        // Flags are looked at first.
        assert!(mistake([file.flag(), "--workers=0".to_owned()]).starts_with("--workers 0"));
    }
    // What a file says is judged beside the flags.
    let file = RulesFile::new("[[topic]]\nmatch = 'a'\nmax-message-bytes = '2MiB'");
    let told = mistake([file.flag()]);
    assert!(told.contains("max-message-bytes 2MiB is more than --max-message-bytes 1MiB"), "{told}");
    assert!(parse([file.flag(), "--max-message-bytes=2MiB".to_owned()]).is_ok());
    assert_eq!(mistake(["--config="]), "--config \"\": expected the path of a file");
}

#[test]
fn printed_rules_are_comments_and_the_file_is_a_flag() {
    let file = RulesFile::new(
        "[[topic]]\nmatch = 'a/*'\nhistory = 5\n[[schedule]]\ntopic = 'b'\nevery = '1s'\npayload = '{{now}}'",
    );
    let config = config([file.flag(), "--workers=2".to_owned()]);
    let printed = config.flags();
    let given = printed.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(parse(given), Ok(Command::Serve(Box::new(config))));
    assert!(printed.lines().any(|line| line == file.flag()), "{printed}");
    let told = "#\n# [[topic]]\n# match = \"a/*\"\n# history = 5\n# history-age = \"24h\"\n# history-bytes = \"16MiB\"\n\
                # slow-consumer = \"disconnect\"\n# lag-bytes-max = \"16MiB\"\n# lag-messages-max = 10_000\n\
                # max-message-bytes = \"1MiB\"\n# min-interval = \"off\"\n#\n\
                # [[schedule]]\n# topic = \"b\"\n# every = \"1s\"\n# payload = \"{{now}}\"\n";
    assert!(printed.ends_with(told), "{printed}");
}

fn any_flags() -> impl Strategy<Value = Vec<String>> {
    let listen =
        prop::collection::vec(any::<SocketAddr>().prop_map(|address| format!("--listen={address}")), 0..3);
    let one = |flag: &'static str, texts: &'static [&'static str]| {
        prop::option::of(prop::sample::select(texts).prop_map(move |text| format!("--{flag}{text}")))
    };
    (
        listen,
        one("anonymous", &["=none", "=subscribe", "=publish"]),
        one("echo", &["", "=on", "=off", "=auto"]),
        one("pin", &["", "=on", "=off"]),
        one("ping-interval", &["=off", "=0", "=1500ms", "=60m"]),
        one("max-connections", &["=auto", "=1", "=20_000"]),
        one("receive-buffer-bytes", &["=kernel", "=64kB", "=1MiB"]),
        prop::option::of((1u64..200_000).prop_map(|number| format!("--max-topics={number}"))),
        prop::option::of((1u64..1 << 20).prop_map(|number| format!("--max-message-bytes={number}"))),
        prop::collection::vec("--subprotocol=[a-z.]{1,8}", 0..3),
        prop::collection::vec("--allow-origin=https://(\\*\\.)?[A-Za-z]{1,8}(:[1-9][0-9]{0,3})?", 0..3),
    )
        .prop_map(|(listen, a, b, c, d, e, f, g, h, subprotocols, origins)| {
            let single = [a, b, c, d, e, f, g, h].into_iter().flatten();
            listen.into_iter().chain(single).chain(subprotocols).chain(origins).collect()
        })
}

proptest! {
    #[test]
    fn printed_flags_give_the_same_configuration(flags in any_flags()) {
        if let Ok(Command::Serve(config)) = parse(&flags) {
            let printed = config.flags();
            let given = printed.lines().filter(|line| !line.starts_with('#'));
            prop_assert_eq!(parse(given), Ok(Command::Serve(config)));
            for key in keys::ALL {
                let shown = printed.contains(&format!("--{}", key.about().name));
                prop_assert!(shown, "{}", key.about().name);
            }
        }
    }
}
