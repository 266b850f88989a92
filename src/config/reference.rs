//! Renders the reference page, `docs/config.md`, from the table of keys.
//!
//! Owns the page's frame and layout; every fact about a key comes from `keys`. A test compares the page in the
//! repository with [`page`] and rewrites it with `UPDATE_DOCS=1 cargo test --test config`.

use std::fmt::Write;

use super::{Entry, Group, keys};

const HEAD: &str = "\
# Configuration

<!-- Generated from src/config/keys.rs: change it there, then run UPDATE_DOCS=1 cargo test --test config -->

Every key is a flag of `stentor`. Without flags it listens on loopback only, and is open there, for development.
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
