//! What must be true of a worker between two turns. For simulations, which ask after each.

use std::collections::HashSet;

use super::{
    connections::{Flag, Phase},
    driver::Driver,
    lanes::NONE,
    worker::Worker,
};
use crate::broker::{encoding::Encoding, ids::Position, lane::Seat};

/// Ends the audit with a message unless the condition holds.
macro_rules! must {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}

impl<D: Driver> Worker<D> {
    /// Looks at everything.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn audit(&mut self) -> Result<(), String> {
        must!(self.in_flight.is_empty() && self.flushing.is_empty(), "sends in flight between turns");
        must!(self.buffers.is_idle(), "receives that were not made");
        self.homes.audit()?;
        self.audit_connections()?;
        self.audit_lanes()
    }

    /// Whether no connection is left.
    ///
    /// # Errors
    /// What is left.
    pub fn audit_empty_of_clients(&mut self) -> Result<(), String> {
        must!(self.connections.len() == 0, "{} connections are left", self.connections.len());
        must!(self.lanes.subscriptions.is_empty(), "subscriptions are left");
        Ok(())
    }

    /// Whether nothing is left of any client: no connection, lane, topic or list entry.
    ///
    /// # Errors
    /// What is left.
    pub fn audit_empty(&mut self) -> Result<(), String> {
        let left: Vec<(u32, Phase)> = (0..self.connections.slots())
            .map(|slot| (slot, self.connections.phase(slot)))
            .filter(|(_, phase)| *phase != Phase::Free)
            .collect();
        must!(left.is_empty(), "connections are left: {left:?}");
        must!(self.lanes.len() == 0, "{} lanes are left", self.lanes.len());
        must!(
            self.lanes.subscriptions.is_empty(),
            "{} subscriptions are left",
            self.lanes.subscriptions.len()
        );
        must!(self.lanes.holes.is_empty(), "holes of nobody are left");
        must!(self.homes.is_empty(), "{} topics are left", self.homes.len());
        must!(self.surplus == 0, "{} surplus connections are counted", self.surplus);
        let requests: usize = self.outboxes.iter().map(super::outbox::Outbox::under_way).sum();
        must!(requests == 0, "{requests} credits are missing");
        Ok(())
    }

    fn audit_connections(&mut self) -> Result<(), String> {
        let ready: HashSet<u32> = self.ready.iter().copied().collect();
        let to_flush: HashSet<u32> = self.to_flush.iter().copied().collect();
        let resumed: HashSet<u32> = self.resumed.iter().copied().collect();
        let gathered: HashSet<u32> = self.gathered.slots.iter().copied().collect();
        let (mut live, mut surplus) = (0, 0);
        for slot in 0..self.connections.slots() {
            let phase = self.connections.phase(slot);
            if phase == Phase::Free {
                must!(self.connections.first_subscription(slot) == NONE, "{slot} is free and subscribes");
                must!(self.connections.hot(slot).outgoing.is_none(), "{slot} is free and has a queue");
                continue;
            }
            live += 1;
            let may_read = self.may_read(slot);
            let unread = self.connections.warm(slot).extra.as_ref().map_or(0, |extra| extra.unread.len());
            let (queued, own) = (self.connections.outgoing_len(slot), self.connections.own_len(slot));
            let settings = &self.shared.settings;
            // A queue at its bound takes what one event more adds: a message, or a response of ours.
            let bound = settings.reply_bytes_max + settings.messages.message_bytes_max + 16 * 1024;
            let hot = self.connections.hot(slot);
            surplus += usize::from(hot.is(Flag::Surplus));
            must!(!hot.is(Flag::InFlight), "{slot} has a send in flight");
            must!(!hot.is(Flag::ListedReady) || ready.contains(&slot), "{slot} is not on the ready list");
            must!(!hot.is(Flag::ListedFlush) || to_flush.contains(&slot), "{slot} is not on the flush list");
            must!(
                !hot.is(Flag::ListedGathered) || gathered.contains(&slot),
                "{slot} is not on the gathered list"
            );
            let (listed, several) = (hot.is(Flag::ListedGathered), hot.is(Flag::Several));
            let gathers = self.connections.warm(slot).last_gathered != NONE;
            must!(!gathers || listed, "{slot} has gathered, and nobody will send");
            let subscribes = self.lanes.list(self.connections.first_subscription(slot)).take(2).count();
            let is_of_several = subscribes > 1 || self.connections.positions(slot).is_some();
            must!(several == is_of_several, "{slot} has several topics: {several}, it has {subscribes}");
            let replays = self.connections.positions(slot).is_some_and(|positions| positions.replays());
            must!(
                !replays || phase == Phase::Opening || queued > 0,
                "{slot} has replays, and nobody will send"
            );
            let hot = self.connections.hot(slot);
            must!(own <= bound, "{slot} has {own} bytes of its own waiting, {bound} are allowed");
            must!(hot.outgoing.is_none() || queued > 0, "{slot} has an empty queue");
            must!(
                queued == 0
                    || hot.is(Flag::Blocked)
                    || hot.is(Flag::ListedFlush)
                    || hot.is(Flag::ListedGathered)
                    || self.lanes_will_visit(slot),
                "{slot} has a queue, and nobody will flush it"
            );
            let hot = self.connections.hot(slot);
            must!(
                !hot.is(Flag::Readable)
                    || !may_read
                    || hot.is(Flag::ListedReady)
                    || resumed.contains(&slot)
                    || (phase == Phase::Finishing && !hot.is(Flag::Finished)),
                "{slot} can be read in {phase:?}, and nobody will"
            );
            must!(
                unread == 0 || !may_read || resumed.contains(&slot),
                "{slot} has unread bytes, and nobody will look"
            );
            self.audit_subscriptions(slot)?;
        }
        must!(
            live == self.connections.len(),
            "{live} connections live, {} are counted",
            self.connections.len()
        );
        must!(surplus == self.surplus, "{surplus} are surplus, {} are counted", self.surplus);
        Ok(())
    }

    /// Whether a visit of the sweep will find this connection's own queue.
    fn lanes_will_visit(&mut self, slot: u32) -> bool {
        let keys: Vec<u32> = self.lanes.list(self.connections.first_subscription(slot)).collect();
        keys.into_iter().any(|key| {
            self.lanes.seat(key).is_some_and(|(lane, seat)| {
                let record = self.lanes.at(lane);
                record.queued && record.lane.entry(seat).position < record.lane.view.head().position
            })
        })
    }

    fn audit_subscriptions(&mut self, slot: u32) -> Result<(), String> {
        let blocked = self.connections.hot(slot).is(Flag::Blocked);
        let keys: Vec<u32> = self.lanes.list(self.connections.first_subscription(slot)).collect();
        let opening = self.connections.phase(slot) == Phase::Opening;
        let mut waiting = 0;
        for &key in &keys {
            let subscription = &self.lanes.subscriptions[key as usize];
            let (lane, unseated) = (subscription.lane, subscription.seat.is_none());
            // Whose place is known already while its connection opens sits behind.
            let is_placed = matches!(subscription.seat, Some(Seat::Behind(_)));
            let waits = self.lanes.at(lane).topic.is_none() || self.lanes.is_recovering(key);
            waiting += usize::from(waits);
            must!(
                unseated == waits || (opening && (unseated || is_placed)),
                "{slot} has a seat: {}, and opens: {opening}",
                !unseated
            );
        }
        let pending = self.connections.warm(slot).extra.as_ref().map_or(0, |extra| extra.pending);
        must!(waiting == pending as usize, "{slot} waits for {waiting} places, {pending} are counted");
        for key in keys {
            let Some((lane, seat)) = self.lanes.seat(key) else { continue };
            let record = self.lanes.at(lane);
            let Some(entry) = record.lane.get(seat) else {
                return Err(format!("{slot} has no entry at {seat:?}"));
            };
            must!(
                entry.subscription == key,
                "the entry at {seat:?} is {}'s, not {key}'s",
                entry.subscription
            );
            must!(entry.connection == slot, "the entry at {seat:?} is not {slot}'s");
            let (tail, head) = (record.lane.view.tail(), record.lane.view.head());
            must!(entry.position <= head.position, "{slot} is beyond the head");
            let keeps_place = !entry.lost && (!record.is_latest() || matches!(seat, Seat::Swept(_)));
            let keeps_place = keeps_place && !record.keeps_newest_only();
            must!(!keeps_place || entry.position >= tail, "{slot} needs what was let go of");
            must!(!entry.lost || matches!(seat, Seat::Behind(_)), "{slot} is swept and lost");
            must!(
                blocked || opening || matches!(seat, Seat::Swept(_)),
                "{slot} can be written to and is behind"
            );
        }
        Ok(())
    }

    fn audit_lanes(&mut self) -> Result<(), String> {
        let dirty: HashSet<u32> = self.dirty.iter().copied().collect();
        let floors: HashSet<u32> = self.floors.iter().copied().collect();
        let (mut seated, mut behind, mut waiting) = (0, 0, 0);
        let mut gathered = HashSet::new();
        for slot in 0..self.connections.slots() {
            let last = self.connections.warm(slot).last_gathered;
            gathered.extend(self.lanes.gathered(last));
        }
        // The lag bound, and what publishers may be ahead twice: after lags were looked at, and after somebody has
        // come back. That is one message at least. The first segment goes as a whole.
        for index in self.lanes.indices() {
            let record = self.lanes.at(index);
            let (head, needed) = (record.lane.view.head(), record.lane.needed());
            let kept = head.position.since(record.lane.view.first_end());
            let slots: Vec<u32> = record.lane.behind().iter().map(|entry| entry.connection).collect();
            let is_owed = slots.into_iter().any(|slot| self.connections.phase(slot) == Phase::Opening);
            let record = self.lanes.at(index);
            let (lag, message) = (record.rule.lag, record.rule.max_message_bytes as u64);
            let ahead = lag.for_publishers().bytes.max(message + 14);
            // A message may be six times as long in JSON, and has an envelope.
            let in_others = if record.encoding == Encoding::CANONICAL { 0 } else { 2 * (6 * message + 1000) };
            let kept_max = lag.bytes + 2 * ahead + in_others;
            must!(is_owed || kept <= kept_max, "lane {index} keeps {kept} bytes, {kept_max} are allowed");
            must!(!record.queued || dirty.contains(&index), "lane {index} is not on the dirty list");
            let told = record.topic.is_none() || record.lane.floor() == record.floor_sent;
            must!(told || floors.contains(&index), "lane {index}: its home will not be told its floor");
            seated += record.lane.len() + record.waiting.len();
            behind += record.lane.behind().len();
            waiting += record.lane.gathered();
            let again = record.lane.gathered() > 0;
            let listed = record.pace.as_ref().is_some_and(|pace| pace.is_listed());
            must!(
                record.queued || again || !record.lane.has_news() || listed,
                "lane {index} waits, and its time will not come"
            );
            let needed = if record.keeps_newest_only() { Position(0) } else { needed };
            for entry in record.lane.swept() {
                // While some of a lane are gathered its lap is not over, and the next one is for what came since.
                must!(
                    record.queued || again || listed || entry.position == head.position,
                    "lane {index} rests, and {} has not all",
                    entry.connection
                );
                must!(entry.position >= needed, "lane {index}: {} is below the floor", entry.connection);
            }
        }
        must!(behind == self.lanes.behind(), "{behind} are behind, {} are counted", self.lanes.behind());
        must!(gathered.len() == waiting, "{} are gathered, lanes count {waiting}", gathered.len());
        let all = self.lanes.subscriptions.len();
        must!(seated == all, "{seated} subscriptions are in lanes, there are {all}");
        let stray = self.lanes.holes.keys().find(|&&key| !self.lanes.subscriptions.contains(key as usize));
        must!(stray.is_none(), "holes of a subscription that is gone");
        Ok(())
    }
}
