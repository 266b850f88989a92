//! Idempotency keys: a publisher that does not know whether its message has arrived sends it again, with the same key,
//! and it is published once.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use foldhash::quality::FixedState;

use super::delivery::Place;
use crate::broker::{ids::Tick, name::TopicName};

type Key = (TopicName, Box<str>);

/// Where the messages of the last keys are. Where there are too many keys the oldest go first.
pub(super) struct Keys {
    places: HashMap<Arc<Key>, (Tick, Place), FixedState>,
    /// Oldest first.
    order: VecDeque<(Tick, Arc<Key>)>,
    max: usize,
    ticks: u32,
}

impl Keys {
    /// None yet, of at most `max`, each for so many ticks.
    pub(super) fn new(max: usize, ticks: u32, seed: u64) -> Keys {
        Keys { places: HashMap::with_hasher(FixedState::with_seed(seed)), order: VecDeque::new(), max, ticks }
    }

    /// The message that came with this key before.
    pub(super) fn find(&self, topic: &TopicName, key: &str, now: Tick) -> Option<Place> {
        if self.places.is_empty() {
            return None;
        }
        // A worker with nothing to do does not tick.
        let found = self.places.get(&(topic.clone(), Box::from(key)));
        found.filter(|(since, _)| now.since(*since) < self.ticks).map(|(_, place)| *place)
    }

    /// Remembers a message that was published now.
    pub(super) fn remember(&mut self, topic: TopicName, key: Box<str>, place: Place, now: Tick) {
        if self.max == 0 {
            return;
        }
        while self.order.len() >= self.max {
            self.forget_oldest();
        }
        let key = Arc::new((topic, key));
        self.places.insert(Arc::clone(&key), (now, place));
        self.order.push_back((now, key));
    }

    /// Forgets those whose time is over.
    pub(super) fn tick(&mut self, now: Tick) {
        while self.order.front().is_some_and(|(since, _)| now.since(*since) >= self.ticks) {
            self.forget_oldest();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            self.order = VecDeque::new();
            self.places.shrink_to_fit();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((since, key)) = self.order.pop_front()
            && self.places.get(&key).is_some_and(|(at, _)| *at == since)
        {
            self.places.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ids::{Epoch, Offset};

    fn place(offset: u64) -> Place {
        Place { epoch: Epoch(1), offset: Offset(offset) }
    }

    #[test]
    fn keys_are_a_topics_own_and_grow_old() {
        let (a, b) = (TopicName::parse("a").unwrap(), TopicName::parse("b").unwrap());
        let mut keys = Keys::new(2, 10, 1);
        assert_eq!(keys.find(&a, "k", Tick(7)), None);
        keys.remember(a.clone(), "k".into(), place(1), Tick(5));
        assert_eq!((keys.find(&a, "k", Tick(7)), keys.find(&b, "k", Tick(7))), (Some(place(1)), None));
        keys.remember(b.clone(), "k".into(), place(2), Tick(6));
        keys.remember(b.clone(), "l".into(), place(3), Tick(7));
        assert_eq!(
            (keys.find(&a, "k", Tick(7)), keys.find(&b, "k", Tick(7))),
            (None, Some(place(2))),
            "two at most"
        );
        assert_eq!(keys.find(&b, "k", Tick(16)), None, "too old");
        keys.tick(Tick(16));
        assert_eq!((keys.find(&b, "k", Tick(7)), keys.find(&b, "l", Tick(7))), (None, Some(place(3))));
        keys.tick(Tick(17));
        assert_eq!((keys.places.len(), keys.order.capacity()), (0, 0));
    }
}
