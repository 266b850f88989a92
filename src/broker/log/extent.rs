//! A run of whole units that lie side by side in one segment.

use std::sync::Arc;

use bytes::Bytes;

use super::segment::Span;
use crate::broker::{
    ids::{Mark, Offset, Position, UnixTime},
    limits::Charge,
};

/// A message that is a segment of its own: the buffer that it was received into.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) bytes: Bytes,
    pub(super) time: UnixTime,
    pub(super) _charge: Charge,
}

#[derive(Clone, Debug)]
pub(super) enum Store {
    /// Units `unit..` of a shared segment, whose first byte is at `start`.
    Segment { span: Span, start: u32, unit: u32 },
    /// One unit in its own buffer.
    Message(Arc<Large>),
}

/// A run of whole units, readable. Cloning shares the segment.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The place before its first unit.
    pub(super) at: Mark,
    pub(super) store: Store,
}

impl Extent {
    /// The units' bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.store {
            Store::Segment { span, start, .. } => &span.bytes()[*start as usize..],
            Store::Message(large) => &large.bytes,
        }
    }

    /// The place before its first unit.
    pub fn start(&self) -> Mark {
        self.at
    }

    /// The place after its last unit.
    pub fn end(&self) -> Mark {
        let units = match &self.store {
            Store::Segment { span, unit, .. } => span.units() - unit,
            Store::Message(_) => 1,
        };
        Mark {
            position: self.at.position.advanced(self.bytes().len()),
            offset: Offset(self.at.offset.0 + u64::from(units)),
        }
    }

    /// The place behind the message `offset`, which is in this extent, or the last one before it.
    pub(super) fn behind(&self, offset: Offset) -> Mark {
        let units = u32::try_from(offset.since(self.at.offset)).expect("units of a segment");
        match &self.store {
            _ if units == 0 => self.at,
            Store::Message(_) => self.end(),
            Store::Segment { span, start, unit } => {
                let end = span.unit_end(unit + units - 1);
                Mark { position: self.at.position.advanced((end - start) as usize), offset }
            }
        }
    }

    /// When its last unit was appended.
    pub fn newest_time(&self) -> UnixTime {
        match &self.store {
            Store::Message(large) => large.time,
            Store::Segment { span, .. } => span.unit_time(span.units() - 1),
        }
    }

    /// The place before its first unit that was appended at `time` or later. One was.
    pub(super) fn not_before(&self, time: UnixTime) -> Mark {
        match &self.store {
            Store::Message(_) => self.at,
            Store::Segment { span, unit, .. } => {
                // Binary search: how many of this extent's units are older.
                let (mut low, mut high) = (*unit, span.units());
                while low < high {
                    let middle = low + (high - low) / 2;
                    if span.unit_time(middle) < time {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                self.behind(Offset(self.at.offset.0 + u64::from(low - unit)))
            }
        }
    }

    /// Its units from `from` on, a place between two of them: each with its number and time.
    pub(super) fn units(&self, from: Mark) -> impl Iterator<Item = (Offset, UnixTime, &[u8])> {
        let end = self.end();
        let mut place = from;
        std::iter::from_fn(move || {
            if place.offset >= end.offset {
                return None;
            }
            let next = self.behind(Offset(place.offset.0 + 1));
            let at = |position: Position| {
                usize::try_from(position.since(self.at.position)).expect("an extent fits in memory")
            };
            let bytes = &self.bytes()[at(place.position)..at(next.position)];
            let time = match &self.store {
                Store::Message(large) => large.time,
                Store::Segment { span, unit, .. } => {
                    let before =
                        u32::try_from(place.offset.since(self.at.offset)).expect("units of a segment");
                    span.unit_time(unit + before)
                }
            };
            place = next;
            Some((next.offset, time, bytes))
        })
    }

    /// The last place between units that is at or before `position`, which lies in this extent or at its end.
    pub(super) fn floor(&self, position: Position) -> Mark {
        let within = position.since(self.at.position);
        match &self.store {
            Store::Message(large) if within < large.bytes.len() as u64 => self.at,
            Store::Message(_) => self.end(),
            Store::Segment { span, start, unit } => {
                let target = u64::from(*start) + within;
                // Binary search: how many of this extent's units end at or before the target.
                let (mut low, mut high) = (*unit, span.units());
                while low < high {
                    let middle = low + (high - low) / 2;
                    if u64::from(span.unit_end(middle)) <= target {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let end = if low == *unit { *start } else { span.unit_end(low - 1) };
                Mark {
                    position: self.at.position.advanced((end - start) as usize),
                    offset: Offset(self.at.offset.0 + u64::from(low - unit)),
                }
            }
        }
    }

    /// The first place between units that is after `position`, which lies in this extent and not at its end.
    pub(super) fn ceiling(&self, position: Position) -> Mark {
        let floor = self.floor(position);
        match &self.store {
            Store::Message(_) => self.end(),
            Store::Segment { span, start, unit } => {
                let next =
                    unit + u32::try_from(floor.offset.since(self.at.offset)).expect("units of a segment");
                Mark {
                    position: self.at.position.advanced((span.unit_end(next) - start) as usize),
                    offset: Offset(floor.offset.0 + 1),
                }
            }
        }
    }
}
