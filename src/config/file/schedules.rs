//! `[[schedule]]`: what the server publishes by itself.

use super::keys;
use super::table::Table;
use super::topics::{in_quotes, shown};
use crate::broker::{rules::Rules, schedule::Schedule};
use crate::config::value::Size;
use crate::config::{Error, quote};

/// Reads one table. `before` are the schedules above it, with the lines of their names.
///
/// # Errors
/// A value that is none of its key, a name that is taken, or a message that its topic would not take.
pub(super) fn read(
    table: &Table<'_>,
    before: &[(usize, Schedule)],
    rules: &Rules,
) -> Result<Schedule, Error> {
    let schedule = Schedule {
        topic: table.require(&keys::TOPIC_NAME)?,
        every: table.require(&keys::EVERY)?,
        payload: table.require(&keys::PAYLOAD)?,
        name: table.get(&keys::NAME)?.map(Into::into),
    };
    let same = before.iter().find(|(_, other)| other.name.is_some() && other.name == schedule.name);
    if let (Some((line, _)), Some(name)) = (same, &schedule.name) {
        let name = quote(name);
        let what = format!("name {name}: taken by the schedule in line {line}, give each its own");
        return Err(table.error(keys::NAME.about.name, what));
    }
    let (len, max) = (schedule.payload.len_max(), rules.rule_for(&schedule.topic).max_message_bytes);
    if len > max {
        let what = format!(
            "payload: may become {len} bytes, and {} takes messages of at most {}: shorten it, or raise the topic's \
             max-message-bytes",
            quote(schedule.topic.as_str()),
            Size(max as u64),
        );
        return Err(table.error(keys::PAYLOAD.about.name, what));
    }
    Ok(schedule)
}

/// A schedule as a table in TOML.
pub(in crate::config) fn table(schedule: &Schedule) -> String {
    let mut table = String::from("[[schedule]]\n");
    let mut line = |name: &str, value: String| table += &format!("{name} = {value}\n");
    line(keys::TOPIC_NAME.about.name, in_quotes(schedule.topic.as_str()));
    line(keys::EVERY.about.name, shown(&keys::EVERY, &schedule.every));
    line(keys::PAYLOAD.about.name, in_quotes(schedule.payload.source()));
    if let Some(name) = &schedule.name {
        line(keys::NAME.about.name, in_quotes(name));
    }
    table
}
