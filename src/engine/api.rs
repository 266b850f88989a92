//! Calls of the server API: here they meet homes, connections and topics.
//!
//! A call is a [`Plan`]: its errands are done here or sent to the worker that can, and it is answered when all have come
//! back. Meanwhile its connection is not read. Errands that touch many topics take several turns.

use std::collections::BTreeMap;

use super::{
    connections::{Calling, Phase},
    driver::Driver,
    farewell::Why,
    mail::{Caller, Control, Credits},
    stats::Family,
    worker::Worker,
};
use crate::{
    broker::{
        home::{Delivery, NoPage, PageRequest, Place, Published, Receipt, Sender},
        ids::{ConnectionId, UnixTime, WorkerId},
        log::Unit,
        name::TopicName,
        pattern::Pattern,
        schedule::{Content, Due, ScheduleId},
    },
    protocol::{
        http::{Request, Response},
        ws::CloseCode,
    },
    session::{
        Assignment,
        api::{
            ApiError, Call, Plan, Reply,
            plan::{CHANNELS_MAX, Doer, Errand, Outcome, Post},
            reply::{Channel, History, HistoryItem, Node, Scheduled},
            request::{Delay, When},
        },
        dialect, frame_of, kept, text,
    },
};

/// Topics that errands look at in a turn.
const TOPICS_PER_TURN: usize = 1024;

/// What is given of a history at once.
const PAGE_MESSAGES_MAX: u64 = 10_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

/// How far behind the clock of a publisher may be.
const PAST_MS_MAX: u64 = 60_000;
/// How far ahead a message may be scheduled.
const FUTURE_MS_MAX: u64 = 366 * 24 * 3600 * 1000;

/// An errand that takes more than a turn.
pub(super) struct Lengthy {
    caller: Caller,
    pattern: Option<Pattern>,
    work: Work,
}

enum Work {
    /// Publishes to each topic whose home is here and that has subscribers.
    Announce { post: Post, slot: u32, topics: u64 },
    /// Counts the subscribers of each topic of this worker.
    List { lanes: Vec<u32>, found: BTreeMap<String, Channel> },
}

impl<D: Driver> Worker<D> {
    /// Begins a call. It is answered at once if nothing has to be waited for.
    pub(super) fn call(&mut self, slot: u32, request: Request, call: Call, body_len: usize) {
        let until = self.now.after(self.shared.settings.publish);
        let plan = Plan::new(call, until, self.shared.workers());
        self.stats().api_calls.add(plan.commands() as u64);
        self.hold_assembly(body_len);
        self.connections.extra(slot).calling = Some(Box::new(Calling { request, plan, body_len }));
        self.go_on_with_call(slot);
    }

    /// Whether a connection waits for the answer to a call.
    pub(super) fn has_call(&mut self, slot: u32) -> bool {
        self.connections.warm(slot).extra.as_ref().is_some_and(|extra| extra.calling.is_some())
    }

    /// Takes a call from its connection: it is over, or nobody waits for it.
    pub(super) fn take_calling(&mut self, slot: u32) -> Option<Box<Calling>> {
        let calling = self.connections.warm(slot).extra.as_mut()?.calling.take()?;
        self.release_assembly(calling.body_len);
        Some(calling)
    }

    fn plan(&mut self, slot: u32) -> Option<&mut Plan> {
        let extra = self.connections.warm(slot).extra.as_mut()?;
        extra.calling.as_mut().map(|calling| &mut calling.plan)
    }

    /// What became of an errand.
    pub(super) fn errand_done(&mut self, caller: Caller, outcome: Outcome) {
        let Caller { connection, number } = caller;
        if !self.connections.is_current(connection) {
            return;
        }
        if let Some(plan) = self.plan(connection.slot) {
            plan.done(number, outcome);
            if self.go_on_with_call(connection.slot) {
                // What it has sent meanwhile.
                self.resumed.push(connection.slot);
            }
        }
    }

    /// Begins all errands that can be, and answers the call if it is over.
    fn go_on_with_call(&mut self, slot: u32) -> bool {
        let connection = self.connections.id(slot);
        while let Some((number, errand)) = self.plan(slot).and_then(Plan::next_errand) {
            self.begin(Caller { connection, number }, errand);
        }
        if !self.plan(slot).is_some_and(|plan| plan.is_over()) {
            return false;
        }
        let Calling { request, plan, .. } = *self.take_calling(slot).expect("it is over");
        let response = plan.response().unwrap_or_else(|refusal| {
            self.stats().count(Family::Refused, refusal.reason);
            Response::from(refusal)
        });
        let close = !self.goes_on(&request);
        self.answer(slot, &response, Some(&request), close);
        if !close {
            self.deadlines.arm(slot, self.now, self.shared.settings.handshake);
        }
        self.connections.tidy(slot);
        true
    }

    fn begin(&mut self, caller: Caller, errand: Errand) {
        match errand.doer() {
            Doer::HomeOf(topic) => self.send_errand(self.home_of(&topic), caller, errand),
            // Another server's worker, whose connections are nobody here.
            Doer::Worker(worker) if worker.0 >= self.shared.workers() => {
                self.finished(caller, Ok(Reply::Done));
            }
            Doer::Worker(worker) => self.send_errand(worker, caller, errand),
            Doer::Everybody => {
                for worker in (0..self.shared.workers()).map(WorkerId) {
                    self.send_errand(worker, caller, errand.clone());
                }
            }
            Doer::Here => self.do_errand(caller, errand),
        }
    }

    fn send_errand(&mut self, worker: WorkerId, caller: Caller, errand: Errand) {
        if worker == self.id {
            self.do_errand(caller, errand);
        } else {
            let mail = Control::Errand(caller, Box::new(errand));
            self.outboxes[worker.index()].batch.control.push(mail);
        }
    }

    /// Tells the plan of a call, here or elsewhere, what became of an errand.
    fn finished(&mut self, caller: Caller, outcome: Outcome) {
        let Caller { connection, number } = caller;
        if connection.worker != self.id {
            let mail = Control::Done(caller, Box::new(outcome));
            self.outboxes[connection.worker.index()].batch.control.push(mail);
        } else if self.connections.is_current(connection)
            && let Some(plan) = self.plan(connection.slot)
        {
            // Whoever began the errand goes on with the call, or it was lengthy.
            plan.done(number, outcome);
        }
    }

    /// Does an errand for a call of whichever worker.
    pub(super) fn do_errand(&mut self, caller: Caller, errand: Errand) {
        let outcome = match errand {
            Errand::Publish(post) => match self.publish_post(caller, post) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Errand::Announce(pattern, post) => {
                let work = Work::Announce { post, slot: 0, topics: 0 };
                self.errands.push_back(Lengthy { caller, pattern: Some(pattern), work });
                return;
            }
            Errand::Channels(pattern) => {
                let work = Work::List { lanes: self.lanes.indices(), found: BTreeMap::new() };
                self.errands.push_back(Lengthy { caller, pattern, work });
                return;
            }
            Errand::Schedule(post, when) => self.schedule(post, when),
            Errand::Page(topic, request, limit) => self.page(&topic, &request, limit),
            Errand::RemoveHistory(topic) => {
                self.homes.remove_history(&topic);
                Ok(Reply::Done)
            }
            Errand::Subscribe(connection, topic) => self.assign(connection, &topic, Assignment::Subscribe),
            Errand::Unsubscribe(connection, topic) => {
                self.assign(connection, &topic, Assignment::Unsubscribe)
            }
            Errand::Disconnect(connection, code, reason) => {
                self.disconnect(connection, code, &reason);
                Ok(Reply::Done)
            }
            Errand::Schedules => Ok(Reply::Schedules(self.scheduled())),
            Errand::Cancel(id) => Ok(Reply::Cancelled(self.schedules.cancel(id.number))),
            Errand::CancelNamed(name) => Ok(Reply::Cancelled(self.schedules.cancel_named(&name))),
            Errand::Info => Ok(Reply::Info(vec![self.node()])),
        };
        self.finished(caller, outcome);
    }

    /// Publishes a message whose receipt is the errand's outcome.
    fn publish_post(&mut self, caller: Caller, post: Post) -> Result<(), ApiError> {
        let Post { topic, frame, payload_len, exclude, extras } = post;
        let topic = topic.expect("a message to publish has a topic");
        self.check_len(&topic, payload_len)?;
        let receipt = Receipt { connection: caller.connection, number: caller.number };
        let delivery = Delivery { exclude, receipt: Some(receipt), extras: Some(extras) };
        self.publish(&topic, Unit::Owned(frame), delivery, caller.connection);
        Ok(())
    }

    fn check_len(&self, topic: &TopicName, payload_len: usize) -> Result<(), ApiError> {
        let is_taken = self.shared.settings.rules.takes(topic, payload_len);
        if is_taken { Ok(()) } else { Err(ApiError::MESSAGE_TOO_LONG) }
    }

    fn page(&mut self, topic: &TopicName, request: &PageRequest, limit: u64) -> Outcome {
        let limit = limit.min(PAGE_MESSAGES_MAX);
        let (mut publications, mut bytes) = (Vec::new(), 0);
        let page = self.homes.page(topic, request, |offset, unit, tags| {
            // One is always given, whatever its size.
            let has_room = publications.is_empty() || bytes + unit.len() <= PAGE_BYTES_MAX;
            if publications.len() as u64 >= limit || !has_room {
                return false;
            }
            bytes += unit.len();
            let (kind, payload) = dialect::message_of(unit).expect("the canonical log has frames");
            publications.push(HistoryItem {
                data: dialect::json_value(kind, payload),
                offset: offset.0,
                tags: tags.and_then(|tags| serde_json::from_str(tags).ok()).unwrap_or_default(),
            });
            true
        });
        match page {
            Ok(place) => Ok(Reply::History(History {
                publications,
                offset: place.map_or(0, |place| place.offset.0),
                epoch: place.map_or_else(String::new, |Place { epoch, .. }| epoch.to_string()),
            })),
            Err(NoPage::NoHistory) => Err(ApiError::NO_HISTORY),
            Err(NoPage::Unrecoverable) => Err(ApiError::UNRECOVERABLE_POSITION),
        }
    }

    /// Has a connection's session subscribe or unsubscribe. For one that is gone there is nothing to do.
    fn assign(&mut self, connection: ConnectionId, topic: &TopicName, assignment: Assignment) -> Outcome {
        let slot = connection.slot;
        if !self.connections.is_current(connection) || self.connections.phase(slot) != Phase::Open {
            return Ok(Reply::Done);
        }
        let subscriptions = self.lanes.list(self.connections.first_subscription(slot)).count();
        if assignment == Assignment::Subscribe && subscriptions >= self.shared.settings.subscriptions_max {
            return Err(ApiError::TOO_MANY_SUBSCRIPTIONS);
        }
        let mut assigned = Ok(());
        self.with_session(slot, |session, context| {
            assigned = session.assigned(context, topic, assignment);
            Ok(())
        });
        assigned.map(|()| Reply::Done).map_err(ApiError::not_available)
    }

    fn disconnect(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
        if self.connections.is_current(connection) {
            self.close(connection.slot, code, reason, Why::Api);
        }
    }

    fn node(&self) -> Node {
        let shared = &self.shared;
        let count = |of: fn(&super::stats::Stats) -> u64| shared.stats.iter().map(of).sum::<u64>();
        Node {
            uid: shared.settings.uid.to_string(),
            name: "stentor".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            num_clients: shared.connections() as u64,
            num_users: 0,
            num_channels: shared.topics.used() as u64,
            num_subs: count(|stats| stats.subscriptions.get()),
            uptime: self.driver.now().as_secs(),
        }
    }

    /// Goes on with what takes more than a turn.
    pub(super) fn go_on_with_errands(&mut self) {
        let mut left = TOPICS_PER_TURN;
        while left > 0
            && let Some(mut errand) = self.errands.pop_front()
        {
            match self.go_on_with(&mut errand, &mut left) {
                Some(outcome) if errand.caller.connection.worker == self.id => {
                    self.errand_done(errand.caller, outcome);
                }
                Some(outcome) => self.finished(errand.caller, outcome),
                None => {
                    self.errands.push_front(errand);
                    return;
                }
            }
        }
    }

    fn go_on_with(&mut self, errand: &mut Lengthy, left: &mut usize) -> Option<Outcome> {
        let Lengthy { pattern, work, .. } = errand;
        let matches =
            |name: &TopicName| pattern.as_ref().is_none_or(|pattern| pattern.matches(name.as_str()));
        match work {
            Work::Announce { post, slot, topics } => {
                while *slot < self.homes.slots() {
                    if *left == 0 {
                        return None;
                    }
                    *left -= 1;
                    let topic = self.homes.subscribed_in(*slot).filter(|name| matches(name)).cloned();
                    *slot += 1;
                    if let Some(topic) = topic
                        && self.check_len(&topic, post.payload_len).is_ok()
                    {
                        *topics += 1;
                        self.announce(&topic, post);
                    }
                }
                Some(Ok(Reply::Announced { topics: *topics }))
            }
            Work::List { lanes, found } => {
                while let Some(lane) = lanes.pop() {
                    if *left == 0 {
                        lanes.push(lane);
                        return None;
                    }
                    *left -= 1;
                    // It may have gone since.
                    let Some(record) = self.lanes.get(lane) else { continue };
                    let subscriptions = record.subscriptions() as u64;
                    if subscriptions > 0 && matches(&record.name) {
                        found.entry(record.name.as_str().to_owned()).or_default().num_clients +=
                            subscriptions;
                    }
                    if found.len() > CHANNELS_MAX {
                        return Some(Err(ApiError::TOO_MANY_CHANNELS));
                    }
                }
                Some(Ok(Reply::Channels(std::mem::take(found))))
            }
        }
    }

    fn announce(&mut self, topic: &TopicName, post: &Post) {
        let bytes = post.frame.len();
        let delivery = Delivery {
            exclude: post.exclude,
            receipt: None,
            extras: Some(std::sync::Arc::clone(&post.extras)),
        };
        let unit = Unit::Owned(post.frame.clone());
        if self.homes.publish(topic, unit, delivery, Sender::Outside(bytes), self.now) == Published::Held {
            self.stats().messages_held.add(1);
            self.orders.account.overdraw(Credits { messages: 1, bytes });
        }
    }

    fn schedule(&mut self, post: Post, when: When) -> Outcome {
        let Post { topic, frame, payload_len, exclude, extras } = post;
        let topic = topic.expect("a message to schedule has a topic");
        self.check_len(&topic, payload_len)?;
        let now = self.homes.time();
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX >> 1);
        let (at, every) = match when {
            // Its time has begun with a part of a millisecond: no message comes early.
            When::Once(Delay::For(delay)) => (UnixTime(now.0.saturating_add(millis(delay) + 1)), None),
            When::Once(Delay::Until(at)) => (UnixTime(at), None),
            When::Every(every) => (UnixTime(now.0.saturating_add(millis(every))), Some(every)),
        };
        if now.since(at) > PAST_MS_MAX {
            return Err(ApiError::bad_request("at lies in the past, by more than a minute"));
        }
        if at.since(now) > FUTURE_MS_MAX {
            return Err(ApiError::bad_request("at lies more than 366 days ahead"));
        }
        let delivery = Delivery { exclude, receipt: None, extras: Some(extras) };
        let added = self.schedules.add(None, topic, Content::Unit(frame), delivery, at, every);
        let number = added.map_err(|_| ApiError::TOO_MANY_SCHEDULES)?;
        Ok(Reply::Scheduled { id: ScheduleId { worker: self.id, number }.to_string() })
    }

    fn scheduled(&self) -> Vec<Scheduled> {
        let list = self.schedules.iter().map(|(number, scheduled)| Scheduled {
            id: ScheduleId { worker: self.id, number }.to_string(),
            name: scheduled.name.as_deref().map(str::to_owned),
            channel: scheduled.topic.as_str().to_owned(),
            at: scheduled.at.0,
            every: scheduled.every.map(|every| humantime::format_duration(every).to_string()),
        });
        list.collect()
    }

    /// Publishes what is due.
    pub(super) fn publish_due(&mut self) {
        let now = self.homes.time();
        if self.schedules.next_at().is_none_or(|at| at > now) {
            return;
        }
        let mut left = TOPICS_PER_TURN;
        while left > 0
            && let Some(due) = self.schedules.take_due(now)
        {
            left -= 1;
            let Due { number, topic, content, delivery, count, random } = due;
            let unit = match content {
                Content::Unit(unit) => unit,
                Content::Text(template) => kept(frame_of(text(&template.render(now.0, count, random)))),
            };
            let published =
                self.homes.publish(&topic, Unit::Owned(unit), delivery, Sender::Schedule(number), self.now);
            match published {
                Published::Taken | Published::TooLate => {}
                Published::Held => {
                    self.stats().messages_held.add(1);
                    self.schedules.set_waiting(number, true);
                }
                Published::TooManyTopics => self.stats().count(Family::Refused, "too_many_topics"),
            }
        }
    }
}
