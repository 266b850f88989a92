//! The file that `--config` names: topic rules and schedules, in TOML.
//!
//! Owns reading it, what may stand in it, and that every mistake is told with file and line. What its keys mean is
//! said in [`keys`]; what holds in the end, with the flags, is [`Config::rules`].
//!
//! ```text
//!   text ──toml──▶ tables with places ──table──▶ typed values ──topics, schedules──▶ checked together
//! ```

pub mod keys;
mod kind;
mod schedules;
mod table;
mod topics;

use std::fs::File;
use std::io::{self, Read};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{escape, quote};
use super::{Config, Error};
use crate::broker::schedule::Schedule;
pub(super) use schedules::table as schedule_table;
use table::{Source, Table};
pub use topics::TopicRule;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Rules are tried one after another for each new topic.
const TOPICS_MAX: usize = 1_000;
/// Each is a timer.
const SCHEDULES_MAX: usize = 1_000;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) topics: Vec<TopicRule>,
    pub(super) schedules: Vec<Schedule>,
}

/// Reads the file at `path` for a configuration whose flags are `flags`.
///
/// # Errors
/// It can't be read, or a mistake in it.
pub(super) fn read(path: &str, flags: &Config) -> Result<Contents, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let refused = |why: &dyn std::fmt::Display| Error::new(format!("--config {}: {why}", quote(path)));
    match read {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            return Err(refused(&"is a directory, expected a file"));
        }
        Err(error) => return Err(refused(&format_args!("can't be read: {error}"))),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            return Err(refused(&"is larger than 4MiB, which no list of rules should be"));
        }
        Ok(_) => {}
    }
    let text = match str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let text = str::from_utf8(&bytes[..error.valid_up_to()]).expect("valid up to here");
            return Err(Source { name: path, text }.error(text.len(), "is not UTF-8: save the file as UTF-8"));
        }
    };
    parse(path, text, flags)
}

/// Reads the text of a file that is called `name`.
///
/// # Errors
/// The first mistake that is found, with its line.
fn parse(name: &str, text: &str, flags: &Config) -> Result<Contents, Error> {
    let source = Source { name, text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        source.error(at, format_args!("is not TOML: {}", what_is_wrong(text, at, error.message())))
    })?;
    let document = document.get_ref();
    let mut top: Vec<_> = document.iter().collect();
    top.sort_by_key(|(key, _)| key.span().start);
    if let Some((key, _)) =
        top.iter().find(|(key, _)| !matches!(key.get_ref().as_ref(), "topic" | "schedule"))
    {
        return Err(source.error(key.span().start, not_at_the_top(key.get_ref())));
    }

    let mut topics: Vec<(usize, TopicRule)> = Vec::new();
    for (at, entries) in tables(&source, document, "topic", TOPICS_MAX)? {
        let table = Table::new(&source, "topic", keys::TOPIC, at, entries)?;
        let rule = topics::read(&table)?;
        topics::check(&table, &rule, flags)?;
        topics::check_reachable(&table, &rule, &topics)?;
        topics.push((table.line(keys::MATCH.about.name), rule));
    }
    let topics: Vec<_> = topics.into_iter().map(|(_, rule)| rule).collect();

    let rules = flags.rules_with(&topics);
    let mut schedules: Vec<(usize, Schedule)> = Vec::new();
    for (at, entries) in tables(&source, document, "schedule", SCHEDULES_MAX)? {
        let table = Table::new(&source, "schedule", keys::SCHEDULE, at, entries)?;
        let schedule = schedules::read(&table, &schedules, &rules)?;
        schedules.push((table.line(keys::NAME.about.name), schedule));
    }
    let schedules = schedules.into_iter().map(|(_, schedule)| schedule).collect();
    Ok(Contents { topics, schedules })
}

/// The tables that are written under `[[name]]`, each with the place of its header.
fn tables<'a>(
    source: &Source<'_>,
    document: &'a DeTable<'a>,
    name: &str,
    max: usize,
) -> Result<Vec<(usize, &'a DeTable<'a>)>, Error> {
    let Some(value) = document.get(name) else { return Ok(Vec::new()) };
    let not_a_list = |value: &Spanned<DeValue<'_>>| {
        let what = format!("{name}: expected tables, write [[{name}]] with two brackets above each");
        source.error(value.span().start, what)
    };
    let DeValue::Array(list) = value.get_ref() else { return Err(not_a_list(value)) };
    let found = list.iter().map(|value| match value.get_ref() {
        DeValue::Table(entries) => Ok((value.span().start, entries)),
        _ => Err(not_a_list(value)),
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    match found.get(max) {
        Some((at, _)) => {
            let what =
                format!("[[{name}]]: this is one more than the {max} that are allowed, join some of them");
            Err(source.error(*at, what))
        }
        None => Ok(found),
    }
}

/// What is said of a key that may not stand outside of the tables.
fn not_at_the_top(key: &str) -> String {
    let shown = quote(key);
    let of_topic = keys::TOPIC.iter().any(|known| known.about().name == key);
    let of_schedule = keys::SCHEDULE.iter().any(|known| known.about().name == key);
    match table::flag(key) {
        Some(flag) if of_topic => format!(
            "{shown}: give --{flag} on the command line for all topics, or write it below [[topic]] for some"
        ),
        Some(flag) => format!("{shown}: flags are not read from the file, give --{flag} on the command line"),
        None if of_topic => format!("{shown}: is a key of [[topic]], write it below such a line"),
        None if of_schedule => format!("{shown}: is a key of [[schedule]], write it below such a line"),
        None => match table::near(key, ["topic", "schedule"].into_iter()) {
            Some(name) => format!("{shown}: unknown table, did you mean [[{name}]]?"),
            None => format!("{shown}: unknown key, the file has [[topic]] and [[schedule]] tables"),
        },
    }
}

/// What the parser says of the byte at `at`, as one line that says what to do.
fn what_is_wrong(text: &str, at: usize, message: &str) -> String {
    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[line..].lines().next().unwrap_or_default();
    let value = line.split_once('=').map(|(_, value)| value.trim()).unwrap_or_default();
    match message {
        // It stands for whatever is no value.
        _ if message.starts_with("string values must be quoted") => {
            match value.split([' ', '#', ',']).next().unwrap_or_default() {
                "" => "a value is missing, write it behind the =".to_owned(),
                word => format!("texts and values with a unit stand in quotes: \"{}\"", quote(word)),
            }
        }
        "duplicate key" => "a key may stand once in a table: remove one, or begin a new table".to_owned(),
        _ => escape(message),
    }
}

#[cfg(test)]
mod tests;
