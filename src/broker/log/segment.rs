//! Segments: shared memory that one worker appends to and all workers read.
//!
//! ```text
//!   0                    end                      capacity − 8·units      capacity
//!   │ unit │ unit │ unit │ … room …               │ entry │ entry │ entry │
//!                                                 ◀─ the index grows from the back
//! ```
//!
//! The only `unsafe` code of the broker. The protocol: a [`Writer`] exists once per buffer (it is not
//! `Clone`) and writes only at or above what it has written before. A [`Span`] is made only by the writer
//! and covers what was written when it was made. So no byte is ever written that a span can name, and no
//! `&mut` to the buffer as a whole exists. A span reaches another thread through a channel that
//! synchronises (`Span: Send`), which orders the writes before the reads.

#![allow(unsafe_code)]

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    fmt,
    ptr::NonNull,
    sync::Arc,
};

use crate::broker::{ids::UnixTime, limits::Charge};

/// Bytes of an index entry: the unit's end (u32) and its time (u32, milliseconds after the segment's own), little endian.
const ENTRY_BYTES: usize = 8;

/// Memory of `capacity` bytes, never moved, freed with its last reference.
struct Buffer {
    memory: NonNull<u8>,
    capacity: u32,
    /// When it was made: times of its units count from here.
    made: UnixTime,
    /// Counted against the bound on all logs together.
    _charge: Charge,
}

// SAFETY: the memory is owned by the buffer. It is written only through the one `Writer`, and read only
// through `Span`s, which never cover bytes that are still to be written (see the head of the file).
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access is reading what no one writes any more.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn layout(capacity: u32) -> Layout {
        Layout::from_size_align(capacity as usize, ENTRY_BYTES)
            .expect("a u32 size with a small alignment is valid")
    }

    fn new(capacity: u32, made: UnixTime, charge: Charge) -> Buffer {
        assert!(capacity as usize >= ENTRY_BYTES, "a segment holds at least one index entry");
        let layout = Buffer::layout(capacity);
        // SAFETY: the layout's size is not 0 (asserted above).
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        Buffer { memory, capacity, made, _charge: charge }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and dropped once.
        unsafe { dealloc(self.memory.as_ptr(), Buffer::layout(self.capacity)) };
    }
}

/// The one who appends to a segment.
pub struct Writer {
    buffer: Arc<Buffer>,
    /// Bytes written. Below the index at all times.
    end: u32,
    units: u32,
}

impl Writer {
    /// An empty segment of `capacity` bytes, index included, made now.
    pub fn new(capacity: u32, now: UnixTime, charge: Charge) -> Writer {
        Writer { buffer: Arc::new(Buffer::new(capacity, now, charge)), end: 0, units: 0 }
    }

    /// Whether a unit of `len` bytes and its index entry have room.
    pub fn fits(&self, len: usize) -> bool {
        let index = (self.units as usize + 1) * ENTRY_BYTES;
        self.end as usize + len + index <= self.buffer.capacity as usize
    }

    /// Appends one finished unit. Its time is kept as it is for 49 days after the segment was made, and never before that.
    ///
    /// # Panics
    /// If it does not fit: ask [`Writer::fits`] first.
    pub fn append(&mut self, unit: &[u8], time: UnixTime) {
        assert!(self.fits(unit.len()), "the caller asked whether the unit fits");
        let end = self.end + u32::try_from(unit.len()).expect("what fits a u32 capacity is a u32");
        let after = u32::try_from(time.since(self.buffer.made)).unwrap_or(u32::MAX);
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&end.to_le_bytes());
        entry[4..].copy_from_slice(&after.to_le_bytes());
        let entry_at = self.buffer.capacity as usize - (self.units as usize + 1) * ENTRY_BYTES;
        // SAFETY: both ranges lie inside the buffer and do not meet (`fits`). Every existing span ends at
        // or below `self.end` and holds at most `self.units` entries, so nobody can read these bytes, and
        // this is the only writer.
        unsafe {
            let memory = self.buffer.memory.as_ptr();
            memory.add(self.end as usize).copy_from_nonoverlapping(unit.as_ptr(), unit.len());
            memory.add(entry_at).copy_from_nonoverlapping(entry.as_ptr(), ENTRY_BYTES);
        }
        self.end = end;
        self.units += 1;
    }

    /// The right to read all that has been written until now.
    pub fn span(&self) -> Span {
        Span { buffer: Arc::clone(&self.buffer), end: self.end, units: self.units }
    }

    /// Bytes written until now.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Units written until now.
    pub fn units(&self) -> u32 {
        self.units
    }
}

/// A reference to a segment with the right to read its first `end` bytes and `units` index entries.
#[derive(Clone)]
pub struct Span {
    buffer: Arc<Buffer>,
    end: u32,
    units: u32,
}

impl Span {
    /// What the span covers.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the writer wrote `0..end` before it made this span, writes nothing below `end` any more,
        // and the buffer lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.buffer.memory.as_ptr(), self.end as usize) }
    }

    /// Where unit `unit` (counted from 0 in this segment) ends, in bytes from the segment's start.
    ///
    /// # Panics
    /// If the span does not cover that unit.
    pub fn unit_end(&self, unit: u32) -> u32 {
        self.entry(unit).0
    }

    /// When unit `unit` was appended.
    ///
    /// # Panics
    /// If the span does not cover that unit.
    pub fn unit_time(&self, unit: u32) -> UnixTime {
        UnixTime(self.buffer.made.0 + u64::from(self.entry(unit).1))
    }

    /// Units that the span covers.
    pub fn units(&self) -> u32 {
        self.units
    }

    fn entry(&self, unit: u32) -> (u32, u32) {
        assert!(unit < self.units, "unit {unit} of {}", self.units);
        let at = self.buffer.capacity as usize - (unit as usize + 1) * ENTRY_BYTES;
        // SAFETY: the entry was written before this span was made (`unit < units`), is never written
        // again, and lies inside the buffer.
        let entry = unsafe { std::slice::from_raw_parts(self.buffer.memory.as_ptr().add(at), ENTRY_BYTES) };
        let word = |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
        (word(0), word(4))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({} bytes, {} units)", self.end, self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::limits::Gauge;
    use proptest::prelude::*;

    fn writer(capacity: u32) -> Writer {
        Writer::new(capacity, UnixTime(5), Gauge::new(1 << 20).charge(capacity as usize).unwrap())
    }

    #[test]
    fn a_span_sees_what_was_written_before_it_and_nothing_after() {
        let mut writer = writer(64);
        writer.append(b"hello", UnixTime(12));
        let first = writer.span();
        // Held while the writer goes on: Miri says if the append touches it.
        let bytes = first.bytes();
        writer.append(b", world", UnixTime(14));
        let second = writer.span();
        assert_eq!(bytes, b"hello");
        assert_eq!(second.bytes(), b"hello, world");
        assert_eq!((second.unit_end(0), second.unit_end(1)), (5, 12));
        assert_eq!((second.unit_time(0), second.unit_time(1)), (UnixTime(12), UnixTime(14)));
        assert_eq!(first.bytes().as_ptr(), second.bytes().as_ptr(), "no copy");
    }

    #[test]
    fn the_index_takes_its_room() {
        let mut writer = writer(32);
        assert!(writer.fits(24) && !writer.fits(25));
        writer.append(&[1; 8], UnixTime(5));
        assert!(writer.fits(8) && !writer.fits(9));
        writer.append(&[2; 8], UnixTime(5));
        assert!(!writer.fits(1));
    }

    #[test]
    #[should_panic(expected = "unit 1 of 1")]
    fn a_span_cannot_name_a_unit_that_came_later() {
        let mut writer = writer(64);
        writer.append(b"a", UnixTime(5));
        let span = writer.span();
        writer.append(b"b", UnixTime(5));
        span.unit_end(1);
    }

    #[test]
    fn memory_is_given_back_with_the_last_reference() {
        let gauge = Gauge::new(64);
        let mut writer = Writer::new(64, UnixTime(0), gauge.charge(64).unwrap());
        writer.append(b"x", UnixTime(5));
        let span = writer.span();
        drop(writer);
        assert_eq!(gauge.used(), 64);
        assert_eq!(span.bytes(), b"x");
        drop(span);
        assert_eq!(gauge.used(), 0);
    }

    /// What Miri is for: each reader looks at every byte and index entry that its spans name, while the writer
    /// goes on in the same segment and is gone before the last of them.
    #[test]
    fn readers_on_other_threads_see_a_growing_prefix() {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = std::sync::mpsc::channel::<Span>();
                let reader = std::thread::spawn(move || {
                    let expected: Vec<u8> = (0..100).collect();
                    let mut seen = 0;
                    // All are kept: old spans must stay readable beside newer ones.
                    let mut spans = Vec::new();
                    for span in receiver {
                        assert!(span.bytes().len() > seen);
                        seen = span.bytes().len();
                        spans.push(span);
                        for span in &spans {
                            assert_eq!(span.bytes(), &expected[..span.bytes().len()]);
                            assert_eq!(span.unit_end(span.units() - 1) as usize, span.bytes().len());
                            assert_eq!(span.unit_time(0), UnixTime(6));
                        }
                    }
                    seen
                });
                (sender, reader)
            })
            .collect();
        let mut writer = writer(4096);
        let mut next = 0;
        for len in [1, 2, 3, 5, 8, 13, 21] {
            let unit: Vec<u8> = (next..next + len).collect();
            next += len;
            writer.append(&unit, UnixTime(5 + u64::from(len)));
            readers.iter().for_each(|(sender, _)| sender.send(writer.span()).unwrap());
        }
        drop(writer);
        for (sender, reader) in readers {
            drop(sender);
            assert_eq!(reader.join().unwrap(), usize::from(next));
        }
    }

    proptest! {
        // Miri needs seconds for one.
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 256 }))]

        #[test]
        fn a_segment_is_a_vector_with_an_index(units in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut writer = writer(512);
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for unit in &units {
                let fits = bytes.len() + unit.len() + (ends.len() + 1) * 8 <= 512;
                prop_assert_eq!(writer.fits(unit.len()), fits);
                if !fits { continue; }
                writer.append(unit, UnixTime(5));
                bytes.extend_from_slice(unit);
                ends.push(bytes.len());
            }
            let span = writer.span();
            prop_assert_eq!(span.bytes(), &bytes[..]);
            prop_assert_eq!(span.units() as usize, ends.len());
            for (i, end) in ends.iter().enumerate() {
                prop_assert_eq!(span.unit_end(u32::try_from(i).unwrap()) as usize, *end);
            }
        }
    }
}
