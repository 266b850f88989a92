//! What threads that are no workers ask for: publishes, broadcasts, closes, counts.
//!
//! [`Outside`] is their side, and hides what drives the sockets; `Orders` is the worker's. Orders are carried
//! out one after another, in the order in which they were posted. Those that concern many topics or connections
//! take several turns.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    driver::Driver,
    farewell::Why,
    letterbox::{Account, NotPosted, Order, Parting},
    mail::Credits,
    shared::Shared,
    stats::Family,
    worker::Worker,
};
use crate::{
    broker::{
        home::{Delivery, Published, Sender, home_of},
        ids::{ConnectionId, WorkerId},
        log::Unit,
        name::TopicName,
    },
    protocol::ws::{CloseCode, parse_server_frame},
    session::{Error, Message, frame_of, kept},
};

/// Topics looked at, messages published and connections closed for threads outside, in a turn.
const ACTS_PER_TURN: usize = 1024;

/// How long the workers may take to count.
const COUNTING: Duration = Duration::from_secs(1);

/// Why the server did not do what a handle asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// So much is under way that nothing more is taken now. Nothing was done.
    Full,
    /// The message has more bytes than `--max-message-bytes`, or than its topic's `max-message-bytes`. Nothing was done.
    TooLong,
    /// The server has stopped, or was not started.
    NotRunning,
    /// The answer did not come within a second: a worker stands still.
    NoAnswer,
    /// This thread is a worker of the server, and would wait for itself: sessions must not ask this.
    OnWorker,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandleError::Full => "the server has as much to do for its handles as it may: try again later",
            HandleError::TooLong => "the message is longer than --max-message-bytes, or than its topic takes",
            HandleError::NotRunning => "the server has stopped, or was not started",
            HandleError::NoAnswer => "the server's workers did not answer within a second",
            HandleError::OnWorker => "a session can't wait for an answer of its own worker",
        })
    }
}

impl std::error::Error for HandleError {}

impl From<NotPosted> for HandleError {
    fn from(error: NotPosted) -> Self {
        match error {
            NotPosted::Full => HandleError::Full,
            NotPosted::Ended => HandleError::NotRunning,
        }
    }
}

/// A server as threads that are no workers see it. `patience` is how long they wait for room.
pub trait Outside: Send + Sync {
    /// Publishes a message to a topic.
    ///
    /// # Errors
    /// Full, too long, not running.
    fn publish(&self, topic: &TopicName, message: Message<'_>, patience: Duration)
    -> Result<(), HandleError>;

    /// Publishes a message to each topic that has subscribers.
    ///
    /// # Errors
    /// Full, too long, not running.
    fn broadcast(&self, message: Message<'_>, patience: Duration) -> Result<(), HandleError>;

    /// Closes a connection.
    ///
    /// # Errors
    /// Full, not running.
    fn close(
        &self,
        connection: ConnectionId,
        code: CloseCode,
        reason: &str,
        patience: Duration,
    ) -> Result<(), HandleError>;

    /// Closes all connections that subscribe to a topic.
    ///
    /// # Errors
    /// Full, not running.
    fn close_topic(
        &self,
        topic: &TopicName,
        code: CloseCode,
        reason: &str,
        patience: Duration,
    ) -> Result<(), HandleError>;

    /// How many connections subscribe to a topic.
    ///
    /// # Errors
    /// Full, not running, no answer, on a worker.
    fn subscribers(&self, topic: &TopicName, patience: Duration) -> Result<usize, HandleError>;

    /// How many connections there are.
    ///
    /// # Errors
    /// Not running.
    fn connections(&self) -> Result<usize, HandleError>;

    /// How many topics there are.
    ///
    /// # Errors
    /// Not running.
    fn topics(&self) -> Result<usize, HandleError>;

    /// Begins the drain.
    ///
    /// # Errors
    /// Not running.
    fn drain(&self) -> Result<(), HandleError>;
}

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread is a worker: it must not wait for workers.
pub(super) fn mark_thread() {
    IS_WORKER.set(true);
}

/// Until when this thread may wait. A worker never may.
fn until(patience: Duration) -> Option<Instant> {
    if patience.is_zero() || IS_WORKER.get() { None } else { Instant::now().checked_add(patience) }
}

impl<S: Send> Shared<S> {
    fn frame(&self, message: Message<'_>) -> Result<Bytes, HandleError> {
        if message.payload.bytes().len() > self.settings.messages.message_bytes_max {
            return Err(HandleError::TooLong);
        }
        Ok(kept(frame_of(message)))
    }

    fn check_running(&self) -> Result<(), HandleError> {
        if self.post.has_ended() { Err(HandleError::NotRunning) } else { Ok(()) }
    }
}

impl<S: Send> Outside for Shared<S> {
    fn publish(
        &self,
        topic: &TopicName,
        message: Message<'_>,
        patience: Duration,
    ) -> Result<(), HandleError> {
        let home = home_of(topic, self.workers(), self.settings.seed);
        if !self.settings.rules.takes(topic, message.payload.bytes().len()) {
            return Err(HandleError::TooLong);
        }
        let order = Order::Publish { topic: topic.clone(), frame: self.frame(message)? };
        Ok(self.post.order(home, &order, until(patience))?)
    }

    fn broadcast(&self, message: Message<'_>, patience: Duration) -> Result<(), HandleError> {
        let order = Order::Broadcast { frame: self.frame(message)? };
        Ok(self.post.order_all(&order, until(patience))?)
    }

    fn close(
        &self,
        connection: ConnectionId,
        code: CloseCode,
        reason: &str,
        patience: Duration,
    ) -> Result<(), HandleError> {
        if connection.worker >= WorkerId(self.workers()) {
            // Another server's name: here it is nobody.
            return self.check_running();
        }
        let order = Order::Close { connection, parting: Parting { code, reason: reason.into() } };
        Ok(self.post.order(connection.worker, &order, until(patience))?)
    }

    fn close_topic(
        &self,
        topic: &TopicName,
        code: CloseCode,
        reason: &str,
        patience: Duration,
    ) -> Result<(), HandleError> {
        let parting = Parting { code, reason: reason.into() };
        let order = Order::CloseTopic { topic: topic.clone(), parting };
        Ok(self.post.order_all(&order, until(patience))?)
    }

    fn subscribers(&self, topic: &TopicName, patience: Duration) -> Result<usize, HandleError> {
        if IS_WORKER.get() {
            return Err(HandleError::OnWorker);
        }
        let (answer, answers) = mpsc::channel();
        let order = Order::Count { topic: topic.clone(), answer };
        self.post.order_all(&order, until(patience))?;
        // Then only those who have been asked hold an end: should one stop, its answer is known to be missing.
        drop(order);
        let until = Instant::now() + COUNTING;
        let mut sum = 0;
        for _ in 0..self.workers() {
            sum +=
                answers.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|error| {
                    match error {
                        RecvTimeoutError::Timeout => HandleError::NoAnswer,
                        RecvTimeoutError::Disconnected => HandleError::NotRunning,
                    }
                })?;
        }
        Ok(sum)
    }

    fn connections(&self) -> Result<usize, HandleError> {
        self.check_running()?;
        Ok(Shared::connections(self))
    }

    fn topics(&self) -> Result<usize, HandleError> {
        self.check_running()?;
        Ok(self.topics.used())
    }

    fn drain(&self) -> Result<(), HandleError> {
        self.check_running()?;
        Shared::drain(self);
        Ok(())
    }
}

/// What was asked of a worker from outside and is not done.
#[derive(Default)]
pub(super) struct Orders {
    queue: VecDeque<Order>,
    /// Where the broadcast at the front of the queue has come to, in the home's topics.
    slot: u32,
    /// Connections that the close of a topic has still to come to, at the front of the queue.
    to_close: Option<Vec<ConnectionId>>,
    /// What the letterbox is to be told.
    pub account: Account,
}

impl Orders {
    /// Whether there is something to do.
    pub fn wait(&self) -> bool {
        !self.queue.is_empty()
    }
}

/// What became of an order.
enum Progress {
    /// Its credit can go back.
    Done,
    /// Its message waits at the topic, which gives the credit back.
    Held,
    /// It goes on in the next turn.
    More,
}

impl<D: Driver> Worker<D> {
    /// Takes what was asked from outside and does a turn's share of it.
    pub(super) fn take_orders(&mut self) {
        self.shared.post.take_orders(self.id, &mut self.orders.queue);
        let mut left = ACTS_PER_TURN;
        while left > 0
            && let Some(order) = self.orders.queue.pop_front()
        {
            match self.carry_out(&order, &mut left) {
                Progress::Done => self.orders.account.give_back(order.cost()),
                Progress::Held => {}
                Progress::More => {
                    self.orders.queue.push_front(order);
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, order: &Order, left: &mut usize) -> Progress {
        match order {
            Order::Publish { topic, frame } => {
                *left -= 1;
                self.publish_ordered(topic, frame)
            }
            Order::Broadcast { frame } => self.broadcast_some(frame, left),
            Order::Close { connection, parting } => {
                *left -= 1;
                self.close_ordered(*connection, parting);
                Progress::Done
            }
            Order::CloseTopic { topic, parting } => self.close_some(topic, parting, left),
            Order::Count { topic, answer } => {
                *left -= 1;
                let lanes: Vec<u32> = self.lanes.all_of(topic).collect();
                let count = lanes.into_iter().map(|lane| self.lanes.at(lane).subscriptions()).sum();
                // Who asked may have given up.
                let _ = answer.send(count);
                Progress::Done
            }
        }
    }

    fn publish_ordered(&mut self, topic: &TopicName, frame: &Bytes) -> Progress {
        let sender = Sender::Outside(frame.len());
        match self.homes.publish(topic, Unit::Owned(frame.clone()), Delivery::default(), sender, self.now) {
            Published::Taken | Published::TooLate => Progress::Done,
            Published::Held => {
                self.stats().messages_held.add(1);
                Progress::Held
            }
            Published::TooManyTopics => {
                self.stats().count(Family::Refused, "too_many_topics");
                Progress::Done
            }
        }
    }

    /// Goes on through the topics whose home this is. Those that take no message of this length do not get it.
    fn broadcast_some(&mut self, frame: &Bytes, left: &mut usize) -> Progress {
        let payload_bytes = parse_server_frame(frame).map_or(0, |(_, payload)| payload.len());
        while self.orders.slot < self.homes.slots() {
            if *left == 0 {
                return Progress::More;
            }
            *left -= 1;
            let topic = self.homes.subscribed_in(self.orders.slot).cloned();
            self.orders.slot += 1;
            let Some(topic) = topic else { continue };
            if !self.shared.settings.rules.takes(&topic, payload_bytes) {
                self.count_error(&Error::MessageTooLong);
            } else if let Progress::Held = self.publish_ordered(&topic, frame) {
                self.orders.account.overdraw(Credits { messages: 1, bytes: frame.len() });
            }
        }
        self.orders.slot = 0;
        Progress::Done
    }

    /// Goes on through the connections that subscribed to the topic when the order's turn came.
    fn close_some(&mut self, topic: &TopicName, parting: &Parting, left: &mut usize) -> Progress {
        let mut to_close = match self.orders.to_close.take() {
            Some(to_close) => to_close,
            None => self.subscribers_of(topic),
        };
        while *left > 0 {
            let Some(connection) = to_close.pop() else { return Progress::Done };
            *left -= 1;
            self.close_ordered(connection, parting);
        }
        self.orders.to_close = Some(to_close);
        Progress::More
    }

    fn subscribers_of(&mut self, topic: &TopicName) -> Vec<ConnectionId> {
        let (mut slots, mut waiting) = (Vec::new(), Vec::new());
        for lane in self.lanes.all_of(topic).collect::<Vec<_>>() {
            let record = self.lanes.at(lane);
            slots
                .extend(record.lane.swept().iter().chain(record.lane.behind()).map(|entry| entry.connection));
            waiting.extend(record.waiting.iter().copied());
        }
        slots.extend(waiting.into_iter().map(|key: u32| self.lanes.subscriptions[key as usize].connection));
        slots.into_iter().map(|slot| self.connections.id(slot)).collect()
    }

    fn close_ordered(&mut self, connection: ConnectionId, parting: &Parting) {
        if self.connections.is_current(connection) {
            self.close(connection.slot, parting.code, &parting.reason, Why::Handle);
        }
    }
}
