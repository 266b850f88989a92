//! What a configuration key is: its name and prose, its kind of value, and where it lies in [`Config`].
//!
//! Owns the step from raw texts to single typed values, with the error that names the flag. The keys themselves
//! stand in `keys`; how values depend on each other is `Config::resolve`'s concern.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::Config;
use super::kind::Kind;
use super::value::Refusal;

/// A heading of `--help` and of the reference page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The file with what flags do not say.
    File,
    /// Where and how fast connections are taken.
    Listening,
    /// Threads and what they send each other.
    Workers,
    /// Who may do what.
    Access,
    /// How many and how large.
    Limits,
    /// How long.
    Timeouts,
    /// Subscribers that do not keep up.
    SlowConsumers,
    /// Bounds on memory.
    Memory,
    /// What is told about itself.
    Logging,
}

impl Group {
    /// All groups in the order of the page.
    pub const ALL: [Self; 9] = [
        Self::File,
        Self::Listening,
        Self::Workers,
        Self::Access,
        Self::Limits,
        Self::Timeouts,
        Self::SlowConsumers,
        Self::Memory,
        Self::Logging,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Listening => "Listening",
            Self::Workers => "Workers",
            Self::Access => "Access",
            Self::Limits => "Limits",
            Self::Timeouts => "Timeouts",
            Self::SlowConsumers => "Slow consumers",
            Self::Memory => "Memory",
            Self::Logging => "Logging",
        }
    }
}

/// The name and the prose of a key. Plain sentences; code in backquotes.
pub struct About {
    /// The name without dashes in front: `pong-timeout`.
    pub name: &'static str,
    /// Where it stands.
    pub group: Group,
    /// The texts that hold if none is given, exactly as an operator would give them.
    pub default: &'static [&'static str],
    /// What the default amounts to, where its text does not say it; empty otherwise.
    pub means: &'static str,
    /// Whether the flag may be given more than once.
    pub repeats: bool,
    /// One line, for `-h`: no capital in front, no full stop behind.
    pub brief: &'static str,
    /// What it bounds and what happens at the bound.
    pub effect: &'static str,
    /// Why the default is what it is.
    pub reason: &'static str,
    /// The most memory that it can cost; empty where it costs none.
    pub memory: &'static str,
}

impl About {
    /// The name of its environment variable: `STENTOR_PONG_TIMEOUT`. Reserved; nothing reads it yet.
    pub fn environment(&self) -> String {
        format!("STENTOR_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// [`About::brief`] as the beginning of a sentence.
    pub fn brief_sentence(&self) -> String {
        let mut chars = self.brief.chars();
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
    }

    /// What follows the allowed values: whether it may be repeated.
    pub fn repeats_text(&self) -> &'static str {
        if self.repeats { ". May be repeated" } else { "" }
    }

    /// The default for people: its text and what that means.
    pub fn default_text(&self) -> String {
        match (self.default.join(", "), self.means) {
            (text, "") => text,
            (text, means) if text.is_empty() => means.to_owned(),
            (text, means) => format!("{text} ({means})"),
        }
    }
}

/// One key of the configuration.
pub struct Key<K: Kind> {
    /// Its name and prose.
    pub about: About,
    /// What its text may be.
    pub kind: K,
    /// Its value in a configuration: one, or as many as were given. None if it was left open.
    pub field: fn(&Config) -> Vec<K::Value>,
}

/// A [`Key`] of whatever kind, as the table holds it.
pub trait Entry: Sync {
    /// Its name and prose.
    fn about(&self) -> &About;
    /// What is allowed, for people.
    fn accepts(&self) -> String;
    /// What stands for the value in `--help`.
    fn placeholder(&self) -> &'static str;
    /// The unit; empty where there is none.
    fn unit(&self) -> &'static str;
    /// Whether the flag may stand alone.
    fn is_switch(&self) -> bool;
    /// Whether its texts must not be shown.
    fn is_secret(&self) -> bool;
    /// Reads a text and writes its value again: the one way in which the value is written.
    ///
    /// # Errors
    /// [`Error`] if the text is not a value of this key.
    fn canonical(&self, text: &str) -> Result<String, Error>;
    /// The values that hold in `config`, as texts.
    fn effective(&self, config: &Config) -> Vec<String>;
}

impl<K: Kind> Key<K> {
    /// Reads one text.
    fn parse(&self, text: &str) -> Result<K::Value, Error> {
        self.kind.parse(text).map_err(|refusal| {
            let why = match refusal {
                Refusal::Form(expected) => expected,
                Refusal::Range => format!("out of range, allowed is {}", self.kind.accepts()),
            };
            let shown = if self.kind.is_secret() { "(not shown)".to_owned() } else { quote(text) };
            Error::new(format!("--{} {shown}: {why}", self.about.name))
        })
    }
}

impl<K: Kind + Sync> Entry for Key<K> {
    fn about(&self) -> &About {
        &self.about
    }

    fn accepts(&self) -> String {
        self.kind.accepts()
    }

    fn placeholder(&self) -> &'static str {
        self.kind.placeholder()
    }

    fn unit(&self) -> &'static str {
        self.kind.unit()
    }

    fn is_switch(&self) -> bool {
        self.kind.is_switch()
    }

    fn is_secret(&self) -> bool {
        self.kind.is_secret()
    }

    fn canonical(&self, text: &str) -> Result<String, Error> {
        self.parse(text).map(|value| self.kind.show(&value))
    }

    fn effective(&self, config: &Config) -> Vec<String> {
        (self.field)(config).iter().map(|value| self.kind.show(value)).collect()
    }
}

/// What an operator has to put right: one line that names the flag, without a line break in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// An error of this text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A foreign text fit for an error line: without control characters, and not longer than a line.
pub(crate) fn quote(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let end = text.char_indices().nth(CHARS_MAX).map(|(end, _)| end);
    let mut quoted = escape(&text[..end.unwrap_or(text.len())]);
    if end.is_some() {
        quoted.push('…');
    }
    quoted
}

/// A foreign text without control characters.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '\'' | '"' | '\\' => escaped.push(char),
            _ => escaped.extend(char.escape_debug()),
        }
    }
    escaped
}

/// The raw texts that were given, by the name of their key; not looked into yet.
#[derive(Debug, Default)]
pub struct Given(BTreeMap<&'static str, Vec<String>>);

impl Given {
    /// Notes one more text for a key.
    pub fn add(&mut self, about: &'static About, text: String) {
        self.0.entry(about.name).or_default().push(text);
    }

    /// Every value of a key, in the order given; its default if none was.
    ///
    /// # Errors
    /// [`Error`] for the first text that is not a value of the key.
    pub fn all<K: Kind>(&self, key: &Key<K>) -> Result<Vec<K::Value>, Error> {
        match self.0.get(key.about.name) {
            Some(texts) => texts.iter().map(|text| key.parse(text)).collect(),
            None => key.about.default.iter().map(|text| key.parse(text)).collect(),
        }
    }

    /// The value of a key that was given last, or its default; `None` if it has no default.
    ///
    /// # Errors
    /// [`Error`] if a text is not a value of the key.
    pub fn last<K: Kind>(&self, key: &Key<K>) -> Result<Option<K::Value>, Error> {
        Ok(self.all(key)?.pop())
    }

    /// The value of a key that has a default.
    ///
    /// # Errors
    /// [`Error`] if a text is not a value of the key.
    pub fn one<K: Kind>(&self, key: &Key<K>) -> Result<K::Value, Error> {
        self.last(key)?.ok_or_else(|| Error::new(format!("--{} has to be given", key.about.name)))
    }
}
