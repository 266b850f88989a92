//! Encodings: a message's bytes on the wire differ between dialects, and each is made once in the whole process.
//!
//! A topic has a log for each encoding that somebody reads. The broker knows encodings by number and messages as bytes:
//! what they look like is the [`Encoder`]'s.

use std::sync::Arc;

use super::{
    ids::{Epoch, Offset, UnixTime},
    name::TopicName,
};

/// Which dialect's bytes a log holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Encoding(pub u8);

impl Encoding {
    /// The one that messages are published in. Its log holds a topic's history; units of the others are made from its.
    pub const CANONICAL: Encoding = Encoding(0);

    /// Numbers are below this.
    pub const BOUND: u8 = 8;
}

/// What is known of a message beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Its topic.
    pub topic: &'a TopicName,
    /// The topic's life.
    pub epoch: Epoch,
    /// Its number in the topic.
    pub offset: Offset,
    /// When it got that.
    pub time: UnixTime,
    /// What its publisher has attached: a JSON object of strings.
    pub tags: Option<&'a str>,
}

/// Makes units of all encodings but the canonical, and what is said beside messages in each.
pub trait Encoder: Send + Sync {
    /// Appends to `out` what the message is in `encoding`, of which `unit` is the canonical form. At least one byte.
    fn encode(&self, encoding: Encoding, stamp: &Stamp<'_>, unit: &[u8], out: &mut Vec<u8>);

    /// Appends a topic's welcome: a text that comes before all messages and has no number.
    fn encode_welcome(&self, encoding: Encoding, topic: &TopicName, text: &str, out: &mut Vec<u8>) {
        let _ = (encoding, topic, text, out);
    }

    /// Appends what a subscriber is told that has missed so many messages; nothing, where the dialect has no word for it.
    fn encode_skipped(&self, encoding: Encoding, topic: &TopicName, messages: u64, out: &mut Vec<u8>) {
        let _ = (encoding, topic, messages, out);
    }
}

/// The encoder that all homes of a process share.
pub type SharedEncoder = Arc<dyn Encoder>;
