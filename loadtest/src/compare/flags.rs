//! Flags of the load commands as files and `--set` give them: names without dashes, and values.
//!
//! Owns merging, placeholders, and the way into the argument list that clap parses. Whether a value makes sense is
//! clap's to say; that a name exists is checked here, so that the message can name the file.

use std::collections::BTreeMap;

use clap::CommandFactory;
use serde::{Deserialize, Serialize};

use super::load::Load;
use crate::cli::Cli;
use crate::failure::Failure;

/// What a flag is set to.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    /// A flag without a value: given, or left out.
    Switch(bool),
    /// An integer.
    Whole(i64),
    /// Any other number.
    Number(f64),
    /// Everything else: addresses, durations, templates.
    Text(String),
    /// A flag that is given several times.
    List(Vec<Self>),
}

impl Value {
    /// What somebody typed: a number or a switch where it looks like one.
    pub(super) fn parse(text: &str) -> Self {
        let number = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(Self::Number);
        match text {
            "true" => Self::Switch(true),
            "false" => Self::Switch(false),
            _ => {
                text.parse().map(Self::Whole).ok().or_else(number).unwrap_or_else(|| Self::Text(text.into()))
            }
        }
    }

    fn append(&self, name: &str, arguments: &mut Vec<String>) {
        match self {
            Self::Switch(true) => arguments.push(format!("--{name}")),
            Self::Switch(false) => {}
            Self::List(values) => values.iter().for_each(|value| value.append(name, arguments)),
            value => arguments.push(format!("--{name}={value}")),
        }
    }

    fn map_text(&self, map: &impl Fn(&str) -> String) -> Self {
        match self {
            Self::Text(text) => Self::Text(map(text)),
            Self::List(values) => Self::List(values.iter().map(|value| value.map_text(map)).collect()),
            other => other.clone(),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Switch(value) => write!(f, "{value}"),
            Self::Whole(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value}"),
            Self::List(values) => {
                let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(f, "{}", texts.join(","))
            }
        }
    }
}

/// Flags by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Flags(BTreeMap<String, Value>);

/// Flags that the comparison itself sets.
const OWN: [&str; 5] = ["json", "html", "pin", "server-pid", "help"];

impl Flags {
    /// The value of a flag.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Sets a flag, in place of what it was.
    pub(super) fn set(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), value);
    }

    /// These with `others` in place of what they set as well.
    pub(super) fn with(mut self, others: &Self) -> Self {
        self.0.extend(others.0.clone());
        self
    }

    /// These with every text changed, as placeholders are filled.
    pub(super) fn map_text(&self, map: impl Fn(&str) -> String) -> Self {
        Self(self.0.iter().map(|(name, value)| (name.clone(), value.map_text(&map))).collect())
    }

    /// As arguments of a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        self.0.iter().for_each(|(name, value)| value.append(name, &mut arguments));
        arguments
    }

    /// Fails if `load` has no such flags; `place` says where they stand.
    pub(super) fn check(&self, load: Load, place: &str) -> Result<(), Failure> {
        let known = known(load);
        match self.0.keys().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(name) if OWN.contains(&name.as_str()) => {
                Err(Failure::Usage(format!("{place}: {name} cannot be set: each run sets it itself")))
            }
            Some(name) => Err(Failure::Usage(format!(
                "{place}: `stentor-load {load}` has no flag --{name}; `stentor-load {load} --help` lists them"
            ))),
        }
    }
}

/// Whether `load` has the flag `name`.
pub(super) fn has(load: Load, name: &str) -> bool {
    known(load).iter().any(|known| known == name)
}

fn known(load: Load) -> Vec<String> {
    let cli = Cli::command();
    let command = cli.find_subcommand(load.name()).expect("every load is a subcommand");
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    names.filter(|name| !OWN.contains(name)).map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(toml: &str) -> Flags {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn values_of_all_kinds_become_arguments() {
        let flags = flags(
            "subscribers = 10\nrate = 0.5\nrefusals = true\nquiet = false\nurl = \"ws://h/?a=b\"\nsteps = [5, 15]\n\
             subscriber-query = \"\"",
        );
        assert_eq!(
            flags.arguments(),
            [
                "--rate=0.5",
                "--refusals",
                "--steps=5",
                "--steps=15",
                "--subscriber-query=",
                "--subscribers=10",
                "--url=ws://h/?a=b"
            ]
        );
    }

    #[test]
    fn typed_values() {
        let typed = ["12", "0.5", "true", "10s", "inf", ""].map(Value::parse);
        let text = |text: &str| Value::Text(text.into());
        let want =
            [Value::Whole(12), Value::Number(0.5), Value::Switch(true), text("10s"), text("inf"), text("")];
        assert_eq!(typed, want);
    }

    #[test]
    fn later_flags_take_the_place_of_earlier_ones() {
        let merged = flags("a = 1\nb = 2").with(&flags("b = 3\nc = 4"));
        assert_eq!(merged, flags("a = 1\nb = 3\nc = 4"));
        let filled =
            flags("a = \"{port}\"\nb = [\"x{port}\", 1]").map_text(|text| text.replace("{port}", "80"));
        assert_eq!(filled, flags("a = \"80\"\nb = [\"x80\", 1]"));
    }

    #[test]
    fn unknown_flags_are_named_with_their_place() {
        assert!(flags("subscribers = 1\nurl = \"x\"").check(Load::Fanout, "f").is_ok());
        let error = flags("subscriber = 1").check(Load::Fanout, "a.toml").unwrap_err().to_string();
        assert!(error.contains("a.toml") && error.contains("--subscriber;"), "{error}");
        let error = flags("pin = 1").check(Load::Echo, "a.toml").unwrap_err().to_string();
        assert!(error.contains("each run sets it itself"), "{error}");
        assert!(has(Load::Idle, "steps") && !has(Load::Fanout, "steps"));
    }
}
