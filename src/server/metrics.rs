//! `/metrics`: the workers' counters as Prometheus text (OpenMetrics 1.0).
//!
//! Every name begins with `stentor_`. Counters of workers carry the label `worker`; sum over it.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    broker::limits::Gauge,
    engine::stats::{Family, Measure, Stats},
    session::routes::MetricsText,
};

/// What composes the text.
pub fn text(stats: Arc<Vec<Stats>>, topics: Arc<Gauge>, logs: Arc<Gauge>) -> MetricsText {
    let mut registry = Registry::with_prefix("stentor");
    registry.register_collector(Box::new(Everything { stats, topics, logs }));
    Box::new(move || {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &registry);
        text
    })
}

#[derive(Debug)]
struct Everything {
    stats: Arc<Vec<Stats>>,
    topics: Arc<Gauge>,
    logs: Arc<Gauge>,
}

impl Everything {
    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of_workers: Vec<Vec<_>> = self.stats.iter().map(|stats| stats.all().collect()).collect();
        let Some(first) = of_workers.first() else { return Ok(()) };
        for (i, &(measure, name, help, _)) in first.iter().enumerate() {
            let kind = match measure {
                Measure::Counter => MetricType::Counter,
                Measure::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (worker, values) in of_workers.iter().enumerate() {
                let labels = [("worker", worker.to_string())];
                value(measure, values[i].3, metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for family in Family::ALL {
            let (name, help) = family.describe();
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (worker, stats) in self.stats.iter().enumerate() {
                for (reason, count) in stats.reasons(family) {
                    let labels = [("worker", worker.to_string()), ("reason", reason.to_owned())];
                    value(Measure::Counter, count, metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn value(measure: Measure, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match measure {
        Measure::Counter => ConstCounter::new(value).encode(encoder),
        Measure::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.workers(&mut encoder)?;
        self.reasons(&mut encoder)?;
        for (name, help, gauge) in [
            ("topics_all", "Topics of the whole process", &self.topics),
            ("log_bytes", "Bytes of all topics' logs", &self.logs),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            value(Measure::Gauge, gauge.used() as u64, metric)?;
        }
        Ok(())
    }
}
