//! A JSON document of this tool, in one shape: servers, scenarios, variants, and what each server did there.
//!
//! Owns the reading of both kinds: the report of a single command, and the comparison of `compare` and `limit`. A
//! single report becomes a comparison of one server. What a document does not say stays absent; what it says
//! otherwise than expected is an error.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::knee::Knee;
use super::metrics::{self, Metric, Unit};
use super::outcome::Outcome;
use crate::failure::Failure;

/// What the page shows.
#[derive(Debug)]
pub(crate) struct Document {
    /// What the tool was asked to do: `compare`, `limit`, `fanout`, …
    pub(crate) command: String,
    /// Whether it is the report of one run.
    pub(crate) single: bool,
    /// Machine, versions, placement.
    pub(crate) environment: Map<String, Value>,
    /// Servers, in the order that gives them their colours.
    pub(crate) peers: Vec<Peer>,
    /// What they were asked to do.
    pub(crate) scenarios: Vec<Scenario>,
}

/// A server.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) about: Option<String>,
    /// What was set to make it comparable.
    pub(crate) options: Option<String>,
    /// As it says itself.
    pub(crate) version: Option<String>,
    /// Why it took no part, and what to do about it.
    pub(crate) skipped: Option<String>,
}

/// A load.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) about: Option<String>,
    /// The single command that it runs.
    pub(crate) command: String,
    /// Flags of that command.
    pub(crate) flags: Map<String, Value>,
    /// At least one; with an empty name if nothing varies.
    pub(crate) variants: Vec<Variant>,
}

/// A scenario with one value of what varies.
#[derive(Debug)]
pub(crate) struct Variant {
    /// `flag=value`, several of them with spaces between, or empty.
    pub(crate) name: String,
    /// One for each server of which there is anything to say, in the order of the servers.
    pub(crate) cells: Vec<Cell>,
}

/// Variants of rising numbers.
#[derive(Debug)]
pub(crate) struct Progression<'a> {
    /// What varies.
    pub(crate) flag: &'a str,
    /// What else tells these variants from others; mostly empty.
    pub(crate) rest: String,
    /// By the number.
    pub(crate) variants: Vec<(f64, &'a Variant)>,
}

/// What one server did in one variant.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Index of the server.
    pub(crate) peer: usize,
    /// Rounds that took place.
    pub(crate) rounds: u64,
    /// Those of them that are void or failed.
    pub(crate) void: u64,
    /// The generator was the bottleneck: rates are lower bounds.
    pub(crate) busy: bool,
    /// Figures that are lower bounds for other reasons.
    pub(crate) lower_bounds: BTreeSet<String>,
    /// Figures over the valid rounds.
    pub(crate) metrics: BTreeMap<String, Spread>,
    /// Figures relative to another server's, over pairs of rounds.
    pub(crate) ratio: Option<Ratio>,
    /// The runs, in the order of the document.
    pub(crate) runs: Vec<Run>,
}

/// A figure over rounds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub(crate) struct Spread {
    /// The middle one.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many there are, if the document says.
    pub(crate) count: Option<usize>,
}

/// Figures relative to those of another server.
#[derive(Debug)]
pub(crate) struct Ratio {
    /// That server's name.
    pub(crate) to: String,
    /// Own figure by its figure, or of `limit` its figure by the own one: see [`Document::inverse`].
    pub(crate) metrics: BTreeMap<String, Spread>,
}

/// One run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Counts from 1; absent in a single report.
    pub(crate) round: Option<u64>,
    /// Why it could not take place.
    pub(crate) failure: Option<String>,
    /// What it found.
    pub(crate) outcome: Option<Outcome>,
    /// What it found if it went through rates.
    pub(crate) knee: Option<Knee>,
}

/// A comparison as `compare` and `limit` print it.
#[derive(Deserialize)]
struct Comparison {
    command: String,
    environment: Option<Map<String, Value>>,
    peers: Vec<Peer>,
    scenarios: Vec<RawScenario>,
    runs: Vec<RawRun>,
    table: Option<Vec<RawRow>>,
}

#[derive(Deserialize)]
struct RawScenario {
    name: String,
    about: Option<String>,
    command: Option<String>,
    flags: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct RawRun {
    scenario: String,
    variant: Option<String>,
    peer: String,
    round: Option<u64>,
    failure: Option<String>,
    report: Option<Map<String, Value>>,
    knee: Option<Knee>,
}

#[derive(Deserialize)]
struct RawRow {
    scenario: String,
    variant: Option<String>,
    peer: String,
    rounds: Option<u64>,
    void: Option<u64>,
    generator_busy: Option<bool>,
    lower_bounds: Option<BTreeSet<String>>,
    metrics: Option<BTreeMap<String, Value>>,
    ratio: Option<RawRatio>,
}

#[derive(Deserialize)]
struct RawRatio {
    to: String,
    metrics: Option<BTreeMap<String, Value>>,
    inverse: Option<BTreeMap<String, Value>>,
}

impl Document {
    /// Reads either kind.
    pub(crate) fn read(document: &Value) -> Result<Self, Failure> {
        let unknown = |found: String| {
            Failure::Usage(format!(
                "no document of stentor-load: {found}; expected what `stentor-load fanout|echo|idle|handshakes|topics|api|recover \
                 --json` prints (an object with command, figures and verdict), or `compare --json` and `limit --json` \
                 (an object with command, peers, scenarios, runs and table)"
            ))
        };
        let Some(object) = document.as_object() else {
            return Err(unknown(format!("it is {}, not an object", kind(document))));
        };
        let has = |keys: &[&str]| keys.iter().all(|key| object.contains_key(*key));
        if has(&["command", "figures", "verdict"]) {
            return Ok(Self::of_report(object));
        }
        if has(&["command", "peers", "scenarios", "runs"]) {
            let comparison = Comparison::deserialize(document).map_err(|error| unknown(error.to_string()))?;
            return Ok(Self::of_comparison(comparison));
        }
        let keys: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
        Err(unknown(match keys.as_slice() {
            [] => "an object without keys".into(),
            keys => format!("an object with the keys {}", keys.join(", ")),
        }))
    }

    fn of_report(report: &Map<String, Value>) -> Self {
        let text = |key: &str| report.get(key).and_then(Value::as_str).map(str::to_string);
        let command = text("command").unwrap_or_default();
        let environment = report.get("environment").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut document = Self {
            command: command.clone(),
            single: true,
            environment,
            peers: vec![Peer { name: text("url").unwrap_or_else(|| "the server".into()), ..Peer::default() }],
            scenarios: vec![Scenario {
                name: command.clone(),
                about: None,
                command,
                flags: Map::new(),
                variants: Vec::new(),
            }],
        };
        let run = Run { round: None, failure: None, outcome: Some(Outcome::new(report.clone())), knee: None };
        document.scenarios[0].cell("", 0).runs.push(run);
        document.sum_up();
        document
    }

    fn of_comparison(comparison: Comparison) -> Self {
        let scenarios = comparison.scenarios.into_iter().map(|scenario| Scenario {
            name: scenario.name,
            about: scenario.about,
            command: scenario.command.unwrap_or_default(),
            flags: scenario.flags.unwrap_or_default(),
            variants: Vec::new(),
        });
        let mut document = Self {
            command: comparison.command,
            single: false,
            environment: comparison.environment.unwrap_or_default(),
            peers: comparison.peers,
            scenarios: scenarios.collect(),
        };
        for run in comparison.runs {
            let cell = document.cell(&run.scenario, run.variant.as_deref(), &run.peer);
            let outcome = run.report.map(Outcome::new);
            cell.runs.push(Run { round: run.round, failure: run.failure, outcome, knee: run.knee });
        }
        document.sum_up();
        // What the tool has summed up itself takes precedence.
        let inverse = document.inverse();
        for row in comparison.table.unwrap_or_default() {
            let cell = document.cell(&row.scenario, row.variant.as_deref(), &row.peer);
            cell.rounds = row.rounds.unwrap_or(cell.rounds);
            // Failed runs are among them.
            cell.void = row.void.unwrap_or(cell.void);
            cell.busy = row.generator_busy.unwrap_or(cell.busy);
            cell.lower_bounds.extend(row.lower_bounds.unwrap_or_default());
            cell.metrics.extend(spreads(row.metrics));
            cell.ratio = row.ratio.map(|ratio| Ratio {
                to: ratio.to,
                metrics: spreads(if inverse { ratio.inverse } else { ratio.metrics }),
            });
        }
        document.scenarios.retain(|scenario| !scenario.variants.is_empty());
        document
    }

    /// Whether ratios are the baseline's figure by the row's, as the tables of `limit` print them.
    pub(crate) fn inverse(&self) -> bool {
        self.command == "limit"
    }

    /// The cell of that name, made if there is none.
    fn cell(&mut self, scenario: &str, variant: Option<&str>, peer: &str) -> &mut Cell {
        let peer = self.peers.iter().position(|known| known.name == peer).unwrap_or_else(|| {
            self.peers.push(Peer { name: peer.into(), ..Peer::default() });
            self.peers.len() - 1
        });
        let scenario = self.scenarios.iter().position(|known| known.name == scenario).unwrap_or_else(|| {
            self.scenarios.push(Scenario {
                name: scenario.into(),
                about: None,
                command: String::new(),
                flags: Map::new(),
                variants: Vec::new(),
            });
            self.scenarios.len() - 1
        });
        self.scenarios[scenario].cell(variant.unwrap_or(""), peer)
    }

    /// Fills the cells from their runs.
    fn sum_up(&mut self) {
        for scenario in &mut self.scenarios {
            let runs =
                || scenario.variants.iter().flat_map(|variant| &variant.cells).flat_map(|cell| &cell.runs);
            if scenario.command.is_empty() {
                let commands = runs().filter_map(|run| run.outcome.as_ref()?.text("command"));
                scenario.command = commands.map(str::to_string).next().unwrap_or_default();
            }
            let metrics = metrics::of(&scenario.command);
            for cell in scenario.variants.iter_mut().flat_map(|variant| &mut variant.cells) {
                cell.rounds = cell.runs.len() as u64;
                cell.void = cell.rounds - cell.runs.iter().filter(|run| run.counts()).count() as u64;
                cell.busy = cell.runs.iter().filter_map(|run| run.outcome.as_ref()).any(Outcome::busy);
                let counted = || cell.runs.iter().filter(|run| self.single || run.counts());
                if counted().any(|run| run.knee.as_ref().is_some_and(Knee::is_lower_bound)) {
                    cell.lower_bounds.insert(metrics::KNEE[0].key.into());
                }
                let outcomes = || counted().filter_map(|run| run.outcome.as_ref());
                let bounded =
                    metrics.iter().filter(|metric| outcomes().any(|one| one.is_lower_bound(metric.key)));
                cell.lower_bounds.extend(bounded.map(|metric| metric.key.to_string()));
                let knees =
                    || cell.runs.iter().filter(|run| run.counts()).filter_map(|run| run.knee.as_ref());
                let rates = Spread::of(knees().filter_map(|knee| knee.rate).collect());
                let p99s = Spread::of(knees().filter_map(|knee| knee.p99_us).collect());
                let found = metrics::KNEE.iter().zip([rates, p99s]);
                cell.metrics.extend(found.filter_map(|(metric, spread)| Some((metric.key.into(), spread?))));
                for metric in metrics {
                    let figures = cell.figures(self.single).filter_map(|outcome| outcome.number(metric.key));
                    if let Some(spread) = Spread::of(figures.collect()) {
                        cell.metrics.insert(metric.key.into(), spread);
                    }
                }
            }
        }
    }
}

impl Scenario {
    fn cell(&mut self, variant: &str, peer: usize) -> &mut Cell {
        let at = self.variants.iter().position(|known| known.name == variant).unwrap_or_else(|| {
            self.variants.push(Variant { name: variant.into(), cells: Vec::new() });
            self.variants.len() - 1
        });
        let cells = &mut self.variants[at].cells;
        let at = cells.partition_point(|cell| cell.peer < peer);
        if cells.get(at).is_none_or(|cell| cell.peer != peer) {
            let cell = Cell {
                peer,
                rounds: 0,
                void: 0,
                busy: false,
                lower_bounds: BTreeSet::new(),
                metrics: BTreeMap::new(),
                ratio: None,
                runs: Vec::new(),
            };
            cells.insert(at, cell);
        }
        &mut cells[at]
    }

    /// The servers that took part.
    pub(crate) fn peers(&self) -> Vec<usize> {
        let mut peers: Vec<usize> =
            self.variants.iter().flat_map(|variant| &variant.cells).map(|cell| cell.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// The variants by what varies, where it is at least three numbers: for each setting of the rest.
    pub(crate) fn progressions(&self) -> Vec<Progression<'_>> {
        let mut found: Vec<Progression<'_>> = Vec::new();
        for variant in &self.variants {
            let number = |part: &str| part.split_once('=')?.1.parse().ok().filter(|value: &f64| *value > 0.0);
            let Some((part, value)) = variant.parts().find_map(|part| Some((part, number(part)?))) else {
                return Vec::new();
            };
            let flag = part.split_once('=').map_or(part, |(flag, _)| flag);
            let rest = titled(variant.parts().filter(|other| *other != part));
            match found.iter_mut().find(|known| known.flag == flag && known.rest == rest) {
                Some(known) => known.variants.push((value, variant)),
                None => found.push(Progression { flag, rest, variants: vec![(value, variant)] }),
            }
        }
        for progression in &mut found {
            progression.variants.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        }
        found.retain(|progression| progression.variants.len() >= 3);
        found
    }

    /// Its figures, the two that matter most first.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut cells = self.variants.iter().flat_map(|variant| &variant.cells);
        let knee = if cells.any(|cell| cell.metrics.contains_key(metrics::KNEE[0].key)) {
            metrics::KNEE
        } else {
            &[]
        };
        knee.iter().chain(metrics::of(&self.command)).copied().collect()
    }

    /// Whether its variants are rates, which show the knee.
    pub(crate) fn sweeps_rates(&self) -> bool {
        let progressions = self.progressions();
        !progressions.is_empty() && progressions.iter().all(|progression| progression.flag == "rate")
    }
}

impl Variant {
    fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.split(' ').filter(|part| !part.is_empty())
    }

    /// For people: `flag = value, …`
    pub(crate) fn title(&self) -> String {
        titled(self.parts())
    }
}

fn titled<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.map(|part| part.replace('=', " = ")).collect::<Vec<_>>().join(", ")
}

impl Cell {
    /// Whether a figure is a lower bound.
    pub(crate) fn is_lower_bound(&self, key: &str, unit: Unit) -> bool {
        // A rate that was held was held, however busy the generator: what is beyond it is another question.
        let busy = self.busy && unit == Unit::PerSecond && key != metrics::KNEE[0].key;
        busy || self.lower_bounds.contains(key)
    }

    /// What the runs that count have found; of a single report, whatever its verdict.
    pub(crate) fn figures(&self, single: bool) -> impl Iterator<Item = &Outcome> {
        let runs = self.runs.iter().filter(move |run| single || run.counts());
        runs.filter_map(|run| run.outcome.as_ref())
    }

    /// The round and outcome in which `key` is the median (the upper one of two), of the runs that count.
    pub(crate) fn median_run(&self, single: bool, key: &str) -> Option<(Option<u64>, &Outcome)> {
        let runs = self.runs.iter().filter(|run| single || run.counts());
        let mut runs: Vec<_> = runs.filter_map(|run| Some((run.round, run.outcome.as_ref()?))).collect();
        runs.sort_by(|(_, a), (_, b)| {
            let key = |outcome: &Outcome| outcome.number(key).unwrap_or(f64::INFINITY);
            key(a).total_cmp(&key(b))
        });
        (!runs.is_empty()).then(|| runs[runs.len() / 2])
    }
}

impl Run {
    /// Whether its figures count.
    pub(crate) fn counts(&self) -> bool {
        self.failure.is_none() && self.outcome.as_ref().is_some_and(|outcome| !outcome.is_void())
    }
}

impl Spread {
    /// Median, least and greatest of some values; of an even number, the median is the middle two's mean.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) };
        Some(Self { median, min, max, count: Some(values.len()) })
    }
}

impl Ratio {
    /// How many pairs the ratios of a figure are of, for people: `7 pairs`, or `5 to 7 pairs` of several ratios;
    /// nothing if the document does not say.
    pub(crate) fn pairs<'a>(spreads: impl Iterator<Item = &'a Spread>) -> Option<String> {
        let counts: Vec<usize> = spreads.filter_map(|spread| spread.count).collect();
        let (min, max) = (*counts.iter().min()?, *counts.iter().max()?);
        Some(match (min, max) {
            (1, 1) => "1 pair".into(),
            (min, max) if min == max => format!("{max} pairs"),
            (min, max) => format!("{min} to {max} pairs"),
        })
    }
}

/// Those that are numbers; a figure without a value has null.
fn spreads(metrics: Option<BTreeMap<String, Value>>) -> BTreeMap<String, Spread> {
    let metrics = metrics.unwrap_or_default().into_iter();
    metrics.filter_map(|(key, value)| Some((key, Spread::deserialize(value).ok()?))).collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Spread::of(vec![]), None);
        let spread = |median, min, max, count| Some(Spread { median, min, max, count: Some(count) });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![1.0, 2.0]), spread(1.5, 1.0, 2.0, 2));
    }

    #[test]
    fn pairs_are_counted() {
        let of = |counts: &[Option<usize>]| {
            let spreads =
                counts.iter().map(|count| Spread { median: 1.0, min: 1.0, max: 1.0, count: *count });
            Ratio::pairs(spreads.collect::<Vec<_>>().iter())
        };
        assert_eq!(of(&[Some(1)]).as_deref(), Some("1 pair"));
        assert_eq!(of(&[Some(7), None, Some(7)]).as_deref(), Some("7 pairs"));
        assert_eq!(of(&[Some(7), Some(5)]).as_deref(), Some("5 to 7 pairs"));
        assert_eq!((of(&[None]), of(&[])), (None, None));
    }

    fn run(peer: &str, variant: &str, rate: f64, verdict: &str) -> Value {
        json!({"scenario": "s", "variant": variant, "peer": peer, "round": 1, "failure": null, "report":
            {"command": "fanout", "verdict": verdict, "figures": {"deliveries_per_second": rate}}})
    }

    fn comparison(runs: &[Value], table: &Value) -> Document {
        Document::read(&json!({"command": "compare", "peers": [{"name": "a"}, {"name": "b"}],
            "scenarios": [{"name": "s"}], "runs": runs, "table": table}))
        .unwrap()
    }

    #[test]
    fn void_runs_have_no_figures() {
        let runs =
            [run("b", "x=1", 5.0, "valid"), run("a", "x=1", 7.0, "valid"), run("a", "x=1", 9.0, "void")];
        let document = comparison(&runs, &json!(null));
        let cells = &document.scenarios[0].variants[0].cells;
        assert_eq!(document.scenarios[0].command, "fanout");
        assert_eq!(
            cells.iter().map(|cell| (cell.peer, cell.rounds, cell.void)).collect::<Vec<_>>(),
            [(0, 2, 1), (1, 1, 0)]
        );
        assert_eq!(cells[0].metrics["deliveries_per_second"].max, 7.0);
        assert!(!cells[0].metrics.contains_key("server_cpu_us_per_delivery"), "absent is not 0");
    }

    #[test]
    fn the_table_takes_precedence() {
        let row = json!([{"scenario": "s", "variant": "", "peer": "a", "rounds": 7, "void": 2, "generator_busy": true,
            "metrics": {"deliveries_per_second": {"median": 2.0, "min": 1.0, "max": 3.0}, "other": null},
            "ratio": {"to": "b", "metrics": {"deliveries_per_second": {"median": 0.5, "min": 0.4, "max": 0.6}}}}]);
        let document = comparison(&[run("a", "", 9.0, "valid")], &row);
        let cell = &document.scenarios[0].variants[0].cells[0];
        assert_eq!((cell.rounds, cell.void, cell.busy), (7, 2, true));
        assert_eq!(cell.metrics["deliveries_per_second"].median, 2.0);
        assert!(!cell.metrics.contains_key("other"));
        assert_eq!(cell.ratio.as_ref().unwrap().to, "b");
    }

    #[test]
    fn failed_runs_are_among_the_void_ones() {
        let row = json!([{"scenario": "s", "variant": "", "peer": "a", "rounds": 3, "void": 2, "failed": 1}]);
        let document = comparison(&[], &row);
        let cell = &document.scenarios[0].variants[0].cells[0];
        assert_eq!((cell.rounds, cell.void), (3, 2));
    }

    #[test]
    fn what_varies() {
        let of = |variants: &[&str]| {
            let runs: Vec<_> = variants.iter().map(|variant| run("a", variant, 1.0, "valid")).collect();
            let document = comparison(&runs, &json!([]));
            let progressions = document.scenarios[0].progressions();
            let of = |progression: &Progression<'_>| {
                let values = progression.variants.iter().map(|(value, _)| *value).collect::<Vec<_>>();
                (progression.flag.to_string(), progression.rest.clone(), values)
            };
            (progressions.iter().map(of).collect::<Vec<_>>(), document.scenarios[0].sweeps_rates())
        };
        let numbers = vec![1.0, 8.0, 64.0];
        assert_eq!(of(&["n=1", "n=64", "n=8"]), (vec![("n".into(), String::new(), numbers.clone())], false));
        let twice = ["n=1 at=a", "n=1 at=b", "n=8 at=a", "n=8 at=b", "n=64 at=a", "n=64 at=b"];
        let short = ["n=1 at=a", "n=1 at=b", "n=8 at=b", "n=64 at=b"];
        assert_eq!(of(&short).0, [("n".to_string(), "at = b".to_string(), numbers.clone())]);
        let both = ["at = a", "at = b"].map(|rest| ("n".to_string(), rest.to_string(), numbers.clone()));
        assert_eq!(of(&twice), (both.to_vec(), false));
        assert!(of(&["rate=1", "rate=8", "rate=64"]).1);
        for variants in [&["n=1", "n=8"][..], &["n=1", "m=8", "n=64"], &["n=a", "n=b", "n=c"], &[""]] {
            assert_eq!(of(variants), (Vec::new(), false), "{variants:?}");
        }
    }

    #[test]
    fn unknown_documents() {
        for (document, found) in [
            (json!([1]), "it is a list, not an object"),
            (json!({}), "an object without keys"),
            (json!({"name": 1, "version": 2}), "with the keys name, version"),
            (json!({"command": "compare", "peers": 3, "scenarios": [], "runs": []}), "invalid type"),
        ] {
            let text = Document::read(&document).unwrap_err().to_string();
            assert!(text.contains(found) && text.contains("expected"), "{text}");
        }
    }
}
