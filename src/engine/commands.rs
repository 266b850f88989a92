//! What sessions ask for, carried out on the worker's state. Nothing is sent here, and no connection ends:
//! an end waits until the session has returned.

use std::time::Duration;

use super::{
    connections::{Flag, Phase, Transport},
    driver::{Driver, End},
    farewell::Why,
    mail::{Caller, Control},
    outbox::Requested,
    stats::Family,
    worker::Worker,
};
use crate::{
    broker::{
        encoding::Encoding,
        home::{Delivery, NotPublished, Place, Published, Receipt, Receipted, Sender, Start, home_of},
        ids::{ConnectionId, Tick, WorkerId},
        log::Unit,
        name::TopicName,
    },
    protocol::ws::{CloseCode, Frame, OpCode, control_frame},
    session::{Audience, Error, Message, Sink, State, api::plan, dialect::sse, event_of, frame_of, kept},
};

/// How a session ends its own connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With a close frame.
    Close(CloseCode, String),
    /// At once.
    Terminate,
}

/// One connection's commands.
pub struct Commands<'a, D: Driver> {
    worker: &'a mut Worker<D>,
    slot: u32,
    /// The first end that the session asked for.
    pub ending: Option<Ending>,
}

impl<D: Driver> Worker<D> {
    pub(super) fn commands(&mut self, slot: u32) -> Commands<'_, D> {
        Commands { worker: self, slot, ending: None }
    }

    pub(super) fn apply_ending(&mut self, slot: u32, ending: Ending) {
        match ending {
            Ending::Close(code, reason) => self.close(slot, code, &reason, Why::Session),
            Ending::Terminate => self.end(slot, End::Reset, Why::Terminated),
        }
    }

    /// The worker that orders a topic.
    pub(super) fn home_of(&self, topic: &TopicName) -> WorkerId {
        home_of(topic, self.shared.workers(), self.shared.settings.seed)
    }

    pub(super) fn publish(
        &mut self,
        topic: &TopicName,
        unit: Unit<'_>,
        delivery: Delivery,
        sender: ConnectionId,
    ) {
        let home = self.home_of(topic);
        let (bytes, receipt) = (unit.bytes().len(), delivery.receipt);
        let held = if home == self.id {
            match self.homes.publish(topic, unit, delivery, Sender::Connection(sender, bytes), self.now) {
                Published::Taken | Published::TooLate => false,
                Published::Held => true,
                Published::TooManyTopics => {
                    self.dropped(sender, receipt, Error::TooManyTopics);
                    false
                }
            }
        } else {
            self.outboxes[home.index()].publish(topic, unit, delivery, sender) == Requested::Held
        };
        if held {
            self.stats().messages_held.add(1);
            // It waits in the server's memory like a message that is half received, under the same bound.
            self.hold_assembly(bytes);
            self.connections.extra(sender.slot).held += 1;
        }
    }

    /// One of a connection's messages, of so many bytes, was taken.
    pub(super) fn release(&mut self, sender: ConnectionId, bytes: usize) {
        self.release_assembly(bytes);
        if !self.connections.is_current(sender) {
            return;
        }
        let extra = self.connections.extra(sender.slot);
        extra.held -= 1;
        if extra.held == 0 {
            self.read_again(sender.slot);
        }
    }

    /// Drops messages that have waited for credit for too long.
    pub(super) fn drop_late(&mut self) {
        let mut late = Vec::new();
        for outbox in &mut self.outboxes {
            outbox
                .drop_late(self.now, |sender, bytes, delivery| late.push((sender, bytes, delivery.receipt)));
        }
        for (sender, bytes, receipt) in late {
            self.stats().messages_late.add(1);
            self.release(sender, bytes);
            if let Some(receipt) = receipt {
                self.receipted(Receipted { receipt, outcome: Err(NotPublished::TooLate), reports: 0 });
            }
        }
    }

    /// A message was dropped: whoever wanted a receipt gets that instead.
    pub(super) fn dropped(&mut self, sender: ConnectionId, receipt: Option<Receipt>, error: Error) {
        match receipt {
            Some(receipt) => self.failed.push((receipt, error)),
            None => self.errors.push((sender, error)),
        }
    }

    pub(super) fn count_error(&self, error: &Error) {
        match error {
            Error::TooManyTopics => self.stats().count(Family::Refused, "too_many_topics"),
            Error::MessageTooLong => self.stats().count(Family::Refused, "message_too_long"),
            Error::Protocol(_) => {}
        }
    }

    /// Tells publishers what became of their messages, those of other workers by mail.
    pub(super) fn post_receipts(&mut self) {
        for receipted in std::mem::take(self.homes.receipted()) {
            let worker = receipted.receipt.connection.worker;
            if worker == self.id {
                self.receipted(receipted);
            } else {
                self.outboxes[worker.index()].batch.control.push(Control::Receipted(receipted));
            }
        }
        for (receipt, error) in std::mem::take(&mut self.failed) {
            self.count_error(&error);
            let why = match error {
                Error::MessageTooLong => NotPublished::TooLong,
                _ => NotPublished::TooManyTopics,
            };
            self.receipted(Receipted { receipt, outcome: Err(why), reports: 0 });
        }
    }

    /// What became of a message of one of this worker's connections.
    pub(super) fn receipted(&mut self, receipted: Receipted) {
        let Receipted { receipt: Receipt { connection, number }, outcome, reports } = receipted;
        if !self.connections.is_current(connection) {
            return;
        }
        match self.connections.phase(connection.slot) {
            Phase::Head => {
                let caller = Caller { connection, number };
                self.expect_reports(caller, reports);
                self.errand_done(caller, plan::published(outcome));
            }
            Phase::Open => {
                // No message of a session has a time after which it is dropped.
                let outcome = outcome.map(|Place { epoch, offset }| (epoch, offset));
                let outcome = outcome.map_err(|why| match why {
                    NotPublished::TooLong => Error::MessageTooLong,
                    NotPublished::TooManyTopics | NotPublished::TooLate => Error::TooManyTopics,
                });
                self.with_session(connection.slot, |session, context| {
                    session.published(context, number, outcome)
                });
            }
            _ => {}
        }
    }

    /// Tells sessions what of theirs could not be done.
    pub(super) fn tell_errors(&mut self) {
        for (connection, error) in std::mem::take(&mut self.errors) {
            self.count_error(&error);
            if self.connections.is_current(connection)
                && self.connections.phase(connection.slot) == Phase::Open
            {
                self.with_session(connection.slot, |session, context| session.error(context, &error));
            }
        }
    }
}

impl<D: Driver> Commands<'_, D> {
    /// A client that goes on being sent to although it takes nothing is closed.
    fn close_if_in_vain(&mut self) {
        if self.worker.sends_in_vain(self.slot) {
            self.close(CloseCode::TRY_AGAIN_LATER, "too slow: replies wait");
        }
    }
}

impl<D: Driver> Sink for Commands<'_, D> {
    fn send(&mut self, message: Message<'_>) {
        if self.worker.connections.transport(self.slot) == Transport::EventStream {
            self.send_block(&event_of(&message));
            return;
        }
        let frame = frame_of(message);
        match self.worker.connections.phase(self.slot) {
            Phase::Opening => {
                self.worker.connections.extra(self.slot).response.push(frame.bytes());
            }
            Phase::Open => {
                match frame {
                    Frame::Borrowed(bytes) => self.worker.queue(self.slot, bytes),
                    Frame::Owned(bytes) => self.worker.queue_kept(self.slot, bytes),
                }
                self.close_if_in_vain();
            }
            _ => return,
        }
        self.worker.stats().messages_sent.add(1);
    }

    fn send_block(&mut self, block: &[u8]) {
        if self.worker.connections.transport(self.slot) != Transport::EventStream {
            return;
        }
        match self.worker.connections.phase(self.slot) {
            Phase::Opening => self.worker.connections.extra(self.slot).response.push(block),
            Phase::Open => {
                self.worker.queue(self.slot, block);
                self.close_if_in_vain();
            }
            _ => return,
        }
        self.worker.stats().messages_sent.add(1);
    }

    fn publish(&mut self, topic: &TopicName, message: Message<'_>, to: Audience, receipt: Option<u32>) {
        let id = self.worker.connections.id(self.slot);
        let receipt = receipt.map(|number| Receipt { connection: id, number });
        if !self.worker.shared.settings.rules.takes(topic, message.payload.bytes().len()) {
            self.worker.dropped(id, receipt, Error::MessageTooLong);
            return;
        }
        let unit = match frame_of(message) {
            Frame::Borrowed(bytes) => Unit::Borrowed(bytes),
            frame @ Frame::Owned(_) => Unit::Owned(kept(frame)),
        };
        let exclude = (to == Audience::Others).then_some(id);
        self.worker.publish(topic, unit, Delivery { exclude, receipt, ..Delivery::default() }, id);
    }

    fn subscribe(&mut self, topic: &TopicName) -> TopicName {
        self.worker.subscribe(self.slot, topic)
    }

    fn subscribe_from(&mut self, topic: &TopicName, encoding: Encoding, start: Start) -> TopicName {
        self.worker.subscribe_from(self.slot, topic, encoding, start)
    }

    fn unsubscribe(&mut self, topic: &TopicName) {
        self.worker.unsubscribe(self.slot, topic);
    }

    fn set_timer(&mut self, after: Option<Duration>) {
        let now = self.worker.now;
        let ticks = after.map(|after| Tick::span(after).max(1));
        self.worker.connections.extra(self.slot).timer = ticks.map(|ticks| now.after(ticks));
        self.worker.connections.tidy(self.slot);
        if let Some(ticks) = ticks {
            self.worker.deadlines.arm(self.slot, now, ticks);
        }
    }

    fn ping(&mut self, payload: &[u8]) {
        let payload = &payload[..payload.len().min(crate::protocol::ws::CONTROL_PAYLOAD_MAX)];
        let frame = control_frame(OpCode::Ping, payload);
        let bytes = match self.worker.connections.transport(self.slot) {
            Transport::WebSocket => &frame[..],
            Transport::EventStream => sse::HEARTBEAT,
        };
        match self.worker.connections.phase(self.slot) {
            Phase::Opening => self.worker.connections.extra(self.slot).response.push(bytes),
            Phase::Open => self.worker.queue(self.slot, bytes),
            _ => return,
        }
        self.worker.stats().pings_sent.add(1);
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        self.ending.get_or_insert_with(|| Ending::Close(code, reason.to_owned()));
    }

    fn terminate(&mut self) {
        self.ending = Some(Ending::Terminate);
    }

    fn buffered_amount(&self) -> usize {
        self.worker.buffered_amount(self.slot)
    }

    fn connection(&self) -> ConnectionId {
        self.worker.connections.id(self.slot)
    }

    fn state(&self) -> State {
        match self.worker.connections.phase(self.slot) {
            Phase::Head | Phase::Opening => State::Opening,
            Phase::Open if self.ending.is_none() => State::Open,
            _ => State::Closing,
        }
    }
}

impl<D: Driver> Worker<D> {
    /// Bytes that a client has not been sent yet.
    fn buffered_amount(&self, slot: u32) -> usize {
        let own = self.connections.outgoing_len(slot);
        let lanes: u64 = self
            .lanes
            .list(self.connections.first_subscription(slot))
            .map(|subscription| self.lanes.lag_bytes(subscription))
            .sum();
        own + usize::try_from(lanes).unwrap_or(usize::MAX)
    }

    /// A connection's own queue has drained enough to read it again.
    pub(super) fn unpause(&mut self, slot: u32) {
        if self.connections.hot(slot).clear(Flag::Paused) {
            self.read_again(slot);
        }
    }

    /// A connection that was not read is read again. Its times begin anew: it could not show that it lives.
    fn read_again(&mut self, slot: u32) {
        self.resumed.push(slot);
        let now = self.now;
        let warm = self.connections.warm(slot);
        (warm.received_at, warm.message_at, warm.began_at, warm.pinged_at) = (now, now, now, now);
        // Whatever is due next is found when the connection is looked at.
        self.deadlines.arm(slot, now, 1);
    }
}
