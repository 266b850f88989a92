//! Reading frames and unmasking, timed, beside tungstenite and fastwebsockets. What each of them does more or less than
//! the others stands in `readers.rs`.

#[path = "../../tests/common/mod.rs"]
mod common;
mod readers;

use std::{hint::black_box, time::Duration};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

use common::client::{BINARY, TEXT, frame};
use readers::{Client, Fastwebsockets, Ours, Peer, Tungstenite};

fn read<'a, P: Peer<'a>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    burst: &'a [u8],
    messages: usize,
    payload: &[u8],
) {
    group.bench_function(name, |bencher| {
        let mut peer = P::new(Client::new(burst));
        let mut good = 0;
        // Several bursts: buffers may begin anew.
        peer.read(100 * messages, |bytes| good += usize::from(bytes == payload));
        assert_eq!(good, 100 * messages);
        bencher.iter(|| peer.read(messages, |bytes| _ = black_box(bytes)));
    });
}

/// A burst of each length, as text (two bytes per character, then ASCII) and as binary.
fn reading(criterion: &mut Criterion) {
    for (len, messages) in [(16, 1), (64, 1), (1024, 1), (16 << 10, 1), (64 << 10, 1), (16, 64), (64, 64)] {
        let russian: String = "Привет".chars().cycle().take(len / 2).collect();
        let ascii = "a".repeat(len);
        for (name, first, payload) in [
            ("text", TEXT, russian.as_bytes()),
            ("ascii", TEXT, ascii.as_bytes()),
            ("binary", BINARY, ascii.as_bytes()),
        ] {
            let times = if messages > 1 { format!("x{messages}") } else { String::new() };
            let burst = frame(first, payload).repeat(messages);
            let mut group = criterion.benchmark_group(format!("read_{name}/{len}{times}"));
            group.throughput(Throughput::Elements(messages as u64));
            read::<Ours<'_>>(&mut group, "stentor", &burst, messages, payload);
            read::<Tungstenite<'_>>(&mut group, "tungstenite", &burst, messages, payload);
            read::<Fastwebsockets<'_>>(&mut group, "fastwebsockets", &burst, messages, payload);
            group.finish();
        }
    }
}

/// In place. tungstenite's function is not public; fastwebsockets has taken over its source.
fn unmasking(criterion: &mut Criterion) {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    type Unmask = fn(&mut [u8], [u8; 4]);
    let ours: Unmask = |bytes, mask| stentor::protocol::ws::unmask(bytes, mask, 0);
    for len in [16, 64, 1024, 16 << 10, 64 << 10] {
        let mut group = criterion.benchmark_group(format!("unmask/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        for (name, unmask) in [("stentor", ours), ("fastwebsockets", fastwebsockets::unmask)] {
            // Where a frame's payload lies: behind a header of 6 to 14 bytes.
            let mut buffer = vec![0x5a; len + 6];
            unmask(&mut buffer[6..], MASK);
            assert!(buffer[6..].iter().enumerate().all(|(i, byte)| *byte == 0x5a ^ MASK[i % 4]));
            group.bench_function(name, |bencher| {
                bencher.iter(|| unmask(black_box(&mut buffer[6..]), black_box(MASK)));
            });
        }
        group.finish();
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = reading, unmasking
);
criterion_main!(benches);
