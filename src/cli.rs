//! The command line: `stentor [serve] [FLAGS]` → [`Command`].
//!
//! Owns what stands around the keys: `--help`, `--version`, `--check`, `--print-config`, and the one line that an
//! operator gets for a mistake. The flags themselves come from the table in `config::keys`.
//!
//! Invariant: a mistake is one line on stderr that begins with `stentor: `, and exit code 2.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, value_parser};

use crate::config::{Config, Entry, Given, keys, quote};

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve until a signal comes.
    Serve(Box<Config>),
    /// Print [`Config::flags`] and end with code 0.
    PrintConfig(Box<Config>),
    /// Print [`Config::summary`] and end with code 0.
    Check(Box<Config>),
}

/// An end before anything is started: help, version, or a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What to print, with its line break.
    pub message: String,
    /// The exit code: 0, or 2 for a mistake.
    pub code: u8,
    /// Whether it goes to stdout; to stderr otherwise.
    pub to_stdout: bool,
}

impl Exit {
    /// A mistake of the operator: `stentor: …` on stderr, code 2. `what` is one line.
    pub fn mistake(what: impl std::fmt::Display) -> Self {
        Self { message: format!("stentor: {what}\n"), code: 2, to_stdout: false }
    }

    /// Prints the message and gives the code for `main` to end with.
    pub fn report(&self) -> ExitCode {
        let message = self.message.as_bytes();
        // Whoever closed the pipe does not want the message; the exit code still counts.
        let _ = if self.to_stdout {
            std::io::stdout().write_all(message)
        } else {
            std::io::stderr().write_all(message)
        };
        ExitCode::from(self.code)
    }
}

const PRINT_CONFIG: &str = "print-config";
const CHECK: &str = "check";
/// The environment variable with keys of the server API, as `--api-key` takes them, with spaces between.
const API_KEYS: &str = "STENTOR_API_KEYS";
/// The optional word `serve`: a place for other commands.
const COMMAND: &str = "command";

const AFTER_HELP: &str = "\
A SIZE is in bytes or has a unit: 65536, 64KiB, 1MiB, 1GiB. A TIME has a unit: 500ms, 25s, 2m, 1h.
Without flags it listens on loopback only. -h is short, --help gives reasons, bounds and memory.";

/// Reads a command line, with the program's name as its first argument.
///
/// # Errors
/// [`Exit`] for `--help` and `--version`, and for every mistake: unknown flags, values that are not of their key or
/// contradict each other.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
    let matches = flags().try_get_matches_from(args).map_err(|error| exit(&error))?;
    let mut given = Given::default();
    for key in keys::ALL {
        let about = key.about();
        for text in matches.get_many::<OsString>(about.name).into_iter().flatten() {
            given.add(about, text.to_string_lossy().into_owned());
        }
    }
    let from_environment = std::env::var_os(API_KEYS).unwrap_or_default();
    for text in from_environment.to_string_lossy().split_whitespace() {
        keys::API_KEY.canonical(text).map_err(|error| Exit::mistake(format!("{API_KEYS}: {error}")))?;
        given.add(&keys::API_KEY.about, text.to_owned());
    }
    let config = Config::resolve(&given).map(Box::new).map_err(Exit::mistake)?;
    Ok(if matches.get_flag(PRINT_CONFIG) {
        Command::PrintConfig(config)
    } else if matches.get_flag(CHECK) {
        Command::Check(config)
    } else {
        Command::Serve(config)
    })
}

/// All flags, as clap takes them.
fn flags() -> clap::Command {
    let command = clap::Command::new("stentor")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A dedicated WebSocket broadcast server: one message in, very many clients out")
        .override_usage("stentor [serve] [FLAGS]")
        .after_help(AFTER_HELP)
        .allow_negative_numbers(true)
        .arg(Arg::new(COMMAND).value_parser(["serve"]).hide(true))
        .arg(
            Arg::new(CHECK)
                .long(CHECK)
                .action(ArgAction::SetTrue)
                .conflicts_with(PRINT_CONFIG)
                .help("Validate the flags, start nothing"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the value that each key has in effect, start nothing"),
        );
    keys::ALL.iter().fold(command, |command, key| command.arg(flag(*key)))
}

/// One key's flag.
fn flag(key: &'static dyn Entry) -> Arg {
    let about = key.about();
    let arg = Arg::new(about.name)
        .long(about.name)
        .help_heading(about.group.title())
        .value_name(key.placeholder())
        .value_parser(value_parser!(OsString))
        .action(if about.repeats { ArgAction::Append } else { ArgAction::Set })
        .help(short_help(key))
        .long_help(long_help(key));
    if key.is_switch() { arg.num_args(0..=1).require_equals(true).default_missing_value("on") } else { arg }
}

/// What `-h` says of a key: one line.
fn short_help(key: &dyn Entry) -> String {
    let about = key.about();
    match about.default {
        [] => about.brief_sentence(),
        default => format!("{} [default: {}]", about.brief_sentence(), default.join(", ")),
    }
}

/// What `--help` says of a key: the reference page's facts.
fn long_help(key: &dyn Entry) -> String {
    let about = key.about();
    let mut paragraphs = vec![
        format!("{}. {}", about.brief_sentence(), about.effect),
        format!("Default: {}. {}", about.default_text(), about.reason),
        format!("Allowed: {}{}.", key.accepts(), about.repeats_text()),
    ];
    if !about.memory.is_empty() {
        paragraphs.push(format!("Worst case in memory: {}", about.memory));
    }
    paragraphs.iter().map(|paragraph| wrap(paragraph)).collect::<Vec<_>>().join("\n")
}

/// Breaks a paragraph into lines that fit a terminal of 100 columns beside clap's indent of 10.
fn wrap(paragraph: &str) -> String {
    const COLUMNS: usize = 88;
    let mut wrapped = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        if column > 0 {
            let fits = column + 1 + width <= COLUMNS;
            wrapped.push(if fits { ' ' } else { '\n' });
            column = if fits { column + 1 } else { 0 };
        }
        wrapped.push_str(word);
        column += width;
    }
    wrapped
}

/// clap's finding as an exit: its help as it is, its errors as our one line.
fn exit(error: &clap::Error) -> Exit {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // clap names a flag with its value's placeholder behind: `--workers <N>`.
    let name = |kind| {
        context(kind).and_then(|text| text.split([' ', '[', '=']).next()).map(quote).unwrap_or_default()
    };
    let flag = name(ContextKind::InvalidArg);
    Exit::mistake(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Exit { message: error.to_string(), code: 0, to_stdout: true };
        }
        ErrorKind::UnknownArgument if flag.starts_with('-') => match context(ContextKind::SuggestedArg) {
            Some(known) => format!("{flag}: unknown flag, did you mean {known}?"),
            None => format!("{flag}: unknown flag, `stentor -h` lists all"),
        },
        ErrorKind::UnknownArgument => unexpected_word(&flag),
        ErrorKind::InvalidValue => match context(ContextKind::InvalidValue) {
            None | Some("") => format!("{flag}: its value is missing, as `stentor --help` describes"),
            Some(word) => unexpected_word(&quote(word)),
        },
        ErrorKind::ArgumentConflict => match name(ContextKind::PriorArg) {
            prior if prior == flag => format!("{flag}: given twice, but takes one value"),
            prior => format!("{flag}: cannot be combined with {prior}"),
        },
        ErrorKind::TooManyValues => format!("{flag}: takes no value"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            quote(line.strip_prefix("error: ").unwrap_or(line))
        }
    })
}

/// A word where only flags may stand.
fn unexpected_word(word: &str) -> String {
    format!(
        "{word}: not expected here; the only command is `serve`, and a switch takes its value as in --pin=on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_sound() {
        flags().debug_assert();
    }

    #[test]
    fn lines_are_broken_between_words() {
        let word = "x".repeat(43);
        assert_eq!(wrap(&format!("{word} {word}  {word}")), format!("{word} {word}\n{word}"));
        assert_eq!(wrap(""), "");
    }
}
