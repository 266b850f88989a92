//! Mailboxes between workers, a letterbox of each for threads that are none, and the bells that wake those who
//! sleep.
//!
//! A sender that finds a mailbox locked keeps its mail for the next turn: nobody ever waits for a worker
//! that the system has descheduled. A worker is woken only if it sleeps ([`Post::sleep`]).

use std::{
    collections::VecDeque,
    sync::{PoisonError, TryLockError, atomic::Ordering},
    time::Instant,
};

use super::{
    driver::Wake,
    letterbox::{self, Account, Letterbox, NotPosted, Order},
    mail::Batch,
    sync::{AtomicBool, Mutex, MutexGuard, fence},
};
use crate::broker::ids::WorkerId;

struct Mailbox<S> {
    full: AtomicBool,
    batch: Mutex<Batch<S>>,
    /// A simulation pretends that somebody holds the lock.
    jammed: AtomicBool,
}

impl<S> Mailbox<S> {
    fn new() -> Mailbox<S> {
        Mailbox {
            full: AtomicBool::new(false),
            batch: Mutex::new(Batch::default()),
            jammed: AtomicBool::new(false),
        }
    }

    fn lock(&self, patience: Patience) -> Option<MutexGuard<'_, Batch<S>>> {
        match patience {
            Patience::Now => Some(self.batch.lock().unwrap_or_else(PoisonError::into_inner)),
            Patience::Later if self.jammed.load(Ordering::Relaxed) => None,
            Patience::Later => match self.batch.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            },
        }
    }
}

struct Bell {
    sleeps: AtomicBool,
    wake: Wake,
}

/// All mailboxes and bells of the process.
pub struct Post<S> {
    workers: usize,
    /// From worker `i` to worker `j` at `i * workers + j`.
    boxes: Vec<Mailbox<S>>,
    /// From outside, to each worker.
    letterboxes: Vec<Letterbox>,
    /// Orders under way in a letterbox at most.
    orders_max: usize,
    bells: Vec<Bell>,
}

/// Whether a sender may wait for a locked mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// It has other work: the mail is kept for the next slice.
    Later,
    /// It is about to sleep: the mail must go now. Holders only swap or append, so this is short.
    Now,
}

impl<S> Post<S> {
    /// Mailboxes between as many workers as there are bells, and letterboxes that hold `orders_max` (≥ 1) each.
    pub fn new(bells: Vec<Wake>, orders_max: usize) -> Post<S> {
        let workers = bells.len();
        Post {
            workers,
            boxes: (0..workers * workers).map(|_| Mailbox::new()).collect(),
            letterboxes: bells.iter().map(|_| Letterbox::new()).collect(),
            orders_max,
            bells: bells.into_iter().map(|wake| Bell { sleeps: AtomicBool::new(false), wake }).collect(),
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Puts `mail` into the mailbox and wakes its owner if it sleeps. Mail that was not put stays in place.
    pub fn put(&self, from: WorkerId, to: WorkerId, mail: &mut Batch<S>, patience: Patience) {
        if mail.is_empty() {
            return;
        }
        let mailbox = self.mailbox(from, to);
        let Some(mut batch) = mailbox.lock(patience) else { return };
        if batch.is_empty() {
            std::mem::swap(&mut *batch, mail);
        } else {
            batch.append(mail);
        }
        mailbox.full.store(true, Ordering::Release);
        drop(batch);
        self.ring(to);
    }

    /// Whether mail from one sender waits.
    pub fn has_mail(&self, from: WorkerId, to: WorkerId) -> bool {
        self.mailbox(from, to).full.load(Ordering::Acquire)
    }

    /// Takes all mail from one sender into `mail`, which must be empty.
    pub fn take(&self, from: WorkerId, to: WorkerId, mail: &mut Batch<S>) {
        debug_assert!(mail.is_empty());
        if !self.has_mail(from, to) {
            return;
        }
        let mailbox = self.mailbox(from, to);
        if let Some(mut batch) = mailbox.lock(Patience::Later) {
            std::mem::swap(&mut *batch, mail);
            mailbox.full.store(false, Ordering::Release);
        }
    }

    /// Asks one worker for something, from outside of all of them. Waits for room until the given time.
    ///
    /// # Errors
    /// There is none, or the worker has ended.
    pub fn order(&self, to: WorkerId, order: &Order, until: Option<Instant>) -> Result<(), NotPosted> {
        let letterbox = std::slice::from_ref(&self.letterboxes[to.index()]);
        letterbox::post(letterbox, order, self.orders_max, until)?;
        self.ring(to);
        Ok(())
    }

    /// Asks all workers, or none of them.
    ///
    /// # Errors
    /// There is no room at one of them, or one has ended.
    pub fn order_all(&self, order: &Order, until: Option<Instant>) -> Result<(), NotPosted> {
        letterbox::post(&self.letterboxes, order, self.orders_max, until)?;
        self.all().for_each(|to| self.ring(to));
        Ok(())
    }

    /// Takes what was asked of `me` from outside, behind what is in `orders`.
    pub fn take_orders(&self, me: WorkerId, orders: &mut VecDeque<Order>) {
        self.letterboxes[me.index()].take(orders);
    }

    /// Gives back the credits of what was asked from outside and is done.
    pub fn settle(&self, me: WorkerId, account: &mut Account, patience: Patience) {
        self.letterboxes[me.index()].settle(account, patience);
    }

    /// `me` has ended: nothing can be asked of it any more.
    pub fn end(&self, me: WorkerId) {
        self.letterboxes[me.index()].end();
    }

    /// Whether any worker has ended.
    pub fn has_ended(&self) -> bool {
        self.letterboxes.iter().any(Letterbox::has_ended)
    }

    fn all(&self) -> impl Iterator<Item = WorkerId> {
        (0..self.workers).map(|worker| WorkerId(u16::try_from(worker).expect("at most 256 workers")))
    }

    /// Whether any mail waits for `to`.
    pub fn waits(&self, to: WorkerId) -> bool {
        (0..self.workers)
            .any(|from| self.boxes[from * self.workers + to.index()].full.load(Ordering::Acquire))
            || self.letterboxes[to.index()].is_full()
    }

    /// `me` is going to sleep. True if it may: no mail waits. From now on a sender wakes it.
    ///
    /// Either the sender sees the flag and wakes, or this look at the mailboxes sees the mail: the two
    /// fences leave no third case.
    pub fn sleep(&self, me: WorkerId) -> bool {
        self.bells[me.index()].sleeps.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.waits(me) {
            self.awake(me);
            return false;
        }
        true
    }

    /// `me` is awake again: nobody needs to wake it.
    pub fn awake(&self, me: WorkerId) {
        self.bells[me.index()].sleeps.store(false, Ordering::Relaxed);
    }

    /// Wakes `to` if it sleeps.
    pub fn ring(&self, to: WorkerId) {
        fence(Ordering::SeqCst);
        let Bell { sleeps, wake } = &self.bells[to.index()];
        // Who takes the flag down wakes. Where it is down already nothing is written.
        if sleeps.load(Ordering::Relaxed)
            && sleeps.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            wake();
        }
    }

    /// Wakes everybody, asleep or not: something outside the mail has changed.
    pub fn ring_all(&self) {
        self.bells.iter().for_each(|bell| (bell.wake)());
    }

    /// For simulations: until it is called with `false`, who does not wait for the lock does not get it.
    pub fn jam(&self, from: WorkerId, to: WorkerId, jammed: bool) {
        self.mailbox(from, to).jammed.store(jammed, Ordering::Relaxed);
    }

    fn mailbox(&self, from: WorkerId, to: WorkerId) -> &Mailbox<S> {
        &self.boxes[from.index() * self.workers + to.index()]
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{
            home::{Delivery, Head},
            ids::{ConnectionId, Epoch, Key, Mark, Offset, Position},
            log::Unit,
            name::TopicName,
        },
        engine::{
            mail::{Credits, MAIL_BYTES_MAX},
            outbox::{Outbox, Requested},
        },
    };
    use bytes::Bytes;
    use std::sync::{Arc, atomic::AtomicUsize};

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    fn post(rings: &Arc<AtomicUsize>) -> Post<()> {
        let bell = || {
            let rings = Arc::clone(rings);
            Arc::new(move || {
                rings.fetch_add(1, Ordering::SeqCst);
            }) as Wake
        };
        Post::new(vec![bell(), bell()], 2)
    }

    fn head(lane: u32, offset: u64) -> Head {
        let key = Key { index: lane, generation: 0 };
        let head = Mark { position: Position(Position::START.0 + offset), offset: Offset(offset) };
        Head {
            lane: key,
            topic: key,
            epoch: Epoch(1),
            from: head,
            head,
            extents: smallvec::SmallVec::new(),
            notes: Vec::new(),
            hurried: false,
        }
    }

    fn sender(slot: u32) -> ConnectionId {
        ConnectionId { worker: A, generation: 0, slot }
    }

    fn topic() -> TopicName {
        TopicName::parse("t").unwrap()
    }

    #[test]
    fn mail_arrives_once_and_in_order() {
        let post = post(&Arc::default());
        let mut out = Outbox::<()>::new(100);
        for text in ["one", "two", "three"] {
            out.publish(&topic(), Unit::Borrowed(text.as_bytes()), Delivery::default(), sender(1));
            post.put(A, B, &mut out.batch, Patience::Later);
            assert!(out.batch.is_empty());
        }
        let mut mail = Batch::default();
        post.take(A, B, &mut mail);
        let texts: Vec<_> = mail.requests().map(|(_, unit)| unit.bytes().to_vec()).collect();
        assert_eq!(texts, [&b"one"[..], b"two", b"three"]);
        let mut again = Batch::default();
        post.take(A, B, &mut again);
        assert!(again.is_empty() && !post.waits(B));
    }

    #[test]
    fn state_that_was_not_taken_is_replaced() {
        let post = post(&Arc::default());
        let mut out = Batch::<()>::default();
        for offset in 1..100 {
            out.head(head(7, offset));
            out.head(head(8, offset));
            post.put(A, B, &mut out, Patience::Later);
        }
        let mut mail = Batch::default();
        post.take(A, B, &mut mail);
        assert_eq!(mail.heads.len(), 2);
        assert!(mail.heads.iter().all(|head| head.head.offset == Offset(99)));
    }

    #[test]
    fn without_credit_requests_wait_and_come_later_in_order() {
        let mut out = Outbox::<()>::new(2);
        let outcomes = [1, 2, 3, 4]
            .map(|n| out.publish(&topic(), Unit::Borrowed(&[n]), Delivery::default(), sender(n.into())));
        assert_eq!(outcomes, [Requested::Taken, Requested::Taken, Requested::Held, Requested::Held]);
        out.batch.clear();
        let mut released = Vec::new();
        out.credit(Credits { messages: 1, bytes: 1 }, |sender, _| released.push(sender.slot));
        assert_eq!(released, [3]);
        assert_eq!(out.batch.requests().count(), 1);
        out.credit(Credits { messages: 2, bytes: 2 }, |sender, _| released.push(sender.slot));
        assert_eq!(released, [3, 4]);
    }

    #[test]
    fn one_message_of_any_size_may_go() {
        let mut out = Outbox::<()>::new(100);
        let large = Bytes::from(vec![0; 2 * MAIL_BYTES_MAX]);
        assert_eq!(
            out.publish(&topic(), Unit::Owned(large), Delivery::default(), sender(0)),
            Requested::Taken
        );
        assert_eq!(
            out.publish(&topic(), Unit::Borrowed(b"x"), Delivery::default(), sender(0)),
            Requested::Held
        );
    }

    #[test]
    fn only_sleepers_are_woken() {
        let rings = Arc::<AtomicUsize>::default();
        let post = post(&rings);
        let mut out = Batch::<()>::default();
        out.head(head(1, 1));
        post.put(A, B, &mut out, Patience::Now);
        assert_eq!(rings.load(Ordering::SeqCst), 0);
        assert!(!post.sleep(B), "mail waits");
        post.take(A, B, &mut Batch::default());
        assert!(post.sleep(B));
        out.head(head(1, 2));
        post.put(A, B, &mut out, Patience::Now);
        out.head(head(1, 3));
        post.put(A, B, &mut out, Patience::Now);
        assert_eq!(rings.load(Ordering::SeqCst), 1, "once is enough");
    }

    #[test]
    fn a_locked_mailbox_stalls_nobody() {
        let post = post(&Arc::default());
        let mut out = Batch::<()>::default();
        out.head(head(1, 1));
        let guard = post.boxes[1].batch.lock().unwrap();
        post.put(A, B, &mut out, Patience::Later);
        assert!(!out.is_empty(), "kept");
        drop(guard);
        post.put(A, B, &mut out, Patience::Later);
        assert!(out.is_empty() && post.waits(B));
    }
}
