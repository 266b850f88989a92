//! Line charts: one line or several for each server.
//!
//! The drawing is 460 units wide, about as many pixels as it gets, so that its texts have the page's size. Colours
//! are the style sheet's; a server has a marker and a dash of its own besides, for those who see no colours.

use std::fmt::Write;

use maud::{Markup, html};

use super::axis::Axis;

/// Width of a drawing.
pub(crate) const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Points closer than this to the one before have no text of their own.
const HOVER_GAP: f64 = 7.0;

/// A line of a chart.
#[derive(Debug)]
pub(crate) struct Line {
    /// Index of the server.
    pub(crate) peer: usize,
    /// Drawn thin: a companion of the server's main line.
    pub(crate) thin: bool,
    /// From left to right.
    pub(crate) points: Vec<Point>,
}

/// A point of a line.
#[derive(Debug)]
pub(crate) struct Point {
    pub(crate) x: f64,
    /// A gap, if there is none.
    pub(crate) y: Option<f64>,
    /// Least and greatest value.
    pub(crate) range: Option<(f64, f64)>,
    /// Its marker is not filled: it is not to be relied upon.
    pub(crate) hollow: bool,
    /// Shown when the pointer rests on it.
    pub(crate) text: String,
}

/// A chart.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Said to those who do not see it.
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
    /// Whether points have markers: few, measured each on its own.
    pub(crate) markers: bool,
}

impl Chart {
    pub(crate) fn svg(&self) -> Markup {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        html! {
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(self.title) {
                @for (value, text) in &self.y.ticks {
                    @let y = self.y_of(*value);
                    line class="grid" x1=(at(LEFT)) x2=(at(right)) y1=(at(y)) y2=(at(y)) {}
                    text class="end" x=(at(LEFT - 6.0)) y=(at(y + 3.5)) { (text) }
                }
                @for (value, text) in &self.x.ticks {
                    @let x = self.x_of(*value);
                    line class="grid" x1=(at(x)) x2=(at(x)) y1=(at(TOP)) y2=(at(bottom)) {}
                    @let end = x > right - 12.0;
                    text class=(if end { "end" } else { "middle" }) x=(at(if end { right + RIGHT - 1.0 } else { x }))
                        y=(at(bottom + 17.0)) { (text) }
                }
                line class="axis" x1=(at(LEFT)) x2=(at(right)) y1=(at(bottom)) y2=(at(bottom)) {}
                text class="middle label" x=(at(f64::midpoint(LEFT, right))) y=(at(HEIGHT - 8.0)) { (self.x.label) }
                @for line in &self.lines { (self.line(line)) }
                @for line in &self.lines { (self.hovers(line)) }
            }
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// Where the point is drawn.
    fn spot(&self, point: &Point) -> Option<(f64, f64)> {
        let y = point.y.filter(|y| self.y.holds(*y) && self.x.holds(point.x))?;
        Some((self.x_of(point.x), self.y_of(y)))
    }

    fn line(&self, line: &Line) -> Markup {
        let (mut path, mut pen_down) = (String::new(), false);
        for point in &line.points {
            match self.spot(point) {
                Some((x, y)) => {
                    let command = if pen_down { 'L' } else { 'M' };
                    write!(path, "{command}{x:.1} {y:.1}").expect("writing to a string succeeds");
                    pen_down = true;
                }
                None => pen_down = false,
            }
        }
        let dashed = if line.peer >= super::COLOURS { " dashed" } else { "" };
        let thin = if line.thin { " thin" } else { "" };
        html! {
            g class={ (super::peer_class(line.peer)) } {
                path class={ "line" (thin) (dashed) } d=(path) {}
                @if self.markers {
                    @for point in &line.points {
                        @if let Some((x, y)) = self.spot(point) {
                            @if let Some((low, high)) = point.range.filter(|(low, high)| self.y.holds(*low) && self.y.holds(*high)) {
                                line class="range" x1=(at(x)) x2=(at(x)) y1=(at(self.y_of(low))) y2=(at(self.y_of(high))) {}
                            }
                            g class=[point.hollow.then_some("unfilled")] { (marker(line.peer, x, y)) }
                        }
                    }
                }
            }
        }
    }

    /// Targets for the pointer, above all lines.
    fn hovers(&self, line: &Line) -> Markup {
        let mut last = f64::NEG_INFINITY;
        let mut apart = |x: f64| {
            let apart = x - last >= HOVER_GAP;
            last = if apart { x } else { last };
            apart
        };
        html! {
            g class={ "hover " (super::peer_class(line.peer)) } {
                @for point in &line.points {
                    @if let Some((x, y)) = self.spot(point).filter(|(x, _)| apart(*x)) {
                        circle cx=(at(x)) cy=(at(y)) r="5" { title { (point.text) } }
                    }
                }
            }
        }
    }
}

/// A coordinate, short.
pub(crate) fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_string).unwrap_or(text)
}

/// The server's shape.
pub(crate) fn marker(peer: usize, x: f64, y: f64) -> Markup {
    let corners: &[(f64, f64)] = match peer % 6 {
        0 => return html! { circle class="mark" cx=(at(x)) cy=(at(y)) r="3.6" {} },
        1 => &[(-3.3, -3.3), (3.3, -3.3), (3.3, 3.3), (-3.3, 3.3)],
        2 => &[(0.0, -4.4), (4.2, 3.2), (-4.2, 3.2)],
        3 => &[(0.0, -4.8), (4.8, 0.0), (0.0, 4.8), (-4.8, 0.0)],
        4 => &[(0.0, 4.4), (4.2, -3.2), (-4.2, -3.2)],
        _ => &[
            (-1.4, -4.4),
            (1.4, -4.4),
            (1.4, -1.4),
            (4.4, -1.4),
            (4.4, 1.4),
            (1.4, 1.4),
            (1.4, 4.4),
            (-1.4, 4.4),
            (-1.4, 1.4),
            (-4.4, 1.4),
            (-4.4, -1.4),
            (-1.4, -1.4),
        ],
    };
    let points: Vec<String> =
        corners.iter().map(|(dx, dy)| format!("{},{}", at(x + dx), at(y + dy))).collect();
    html! { polygon class="mark" points=(points.join(" ")) {} }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::metrics::Unit;

    fn point(x: f64, y: Option<f64>) -> Point {
        Point { x, y, range: None, hollow: false, text: format!("at {x}") }
    }

    fn chart(points: Vec<Point>) -> String {
        let (x, y) = (Axis::seconds(10.0), Axis::linear([10.0], Unit::Count, ""));
        let lines = vec![Line { peer: 0, thin: false, points }];
        Chart { title: "t".into(), x, y, lines, markers: false }.svg().into_string()
    }

    #[test]
    fn gaps_lift_the_pen() {
        let svg = chart(vec![
            point(0.0, Some(0.0)),
            point(5.0, Some(10.0)),
            point(6.0, None),
            point(10.0, Some(5.0)),
        ]);
        assert!(svg.contains(r#"d="M58.0 228.0L252.0 12.0M446.0 120.0""#), "{svg}");
    }

    #[test]
    fn hovers_keep_apart() {
        let svg = chart(vec![point(0.0, Some(0.0)), point(0.01, Some(10.0)), point(5.0, Some(1.0))]);
        assert!(svg.contains("at 0<") && svg.contains("at 5<") && !svg.contains("at 0.01<"));
    }
}
