//! The home's side of a log: append, and hand out what was appended since the last post.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    extent::{Extent, Large, Store},
    segment::Writer,
};
use crate::broker::{
    ids::{Mark, Offset, Position, Tick, UnixTime},
    limits::{Charge, Gauge},
};

/// From this many bytes on a unit is a segment of its own and is not copied. Below, a copy costs less than
/// the receive buffer that the unit would keep alive.
pub const LARGE_BYTES: usize = 32 * 1024;

/// Segment sizes in bytes. A topic goes up one when it fills a segment within a tick, and begins at the
/// smallest again after it was idle: so a million quiet topics stay cheap and a busy one seldom allocates.
const SEGMENT_BYTES: [u32; 5] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// One message as it goes out on the wire, finished.
#[derive(Debug)]
pub enum Unit<'a> {
    /// In somebody's buffer: copied into the open segment.
    Borrowed(&'a [u8]),
    /// In a buffer of its own: from [`LARGE_BYTES`] on it becomes a segment as it is.
    Owned(Bytes),
}

impl Unit<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Unit::Borrowed(bytes) => bytes,
            Unit::Owned(bytes) => bytes,
        }
    }

    /// A unit that can be kept: copies what is borrowed.
    pub fn into_owned(self) -> Bytes {
        match self {
            Unit::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Unit::Owned(bytes) => bytes,
        }
    }
}

/// All logs together are at their bound; nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogFull;

/// What a topic holds only while messages come: the open segment, and sealed extents not yet posted.
#[derive(Default)]
struct Live {
    open: Option<Open>,
    sealed: Vec<Extent>,
    /// Room for a large message of so many bytes that was not appended yet.
    reserved: Option<(usize, Charge)>,
    /// Index into [`SEGMENT_BYTES`].
    class: usize,
}

struct Open {
    writer: Writer,
    /// Where the run of units that is being written begins, in the segment and in the log.
    start: u32,
    unit: u32,
    at: Mark,
    opened: Tick,
}

impl Open {
    /// Appends a unit whose place in the log is `at`.
    #[inline]
    fn append(&mut self, unit: &[u8], at: Mark, time: UnixTime) {
        if self.writer.end() == self.start {
            self.at = at;
        }
        self.writer.append(unit, time);
    }

    fn extent(&self) -> Option<Extent> {
        (self.writer.end() > self.start).then(|| Extent {
            at: self.at,
            store: Store::Segment { span: self.writer.span(), start: self.start, unit: self.unit },
        })
    }
}

/// A log as its home holds it. An idle one is its head and nothing else.
pub struct Log {
    head: Mark,
    live: Option<Box<Live>>,
}

impl Default for Log {
    fn default() -> Self {
        Log { head: Mark::START, live: None }
    }
}

impl Log {
    /// A log that begins behind the message `last` of its topic.
    pub fn behind(last: Offset) -> Log {
        Log { head: Mark { offset: last, ..Mark::START }, live: None }
    }

    /// The place after the last message.
    pub fn head(&self) -> Mark {
        self.head
    }

    /// Counts a message that nobody is there to read: it gets its offset and is not kept.
    pub fn pass(&mut self) {
        self.head.offset.0 += 1;
        // The next extent begins with another offset than the open run would have.
        self.seal_open();
    }

    /// Appends one message.
    ///
    /// # Errors
    /// [`LogFull`] where a new segment would pass the bound on all logs.
    #[inline]
    pub fn append(
        &mut self,
        unit: &Unit<'_>,
        now: Tick,
        time: UnixTime,
        gauge: &Arc<Gauge>,
    ) -> Result<(), LogFull> {
        let len = unit.bytes().len();
        // Nearly all messages are short and fit the open segment.
        if let Some(open) = self.live.as_mut().and_then(|live| live.open.as_mut())
            && len < LARGE_BYTES
            && open.writer.fits(len)
        {
            open.append(unit.bytes(), self.head, time);
            self.advance(len);
            return Ok(());
        }
        self.reserve(len, now, time, gauge)?;
        self.write(unit, time);
        Ok(())
    }

    /// Makes room for one message of `len` bytes, to be [written](Log::write) next. What is reserved and not used stays for
    /// a later one.
    ///
    /// # Errors
    /// [`LogFull`] where a new segment would pass the bound on all logs.
    pub fn reserve(
        &mut self,
        len: usize,
        now: Tick,
        time: UnixTime,
        gauge: &Arc<Gauge>,
    ) -> Result<(), LogFull> {
        let live = self.live.get_or_insert_default();
        if len >= LARGE_BYTES {
            if live.reserved.as_ref().is_none_or(|(bytes, _)| *bytes != len) {
                live.reserved = None;
                live.reserved = Some((len, gauge.charge(len).ok_or(LogFull)?));
            }
            return Ok(());
        }
        match &live.open {
            Some(open) if open.writer.fits(len) => Ok(()),
            _ => live.open_segment(len, self.head, now, time, gauge),
        }
    }

    /// Appends one message whose room was [reserved](Log::reserve).
    ///
    /// # Panics
    /// If it was not.
    pub fn write(&mut self, unit: &Unit<'_>, time: UnixTime) {
        let len = unit.bytes().len();
        let live = self.live.as_mut().expect("room was reserved");
        if len >= LARGE_BYTES {
            let (_, charge) = live.reserved.take().expect("room was reserved");
            if let Some(open) = &mut live.open {
                live.sealed.extend(open.extent());
                (open.start, open.unit) = (open.writer.end(), open.writer.units());
            }
            let bytes = match unit {
                Unit::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
                Unit::Owned(bytes) => bytes.clone(),
            };
            let large = Large { bytes, time, _charge: charge };
            live.sealed.push(Extent { at: self.head, store: Store::Message(Arc::new(large)) });
        } else {
            live.open.as_mut().expect("room was reserved").append(unit.bytes(), self.head, time);
        }
        self.advance(len);
    }

    fn advance(&mut self, len: usize) {
        self.head =
            Mark { position: self.head.position.advanced(len), offset: Offset(self.head.offset.0 + 1) };
    }

    /// What lies behind `sent`, oldest first. The last extent may begin before `sent`: it is then a longer
    /// form of the last one that was handed out, and takes its place.
    pub fn extents_after(&self, sent: Position) -> impl Iterator<Item = Extent> + '_ {
        let (sealed, open) = match &self.live {
            Some(live) => (&live.sealed[..], live.open.as_ref().and_then(Open::extent)),
            None => (&[][..], None),
        };
        let is_new = move |extent: &Extent| extent.end().position > sent;
        let sealed = sealed.iter().filter(move |extent| is_new(extent)).cloned();
        sealed.chain(open.filter(is_new))
    }

    /// Whether it keeps sealed extents until everybody who reads has been sent them.
    pub fn has_sealed(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.sealed.is_empty())
    }

    /// Everybody who reads has been sent all up to `position`: sealed extents before it can go.
    pub fn posted(&mut self, position: Position) {
        if let Some(live) = &mut self.live {
            live.sealed.retain(|extent| extent.end().position > position);
        }
    }

    /// The topic was idle for a while and all was posted: lets go of its memory.
    pub fn release(&mut self) {
        self.live = None;
    }

    /// Whether it holds memory beyond itself.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    fn seal_open(&mut self) {
        let Some(live) = &mut self.live else { return };
        let Some(open) = &mut live.open else { return };
        live.sealed.extend(open.extent());
        (open.start, open.unit) = (open.writer.end(), open.writer.units());
    }
}

impl Live {
    /// Goes on in a new segment, which has room for a unit of `len` bytes.
    fn open_segment(
        &mut self,
        len: usize,
        at: Mark,
        now: Tick,
        time: UnixTime,
        gauge: &Arc<Gauge>,
    ) -> Result<(), LogFull> {
        if let Some(full) = &self.open
            && now.since(full.opened) <= 1
        {
            self.class = (self.class + 1).min(SEGMENT_BYTES.len() - 1);
        }
        let enough = |bytes: u32| bytes as usize >= len + size_of::<u64>();
        let smallest = SEGMENT_BYTES.iter().position(|&bytes| enough(bytes));
        let class = self.class.max(smallest.expect("a unit below LARGE_BYTES fits the largest segment"));
        let capacity = SEGMENT_BYTES[class];
        let charge = gauge.charge(capacity as usize).ok_or(LogFull)?;
        if let Some(full) = self.open.take() {
            self.sealed.extend(full.extent());
        }
        let writer = Writer::new(capacity, time, charge);
        self.open = Some(Open { writer, start: 0, unit: 0, at, opened: now });
        Ok(())
    }
}
