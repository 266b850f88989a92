//! The mailboxes under every interleaving of a few workers (loom): no wake-up is lost, no mail is lost,
//! doubled or out of order.
//!
//! A worker that sleeps waits for its bell alone, so a lost wake-up is a deadlock, which loom reports.
//!
//! Loom's limits: its `SeqCst` fences synchronise with every earlier one, where C11 only orders them. That is
//! all the sleep flag needs (of a flag and a mailbox, each written before a fence and read behind one, not both
//! reads see the old value), and the mail itself is handed over by the mutex. And it orders an atomic's stores
//! only as far as threads have seen them, so a swap that changed nothing could hide another's newer store,
//! which no machine does; the flag is taken down by an exchange that then writes nothing.

use std::{sync::Arc, time::Duration};

use loom::{model::Builder, sync::Notify, thread};

use super::*;
use crate::broker::{
    home::{Delivery, Head},
    ids::{ConnectionId, Epoch, Key, Mark, Offset, Position},
    log::Unit,
    name::TopicName,
};

const A: WorkerId = WorkerId(0);
const B: WorkerId = WorkerId(1);
const C: WorkerId = WorkerId(2);

/// Mailboxes, and what each worker waits for when it sleeps.
struct World {
    post: Post<()>,
    bells: Vec<Arc<Notify>>,
}

impl World {
    fn new(workers: usize) -> Arc<World> {
        let bells: Vec<_> = (0..workers).map(|_| Arc::new(Notify::new())).collect();
        let wake = |bell: &Arc<Notify>| {
            let bell = Arc::clone(bell);
            Arc::new(move || bell.notify()) as Wake
        };
        Arc::new(World { post: Post::new(bells.iter().map(wake).collect(), 2), bells })
    }

    /// What a worker does between two turns: it sleeps, if it may, until it is woken.
    fn rest(&self, me: WorkerId) {
        if self.post.sleep(me) {
            self.bells[me.index()].wait();
        } else {
            // It goes round for mail that it may find locked: the model must let the holder go on.
            thread::yield_now();
        }
        self.post.awake(me);
    }

    /// Takes what `from` sent, and adds it to `got`.
    fn take(&self, from: WorkerId, to: WorkerId, got: &mut Vec<u8>) {
        let mut mail = Batch::default();
        self.post.take(from, to, &mut mail);
        got.extend(mail.requests().flat_map(|(_, unit)| unit.bytes().to_vec()));
    }

    /// Nothing is left, and the flags know it.
    fn assert_empty(&self) {
        for mailbox in &self.post.boxes {
            assert!(mailbox.batch.lock().unwrap().is_empty());
            assert!(!mailbox.full.load(Ordering::Relaxed));
        }
        assert!(self.post.letterboxes.iter().all(|letterbox| !letterbox.is_full()));
    }

    /// Takes what was asked from outside, gives the credits back, and adds it to `got`.
    fn take_orders(&self, me: WorkerId, got: &mut Vec<u8>) {
        let (mut orders, mut account) = (VecDeque::new(), Account::default());
        self.post.take_orders(me, &mut orders);
        for order in orders {
            account.give_back(order.cost());
            let Order::Broadcast { frame } = order else { panic!("only broadcasts are posted here") };
            got.extend(frame);
        }
        self.post.settle(me, &mut account, Patience::Now);
    }
}

fn write(mail: &mut Batch<()>, number: u8) {
    let sender = ConnectionId { worker: A, generation: 0, slot: 0 };
    mail.publish(TopicName::parse("t").unwrap(), Unit::Borrowed(&[number]), Delivery::default(), sender);
}

fn letter(number: u8) -> Batch<()> {
    let mut mail = Batch::default();
    write(&mut mail, number);
    mail
}

/// Runs `model` under every interleaving; with `preemptions`, under those with at most so many switches away
/// from a worker that could go on.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

#[test]
fn a_sleeper_is_woken_for_its_mail() {
    check(None, || {
        let world = World::new(2);
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for number in [1, 2] {
                    world.post.put(A, B, &mut letter(number), Patience::Now);
                }
            })
        };
        let mut got = Vec::new();
        while got.len() < 2 {
            world.rest(B);
            world.take(A, B, &mut got);
        }
        sender.join().unwrap();
        assert_eq!(got, [1, 2]);
        world.assert_empty();
    });
}

#[test]
fn two_who_write_to_each_other_both_wake() {
    check(None, || {
        let world = World::new(2);
        let run = |world: &World, me: WorkerId, other: WorkerId, number: u8| {
            world.post.put(me, other, &mut letter(number), Patience::Now);
            let mut got = Vec::new();
            while got.is_empty() {
                world.rest(me);
                world.take(other, me, &mut got);
            }
            got
        };
        let a = {
            let world = Arc::clone(&world);
            thread::spawn(move || run(&world, A, B, 1))
        };
        assert_eq!(run(&world, B, A, 2), [1]);
        assert_eq!(a.join().unwrap(), [2]);
        world.assert_empty();
    });
}

#[test]
fn two_senders_to_one_sleeper() {
    check(Some(3), || {
        let world = World::new(3);
        let senders = [A, C].map(|from| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.post.put(from, B, &mut letter(1), Patience::Now))
        });
        let (mut from_a, mut from_c) = (Vec::new(), Vec::new());
        while from_a.len() + from_c.len() < 2 {
            world.rest(B);
            world.take(A, B, &mut from_a);
            world.take(C, B, &mut from_c);
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!((from_a, from_c), (vec![1], vec![1]));
        world.assert_empty();
    });
}

/// An order with a number, and the time until which a thread waits for room.
fn order(number: u8) -> (Order, Option<Instant>) {
    let frame = bytes::Bytes::copy_from_slice(&[number]);
    (Order::Broadcast { frame }, Some(Instant::now() + Duration::from_secs(3600)))
}

/// Threads outside share one letterbox; each one's orders come once and in order.
#[test]
fn two_from_outside_and_a_sleeper() {
    check(Some(2), || {
        let world = World::new(1);
        let outside = [[1, 2], [11, 12]].map(|numbers| {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for (order, until) in numbers.map(order) {
                    assert_eq!(world.post.order(A, &order, until), Ok(()));
                }
            })
        });
        let mut got = Vec::new();
        while got.len() < 4 {
            world.rest(A);
            world.take_orders(A, &mut got);
        }
        outside.into_iter().for_each(|thread| thread.join().unwrap());
        let (ones, tens): (Vec<_>, Vec<_>) = got.into_iter().partition(|number| *number < 10);
        assert_eq!((ones, tens), (vec![1, 2], vec![11, 12]));
        world.assert_empty();
    });
}

/// Who waits for room is woken for it: there is room for two orders, and the third waits.
#[test]
fn who_waits_for_room_gets_it() {
    check(Some(3), || {
        let world = World::new(1);
        let outside = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                for (order, until) in [1, 2, 3].map(order) {
                    assert_eq!(world.post.order(A, &order, until), Ok(()));
                }
            })
        };
        let mut got = Vec::new();
        while got.len() < 3 {
            world.rest(A);
            world.take_orders(A, &mut got);
        }
        outside.join().unwrap();
        assert_eq!(got, [1, 2, 3]);
        world.assert_empty();
    });
}

/// Broadcasts meet: all workers get them in one order.
#[test]
fn broadcasts_have_one_order_everywhere() {
    check(None, || {
        let world = World::new(2);
        let broadcast = |world: &World, number: u8| {
            let (order, until) = order(number);
            assert_eq!(world.post.order_all(&order, until), Ok(()));
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || broadcast(&world, 1))
        };
        broadcast(&world, 2);
        other.join().unwrap();
        let [of_a, of_b] = [A, B].map(|worker| {
            let mut got = Vec::new();
            world.take_orders(worker, &mut got);
            got
        });
        assert_eq!((of_a.len(), &of_a), (2, &of_b));
        world.assert_empty();
    });
}

/// Who waits for room at a worker that ends is told.
#[test]
fn the_end_of_a_worker_releases_who_waits() {
    check(Some(3), || {
        let world = World::new(1);
        let outside = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                [1, 2, 3].map(order).map(|(order, until)| world.post.order(A, &order, until))
            })
        };
        world.post.end(A);
        assert_eq!(outside.join().unwrap()[2], Err(NotPosted::Ended));
        world.assert_empty();
    });
}

/// A sender that finds the mailbox locked keeps its mail, and its next letters go behind it.
#[test]
fn mail_that_met_a_locked_mailbox_comes_once_and_in_order() {
    check(None, || {
        let world = World::new(2);
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut mail = Batch::default();
                for number in [1, 2, 3] {
                    write(&mut mail, number);
                    let patience = if number == 3 { Patience::Now } else { Patience::Later };
                    world.post.put(A, B, &mut mail, patience);
                }
                assert!(mail.is_empty(), "who is about to sleep keeps nothing");
            })
        };
        let mut got = Vec::new();
        for _ in 0..3 {
            world.take(A, B, &mut got);
        }
        sender.join().unwrap();
        assert_eq!(world.post.waits(B), got.len() < 3);
        world.take(A, B, &mut got);
        assert_eq!(got, [1, 2, 3]);
        world.assert_empty();
    });
}

/// State is replaced in the mailbox or behind the receiver's back, but the newest always arrives, and last.
#[test]
fn the_newest_head_arrives_last() {
    check(Some(3), || {
        let world = World::new(2);
        let key = Key { index: 1, generation: 1 };
        let head = move |offset| Head {
            lane: key,
            topic: key,
            epoch: Epoch(1),
            from: Mark::START,
            head: Mark { position: Position::START, offset: Offset(offset) },
            extents: smallvec::SmallVec::new(),
            notes: Vec::new(),
            hurried: false,
        };
        let sender = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let mut mail = Batch::default();
                for offset in [1, 2, 3] {
                    mail.head(head(offset));
                    world.post.put(A, B, &mut mail, Patience::Now);
                }
            })
        };
        let mut seen = 0;
        while seen < 3 {
            world.rest(B);
            let mut mail = Batch::default();
            world.post.take(A, B, &mut mail);
            assert!(mail.heads.len() <= 1);
            for head in &mail.heads {
                assert!(head.head.offset.0 > seen);
                seen = head.head.offset.0;
            }
        }
        sender.join().unwrap();
        world.assert_empty();
    });
}
