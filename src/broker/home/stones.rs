//! Topics that have vanished, remembered so that their numbers go on if they come back: a client's position is then still
//! true or known to be lost, and never means another message.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::FixedState;

use crate::broker::{
    ids::{Epoch, Offset, Tick},
    name::TopicName,
};

/// What is remembered of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stone {
    pub(super) epoch: Epoch,
    /// Its last message.
    pub(super) last: Offset,
}

/// See the head of this file. Where there are too many the oldest go first.
pub(super) struct Stones {
    by_name: HashMap<TopicName, (Tick, Stone), FixedState>,
    /// Oldest first; those of topics that came back may be among them.
    order: VecDeque<(Tick, TopicName)>,
    max: usize,
    ticks: u32,
}

impl Stones {
    /// None yet, of at most `max`, each for so many ticks.
    pub(super) fn new(max: usize, ticks: u32, seed: u64) -> Stones {
        Stones {
            by_name: HashMap::with_hasher(FixedState::with_seed(seed)),
            order: VecDeque::new(),
            max,
            ticks,
        }
    }

    /// Remembers a topic that vanishes now.
    pub(super) fn lay(&mut self, name: TopicName, stone: Stone, now: Tick) {
        if self.max == 0 {
            return;
        }
        while self.by_name.len() >= self.max || self.order.len() >= 2 * self.max {
            if !self.lift_oldest() {
                break;
            }
        }
        self.order.push_back((now, name.clone()));
        self.by_name.insert(name, (now, stone));
    }

    /// A topic is made: gives what is remembered of the one that had its name before.
    pub(super) fn take(&mut self, name: &TopicName, now: Tick) -> Option<Stone> {
        let (laid, stone) = self.by_name.remove(name)?;
        (now.since(laid) < self.ticks).then_some(stone)
    }

    /// What is remembered of a topic that is not there.
    pub(super) fn look(&self, name: &TopicName) -> Option<Stone> {
        self.by_name.get(name).map(|(_, stone)| *stone)
    }

    /// Lets go of those whose time is over.
    pub(super) fn tick(&mut self, now: Tick) {
        while self.order.front().is_some_and(|(laid, _)| now.since(*laid) >= self.ticks) {
            self.lift_oldest();
        }
        if self.by_name.is_empty() && self.order.capacity() > 4096 {
            self.by_name.shrink_to_fit();
            self.order.shrink_to_fit();
        }
    }

    fn lift_oldest(&mut self) -> bool {
        let Some((laid, name)) = self.order.pop_front() else { return false };
        if self.by_name.get(&name).is_some_and(|(at, _)| *at == laid) {
            self.by_name.remove(&name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn stone(last: u64) -> Stone {
        Stone { epoch: Epoch(last), last: Offset(last) }
    }

    #[test]
    fn a_topic_is_remembered_for_its_time_and_once() {
        let mut stones = Stones::new(10, 100, 1);
        stones.lay(name("a"), stone(1), Tick(0));
        assert_eq!(stones.take(&name("a"), Tick(99)), Some(stone(1)));
        assert_eq!(stones.take(&name("a"), Tick(99)), None);
        stones.lay(name("a"), stone(2), Tick(99));
        stones.tick(Tick(100));
        assert_eq!(stones.take(&name("a"), Tick(198)), Some(stone(2)), "the older one's time is not its own");
        stones.lay(name("b"), stone(3), Tick(200));
        assert_eq!(stones.take(&name("b"), Tick(300)), None);
        stones.lay(name("c"), stone(4), Tick(300));
        stones.tick(Tick(400));
        assert!(stones.by_name.is_empty() && stones.order.is_empty());
    }

    #[test]
    fn the_oldest_go_first_where_there_are_too_many() {
        let mut stones = Stones::new(3, 100, 1);
        for (at, text) in (0..).zip(["a", "b", "c", "d"]) {
            stones.lay(name(text), stone(at.into()), Tick(at));
        }
        assert_eq!(stones.take(&name("a"), Tick(5)), None);
        assert_eq!(stones.take(&name("d"), Tick(5)), Some(stone(3)));
        for round in 0..100 {
            stones.lay(name("e"), stone(round), Tick(10));
            stones.take(&name("e"), Tick(10));
        }
        assert!(stones.order.len() <= 6);
        assert_eq!(Stones::new(0, 100, 1).take(&name("x"), Tick(0)), None);
    }
}
