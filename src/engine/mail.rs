//! What workers send each other: a batch per ordered pair, posted once per turn and taken whole.
//!
//! Three kinds:
//! - *state* (heads, floors): the newest replaces what was not taken yet, so it can't overflow;
//! - *requests* (messages for a topic whose home is elsewhere): limited by credits, see `outbox`;
//! - *control* (join, leave, recover, refused), answers and sockets: at most one of each per lane, subscription or
//!   connection; of the server API's errands so many as a call may have under way.

use std::{collections::HashMap, net::SocketAddr};

use bytes::Bytes;
use foldhash::fast::FixedState;

use crate::{
    broker::{
        encoding::Encoding,
        home::{Delivery, Head, Receipt, Receipted, Replay, Start},
        ids::{ConnectionId, Key, Mark},
        log::Unit,
        name::TopicName,
    },
    session::api::plan::{Errand, Outcome},
};

/// Bytes of messages under way between two workers, beyond which no further message is sent; one of any
/// size always may.
pub const MAIL_BYTES_MAX: usize = 1 << 20;

/// Room for so much control is kept from one batch to the next.
const CONTROL_KEPT: usize = 4096;

/// News between a worker and a topic's home, and errands of the server API, in order.
#[derive(Clone, Debug)]
pub enum Control {
    /// The worker has subscriptions now, to the topic in this encoding.
    Join(TopicName, Encoding, Key),
    /// One of its subscriptions wants some of the past.
    Recover(Recover),
    /// It has none any more.
    Leave(TopicName, Key),
    /// To the worker: the lane's topic can't be created, there are too many.
    Refused(Key),
    /// To the worker: this connection's message was dropped, for the same reason. The receipt that it wanted.
    Dropped(ConnectionId, Option<Receipt>),
    /// To the worker: what became of a message of one of its connections.
    Receipted(Receipted),
    /// Something to do for a call of the server API.
    Errand(Caller, Box<Errand>),
    /// To the worker: what became of that.
    Done(Caller, Box<Outcome>),
}

/// Who has asked for something that a call needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The connection that the call came on.
    pub connection: ConnectionId,
    /// The call's own number for it, below its serial number: what comes for one call is no other's.
    pub number: u32,
}

/// To a topic's home: what a subscription wants of the past.
#[derive(Clone, Debug)]
pub struct Recover {
    /// The topic.
    pub topic: TopicName,
    /// In which encoding.
    pub encoding: Encoding,
    /// From where on.
    pub start: Start,
    /// Who asks.
    pub asker: Asker,
}

/// Which subscription has asked, and when: it may be gone when the answer comes, and another in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// Whose it is.
    pub connection: ConnectionId,
    /// The worker's lane.
    pub lane: Key,
    /// The subscription's index on that worker.
    pub subscription: u32,
    /// Differs for each question.
    pub ticket: u32,
}

/// The answer. What heads the worker needs to go on behind it are in the same batch, or came before.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Who has asked.
    pub asker: Asker,
    /// What it gets; `None`: the topic does not know the worker any more.
    pub replay: Option<Replay>,
}

/// To a topic's home: what the worker's swept subscriptions all have.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// The topic at its home.
    pub topic: Key,
    /// The worker's lane.
    pub lane: Key,
    /// The floor.
    pub floor: Mark,
}

/// A message on its way to its topic's home.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The topic.
    pub topic: TopicName,
    /// What is asked for it.
    pub delivery: Delivery,
    /// Who published it.
    pub sender: ConnectionId,
    unit: Carried,
}

#[derive(Clone, Debug)]
enum Carried {
    /// In the batch's bytes.
    Copied { start: usize, len: usize },
    /// A large one moves whole.
    Owned(Bytes),
}

/// All that one worker sends another between two posts.
#[derive(Debug)]
pub struct Batch<S> {
    /// In order.
    pub control: Vec<Control>,
    /// At most one per lane.
    pub heads: Vec<Head>,
    head_of: HashMap<Key, usize, FixedState>,
    /// At most one per lane.
    pub floors: Vec<Floor>,
    floor_of: HashMap<Key, usize, FixedState>,
    /// Answers, one for each question: to be read after the heads.
    pub recovered: Vec<Recovered>,
    requests: Vec<Publish>,
    bytes: Vec<u8>,
    /// Credits that come back: messages and their bytes.
    pub credits: Credits,
    /// Just accepted, now the receiver's.
    pub sockets: Vec<(S, SocketAddr)>,
}

/// Messages and bytes that may be, or are, under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credits {
    /// Messages.
    pub messages: usize,
    /// Their bytes on the wire.
    pub bytes: usize,
}

impl<S> Default for Batch<S> {
    fn default() -> Self {
        Batch {
            control: Vec::new(),
            heads: Vec::new(),
            head_of: HashMap::with_hasher(FixedState::default()),
            floors: Vec::new(),
            floor_of: HashMap::with_hasher(FixedState::default()),
            recovered: Vec::new(),
            requests: Vec::new(),
            bytes: Vec::new(),
            credits: Credits::default(),
            sockets: Vec::new(),
        }
    }
}

impl<S> Batch<S> {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty()
            && self.heads.is_empty()
            && self.floors.is_empty()
            && self.recovered.is_empty()
            && self.requests.is_empty()
            && self.credits == Credits::default()
            && self.sockets.is_empty()
    }

    /// A head; takes the place of an older one for the same lane.
    pub fn head(&mut self, head: Head) {
        match self.head_of.get(&head.lane) {
            Some(&at) => self.heads[at].conflate(head),
            None => {
                self.head_of.insert(head.lane, self.heads.len());
                self.heads.push(head);
            }
        }
    }

    /// A floor; takes the place of an older one for the same lane.
    pub fn floor(&mut self, floor: Floor) {
        match self.floor_of.get(&floor.lane) {
            Some(&at) => self.floors[at] = floor,
            None => {
                self.floor_of.insert(floor.lane, self.floors.len());
                self.floors.push(floor);
            }
        }
    }

    /// A message for a topic whose home is the receiver.
    pub fn publish(&mut self, topic: TopicName, unit: Unit<'_>, delivery: Delivery, sender: ConnectionId) {
        let unit = match unit {
            Unit::Owned(bytes) => Carried::Owned(bytes),
            Unit::Borrowed(bytes) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                Carried::Copied { start, len: bytes.len() }
            }
        };
        self.requests.push(Publish { topic, delivery, sender, unit });
    }

    /// The messages, in order, with their bytes.
    pub fn requests(&self) -> impl Iterator<Item = (&Publish, Unit<'_>)> {
        self.requests.iter().map(|request| {
            let unit = match &request.unit {
                Carried::Owned(bytes) => Unit::Owned(bytes.clone()),
                Carried::Copied { start, len } => Unit::Borrowed(&self.bytes[*start..start + len]),
            };
            (request, unit)
        })
    }

    /// Empties it for reuse. Room for an unusual burst of bytes is given back.
    pub fn clear(&mut self) {
        self.control.clear();
        self.control.shrink_to(CONTROL_KEPT);
        self.heads.clear();
        self.head_of.clear();
        self.floors.clear();
        self.floor_of.clear();
        self.recovered.clear();
        self.requests.clear();
        self.bytes.clear();
        self.bytes.shrink_to(MAIL_BYTES_MAX);
        self.credits = Credits::default();
        self.sockets.clear();
    }

    /// Appends what came later.
    pub fn append(&mut self, later: &mut Batch<S>) {
        self.control.append(&mut later.control);
        later.heads.drain(..).for_each(|head| self.head(head));
        later.floors.drain(..).for_each(|floor| self.floor(floor));
        self.recovered.append(&mut later.recovered);
        let shift = self.bytes.len();
        self.bytes.append(&mut later.bytes);
        self.requests.extend(later.requests.drain(..).map(|mut request| {
            if let Carried::Copied { start, .. } = &mut request.unit {
                *start += shift;
            }
            request
        }));
        self.credits.messages += later.credits.messages;
        self.credits.bytes += later.credits.bytes;
        self.sockets.append(&mut later.sockets);
        later.clear();
    }
}
