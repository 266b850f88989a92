//! **Slow consumers**: what becomes of subscriptions whose sockets refuse bytes, and of the log that is kept for
//! them. Cursors stand between units, so whatever is done here cuts none.
//!
//! Policies look at the part behind only: lag that is the sweep's own is no subscriber's fault.

use smallvec::SmallVec;

use super::{
    connections::{Flag, Phase},
    driver::{Driver, End},
    farewell::Why,
    lanes::low,
    reports::Missed,
    worker::Worker,
};
use crate::{
    broker::{
        home::Except,
        ids::{Position, Tick},
        lane::{Entry, Seat},
        limits::Window,
    },
    config::SlowConsumer,
    protocol::ws::CloseCode,
};

/// Where the logs are nearly full, who takes nothing for so long may keep nothing of them.
const PATIENCE: u32 = Tick::PER_SECOND;

const REASON: &str = "too slow: the lag bound was passed";

impl<D: Driver> Worker<D> {
    /// Applies the policy to those who lag too far behind, and lets go of the segments that nobody has before
    /// them any more. Those behind are looked at once per tenth of a second, or when the log that is kept for
    /// them is longer than the bound on their lag; never per message.
    pub(super) fn trim(&mut self, lane: u32) {
        let now = self.now;
        let record = self.lanes.at(lane);
        let mut keep = record.lane.needed();
        if record.keeps_newest_only()
            && let Some(newest) = record.lane.view.newest()
        {
            keep = keep.min(newest.position);
        }
        if !record.lane.behind().is_empty() {
            let kept = record.lane.view.head().position.since(record.lane.view.tail());
            if record.checked_at == now && kept <= record.rule.lag.bytes {
                return;
            }
            record.checked_at = now;
            self.apply_policy(lane);
            keep = self.needed_behind(lane).map_or(keep, |needed| keep.min(needed));
        }
        self.lanes.at(lane).lane.view.trim(keep);
    }

    fn apply_policy(&mut self, lane: u32) {
        let policy = self.lanes.at(lane).rule.slow_consumer;
        if policy == SlowConsumer::Latest {
            // Visits do it.
            return;
        }
        let slow: SmallVec<[(u32, u32); 8]> =
            self.slow_entries(lane).map(|entry| (entry.connection, entry.subscription)).collect();
        for (slot, subscription) in slow {
            if self.connections.phase(slot) == Phase::Opening {
                // It has been sent nothing yet: the server's own delay.
                continue;
            }
            if policy == SlowConsumer::Disconnect {
                self.close(slot, CloseCode::TRY_AGAIN_LATER, REASON, Why::SlowConsumer);
            } else {
                let (lane, seat) = self.lanes.seat(subscription).expect("it sits behind");
                self.lanes.at(lane).lane.entry_mut(seat).lost = true;
                self.lanes.merge_old_holes(subscription);
            }
        }
    }

    /// The lowest position that somebody behind still needs.
    fn needed_behind(&mut self, lane: u32) -> Option<Position> {
        let record = self.lanes.at(lane);
        let lane = &record.lane;
        if record.is_latest() {
            let behind = !lane.behind().is_empty();
            return lane.view.newest().filter(|_| behind).map(|newest| newest.position);
        }
        lane.behind().iter().filter(|entry| !entry.lost).map(|entry| entry.position).min()
    }

    /// Entries behind that lag by more than the bound. The newest message alone makes nobody slow, whatever
    /// its size.
    fn slow_entries(&mut self, lane: u32) -> impl Iterator<Item = &Entry> {
        let window = self.lag_window(lane);
        let lane = &self.lanes.at(lane).lane;
        let head = lane.view.head();
        lane.behind().iter().filter(move |entry| {
            let messages = u64::from(low(head).wrapping_sub(entry.offset_low));
            let bytes = head.position.since(entry.position);
            !entry.lost && (messages > window.messages || (messages > 1 && bytes > window.bytes))
        })
    }

    /// The lag that makes a lane's subscription slow. Where the logs are nearly full it is half of what it otherwise
    /// is. Not less: publishers may be a quarter ahead of the sweep, and that is nobody's fault.
    fn lag_window(&mut self, lane: u32) -> Window {
        let lag = self.lanes.at(lane).rule.lag;
        if !self.logs_nearly_full() {
            return lag;
        }
        Window { bytes: lag.bytes / 2, messages: lag.messages.div_ceil(2) }
    }

    /// Seven eighths, or no room for a message of the largest size.
    fn logs_nearly_full(&self) -> bool {
        let (logs, largest) = (&self.shared.logs, self.shared.settings.messages.message_bytes_max);
        logs.used() >= logs.max() / 8 * 7 || logs.used() + largest > logs.max()
    }

    /// Ten times a second: where the logs are nearly full, whoever keeps some of them and has taken nothing
    /// for a second is reset, under every policy. Readers that are stuck must not stop the publishers of all
    /// topics until `--write-timeout`.
    pub(super) fn relieve_logs(&mut self) {
        if !self.logs_nearly_full() {
            return;
        }
        self.hurry_all();
        for slot in 0..self.connections.slots() {
            let phase = self.connections.phase(slot);
            if phase == Phase::Free || !self.connections.hot(slot).is(Flag::Blocked) {
                continue;
            }
            let silent = self.now.since(self.connections.warm(slot).progress_at);
            if silent >= PATIENCE && self.keeps_log(slot) {
                self.connections.hot(slot).set(Flag::Slow);
                self.end(slot, End::Reset, Why::SlowConsumer);
            }
        }
    }

    /// Whether some of a log is kept for a connection: the rest of a unit, or what its subscriptions have
    /// before them.
    fn keeps_log(&mut self, slot: u32) -> bool {
        if self.connections.hot(slot).outgoing.as_ref().is_some_and(|outgoing| outgoing.keeps_extent()) {
            return true;
        }
        if self.connections.positions(slot).is_some_and(|positions| positions.replays()) {
            return true;
        }
        let subscriptions: SmallVec<[u32; 4]> =
            self.lanes.list(self.connections.first_subscription(slot)).collect();
        subscriptions.into_iter().any(|subscription| {
            self.lanes.seat(subscription).is_some_and(|(lane, seat)| {
                let lane = &self.lanes.at(lane).lane;
                let entry = lane.entry(seat);
                !entry.lost && entry.position < lane.view.head().position
            })
        })
    }

    /// A subscription that is behind can be written to again. Where the log was not kept for it, its cursor
    /// goes to what is there: with `skip` the head, which it is told of before, with `latest` the newest unit.
    pub(super) fn catch_up(&mut self, lane: u32, seat: Seat) {
        if self.lanes.at(lane).is_latest() {
            self.pass_over(lane, seat);
        } else if self.lanes.at(lane).lane.entry(seat).lost {
            let Entry { subscription, connection, .. } = *self.lanes.at(lane).lane.entry(seat);
            let missed = self.count_missed(subscription);
            self.lanes.holes.remove(&subscription);
            if missed > 0 {
                self.tell_skipped(connection, lane, missed);
            }
            if !self.watches.is_empty() {
                let record = self.lanes.at(lane);
                let (from, to) = (record.lane.entry(seat).position, record.lane.view.head().position);
                self.note_missed(lane, connection, from, Some(to), Missed::Skipped);
            }
            let record = self.lanes.at(lane);
            let head = record.lane.view.head();
            let entry = record.lane.entry_mut(seat);
            (entry.position, entry.offset_low, entry.lost) = (head.position, low(head), false);
            entry.holes = false;
        }
    }

    /// Counts what a policy has taken from a subscription, which ends, or goes on at the head. Gives the messages that it was
    /// made to skip.
    pub(super) fn count_missed(&mut self, subscription: u32) -> u32 {
        let Some((lane, seat)) = self.lanes.seat(subscription) else { return 0 };
        if self.lanes.at(lane).is_latest() {
            self.pass_over(lane, seat);
            return 0;
        }
        let lane = &self.lanes.at(lane).lane;
        let (entry, head) = (*lane.entry(seat), lane.view.head());
        if !entry.lost {
            return 0;
        }
        let own = self.lanes.messages_left_out(subscription, head.position);
        let missed = low(head).wrapping_sub(entry.offset_low) - own;
        self.stats().deliveries_left_out.add(u64::from(own));
        self.stats().deliveries_skipped.add(u64::from(missed));
        missed
    }

    /// `latest`: the cursor goes to the newest unit.
    pub(super) fn pass_over(&mut self, lane: u32, seat: Seat) {
        let record = self.lanes.at(lane);
        let Some(newest) = record.lane.view.newest() else { return };
        let entry = record.lane.entry_mut(seat);
        if entry.position >= newest.position {
            return;
        }
        let passed = low(newest).wrapping_sub(entry.offset_low);
        let (slot, from) = (entry.connection, entry.position);
        (entry.position, entry.offset_low) = (newest.position, low(newest));
        let (holes, subscription) = (entry.holes, entry.subscription);
        let own = if holes { self.lanes.messages_left_out(subscription, newest.position) } else { 0 };
        self.stats().deliveries_left_out.add(u64::from(own));
        self.stats().deliveries_conflated.add(u64::from(passed - own));
        if !self.watches.is_empty() {
            self.note_missed(lane, slot, from, Some(newest.position), Missed::Conflated);
        }
    }

    /// A range of a log that one subscription must not get. There is at most one per message of the lag bound;
    /// where a policy passes messages over, what lies before is one.
    pub(super) fn leave_out(&mut self, lane: u32, except: Except) {
        if !self.connections.is_current(except.connection) {
            return;
        }
        let first = self.connections.first_subscription(except.connection.slot);
        let Some(subscription) = self.lanes.of_connection(first, lane) else { return };
        let Some((_, seat)) = self.lanes.seat(subscription) else {
            if self.lanes.is_recovering(subscription) {
                // Where it begins is not known yet: what lies before that goes when it is.
                self.lanes.add_hole(subscription, except);
            }
            return;
        };
        let record = self.lanes.at(lane);
        // With `latest` a visit goes to the newest message from wherever it is.
        let may_wait = record.pace.is_some() || matches!(seat, Seat::Behind(_));
        let passes_over = record.is_latest() && may_wait;
        let entry = record.lane.entry_mut(seat);
        entry.holes = true;
        let merges = entry.lost || passes_over;
        self.lanes.add_hole(subscription, except);
        if merges {
            self.lanes.merge_old_holes(subscription);
        }
    }
}
