//! What all workers share, and nothing else: the settings, the mailboxes, and a few counts with bounds.
//!
//! The counts are the named exceptions to "nothing is shared but immutable bytes": bounds that hold for the
//! whole process need one place.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use foldhash::fast::RandomState;

use super::{driver::Wake, guesses::Guesses, mailboxes::Post, stats::Stats, trim::Trimmer};
use crate::{
    broker::{
        encoding::SharedEncoder,
        ids::{Tick, UnixTime, WorkerId},
        limits::Gauge,
        rules::Rules,
        schedule::Schedule,
    },
    config::Config,
    protocol::{http::HeadLimits, ws},
    session::{Router, dialect::Dialects},
};

/// Header lines of a request head at most.
const HEADERS_MAX: usize = 100;

/// See [`Settings::slice_sends`]: 16 gave 0.95 of the throughput, 256 0.84.
const SLICE_SENDS: usize = 64;

/// The configuration in the engine's own units.
#[derive(Clone)]
pub struct Settings {
    /// Sends in a slice of the sweep. Between slices sockets are read and mail is taken.
    pub slice_sends: usize,
    /// Bounds of messages.
    pub messages: ws::Limits,
    /// Bounds of request heads.
    pub heads: HeadLimits,
    /// Bytes of one request body.
    pub body_bytes_max: usize,
    /// Bytes of all half-received messages and request bodies, and of held messages, together.
    pub assembly_bytes_max: usize,
    /// Bytes that may wait for one connection alone.
    pub reply_bytes_max: usize,
    /// Connections that may live; beyond, they are told so and closed.
    pub connections_max: usize,
    /// The same per address.
    pub connections_per_address_max: usize,
    /// Wrong keys of the server API from one address in a minute.
    pub wrong_keys_max: u32,
    /// Connections accepted in a tick.
    pub accepts_per_tick: usize,
    /// Requests under way to one other worker.
    pub mail_len_max: usize,
    /// Ticks for a request head.
    pub handshake: u32,
    /// Ticks from a message's first byte to its last.
    pub message: u32,
    /// Ticks of silence before a ping.
    pub ping: Option<u32>,
    /// Ticks of silence after it.
    pub pong: u32,
    /// Ticks without a message.
    pub idle: Option<u32>,
    /// Ticks that a socket may refuse all bytes.
    pub write: u32,
    /// Ticks for a close handshake.
    pub close: u32,
    /// Ticks for a drain.
    pub drain: u32,
    /// Ticks that an idle topic lives.
    pub topic_idle: u32,
    /// Ticks that a message of the API may wait for room in its topic.
    pub publish: u32,
    /// Idempotency keys that each worker remembers.
    pub idempotency_keys_max: usize,
    /// Ticks for which it does.
    pub idempotency: u32,
    /// Schedules on each worker.
    pub schedules_max: usize,
    /// Bytes of all of them.
    pub schedule_bytes_max: usize,
    /// Topics that one connection subscribes to.
    pub subscriptions_max: usize,
    /// What holds for each topic.
    pub rules: Arc<Rules>,
    /// Makes what messages are in each encoding.
    pub encoder: SharedEncoder,
    /// Wall-clock time at the drivers' beginning.
    pub began: UnixTime,
    /// What tells this start of the server from others; no secret follows from it.
    pub run: u64,
    /// What the server publishes by itself.
    pub schedules: Arc<[Schedule]>,
    /// All hashes and epochs depend on it.
    pub seed: u64,
}

impl Settings {
    /// The settings of `config` for `connections_max` connections.
    pub fn new(config: &Config, connections_max: usize, seed: u64) -> Settings {
        Settings {
            slice_sends: SLICE_SENDS,
            messages: ws::Limits {
                message_bytes_max: config.max_message_bytes,
                fragments_max: config.max_fragments,
            },
            heads: HeadLimits { head_bytes_max: config.max_head_bytes, headers_max: HEADERS_MAX },
            body_bytes_max: config.max_body_bytes,
            assembly_bytes_max: config.assembly_bytes_max,
            reply_bytes_max: config.reply_bytes_max,
            connections_max,
            connections_per_address_max: config.max_connections_per_ip.unwrap_or(usize::MAX),
            wrong_keys_max: config.max_wrong_keys,
            accepts_per_tick: config.accepts_per_tick,
            mail_len_max: config.mail_len_max,
            handshake: Tick::span(config.handshake_timeout),
            message: Tick::span(config.message_timeout),
            ping: config.ping_interval.map(Tick::span),
            pong: Tick::span(config.pong_timeout),
            idle: config.idle_timeout.map(Tick::span),
            write: Tick::span(config.write_timeout),
            close: Tick::span(config.close_timeout),
            drain: Tick::span(config.drain_timeout),
            topic_idle: Tick::span(config.topic_idle_timeout),
            publish: Tick::span(config.publish_timeout),
            idempotency_keys_max: config.max_idempotency_keys,
            idempotency: Tick::span(config.idempotency_time),
            schedules_max: config.max_schedules,
            schedule_bytes_max: config.schedule_bytes_max,
            subscriptions_max: config.max_subscriptions,
            rules: Arc::new(config.rules()),
            encoder: Arc::new(Dialects),
            began: UnixTime::default(),
            run: 0,
            schedules: config.schedules.as_slice().into(),
            seed,
        }
    }
}

/// See the head of this file. `S` is what an accepted socket is on its way to another worker.
pub struct Shared<S> {
    /// The settings.
    pub settings: Settings,
    /// Decides what requests get.
    pub router: Arc<dyn Router>,
    /// The mailboxes.
    pub(super) post: Post<S>,
    /// Per worker.
    pub stats: Arc<Vec<Stats>>,
    /// Topics of the process.
    pub topics: Arc<Gauge>,
    /// Bytes of all logs.
    pub logs: Arc<Gauge>,
    /// Bytes of all messages that wait for their time.
    pub(super) schedules: Arc<Gauge>,
    /// Bytes of all half-received messages, and of those that wait for room or credit.
    pub assemblies: AtomicUsize,
    /// Connections of each worker, those on their way to it included.
    pub(super) connections: Vec<AtomicUsize>,
    pub(super) addresses: Addresses,
    pub(super) guesses: Guesses,
    /// The heap is the process's.
    pub(super) trimmer: Arc<Trimmer>,
    draining: AtomicBool,
}

impl<S> Shared<S> {
    /// Shared by as many workers as there are wakes.
    pub fn new(
        settings: Settings,
        router: Arc<dyn Router>,
        stats: Arc<Vec<Stats>>,
        topics: Arc<Gauge>,
        logs: Arc<Gauge>,
        wakes: Vec<Wake>,
    ) -> Shared<S> {
        Shared {
            connections: wakes.iter().map(|_| AtomicUsize::new(0)).collect(),
            addresses: Addresses::new(settings.connections_per_address_max),
            guesses: Guesses::new(settings.wrong_keys_max),
            post: Post::new(wakes, settings.mail_len_max),
            trimmer: Arc::default(),
            schedules: Gauge::new(settings.schedule_bytes_max),
            settings,
            router,
            stats,
            topics,
            logs,
            assemblies: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> u16 {
        u16::try_from(self.post.workers()).expect("at most 256 workers")
    }

    /// Tells all workers to drain: no new connections, the others are closed with 1001, spread.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.post.ring_all();
    }

    /// Whether a drain was asked for.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A worker has ended, for whatever reason: it takes the server with it, since the others could not reach the
    /// topics whose home it was. Nothing can be asked of it any more.
    pub fn end(&self, worker: WorkerId) {
        self.post.end(worker);
        self.drain();
    }

    /// For simulations: mail between two workers is stuck until this is called with `false`, as if whoever
    /// holds the mailbox were descheduled.
    pub fn jam_mail(&self, from: WorkerId, to: WorkerId, jammed: bool) {
        self.post.jam(from, to, jammed);
    }

    /// Connections of the whole process.
    pub fn connections(&self) -> usize {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The worker with the fewest connections and how many those are.
    pub(super) fn least_loaded(&self) -> (WorkerId, usize) {
        let counts = self.connections.iter().map(|count| count.load(Ordering::Relaxed));
        let (worker, count) =
            counts.enumerate().min_by_key(|&(_, count)| count).expect("at least one worker");
        (WorkerId(u16::try_from(worker).expect("at most 256 workers")), count)
    }
}

/// Connections per address; of an IPv6 address its /64 counts, since one customer has all of it. One address' connections are spread over all workers, so they count in one
/// place, cut into pieces so that workers seldom meet.
pub(super) struct Addresses {
    max: usize,
    shards: Vec<Mutex<HashMap<IpAddr, usize, RandomState>>>,
}

const ADDRESS_SHARDS: usize = 64;

impl Addresses {
    fn new(max: usize) -> Addresses {
        Addresses { max, shards: (0..ADDRESS_SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// One more connection from `address`; false if that is one too many. Counted either way.
    pub(super) fn add(&self, address: IpAddr) -> bool {
        if self.max == usize::MAX {
            return true;
        }
        let address = network(address);
        let mut shard = self.shard(address);
        let count = shard.entry(address).or_default();
        *count += 1;
        *count <= self.max
    }

    /// One less.
    pub(super) fn remove(&self, address: IpAddr) {
        if self.max == usize::MAX {
            return;
        }
        let address = network(address);
        let mut shard = self.shard(address);
        if let Some(count) = shard.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&address);
            }
        }
    }

    fn shard(&self, address: IpAddr) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize, RandomState>> {
        let number = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() >> 64,
        };
        let at = usize::try_from(number % ADDRESS_SHARDS as u128).expect("below the number of shards");
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one address.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let addresses = Addresses::new(1);
        assert!(addresses.add("2001:db8::1".parse().unwrap()));
        assert!(!addresses.add("2001:db8::2".parse().unwrap()));
        assert!(addresses.add("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn connections_per_address_are_counted_and_bounded() {
        let addresses = Addresses::new(2);
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(addresses.add(address) && addresses.add(address));
        assert!(!addresses.add(address), "counted, and one too many");
        assert!(addresses.add(IpAddr::from([127, 0, 0, 2])));
        addresses.remove(address);
        addresses.remove(address);
        assert!(addresses.add(address));
    }
}
