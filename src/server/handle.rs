//! What any thread can do with a running server.

use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

pub use crate::engine::outside::HandleError;
use crate::{
    engine::outside::Outside,
    session::{CloseCode, ConnectionId, Message, TopicName},
};

/// A server in the hands of any thread: publishes, broadcasts, closes, counts. Cloning is cheap, and a handle does
/// not keep the server running.
///
/// What one thread asks for is done in that order, topic by topic; of several threads, the order at a topic is the
/// same for all its subscribers. Nothing is dropped silently: what the server can't take now is refused with
/// [`HandleError::Full`] ([`ServerHandle::patient`] waits instead). `Ok` means that it will be done, if the server
/// does not stop before.
///
/// ```
/// use std::time::Duration;
/// use stentor::{
///     server::{HandleError, Server},
///     session::{TopicName, text},
/// };
///
/// let server = Server::builder().listen(([127, 0, 0, 1], 0)).workers(1).start().expect("a free port");
/// let handle = server.handle();
/// let news = TopicName::parse("news").expect("a topic's name");
///
/// let publisher = std::thread::spawn({
///     let (handle, news) = (handle.patient(Duration::from_secs(2)), news.clone());
///     move || handle.publish(&news, text("good news"))
/// });
/// publisher.join().expect("no panic").expect("the server runs");
///
/// assert_eq!(handle.connections(), Ok(0));
/// assert_eq!(handle.subscribers(&news), Ok(0));
/// handle.drain().expect("it runs");
/// server.join().expect("no worker failed");
/// assert_eq!(handle.publish(&news, text("too late")), Err(HandleError::NotRunning));
/// ```
#[derive(Clone)]
pub struct ServerHandle {
    server: Arc<OnceLock<Weak<dyn Outside>>>,
    patience: Duration,
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl ServerHandle {
    /// Of a server that was not started.
    pub(super) fn new() -> ServerHandle {
        ServerHandle { server: Arc::default(), patience: Duration::ZERO }
    }

    /// The server has started.
    pub(super) fn attach(&self, server: &Arc<dyn Outside>) {
        let first = self.server.set(Arc::downgrade(server));
        debug_assert!(first.is_ok(), "a server is started once");
    }

    fn server(&self) -> Result<Arc<dyn Outside>, HandleError> {
        self.server.get().and_then(Weak::upgrade).ok_or(HandleError::NotRunning)
    }

    /// A handle whose calls wait up to so long for room before they are refused with [`HandleError::Full`].
    ///
    /// On a worker, that is in a session, it does not wait: the room that it waits for may be its own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stentor::{server::Server, session::{TopicName, text}};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let handle = server.handle().patient(Duration::from_secs(2));
    /// let topic = TopicName::parse("numbers").expect("a topic's name");
    /// for number in 0..1000 {
    ///     handle.publish(&topic, text(&number.to_string())).expect("there is room within 2 s");
    /// }
    /// ```
    #[must_use]
    pub fn patient(&self, patience: Duration) -> ServerHandle {
        ServerHandle { server: Arc::clone(&self.server), patience }
    }

    /// Publishes a message to a topic, which is created if need be. Where no further topic can be created
    /// (`--max-topics`) the message is dropped, and counted as `stentor_refused_total{reason="too_many_topics"}`.
    ///
    /// ```
    /// use stentor::{server::Server, session::{TopicName, binary, text}};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let topic = TopicName::parse("news").expect("a topic's name");
    /// server.handle().publish(&topic, text("text stays text")).expect("there is room");
    /// server.handle().publish(&topic, binary(&[0, 1, 2])).expect("there is room");
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Full`], [`HandleError::TooLong`], [`HandleError::NotRunning`]
    pub fn publish(&self, topic: &TopicName, message: Message<'_>) -> Result<(), HandleError> {
        self.server()?.publish(topic, message, self.patience)
    }

    /// Publishes a message to each topic that has subscribers: an announcement. It is a message of each of them,
    /// with an offset, so who subscribes to several gets it once for each.
    ///
    /// Topics whose `max-message-bytes` is less than the message has are left out, and counted as
    /// `stentor_refused_total{reason="message_too_long"}`. Either all workers take it or none; of several broadcasts the order is the same in all topics.
    ///
    /// ```
    /// use stentor::{server::Server, session::text};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// server.handle().broadcast(text("back in five minutes")).expect("there is room");
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Full`], [`HandleError::TooLong`], [`HandleError::NotRunning`]
    pub fn broadcast(&self, message: Message<'_>) -> Result<(), HandleError> {
        self.server()?.broadcast(message, self.patience)
    }

    /// Closes a connection with a close frame, whose reason is cut to 123 bytes. One that has ended already is none
    /// of the server's any more, which is no error. Sessions know their connection's name from
    /// [`Context::connection`](crate::session::Context::connection).
    ///
    /// ```
    /// use stentor::{server::Server, session::{CloseCode, ConnectionId}};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let connection: ConnectionId = "0-7-1".parse().expect("a name that a session has handed out");
    /// server.handle().close(connection, CloseCode::NORMAL, "goodbye").expect("there is room");
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Full`], [`HandleError::NotRunning`]
    pub fn close(&self, connection: ConnectionId, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        self.server()?.close(connection, code, reason, self.patience)
    }

    /// Closes all connections that subscribe to a topic, as [`ServerHandle::close`] does. What was published to it
    /// just before may not have left yet, and then does not.
    ///
    /// ```
    /// use stentor::{server::Server, session::{CloseCode, TopicName}};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let room = TopicName::parse("rooms/7").expect("a topic's name");
    /// server.handle().close_topic(&room, CloseCode::NORMAL, "the room closes").expect("there is room");
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Full`], [`HandleError::NotRunning`]
    pub fn close_topic(&self, topic: &TopicName, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        self.server()?.close_topic(topic, code, reason, self.patience)
    }

    /// Connections of the whole server, those included that are not, or will never be, WebSockets.
    ///
    /// ```
    /// let server = stentor::server::Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// assert_eq!(server.handle().connections(), Ok(0));
    /// ```
    ///
    /// # Errors
    /// [`HandleError::NotRunning`]
    pub fn connections(&self) -> Result<usize, HandleError> {
        self.server()?.connections()
    }

    /// Topics that live.
    ///
    /// ```
    /// let server = stentor::server::Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// assert_eq!(server.handle().topics(), Ok(0));
    /// ```
    ///
    /// # Errors
    /// [`HandleError::NotRunning`]
    pub fn topics(&self) -> Result<usize, HandleError> {
        self.server()?.topics()
    }

    /// Connections that subscribe to a topic. Asks the workers and waits for their answers, a second at most, so a
    /// session can't ask.
    ///
    /// ```
    /// use stentor::{server::Server, session::TopicName};
    ///
    /// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let topic = TopicName::parse("news").expect("a topic's name");
    /// assert_eq!(server.handle().subscribers(&topic), Ok(0));
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Full`], [`HandleError::NotRunning`], [`HandleError::NoAnswer`], [`HandleError::OnWorker`]
    pub fn subscribers(&self, topic: &TopicName) -> Result<usize, HandleError> {
        self.server()?.subscribers(topic, self.patience)
    }

    /// Begins to stop: no new connections, clients are closed with 1001, spread over the drain timeout.
    ///
    /// ```
    /// let server = stentor::server::Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// server.handle().drain().expect("it runs");
    /// server.join().expect("no worker failed");
    /// ```
    ///
    /// # Errors
    /// [`HandleError::NotRunning`]
    pub fn drain(&self) -> Result<(), HandleError> {
        self.server()?.drain()
    }
}
