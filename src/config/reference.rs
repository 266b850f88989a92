//! Renders the reference pages, `docs/config.md` and `docs/topics.md`, from the tables of keys.
//!
//! Owns the pages' frames and layout; every fact about a key comes from `keys` and `file::keys`. A test compares the
//! pages in the repository with [`page`] and [`topics_page`] and rewrites them with
//! `UPDATE_DOCS=1 cargo test --test config`.

use std::fmt::Write;

use super::file::keys::{self as file_keys, FileEntry};
use super::{Entry, Group, keys};

const HEAD: &str = "\
# Configuration

<!-- Generated from src/config/keys.rs: change it there, then run UPDATE_DOCS=1 cargo test --test config -->

Every key is a flag of `stentor`. What differs from topic to topic stands in a file: [topics.md](topics.md). Without
flags it listens on loopback only, and is open there, for development.
`--check` validates the flags and starts nothing. `--print-config` prints the value that each key has in effect,
as flags that can be given back. A mistake is one line on stderr and exit code 2; nothing is started.

**Counts** are whole numbers, with `_` where it helps: `10_000`. **Sizes** are bytes or take a unit: `65536`,
`64KiB`, `1MiB`, `1GiB` (powers of 1,024), or `kB`, `MB`, `GB` (powers of 1,000). **Times** always take a unit:
`500ms`, `25s`, `2m`, `1h`. **Switches** are on when they stand alone: `--pin`, `--pin=on`, `--pin=off`. A flag that
may be repeated takes one value each time; any other may be given once.

For each key the name of an environment variable is reserved, such as `";

const HEAD_END: &str = "`. The server\nreads one other so far: `STENTOR_API_KEYS`, see `--api-key`.\n";

/// The whole page, in Markdown.
pub fn page() -> String {
    let mut page = format!("{HEAD}{}{HEAD_END}", keys::PONG_TIMEOUT.about.environment());
    for group in Group::ALL {
        page += &format!("\n## {}\n", group.title());
        for key in keys::ALL.iter().filter(|key| key.about().group == group) {
            section(&mut page, *key).expect("a String takes every write");
        }
    }
    page
}

/// One key.
fn section(page: &mut String, key: &dyn Entry) -> std::fmt::Result {
    let about = key.about();
    let value =
        if key.is_switch() { format!("[={}]", key.placeholder()) } else { format!(" {}", key.placeholder()) };
    writeln!(page, "\n### `--{}{value}`\n", about.name)?;
    writeln!(page, "{}. {}\n", about.brief_sentence(), about.effect)?;
    let default = match (about.default.join("`, `"), about.means) {
        (text, "") => format!("`{text}`"),
        (text, means) if text.is_empty() => means.to_owned(),
        (text, means) => format!("`{text}`: {means}"),
    };
    writeln!(page, "- Default: {default}. {}", about.reason)?;
    writeln!(page, "- Allowed: {}{}.", key.accepts(), about.repeats_text())?;
    if !key.unit().is_empty() {
        writeln!(page, "- Unit: {}.", key.unit())?;
    }
    if !about.memory.is_empty() {
        writeln!(page, "- Worst case in memory: {}", about.memory)?;
    }
    Ok(())
}

/// The file that `docs/topics.md` shows.
pub const TOPICS_EXAMPLE: &str = r#"# Rooms: the last hundred messages for newcomers, none older than a day.
[[topic]]
match = "chat/*"
history = 100
max-message-bytes = "16KiB"
welcome = '{"system":"Be kind to each other."}'

# Prices: only the newest counts, four times a second is enough, and who comes gets the last one.
[[topic]]
match = "prices/**"
history = 1
slow-consumer = "latest"
min-interval = "250ms"

# An audit trail: a week of it, as long as it fits in 64 MiB.
[[topic]]
match = "audit/*/events"
history = 1_000_000
history-age = "168h"
history-bytes = "64MiB"
lag-messages-max = 50_000

# The time, for whoever asks, and once a minute a message for a room.
[[schedule]]
topic = "clock"
every = "1s"
payload = '{"now":"{{now}}","tick":{{count}}}'

[[schedule]]
name = "reminder"
topic = "chat/lobby"
every = "1m"
payload = '{"system":"Newcomers find the rules at /rules."}'
"#;

const TOPICS_HEAD: &str = "\
# Topic rules and schedules

<!-- Generated from src/config/file/keys.rs and src/config/reference.rs: change it there, then run UPDATE_DOCS=1 cargo test --test config -->

What flags say holds for all topics. Rules in a file say something else for some of them, and what is kept of them;
schedules in the same file are messages that the server publishes by itself. `stentor --config rules.toml` reads it.

```toml
";

const TOPICS_TEXT: &str = "\
```

The file is [TOML](https://toml.io). It is read once, at the start. Flags are not read from it, see
[config.md](config.md). `stentor --check --config rules.toml` says whether it is right, and `--print-config` shows the
value that each key of each rule has in effect.

## Which rule is whose

Rules are tried from the first to the last, and **the first one that matches is the topic's rule**, with all that it
says; nothing is taken from a later one. What it leaves open, and topics without a rule, are as the flags say.

A topic's name is split at each `/` into levels, and so is the pattern:

| in the pattern | matches |
| --- | --- |
| `*` as a whole level | exactly one level, whatever it is |
| `**` as the last level | the rest: one or more levels |
| any other level | itself, letter for letter |

| pattern | matches | does not match |
| --- | --- | --- |
| `chat/lobby` | `chat/lobby` | `chat/lobby/2` |
| `chat/*` | `chat/lobby`, `chat/` | `chat`, `chat/lobby/2` |
| `prices/**` | `prices/eu`, `prices/eu/gold` | `prices` |
| `*/news/*` | `de/news/sport` | `news/sport` |
| `**` | every topic | |

Counts, sizes and times are written as those of flags. A number may stand without quotes (`65536`), all else stands in
quotes (`\"64KiB\"`). A file has up to 1,000 rules and 1,000 schedules, and up to 4 MiB.

A mistake is one line on stderr with file and line, and exit code 2; nothing is started. Mistakes are also: keys that are
not on this page, values that contradict each other or a flag, and rules that can never match, since those above them
leave them no topic:

```text
stentor: rules.toml:6: match chat/lobby can never match, since chat/* in line 2 comes first: put this rule above it
```
";

const SCHEDULES_TEXT: &str = "
Placeholders in `payload` are filled in for each message:

| placeholder | becomes |
| --- | --- |
| `{{now}}` | the time in UTC, as in `2026-01-31T12:00:00.000Z` (RFC 3339) |
| `{{now_ms}}` | the same time in milliseconds of Unix time |
| `{{count}}` | which message of this schedule it is: 1, 2, 3, … |
| `{{random}}` | a whole number from 0 to 2^53 − 1, another one in each message |

Spaces may stand inside of the braces. `{{{{` stands for `{{`; any other placeholder is a mistake.
";

/// The whole page about the file, in Markdown.
pub fn topics_page() -> String {
    let mut page = format!("{TOPICS_HEAD}{TOPICS_EXAMPLE}{TOPICS_TEXT}");
    for (name, table) in [("topic", file_keys::TOPIC), ("schedule", file_keys::SCHEDULE)] {
        page += &format!("\n## `[[{name}]]`\n");
        for key in table {
            file_section(&mut page, *key).expect("a String takes every write");
        }
    }
    page + SCHEDULES_TEXT
}

/// One key of the file.
fn file_section(page: &mut String, key: &dyn FileEntry) -> std::fmt::Result {
    let about = key.about();
    writeln!(page, "\n### `{}`\n", about.name)?;
    writeln!(page, "{}\n", about.effect)?;
    writeln!(page, "- Default: {}", about.default)?;
    writeln!(page, "- Allowed: {}.", key.accepts())?;
    if !key.unit().is_empty() {
        writeln!(page, "- Unit: {}.", key.unit())?;
    }
    writeln!(page, "- Example: `{}`", about.example)
}
