//! The ring sweep: a slice of visits to a lane's subscriptions, each of which sends everything up to the
//! head of that moment. And backpressure: what a refused send leads to.
//!
//! A socket that refuses bytes moves its subscription to the part behind; the rest of a unit that has begun
//! goes to the connection's own queue, so a cursor always stands between two units. What is done about those
//! who stay behind is in `slow`.

use std::io::IoSlice;

use smallvec::SmallVec;

use super::{
    connections::Flag,
    driver::{Driver, End, Sent},
    farewell::Why,
    lanes::low,
    worker::Worker,
};
use crate::broker::{
    ids::Position,
    lane::{Entry, Seat},
    log::View,
};

/// Entries looked at in a slice, most of which may have nothing to get.
const SLICE_VISITS: usize = 4096;

/// Bytes that one visit may send, and runs of a log that it may send together.
pub(super) const VISIT_BYTES: usize = 256 * 1024;
pub(super) const VISIT_RUNS: usize = 16;

/// The rest of a started unit up to this length is copied; a longer one keeps its segment.
const REST_COPIED_BYTES: usize = 4096;

/// A send whose outcome is known after the driver's submit. It counts as complete until then.
#[derive(Debug)]
pub struct InFlight {
    lane: u32,
    /// The entry before the send.
    before: Entry,
    asked: usize,
}

/// What is left of a slice.
struct Slice {
    sends: usize,
    visits: usize,
}

/// What ends a row of visits that are like most.
enum Met {
    /// The end of the slice, or of what lies in a row.
    Nothing,
    /// Another kind of visit.
    Special,
    /// A connection with several topics.
    Several,
    /// A send that did not take all that it was given.
    Short { asked: usize, sent: Sent },
}

/// Nearly all entries of a lane stand at the same position, so the loop seldom asks.
#[cold]
fn run_from(view: &View, from: Position) -> &[u8] {
    view.first_run(from)
}

impl<D: Driver> Worker<D> {
    /// One slice: the first dirty lane, from where its ring stood, then the next, until 64 sends. A lane
    /// that is not finished goes to the end of the queue.
    pub(super) fn sweep(&mut self) {
        let mut slice = Slice { sends: self.shared.settings.slice_sends, visits: SLICE_VISITS };
        while let Some(&lane) = self.dirty.front() {
            let finished = self.sweep_lane(lane, &mut slice);
            self.dirty.pop_front();
            self.gathered.lane_done();
            if !finished {
                self.dirty.push_back(lane);
                break;
            }
            if let Some(record) = self.lanes.get(lane) {
                record.queued = false;
            }
        }
        self.settle_in_flight();
        self.send_some_gathered();
    }

    /// Visits until the lane rests (true) or the slice is over (false).
    fn sweep_lane(&mut self, lane: u32, slice: &mut Slice) -> bool {
        loop {
            let Some(record) = self.lanes.get(lane) else { return true };
            let floor = record.lane.floor();
            let rests = record.lane.next_visit().is_none();
            if record.lane.floor() != floor {
                self.lap_done(lane);
            }
            if rests {
                self.rest(lane);
                return true;
            }
            if slice.sends == 0 || slice.visits == 0 {
                return false;
            }
            match self.visit_most(lane, slice) {
                Met::Nothing => {}
                Met::Several => slice.visits -= self.visit_several(lane, slice.visits),
                Met::Special => {
                    let seat = self.lanes.at(lane).lane.next_seat();
                    slice.visits -= 1;
                    slice.sends -= usize::from(self.visit_special(lane, seat));
                }
                Met::Short { asked, sent } => {
                    let lane_of = &self.lanes.at(lane).lane;
                    let seat = lane_of.next_seat();
                    let slot = lane_of.entry(seat).connection;
                    slice.visits -= 1;
                    slice.sends -= 1;
                    self.settle(lane, seat, asked, sent);
                    self.visited_if_done(lane, seat, slot);
                }
            }
        }
    }

    /// Visits swept entries in a row, as long as they are like most: one run up to the head, which the socket takes
    /// whole.
    ///
    /// This is the loop that a broadcast spends its time in. A system call leaves so little of its caller in the
    /// caches that each further page of code and line of data which a visit touches is a miss: so the driver's send
    /// is part of this function, counts are kept in registers, and everything else is outside.
    #[inline(never)]
    fn visit_most(&mut self, lane: u32, slice: &mut Slice) -> Met {
        let Worker { lanes, connections, driver, in_flight, shared, id, .. } = self;
        let record = lanes.at(lane);
        let latest = record.is_latest();
        let (entries, view) = record.lane.stretch(slice.visits);
        let head = view.head();
        let (mut from, mut run) = (head.position, &[][..]);
        let (mut visited, mut sends, mut queued, mut bytes, mut deliveries) = (0, 0, 0, 0, 0);
        let mut met = Met::Nothing;
        for entry in entries {
            if entry.position != head.position {
                if sends == slice.sends {
                    break;
                }
                let hot = connections.hot(entry.connection);
                if entry.holes || latest || hot.is_special() {
                    met = if hot.is(Flag::Several) { Met::Several } else { Met::Special };
                    break;
                }
                if entry.position != from {
                    (from, run) = (entry.position, run_from(view, entry.position));
                    if run.len() as u64 != head.position.since(from) {
                        met = Met::Special;
                        break;
                    }
                }
                let sent = driver.queue(entry.connection, run);
                if sent == Sent::Queued {
                    hot.set(Flag::InFlight);
                    in_flight.push(InFlight { lane, before: *entry, asked: run.len() });
                    queued += 1;
                } else if sent == Sent::Bytes(run.len()) {
                    bytes += run.len() as u64;
                } else {
                    met = Met::Short { asked: run.len(), sent };
                    break;
                }
                sends += 1;
                deliveries += u64::from(low(head).wrapping_sub(entry.offset_low));
                (entry.position, entry.offset_low) = (head.position, low(head));
            }
            visited += 1;
        }
        lanes.at(lane).lane.visited(visited);
        slice.visits -= visited;
        slice.sends -= sends;
        let stats = &shared.stats[id.index()];
        // What is queued is counted when its outcome is known.
        stats.sends.add((sends - queued) as u64);
        stats.deliveries.add(deliveries);
        stats.bytes_sent.add(bytes);
        met
    }

    /// A visit that is not like most.
    #[inline(never)]
    fn visit_special(&mut self, lane: u32, seat: Seat) -> bool {
        let entry = *self.lanes.at(lane).lane.entry(seat);
        let slot = entry.connection;
        let hot = self.connections.hot(slot);
        if hot.is(Flag::InFlight) || (hot.outgoing.is_some() && !self.in_flight.is_empty()) {
            // At most one send of a connection is in flight, and its own queue is flushed outside of batches.
            // Settling may end connections, and so move this seat: nothing was visited.
            self.settle_in_flight();
            return false;
        }
        if (hot.outgoing.is_some() && !self.flush_own(slot)) || self.connections.hot(slot).is(Flag::Blocked) {
            // Something else must leave first; when it has, the subscription comes back. The connection may
            // also just have ended, and its subscription with it.
            if self.lanes.subscriptions.get(entry.subscription as usize).is_some_and(|subscription| {
                subscription.connection == slot && subscription.seat == Some(seat)
            }) {
                self.lanes.demote(entry.subscription);
            }
            return true;
        }
        if self.lanes.at(lane).is_latest() {
            self.pass_over(lane, seat);
        }
        self.send_run(lane, seat);
        self.visited_if_done(lane, seat, slot);
        true
    }

    /// Whoever did not get all is behind or gone, or is visited again at once.
    fn visited_if_done(&mut self, lane: u32, seat: Seat, slot: u32) {
        let record = self.lanes.at(lane);
        let head = record.lane.view.head().position;
        if record.lane.get(seat).is_some_and(|now| now.connection == slot && now.position == head) {
            record.lane.visited(1);
        }
    }

    /// Sends a subscription what lies before it, about `VISIT_BYTES` at once, and moves its cursor. A
    /// refusal moves it to the part behind.
    pub(super) fn send_run(&mut self, lane: u32, seat: Seat) {
        let record = self.lanes.at(lane);
        let before = *record.lane.entry(seat);
        if before.holes {
            self.send_between_holes(lane, seat);
            return;
        }
        let slot = before.connection;
        let view = &record.lane.view;
        let head = view.head().position;
        let first = view.first_run(before.position);
        let (asked, sent) = if first.len() as u64 == head.since(before.position) {
            (first.len(), self.driver.queue(slot, first))
        } else {
            let mut runs: SmallVec<[IoSlice<'_>; VISIT_RUNS]> = SmallVec::new();
            let mut asked = 0;
            for run in view.runs(before.position).take(VISIT_RUNS) {
                runs.push(IoSlice::new(run));
                asked += run.len();
                if asked >= VISIT_BYTES {
                    break;
                }
            }
            (asked, self.driver.send_vectored(slot, &runs))
        };
        self.settle(lane, seat, asked, sent);
    }

    /// The same for a subscription that must not get some ranges: one run up to the next hole. Nobody else
    /// pays for this.
    fn send_between_holes(&mut self, lane: u32, seat: Seat) {
        let record = self.lanes.at(lane);
        let before = *record.lane.entry(seat);
        // All of them lie between the cursor and the head.
        let holes = self.lanes.holes.entry(before.subscription).or_default();
        let Some(hole) = holes.front().copied() else {
            self.lanes.holes.remove(&before.subscription);
            self.lanes.at(lane).lane.entry_mut(seat).holes = false;
            self.send_run(lane, seat);
            return;
        };
        if hole.from == before.position {
            holes.pop_front();
            let entry = self.lanes.at(lane).lane.entry_mut(seat);
            entry.position = hole.to;
            entry.offset_low = entry.offset_low.wrapping_add(hole.messages);
            self.stats().deliveries_left_out.add(u64::from(hole.messages));
            return;
        }
        let view = &self.lanes.at(lane).lane.view;
        let run = view.first_run(before.position);
        let len = usize::try_from(hole.from.since(before.position)).unwrap_or(usize::MAX).min(run.len());
        let sent = self.driver.queue(before.connection, &run[..len]);
        self.settle(lane, seat, len, sent);
    }

    /// Moves a cursor by what a send gave.
    #[inline(never)]
    fn settle(&mut self, lane: u32, seat: Seat, asked: usize, sent: Sent) {
        let before = *self.lanes.at(lane).lane.entry(seat);
        let slot = before.connection;
        let taken = match sent {
            Sent::Bytes(bytes) => bytes,
            Sent::Refused => 0,
            Sent::Queued => {
                self.connections.hot(slot).set(Flag::InFlight);
                self.in_flight.push(InFlight { lane, before, asked });
                self.advance(lane, seat, before, asked);
                return;
            }
            Sent::Failed => {
                self.end(slot, End::Reset, Why::Reset);
                return;
            }
        };
        self.count_send(taken, asked);
        self.advance(lane, seat, before, taken);
        if taken < asked {
            self.refused(slot, before.subscription, seat, taken > 0);
        } else {
            self.connections.hot(slot).clear(Flag::Stalled);
        }
    }

    /// The cursor of the entry at `seat` goes `taken` bytes on. If that ends inside a unit, the unit's rest
    /// goes to the connection's own queue and the cursor behind it.
    pub(super) fn advance(&mut self, lane: u32, seat: Seat, before: Entry, taken: usize) {
        let record = self.lanes.at(lane);
        let view = &record.lane.view;
        let head = view.head();
        let position = before.position.advanced(taken);
        if position == head.position {
            let delivered = low(head).wrapping_sub(before.offset_low);
            let entry = record.lane.entry_mut(seat);
            entry.position = position;
            entry.offset_low = low(head);
            self.stats().deliveries.add(u64::from(delivered));
            return;
        }
        let place = view.place(position);
        let end = place.unit_end.unwrap_or(place.unit_start);
        if let Some(unit_end) = place.unit_end {
            self.queue_rest(before.connection, lane, position, unit_end.position);
        }
        let delivered = low(end).wrapping_sub(before.offset_low);
        let entry = self.lanes.at(lane).lane.entry_mut(seat);
        entry.position = end.position;
        entry.offset_low = low(end);
        self.stats().deliveries.add(u64::from(delivered));
    }

    /// Queues the rest of a unit that has begun to leave.
    pub(super) fn queue_rest(&mut self, slot: u32, lane: u32, from: Position, to: Position) {
        let (extent, start) = self.lanes.view(lane).extent_at(from);
        let end = start + usize::try_from(to.since(from)).expect("a unit fits in memory");
        let outgoing = self.connections.hot(slot).outgoing.get_or_insert_default();
        debug_assert!(outgoing.is_empty(), "a connection's own queue leaves before its subscriptions");
        if end - start <= REST_COPIED_BYTES {
            outgoing.push(&extent.bytes()[start..end]);
        } else {
            outgoing.push_rest(extent.clone(), start, end);
        }
    }

    /// **Backpressure**: a socket refused bytes. Its subscription leaves the swept part until the socket
    /// takes bytes again.
    fn refused(&mut self, slot: u32, subscription: u32, seat: Seat, progress: bool) {
        self.block(slot, progress);
        if matches!(seat, Seat::Swept(_)) {
            self.lanes.demote(subscription);
        }
    }

    /// Sends what was queued, and learns the outcome.
    pub(super) fn settle_in_flight(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let mut outcomes = std::mem::take(&mut self.outcomes);
        // Logs are trimmed between slices only, so the bytes lie where they lay.
        let runs = self.in_flight.iter().map(|in_flight| {
            let run = self.lanes.view(in_flight.lane).first_run(in_flight.before.position);
            (in_flight.before.connection, &run[..in_flight.asked])
        });
        self.driver.submit(runs, &mut outcomes);
        let mut settled = std::mem::take(&mut self.in_flight);
        let (mut whole, mut bytes) = (0, 0);
        for InFlight { before, asked, .. } in settled.drain(..) {
            let slot = before.connection;
            let hot = self.connections.hot(slot);
            hot.clear(Flag::InFlight);
            let Some(&(_, sent)) = outcomes.iter().find(|(of, _)| *of == slot) else {
                hot.clear(Flag::Stalled);
                whole += 1;
                bytes += asked as u64;
                continue;
            };
            let taken = if let Sent::Bytes(bytes) = sent { bytes } else { 0 };
            if sent != Sent::Failed {
                self.count_send(taken, asked);
            }
            let Some((lane, seat)) = self.lanes.seat(before.subscription) else { continue };
            let entry = self.lanes.at(lane).lane.entry_mut(seat);
            let delivered = entry.offset_low.wrapping_sub(before.offset_low);
            *entry = before;
            self.stats().deliveries.take_back(u64::from(delivered));
            if sent == Sent::Failed {
                self.end(slot, End::Reset, Why::Reset);
                continue;
            }
            self.advance(lane, seat, before, taken);
            self.refused(slot, before.subscription, seat, taken > 0);
        }
        let stats = self.stats();
        stats.sends.add(whole);
        stats.bytes_sent.add(bytes);
        outcomes.clear();
        self.outcomes = outcomes;
        self.in_flight = settled;
    }

    /// Ends the lap of a lane that is not being swept, if nothing more belongs to it; another may begin.
    pub(super) fn end_lap(&mut self, lane: u32) {
        let record = self.lanes.at(lane);
        if record.queued {
            return;
        }
        let floor = record.lane.floor();
        let next = record.lane.next_visit();
        if record.lane.floor() != floor {
            self.lap_done(lane);
        }
        if next.is_some() {
            self.list_dirty(lane);
        } else {
            self.rest(lane);
        }
    }

    /// All swept subscriptions of a lane have what its head was when the lap began.
    fn lap_done(&mut self, lane: u32) {
        self.stats().laps.add(1);
        self.floors.push(lane);
    }
}
