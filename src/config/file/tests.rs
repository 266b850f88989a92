use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::broker::{
    limits::Window,
    name::TopicName,
    rules::{History, SlowConsumer},
};
use crate::config::reference::TOPICS_EXAMPLE;

fn contents(text: &str) -> Contents {
    parse("rules.toml", text, &Config::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The mistake in a text, with flags of its own.
fn mistake_with(text: &str, flags: &Config) -> String {
    let error = parse("rules.toml", text, flags).expect_err(text).to_string();
    assert!(!error.contains(char::is_control), "one line: {error:?}");
    error.strip_prefix("rules.toml:").expect("file and line").to_owned()
}

fn mistake(text: &str) -> String {
    mistake_with(text, &Config::default())
}

/// The mistake in a rule for `a`, without what stands in front of it.
fn mistake_of_rule(lines: &str) -> String {
    let told = mistake(&format!("\n[[topic]]\nmatch = \"a\"\n{lines}"));
    told.strip_prefix("4: ").expect("the line").to_owned()
}

#[test]
fn the_example_of_the_page_is_what_it_says() {
    let config = Config::default();
    let contents = contents(TOPICS_EXAMPLE);
    let rules = config.rules_with(&contents.topics);
    let rule = |name| rules.rule_for(&TopicName::parse(name).expect("a name")).clone();

    let chat = rule("chat/lobby");
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(chat.history, Some(History { messages: 100, age: day, bytes: 16 << 20 }));
    assert_eq!(chat.max_message_bytes, 16 << 10);
    assert_eq!(chat.welcome.as_deref(), Some(r#"{"system":"Be kind to each other."}"#));
    assert_eq!((chat.slow_consumer, chat.min_interval), (SlowConsumer::Disconnect, None));
    assert_eq!(chat.lag, Window { bytes: 16 << 20, messages: 10_000 });

    let prices = rule("prices/eu/gold");
    assert_eq!(prices.slow_consumer, SlowConsumer::Latest);
    assert_eq!(prices.min_interval, Some(Duration::from_millis(250)));
    assert_eq!(prices.history.map(|history| history.messages), Some(1));

    let audit = rule("audit/eu/events");
    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(audit.history, Some(History { messages: 1_000_000, age: week, bytes: 64 << 20 }));
    assert_eq!(audit.lag.messages, 50_000);
    assert_eq!(*rule("other"), config.rule_by_flags());

    let [clock, reminder] = contents.schedules.as_slice() else { panic!("two schedules") };
    assert_eq!((clock.topic.as_str(), clock.every), ("clock", Duration::from_secs(1)));
    assert_eq!(clock.payload.render(0, 1, 0), r#"{"now":"1970-01-01T00:00:00.000Z","tick":1}"#);
    assert_eq!((clock.name.as_deref(), reminder.name.as_deref()), (None, Some("reminder")));
}

#[test]
fn the_example_of_each_key_is_right() {
    for key in keys::TOPIC {
        let needs = match key.about().name {
            "match" => "",
            "history-age" | "history-bytes" => "match = \"a\"\nhistory = 1\n",
            _ => "match = \"a\"\n",
        };
        assert_eq!(contents(&format!("[[topic]]\n{needs}{}", key.about().example)).topics.len(), 1);
    }
    let all: Vec<_> = keys::SCHEDULE.iter().map(|key| key.about().example).collect();
    assert_eq!(contents(&format!("[[schedule]]\n{}", all.join("\n"))).schedules.len(), 1);
}

#[test]
fn prose_is_sentences_and_names_are_distinct() {
    for table in [keys::TOPIC, keys::SCHEDULE] {
        for (at, key) in table.iter().enumerate() {
            let about = key.about();
            assert!(about.effect.ends_with('.') && about.default.ends_with('.'), "{}", about.name);
            assert!(!about.effect.contains("  ") && !about.default.contains("  "), "{}", about.name);
            assert!(about.example.starts_with(&format!("{} = ", about.name)), "{}", about.name);
            assert!(table[..at].iter().all(|other| other.about().name != about.name), "{}", about.name);
        }
    }
}

#[test]
fn values_are_written_as_flags_or_as_numbers() {
    let texts =
        "history = '100'\nlag-bytes-max = '16MiB'\nmax-message-bytes = '64KiB'\nlag-messages-max = '1_000'";
    let numbers =
        "history = 100\nlag-bytes-max = 16777216\nmax-message-bytes = 0x10000\nlag-messages-max = 1_000";
    let rule = |lines: &str| contents(&format!("[[topic]]\nmatch = 'a'\n{lines}")).topics;
    assert_eq!(rule(texts), rule(numbers));
    for off in ["history = 'off'\nmin-interval = 'off'", "history = 0\nmin-interval = 0", "history = '0'"] {
        assert_eq!(rule(off), rule(""), "{off}");
    }
    // A list of inline tables is the same in TOML.
    assert_eq!(contents("topic = [{ match = 'a' }]"), contents("[[topic]]\nmatch = 'a'"));
    assert_eq!(contents(""), Contents::default());
    assert_eq!(contents("\u{feff}# nothing\r\n"), Contents::default());
}

#[test]
fn mistakes_in_a_rule_say_what_to_do() {
    for (lines, told) in [
        ("history = 'many'", "history many: expected a whole number such as 500 or 10_000, or off or 0"),
        ("history = -1", "history -1: expected a whole number such as 500 or 10_000, or off or 0"),
        ("history = 1.5", "history 1.5: expected a whole number such as 500 or 10_000, or off or 0"),
        ("history = true", "history true: expected a whole number such as 500 or 10_000, or off or 0"),
        ("history = [1]", "history: expected one value: history = 100"),
        (
            "history = 99999999999999999999",
            "history 99999999999999999999: out of range, allowed is 1 to 1_000_000_000, or off or 0",
        ),
        ("history-age = 60", "history-age 60: a time needs its unit: ms, s, m or h, as in 500ms or 25s"),
        ("history-age = '721h'", "history-age 721h: out of range, allowed is 10ms to 720h"),
        ("history-bytes = 1", "history-bytes 1: out of range, allowed is 1KiB to 1TiB"),
        (
            "history-bytes = '64KB'",
            "history-bytes 64KB: expected a size such as 64KiB or 65536 (units: KiB, MiB, GiB, TiB, or kB, MB, GB, TB \
             for powers of 1000)",
        ),
        ("slow-consumer = 'drop'", "slow-consumer drop: expected disconnect, skip or latest"),
        ("lag-bytes-max = 1", "lag-bytes-max 1: out of range, allowed is 1KiB to 64GiB"),
        ("lag-messages-max = 1", "lag-messages-max 1: out of range, allowed is 2 to 1_000_000_000"),
        ("max-message-bytes = 0", "max-message-bytes 0: out of range, allowed is 1 to 1GiB"),
        ("welcome = ''", "welcome \"\": out of range, allowed is a text, 1 byte to 64KiB"),
        (
            "welcome = 5",
            r#"welcome: expected a text in quotes: welcome = '{"system":"Be kind to each other."}'"#,
        ),
        ("min-interval = '1ms'", "min-interval 1ms: out of range, allowed is 10ms to 1h, or off or 0"),
        ("histroy = 5", "histroy: unknown key of [[topic]], did you mean history?"),
        ("history_age = '1m'", "history_age: unknown key of [[topic]], did you mean history-age?"),
        (
            "ping-interval = '1m'",
            "ping-interval: not a key of [[topic]]; for all topics give --ping-interval on the command line",
        ),
        ("lag_bytes_max = 5", "lag_bytes_max: unknown key of [[topic]], did you mean lag-bytes-max?"),
        (
            "ttl = 5",
            "ttl: unknown key of [[topic]], its keys are match, history, history-age, history-bytes, slow-consumer, \
             lag-bytes-max, lag-messages-max, max-message-bytes, welcome, min-interval",
        ),
        (
            "\"\\n\" = 5",
            "\\n: unknown key of [[topic]], its keys are match, history, history-age, history-bytes, slow-consumer, \
             lag-bytes-max, lag-messages-max, max-message-bytes, welcome, min-interval",
        ),
    ] {
        assert_eq!(mistake_of_rule(lines), told);
    }
}

#[test]
fn mistakes_in_a_pattern_say_what_to_do() {
    for (pattern, told) in [
        ("''", "2: match \"\": expected a pattern such as chat/*"),
        ("5", "2: match: expected a text in quotes: match = \"chat/*\""),
        ("'room*'", "2: match room*: '*' stands for a whole level only, as in chat/* or chat/*/news"),
        ("'**/a'", "2: match **/a: '**' can be the last level only: write '*' for each level in between"),
        (
            "\"a\\n\"",
            "2: match a\\n: contains a control character, as the name of no topic does: leave it out",
        ),
        (
            "'_stentor/*'",
            "2: match _stentor/*: can never match, since topics under _stentor/ are the server's own",
        ),
    ] {
        assert_eq!(mistake(&format!("[[topic]]\nmatch = {pattern}")), told);
    }
    let long = format!("[[topic]]\nmatch = '{}'", "x".repeat(256));
    let told = format!(
        "2: match {}…: has 256 bytes, and the name of a topic at most 255: shorten it",
        "x".repeat(80)
    );
    assert_eq!(mistake(&long), told);
    assert_eq!(mistake("\n[[topic]]\nhistory = 5"), "2: [[topic]] has no match: add match = \"chat/*\"");
}

#[test]
fn contradictions_are_told() {
    let tight =
        Config { max_message_bytes: 4096, lag_bytes_max: 8192, log_bytes_max: 65_536, ..Config::default() };
    for (lines, told) in [
        (
            "max-message-bytes = '8KiB'",
            "max-message-bytes 8KiB is more than --max-message-bytes 4KiB: larger messages are refused before it is \
             known which topic they are for; lower it, or give --max-message-bytes 8KiB or more",
        ),
        (
            "lag-bytes-max = '128KiB'",
            "lag-bytes-max 128KiB is more than --log-bytes-max 64KiB: one topic's lag alone could fill all logs; lower \
             it, or give --log-bytes-max 128KiB or more",
        ),
        (
            "history-bytes = '128KiB' \nhistory = 1",
            "history-bytes 128KiB is more than --log-bytes-max 64KiB: one topic's history alone could fill all logs; \
             lower it, or give --log-bytes-max 128KiB or more",
        ),
        (
            "lag-bytes-max = '2KiB'",
            "lag-bytes-max 2KiB is less than --max-message-bytes 4KiB: a single message could cut off subscribers that \
             keep up; give lag-bytes-max 4KiB or more, or max-message-bytes 2KiB or less",
        ),
        (
            "lag-bytes-max = '2KiB'\nmax-message-bytes = '3KiB'",
            "lag-bytes-max 2KiB is less than max-message-bytes 3KiB: a single message could cut off subscribers that \
             keep up; give lag-bytes-max 3KiB or more, or max-message-bytes 2KiB or less",
        ),
        (
            "history-bytes = '2KiB' \nhistory = 1",
            "history-bytes 2KiB is less than --max-message-bytes 4KiB: a single message could be larger than all of the \
             history; give history-bytes 4KiB or more, or max-message-bytes 2KiB or less",
        ),
        (
            "history-age = '1m'",
            "history-age: nothing is kept without history, say how many messages: history = 100",
        ),
        (
            "history-bytes = '4KiB'\nhistory = 'off'",
            "history-bytes: nothing is kept without history, say how many messages: history = 100",
        ),
        (
            "welcome = '12345'\nmax-message-bytes = 4",
            "welcome: has 5 bytes, which is more than max-message-bytes 4: shorten it",
        ),
    ] {
        let text = format!("[[topic]]\nmatch = 'a'\n{lines}");
        assert_eq!(mistake_with(&text, &tight), format!("3: {told}"));
    }
    let long = format!("[[topic]]\nmatch = 'a'\nwelcome = '{}'", "x".repeat(5000));
    let told = "3: welcome: has 5000 bytes, which is more than --max-message-bytes 4KiB: shorten it";
    assert_eq!(mistake_with(&long, &tight), told);

    // At the bounds there is none.
    let text = "[[topic]]\nmatch = 'a'\nhistory = 1\nhistory-bytes = '4KiB'\nlag-bytes-max = '4KiB'\n[[topic]]\n\
                match = 'b'\nhistory = 1\nhistory-bytes = '64KiB'\nlag-bytes-max = '64KiB'\nmax-message-bytes = '4KiB'";
    assert!(parse("rules.toml", text, &tight).is_ok());
}

#[test]
fn rules_that_can_never_match_are_told() {
    let rules = |patterns: &[&str]| {
        let tables: Vec<_> = patterns.iter().map(|text| format!("[[topic]]\nmatch = '{text}'\n")).collect();
        tables.join("\n")
    };
    for (patterns, told) in [
        (
            &["a", "chat/*", "chat/lobby"][..],
            "8: match chat/lobby can never match, since chat/* in line 5 comes first: put this rule above it",
        ),
        (
            &["a/*", "b", "a/*"],
            "8: match a/* can never match, since line 2 has the same pattern: remove one of the rules",
        ),
        (
            &["*", "*/**", "**"],
            "8: match ** can never match, since the rules in lines 2 and 5 come first and leave it no topic: remove it",
        ),
        (
            &["a/*", "a/*/*", "a/*/*/**", "a/**"],
            "11: match a/** can never match, since the rules in lines 2, 5 and 8 come first and leave it no topic: remove it",
        ),
    ] {
        assert_eq!(mistake(&rules(patterns)), told);
    }
    assert_eq!(contents(&rules(&["chat/lobby", "chat/*", "chat/**", "*", "**"])).topics.len(), 5);
}

#[test]
fn mistakes_in_a_schedule_say_what_to_do() {
    let schedule = |lines: &str| mistake(&format!("[[schedule]]\n{lines}"));
    for (lines, told) in [
        ("", "1: [[schedule]] has no topic: add topic = \"clock\""),
        ("topic = 'a'", "1: [[schedule]] has no every: add every = \"1s\""),
        (
            "topic = 'a'\nevery = '1s'",
            "1: [[schedule]] has no payload: add payload = '{\"now\":\"{{now}}\",\"tick\":{{count}}}'",
        ),
        ("topic = ''", "2: topic \"\": expected the name of a topic, such as clock"),
        ("topic = 'a/*'", "2: topic a/*: expected the name of one topic, without '*'"),
        ("topic = '_stentor/a'", "2: topic _stentor/a: topics under _stentor/ are the server's own"),
        ("topic = 'a'\nevery = 5", "3: every 5: a time needs its unit: ms, s, m or h, as in 500ms or 25s"),
        ("topic = 'a'\nevery = '0s'", "3: every 0s: out of range, allowed is 100ms to 720h"),
        ("topic = 'a'\nevery = '99ms'", "3: every 99ms: out of range, allowed is 100ms to 720h"),
        (
            "topic = 'a'\nevery = '1s'\npayload = '{{nwo}}'",
            "4: payload {{nwo}}: {{nwo}} is no placeholder: there are {{now}}, {{now_ms}}, {{count}}, {{random}}, and \
             '{{{{' for '{{'",
        ),
        (
            "topic = 'a'\nevery = '1s'\npayload = '{{now'",
            "4: payload {{now: '{{' has no '}}' behind it: close it, or write '{{{{' for '{{'",
        ),
        (
            "topic = 'a'\nevery = '1s'\npayload = ''\nname = ''",
            "5: name \"\": out of range, allowed is a text without control characters, 1 to 255 bytes",
        ),
        ("evry = '1s'", "2: evry: unknown key of [[schedule]], did you mean every?"),
    ] {
        assert_eq!(schedule(lines), told);
    }
    let named = "[[schedule]]\ntopic = 'a'\nevery = '1s'\npayload = ''\nname = 'x'\n";
    assert_eq!(
        mistake(&format!("{named}{named}")),
        "10: name x: taken by the schedule in line 5, give each its own"
    );
    let small = "[[topic]]\nmatch = 'a'\nmax-message-bytes = 23\n[[schedule]]\ntopic = 'a'\nevery = '1s'\n";
    assert_eq!(
        mistake(&format!("{small}payload = '{{{{now}}}}'")),
        "7: payload: may become 24 bytes, and a takes messages of at most 23: shorten it, or raise the topic's \
         max-message-bytes"
    );
    assert_eq!(contents(&format!("{small}payload = '{{{{now_ms}}}}'")).schedules.len(), 1);
}

#[test]
fn what_may_not_stand_at_the_top_is_told() {
    for (text, told) in [
        ("workers = 4", "1: workers: flags are not read from the file, give --workers on the command line"),
        (
            "max_connections = 4",
            "1: max_connections: flags are not read from the file, give --max-connections on the command line",
        ),
        (
            "slow-consumer = 'skip'",
            "1: slow-consumer: give --slow-consumer on the command line for all topics, or write it below [[topic]] \
             for some",
        ),
        ("history = 1", "1: history: is a key of [[topic]], write it below such a line"),
        ("every = 1", "1: every: is a key of [[schedule]], write it below such a line"),
        ("\n[[topics]]", "2: topics: unknown table, did you mean [[topic]]?"),
        ("[server]", "1: server: unknown key, the file has [[topic]] and [[schedule]] tables"),
        ("[topic]\nmatch = 'a'", "1: topic: expected tables, write [[topic]] with two brackets above each"),
        ("topic = 'a'", "1: topic: expected tables, write [[topic]] with two brackets above each"),
        ("schedule = [1]", "1: schedule: expected tables, write [[schedule]] with two brackets above each"),
    ] {
        assert_eq!(mistake(text), told);
    }
}

#[test]
fn what_is_not_toml_is_told() {
    for (text, told) in [
        (
            "\n[[topic]]\nmatch = 'a'\nhistory-age = 10m",
            "4: is not TOML: texts and values with a unit stand in quotes: \"10m\"",
        ),
        (
            "[[topic]]\nmatch = chat/*",
            "2: is not TOML: texts and values with a unit stand in quotes: \"chat/*\"",
        ),
        (
            "[[topic]]\nslow-consumer = skip # or not",
            "2: is not TOML: texts and values with a unit stand in quotes: \"skip\"",
        ),
        ("[[topic]]\nhistory =\n", "2: is not TOML: a value is missing, write it behind the ="),
        ("[[topic", "1: is not TOML: unclosed array table, expected `]]`"),
        ("[[topic]]\nmatch 'a'", "2: is not TOML: key with no value, expected `=`"),
        (
            "[[topic]]\nmatch = 'a'\nmatch = 'b'",
            "3: is not TOML: a key may stand once in a table: remove one, or begin a new table",
        ),
        ("[[topic]]\nmatch = 'a", "2: is not TOML: invalid literal string, expected `'`"),
        ("\u{7}", "1: is not TOML: key with no value, expected `=`"),
        (
            &format!("x = {}", "[".repeat(100_000)),
            "1: is not TOML: cannot recurse further; max recursion depth met",
        ),
    ] {
        assert_eq!(mistake(text), told);
    }
}

#[test]
fn a_file_has_bounds() {
    let many: String = (0..=TOPICS_MAX).map(|at| format!("[[topic]]\nmatch = '{at}'\n")).collect();
    assert_eq!(
        mistake(&many),
        "2001: [[topic]]: this is one more than the 1000 that are allowed, join some of them"
    );
    let end = many.len() - "[[topic]]\nmatch = '1000'\n".len();
    assert_eq!(contents(&many[..end]).topics.len(), TOPICS_MAX);
    let schedule = "[[schedule]]\ntopic = 'a'\nevery = '1s'\npayload = ''\n";
    assert_eq!(
        mistake(&schedule.repeat(SCHEDULES_MAX + 1)),
        "4001: [[schedule]]: this is one more than the 1000 that are allowed, join some of them"
    );
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let flags = Config::default();
    let told = |path: &str| read(path, &flags).expect_err(path).to_string();
    assert_eq!(
        told("/nowhere/rules.toml"),
        "--config /nowhere/rules.toml: can't be read: No such file or directory (os error 2)"
    );
    assert_eq!(told("/"), "--config /: is a directory, expected a file");
    // What never ends is not read to its end.
    assert_eq!(
        told("/dev/zero"),
        "--config /dev/zero: is larger than 4MiB, which no list of rules should be"
    );
}

#[test]
fn what_is_printed_says_the_same() {
    let flags = Config { lag_bytes_max: 2 << 20, slow_consumer: SlowConsumer::Skip, ..Config::default() };
    let texts = [
        TOPICS_EXAMPLE,
        "[[topic]]\nmatch = 'a\"\\\\ж'\nwelcome = \"\\u0000\\n\\\"{{\"\nmin-interval = '1s'",
    ];
    for text in texts {
        let Contents { topics, schedules } = parse("rules.toml", text, &flags).expect(text);
        let config = Config { topics, schedules, ..flags.clone() };
        let printed = config.flags();
        let tables = printed.lines().skip_while(|line| *line != "#");
        let tables: Vec<_> = tables.map(|line| line.strip_prefix('#').expect("a comment")).collect();
        let again = parse("printed", &tables.join("\n"), &flags).expect("what was printed");
        assert_eq!(flags.rules_with(&again.topics), config.rules());
        assert_eq!(again.schedules, config.schedules);
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_a_file_is_rules_or_one_line(
        parts in prop::collection::vec(
            prop_oneof![
                Just("[[topic]]\n".to_owned()),
                Just("[[schedule]]\n".to_owned()),
                (0..keys::TOPIC.len()).prop_map(|at| format!("{}\n", keys::TOPIC[at].about().example)),
                (0..keys::SCHEDULE.len()).prop_map(|at| format!("{}\n", keys::SCHEDULE[at].about().example)),
                "[a-z-]{1,8} = ['\"]?[0-9a-zA-Z*/{}]{0,8}['\"]?\n",
                any::<String>(),
            ],
            0..8,
        ),
    ) {
        let text = parts.concat();
        if let Err(error) = parse("rules.toml", &text, &Config::default()) {
            let error = error.to_string();
            prop_assert!(!error.contains(char::is_control), "{:?}", error);
            let line: Option<usize> = error.split(':').nth(1).and_then(|line| line.parse().ok());
            prop_assert!(line.is_some_and(|line| (1..=text.matches('\n').count() + 1).contains(&line)), "{}", error);
            prop_assert!(error.len() < 1_000, "{}", error);
        }
    }
}
