//! Least times between deliveries: a lane of a topic with `min-interval` does not begin a lap before the interval since the
//! end of the last one has passed. So nobody gets two batches within it, and there is no timer per subscriber: the
//! slices of the sweep spread a lap as they always do.
//!
//! ```text
//!   rests, nothing new ──head moves──▶ due? ──yes──▶ lap ──all have left──▶ due again in an interval
//!                                       └──no──▶ waits ──its time has come, or it must hurry──▶ lap
//! ```
//!
//! A message that comes after a quiet interval leaves at once. While a lane waits its log keeps what is new, within the
//! topic's window. With `latest` that is the newest message, and publishers are told that all else is done with. With the
//! other policies nothing may be lost: where the window is full the lane does not wait any longer, and nor does it where the logs are
//! nearly full. Memory has bounds, and publishers go on.
//!
//! A socket that did not take its batch whole gets the rest as soon as it takes bytes, with what has come since.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::{driver::Driver, lanes::LaneRecord, worker::Worker};
use crate::broker::ids::Key;

/// What a lane with an interval knows of it. Times are the driver's, in milliseconds.
#[derive(Debug)]
pub struct Pace {
    interval: u64,
    /// No lap begins before.
    due: u64,
    /// A lap was allowed, and some of what belongs to it has not left.
    in_lap: bool,
    /// Among the lanes that wait.
    listed: bool,
}

impl Pace {
    /// Of a lane that has delivered nothing yet.
    pub fn new(interval: Duration) -> Pace {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Pace { interval, due: 0, in_lap: false, listed: false }
    }

    /// Whether its lane is listed for when its time has come.
    pub fn is_listed(&self) -> bool {
        self.listed
    }
}

/// Lanes that wait for their time, and what time it is.
#[derive(Default)]
pub struct Intervals {
    /// As the tick has read it.
    pub(super) millis: u64,
    /// Each at most once: its time, index and generation.
    waiting: BinaryHeap<Reverse<(u64, u32, u32)>>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl LaneRecord {
    /// The next lap may begin now, if there is anything new.
    fn allow(&mut self) {
        if let Some(pace) = &mut self.pace
            && self.lane.has_news()
        {
            pace.in_lap = true;
            self.lane.allow_lap();
        }
    }
}

impl<D: Driver> Worker<D> {
    /// A lane's head has moved: its next lap begins, unless it is too early.
    #[inline]
    pub(super) fn allow_if_due(&mut self, lane: u32) {
        let now = self.intervals.millis;
        let record = self.lanes.at(lane);
        if record.pace.as_ref().is_some_and(|pace| !pace.in_lap && now >= pace.due) {
            record.allow();
        }
    }

    /// A lane must not wait any longer: its next lap begins now, or right after the one that is under way.
    pub(super) fn hurry(&mut self, lane: u32) {
        self.lanes.at(lane).allow();
        self.list_dirty(lane);
    }

    /// The same for all lanes that wait: the logs are nearly full.
    pub(super) fn hurry_all(&mut self) {
        for Reverse((_, index, generation)) in std::mem::take(&mut self.intervals.waiting) {
            if let Some(record) = self.lanes.by_key(Key { index, generation }) {
                record.pace.as_mut().expect("it waits").listed = false;
                self.hurry(index);
            }
        }
    }

    /// A lane's ring rests. If a lap is over, the interval begins; if there is something new, its time will come.
    #[inline]
    pub(super) fn rest(&mut self, lane: u32) {
        if self.lanes.at(lane).pace.is_some() {
            self.rest_paced(lane);
        }
    }

    fn rest_paced(&mut self, lane: u32) {
        let now = millis(self.driver.now());
        let record = self.lanes.at(lane);
        if record.lane.gathered() > 0 {
            return;
        }
        let is_latest = record.is_latest();
        let pace = record.pace.as_mut().expect("the caller looked");
        if pace.in_lap {
            pace.in_lap = false;
            // The millisecond that has begun does not count.
            pace.due = (now + 1).saturating_add(pace.interval);
            record.lane.hold_laps();
        }
        if !record.lane.has_news() {
            return;
        }
        if !pace.listed {
            pace.listed = true;
            self.intervals.waiting.push(Reverse((pace.due, lane, record.generation)));
        }
        if is_latest && record.lane.concede() {
            self.floors.push(lane);
        }
    }

    /// Lets the laps begin whose time has come.
    pub(super) fn end_intervals(&mut self) {
        let now = self.intervals.millis;
        while let Some(&Reverse((due, index, generation))) = self.intervals.waiting.peek()
            && due <= now
        {
            self.intervals.waiting.pop();
            let Some(record) = self.lanes.by_key(Key { index, generation }) else { continue };
            let pace = record.pace.as_mut().expect("it waits");
            pace.listed = false;
            if pace.in_lap {
                // It had to hurry, and is listed again when it rests.
                continue;
            }
            if pace.due > now {
                pace.listed = true;
                self.intervals.waiting.push(Reverse((pace.due, index, generation)));
                continue;
            }
            record.allow();
            self.list_dirty(index);
        }
    }

    /// How long it is until the next of them.
    pub(super) fn until_next_lap(&self) -> Option<Duration> {
        let Reverse((due, ..)) = self.intervals.waiting.peek()?;
        Some(Duration::from_millis(*due).saturating_sub(self.driver.now()))
    }
}
