//! Server-Sent Events, `GET /sse/{topic}`: each message is an event with the id that the client comes back with. A
//! browser's `EventSource` does so by itself.
//!
//! A stream begins with an event `subscribed` for each topic, which says where it begins and whether all that was missed
//! follows. The last of them has the id, so a client that is cut off before its first message knows where to go on.
//! `docs/dialects.md` has what goes over the wire.

use super::{
    Assignment, CloseCode, ConnectionId, Context, Encoding, Error, Failure, Handshake, Message, Refusal,
    Session, Start, Subscribed, TopicName,
    dialect::{Notice, Since, sse},
};

/// Clients come back after so many milliseconds, and up to two seconds more: each after another while, so that they do not
/// all come at once.
const RETRY_MS: u64 = 2000;

/// An event stream.
#[derive(Debug)]
pub struct Sse {
    /// In the order of the request: ids name them so.
    topics: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    topic: TopicName,
    start: Start,
    begins: Option<Begins>,
    /// Unsubscribed by a backend.
    ended: bool,
}

/// Where a topic begins.
#[derive(Clone, Copy, Debug)]
struct Begins {
    behind: Since,
    recovered: bool,
}

impl Sse {
    /// A stream of these topics, none of which is there twice.
    pub fn new(topics: impl IntoIterator<Item = (TopicName, Start)>) -> Sse {
        let topics =
            topics.into_iter().map(|(topic, start)| Asked { topic, start, begins: None, ended: false });
        Sse { topics: topics.collect() }
    }

    /// What comes first, once it is known of all topics where they begin.
    fn opening(&self, retry_ms: u64, client: ConnectionId) -> Option<Vec<u8>> {
        let begins: Option<Vec<Begins>> = self.topics.iter().map(|asked| asked.begins).collect();
        let begins = begins?;
        let mut block = Vec::new();
        sse::write_retry(retry_ms, &mut block);
        for (number, (Asked { topic, .. }, Begins { behind, recovered })) in
            self.topics.iter().zip(&begins).enumerate()
        {
            if number > 0 {
                sse::write_end(&mut block);
            }
            let topic = topic.as_str();
            let notice = Notice::Subscribed { topic, from: *behind, recovered: *recovered, client };
            sse::write_open_notice(&notice, &mut block);
        }
        sse::write_id(begins.iter().map(|begins| begins.behind), &mut block);
        Some(block)
    }
}

impl Session for Sse {
    fn open(&mut self, context: &mut Context<'_>, _handshake: &Handshake<'_>) -> Result<(), Refusal> {
        let encoding = if self.topics.len() > 1 { Encoding::OpenEvent } else { Encoding::Event };
        for Asked { topic, start, .. } in &mut self.topics {
            *topic = context.subscribe_from(topic, encoding, *start);
        }
        Ok(())
    }

    fn subscribed(&mut self, context: &mut Context<'_>, subscribed: &Subscribed) -> Result<(), Failure> {
        let Subscribed { topic, epoch, offset, recovered } = subscribed;
        let Some(asked) = self.topics.iter_mut().find(|asked| asked.topic == *topic) else { return Ok(()) };
        let behind = Since { epoch: *epoch, offset: *offset };
        asked.begins = Some(Begins { behind, recovered: *recovered });
        let jitter = context.connection().slot.wrapping_mul(0x9e37_79b9) >> 21;
        if let Some(opening) = self.opening(RETRY_MS + u64::from(jitter), context.connection()) {
            context.send_block(&opening);
        }
        Ok(())
    }

    /// A stream has the topics of its request, or fewer: ids could not name others.
    fn assigned(
        &mut self,
        context: &mut Context<'_>,
        topic: &TopicName,
        assignment: Assignment,
    ) -> Result<(), &'static str> {
        let asked = self.topics.iter_mut().find(|asked| asked.topic == *topic);
        match (assignment, asked) {
            (Assignment::Subscribe, Some(asked)) if !asked.ended => Ok(()),
            (Assignment::Subscribe, _) => Err("an event stream has the topics that its client has asked for"),
            (Assignment::Unsubscribe, Some(asked)) if !asked.ended => {
                asked.ended = true;
                context.unsubscribe(topic);
                let mut block = Vec::new();
                sse::write_open_notice(&Notice::Unsubscribed { topic: topic.as_str() }, &mut block);
                sse::write_end(&mut block);
                context.send_block(&block);
                Ok(())
            }
            (Assignment::Unsubscribe, _) => Ok(()),
        }
    }

    /// No stream gets any.
    fn message(&mut self, _context: &mut Context<'_>, _message: Message<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn error(&mut self, context: &mut Context<'_>, error: &Error) -> Result<(), Failure> {
        if *error == Error::TooManyTopics {
            context.close(CloseCode::TRY_AGAIN_LATER, "too many topics");
        }
        Ok(())
    }
}
