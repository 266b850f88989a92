//! Why a run could not take place: each a single line that says what, where, and what to do. Exit status 2.
//!
//! A run that took place and went wrong is no failure but a void report (see `report`).

use std::fmt;
use std::io;
use std::time::Duration;

/// What stops a run before it can measure.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A flag or the URL makes no sense.
    Usage(String),
    /// The TCP connection could not be made.
    Connect {
        /// Where to.
        url: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server answered the upgrade with something other than 101.
    Status {
        /// Which URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its reason phrase.
        reason: String,
        /// How the start of its body, if that has come, is shown.
        body: String,
    },
    /// The server answered the upgrade and then would not do its part, or would not take a message.
    Refused {
        /// Which URL.
        url: String,
        /// What it did instead.
        how: String,
    },
    /// The answer to the upgrade is no valid one.
    Handshake {
        /// Which URL.
        url: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No answer in time.
    Timeout {
        /// Which URL.
        url: String,
        /// `--connect-timeout`.
        after: Duration,
    },
    /// More connections than this process may have files.
    FileLimit {
        /// Connections asked for.
        connections: usize,
        /// Files needed for them.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The system refused something else.
    System {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure {
    /// Wraps what the system said about `what`.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(f, "{what}"),
            Self::Connect { url, source } => match source.kind() {
                io::ErrorKind::ConnectionRefused => {
                    write!(f, "{url}: connection refused: is the server listening there?")
                }
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => write!(
                    f,
                    "{url}: no local port left ({source}): spread over --source-addresses 4, or wait a minute for \
                     old connections to leave TIME_WAIT"
                ),
                _ => write!(f, "{url}: cannot connect: {source}"),
            },
            Self::Status { url, status, reason, body } => {
                write!(f, "{url}: the upgrade was answered with HTTP {status} {reason}{body}, not 101")
            }
            Self::Refused { url, how } => write!(f, "{url}: {how}"),
            Self::Handshake { url, what } => {
                write!(f, "{url}: the answer to the upgrade is not valid: {what}")
            }
            Self::Timeout { url, after } => write!(
                f,
                "{url}: no answer to connect or upgrade within {after:?}: lower --connect-rate or raise \
                 --connect-timeout"
            ),
            Self::FileLimit { connections, needed, limit } => write!(
                f,
                "{connections} connections need {needed} open files, the hard limit is {limit}: ask for fewer, or \
                 raise it first (`ulimit -Hn {needed}` as root, or LimitNOFILE)"
            ),
            Self::System { what, source } => write!(f, "{what}: {source}"),
        }
    }
}
