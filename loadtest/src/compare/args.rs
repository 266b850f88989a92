//! Flags of `compare` and `limit`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::scenario::DEFAULT;
use crate::cli::{CpuList, parse_cpus, parse_positive};

/// Where server and generator run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlacementChoice {
    /// The server on CPUs of its own, the generator on others: measures the server.
    Apart,
    /// Both wherever the system puts them: measures the machine.
    Free,
    /// Everything once this way and once that way.
    Both,
}

/// What `compare` and `limit` have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct Series {
    /// Set a flag of the load commands, in place of what the scenario says: duration=1s. Where the scenario varies
    /// that flag, several values may be given: outstanding=1,8
    #[arg(long = "set", value_name = "FLAG=VALUE", value_parser = parse_set)]
    pub(super) sets: Vec<(String, String)>,
    /// How often everything is repeated; the servers take turns within each round
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Where server and generator run [default: apart if there are two CPUs]
    #[arg(long, value_enum)]
    pub(super) placement: Option<PlacementChoice>,
    /// CPUs of the server, placed apart [default: the first one]
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus)]
    pub(super) server_cpus: Option<CpuList>,
    /// CPUs of the generator, placed apart; it has one receiving thread on each [default: the second one]
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus)]
    pub(super) load_cpus: Option<CpuList>,
    /// Write everything as one JSON object, again after each round; `-` is standard output, once, and the tables go
    /// to standard error
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write everything as one HTML page, again after each round
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Where the directories of the peers are [default: $STENTOR_PEERS, or loadtest/peers here or above]
    #[arg(long, value_name = "DIR")]
    pub(super) peers_dir: Option<PathBuf>,
}

/// `stentor-load compare`
///
/// Each run has a fresh server process. The servers take turns, so that what the machine does meanwhile befalls all
/// alike; ratios are between runs of the same round. Exit status: 0 all runs are valid; 1 some are void or failed;
/// 2 nothing could run.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    /// Servers: names in the peers' directory, directories with a peer.toml, or such files [default: all that are
    /// in the peers' directory]
    #[arg(long = "peer", value_name = "NAME|DIR|FILE", value_delimiter = ',')]
    pub(super) peers: Vec<String>,
    /// What to run: names (see --list), or files
    #[arg(long = "scenario", value_name = "NAME|FILE", value_delimiter = ',', default_value = DEFAULT)]
    pub(super) scenarios: Vec<String>,
    /// Peer that ratios are to [default: the first one]
    #[arg(long, value_name = "PEER")]
    pub(super) baseline: Option<String>,
    /// List peers and scenarios, and run nothing
    #[arg(long)]
    pub(super) list: bool,
    #[command(flatten)]
    pub(super) series: Series,
}

/// `stentor-load limit`
///
/// The bare server (`stentor-load bare`) does nothing but send one prepared frame to every socket: what it costs is
/// what the machine asks for a delivery. Each run of a bare server is the neighbour of one of the server: ratios are
/// within these pairs, and who is first changes from round to round.
#[derive(Args, Clone, Debug)]
pub(crate) struct LimitArgs {
    /// The server: a name in the peers' directory, a directory with a peer.toml, or such a file
    #[arg(long, value_name = "NAME|DIR|FILE", default_value = "stentor")]
    pub(super) server: String,
    /// Connections that receive
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1000")]
    pub(super) subscribers: Vec<u32>,
    /// Size of each message
    #[arg(long, value_name = "BYTES,…", value_delimiter = ',', default_value = "64")]
    pub(super) payload_bytes: Vec<u32>,
    /// Messages under way
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_value = "1,8,32,64,256,1024,4096")]
    pub(super) outstanding: Vec<u32>,
    /// Instead of messages under way, this many per second, each to idle subscribers: how long until the last one
    /// has it
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_positive, conflicts_with = "outstanding")]
    pub(super) rate: Option<f64>,
    /// Bare servers: bare-SENDS-TAKE, where SENDS is send or uring, and TAKE is a number of messages per send, or
    /// ring or snapshot for all that are pending; bare-ring and bare-snapshot use send [default: for up to 32
    /// outstanding exactly as many per send, beyond 1 also ring and snapshot, all by send and by uring]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(super) against: Vec<String>,
    #[command(flatten)]
    pub(super) series: Series,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (flag, value) = text.split_once('=').ok_or("write flag=value: subscribers=1000")?;
    Ok((flag.trim_start_matches('-').into(), value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        assert_eq!(parse_set("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_set("--a="), Ok(("a".into(), String::new())));
        assert!(parse_set("a").is_err());
    }
}
