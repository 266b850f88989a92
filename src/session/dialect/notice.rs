//! What a client of the JSON dialect is told beside messages. SSE has the same texts, as named events.

use std::io::Write;

use serde_json::value::RawValue;

use super::{Since, write_frame, write_number, write_string};
use crate::{
    protocol::ws::Kind,
    session::{ConnectionId, Message, text},
};

/// What a client is told.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// `{"subscribed":"t","epoch":"…","offset":N,"recovered":true|false,"client":"…"}`: messages of the topic follow.
    Subscribed {
        /// The topic.
        topic: &'a str,
        /// Where the subscription begins: the messages that follow come after this one. So it is the client's own
        /// position where that was recovered, and the place before the history where that is replayed.
        from: Since,
        /// All that came after the position that the client named follows. False as well where it named none.
        recovered: bool,
        /// What the connection is called where backends speak of it (`/api`).
        client: ConnectionId,
    },
    /// `{"unsubscribed":"t"}`: no more messages of the topic follow.
    Unsubscribed {
        /// The topic.
        topic: &'a str,
    },
    /// `{"skipped":n,"topic":"t"}`: the client was too slow for these, and the topic's policy is to skip.
    Skipped {
        /// The topic.
        topic: &'a str,
        /// How many messages.
        count: u64,
    },
    /// `{"published":"t","epoch":"…","offset":N,"id":…}`: the topic has taken the message.
    Published {
        /// The topic.
        topic: &'a str,
        /// Which number the message got.
        at: Since,
        /// What the client called it.
        id: &'a RawValue,
    },
    /// `{"pong":…}`: answers `{"ping":…}`.
    Pong {
        /// What the client sent.
        value: &'a RawValue,
    },
    /// `{"error":{"code":N,"message":"…"},"topic":"t","id":…}`: a command was not carried out.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: &'a str,
        /// The topic of the subscription that was refused.
        topic: Option<&'a str>,
        /// What the client called the publish that was refused.
        id: Option<&'a RawValue>,
    },
}

/// Why a command was refused, in the numbers of Centrifugo, which the server API has as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// 100: the server failed; it may work later.
    Internal,
    /// 102: no such topic, and it can't be made.
    UnknownTopic,
    /// 103: this client may not.
    PermissionDenied,
    /// 105: the client has this subscription.
    AlreadySubscribed,
    /// 106: a bound is reached, such as topics per connection, or bytes per message.
    LimitExceeded,
    /// 107: the command can't be understood.
    BadRequest,
    /// 111: later, perhaps.
    TooManyRequests,
    /// What an embedding program says by itself: 1000 to 1999, so that it is none of the above.
    Own(u16),
}

impl ErrorCode {
    /// The number.
    pub const fn number(self) -> u16 {
        match self {
            ErrorCode::Internal => 100,
            ErrorCode::UnknownTopic => 102,
            ErrorCode::PermissionDenied => 103,
            ErrorCode::AlreadySubscribed => 105,
            ErrorCode::LimitExceeded => 106,
            ErrorCode::BadRequest => 107,
            ErrorCode::TooManyRequests => 111,
            ErrorCode::Own(number) => number,
        }
    }
}

impl Notice<'_> {
    /// The name of the event that says it in SSE: the key that the JSON begins with.
    pub const fn name(&self) -> &'static str {
        match self {
            Notice::Subscribed { .. } => "subscribed",
            Notice::Unsubscribed { .. } => "unsubscribed",
            Notice::Skipped { .. } => "skipped",
            Notice::Published { .. } => "published",
            Notice::Pong { .. } => "pong",
            Notice::Error { .. } => "error",
        }
    }

    /// Appends the JSON, on one line.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.name().as_bytes());
        out.extend_from_slice(b"\":");
        match *self {
            Notice::Subscribed { topic, from, recovered, client } => {
                write_string(topic, out);
                write_since(from, out);
                out.extend_from_slice(b",\"recovered\":");
                out.extend_from_slice(if recovered { b"true" } else { b"false" });
                write!(out, ",\"client\":\"{client}\"").expect("a Vec takes everything");
            }
            Notice::Unsubscribed { topic } => write_string(topic, out),
            Notice::Skipped { topic, count } => {
                write_number(count, out);
                write_topic(topic, out);
            }
            Notice::Published { topic, at, id } => {
                write_string(topic, out);
                write_since(at, out);
                write_id(id, out);
            }
            Notice::Pong { value } => write_raw(value, out),
            Notice::Error { code, message, topic, id } => {
                out.extend_from_slice(b"{\"code\":");
                write_number(code.number().into(), out);
                out.extend_from_slice(b",\"message\":");
                write_string(message, out);
                out.push(b'}');
                if let Some(topic) = topic {
                    write_topic(topic, out);
                }
                if let Some(id) = id {
                    write_id(id, out);
                }
            }
        }
        out.push(b'}');
    }

    /// Appends the frame that a WebSocket client gets.
    pub fn write_frame(&self, out: &mut Vec<u8>) {
        // Longer than a short header's payload, shorter than where the longest begins.
        write_frame(Kind::Text, 126, out, |out| self.write_json(out));
    }

    /// As a session sends it.
    pub fn message(&self) -> Message<'static> {
        let mut json = Vec::new();
        self.write_json(&mut json);
        text(std::str::from_utf8(&json).expect("made of texts"))
    }
}

fn write_since(since: Since, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"epoch\":\"");
    out.extend_from_slice(&since.epoch.text());
    out.extend_from_slice(b"\",\"offset\":");
    write_number(since.offset.0, out);
}

fn write_topic(topic: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"topic\":");
    write_string(topic, out);
}

fn write_id(id: &RawValue, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"id\":");
    write_raw(id, out);
}

/// A client's own value, as it came. Line breaks can only stand between its parts: spaces say the same.
fn write_raw(value: &RawValue, out: &mut Vec<u8>) {
    out.extend(value.get().bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
}
