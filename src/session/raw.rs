//! The raw dialect, `/ws/{topic}`: each message received is a payload, each message sent is published.
//! Text stays text, binary stays binary.
//!
//! `?mode=sub|pub|both` (default `both`), `?echo=off` leaves out what one published oneself, `?history=N` begins with the
//! newest messages that are kept. It never shows an offset, so nobody can go on where it was: that is the JSON dialect's.

use super::{
    Audience, CloseCode, Context, Encoding, Error, Failure, Handshake, Message, Refusal, Session, Start,
    TopicName,
};

/// What a client of the raw dialect wants, and may, do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Receive only.
    Subscribe,
    /// Send only.
    Publish,
    /// Both.
    Both,
}

/// A raw connection.
#[derive(Debug)]
pub struct Raw {
    topic: TopicName,
    mode: Mode,
    audience: Audience,
    /// How many of the newest messages come first.
    history: u64,
}

impl Raw {
    /// A connection to `topic`, which begins with so many of its newest messages.
    pub fn new(topic: TopicName, mode: Mode, audience: Audience, history: u64) -> Raw {
        Raw { topic, mode, audience, history }
    }
}

impl Session for Raw {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        if self.mode != Mode::Publish {
            self.topic = match self.history {
                0 => context.subscribe(&self.topic),
                messages => context.subscribe_from(&self.topic, Encoding::Raw, Start::Newest(messages)),
            };
        }
        Ok(())
    }

    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        if self.mode == Mode::Subscribe {
            context.close(CloseCode::POLICY, "this connection may only subscribe");
        } else {
            context.publish(&self.topic, message, self.audience);
        }
        Ok(())
    }

    fn error(&mut self, context: &mut Context<'_>, error: &Error) -> Result<(), Failure> {
        match error {
            Error::TooManyTopics => context.close(CloseCode::TRY_AGAIN_LATER, "too many topics"),
            // The same code as beyond `--max-message-bytes`.
            Error::MessageTooLong => context.close(CloseCode::TOO_BIG, &error.to_string()),
            Error::Protocol(_) => {}
        }
        Ok(())
    }
}
