//! The hot path without sockets: unmasking, reading a frame, appending to a log, a lap of the sweep's ring.
//! Each bench checks its answer.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stentor::{
    broker::{
        ids::{Mark, Position, Tick},
        lane::{Entry, Lane},
        limits::Gauge,
        log::{Log, Unit},
    },
    protocol::ws::{Event, Inbox, Limits, Reader, unmask},
};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's masked text frame.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = match payload.len() {
        len @ 0..126 => vec![0x81, 0x80 | u8::try_from(len).unwrap()],
        len @ 126..65536 => [&[0x81, 0x80 | 126][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
        len => [&[0x81, 0x80 | 127][..], &(len as u64).to_be_bytes()].concat(),
    };
    frame.extend(MASK);
    frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i % 4]));
    frame
}

fn unmasking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for len in [16, 64, 1024, 65536] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            let mut bytes = vec![0x5a; len];
            unmask(&mut bytes, MASK, 1);
            assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == 0x5a ^ MASK[(i + 1) % 4]));
            bencher.iter(|| unmask(black_box(&mut bytes), black_box(MASK), 1));
        });
    }
    group.finish();
}

/// Header, unmasking, UTF-8 and the server's header written over the client's.
fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read_text_frame");
    let limits = Limits { message_bytes_max: 1 << 20, fragments_max: 1000 };
    for len in [16, 64, 1024, 16384] {
        let text: String = "Привет, мир! ".chars().cycle().take(len / 2).collect();
        let payload = text.into_bytes();
        let received = frame(&payload);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_batched_ref(
                || BytesMut::from(&received[..]),
                |buffer| {
                    let mut inbox = Inbox::from_buffer(std::mem::take(buffer), received.len());
                    let mut reader = Reader::default();
                    match reader.next(&mut inbox, &limits) {
                        Ok(Some(Event::Message(message))) => {
                            let frame = message.payload.into_frame(message.kind);
                            assert!(frame.bytes().ends_with(&payload));
                        }
                        other => panic!("{other:?}"),
                    }
                    *buffer = inbox.into_buffer();
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn appending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    for len in [66, 1028, 16388] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            let unit = vec![7; len];
            let gauge = Gauge::new(1 << 30);
            let mut log = Log::default();
            bencher.iter(|| {
                log.append(&Unit::Borrowed(black_box(&unit)), Tick(0), &gauge).unwrap();
                log.posted(log.head().position);
            });
            assert_eq!((log.head().position.0 - Position::START.0) / len as u64, log.head().offset.0);
        });
    }
    group.finish();
}

/// What a lap costs beside the sends: find the next entry, compare, move the cursor.
fn lap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lap");
    for entries in [1u32, 100, 10_000] {
        group.throughput(Throughput::Elements(u64::from(entries)));
        group.bench_function(BenchmarkId::from_parameter(entries), |bencher| {
            let gauge = Gauge::new(1 << 30);
            let mut log = Log::default();
            let mut lane = Lane::new(Mark::START);
            for subscription in 0..entries {
                lane.insert_swept(Entry {
                    position: Position::START,
                    offset_low: 0,
                    connection: subscription,
                    subscription,
                    holes: false,
                    lost: false,
                });
            }
            bencher.iter(|| {
                let sent = log.head().position;
                log.append(&Unit::Borrowed(&[7; 66]), Tick(0), &gauge).unwrap();
                lane.view.apply(log.head(), log.extents_after(sent));
                log.posted(log.head().position);
                let mut visits = 0;
                while let Some(seat) = lane.next_visit() {
                    let head = lane.view.head();
                    let entry = *lane.entry(seat);
                    assert_eq!(black_box(lane.view.first_run(entry.position)).len(), 66);
                    lane.entry_mut(seat).position = head.position;
                    lane.visited();
                    visits += 1;
                }
                assert_eq!(visits, entries);
                lane.view.trim(lane.needed());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, unmasking, reading, appending, lap);
criterion_main!(benches);
