//! The comparison as bars, and times until the last subscriber as ranges: a row for each server.
//!
//! Bars begin at 0, with a scale of their own in each group: servers compare within a variant. Beside each bar
//! stands its value, and the ratio to the baseline where there is one.

use maud::{Markup, html};

use super::axis::Axis;
use super::document::Spread;
use super::lines::{WIDTH, at, marker};
use super::metrics::{Unit, ratio};

const ROW: f64 = 21.0;
const HEAD: f64 = 25.0;
/// Room for a value, and for a ratio.
const VALUE: f64 = 82.0;
const RATIO: f64 = 54.0;
/// Of a character of a name, roughly.
const CHARACTER: f64 = 6.3;
const NAME_CHARACTERS_MAX: usize = 17;

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Group {
    /// Empty if there is only one.
    pub(crate) heading: String,
    pub(crate) rows: Vec<Row>,
}

/// A server's row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) peer: usize,
    pub(crate) name: String,
    /// Absent: nothing valid was measured.
    pub(crate) spread: Option<Spread>,
    /// Own value by the baseline's.
    pub(crate) ratio: Option<Spread>,
    /// The value is a lower bound.
    pub(crate) at_least: bool,
    /// Said instead of a value.
    pub(crate) absent: String,
    /// Shown when the pointer rests on it.
    pub(crate) text: String,
}

/// Bars of one figure.
pub(crate) fn bars(title: &str, unit: Unit, groups: &[Group]) -> Markup {
    let left = names_width(groups.iter().flat_map(|group| &group.rows).map(|row| row.name.as_str()));
    let ratios = groups.iter().flat_map(|group| &group.rows).any(|row| row.ratio.is_some());
    let right = WIDTH - VALUE - if ratios { RATIO } else { 0.0 };
    let (tops, height) = tops(groups);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", at(height))) role="img" aria-label=(title) {
            @for (group, top) in groups.iter().zip(tops) {
                @if !group.heading.is_empty() { text class="strong" x="0" y=(at(top - 8.0)) { (group.heading) } }
                @let high = group.rows.iter().filter_map(|row| row.spread).map(|spread| spread.max).fold(0.0, f64::max);
                @let x = |value: f64| left + (right - left) * if high > 0.0 { value / high } else { 0.0 };
                line class="axis" x1=(at(left)) x2=(at(left)) y1=(at(top)) y2=(at(top + ROW * group.rows.len() as f64)) {}
                @for (index, row) in group.rows.iter().enumerate() {
                    @let y = top + ROW * (index as f64 + 0.5);
                    g class={ "row " (super::peer_class(row.peer)) } {
                        title { (row.text) }
                        rect class="target" x="0" y=(at(y - ROW / 2.0)) width=(WIDTH) height=(ROW) {}
                        text class="end" x=(at(left - 7.0)) y=(at(y + 4.0)) { (shortened(&row.name)) }
                        @if let Some(spread) = row.spread {
                            rect class="bar" x=(at(left)) y=(at(y - 6.5)) width=(at(x(spread.median) - left)) height="13" {}
                            @if spread.max > spread.min {
                                @let (from, to) = (x(spread.min), x(spread.max));
                                path class="whisker" d=(format!(
                                    "M{0} {2}H{1}M{0} {3}V{4}M{1} {3}V{4}", at(from), at(to), at(y), at(y - 3.5), at(y + 3.5)
                                )) {}
                            }
                            text class="end" x=(at(right + VALUE)) y=(at(y + 4.0)) {
                                @if row.at_least { "≥ " } (unit.text(spread.median))
                            }
                        } @else {
                            text class="end alert" x=(at(right + VALUE)) y=(at(y + 4.0)) { (row.absent) }
                        }
                        @if let Some(spread) = row.ratio {
                            text class="end quiet" x=(at(WIDTH)) y=(at(y + 4.0)) { (ratio(spread.median)) " ×" }
                        }
                    }
                }
            }
        }
    }
}

/// A server's distribution: some quantiles of it, rising.
#[derive(Debug)]
pub(crate) struct Quantiles {
    pub(crate) peer: usize,
    pub(crate) name: String,
    /// Label and value.
    pub(crate) values: Vec<(&'static str, f64)>,
}

/// From the least to the greatest quantile of each server, on one log scale; the first is filled, the last hollow.
pub(crate) fn ranges(title: &str, unit: Unit, rows: &[Quantiles]) -> Markup {
    let left = names_width(rows.iter().map(|row| row.name.as_str()));
    let axis = Axis::log_level(rows.iter().flat_map(|row| &row.values).map(|(_, value)| *value), unit);
    let right = WIDTH - 26.0;
    let bottom = 8.0 + ROW * rows.len() as f64;
    let x = |value: f64| left + (right - left) * axis.place(value);
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", at(bottom + 22.0))) role="img" aria-label=(title) {
            @for (value, text) in &axis.ticks {
                line class="grid" x1=(at(x(*value))) x2=(at(x(*value))) y1="4" y2=(at(bottom)) {}
                text class="middle" x=(at(x(*value))) y=(at(bottom + 16.0)) { (text) }
            }
            @for (index, row) in rows.iter().enumerate() {
                @let y = 8.0 + ROW * (index as f64 + 0.5);
                @let shown: Vec<_> = row.values.iter().filter(|(_, value)| axis.holds(*value)).collect();
                g class={ "row " (super::peer_class(row.peer)) } {
                    text class="end" x=(at(left - 7.0)) y=(at(y + 4.0)) { (shortened(&row.name)) }
                    @if let (Some((_, first)), Some((_, last))) = (shown.first(), shown.last()) {
                        line class="line" x1=(at(x(*first))) x2=(at(x(*last))) y1=(at(y)) y2=(at(y)) {}
                    } @else {
                        text class="quiet" x=(at(left + 6.0)) y=(at(y + 4.0)) { "nothing valid" }
                    }
                    @for (nth, (label, value)) in shown.iter().enumerate() {
                        g {
                            title { (row.name) ", " (label) ": " (unit.exact(*value)) }
                            @if nth == 0 {
                                (marker(row.peer, x(*value), y))
                            } @else if nth + 1 == shown.len() {
                                circle class="hollow" cx=(at(x(*value))) cy=(at(y)) r="3.6" {}
                            } @else {
                                rect class="mark" x=(at(x(*value) - 1.4)) y=(at(y - 6.0)) width="2.8" height="12" {}
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where the rows of each group begin, and the height of all.
fn tops(groups: &[Group]) -> (Vec<f64>, f64) {
    let mut y = 0.0;
    let tops = groups.iter().map(|group| {
        let top = y + if group.heading.is_empty() { 4.0 } else { HEAD };
        y = top + ROW * group.rows.len() as f64 + 4.0;
        top
    });
    (tops.collect(), y)
}

fn names_width<'a>(names: impl Iterator<Item = &'a str>) -> f64 {
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    longest.min(NAME_CHARACTERS_MAX) as f64 * CHARACTER + 12.0
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARACTERS_MAX {
        return name.into();
    }
    name.chars().take(NAME_CHARACTERS_MAX - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(shortened("bun"), "bun");
        assert_eq!(shortened("ünïcödé-ünïcödé-ünïcödé"), "ünïcödé-ünïcödé-…");
    }

    #[test]
    fn bars_begin_at_zero_and_end_at_the_greatest() {
        let row = |median: f64| Row {
            peer: 0,
            name: "a".into(),
            spread: Spread::of(vec![median]),
            ratio: None,
            at_least: median > 1.5,
            absent: String::new(),
            text: String::new(),
        };
        let rows = vec![row(1.0), row(2.0)];
        let svg = bars("t", Unit::Micros, &[Group { heading: String::new(), rows }]).into_string();
        let left = names_width(["a"].into_iter());
        for width in [WIDTH - VALUE - left, (WIDTH - VALUE - left) / 2.0] {
            assert!(svg.contains(&format!(r#"width="{}" height="13""#, at(width))), "{svg}");
        }
        assert!(svg.contains("≥ 2.00\u{a0}µs") && svg.contains(">1.00\u{a0}µs"), "{svg}");
    }
}
