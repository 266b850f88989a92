//! A worker, or two of them on one thread, over the driver in memory: from a client's bytes to its subscribers'.
//!
//! What the driver does is in the figures: it copies what the client writes twice on its way to the receive buffer, and
//! counts and throws away what is sent. Time stands still, so nothing is due.

use criterion::{BenchmarkId, Criterion, Throughput};
use stentor::{config::Config, engine::driver::sim::Personality};

use crate::common::{
    client::{TEXT, frame, server_frame},
    in_memory::World,
};

/// One message from one client to all subscribers of a topic: the price of a delivery without system calls.
pub fn sweeping(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for (name, personality) in
        [("readiness", Personality::Readiness), ("completion", Personality::Completion)]
    {
        for subscribers in [1u64, 100, 10_000] {
            let mut world = World::new(1, personality, &Config::default());
            let publisher = world.connect(0, "/ws/t?mode=pub");
            for _ in 0..subscribers {
                world.connect_discarding(0, "/ws/t?mode=sub");
            }
            let bytes = frame(TEXT, &[b'a'; 64]);
            let mut deliveries = 0;
            group.throughput(Throughput::Elements(subscribers));
            group.bench_function(BenchmarkId::new(name, subscribers), |bencher| {
                bencher.iter(|| {
                    world.net.write(publisher, &bytes);
                    world.settle();
                    deliveries += subscribers;
                    assert_eq!(world.stats(0).deliveries.get(), deliveries);
                });
            });
        }
    }
    group.finish();
}

/// From a client's bytes to one subscriber: received, unmasked, validated, appended, swept. On one worker, and with the
/// topic's home and the subscriber on another one.
pub fn publishing(criterion: &mut Criterion) {
    for (name, workers) in [("publish", 1), ("publish_by_mail", 2)] {
        let mut group = criterion.benchmark_group(name);
        for (len, messages) in [(64, 1), (64, 64), (1024, 1), (16 << 10, 1), (64 << 10, 1)] {
            let home = workers - 1;
            let mut world = World::new(workers, Personality::Readiness, &Config::default());
            let topic = world.topic_at(home);
            let publisher = world.connect(0, &format!("/ws/{topic}?mode=pub"));
            let subscriber = world.connect_discarding(home, &format!("/ws/{topic}?mode=sub"));
            let payload = vec![b'a'; len];
            let bytes = frame(TEXT, &payload).repeat(messages);
            let served = server_frame(TEXT, &payload).len() * messages;
            let mut sent = world.net.sent(subscriber);
            let parameter = if messages == 1 { len.to_string() } else { format!("{len}x{messages}") };
            group.throughput(Throughput::Elements(messages as u64));
            group.bench_function(BenchmarkId::from_parameter(parameter), |bencher| {
                bencher.iter(|| {
                    world.net.write(publisher, &bytes);
                    world.settle();
                    sent += served as u64;
                    assert_eq!(world.net.sent(subscriber), sent);
                });
            });
            assert_eq!(world.stats(home).messages_published.get(), world.stats(home).deliveries.get());
            assert_eq!(world.stats(home).mail_taken.get() > 0, workers > 1);
        }
        group.finish();
    }
}
