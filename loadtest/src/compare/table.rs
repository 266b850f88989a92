//! The table: one row for each variant and peer, over all rounds.
//!
//! Void and failed runs are counted, and are not in the medians. A ratio is between two runs of the same round.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value as Json;

use super::metrics::{self, Metric, Spread, Spreads, Unit};
use super::plan::{Plan, Run};
use super::run::Outcome;

/// What came of a variant with a peer.
#[derive(Debug)]
pub(super) struct Row {
    /// Index of the variant.
    pub(super) variant: usize,
    /// Index of the peer.
    pub(super) peer: usize,
    /// Runs in all …
    pub(super) rounds: usize,
    /// … of which so many do not count …
    pub(super) void: usize,
    /// … and of those, so many have no report.
    pub(super) failed: usize,
    /// Deliveries lost in all of them.
    pub(super) lost: u64,
    /// The generator was the bottleneck of at least one valid run.
    pub(super) generator_busy: bool,
    /// Metrics that are lower bounds in at least one valid run.
    pub(super) lower_bounds: BTreeSet<&'static str>,
    /// Of the valid runs.
    pub(super) metrics: Spreads,
    /// To the baseline.
    pub(super) ratio: Ratio,
}

/// Ratios between a peer and the baseline.
#[derive(Debug, Default)]
pub(super) struct Ratio {
    /// The peer's figure by the baseline's.
    pub(super) forward: Spreads,
    /// The baseline's by the peer's.
    pub(super) inverse: Spreads,
}

/// All rows, in the order of the plan.
pub(super) fn rows(plan: &Plan, runs: &[(Run, Outcome)]) -> Vec<Row> {
    let of = |variant, peer| {
        let mine = move |run: &Run| run.variant == variant && run.peer == peer;
        runs.iter().filter(move |(run, _)| mine(run))
    };
    let mut rows = Vec::new();
    for (index, variant) in plan.variants.iter().enumerate() {
        let load = plan.scenario_of(index).command;
        let by_round = |peer| -> BTreeMap<u32, BTreeMap<&'static str, f64>> {
            let valid = of(index, peer).filter(|(_, outcome)| outcome.valid());
            valid.map(|(run, outcome)| (run.round, metrics::read(load, outcome))).collect()
        };
        let baseline = by_round(plan.baseline);
        for &peer in &variant.peers {
            let own = by_round(peer);
            let ratio = if peer == plan.baseline {
                Ratio::default()
            } else {
                let pairs = || own.iter().filter_map(|(round, own)| Some((own, baseline.get(round)?)));
                let forward: Vec<_> = pairs().map(|(own, base)| metrics::quotients(own, base)).collect();
                let inverse: Vec<_> = pairs().map(|(own, base)| metrics::quotients(base, own)).collect();
                Ratio { forward: metrics::spreads(&forward), inverse: metrics::spreads(&inverse) }
            };
            let count = |what: fn(&Outcome) -> bool| of(index, peer).filter(|(_, o)| what(o)).count();
            let lost = |outcome: &Outcome| outcome.report.as_ref()?.pointer("/figures/lost")?.as_u64();
            let busy = |outcome: &Outcome| {
                let busy = outcome.report.as_ref().and_then(|report| report.pointer("/generator/busy"));
                outcome.valid() && busy == Some(&Json::Bool(true))
            };
            rows.push(Row {
                variant: index,
                peer,
                rounds: of(index, peer).count(),
                void: count(|outcome| !outcome.valid()),
                failed: count(|outcome| outcome.report.is_none()),
                lost: of(index, peer).filter_map(|(_, outcome)| lost(outcome)).sum(),
                generator_busy: of(index, peer).any(|(_, outcome)| busy(outcome)),
                lower_bounds: of(index, peer).flat_map(|(_, o)| metrics::lower_bounds(load, o)).collect(),
                metrics: metrics::spreads(own.values()),
                ratio,
            });
        }
    }
    rows
}

impl Row {
    fn value(&self, metric: &Metric) -> String {
        match self.metrics.get(metric.name) {
            Some(spread) if self.lower_bounds.contains(metric.name) => {
                format!("≥ {}", metric.unit.text(spread.median))
            }
            Some(spread) => metric.unit.text(spread.median),
            None => "–".into(),
        }
    }

    fn trouble(&self) -> String {
        let parts =
            [(self.lost, "lost"), ((self.void - self.failed) as u64, "void"), (self.failed as u64, "failed")];
        let parts =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let text = parts.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "–".into() } else { text }
    }

    fn marks(&self) -> String {
        let mut marks = Vec::new();
        if self.generator_busy {
            marks.push("generator busy".to_string());
        }
        for (name, what) in [
            ("unsent", "unsent"),
            ("stuck_closed", "stuck closed"),
            ("slow_closed", "slow closed"),
            ("beside.refused", "refused beside"),
            ("beside.reset", "reset beside"),
        ] {
            if let Some(spread) = self.metrics.get(name).filter(|spread| spread.max > 0.0) {
                marks.push(format!("{} {what}", Unit::Count.text(spread.max)));
            }
        }
        marks.join(", ")
    }
}

/// `1.07 [1.02–1.11] of 7`
fn range(spread: Option<&Spread>) -> String {
    spread.map_or_else(String::new, |Spread { median, min, max, count }| {
        format!("{median:.2} [{min:.2}–{max:.2}] of {count}")
    })
}

/// The tables for people: one for each scenario. With `inverse`, ratios are the baseline's figure by the row's.
pub(super) fn text(plan: &Plan, rows: &[Row], inverse: bool) -> String {
    let baseline = &plan.peers[plan.baseline].peer.name;
    let mut text = String::new();
    for (index, scenario) in plan.scenarios.iter().enumerate() {
        let columns: Vec<&Metric> = metrics::columns(scenario.command, scenario.knee.is_some()).collect();
        let of_this = || rows.iter().filter(|row| plan.variants[row.variant].scenario == index);
        // With the baseline alone there is nothing to be a ratio.
        let others = of_this().any(|row| row.peer != plan.baseline);
        let ratios_of = |column: &Metric| column.ratio && others;
        let what = if inverse { format!("{baseline} by it") } else { format!("by {baseline}") };
        let mut head = vec!["peer".to_string()];
        for column in &columns {
            head.push(column.heading.into());
            head.extend(ratios_of(column).then(|| what.clone()));
        }
        head.extend(["lost, void".into(), String::new()]);
        let mut grid = vec![Line::Cells(head)];
        let mut variant = None;
        for row in of_this() {
            let name = &plan.variants[row.variant].name;
            if variant != Some(row.variant) && !name.is_empty() {
                grid.push(Line::Heading(name.clone()));
            }
            variant = Some(row.variant);
            let mut cells = vec![plan.peers[row.peer].peer.name.clone()];
            let ratios = if inverse { &row.ratio.inverse } else { &row.ratio.forward };
            for column in &columns {
                cells.push(row.value(column));
                cells.extend(ratios_of(column).then(|| range(ratios.get(column.name))));
            }
            cells.extend([row.trouble(), row.marks()]);
            grid.push(Line::Cells(cells));
        }
        let _ = writeln!(text, "{}: {}", scenario.name, scenario.about);
        // What counts, should --set have changed what the description says.
        let _ = writeln!(text, "  {} {}", scenario.command, scenario.flags.arguments().join(" "));
        text.push_str(&align(&grid));
        text.push('\n');
    }
    text
}

enum Line {
    Heading(String),
    Cells(Vec<String>),
}

/// Columns side by side: the first and the last to the left, numbers to the right.
fn align(grid: &[Line]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in grid {
        let Line::Cells(cells) = line else { continue };
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in grid {
        let line = match line {
            Line::Heading(name) => format!("  {name}"),
            Line::Cells(cells) => {
                let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                    if column == 0 || column == widths.len() - 1 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
                format!("    {}", padded.collect::<Vec<_>>().join("  "))
            }
        };
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::flags::Flags;
    use crate::compare::load::Load;
    use crate::compare::peer::Peer;
    use crate::compare::placement::Placement;
    use crate::compare::plan::{Contender, variants};
    use crate::compare::scenario::Scenario;
    use serde_json::json;

    fn plan(rounds: u32) -> Plan {
        let peer = |name: &str| Contender {
            peer: Peer::known(name, String::new(), vec!["true".into()], "ws://h/", ""),
            version: String::new(),
            skipped: None,
        };
        let scenario = Scenario {
            name: "s".into(),
            about: "about".into(),
            command: Load::Fanout,
            flags: Flags::default(),
            vary: None,
            knee: None,
            beside: Vec::new(),
        };
        let mut variants = variants(0, &scenario, &[Placement::Free]);
        variants[0].peers = vec![0, 1];
        Plan {
            command: "compare",
            peers: vec![peer("base"), peer("other")],
            baseline: 0,
            scenarios: vec![scenario],
            variants,
            placements: vec![Placement::Free],
            rounds,
        }
    }

    fn report(rate: f64, lost: u64, busy: bool) -> Outcome {
        let void: &[&str] = if lost > 0 { &["lost"] } else { &[] };
        Outcome {
            report: Some(json!({
                "verdict": if lost > 0 { "void" } else { "valid" },
                "void_because": void,
                "figures": {"deliveries_per_second": rate, "lost": lost, "unsent": 0},
                "generator": {"busy": busy},
            })),
            ..Outcome::default()
        }
    }

    /// Three rounds: base 100, 200, 400; other 300, void, 400.
    fn runs(plan: &Plan) -> Vec<(Run, Outcome)> {
        let outcome = |run: &Run| match (run.peer, run.round) {
            (0, round) => report(50.0 * f64::from(1 << round), 0, false),
            (_, 1) => report(300.0, 0, false),
            (_, 2) => report(9999.0, 3, true),
            (_, _) => report(400.0, 0, true),
        };
        plan.runs().into_iter().map(|run| (run, outcome(&run))).collect()
    }

    #[test]
    fn ratios_pair_the_rounds_and_void_runs_stay_out() {
        let plan = plan(3);
        let rows = rows(&plan, &runs(&plan));
        let rate = |spreads: &Spreads| spreads["deliveries_per_second"];
        assert_eq!(rate(&rows[0].metrics), Spread { median: 200.0, min: 100.0, max: 400.0, count: 3 });
        assert!(rows[0].ratio.forward.is_empty() && rows[0].trouble() == "–" && !rows[0].generator_busy);
        let other = &rows[1];
        assert_eq!((other.rounds, other.void, other.failed, other.lost), (3, 1, 0, 3));
        assert_eq!(rate(&other.metrics), Spread { median: 350.0, min: 300.0, max: 400.0, count: 2 });
        // 300 by 100 and 400 by 400; the second round has no pair.
        assert_eq!(rate(&other.ratio.forward), Spread { median: 2.0, min: 1.0, max: 3.0, count: 2 });
        assert_eq!(rate(&other.ratio.inverse).max, 1.0);
        assert!(other.generator_busy);
    }

    #[test]
    fn tables_for_people() {
        let plan = plan(3);
        let text = text(&plan, &rows(&plan, &runs(&plan)), false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("  ").collect()).collect();
        assert_eq!(text.lines().next(), Some("s: about"));
        let cells = |line: usize| {
            lines[line].iter().map(|cell| cell.trim()).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(cells(1), ["fanout"]);
        assert_eq!(cells(2)[..4], ["peer", "deliveries/s", "by base", "CPU/delivery"]);
        assert_eq!(cells(3)[..2], ["base", "200"]);
        let other = cells(4);
        assert_eq!(other[..3], ["other", "≥ 350", "2.00 [1.00–3.00] of 2"]);
        assert_eq!(other[other.len() - 2..], ["3 lost, 1 void", "generator busy"]);
    }

    #[test]
    fn a_latency_may_be_a_lower_bound_where_the_rate_is_none() {
        let plan = plan(1);
        let latency = json!({"count": 5, "p50": 1000.0, "p99": 7000.0, "lower_bounds": ["p99"]});
        let outcome = |_| Outcome {
            report: Some(json!({"verdict": "valid", "void_because": [], "figures": {
                "deliveries_per_second": 200.0, "lost": 0, "unsent": 3, "latency_us": latency}})),
            ..Outcome::default()
        };
        let runs: Vec<_> = plan.runs().into_iter().map(|run| (run, outcome(run))).collect();
        let text = text(&plan, &rows(&plan, &runs), false);
        assert!(text.contains("≥ 7.00 ms") && text.matches('≥').count() == 2, "one for each peer: {text}");
    }

    #[test]
    fn a_failed_run_is_counted() {
        let plan = plan(1);
        let runs: Vec<_> = plan.runs().into_iter().map(|run| (run, Outcome::failed("no"))).collect();
        let rows = rows(&plan, &runs);
        assert_eq!((rows[1].failed, rows[1].void, rows[1].trouble().as_str()), (1, 1, "1 failed"));
        assert!(rows[1].metrics.is_empty());
    }
}
