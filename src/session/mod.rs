//! Sessions: what a connection means to its owner. Sans-I/O.
//!
//! A [`Session`] is one value per connection, so its fields are the connection's own data. The engine calls
//! it when something happened; it answers with commands to its [`Context`]. Commands take effect at once on
//! the server's state, never on a socket: what is sent leaves in the tick's sweep and flush.
//!
//! ```text
//!   open ─▶ message | ping | pong | timer | error ─▶ … ─▶ close
//! ```
//!
//! [`raw`], [`json`], [`sse`] and [`echo`] are the sessions so far, [`routes`] decides which request gets which, [`table`] does so
//! for an embedding program. [`dialect`] is what messages look like to each kind of client. [`api`] is what backends call
//! over HTTP.

mod admission;
pub mod api;
pub mod dialect;
pub mod echo;
mod guard;
pub mod json;
pub mod page;
mod pattern;
pub mod raw;
pub mod routes;
pub mod sse;
pub mod table;

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};

pub use guard::{Denied, Guard, Unguarded};
pub use table::{AcceptRequest, Opening};

pub use dialect::Encoding;

use crate::{
    broker::encoding,
    protocol::ws::{self, HEADER_ROOM, Payload},
};
pub use crate::{
    broker::{
        home::Start,
        ids::{ConnectionId, Epoch, InvalidConnectionId, Offset},
        name::{NameError, TopicName},
    },
    protocol::{
        http::{Refusal, Request, Response},
        ws::{CloseCode, Kind},
    },
};

/// A complete message: text (valid UTF-8) or binary, with room for a frame's header before it.
pub type Message<'a> = ws::Message<'a>;

/// A text message to send or publish.
pub fn text(text: &str) -> Message<'static> {
    message(Kind::Text, text.as_bytes())
}

/// A binary message to send or publish.
pub fn binary(bytes: &[u8]) -> Message<'static> {
    message(Kind::Binary, bytes)
}

fn message(kind: Kind, bytes: &[u8]) -> Message<'static> {
    let mut buffer = BytesMut::with_capacity(HEADER_ROOM + bytes.len());
    buffer.resize(HEADER_ROOM, 0);
    buffer.extend_from_slice(bytes);
    Message { kind, payload: Payload::Owned { buffer, start: HEADER_ROOM } }
}

/// A name that is no topic's: 400.
impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Refusal::bad_request("topic_name", error.to_string())
    }
}

/// The request that opened a connection.
#[derive(Debug)]
pub struct Handshake<'a> {
    /// Path, query, headers.
    pub request: &'a Request,
    /// The client's address.
    pub address: SocketAddr,
    /// What was selected of the subprotocols that the client offered.
    pub subprotocol: Option<&'a str>,
}

/// What one connection does. The value lives on the connection's worker and is never shared.
///
/// A session that returns an error or panics closes its own connection with 1011, is counted, and hurts
/// nobody else.
pub trait Session {
    /// The handshake is valid. The client gets its 101 when this has returned and all subscriptions made
    /// here stand; whoever subscribes here misses nothing that is published after the client is connected.
    ///
    /// # Errors
    /// The client gets the refusal instead.
    fn open(&mut self, context: &mut Context<'_>, handshake: &Handshake<'_>) -> Result<(), Refusal> {
        let _ = (context, handshake);
        Ok(())
    }

    /// A subscription that was asked for with [`Context::subscribe_from`] stands. What is sent here leaves before its
    /// messages.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn subscribed(&mut self, context: &mut Context<'_>, subscribed: &Subscribed) -> Result<(), Failure> {
        let _ = (context, subscribed);
        Ok(())
    }

    /// A message that was published with [`Context::publish_with_receipt`] is in its topic, under this offset, or was
    /// dropped. Those of one topic come in the order in which they were published.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn published(
        &mut self,
        context: &mut Context<'_>,
        number: u32,
        outcome: Result<(Epoch, Offset), Error>,
    ) -> Result<(), Failure> {
        let _ = (context, number, outcome);
        Ok(())
    }

    /// A backend subscribes this connection to a topic, or ends that (`POST /api/subscribe`, `/api/unsubscribe`).
    ///
    /// # Errors
    /// Why that is not done, for the backend.
    fn assigned(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        assignment: Assignment,
    ) -> Result<(), &'static str> {
        match assignment {
            Assignment::Subscribe => drop(context.subscribe(topic)),
            Assignment::Unsubscribe => context.unsubscribe(topic),
        }
        Ok(())
    }

    /// A complete message came.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure>;

    /// A ping came (0 to 125 bytes); the pong is sent without this session's doing.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn ping(&mut self, context: &mut Context<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (context, payload);
        Ok(())
    }

    /// A pong came (0 to 125 bytes), to our ping or unasked.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn pong(&mut self, context: &mut Context<'_>, payload: &[u8]) -> Result<(), Failure> {
        let _ = (context, payload);
        Ok(())
    }

    /// The time set with [`Context::set_timer`] has come.
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn timer(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        let _ = context;
        Ok(())
    }

    /// A command of this session could not be carried out, or its client broke the protocol (a close
    /// follows then).
    ///
    /// # Errors
    /// Closes the connection with 1011.
    fn error(&mut self, context: &mut Context<'_>, error: &Error) -> Result<(), Failure> {
        let _ = (context, error);
        Ok(())
    }

    /// The connection is over. Nothing can be sent any more; subscriptions are gone.
    fn close(&mut self, close: &Close<'_>) {
        let _ = close;
    }
}

/// What a backend wants of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assignment {
    /// To subscribe to a topic.
    Subscribe,
    /// To subscribe to it no longer.
    Unsubscribe,
}

/// How a subscription begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribed {
    /// The topic, in its shared form.
    pub topic: TopicName,
    /// The topic's life: offsets of another one mean other messages.
    pub epoch: Epoch,
    /// The message before the first that follows.
    pub offset: Offset,
    /// Whether all that was asked for of the past follows. If not, what follows is what is published from now on.
    pub recovered: bool,
}

/// What went wrong inside a session: its connection is closed with 1011.
#[derive(Debug)]
pub struct Failure(pub Box<dyn std::error::Error + Send + Sync>);

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.into())
    }
}

/// What [`Session::error`] is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// The topic does not exist and `--max-topics` are there already: the subscription was not made, or
    /// the message was dropped.
    TooManyTopics,
    /// The message is longer than its topic's `max-message-bytes`, and was dropped.
    MessageTooLong,
    /// The client broke the protocol; the connection is being closed.
    Protocol(ws::ProtocolError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooManyTopics => f.write_str("no further topic can be created: --max-topics is reached"),
            Error::MessageTooLong => f.write_str("the message is longer than its topic's max-message-bytes"),
            Error::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Close<'a> {
    /// The code of the close frame that the client sent, or that we sent without an answer; 1005 where it
    /// had none, 1006 where there was no close frame at all.
    pub code: CloseCode,
    /// The reason beside the code.
    pub reason: &'a str,
    /// Whether both sides exchanged close frames.
    pub clean: bool,
}

/// Where a connection stands (RFC 6455 section 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The handshake is not answered yet.
    Opening,
    /// Messages go both ways.
    Open,
    /// A close frame was sent or received; nothing more is sent.
    Closing,
}

/// A command of a session, as the engine sees it. Sessions use the methods of [`Context`].
pub trait Sink {
    /// See [`Context::send`].
    fn send(&mut self, message: Message<'_>);
    /// See [`Context::send_block`].
    fn send_block(&mut self, block: &[u8]);
    /// See [`Context::publish`].
    fn publish(&mut self, topic: &TopicName, message: Message<'_>, to: Audience, receipt: Option<u32>);
    /// See [`Context::subscribe`].
    fn subscribe(&mut self, topic: &TopicName) -> TopicName;
    /// See [`Context::subscribe_from`].
    fn subscribe_from(&mut self, topic: &TopicName, encoding: encoding::Encoding, start: Start) -> TopicName;
    /// See [`Context::unsubscribe`].
    fn unsubscribe(&mut self, topic: &TopicName);
    /// See [`Context::set_timer`].
    fn set_timer(&mut self, after: Option<Duration>);
    /// See [`Context::ping`].
    fn ping(&mut self, payload: &[u8]);
    /// See [`Context::close`].
    fn close(&mut self, code: CloseCode, reason: &str);
    /// See [`Context::terminate`].
    fn terminate(&mut self);
    /// See [`Context::buffered_amount`].
    fn buffered_amount(&self) -> usize;
    /// See [`Context::connection`].
    fn connection(&self) -> ConnectionId;
    /// See [`Context::state`].
    fn state(&self) -> State;
}

/// Who gets a published message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// All subscribers of the topic.
    All,
    /// All but this connection.
    Others,
}

/// What a session can do to its connection and to topics.
pub struct Context<'a> {
    sink: &'a mut dyn Sink,
}

impl<'a> Context<'a> {
    /// A context whose commands go to `sink`.
    pub fn new(sink: &'a mut dyn Sink) -> Context<'a> {
        Context { sink }
    }

    /// Sends a message to this client alone; while the session opens, behind the 101 response. On an event stream it is an
    /// event without an id.
    pub fn send(&mut self, message: Message<'_>) {
        self.sink.send(message);
    }

    /// Sends bytes on an event stream as they are: whole blocks, each with its blank line. [`dialect::sse`] writes them. On
    /// a WebSocket nothing is sent.
    pub fn send_block(&mut self, block: &[u8]) {
        self.sink.send_block(block);
    }

    /// Publishes a message to a topic, which is created if need be. Where the topic's window is full the
    /// message waits and this connection is not read until it was taken: nothing is dropped. A topic that
    /// can't be created, and a message that is longer than its topic takes, are reported through [`Session::error`].
    pub fn publish(&mut self, topic: &TopicName, message: Message<'_>, to: Audience) {
        self.sink.publish(topic, message, to, None);
    }

    /// The same, and [`Session::published`] is told by `number` once the topic has the message, or can't have it.
    pub fn publish_with_receipt(
        &mut self,
        topic: &TopicName,
        message: Message<'_>,
        to: Audience,
        number: u32,
    ) {
        self.sink.publish(topic, message, to, Some(number));
    }

    /// Subscribes this connection to a topic, from the next message on. A second subscription to the same
    /// topic changes nothing. Returns the name in its shared form, the one to keep.
    pub fn subscribe(&mut self, topic: &TopicName) -> TopicName {
        self.sink.subscribe(topic)
    }

    /// Subscribes this connection to a topic's messages in some encoding, with what is asked of its past. Then
    /// [`Session::subscribed`] is told where the subscription begins, which is never before this returns; a connection that
    /// opens gets its 101 behind that. A second subscription to the same topic in the same encoding changes nothing, and is
    /// told nothing.
    pub fn subscribe_from(&mut self, topic: &TopicName, encoding: Encoding, start: Start) -> TopicName {
        self.sink.subscribe_from(topic, encoding.into(), start)
    }

    /// Ends the subscription, in whatever encodings there is one. A message that has begun to leave is finished.
    pub fn unsubscribe(&mut self, topic: &TopicName) {
        self.sink.unsubscribe(topic);
    }

    /// Has [`Session::timer`] called once, `after` this time (rounded up to tenths of a second). Replaces
    /// the timer that is set; `None` takes it away.
    pub fn set_timer(&mut self, after: Option<Duration>) {
        self.sink.set_timer(after);
    }

    /// Sends a ping with a payload of up to 125 bytes (what is longer is cut); on an event stream a comment.
    pub fn ping(&mut self, payload: &[u8]) {
        self.sink.ping(payload);
    }

    /// Closes the connection with a close frame (RFC 6455 section 7.1.2). The reason is cut to 123 bytes.
    /// An event stream ends without a word, behind a whole event. In [`Session::open`] the handshake is refused with 403 instead: better return a [`Refusal`].
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.sink.close(code, reason);
    }

    /// Ends the connection at once, without a close frame. In [`Session::open`] as [`Context::close`].
    pub fn terminate(&mut self) {
        self.sink.terminate();
    }

    /// Bytes that this client has not been sent yet: what waits for it alone, and what its subscriptions
    /// have before them.
    pub fn buffered_amount(&self) -> usize {
        self.sink.buffered_amount()
    }

    /// The connection's name, by which a `ServerHandle` can close it from any thread. None other has it while the
    /// server runs, unless four billion have come and gone in its place.
    ///
    /// ```
    /// use stentor::session::{Context, Handshake, Refusal, Session, text};
    /// # use stentor::session::{Failure, Message};
    ///
    /// struct Member;
    ///
    /// impl Session for Member {
    ///     /// Tells its client who it is.
    ///     fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
    ///         context.send(text(&context.connection().to_string()));
    ///         Ok(())
    ///     }
    /// #   fn message(&mut self, _: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> { Ok(()) }
    /// }
    /// ```
    pub fn connection(&self) -> ConnectionId {
        self.sink.connection()
    }

    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.sink.state()
    }
}

/// What a request gets.
pub enum Route {
    /// A WebSocket: the upgrade was valid and this session takes over.
    Upgrade {
        /// The session.
        session: Box<dyn Session>,
        /// The 101 response, to be sent once the session has opened.
        response: Vec<u8>,
        /// What was selected of the subprotocols.
        subprotocol: Option<String>,
    },
    /// An event stream (SSE): the response goes on until the connection ends. It is for sessions that subscribe while they
    /// open: to one topic as [`Encoding::Event`], to several as [`Encoding::OpenEvent`], in the order in which ids name them. No message
    /// ever comes to them.
    Stream {
        /// The session.
        session: Box<dyn Session>,
        /// Status, headers, and what of the body comes first. It is sent once the session has opened. HEAD gets it alone.
        response: Response,
    },
    /// An answer. The connection goes on if HTTP lets it.
    Respond(Response),
    /// An answer that refuses; counted by its reason.
    Refuse(Refusal),
    /// Whoever asks may, and the body is wanted: it is collected, and then [`Router::respond`] is called. A body
    /// over `--max-body-bytes`, or a broken one, is refused without it.
    Body,
}

/// What a request gets once its body is there.
pub enum Answer {
    /// An answer. The connection goes on if HTTP lets it.
    Respond(Response),
    /// An answer that refuses; counted by its reason. The connection goes on as well, since the whole request was
    /// read.
    Refuse(Refusal),
    /// A call of the server API, for the engine to carry out and answer. The connection waits for it.
    Call(Box<api::Call>),
}

impl Route {
    /// Upgrades a request to a WebSocket with this session, or refuses it with what it lacks.
    pub fn upgrade(request: &Request, session: Box<dyn Session>) -> Route {
        match ws::check_upgrade(request) {
            Ok(upgrade) => {
                let response = ws::switching_protocols(&upgrade, None);
                Route::Upgrade { session, response, subprotocol: None }
            }
            Err(refusal) => Route::Refuse(refusal),
        }
    }
}

/// Decides what a request gets. One value serves all workers.
pub trait Router: Send + Sync {
    /// Routes one request by its head. Who may ask is decided here, before a body is read.
    fn route(&self, request: &Request, address: SocketAddr) -> Route;

    /// Answers a request that [`route`](Self::route) wanted the body of; an empty one for a request without.
    fn respond(&self, request: &Request, body: Bytes, address: SocketAddr) -> Answer {
        let _ = (request, body, address);
        Answer::Refuse(Refusal::new(500, "no_answer", "the server wanted a body and has no answer to it"))
    }
}

/// A finished frame for one connection.
pub(crate) fn frame_of(message: Message<'_>) -> ws::Frame<'_> {
    message.payload.into_frame(message.kind)
}

/// A finished event without an id for one connection.
pub(crate) fn event_of(message: &Message<'_>) -> Vec<u8> {
    let mut event = Vec::new();
    dialect::sse::write_event(message.kind, message.payload.bytes(), &mut event);
    event
}

/// A frame's bytes in a form that can be kept.
pub(crate) fn kept(frame: ws::Frame<'_>) -> Bytes {
    match frame {
        ws::Frame::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        ws::Frame::Owned(bytes) => bytes,
    }
}
