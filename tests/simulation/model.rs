//! What must be true of a topic, told naively: one order for all, nothing twice, nothing missing that was not
//! counted.
//!
//! The order is what the topic's witness gets: a subscriber of its own that always reads. Where there is none
//! (with `latest`, which passes messages over for the witness, too, and on the topic that is to vanish and come
//! back), it is known of each publisher's messages alone.

use std::collections::BTreeMap;

/// A message's publisher and its number there, counted per topic.
pub type MessageId = (usize, u32);

/// A message's payload: its topic, who it is, and filler that follows from that.
pub fn payload(topic: usize, id: MessageId, len: usize) -> Vec<u8> {
    let mut payload = format!("{topic}:{}:{}:", id.0, id.1).into_bytes();
    let filler = |i: usize| b'a' + ((i + topic + id.0 * 7 + id.1 as usize) % 26) as u8;
    payload.extend((0..len).map(filler));
    payload
}

/// The topic of a payload and who it is, if nothing in it was changed.
pub fn identify(payload: &[u8]) -> Result<(usize, MessageId), String> {
    let text = std::str::from_utf8(payload).map_err(|_| format!("not one of ours: {payload:.40x?}"))?;
    let mut parts = text.splitn(4, ':');
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
    let (Some(topic), Some(publisher), Some(id)) = (number(), number(), number()) else {
        return Err(format!("not one of ours: {text:.40}"));
    };
    let (id, filler) = ((publisher, id as u32), parts.next().unwrap_or_default().len());
    if self::payload(topic, id, filler) != payload {
        return Err(format!("message {id:?} was changed: {text:.40}"));
    }
    Ok((topic, id))
}

#[derive(Default)]
pub struct Topic {
    order: Vec<MessageId>,
    index: BTreeMap<MessageId, usize>,
    /// When each message was made.
    made: BTreeMap<MessageId, u64>,
    bytes: u64,
}

impl Topic {
    pub fn make(&mut self, id: MessageId, step: u64, len: usize) {
        self.bytes += len as u64 + 14;
        self.made.insert(id, step);
    }

    /// The witness got a message.
    pub fn witnessed(&mut self, id: MessageId) -> Result<(), String> {
        if !self.made.contains_key(&id) {
            return Err(format!("{id:?} was never published here"));
        }
        let before = self.order.iter().rev().find(|other| other.0 == id.0);
        if before.is_some_and(|before| before.1 + 1 != id.1) || (before.is_none() && id.1 != 0) {
            return Err(format!("{id:?} comes after {before:?}"));
        }
        self.index.insert(id, self.order.len());
        self.order.push(id);
        Ok(())
    }

    pub fn has(&self, id: MessageId) -> bool {
        self.index.contains_key(&id)
    }

    /// Messages that were published, or were to be.
    pub fn made(&self) -> u64 {
        self.made.len() as u64
    }

    /// Their bytes on the wire, at most.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The newest of them.
    fn newest(&self) -> Option<MessageId> {
        self.made.iter().max_by_key(|(_, step)| **step).map(|(id, _)| *id)
    }
}

/// What a topic's order is known from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Its witness. Nothing may be missing.
    Whole,
    /// Its witness. What is missing is counted.
    WithGaps,
    /// Its publishers, each for itself.
    OfEachPublisher,
}

/// What one subscriber got of one topic.
pub struct Reader {
    order: Order,
    /// Its own messages are left out for it.
    leaves_out: Option<usize>,
    /// The step from which on all is due to it, if that is known.
    opened: Option<u64>,
    /// How often it has left and come back: so often something may be missing.
    pub was_away: u32,
    /// It wants all that comes.
    pub subscribed: bool,
    got: Vec<MessageId>,
    last_of: BTreeMap<usize, u32>,
    checked: usize,
    /// The place in the topic's order after the last message that was checked.
    next: Option<usize>,
    /// Messages of others that were passed over.
    pub gaps: u64,
    /// How often it was welcomed.
    pub welcomes: u32,
}

impl Reader {
    pub fn new(order: Order, leaves_out: Option<usize>, opened: Option<u64>) -> Reader {
        Reader {
            order,
            leaves_out,
            opened,
            was_away: 0,
            subscribed: true,
            got: Vec::new(),
            last_of: BTreeMap::new(),
            checked: 0,
            next: None,
            gaps: 0,
            welcomes: 0,
        }
    }

    pub fn got(&mut self, id: MessageId) {
        self.got.push(id);
    }

    /// Whether this message must come to it.
    pub fn is_due(&self, topic: &Topic, id: MessageId) -> bool {
        let away = !self.subscribed || self.was_away > 0 || self.leaves_out.is_some();
        !away && self.opened.is_some_and(|opened| topic.made[&id] > opened)
    }

    pub fn messages(&self) -> &[MessageId] {
        &self.got
    }

    pub fn received(&self) -> usize {
        self.got.len()
    }

    /// Checks what can be checked: what the witness has, too.
    pub fn check(&mut self, topic: &Topic) -> Result<(), String> {
        if self.order == Order::OfEachPublisher {
            return self.check_each_publisher(topic);
        }
        while let Some(&id) = self.got.get(self.checked) {
            let Some(&at) = topic.index.get(&id) else { return Ok(()) };
            if self.leaves_out == Some(id.0) {
                return Err(format!("got its own message {id:?}"));
            }
            if self.next.is_some_and(|next| at < next) {
                return Err(format!("got {id:?} again, or too late: {at} after {:?}", self.next));
            }
            if let Some(from) = self.next.or_else(|| self.first_due(topic)) {
                self.passed(topic, from, at)?;
            }
            self.next = Some(at + 1);
            self.checked += 1;
        }
        Ok(())
    }

    /// Nothing comes twice or late.
    fn check_each_publisher(&mut self, topic: &Topic) -> Result<(), String> {
        for &id in &self.got[self.checked..] {
            if !topic.made.contains_key(&id) || self.leaves_out == Some(id.0) {
                return Err(format!("{id:?} is not for it"));
            }
            if let Some(last) = self.last_of.insert(id.0, id.1).filter(|&last| last >= id.1) {
                return Err(format!("{id:?} came after {last}"));
            }
        }
        self.checked = self.got.len();
        Ok(())
    }

    /// It must have everything now.
    pub fn check_complete(&mut self, topic: &Topic) -> Result<(), String> {
        self.check(topic)?;
        if self.order == Order::OfEachPublisher {
            let newest = topic.newest();
            let has = self.got.last().copied() == newest;
            return if has { Ok(()) } else { Err(format!("has not got the newest, {newest:?}")) };
        }
        if self.checked < self.got.len() {
            return Err(format!("got {:?}, which the witness has not", self.got[self.checked]));
        }
        let Some(from) = self.next.or_else(|| self.first_due(topic)) else {
            return Err("has not got anything".into());
        };
        let last = topic.order.iter().rposition(|id| self.leaves_out != Some(id.0)).map_or(0, |at| at + 1);
        // Also who skips has the last message, which was sent when all could be written to.
        if from < last {
            return Err(format!("has not got {:?} and what follows", &topic.order[from..last]));
        }
        Ok(())
    }

    /// The first message that was made after the subscription stood.
    fn first_due(&self, topic: &Topic) -> Option<usize> {
        let opened = self.opened?;
        let due = topic.order.iter().position(|id| topic.made[id] > opened);
        Some(due.unwrap_or(topic.order.len()))
    }

    fn passed(&mut self, topic: &Topic, from: usize, to: usize) -> Result<(), String> {
        let missing = topic.order.get(from..to).unwrap_or_default();
        let missing: Vec<_> = missing.iter().filter(|id| self.leaves_out != Some(id.0)).collect();
        if !missing.is_empty() && self.was_away > 0 {
            self.was_away -= 1;
            return Ok(());
        }
        if !missing.is_empty() && self.order == Order::Whole {
            return Err(format!("has not got {missing:?}, and got {:?}", topic.order[to]));
        }
        self.gaps += missing.len() as u64;
        Ok(())
    }
}
