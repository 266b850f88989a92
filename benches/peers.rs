//! Reading frames beside what others read them with: tungstenite and fastwebsockets, on the same bytes.
//!
//! A reader gets a client's burst of frames (one, or 64 small ones) from a stream in memory, which copies it as a kernel
//! would; then it gives the messages, one by one. What is timed is a burst, from the copy to the last message dropped.
//!
//! All three unmask every payload, check that text is UTF-8, and give the payload in one piece. Beyond that
//! - **ours** writes the server's header over the client's, so that what it gives can be sent as it is. Payloads below
//!   32 KiB are lent; larger ones are given away with the receive buffer's memory, and a new buffer is filled with zeros.
//!   The loop around it is the worker's (`engine/receive.rs`) with nothing else of the worker;
//! - **tungstenite** gives payloads away (`Bytes`, counted references), joins fragments and answers control frames, as
//!   [`WebSocket`] does; its buffer of 128 KiB is filled with zeros before each read. It unmasks in words of 4 bytes and
//!   validates with the standard library;
//! - **fastwebsockets** gives frames away (`BytesMut`) and does not join fragments, which its `FragmentCollector` would;
//!   it unmasks in words of 4 bytes and validates text with simdutf8 where a `simd` feature is on (as here: its default),
//!   as we do. Its futures are always ready and polled by hand: there is no runtime in the figures.
//!
//! Limits are set to the same 1 MiB per message.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    future::Future,
    hint::black_box,
    io::{self, Read, Write},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use stentor::protocol::ws::{Event, Inbox, Limits, Reader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use common::client::{BINARY, TEXT, frame};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A client that sends the same burst again and again. No read gets more than the rest of one.
struct Client<'a> {
    burst: &'a [u8],
    at: usize,
}

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.burst[self.at..];
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        self.at = (self.at + bytes) % self.burst.len();
        Ok(bytes)
    }
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.burst[self.at..];
        let bytes = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..bytes]);
        self.at = (self.at + bytes) % self.burst.len();
        Poll::Ready(Ok(()))
    }
}

const NOTHING_TO_SAY: &str = "data is not answered";

impl Write for Client<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        unreachable!("{NOTHING_TO_SAY}")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        unreachable!("{NOTHING_TO_SAY}")
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What reads a client's frames.
trait Peer<'a> {
    const NAME: &'static str;
    fn new(client: Client<'a>) -> Self;
    /// Reads so many messages and shows each payload.
    fn read(&mut self, messages: usize, each: impl FnMut(&[u8]));
}

struct Ours<'a> {
    client: Client<'a>,
    reader: Reader,
    receive: BytesMut,
}

impl<'a> Peer<'a> for Ours<'a> {
    const NAME: &'static str = "stentor";

    fn new(client: Client<'a>) -> Self {
        Ours { client, reader: Reader::default(), receive: BytesMut::new() }
    }

    fn read(&mut self, messages: usize, mut each: impl FnMut(&[u8])) {
        let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX, fragments_max: 1000 };
        let mut read = 0;
        while read < messages {
            let mut inbox = if let Some(buffer) = self.reader.direct_buffer() {
                let bytes = self.client.read(buffer).expect("memory");
                self.reader.filled(bytes);
                Inbox::default()
            } else {
                // As the worker's.
                if self.receive.len() < 32 * 1024 {
                    self.receive = BytesMut::zeroed(68 * 1024);
                }
                let bytes = self.client.read(&mut self.receive).expect("memory");
                Inbox::from_buffer(std::mem::take(&mut self.receive), bytes)
            };
            while let Some(event) = self.reader.next(&mut inbox, &limits).expect("the frames are valid") {
                let Event::Message(message) = event else { panic!("{event:?}") };
                let len = message.payload.bytes().len();
                let frame = message.payload.into_frame(message.kind);
                let bytes = frame.bytes();
                each(&bytes[bytes.len() - len..]);
                read += 1;
            }
            let buffer = inbox.into_buffer();
            if self.receive.is_empty() {
                self.receive = buffer;
            }
        }
    }
}

impl<'a> Peer<'a> for WebSocket<Client<'a>> {
    const NAME: &'static str = "tungstenite";

    fn new(client: Client<'a>) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        WebSocket::from_raw_socket(client, Role::Server, Some(config))
    }

    fn read(&mut self, messages: usize, mut each: impl FnMut(&[u8])) {
        for _ in 0..messages {
            match WebSocket::read(self).expect("the frames are valid") {
                tungstenite::Message::Text(text) => each(text.as_bytes()),
                tungstenite::Message::Binary(bytes) => each(&bytes),
                other => panic!("{other:?}"),
            }
        }
    }
}

impl<'a> Peer<'a> for fastwebsockets::WebSocket<Client<'a>> {
    const NAME: &'static str = "fastwebsockets";

    fn new(client: Client<'a>) -> Self {
        let mut socket = Self::after_handshake(client, fastwebsockets::Role::Server);
        socket.set_max_message_size(MESSAGE_BYTES_MAX);
        socket
    }

    fn read(&mut self, messages: usize, mut each: impl FnMut(&[u8])) {
        let reading = async {
            for _ in 0..messages {
                each(&self.read_frame().await.expect("the frames are valid").payload);
            }
        };
        let ready = pin!(reading).poll(&mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready(), "memory is");
    }
}

fn read<'a, P: Peer<'a>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    burst: &'a [u8],
    messages: usize,
    payload: &[u8],
) {
    group.bench_function(P::NAME, |bencher| {
        let mut peer = P::new(Client { burst, at: 0 });
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
            read::<Ours<'_>>(&mut group, &burst, messages, payload);
            read::<WebSocket<Client<'_>>>(&mut group, &burst, messages, payload);
            read::<fastwebsockets::WebSocket<Client<'_>>>(&mut group, &burst, messages, payload);
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
