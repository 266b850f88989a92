//! The JSON dialect, `?format=json` or the subprotocol `stentor.json`: each message in an envelope that says where the
//! client stands, so that it can come back and miss nothing; commands to subscribe, unsubscribe and publish.
//!
//! `docs/dialects.md` has what goes over the wire. A command that can't be carried out gets an error, and hurts nothing
//! else.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::{
    Assignment, Audience, CloseCode, Context, Epoch, Error, Failure, Handshake, Kind, Message, Offset,
    Refusal, Session, Start, Subscribed, TopicName, binary,
    dialect::{Command, Content, Encoding, ErrorCode, Notice, Since},
    raw::Mode,
    text,
};

/// A connection that speaks JSON.
#[derive(Debug)]
pub struct Json {
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
            asked,
            mode,
            audience,
            topics_max,
            subscribed: HashSet::new(),
            publishes: HashMap::new(),
            receipts: 0,
        }
    }

    fn subscribe(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        start: Start,
    ) -> Result<(), Problem> {
        if self.mode == Mode::Publish {
            return Err((ErrorCode::PermissionDenied, "this connection may only publish"));
        }
        if self.subscribed.contains(topic) {
            return Err((ErrorCode::AlreadySubscribed, "this connection subscribes to the topic already"));
        }
        if self.subscribed.len() >= self.topics_max {
            return Err((
                ErrorCode::LimitExceeded,
                "as many topics as one connection may have (--max-subscriptions)",
            ));
        }
        let topic = context.subscribe_from(topic, Encoding::Json, start);
        self.subscribed.insert(topic);
        Ok(())
    }

    fn publish(
        &mut self,
        context: &mut Context<'_>,
        topic: TopicName,
        content: &Content<'_>,
        id: Option<&RawValue>,
    ) -> Result<(), Problem> {
        if self.mode == Mode::Subscribe {
            return Err((ErrorCode::PermissionDenied, "this connection may only subscribe"));
        }
        let message = match content {
            Content::Text(characters) => text(characters),
            Content::Binary(bytes) => binary(bytes),
        };
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
                if let Err((code, message)) = self.subscribe(context, &topic, start) {
                    let topic = Some(topic.as_str());
                    context.send(Notice::Error { code, message, topic, id: None }.message());
                }
            }
            Command::Unsubscribe { topic } => {
                self.subscribed.remove(&topic);
                context.unsubscribe(&topic);
                context.send(Notice::Unsubscribed { topic: topic.as_str() }.message());
            }
            Command::Publish { topic, content, id } => {
                if let Err((code, message)) = self.publish(context, topic, &content, id) {
                    context.send(Notice::Error { code, message, topic: None, id }.message());
                }
            }
            Command::Ping { value } => context.send(Notice::Pong { value }.message()),
        }
    }
}

/// Why a command is not carried out.
type Problem = (ErrorCode, &'static str);

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

impl Session for Json {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        for (topic, start) in std::mem::take(&mut self.asked) {
            if self.mode != Mode::Publish && !self.subscribed.contains(&topic) {
                self.subscribe(context, &topic, start)
                    .map_err(|(_, message)| Refusal::forbidden("subscribe", message))?;
            }
        }
        Ok(())
    }

    fn subscribed(&mut self, context: &mut Context<'_>, subscribed: &Subscribed) -> Result<(), Failure> {
        let Subscribed { topic, epoch, offset, recovered } = subscribed;
        let from = Since { epoch: *epoch, offset: *offset };
        context.send(Notice::Subscribed { topic: topic.as_str(), from, recovered: *recovered }.message());
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
                self.subscribe(context, topic, Start::Head).map_err(|(_, message)| message)
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
}
