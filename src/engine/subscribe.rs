//! Subscriptions: how they begin, find their place in the log, and end; what a lane does with a new head.
//!
//! Positions, not timing, make the hand-over exact: a subscription begins at the head that the lane has
//! when it is seated, and gets everything from there on. The first subscription to a topic on this worker
//! waits for the first head from the topic's home; further ones are answered here.

use std::time::Duration;

use super::{
    connections::{Flag, Phase},
    driver::Driver,
    lanes::NONE,
    mail::Control,
    worker::Worker,
};
use crate::{
    broker::{
        home::Head,
        ids::{Key, Tick},
        lane::Lane,
        name::TopicName,
    },
    protocol::http::Refusal,
    session::Error,
};

/// A lane that was quiet for this long lets go of its segments.
const QUIET: u32 = Tick::PER_SECOND;

/// A lane stays so long after its last subscription, since reconnecting clients come back soon.
const LINGER: u32 = 5 * Tick::PER_SECOND;

/// What clients are asked to wait when there are too many topics.
const RETRY_AFTER: Duration = Duration::from_secs(10);

impl<D: Driver> Worker<D> {
    /// Subscribes a connection; gives the shared form of the name.
    pub(super) fn subscribe(&mut self, slot: u32, topic: &TopicName) -> TopicName {
        let lane = match self.lanes.find(topic) {
            Some(lane) => lane,
            None => self.create_lane(topic),
        };
        let name = self.lanes.at(lane).name.clone();
        let mut first = self.connections.first_subscription(slot);
        if self.lanes.of_connection(first, lane).is_some() {
            return name;
        }
        let subscription = self.lanes.subscribe(slot, lane, &mut first);
        self.connections.warm(slot).first_subscription = first;
        if self.lanes.subscriptions[subscription as usize].next != NONE {
            self.connections.hot(slot).set(Flag::Several);
        }
        let known = self.lanes.at(lane).topic.is_some();
        if !known {
            self.connections.extra(slot).pending += 1;
        } else if self.connections.phase(slot) != Phase::Opening {
            // Who opens gets its seats with its 101: nothing may be sent before that.
            self.lanes.seat_at_head(subscription);
        }
        name
    }

    fn create_lane(&mut self, topic: &TopicName) -> u32 {
        let home = self.home_of(topic);
        let lane = self.lanes.create(topic.clone(), home, self.now);
        let key = self.lanes.key(lane);
        if home != self.id {
            self.outboxes[home.index()].batch.control.push(Control::Join(topic.clone(), key));
        } else if self.homes.join(topic, self.id, key, self.now).is_err() {
            // Told later: the session that asks is running.
            self.refused.push(key);
        }
        lane
    }

    /// Ends a connection's subscription to a topic, if there is one.
    pub(super) fn unsubscribe(&mut self, slot: u32, topic: &TopicName) {
        let Some(lane) = self.lanes.find(topic) else { return };
        let first = self.connections.first_subscription(slot);
        let Some(key) = self.lanes.of_connection(first, lane) else { return };
        let next = self.lanes.subscriptions[key as usize].next;
        if first == key {
            self.connections.warm(slot).first_subscription = next;
        } else {
            let before = self.lanes.list(first).find(|&at| self.lanes.subscriptions[at as usize].next == key);
            let before = before.expect("the subscription is in its connection's list");
            self.lanes.subscriptions[before as usize].next = next;
        }
        if self.lanes.at(lane).topic.is_none() {
            self.connections.extra(slot).pending -= 1;
            self.connections.tidy(slot);
        }
        if self.lanes.list(self.connections.first_subscription(slot)).nth(1).is_none() {
            self.connections.hot(slot).clear(Flag::Several);
        }
        self.drop_subscription(slot, key);
    }

    /// Ends a subscription that is in its connection's list no more.
    pub(super) fn drop_subscription(&mut self, slot: u32, key: u32) {
        self.lanes.ungather(key, &mut self.connections.warm(slot).last_gathered);
        self.count_missed(key);
        let lane = self.lanes.unsubscribe(key);
        self.end_lap(lane);
        // Without any subscription a lane goes after a while.
        let record = self.lanes.at(lane);
        if record.subscriptions() == 0 {
            record.active_at = self.now;
            self.list_quiet(lane);
        }
    }

    /// Learns how far a log may be read.
    pub(super) fn apply_head(&mut self, news: Head) {
        let index = news.lane.index;
        let Some(record) = self.lanes.by_key(news.lane) else { return };
        record.active_at = self.now;
        if record.topic.is_none() {
            record.topic = Some(news.topic);
            record.lane = Lane::new(news.head);
            let waiting = record.waiting.clone();
            self.floors.push(index);
            for subscription in waiting {
                self.placed(subscription);
            }
            self.list_quiet(index);
            return;
        }
        record.topic = Some(news.topic);
        for except in news.excepts {
            self.leave_out(index, except);
        }
        self.lanes.at(index).lane.view.apply(news.head, news.extents);
        self.list_dirty(index);
        self.list_quiet(index);
        self.trim(index);
    }

    /// The topic of a subscription that waited for it is known now.
    fn placed(&mut self, subscription: u32) {
        let slot = self.lanes.subscriptions[subscription as usize].connection;
        self.connections.extra(slot).pending -= 1;
        if self.connections.phase(slot) == Phase::Opening {
            self.opened_if_ready(slot);
        } else {
            self.connections.tidy(slot);
            self.lanes.seat_at_head(subscription);
        }
    }

    /// Seats all subscriptions of a connection that opens, each at its lane's head.
    pub(super) fn seat_all(&mut self, slot: u32) {
        let mut next = self.connections.first_subscription(slot);
        while next != NONE {
            let subscription = &self.lanes.subscriptions[next as usize];
            let (key, unseated) = (next, subscription.seat.is_none());
            next = subscription.next;
            if unseated {
                self.lanes.seat_at_head(key);
            }
        }
    }

    /// A lane's topic can't be created: those who wait for it are told.
    pub(super) fn lane_refused(&mut self, key: Key) {
        let Some(record) = self.lanes.by_key(key) else { return };
        for subscription in record.waiting.clone() {
            let slot = self.lanes.subscriptions[subscription as usize].connection;
            if self.connections.phase(slot) == Phase::Opening {
                let hint = "no further topic can be created: --max-topics is reached";
                self.refuse_opening(slot, Refusal::unavailable("too_many_topics", hint, RETRY_AFTER), None);
            } else {
                let name = self.lanes.at(key.index).name.clone();
                self.unsubscribe(slot, &name);
                self.errors.push((self.connections.id(slot), Error::TooManyTopics));
            }
        }
        self.lanes.remove(key.index);
    }

    fn list_quiet(&mut self, lane: u32) {
        let record = self.lanes.at(lane);
        if !std::mem::replace(&mut record.listed, true) {
            self.quiet.push_back((self.now, lane));
        }
    }

    /// Looks at the lanes that may have become quiet: they let go of their segments, and go themselves if
    /// nobody subscribes any more.
    pub(super) fn quieten_lanes(&mut self) {
        while let Some(&(since, lane)) = self.quiet.front()
            && self.now.since(since) >= QUIET
        {
            self.quiet.pop_front();
            let now = self.now;
            let Some(record) = self.lanes.get(lane).filter(|record| record.listed) else { continue };
            let idle = now.since(record.active_at);
            if record.subscriptions() == 0 && idle >= LINGER && !record.queued {
                self.remove_lane(lane);
                continue;
            }
            let rests = !record.queued && record.lane.gathered() == 0;
            if idle >= QUIET && record.lane.behind().is_empty() && rests {
                record.lane.view.release();
            }
            // Where nothing is published any more those behind still read on, or are too many for the logs.
            self.trim(lane);
            let record = self.lanes.at(lane);
            if record.subscriptions() == 0 || record.lane.view.holds_segments() {
                self.quiet.push_back((now, lane));
            } else {
                record.listed = false;
            }
        }
    }

    fn remove_lane(&mut self, lane: u32) {
        let key = self.lanes.key(lane);
        let record = self.lanes.remove(lane);
        if record.home == self.id {
            self.homes.leave(&record.name, self.id, key, self.now);
        } else {
            self.outboxes[record.home.index()].batch.control.push(Control::Leave(record.name, key));
        }
    }
}
