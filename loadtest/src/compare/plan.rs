//! What is run, and in which order.
//!
//! Within a round every variant is run with every peer, one after the other. From round to round the peers change
//! places, and the variants go forth and back: what the machine does meanwhile befalls all alike.

use super::flags::Flags;
use super::peer::Peer;
use super::placement::Placement;
use super::scenario::Scenario;

/// All that a comparison is about.
#[derive(Debug)]
pub(super) struct Plan {
    /// `compare` or `limit`.
    pub(super) command: &'static str,
    /// Servers, those that are skipped included.
    pub(super) peers: Vec<Contender>,
    /// Index of the peer that ratios are to.
    pub(super) baseline: usize,
    /// Scenarios, with `--set` applied.
    pub(super) scenarios: Vec<Scenario>,
    /// Their variants.
    pub(super) variants: Vec<Variant>,
    /// Where server and generator run.
    pub(super) placements: Vec<Placement>,
    /// How often everything is repeated.
    pub(super) rounds: u32,
}

/// A peer, and what was found out about it here.
#[derive(Debug)]
pub(super) struct Contender {
    /// Its description.
    pub(super) peer: Peer,
    /// The first line of what its version command prints.
    pub(super) version: String,
    /// Why it is not run.
    pub(super) skipped: Option<String>,
}

impl Contender {
    /// Finds out whether the peer can run, and its version.
    pub(super) fn new(peer: Peer) -> Self {
        let skipped = peer.skipped();
        let version = if skipped.is_none() { peer.version() } else { String::new() };
        Self { peer, version, skipped }
    }
}

/// A scenario with one value of what varies.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// Index of the scenario.
    pub(super) scenario: usize,
    /// Empty, or `outstanding=8`, or `outstanding=8 placement=free against=bare-send-8`.
    pub(super) name: String,
    /// All flags of the scenario.
    pub(super) flags: Flags,
    /// Where server and generator run.
    pub(super) placement: Placement,
    /// Indices of the peers that can do it.
    pub(super) peers: Vec<usize>,
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// From 1.
    pub(super) round: u32,
    /// Index of the variant.
    pub(super) variant: usize,
    /// Index of the peer.
    pub(super) peer: usize,
}

/// The variants of scenario number `scenario`, without peers.
pub(super) fn variants(index: usize, scenario: &Scenario, placements: &[Placement]) -> Vec<Variant> {
    let values = match &scenario.vary {
        Some((flag, values)) => values.iter().map(|value| Some((flag, value))).collect(),
        None => vec![None],
    };
    let mut variants = Vec::new();
    for value in values {
        for placement in placements {
            let mut flags = scenario.flags.clone();
            let mut names = Vec::new();
            if let Some((flag, value)) = value {
                flags.set(flag, value.clone());
                names.push(format!("{flag}={value}"));
            }
            if placements.len() > 1 {
                names.push(format!("placement={}", placement.name()));
            }
            let (name, placement) = (names.join(" "), placement.clone());
            variants.push(Variant { scenario: index, name, flags, placement, peers: Vec::new() });
        }
    }
    variants
}

impl Plan {
    /// All runs, in order.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for round in 1..=self.rounds {
            let mut variants: Vec<usize> = (0..self.variants.len()).collect();
            if round % 2 == 0 {
                variants.reverse();
            }
            for variant in variants {
                let mut peers = self.variants[variant].peers.clone();
                let places = peers.len().max(1);
                peers.rotate_left((round - 1) as usize % places);
                runs.extend(peers.into_iter().map(|peer| Run { round, variant, peer }));
            }
        }
        runs
    }

    /// The scenario of a variant.
    pub(super) fn scenario_of(&self, variant: usize) -> &Scenario {
        &self.scenarios[self.variants[variant].scenario]
    }

    /// Whether `peer` can do all that `scenario` asks for.
    pub(super) fn able(peer: &Peer, scenario: &Scenario) -> bool {
        let mut loads =
            std::iter::once(scenario.command).chain(scenario.beside.iter().map(|beside| beside.command));
        loads.all(|load| peer.flags(load).is_some())
    }

    /// `one-topic outstanding=8`
    pub(super) fn title(&self, variant: usize) -> String {
        let scenario = &self.scenario_of(variant).name;
        match self.variants[variant].name.as_str() {
            "" => scenario.clone(),
            name => format!("{scenario} {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::flags::Value;
    use crate::compare::load::Load;

    fn scenario(vary: Option<(String, Vec<Value>)>) -> Scenario {
        Scenario {
            name: "s".into(),
            about: String::new(),
            command: Load::Fanout,
            flags: Flags::default(),
            vary,
            knee: None,
            beside: Vec::new(),
        }
    }

    #[test]
    fn variants_are_values_by_placements() {
        let apart =
            Placement::Apart { server: crate::cli::CpuList::one(0), load: crate::cli::CpuList::one(1) };
        let vary = Some(("outstanding".to_string(), vec![Value::Whole(1), Value::Whole(8)]));
        let name = |variants: Vec<Variant>| variants.into_iter().map(|v| v.name).collect::<Vec<_>>();
        assert_eq!(name(variants(0, &scenario(None), &[Placement::Free])), [""]);
        assert_eq!(
            name(variants(0, &scenario(vary), &[apart, Placement::Free])),
            [
                "outstanding=1 placement=apart",
                "outstanding=1 placement=free",
                "outstanding=8 placement=apart",
                "outstanding=8 placement=free"
            ]
        );
    }

    #[test]
    fn peers_change_places_and_variants_go_forth_and_back() {
        let scenario = scenario(Some(("rate".into(), vec![Value::Whole(1), Value::Whole(2)])));
        let mut variants = variants(0, &scenario, &[Placement::Free]);
        variants[0].peers = vec![0, 1, 2];
        variants[1].peers = vec![0, 2];
        let plan = Plan {
            command: "compare",
            peers: Vec::new(),
            baseline: 0,
            scenarios: vec![scenario],
            variants,
            placements: vec![Placement::Free],
            rounds: 3,
        };
        let order: Vec<(u32, usize, usize)> =
            plan.runs().into_iter().map(|run| (run.round, run.variant, run.peer)).collect();
        let rounds = [
            [(1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 0), (1, 1, 2)],
            [(2, 1, 2), (2, 1, 0), (2, 0, 1), (2, 0, 2), (2, 0, 0)],
            [(3, 0, 2), (3, 0, 0), (3, 0, 1), (3, 1, 0), (3, 1, 2)],
        ];
        assert_eq!(order, rounds.concat());
        assert_eq!(plan.title(1), "s rate=2");
    }
}
