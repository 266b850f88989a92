//! One worker's mail to another, and the credits that bound its requests.

use std::collections::VecDeque;

use bytes::Bytes;

use super::mail::{Batch, Credits, MAIL_BYTES_MAX};
use crate::broker::{
    home::Delivery,
    ids::{ConnectionId, Tick},
    log::Unit,
    name::TopicName,
};

/// What became of a message for another worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requested {
    /// It is on its way.
    Taken,
    /// No credit: it waits here, and so must its sender.
    Held,
}

/// One worker's mail to another, and the credits that bound its requests.
pub struct Outbox<S> {
    /// Not posted yet.
    pub batch: Batch<S>,
    under_way: Credits,
    messages_max: usize,
    waiting: VecDeque<Waiting>,
    /// Of those that wait: how many are dropped at some time.
    timed: usize,
}

struct Waiting {
    topic: TopicName,
    unit: Bytes,
    delivery: Delivery,
    sender: ConnectionId,
}

impl<S> Outbox<S> {
    /// An empty one whose requests under way are at most `messages_max` (≥ 1), see [`MAIL_BYTES_MAX`].
    pub fn new(messages_max: usize) -> Outbox<S> {
        Outbox {
            batch: Batch::default(),
            under_way: Credits::default(),
            messages_max,
            waiting: VecDeque::new(),
            timed: 0,
        }
    }

    /// Messages under way, and those that wait for credit.
    pub fn under_way(&self) -> usize {
        self.under_way.messages + self.waiting.len()
    }

    /// Sends a message to its topic's home, now or as soon as there is credit.
    pub fn publish(
        &mut self,
        topic: &TopicName,
        unit: Unit<'_>,
        delivery: Delivery,
        sender: ConnectionId,
    ) -> Requested {
        if self.waiting.is_empty() && self.has_credit() {
            self.send(topic.clone(), unit, delivery, sender);
            return Requested::Taken;
        }
        self.timed += usize::from(delivery.until.is_some());
        self.waiting.push_back(Waiting { topic: topic.clone(), unit: unit.into_owned(), delivery, sender });
        Requested::Held
    }

    /// Credits came back: sends what waits. `released` hears whose message of how many bytes has gone.
    pub fn credit(&mut self, back: Credits, mut released: impl FnMut(ConnectionId, usize)) {
        self.under_way.messages -= back.messages;
        self.under_way.bytes -= back.bytes;
        while self.has_credit()
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.timed -= usize::from(waiting.delivery.until.is_some());
            released(waiting.sender, waiting.unit.len());
            self.send(waiting.topic, Unit::Owned(waiting.unit), waiting.delivery, waiting.sender);
        }
    }

    /// Drops what has waited here for too long: `dropped` hears whose message of how many bytes, and what was asked for it.
    pub fn drop_late(&mut self, now: Tick, mut dropped: impl FnMut(ConnectionId, usize, &Delivery)) {
        if self.timed == 0 {
            return;
        }
        self.waiting.retain(|waiting| {
            let is_late = waiting.delivery.is_late(now);
            if is_late {
                self.timed -= 1;
                dropped(waiting.sender, waiting.unit.len(), &waiting.delivery);
            }
            !is_late
        });
    }

    fn send(&mut self, topic: TopicName, unit: Unit<'_>, delivery: Delivery, sender: ConnectionId) {
        self.under_way.messages += 1;
        self.under_way.bytes += unit.bytes().len();
        self.batch.publish(topic, unit, delivery, sender);
    }

    fn has_credit(&self) -> bool {
        self.under_way.messages < self.messages_max && self.under_way.bytes < MAIL_BYTES_MAX
    }
}
