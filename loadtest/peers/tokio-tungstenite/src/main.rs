//! A broadcast server on tokio-tungstenite, written as its users write them, with care for speed.
//!
//! One task for each connection, one `tokio::sync::broadcast` channel for each topic. What waits in the channel is
//! written into the connection's buffer message by message and flushed once.
//!
//! - `/ws/TOPIC?mode=sub` subscribes, `?mode=pub` publishes what it sends, `/ws/TOPIC` does both.
//! - `/echo` gets back what it sends.
//!
//! Nothing is dropped unseen: a subscriber that lags by more than `--channel-len` messages is closed, and their
//! number is told on stderr.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

const USAGE: &str = "usage: stentor-load-peer-tokio-tungstenite PORT [--workers N] [--channel-len N]";
const PING_INTERVAL: Duration = Duration::from_secs(25);
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const READ_BUFFER_BYTES: usize = 16 << 10;

/// What was asked for on the command line.
struct Options {
    port: u16,
    /// Threads of the runtime.
    workers: usize,
    /// Messages that a topic's channel holds: memory is reserved for all of them when the topic begins.
    channel_len: usize,
}

/// What a connection may do, by its path and query.
enum Role {
    Echo,
    Topic { name: String, publishes: bool, subscribes: bool },
}

/// What all connections share.
struct Shared {
    topics: Mutex<HashMap<String, broadcast::Sender<Message>>>,
    channel_len: usize,
    /// Subscribers that were closed because they lagged.
    lagged: AtomicU64,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Some(options) => options,
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(options.workers).enable_all().build();
    let served = runtime.map_err(Error::from).and_then(|runtime| {
        // In a task, since what `block_on` itself runs has the main thread, which is not among the workers.
        runtime.block_on(
            async move { tokio::spawn(serve(options)).await.unwrap_or_else(|end| Err(end_of(&end))) },
        )
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The error of a task that panicked.
fn end_of(end: &tokio::task::JoinError) -> Error {
    Error::Io(std::io::Error::other(end.to_string()))
}

/// `PORT` and flags, or `None` if they are not understood.
fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let port = arguments.next()?.parse().ok()?;
    let mut options = Options { port, workers: 1, channel_len: 8192 };
    while let Some(flag) = arguments.next() {
        let value = arguments.next()?.parse().ok().filter(|value| *value > 0)?;
        match flag.as_str() {
            "--workers" => options.workers = value,
            "--channel-len" => options.channel_len = value,
            _ => return None,
        }
    }
    Some(options)
}

/// Accepts for ever.
async fn serve(options: Options) -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
    let shared = Arc::new(Shared {
        topics: Mutex::default(),
        channel_len: options.channel_len,
        lagged: AtomicU64::new(0),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // How a connection ended is its client's business.
            _ = connection(stream, &shared).await;
        });
    }
}

/// One connection, from its handshake to its end.
async fn connection(stream: TcpStream, shared: &Shared) -> Result<(), Error> {
    // tokio leaves Nagle's algorithm on, with which a message waits for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let mut role = None;
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let route = |request: &Request, response: Response| {
        role = Role::of(request);
        if role.is_some() { Ok(response) } else { Err(not_found()) }
    };
    // By default each connection reads into 128 KiB of its own, whatever it sends.
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, route, Some(config)).await?;
    match role {
        None => Ok(()),
        Some(Role::Echo) => echo(socket).await,
        Some(Role::Topic { name, publishes, subscribes }) => {
            let topic = shared.topic(name);
            if subscribes {
                let messages = topic.subscribe();
                subscriber(socket, messages, publishes.then_some(topic), shared).await
            } else {
                publisher(socket, &topic).await
            }
        }
    }
}

impl Role {
    fn of(request: &Request) -> Option<Self> {
        let uri = request.uri();
        if uri.path() == "/echo" {
            return Some(Self::Echo);
        }
        let name = uri.path().strip_prefix("/ws/")?.to_owned();
        let is = |mode: &str| uri.query().is_some_and(|query| query.split('&').any(|pair| pair == mode));
        Some(Self::Topic { name, publishes: !is("mode=sub"), subscribes: !is("mode=pub") })
    }
}

fn not_found() -> ErrorResponse {
    let mut response = ErrorResponse::new(Some("no such path".into()));
    *response.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
    response
}

impl Shared {
    /// The topic's channel. It lives as long as the server.
    fn topic(&self, name: String) -> broadcast::Sender<Message> {
        let mut topics = self.topics.lock().expect("nobody panics while holding it");
        topics.entry(name).or_insert_with(|| broadcast::Sender::new(self.channel_len)).clone()
    }
}

/// Sends every message back; those that arrived together are flushed together.
async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let mut message = message?;
        loop {
            if message.is_text() || message.is_binary() {
                socket.feed(message).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => message = next?,
                Some(None) => return Ok(()),
                None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

/// Passes on what the client sends.
async fn publisher(
    mut socket: WebSocketStream<TcpStream>,
    topic: &broadcast::Sender<Message>,
) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        publish(message?, topic);
    }
    Ok(())
}

fn publish(message: Message, topic: &broadcast::Sender<Message>) {
    if message.is_text() || message.is_binary() {
        // An error means that nobody is subscribed.
        _ = topic.send(message);
    }
}

/// Delivers what the topic has, pings, and reads what the client sends; publishes that if `topic` is given.
async fn subscriber(
    mut socket: WebSocketStream<TcpStream>,
    mut messages: broadcast::Receiver<Message>,
    topic: Option<broadcast::Sender<Message>>,
    shared: &Shared,
) -> Result<(), Error> {
    let mut ping = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.recv() => {
                let mut lagged = match message {
                    Ok(message) => socket.feed(message).await.map(|()| false)?,
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => return Ok(()),
                };
                while !lagged {
                    match messages.try_recv() {
                        Ok(message) => socket.feed(message).await?,
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Lagged(_)) => lagged = true,
                        Err(TryRecvError::Closed) => return Ok(()),
                    }
                }
                if lagged {
                    let count = shared.lagged.fetch_add(1, Ordering::Relaxed) + 1;
                    eprintln!("a subscriber lagged by more than {} messages and was closed ({count})", shared.channel_len);
                    return socket.close(None).await;
                }
                socket.flush().await?;
            }
            received = socket.next() => match (received, &topic) {
                (None, _) => return Ok(()),
                (Some(message), Some(topic)) => publish(message?, topic),
                (Some(message), None) => _ = message?,
            },
            _ = ping.tick() => socket.send(Message::Ping(Bytes::new())).await?,
        }
    }
}
