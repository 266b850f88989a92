//! Connections with several topics: what is new for such a connection is gathered while the lanes are gone
//! through, and leaves in one vectored send. A system call costs as much as several hundred entries.
//!
//! A visit of the sweep puts the subscription behind those that its connection has gathered already. Once all lanes
//! that were dirty when the first was gathered have been gone through, the connections are sent to, oldest first. Laps
//! go on meanwhile, but a lane's floor says what has left and not what was gathered.
//!
//! Event streams of several topics are gathered in the same way; what they are sent is in `streams`.

use std::{collections::VecDeque, io::IoSlice};

use smallvec::SmallVec;

use super::{
    connections::{Flag, Hot, Transport},
    driver::{Driver, End, Sent},
    farewell::Why,
    lanes::{NONE, link_gathered, low},
    sweep::{VISIT_BYTES, VISIT_RUNS},
    worker::Worker,
};
use crate::broker::{ids::Position, lane::Seat};

/// One topic's part of a send.
struct Share {
    lane: u32,
    subscription: u32,
    seat: Seat,
    from: Position,
    /// Bytes up to the head.
    ahead: u64,
    /// Of which so many are in this send.
    len: usize,
}

type Shares = SmallVec<[Share; VISIT_RUNS]>;

/// Connections that something is gathered for, oldest first.
#[derive(Default)]
pub struct Gathered {
    /// Their slots.
    pub(super) slots: VecDeque<u32>,
    /// Dirty lanes to go through before the first of them is sent to.
    lanes_left: usize,
}

impl Gathered {
    /// Lists a connection, if it is not; so many lanes are dirty.
    #[inline]
    fn list(&mut self, slot: u32, hot: &mut Hot, dirty: usize) {
        if hot.is(Flag::ListedGathered) {
            return;
        }
        hot.set(Flag::ListedGathered);
        if self.slots.is_empty() {
            self.lanes_left = dirty;
        }
        self.slots.push_back(slot);
    }

    /// A dirty lane has been gone through, or a slice of it.
    pub(super) fn lane_done(&mut self) {
        self.lanes_left = self.lanes_left.saturating_sub(1);
    }
}

impl<D: Driver> Worker<D> {
    /// Visits swept entries in a row, `max` at most, as long as their connections have several topics: what they get of
    /// this topic leaves with what they get of others. Gives the number of visits.
    pub(super) fn visit_several(&mut self, lane: u32, max: usize) -> usize {
        let Worker { lanes, connections, gathered, dirty, .. } = self;
        let (lane, subscriptions) = lanes.lane_and_subscriptions(lane);
        lane.gather_next(max, |entry| {
            let slot = entry.connection;
            let hot = connections.hot(slot);
            if !hot.is(Flag::Several) {
                return None;
            }
            gathered.list(slot, hot, dirty.len());
            Some(link_gathered(subscriptions, entry.subscription, &mut connections.warm(slot).last_gathered))
        })
    }

    /// A slice of sends, once the lanes have been gone through.
    pub(super) fn send_some_gathered(&mut self) {
        if self.gathered.lanes_left > 0 && !self.dirty.is_empty() {
            return;
        }
        for _ in 0..self.gathered.slots.len().min(self.shared.settings.slice_sends) {
            let Some(slot) = self.gathered.slots.pop_front() else { return };
            if self.connections.hot(slot).clear(Flag::ListedGathered) {
                self.send_gathered(slot);
            }
        }
    }

    /// One send of what a connection has gathered; its own queue leaves before. What does not fit stays gathered.
    fn send_gathered(&mut self, slot: u32) {
        let free = self.connections.hot(slot).outgoing.is_none() || self.flush_own(slot);
        if !free || self.connections.hot(slot).is(Flag::Blocked) {
            self.demote_gathered(slot);
            return;
        }
        if self.connections.transport(slot) == Transport::EventStream
            && self.connections.positions(slot).is_some()
        {
            self.send_events(slot);
            return;
        }
        let mut shares = self.shares(slot);
        let mut runs: SmallVec<[IoSlice<'_>; VISIT_RUNS]> = SmallVec::new();
        let mut asked = 0;
        for share in &mut shares {
            let view = self.lanes.view(share.lane);
            // Nearly always one run is all; large messages are a run each.
            while (share.len as u64) < share.ahead && runs.len() < VISIT_RUNS && asked < VISIT_BYTES {
                let run = view.first_run(share.from.advanced(share.len));
                share.len += run.len();
                asked += run.len();
                runs.push(IoSlice::new(run));
            }
        }
        let sent = match &runs[..] {
            [] => return,
            [one] => self.driver.send(slot, one),
            several => self.driver.send_vectored(slot, several),
        };
        drop(runs);
        let taken = match sent {
            Sent::Bytes(bytes) => bytes,
            Sent::Refused | Sent::Queued => 0,
            Sent::Failed => {
                self.end(slot, End::Reset, Why::Reset);
                return;
            }
        };
        self.count_send(taken, asked);
        self.settle_shares(slot, &shares, taken);
        if taken < asked {
            self.block(slot, taken > 0);
            self.demote_gathered(slot);
        } else {
            self.connections.hot(slot).clear(Flag::Stalled);
            self.list_if_gathered(slot);
        }
    }

    /// Whose turn it is: as many topics as one send takes. A subscription that must not get some
    /// ranges is served alone.
    fn shares(&mut self, slot: u32) -> Shares {
        let (mut shares, mut bytes) = (Shares::new(), 0);
        while shares.len() < VISIT_RUNS && bytes < VISIT_BYTES as u64 {
            let last = &mut self.connections.warm(slot).last_gathered;
            let Some((subscription, lane, seat)) = self.lanes.take_gathered(last) else { break };
            if self.lanes.at(lane).is_latest() {
                self.pass_over(lane, seat);
            }
            let record = self.lanes.at(lane);
            let entry = record.lane.entry(seat);
            if entry.holes {
                if shares.is_empty() {
                    self.send_run(lane, seat);
                    self.settle_in_flight();
                }
                self.go_on(slot, subscription);
                self.list_if_gathered(slot);
                break;
            }
            let ahead = record.lane.view.head().position.since(entry.position);
            if ahead == 0 {
                self.end_lap(lane);
                continue;
            }
            shares.push(Share { lane, subscription, seat, from: entry.position, ahead, len: 0 });
            bytes += ahead;
        }
        shares
    }

    /// Moves the cursors by what was taken of a send.
    fn settle_shares(&mut self, slot: u32, shares: &[Share], mut taken: usize) {
        let mut deliveries = 0;
        for share in shares {
            let record = self.lanes.at(share.lane);
            let head = record.lane.view.head();
            if taken >= share.len && share.from.advanced(share.len) == head.position {
                taken -= share.len;
                let rests = record.lane.may_rise() && !record.queued;
                let entry = record.lane.entry_mut(share.seat);
                deliveries += u64::from(low(head).wrapping_sub(entry.offset_low));
                (entry.position, entry.offset_low) = (head.position, low(head));
                if rests {
                    self.end_lap(share.lane);
                }
                continue;
            }
            let len = taken.min(share.len);
            taken -= len;
            if len > 0 {
                let before = *record.lane.entry(share.seat);
                self.advance(share.lane, share.seat, before, len);
            }
            self.go_on(slot, share.subscription);
        }
        self.stats().deliveries.add(deliveries);
    }

    /// A subscription that was sent to stays gathered if more lies before it, and it is still swept.
    pub(super) fn go_on(&mut self, slot: u32, key: u32) {
        let Some(subscription) = self.lanes.subscriptions.get(key as usize) else { return };
        let (lane, seat) = (subscription.lane, subscription.seat);
        let record = self.lanes.at(lane);
        let head = record.lane.view.head().position;
        match seat {
            Some(seat @ Seat::Swept(_)) if record.lane.entry(seat).position < head => {
                self.lanes.gather(key, &mut self.connections.warm(slot).last_gathered);
            }
            _ => self.end_lap(lane),
        }
    }

    pub(super) fn list_if_gathered(&mut self, slot: u32) {
        if self.connections.warm(slot).last_gathered != NONE {
            self.gathered.list(slot, self.connections.hot(slot), self.dirty.len());
        }
    }

    /// **Backpressure**: the socket takes nothing now. What is gathered for it leaves the swept parts of its lanes.
    pub(super) fn demote_gathered(&mut self, slot: u32) {
        while let Some((key, lane, seat)) =
            self.lanes.take_gathered(&mut self.connections.warm(slot).last_gathered)
        {
            let lane_of = &self.lanes.at(lane).lane;
            if lane_of.entry(seat).position < lane_of.view.head().position {
                self.lanes.demote(key);
            }
            self.end_lap(lane);
        }
    }
}
