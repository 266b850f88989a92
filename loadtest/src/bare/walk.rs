//! Who is sent what, and when: the three ways to take messages from the log.
//!
//! A *walk* goes over all sockets once, in the order of creation, with a fixed end: that of N messages
//! (`--take N`), or the head as it was at the beginning (`--take snapshot`). The *ring* (`--take ring`) goes round
//! in slices of 64 sends between which publishers are read, and sends each socket what is there at that moment; it
//! rests when a whole lap found nothing newer. What a socket refuses, its next visit offers again.

use super::sends::{Offer, SLICE};
use super::topic::Topic;
use crate::cli::Take;
use crate::failure::Failure;

/// Most bytes of one visit of the ring: one reader far behind must not hold up the lap.
const VISIT_BYTES_MAX: u64 = 256 * 1024;

/// Where the sending stands.
#[derive(Debug)]
pub(super) struct Walk {
    take: Take,
    slice: Vec<Offer>,
    /// Whose turn it is.
    position: usize,
    /// End of the last walk; in the ring the head that `idle_visits` is about.
    end: u64,
    /// The ring's visits in a row that moved no byte.
    idle_visits: usize,
    /// Places in the ring when `idle_visits` was counted.
    places: usize,
    /// A socket refused bytes since the last time that one was drained.
    behind: bool,
    /// A socket that may have refused bytes takes some again.
    again: bool,
}

/// What a stretch of visits came to; the offers are in the slice.
struct Stretch {
    visits: usize,
    visits_after_last_offer: usize,
}

impl Walk {
    /// Nothing is sent yet.
    pub(super) fn new(take: Take) -> Self {
        Self {
            take,
            slice: Vec::with_capacity(SLICE),
            position: 0,
            end: 0,
            idle_visits: 0,
            places: 0,
            behind: false,
            again: false,
        }
    }

    /// A socket takes bytes: of interest if one has refused some.
    pub(super) fn socket_drained(&mut self) {
        self.again |= std::mem::take(&mut self.behind);
    }

    /// There is something to send.
    pub(super) fn is_due(&self, topic: &Topic) -> bool {
        self.again
            || match self.take {
                Take::Messages(_) => topic.log.has_mark(),
                Take::Snapshot => topic.log.head() > self.end,
                Take::Ring => {
                    topic.log.head() > self.end || self.idle_visits < topic.subscribers.len().max(self.places)
                }
            }
    }

    /// Nobody holds positions: places may be closed up.
    pub(super) fn is_between_laps(&self) -> bool {
        self.position == 0
    }

    /// Sends a walk, or a slice of the ring, if it is due. How many sends were refused.
    pub(super) fn advance(&mut self, topic: &mut Topic) -> Result<u64, Failure> {
        if !self.is_due(topic) {
            return Ok(0);
        }
        match self.take {
            // Without a mark a socket is tried again that refused a part of the last walk.
            Take::Messages(_) => {
                let end = topic.log.take_mark().unwrap_or(self.end);
                self.walk(topic, end)
            }
            Take::Snapshot => self.walk(topic, topic.log.head()),
            Take::Ring => self.turn(topic),
        }
    }

    fn walk(&mut self, topic: &mut Topic, end: u64) -> Result<u64, Failure> {
        let mut refused = 0;
        while self.position < topic.subscribers.len() {
            self.fill(&topic.subscribers.cursors[self.position..], end, u64::MAX);
            refused += topic.sender.send(&topic.log, &mut topic.subscribers, &self.slice)?.refused;
        }
        self.position = 0;
        self.end = end;
        self.behind = refused > 0;
        self.again = false;
        Ok(refused)
    }

    fn turn(&mut self, topic: &mut Topic) -> Result<u64, Failure> {
        let (head, places) = (topic.log.head(), topic.subscribers.len());
        // Places that were closed up had been counted as visited.
        if head > self.end || places < self.places || std::mem::take(&mut self.again) {
            self.idle_visits = 0;
        }
        self.end = head;
        self.places = places;
        let left = (places - self.position).min(places - self.idle_visits);
        let cursors = &topic.subscribers.cursors[self.position..][..left];
        let stretch = self.fill(cursors, head, VISIT_BYTES_MAX);
        let taken = topic.sender.send(&topic.log, &mut topic.subscribers, &self.slice)?;
        self.idle_visits =
            if taken.any { stretch.visits_after_last_offer } else { self.idle_visits + stretch.visits };
        self.behind |= taken.refused > 0;
        if self.position == places || self.idle_visits == places {
            self.position = 0;
        }
        Ok(taken.refused)
    }

    /// Visits subscribers from the current position on, whose cursors are given, until the slice is full.
    fn fill(&mut self, cursors: &[u64], end: u64, bytes_max: u64) -> Stretch {
        self.slice.clear();
        let (mut visits, mut last_offer) = (cursors.len(), 0);
        for (visit, &cursor) in cursors.iter().enumerate() {
            if cursor >= end {
                continue;
            }
            let position = (self.position + visit) as u32;
            self.slice.push(Offer { position, end: end.min(cursor.saturating_add(bytes_max)) });
            last_offer = visit + 1;
            if self.slice.len() == SLICE {
                visits = last_offer;
                break;
            }
        }
        self.position += visits;
        Stretch { visits, visits_after_last_offer: visits - last_offer }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::Frame;
    use super::*;
    use crate::cli::{BareArgs, SendBy};
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::num::NonZeroU32;
    use std::os::fd::OwnedFd;

    /// A topic with subscribers, and the other ends of their sockets.
    struct World {
        topic: Topic,
        walk: Walk,
        readers: Vec<OwnedFd>,
    }

    impl World {
        fn new(take: Take, subscribers: u32) -> Self {
            let args = BareArgs {
                listen: ([127, 0, 0, 1], 0).into(),
                sends: SendBy::Send,
                take,
                direct_descriptors: false,
            };
            let mut topic = Topic::new(&args, 64).unwrap();
            let mut readers = Vec::new();
            for slot in 0..subscribers {
                let (ours, theirs) =
                    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
                topic.join(slot, ours).unwrap();
                readers.push(theirs);
            }
            Self { topic, walk: Walk::new(take), readers }
        }

        fn publish(&mut self, payload: &[u8]) {
            self.topic.log.append(&Frame { first: 0x82, key: [0; 4], payload });
        }

        /// What reader `index` can read at once; empty if nothing.
        fn read(&self, index: usize) -> Vec<u8> {
            let mut buffer = vec![0; 4 << 20];
            match rustix::io::read(&self.readers[index], &mut buffer) {
                Ok(len) => buffer[..len].to_vec(),
                Err(Errno::AGAIN) => vec![],
                Err(error) => panic!("{error}"),
            }
        }

        /// Sends until nothing is due; how many sends were refused.
        fn settle(&mut self) -> u64 {
            let mut refused = 0;
            for _ in 0..100_000 {
                if !self.walk.is_due(&self.topic) {
                    return refused;
                }
                refused += self.walk.advance(&mut self.topic).unwrap();
                if self.walk.is_between_laps() {
                    self.topic.tidy(|_, _| {});
                }
            }
            panic!("the loop never rests");
        }
    }

    fn groups_of(count: u32) -> Take {
        Take::Messages(NonZeroU32::new(count).unwrap())
    }

    #[test]
    fn groups_go_out_whole_and_the_rest_when_told() {
        let mut world = World::new(groups_of(2), 70);
        for payload in [b"a", b"b", b"c"] {
            world.publish(payload);
        }
        assert_eq!(world.settle(), 0);
        for reader in [0, 63, 64, 69] {
            assert_eq!(world.read(reader), b"\x82\x01a\x82\x01b", "{reader}");
        }
        world.topic.log.mark_leftover();
        world.settle();
        assert_eq!([world.read(0), world.read(69)], [b"\x82\x01c", b"\x82\x01c"]);
    }

    #[test]
    fn a_snapshot_is_everything_and_later_subscribers_get_later_messages() {
        let mut world = World::new(Take::Snapshot, 2);
        world.publish(b"a");
        world.publish(b"b");
        assert_eq!(world.settle(), 0);
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        world.topic.join(2, ours).unwrap();
        world.readers.push(theirs);
        world.publish(b"c");
        world.settle();
        assert_eq!([world.read(0), world.read(1)], [b"\x82\x01a\x82\x01b\x82\x01c"; 2]);
        assert_eq!(world.read(2), b"\x82\x01c");
    }

    /// A message that comes in mid-lap goes to the rest of that lap, and to the others in the next.
    #[test]
    fn the_ring_reads_the_live_head() {
        let mut world = World::new(Take::Ring, 100);
        world.publish(b"a");
        world.walk.advance(&mut world.topic).unwrap();
        assert!(!world.walk.is_between_laps());
        world.publish(b"b");
        world.walk.advance(&mut world.topic).unwrap();
        assert!(world.walk.is_between_laps());
        assert_eq!([world.read(63), world.read(64)], [&b"\x82\x01a"[..], b"\x82\x01a\x82\x01b"]);
        world.settle();
        assert_eq!([world.read(63), world.read(64)], [&b"\x82\x01b"[..], b""]);
        assert_eq!(world.topic.subscribers.floor(), world.topic.log.head());
    }

    #[test]
    fn a_full_socket_gets_the_rest_when_it_is_drained_and_holds_nobody_up() {
        for take in [groups_of(1), Take::Snapshot, Take::Ring] {
            let mut world = World::new(take, 3);
            let (mut sent, mut expected) = (0, [vec![], vec![], vec![]]);
            let mut refused = 0;
            while refused == 0 {
                world.publish(&vec![sent as u8; 50_000]);
                sent += 1;
                refused = world.settle();
                // The middle one doesn't read.
                expected[0].extend(world.read(0));
                expected[2].extend(world.read(2));
                assert!(sent < 1000, "the socket never fills");
            }
            assert_eq!((expected[0].len(), expected[2].len()), (50_004 * sent, 50_004 * sent), "{take:?}");
            while expected[1].len() < expected[0].len() {
                expected[1].extend(world.read(1));
                world.walk.socket_drained();
                world.settle();
            }
            assert!(expected[1] == expected[0] && expected[2] == expected[0], "{take:?}");
        }
    }

    #[test]
    fn who_has_gone_is_passed_over_and_the_others_go_on() {
        for take in [groups_of(1), Take::Snapshot, Take::Ring] {
            let mut world = World::new(take, 100);
            world.publish(b"a");
            world.walk.advance(&mut world.topic).unwrap();
            for position in (0..100).filter(|position| position % 3 != 0) {
                world.topic.leave(position, position).unwrap();
            }
            world.publish(b"b");
            world.settle();
            assert_eq!(world.topic.subscribers.len(), 34, "{take:?}");
            for reader in (0..100).step_by(3) {
                assert_eq!(world.read(reader), b"\x82\x01a\x82\x01b", "{take:?} {reader}");
            }
        }
    }
}
