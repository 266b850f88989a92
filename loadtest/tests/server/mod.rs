//! A small WebSocket server for the tests, on the crate tungstenite: none of its code is the tool's own.
//!
//! `/echo` echoes; every other path is a topic: with `mode=pub` in the query a connection publishes, otherwise it
//! subscribes. With `format=json` it gets each message in an object with its offset, and what it has missed first. One
//! [`Fault`] may be ordered; it befalls one subscriber once, at its 20th message, or every replay.

pub(crate) mod http;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::{Message, WebSocket, accept_hdr};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// A message is not delivered.
    Drop,
    /// A message is delivered twice.
    Repeat,
    /// Two messages change places.
    Swap,
    /// A byte behind the stamp is changed.
    Damage,
    /// The subscriber is closed.
    Close,
    /// The upgrade is answered with 503.
    Refuse,
    /// The connection is accepted, and nothing is ever said.
    Silence,
    /// A subscriber that does not answer its ping in time is closed.
    Impatience,
    /// Publishers are not read until the last message has long been due, from the 60th on.
    Backpressure,
    /// What was missed lacks its first message.
    Forget,
    /// What was missed begins with a message that was not.
    Again,
}

/// The message at which the fault happens.
const FAULTY: usize = 20;

/// The message before which a publisher is held back.
const HELD: usize = 60;

struct Subscriber {
    socket: WebSocket<TcpStream>,
    sent: usize,
    held: Option<Message>,
    json: bool,
}

/// A topic: who subscribes, and all its messages as JSON.
#[derive(Default)]
struct Topic {
    subscribers: Vec<Subscriber>,
    kept: Vec<Message>,
}

type Topics = Arc<Mutex<HashMap<String, Topic>>>;

/// Starts a server that lives as long as the test.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || serve_all(&listener, fault));
    address
}

/// Serves for ever.
pub(crate) fn serve_all(listener: &TcpListener, fault: Fault) {
    let topics = Topics::default();
    for stream in listener.incoming() {
        let (stream, topics) = (stream.unwrap(), topics.clone());
        thread::spawn(move || {
            if fault == Fault::Silence {
                thread::sleep(Duration::from_secs(30));
            }
            // A client that resets its connection ends its thread, as it should.
            let _ = serve(stream, &topics, fault);
        });
    }
}

fn serve(stream: TcpStream, topics: &Topics, fault: Fault) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    let (mut path, mut query) = (String::new(), String::new());
    #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    let on_request = |request: &Request, response: Response| {
        path = request.uri().path().into();
        query = request.uri().query().unwrap_or("").into();
        match fault {
            Fault::Refuse => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = 503.try_into().unwrap();
                Err(refusal)
            }
            _ => Ok(response),
        }
    };
    let Ok(mut socket) = accept_hdr(stream, on_request) else { return Ok(()) };
    if path == "/echo" {
        let mut count = 0;
        loop {
            let mut message = socket.read()?;
            if message.is_binary() {
                count += 1;
                if fault == Fault::Damage && count == FAULTY {
                    message = damaged(message);
                }
                socket.send(message)?;
            }
        }
    }
    if !query.split('&').any(|pair| pair == "mode=pub") {
        // Subscribers get a ping first: an unanswered one would show as a read error nowhere, but a wrong frame
        // from the client would.
        socket.send(Message::Ping("are you there".into()))?;
        if fault == Fault::Impatience {
            socket.get_ref().set_read_timeout(Some(Duration::from_millis(300)))?;
        }
        assert_eq!(socket.read()?, Message::Pong("are you there".into()));
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let json = value("format=") == Some("json");
        let mut topics = topics.lock().unwrap();
        let topic = topics.entry(path).or_default();
        if json {
            let since = value("since=").map(|since| since.parse::<usize>().unwrap());
            subscribe(&mut socket, &topic.kept, since, fault)?;
        }
        topic.subscribers.push(Subscriber { socket, sent: 0, held: None, json });
        return Ok(());
    }
    for count in 1.. {
        if fault == Fault::Backpressure && count == HELD {
            thread::sleep(Duration::from_secs(3));
        }
        let message = socket.read()?;
        if message.is_close() {
            // The closing handshake: the next read writes the answer.
            let _ = socket.read();
            return Ok(());
        }
        if !message.is_binary() && !message.is_text() {
            continue;
        }
        let mut topics = topics.lock().unwrap();
        let topic = topics.entry(path.clone()).or_default();
        let data = if message.is_text() { message.to_text()? } else { "" };
        let offset = topic.kept.len() + 1;
        let json = Message::text(format!("{{\"epoch\":\"e\",\"offset\":{offset},\"data\":\"{data}\"}}"));
        topic.kept.push(json.clone());
        for (index, subscriber) in topic.subscribers.iter_mut().enumerate() {
            subscriber.sent += 1;
            let message = if subscriber.json { &json } else { &message };
            let fault = if index == 0 && subscriber.sent == FAULTY { fault } else { Fault::None };
            // A subscriber that has gone is the publisher's no concern.
            let _ = deliver(subscriber, message.clone(), fault);
        }
    }
    Ok(())
}

/// Says where a subscription begins, and sends what lies behind `since`.
fn subscribe(
    socket: &mut WebSocket<TcpStream>,
    kept: &[Message],
    since: Option<usize>,
    fault: Fault,
) -> tungstenite::Result<()> {
    let (offset, recovered) = (since.unwrap_or(kept.len()), since.is_some());
    socket.send(Message::text(format!(
        "{{\"subscribed\":\"t\",\"epoch\":\"e\",\"offset\":{offset},\"recovered\":{recovered}}}"
    )))?;
    let first = match fault {
        Fault::Forget if recovered => offset + 1,
        Fault::Again if recovered => offset - 1,
        _ => offset,
    };
    kept.iter().skip(first).try_for_each(|message| socket.send(message.clone()))
}

fn deliver(subscriber: &mut Subscriber, message: Message, fault: Fault) -> tungstenite::Result<()> {
    let held = subscriber.held.take();
    let socket = &mut subscriber.socket;
    match fault {
        Fault::Drop => {}
        Fault::Swap => subscriber.held = Some(message),
        Fault::Repeat => {
            socket.send(message.clone())?;
            socket.send(message)?;
        }
        Fault::Damage => socket.send(damaged(message))?,
        Fault::Close => socket.close(None)?,
        Fault::None
        | Fault::Refuse
        | Fault::Silence
        | Fault::Impatience
        | Fault::Backpressure
        | Fault::Forget
        | Fault::Again => {
            socket.send(message)?;
        }
    }
    held.map_or(Ok(()), |held| socket.send(held))
}

fn damaged(message: Message) -> Message {
    let mut bytes = message.into_data().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    Message::Binary(bytes.into())
}
