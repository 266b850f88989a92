//! When is a message done? When the last subscriber has it. Kept cheap: one atomic operation per message and
//! thread, none per delivery.
//!
//! A thread counts receipts of its own subscriptions in a [`Tally`]; when all of them have a message, its share is
//! done. A [`Completion`] counts the shares. Both remember a window of messages per publisher: a message that is
//! not done when its slot is needed again is given up (it is lost, or the server is a whole window behind).

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mio::Waker;

/// Messages that the windows of all publishers together remember.
const SLOTS: usize = 1 << 18;

/// Messages per publisher to remember, a power of two: enough that `outstanding` messages never meet.
pub(super) fn window(publishers: usize, outstanding: u64) -> usize {
    let share = (SLOTS / publishers).clamp(64, 16_384);
    share.max(outstanding as usize * 4).next_power_of_two()
}

/// Shares of every message that are still to be done, across threads.
#[derive(Debug)]
pub(super) struct Completion {
    /// Per publisher and slot: sequence in the upper half, shares to come in the lower.
    slots: Vec<AtomicU64>,
    window: usize,
    done: AtomicU64,
    waker: OnceLock<Arc<Waker>>,
    wake_under_way: AtomicBool,
}

impl Completion {
    /// For `publishers`, each with a window of `window` messages.
    pub(super) fn new(publishers: usize, window: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(|| AtomicU64::new(0)).take(publishers * window).collect(),
            window,
            done: AtomicU64::new(0),
            waker: OnceLock::new(),
            wake_under_way: AtomicBool::new(false),
        }
    }

    fn slot(&self, publisher: usize, sequence: u32) -> &AtomicU64 {
        &self.slots[publisher * self.window + (sequence as usize & (self.window - 1))]
    }

    /// A message is about to be sent; `shares` threads have subscribers for it. It takes the slot of an earlier
    /// message, which is given up if it is not done: then counts as done, and `false` is returned.
    pub(super) fn begin(&self, publisher: usize, sequence: u32, shares: u32) -> bool {
        let new = u64::from(sequence) << 32 | u64::from(shares);
        let given_up = self.slot(publisher, sequence).swap(new, Ordering::AcqRel) as u32 != 0;
        if given_up {
            self.done.fetch_add(1, Ordering::Release);
        }
        !given_up
    }

    /// All subscribers of one thread have it. `true` if it was the last thread.
    pub(super) fn share_done(&self, publisher: usize, sequence: u32) -> bool {
        let slot = self.slot(publisher, sequence);
        let mut current = slot.load(Ordering::Acquire);
        loop {
            if (current >> 32) as u32 != sequence || current as u32 == 0 {
                return false;
            }
            match slot.compare_exchange_weak(current, current - 1, Ordering::AcqRel, Ordering::Acquire) {
                Err(other) => current = other,
                Ok(_) => break,
            }
        }
        let last = current as u32 == 1;
        if last {
            self.done.fetch_add(1, Ordering::Release);
        }
        last
    }

    /// Messages done or given up.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Names whom to wake when messages are done.
    pub(super) fn set_waker(&self, waker: Arc<Waker>) {
        self.waker.set(waker).expect("there is one publishing thread");
    }

    /// Wakes the publishing thread, once for any number of messages.
    pub(super) fn wake(&self) {
        if !self.wake_under_way.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            // An eventfd that cannot be written to is full, and so has woken the thread already.
            let _ = waker.wake();
        }
    }

    /// The publishing thread is awake and reads `done` after this.
    pub(super) fn woken(&self) {
        self.wake_under_way.swap(false, Ordering::AcqRel);
    }
}

/// Receipts of one thread.
#[derive(Debug)]
pub(super) struct Tally {
    /// Per publisher and slot: sequence, receipts to come.
    slots: Vec<(u32, u32)>,
    window: usize,
    /// Subscribers of each topic that this thread holds.
    subscribers: Vec<u32>,
}

impl Tally {
    /// For `publishers` with windows of `window`; this thread has `subscribers[topic]` subscribers per topic.
    pub(super) fn new(publishers: usize, window: usize, subscribers: Vec<u32>) -> Self {
        // No message has the last sequence: publishers stop before it.
        Self { slots: vec![(u32::MAX, 0); publishers * window], window, subscribers }
    }

    /// One of this thread's subscribers has received the message for the first time. `true` if it was the last.
    #[inline]
    pub(super) fn receive(&mut self, publisher: usize, sequence: u32) -> bool {
        let slot = &mut self.slots[publisher * self.window + (sequence as usize & (self.window - 1))];
        if slot.0 != sequence {
            if slot.0 != u32::MAX && slot.0 > sequence {
                return false;
            }
            *slot = (sequence, self.subscribers[publisher % self.subscribers.len()]);
        }
        slot.1 = slot.1.wrapping_sub(1);
        slot.1 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_is_outstanding() {
        assert_eq!(
            [window(1, 1), window(4096, 1), window(65_536, 1), window(1, 5000)],
            [16_384, 64, 64, 32_768]
        );
    }

    #[test]
    fn done_with_the_last_share() {
        let completion = Completion::new(2, 4);
        assert!(completion.begin(1, 6, 2));
        assert!(!completion.share_done(1, 6));
        assert_eq!(completion.done(), 0);
        assert!(completion.share_done(1, 6));
        assert_eq!(completion.done(), 1);
        assert!(!completion.share_done(1, 6), "a share too many is ignored");
        assert!(!completion.share_done(0, 6), "another publisher's");
    }

    #[test]
    fn a_message_that_is_never_done_is_given_up() {
        let completion = Completion::new(1, 4);
        assert!(completion.begin(0, 0, 1));
        assert!(!completion.begin(0, 4, 1));
        assert_eq!(completion.done(), 1);
        assert!(!completion.share_done(0, 0), "too late");
        assert!(completion.share_done(0, 4));
        assert_eq!(completion.done(), 2);
    }

    #[test]
    fn tallies_count_per_topic() {
        // Publisher 0 has topic 0 with two subscribers here, publisher 1 topic 1 with one.
        let mut tally = Tally::new(2, 4, vec![2, 1]);
        assert!(!tally.receive(0, 0));
        assert!(tally.receive(1, 0));
        assert!(!tally.receive(0, 1));
        assert!(tally.receive(0, 0));
        assert!(tally.receive(0, 1));
        assert!(!tally.receive(0, 5) && !tally.receive(0, 1), "its slot has gone to a later message");
        assert!(tally.receive(0, 5));
    }
}
