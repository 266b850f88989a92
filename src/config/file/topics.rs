//! `[[topic]]`: rules for topics, as they are given and as they hold.
//!
//! Owns [`TopicRule`], where what was left open is still open, and what of it holds with the flags of a
//! configuration ([`TopicRule::resolve`]).

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{self, FileKey};
use super::table::Table;
use crate::broker::{
    limits::Window,
    pattern::Pattern,
    rules::{History, Rule, SlowConsumer},
};
use crate::config::kind::Kind;
use crate::config::value::Size;
use crate::config::{Config, Error, quote};

/// A rule as it was given. What is `None` holds as the flags say; no part comes from another rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    /// The topics that it is for.
    pub pattern: Pattern,
    /// Messages that are kept; `None`: there is no history.
    pub history: Option<u64>,
    /// How old they may become; `None`: a day.
    pub history_age: Option<Duration>,
    /// Bytes of messages that are kept; `None`: the bound of the lag.
    pub history_bytes: Option<usize>,
    /// What happens to a slow consumer.
    pub slow_consumer: Option<SlowConsumer>,
    /// Lag in bytes.
    pub lag_bytes_max: Option<usize>,
    /// Lag in messages.
    pub lag_messages_max: Option<u64>,
    /// Bytes of one message's payload.
    pub max_message_bytes: Option<usize>,
    /// What each new subscriber gets first; `None`: nothing.
    pub welcome: Option<Arc<str>>,
    /// Time between two deliveries to one subscriber; `None`: no bound.
    pub min_interval: Option<Duration>,
}

impl TopicRule {
    /// A rule that changes nothing yet.
    pub fn new(pattern: Pattern) -> Self {
        Self {
            pattern,
            history: None,
            history_age: None,
            history_bytes: None,
            slow_consumer: None,
            lag_bytes_max: None,
            lag_messages_max: None,
            max_message_bytes: None,
            welcome: None,
            min_interval: None,
        }
    }

    /// What holds, with the flags of `config` where the rule says nothing.
    pub fn resolve(&self, config: &Config) -> Rule {
        let flags = config.rule_by_flags();
        let lag = Window {
            bytes: self.lag_bytes_max.map_or(flags.lag.bytes, |bytes| bytes as u64),
            messages: self.lag_messages_max.unwrap_or(flags.lag.messages),
        };
        Rule {
            slow_consumer: self.slow_consumer.unwrap_or(flags.slow_consumer),
            lag,
            max_message_bytes: self.max_message_bytes.unwrap_or(flags.max_message_bytes),
            history: self.history.filter(|messages| *messages > 0).map(|messages| History {
                messages,
                age: self.history_age.unwrap_or(keys::HISTORY_AGE_DEFAULT),
                bytes: self.history_bytes.map_or(lag.bytes, |bytes| bytes as u64),
            }),
            welcome: self.welcome.clone(),
            min_interval: self.min_interval,
        }
    }

    /// The rule as a table in TOML, with the value that each key has in effect.
    pub(in crate::config) fn table(&self, config: &Config) -> String {
        let rule = self.resolve(config);
        let mut table = String::from("[[topic]]\n");
        let mut line = |name: &str, value: String| table += &format!("{name} = {value}\n");
        line(keys::MATCH.about.name, in_quotes(self.pattern.as_str()));
        line(keys::HISTORY.about.name, shown(&keys::HISTORY, &rule.history.map(|history| history.messages)));
        if let Some(history) = rule.history {
            line(keys::HISTORY_AGE.about.name, shown(&keys::HISTORY_AGE, &history.age));
            line(keys::HISTORY_BYTES.about.name, shown(&keys::HISTORY_BYTES, &(history.bytes as usize)));
        }
        line(keys::SLOW_CONSUMER.about.name, shown(&keys::SLOW_CONSUMER, &rule.slow_consumer));
        line(keys::LAG_BYTES_MAX.about.name, shown(&keys::LAG_BYTES_MAX, &(rule.lag.bytes as usize)));
        line(keys::LAG_MESSAGES_MAX.about.name, shown(&keys::LAG_MESSAGES_MAX, &rule.lag.messages));
        line(keys::MAX_MESSAGE_BYTES.about.name, shown(&keys::MAX_MESSAGE_BYTES, &rule.max_message_bytes));
        if let Some(welcome) = &rule.welcome {
            line(keys::WELCOME.about.name, in_quotes(welcome));
        }
        line(keys::MIN_INTERVAL.about.name, shown(&keys::MIN_INTERVAL, &rule.min_interval));
        table
    }
}

/// A key's value as it is written in TOML: a number as it is, all else in quotes.
pub(super) fn shown<K: Kind>(key: &FileKey<K>, value: &K::Value) -> String {
    let text = key.kind.show(value);
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if is_number { text } else { in_quotes(&text) }
}

/// A text as a basic string of TOML, on one line.
pub(super) fn in_quotes(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted += &format!("\\u{:04X}", u32::from(char)),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// Reads one table.
///
/// # Errors
/// A value that is none of its key.
pub(super) fn read(table: &Table<'_>) -> Result<TopicRule, Error> {
    Ok(TopicRule {
        pattern: table.require(&keys::MATCH)?,
        history: table.get(&keys::HISTORY)?.flatten(),
        history_age: table.get(&keys::HISTORY_AGE)?,
        history_bytes: table.get(&keys::HISTORY_BYTES)?,
        slow_consumer: table.get(&keys::SLOW_CONSUMER)?,
        lag_bytes_max: table.get(&keys::LAG_BYTES_MAX)?,
        lag_messages_max: table.get(&keys::LAG_MESSAGES_MAX)?,
        max_message_bytes: table.get(&keys::MAX_MESSAGE_BYTES)?,
        welcome: table.get(&keys::WELCOME)?.map(Into::into),
        min_interval: table.get(&keys::MIN_INTERVAL)?.flatten(),
    })
}

/// Refuses values that are each allowed but make no sense together, or with the flags.
///
/// # Errors
/// The contradiction, in the line of the value that the file could change.
pub(super) fn check(table: &Table<'_>, rule: &TopicRule, flags: &Config) -> Result<(), Error> {
    const HISTORY_BYTES: &str = keys::HISTORY_BYTES.about.name;
    const LAG_BYTES: &str = keys::LAG_BYTES_MAX.about.name;
    const MESSAGE_BYTES: &str = keys::MAX_MESSAGE_BYTES.about.name;

    let error = |name: &str, what: &dyn Display| Err(table.error(name, what));
    let above_flag = |name: &str, given: Option<usize>, flag: &str, bound: usize, so: &str| match given {
        Some(bytes) if bytes > bound => {
            let (bytes, bound) = (Size(bytes as u64), Size(bound as u64));
            let what = format!(
                "{name} {bytes} is more than --{flag} {bound}: {so}; lower it, or give --{flag} {bytes} or more"
            );
            error(name, &what)
        }
        _ => Ok(()),
    };
    above_flag(
        MESSAGE_BYTES,
        rule.max_message_bytes,
        MESSAGE_BYTES,
        flags.max_message_bytes,
        "larger messages are refused before it is known which topic they are for",
    )?;
    let logs = crate::config::keys::LOG_BYTES_MAX.about.name;
    above_flag(
        LAG_BYTES,
        rule.lag_bytes_max,
        logs,
        flags.log_bytes_max,
        "one topic's lag alone could fill all logs",
    )?;
    above_flag(
        HISTORY_BYTES,
        rule.history_bytes,
        logs,
        flags.log_bytes_max,
        "one topic's history alone could fill all logs",
    )?;

    let message = rule.max_message_bytes.unwrap_or(flags.max_message_bytes);
    let from_flag = if rule.max_message_bytes.is_some() { "" } else { "--" };
    let below_message = |name: &str, given: Option<usize>, so: &str| match given {
        Some(bytes) if bytes < message => {
            let (bytes, message) = (Size(bytes as u64), Size(message as u64));
            let what = format!(
                "{name} {bytes} is less than {from_flag}{MESSAGE_BYTES} {message}: {so}; give {name} {message} or more, or \
                 {MESSAGE_BYTES} {bytes} or less"
            );
            error(name, &what)
        }
        _ => Ok(()),
    };
    below_message(LAG_BYTES, rule.lag_bytes_max, "a single message could cut off subscribers that keep up")?;
    below_message(
        HISTORY_BYTES,
        rule.history_bytes,
        "a single message could be larger than all of the history",
    )?;

    if rule.history.is_none() {
        let narrowing = [
            (&keys::HISTORY_AGE.about, rule.history_age.is_some()),
            (&keys::HISTORY_BYTES.about, rule.history_bytes.is_some()),
        ];
        if let Some((about, _)) = narrowing.into_iter().find(|(_, given)| *given) {
            let what = format!(
                "{name}: nothing is kept without history, say how many messages: {example}",
                name = about.name,
                example = keys::HISTORY.about.example
            );
            return error(about.name, &what);
        }
    }
    match &rule.welcome {
        Some(welcome) if welcome.len() > message => {
            let what = format!(
                "welcome: has {} bytes, which is more than {from_flag}{MESSAGE_BYTES} {}: shorten it",
                welcome.len(),
                Size(message as u64)
            );
            error(keys::WELCOME.about.name, &what)
        }
        _ => Ok(()),
    }
}

/// Refuses a pattern that the rules above it leave nothing to match. `before` are these, with their lines.
///
/// # Errors
/// Names the rules that come first.
pub(super) fn check_reachable(
    table: &Table<'_>,
    rule: &TopicRule,
    before: &[(usize, TopicRule)],
) -> Result<(), Error> {
    let patterns: Vec<_> = before.iter().map(|(_, rule)| &rule.pattern).collect();
    let Some(covering) = rule.pattern.covered_by(&patterns) else { return Ok(()) };
    let why = match covering.as_slice() {
        [one] if before[*one].1.pattern == rule.pattern => {
            format!("since line {} has the same pattern: remove one of the rules", before[*one].0)
        }
        [one] => {
            let (line, first) = &before[*one];
            format!(
                "since {} in line {line} comes first: put this rule above it",
                quote(first.pattern.as_str())
            )
        }
        several => {
            let lines: Vec<_> = several.iter().map(|at| before[*at].0.to_string()).collect();
            let (last, others) = lines.split_last().expect("more than one");
            format!(
                "since the rules in lines {} and {last} come first and leave it no topic: remove it",
                others.join(", ")
            )
        }
    };
    let name = keys::MATCH.about.name;
    Err(table.error(name, format_args!("{name} {} can never match, {why}", quote(rule.pattern.as_str()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toml::de::DeValue;

    proptest! {
        #[test]
        fn any_text_is_one_line_in_quotes(text in any::<String>()) {
            let quoted = in_quotes(&text);
            prop_assert!(!quoted.contains(char::is_control));
            let read = DeValue::parse(&quoted).expect("a string").into_inner();
            prop_assert_eq!(read.as_str(), Some(text.as_str()));
        }
    }
}
