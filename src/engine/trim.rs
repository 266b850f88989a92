//! Memory that has become free goes back to the system.
//!
//! Topics, subscriptions and connections own small pieces of heap: names, boxes. The GNU allocator keeps those that are
//! freed for whoever comes next, and gives back only what lies at the end of a heap. So it is told to give back all of it
//! once most of what a worker had has gone. Never earlier: a page goes when nothing is left on it, and what survives at
//! random is on all of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::broker::home::mostly_unused;

/// The most pieces that a worker has had since most of them had gone.
#[derive(Debug, Default)]
pub(super) struct HighWater(usize);

impl HighWater {
    /// Notes how many there are.
    pub fn note(&mut self, len: usize) {
        self.0 = self.0.max(len);
    }

    /// Whether most of them have gone. True once: from then on what is left counts.
    pub fn has_ebbed(&mut self, len: usize) -> bool {
        let ebbed = mostly_unused(len, self.0);
        if ebbed {
            self.0 = len;
        }
        ebbed
    }
}

/// Gives free memory back, on a thread of its own: after a million topics that takes some ten milliseconds. A sweep, which
/// allocates nothing, goes on meanwhile; a worker that allocates waits until the allocator is through with its heap.
#[derive(Debug, Default)]
pub(super) struct Trimmer {
    /// How often it was asked for since the thread began; 0: there is none.
    asked: AtomicUsize,
}

impl Trimmer {
    /// Begins to give back what is free by now.
    pub fn ask(self: &Arc<Trimmer>) {
        if self.asked.fetch_add(1, Ordering::AcqRel) > 0 {
            // The thread may be past this worker's heap: it goes round once more.
            return;
        }
        let trimmer = Arc::clone(self);
        let thread = thread::Builder::new().name("trim".to_owned()).spawn(move || trimmer.run(trim));
        if let Err(error) = thread {
            self.asked.store(0, Ordering::Release);
            tracing::warn!(%error, "memory is not given back: the system gives no thread");
        }
    }

    /// Trims until nobody has asked meanwhile.
    fn run(&self, trim: impl Fn()) {
        loop {
            let asked = self.asked.load(Ordering::Acquire);
            trim();
            if self.asked.compare_exchange(asked, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }
}

/// What the allocator maps alone, and gives back at once: tables and queues that have grown, which then also grow
/// without a copy and leave no hole, and a busy topic's segments. It is what the allocator begins with; by itself it maps
/// less and less the more it has seen.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 128 << 10;

/// What may stay free at the end of a worker's heap, where trimming does not reach. By itself the allocator learns from
/// each large table that goes to keep twice as much.
#[cfg(target_env = "gnu")]
const SPARE_BYTES: libc::c_int = 2 << 20;

/// Tells the GNU allocator to keep little of what is freed, in the whole process: for programs that are a server and not
/// much else. Without it some tens of megabytes stay after a million topics. Other allocators are left as they are.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
pub fn prepare_allocator() {
    let options = [
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, SPARE_BYTES),
        // Small pieces join their free neighbours at once. Otherwise the trimming does that, and leaves them at the end.
        (libc::M_MXFAST, 0),
    ];
    for (option, value) in options {
        // SAFETY: takes the allocator's own lock. How an allocation is freed does not depend on what held when it was made.
        unsafe { libc::mallopt(option, value) };
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
fn trim() {
    // SAFETY: takes the allocator's own locks, and lets go of pages that no allocation has a byte on.
    unsafe { libc::malloc_trim(0) };
}

/// There is nothing to tell other allocators.
#[cfg(not(target_env = "gnu"))]
pub fn prepare_allocator() {}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_goes_once() {
        let mut water = HighWater::default();
        water.note(100_000);
        water.note(30_000);
        assert!(!water.has_ebbed(30_000), "those are not most of them");
        assert!(water.has_ebbed(20_000));
        assert!(!water.has_ebbed(19_000), "it was said");
        water.note(20_000);
        assert!(water.has_ebbed(0));
        assert!(!water.has_ebbed(0));
        water.note(4000);
        assert!(!water.has_ebbed(0), "those were not many");
    }

    #[test]
    fn who_asks_while_memory_is_given_back_is_not_forgotten() {
        let trimmer = Trimmer { asked: AtomicUsize::new(1) };
        let rounds = AtomicUsize::new(0);
        trimmer.run(|| {
            if rounds.fetch_add(1, Ordering::Relaxed) == 0 {
                trimmer.asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!((rounds.into_inner(), trimmer.asked.into_inner()), (2, 0));
    }
}
