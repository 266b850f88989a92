//! A worker's side of a log: the extents of the window, and how far it may read.

use std::collections::VecDeque;

use super::extent::Extent;
use crate::broker::ids::{Mark, Offset, Position, UnixTime};

/// Where a position lies among the units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The last place between units at or before the position.
    pub unit_start: Mark,
    /// Where the unit that the position lies inside of ends; `None` if it lies between two units.
    pub unit_end: Option<Mark>,
}

/// What one worker knows of a log. It holds one reference per segment of the window.
#[derive(Debug)]
pub struct View {
    extents: VecDeque<Extent>,
    head: Mark,
}

impl View {
    /// A view that begins at `head`: nothing before it can be read.
    pub fn new(head: Mark) -> View {
        View { extents: VecDeque::new(), head }
    }

    /// How far it may read.
    pub fn head(&self) -> Mark {
        self.head
    }

    /// The first position that can be read.
    pub fn tail(&self) -> Position {
        self.extents.front().map_or(self.head.position, |extent| extent.start().position)
    }

    /// Takes in what the home appended since the last time.
    #[inline]
    pub fn apply(&mut self, head: Mark, extents: impl IntoIterator<Item = Extent>) {
        for extent in extents {
            match self.extents.back_mut() {
                Some(last) if last.start().position == extent.start().position => *last = extent,
                _ => self.extents.push_back(extent),
            }
        }
        self.head = head;
    }

    /// The bytes from `from` up to the end of its extent: all there is, nearly always. Empty at the head.
    #[inline]
    pub fn first_run(&self, from: Position) -> &[u8] {
        match self.extents.back() {
            Some(last) if last.start().position <= from => &last.bytes()[offset_in(last, from)..],
            _ => self.runs(from).next().unwrap_or(&[]),
        }
    }

    /// The bytes from `from` up to the head, one slice per extent.
    pub fn runs(&self, from: Position) -> impl Iterator<Item = &[u8]> {
        let first = self.index_of(from);
        self.extents.range(first..).enumerate().filter_map(move |(i, extent)| {
            let run = if i == 0 { &extent.bytes()[offset_in(extent, from)..] } else { extent.bytes() };
            (!run.is_empty()).then_some(run)
        })
    }

    /// Where `position`, between the tail and the head, lies among the units.
    pub fn place(&self, position: Position) -> Place {
        match self.extents.get(self.index_of(position)) {
            None => Place { unit_start: self.head, unit_end: None },
            Some(extent) => {
                let unit_start = extent.floor(position);
                let unit_end = (unit_start.position < position).then(|| extent.ceiling(position));
                Place { unit_start, unit_end }
            }
        }
    }

    /// The place behind the message `offset`, if what follows it is held.
    pub fn behind(&self, offset: Offset) -> Option<Mark> {
        if offset == self.head.offset {
            return Some(self.head);
        }
        let at = self.extents.partition_point(|extent| extent.end().offset <= offset);
        self.extents
            .get(at)
            .filter(|extent| extent.start().offset <= offset)
            .map(|extent| extent.behind(offset))
    }

    /// The place before the first unit that was appended at `time` or later: the head, if none was.
    pub fn not_before(&self, time: UnixTime) -> Mark {
        let at = self.extents.partition_point(|extent| extent.newest_time() < time);
        self.extents.get(at).map_or(self.head, |extent| extent.not_before(time))
    }

    /// The units from `from`, a place between two of them, up to the head: each with its number and time.
    pub fn units(&self, from: Mark) -> impl Iterator<Item = (Offset, UnixTime, &[u8])> {
        let first = self.index_of(from.position);
        self.extents.range(first..).flat_map(move |extent| {
            let from = if extent.start().offset < from.offset { from } else { extent.start() };
            extent.units(from)
        })
    }

    /// The place before the first unit that is held.
    pub fn first(&self) -> Mark {
        self.extents.front().map_or(self.head, Extent::start)
    }

    /// Where the newest unit begins; `None` if it is not held.
    pub fn newest(&self) -> Option<Mark> {
        let last = self.extents.back()?;
        Some(last.floor(Position(self.head.position.0 - 1)))
    }

    /// The extent that `position`, between the tail and the head, lies in, and where in it.
    ///
    /// # Panics
    /// If `position` is the head: nothing is there.
    pub fn extent_at(&self, position: Position) -> (&Extent, usize) {
        let extent = &self.extents[self.index_of(position)];
        (extent, offset_in(extent, position))
    }

    /// Lets go of the extents that end at or before `position`.
    #[inline]
    pub fn trim(&mut self, position: Position) {
        while self.extents.front().is_some_and(|extent| extent.end().position <= position) {
            self.extents.pop_front();
        }
    }

    /// Lets go of the oldest extents, as long as nothing of them is needed.
    pub fn trim_while(&mut self, mut is_over: impl FnMut(&Extent) -> bool) {
        while self.extents.front().is_some_and(&mut is_over) {
            self.extents.pop_front();
        }
    }

    /// Lets go of everything, memory of the list included: the topic is idle and all have all.
    pub fn release(&mut self) {
        self.extents = VecDeque::new();
    }

    /// The end of the first extent that is held; segments are let go of as a whole.
    pub fn first_end(&self) -> Position {
        self.extents.front().map_or(self.head.position, |extent| extent.end().position)
    }

    /// Whether it holds any segment.
    pub fn holds_segments(&self) -> bool {
        !self.extents.is_empty()
    }

    /// Index of the extent that `position` lies in; the number of extents if it is the head.
    fn index_of(&self, position: Position) -> usize {
        debug_assert!(
            self.tail() <= position && position <= self.head.position,
            "{position:?} outside {self:?}"
        );
        self.extents.partition_point(|extent| extent.end().position <= position)
    }
}

fn offset_in(extent: &Extent, position: Position) -> usize {
    usize::try_from(position.since(extent.start().position)).expect("an extent fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{
        ids::Tick,
        limits::Gauge,
        log::{LARGE_BYTES, Log, LogFull, Unit},
    };
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// What a log has at `from..from + len`: byte i is i mod 251. Made of copies, since Miri runs this, too.
    fn bytes_at(from: usize, len: usize) -> Vec<u8> {
        let cycle: Vec<u8> = (0..251).collect();
        cycle.repeat(len / 251 + 2)[from % 251..][..len].to_vec()
    }

    /// Appends `sizes`, posting to a view after every unit whose number
    /// is in `posts`. Returns the view and where the units end.
    fn build(sizes: &[usize], posts: &[usize], gauge: &Arc<Gauge>) -> (Log, View, Vec<u64>) {
        let (mut log, mut view) = (Log::default(), View::new(Mark::START));
        let (mut total, mut ends) = (0usize, Vec::new());
        let mut sent = Position::START;
        for (i, &size) in sizes.iter().enumerate() {
            let unit = bytes_at(total, size);
            total += size;
            ends.push(total as u64);
            log.append(&Unit::Owned(Bytes::from(unit)), Tick(0), UnixTime(0), gauge).unwrap();
            if posts.contains(&i) || i + 1 == sizes.len() {
                view.apply(log.head(), log.extents_after(sent));
                sent = log.head().position;
                log.posted(sent);
            }
        }
        (log, view, ends)
    }

    fn check(view: &View, ends: &[u64]) {
        let total = ends.last().copied().unwrap_or(0);
        let places = if cfg!(miri) { 5 } else { 200 };
        assert_eq!(view.head().position, Position(Position::START.0 + total));
        assert_eq!(view.head().offset, Offset(ends.len() as u64));
        let step = (total / places).max(1);
        for from in (0..=total).step_by(usize::try_from(step).unwrap()).chain(ends.iter().copied()) {
            let position = Position(Position::START.0 + from);
            let bytes = view.runs(position).collect::<Vec<_>>().concat();
            let expected = bytes_at(usize::try_from(from).unwrap(), usize::try_from(total - from).unwrap());
            assert!(bytes == expected, "{} bytes from {from} on", bytes.len());
            let run = view.first_run(position);
            assert_eq!(run, &bytes[..run.len()]);
            assert_eq!(run.is_empty(), bytes.is_empty());

            let whole = ends.iter().filter(|&&end| end <= from).count();
            let start = if whole == 0 { 0 } else { ends[whole - 1] };
            let place = view.place(position);
            assert_eq!(place.unit_start.offset, Offset(whole as u64));
            assert_eq!(place.unit_start.position.0 - Position::START.0, start);
            assert_eq!(place.unit_end.is_some(), start < from);
            if let Some(end) = place.unit_end {
                assert_eq!(end.position.0 - Position::START.0, ends[whole]);
                assert_eq!(end.offset, Offset(whole as u64 + 1));
            }
        }
    }

    #[test]
    fn small_and_large_messages_are_one_stream() {
        let gauge = Gauge::new(1 << 30);
        let sizes = [10, 20, LARGE_BYTES, 5, 5, LARGE_BYTES + 7, LARGE_BYTES, 1, 900, 200, 5000];
        let (log, view, ends) = build(&sizes, &[1, 3, 4, 7], &gauge);
        check(&view, &ends);
        drop((log, view));
        assert_eq!(gauge.used(), 0, "all segments are given back");
    }

    #[test]
    fn a_large_message_is_not_copied() {
        let gauge = Gauge::new(1 << 30);
        let message = Bytes::from(vec![7; LARGE_BYTES]);
        let address = message.as_ptr();
        let mut log = Log::default();
        log.append(&Unit::Owned(message), Tick(0), UnixTime(0), &gauge).unwrap();
        let mut view = View::new(Mark::START);
        view.apply(log.head(), log.extents_after(Position::START));
        assert_eq!(view.first_run(Position::START).as_ptr(), address);
    }

    #[test]
    fn the_bound_on_all_logs_refuses_and_changes_nothing() {
        let gauge = Gauge::new(1024);
        let mut log = Log::default();
        log.append(&Unit::Borrowed(&[1; 900]), Tick(0), UnixTime(0), &gauge).unwrap();
        let head = log.head();
        assert_eq!(log.append(&Unit::Borrowed(&[1; 900]), Tick(0), UnixTime(0), &gauge), Err(LogFull));
        assert_eq!(
            log.append(&Unit::Borrowed(&[1; LARGE_BYTES]), Tick(0), UnixTime(0), &gauge),
            Err(LogFull)
        );
        assert_eq!(log.head(), head);
        log.release();
        assert_eq!(gauge.used(), 0);
        log.append(&Unit::Borrowed(&[1; 900]), Tick(0), UnixTime(0), &gauge).unwrap();
    }

    #[test]
    fn trimming_lets_go_of_whole_extents_only() {
        let gauge = Gauge::new(1 << 30);
        let (log, mut view, _) = build(&[600, 600, 600], &[], &gauge);
        drop(log);
        let second = view.extents[1].start().position;
        view.trim(Position(second.0 - 1));
        assert_eq!(view.tail(), Position::START);
        view.trim(second);
        assert_eq!(view.tail(), second);
        view.trim(view.head().position);
        assert_eq!((view.tail(), gauge.used()), (view.head().position, 0));
    }

    #[test]
    fn a_message_that_nobody_reads_is_counted_and_not_kept() {
        let gauge = Gauge::new(1 << 30);
        let mut log = Log::default();
        log.pass();
        assert_eq!((log.head().offset, log.is_live(), gauge.used()), (Offset(1), false, 0));
        let mut view = View::new(log.head());
        log.append(&Unit::Borrowed(b"ab"), Tick(0), UnixTime(0), &gauge).unwrap();
        view.apply(log.head(), log.extents_after(view.head().position));
        log.pass();
        log.append(&Unit::Borrowed(b"cd"), Tick(0), UnixTime(0), &gauge).unwrap();
        view.apply(log.head(), log.extents_after(view.head().position));
        assert_eq!(view.place(Position(Position::START.0 + 3)).unit_start.offset, Offset(3));
        assert_eq!(view.head().offset, Offset(4));
    }

    /// The whole way that a log's memory goes: a home appends, two workers read and let go, all at once.
    #[test]
    fn workers_on_other_threads_read_while_the_home_appends() {
        let gauge = Gauge::new(1 << 20);
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let (sender, receiver) = std::sync::mpsc::channel::<(Mark, Vec<Extent>)>();
                let worker = std::thread::spawn(move || {
                    let mut view = View::new(Mark::START);
                    let mut cursor = Position::START;
                    for (head, extents) in receiver {
                        view.apply(head, extents);
                        let bytes = view.runs(cursor).collect::<Vec<_>>().concat();
                        let from = usize::try_from(cursor.since(Position::START)).unwrap();
                        assert!(bytes == bytes_at(from, bytes.len()));
                        assert_eq!(view.place(head.position).unit_start, head);
                        cursor = cursor.advanced(bytes.len());
                        assert_eq!(cursor, head.position);
                        view.trim(cursor);
                    }
                    cursor
                });
                (sender, worker)
            })
            .collect();
        let (mut log, mut total, mut sent) = (Log::default(), 0, Position::START);
        for size in [5, 300, 700, 90, LARGE_BYTES, 40, 2000, 8, 3000, 1] {
            log.append(&Unit::Owned(Bytes::from(bytes_at(total, size))), Tick(0), UnixTime(0), &gauge)
                .unwrap();
            total += size;
            for (sender, _) in &workers {
                sender.send((log.head(), log.extents_after(sent).collect())).unwrap();
            }
            sent = log.head().position;
            log.posted(sent);
        }
        drop(log);
        for (sender, worker) in workers {
            drop(sender);
            assert_eq!(worker.join().unwrap(), sent);
        }
        assert_eq!(gauge.used(), 0, "whoever was last has given it back");
    }

    proptest! {
        // Miri needs seconds for one.
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 48 }))]

        #[test]
        fn any_stream_reads_as_written(
            sizes in prop::collection::vec(prop_oneof![8 => 1usize..300, 2 => 300usize..6000, 1 => LARGE_BYTES..LARGE_BYTES + 50], 1..40),
            posts in prop::collection::vec(0usize..40, 0..20),
        ) {
            let gauge = Gauge::new(1 << 30);
            let (_log, view, ends) = build(&sizes, &posts, &gauge);
            check(&view, &ends);
        }
    }
}
