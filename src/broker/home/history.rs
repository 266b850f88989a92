//! What a topic keeps of its past, and what a subscriber that comes back gets of it.
//!
//! The history is the canonical log's own segments, held for longer than the window needs. Replays in other encodings are
//! made from it in [`Chunk`]s, which all who come back share: after a cut most ask for the same.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::delivery::{Extras, Place};
use crate::broker::{
    encoding::{Encoder, Encoding, Stamp},
    ids::{Epoch, Mark, Offset, UnixTime},
    limits::{Charge, Gauge},
    log::{Log, LogFull, View},
    name::TopicName,
    rules::History as Retention,
};

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the head: nothing of the past is wanted.
    Head,
    /// Behind the message that the subscriber has seen last.
    Behind {
        /// The topic's life that the offset belongs to.
        epoch: Epoch,
        /// The message.
        offset: Offset,
        /// Where not all that came after it is kept: so many of the newest messages.
        or_newest: u64,
    },
    /// With the newest messages, as many as these.
    Newest(u64),
}

/// Which part of a history is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Only what lies on one side of this message: behind it, or before it where the newest come first. Of any epoch if
    /// none is named.
    pub since: Option<(Option<Epoch>, Offset)>,
    /// The newest first.
    pub reverse: bool,
    /// No more messages than these are wanted.
    pub limit: u64,
}

/// Why no part of a history is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPage {
    /// No history is kept of the topic.
    NoHistory,
    /// It does not reach back to the position, or that is of another epoch or lies in the future.
    Unrecoverable,
}

impl PageRequest {
    /// Whether the position is one of a topic whose last message is at `last`.
    pub(super) fn check_end(&self, last: Option<Place>) -> Result<(), NoPage> {
        let is_known = |(epoch, offset): (Option<Epoch>, Offset)| {
            last.map_or(epoch.is_none() && offset.0 == 0, |last| {
                epoch.is_none_or(|epoch| epoch == last.epoch) && offset <= last.offset
            })
        };
        if self.since.is_none_or(is_known) { Ok(()) } else { Err(NoPage::Unrecoverable) }
    }
}

/// What is to be known of a message beside its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Noted {
    tags: Option<Arc<str>>,
    /// It has a number, and is not found here.
    is_left_out: bool,
}

impl Noted {
    /// What is to be known of a message of which this was asked; `None`: nothing.
    pub(super) fn of(extras: &Extras) -> Option<Noted> {
        let noted = Noted { tags: extras.tags.clone(), is_left_out: extras.skip_history };
        (noted.is_left_out || noted.tags.is_some()).then_some(noted)
    }

    /// The memory that it takes, at most.
    pub(super) fn bytes(&self) -> usize {
        2 * size_of::<NotedMessage>() + self.tags.as_ref().map_or(0, |tags| tags.len() + 16)
    }
}

struct NotedMessage {
    offset: Offset,
    noted: Noted,
    /// How many were left out so far, with this one.
    left_out: u64,
    _charge: Charge,
}

/// A run of units in another encoding.
#[derive(Debug)]
struct Chunk {
    /// The message before its first.
    behind: Offset,
    bytes: Bytes,
    /// Where each unit ends.
    ends: Vec<u32>,
}

/// Whole units that one who comes back gets, one after another. The bytes are those of all who come back.
#[derive(Clone, Debug)]
pub struct Run {
    chunk: Arc<Chunk>,
    /// Units of the chunk that lie before.
    passed: usize,
}

impl Run {
    /// All of its bytes.
    pub fn bytes(&self) -> Bytes {
        self.chunk.bytes.slice(self.start()..)
    }

    fn is_empty(&self) -> bool {
        self.start() == self.chunk.bytes.len()
    }

    fn start(&self) -> usize {
        self.passed.checked_sub(1).map_or(0, |last| self.chunk.ends[last] as usize)
    }
}

/// Its units, each with its number. That of a message that was left out is empty.
impl Iterator for Run {
    type Item = (Offset, Bytes);

    fn next(&mut self) -> Option<(Offset, Bytes)> {
        let end = *self.chunk.ends.get(self.passed)? as usize;
        let unit = self.chunk.bytes.slice(self.start()..end);
        self.passed += 1;
        Some((Offset(self.chunk.behind.0 + self.passed as u64), unit))
    }
}

/// A chunk's memory. It counts against the bound on all logs as long as anybody has a reference to it.
struct Made {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Made {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Chunk {
    fn newest(&self) -> Offset {
        Offset(self.behind.0 + self.ends.len() as u64)
    }

    /// Its units behind a message.
    fn behind(self: &Arc<Self>, offset: Offset) -> Run {
        let passed = usize::try_from(offset.since(self.behind)).unwrap_or(usize::MAX).min(self.ends.len());
        Run { chunk: Arc::clone(self), passed }
    }
}

/// The past in one other encoding, as far as somebody has asked for it: chunks without a gap between them.
struct Replays {
    encoding: Encoding,
    chunks: VecDeque<Arc<Chunk>>,
    used: UnixTime,
}

/// Chunks that nobody has asked for so long are let go of.
const UNUSED_MS: u64 = 10_000;

/// A chunk ends with the unit that reaches this: a client that waits for a little keeps no more than a chunk alive.
const CHUNK_BYTES: usize = 64 * 1024;

/// A topic's history.
pub(super) struct History {
    kept: View,
    retention: Retention,
    replays: Vec<Replays>,
    /// Of the messages that are kept: those with tags, and those that are left out.
    noted: VecDeque<NotedMessage>,
    /// How many of these are left out, and how many ever were.
    left_out: u64,
    ever_left_out: u64,
    /// Nothing before is kept: it was asked to forget.
    forgotten: Offset,
}

/// What a chunk is made with.
pub(super) struct Making<'a> {
    pub(super) topic: &'a TopicName,
    pub(super) epoch: Epoch,
    pub(super) encoder: &'a dyn Encoder,
    pub(super) gauge: &'a Arc<Gauge>,
}

impl History {
    /// Nothing yet; begins behind `head`.
    pub(super) fn new(head: Mark, retention: Retention) -> History {
        History {
            kept: View::new(head),
            retention,
            replays: Vec::new(),
            noted: VecDeque::new(),
            left_out: 0,
            ever_left_out: 0,
            forgotten: head.offset,
        }
    }

    /// Takes in what was appended since the last time.
    pub(super) fn note(&mut self, log: &Log, now: UnixTime) {
        let sent = self.kept.head().position;
        self.kept.apply(log.head(), log.extents_after(sent));
        self.expire(now);
    }

    /// Notes what is to be known of the newest message.
    pub(super) fn note_message(&mut self, offset: Offset, noted: Noted, charge: Charge) {
        self.left_out += u64::from(noted.is_left_out);
        self.ever_left_out += u64::from(noted.is_left_out);
        let left_out = self.ever_left_out;
        self.noted.push_back(NotedMessage { offset, noted, left_out, _charge: charge });
    }

    /// Forgets all that it has.
    pub(super) fn clear(&mut self) {
        self.forgotten = self.kept.head().offset;
        self.kept.release();
        self.replays.clear();
        self.noted.clear();
        self.left_out = 0;
    }

    /// Hands a part of what is kept to `visit`, as long as that wants more.
    pub(super) fn page(
        &self,
        request: &PageRequest,
        now: UnixTime,
        mut visit: impl FnMut(Offset, &[u8], Option<&str>) -> bool,
    ) -> Result<(), NoPage> {
        let first = self.first(now);
        let mut noted = self.noted.iter().peekable();
        let mut whole = move |(offset, _, unit)| {
            let noted = noted_of(&mut noted, offset);
            let is_in = noted.is_none_or(|noted| !noted.is_left_out);
            is_in.then(|| (offset, unit, noted.and_then(|noted| noted.tags.as_deref())))
        };
        match (request.since, request.reverse) {
            (since, false) => {
                let from = match since {
                    None => first,
                    Some((_, offset)) if offset < first.offset => return Err(NoPage::Unrecoverable),
                    Some((_, offset)) => self.kept.behind(offset).ok_or(NoPage::Unrecoverable)?,
                };
                let mut units = self.kept.units(from).filter_map(whole);
                while units.next().is_some_and(|(offset, unit, tags)| visit(offset, unit, tags)) {}
            }
            (since, true) => {
                let end = since.map_or(Offset(u64::MAX), |(_, since)| since);
                let newest = Offset(end.0.min(self.kept.head().offset.0 + 1) - 1);
                let wanted = request.limit.saturating_add(self.left_out);
                let behind = Offset(newest.0.saturating_sub(wanted)).max(first.offset);
                let from = self.kept.behind(behind).unwrap_or(first);
                let units = self.kept.units(from).take_while(|(offset, ..)| *offset < end);
                let units: Vec<_> = units.filter_map(&mut whole).collect();
                let mut units = units.into_iter().rev();
                while units.next().is_some_and(|(offset, unit, tags)| visit(offset, unit, tags)) {}
            }
        }
        Ok(())
    }

    /// The place before the first message that is still kept.
    pub(super) fn first(&self, now: UnixTime) -> Mark {
        let head = self.kept.head();
        let mut first = self.kept.first();
        let raise = |first: &mut Mark, to: Mark| {
            if to.offset > first.offset {
                *first = to;
            }
        };
        let by_count = self.newest(self.retention.messages).max(self.forgotten);
        if let Some(mark) = self.kept.behind(by_count) {
            raise(&mut first, mark);
        }
        if head.position.since(first.position) > self.retention.bytes {
            let place = self.kept.place(head.position.back(self.retention.bytes));
            raise(&mut first, place.unit_end.unwrap_or(place.unit_start));
        }
        let oldest = UnixTime(now.0.saturating_sub(millis(self.retention.age)));
        raise(&mut first, self.kept.not_before(oldest));
        first
    }

    /// The place before so many of the newest messages, those that are left out not counted.
    fn newest(&self, messages: u64) -> Offset {
        let head = self.kept.head().offset;
        let found_behind = |message: &NotedMessage| {
            head.since(message.offset) - (self.ever_left_out - message.left_out) >= messages
        };
        // Between two that are noted none is left out.
        let before = self.noted.partition_point(found_behind);
        let left_out = match before.checked_sub(1) {
            Some(last) => self.ever_left_out - self.noted[last].left_out,
            None => self.left_out,
        };
        Offset(head.0.saturating_sub(messages.saturating_add(left_out)))
    }

    /// Lets go of segments of which nothing is kept any more.
    pub(super) fn expire(&mut self, now: UnixTime) {
        let Retention { messages, age, bytes } = self.retention;
        let left_out = self.left_out;
        let head = self.kept.head();
        self.kept.trim_while(|oldest| {
            let end = oldest.end();
            head.offset.since(end.offset) >= messages.saturating_add(left_out)
                || head.position.since(end.position) >= bytes
                || now.since(oldest.newest_time()) > millis(age)
        });
        self.settle();
        if self.replays.is_empty() {
            return;
        }
        let first = self.kept.first().offset;
        self.replays.retain(|replays| now.since(replays.used) < UNUSED_MS);
        for replays in &mut self.replays {
            while replays.chunks.front().is_some_and(|chunk| chunk.newest() <= first) {
                replays.chunks.pop_front();
            }
        }
    }

    /// Lets go of its oldest segment: memory is short. False if there is none.
    pub(super) fn shrink(&mut self) -> bool {
        self.replays.clear();
        let end = self.kept.first_end();
        let held = self.kept.holds_segments();
        self.kept.trim(end);
        self.settle();
        held
    }

    /// Forgets what was noted of messages that are gone.
    fn settle(&mut self) {
        let first = self.kept.first().offset;
        while let Some(oldest) = self.noted.front()
            && oldest.offset <= first
        {
            self.left_out -= u64::from(oldest.noted.is_left_out);
            self.noted.pop_front();
        }
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        !self.kept.holds_segments()
    }

    /// The place from which whoever comes back gets all that it has missed. `None`: not all of it is kept.
    pub(super) fn behind(&self, start: Start, epoch: Epoch, now: UnixTime) -> Option<Mark> {
        let (first, head) = (self.first(now), self.kept.head());
        match start {
            Start::Head => Some(head),
            Start::Behind { epoch: of, offset, .. } => {
                let is_kept = of == epoch && first.offset <= offset && offset <= head.offset;
                self.kept.behind(offset).filter(|_| is_kept)
            }
            Start::Newest(messages) => {
                let offset = self.newest(messages).max(first.offset);
                self.kept.behind(offset)
            }
        }
    }

    /// What a subscriber in some encoding gets from a place on, in runs of whole units.
    ///
    /// # Errors
    /// [`LogFull`] where there is no memory to make it in.
    pub(super) fn replay(
        &mut self,
        encoding: Encoding,
        from: Mark,
        making: &Making<'_>,
        now: UnixTime,
    ) -> Result<Vec<Run>, LogFull> {
        let head = self.kept.head().offset;
        if from.offset >= head {
            return Ok(Vec::new());
        }
        let History { kept, replays, noted, .. } = self;
        let at = match replays.iter().position(|replays| replays.encoding == encoding) {
            Some(at) => at,
            None => {
                replays.push(Replays { encoding, chunks: VecDeque::new(), used: now });
                replays.len() - 1
            }
        };
        let Replays { chunks, used, .. } = &mut replays[at];
        *used = now;
        if chunks.back().is_some_and(|last| last.newest() < from.offset) {
            chunks.clear();
        }
        match (chunks.front().map(|first| first.behind), chunks.back().map(|last| last.newest())) {
            (Some(oldest), Some(newest)) => {
                if from.offset < oldest {
                    let earlier = make_chunks(kept, noted, encoding, from, oldest, making)?;
                    earlier.into_iter().rev().for_each(|chunk| chunks.push_front(chunk));
                }
                if newest < head {
                    // A short one goes on: many short ones would cost each replay a part of a send.
                    let last = chunks.back().filter(|last| last.bytes.len() < CHUNK_BYTES / 4);
                    let short = last.map(|last| last.behind).and_then(|behind| kept.behind(behind));
                    if short.is_some() {
                        chunks.pop_back();
                    }
                    let from = short.or_else(|| kept.behind(newest)).expect("it is kept");
                    chunks.extend(make_chunks(kept, noted, encoding, from, head, making)?);
                }
            }
            _ => chunks.extend(make_chunks(kept, noted, encoding, from, head, making)?),
        }
        let wanted = chunks.iter().filter(|chunk| chunk.newest() > from.offset);
        let runs = wanted.map(|chunk| chunk.behind(from.offset));
        // Where all that is left of a chunk is left out nothing follows.
        Ok(runs.filter(|run| !run.is_empty()).collect())
    }
}

/// What was noted of a message; `noted` is asked with rising numbers.
fn noted_of<'a>(
    noted: &mut std::iter::Peekable<impl Iterator<Item = &'a NotedMessage>>,
    offset: Offset,
) -> Option<&'a Noted> {
    while noted.next_if(|message| message.offset < offset).is_some() {}
    noted.peek().filter(|message| message.offset == offset).map(|message| &message.noted)
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// Encodes the messages from a place on up to a number.
fn make_chunks(
    kept: &View,
    noted: &VecDeque<NotedMessage>,
    encoding: Encoding,
    from: Mark,
    to: Offset,
    making: &Making<'_>,
) -> Result<Vec<Arc<Chunk>>, LogFull> {
    let (mut chunks, mut behind) = (Vec::new(), from.offset);
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    let mut noted = noted.iter().peekable();
    for (offset, time, unit) in kept.units(from).take_while(|(offset, ..)| *offset <= to) {
        let noted = noted_of(&mut noted, offset);
        if noted.is_some_and(|noted| noted.is_left_out) {
            // Its number has no bytes.
        } else if encoding == Encoding::CANONICAL {
            bytes.extend_from_slice(unit);
        } else {
            let tags = noted.and_then(|noted| noted.tags.as_deref());
            let stamp = Stamp { topic: making.topic, epoch: making.epoch, offset, time, tags };
            making.encoder.encode(encoding, &stamp, unit, &mut bytes);
        }
        ends.push(u32::try_from(bytes.len()).map_err(|_| LogFull)?);
        if bytes.len() >= CHUNK_BYTES || offset == to {
            bytes.shrink_to_fit();
            let charge = making.gauge.charge(bytes.len()).ok_or(LogFull)?;
            let made = Made { bytes: std::mem::take(&mut bytes), _charge: charge };
            let ends = std::mem::take(&mut ends);
            chunks.push(Arc::new(Chunk { behind, bytes: Bytes::from_owner(made), ends }));
            behind = offset;
        }
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests;
