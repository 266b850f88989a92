//! The numbers: a table of each scenario, of every run, and of those that do not count.

use std::collections::BTreeSet;

use maud::{Markup, html};
use serde_json::Value;

use super::charts::absent;
use super::document::{Cell, Document, Ratio, Run, Scenario};
use super::headline::bounded;
use super::metrics::{self, Column, Metric, Unit, ratio};
use super::outcome::Outcome;
use super::{peer_class, swatch};

/// The most important figures of a single run, large.
pub(crate) fn tiles(scenario: &Scenario) -> Markup {
    let cells = scenario.variants.iter().flat_map(|variant| &variant.cells);
    let metrics = metrics::of(&scenario.command);
    html! {
        @for cell in cells {
            dl class="tiles" {
                @for metric in metrics {
                    div {
                        dt { (metric.label) }
                        @match cell.metrics.get(metric.key) {
                            Some(spread) => dd title=(metric.unit.exact(spread.median)) { (bounded(cell, *metric, spread.median)) },
                            None => dd class="quiet" { "–" },
                        }
                    }
                }
            }
        }
    }
}

/// All numbers of a scenario.
pub(crate) fn scenario(document: &Document, scenario: &Scenario) -> Markup {
    if document.single {
        let outcomes =
            scenario.variants.iter().flat_map(|variant| &variant.cells).flat_map(|cell| cell.figures(true));
        return html! { @for outcome in outcomes { (every_figure(outcome)) } };
    }
    html! {
        (summary(document, scenario))
        (runs(document, scenario))
    }
}

/// Figures of a table that this page does not know, after those that it does.
fn columns(scenario: &Scenario) -> Vec<(String, String, Unit)> {
    let known = scenario.metrics();
    let cells = || scenario.variants.iter().flat_map(|variant| &variant.cells);
    let present = |key: &str| cells().any(|cell| cell.metrics.contains_key(key));
    let mut columns: Vec<(String, String, Unit)> = (known.iter())
        .filter(|metric| present(metric.key))
        .map(|metric| (metric.key.to_string(), metric.label.to_string(), metric.unit))
        .collect();
    let others: BTreeSet<&String> = cells().flat_map(|cell| cell.metrics.keys()).collect();
    let others = others.into_iter().filter(|key| known.iter().all(|metric| metric.key != **key));
    columns.extend(others.map(|key| (key.clone(), spoken(key), metrics::unit_of(key))));
    columns
}

/// A key as words.
fn spoken(key: &str) -> String {
    let text = key.replace("_us", "").replace(['_', '.'], " ");
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Medians and ranges, a row for each variant and server.
fn summary(document: &Document, scenario: &Scenario) -> Markup {
    let cells = || scenario.variants.iter().flat_map(|variant| &variant.cells);
    let columns = columns(scenario);
    let written: Vec<Column> = (columns.iter())
        .map(|(key, _, unit)| unit.column(cells().filter_map(|cell| Some(cell.metrics.get(key)?.median))))
        .collect();
    // Of the figures that matter most; those of all would make the table twice as wide.
    let compared: Vec<&str> = scenario.metrics().iter().take(3).map(|metric| metric.key).collect();
    let baseline = |key: &str| {
        if !compared.contains(&key) {
            return None;
        }
        let mut ratios = cells().filter_map(|cell| cell.ratio.as_ref());
        ratios.find(|ratio| ratio.metrics.contains_key(key)).map(|ratio| ratio.to.as_str())
    };
    let baselines: Vec<Option<&str>> = columns.iter().map(|(key, ..)| baseline(key)).collect();
    let width = 2 + columns.len() + baselines.iter().flatten().count();
    html! {
        div class="scroll" {
            table class="numbers" {
                thead {
                    tr {
                        th { "Server" }
                        @for (((_, label, _), column), baseline) in columns.iter().zip(&written).zip(&baselines) {
                            th class="number" { (label) @if !column.sign.is_empty() { " " span class="unit" { (column.sign) } } }
                            @if let Some(baseline) = baseline { th class="number ratio" { (heading(document, baseline)) } }
                        }
                        th class="number" { "Rounds" }
                    }
                }
                @for variant in &scenario.variants {
                    @let written: Vec<Column> = (columns.iter().zip(&written))
                        .map(|((key, ..), column)| {
                            column.within(variant.cells.iter().filter_map(|cell| Some(cell.metrics.get(key)?.median)))
                        })
                        .collect();
                    tbody {
                        @if !variant.name.is_empty() {
                            tr class="group" { th colspan=(width) scope="rowgroup" { (variant.title()) } }
                        }
                        @for cell in &variant.cells {
                            tr class=(peer_class(cell.peer)) {
                                th scope="row" { (swatch(cell.peer)) (document.peers[cell.peer].name) }
                                @for (index, ((key, _, unit), column)) in columns.iter().zip(&written).enumerate() {
                                    @let missing = if index == 0 { absent(cell) } else { "–" };
                                    td class="number" { (value(cell, key, *unit, column, missing)) }
                                    @if baselines[index].is_some() { td class="number ratio" { (ratio_of(cell, key)) } }
                                }
                                td class="number" {
                                    (cell.rounds)
                                    @if cell.void > 0 { div { span class="tag" { (cell.void) " void" } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn value(cell: &Cell, key: &str, unit: Unit, column: &Column, missing: &str) -> Markup {
    html! {
        @if let Some(spread) = cell.metrics.get(key) {
            div title=(unit.exact(spread.median)) {
                @if cell.is_lower_bound(key, unit) { "≥ " }
                (column.text(spread.median))
            }
            @if spread.max > spread.min { div class="range" { (column.text(spread.min)) " – " (column.text(spread.max)) } }
        } @else {
            span class="quiet" { (missing) }
        }
    }
}

/// Of a column of ratios.
fn heading(document: &Document, baseline: &str) -> String {
    if document.inverse() { format!("{baseline} by it") } else { format!("×\u{a0}{baseline}") }
}

fn ratio_of(cell: &Cell, key: &str) -> Markup {
    let spread = cell.ratio.as_ref().and_then(|ratio| ratio.metrics.get(key));
    html! {
        @if let Some(spread) = spread {
            @let range = (spread.max > spread.min).then(|| format!("{} – {}", ratio(spread.min), ratio(spread.max)));
            @let parts: Vec<String> = range.into_iter().chain(Ratio::pairs([spread].into_iter())).collect();
            div { (ratio(spread.median)) }
            @if !parts.is_empty() { div class="range" { (parts.join(", ")) } }
        } @else { span class="quiet" { "–" } }
    }
}

/// Every run with its most important figures, folded.
fn runs(document: &Document, scenario: &Scenario) -> Markup {
    let all = || {
        scenario.variants.iter().flat_map(|variant| {
            variant.cells.iter().flat_map(move |cell| cell.runs.iter().map(move |run| (variant, cell, run)))
        })
    };
    let shown: Vec<Metric> = metrics::of(&scenario.command).iter().copied().take(8).collect();
    let number =
        |run: &Run, metric: &Metric| run.outcome.as_ref().and_then(|outcome| outcome.number(metric.key));
    let written: Vec<Column> = (shown.iter())
        .map(|metric| metric.unit.column(all().filter_map(|(_, _, run)| number(run, metric))))
        .collect();
    let count = all().count();
    if count == 0 {
        return html! {};
    }
    html! {
        details {
            summary { (count) " runs, one by one" }
            div class="scroll" {
                table class="numbers" {
                    thead {
                        tr {
                            th { "Server" } th { "Variant" } th class="number" { "Round" }
                            @for (metric, column) in shown.iter().zip(&written) {
                                th class="number" { (metric.label) @if !column.sign.is_empty() { " " span class="unit" { (column.sign) } } }
                            }
                            th { "Verdict" }
                        }
                    }
                    tbody {
                        @for (variant, cell, run) in all() {
                            tr class=(peer_class(cell.peer)) {
                                th scope="row" { (document.peers[cell.peer].name) }
                                td { (variant.title()) }
                                td class="number" { (run.round.map_or("–".into(), |round| round.to_string())) }
                                @for (metric, column) in shown.iter().zip(&written) {
                                    td class="number" {
                                        @if run.outcome.as_ref().is_some_and(|one| one.is_lower_bound(metric.key)) { "≥ " }
                                        (number(run, metric).map_or("–".into(), |value| column.text(value)))
                                    }
                                }
                                td { (verdict(run)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn verdict(run: &Run) -> Markup {
    let busy = run.outcome.as_ref().is_some_and(Outcome::busy);
    html! {
        @if run.counts() { "valid" } @else if run.failure.is_some() { span class="tag" { "failed" } }
        @else if run.outcome.is_some() { span class="tag" { "void" } } @else { "–" }
        @if busy { ", generator busy" }
    }
}

/// All figures of a single run.
fn every_figure(outcome: &Outcome) -> Markup {
    let text = |key: &str, value: &Value| match value {
        Value::Null => "–".into(),
        Value::Number(number) => {
            number.as_f64().map_or_else(|| number.to_string(), |value| metrics::unit_of(key).exact(value))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    html! {
        h2 { "All figures" }
        dl class="figures" {
            @for (key, value) in outcome.all() { div { dt { (key) } dd { (text(&key, value)) } } }
        }
    }
}

/// Every void and every failed run with its reason, and what else the runs noted.
pub(crate) fn not_counted(document: &Document) -> Markup {
    if document.single {
        return html! {};
    }
    let all = || {
        document.scenarios.iter().flat_map(|scenario| {
            scenario.variants.iter().flat_map(move |variant| {
                variant
                    .cells
                    .iter()
                    .flat_map(move |cell| cell.runs.iter().map(move |run| (scenario, variant, cell, run)))
            })
        })
    };
    let gone: Vec<_> = all().filter(|(.., run)| !run.counts()).collect();
    // What is said of many runs is said once, with their number.
    let mut notes: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for (scenario, _, cell, run) in all() {
        for note in run.outcome.iter().flat_map(Outcome::notes) {
            let peer = document.peers[cell.peer].name.as_str();
            match notes.iter_mut().find(|(of, text, _)| *of == scenario.name && alike(text, note)) {
                Some((_, _, peers)) => peers.push(peer),
                None => notes.push((&scenario.name, note, vec![peer])),
            }
        }
    }
    html! {
        section {
            h2 { "Runs that do not count" }
            @if gone.is_empty() { p { "None: every run is valid." } } @else {
                div class="scroll" {
                    table {
                        thead { tr { th { "Server" } th { "Scenario" } th class="number" { "Round" } th { "" } th { "Reason" } } }
                        tbody {
                            @for (scenario, variant, cell, run) in gone {
                                tr class=(peer_class(cell.peer)) {
                                    th scope="row" { (swatch(cell.peer)) (document.peers[cell.peer].name) }
                                    td { (scenario.name) @if !variant.name.is_empty() { ", " (variant.title()) } }
                                    td class="number" { (run.round.map_or("–".into(), |round| round.to_string())) }
                                    td { (verdict(run)) }
                                    td { (reason(run)) }
                                }
                            }
                        }
                    }
                }
            }
            @if !notes.is_empty() {
                details {
                    summary { "Notes of the runs" }
                    ul {
                        @for (scenario, note, peers) in &notes {
                            li { strong { (scenario) } ": " (note) " " span class="quiet" { "(" (counted(peers)) ")" } }
                        }
                    }
                }
            }
        }
    }
}

fn reason(run: &Run) -> String {
    let reasons: Vec<&str> = run.outcome.iter().flat_map(Outcome::void_because).collect();
    match &run.failure {
        Some(failure) => failure.clone(),
        None if reasons.is_empty() => "the document gives no reason".into(),
        None => reasons.join("; "),
    }
}

/// Whether two notes differ in their numbers only.
fn alike(a: &str, b: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect::<String>();
    words(a) == words(b)
}

/// `bun 3 ×, nats`
fn counted(names: &[&str]) -> String {
    let distinct: BTreeSet<&str> = names.iter().copied().collect();
    let texts = distinct.into_iter().map(|name| match names.iter().filter(|other| **other == name).count() {
        1 => name.to_string(),
        count => format!("{name} {count} ×"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_counted() {
        assert_eq!(counted(&["b", "a", "b"]), "a, b 2 ×");
        assert!(alike("ran 95.1 %", "ran 9 %") && !alike("ran 95 %", "slept 95 %"));
    }

    #[test]
    fn keys_as_words() {
        assert_eq!(spoken("latency_us.p99"), "Latency p99");
        assert_eq!(spoken("knee_rate"), "Knee rate");
    }
}
