//! What workers send each other.
//!
//! One mailbox per ordered pair of workers, posted once per slice and taken whole by a swap. Three kinds:
//! - *state* (heads, floors): the newest replaces what was not taken yet, so it can't overflow;
//! - *requests* (messages for a topic whose home is elsewhere): limited by credits, see [`Outbox`];
//! - *control* (join, leave, refused) and sockets: at most one of each per lane or connection.
//!
//! A sender that finds a mailbox locked keeps its mail for the next slice: nobody ever waits for a worker
//! that the system has descheduled. A worker is woken only if it sleeps ([`Post::sleep`]).

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::driver::Wake;
use crate::broker::{
    home::Head,
    ids::{ConnectionId, Key, Mark, WorkerId},
    log::Unit,
    name::TopicName,
};

/// Bytes of messages under way between two workers, beyond which no further message is sent; one of any
/// size always may.
pub const MAIL_BYTES_MAX: usize = 1 << 20;

/// News of subscriptions between a worker and a topic's home, in order.
#[derive(Clone, Debug)]
pub enum Control {
    /// The worker has subscriptions now.
    Join(TopicName, Key),
    /// It has none any more.
    Leave(TopicName, Key),
    /// To the worker: the lane's topic can't be created, there are too many.
    Refused(Key),
    /// To the worker: this connection's message was dropped, for the same reason.
    Dropped(ConnectionId),
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
    /// Whose subscription must not get it.
    pub exclude: Option<ConnectionId>,
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
    /// At most one per topic.
    pub floors: Vec<Floor>,
    floor_of: HashMap<Key, usize, FixedState>,
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

    /// A floor; takes the place of an older one for the same topic.
    pub fn floor(&mut self, floor: Floor) {
        match self.floor_of.get(&floor.topic) {
            Some(&at) => self.floors[at] = floor,
            None => {
                self.floor_of.insert(floor.topic, self.floors.len());
                self.floors.push(floor);
            }
        }
    }

    fn publish(
        &mut self,
        topic: TopicName,
        unit: Unit<'_>,
        exclude: Option<ConnectionId>,
        sender: ConnectionId,
    ) {
        let unit = match unit {
            Unit::Owned(bytes) => Carried::Owned(bytes),
            Unit::Borrowed(bytes) => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                Carried::Copied { start, len: bytes.len() }
            }
        };
        self.requests.push(Publish { topic, exclude, sender, unit });
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

    /// Empties it for reuse. Room for an unusual burst is given back.
    pub fn clear(&mut self) {
        self.control.clear();
        self.heads.clear();
        self.head_of.clear();
        self.floors.clear();
        self.floor_of.clear();
        self.requests.clear();
        self.bytes.clear();
        self.bytes.shrink_to(MAIL_BYTES_MAX);
        self.credits = Credits::default();
        self.sockets.clear();
    }

    /// Appends what came later.
    fn append(&mut self, later: &mut Batch<S>) {
        self.control.append(&mut later.control);
        later.heads.drain(..).for_each(|head| self.head(head));
        later.floors.drain(..).for_each(|floor| self.floor(floor));
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

struct Mailbox<S> {
    full: AtomicBool,
    batch: Mutex<Batch<S>>,
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
    /// Mailboxes between as many workers as there are bells.
    pub fn new(bells: Vec<Wake>) -> Post<S> {
        let workers = bells.len();
        let mailbox = || Mailbox { full: AtomicBool::new(false), batch: Mutex::new(Batch::default()) };
        Post {
            workers,
            boxes: (0..workers * workers).map(|_| mailbox()).collect(),
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
        let Some(mut batch) = lock(&mailbox.batch, patience) else { return };
        if batch.is_empty() {
            std::mem::swap(&mut *batch, mail);
        } else {
            batch.append(mail);
        }
        mailbox.full.store(true, Ordering::Release);
        drop(batch);
        self.ring(to);
    }

    /// Takes all mail from one sender into `mail`, which must be empty.
    pub fn take(&self, from: WorkerId, to: WorkerId, mail: &mut Batch<S>) {
        debug_assert!(mail.is_empty());
        let mailbox = self.mailbox(from, to);
        if !mailbox.full.load(Ordering::Acquire) {
            return;
        }
        if let Some(mut batch) = lock(&mailbox.batch, Patience::Later) {
            std::mem::swap(&mut *batch, mail);
            mailbox.full.store(false, Ordering::Release);
        }
    }

    /// Whether any mail waits for `to`.
    pub fn waits(&self, to: WorkerId) -> bool {
        (0..self.workers)
            .any(|from| self.boxes[from * self.workers + to.index()].full.load(Ordering::Acquire))
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
        let bell = &self.bells[to.index()];
        if bell.sleeps.load(Ordering::Relaxed) && bell.sleeps.swap(false, Ordering::Relaxed) {
            (bell.wake)();
        }
    }

    /// Wakes everybody, asleep or not: something outside the mail has changed.
    pub fn ring_all(&self) {
        self.bells.iter().for_each(|bell| (bell.wake)());
    }

    fn mailbox(&self, from: WorkerId, to: WorkerId) -> &Mailbox<S> {
        &self.boxes[from.index() * self.workers + to.index()]
    }
}

fn lock<T>(mutex: &Mutex<T>, patience: Patience) -> Option<MutexGuard<'_, T>> {
    match patience {
        Patience::Now => Some(mutex.lock().unwrap_or_else(PoisonError::into_inner)),
        Patience::Later => match mutex.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        },
    }
}

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
}

struct Waiting {
    topic: TopicName,
    unit: Bytes,
    exclude: Option<ConnectionId>,
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
        }
    }

    /// Sends a message to its topic's home, now or as soon as there is credit.
    pub fn publish(
        &mut self,
        topic: &TopicName,
        unit: Unit<'_>,
        exclude: Option<ConnectionId>,
        sender: ConnectionId,
    ) -> Requested {
        if self.waiting.is_empty() && self.has_credit() {
            self.send(topic.clone(), unit, exclude, sender);
            return Requested::Taken;
        }
        self.waiting.push_back(Waiting { topic: topic.clone(), unit: unit.into_owned(), exclude, sender });
        Requested::Held
    }

    /// Credits came back: sends what waits. `released` hears whose message has gone.
    pub fn credit(&mut self, back: Credits, mut released: impl FnMut(ConnectionId)) {
        self.under_way.messages -= back.messages;
        self.under_way.bytes -= back.bytes;
        while self.has_credit()
            && let Some(waiting) = self.waiting.pop_front()
        {
            released(waiting.sender);
            self.send(waiting.topic, Unit::Owned(waiting.unit), waiting.exclude, waiting.sender);
        }
    }

    fn send(
        &mut self,
        topic: TopicName,
        unit: Unit<'_>,
        exclude: Option<ConnectionId>,
        sender: ConnectionId,
    ) {
        self.under_way.messages += 1;
        self.under_way.bytes += unit.bytes().len();
        self.batch.publish(topic, unit, exclude, sender);
    }

    fn has_credit(&self) -> bool {
        self.under_way.messages < self.messages_max && self.under_way.bytes < MAIL_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ids::{Epoch, Offset, Position};
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
        Post::new(vec![bell(), bell()])
    }

    fn head(lane: u32, offset: u64) -> Head {
        let key = Key { index: lane, generation: 0 };
        let head = Mark { position: Position(Position::START.0 + offset), offset: Offset(offset) };
        Head {
            lane: key,
            topic: key,
            epoch: Epoch(1),
            head,
            extents: smallvec::SmallVec::new(),
            excepts: Vec::new(),
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
            out.publish(&topic(), Unit::Borrowed(text.as_bytes()), None, sender(1));
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
        let outcomes =
            [1, 2, 3, 4].map(|n| out.publish(&topic(), Unit::Borrowed(&[n]), None, sender(n.into())));
        assert_eq!(outcomes, [Requested::Taken, Requested::Taken, Requested::Held, Requested::Held]);
        out.batch.clear();
        let mut released = Vec::new();
        out.credit(Credits { messages: 1, bytes: 1 }, |sender| released.push(sender.slot));
        assert_eq!(released, [3]);
        assert_eq!(out.batch.requests().count(), 1);
        out.credit(Credits { messages: 2, bytes: 2 }, |sender| released.push(sender.slot));
        assert_eq!(released, [3, 4]);
    }

    #[test]
    fn one_message_of_any_size_may_go() {
        let mut out = Outbox::<()>::new(100);
        let large = Bytes::from(vec![0; 2 * MAIL_BYTES_MAX]);
        assert_eq!(out.publish(&topic(), Unit::Owned(large), None, sender(0)), Requested::Taken);
        assert_eq!(out.publish(&topic(), Unit::Borrowed(b"x"), None, sender(0)), Requested::Held);
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
