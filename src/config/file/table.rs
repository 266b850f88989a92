//! One table of the file, read key by key, with errors that name file and line.

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use super::keys::{FileEntry, FileKey, Written};
use crate::config::key::{escape, quote};
use crate::config::kind::Kind;
use crate::config::value::Refusal;
use crate::config::{Error, keys};

/// The text of a file, and what to call it.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line that the byte at `at` is in, from 1 on.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    /// An error in the line of the byte at `at`.
    pub(super) fn error(&self, at: usize, what: impl std::fmt::Display) -> Error {
        Error::new(format!("{}:{}: {what}", escape(self.name), self.line(at)))
    }
}

/// A table under a header such as `[[topic]]`.
pub(super) struct Table<'a> {
    source: &'a Source<'a>,
    name: &'static str,
    known: &'static [&'static dyn FileEntry],
    at: usize,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The table called `name` whose header is at `at`.
    ///
    /// # Errors
    /// The first key that is none of `known`.
    pub(super) fn new(
        source: &'a Source<'a>,
        name: &'static str,
        known: &'static [&'static dyn FileEntry],
        at: usize,
        entries: &'a DeTable<'a>,
    ) -> Result<Self, Error> {
        let table = Self { source, name, known, at, entries };
        let unknown = entries
            .keys()
            .filter(|key| known.iter().all(|known| known.about().name != key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        match unknown {
            Some(key) => Err(source.error(key.span().start, table.unknown(key.get_ref()))),
            None => Ok(table),
        }
    }

    /// What is said of a key that it does not have.
    fn unknown(&self, key: &str) -> String {
        let names = || self.known.iter().map(|known| known.about().name);
        let (shown, table) = (quote(key), self.name);
        let flag = flag(key).filter(|flag| names().all(|name| name != *flag));
        if let (Some(name), None) = (near(key, names()), flag) {
            return format!("{shown}: unknown key of [[{table}]], did you mean {name}?");
        }
        if let Some(flag) = flag {
            return format!(
                "{shown}: not a key of [[{table}]]; for all topics give --{flag} on the command line"
            );
        }
        let names: Vec<_> = names().collect();
        format!("{shown}: unknown key of [[{table}]], its keys are {}", names.join(", "))
    }

    /// The line of a key's value; of the table's header, if it is not there.
    pub(super) fn line(&self, name: &str) -> usize {
        self.source.line(self.place(name))
    }

    /// An error in that line.
    pub(super) fn error(&self, name: &str, what: impl std::fmt::Display) -> Error {
        self.source.error(self.place(name), what)
    }

    fn place(&self, name: &str) -> usize {
        self.entries.get(name).map_or(self.at, |value| value.span().start)
    }

    /// The value of a key, if it is there.
    ///
    /// # Errors
    /// What is there is not a value of the key.
    pub(super) fn get<K: Kind>(&self, key: &FileKey<K>) -> Result<Option<K::Value>, Error> {
        let name = key.about.name;
        let Some(value) = self.entries.get(name) else { return Ok(None) };
        let Some(text) = text(value.get_ref(), key.about.written) else {
            let expected = match key.about.written {
                Written::AsFlag => "one value",
                Written::Text => "a text in quotes",
            };
            return Err(self.error(name, format_args!("{name}: expected {expected}: {}", key.about.example)));
        };
        key.kind.parse(&text).map(Some).map_err(|refusal| {
            let why = match refusal {
                Refusal::Form(expected) => expected,
                Refusal::Range => format!("out of range, allowed is {}", key.kind.accepts()),
            };
            self.error(name, format_args!("{name} {}: {why}", quote(&text)))
        })
    }

    /// The value of a key that has to be there.
    ///
    /// # Errors
    /// It is not there, or what is there is not a value of the key.
    pub(super) fn require<K: Kind>(&self, key: &FileKey<K>) -> Result<K::Value, Error> {
        self.get(key)?.ok_or_else(|| {
            let (name, table) = (key.about.name, self.name);
            self.error(name, format_args!("[[{table}]] has no {name}: add {}", key.about.example))
        })
    }
}

/// A value as the text that a flag would be given; `None` if it is not written so.
fn text<'a>(value: &'a DeValue<'_>, written: Written) -> Option<Cow<'a, str>> {
    match (value, written) {
        (DeValue::String(text), _) => Some(Cow::Borrowed(text)),
        (DeValue::Array(_) | DeValue::Table(_), _) | (_, Written::Text) => None,
        (DeValue::Integer(number), _) if number.radix() == 10 => {
            let digits = number.as_str();
            Some(Cow::Borrowed(digits.strip_prefix('+').unwrap_or(digits)))
        }
        (DeValue::Integer(number), _) => Some(Cow::Owned(
            u64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        )),
        (DeValue::Float(number), _) => Some(Cow::Borrowed(number.as_str())),
        (DeValue::Boolean(value), _) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        (DeValue::Datetime(time), _) => Some(Cow::Owned(time.to_string())),
    }
}

/// The flag of this name, also if it is written with underscores.
pub(super) fn flag(key: &str) -> Option<&'static str> {
    let name = key.replace('_', "-");
    keys::ALL.iter().map(|entry| entry.about().name).find(|flag| *flag == name)
}

/// The name that was probably meant: at most a third of its characters are different.
pub(super) fn near(key: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    const LONG: usize = 64;
    if key.len() > LONG {
        return None;
    }
    let key = key.to_lowercase().replace('_', "-");
    let distances = names.map(|name| (strsim::damerau_levenshtein(&key, name), name));
    let nearest = distances.min_by_key(|(distance, _)| *distance);
    nearest.filter(|(distance, name)| *distance <= name.len() / 3).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_a_flag_would_be() {
        for (written, read) in [
            ("5", "5"),
            ("+5", "5"),
            ("-5", "-5"),
            ("10_000", "10000"),
            ("0x10", "16"),
            ("0b101", "5"),
            ("99999999999999999999", "99999999999999999999"),
            ("0xfffffffffffffffff", "0xfffffffffffffffff"),
            ("1.5", "1.5"),
            ("true", "true"),
            ("1979-05-27", "1979-05-27"),
            ("\"64KiB\"", "64KiB"),
            ("'a\\b'", "a\\b"),
        ] {
            let value = DeValue::parse(written).expect(written).into_inner();
            assert_eq!(text(&value, Written::AsFlag).as_deref(), Some(read), "{written}");
            let is_text = written.starts_with(['"', '\'']);
            assert_eq!(text(&value, Written::Text).is_some(), is_text, "{written}");
        }
        for written in ["[1]", "{a = 1}"] {
            let value = DeValue::parse(written).expect(written).into_inner();
            assert_eq!(text(&value, Written::AsFlag), None, "{written}");
        }
    }

    #[test]
    fn near_is_near() {
        let names = || ["match", "history", "history-age", "max-message-bytes"].into_iter();
        for (key, name) in [
            ("histroy", Some("history")),
            ("history_age", Some("history-age")),
            ("Match", Some("match")),
            ("max-message-size", Some("max-message-bytes")),
            ("ttl", None),
            ("", None),
        ] {
            assert_eq!(near(key, names()), name, "{key}");
        }
        assert_eq!(near(&"history".repeat(100_000), names()), None);
    }

    #[test]
    fn lines_are_counted_from_one() {
        let source = Source { name: "a\nb", text: "x\n\ny" };
        assert_eq!([0, 1, 2, 3, 4, 100].map(|at| source.line(at)), [1, 1, 2, 3, 3, 3]);
        assert_eq!(source.error(3, "no").to_string(), "a\\nb:3: no");
    }
}
