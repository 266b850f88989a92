//! The head of the page: what was measured, where, of whom, and the whole comparison in one table. And its foot: how
//! to read it.

use maud::{Markup, html};
use serde_json::Value;

use super::document::{Cell, Document, Scenario};
use super::metrics::{self, Metric, Unit};
use super::outcome::Outcome;
use super::swatch;

/// What the page is about.
pub(crate) fn title(document: &Document) -> String {
    let took_part = document.peers.iter().filter(|peer| peer.skipped.is_none()).count();
    match document.command.as_str() {
        command if document.single => match command {
            "fanout" => "Broadcast to many subscribers".into(),
            "echo" => "Echo".into(),
            "idle" => "Idle connections".into(),
            "handshakes" => "Handshakes".into(),
            "topics" => "Very many topics".into(),
            other => other.to_string(),
        },
        "limit" => "A broadcast server beside the limit of the machine".into(),
        _ if took_part == 1 => "A broadcast server measured".into(),
        _ => format!("{took_part} broadcast servers compared"),
    }
}

/// Title, extent, machine, servers.
pub(crate) fn header(document: &Document, title: &str) -> Markup {
    let environment = environment(document);
    html! {
        h1 { (title) }
        p class="lead" { (extent(document)) }
        @if document.single { (verdict(document)) }
        @if !environment.is_empty() {
            dl class="facts" {
                @for (label, value) in &environment { div { dt { (label) } dd { (value) } } }
            }
        }
        @if !document.single { (peers(document)) }
    }
}

fn extent(document: &Document) -> Markup {
    let date = document.environment.get("date").and_then(Value::as_str);
    if document.single {
        let outcome = document.scenarios.iter().flat_map(only_outcome).next();
        let seconds = outcome.and_then(|outcome| outcome.number("seconds"));
        let load = outcome.map(load).unwrap_or_default();
        return html! {
            @if !load.is_empty() { (load) br; }
            code { (document.peers[0].name) }
            @if let Some(seconds) = seconds { ", measured for " (format!("{seconds:.1}")) " s" }
            @if let Some(date) = date { ", " (date) }
        };
    }
    let cells = || {
        document.scenarios.iter().flat_map(|scenario| &scenario.variants).flat_map(|variant| &variant.cells)
    };
    let runs: u64 = cells().map(|cell| cell.rounds).sum();
    let rounds = cells().map(|cell| cell.rounds).max().unwrap_or(0);
    let many = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    html! {
        (many(document.scenarios.len() as u64, "scenario")) ", up to " (many(rounds, "round")) " each, "
        (many(runs, "run")) " in all"
        @if let Some(date) = date { ", " (date) }
    }
}

/// What a single run did, in words.
fn load(outcome: &Outcome) -> String {
    const PARTS: [(&str, &str); 9] = [
        ("subscribers", "subscribers"),
        ("connections", "connections"),
        ("publishers", "publishers"),
        ("topics", "topics"),
        ("payload_bytes", "bytes a message"),
        ("in_flight", "in flight on each"),
        ("outstanding", "outstanding"),
        ("rate", "messages/s"),
        ("concurrency", "at once"),
    ];
    let parts = PARTS.iter().filter_map(|(key, words)| {
        let number = outcome.number(key)?;
        let words = if number == 1.0 {
            words.strip_suffix("s").filter(|_| *words != "messages/s").unwrap_or(words)
        } else {
            words
        };
        Some(format!("{}\u{a0}{words}", Unit::Count.text(number)))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn only_outcome(scenario: &Scenario) -> impl Iterator<Item = &Outcome> {
    let cells = scenario.variants.iter().flat_map(|variant| &variant.cells);
    cells.flat_map(|cell| &cell.runs).filter_map(|run| run.outcome.as_ref())
}

/// Whether a single run's figures count.
fn verdict(document: &Document) -> Markup {
    let Some(outcome) = document.scenarios.iter().flat_map(only_outcome).next() else { return html! {} };
    let reasons: Vec<&str> = outcome.void_because().collect();
    html! {
        @if outcome.is_void() {
            p class="banner alert" { strong { "Void: these figures do not count." } " " (reasons.join("; ")) }
        }
        @for note in outcome.notes() { p class="banner" { strong { "Note: " } (note) } }
    }
}

/// Labels and values of the environment, the known ones first.
fn environment(document: &Document) -> Vec<(String, String)> {
    const KNOWN: [(&str, &str); 7] = [
        ("placement", "Placement"),
        ("cpu", "Processor"),
        ("cpus", "CPUs"),
        ("memory_bytes", "Memory"),
        ("kernel", "Kernel"),
        ("tool_version", "stentor-load"),
        ("date", "Measured"),
    ];
    let text = |key: &str, value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(metrics::unit_of(key).text(number.as_f64()?)),
        other => Some(other.to_string()),
    };
    let known = KNOWN
        .iter()
        .filter_map(|(key, label)| Some(((*label).to_string(), text(key, document.environment.get(*key)?)?)));
    let others = document.environment.iter().filter(|(key, _)| KNOWN.iter().all(|(known, _)| known != key));
    let others = others.filter_map(|(key, value)| Some((key.replace('_', " "), text(key, value)?)));
    let mut all: Vec<_> = known.chain(others).collect();
    if document.single && all.is_empty() {
        let cpus = document
            .scenarios
            .iter()
            .flat_map(only_outcome)
            .find_map(|outcome| outcome.number("machine.cpus"));
        all.extend(cpus.map(|cpus| ("CPUs".to_string(), Unit::Count.text(cpus))));
    }
    all
}

fn peers(document: &Document) -> Markup {
    html! {
        div class="scroll" {
            table class="peers" {
                thead { tr { th { "Server" } th { "Version" } th { "What it is, and how it was set" } } }
                tbody {
                    @for (index, peer) in document.peers.iter().enumerate() {
                        tr class={ (super::peer_class(index)) @if peer.skipped.is_some() { " skipped" } } {
                            th scope="row" {
                                @if peer.skipped.is_none() { (swatch(index)) }
                                (peer.name)
                            }
                            td { (peer.version.as_deref().unwrap_or("–")) }
                            td {
                                @if let Some(about) = &peer.about { div { (about) } }
                                @if let Some(options) = &peer.options { div class="quiet" { (options) } }
                                @if let Some(skipped) = &peer.skipped { (why_skipped(skipped)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn why_skipped(skipped: &str) -> Markup {
    let (why, install) =
        skipped.split_once("install:").map_or((skipped, None), |(why, how)| (why, Some(how.trim())));
    html! {
        div {
            span class="tag" { "skipped" } " " (why.trim().trim_end_matches(';'))
            @if let Some(install) = install { "; install it with " code { (install) } }
        }
    }
}

/// The figures of the overview: of a rate sweep, the latency comes first.
fn principal(scenario: &Scenario) -> Vec<Metric> {
    let metrics = scenario.metrics();
    let named = |key: &str| metrics.iter().copied().find(|metric| metric.key == key);
    if scenario.sweeps_rates() {
        return ["latency_us.p99", "server_cpu_us_per_delivery"].into_iter().filter_map(named).collect();
    }
    metrics.into_iter().take(2).collect()
}

/// All scenarios and all servers in one table, two figures each.
pub(crate) fn overview(document: &Document) -> Markup {
    let took_part: Vec<usize> = (0..document.peers.len())
        .filter(|peer| document.scenarios.iter().any(|scenario| scenario.peers().contains(peer)))
        .collect();
    html! {
        section {
            h2 { "At a glance" }
            p class="quiet" { "Medians of the valid rounds. Bold: the best of its row, by the first figure." }
            div class="scroll" {
                table class="overview" {
                    thead {
                        tr {
                            th { "Scenario" }
                            @for &peer in &took_part {
                                th class={ "number " (super::peer_class(peer)) } { (swatch(peer)) (document.peers[peer].name) }
                            }
                        }
                    }
                    @for scenario in &document.scenarios { (overview_of(scenario, &took_part)) }
                }
            }
        }
    }
}

fn overview_of(scenario: &Scenario, peers: &[usize]) -> Markup {
    let principal = principal(scenario);
    let labels: Vec<&str> = principal.iter().map(|metric| metric.label).collect();
    html! {
        tbody {
            tr class="group" {
                th colspan=(peers.len() + 1) scope="rowgroup" {
                    (scenario.name) " " span class="quiet" { (labels.join(", and below: ")) }
                }
            }
            @for variant in &scenario.variants {
                @let value = |cell: &Cell| principal.first().and_then(|metric| cell.metrics.get(metric.key)).map(|spread| spread.median);
                @let values = || variant.cells.iter().filter_map(value);
                @let more = principal.first().is_some_and(|metric| metric.unit == Unit::PerSecond);
                @let best = if more { values().reduce(f64::max) } else { values().reduce(f64::min) };
                @let compared = values().count() > 1;
                tr {
                    th scope="row" { @if variant.name.is_empty() { "–" } @else { (variant.title()) } }
                    @for &peer in peers {
                        @let cell = variant.cells.iter().find(|cell| cell.peer == peer);
                        td class={ "number " (super::peer_class(peer)) } {
                            @if let Some(cell) = cell {
                                @let best = compared && value(cell).is_some() && value(cell) == best;
                                div class=[best.then_some("best")] { (figure(cell, principal.first())) }
                                div class="quiet" {
                                    (second_figure(cell, principal.get(1)))
                                    @if cell.void > 0 { " " span class="tag" { (cell.void) "/" (cell.rounds) " void" } }
                                }
                            } @else { span class="quiet" { "–" } }
                        }
                    }
                }
            }
        }
    }
}

fn figure(cell: &Cell, metric: Option<&Metric>) -> Markup {
    let text = metric.and_then(|metric| Some(bounded(cell, *metric, cell.metrics.get(metric.key)?.median)));
    html! { (text.unwrap_or_else(|| "–".into())) }
}

fn second_figure(cell: &Cell, metric: Option<&Metric>) -> Markup {
    let text = metric.and_then(|metric| Some(bounded(cell, *metric, cell.metrics.get(metric.key)?.median)));
    html! { (text.unwrap_or_default()) }
}

/// A value with its unit, and the mark of a lower bound.
pub(crate) fn bounded(cell: &Cell, metric: Metric, value: f64) -> String {
    let at_least = if cell.is_lower_bound(metric.key, metric.unit) { "≥ " } else { "" };
    format!("{at_least}{}", metric.unit.text(value))
}

/// What the marks mean.
pub(crate) fn how_to_read(document: &Document) -> Markup {
    html! {
        section class="reading" {
            h2 { "How to read this page" }
            ul {
                li {
                    strong { "Server CPU per delivery" } " is user and system time of the server's processes by messages \
                    delivered. Compare servers by it when they share a machine with the generator."
                }
                li {
                    strong { "Latency" } " counts, in an open loop, from the instant at which a message was due, so a stalled \
                    server is charged for all that it delayed. " strong { "Last subscriber" } ": until every subscriber had it."
                }
                li {
                    strong { "≥" } ": a lower bound. Of a rate: the generator was the bottleneck; server CPU per unit of work \
                    still counts. Of a latency: messages that the server kept from being sent count with the time that they had \
                    waited in the end. Of a rate held: the generator, a failed run or the scenario's end stopped the sweep."
                }
                li {
                    strong { "Void" } ": a message was lost, repeated, out of order or damaged, or a connection was closed \
                    unasked. " @if !document.single { "Such a run's figures are in no median." }
                }
                @if !document.single {
                    li {
                        "A value is the median over the valid rounds; whiskers and small print are the least and the greatest. "
                        @if document.inverse() {
                            strong { "By it" } ": the median of the baseline's figure by that of the row, pair by pair."
                        } @else {
                            strong { "×" } " is the median of the ratio to the baseline, pair by pair."
                        }
                    }
                }
                li { "An en dash (–): the document does not say. Rest the pointer on a mark for its exact value." }
            }
        }
    }
}
