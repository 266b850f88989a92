//! The rate sweep: the highest rate of an open loop that a server holds.
//!
//! Each step is a run of its own with a fresh server: one that has been overrun owes messages, and would be
//! measured paying them back. A rate is held if the run is valid, every message that was due was sent, and the 99th
//! percentile of latency (from the due time) is within the bound. Only a rate that the server did not hold bounds it
//! from above: where the generator was the bottleneck, a run failed or the scenario went no further, the rate found is
//! a lower bound.

use serde::Serialize;
use serde_json::Value as Json;

use super::run::Outcome;
use super::scenario::Knee;

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct KneeFound {
    /// The highest rate that was held, in messages per second; 0 if none was.
    pub(super) rate: f64,
    /// The 99th percentile of latency at that rate, in µs.
    pub(super) p99_us: Option<f64>,
    /// What ended the sweep, if it was not the server: it may hold more.
    pub(super) lower_bound_because: Option<String>,
    /// All steps, in order.
    pub(super) steps: Vec<Step>,
}

/// One step of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Step {
    rate: f64,
    held: bool,
    /// Why it was not held.
    why: Option<String>,
    deliveries_per_second: Option<f64>,
    latency_p50_us: Option<f64>,
    latency_p99_us: Option<f64>,
    server_cpu_us_per_delivery: Option<f64>,
    generator_busy: Option<bool>,
    /// There is no report.
    #[serde(skip)]
    failed: bool,
    /// The server used nearly all of its CPUs: whatever the generator did, it was at its limit.
    #[serde(skip)]
    server_saturated: bool,
}

/// The part of its CPUs from which on a server is saturated.
const SATURATED: f64 = 0.9;

impl Step {
    fn of(rate: f64, outcome: &Outcome, knee: &Knee, server_cpus: usize) -> Self {
        let none = Json::Null;
        let report = outcome.report.as_ref().unwrap_or(&none);
        let figures = &report["figures"];
        let latency = &figures["latency_us"];
        let p99 = latency["p99"].as_f64();
        let unsent = figures["unsent"].as_u64().unwrap_or(0);
        let why = match outcome.wrong() {
            Some(why) => Some(why),
            None if unsent > 0 => Some(format!("{unsent} messages that were due could not be sent")),
            None if p99.is_none_or(|p99| p99 > knee.p99_ms_max * 1000.0) => {
                Some(format!("p99 {}", crate::report::micros(p99.unwrap_or(f64::INFINITY))))
            }
            None => None,
        };
        Self {
            rate,
            held: why.is_none(),
            why,
            deliveries_per_second: figures["deliveries_per_second"].as_f64(),
            latency_p50_us: latency["p50"].as_f64(),
            latency_p99_us: p99,
            server_cpu_us_per_delivery: figures["server_cpu_us_per_delivery"].as_f64(),
            generator_busy: report["generator"]["busy"].as_bool(),
            failed: outcome.report.is_none(),
            server_saturated: (report["server"]["cores"].as_f64())
                .is_some_and(|cores| cores >= SATURATED * server_cpus as f64),
        }
    }

    /// Why it says nothing of the server that it was not held.
    fn excuse(&self) -> Option<String> {
        let (rate, why) = (self.rate, self.why.as_deref()?);
        if self.failed {
            Some(format!("the run at {rate} messages/s {why}"))
        } else if self.generator_busy == Some(true) && !self.server_saturated {
            Some(format!("at {rate} messages/s the generator was the bottleneck ({why})"))
        } else {
            None
        }
    }
}

/// Finds the highest rate held: `measure` runs one rate, with a server on so many CPUs. The outcome is that of the best
/// step; if not even the first rate was held, it is a failure.
pub(super) fn sweep(knee: &Knee, server_cpus: usize, mut measure: impl FnMut(f64) -> Outcome) -> Outcome {
    let mut found = KneeFound::default();
    let mut best = Outcome::default();
    let mut step = |rate: f64| {
        let outcome = measure(rate);
        let step = Step::of(rate, &outcome, knee, server_cpus);
        let held = step.held;
        if held && rate > found.rate {
            (found.rate, found.p99_us) = (rate, step.latency_p99_us);
            best = outcome;
        }
        found.steps.push(step);
        held
    };
    let (mut held, mut rate) = (0.0, knee.rate_from);
    let mut too_high = None;
    while too_high.is_none() {
        if !step(rate) {
            too_high = Some(rate);
        } else if rate >= knee.rate_max {
            break;
        } else {
            held = rate;
            // Rounding must not keep a small rate where it is.
            rate = (rate * knee.factor).round().max(rate + 1.0).min(knee.rate_max);
        }
    }
    if let Some(mut too_high) = too_high.filter(|_| held > 0.0) {
        for _ in 0..knee.bisections {
            // The geometric middle: what matters is by how many percent the rate is known.
            let middle = (held * too_high).sqrt().round();
            if middle <= held || middle >= too_high {
                break;
            }
            if step(middle) {
                held = middle;
            } else {
                too_high = middle;
            }
        }
    }
    let refused = found.steps.iter().filter(|step| !step.held).min_by(|a, b| a.rate.total_cmp(&b.rate));
    found.lower_bound_because = match refused {
        None => Some(format!("the scenario goes no further than {} messages/s", knee.rate_max)),
        Some(step) => step.excuse(),
    };
    if found.rate == 0.0 {
        let why =
            found.lower_bound_because.clone().or_else(|| found.steps[0].why.clone()).unwrap_or_default();
        best = Outcome::failed(format!("not even {} messages/s were held: {why}", knee.rate_from));
    }
    best.knee = Some(found);
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KNEE: Knee =
        Knee { rate_from: 100.0, rate_max: 10_000.0, factor: 2.0, bisections: 4, p99_ms_max: 10.0 };

    fn server(limit: f64) -> impl FnMut(f64) -> Outcome {
        move |rate| Outcome {
            report: Some(json!({
                "verdict": "valid", "void_because": [],
                "figures": {"unsent": 0, "latency_us": {"p50": 1.0, "p99": if rate <= limit { 100.0 } else { 20_000.0 }}},
            })),
            ..Outcome::default()
        }
    }

    #[test]
    fn the_knee_is_closed_in_on() {
        let outcome = sweep(&KNEE, 1, server(1000.0));
        let knee = outcome.knee.unwrap();
        assert!(outcome.report.is_some() && outcome.failure.is_none());
        assert!((950.0..=1000.0).contains(&knee.rate), "{}", knee.rate);
        assert_eq!(knee.p99_us, Some(100.0));
        let rates: Vec<f64> = knee.steps.iter().map(|step| step.rate).collect();
        assert_eq!(rates[..6], [100.0, 200.0, 400.0, 800.0, 1600.0, 1131.0]);
        assert_eq!(rates.len(), 9);
        assert_eq!(knee.steps[4].why.as_deref(), Some("p99 20.00 ms"));
        assert_eq!(knee.lower_bound_because, None, "it was the server");
    }

    #[test]
    fn a_server_may_hold_all_or_nothing() {
        let knee = sweep(&KNEE, 1, server(f64::INFINITY)).knee.unwrap();
        assert_eq!((knee.rate, knee.steps.len()), (10_000.0, 8));
        let because = knee.lower_bound_because.unwrap();
        assert_eq!(because, "the scenario goes no further than 10000 messages/s");
        let nothing = sweep(&KNEE, 1, server(0.0));
        assert_eq!(nothing.failure.unwrap(), "not even 100 messages/s were held: p99 20.00 ms");
        let knee = nothing.knee.unwrap();
        assert_eq!((knee.rate, knee.steps.len()), (0.0, 1));
    }

    #[test]
    fn what_the_server_did_not_limit_is_a_lower_bound() {
        let found = |limit: f64, beyond: &dyn Fn() -> Outcome| {
            let mut held = server(f64::INFINITY);
            let knee =
                sweep(&KNEE, 1, |rate| if rate <= limit { held(rate) } else { beyond() }).knee.unwrap();
            assert!((limit * 0.9..=limit).contains(&knee.rate), "{knee:?}");
            knee.lower_bound_because
        };
        let because = |limit: f64, beyond: &dyn Fn() -> Outcome| found(limit, beyond).unwrap();
        let busy = |server_cores: f64| Outcome {
            report: Some(json!({
                "verdict": "valid", "void_because": [], "generator": {"busy": true}, "server": {"cores": server_cores},
                "figures": {"unsent": 0, "latency_us": {"p99": 20_000.0}},
            })),
            ..Outcome::default()
        };
        assert_eq!(found(1000.0, &|| busy(0.95)), None, "both were, so the server was");
        let text = because(1000.0, &|| busy(0.85));
        assert!(text.contains("the generator was the bottleneck (p99 20.00 ms)"), "{text}");
        let text = because(1000.0, &|| Outcome::failed("no port is free"));
        assert!(text.ends_with(" messages/s failed: no port is free"), "{text}");
        let nothing = sweep(&KNEE, 1, |_| busy(0.5));
        let text = nothing.failure.unwrap();
        assert!(text.contains("not even 100 messages/s") && text.contains("generator"), "{text}");
    }

    #[test]
    fn a_small_rate_grows_too() {
        let knee = Knee { rate_from: 1.0, rate_max: 4.5, factor: 1.1, ..KNEE };
        let found = sweep(&knee, 1, server(f64::INFINITY)).knee.unwrap();
        let rates: Vec<f64> = found.steps.iter().map(|step| step.rate).collect();
        assert_eq!(rates, [1.0, 2.0, 3.0, 4.0, 4.5]);
    }

    #[test]
    fn unsent_and_void_are_not_held() {
        let unsent = json!({"verdict": "valid", "void_because": [],
            "figures": {"unsent": 3, "latency_us": {"p99": 1.0}}});
        let void = json!({"verdict": "void", "void_because": ["1 lost"], "figures": {}});
        for (report, why) in [(unsent, "3 messages"), (void, "void: 1 lost")] {
            let outcome = Outcome { report: Some(report), ..Outcome::default() };
            let step = Step::of(1.0, &outcome, &KNEE, 1);
            assert!(!step.held && step.why.unwrap().contains(why));
        }
        assert!(Step::of(1.0, &Outcome::failed("gone"), &KNEE, 1).why.unwrap().contains("gone"));
    }
}
