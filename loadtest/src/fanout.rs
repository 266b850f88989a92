//! `fanout`: publishers, subscribers, and every message accounted for.
//!
//! Owns the plan (who subscribes to what, on which thread) and the phases. `subscribers` is what a receiving thread
//! does, `publishers` the publishing one (`publisher` one of its connections, `post` where it speaks HTTP), `stuck` the one whose connections never read
//! or slowly, `completion` how they know that a message is done, `figures` what is said of the run, and the verdict.
//!
//! Phases: connect all → settle → warm up → measure → drain. Messages are accounted for from the first to the
//! last; figures are of messages due in the measurement, and rates of what arrived during it.

mod completion;
mod figures;
mod post;
mod publisher;
mod publishers;
mod stuck;
mod subscribers;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::completion::{Completion, window};
use self::figures::{Fanout, report};
use self::subscribers::Counters;
use crate::cli::FanoutArgs;
use crate::client::Target;
use crate::dialect::Topic;
use crate::dialect::greeting::Script;
use crate::distribution::Distribution;
use crate::failure::Failure;
use crate::harness::{Control, LiveRate, LiveServer, Screen, nothing};
use crate::proc::ensure_files;
use crate::report::{Report, Usage, Watch, quantity};
use crate::schedule::Schedule;
use crate::series::{self, Timeline};
use crate::stamp::{Clock, Pattern, nanos};

/// Who does what.
struct Plan {
    args: FanoutArgs,
    target: Target,
    /// Where publishers connect.
    publisher_target: Target,
    /// They speak HTTP there.
    by_post: bool,
    subscribers: usize,
    publishers: usize,
    stuck: usize,
    slow_readers: usize,
    topics: usize,
    threads: usize,
    schedule: Schedule,
    /// Messages per publisher that completion remembers.
    window: usize,
    /// Publishers of the topic that has most. Kept, since every message received asks for it.
    publishers_per_topic_max: usize,
    /// Threads that have subscribers of each topic.
    shares: Vec<u32>,
}

impl Plan {
    fn new(args: &FanoutArgs) -> Result<Self, Failure> {
        let (subscribers, topics) = (args.subscribers as usize, args.topics as usize);
        let publishers = args.publishers.map_or(topics, |publishers| publishers as usize);
        if publishers < topics || subscribers < topics {
            return Err(Failure::Usage(format!(
                "{topics} topics need at least as many --publishers ({publishers}) and --subscribers ({subscribers})"
            )));
        }
        let (stuck, slow_readers) = (args.stuck as usize, args.slow_readers as usize);
        ensure_files(subscribers + publishers + stuck + slow_readers)?;
        args.publish.check(args.payload_bytes as usize)?;
        let common = &args.common;
        let publisher_target = match (&args.publish.publisher_url, &args.publish.publish_http) {
            (_, Some(url)) => common.target_http("--publish-http", url)?,
            (Some(url), None) => common.target_at("--publisher-url", url)?,
            (None, None) => common.target()?,
        };
        let schedule = match args.rate {
            Some(rate) => Schedule::Open { rate },
            None => Schedule::Closed { outstanding: u64::from(args.outstanding.unwrap_or(1)) },
        };
        let threads = args.common.threads(subscribers);
        let mut plan = Self {
            args: args.clone(),
            target: args.common.target()?,
            publisher_target,
            by_post: args.publish.publish_http.is_some(),
            subscribers,
            publishers,
            stuck,
            slow_readers,
            topics,
            threads,
            schedule,
            window: window(publishers, u64::from(args.outstanding.unwrap_or(1))),
            publishers_per_topic_max: publishers.div_ceil(topics),
            shares: vec![0; topics],
        };
        for thread in 0..threads {
            let mut here = vec![false; topics];
            plan.subscribers_of(thread).for_each(|id| here[plan.topic_of_subscriber(id)] = true);
            plan.shares.iter_mut().zip(here).for_each(|(shares, here)| *shares += u32::from(here));
        }
        Ok(plan)
    }

    fn subscribers_of(&self, thread: usize) -> impl Iterator<Item = usize> + use<> {
        (thread..self.subscribers).step_by(self.threads)
    }

    fn topic_of_subscriber(&self, id: usize) -> usize {
        id % self.topics
    }

    #[inline]
    fn topic_of_publisher(&self, publisher: usize) -> usize {
        publisher % self.topics
    }

    fn publishers_of(&self, topic: usize) -> impl Iterator<Item = usize> + use<> {
        (topic..self.publishers).step_by(self.topics)
    }

    /// Where the books of a thread's `index`th subscriber for `publisher` (of its topic) are.
    #[inline]
    fn pair(&self, index: usize, publisher: usize) -> usize {
        index * self.publishers_per_topic_max + publisher / self.topics
    }

    fn topic(&self, index: usize) -> Topic {
        self.args.common.address.topic(index, self.topics)
    }

    /// What a subscriber of `topic` asks the server for …
    fn subscriber_target(&self, topic: usize) -> String {
        self.args.dialect.request_target(&self.target.url, self.topic(topic))
    }

    /// … and what it says then.
    fn subscriber_script(&self, topic: usize) -> Script {
        self.args.dialect.script(&self.topic(topic).name)
    }

    fn publisher_target_of(&self, publisher: usize) -> String {
        let topic = self.topic(self.topic_of_publisher(publisher));
        self.args.publish.request_target(&self.publisher_target.url, topic)
    }

    fn publisher_script(&self, publisher: usize) -> Script {
        self.args.publish.script(&self.topic(self.topic_of_publisher(publisher)).name)
    }

    fn subscribers_of_topic(&self, topic: usize) -> u64 {
        (self.subscribers - topic).div_ceil(self.topics) as u64
    }
}

/// What all threads of a run see.
struct Shared {
    plan: Plan,
    target: Target,
    clock: Clock,
    pattern: Pattern,
    control: Control,
    watch: Watch,
    completion: Completion,
    /// Messages per publisher.
    published: Vec<AtomicU32>,
    /// One per receiving thread.
    counters: Vec<Counters>,
    /// First instant of the schedule; 0 until it is known.
    start_ns: AtomicU64,
    /// The measurement: messages due from here …
    from_ns: AtomicU64,
    /// … until here.
    until_ns: AtomicU64,
    publishing_over: AtomicBool,
}

/// What arrived by some moment.
#[derive(Clone, Copy, Default)]
struct Arrived {
    opened: u64,
    received: u64,
    lost: u64,
    calls: u64,
    bytes: u64,
}

impl Shared {
    #[inline]
    fn measured(&self, due_ns: u64) -> bool {
        due_ns >= self.from_ns.load(Ordering::Relaxed) && due_ns < self.until_ns.load(Ordering::Relaxed)
    }

    fn received(&self) -> u64 {
        self.counters.iter().map(|counters| counters.received.load(Ordering::Relaxed)).sum()
    }

    fn arrived(&self) -> Arrived {
        let mut sum = Arrived::default();
        for counters in &self.counters {
            sum.opened += counters.opened.load(Ordering::Relaxed);
            sum.received += counters.received.load(Ordering::Relaxed);
            sum.lost += counters.lost.load(Ordering::Relaxed);
            sum.calls += counters.calls.load(Ordering::Relaxed);
            sum.bytes += counters.bytes.load(Ordering::Relaxed);
        }
        sum
    }

    /// Deliveries that the messages published so far amount to.
    fn expected(&self) -> u64 {
        let published = self.published.iter().enumerate();
        published
            .map(|(publisher, count)| {
                let topic = self.plan.topic_of_publisher(publisher);
                u64::from(count.load(Ordering::Relaxed)) * self.plan.subscribers_of_topic(topic)
            })
            .sum()
    }
}

/// Runs the scenario; the report says whether its figures count.
pub(crate) fn measure(args: &FanoutArgs, screen: &Screen) -> Result<Report<Fanout>, Failure> {
    let plan = Plan::new(args)?;
    let shared = Shared {
        target: plan.target.clone(),
        clock: Clock::start(),
        pattern: Pattern::new(args.publish.payload, args.payload_bytes as usize),
        control: Control::default(),
        watch: Watch::new(args.common.server_pid)?,
        completion: Completion::new(plan.publishers, plan.window),
        published: (0..plan.publishers).map(|_| AtomicU32::new(0)).collect(),
        counters: (0..plan.threads).map(|_| Counters::default()).collect(),
        start_ns: AtomicU64::new(0),
        from_ns: AtomicU64::new(u64::MAX),
        until_ns: AtomicU64::new(u64::MAX),
        publishing_over: AtomicBool::new(false),
        plan,
    };
    let shared = &shared;
    let (mut timeline, recorders) = series::timeline(shared.plan.threads, args.duration);
    let (measured, received, published, stuck) = std::thread::scope(|scope| {
        let receiving: Vec<_> = recorders
            .into_iter()
            .enumerate()
            .map(|(thread, recorder)| {
                scope.spawn(move || shared.control.guard(subscribers::run(shared, thread, recorder)))
            })
            .collect();
        let publishing = scope.spawn(|| shared.control.guard(publishers::run(shared)));
        let sticking = scope.spawn(|| shared.control.guard(stuck::run(shared)));
        let measured = shared.control.guard(phases(shared, screen, &mut timeline));
        shared.control.stop();
        let received: Option<Vec<_>> =
            receiving.into_iter().map(|thread| thread.join().expect("a receiving thread panicked")).collect();
        let published = publishing.join().expect("the publishing thread panicked");
        (measured, received, published, sticking.join().expect("the thread that never reads panicked"))
    });
    shared.control.outcome()?;
    let (Some(measured), Some(received), Some(published), Some(others)) =
        (measured, received, published, stuck)
    else {
        unreachable!("a thread that ends without an outcome leaves a failure");
    };
    timeline.absorb();
    Ok(report(shared, measured, &received, &published, others, &timeline))
}

/// What the main thread measured.
struct Measured {
    usage: Usage,
    before: Arrived,
    after: Arrived,
    drained: bool,
    /// When the drain was over, on the run's clock.
    ended_ns: u64,
}

/// Leads the threads through the run.
fn phases(shared: &Shared, screen: &Screen, timeline: &mut Timeline) -> Result<Measured, Failure> {
    let (plan, control) = (&shared.plan, &shared.control);
    let all = plan.threads + 2;
    screen.phase("connect", plan.subscribers as u64);
    let opened = || (control.ready_threads() < all).then(|| shared.arrived().opened);
    screen.wait(control, None, opened, nothing);
    screen.wait_for(control, "settle", plan.args.settle, nothing);

    let start_ns = shared.clock.now() + nanos(Duration::from_millis(5));
    let from_ns = start_ns + nanos(plan.args.warm_up);
    shared.from_ns.store(from_ns, Ordering::Release);
    shared.until_ns.store(from_ns + nanos(plan.args.duration), Ordering::Release);
    shared.start_ns.store(start_ns, Ordering::Release);

    let timeline = RefCell::new(timeline);
    let (mut live, mut server) = (LiveRate::new(), LiveServer::new(&shared.watch));
    let mut lines = || {
        let arrived = shared.arrived();
        let rate = quantity(live.update(arrived.received));
        let mut lines = vec![("deliveries", format!("{rate}/s, {} lost", arrived.lost))];
        let latency = Distribution::of(timeline.borrow().total());
        lines.push(("latency", latency.brief()));
        server.append(&mut lines);
        lines
    };
    let at = |ns: u64| Duration::from_nanos(ns.saturating_sub(shared.clock.now()));
    screen.wait_for(control, "warm up", at(from_ns), &mut lines);
    let (sample, before) = (shared.watch.sample()?, shared.arrived());
    let began = Instant::now();
    screen.phase("measure", plan.args.duration.as_millis() as u64);
    let under_way = || {
        timeline.borrow_mut().absorb();
        let over = shared.publishing_over.load(Ordering::Acquire);
        (!over).then(|| began.elapsed().as_millis() as u64)
    };
    screen.wait(control, Some(began + at(from_ns + nanos(plan.args.duration))), under_way, &mut lines);
    let (end_sample, after) = (shared.watch.sample()?, shared.arrived());

    screen.phase("drain", plan.args.drain_timeout.as_millis() as u64);
    let began = Instant::now();
    let mut drained = false;
    let draining = || {
        let over = shared.publishing_over.load(Ordering::Acquire);
        drained = over && shared.received() >= shared.expected();
        (!drained).then(|| began.elapsed().as_millis() as u64)
    };
    screen.wait(control, Some(began + plan.args.drain_timeout), draining, &mut lines);
    let ended_ns = shared.clock.now();
    if drained {
        // Should a message come twice, it will come now.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Measured { usage: shared.watch.between(&sample, &end_sample), before, after, drained, ended_ns })
}
