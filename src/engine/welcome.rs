//! What a subscription is sent beside messages, in its own dialect: its topic's welcome before all of them, and how many
//! it has missed where it was made to skip some. The dialects' encoder writes both, so sessions need not know.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::FixedState;

use super::{driver::Driver, worker::Worker};
use crate::broker::ids::Key;

/// Welcomes are kept up to so many bytes; beyond, they are made anew.
const KEPT_BYTES: usize = 1 << 20;

/// Welcomes that were made, by their lane, so that a crowd that comes to a topic shares one.
pub struct Welcomes {
    made: HashMap<Key, Bytes, FixedState>,
    bytes: usize,
}

impl Default for Welcomes {
    fn default() -> Self {
        Welcomes { made: HashMap::with_hasher(FixedState::default()), bytes: 0 }
    }
}

impl Welcomes {
    /// A lane's, made if need be.
    fn of(&mut self, lane: Key, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        if let Some(welcome) = self.made.get(&lane) {
            return welcome.clone();
        }
        let welcome = Bytes::from(make());
        if self.bytes + welcome.len() > KEPT_BYTES {
            *self = Welcomes::default();
        }
        self.bytes += welcome.len();
        self.made.insert(lane, welcome.clone());
        welcome
    }

    /// The lane has gone.
    pub(super) fn forget(&mut self, lane: Key) {
        if let Some(welcome) = self.made.remove(&lane) {
            self.bytes -= welcome.len();
        }
    }
}

impl<D: Driver> Worker<D> {
    /// Queues the welcome of a lane's topic, if it has one, for a connection that is about to get its messages.
    pub(super) fn send_welcome(&mut self, slot: u32, lane: u32) {
        let key = self.lanes.key(lane);
        let record = self.lanes.at(lane);
        let Some(text) = &record.rule.welcome else { return };
        let encoder = &self.shared.settings.encoder;
        let welcome = self.welcomes.of(key, || {
            let mut unit = Vec::new();
            encoder.encode_welcome(record.encoding, &record.name, text, &mut unit);
            unit
        });
        self.stats().messages_sent.add(1);
        self.queue_shared(slot, welcome);
    }

    /// Queues word for a connection that has missed so many messages of a lane's, where its dialect has one.
    pub(super) fn tell_skipped(&mut self, slot: u32, lane: u32, messages: u32) {
        let subscription = self.lanes.of_connection(self.connections.first_subscription(slot), lane);
        if let (Some(subscription), Some(positions)) = (subscription, self.connections.positions(slot))
            && positions.skip(subscription, messages)
        {
            // Its past comes first.
            return;
        }
        let word = self.word_of_skipped(lane, messages);
        if !word.is_empty() {
            self.queue(slot, &word);
        }
    }

    pub(super) fn word_of_skipped(&mut self, lane: u32, messages: u32) -> Vec<u8> {
        let record = self.lanes.at(lane);
        let mut word = Vec::new();
        let encoder = &self.shared.settings.encoder;
        encoder.encode_skipped(record.encoding, &record.name, messages.into(), &mut word);
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut welcomes = Welcomes::default();
        let lane = |index| Key { index, generation: 1 };
        for index in 0..1000 {
            assert_eq!(welcomes.of(lane(index), || vec![7; 5000]).len(), 5000);
            assert!(welcomes.bytes <= KEPT_BYTES && welcomes.bytes == welcomes.made.len() * 5000);
        }
        let again = welcomes.of(lane(999), || unreachable!("it was made just now"));
        assert_eq!(again.len(), 5000);
        (0..1000).for_each(|index| welcomes.forget(lane(index)));
        assert_eq!((welcomes.bytes, welcomes.made.len()), (0, 0));
        assert_eq!(welcomes.of(lane(999), || vec![8]), &[8][..], "another lane's, or the same anew");
    }
}
