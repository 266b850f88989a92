//! The JSON dialect, `?format=json` or the subprotocol `stentor.json`: each message in an envelope that says where the
//! client stands, so that it can come back and miss nothing; commands to subscribe, unsubscribe and publish.
//!
//! `docs/dialects.md` has what goes over the wire. A command that can't be carried out gets an error, and hurts nothing
//! else.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::{
    Assignment, Audience, Close, CloseCode, Context, Denied, Epoch, Error, Failure, Guard, Handshake, Kind,
    Message, Offset, Refusal, Session, Start, Subscribed, TopicName, Unguarded,
    dialect::{Command, Content, Encoding, ErrorCode, Notice, Since},
    raw::Mode,
};

/// `/client.js`: a client for browsers and Node that comes back and misses nothing. For
/// [`Builder::page`](crate::server::Builder::page).
///
/// ```
/// use stentor::{server::Server, session::json::CLIENT_SCRIPT};
///
/// let server = Server::builder()
///     .listen(([127, 0, 0, 1], 0))
///     .page("/client.js", "text/javascript; charset=utf-8", CLIENT_SCRIPT)
///     .start()
///     .expect("a free port");
/// # drop(server);
/// ```
pub const CLIENT_SCRIPT: &str = include_str!("client.js");

/// What a client offers that speaks the JSON dialect.
pub(super) const SUBPROTOCOL: &str = "stentor.json";

/// A connection that speaks JSON.
#[derive(Debug)]
pub struct Json<G = Unguarded> {
    guard: G,
    /// What the request itself asks for.
    asked: Vec<(TopicName, Start)>,
    mode: Mode,
    audience: Audience,
    topics_max: usize,
    subscribed: HashSet<TopicName>,
    /// Publishes that the client has named and that are not answered yet, by the number of their receipt.
    publishes: HashMap<u32, (TopicName, Box<RawValue>)>,
    receipts: u32,
}

impl Json {
    /// A connection that subscribes to these topics at once, and to at most `topics_max` at a time.
    pub fn new(asked: Vec<(TopicName, Start)>, mode: Mode, audience: Audience, topics_max: usize) -> Json {
        Json {
            guard: Unguarded,
            asked,
            mode,
            audience,
            topics_max,
            subscribed: HashSet::new(),
            publishes: HashMap::new(),
            receipts: 0,
        }
    }

    /// The same, with somebody who is asked about each command.
    pub fn guarded_by<G: Guard>(self, guard: G) -> Json<G> {
        let Json { guard: _, asked, mode, audience, topics_max, subscribed, publishes, receipts } = self;
        Json { guard, asked, mode, audience, topics_max, subscribed, publishes, receipts }
    }
}

impl<G: Guard> Json<G> {
    /// Whether there is room for a subscription, and sense in it; if not, why.
    fn check_room(&self, topic: &TopicName) -> Result<(), (ErrorCode, &'static str)> {
        if self.mode == Mode::Publish {
            Err((ErrorCode::PermissionDenied, "this connection may only publish"))
        } else if self.subscribed.contains(topic) {
            Err((ErrorCode::AlreadySubscribed, "this connection subscribes to the topic already"))
        } else if self.subscribed.len() >= self.topics_max {
            let message = "as many topics as one connection may have (--max-subscriptions)";
            Err((ErrorCode::LimitExceeded, message))
        } else {
            Ok(())
        }
    }

    /// The client asks.
    fn subscribe(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        start: Start,
    ) -> Result<(), Denied> {
        self.check_room(topic).map_err(|(code, message)| Denied::new(code, message))?;
        self.guard.subscribe(context, topic)?;
        self.seat(context, topic, start);
        Ok(())
    }

    fn seat(&mut self, context: &mut Context<'_>, topic: &TopicName, start: Start) {
        let topic = context.subscribe_from(topic, Encoding::Json, start);
        self.subscribed.insert(topic);
    }

    fn publish(
        &mut self,
        context: &mut Context<'_>,
        topic: TopicName,
        content: &Content<'_>,
        id: Option<&RawValue>,
    ) -> Result<(), Denied> {
        if self.mode == Mode::Subscribe {
            return Err(Denied::new(ErrorCode::PermissionDenied, "this connection may only subscribe"));
        }
        let message = self.guard.publish(context, &topic, content)?;
        let Some(id) = id else {
            context.publish(&topic, message, self.audience);
            return Ok(());
        };
        self.receipts = self.receipts.wrapping_add(1);
        context.publish_with_receipt(&topic, message, self.audience, self.receipts);
        self.publishes.insert(self.receipts, (topic, id.to_owned()));
        Ok(())
    }

    fn command(&mut self, context: &mut Context<'_>, command: Command<'_>) {
        match command {
            Command::Subscribe { topic, since, history } => {
                let start = start(since, history);
                if let Err(Denied { code, message }) = self.subscribe(context, &topic, start) {
                    let topic = Some(topic.as_str());
                    context.send(Notice::Error { code, message: &message, topic, id: None }.message());
                }
            }
            Command::Unsubscribe { topic } => {
                self.subscribed.remove(&topic);
                context.unsubscribe(&topic);
                context.send(Notice::Unsubscribed { topic: topic.as_str() }.message());
            }
            Command::Publish { topic, content, id } => {
                if let Err(Denied { code, message }) = self.publish(context, topic, &content, id) {
                    context.send(Notice::Error { code, message: &message, topic: None, id }.message());
                }
            }
            Command::Ping { value } => context.send(Notice::Pong { value }.message()),
        }
    }
}

/// What is said of a message that its topic does not take.
fn too_long(id: Option<&RawValue>) -> Notice<'_> {
    let message = "the message is longer than its topic's max-message-bytes: send less";
    Notice::Error { code: ErrorCode::LimitExceeded, message, topic: None, id }
}

/// Where a subscription begins.
pub fn start(since: Option<Since>, history: u64) -> Start {
    match since {
        Some(Since { epoch, offset }) => Start::Behind { epoch, offset, or_newest: history },
        None if history > 0 => Start::Newest(history),
        None => Start::Head,
    }
}

impl<G: Guard> Session for Json<G> {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        for (topic, start) in std::mem::take(&mut self.asked) {
            if self.mode != Mode::Publish && !self.subscribed.contains(&topic) {
                self.subscribe(context, &topic, start)
                    .map_err(|denied| Refusal::forbidden("subscribe", denied.message))?;
            }
        }
        Ok(())
    }

    fn subscribed(&mut self, context: &mut Context<'_>, subscribed: &Subscribed) -> Result<(), Failure> {
        let Subscribed { topic, epoch, offset, recovered } = subscribed;
        let from = Since { epoch: *epoch, offset: *offset };
        let (topic, client) = (topic.as_str(), context.connection());
        context.send(Notice::Subscribed { topic, from, recovered: *recovered, client }.message());
        Ok(())
    }

    fn published(
        &mut self,
        context: &mut Context<'_>,
        number: u32,
        outcome: Result<(Epoch, Offset), Error>,
    ) -> Result<(), Failure> {
        let Some((topic, id)) = self.publishes.remove(&number) else { return Ok(()) };
        let (topic, id) = (topic.as_str(), &*id);
        let notice = match outcome {
            Ok((epoch, offset)) => Notice::Published { topic, at: Since { epoch, offset }, id },
            Err(Error::MessageTooLong) => too_long(Some(id)),
            Err(_) => Notice::Error {
                code: ErrorCode::UnknownTopic,
                message: "the topic can't be created: --max-topics is reached",
                topic: None,
                id: Some(id),
            },
        };
        context.send(notice.message());
        Ok(())
    }

    fn assigned(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        assignment: Assignment,
    ) -> Result<(), &'static str> {
        match assignment {
            Assignment::Subscribe if self.subscribed.contains(topic) => Ok(()),
            Assignment::Subscribe => {
                self.check_room(topic).map_err(|(_, message)| message)?;
                self.seat(context, topic, Start::Head);
                Ok(())
            }
            Assignment::Unsubscribe => {
                if self.subscribed.contains(topic) {
                    self.command(context, Command::Unsubscribe { topic: topic.clone() });
                }
                Ok(())
            }
        }
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        let is_text = message.kind == Kind::Text;
        let json = message.payload.bytes();
        match Command::parse(json) {
            Ok(command) if is_text => self.command(context, command),
            Ok(_) => {
                let message = "a command is a text message: this one was binary";
                context.send(
                    Notice::Error { code: ErrorCode::BadRequest, message, topic: None, id: None }.message(),
                );
            }
            Err(error) => context.send(error.notice().message()),
        }
        Ok(())
    }

    fn error(&mut self, context: &mut Context<'_>, error: &Error) -> Result<(), Failure> {
        match error {
            Error::TooManyTopics => context.close(CloseCode::TRY_AGAIN_LATER, "too many topics"),
            Error::MessageTooLong => context.send(too_long(None).message()),
            Error::Protocol(_) => {}
        }
        Ok(())
    }

    fn close(&mut self, close: &Close<'_>) {
        self.guard.close(close);
    }
}
