//! What a worker counts.
//!
//! Each worker has its own counters and is the only one who writes them, so counting is a plain addition
//! on a line of its own; `/metrics` reads them all. Reasons (why refused, why closed) are counted under a
//! lock: none of them is on the path of a message.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// One number that only its worker changes and anybody may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the worker that owns the counter may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes back `n` that was added too early. Only the worker that owns the counter may call this.
    pub fn take_back(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a number only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Counts events since the start.
    Counter,
    /// Says how many there are now.
    Gauge,
}

macro_rules! stats {
    ($($measure:ident $field:ident: $help:literal,)*) => {
        /// The counters of one worker. The text beside each is its help in `/metrics`.
        #[derive(Debug, Default)]
        pub struct Stats {
            $(#[doc = $help] pub $field: Counter,)*
            reasons: Mutex<BTreeMap<(Family, &'static str), u64>>,
        }

        impl Stats {
            /// Every counter and gauge: measure, name, help, value.
            pub fn all(&self) -> impl Iterator<Item = (Measure, &'static str, &'static str, u64)> {
                [$((Measure::$measure, stringify!($field), $help, self.$field.get()),)*].into_iter()
            }
        }
    };
}

stats! {
    Gauge connections: "Open connections",
    Gauge subscriptions: "Subscriptions",
    Gauge subscriptions_behind: "Subscriptions whose sockets refuse bytes",
    Gauge lanes: "Topics that this worker has subscriptions to",
    Gauge topics: "Topics whose home this worker is",
    Gauge assembly_bytes: "Bytes of half-received messages, and of those that wait for room or credit",
    Counter accepted: "Connections accepted",
    Counter accept_errors: "Connections that could not be accepted, mostly because descriptors ran out",
    Counter handed_over: "Connections handed to a less loaded worker right after accept",
    Counter upgrades: "WebSocket handshakes completed",
    Counter streams: "Event streams begun",
    Counter requests: "HTTP requests answered",
    Counter bytes_received: "Bytes received",
    Counter bytes_sent: "Bytes sent",
    Counter receives: "Receive calls",
    Counter sends: "Send calls",
    Counter sends_refused: "Send calls that found the socket full or filled it",
    Counter messages_received: "Messages received from clients",
    Counter messages_sent: "Messages sent to single clients (echo, replies)",
    Counter messages_published: "Messages that got an offset at this worker",
    Counter messages_held: "Messages that waited for room or credit while their publisher was not read",
    Counter messages_late: "Messages of the API that found no room in their topic within --publish-timeout, and were dropped",
    Counter api_calls: "Calls of the server API that were carried out, each command of a batch",
    Counter deliveries: "Messages of topics sent to subscribers",
    Counter deliveries_left_out: "Messages not sent to the connection that published them, as it asked",
    Counter deliveries_skipped: "Messages that slow subscribers missed, with --slow-consumer skip",
    Counter deliveries_conflated: "Messages passed over for a newer one, with --slow-consumer latest",
    Counter laps: "Laps of the sweep",
    Counter pings_sent: "Pings sent, and heartbeats of event streams",
    Counter pings_received: "Pings received",
    Counter pings_superseded: "Pings not answered since a newer one came while the socket was full",
    Counter pongs_received: "Pongs received",
    Counter mail_taken: "Batches of mail taken",
    Counter ticks: "Turns of the event loop",
}

/// What a reason explains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// Why a request was refused.
    Refused,
    /// Why a connection ended.
    Closed,
    /// How a client broke the protocol.
    ProtocolError,
    /// How slow consumers ended: with a close frame or a reset.
    SlowConsumer,
    /// What went wrong inside sessions: an error or a panic.
    SessionFailed,
}

impl Family {
    /// Name and help in `/metrics`.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Family::Refused => ("refused", "Requests, connections and messages refused"),
            Family::Closed => ("closed", "Connections ended"),
            Family::ProtocolError => ("protocol_errors", "Clients that broke the WebSocket protocol"),
            Family::SlowConsumer => ("slow_consumers", "Slow consumers disconnected"),
            Family::SessionFailed => ("session_failures", "Sessions that failed and were closed with 1011"),
        }
    }

    /// All of them.
    pub const ALL: [Family; 5] =
        [Family::Refused, Family::Closed, Family::ProtocolError, Family::SlowConsumer, Family::SessionFailed];
}

impl Stats {
    /// Counts one event with a reason.
    pub fn count(&self, family: Family, reason: &'static str) {
        *self.lock().entry((family, reason)).or_default() += 1;
    }

    /// The reasons of a family with their counts.
    pub fn reasons(&self, family: Family) -> Vec<(&'static str, u64)> {
        self.lock()
            .iter()
            .filter(|((of, _), _)| *of == family)
            .map(|((_, reason), n)| (*reason, *n))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Family, &'static str), u64>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
