//! Distributions of times: how they are recorded, and what is read off them.
//!
//! What had not happened when the run ended is in them as well, with the time it had been waited for: to leave it out
//! would flatter whoever was slow. That time is a lower bound, and so is every figure that it may have moved.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::micros;

/// A histogram of nanoseconds.
pub(crate) type Latencies = Histogram<u64>;

/// An empty histogram: 1 ns to 100 s, three digits.
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, 100_000_000_000, 3)
        .expect("the bounds are in the range that the crate allows")
}

/// Adds up the threads' histograms.
pub(crate) fn merge<'a>(parts: impl Iterator<Item = &'a Latencies>) -> Latencies {
    let mut sum = latencies();
    for part in parts {
        sum.add(part).expect("all histograms have the same bounds");
    }
    sum
}

/// A distribution of times, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Distribution {
    count: u64,
    /// Of those, so many had not happened when the run ended.
    waiting: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
    /// Which of these figures are lower bounds.
    lower_bounds: Vec<&'static str>,
    /// Quantile and microseconds, evenly spaced on a logarithmic scale of what is above them.
    percentiles: Vec<(f64, f64)>,
}

/// The quantiles that have a name.
const NAMED: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];

/// What was still waiting may have moved a quantile that is not called a lower bound by so much: two runs differ by
/// more. Without it the messages of the last millisecond would put a mark on every figure.
const SHIFT_MAX: f64 = 1.01;

/// The quantiles of a distribution's curve: 12 for each power of ten from 0 to 0.99999.
fn curve() -> impl Iterator<Item = f64> {
    (0..=60).map(|step| 1.0 - 10f64.powf(f64::from(step) / -12.0))
}

/// Whether `quantile` of `all` may be higher: all that was still waiting may come after the last of the `done`.
fn is_lower_bound(quantile: f64, all: &Latencies, done: &Latencies) -> bool {
    let rank = (quantile * all.len() as f64).ceil().max(1.0);
    // The histogram rounds a rank up: half a step below it is safe from the error of the two divisions.
    let at_most =
        (rank <= done.len() as f64).then(|| done.value_at_quantile((rank - 0.5) / done.len() as f64));
    at_most.is_none_or(|at_most| at_most as f64 > all.value_at_quantile(quantile) as f64 * SHIFT_MAX)
}

impl Distribution {
    /// Reads the quantiles of a histogram of nanoseconds.
    pub(crate) fn of(done: &Latencies) -> Self {
        Self::with_waiting(done, &latencies())
    }

    /// The same, with the times for which what has not happened had been `waiting` in the end.
    pub(crate) fn with_waiting(done: &Latencies, waiting: &Latencies) -> Self {
        let all = merge([done, waiting].into_iter());
        let at = |quantile| all.value_at_quantile(quantile) as f64 / 1000.0;
        let mut lower_bounds = Vec::new();
        if !waiting.is_empty() {
            lower_bounds.push("mean");
            let moved = NAMED.iter().filter(|(_, quantile)| is_lower_bound(*quantile, &all, done));
            lower_bounds.extend(moved.map(|(name, _)| *name));
        }
        Self {
            count: all.len(),
            waiting: waiting.len(),
            mean: all.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: all.max() as f64 / 1000.0,
            lower_bounds,
            percentiles: curve().map(|quantile| (quantile, at(quantile))).collect(),
        }
    }

    /// A few words for the live view.
    pub(crate) fn brief(&self) -> String {
        if self.count == 0 {
            return "nothing measured yet".into();
        }
        format!("p50 {}  p99 {}  max {}", micros(self.p50), micros(self.p99), micros(self.max))
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        if self.count == 0 {
            return "nothing measured".into();
        }
        let text = |(label, name, us): (&str, &str, f64)| {
            let at_least = if self.lower_bounds.contains(&name) { "≥ " } else { "" };
            format!("{label} {at_least}{}", micros(us))
        };
        let quantiles = [
            ("p50", "p50", self.p50),
            ("p90", "p90", self.p90),
            ("p99", "p99", self.p99),
            ("p99.9", "p999", self.p999),
            ("max", "max", self.max),
        ];
        quantiles.map(text).join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles() {
        let (mut a, mut b) = (latencies(), latencies());
        for n in 1..=99 {
            a.record(n * 1000).unwrap();
        }
        b.record(100_000).unwrap();
        let all = Distribution::of(&merge([&a, &b].into_iter()));
        assert_eq!(all.count, 100);
        assert!(
            (all.p50 - 50.0).abs() < 0.1 && (all.p99 - 99.0).abs() < 0.1 && (all.max - 100.0).abs() < 0.1
        );
        let (first, last) = (all.percentiles[0], all.percentiles[60]);
        assert!(first.0 == 0.0 && (first.1 - 1.0).abs() < 0.1 && (last.0 - 0.99999).abs() < 1e-12);
        assert!((last.1 - 100.0).abs() < 0.1 && all.percentiles.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert_eq!(Distribution::of(&latencies()).text(), "nothing measured");
    }

    #[test]
    fn what_was_still_waiting_counts_with_the_time_it_had_waited() {
        let (mut done, mut waiting) = (latencies(), latencies());
        done.record_n(1_000_000, 80).unwrap();
        waiting.record_n(5_000_000, 20).unwrap();
        let all = Distribution::with_waiting(&done, &waiting);
        assert_eq!(
            (all.count, all.waiting, all.lower_bounds.as_slice()),
            (100, 20, &["mean", "p90", "p99", "p999", "max"][..])
        );
        assert!((all.mean - 1800.0).abs() < 2.0 && (all.p90 - 5000.0).abs() < 5.0);
        assert!(all.text().starts_with("p50 1.00 ms  p90 ≥ 5.00 ms  p99 ≥ 5.00 ms"), "{}", all.text());
        let none = Distribution::of(&done);
        assert!(none.lower_bounds.is_empty() && !none.text().contains('≥'));
        let all = Distribution::with_waiting(&latencies(), &waiting);
        assert_eq!(all.lower_bounds.len(), 6);
    }

    #[test]
    fn a_short_wait_moves_what_is_above_it() {
        // A tenth had waited 1 µs: with a second each, the ninth decile would be among them, and the median higher.
        let (mut done, mut waiting) = (latencies(), latencies());
        (1..=90).for_each(|n| done.record(n * 1_000_000).unwrap());
        waiting.record_n(1000, 10).unwrap();
        assert_eq!(Distribution::with_waiting(&done, &waiting).lower_bounds.len(), 6);
        // Where all took the same, the median is what it is.
        let mut done = latencies();
        done.record_n(1_000_000, 90).unwrap();
        assert_eq!(Distribution::with_waiting(&done, &waiting).lower_bounds, ["mean", "p99", "p999", "max"]);
    }

    proptest! {
        /// Whatever becomes of what was still waiting: no figure falls, and one that is not called a lower bound stays.
        #[test]
        fn figures_hold(
            done in prop::collection::vec(1u64..1_000_000_000, 0..200),
            waiting in prop::collection::vec((1u64..1_000_000_000, 0u64..1_000_000_000), 0..40),
        ) {
            let histogram = |values: &mut dyn Iterator<Item = u64>| {
                let mut histogram = latencies();
                values.for_each(|value| histogram.record(value).unwrap());
                histogram
            };
            let done_alone = histogram(&mut done.iter().copied());
            let then = histogram(&mut waiting.iter().map(|(waited, _)| *waited));
            let now = Distribution::with_waiting(&done_alone, &then);
            let later = histogram(&mut done.iter().copied().chain(waiting.iter().map(|(waited, more)| waited + more)));
            let later = Distribution::of(&later);
            let figures = |of: &Distribution| [of.p50, of.p90, of.p99, of.p999, of.max];
            for (((name, _), now_us), later_us) in NAMED.iter().zip(figures(&now)).zip(figures(&later)) {
                prop_assert!(later_us >= now_us);
                // Two roundings of the histogram on top.
                prop_assert!(now.lower_bounds.contains(name) || later_us <= now_us * SHIFT_MAX * 1.002);
            }
        }
    }
}
