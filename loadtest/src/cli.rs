//! The command line: flags as typed, and what all commands share of them, checked.
//!
//! Flags that only make sense together are checked by each command before it opens a socket.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Target;
use crate::compare::args::{CompareArgs, LimitArgs};
use crate::dialect::template::parse_query;
use crate::dialect::{AddressArgs, DialectArgs, PublishArgs};
use crate::failure::Failure;
use crate::poller::{DIALS_MAX, Ramp};
use crate::url::Url;

/// Connections opened per second where nothing else is asked for: brisk, and no flood.
const CONNECT_RATE: f64 = 5000.0;

/// Load generator and benchmark for WebSocket broadcast servers.
///
/// Exit status: 0 the figures are valid; 1 they are void (a message lost, repeated, out of order or damaged, or a
/// connection closed); 2 the run could not take place.
#[derive(Debug, Parser)]
#[command(name = "stentor-load", version)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish to many subscribers; every message is accounted for.
    Fanout(Box<FanoutArgs>),
    /// Send and wait for the same bytes to come back.
    Echo(EchoArgs),
    /// Publish by the server's HTTP API over connections that are kept.
    Api(ApiArgs),
    /// Cut clients off and let them come back; every message is accounted for.
    Recover(Box<RecoverArgs>),
    /// Hold connections open and read the server's memory.
    Idle(IdleArgs),
    /// Connect, upgrade and reset, as often as possible.
    Handshakes(HandshakesArgs),
    /// Publish one message to each of very many topics.
    Topics(TopicsArgs),
    /// Run servers through the same scenarios, interleaved and repeated.
    Compare(CompareArgs),
    /// Compare a server with the bare server: with what the machine asks for a delivery.
    Limit(LimitArgs),
    /// Serve: the bare server that others are compared with.
    Bare(BareArgs),
    /// Make one HTML page of what a command has printed with --json.
    Html(HtmlArgs),
}

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Where the server is: ws://host:port/path; {topic} may stand in it
    #[arg(long)]
    url: String,
    /// Threads that hold connections [default: half the CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// CPUs to bind the threads to, in turn: 1 or 0,2 or 4-7
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus)]
    pub(crate) pin: Option<CpuList>,
    /// Connect from 127.0.0.1 to 127.0.0.N in turn; needed beyond about 28,000 connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=254))]
    source_addresses: u8,
    /// Connections to open per second; 0: as fast as the server answers [default: 0 for handshakes and topics,
    /// otherwise 5000]
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_not_negative)]
    connect_rate: Option<f64>,
    /// Bound on connect and upgrade of one connection, and again on what makes it ready
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    connect_timeout: Duration,
    /// Process whose CPU time and memory to report: the server's
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Print one JSON object to standard output, and text for people to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Write one self-contained HTML page with charts of what was measured
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) address: AddressArgs,
}

impl Common {
    /// The server's URL as typed.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The server, resolved.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        self.target_at("--url", &self.url)
    }

    /// The server at a WebSocket URL that was given with `flag`, resolved.
    pub(crate) fn target_at(&self, flag: &str, url: &str) -> Result<Target, Failure> {
        let url = Url::parse(url).map_err(|what| Failure::Usage(format!("{flag} {what}")))?;
        let target = Target::resolve(url, self.source_addresses, self.connect_timeout)?;
        Ok(target.with(self.address.subprotocol.as_deref(), &self.address.header))
    }

    /// The server at an HTTP URL that was given with `flag`, resolved.
    pub(crate) fn target_http(&self, flag: &str, url: &str) -> Result<Target, Failure> {
        let url = Url::parse_http(url).map_err(|what| Failure::Usage(format!("{flag} {what}")))?;
        Target::resolve(url, self.source_addresses, self.connect_timeout)
    }

    /// Threads that hold connections: no more than there are connections.
    pub(crate) fn threads(&self, connections: usize) -> usize {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or((cpus / 2).max(1), usize::from).min(connections.max(1))
    }

    /// Paces a thread, one of `threads`, that opens connections in order to hold them.
    pub(crate) fn ramp(&self, threads: usize) -> Ramp {
        self.storm(threads, DIALS_MAX)
    }

    /// The same with up to `dials_max` handshakes under way.
    pub(crate) fn storm(&self, threads: usize, dials_max: usize) -> Ramp {
        Ramp::new(self.connect_rate.unwrap_or(CONNECT_RATE) / threads as f64, dials_max)
    }

    /// Paces a thread, one of `threads`, whose work is to open connections, `concurrency` at once.
    pub(crate) fn churn(&self, threads: usize, concurrency: usize) -> Ramp {
        Ramp::new(self.connect_rate.unwrap_or(0.0) / threads as f64, concurrency)
    }

    /// Binds the calling thread, the `index`th, as `--pin` says.
    pub(crate) fn pin_thread(&self, index: usize) -> Result<(), Failure> {
        match &self.pin {
            Some(CpuList(cpus)) => crate::proc::pin(cpus[index % cpus.len()]),
            None => Ok(()),
        }
    }
}

/// `stentor-load fanout`
#[derive(Args, Clone, Debug)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that receive
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) subscribers: u32,
    /// Further connections that subscribe and never read. They are not accounted for
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub(crate) stuck: u32,
    /// Further connections that subscribe and read slowly. They are not accounted for
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub(crate) slow_readers: u32,
    /// What each of --slow-readers reads
    #[arg(long, value_name = "BYTES", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) slow_bytes_per_second: u32,
    /// Connections that publish [default: one per topic]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) publishers: Option<u32>,
    /// Spread over this many topics: with more than one, /0, /1, … are added to the path if {topic} stands nowhere
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) topics: u32,
    /// Open loop: messages per second in all, at fixed instants
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_positive, conflicts_with = "outstanding")]
    pub(crate) rate: Option<f64>,
    /// Closed loop: messages under way in all; one is done when its last subscriber has it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) outstanding: Option<u32>,
    /// Size of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=64 << 20))]
    pub(crate) payload_bytes: u32,
    #[command(flatten)]
    pub(crate) dialect: DialectArgs,
    #[command(flatten)]
    pub(crate) publish: PublishArgs,
    /// Wait between the moment when the last subscriber is ready and the first message
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub(crate) settle: Duration,
    /// Publish this long before measuring; these messages are accounted for as well
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Measure this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_duration)]
    pub(crate) duration: Duration,
    /// Wait at most this long for stragglers in the end, and for any sign of life in a stalled run
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive_duration)]
    pub(crate) drain_timeout: Duration,
}

/// `stentor-load echo`
#[derive(Args, Clone, Debug)]
pub(crate) struct EchoArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections: u32,
    /// Messages under way on each connection
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Size of each message
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=64 << 20))]
    pub(crate) payload_bytes: u32,
    /// Send this long before measuring
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Measure this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_duration)]
    pub(crate) duration: Duration,
    /// Wait at most this long for stragglers in the end
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive_duration)]
    pub(crate) drain_timeout: Duration,
}

/// `stentor-load api`
#[derive(Args, Clone, Debug)]
pub(crate) struct ApiArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections: u32,
    /// Requests under way on each connection; more than one are pipelined
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Size of each message, without the JSON around it
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    pub(crate) payload_bytes: u32,
    /// Publish this long before measuring; these are counted as well
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Measure this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_duration)]
    pub(crate) duration: Duration,
    /// Wait at most this long for stragglers in the end
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive_duration)]
    pub(crate) drain_timeout: Duration,
}

/// `stentor-load recover`
#[derive(Args, Clone, Debug)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that are cut off and come back
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) clients: u32,
    /// Further connections that stay
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub(crate) staying: u32,
    /// Messages per second while nobody is cut off, all the time; 0: none but --missed
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50.0, value_parser = parse_not_negative)]
    pub(crate) rate: f64,
    /// Messages that are published, besides, while the clients are away
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) missed: u32,
    /// Size of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(28..=64 << 20))]
    pub(crate) payload_bytes: u32,
    /// Publish this long before all are cut off
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) before: Duration,
    /// Stay away this long
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub(crate) away: Duration,
    /// Come back one after another within this time; 0s: as fast as the server answers
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(crate) within: Duration,
    /// Handshakes under way at once, per thread
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// Wait at most this long for all to have all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_positive_duration)]
    pub(crate) drain_timeout: Duration,
}

/// `stentor-load idle`
#[derive(Args, Clone, Debug)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections to hold [default: the last of --steps, or 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) connections: Option<u32>,
    /// Handshakes under way at once, per thread
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// Count connections that the server refuses, and go on; without it the first one ends the run
    #[arg(long)]
    pub(crate) refusals: bool,
    /// Numbers of connections at which to read the server's memory, rising: 5000,15000
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', requires = "server_pid")]
    pub(crate) steps: Vec<u32>,
    /// Wait at each step before the memory is read
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) settle: Duration,
    /// Hold all connections this long, or until SIGINT or SIGTERM
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_duration)]
    pub(crate) duration: Duration,
    #[command(flatten)]
    pub(crate) dialect: DialectArgs,
}

/// `stentor-load handshakes`
#[derive(Args, Clone, Debug)]
pub(crate) struct HandshakesArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Handshakes under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// Go on this long before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Measure this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_positive_duration)]
    pub(crate) duration: Duration,
}

/// `stentor-load topics`
#[derive(Args, Clone, Debug)]
pub(crate) struct TopicsArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Topics: /0, /1, … under the URL's path, if no {topic} stands in it
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: u32,
    /// Size of the one message per topic
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64 << 20))]
    pub(crate) payload_bytes: u32,
    /// Query that makes a connection publish only
    #[arg(long, value_name = "QUERY", default_value = "mode=pub", value_parser = parse_query)]
    pub(crate) publisher_query: String,
    /// Wait before each reading of the server's memory
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub(crate) settle: Duration,
}

/// `stentor-load bare`
#[derive(Args, Clone, Debug)]
pub(crate) struct BareArgs {
    /// Where to listen; with port 0 the system chooses one, and it is said on standard error
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// How bytes are sent
    #[arg(long, value_enum, default_value = "send")]
    pub(crate) sends: SendBy,
    /// What a send holds: N, exactly that many messages; snapshot, what is there when a walk over all sockets begins;
    /// ring, what is there when the socket's turn comes
    #[arg(long, value_name = "N|snapshot|ring", default_value = "ring", value_parser = parse_take)]
    pub(crate) take: Take,
    /// Subscribers' sockets are in io_uring's table only: they take no file descriptors
    #[arg(long)]
    pub(crate) direct_descriptors: bool,
}

/// How the bare server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendBy {
    /// One send() call each
    Send,
    /// io_uring, 64 sends in one call
    Uring,
}

/// What one send of the bare server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Exactly so many messages.
    Messages(NonZeroU32),
    /// What is there when a walk over all sockets begins.
    Snapshot,
    /// What is there when the socket's turn comes.
    Ring,
}

fn parse_take(text: &str) -> Result<Take, String> {
    match text {
        "snapshot" => Ok(Take::Snapshot),
        "ring" => Ok(Take::Ring),
        _ => text
            .parse()
            .map(Take::Messages)
            .map_err(|_| "expected a number of messages, at least 1, or snapshot, or ring".into()),
    }
}

/// `stentor-load html`
#[derive(Args, Clone, Debug)]
pub(crate) struct HtmlArgs {
    /// What a command has printed with --json; -: standard input
    #[arg(value_name = "INPUT.json")]
    pub(crate) input: PathBuf,
    /// Where to write the page [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Numbers of CPUs, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuList(Vec<usize>);

impl CpuList {
    /// A list of one.
    pub(crate) fn one(cpu: usize) -> Self {
        Self(vec![cpu])
    }

    /// Their numbers, in the order given.
    pub(crate) fn numbers(&self) -> &[usize] {
        &self.0
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join(","))
    }
}

pub(crate) fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 1024 => cpus.extend(first..=last),
            _ => return Err(format!("{part:?} is neither a CPU nor a range of CPUs like 4-7")),
        }
    }
    Ok(CpuList(cpus))
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("write a number and a unit: 500ms, 10s, 2m or 1h".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Some(number * seconds_per_unit)
        .filter(|seconds| *seconds <= 72.0 * 3600.0)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "at most 72h".into())
}

fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

fn parse_not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be 0 or more".into()) }
}

pub(crate) fn parse_positive(text: &str) -> Result<f64, String> {
    match parse_not_negative(text)? {
        0.0 => Err("must be more than 0".into()),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, ms) in [("500ms", 500), ("2s", 2000), ("1.5s", 1500), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.2.3s", "80h", "1d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_positive_duration("0ms").is_err());
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("1"), Ok(CpuList(vec![1])));
        assert_eq!(parse_cpus("0,4-6"), Ok(CpuList(vec![0, 4, 5, 6])));
        for text in ["", "a", "3-1", "1,", "9999"] {
            assert!(parse_cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn takes() {
        assert_eq!(parse_take("8"), Ok(Take::Messages(NonZeroU32::new(8).unwrap())));
        assert_eq!((parse_take("snapshot"), parse_take("ring")), (Ok(Take::Snapshot), Ok(Take::Ring)));
        for text in ["", "0", "-1", "all"] {
            assert!(parse_take(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_not_negative("0"), Ok(0.0));
        assert_eq!(parse_positive("0.5"), Ok(0.5));
        for text in ["0", "-1", "inf", "NaN", "x"] {
            assert!(parse_positive(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rate_and_outstanding_exclude_each_other() {
        let both = ["stentor-load", "fanout", "--url", "ws://h/", "--rate", "1", "--outstanding", "1"];
        assert!(Cli::try_parse_from(both).is_err());
    }
}
