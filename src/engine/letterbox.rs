//! A worker's mailbox for threads that are no workers: what a program that embeds the server asks for.
//!
//! All such threads share one letterbox per worker, and its lock orders what they ask. What is under way is
//! bounded by credits, as between workers; who finds none left is refused or waits here, in its own thread.
//! The worker never waits for the lock unless it is about to sleep.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, TryLockError, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    mail::{Credits, MAIL_BYTES_MAX},
    mailboxes::Patience,
    sync::{AtomicBool, Condvar, Mutex, MutexGuard},
};
use crate::{
    broker::{ids::ConnectionId, name::TopicName},
    protocol::ws::CloseCode,
};

/// What a thread outside asks of a worker.
#[derive(Clone, Debug)]
pub enum Order {
    /// To the topic's home: this frame, to its subscribers.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The message as it goes out.
        frame: Bytes,
    },
    /// To every home: this frame, to each of its topics that has subscribers.
    Broadcast {
        /// The message as it goes out.
        frame: Bytes,
    },
    /// To the owner of the socket: close it.
    Close {
        /// Which one.
        connection: ConnectionId,
        /// With what.
        parting: Parting,
    },
    /// To everybody: close all that subscribe to a topic.
    CloseTopic {
        /// The topic.
        topic: TopicName,
        /// With what.
        parting: Parting,
    },
    /// To everybody: how many of your connections subscribe to a topic?
    Count {
        /// The topic.
        topic: TopicName,
        /// Who wants to know.
        answer: mpsc::Sender<usize>,
    },
}

/// What a close frame says.
#[derive(Clone, Debug)]
pub struct Parting {
    /// Its code.
    pub code: CloseCode,
    /// The text beside it.
    pub reason: Arc<str>,
}

impl Order {
    /// What it takes of the credits.
    pub fn cost(&self) -> Credits {
        let bytes = match self {
            Order::Publish { frame, .. } | Order::Broadcast { frame } => frame.len(),
            Order::Close { parting, .. } | Order::CloseTopic { parting, .. } => parting.reason.len(),
            Order::Count { .. } => 0,
        };
        Credits { messages: 1, bytes }
    }
}

/// Why an order was not posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotPosted {
    /// There is no credit for it now.
    Full,
    /// The worker has ended.
    Ended,
}

/// One worker's. See the head of this file.
pub struct Letterbox {
    full: AtomicBool,
    inside: Mutex<Inside>,
    room: Condvar,
}

/// What the lock is for.
#[derive(Default)]
pub struct Inside {
    orders: VecDeque<Order>,
    under_way: Credits,
    /// Threads that wait for room.
    waiting: usize,
    /// Nobody will read any more.
    ended: bool,
}

impl Inside {
    fn has_credit(&self, orders_max: usize) -> bool {
        self.under_way.messages < orders_max && self.under_way.bytes < MAIL_BYTES_MAX
    }
}

impl Letterbox {
    /// An empty one.
    pub fn new() -> Letterbox {
        Letterbox {
            full: AtomicBool::new(false),
            inside: Mutex::new(Inside::default()),
            room: Condvar::new(),
        }
    }

    /// Whether anything waits for the worker.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes all orders behind those in `orders`.
    pub fn take(&self, orders: &mut VecDeque<Order>) {
        if !self.is_full() {
            return;
        }
        if let Some(mut inside) = self.lock(Patience::Later) {
            orders.append(&mut inside.orders);
            self.full.store(false, Ordering::Release);
        }
    }

    /// Gives credits back, and takes what was overdrawn. Both are left as they are if the lock is not to be had.
    pub fn settle(&self, account: &mut Account, patience: Patience) {
        if account.is_settled() {
            return;
        }
        let Some(mut inside) = self.lock(patience) else { return };
        let Account { overdrawn, back } = std::mem::take(account);
        inside.under_way.messages = inside.under_way.messages + overdrawn.messages - back.messages;
        inside.under_way.bytes = inside.under_way.bytes + overdrawn.bytes - back.bytes;
        if inside.waiting > 0 {
            self.room.notify_all();
        }
    }

    /// The worker has ended: what waits is dropped, who waits is told.
    pub fn end(&self) {
        let Some(mut inside) = self.lock(Patience::Now) else { return };
        inside.ended = true;
        inside.orders.clear();
        self.full.store(false, Ordering::Release);
        self.room.notify_all();
    }

    /// Whether the worker has ended.
    pub fn has_ended(&self) -> bool {
        self.lock(Patience::Now).is_none_or(|inside| inside.ended)
    }

    fn lock(&self, patience: Patience) -> Option<MutexGuard<'_, Inside>> {
        match patience {
            Patience::Now => Some(self.inside.lock().unwrap_or_else(PoisonError::into_inner)),
            Patience::Later => match self.inside.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            },
        }
    }
}

/// Puts an order into each of some letterboxes, or into none. Waits for room until the given time.
///
/// Who holds several locks took them in the order of the workers, and a worker takes none but its own.
///
/// # Errors
/// See [`NotPosted`].
pub fn post(
    letterboxes: &[Letterbox],
    order: &Order,
    orders_max: usize,
    until: Option<Instant>,
) -> Result<(), NotPosted> {
    let cost = order.cost();
    loop {
        let mut all: Vec<_> =
            letterboxes.iter().filter_map(|letterbox| letterbox.lock(Patience::Now)).collect();
        if all.iter().any(|inside| inside.ended) {
            return Err(NotPosted::Ended);
        }
        let Some(lacking) = all.iter().position(|inside| !inside.has_credit(orders_max)) else {
            for (letterbox, inside) in letterboxes.iter().zip(&mut all) {
                inside.under_way.messages += cost.messages;
                inside.under_way.bytes += cost.bytes;
                inside.orders.push_back(order.clone());
                letterbox.full.store(true, Ordering::Release);
            }
            return Ok(());
        };
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(NotPosted::Full);
        }
        let mut inside = all.swap_remove(lacking);
        drop(all);
        inside.waiting += 1;
        let waited = letterboxes[lacking].room.wait_timeout(inside, left);
        let (mut inside, _) = waited.unwrap_or_else(PoisonError::into_inner);
        inside.waiting -= 1;
    }
}

/// What a worker owes its letterbox.
#[derive(Default, Debug)]
pub struct Account {
    /// Taken without having been given: one broadcast waits at many topics.
    overdrawn: Credits,
    /// Not needed any more.
    back: Credits,
}

impl Account {
    /// An order is done, or a message was taken.
    pub fn give_back(&mut self, credits: Credits) {
        self.back.messages += credits.messages;
        self.back.bytes += credits.bytes;
    }

    /// One more message waits than there was credit for.
    pub fn overdraw(&mut self, credits: Credits) {
        self.overdrawn.messages += credits.messages;
        self.overdrawn.bytes += credits.bytes;
    }

    /// Each has a message wherever it has bytes.
    fn is_settled(&self) -> bool {
        self.overdrawn.messages | self.back.messages == 0
    }
}
