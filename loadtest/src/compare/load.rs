//! The load commands that a scenario may name, called in process.
//!
//! A run is the same as the single command's: its flags are parsed by the same parser, and its report is the JSON
//! that `--json` would print.

use std::fmt;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::harness::Screen;
use crate::report::{Figures, Report};
use crate::{echo, fanout, handshakes, idle, topics};

/// A load command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Load {
    /// `stentor-load fanout`
    Fanout,
    /// `stentor-load echo`
    Echo,
    /// `stentor-load idle`
    Idle,
    /// `stentor-load handshakes`
    Handshakes,
    /// `stentor-load topics`
    Topics,
}

impl Load {
    /// All of them.
    pub(super) const ALL: [Self; 5] = [Self::Fanout, Self::Echo, Self::Idle, Self::Handshakes, Self::Topics];

    /// As typed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::Echo => "echo",
            Self::Idle => "idle",
            Self::Handshakes => "handshakes",
            Self::Topics => "topics",
        }
    }

    /// Runs it with `arguments`, shown on `screen`; gives its report as JSON.
    pub(super) fn measure(self, arguments: &[String], screen: &Screen) -> Result<serde_json::Value, Failure> {
        match self.parse(arguments)? {
            Command::Fanout(args) => object(fanout::measure(&args, screen)),
            Command::Echo(args) => object(echo::measure(&args, screen)),
            Command::Idle(args) => object(idle::measure(&args, screen, &AtomicBool::new(false))),
            Command::Handshakes(args) => object(handshakes::measure(&args, screen)),
            Command::Topics(args) => object(topics::measure(&args, screen)),
            _ => unreachable!("a load's name is parsed as that load"),
        }
    }

    /// Fails if `arguments` cannot be parsed.
    pub(super) fn check(self, arguments: &[String]) -> Result<(), Failure> {
        self.parse(arguments).map(drop)
    }

    fn parse(self, arguments: &[String]) -> Result<Command, Failure> {
        let words = ["stentor-load", self.name()].into_iter().map(String::from);
        Cli::try_parse_from(words.chain(arguments.iter().cloned())).map(|cli| cli.command).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Failure::Usage(format!("{self}: {first}"))
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn object(report: Result<Report<impl Figures>, Failure>) -> Result<serde_json::Value, Failure> {
    Ok(serde_json::to_value(report?).expect("strings, numbers and lists always make JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_is_a_subcommand_of_its_name() {
        for load in Load::ALL {
            assert!(load.check(&["--url=ws://h/".into()]).is_ok(), "{load}");
            let error = load.check(&["--url=ws://h/".into(), "--threads=x".into()]).unwrap_err().to_string();
            assert!(error.starts_with(load.name()) && error.contains("'x'"), "{error}");
        }
    }
}
