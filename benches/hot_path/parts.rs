//! The parts of the hot path: a frame's header, unmasking, validation, the server's header, a log, a lap of the
//! sweep's ring.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use stentor::{
    broker::{
        ids::{Mark, Position, Tick, UnixTime},
        lane::{Entry, Lane},
        limits::Gauge,
        log::{Log, Unit},
    },
    protocol::ws::{Event, HEADER_ROOM, Inbox, Kind, Limits, Message, Payload, Reader, parse_header, unmask},
};

use crate::common::client::{TEXT, frame, header, server_frame};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Headers of the three lengths.
pub fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse_header");
    group.throughput(Throughput::Elements(1));
    for len in [64, 1024, 65536] {
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            let bytes = header(TEXT, len);
            let parsed = parse_header(&bytes).unwrap().unwrap();
            assert_eq!((parsed.payload_len, parsed.header_len, parsed.mask), (len, bytes.len(), MASK));
            bencher.iter(|| parse_header(black_box(&bytes)));
        });
    }
    group.finish();
}

/// In place.
pub fn unmasking(criterion: &mut Criterion) {
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

/// UTF-8, as whole messages are validated, beside the standard library's own.
pub fn validating(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("utf8");
    for (name, character) in [("ascii", 'a'), ("2_byte", 'Я'), ("3_byte", '語')] {
        for len in [64, 16 << 10] {
            let mut text = String::from(character).repeat(len / character.len_utf8());
            text.extend(std::iter::repeat_n('.', len - text.len()));
            let bytes = text.clone().into_bytes();
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(name, len), |bencher| {
                let mut buffer = bytes.clone();
                let payload = Payload::Borrowed { buffer: &mut buffer, start: 0 };
                let message = Message { kind: Kind::Text, payload };
                assert_eq!(message.text(), Some(&text[..]));
                bencher.iter(|| black_box(&message).text().is_some());
            });
            group.bench_function(BenchmarkId::new(format!("{name}_std"), len), |bencher| {
                assert_eq!(str::from_utf8(&bytes), Ok(&text[..]));
                bencher.iter(|| str::from_utf8(black_box(&bytes)).is_ok());
            });
        }
    }
    group.finish();
}

/// The server's header over the client's: the same few bytes, whatever the payload.
pub fn rewriting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite_header");
    group.throughput(Throughput::Elements(1));
    for len in [64, 1024, 65536] {
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            let mut buffer = vec![b'a'; HEADER_ROOM + 4 + len];
            let expected = server_frame(TEXT, &vec![b'a'; len]);
            let mut rewrite = |check: bool| {
                let payload = Payload::Borrowed { buffer: black_box(&mut buffer), start: HEADER_ROOM + 4 };
                let frame = payload.into_frame(Kind::Text);
                assert!(!check || frame.bytes() == expected);
                frame.bytes().len()
            };
            rewrite(true);
            bencher.iter(|| rewrite(false));
        });
    }
    group.finish();
}

/// Header, unmasking, UTF-8 and the server's header written over the client's.
pub fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read_text_frame");
    let limits = Limits { message_bytes_max: 1 << 20, fragments_max: 1000 };
    for len in [16, 64, 1024, 16384] {
        let text: String = "Привет, мир! ".chars().cycle().take(len / 2).collect();
        let payload = text.into_bytes();
        let received = frame(TEXT, &payload);
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

/// Small units are copied; one of 64 KiB stays in its buffer.
pub fn appending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log_append");
    for len in [66, 1028, 16388] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            let unit = vec![7; len];
            let gauge = Gauge::new(1 << 30);
            let mut log = Log::default();
            bencher.iter(|| {
                log.append(&Unit::Borrowed(black_box(&unit)), Tick(0), UnixTime(0), &gauge).unwrap();
                log.posted(log.head().position);
            });
            assert_eq!((log.head().position.0 - Position::START.0) / len as u64, log.head().offset.0);
        });
    }
    let len = 64 << 10;
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
        let unit = Bytes::from(vec![7; len as usize]);
        let gauge = Gauge::new(1 << 30);
        let mut log = Log::default();
        bencher.iter(|| {
            log.append(&Unit::Owned(black_box(unit.clone())), Tick(0), UnixTime(0), &gauge).unwrap();
            log.posted(log.head().position);
        });
        assert_eq!((log.head().position.0 - Position::START.0) / len, log.head().offset.0);
    });
    group.finish();
}

/// What a lap costs beside the sends: find the next entry, compare, move the cursor.
pub fn lap(criterion: &mut Criterion) {
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
                    round: 0,
                });
            }
            bencher.iter(|| {
                let sent = log.head().position;
                log.append(&Unit::Borrowed(&[7; 66]), Tick(0), UnixTime(0), &gauge).unwrap();
                lane.view.apply(log.head(), log.extents_after(sent));
                log.posted(log.head().position);
                let mut visits = 0;
                while let Some(seat) = lane.next_visit() {
                    let head = lane.view.head();
                    let entry = *lane.entry(seat);
                    assert_eq!(black_box(lane.view.first_run(entry.position)).len(), 66);
                    lane.entry_mut(seat).position = head.position;
                    lane.visited(1);
                    visits += 1;
                }
                assert_eq!(visits, entries);
                lane.view.trim(lane.needed());
            });
        });
    }
    group.finish();
}
