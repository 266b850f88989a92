//! The keys of the file's tables: each defined once, with its range and the prose of `docs/topics.md`.
//!
//! A key that has a flag of the same name has the flag's kind of value, so that texts, ranges and messages are the
//! same. An example is a line that may stand in the file as it is.

use std::time::Duration;

use super::kind::{Patterns, Payload, Text, Topic};
use crate::broker::rules::SlowConsumer;
use crate::config::keys;
use crate::config::kind::{Counts, Kind, Or, Sizes, Times, Words};

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// What holds without `history-age`.
pub const HISTORY_AGE_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// How a value is written in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As a flag's text would be: in quotes, or as a number where it is one.
    AsFlag,
    /// As a text, in quotes.
    Text,
}

/// The name and the prose of a key. Plain sentences; code in backquotes.
pub struct About {
    /// The name, as it stands in front of `=`.
    pub name: &'static str,
    /// How its value is written.
    pub written: Written,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub effect: &'static str,
    /// A line with it.
    pub example: &'static str,
}

/// One key of a table.
pub struct FileKey<K: Kind + 'static> {
    /// Its name and prose.
    pub about: About,
    /// What its value may be.
    pub kind: &'static K,
}

/// A [`FileKey`] of whatever kind.
pub trait FileEntry: Sync {
    /// Its name and prose.
    fn about(&self) -> &About;
    /// What is allowed, for people.
    fn accepts(&self) -> String;
    /// The unit; empty where there is none.
    fn unit(&self) -> &'static str;
}

impl<K: Kind + Sync> FileEntry for FileKey<K> {
    fn about(&self) -> &About {
        &self.about
    }

    fn accepts(&self) -> String {
        self.kind.accepts()
    }

    fn unit(&self) -> &'static str {
        self.kind.unit()
    }
}

/// The keys of `[[topic]]`, in the order of the page.
pub static TOPIC: &[&dyn FileEntry] = &[
    &MATCH,
    &HISTORY,
    &HISTORY_AGE,
    &HISTORY_BYTES,
    &SLOW_CONSUMER,
    &LAG_BYTES_MAX,
    &LAG_MESSAGES_MAX,
    &MAX_MESSAGE_BYTES,
    &WELCOME,
    &MIN_INTERVAL,
];

/// The keys of `[[schedule]]`, in the order of the page.
pub static SCHEDULE: &[&dyn FileEntry] = &[&TOPIC_NAME, &EVERY, &PAYLOAD, &NAME];

/// `match`
pub static MATCH: FileKey<Patterns> = FileKey {
    about: About {
        name: "match",
        written: Written::Text,
        default: "none: it has to be given.",
        effect: "The topics that the rule is for. Of several rules that match a topic the first one counts, with all \
                 that it says and leaves open: nothing is taken from a later one.",
        example: r#"match = "chat/*""#,
    },
    kind: &Patterns,
};

/// `history`
pub static HISTORY: FileKey<Or<Counts<u64>>> = FileKey {
    about: About {
        name: "history",
        written: Written::AsFlag,
        default: "`off`: nothing is kept.",
        effect: "How many messages are kept for those who come later or come back. `1` keeps the last value. What is \
                 kept is part of the logs, so `--log-bytes-max` bounds it for all topics together.",
        example: "history = 100",
    },
    kind: &Or { words: &["off", "0"], kind: Counts { from: 1, to: 1_000_000_000, unit: "messages" } },
};

/// `history-age`
pub static HISTORY_AGE: FileKey<Times> = FileKey {
    about: About {
        name: "history-age",
        written: Written::AsFlag,
        default: "`24h`, where `history` is given.",
        effect: "How old a message may become that is kept. Takes `history`.",
        example: r#"history-age = "10m""#,
    },
    kind: &Times { from: Duration::from_millis(10), to: MONTH },
};

/// `history-bytes`
pub static HISTORY_BYTES: FileKey<Sizes> = FileKey {
    about: About {
        name: "history-bytes",
        written: Written::AsFlag,
        default: "the rule's `lag-bytes-max`, where `history` is given.",
        effect: "How many bytes of messages are kept. Takes `history`. At least the rule's `max-message-bytes`, so that \
                 no message is larger than all that is kept, and at most `--log-bytes-max`.",
        example: r#"history-bytes = "2MiB""#,
    },
    kind: &Sizes { from: 1 << 10, to: 1 << 40 },
};

/// `slow-consumer`
pub static SLOW_CONSUMER: FileKey<Words<SlowConsumer>> = FileKey {
    about: About {
        name: "slow-consumer",
        written: Written::AsFlag,
        default: "`--slow-consumer`.",
        effect: "What happens to a subscriber that lags too far: see the flag. A connection with several topics is closed if \
                 one of them disconnects.",
        example: r#"slow-consumer = "latest""#,
    },
    kind: &keys::SLOW_CONSUMER.kind,
};

/// `lag-bytes-max`
pub static LAG_BYTES_MAX: FileKey<Sizes> = FileKey {
    about: About {
        name: "lag-bytes-max",
        written: Written::AsFlag,
        default: "`--lag-bytes-max`.",
        effect: "The lag in bytes at which a subscriber is slow: see the flag. At least the rule's `max-message-bytes`, \
                 and at most `--log-bytes-max`.",
        example: r#"lag-bytes-max = "4MiB""#,
    },
    kind: &keys::LAG_BYTES_MAX.kind,
};

/// `lag-messages-max`
pub static LAG_MESSAGES_MAX: FileKey<Counts<u64>> = FileKey {
    about: About {
        name: "lag-messages-max",
        written: Written::AsFlag,
        default: "`--lag-messages-max`.",
        effect: "The lag in messages at which a subscriber is slow: see the flag.",
        example: "lag-messages-max = 1_000",
    },
    kind: &keys::LAG_MESSAGES_MAX.kind,
};

/// `max-message-bytes`
pub static MAX_MESSAGE_BYTES: FileKey<Sizes> = FileKey {
    about: About {
        name: "max-message-bytes",
        written: Written::AsFlag,
        default: "`--max-message-bytes`.",
        effect: "The payload of one message. At most `--max-message-bytes`, which holds before it is known which topic a \
                 message is for. A longer one is not published: a client of the raw dialect is closed with 1009, others get \
                 an error.",
        example: r#"max-message-bytes = "16KiB""#,
    },
    kind: &keys::MAX_MESSAGE_BYTES.kind,
};

/// `welcome`
pub static WELCOME: FileKey<Text> = FileKey {
    about: About {
        name: "welcome",
        written: Written::Text,
        default: "none is sent.",
        effect: "A text message that each new subscriber gets before all others, also before what it gets of the history. \
                 It has no offset and is no part of the history. Who comes back and has missed nothing, or gets all that it \
                 has missed, is not welcomed again. At most the rule's `max-message-bytes`.",
        example: r#"welcome = '{"system":"Be kind to each other."}'"#,
    },
    kind: &Text { to: 64 << 10, is_name: false },
};

/// `min-interval`
pub static MIN_INTERVAL: FileKey<Or<Times>> = FileKey {
    about: About {
        name: "min-interval",
        written: Written::AsFlag,
        default: "`off`: messages are delivered as soon as they can be.",
        effect: "The least time between two deliveries to one subscriber: it gets what has come in between as one batch, \
                 and with `slow-consumer = \"latest\"` the newest message alone, however many there were. A message that comes \
                 after a quiet interval is delivered at once, and what is replayed of the history always is. Without \
                 `latest` nothing is left out: a batch is due early where more comes in an interval than a quarter of the \
                 lag bounds, so that publishers need not wait. So is all that waits where `--log-bytes-max` is nearly reached.",
        example: r#"min-interval = "250ms""#,
    },
    kind: &Or {
        words: &["off", "0"],
        kind: Times { from: Duration::from_millis(10), to: Duration::from_secs(3600) },
    },
};

/// `topic`
pub static TOPIC_NAME: FileKey<Topic> = FileKey {
    about: About {
        name: "topic",
        written: Written::Text,
        default: "none: it has to be given.",
        effect: "Where the messages are published: one topic, no pattern.",
        example: r#"topic = "clock""#,
    },
    kind: &Topic,
};

/// `every`
pub static EVERY: FileKey<Times> = FileKey {
    about: About {
        name: "every",
        written: Written::AsFlag,
        default: "none: it has to be given.",
        effect: "The time from one message to the next. A message that could not be published in time is not made up for.",
        example: r#"every = "1s""#,
    },
    kind: &Times { from: Duration::from_millis(100), to: MONTH },
};

/// `payload`
pub static PAYLOAD: FileKey<Payload> = FileKey {
    about: About {
        name: "payload",
        written: Written::Text,
        default: "none: it has to be given.",
        effect: "The text of the messages, with the placeholders below.",
        example: r#"payload = '{"now":"{{now}}","tick":{{count}}}'"#,
    },
    kind: &Payload,
};

/// `name`
pub static NAME: FileKey<Text> = FileKey {
    about: About {
        name: "name",
        written: Written::Text,
        default: "none.",
        effect: "What the schedule is called where schedules are listed and cancelled. No two have the same.",
        example: r#"name = "wall clock""#,
    },
    kind: &Text { to: 255, is_name: true },
};
