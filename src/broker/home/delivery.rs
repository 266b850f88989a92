//! What is asked for a message beside that it is published, and what becomes of it.

use std::sync::Arc;

use crate::broker::ids::{ConnectionId, Epoch, Offset, Tick};

/// What is asked for a message beside that it is published.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delivery {
    /// Whose subscriptions must not get it.
    pub exclude: Option<ConnectionId>,
    /// Who wants to know the number that it gets.
    pub receipt: Option<Receipt>,
    /// If its topic has not taken it by then it is dropped.
    pub until: Option<Tick>,
    /// What is seldom asked.
    pub extras: Option<Arc<Extras>>,
}

impl Delivery {
    /// To all, but the subscriptions of this connection, if there is one.
    pub fn excluding(exclude: Option<ConnectionId>) -> Delivery {
        Delivery { exclude, ..Delivery::default() }
    }

    /// What its publisher wants to know; no lane reports of it.
    pub(super) fn receipted(&self, outcome: Result<Place, NotPublished>) -> Option<Receipted> {
        self.receipt.map(|receipt| Receipted { receipt, outcome, reports: 0 })
    }

    /// Whether its time is over.
    pub fn is_late(&self, now: Tick) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// What is seldom asked for a message. One broadcast asks the same for many topics, so it is shared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// What its publisher has attached: a JSON object of strings.
    pub tags: Option<Arc<str>>,
    /// It is left out of its topic's history.
    pub skip_history: bool,
    /// A further message to the topic with the same key is not published: its receipt has this one's number.
    pub idempotency_key: Option<Box<str>>,
    /// Each lane that reads it is asked what has become of it.
    pub report: bool,
}

/// Names a message to whoever has published it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Who has published it.
    pub connection: ConnectionId,
    /// The publisher's own number for it.
    pub number: u32,
}

/// Where a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The topic's life.
    pub epoch: Epoch,
    /// The message's number in it.
    pub offset: Offset,
}

/// Why a message is in no topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotPublished {
    /// The topic does not exist and no further one may be created.
    TooManyTopics,
    /// It is longer than its topic takes.
    TooLong,
    /// Its topic could not take it in time.
    TooLate,
}

/// What became of a message whose publisher wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipted {
    /// Which.
    pub receipt: Receipt,
    /// Where it is now.
    pub outcome: Result<Place, NotPublished>,
    /// Lanes that were asked to report of it.
    pub reports: u16,
}
