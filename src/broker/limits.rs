//! Bounds that the broker keeps, and the shared gauges behind two of them.
//!
//! The gauges are atomics: they are among the few named exceptions to "nothing shared but immutable bytes".

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How far a subscription may lag behind the head of its topic before its policy acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Bytes on the wire.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
}

impl Window {
    /// What publishers may be ahead of the slowest *swept* subscription: a quarter of the lag bound. So a
    /// subscription whose socket begins to refuse bytes has most of the bound before it, also when a lap
    /// passes before it is visited again, and is not called slow for a lag that was the server's own.
    pub fn for_publishers(self) -> Window {
        Window { bytes: self.bytes / 4, messages: self.messages.div_ceil(4) }
    }
}

/// A bounded count that several workers share: bytes of all logs, number of topics.
#[derive(Debug)]
pub struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    /// A gauge that stands at 0 and goes up to `max`.
    pub fn new(max: usize) -> Arc<Gauge> {
        Arc::new(Gauge { used: AtomicUsize::new(0), max })
    }

    /// What is charged now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes `amount` for as long as the returned charge lives. `None` where the bound would be passed.
    pub fn charge(self: &Arc<Self>, amount: usize) -> Option<Charge> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(amount).filter(|&sum| sum <= self.max)
            })
            .is_ok();
        taken.then(|| Charge { gauge: Arc::clone(self), amount })
    }
}

/// An amount taken from a [`Gauge`]; given back on drop.
#[derive(Debug)]
pub struct Charge {
    gauge: Arc<Gauge>,
    amount: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.gauge.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_and_the_bound_holds() {
        let gauge = Gauge::new(10);
        let first = gauge.charge(6).unwrap();
        assert!(gauge.charge(5).is_none());
        let second = gauge.charge(4).unwrap();
        assert_eq!(gauge.used(), 10);
        drop(first);
        assert_eq!(gauge.used(), 4);
        drop(second);
        assert_eq!(gauge.used(), 0);
    }
}
