//! When messages go out: at fixed instants (open loop), or as earlier ones are done (closed loop).
//!
//! In the open loop a message's instant is fixed in advance, whatever the server does; its latency counts from
//! there, so a stalled server is charged for all that it delayed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// What drives the publishers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Schedule {
    /// Messages per second, all publishers together.
    Open {
        /// Above 0.
        rate: f64,
    },
    /// This many messages under way, all publishers together.
    Closed {
        /// At least 1.
        outstanding: u64,
    },
}

impl Schedule {
    /// When message `n` is due, in nanoseconds after the start; `None` in a closed loop, where it is due when it
    /// may go.
    pub(crate) fn due_ns(self, n: u64) -> Option<u64> {
        match self {
            Self::Open { rate } => Some((n as f64 * 1e9 / rate) as u64),
            Self::Closed { .. } => None,
        }
    }

    /// How many messages may be released in all, `elapsed_ns` after the start, with `done` of them done.
    pub(crate) fn released(self, elapsed_ns: u64, done: u64) -> u64 {
        match self {
            Self::Closed { outstanding } => done + outstanding,
            Self::Open { rate } => {
                let mut n = (elapsed_ns as f64 * rate / 1e9) as u64 + 1;
                // Rounding of the two conversions may differ: `due_ns` decides.
                while n > 0 && self.due_ns(n - 1) > Some(elapsed_ns) {
                    n -= 1;
                }
                n
            }
        }
    }
}

/// A one-shot timer that a poll can watch. Poll timeouts count whole milliseconds: too coarse for a schedule.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    /// Fires once, `after` from now; setting it again replaces that.
    pub(crate) fn set(&self, after: Duration) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm it.
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
        timerfd_settime(
            &self.0,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        Ok(())
    }
}

impl mio::event::Source for Timer {
    fn register(
        &mut self,
        registry: &mio::Registry,
        token: mio::Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &mio::Registry,
        token: mio::Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &mio::Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn open_loop_instants() {
        let open = Schedule::Open { rate: 1000.0 };
        assert_eq!([0, 1, 2].map(|n| open.due_ns(n)), [Some(0), Some(1_000_000), Some(2_000_000)]);
        assert_eq!(open.released(0, 99), 1);
        assert_eq!(open.released(999_999, 0), 1);
        assert_eq!(open.released(1_000_000, 0), 2);
        assert_eq!(Schedule::Open { rate: 0.5 }.released(1_999_999_999, 0), 1);
    }

    #[test]
    fn closed_loop_keeps_its_number_under_way() {
        let closed = Schedule::Closed { outstanding: 4 };
        assert_eq!(closed.due_ns(7), None);
        assert_eq!([closed.released(0, 0), closed.released(1 << 40, 3)], [4, 7]);
    }

    proptest! {
        /// What is released is what is due.
        #[test]
        fn released_agrees_with_due(rate in 0.01f64..5e6, elapsed_ns in 0u64..100_000_000_000) {
            let open = Schedule::Open { rate };
            let n = open.released(elapsed_ns, 0);
            prop_assert!(n >= 1 && open.due_ns(n - 1) <= Some(elapsed_ns));
            prop_assert!(open.due_ns(n + 1) > Some(elapsed_ns));
        }
    }
}
