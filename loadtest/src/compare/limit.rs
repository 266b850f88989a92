//! What `limit` runs: the server against the bare server, with the bare servers that fit each load.
//!
//! Each bare server has a variant of its own, with the server beside it: so the two runs of a pair are neighbours, and
//! no ratio is between runs that are minutes apart.
//!
//! The bare servers are peers like any other; their command is this program's own `bare`.

use std::env;

use super::args::LimitArgs;
use super::flags::{Flags, Value};
use super::load::Load;
use super::peer::{self, Peer};
use super::placement::Placement;
use super::plan::{Contender, Plan, Variant, variants};
use super::scenario::Scenario;
use crate::failure::Failure;

/// The greatest number of messages under way that the bare server sends exactly so many of at once.
const EXACT_MAX: u32 = 32;

/// How a bare server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bare {
    /// `send` or `uring`.
    sends: &'static str,
    /// A number, `ring` or `snapshot`.
    take: String,
}

impl Bare {
    /// `bare-send-8`, `bare-uring-ring`, and `bare-ring` for `bare-send-ring`.
    fn parse(name: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::Usage(format!(
                "--against {name}: write bare-SENDS-TAKE: send or uring, then a number of messages, ring or \
                 snapshot: bare-send-8, bare-uring-ring"
            ))
        };
        let rest = name.strip_prefix("bare-").ok_or_else(wrong)?;
        let (sends, take) = match rest.split_once('-') {
            Some(("send", take)) => ("send", take),
            Some(("uring", take)) => ("uring", take),
            Some(_) => return Err(wrong()),
            None => ("send", rest),
        };
        let exact = take.parse::<u32>().is_ok_and(|count| count > 0);
        if exact || ["ring", "snapshot"].contains(&take) {
            Ok(Self { sends, take: take.into() })
        } else {
            Err(wrong())
        }
    }

    fn name(&self) -> String {
        format!("bare-{}-{}", self.sends, self.take)
    }

    fn about(&self) -> String {
        let how = if self.sends == "send" { "send()" } else { "batched io_uring sends" };
        match self.take.as_str() {
            "ring" => format!("a bare loop of {how} of all that is pending, reading the live head"),
            "snapshot" => format!("a bare loop of {how} of all that is pending when its lap begins"),
            "1" => format!("a bare loop of {how} of one message"),
            count => format!("a bare loop of {how} of {count} messages at once"),
        }
    }

    fn peer(&self, program: &str) -> Peer {
        let words =
            [program, "bare", "--listen", "127.0.0.1:{port}", "--sends", self.sends, "--take", &self.take];
        let start = words.map(Into::into).to_vec();
        let url = "ws://127.0.0.1:{port}/ws/bench";
        Peer::known(&self.name(), self.about(), start, url, env!("CARGO_PKG_VERSION"))
    }
}

/// The bare servers for so many messages under way; `None` is an open loop, where one message at a time is.
fn fitting(outstanding: Option<u32>) -> Vec<Bare> {
    let mut takes = Vec::new();
    if let Some(count) = outstanding.filter(|count| *count <= EXACT_MAX) {
        takes.push(count.to_string());
    }
    match outstanding {
        Some(1) => {}
        None => takes.push("1".into()),
        Some(_) => takes.extend(["snapshot".into(), "ring".into()]),
    }
    let both = |take: String| ["send", "uring"].map(|sends| Bare { sends, take: take.clone() });
    takes.into_iter().flat_map(both).collect()
}

/// The plan of `limit`.
pub(super) fn plan(args: &LimitArgs) -> Result<Plan, Failure> {
    let program = env::current_exe().map_err(Failure::system("cannot find this program's own file"))?;
    let program = program.to_string_lossy().into_owned();
    let directory = peer::directory(args.series.peers_dir.as_deref())?;
    let server = peer::select(std::slice::from_ref(&args.server), directory.as_deref())?;
    let server: Vec<Contender> = server.into_iter().map(Contender::new).collect();
    if let Some((name, why)) =
        server.iter().find_map(|contender| Some((&contender.peer.name, contender.skipped.as_ref()?)))
    {
        return Err(Failure::Usage(format!("--server {name} cannot run: {why}")));
    }
    let placements = Placement::choose(&args.series)?;
    let asked: Vec<Bare> = args.against.iter().map(|name| Bare::parse(name)).collect::<Result<_, _>>()?;

    let mut plan = Plan {
        command: "limit",
        peers: server,
        baseline: 0,
        scenarios: Vec::new(),
        variants: Vec::new(),
        placements,
        rounds: args.series.rounds,
    };
    let mut bares: Vec<Bare> = Vec::new();
    for &subscribers in &args.subscribers {
        for &payload_bytes in &args.payload_bytes {
            let scenario = scenario(args, subscribers, payload_bytes);
            let index = plan.scenarios.len();
            for variant in variants(index, &scenario, &plan.placements) {
                let outstanding = match variant.flags.get("outstanding") {
                    Some(Value::Whole(count)) => u32::try_from(*count).ok(),
                    _ => None,
                };
                let against = if asked.is_empty() { fitting(outstanding) } else { asked.clone() };
                for bare in against {
                    let words = [variant.name.clone(), format!("against={}", bare.name())];
                    let name = words.join(" ").trim_start().to_string();
                    let known = bares.iter().position(|known| *known == bare).unwrap_or_else(|| {
                        plan.peers.push(Contender::new(bare.peer(&program)));
                        bares.push(bare);
                        bares.len() - 1
                    });
                    plan.variants.push(Variant { name, peers: vec![0, 1 + known], ..variant.clone() });
                }
            }
            plan.scenarios.push(scenario);
        }
    }
    Ok(plan)
}

fn scenario(args: &LimitArgs, subscribers: u32, payload_bytes: u32) -> Scenario {
    let whole = |number: u32| Value::Whole(number.into());
    let mut flags = Flags::default();
    flags.set("subscribers", whole(subscribers));
    flags.set("payload-bytes", whole(payload_bytes));
    flags.set("warm-up", Value::Text("1s".into()));
    flags.set("duration", Value::Text("3s".into()));
    let vary = match args.rate {
        Some(rate) => {
            flags.set("rate", Value::Number(rate));
            flags.set("duration", Value::Text("5s".into()));
            None
        }
        None => Some(("outstanding".into(), args.outstanding.iter().copied().map(whole).collect())),
    };
    let about = match args.rate {
        Some(rate) => format!("{subscribers} idle subscribers, {payload_bytes} bytes, {rate} messages/s"),
        None => format!("{subscribers} subscribers, {payload_bytes} bytes, closed loop"),
    };
    Scenario {
        name: format!("limit-{subscribers}x{payload_bytes}"),
        about,
        command: Load::Fanout,
        flags,
        vary,
        knee: None,
        beside: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bares: &[Bare]) -> Vec<String> {
        bares.iter().map(Bare::name).collect()
    }

    #[test]
    fn bare_servers_by_name() {
        for (text, name) in [
            ("bare-send-1", "bare-send-1"),
            ("bare-uring-ring", "bare-uring-ring"),
            ("bare-ring", "bare-send-ring"),
            ("bare-snapshot", "bare-send-snapshot"),
        ] {
            assert_eq!(Bare::parse(text).unwrap().name(), name);
        }
        for text in ["stentor", "bare", "bare-", "bare-send-0", "bare-x-1", "bare-send-all", "bare-send-"] {
            let error = Bare::parse(text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("bare-send-8"), "{error}");
        }
        let peer = Bare::parse("bare-uring-8").unwrap().peer("/p");
        assert_eq!(peer.start.join(" "), "/p bare --listen 127.0.0.1:{port} --sends uring --take 8");
    }

    #[test]
    fn bare_servers_that_fit() {
        assert_eq!(names(&fitting(Some(1))), ["bare-send-1", "bare-uring-1"]);
        assert_eq!(names(&fitting(None)), ["bare-send-1", "bare-uring-1"]);
        let pending = ["bare-send-snapshot", "bare-uring-snapshot", "bare-send-ring", "bare-uring-ring"];
        assert_eq!(names(&fitting(Some(8)))[..2], ["bare-send-8", "bare-uring-8"]);
        assert_eq!(names(&fitting(Some(8)))[2..], pending);
        assert_eq!(names(&fitting(Some(64))), pending);
    }
}
