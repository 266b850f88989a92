//! The figures of a run that a comparison compares, by name, read from its report; medians and ratios of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;

use super::load::Load;
use super::run::Outcome;
use crate::report::{bytes, micros, quantity};

/// How a metric is written for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A number of things.
    Count,
    /// Per second; with a busy generator it is a lower bound.
    Rate,
    /// Microseconds of latency.
    Micros,
    /// Microseconds of CPU time for a piece of work.
    Cost,
    /// Memory.
    Bytes,
}

impl Unit {
    /// For people.
    pub(super) fn text(self, value: f64) -> String {
        match self {
            Self::Count | Self::Rate => quantity(value),
            Self::Micros => micros(value),
            Self::Cost if value.abs() < 10.0 => format!("{value:.3} µs"),
            Self::Cost => micros(value),
            Self::Bytes => bytes(value),
        }
    }
}

/// A figure of a report.
#[derive(Debug)]
pub(super) struct Metric {
    /// Where it is among the figures of a report, or else in the report; its name in the JSON of a comparison.
    pub(super) name: &'static str,
    /// Head of its column; empty if it has none.
    pub(super) heading: &'static str,
    /// How it is written.
    pub(super) unit: Unit,
    /// Its ratio has a column as well.
    pub(super) ratio: bool,
}

const fn metric(name: &'static str, heading: &'static str, unit: Unit) -> Metric {
    Metric { name, heading, unit, ratio: false }
}

const fn ratio(name: &'static str, heading: &'static str, unit: Unit) -> Metric {
    Metric { name, heading, unit, ratio: true }
}

/// Metrics of a sweep, which are not in its report.
const KNEE: &[Metric] =
    &[ratio("knee_rate", "rate held/s", Unit::Rate), metric("knee_p99_us", "its p99", Unit::Micros)];

const MEMORY: Metric = metric("server.rss_anon_bytes", "", Unit::Bytes);

const FANOUT: &[Metric] = &[
    ratio("deliveries_per_second", "deliveries/s", Unit::Rate),
    ratio("server_cpu_us_per_delivery", "CPU/delivery", Unit::Cost),
    metric("latency_us.p50", "p50", Unit::Micros),
    metric("latency_us.p99", "p99", Unit::Micros),
    metric("latency_us.p999", "p99.9", Unit::Micros),
    metric("last_subscriber_us.p50", "last subscriber", Unit::Micros),
    metric("last_subscriber_us.p99", "", Unit::Micros),
    metric("messages_per_receive_call", "", Unit::Count),
    metric("unsent", "", Unit::Count),
    metric("stuck_closed", "", Unit::Count),
    metric("slow_closed", "", Unit::Count),
    MEMORY,
];

const ECHO: &[Metric] = &[
    ratio("messages_per_second", "messages/s", Unit::Rate),
    ratio("server_cpu_us_per_message", "CPU/message", Unit::Cost),
    metric("latency_us.p50", "p50", Unit::Micros),
    metric("latency_us.p99", "p99", Unit::Micros),
    metric("latency_us.p999", "p99.9", Unit::Micros),
    MEMORY,
];

const IDLE: &[Metric] = &[
    ratio("server_bytes_per_connection", "memory/connection", Unit::Bytes),
    ratio("server_cpu_us_per_connection_second", "CPU/connection·s", Unit::Cost),
    metric("handshake_us.p50", "handshake p50", Unit::Micros),
    metric("handshake_us.p99", "p99", Unit::Micros),
    metric("pings_per_second", "pings/s", Unit::Count),
    MEMORY,
];

const HANDSHAKES: &[Metric] = &[
    ratio("handshakes_per_second", "handshakes/s", Unit::Rate),
    ratio("server_cpu_us_per_handshake", "CPU/handshake", Unit::Cost),
    metric("latency_us.p50", "p50", Unit::Micros),
    metric("latency_us.p99", "p99", Unit::Micros),
    MEMORY,
];

const TOPICS: &[Metric] = &[
    ratio("topics_per_second", "topics/s", Unit::Rate),
    ratio("server_cpu_us_per_topic", "CPU/topic", Unit::Cost),
    ratio("server_bytes_per_topic", "memory/topic", Unit::Bytes),
    MEMORY,
];

/// Of the first command that ran beside the scenario's own.
const BESIDE: &[&str] = &["beside.opened", "beside.refused", "beside.reset", "beside.handshake_us.p99"];

/// The metrics of a load's report.
fn of_load(load: Load) -> &'static [Metric] {
    match load {
        Load::Fanout => FANOUT,
        Load::Echo => ECHO,
        Load::Idle => IDLE,
        Load::Handshakes => HANDSHAKES,
        Load::Topics => TOPICS,
    }
}

/// Metrics with a column, in their order.
pub(super) fn columns(load: Load, sweep: bool) -> impl Iterator<Item = &'static Metric> {
    let sweep = if sweep { KNEE } else { &[] };
    sweep.iter().chain(of_load(load)).filter(|metric| !metric.heading.is_empty())
}

/// A number of a report; none for the quantiles of nothing.
fn at(report: &Json, path: &str) -> Option<f64> {
    let from = |place: &Json| {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let place = place.get(first)?;
        if rest.is_empty() {
            return place.as_f64();
        }
        if place.get("count").and_then(Json::as_u64) == Some(0) {
            return None;
        }
        place.get(rest)?.as_f64()
    };
    from(&report["figures"]).or_else(|| from(report))
}

/// The metrics of a valid run.
pub(super) fn read(load: Load, outcome: &Outcome) -> BTreeMap<&'static str, f64> {
    let mut metrics = BTreeMap::new();
    let Some(report) = outcome.report.as_ref().filter(|_| outcome.valid()) else { return metrics };
    let found = of_load(load).iter().map(|metric| (metric.name, at(report, metric.name)));
    metrics.extend(found.filter_map(|(name, value)| Some((name, value?))));
    if let Some(beside) = outcome.beside.first() {
        let found = BESIDE.iter().map(|name| (*name, at(beside, name.trim_start_matches("beside."))));
        metrics.extend(found.filter_map(|(name, value)| Some((name, value?))));
    }
    if let Some(knee) = &outcome.knee {
        metrics.insert("knee_rate", knee.rate);
        metrics.extend(knee.p99_us.map(|p99| ("knee_p99_us", p99)));
    }
    metrics
}

/// Metrics of a valid run that are lower bounds: rates that the generator limited, quantiles that messages which were
/// still waiting may have moved, and the rate of a sweep that something else than the server ended.
pub(super) fn lower_bounds(load: Load, outcome: &Outcome) -> BTreeSet<&'static str> {
    let Some(report) = outcome.report.as_ref().filter(|_| outcome.valid()) else { return BTreeSet::new() };
    let busy = report["generator"]["busy"] == true;
    let is_one = |metric: &&Metric| match metric.name.split_once('.') {
        Some((name, quantile)) => {
            let named = report["figures"][name]["lower_bounds"].as_array();
            named.into_iter().flatten().any(|one| one == quantile)
        }
        None => busy && metric.unit == Unit::Rate,
    };
    let mut found: BTreeSet<_> = of_load(load).iter().filter(is_one).map(|metric| metric.name).collect();
    let knee = outcome.knee.as_ref();
    found.extend(knee.and_then(|knee| knee.lower_bound_because.as_ref()).map(|_| "knee_rate"));
    found
}

/// Median and range of several runs, or of ratios of several pairs of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub(super) median: f64,
    /// The least.
    pub(super) min: f64,
    /// The greatest.
    pub(super) max: f64,
    /// How many there are.
    pub(super) count: usize,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max, count: values.len() })
    }
}

/// Spreads by the name of the metric.
pub(super) type Spreads = BTreeMap<&'static str, Spread>;

/// The spread of every metric over several runs.
pub(super) fn spreads<'a>(runs: impl IntoIterator<Item = &'a BTreeMap<&'static str, f64>>) -> Spreads {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for run in runs {
        run.iter().for_each(|(name, value)| values.entry(name).or_default().push(*value));
    }
    values.into_iter().filter_map(|(name, values)| Some((name, Spread::of(values)?))).collect()
}

/// What every metric of `a` is times that of `b`; nothing where either is 0.
pub(super) fn quotients(
    a: &BTreeMap<&'static str, f64>,
    b: &BTreeMap<&'static str, f64>,
) -> BTreeMap<&'static str, f64> {
    let pairs = a.iter().filter_map(|(name, a)| Some((*name, *a, *b.get(name)?)));
    pairs.filter(|(_, a, b)| *a > 0.0 && *b > 0.0).map(|(name, a, b)| (name, a / b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::knee::KneeFound;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn medians_and_ranges() {
        let spread = |median, min, max, count| Some(Spread { median, min, max, count });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 8.0]), spread(3.0, 1.0, 8.0, 4));
        assert_eq!(Spread::of(vec![5.0]), spread(5.0, 5.0, 5.0, 1));
        assert_eq!(Spread::of(vec![]), None);
    }

    proptest! {
        /// Half of the values are on either side of the median, and all within the range.
        #[test]
        fn medians_divide(values in prop::collection::vec(-1e6f64..1e6, 1..40)) {
            let Spread { median, min, max, .. } = Spread::of(values.clone()).unwrap();
            let below = values.iter().filter(|value| **value < median).count();
            let above = values.iter().filter(|value| **value > median).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
            prop_assert!(values.contains(&min) && values.contains(&max) && min <= median && median <= max);
        }
    }

    #[test]
    fn ratios_are_of_what_both_have() {
        let a = BTreeMap::from([("x", 3.0), ("y", 0.0), ("z", 1.0)]);
        let b = BTreeMap::from([("x", 2.0), ("y", 1.0)]);
        assert_eq!(quotients(&a, &b), BTreeMap::from([("x", 1.5)]));
    }

    #[test]
    fn only_valid_reports_have_metrics() {
        let outcome = |verdict: &str| Outcome {
            report: Some(json!({
                "verdict": verdict,
                "figures": {"messages_per_second": 5.0, "server_cpu_us_per_message": null, "latency_us": {"p50": 7.0, "count": 1}},
                "server": {"rss_anon_bytes": 9},
            })),
            ..Outcome::default()
        };
        let metrics = read(Load::Echo, &outcome("valid"));
        let want = [("messages_per_second", 5.0), ("latency_us.p50", 7.0), ("server.rss_anon_bytes", 9.0)];
        assert_eq!(metrics, BTreeMap::from(want));
        let nothing = json!({"figures": {"latency_us": {"p50": 0.0, "count": 0}}});
        assert_eq!(at(&nothing, "latency_us.p50"), None);
        assert!(read(Load::Echo, &outcome("void")).is_empty());
    }

    #[test]
    fn lower_bounds_are_named() {
        let outcome = |verdict: &str, busy: bool, because: Option<&str>| Outcome {
            report: Some(json!({
                "verdict": verdict,
                "figures": {"latency_us": {"lower_bounds": ["mean", "p99", "max"]}, "last_subscriber_us": {"lower_bounds": []}},
                "generator": {"busy": busy},
            })),
            knee: Some(KneeFound { lower_bound_because: because.map(Into::into), ..KneeFound::default() }),
            ..Outcome::default()
        };
        let of = |outcome: Outcome| Vec::from_iter(lower_bounds(Load::Fanout, &outcome));
        assert_eq!(of(outcome("valid", false, None)), ["latency_us.p99"]);
        let all = ["deliveries_per_second", "knee_rate", "latency_us.p99"];
        assert_eq!(of(outcome("valid", true, Some("rate_max"))), all);
        assert!(of(outcome("void", true, Some("rate_max"))).is_empty());
    }
}
