//! Where the bytes lie that subscribers are sent, by address: in the buffer that the client's frame was received into,
//! or in one copy for all of them.
//!
//! The driver in memory tells where the engine's buffers lie. Nothing here depends on time.

mod common;

use std::ops::Range;

use common::{
    client::{BINARY, frame, server_frame},
    in_memory::World,
};
use stentor::{
    config::Config,
    engine::driver::sim::{Personality, SocketId},
};

const PERSONALITIES: [Personality; 2] = [Personality::Readiness, Personality::Completion];

/// A publisher on worker 0, and subscribers in turn on both workers.
struct Broadcast {
    world: World,
    publisher: SocketId,
    subscribers: Vec<SocketId>,
}

/// Addresses of what one message was.
struct Seen {
    /// What was received, one receive after another.
    received: Vec<Range<usize>>,
    /// What each subscriber was sent, in one run.
    sent: Vec<Range<usize>>,
}

impl Broadcast {
    fn new(personality: Personality, home: u16, subscribers: u16) -> Broadcast {
        let mut world = World::new(2, personality, &Config::default());
        let topic = world.topic_at(home);
        let publisher = world.connect(0, &format!("/ws/{topic}?mode=pub"));
        let path = format!("/ws/{topic}?mode=sub");
        let subscribers = (1..=subscribers).map(|i| world.connect(i % 2, &path)).collect();
        Broadcast { world, publisher, subscribers }
    }

    /// Publishes one message, whose frame arrives in pieces that end at `cuts`, and checks what the subscribers get.
    fn publish(mut self, payload: &[u8], cuts: &[usize]) -> Seen {
        let bytes = frame(BINARY, payload);
        self.world.net.trace_addresses();
        let mut begin = 0;
        for &end in cuts.iter().chain([&bytes.len()]) {
            self.world.net.write(self.publisher, &bytes[begin..end]);
            self.world.settle();
            begin = end;
        }
        let (sends, receives) = self.world.net.traced();
        let served = server_frame(BINARY, payload);
        let place = |&(_, address, len): &(SocketId, usize, usize)| address..address + len;
        let sent = self.subscribers.iter().map(|&subscriber| {
            assert_eq!(self.world.net.read(subscriber, usize::MAX), served);
            let mut places = sends.iter().filter(|(socket, ..)| *socket == subscriber).map(place);
            let run = places.next().expect("it was sent the message");
            assert_eq!((run.len(), places.next()), (served.len(), None), "the frame, in one run");
            run
        });
        let sent = sent.collect();
        for worker in 0..2 {
            let deliveries = self.world.stats(worker).deliveries.get();
            assert_eq!(deliveries, self.subscribers.len() as u64 / 2, "worker {worker} has its half");
        }
        let bytes_came = |&&(socket, _, len): &&(SocketId, usize, usize)| socket == self.publisher && len > 0;
        Seen { received: receives.iter().filter(bytes_came).map(place).collect(), sent }
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

/// Both personalities, and both places that the topic's home can be at: the publisher's worker and the other one.
fn each_case(check: impl Fn(&dyn Fn() -> Broadcast)) {
    for personality in PERSONALITIES {
        for home in 0..2 {
            check(&|| Broadcast::new(personality, home, 50));
        }
    }
}

#[test]
fn a_large_frame_is_sent_from_where_it_was_received() {
    each_case(|broadcast| {
        let seen = broadcast().publish(&payload(64 << 10), &[]);
        let [received] = &seen.received[..] else { panic!("one receive, not {:?}", seen.received) };
        // The client's header has 14 bytes, the server's 10: it ends where the client's did.
        for sent in seen.sent {
            assert_eq!(sent, received.start + 4..received.end);
        }
    });
}

/// Once half of the frame is there, the rest is received right behind it.
#[test]
fn a_large_frame_of_which_most_comes_first_is_sent_from_where_it_was_received() {
    each_case(|broadcast| {
        for first in [33 << 10, 60 << 10] {
            let seen = broadcast().publish(&payload(64 << 10), &[first]);
            let [first, rest] = &seen.received[..] else { panic!("two receives, not {:?}", seen.received) };
            assert_eq!(first.end, rest.start);
            for sent in seen.sent {
                assert_eq!(sent, first.start + 4..rest.end);
            }
        }
    });
}

/// A few bytes that promise many get no buffer of the worker's: what came first is copied into the message's own
/// buffer, which grows with what has arrived, and is copied again when it grows. More than a third is received in its
/// last place all the same; nothing is if the header itself came in two pieces.
#[test]
fn a_large_frame_of_which_little_comes_first_is_copied_in_part_and_sent_to_all_from_one_place() {
    each_case(|broadcast| {
        for (first, in_place_min) in [(10, 0), (1000, (64 << 10) / 3), (20 << 10, (64 << 10) / 3)] {
            let seen = broadcast().publish(&payload(64 << 10), &[first]);
            let all = &seen.sent[0];
            assert!(seen.sent.iter().all(|sent| sent == all));
            let is_in_place = |place: &&Range<usize>| all.start <= place.start && place.end <= all.end;
            let in_place: usize = seen.received.iter().filter(is_in_place).map(Range::len).sum();
            assert!(in_place >= in_place_min, "{in_place} bytes; received: {:x?}", seen.received);
            assert!(!is_in_place(&&seen.received[0]), "the test's own sense: the first piece was copied");
        }
    });
}

/// A smaller message would keep its receive buffer alive: it is copied into the log, once for all. (On its way to a home
/// on another worker it is copied into the mail as well, which is not seen here.)
#[test]
fn a_smaller_frame_is_copied_once_for_all_subscribers() {
    for personality in PERSONALITIES {
        for home in 0..2 {
            for len in [1, 125, 126, 16 << 10] {
                let seen = Broadcast::new(personality, home, 50).publish(&payload(len), &[]);
                let [received] = &seen.received[..] else { panic!("{:?}", seen.received) };
                for sent in &seen.sent {
                    assert_eq!(sent, &seen.sent[0]);
                    assert!(received.end <= sent.start || sent.end <= received.start);
                }
            }
        }
    }
}

/// Messages in one batch, large and small in turn, are sent in one call as they lie.
#[test]
fn large_frames_that_follow_small_ones_stay_where_they_are() {
    for personality in PERSONALITIES {
        let mut world = World::new(1, personality, &Config::default());
        let publisher = world.connect(0, "/ws/t?mode=pub");
        let subscribers: Vec<SocketId> = (0..50).map(|_| world.connect(0, "/ws/t?mode=sub")).collect();
        world.net.trace_addresses();
        let (small, large) = (payload(100), payload(40 << 10));
        let frames = [frame(BINARY, &small), frame(BINARY, &large), frame(BINARY, &small)].concat();
        world.net.write(publisher, &frames);
        world.settle();
        let (sends, receives) = world.net.traced();
        let (_, received, len) = receives[0];
        assert_eq!(len, frames.len(), "all in one receive");
        let served = [&small, &large, &small].map(|payload| server_frame(BINARY, payload));
        for subscriber in subscribers {
            assert_eq!(world.net.read(subscriber, usize::MAX), served.concat());
            let places: Vec<_> = sends.iter().filter(|(socket, ..)| *socket == subscriber).collect();
            let [first, second, third] = places[..] else { panic!("three runs, not {places:?}") };
            // Each frame lost the 4 bytes of its mask: the large one's place is behind the first and its own.
            let large_at = received + frame(BINARY, &small).len() + 4;
            assert_eq!((second.1, second.2), (large_at, served[1].len()));
            assert_eq!(third.1, first.1 + first.2, "the small ones lie side by side");
        }
    }
}
