//! Where a value lies on a chart, and which values have a mark of their own.

use super::metrics::Unit;

/// One direction of a chart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    log: bool,
    low: f64,
    high: f64,
    /// Values with a mark, and what is written there.
    pub(crate) ticks: Vec<(f64, String)>,
    /// What the axis shows.
    pub(crate) label: String,
}

/// Marks that there is room for, with their texts beside each other.
const MARKS_MAX: usize = 6;

/// Marks that there is room for, with their texts above each other.
const MARKS_MAX_UPRIGHT: usize = 9;

impl Axis {
    /// Ratios show as distances, upwards: for positive values that differ by much.
    pub(crate) fn log(values: impl IntoIterator<Item = f64>, unit: Unit) -> Self {
        Self::logarithmic(values, unit, MARKS_MAX_UPRIGHT)
    }

    /// The same from left to right.
    pub(crate) fn log_level(values: impl IntoIterator<Item = f64>, unit: Unit) -> Self {
        Self::logarithmic(values, unit, MARKS_MAX)
    }

    fn logarithmic(values: impl IntoIterator<Item = f64>, unit: Unit, marks_max: usize) -> Self {
        let (min, max) = bounds(values.into_iter().filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let (low, mut high) = (below(min), above(max));
        if high <= low {
            high = above(low * 1.5);
        }
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let marks = |steps: &[f64], every: usize| -> Vec<f64> {
            let all = powers.clone().step_by(every);
            let all = all.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
            all.filter(|value| (low * 0.999..=high * 1.001).contains(value)).collect()
        };
        let finest = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0];
        let fine = [&finest[..], &[1.0, 2.0, 5.0], &[1.0, 3.0]].into_iter().map(|steps| marks(steps, 1));
        let coarse = (1..).map(|every| marks(&[1.0], every));
        let marks = fine.chain(coarse).find(|marks| marks.len() <= marks_max).unwrap_or_default();
        let ticks = marks.into_iter().map(|value| (value, unit.tick(value))).collect();
        Self { log: true, low, high, ticks, label: String::new() }
    }

    /// From 0.
    pub(crate) fn linear(
        values: impl IntoIterator<Item = f64>,
        unit: Unit,
        label: impl Into<String>,
    ) -> Self {
        let (_, max) = bounds(values).filter(|(_, max)| *max > 0.0).unwrap_or((0.0, 1.0));
        let size = unit.size_of(max);
        let step = above(max / 5.0 / size) * size;
        let steps = (max / step).ceil();
        let ticks = (0..=steps as usize).map(|n| n as f64 * step);
        Self {
            log: false,
            low: 0.0,
            high: steps * step,
            ticks: ticks.map(|value| (value, unit.tick(value))).collect(),
            label: label.into(),
        }
    }

    /// Seconds, from 0 to the last.
    pub(crate) fn seconds(last: f64) -> Self {
        let mut axis = Self::linear([last], Unit::Count, "time");
        axis.high = if last > 0.0 { last } else { 1.0 };
        axis.ticks.retain(|(value, _)| *value <= axis.high);
        axis.ticks.iter_mut().for_each(|(_, text)| text.push_str("\u{a0}s"));
        axis
    }

    /// Quantiles from the median up, by 1 / (1 − quantile): as much room for each further nine.
    pub(crate) fn quantiles(highest: f64) -> Self {
        let named = [
            (0.5, "50\u{a0}%"),
            (0.9, "90\u{a0}%"),
            (0.99, "99\u{a0}%"),
            (0.999, "99.9\u{a0}%"),
            (0.9999, "99.99\u{a0}%"),
            (0.99999, "99.999\u{a0}%"),
        ];
        let high = Self::odds(highest).clamp(10.0, 1e5) * 1.0001;
        let ticks = named.into_iter().map(|(quantile, text)| (Self::odds(quantile), text.to_string()));
        Self {
            log: true,
            low: Self::odds(0.5),
            high,
            ticks: ticks.filter(|(odds, _)| *odds <= high).collect(),
            label: "share of deliveries".into(),
        }
    }

    /// A quantile's place on such an axis: 1 in so many is slower.
    pub(crate) fn odds(quantile: f64) -> f64 {
        1.0 / (1.0 - quantile)
    }

    /// Given values with marks of their own: few, and those that were measured.
    pub(crate) fn of_values(values: &[f64], unit: Unit, label: impl Into<String>) -> Self {
        let (low, high) = bounds(values.iter().copied()).unwrap_or((1.0, 10.0));
        let margin = if high > low { (high / low).powf(0.04) } else { 2.0 };
        let mut axis = Self {
            log: true,
            low: low / margin,
            high: high * margin,
            ticks: Vec::new(),
            label: label.into(),
        };
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        let mut last = f64::NEG_INFINITY;
        for value in sorted {
            // Texts need room.
            if axis.place(value) - last > 0.085 {
                last = axis.place(value);
                axis.ticks.push((value, unit.tick(value)));
            }
        }
        axis
    }

    /// 0 to 1 from the axis's low to its high end; beyond, if the value is.
    pub(crate) fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Whether the value has a place.
    pub(crate) fn holds(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0) && (-0.001..=1.001).contains(&self.place(value))
    }
}

fn bounds(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values = values.into_iter().filter(|value| value.is_finite());
    let first = values.next()?;
    Some(values.fold((first, first), |(min, max), value| (min.min(value), max.max(value))))
}

/// The next 1, 2 or 5 times a power of ten that is not above.
fn below(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|step| step * power <= value * 1.000_001);
    step.unwrap_or(1.0) * power
}

/// The next 1, 2 or 5 times a power of ten that is not below.
fn above(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= value * 0.999_999);
    step.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|(_, text)| text.replace('\u{a0}', " ")).collect()
    }

    #[test]
    fn logarithmic() {
        let axis = Axis::log([30.0, 0.0, 700.0], Unit::Micros);
        assert_eq!(texts(&axis), ["20 µs", "50 µs", "100 µs", "200 µs", "500 µs", "1 ms"]);
        assert_eq!((axis.place(20.0), axis.place(1000.0)), (0.0, 1.0));
        assert!(axis.holds(20.0) && !axis.holds(0.0) && !axis.holds(1e4) && !axis.holds(f64::NAN));
        let wide = Axis::log_level([3.0, 20_000.0], Unit::Micros);
        assert_eq!(texts(&wide), ["10 µs", "100 µs", "1 ms", "10 ms"]);
        let between = Axis::log_level([1.0, 200.0], Unit::Micros);
        assert_eq!(texts(&between), ["1 µs", "3 µs", "10 µs", "30 µs", "100 µs"]);
        let wider = Axis::log_level([1e-3, 1e15], Unit::Count);
        assert!((4..=MARKS_MAX).contains(&wider.ticks.len()));
        assert_eq!(texts(&Axis::log([5.0], Unit::Micros)), ["5 µs", "7 µs", "10 µs"]);
        assert!(!texts(&Axis::log([], Unit::Micros)).is_empty());
    }

    #[test]
    fn from_zero() {
        let axis = Axis::linear([4.6e6], Unit::PerSecond, "");
        assert_eq!(texts(&axis), ["0/s", "1 M/s", "2 M/s", "3 M/s", "4 M/s", "5 M/s"]);
        assert_eq!(axis.place(2.5e6), 0.5);
        let axis = Axis::linear([6.5e6], Unit::Bytes, "");
        assert_eq!(texts(&axis), ["0 B", "2 MiB", "4 MiB", "6 MiB", "8 MiB"]);
        assert_eq!(Axis::linear([0.0], Unit::Count, "").place(0.0), 0.0);
    }

    #[test]
    fn nines() {
        let axis = Axis::quantiles(0.9999);
        assert_eq!(texts(&axis), ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert!(!axis.holds(Axis::odds(0.3)));
    }

    #[test]
    fn values_that_lie_close_share_a_mark() {
        let axis = Axis::of_values(&[1000.0, 2000.0, 2010.0, 4000.0], Unit::PerSecond, "");
        assert_eq!(texts(&axis), ["1 k/s", "2 k/s", "4 k/s"]);
    }
}
