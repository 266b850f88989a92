//! What one run has found, read by key.
//!
//! Owns the paths into a report: `deliveries_per_second` and `latency_us.p99` are looked up in its figures first,
//! then in the report itself (`server.rss_anon_bytes`).

use serde_json::{Map, Value};

/// The report of a single command.
#[derive(Debug)]
pub(crate) struct Outcome(Map<String, Value>);

/// An interval of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// Since the measurement began.
    pub(crate) seconds: f64,
    /// Deliveries, or messages of an echo.
    pub(crate) per_second: Option<f64>,
    /// Latency in µs.
    pub(crate) p50: Option<f64>,
    /// Latency in µs.
    pub(crate) p99: Option<f64>,
}

impl Outcome {
    pub(crate) fn new(report: Map<String, Value>) -> Self {
        Self(report)
    }

    /// The value at a path of keys.
    fn at(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let found =
            self.0.get("figures").and_then(|figures| figures.get(first)).or_else(|| self.0.get(first))?;
        rest.map_or(Some(found), |rest| found.get(rest))
    }

    /// A number, if there is one.
    pub(crate) fn number(&self, path: &str) -> Option<f64> {
        // A distribution of nothing has zeros for quantiles.
        let distribution = path.split_once('.').and_then(|(name, _)| self.at(name)?.get("count"));
        if distribution.and_then(Value::as_u64) == Some(0) {
            return None;
        }
        self.at(path)?.as_f64()
    }

    /// A string, if there is one.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.at(path)?.as_str()
    }

    fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether the figures do not count.
    pub(crate) fn is_void(&self) -> bool {
        self.text("verdict") == Some("void")
    }

    /// Whether the generator was the bottleneck.
    pub(crate) fn busy(&self) -> bool {
        self.0.get("generator").and_then(|generator| generator.get("busy")) == Some(&Value::Bool(true))
    }

    /// Whether a quantile is a lower bound.
    pub(crate) fn is_lower_bound(&self, path: &str) -> bool {
        let Some((name, quantile)) = path.split_once('.') else { return false };
        let named = self.at(name).and_then(|distribution| distribution.get("lower_bounds")?.as_array());
        named.into_iter().flatten().any(|one| one == quantile)
    }

    /// Why the figures do not count.
    pub(crate) fn void_because(&self) -> impl Iterator<Item = &str> {
        self.texts("void_because")
    }

    /// What a reader of the figures must know.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &str> {
        self.texts("notes")
    }

    /// A distribution's quantiles below 1 with their values in µs, rising; the few that are always there if there
    /// are no more.
    pub(crate) fn percentiles(&self, name: &str) -> Vec<(f64, f64)> {
        let listed = self.at(name).and_then(|distribution| distribution.get("percentiles")?.as_array());
        let pairs = listed
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?)));
        let mut pairs: Vec<(f64, f64)> =
            pairs.filter(|(quantile, _)| (0.0..1.0).contains(quantile)).collect();
        if pairs.is_empty() {
            let few = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p999")];
            let few = few
                .into_iter()
                .map(|(quantile, key)| Some((quantile, self.number(&format!("{name}.{key}"))?)));
            pairs = few.flatten().collect();
        }
        pairs.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        pairs
    }

    /// The run over time.
    pub(crate) fn series(&self) -> Vec<Interval> {
        let intervals = self.at("series").and_then(Value::as_array).into_iter().flatten();
        intervals
            .filter_map(|interval| {
                let number = |key: &str| interval.get(key).and_then(Value::as_f64);
                Some(Interval {
                    seconds: number("seconds")?,
                    per_second: number("deliveries_per_second").or_else(|| number("messages_per_second")),
                    p50: number("p50"),
                    p99: number("p99"),
                })
            })
            .collect()
    }

    /// Every figure that is a number, a word or null: key and value, distributions taken apart.
    pub(crate) fn all(&self) -> Vec<(String, &Value)> {
        let mut all = Vec::new();
        for part in ["figures", "server", "generator", "machine"] {
            let prefix = if part == "figures" { String::new() } else { format!("{part}.") };
            for (key, value) in self.0.get(part).and_then(Value::as_object).into_iter().flatten() {
                match value {
                    Value::Object(parts) => {
                        let parts = parts.iter().filter(|(_, value)| !value.is_array());
                        all.extend(parts.map(|(part, value)| (format!("{prefix}{key}.{part}"), value)));
                    }
                    Value::Array(_) => {}
                    value => all.push((format!("{prefix}{key}"), value)),
                }
            }
        }
        all
    }

    /// Server memory by number of connections, as `idle --steps` reads it.
    pub(crate) fn steps(&self) -> Vec<(f64, f64)> {
        let steps = self.at("steps").and_then(Value::as_array).into_iter().flatten();
        let number = |step: &Value, key: &str| step.get(key).and_then(Value::as_f64);
        steps
            .filter_map(|step| Some((number(step, "connections")?, number(step, "server_rss_anon_bytes")?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(value: Value) -> Outcome {
        let Value::Object(map) = value else { panic!("an object") };
        Outcome::new(map)
    }

    #[test]
    fn paths() {
        let found =
            outcome(json!({"seconds": 2.0, "server": {"cores": 0.5}, "figures": {"rate": null, "lost": 0,
            "latency_us": {"count": 3, "p99": 7.0}, "nothing_us": {"count": 0, "p99": 0.0}}}));
        let paths =
            ["seconds", "server.cores", "rate", "lost", "latency_us.p99", "nothing_us.p99", "missing.p99"];
        assert_eq!(
            paths.map(|path| found.number(path)),
            [Some(2.0), Some(0.5), None, Some(0.0), Some(7.0), None, None]
        );
    }

    #[test]
    fn percentiles_or_the_few_quantiles() {
        let found = outcome(json!({"figures": {
            "few": {"count": 1, "p50": 1.0, "p90": 2.0, "p99": 3.0, "p999": 4.0, "max": 5.0},
            "many": {"count": 1, "p50": 1.0, "percentiles": [[0.9, 2.0], [0.0, 0.5], [1.0, 9.0]]}}}));
        assert_eq!(found.percentiles("few"), [(0.5, 1.0), (0.9, 2.0), (0.99, 3.0), (0.999, 4.0)]);
        assert_eq!(found.percentiles("many"), [(0.0, 0.5), (0.9, 2.0)]);
        assert_eq!(found.percentiles("none"), []);
    }

    #[test]
    fn series_have_gaps() {
        let found = outcome(json!({"figures": {"series": [
            {"seconds": 0.1, "deliveries_per_second": 5.0, "p50": 1.0, "p99": 2.0, "max": 3.0},
            {"seconds": 0.2, "deliveries_per_second": 0.0, "p50": null, "p99": null, "max": null}]}}));
        let series = found.series();
        assert_eq!((series[0].per_second, series[0].p99), (Some(5.0), Some(2.0)));
        assert_eq!((series[1].per_second, series[1].p50), (Some(0.0), None));
    }
}
