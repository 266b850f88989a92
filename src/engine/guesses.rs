//! Wrong keys of the server API, counted by address: whoever presents one after another is told to slow down. Right keys are
//! never held up by it, so that nobody locks out a backend that shares an address with it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use foldhash::fast::RandomState;

use super::shared::network;
use crate::broker::ids::Tick;

/// What a count begins anew after.
pub(super) const WINDOW: u32 = 60 * Tick::PER_SECOND;

/// Addresses that are remembered. Where there are more, further ones are not counted before some of these are forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// See the head of this file. A wrong key is rare, so one lock is enough.
pub(super) struct Guesses {
    max: u32,
    /// When an address' count began, and the count.
    counts: Mutex<HashMap<IpAddr, (Tick, u32), RandomState>>,
}

impl Guesses {
    /// So many are borne from one address within a minute.
    pub(super) fn new(max: u32) -> Guesses {
        Guesses { max, counts: Mutex::default() }
    }

    /// One more wrong key from `address`; false if that is one too many.
    pub(super) fn bears(&self, address: IpAddr, now: Tick) -> bool {
        let address = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if !counts.contains_key(&address) && counts.len() >= ADDRESSES_MAX {
            counts.retain(|_, (since, _)| now.since(*since) < WINDOW);
            if counts.len() >= ADDRESSES_MAX {
                return true;
            }
        }
        let (since, count) = counts.entry(address).or_insert((now, 0));
        if now.since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_counted_each_for_a_minute() {
        let guesses = Guesses::new(2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let bears = |address, at| guesses.bears(address, Tick(at));
        assert!(bears(one, 0) && bears(one, 5) && !bears(one, 6));
        assert!(bears(other, 6));
        assert!(!bears(one, WINDOW - 1) && bears(one, WINDOW));
    }

    #[test]
    fn so_many_addresses_are_remembered() {
        let guesses = Guesses::new(1);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let len = || guesses.counts.lock().unwrap().len();
        let max = u32::try_from(ADDRESSES_MAX).unwrap();
        (0..max + 100).for_each(|n| assert!(guesses.bears(address(n), Tick(0))));
        assert_eq!(len(), ADDRESSES_MAX);
        assert!(!guesses.bears(address(0), Tick(1)));
        assert!(guesses.bears(address(max + 1), Tick(WINDOW)));
        assert_eq!(len(), 1);
    }
}
