//! The bare server: what sending one log's bytes to many sockets costs when a server does nothing else.
//!
//! It is the near-physical limit that a broker is compared with, and no broker: one topic, no policies, no timeouts,
//! no UTF-8 check, no answer to pings. It shares nothing with the Stentor server. One thread, epoll for everything
//! but sends:
//!
//! ```text
//! connections ──▶ upgrade, frames     accept, read, parse
//!      │
//!      ▼
//!    topic: log, subscribers          the bytes, and how far each socket has them
//!      ▲
//!      │
//!    walk ──▶ sends ──▶ uring         who is sent what, in slices of 64
//! ```
//!
//! Per message there is a small fixed cost; per delivery there is a cursor and a send.

mod connections;
mod frames;
mod log;
mod sends;
mod subscribers;
mod topic;
mod upgrade;
mod uring;
mod walk;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use self::connections::Connections;
use self::topic::Topic;
use self::walk::Walk;
use crate::cli::{BareArgs, SendBy, Take};
use crate::failure::Failure;

/// In `--take N`, what is left over goes out when nothing has come for this long: a load that ends between two
/// batches must not lose its last messages.
const LEFTOVER_AFTER: Duration = Duration::from_millis(100);

/// Refused sends are reported at most this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Serves until a signal ends the process.
pub(crate) fn run(args: &BareArgs) -> Result<Infallible, Failure> {
    if args.direct_descriptors && args.sends != SendBy::Uring {
        return Err(Failure::Usage("--direct-descriptors needs --sends uring: only a ring has them".into()));
    }
    let files = crate::proc::raise_file_limit();
    let mut topic = Topic::new(args, files)?;
    let mut connections = Connections::listen(args.listen)?;
    let mut walk = Walk::new(args.take);
    let mut refusals = Refusals::new();
    eprintln!("bare: listening on {}", connections.address()?);
    loop {
        let wait = if walk.is_due(&topic) || connections.has_unread(&topic.log) {
            Some(Duration::ZERO)
        } else if topic.log.has_leftover() {
            Some(LEFTOVER_AFTER)
        } else {
            refusals.wait()
        };
        let seen = connections.poll(&mut topic, wait)?;
        if seen.writable {
            walk.socket_drained();
        }
        if seen.events == 0 && wait == Some(LEFTOVER_AFTER) {
            topic.log.mark_leftover();
        }
        connections.read_publishers(&mut topic)?;
        refusals.count(walk.advance(&mut topic)?);
        if walk.is_between_laps() {
            topic.tidy(|slot, position| connections.moved(slot, position));
        }
    }
}

impl Take {
    /// Messages per send, where that number is fixed.
    fn messages(self) -> Option<u32> {
        match self {
            Self::Messages(count) => Some(count.get()),
            Self::Snapshot | Self::Ring => None,
        }
    }
}

/// Sends that a socket did not take whole: counted, and told on standard error.
struct Refusals {
    unreported: u64,
    total: u64,
    reported: Option<Instant>,
}

impl Refusals {
    fn new() -> Self {
        Self { unreported: 0, total: 0, reported: None }
    }

    /// How long the loop may rest: what is counted wants to be reported.
    fn wait(&self) -> Option<Duration> {
        (self.unreported > 0).then_some(REPORT_EVERY)
    }

    fn count(&mut self, refused: u64) {
        self.unreported += refused;
        if self.unreported == 0 || self.reported.is_some_and(|at| at.elapsed() < REPORT_EVERY) {
            return;
        }
        self.total += self.unreported;
        eprintln!(
            "bare: {} sends refused or cut short by a full socket, {} so far",
            self.unreported, self.total
        );
        self.unreported = 0;
        self.reported = Some(Instant::now());
    }
}
