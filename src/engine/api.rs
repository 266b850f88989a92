//! Calls of the server API: here they meet homes, connections and topics.
//!
//! A call is a [`Plan`]: its errands are done here or sent to the worker that can, and it is answered when all have come
//! back. Meanwhile its connection is not read. Calls go on by a bounded amount each turn, one after another: those whose
//! errands are many, or touch many topics, take several.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::{
    connections::{Calling, Phase},
    driver::Driver,
    farewell::Why,
    mail::{Caller, Control},
    stats::Family,
    worker::Worker,
};
use crate::{
    broker::{
        home::{Delivery, NoPage, PageRequest, Place, Published, Receipt, Sender},
        ids::{ConnectionId, Tick, UnixTime, WorkerId},
        log::Unit,
        name::TopicName,
        pattern::Pattern,
        schedule::{Content, Due},
    },
    protocol::{
        http::{Request, Response},
        ws::CloseCode,
    },
    session::{
        Assignment, Error,
        api::{
            ApiError, Call, Plan, Reply,
            plan::{CHANNELS_MAX, Doer, Draft, Errand, Outcome},
            reply::{Channel, History, HistoryItem, Node, Scheduled},
            request::{Delay, When},
        },
        dialect, frame_of, kept, text,
    },
};

/// Errands begun for calls, and topics looked at and messages published for their errands, as many of each at a time: twice in a
/// turn. A question counts as so many.
const ACTS_PER_TURN: usize = 1024;
const QUESTION_ACTS: usize = 256;
/// A long message is announced to fewer topics in a turn: so many of its bytes count as one more.
const ANNOUNCED_BYTES: usize = 4096;

/// An errand's number has a call's serial number from this bit on.
const SERIAL: u32 = 24;
const NUMBER: u32 = (1 << SERIAL) - 1;

/// So long is waited for reports: longer than any lane takes.
const REPORTS: u32 = 2 * Tick::PER_SECOND;

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
    Announce { draft: Draft, slot: u32, topics: u64 },
    /// Counts the subscribers of each topic of this worker.
    List { lanes: Option<Vec<u32>>, found: BTreeMap<String, Channel> },
}

/// A subscription that a backend wants a connection to have.
pub(super) struct Assigned {
    caller: Caller,
    connection: ConnectionId,
    topic: TopicName,
    /// The session was asked for it.
    begun: bool,
}

impl<D: Driver> Worker<D> {
    /// Begins a call.
    pub(super) fn call(&mut self, slot: u32, request: Request, call: Call, body_len: usize) {
        let plan = Plan::new(call, self.shared.workers());
        self.stats().api_calls.add(plan.commands() as u64);
        // The frames of its messages are copies.
        let bytes = 2 * body_len;
        self.hold_assembly(bytes);
        self.call_serial = self.call_serial.wrapping_add(1);
        let serial = self.call_serial;
        let calling = Calling { request, plan, bytes, listed: false, serial, reports_until: None };
        self.connections.extra(slot).calling = Some(Box::new(calling));
        self.list_call(slot);
    }

    /// Whether a connection waits for the answer to a call.
    pub(super) fn has_call(&mut self, slot: u32) -> bool {
        self.connections.warm(slot).extra.as_ref().is_some_and(|extra| extra.calling.is_some())
    }

    /// Takes a call from its connection: it is over, or nobody waits for it.
    pub(super) fn take_calling(&mut self, slot: u32) -> Option<Box<Calling>> {
        let calling = self.connections.warm(slot).extra.as_mut()?.calling.take()?;
        self.release_assembly(calling.bytes);
        Some(calling)
    }

    fn calling(&mut self, slot: u32) -> Option<&mut Calling> {
        self.connections.warm(slot).extra.as_mut()?.calling.as_deref_mut()
    }

    /// The call that an errand is for, if it still goes on.
    fn calling_of(&mut self, caller: Caller) -> Option<&mut Calling> {
        let serial = caller.number >> SERIAL;
        self.calling(caller.connection.slot).filter(|calling| u32::from(calling.serial) == serial)
    }

    /// Puts a connection on the list of those whose call can go on.
    fn list_call(&mut self, slot: u32) {
        let connection = self.connections.id(slot);
        if let Some(calling) = self.calling(slot)
            && !std::mem::replace(&mut calling.listed, true)
        {
            self.calls.push_back(connection);
        }
    }

    /// What became of an errand, of a call here or elsewhere.
    pub(super) fn errand_done(&mut self, caller: Caller, outcome: Outcome) {
        let Caller { connection, number } = caller;
        if connection.worker != self.id {
            let mail = Control::Done(caller, Box::new(outcome));
            self.outboxes[connection.worker.index()].batch.control.push(mail);
            return;
        }
        if !self.connections.is_current(connection) {
            return;
        }
        let Some(calling) = self.calling_of(caller) else { return };
        let before = calling.plan.answer_bytes();
        calling.plan.done(number & NUMBER, outcome);
        let grown = calling.plan.answer_bytes() - before;
        calling.bytes += grown;
        self.hold_assembly(grown);
        self.list_call(connection.slot);
    }

    /// So many lanes report of a message, if its publisher has asked for that.
    pub(super) fn expect_reports(&mut self, caller: Caller, reports: u16) {
        let until = self.now.after(REPORTS);
        if let Some(calling) = self.calling_of(caller) {
            calling.plan.expect(caller.number & NUMBER, reports);
            if reports > 0 && calling.reports_until.replace(until).is_none() {
                self.reporting.push(caller.connection);
            }
        }
    }

    /// Ten times a second: calls do not wait for ever for the reports of lanes that have gone, or whose workers stand still.
    pub(super) fn end_reports(&mut self) {
        for connection in std::mem::take(&mut self.reporting) {
            let now = self.now;
            if !self.connections.is_current(connection) {
                continue;
            }
            let Some(calling) = self.calling(connection.slot) else { continue };
            match calling.reports_until {
                Some(until) if until <= now => {
                    calling.reports_until = None;
                    calling.plan.stop_waiting_for_reports();
                    self.list_call(connection.slot);
                }
                Some(_) => self.reporting.push(connection),
                None => {}
            }
        }
    }

    /// Goes on with calls and their errands, by a bounded amount.
    pub(super) fn go_on_with_calls(&mut self) {
        if self.calls.is_empty() && self.errands.is_empty() && self.assignments.is_empty() {
            return;
        }
        self.look_at_assignments();
        let mut left = ACTS_PER_TURN;
        self.go_on_with_errands(&mut left);
        let mut left = ACTS_PER_TURN;
        while left > 0
            && let Some(connection) = self.calls.pop_front()
        {
            if self.connections.is_current(connection)
                && let Some(calling) = self.calling(connection.slot)
            {
                calling.listed = false;
                self.go_on_with_call(connection, &mut left);
            }
        }
    }

    /// Begins the errands that can be, and answers the call if it is over.
    fn go_on_with_call(&mut self, connection: ConnectionId, left: &mut usize) {
        let slot = connection.slot;
        loop {
            let Some(calling) = self.calling(slot) else { return };
            if *left == 0 {
                self.list_call(slot);
                return;
            }
            let Some((number, errand)) = calling.plan.next_errand() else { break };
            *left = left.saturating_sub(if errand.is_question() { QUESTION_ACTS } else { 1 });
            let number = number | u32::from(calling.serial) << SERIAL;
            self.begin(Caller { connection, number }, errand);
        }
        if !self.calling(slot).is_some_and(|calling| calling.plan.is_over()) {
            return;
        }
        let Calling { request, plan, .. } = *self.take_calling(slot).expect("it is over");
        let response = plan.response().unwrap_or_else(|refusal| {
            self.stats().count(Family::Refused, refusal.reason);
            Response::from(refusal)
        });
        let close = !self.goes_on(&request);
        self.answer(slot, &response, Some(&request), close);
        self.connections.tidy(slot);
        if !close {
            self.deadlines.arm(slot, self.now, self.shared.settings.handshake);
            // What it has sent meanwhile.
            self.resumed.push(slot);
        }
    }

    fn begin(&mut self, caller: Caller, errand: Errand) {
        match errand.doer() {
            Doer::Here => self.do_errand(caller, errand),
            Doer::HomeOf(topic) => self.send_errand(self.home_of(&topic), caller, errand),
            // Another server's, whose connections are nobody here.
            Doer::Worker(worker) if worker.0 >= self.shared.workers() => {
                self.errand_done(caller, Ok(Reply::Done));
            }
            Doer::Worker(worker) => self.send_errand(worker, caller, errand),
            Doer::Everybody => {
                for worker in (0..self.shared.workers()).map(WorkerId) {
                    self.send_errand(worker, caller, errand.clone());
                }
            }
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

    /// Does an errand for a call of whichever worker.
    pub(super) fn do_errand(&mut self, caller: Caller, errand: Errand) {
        let outcome = match errand {
            // Its receipt is the outcome.
            Errand::Publish(topic, draft) => match self.publish_draft(caller, &topic, draft) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Errand::Announce(pattern, draft) => {
                let work = Work::Announce { draft, slot: 0, topics: 0 };
                self.errands.push_back(Lengthy { caller, pattern: Some(pattern), work });
                return;
            }
            Errand::Channels(pattern) => {
                let work = Work::List { lanes: None, found: BTreeMap::new() };
                self.errands.push_back(Lengthy { caller, pattern, work });
                return;
            }
            Errand::Subscribe(connection, topic) => {
                self.assignments.push(Assigned { caller, connection, topic, begun: false });
                return;
            }
            Errand::Unsubscribe(connection, topic) => {
                self.assign(connection, &topic, Assignment::Unsubscribe)
            }
            Errand::Schedule(topic, draft, when) => self.schedule(topic, draft, when),
            Errand::Page(topic, request) => self.page(&topic, &request),
            Errand::RemoveHistory(topic) => {
                self.homes.remove_history(&topic);
                Ok(Reply::Done)
            }
            Errand::Disconnect(connection, code, reason) => {
                self.disconnect(connection, code, &reason);
                Ok(Reply::Done)
            }
            Errand::Schedules => Ok(Reply::Schedules(self.scheduled())),
            Errand::Cancel(what) => Ok(Reply::Cancelled(self.schedules.cancel(&what))),
            Errand::Info => Ok(Reply::Info(vec![self.node()])),
        };
        self.errand_done(caller, outcome);
    }

    fn publish_draft(&mut self, caller: Caller, topic: &TopicName, draft: Draft) -> Result<(), ApiError> {
        let Draft { frame, payload_len, exclude, extras } = draft;
        self.check_len(topic, payload_len)?;
        let receipt = Receipt { connection: caller.connection, number: caller.number };
        let until = Some(self.now.after(self.shared.settings.publish));
        let delivery = Delivery { exclude, receipt: Some(receipt), until, extras };
        self.publish(topic, Unit::Owned(frame), delivery, caller.connection);
        Ok(())
    }

    fn check_len(&self, topic: &TopicName, payload_len: usize) -> Result<(), ApiError> {
        let is_taken = self.shared.settings.rules.takes(topic, payload_len);
        if is_taken { Ok(()) } else { Err(ApiError::MESSAGE_TOO_LONG) }
    }

    fn page(&mut self, topic: &TopicName, request: &PageRequest) -> Outcome {
        let limit = request.limit.min(PAGE_MESSAGES_MAX);
        let request = &PageRequest { limit, ..*request };
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
        let mut assigned = Ok(());
        self.with_session(slot, |session, context| {
            assigned = session.assigned(context, topic, assignment);
            Ok(())
        });
        assigned.map(|()| Reply::Done).map_err(ApiError::not_available)
    }

    /// Makes the subscriptions that backends want, and answers for those that stand or can't be.
    fn look_at_assignments(&mut self) {
        for mut assigned in std::mem::take(&mut self.assignments) {
            match self.look_at(&mut assigned) {
                Some(outcome) => self.errand_done(assigned.caller, outcome),
                None => self.assignments.push(assigned),
            }
        }
    }

    /// `None`: it has to wait, for the topic's home or for the connection to open.
    fn look_at(&mut self, assigned: &mut Assigned) -> Option<Outcome> {
        let Assigned { connection, topic, begun, .. } = assigned;
        let slot = connection.slot;
        let phase = self.connections.phase(slot);
        if !self.connections.is_current(*connection) || !matches!(phase, Phase::Open | Phase::Opening) {
            return Some(Ok(Reply::Done));
        }
        if phase == Phase::Opening {
            return None;
        }
        if !std::mem::replace(begun, true) && self.subscription_to(slot, topic).is_none() {
            let subscriptions = self.lanes.list(self.connections.first_subscription(slot)).count();
            if subscriptions >= self.shared.settings.subscriptions_max {
                return Some(Err(ApiError::TOO_MANY_SUBSCRIPTIONS));
            }
            if let Err(error) = self.assign(*connection, topic, Assignment::Subscribe) {
                return Some(Err(error));
            }
        }
        match self.subscription_to(slot, topic) {
            Some(key) if self.lanes.is_seated(key) => Some(Ok(Reply::Done)),
            Some(_) => None,
            // Its session has other plans, or the topic can't be made.
            None if self.shared.topics.used() >= self.shared.topics.max() => {
                Some(Err(ApiError::TOO_MANY_TOPICS))
            }
            None => Some(Ok(Reply::Done)),
        }
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
            uid: format!("{:016x}", shared.settings.run),
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
    fn go_on_with_errands(&mut self, left: &mut usize) {
        while *left > 0
            && let Some(mut errand) = self.errands.pop_front()
        {
            match self.go_on_with(&mut errand, left) {
                Some(outcome) => self.errand_done(errand.caller, outcome),
                // The others have their turn.
                None => self.errands.push_back(errand),
            }
        }
    }

    fn go_on_with(&mut self, errand: &mut Lengthy, left: &mut usize) -> Option<Outcome> {
        let Lengthy { pattern, work, .. } = errand;
        let matches =
            |name: &TopicName| pattern.as_ref().is_none_or(|pattern| pattern.matches(name.as_str()));
        match work {
            Work::Announce { draft, slot, topics } => {
                while *slot < self.homes.slots() {
                    if *left == 0 {
                        return None;
                    }
                    *left = left.saturating_sub(1 + draft.frame.len() / ANNOUNCED_BYTES);
                    let topic = self.homes.subscribed_in(*slot).filter(|name| matches(name)).cloned();
                    *slot += 1;
                    if topic.is_some_and(|topic| self.announce(&topic, draft)) {
                        *topics += 1;
                    }
                }
                Some(Ok(Reply::Announced { topics: *topics }))
            }
            Work::List { lanes, found } => {
                let lanes = lanes.get_or_insert_with(|| self.lanes.indices());
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

    /// Publishes a message to one of the topics that it is announced to; false if that does not take it.
    fn announce(&mut self, topic: &TopicName, draft: &Draft) -> bool {
        if self.check_len(topic, draft.payload_len).is_err() {
            self.count_error(&Error::MessageTooLong);
            return false;
        }
        let until = Some(self.now.after(self.shared.settings.publish));
        let delivery =
            Delivery { exclude: draft.exclude, receipt: None, until, extras: draft.extras.clone() };
        let bytes = draft.frame.len();
        if self.shared.assemblies.load(Ordering::Relaxed) > self.shared.settings.assembly_bytes_max {
            self.stats().messages_late.add(1);
            return false;
        }
        let unit = Unit::Owned(draft.frame.clone());
        match self.homes.publish(topic, unit, delivery, Sender::Announcement(bytes), self.now) {
            Published::Taken => true,
            Published::Held => {
                self.stats().messages_held.add(1);
                self.hold_assembly(bytes);
                true
            }
            Published::TooLate | Published::TooManyTopics => false,
        }
    }

    fn schedule(&mut self, topic: TopicName, draft: Draft, when: When) -> Outcome {
        let Draft { frame, payload_len, exclude, extras } = draft;
        self.check_len(&topic, payload_len)?;
        let now = self.homes.time();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (ahead, every) = match when {
            When::Once(Delay::For(delay)) => (millis(delay), None),
            When::Once(Delay::Until(at)) => {
                if now.since(UnixTime(at)) > PAST_MS_MAX {
                    return Err(ApiError::bad_request("at lies in the past, by more than a minute"));
                }
                (UnixTime(at).since(now), None)
            }
            When::Every(every) => (millis(every), Some(every)),
        };
        if ahead > FUTURE_MS_MAX {
            return Err(ApiError::bad_request("at lies more than 366 days ahead"));
        }
        // Its first millisecond has begun already: no message comes early.
        let at = UnixTime(now.0 + ahead + 1);
        let delivery = Delivery { exclude, extras, ..Delivery::default() };
        let added = self.schedules.add(None, topic, Content::Unit(frame), delivery, at, every);
        let id = added.map_err(|_| ApiError::TOO_MANY_SCHEDULES)?;
        Ok(Reply::Scheduled { id })
    }

    fn scheduled(&self) -> Vec<Scheduled> {
        let list = self.schedules.iter().map(|(id, scheduled)| Scheduled {
            id,
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
        let mut left = ACTS_PER_TURN;
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
                Published::Held => {
                    self.stats().messages_held.add(1);
                    continue;
                }
                Published::TooManyTopics => self.stats().count(Family::Refused, "too_many_topics"),
                Published::Taken | Published::TooLate => {}
            }
            self.schedules.published(number);
        }
    }
}
