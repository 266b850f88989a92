//! The figures of a run, whether they count, and what a reader of them must know.

use serde::Serialize;

use super::publishers::{self, Unsent};
use super::{Measured, Shared, stuck, subscribers};
use crate::accounting::Totals;
use crate::distribution::{Distribution, Latencies, latencies, merge};
use crate::report::{Figures, Report, bytes, micros, quantity};
use crate::schedule::Schedule;
use crate::series::{Point, Timeline};

/// The figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Fanout {
    subscribers: usize,
    publishers: usize,
    topics: usize,
    payload_bytes: u32,
    rate: Option<f64>,
    outstanding: Option<u64>,
    threads: usize,
    published: u64,
    expected: u64,
    received: u64,
    lost: u64,
    repeated: u64,
    out_of_order: u64,
    corrupt: u64,
    closed: u64,
    stuck: usize,
    stuck_closed: u64,
    slow_readers: usize,
    slow_closed: u64,
    slow_read_bytes: u64,
    unsent: u64,
    reconnects: u64,
    resent: u64,
    pings: u64,
    deliveries_per_second: f64,
    payload_bytes_per_second: f64,
    server_cpu_us_per_delivery: Option<f64>,
    latency_us: Distribution,
    service_latency_us: Distribution,
    last_subscriber_us: Distribution,
    publish_late_us: Distribution,
    messages_per_receive_call: f64,
    bytes_per_receive_call: f64,
    series: Vec<Point>,
}

impl Figures for Fanout {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let loop_text = match (self.rate, self.outstanding) {
            (Some(rate), _) => format!("open loop, {rate} messages/s"),
            (None, outstanding) => format!("closed loop, {} outstanding", outstanding.unwrap_or(1)),
        };
        let mut lines = vec![
            (
                "load",
                format!(
                    "{} subscribers, {} publishers, {} topics, {} B, {loop_text}",
                    self.subscribers, self.publishers, self.topics, self.payload_bytes
                ),
            ),
            (
                "deliveries",
                format!(
                    "{}/s, {}/s of payload",
                    quantity(self.deliveries_per_second),
                    bytes(self.payload_bytes_per_second)
                ),
            ),
        ];
        if self.stuck > 0 {
            let text = format!("{} that never read, {} of them were closed", self.stuck, self.stuck_closed);
            lines.push(("stuck", text));
        }
        if self.slow_readers > 0 {
            let text = format!(
                "{} that read slowly, {} in all, {} of them were closed",
                self.slow_readers,
                bytes(self.slow_read_bytes as f64),
                self.slow_closed
            );
            lines.push(("slow", text));
        }
        if let Some(us) = self.server_cpu_us_per_delivery {
            lines.push(("server CPU", format!("{us:.3} µs per delivery")));
        }
        lines.push(("latency", self.latency_us.text()));
        if self.rate.is_some() {
            lines.push(("service latency", self.service_latency_us.text()));
            lines.push(("published late", self.publish_late_us.text()));
        }
        lines.extend([
            ("last subscriber", self.last_subscriber_us.text()),
            (
                "receive calls",
                format!(
                    "{:.2} messages, {} each",
                    self.messages_per_receive_call,
                    bytes(self.bytes_per_receive_call)
                ),
            ),
            (
                "accounts",
                format!(
                    "{} published, {} received of {}, {} lost, {} repeated, {} out of order, {} corrupt, {} closed",
                    self.published,
                    self.received,
                    self.expected,
                    self.lost,
                    self.repeated,
                    self.out_of_order,
                    self.corrupt,
                    self.closed
                ),
            ),
        ]);
        lines
    }
}

/// How long the unsent messages of the measurement had waited in the end.
struct Waiting {
    messages: Latencies,
    /// Each as often as it has subscribers.
    deliveries: Latencies,
}

impl Waiting {
    fn of(shared: &Shared, unsent: &[Unsent], ended_ns: u64) -> Self {
        let mut waiting = Self { messages: latencies(), deliveries: latencies() };
        for Unsent { due_ns, subscribers } in unsent.iter().filter(|message| shared.measured(message.due_ns))
        {
            let waited_ns = ended_ns.saturating_sub(*due_ns).max(1);
            waiting.messages.saturating_record(waited_ns);
            waiting.deliveries.saturating_record_n(waited_ns, *subscribers);
        }
        waiting
    }
}

/// Draws up the report.
pub(super) fn report(
    shared: &Shared,
    measured: Measured,
    received: &[subscribers::Outcome],
    published: &publishers::Outcome,
    others: stuck::Outcome,
    timeline: &Timeline,
) -> Report<Fanout> {
    let plan = &shared.plan;
    let Measured { usage, before, after, drained, ended_ns } = measured;
    let mut totals = Totals::default();
    received.iter().for_each(|outcome| totals += outcome.totals);
    let sum = |of: fn(&subscribers::Outcome) -> u64| received.iter().map(of).sum::<u64>();
    let (corrupt, closed) = (sum(|outcome| outcome.corrupt), sum(|outcome| outcome.closed));
    let expected = shared.expected();

    let mut void = Vec::new();
    for (count, what) in [
        (totals.lost, "lost"),
        (totals.repeated, "repeated"),
        (totals.out_of_order, "out of order"),
        (corrupt, "corrupt or foreign"),
    ] {
        if count > 0 {
            void.push(format!("{count} {what}"));
        }
    }
    if closed > 0 {
        let how = received.iter().find_map(|outcome| outcome.closed_how.as_deref());
        void.push(format!("{closed} subscribers closed, the first with: {}", how.unwrap_or("unknown")));
    }
    if let Some(how) = &published.closed_how {
        void.push(format!("a publisher was closed: {how}"));
    }
    if published.stalled {
        void.push(format!(
            "nothing arrived for {:?}, though messages were under way",
            plan.args.drain_timeout
        ));
    }
    if totals.received + totals.lost != expected {
        void.push(format!(
            "the accounts do not balance: {} received + {} lost ≠ {expected}: a defect of this tool",
            totals.received, totals.lost
        ));
    }
    let deliveries = (after.received - before.received) as f64;
    if deliveries == 0.0 {
        void.push("nothing was received during the measurement".into());
    }

    let mut notes = Vec::new();
    if !published.unsent.is_empty() {
        notes.push(format!(
            "the server pushed back: {} messages that were due were never sent. Their latency counts as the time that \
             they had waited by the end of the run, so figures with a ≥ are lower bounds",
            published.unsent.len()
        ));
    }
    if published.given_up > 0 {
        notes.push(format!(
            "{} messages took longer than a window of {} more: the time to their last subscriber counts as what it \
             was by then, a lower bound",
            published.given_up, plan.window
        ));
    }
    if published.reconnects > 0 {
        notes.push(format!(
            "the server ends connections of HTTP publishers: {} were opened anew, which latency includes, and {} \
             requests that crossed with an end went out once more",
            published.reconnects, published.resent
        ));
    }
    if published.received > 0 {
        notes.push(format!(
            "publishers received {} messages: the server sends to them as well (--publisher-query, \
             --publisher-url)",
            published.received
        ));
    }
    if !drained && totals.lost == 0 {
        notes.push("messages were still arriving when the drain ended".into());
    }

    let calls = ((after.calls - before.calls) as f64).max(1.0);
    let late = &published.late;
    if late.value_at_quantile(0.99) > 1_000_000 && plan.args.rate.is_some() {
        let p99 = micros(late.value_at_quantile(0.99) as f64 / 1000.0);
        notes.push(format!(
            "the publishing thread was late (p99 {p99}): latency includes that, service does not"
        ));
    }
    let of_all = |of: fn(&subscribers::Outcome) -> &Latencies| merge(received.iter().map(of));
    let waiting = Waiting::of(shared, &published.unsent, ended_ns);
    let figures = Fanout {
        subscribers: plan.subscribers,
        publishers: plan.publishers,
        topics: plan.topics,
        payload_bytes: plan.args.payload_bytes,
        rate: plan.args.rate,
        outstanding: match plan.schedule {
            Schedule::Closed { outstanding } => Some(outstanding),
            Schedule::Open { .. } => None,
        },
        threads: plan.threads,
        published: published.published,
        expected,
        received: totals.received,
        lost: totals.lost,
        repeated: totals.repeated,
        out_of_order: totals.out_of_order,
        corrupt,
        closed,
        stuck: plan.stuck,
        stuck_closed: others.stuck_closed,
        slow_readers: plan.slow_readers,
        slow_closed: others.slow_closed,
        slow_read_bytes: others.slow_read_bytes,
        unsent: published.unsent.len() as u64,
        reconnects: published.reconnects,
        resent: published.resent,
        pings: sum(|outcome| outcome.pings),
        deliveries_per_second: deliveries / usage.seconds,
        payload_bytes_per_second: deliveries * f64::from(plan.args.payload_bytes) / usage.seconds,
        server_cpu_us_per_delivery: usage.server_cpu_us_per(deliveries),
        latency_us: Distribution::with_waiting(timeline.total(), &waiting.deliveries),
        service_latency_us: match plan.schedule {
            Schedule::Open { .. } => Distribution::of(&of_all(|outcome| &outcome.service)),
            Schedule::Closed { .. } => Distribution::of(timeline.total()),
        },
        last_subscriber_us: Distribution::with_waiting(
            &of_all(|outcome| &outcome.last),
            &merge([&waiting.messages, &published.given_up_after].into_iter()),
        ),
        publish_late_us: Distribution::with_waiting(late, &waiting.messages),
        messages_per_receive_call: deliveries / calls,
        bytes_per_receive_call: (after.bytes - before.bytes) as f64 / calls,
        series: timeline.points(),
    };
    Report::new("fanout", plan.target.url.to_string(), figures, usage, void, notes)
}
