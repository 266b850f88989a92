//! Reading frames beside what others read them with: tungstenite and fastwebsockets, on the same bytes.
//!
//! A reader gets a client's burst of frames (one, or 64 small ones) from a stream in memory, which copies it as a kernel
//! would; then it gives the messages, one by one. What is measured is a burst, from the copy to the last message dropped:
//! timed by this directory's bench, counted in instructions by `scripts/instructions --peers`.
//!
//! All three unmask every payload, check that text is UTF-8, and give the payload in one piece. Beyond that
//! - **ours** writes the server's header over the client's, so that what it gives can be sent as it is. Payloads below
//!   32 KiB are lent; larger ones are given away with the receive buffer's memory, and a new buffer is filled with zeros.
//!   The loop around it is the worker's (`engine/read.rs`) with nothing else of the worker;
//! - **tungstenite** gives payloads away (`Bytes`, counted references), joins fragments and answers control frames, as
//!   [`WebSocket`] does; the free part of its buffer is filled with zeros before each read. That part is 8 KiB here: with the 128 KiB
//!   of its default a read costs about a microsecond more. It unmasks in words of 4 bytes and validates with the
//!   standard library;
//! - **fastwebsockets** gives frames away (`BytesMut`) and does not join fragments, which its `FragmentCollector` would;
//!   it unmasks in words of 4 bytes and validates text with simdutf8 (its
//!   default feature), as we do. Its futures are always ready and polled by hand: there is no runtime in the figures.
//!
//! Limits are set to the same 1 MiB per message.

use std::{
    future::Future,
    io::{self, Read, Write},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use stentor::protocol::ws::{Event, Inbox, Limits, Reader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What fastwebsockets begins with, and tungstenite gets.
const READ_BYTES: usize = 8 << 10;

/// A client that sends the same burst again and again. No read gets more than the rest of one.
pub struct Client<'a> {
    burst: &'a [u8],
    at: usize,
}

impl<'a> Client<'a> {
    /// Nothing has been sent yet.
    pub fn new(burst: &'a [u8]) -> Client<'a> {
        Client { burst, at: 0 }
    }
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

/// tungstenite's reader.
pub type Tungstenite<'a> = WebSocket<Client<'a>>;

/// fastwebsockets' reader.
pub type Fastwebsockets<'a> = fastwebsockets::WebSocket<Client<'a>>;

/// What reads a client's frames.
pub trait Peer<'a> {
    /// Waits for its client's first frame.
    fn new(client: Client<'a>) -> Self;
    /// Reads so many messages and shows each payload.
    fn read(&mut self, messages: usize, each: impl FnMut(&[u8]));
}

/// This project's reader.
pub struct Ours<'a> {
    client: Client<'a>,
    reader: Reader,
    receive: BytesMut,
}

impl<'a> Peer<'a> for Ours<'a> {
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

impl<'a> Peer<'a> for Tungstenite<'a> {
    fn new(client: Client<'a>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
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

impl<'a> Peer<'a> for Fastwebsockets<'a> {
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
