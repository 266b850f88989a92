//! One byte per connection instead of a timer each.
//!
//! A byte names the tick (tenth of a second) at which its connection wants to be looked at, 0 is "not at
//! all". Ten times a second all bytes are searched for the tick that has come, which for a million
//! connections reads one megabyte in order. A byte reaches [`HORIZON`] ticks ahead; whoever waits longer is
//! looked at in between and armed again. Being looked at too early is harmless, so a deadline that moved
//! away needs no care: only one that came nearer is written.

use crate::broker::ids::Tick;

/// The farthest a deadline can be, in ticks: 25.4 s.
pub const HORIZON: u32 = 254;

/// The deadlines of a worker's connections.
#[derive(Debug, Default)]
pub struct Deadlines {
    /// 1 + tick mod 255, or 0.
    at: Vec<u8>,
    /// Searched up to and including this tick.
    done: Tick,
}

fn code(tick: Tick) -> u8 {
    u8::try_from(tick.0 % 255 + 1).expect("at most 255")
}

impl Deadlines {
    /// Makes sure that `slot` is looked at no later than `ticks` after `now` (or at the horizon, if that is
    /// nearer).
    pub fn arm(&mut self, slot: u32, now: Tick, ticks: u32) {
        let slot = slot as usize;
        if slot >= self.at.len() {
            self.at.resize(slot + 1, 0);
        }
        // Never the current tick: it may have been searched already.
        let reach = HORIZON.saturating_sub(now.since(self.done)).max(1);
        let wanted = Tick(now.0 + ticks.clamp(1, reach));
        let armed = self.at[slot];
        if armed == 0 || self.distance(code(wanted)) < self.distance(armed) {
            self.at[slot] = code(wanted);
        }
    }

    /// Nobody has to look at `slot` any more.
    pub fn disarm(&mut self, slot: u32) {
        if let Some(at) = self.at.get_mut(slot as usize) {
            *at = 0;
        }
    }

    /// Appends the slots whose time has come by `now`; they are disarmed.
    pub fn take_due(&mut self, now: Tick, due: &mut Vec<u32>) {
        // After a pause longer than the horizon every byte has come round once.
        let ticks = now.since(self.done).min(255);
        for ago in (0..ticks).rev() {
            let wanted = code(Tick(now.0 - ago));
            let first = due.len();
            due.extend(
                memchr::memchr_iter(wanted, &self.at).map(|slot| u32::try_from(slot).expect("slots are u32")),
            );
            for &slot in &due[first..] {
                self.at[slot as usize] = 0;
            }
        }
        self.done = self.done.max(now);
    }

    /// Ticks from the last search until the one that a byte names.
    fn distance(&self, armed: u8) -> u32 {
        (u32::from(armed) + 255 - u32::from(code(self.done))) % 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn due(deadlines: &mut Deadlines, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        deadlines.take_due(Tick(now), &mut due);
        due
    }

    #[test]
    fn a_deadline_comes_once_and_not_early() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(3, Tick(0), 5);
        assert!(due(&mut deadlines, 4).is_empty());
        assert_eq!(due(&mut deadlines, 5), [3]);
        assert!(due(&mut deadlines, 400).is_empty());
    }

    #[test]
    fn only_a_nearer_deadline_replaces_another() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(0, Tick(0), 10);
        deadlines.arm(0, Tick(0), 200);
        deadlines.arm(1, Tick(0), 200);
        deadlines.arm(1, Tick(0), 10);
        assert_eq!(due(&mut deadlines, 10), [0, 1]);
    }

    #[test]
    fn what_lies_beyond_the_horizon_is_looked_at_before() {
        let mut deadlines = Deadlines::default();
        deadlines.arm(0, Tick(0), 100_000);
        assert_eq!(due(&mut deadlines, HORIZON), [0]);
    }

    #[test]
    fn a_long_pause_misses_nobody() {
        let mut deadlines = Deadlines::default();
        (0..254).for_each(|slot| deadlines.arm(slot, Tick(0), slot + 1));
        assert_eq!(due(&mut deadlines, 100_000).len(), 254);
    }

    proptest! {
        #[test]
        fn nobody_is_looked_at_later_than_asked(
            steps in prop::collection::vec((0u32..8, 1u32..300, 0u32..60), 1..200)
        ) {
            let mut deadlines = Deadlines::default();
            let mut wanted = [u32::MAX; 8];
            let mut now = 0;
            for (slot, ticks, pass) in steps {
                deadlines.arm(slot, Tick(now), ticks);
                let by = now + ticks.min(HORIZON);
                wanted[slot as usize] = wanted[slot as usize].min(by);
                now += pass;
                for slot in due(&mut deadlines, now) {
                    prop_assert!(wanted[slot as usize] <= now, "early");
                    wanted[slot as usize] = u32::MAX;
                }
                prop_assert!(wanted.iter().all(|&at| at > now), "late");
            }
        }
    }
}
