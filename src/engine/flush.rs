//! What single connections are sent: their own queue.
//!
//! The order on a connection: first the rest of a unit that was begun, then its own queue (control frames,
//! replies), then its subscriptions, which come back into the sweep once all else has left.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    connections::{Flag, Phase, Transport},
    driver::{Driver, End, Sent},
    farewell::Why,
    lanes::NONE,
    outgoing::Outgoing,
    worker::Worker,
};
use crate::broker::lane::Seat;

/// Connections flushed in a tick, so that a crowd does not starve the sweep.
const FLUSHES_PER_TICK: usize = 64;

impl<D: Driver> Worker<D> {
    /// Queues bytes for one connection alone.
    pub(super) fn queue(&mut self, slot: u32, bytes: &[u8]) {
        self.connections.hot(slot).outgoing.get_or_insert_default().push(bytes);
        self.queued(slot);
    }

    /// Queues bytes that can stay where they are.
    pub(super) fn queue_kept(&mut self, slot: u32, bytes: Bytes) {
        self.connections.hot(slot).outgoing.get_or_insert_default().push_kept(bytes);
        self.queued(slot);
    }

    /// Queues bytes that others are sent as well; while the connection opens, behind the response.
    pub(super) fn queue_shared(&mut self, slot: u32, bytes: Bytes) {
        if self.connections.phase(slot) == Phase::Opening {
            self.connections.extra(slot).response.push_shared(bytes);
            return;
        }
        self.connections.hot(slot).outgoing.get_or_insert_default().push_shared(bytes);
        self.queued(slot);
    }

    /// Queues all of a queue.
    pub(super) fn queue_all(&mut self, slot: u32, outgoing: Outgoing) {
        self.connections.hot(slot).outgoing.get_or_insert_default().append(outgoing);
        self.queued(slot);
    }

    /// Queues the answer to a ping. While the socket takes nothing only the newest answer waits.
    pub(super) fn queue_pong(&mut self, slot: u32, frame: &[u8]) {
        let hot = self.connections.hot(slot);
        if !hot.is(Flag::Blocked) {
            self.queue(slot, frame);
            return;
        }
        if hot.outgoing.get_or_insert_default().push_pong(frame) {
            self.stats().pings_superseded.add(1);
        }
        self.queued(slot);
    }

    /// A client that lets its own queue grow is not read until it has taken some of it.
    fn queued(&mut self, slot: u32) {
        let max = self.shared.settings.reply_bytes_max;
        let hot = self.connections.hot(slot);
        if matches!(hot.phase, Phase::Head | Phase::Open)
            && hot.outgoing.as_ref().is_some_and(|outgoing| outgoing.len() > max)
        {
            hot.set(Flag::Paused);
        }
        self.list_flush(slot);
    }

    /// Whether a session goes on sending although its client is no longer read: from timers, say. Several
    /// replies to one message fit.
    pub(super) fn sends_in_vain(&self, slot: u32) -> bool {
        let settings = &self.shared.settings;
        let max = 4 * settings.reply_bytes_max.max(settings.messages.message_bytes_max);
        self.connections.own_len(slot) > max
    }

    /// Flushes a bounded number of connections: their queues leave together, as the runs of a slice do.
    pub(super) fn flush_some(&mut self) {
        for _ in 0..self.to_flush.len().min(FLUSHES_PER_TICK) {
            let Some(slot) = self.to_flush.pop_front() else { break };
            let hot = self.connections.hot(slot);
            if !hot.clear(Flag::ListedFlush) || hot.phase == Phase::Free || hot.is(Flag::Blocked) {
                continue;
            }
            let Some(run) = hot.outgoing.as_ref().and_then(|outgoing| outgoing.only_run()) else {
                self.settle_flushing();
                self.flush(slot);
                continue;
            };
            let asked = run.len();
            match self.driver.queue(slot, run) {
                Sent::Queued => self.flushing.push((slot, asked)),
                sent => self.run_flushed(slot, asked, sent),
            }
        }
        self.settle_flushing();
    }

    /// Sends what was queued of connections' own queues, and learns the outcome. Nothing is added to a queue between.
    fn settle_flushing(&mut self) {
        if self.flushing.is_empty() {
            return;
        }
        let mut outcomes = std::mem::take(&mut self.outcomes);
        let Worker { connections, driver, flushing, .. } = self;
        let runs = flushing.iter().map(|&(slot, asked)| (slot, &connections.only_run(slot)[..asked]));
        driver.submit(runs, &mut outcomes);
        let mut flushed = std::mem::take(&mut self.flushing);
        for (slot, asked) in flushed.drain(..) {
            let outcome = outcomes.iter().find(|(of, _)| *of == slot);
            self.run_flushed(slot, asked, outcome.map_or(Sent::Bytes(asked), |&(_, sent)| sent));
        }
        outcomes.clear();
        self.outcomes = outcomes;
        self.flushing = flushed;
    }

    /// What a send of a connection's own queue gave; the rest of it follows.
    fn run_flushed(&mut self, slot: u32, asked: usize, sent: Sent) {
        if self.own_sent(slot, asked, sent) {
            self.flush(slot);
        }
    }

    /// Sends what a connection's socket takes of its own queue; when all of it has left, goes on.
    fn flush(&mut self, slot: u32) {
        if !self.flush_own(slot) {
            return;
        }
        if self.connections.phase(slot) == Phase::Finishing && !self.connections.hot(slot).is(Flag::Finished)
        {
            self.connections.hot(slot).set(Flag::Finished);
            self.driver.finish(slot);
            if self.connections.hot(slot).is(Flag::Readable) {
                // The peer's end may be there already.
                self.list_ready(slot);
            }
        }
    }

    /// Sends the connection's own queue. True if nothing of it is left and the socket may take more.
    pub(super) fn flush_own(&mut self, slot: u32) -> bool {
        // At most one send of a connection is in flight, and outcomes must not be mistaken for each other's.
        self.settle_in_flight();
        loop {
            let hot = self.connections.hot(slot);
            if hot.is(Flag::Blocked) {
                return false;
            }
            let Some(outgoing) = &mut hot.outgoing else { return true };
            let mut slices = SmallVec::new();
            outgoing.slices(&mut slices);
            let asked: usize = slices.iter().map(|slice| slice.len()).sum();
            let sent = match &slices[..] {
                [] => return true,
                [one] => self.driver.send(slot, one),
                several => self.driver.send_vectored(slot, several),
            };
            drop(slices);
            if !self.own_sent(slot, asked, sent) {
                return false;
            }
        }
    }

    /// What a send from the connection's own queue gave. True if it took all, and the socket may take more.
    fn own_sent(&mut self, slot: u32, asked: usize, sent: Sent) -> bool {
        let taken = match sent {
            Sent::Bytes(bytes) => bytes,
            Sent::Refused | Sent::Queued => 0,
            Sent::Failed => {
                self.end(slot, End::Reset, Why::Reset);
                return false;
            }
        };
        self.count_send(taken, asked);
        let hot = self.connections.hot(slot);
        if let Some(outgoing) = &mut hot.outgoing {
            outgoing.sent(taken);
            if outgoing.is_empty() {
                hot.outgoing = None;
                if hot.transport == Transport::EventStream {
                    self.refill(slot);
                }
            }
        }
        let len = self.connections.outgoing_len(slot);
        if len <= self.shared.settings.reply_bytes_max / 2 {
            self.unpause(slot);
        }
        if taken < asked {
            self.block(slot, taken > 0);
            return false;
        }
        let hot = self.connections.hot(slot);
        let may_be_ping = hot.clear(Flag::Stalled) | hot.clear(Flag::PingWaits);
        if may_be_ping && hot.is(Flag::AwaitsPong) {
            // The ping may have left only now.
            self.connections.warm(slot).pinged_at = self.now;
        }
        true
    }

    /// The socket took less than it was given: its write event is awaited, and something must leave within
    /// `--write-timeout`.
    pub(super) fn block(&mut self, slot: u32, progress: bool) {
        let now = self.now;
        let hot = self.connections.hot(slot);
        hot.set(Flag::Blocked);
        let stalled = hot.is(Flag::Stalled);
        hot.set(Flag::Stalled);
        if progress || !stalled {
            self.connections.warm(slot).progress_at = now;
        }
        let write = self.shared.settings.write;
        self.deadlines.arm(slot, now, write);
    }

    pub(super) fn count_send(&self, taken: usize, asked: usize) {
        let stats = self.stats();
        stats.sends.add(1);
        stats.bytes_sent.add(taken as u64);
        if taken < asked {
            stats.sends_refused.add(1);
        }
    }

    /// The socket takes bytes again: the connection's subscriptions that are behind come back into the sweep.
    pub(super) fn rejoin(&mut self, slot: u32) {
        if self.connections.phase(slot) == Phase::Opening {
            // Its 101 comes first.
            return;
        }
        let mut next = self.connections.first_subscription(slot);
        self.lanes.rotate(&mut next);
        self.connections.warm(slot).first_subscription = next;
        while next != NONE {
            let subscription = next;
            next = self.lanes.subscriptions[subscription as usize].next;
            if let Some((lane, seat @ Seat::Behind(_))) = self.lanes.seat(subscription) {
                self.catch_up(lane, seat);
                let lane = self.lanes.rejoin(subscription);
                self.list_dirty(lane);
            }
        }
    }
}
