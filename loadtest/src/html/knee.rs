//! A rate sweep: the steps of one, the latency at each, and where it leaves the floor.

use maud::{Markup, html};
use serde::Deserialize;

use super::axis::Axis;
use super::document::{Document, Run, Scenario, Variant};
use super::lines::{Chart, Line, Point};
use super::metrics::Unit;
use super::{peer_class, swatch};

/// What a sweep found.
#[derive(Debug, Deserialize)]
pub(crate) struct Knee {
    /// The highest rate that was held, in messages per second; 0 if none was.
    pub(crate) rate: Option<f64>,
    /// The 99th percentile of latency at that rate.
    pub(crate) p99_us: Option<f64>,
    lower_bound_because: Option<String>,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    rate: f64,
    held: Option<bool>,
    why: Option<String>,
    deliveries_per_second: Option<f64>,
    latency_p50_us: Option<f64>,
    latency_p99_us: Option<f64>,
    server_cpu_us_per_delivery: Option<f64>,
}

impl Knee {
    /// Something else than the server ended the sweep.
    pub(crate) fn is_lower_bound(&self) -> bool {
        self.lower_bound_because.is_some()
    }

    fn rising(&self) -> Vec<&Step> {
        let mut steps: Vec<&Step> = self.steps.iter().collect();
        steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        steps
    }
}

/// Of each server the run whose knee is the median.
fn sweeps(variant: &Variant) -> Vec<(usize, &Run, &Knee)> {
    variant
        .cells
        .iter()
        .filter_map(|cell| {
            let mut runs: Vec<_> =
                cell.runs.iter().filter_map(|run| Some((run, run.knee.as_ref()?))).collect();
            runs.sort_by(|(_, a), (_, b)| a.rate.unwrap_or(0.0).total_cmp(&b.rate.unwrap_or(0.0)));
            let (run, knee) = *runs.get(runs.len() / 2)?;
            Some((cell.peer, run, knee))
        })
        .collect()
}

/// Latency by rate.
pub(crate) fn chart(document: &Document, variant: &Variant) -> Option<Chart> {
    let sweeps = sweeps(variant);
    let steps = || sweeps.iter().flat_map(|(.., knee)| &knee.steps);
    steps().find(|step| step.latency_p99_us.is_some())?;
    let lines = sweeps.iter().map(|(peer, _, knee)| Line {
        peer: *peer,
        thin: false,
        points: (knee.rising().into_iter())
            .map(|step| {
                let name = &document.peers[*peer].name;
                let p99 = step.latency_p99_us.map_or("nothing measured".into(), |us| Unit::Micros.exact(us));
                let why = step.why.as_ref().map_or(String::new(), |why| format!("; not held: {why}"));
                Point {
                    x: step.rate,
                    y: step.latency_p99_us,
                    range: None,
                    hollow: step.held == Some(false),
                    text: format!("{name} at {}: p99 {p99}{why}", Unit::PerSecond.exact(step.rate)),
                }
            })
            .collect(),
    });
    let mut x = Axis::log_level(steps().map(|step| step.rate), Unit::PerSecond);
    x.label = "messages published".into();
    let y = Axis::log(steps().filter_map(|step| step.latency_p99_us), Unit::Micros);
    let title = match variant.title() {
        name if name.is_empty() => "The knee: latency p99 by rate".into(),
        name => format!("The knee: latency p99 by rate, {name}"),
    };
    Some(Chart { title, x, y, lines: lines.collect(), markers: true })
}

/// The steps of those sweeps, folded.
pub(crate) fn table(document: &Document, scenario: &Scenario) -> Markup {
    let number = |value: Option<f64>, unit: Unit| value.map_or("–".into(), |value| unit.text(value));
    let sweeps: Vec<_> = scenario
        .variants
        .iter()
        .flat_map(|variant| {
            sweeps(variant).into_iter().map(move |(peer, run, knee)| (variant, peer, run, knee))
        })
        .collect();
    if sweeps.is_empty() {
        return html! {};
    }
    html! {
        details {
            summary { "Steps of the sweeps" }
            @for (variant, peer, run, knee) in &sweeps {
                @if let Some(because) = &knee.lower_bound_because {
                    p {
                        (document.peers[*peer].name)
                        @if !variant.name.is_empty() { ", " (variant.title()) }
                        @if let Some(round) = run.round { ", round " (round) }
                        " may hold a higher rate: " (because)
                    }
                }
            }
            div class="scroll" {
                table class="numbers" {
                    thead {
                        tr {
                            th { "Server" } th { "Variant" } th class="number" { "Round" } th class="number" { "Rate" }
                            th class="number" { "Latency p50" } th class="number" { "Latency p99" }
                            th class="number" { "Deliveries" } th class="number" { "Server CPU per delivery" } th { "Held" }
                        }
                    }
                    tbody {
                        @for (variant, peer, run, knee) in &sweeps {
                            @for step in knee.rising() {
                                tr class=(peer_class(*peer)) {
                                    th scope="row" { (swatch(*peer)) (document.peers[*peer].name) }
                                    td { (variant.title()) }
                                    td class="number" { (run.round.map_or("–".into(), |round| round.to_string())) }
                                    td class="number" { (Unit::PerSecond.text(step.rate)) }
                                    td class="number" { (number(step.latency_p50_us, Unit::Micros)) }
                                    td class="number" { (number(step.latency_p99_us, Unit::Micros)) }
                                    td class="number" { (number(step.deliveries_per_second, Unit::PerSecond)) }
                                    td class="number" { (number(step.server_cpu_us_per_delivery, Unit::Micros)) }
                                    td {
                                        @match (step.held, &step.why) {
                                            (Some(true), _) => "yes",
                                            (_, Some(why)) => (why),
                                            (Some(false), None) => "no",
                                            (None, None) => "–",
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
