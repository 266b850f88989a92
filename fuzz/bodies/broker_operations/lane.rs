//! A worker's lane as the engine drives it, with sockets that take as much as they are told to, and the check of every
//! byte that a visit sends.

use std::{collections::BTreeMap, ops::Range};

use stentor::broker::{
    ids::{ConnectionId, Key, Mark, Position},
    lane::{Entry, Lane, Seat},
};

pub struct Message {
    pub bytes: Vec<u8>,
    pub exclude: Option<ConnectionId>,
}

pub struct Subscriber {
    pub id: ConnectionId,
    /// `None` until the lane's first head.
    pub seat: Option<Seat>,
    /// The offset of the last message that it got, or began behind.
    pub has: u64,
    pub holes: Vec<Range<Position>>,
}

/// A worker's lane, as the engine keeps it.
pub struct LaneRecord {
    pub lane: Lane,
    pub key: Key,
    /// The topic at its home; `None` until the first head.
    pub topic: Option<Key>,
    pub floor_sent: Mark,
    pub subscribers: BTreeMap<u32, Subscriber>,
}

impl LaneRecord {
    /// A lane that waits for its first head.
    pub fn new(key: Key) -> LaneRecord {
        LaneRecord {
            lane: Lane::new(Mark::START),
            key,
            topic: None,
            floor_sent: Mark::START,
            subscribers: BTreeMap::new(),
        }
    }

    pub fn seat_at_head(&mut self, subscription: u32) {
        let head = self.lane.view.head();
        let entry = Entry {
            position: head.position,
            offset_low: 0,
            connection: subscription,
            subscription,
            holes: false,
            lost: false,
            round: 0,
        };
        let seat = self.lane.insert_swept(entry);
        let subscriber = self.subscribers.get_mut(&subscription).expect("it subscribes");
        (subscriber.seat, subscriber.has) = (Some(seat), head.offset.0);
    }

    pub fn remove(&mut self, seat: Seat) -> Entry {
        let LaneRecord { lane, subscribers, .. } = self;
        lane.remove(seat, |moved, seat| subscribers.get_mut(&moved).expect("known").seat = Some(seat))
    }

    pub fn trim(&mut self) {
        let behind = self.lane.behind().iter().filter(|entry| !entry.lost).map(|entry| entry.position);
        self.lane.view.trim(behind.fold(self.lane.needed(), Position::min));
    }

    /// One visit, of which the socket takes so many bytes. False if the ring rests.
    pub fn visit(&mut self, takes: usize, messages: &[Message]) -> bool {
        let Some(seat) = self.lane.next_visit() else {
            let head = self.lane.view.head();
            for subscriber in self.subscribers.values() {
                assert!(
                    !matches!(subscriber.seat, Some(Seat::Swept(_))) || subscriber.has == head.offset.0,
                    "{:?} rests without the head",
                    subscriber.id
                );
            }
            return false;
        };
        let entry = *self.lane.entry(seat);
        let subscriber = self.subscribers.get_mut(&entry.subscription).expect("known");
        assert_eq!(subscriber.seat, Some(seat));
        let view = &self.lane.view;
        assert!(view.tail() <= entry.position, "what a subscriber has before it is kept");
        let bytes = view.runs(entry.position).collect::<Vec<_>>().concat();
        assert_eq!(bytes.len() as u64, view.head().position.since(entry.position));
        assert!(bytes.starts_with(view.first_run(entry.position)));

        let taken = takes.min(bytes.len());
        let position = entry.position.advanced(taken);
        let place = view.place(position);
        let mut got = bytes[..taken].to_vec();
        if let Some(end) = place.unit_end {
            // The rest of a unit that has begun goes to the connection's own queue.
            let (extent, from) = view.extent_at(position);
            let rest = usize::try_from(end.position.since(position)).expect("a unit");
            got.extend_from_slice(&extent.bytes()[from..from + rest]);
        }
        let end = place.unit_end.unwrap_or(place.unit_start);
        assert_eq!(end.position, entry.position.advanced(got.len()), "the cursor stands between units");
        for hole in subscriber.holes.iter().rev() {
            // Holes are in the order of the log: taken out from the back, those before stay where they are.
            let at = |position: Position| {
                let at = usize::try_from(position.since(entry.position)).expect("fits in memory");
                at.min(got.len())
            };
            let range = at(hole.start)..at(hole.end);
            got.drain(range);
        }
        let index = |offset: u64| usize::try_from(offset).expect("few messages");
        let expected = messages[index(subscriber.has)..index(end.offset.0)]
            .iter()
            .filter(|message| message.exclude != Some(subscriber.id))
            .map(|message| message.bytes.as_slice())
            .collect::<Vec<_>>()
            .concat();
        assert!(got == expected, "offsets {} to {}", subscriber.has, end.offset.0);
        subscriber.has = end.offset.0;

        self.lane.entry_mut(seat).position = end.position;
        if taken == bytes.len() {
            self.lane.visited(1);
        } else {
            let entry = self.remove(seat);
            let seat = self.lane.insert_behind(entry);
            self.subscribers.get_mut(&entry.subscription).expect("known").seat = Some(seat);
        }
        true
    }

    /// As with the policy `skip`: the log is not kept for somebody who is behind.
    pub fn lose(&mut self, nth: usize) {
        let count = self.lane.behind().len();
        if count > 0 {
            self.lane.entry_mut(Seat::Behind(u32::try_from(nth % count).expect("few"))).lost = true;
        }
    }

    /// A socket takes bytes again. Its cursor goes to the head if its place is lost, and to the newest unit with the
    /// policy `latest`.
    pub fn rejoin(&mut self, nth: usize, latest: bool) {
        let count = self.lane.behind().len();
        if count == 0 {
            return;
        }
        let mut entry = self.remove(Seat::Behind(u32::try_from(nth % count).expect("few")));
        let LaneRecord { lane, subscribers, .. } = self;
        let head = lane.view.head();
        let newest = lane.view.newest();
        assert!(newest.is_none_or(|newest| newest.offset.0 + 1 == head.offset.0));
        let skips_to = if std::mem::take(&mut entry.lost) {
            Some(head)
        } else {
            newest.filter(|newest| latest && entry.position < newest.position)
        };
        if let Some(mark) = skips_to {
            entry.position = mark.position;
            subscribers.get_mut(&entry.subscription).expect("known").has = mark.offset.0;
        }
        let seat =
            lane.rejoin(entry, |moved, seat| subscribers.get_mut(&moved).expect("known").seat = Some(seat));
        subscribers.get_mut(&entry.subscription).expect("known").seat = Some(seat);
    }
}
