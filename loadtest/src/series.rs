//! Latency and rate over time, without a price per delivery.
//!
//! A receiving thread has one histogram at a time in its [`Recorder`]. When a piece of the measurement is over it
//! hands that to the main thread's [`Timeline`] and goes on with another: a few words move, nothing is added up or
//! cleared on the thread that receives. Intervals go by the time of receipt; the whole distribution also has what
//! came after the last of them.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::distribution::{Latencies, latencies};
use crate::stamp::nanos;

/// Intervals of a measurement.
const INTERVALS: u32 = 60;

/// The shortest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Pieces are no longer, so that a live view is up to date even if intervals are long.
const PIECE_MAX: Duration = Duration::from_millis(500);

/// One interval's figures; latencies in microseconds, null if nothing that counts was received.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// When the interval ended, in seconds of the measurement.
    seconds: f64,
    deliveries_per_second: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

/// How a measurement is divided. `from_ns` is its beginning on the run's clock.
#[derive(Clone, Copy, Debug)]
struct Division {
    duration_ns: u64,
    interval_ns: u64,
    pieces_per_interval: u64,
}

impl Division {
    fn of(duration: Duration) -> Self {
        let interval = (duration / INTERVALS).max(INTERVAL_MIN);
        Self {
            duration_ns: nanos(duration),
            interval_ns: nanos(interval),
            pieces_per_interval: interval.as_nanos().div_ceil(PIECE_MAX.as_nanos()) as u64,
        }
    }

    fn piece_at(self, elapsed_ns: u64) -> u64 {
        elapsed_ns / self.interval_ns * self.pieces_per_interval
            + elapsed_ns % self.interval_ns * self.pieces_per_interval / self.interval_ns
    }

    fn piece_ends_ns(self, piece: u64) -> u64 {
        let (interval, part) = (piece / self.pieces_per_interval, piece % self.pieces_per_interval + 1);
        interval * self.interval_ns + (part * self.interval_ns).div_ceil(self.pieces_per_interval)
    }
}

/// A piece of one thread's measurement.
struct Piece {
    /// 0, 1, 2, … from the beginning of the measurement; `None` of what came before it.
    index: Option<u64>,
    deliveries: u64,
    latency: Latencies,
}

/// Histograms that are empty again.
type Spare = Arc<Mutex<Vec<Latencies>>>;

/// A thread's side.
pub(crate) struct Recorder {
    latency: Latencies,
    /// When the current piece is over; 0 while that is not known.
    ends_ns: u64,
    index: Option<u64>,
    received_before: u64,
    division: Division,
    outgoing: Sender<Piece>,
    spare: Spare,
}

/// The main thread's side.
pub(crate) struct Timeline {
    division: Division,
    incoming: Receiver<Piece>,
    spare: Spare,
    total: Latencies,
    intervals: Vec<Interval>,
}

struct Interval {
    deliveries: u64,
    /// Two digits: a hundred of these are kept.
    latency: Histogram<u64>,
}

/// For a measurement of `duration` by `threads`.
pub(crate) fn timeline(threads: usize, duration: Duration) -> (Timeline, Vec<Recorder>) {
    let division = Division::of(duration);
    let (outgoing, incoming) = channel();
    let spare = Spare::default();
    let recorders = (0..threads).map(|_| Recorder {
        latency: latencies(),
        ends_ns: 0,
        index: None,
        received_before: 0,
        division,
        outgoing: outgoing.clone(),
        spare: spare.clone(),
    });
    let recorders = recorders.collect();
    let interval = || Interval {
        deliveries: 0,
        latency: Histogram::new_with_bounds(1, 100_000_000_000, 2)
            .expect("the bounds are in the crate's range"),
    };
    let count = division.duration_ns.div_ceil(division.interval_ns) as usize;
    let intervals = std::iter::repeat_with(interval).take(count).collect();
    (Timeline { division, incoming, spare, total: latencies(), intervals }, recorders)
}

impl Recorder {
    /// Enters a delivery.
    #[inline]
    pub(crate) fn record(&mut self, latency_ns: u64) {
        self.latency.saturating_record(latency_ns);
    }

    /// The current piece is over: call [`Self::turn`].
    #[inline]
    pub(crate) fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.ends_ns
    }

    /// Goes on with the piece that it is time for. The measurement begins at `from_ns`, `u64::MAX` while that is not
    /// known; the thread has received so many messages.
    #[cold]
    pub(crate) fn turn(&mut self, now_ns: u64, from_ns: u64, received: u64) {
        if now_ns < from_ns {
            // While the beginning is unknown it is asked for with every receive call, of which there are few.
            self.ends_ns = if from_ns == u64::MAX { 0 } else { from_ns };
            return;
        }
        self.hand_over(received);
        let index = self.division.piece_at(now_ns - from_ns);
        self.index = Some(index);
        self.ends_ns = from_ns + self.division.piece_ends_ns(index);
    }

    /// Hands over the last piece.
    pub(crate) fn finish(mut self, received: u64) {
        self.hand_over(received);
    }

    fn hand_over(&mut self, received: u64) {
        let spare = self.spare.lock().expect("nobody panics with the spare histograms in hand").pop();
        let latency = std::mem::replace(&mut self.latency, spare.unwrap_or_else(latencies));
        let piece = Piece { index: self.index, deliveries: received - self.received_before, latency };
        self.received_before = received;
        // Without a receiver the run is over.
        let _ = self.outgoing.send(piece);
    }
}

impl Timeline {
    /// Takes what the threads have handed over.
    pub(crate) fn absorb(&mut self) {
        while let Ok(mut piece) = self.incoming.try_recv() {
            self.total.add(&piece.latency).expect("all histograms have the same bounds");
            let interval = piece.index.map(|index| (index / self.division.pieces_per_interval) as usize);
            if let Some(interval) = interval.and_then(|interval| self.intervals.get_mut(interval)) {
                interval.deliveries += piece.deliveries;
                for value in piece.latency.iter_recorded() {
                    interval.latency.saturating_record_n(value.value_iterated_to(), value.count_at_value());
                }
            }
            piece.latency.reset();
            self.spare.lock().expect("nobody panics with the spare histograms in hand").push(piece.latency);
        }
    }

    /// All latencies so far.
    pub(crate) fn total(&self) -> &Latencies {
        &self.total
    }

    /// The intervals, in their order.
    pub(crate) fn points(&self) -> Vec<Point> {
        let point = |(index, interval): (usize, &Interval)| {
            let began_ns = index as u64 * self.division.interval_ns;
            let ended_ns = (began_ns + self.division.interval_ns).min(self.division.duration_ns);
            let latency = &interval.latency;
            let at = |ns: u64| (!latency.is_empty()).then(|| ns as f64 / 1000.0);
            Point {
                seconds: ended_ns as f64 / 1e9,
                deliveries_per_second: interval.deliveries as f64 * 1e9 / (ended_ns - began_ns) as f64,
                p50: at(latency.value_at_quantile(0.5)),
                p99: at(latency.value_at_quantile(0.99)),
                max: at(latency.max()),
            }
        };
        self.intervals.iter().enumerate().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn intervals_by_the_time_of_receipt() {
        let (mut timeline, recorders) = timeline(2, Duration::from_millis(250));
        for (thread, mut recorder) in recorders.into_iter().enumerate() {
            let from_ns = 1000 * MS;
            let mut received = 0;
            let mut receive = |at_ns: u64, from_ns: u64, latency_ns: Option<u64>| {
                if recorder.is_over(at_ns) {
                    recorder.turn(at_ns, from_ns, received);
                }
                received += 1;
                latency_ns.into_iter().for_each(|ns| recorder.record(ns));
            };
            receive(10, u64::MAX, None);
            receive(999 * MS, from_ns, None);
            receive(1000 * MS, from_ns, Some(5 * MS));
            receive(1099 * MS, from_ns, Some(7 * MS));
            if thread == 0 {
                receive(1249 * MS, from_ns, Some(2 * MS));
                receive(1300 * MS, from_ns, Some(300 * MS));
            }
            recorder.finish(received);
        }
        timeline.absorb();
        assert_eq!((timeline.total().len(), timeline.total().max() / MS), (6, 300));
        let points = timeline.points();
        let rates: Vec<f64> = points.iter().map(|point| point.deliveries_per_second).collect();
        assert_eq!(rates, [40.0, 0.0, 20.0]);
        assert_eq!(points.iter().map(|point| point.seconds).collect::<Vec<_>>(), [0.1, 0.2, 0.25]);
        assert!(points[1].p50.is_none() && (points[2].max.unwrap() - 2000.0).abs() < 30.0, "{points:?}");
        assert!((points[0].p99.unwrap() - 7000.0).abs() < 70.0, "{points:?}");
    }

    proptest! {
        /// Every instant lies in its piece, and pieces end where intervals do.
        #[test]
        fn pieces_cover_all_time(seconds in 1u64..4000, elapsed_ns in 0u64..10_000_000_000_000) {
            let division = Division::of(Duration::from_secs(seconds));
            let piece = division.piece_at(elapsed_ns);
            prop_assert!(elapsed_ns < division.piece_ends_ns(piece));
            prop_assert!(piece == 0 || elapsed_ns >= division.piece_ends_ns(piece - 1));
            prop_assert_eq!(piece / division.pieces_per_interval, elapsed_ns / division.interval_ns);
        }
    }
}
