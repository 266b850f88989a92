//! The charts of a scenario: which are drawn, and from which figures.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::axis::Axis;
use super::bars::{self, Group, Quantiles, Row};
use super::document::{Cell, Document, Progression, Ratio, Scenario, Spread, Variant};
use super::lines::{Chart, Line, Point};
use super::metrics::{self, Metric, Unit, ratio};
use super::outcome::{Interval, Outcome};
use super::{knee, legend};

/// Latency beside the figure that a rate sweep looks for.
const LATENCY_P99: &str = "latency_us.p99";

/// All charts of a scenario.
pub(crate) fn all(document: &Document, scenario: &Scenario) -> Markup {
    let sweeps = scenario.sweeps_rates();
    html! {
        @if !document.single && !scenario.progressions().is_empty() {
            (legend(document, &scenario.peers()))
            div class="charts" { @for progression in scenario.progressions() { (by_number(document, scenario, &progression)) } }
        }
        @if !document.single && !sweeps {
            div class="charts" {
                @for metric in scenario.metrics().into_iter().take(2) { (comparison(document, scenario, metric)) }
            }
        }
        @let knees: Vec<_> = scenario.variants.iter().filter_map(|variant| knee::chart(document, variant)).collect();
        @if !knees.is_empty() {
            (legend(document, &scenario.peers()))
            div class="charts" {
                @for knee in knees { (figure(&knee.title, "the round whose knee is the median; hollow: not held", &knee.svg())) }
            }
            (knee::table(document, scenario))
        }
        @for variant in &scenario.variants { (details(document, scenario, variant)) }
    }
}

fn figure(title: &str, about: &str, drawing: &Markup) -> Markup {
    html! {
        figure {
            figcaption { strong { (title) } @if !about.is_empty() { " " span class="quiet" { (about) } } }
            (drawing)
        }
    }
}

/// Figures by what varies, where it is numbers: the cliffs and the knee.
fn by_number(document: &Document, scenario: &Scenario, progression: &Progression<'_>) -> Markup {
    let Progression { flag, rest, variants } = progression;
    let values: Vec<f64> = variants.iter().map(|(value, _)| *value).collect();
    let metrics = metrics::of(&scenario.command);
    let named = |key: &str| metrics.iter().find(|metric| metric.key == key).copied();
    let shown: Vec<Metric> = if scenario.sweeps_rates() {
        [LATENCY_P99, "server_cpu_us_per_delivery"].into_iter().filter_map(named).collect()
    } else {
        metrics.iter().copied().take(2).collect()
    };
    let unit = if scenario.sweeps_rates() { Unit::PerSecond } else { Unit::Count };
    let drawn = shown.iter().map(|metric| {
        let spreads = |cell: &Cell| cell.metrics.get(metric.key).copied();
        let cells = || variants.iter().flat_map(|(_, variant)| &variant.cells);
        let extent = cells().filter_map(spreads).flat_map(|spread| [spread.min, spread.max]);
        let y = Axis::log(extent, metric.unit);
        let took_part = scenario.peers().into_iter().filter(|peer| cells().any(|cell| cell.peer == *peer));
        let lines = took_part.map(|peer| Line {
            peer,
            thin: false,
            points: (variants.iter())
                .filter_map(|(value, variant)| {
                    Some((*value, variant.cells.iter().find(|cell| cell.peer == peer)?))
                })
                .map(|(value, cell)| {
                    let spread = spreads(cell);
                    let text = format!("{} at {}: ", document.peers[peer].name, unit.exact(value));
                    Point {
                        x: value,
                        y: spread.map(|spread| spread.median),
                        range: spread.map(|spread| (spread.min, spread.max)),
                        hollow: false,
                        text: text
                            + &spread.map_or("nothing valid".into(), |spread| described(metric.unit, spread)),
                    }
                })
                .collect(),
        });
        let x =
            Axis::of_values(&values, unit, if unit == Unit::PerSecond { "messages published" } else { flag });
        let chart = Chart { title: metric.label.into(), x, y, lines: lines.collect(), markers: true };
        let knee = scenario.sweeps_rates() && metric.key == LATENCY_P99;
        let title = if knee {
            format!("The knee: {} by rate", metric.label.to_lowercase())
        } else {
            format!("{} by {flag}", metric.label)
        };
        let separator = if rest.is_empty() { "" } else { "; " };
        figure(&title, &format!("{rest}{separator}median and range; both axes logarithmic"), &chart.svg())
    });
    html! { @for figure in drawn { (figure) } }
}

/// A figure as bars, a group for each variant.
fn comparison(document: &Document, scenario: &Scenario, metric: Metric) -> Markup {
    let cells = || scenario.variants.iter().flat_map(|variant| &variant.cells);
    if !cells().any(|cell| cell.metrics.contains_key(metric.key)) {
        return html! {};
    }
    let groups: Vec<Group> =
        scenario.variants.iter().map(|variant| group(document, variant, metric)).collect();
    let ratios = || {
        let ratios = cells().filter_map(|cell| cell.ratio.as_ref());
        ratios.filter_map(|ratio| Some((ratio.to.as_str(), ratio.metrics.get(metric.key)?)))
    };
    let baseline = ratios().map(|(to, _)| to).next();
    let pairs = Ratio::pairs(ratios().map(|(_, spread)| spread));
    let pairs = pairs.map_or_else(String::new, |pairs| format!(" of {pairs}"));
    let scales = if groups.len() > 1 { "; a scale for each group" } else { "" };
    let about = match baseline {
        Some(baseline) if document.inverse() => format!("median, range, {baseline} by it{pairs}{scales}"),
        Some(baseline) => format!("median, range, ratio to {baseline}{pairs}{scales}"),
        None => format!("median and range{scales}"),
    };
    figure(metric.label, &about, &bars::bars(metric.label, metric.unit, &groups))
}

fn group(document: &Document, variant: &Variant, metric: Metric) -> Group {
    let rows = variant.cells.iter().map(|cell| {
        let name = &document.peers[cell.peer].name;
        let spread = cell.metrics.get(metric.key).copied();
        let compared =
            cell.ratio.as_ref().and_then(|ratio| Some((&ratio.to, *ratio.metrics.get(metric.key)?)));
        let mut text = format!("{name}: ");
        text += &spread.map_or("nothing valid".into(), |spread| described(metric.unit, spread));
        text += &format!(", {} rounds, {} of them void", cell.rounds, cell.void);
        if let Some((to, spread)) = compared {
            let [median, min, max] = [spread.median, spread.min, spread.max].map(ratio);
            let pairs = Ratio::pairs([spread].iter()).map_or_else(String::new, |pairs| format!(", {pairs}"));
            text += &if document.inverse() {
                format!("; {to} by it: {median} (from {min} to {max}{pairs})")
            } else {
                format!("; {median} times {to} (from {min} to {max}{pairs})")
            };
        }
        Row {
            peer: cell.peer,
            name: name.clone(),
            spread,
            ratio: compared.map(|(_, spread)| spread),
            at_least: cell.is_lower_bound(metric.key, metric.unit),
            absent: absent(cell).into(),
            text,
        }
    });
    Group { heading: variant.title(), rows: rows.collect() }
}

/// Why a cell has no figure.
pub(crate) fn absent(cell: &Cell) -> &'static str {
    if cell.runs.iter().any(|run| run.failure.is_some()) && cell.void == cell.rounds {
        "failed"
    } else if cell.void > 0 && cell.void == cell.rounds {
        "void"
    } else {
        "–"
    }
}

fn described(unit: Unit, spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| unit.exact(value));
    if spread.min < spread.max { format!("{median} ({min} to {max})") } else { median }
}

/// Percentiles, the run over time, and the last subscriber, of one variant.
fn details(document: &Document, scenario: &Scenario, variant: &Variant) -> Markup {
    let steps = if document.single { steps(document, variant) } else { None };
    let figures: Vec<Markup> = [
        percentiles(document, scenario, variant),
        last_subscriber(document, variant),
        rates_over_time(document, scenario, variant),
        latency_over_time(document, scenario, variant),
        steps,
    ]
    .into_iter()
    .flatten()
    .collect();
    if figures.is_empty() {
        return html! {};
    }
    if document.single {
        return html! { div class="charts" { @for figure in figures { (figure) } } };
    }
    let peers: Vec<usize> = variant.cells.iter().map(|cell| cell.peer).collect();
    let charts = html! {
        (legend(document, &peers))
        div class="charts" { @for figure in figures { (figure) } }
    };
    if variant.name.is_empty() {
        return charts;
    }
    html! {
        details open[!scenario.sweeps_rates()] {
            summary { (variant.title()) }
            (charts)
        }
    }
}

fn percentiles(document: &Document, scenario: &Scenario, variant: &Variant) -> Option<Markup> {
    let mut lines = Vec::new();
    // Alone, a server has room for a second line.
    let last_subscriber = document.single.then_some(("last_subscriber_us", true));
    let shown = [(metrics::latency_of(&scenario.command), false)].into_iter().chain(last_subscriber);
    for ((name, thin), cell) in shown.flat_map(|shown| variant.cells.iter().map(move |cell| (shown, cell))) {
        let points = quantiles(document, cell, name, if thin { "last subscriber" } else { "latency" });
        if points.len() > 1 {
            lines.push(Line { peer: cell.peer, thin, points });
        }
    }
    let points = || lines.iter().flat_map(|line| &line.points);
    let highest = points().map(|point| point.x).fold(0.0, f64::max);
    if highest == 0.0 {
        return None;
    }
    let few = lines.iter().all(|line| line.points.len() < 8);
    let x = Axis::quantiles(1.0 - 1.0 / highest);
    let y = Axis::log(points().filter_map(|point| point.y), Unit::Micros);
    let title = match scenario.command.as_str() {
        "idle" | "handshakes" => "Time from SYN to 101 by percentile",
        _ => "Latency by percentile",
    };
    let mut x = x;
    x.label = match scenario.command.as_str() {
        "idle" | "handshakes" => "share of handshakes",
        "echo" => "share of messages",
        _ => "share of deliveries",
    }
    .into();
    let about = match (document.single, lines.len()) {
        (true, 1) => "both axes logarithmic",
        (true, _) => "per delivery, and until the last subscriber had it (thin)",
        (false, _) => "median of the valid rounds at each quantile",
    };
    let chart = Chart { title: title.into(), x, y, lines, markers: few };
    Some(figure(title, about, &chart.svg()))
}

/// Points from the median up: at each quantile the median over the rounds.
fn quantiles(document: &Document, cell: &Cell, name: &str, what: &str) -> Vec<Point> {
    // The key is the quantile in millionths.
    let mut values: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (quantile, us) in cell.figures(document.single).flat_map(|outcome| outcome.percentiles(name)) {
        values.entry((quantile * 1e6).round() as u64).or_default().push(us);
    }
    let from_the_median =
        values.into_iter().filter(|(millionths, _)| (500_000..1_000_000).contains(millionths));
    let points = from_the_median.filter_map(|(millionths, values)| {
        let quantile = millionths as f64 / 1e6;
        let us = Spread::of(values)?.median;
        let peer = &document.peers[cell.peer].name;
        let percent = (quantile * 1e8).round() / 1e6;
        let text = format!("{peer}, {what}: {percent} % within {}", Unit::Micros.exact(us));
        Some(Point { x: Axis::odds(quantile), y: Some(us), range: None, hollow: false, text })
    });
    points.collect()
}

fn last_subscriber(document: &Document, variant: &Variant) -> Option<Markup> {
    const QUANTILES: [(&str, &str); 4] = [("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("max", "max")];
    let rows: Vec<Quantiles> = (variant.cells.iter())
        .map(|cell| {
            let values = QUANTILES.iter().filter_map(|(key, label)| {
                let path = format!("last_subscriber_us.{key}");
                let figures = cell.figures(document.single).filter_map(|outcome| outcome.number(&path));
                Some((*label, Spread::of(figures.collect())?.median))
            });
            let name = if document.single { String::new() } else { document.peers[cell.peer].name.clone() };
            Quantiles { peer: cell.peer, name, values: values.collect() }
        })
        .collect();
    if rows.iter().all(|row| row.values.is_empty()) {
        return None;
    }
    let title = "Until the last subscriber had it";
    let about = "p50 (filled), p90, p99 (strokes), max (hollow)";
    Some(figure(title, about, &bars::ranges(title, Unit::Micros, &rows)))
}

/// The median run of each server, and which it is, for a chart over time.
struct Course {
    peer: usize,
    name: String,
    series: Vec<Interval>,
}

fn courses(document: &Document, scenario: &Scenario, variant: &Variant) -> Vec<Course> {
    let key = metrics::of(&scenario.command).get(1).map_or("", |metric| metric.key);
    let courses = variant.cells.iter().filter_map(|cell| {
        let (round, outcome) = cell.median_run(document.single, key)?;
        let name = &document.peers[cell.peer].name;
        let name = round.map_or_else(|| name.clone(), |round| format!("{name}, round {round}"));
        let series = outcome.series();
        (series.len() > 1).then_some(Course { peer: cell.peer, name, series })
    });
    courses.collect()
}

fn which_round(document: &Document) -> &'static str {
    if document.single { "" } else { "the round whose rate is the median" }
}

fn seconds(courses: &[Course]) -> Axis {
    Axis::seconds(
        courses.iter().filter_map(|course| course.series.last()).map(|last| last.seconds).fold(0.0, f64::max),
    )
}

fn rates_over_time(document: &Document, scenario: &Scenario, variant: &Variant) -> Option<Markup> {
    let courses = courses(document, scenario, variant);
    let rates =
        || courses.iter().flat_map(|course| &course.series).filter_map(|interval| interval.per_second);
    rates().next()?;
    let lines = courses.iter().map(|course| Line {
        peer: course.peer,
        thin: false,
        points: (course.series.iter())
            .map(|interval| Point {
                x: interval.seconds,
                y: interval.per_second,
                range: None,
                hollow: false,
                text: format!(
                    "{}, {:.2} s: {}",
                    course.name,
                    interval.seconds,
                    Unit::PerSecond.exact(interval.per_second.unwrap_or(0.0))
                ),
            })
            .collect(),
    });
    let what = if scenario.command == "echo" { "Messages over time" } else { "Deliveries over time" };
    let y = Axis::linear(rates(), Unit::PerSecond, "");
    let chart = Chart { title: what.into(), x: seconds(&courses), y, lines: lines.collect(), markers: false };
    Some(figure(what, if document.single { "by interval" } else { which_round(document) }, &chart.svg()))
}

fn latency_over_time(document: &Document, scenario: &Scenario, variant: &Variant) -> Option<Markup> {
    let courses = courses(document, scenario, variant);
    let intervals = || courses.iter().flat_map(|course| &course.series);
    let values = || intervals().flat_map(|interval| [interval.p50, interval.p99]).flatten();
    values().next()?;
    let lines = courses.iter().flat_map(|course| {
        [true, false].map(|thin| Line {
            peer: course.peer,
            thin,
            points: (course.series.iter())
                .map(|interval| {
                    let us = if thin { interval.p50 } else { interval.p99 };
                    let quantile = if thin { "p50" } else { "p99" };
                    let text = us.map_or("nothing".into(), |us| Unit::Micros.exact(us));
                    let text = format!("{}, {:.2} s: {quantile} {text}", course.name, interval.seconds);
                    Point { x: interval.seconds, y: us, range: None, hollow: false, text }
                })
                .collect(),
        })
    });
    let y = Axis::log(values(), Unit::Micros);
    let title = "Latency over time";
    let chart =
        Chart { title: title.into(), x: seconds(&courses), y, lines: lines.collect(), markers: false };
    let about = format!("p99, and p50 (thin); {}", which_round(document));
    Some(figure(title, about.trim_end_matches("; "), &chart.svg()))
}

/// Memory by number of connections of a single `idle`.
fn steps(document: &Document, variant: &Variant) -> Option<Markup> {
    let mut outcomes = variant.cells.iter().flat_map(|cell| cell.figures(document.single));
    let steps = outcomes.next().map(Outcome::steps).filter(|steps| steps.len() > 1)?;
    let points = steps.iter().map(|(connections, bytes)| Point {
        x: *connections,
        y: Some(*bytes),
        range: None,
        hollow: false,
        text: format!("{} with {connections} connections", Unit::Bytes.exact(*bytes)),
    });
    let lines = vec![Line { peer: 0, thin: false, points: points.collect() }];
    let x = Axis::linear(steps.iter().map(|(connections, _)| *connections), Unit::Count, "connections");
    let y = Axis::linear(steps.iter().map(|(_, bytes)| *bytes), Unit::Bytes, "");
    let title = "Server memory by connections";
    let chart = Chart { title: title.into(), x, y, lines, markers: true };
    Some(figure(title, "resident anonymous memory", &chart.svg()))
}
