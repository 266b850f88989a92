//! The books: which message each subscription has received, and which it has not.
//!
//! Owns sequence numbers per (subscription, publisher). A message in its turn costs one comparison; everything
//! else is rare and may be slow. In the end `published × subscribers = received + lost`, where `received` counts
//! distinct messages: repeats are counted apart.

use std::collections::HashMap;
use std::ops::Range;

/// Gaps remembered per (subscription, publisher), to tell a late message from a repeated one. Beyond them the
/// oldest gap is lost for good: a run with so many is void anyway, and its memory must stay bounded.
const GAPS_MAX: usize = 64;

/// What an arriving message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Received for the first time (in its turn, after a gap, or filling one).
    New,
    /// Received before: not counted again.
    Repeated,
}

/// Sums over all subscriptions of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Distinct messages received.
    pub(crate) received: u64,
    /// Messages that others overtook and that have not come since.
    pub(crate) lost: u64,
    /// Messages received once more.
    pub(crate) repeated: u64,
    /// Messages that came after a later one.
    pub(crate) out_of_order: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
    }
}

/// What every (subscription, publisher) pair of one thread expects next, in one dense array.
#[derive(Debug)]
pub(crate) struct Ledger {
    next: Vec<u32>,
    gaps: HashMap<usize, Vec<Range<u32>>>,
    totals: Totals,
}

impl Ledger {
    /// Books for `pairs` pairs, each of which expects sequence 0 first.
    pub(crate) fn new(pairs: usize) -> Self {
        Self { next: vec![0; pairs], gaps: HashMap::new(), totals: Totals::default() }
    }

    /// Enters the message `sequence` of `pair`.
    #[inline]
    pub(crate) fn receive(&mut self, pair: usize, sequence: u32) -> Arrival {
        let next = &mut self.next[pair];
        if sequence == *next {
            *next += 1;
            self.totals.received += 1;
            return Arrival::New;
        }
        self.receive_out_of_turn(pair, sequence)
    }

    /// The sequence that `pair` expects next.
    #[inline]
    pub(crate) fn next(&self, pair: usize) -> u32 {
        self.next[pair]
    }

    #[cold]
    fn receive_out_of_turn(&mut self, pair: usize, sequence: u32) -> Arrival {
        let next = self.next[pair];
        if sequence > next {
            let gaps = self.gaps.entry(pair).or_default();
            if gaps.len() == GAPS_MAX {
                gaps.remove(0);
            }
            gaps.push(next..sequence);
            self.totals.lost += u64::from(sequence - next);
            self.totals.received += 1;
            self.next[pair] = sequence + 1;
            return Arrival::New;
        }
        let gaps = self.gaps.get_mut(&pair);
        let hit = gaps.and_then(|gaps| {
            let i = gaps.iter().position(|gap| gap.contains(&sequence))?;
            Some((gaps, i))
        });
        let Some((gaps, i)) = hit else {
            self.totals.repeated += 1;
            return Arrival::Repeated;
        };
        let gap = gaps.remove(i);
        for part in [sequence + 1..gap.end, gap.start..sequence] {
            if !part.is_empty() {
                gaps.insert(i, part);
            }
        }
        self.totals.lost -= 1;
        self.totals.received += 1;
        self.totals.out_of_order += 1;
        Arrival::New
    }

    /// Sums so far.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Counts as lost what `pair` has not received at the end of `published` messages.
    pub(crate) fn close(&mut self, pair: usize, published: u32) {
        self.totals.lost += u64::from(published.saturating_sub(self.next[pair]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn after(sequences: &[u32], published: u32) -> Totals {
        let mut ledger = Ledger::new(1);
        for &sequence in sequences {
            ledger.receive(0, sequence);
        }
        ledger.close(0, published);
        ledger.totals()
    }

    #[test]
    fn in_order() {
        assert_eq!(after(&[0, 1, 2], 3), Totals { received: 3, ..Totals::default() });
    }

    #[test]
    fn lost_in_the_middle_and_at_the_end() {
        assert_eq!(after(&[0, 3, 4], 7), Totals { received: 3, lost: 4, ..Totals::default() });
        assert_eq!(after(&[], 2), Totals { lost: 2, ..Totals::default() });
    }

    #[test]
    fn repeated() {
        assert_eq!(after(&[0, 1, 1, 0, 2], 3), Totals { received: 3, repeated: 2, ..Totals::default() });
    }

    #[test]
    fn out_of_order_is_neither_lost_nor_repeated() {
        assert_eq!(after(&[0, 2, 1, 3], 4), Totals { received: 4, out_of_order: 1, ..Totals::default() });
        let late_twice = after(&[0, 4, 2, 2, 1, 3], 5);
        assert_eq!(late_twice, Totals { received: 5, repeated: 1, out_of_order: 3, ..Totals::default() });
    }

    #[test]
    fn pairs_are_apart() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.receive(0, 0), Arrival::New);
        assert_eq!(ledger.receive(1, 0), Arrival::New);
        assert_eq!(ledger.receive(1, 0), Arrival::Repeated);
        assert_eq!((ledger.next(0), ledger.next(1)), (1, 1));
    }

    proptest! {
        /// The slow twin remembers every message.
        #[test]
        fn equals_a_set_of_all_messages(sequences in proptest::collection::vec(0u32..60, 0..200)) {
            let (mut seen, mut want, mut highest) = (HashSet::new(), Totals::default(), None);
            for &sequence in &sequences {
                if !seen.insert(sequence) {
                    want.repeated += 1;
                    continue;
                }
                want.received += 1;
                if Some(sequence) < highest {
                    want.out_of_order += 1;
                }
                highest = highest.max(Some(sequence));
            }
            want.lost = 60 - seen.len() as u64;
            prop_assert_eq!(after(&sequences, 60), want);
        }
    }
}
