//! Subscriptions: how they begin, find their place in the log, and end; what a lane does with a new head.
//!
//! Positions, not timing, make the hand-over exact: a subscription begins at the head that the lane has
//! when it is seated, and gets everything from there on. The first subscription to a topic on this worker
//! waits for the first head from the topic's home; further ones are answered here.

use std::{sync::Arc, time::Duration};

use super::{
    connections::{Flag, Phase, Transport},
    driver::Driver,
    lanes::{NONE, Subscription},
    mail::{Asker, Control, Recover, Recovered},
    reports::Missed,
    streams::Positions,
    worker::Worker,
};
use crate::{
    broker::{
        encoding::Encoding,
        home::{Head, Note, Replay, Start},
        ids::{Key, Tick},
        lane::Seat,
        name::TopicName,
    },
    protocol::http::Refusal,
    session::{Error, Subscribed, dialect::Since},
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
        if self.connections.transport(slot) == Transport::EventStream {
            // It can't be sent frames.
            return topic.clone();
        }
        let (lane, subscription) = self.seatless(slot, topic, Encoding::CANONICAL);
        let record = self.lanes.at(lane);
        let (name, known) = (record.name.clone(), record.topic.is_some());
        let Some(subscription) = subscription else { return name };
        if !known {
            self.connections.extra(slot).pending += 1;
        } else if self.connections.phase(slot) != Phase::Opening {
            // Who opens gets its seats with its 101: nothing may be sent before that.
            self.send_welcome(slot, lane);
            self.lanes.seat_at_head(subscription);
        }
        name
    }

    /// Subscribes a connection to a topic's messages in some encoding, with what is asked of the past. The topic's home
    /// answers, and then the session is told.
    pub(super) fn subscribe_from(
        &mut self,
        slot: u32,
        topic: &TopicName,
        encoding: Encoding,
        start: Start,
    ) -> TopicName {
        let (lane, subscription) = self.seatless(slot, topic, encoding);
        let record = self.lanes.at(lane);
        let (name, home) = (record.name.clone(), record.home);
        let Some(subscription) = subscription else { return name };
        let connection = self.connections.id(slot);
        let extra = self.connections.extra(slot);
        extra.pending += 1;
        extra.asked += 1;
        if Positions::are_needed_for(encoding) {
            extra.positions.get_or_insert_default().add(subscription);
        }
        let ticket = self.lanes.ask(subscription);
        let asker = Asker { connection, lane: self.lanes.key(lane), subscription, ticket };
        if home == self.id {
            let replay = self.homes.replay(topic, encoding, start, self.now);
            self.recovered.push(Recovered { asker, replay });
        } else {
            let recover = Recover { topic: name.clone(), encoding, start, asker };
            self.outboxes[home.index()].batch.control.push(Control::Recover(recover));
        }
        name
    }

    /// A subscription without a seat, unless there is one of this connection already; and its lane.
    fn seatless(&mut self, slot: u32, topic: &TopicName, encoding: Encoding) -> (u32, Option<u32>) {
        let lane = match self.lanes.find(topic, encoding) {
            Some(lane) => lane,
            None => self.create_lane(topic, encoding),
        };
        let mut first = self.connections.first_subscription(slot);
        if self.lanes.of_connection(first, lane).is_some() {
            return (lane, None);
        }
        let subscription = self.lanes.subscribe(slot, lane, &mut first);
        self.connections.warm(slot).first_subscription = first;
        if self.lanes.subscriptions[subscription as usize].next != NONE {
            self.connections.hot(slot).set(Flag::Several);
        }
        (lane, Some(subscription))
    }

    fn create_lane(&mut self, topic: &TopicName, encoding: Encoding) -> u32 {
        let home = self.home_of(topic);
        let rule = Arc::clone(self.shared.settings.rules.rule_for(topic));
        let lane = self.lanes.create(topic.clone(), rule, encoding, home, self.now);
        let key = self.lanes.key(lane);
        if home != self.id {
            self.outboxes[home.index()].batch.control.push(Control::Join(topic.clone(), encoding, key));
        } else if self.homes.join(topic, encoding, self.id, key, self.now).is_err() {
            // Told later: the session that asks is running.
            self.refused.push(key);
        }
        lane
    }

    /// Ends a connection's subscriptions to a topic, in whatever encodings, if there are any.
    pub(super) fn unsubscribe(&mut self, slot: u32, topic: &TopicName) {
        while let Some(key) = self.subscription_to(slot, topic) {
            self.unsubscribe_one(slot, key);
        }
    }

    pub(super) fn subscription_to(&mut self, slot: u32, topic: &TopicName) -> Option<u32> {
        let first = self.connections.first_subscription(slot);
        self.lanes.list(first).find(|&key| self.lanes.name_of(key) == topic)
    }

    fn unsubscribe_one(&mut self, slot: u32, key: u32) {
        let first = self.connections.first_subscription(slot);
        let lane = self.lanes.subscriptions[key as usize].lane;
        let next = self.lanes.subscriptions[key as usize].next;
        if first == key {
            self.connections.warm(slot).first_subscription = next;
        } else {
            let before = self.lanes.list(first).find(|&at| self.lanes.subscriptions[at as usize].next == key);
            let before = before.expect("the subscription is in its connection's list");
            self.lanes.subscriptions[before as usize].next = next;
        }
        if self.lanes.at(lane).topic.is_none() || self.lanes.is_recovering(key) {
            self.connections.extra(slot).pending -= 1;
            self.connections.tidy(slot);
        }
        if let Some(positions) = self.connections.positions(slot) {
            // What is left still needs the ids of all.
            positions.end(key);
        } else if self.lanes.list(self.connections.first_subscription(slot)).nth(1).is_none() {
            self.connections.hot(slot).clear(Flag::Several);
        }
        self.drop_subscription(slot, key);
    }

    /// Ends a subscription that is in its connection's list no more.
    pub(super) fn drop_subscription(&mut self, slot: u32, key: u32) {
        self.lanes.ungather(key, &mut self.connections.warm(slot).last_gathered);
        self.count_missed(key);
        if !self.watches.is_empty()
            && let Some((lane, seat)) = self.lanes.seat(key)
        {
            let from = self.lanes.at(lane).lane.entry(seat).position;
            self.note_missed(lane, slot, from, None, Missed::Closed);
        }
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
        let Some(record) = self.lanes.by_key(news.lane) else {
            // The lane has gone meanwhile: nobody got what is asked about.
            self.report_nothing(&news.notes);
            return;
        };
        record.active_at = self.now;
        record.epoch = news.epoch;
        if record.topic.is_none() {
            record.topic = Some(news.topic);
            record.begin(news.from);
            record.lane.view.apply(news.head, news.extents);
            let waiting = record.waiting.clone();
            // Who is seated at this head has none of what they are about before it.
            for note in news.notes {
                self.note_message(index, note);
            }
            self.floors.push(index);
            for subscription in waiting {
                // Who wants some of the past waits for the answer to that.
                if !self.lanes.is_recovering(subscription) {
                    self.placed(subscription);
                }
            }
            self.allow_if_due(index);
            self.list_dirty(index);
            self.list_quiet(index);
            return;
        }
        record.topic = Some(news.topic);
        for note in news.notes {
            self.note_message(index, note);
        }
        self.lanes.at(index).lane.view.apply(news.head, news.extents);
        if news.hurried {
            self.hurry(index);
        } else {
            self.allow_if_due(index);
            self.list_dirty(index);
        }
        self.list_quiet(index);
        self.trim(index);
    }

    fn note_message(&mut self, lane: u32, note: Note) {
        match note {
            Note::Except(except) => self.leave_out(lane, except),
            Note::Report(request) => self.watch(lane, request),
        }
    }

    /// The topic of a subscription that waited for it is known now.
    fn placed(&mut self, subscription: u32) {
        let slot = self.lanes.subscriptions[subscription as usize].connection;
        self.connections.extra(slot).pending -= 1;
        if self.connections.phase(slot) == Phase::Opening {
            self.opened_if_ready(slot);
        } else {
            self.connections.tidy(slot);
            self.send_welcome(slot, self.lanes.subscriptions[subscription as usize].lane);
            self.lanes.seat_at_head(subscription);
        }
    }

    /// The answer to a subscription that wants some of the past: its session is told, then comes the welcome of whoever does
    /// not go on where it was, then the replay, then the live log.
    pub(super) fn recovered(&mut self, recovered: Recovered) {
        let Recovered { asker: Asker { connection, lane, subscription, ticket }, replay } = recovered;
        let slot = connection.slot;
        if !self.connections.is_current(connection) {
            return;
        }
        let extra = self.connections.extra(slot);
        let held = extra.holds();
        extra.asked -= 1;
        if held && !extra.holds() && self.connections.phase(slot) == Phase::Open {
            self.resumed.push(slot);
        }
        if !self.lanes.answered(subscription, ticket) {
            self.connections.tidy(slot);
            return;
        }
        self.connections.extra(slot).pending -= 1;
        let record = self.lanes.by_key(lane).expect("a lane stays as long as its subscriptions");
        let name = record.name.clone();
        // The home has forgotten this worker: the lane knows all that is needed to go on.
        let head = record.lane.view.head();
        let (epoch, unknown) = (record.epoch, replay.is_none());
        let replay =
            replay.unwrap_or(Replay { epoch, behind: head.offset, head, recovered: false, runs: Vec::new() });
        debug_assert!(!unknown || record.topic.is_some(), "a lane that was never told of its topic waits");
        let Replay { epoch, behind, head, recovered, runs } = replay;
        let subscribed = Subscribed { topic: name, epoch, offset: behind, recovered };
        self.lanes.seat_behind(subscription, head);
        if !self.watches.is_empty() {
            self.note_seated(lane.index, slot, head.position);
        }
        let opening = self.connections.phase(slot) == Phase::Opening;
        self.with_session(slot, |session, context| session.subscribed(context, &subscribed));
        if !self.connections.is_current(connection) {
            return;
        }
        // Unless the session has thought better of it.
        let is_seated = |now: &Subscription| {
            now.connection == slot && now.lane == lane.index && matches!(now.seat, Some(Seat::Behind(_)))
        };
        if self.lanes.subscriptions.get(subscription as usize).is_some_and(is_seated) {
            if let Some(positions) = self.connections.positions(slot) {
                let welcome = (!recovered).then_some(lane.index);
                positions.begin(subscription, Since { epoch, offset: behind }, runs, welcome);
            } else {
                if !recovered {
                    self.send_welcome(slot, lane.index);
                }
                runs.into_iter().for_each(|run| self.queue_shared(slot, run.bytes()));
            }
        }
        if opening {
            self.opened_if_ready(slot);
        } else {
            self.connections.tidy(slot);
            if !self.connections.hot(slot).is(Flag::Blocked) {
                self.rejoin(slot);
            }
        }
    }

    /// Seats all subscriptions of a connection that opens, each at its lane's head.
    pub(super) fn seat_all(&mut self, slot: u32) {
        let mut next = self.connections.first_subscription(slot);
        while next != NONE {
            let &Subscription { lane, seat, next: behind, .. } = &self.lanes.subscriptions[next as usize];
            if seat.is_none() {
                self.send_welcome(slot, lane);
                self.lanes.seat_at_head(next);
            }
            next = behind;
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
            let rests = !record.queued && record.lane.gathered() == 0 && !record.lane.has_news();
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
        self.welcomes.forget(key);
        let record = self.lanes.remove(lane);
        if record.home == self.id {
            self.homes.leave(&record.name, self.id, key, self.now);
        } else {
            self.outboxes[record.home.index()].batch.control.push(Control::Leave(record.name, key));
        }
    }
}
