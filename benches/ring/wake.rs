//! A round trip between two threads that sleep in their rings, each on a processor of its own where there are two.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, Criterion, SamplingMode, measurement::WallTime};
use rustix::{
    event::{EventfdFlags, eventfd},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::{
    median,
    ring::{Ring, Tag, message_without_ring},
};

/// How a thread wakes another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// It writes to an event descriptor that the other polls and never reads, as the driver does.
    Eventfd,
    /// Its ring sends the other's a message, at once.
    Message,
    /// The same, with whatever it submits next: here its own wait.
    MessageWithWait,
    /// It sends the other's ring a message, not through its own.
    MessageWithoutRing,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Eventfd => "eventfd",
            Way::Message => "message",
            Way::MessageWithWait => "message, with the wait",
            Way::MessageWithoutRing => "message, no ring",
        }
    }
}

/// What wakes a thread.
struct Bell {
    eventfd: Arc<OwnedFd>,
    ring: RawFd,
}

/// A thread's part: it sleeps until it is woken, and wakes the other.
struct Sleeper {
    way: Way,
    ring: Ring,
    eventfd: Arc<OwnedFd>,
    /// System calls beside the ring's.
    calls: u64,
}

impl Sleeper {
    fn new(way: Way) -> io::Result<Sleeper> {
        let mut ring = Ring::new(0)?;
        let eventfd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        if way == Way::Eventfd {
            ring.poll_wake(eventfd.as_raw_fd());
            ring.settle();
        }
        Ok(Sleeper { way, ring, eventfd, calls: 0 })
    }

    fn bell(&self) -> Bell {
        Bell { eventfd: Arc::clone(&self.eventfd), ring: self.ring.as_raw_fd() }
    }

    fn wake(&mut self, other: &Bell) {
        match self.way {
            Way::Eventfd => {
                self.calls += 1;
                rustix::io::write(other.eventfd.as_fd(), &1u64.to_ne_bytes()).expect("it is not full");
            }
            Way::Message => {
                self.ring.message(other.ring);
                self.ring.submit();
            }
            Way::MessageWithWait => self.ring.message(other.ring),
            Way::MessageWithoutRing => {
                self.calls += 1;
                message_without_ring(other.ring).expect("it has worked before");
            }
        }
    }

    fn sleep(&mut self) {
        let mut woken = false;
        while !woken {
            self.ring.wait();
            for completion in self.ring.completions() {
                assert!(completion.tag == Tag::Woken && completion.result >= 0, "{completion:?}");
                assert!(completion.more || self.way != Way::Eventfd, "the poll ended");
                woken = true;
            }
        }
    }

    fn calls(&self) -> u64 {
        self.calls + self.ring.calls
    }
}

/// Lets this thread run on one processor alone.
fn pin(processor: usize) {
    let mut one = CpuSet::new();
    one.set(processor);
    sched_setaffinity(None, &one).expect("it is one of ours");
}

/// What this thread has run.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("it is not negative")
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, way: Way, partners_processor: usize) {
    let stopped = Arc::new(AtomicBool::new(false));
    let (to_partner, from_us) = mpsc::channel::<Bell>();
    let (to_us, from_partner) = mpsc::channel::<Bell>();
    let partner = thread::spawn({
        let stopped = Arc::clone(&stopped);
        move || {
            pin(partners_processor);
            let mut sleeper = Sleeper::new(way).expect("a ring");
            to_us.send(sleeper.bell()).expect("it is waited for");
            let other = from_us.recv().expect("it is sent");
            loop {
                sleeper.sleep();
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                sleeper.wake(&other);
            }
        }
    });
    let mut sleeper = Sleeper::new(way).expect("a ring");
    to_partner.send(sleeper.bell()).expect("it is waited for");
    let other = from_partner.recv().expect("it is sent");

    let before = sleeper.calls();
    let mut round_trips = Vec::new();
    let mut ran = Duration::ZERO;
    group.bench_function(way.name(), |bencher| {
        bencher.iter_custom(|iterations| {
            let (first, had_run) = (round_trips.len(), processor_time());
            for _ in 0..iterations {
                let started = Instant::now();
                sleeper.wake(&other);
                sleeper.sleep();
                round_trips.push(started.elapsed());
            }
            ran += processor_time() - had_run;
            round_trips[first..].iter().sum()
        });
    });
    if !round_trips.is_empty() {
        let calls = (sleeper.calls() - before) as f64 / round_trips.len() as f64;
        let ran = ran / round_trips.len() as u32;
        let median = median(&mut round_trips);
        let name = way.name();
        println!(
            "wake/{name}: {median:?} in the median; one side: {calls:.2} calls and {ran:?} of processor\n"
        );
    }

    stopped.store(true, Ordering::Release);
    sleeper.wake(&other);
    sleeper.ring.submit();
    partner.join().expect("it ends well");
}

pub fn waking(criterion: &mut Criterion) {
    let allowed = sched_getaffinity(None).expect("they can be told");
    let mut processors = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor));
    let ours = processors.next().expect("this runs on one");
    let partners = processors.next_back().unwrap_or(ours);
    pin(ours);

    let mut group = criterion.benchmark_group("wake");
    group.sampling_mode(SamplingMode::Flat);
    for way in [Way::Eventfd, Way::Message, Way::MessageWithWait, Way::MessageWithoutRing] {
        let trial = Ring::new(0).and_then(|ring| message_without_ring(ring.as_raw_fd()));
        match trial {
            Err(error) if way == Way::MessageWithoutRing => {
                println!("NOT RUN: wake/{}: {error}", way.name());
            }
            _ => measure(&mut group, way, partners),
        }
    }
    group.finish();
    sched_setaffinity(None, &allowed).expect("it was so before");
}
