//! What is run against each server, as a scenario file describes it.
//!
//! Owns the file's keys, the files that come with this program, and `--set`. A scenario is one load command with
//! flags; one of them may vary, a rate may be swept for its knee, and other commands may run beside it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flags::{self, Flags, Value};
use super::load::Load;
use crate::cli::parse_duration;
use crate::failure::Failure;

/// The files of `loadtest/scenarios`, so that a name works wherever this program lies.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "one-topic",
    "large",
    "ten-thousand",
    "broadcast",
    "flood",
    "half-limit",
    "many-topics",
    "slow-1-percent",
    "slow-10-percent",
    "stuck-1-percent",
    "stuck-10-percent",
    "storm",
    "idle",
    "echo",
    "handshakes",
    "rate-sweep",
];

/// What runs where no scenario is named: about a minute per server and round.
pub(crate) const DEFAULT: &str = "one-topic,flood,broadcast,echo,handshakes";

/// What a scenario file may say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    about: String,
    command: Load,
    #[serde(default)]
    flags: Flags,
    #[serde(default)]
    vary: Vary,
    knee: Option<Knee>,
    #[serde(default)]
    beside: Vec<Beside>,
}

type Vary = std::collections::BTreeMap<String, Vec<Value>>;

/// A sweep of the rate: it rises until the server does not hold it, then closes in on the highest one held.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Knee {
    /// Messages per second to begin with.
    pub(super) rate_from: f64,
    /// Not to be exceeded.
    pub(super) rate_max: f64,
    /// By what the rate rises from step to step.
    pub(super) factor: f64,
    /// Steps between the last rate that was held and the first that was not.
    pub(super) bisections: u32,
    /// A rate is held only if the 99th percentile of latency is at most this many milliseconds.
    pub(super) p99_ms_max: f64,
}

/// A load command that runs at the same time, against the same server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Beside {
    /// Which.
    pub(super) command: Load,
    /// How long after the scenario's own command: `1500ms`.
    #[serde(default = "at_once")]
    pub(super) after: String,
    /// Its flags.
    #[serde(default)]
    pub(super) flags: Flags,
}

fn at_once() -> String {
    "0s".into()
}

/// What is run against each server.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// The file's name.
    pub(super) name: String,
    /// One line for people.
    pub(super) about: String,
    /// The command.
    pub(super) command: Load,
    /// Its flags.
    pub(super) flags: Flags,
    /// The flag that varies, and its values.
    pub(super) vary: Option<(String, Vec<Value>)>,
    /// The sweep, if it is one.
    pub(super) knee: Option<Knee>,
    /// What runs beside it.
    pub(super) beside: Vec<Beside>,
}

impl Scenario {
    /// Finds one by name, or reads it from a file.
    pub(super) fn find(asked: &str) -> Result<Self, Failure> {
        if let Some((name, text)) = FILES.iter().find(|(name, _)| *name == asked) {
            return Self::parse(text, name, &format!("{name}.toml"));
        }
        let path = Path::new(asked);
        if !path.is_file() {
            let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
            return Err(Failure::Usage(format!(
                "no scenario {asked:?}: neither a file nor one of {}",
                names.join(", ")
            )));
        }
        let text = fs::read_to_string(path).map_err(Failure::system(format!("cannot read {asked}")))?;
        Self::parse(&text, &path.file_stem().unwrap_or_default().to_string_lossy(), asked)
    }

    /// All that come with this program.
    pub(super) fn all() -> Result<Vec<Self>, Failure> {
        FILES.iter().map(|(name, _)| Self::find(name)).collect()
    }

    fn parse(text: &str, name: &str, place: &str) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::Usage(format!("{place}: {what}"));
        let Description { about, command, flags, vary, knee, beside } =
            toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        flags.check(command, &format!("{place}: [flags]"))?;
        if vary.len() > 1 || vary.values().any(Vec::is_empty) {
            return Err(wrong("[vary] takes one flag with at least one value".into()));
        }
        let vary = vary.into_iter().next();
        if let Some((flag, _)) = &vary {
            let mut varied = Flags::default();
            varied.set(flag, Value::Switch(false));
            varied.check(command, &format!("{place}: [vary]"))?;
        }
        for beside in &beside {
            beside.flags.check(beside.command, &format!("{place}: [[beside]]"))?;
            parse_duration(&beside.after).map_err(|what| wrong(format!("[[beside]] after: {what}")))?;
        }
        if let Some(knee) = &knee {
            if command != Load::Fanout || vary.is_some() {
                return Err(wrong("[knee] is for fanout, without [vary]".into()));
            }
            let rises = knee.factor > 1.0 && knee.rate_from >= 1.0 && knee.rate_max >= knee.rate_from;
            if !rises || knee.p99_ms_max <= 0.0 {
                return Err(wrong(
                    "[knee]: rate_from must be at least 1, p99_ms_max above 0, factor above 1, and rate_max no \
                     less than rate_from"
                        .into(),
                ));
            }
        }
        if flags.get("url").is_some() {
            return Err(wrong("[flags] url belongs to the peer, not to the scenario".into()));
        }
        Ok(Self { name: name.into(), about, command, flags, vary, knee, beside })
    }

    /// Sets a flag, or what the varied one varies over; whether the command has it.
    pub(super) fn set(&mut self, flag: &str, value: &str) -> bool {
        match &mut self.vary {
            Some((varied, values)) if varied == flag => {
                *values = value.split(',').map(Value::parse).collect();
            }
            _ if flags::has(self.command, flag) => self.flags.set(flag, Value::parse(value)),
            _ => return false,
        }
        true
    }

    /// About how long one run takes, without starting the server.
    pub(super) fn nominal(&self) -> Duration {
        let flag = |name, default: u64| match self.flags.get(name) {
            Some(Value::Text(text)) => parse_duration(text).unwrap_or_default(),
            _ => Duration::from_secs(default),
        };
        let once = flag("warm-up", 2) + flag("duration", 10) + flag("settle", 1) + Duration::from_secs(1);
        match &self.knee {
            None => once,
            Some(knee) => once * (8 + knee.bisections),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_the_directory_are_known_and_sound() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut found: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".toml", ""))
            .collect();
        found.sort();
        let mut known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(found, known);
        for scenario in Scenario::all().unwrap() {
            let mut arguments = scenario.flags.arguments();
            arguments.extend(["--url=ws://h/".into(), "--server-pid=1".into()]);
            scenario.command.check(&arguments).unwrap();
            for beside in scenario.beside {
                let mut arguments = beside.flags.arguments();
                arguments.push("--url=ws://h/".into());
                beside.command.check(&arguments).unwrap();
            }
        }
        DEFAULT.split(',').for_each(|name| assert!(known.contains(&name), "{name}"));
    }

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse(text, "x", "x.toml").map_err(|error| error.to_string())
    }

    const WHOLE: &str = r#"
        about = "a"
        command = "fanout"
        [flags]
        subscribers = 10
        [vary]
        outstanding = [1, 8]
        [[beside]]
        command = "idle"
        after = "1s"
        flags = { connections = 5, refusals = true }
    "#;

    #[test]
    fn a_whole_file() {
        let mut scenario = parse(WHOLE).unwrap();
        assert_eq!(scenario.vary, Some(("outstanding".into(), vec![Value::Whole(1), Value::Whole(8)])));
        assert_eq!(scenario.beside[0].command, Load::Idle);
        assert!(scenario.set("outstanding", "2,4") && scenario.set("duration", "1s"));
        assert!(!scenario.set("steps", "1"), "fanout has no such flag");
        assert_eq!(scenario.vary.unwrap().1, [Value::Whole(2), Value::Whole(4)]);
        assert_eq!(scenario.flags.arguments(), ["--duration=1s", "--subscribers=10"]);
    }

    #[test]
    fn mistakes_are_named_with_the_file() {
        let knee = "[knee]\nrate_from = 1\nrate_max = 9\nfactor = 2\nbisections = 1\np99_ms_max = 5";
        let plain = "about = \"a\"\ncommand = \"fanout\"\n";
        assert!(parse(&format!("{plain}{knee}")).is_ok());
        for (text, what) in [
            (WHOLE.replace("about", "abuot"), "unknown field `abuot`"),
            (WHOLE.replace("subscribers", "subscriber"), "no flag --subscriber"),
            (WHOLE.replace("outstanding", "outstandin"), "[vary]: `stentor-load fanout` has no flag"),
            (WHOLE.replace("outstanding", "rate = [1]\noutstanding"), "[vary] takes one flag"),
            (WHOLE.replace("refusals", "refuse"), "[[beside]]: `stentor-load idle` has no flag --refuse"),
            (WHOLE.replace("\"1s\"", "\"1\""), "[[beside]] after: write a number and a unit"),
            (WHOLE.replace("\"fanout\"", "\"fan\""), "unknown variant `fan`"),
            (format!("{plain}[flags]\nurl = \"x\""), "belongs to the peer"),
            (format!("{plain}{}", knee.replace("factor = 2", "factor = 1")), "factor above 1"),
            (format!("{plain}{}", knee.replace("rate_from = 1", "rate_from = 0.4")), "at least 1"),
            (format!("{WHOLE}{knee}"), "[knee] is for fanout, without [vary]"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with("x.toml: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let error = Scenario::find("nonsense").unwrap_err().to_string();
        assert!(error.contains("one-topic, large"), "{error}");
    }
}
