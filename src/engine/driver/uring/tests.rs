//! The driver over real sockets, with both kinds of descriptors: each completion that is not the usual one.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use super::{Descriptors, LENGTHS, Lengths, Uring};
use crate::engine::driver::{Driver, End, Event, Received, Sent};

mod accepting;

const PATIENCE: Duration = Duration::from_secs(20);

/// More than a socket with a small buffer takes.
const MUCH: usize = 4 << 20;

const DIRECT: Descriptors = Descriptors::Direct { places: 512 };

struct Test {
    driver: Uring,
    /// Where sockets are made that are added without the driver's own accept.
    maker: TcpListener,
}

impl Test {
    fn new(descriptors: Descriptors) -> Test {
        Test::with_lengths(descriptors, LENGTHS)
    }

    fn with_lengths(descriptors: Descriptors, lengths: Lengths) -> Test {
        let driver = Uring::with_lengths(Vec::new(), descriptors, Instant::now(), lengths);
        Test {
            driver: driver.expect("it was there before"),
            maker: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    /// A socket that is the driver's as `slot`, and its peer.
    fn add(&mut self, slot: u32) -> TcpStream {
        let (socket, peer) = self.pair();
        self.driver.add(slot, socket.into()).unwrap();
        peer
    }

    /// The same, with a small send buffer.
    fn add_narrow(&mut self, slot: u32) -> TcpStream {
        let (socket, peer) = self.pair();
        socket2::SockRef::from(&socket).set_send_buffer_size(16 << 10).unwrap();
        self.driver.add(slot, socket.into()).unwrap();
        peer
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        let peer = TcpStream::connect(self.maker.local_addr().unwrap()).unwrap();
        let (socket, _) = self.maker.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        (socket, peer)
    }

    /// Waits once, for what comes within a moment.
    fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.driver.wait(Some(Duration::from_millis(50)), &mut events).unwrap();
        events
    }

    /// Waits until an event has come; gives all that came until then.
    fn until(&mut self, awaited: Event) -> Vec<Event> {
        let (began, mut all) = (Instant::now(), Vec::new());
        while !all.contains(&awaited) {
            all.extend(self.events());
            assert!(began.elapsed() < PATIENCE, "no {awaited:?} among {all:?}");
        }
        all
    }

    /// Waits until nothing comes any more.
    fn settle(&mut self) {
        while !self.events().is_empty() {}
    }

    /// Sends a slice.
    fn submit(&mut self, runs: &[(u32, &[u8])]) -> Vec<(u32, Sent)> {
        for (slot, run) in runs {
            assert_eq!(self.driver.queue(*slot, run), Sent::Queued);
        }
        let mut outcomes = Vec::new();
        self.driver.submit(runs.iter().copied(), &mut outcomes);
        outcomes
    }

    fn receive(&mut self, slot: u32) -> Result<Vec<u8>, Received> {
        let mut buffer = [0; 1000];
        match self.driver.receive(slot, &mut buffer) {
            Received::Bytes(bytes) => Ok(buffer[..bytes].to_vec()),
            other => Err(other),
        }
    }
}

/// Runs a test with both kinds of descriptors, where there is an io_uring.
fn with_each(test: impl Fn(Descriptors) + Sync) {
    for descriptors in [Descriptors::Ordinary, DIRECT] {
        with(descriptors, || test(descriptors));
    }
}

/// Runs a test where there is an io_uring. Each ring is on a thread of its own: when it ends, it interrupts what its
/// maker waits in.
fn with(descriptors: Descriptors, test: impl FnOnce() + Send) {
    let made = thread::spawn(move || Uring::new(Vec::new(), descriptors, Instant::now()).map(drop));
    match made.join().unwrap() {
        Ok(()) => thread::scope(|scope| scope.spawn(test).join().unwrap()),
        Err(error) => {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            assert!(may_lack(&release, descriptors, &error), "{descriptors:?} on Linux {release}: {error}");
            println!("NOT RUN with {descriptors:?}: {error}");
        }
    }
}

/// Whether a kernel may lack what is needed: not those that have it, where io_uring is allowed at all.
fn may_lack(release: &str, descriptors: Descriptors, error: &std::io::Error) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let since = if descriptors == Descriptors::Ordinary { (5, 19) } else { (6, 13) };
    let is_missing = matches!(error.kind(), ErrorKind::Unsupported) && error.raw_os_error().is_none();
    let is_forbidden =
        error.kind() == ErrorKind::PermissionDenied || error.raw_os_error() == Some(libc::ENOSYS);
    is_forbidden || (is_missing && version < since)
}

fn readable(slot: u32, to_end: bool) -> Event {
    Event::Readable { slot, to_end }
}

/// `len` bytes of which no part looks like its neighbour.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn read_exactly(mut peer: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

/// Closes it so that the other end sees a reset.
fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
}

/// Reads to the end; true if that is a reset.
fn is_reset(mut peer: &TcpStream) -> bool {
    peer.read_to_end(&mut Vec::new()).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// The trap: a send of a slice posts no completion if it succeeds, and a short one must not pass for one.
#[test]
fn a_short_send_is_told() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let (narrow, wide) = (test.add_narrow(0), test.add(1));
        test.settle();
        let much = pattern(MUCH);
        let outcomes = test.submit(&[(0, &much), (1, b"little")]);
        let [(0, Sent::Bytes(taken))] = outcomes[..] else { panic!("{outcomes:?}") };
        assert!(taken < MUCH);
        assert_eq!(read_exactly(&wide, 6), b"little");

        // The rest is the sender's to send: nothing of it waits in the kernel. It takes some more when what it took has
        // got to the other end, and then nothing.
        let mut position = taken;
        loop {
            match test.submit(&[(0, &much[position..])])[..] {
                [(0, Sent::Bytes(bytes))] => position += bytes,
                [(0, Sent::Refused)] => break,
                ref other => panic!("{other:?}"),
            }
        }
        let receiver = thread::spawn(move || read_exactly(&narrow, MUCH));
        while position < MUCH {
            test.until(Event::Writable(0));
            match test.submit(&[(0, &much[position..])])[..] {
                [] => position = MUCH,
                [(0, Sent::Bytes(bytes))] => position += bytes,
                [(0, Sent::Refused)] => {}
                ref other => panic!("{other:?}"),
            }
        }
        assert!(receiver.join().unwrap() == much, "nothing is lost or repeated");
    });
}

#[test]
fn a_short_send_of_several_parts_gives_the_bytes_of_all() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let peer = test.add_narrow(0);
        let much = pattern(MUCH);
        let parts: Vec<IoSlice<'_>> = much.chunks(1000).take(1000).map(IoSlice::new).collect();
        let Sent::Bytes(taken) = test.driver.send_vectored(0, &parts) else { panic!() };
        assert!((1001..1_000_000).contains(&taken), "{taken}");
        assert!(read_exactly(&peer, taken) == much[..taken]);
        while test.driver.send_vectored(0, &parts) != Sent::Refused {}
    });
}

#[test]
fn sends_and_receives_outside_of_slices_end_at_once() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let mut peer = test.add_narrow(0);
        assert_eq!(test.driver.send(0, b"hello, "), Sent::Bytes(7));
        let parts = [IoSlice::new(b"wor"), IoSlice::new(b"ld")];
        assert_eq!(test.driver.send_vectored(0, &parts), Sent::Bytes(5));
        assert_eq!(read_exactly(&peer, 12), b"hello, world");
        assert!(matches!(test.receive(0), Err(Received::Empty)));
        peer.write_all(b"and back").unwrap();
        test.until(readable(0, false));
        assert_eq!(test.receive(0).unwrap(), b"and back");
        let much = pattern(MUCH);
        let Sent::Bytes(taken) = test.driver.send(0, &much) else { panic!() };
        assert!(taken < MUCH);
        while test.driver.send(0, &much) != Sent::Refused {}
        assert!(read_exactly(&peer, taken) == much[..taken]);
        thread::spawn(move || drop(read_exactly(&peer, 1000)));
        test.until(Event::Writable(0));
    });
}

/// What a send has not taken when the submit returns it never takes: the segment may go.
#[test]
fn memory_is_not_read_after_the_submit() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let (narrow, wide) = (test.add_narrow(0), test.add(1));
        let much = pattern(MUCH);
        let mut segment = much.clone();
        let outcomes = test.submit(&[(0, &segment), (1, &segment[..1000])]);
        let [(0, Sent::Bytes(taken))] = outcomes[..] else { panic!("{outcomes:?}") };
        segment.fill(0xff);
        drop(segment);
        assert!(read_exactly(&narrow, taken) == much[..taken]);
        assert!(read_exactly(&wide, 1000) == much[..1000]);
        test.until(Event::Writable(0));
        assert_eq!(test.submit(&[(0, b"next")]), []);
        assert_eq!(read_exactly(&narrow, 4), b"next");
    });
}

/// Also where the queue and the room for completions are shorter than their number.
#[test]
fn of_receives_made_together_each_gives_its_own() {
    with_each(|descriptors| {
        let mut test = Test::with_lengths(descriptors, Lengths { submissions: 4, completions: 8 });
        let mut peers: Vec<Option<TcpStream>> = (0..16).map(|slot| Some(test.add(slot))).collect();
        for (slot, peer) in peers.iter_mut().enumerate() {
            match slot % 4 {
                0 => {}
                1 => peer.as_mut().unwrap().write_all(&pattern(slot)).unwrap(),
                2 => peer.as_ref().unwrap().shutdown(Shutdown::Write).unwrap(),
                _ => reset(peer.take().unwrap()),
            }
        }
        test.settle();
        let (mut buffers, mut received) = (vec![[0; 9]; 16], Vec::new());
        let slots = || (0..16u32).rev();
        let receives = slots().zip(&mut buffers).map(|(slot, buffer)| (slot, &mut buffer[..]));
        test.driver.receive_each(receives, &mut received);
        assert_eq!(received.len(), 16);
        for ((slot, buffer), received) in slots().zip(buffers).zip(received) {
            match (slot % 4, received) {
                (1, Received::Bytes(bytes)) => {
                    let len = slot as usize;
                    assert_eq!(bytes, len.min(9), "what is left is for the next receive");
                    assert_eq!(buffer[..bytes], pattern(len)[..bytes]);
                }
                (0, Received::Empty) | (2, Received::End) => {}
                (3, Received::Failed(ErrorKind::ConnectionReset)) => {}
                (_, other) => panic!("{slot}: {other:?}"),
            }
        }
    });
}

/// The queue submits itself when it is full, and what is learnt by that is told with the rest.
#[test]
fn a_slice_may_be_longer_than_the_queue() {
    with_each(|descriptors| {
        let mut test = Test::with_lengths(descriptors, Lengths { submissions: 4, completions: 64 });
        let peers: Vec<TcpStream> =
            (0..30).map(|slot| if slot % 7 == 0 { test.add_narrow(slot) } else { test.add(slot) }).collect();
        let much = pattern(MUCH);
        let runs: Vec<(u32, &[u8])> =
            (0..30).map(|slot| (slot, if slot % 7 == 0 { &much[..] } else { b"little" })).collect();
        let outcomes = test.submit(&runs);
        assert_eq!(outcomes.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 7, 14, 21, 28]);
        assert!(outcomes.iter().all(|(_, sent)| matches!(sent, Sent::Bytes(taken) if *taken < MUCH)));
        for (slot, peer) in peers.iter().enumerate().filter(|(slot, _)| slot % 7 != 0) {
            assert_eq!(read_exactly(peer, 6), b"little", "{slot}");
        }
    });
}

/// The kernel has put completions aside for which there was no room, and puts all further ones behind them.
#[test]
fn short_sends_behind_completions_that_had_no_room_are_told() {
    with_each(|descriptors| {
        let mut test = Test::with_lengths(descriptors, Lengths { submissions: 8, completions: 16 });
        let mut peers: Vec<TcpStream> = (0..100).map(|slot| test.add_narrow(slot)).collect();
        test.settle();
        let much = pattern(MUCH);
        for slots in [0..20, 20..40] {
            peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
            if slots.start > 0 {
                test.events();
            }
            let runs: Vec<(u32, &[u8])> = slots.clone().map(|slot| (slot, &much[..])).collect();
            let outcomes = test.submit(&runs);
            assert!(outcomes.iter().map(|(slot, _)| *slot).eq(slots), "{outcomes:?}");
            assert!(outcomes.iter().all(|(_, sent)| matches!(sent, Sent::Bytes(taken) if *taken < MUCH)));
        }
    });
}

#[test]
fn a_peer_that_resets_fails_its_own_send_alone() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let (gone, stays) = (test.add(0), test.add(1));
        test.settle();
        reset(gone);
        test.until(Event::Broken(0));
        assert_eq!(test.submit(&[(0, b"lost"), (1, b"kept")]), [(0, Sent::Failed)]);
        assert_eq!(read_exactly(&stays, 4), b"kept");
        assert_eq!(test.driver.send(0, b"lost"), Sent::Failed);
        test.driver.remove(0, End::Reset);
        let next = test.add(0);
        assert_eq!(test.submit(&[(0, b"next")]), []);
        assert_eq!(read_exactly(&next, 4), b"next");
    });
}

/// The kernel ends a poll whose completion has no room. Then it is begun again, and no event is lost.
#[test]
fn a_poll_that_was_ended_goes_on() {
    with_each(|descriptors| {
        let mut test = Test::with_lengths(descriptors, Lengths { submissions: 8, completions: 16 });
        let mut peers: Vec<TcpStream> = (0..100).map(|slot| test.add(slot)).collect();
        for round in 0..3 {
            test.settle();
            peers.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
            let (began, mut heard) = (Instant::now(), BTreeSet::new());
            while heard.len() < peers.len() {
                for event in test.events() {
                    if let Event::Readable { slot, .. } = event {
                        assert!(matches!(test.receive(slot).as_deref(), Ok(b"x") | Err(Received::Empty)));
                        heard.insert(slot);
                    }
                }
                assert!(began.elapsed() < PATIENCE, "round {round}: {} were heard", heard.len());
            }
        }
    });
}

#[test]
fn late_completions_are_not_the_next_owners() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        for end in [End::Close, End::Reset] {
            let mut old = test.add(0);
            test.settle();
            // Its readiness has changed, in many ways, and nobody has looked.
            old.write_all(b"old").unwrap();
            old.shutdown(Shutdown::Both).unwrap();
            test.driver.remove(0, end);
            let mut new = test.add(0);
            let mut events = test.events();
            events.extend(test.events());
            assert_eq!(events, [Event::Writable(0)], "{end:?}");
            assert!(matches!(test.receive(0), Err(Received::Empty)));
            new.write_all(b"new").unwrap();
            test.until(readable(0, false));
            assert_eq!(test.receive(0).unwrap(), b"new");
            test.driver.remove(0, End::Close);
        }
    });
}

#[test]
fn what_was_sent_before_a_close_arrives() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let mut peer = test.add(0);
        assert_eq!(test.submit(&[(0, b"last words")]), []);
        test.driver.remove(0, End::Close);
        test.settle();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"last words");
        assert_eq!(test.driver.send(0, b"more"), Sent::Failed);
        assert!(matches!(test.receive(0), Err(Received::Failed(ErrorKind::NotConnected))));
    });
}

#[test]
fn a_reset_is_one_although_bytes_wait() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let peer = test.add_narrow(0);
        let much = pattern(MUCH);
        assert_eq!(test.submit(&[(0, &much)]).len(), 1);
        test.driver.remove(0, End::Reset);
        test.settle();
        assert!(is_reset(&peer));
    });
}

#[test]
fn streams_end_one_way_at_a_time() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let (mut peer, mut other) = (test.add(0), test.add(1));
        test.settle();
        peer.write_all(b"bye").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        test.until(readable(0, true));
        assert_eq!(test.receive(0).unwrap(), b"bye");
        assert!(matches!(test.receive(0), Err(Received::End)));
        assert_eq!(test.submit(&[(0, b"you too")]), []);
        assert_eq!(read_exactly(&peer, 7), b"you too");

        test.driver.finish(1);
        test.settle();
        assert_eq!(other.read(&mut [0; 1]).unwrap(), 0);
        other.write_all(b"still here").unwrap();
        test.until(readable(1, false));
        assert_eq!(test.receive(1).unwrap(), b"still here");
        drop(other);
        let events = test.until(Event::Broken(1));
        assert!(!events.contains(&readable(1, false)), "both ways have ended: {events:?}");
    });
}

#[test]
fn a_wait_ends_when_it_is_woken_or_its_time_has_passed() {
    with_each(|descriptors| {
        let mut test = Test::new(descriptors);
        let mut events = Vec::new();
        test.settle();
        let began = Instant::now();
        test.driver.wait(Some(Duration::from_millis(20)), &mut events).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(20));
        test.driver.wait(Some(Duration::ZERO), &mut events).unwrap();
        for _ in 0..3 {
            let wake = test.driver.wake();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(10));
                wake();
            });
            // Without the wake-up it never ends.
            test.driver.wait(None, &mut events).unwrap();
            test.driver.wake()();
            test.driver.wait(None, &mut events).unwrap();
        }
        assert_eq!(events, []);
    });
}

#[test]
fn a_full_table_takes_no_more() {
    with(DIRECT, || {
        let mut test = Test::new(Descriptors::Direct { places: 4 });
        let peers: Vec<TcpStream> = (0..4).map(|slot| test.add(slot)).collect();
        let (socket, mut one_more) = test.pair();
        let refused = test.driver.add(4, socket.into()).unwrap_err();
        assert!(refused.to_string().contains("full"), "{refused}");
        assert_eq!(one_more.read(&mut [0; 1]).unwrap(), 0, "it is closed");

        let everyone: Vec<(u32, &[u8])> = (0..4).map(|slot| (slot, &b"all"[..])).collect();
        assert_eq!(test.submit(&everyone), []);
        peers.iter().for_each(|peer| assert_eq!(read_exactly(peer, 3), b"all"));
        test.driver.remove(2, End::Close);
        let next = test.add(2);
        assert_eq!(test.submit(&[(2, b"next")]), []);
        assert_eq!(read_exactly(&next, 4), b"next");
    });
}

/// With direct descriptors none of the process' own is held.
#[test]
fn direct_descriptors_are_none_of_the_process() {
    with(DIRECT, || {
        let mut test = Test::new(DIRECT);
        let (socket, peer) = test.pair();
        let socket = OwnedFd::from(socket);
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        let inode = std::fs::read_link(&path).unwrap();
        test.driver.add(0, socket).unwrap();
        // Another test may have the number by now, but not the socket.
        assert!(std::fs::read_link(&path).map_or(true, |other| other != inode));
        assert_eq!(test.submit(&[(0, b"there")]), []);
        assert_eq!(read_exactly(&peer, 5), b"there");
    });
}
