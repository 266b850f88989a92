//! Sending a slice with one system call: io_uring, and the sockets registered with it.
//!
//! Every send carries `MSG_DONTWAIT | MSG_WAITALL` and posts no completion if it succeeds. So it ends inside the
//! `io_uring_enter` that submits it, silence means that all bytes went, and a short or refused send always posts a
//! completion. `MSG_DONTWAIT` alone would pass a short send off as a success, silently; `MSG_WAITALL` alone would
//! put it aside in the kernel.
//!
//! The sockets are in the ring's table under the numbers of their connections, so that no send looks up a
//! descriptor. The table may have no more places than the process may have open files.
//!
//! The only unsafe code of this crate: the kernel is given addresses of borrowed bytes, always within one call.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::Fixed;
use io_uring::{Builder, IoUring, opcode, squeue};
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::log::Log;
use super::sends::{Offer, SLICE, Taken};
use super::subscribers::Subscribers;
use crate::failure::Failure;

/// The kernel's own bound on a ring's table (`IORING_MAX_FIXED_FILES`).
const TABLE_PLACES_MAX: u64 = 1 << 20;

/// A ring, and the table of sockets in it.
pub(super) struct Ring {
    ring: IoUring,
    places: u32,
    /// Sockets are in the table only: a subscriber takes no descriptor of the process.
    direct: bool,
    /// Cursors of the slice under way, as they were.
    from: Vec<u64>,
}

impl Ring {
    /// A ring with room for as many sockets as the process may have `files`.
    pub(super) fn new(direct: bool, files: u64) -> Result<Self, Failure> {
        let unavailable = Failure::system(
            "--sends uring: no io_uring here (it needs Linux 5.19, the sysctl kernel.io_uring_disabled at 0, and a \
             container whose seccomp profile allows it): use --sends send",
        );
        let (ring, places) = open(files).map_err(unavailable)?;
        Ok(Self { ring, places, direct, from: Vec::with_capacity(SLICE) })
    }

    /// Puts a socket into the table; gives it back unless it is to be there only.
    pub(super) fn admit(&mut self, slot: u32, socket: OwnedFd) -> Result<Option<OwnedFd>, Failure> {
        if slot >= self.places {
            return Err(Failure::Usage(format!(
                "--sends uring: the ring's table is full with {} connections, as many as the process may have open \
                 files: ask for fewer subscribers, or raise the limit (`ulimit -Hn`)",
                self.places
            )));
        }
        self.update(slot, socket.as_raw_fd())?;
        Ok((!self.direct).then_some(socket))
    }

    /// Takes a socket out of the table.
    pub(super) fn dismiss(&mut self, slot: u32) -> Result<(), Failure> {
        self.update(slot, -1)
    }

    fn update(&self, slot: u32, descriptor: i32) -> Result<(), Failure> {
        let updated = self.ring.submitter().register_files_update(slot, &[descriptor]);
        updated.map(drop).map_err(Failure::system(format!("cannot change place {slot} of the ring's table")))
    }

    /// Sends a slice and moves the cursors by what was taken.
    pub(super) fn send(
        &mut self,
        log: &Log,
        subscribers: &mut Subscribers,
        slice: &[Offer],
    ) -> Result<Taken, Failure> {
        if slice.is_empty() {
            return Ok(Taken::default());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::from_bits_retain(MSG_WAITALL);
        self.from.clear();
        let mut queue = self.ring.submission();
        for (index, &Offer { position, end }) in slice.iter().enumerate() {
            let position = position as usize;
            let from = subscribers.cursors[position];
            let bytes = log.between(from, end);
            let len = u32::try_from(bytes.len()).expect("publishers are not read when the log is full");
            let entry = opcode::Send::new(Fixed(subscribers.slots[position]), bytes.as_ptr(), len)
                .flags(flags.bits() as i32)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(index as u64);
            // SAFETY: the bytes are borrowed from the log until this function returns. Before that all requests are
            // submitted, and by MSG_DONTWAIT each ends inside the submission: none is put aside that would
            // read them later. If submitting fails, the failure ends the process without another submission.
            unsafe { queue.push(&entry) }
                .expect("the queue has room for a slice, and is empty between slices");
            self.from.push(from);
            subscribers.cursors[position] = end;
        }
        drop(queue);
        self.submit(0).map_err(Failure::system("io_uring_enter"))?;
        self.settle(subscribers, slice)
    }

    /// Corrects the cursors by the completions, which tell of short and refused sends only.
    fn settle(&mut self, subscribers: &mut Subscribers, slice: &[Offer]) -> Result<Taken, Failure> {
        let mut taken = Taken::default();
        let mut spoken = 0;
        for completion in self.ring.completion() {
            spoken += 1;
            let index = completion.user_data() as usize;
            let (position, from) = (slice[index].position as usize, self.from[index]);
            let offered = (slice[index].end - from) as usize;
            taken.note(subscribers, position, from, offered, result(completion.result()));
        }
        taken.any |= spoken < slice.len();
        Ok(taken)
    }

    /// Receives from the socket in place `slot` what is there, without waiting for more.
    pub(super) fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Result<Result<usize, Errno>, Failure> {
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(Fixed(slot), buffer.as_mut_ptr(), len)
            .flags(SendFlags::DONTWAIT.bits() as i32)
            .build();
        // SAFETY: the buffer is borrowed until this function returns, and it returns only after the completion, or
        // when the request never reached the kernel and the process ends without another submission.
        unsafe { self.ring.submission().push(&entry) }.expect("the queue is empty between slices");
        self.submit(1).map_err(Failure::system("io_uring_enter"))?;
        let completion = self.ring.completion().next().expect("one completion was waited for");
        Ok(result(completion.result()))
    }

    /// Submits all that is queued, and waits for `completions`.
    fn submit(&mut self, completions: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(completions) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.ring.submission().is_empty() && self.ring.completion().len() >= completions {
                return Ok(());
            }
        }
    }
}

/// `MSG_WAITALL`, which `SendFlags` lacks: of use to io_uring's sends only.
const MSG_WAITALL: u32 = 0x100;

/// A completion's result: a length, or an error number negated.
fn result(code: i32) -> Result<usize, Errno> {
    usize::try_from(code).map_err(|_| Errno::from_raw_os_error(-code))
}

/// A ring as this kernel offers it, the best first, and the places in its table.
fn open(files: u64) -> io::Result<(IoUring, u32)> {
    let ring = build(|builder| {
        builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all()
    })
    .or_else(|_| build(|builder| builder.setup_coop_taskrun().setup_submit_all()))?;
    if !ring.params().is_feature_skip_cqe_on_success() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let places = files.min(TABLE_PLACES_MAX) as u32;
    ring.submitter().register_files_sparse(places)?;
    Ok((ring, places))
}

fn build(flags: impl FnOnce(&mut Builder) -> &mut Builder) -> io::Result<IoUring> {
    // Every request of a slice may post a completion: the queue never overflows.
    flags(IoUring::builder().setup_cqsize(4 * SLICE as u32)).build(SLICE as u32)
}

#[cfg(test)]
mod tests {
    use super::super::frames::Frame;
    use super::super::subscribers::GONE;
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// A ring, or the reason why there is none on this machine.
    fn ring() -> Option<Ring> {
        Ring::new(true, 64).map_err(|failure| println!("skipped: {failure}")).ok()
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap()
    }

    /// What is there, whatever it takes calls to read it.
    fn drain(socket: &OwnedFd) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        while let Ok(len @ 1..) = rustix::io::read(socket, &mut buffer) {
            all.extend_from_slice(&buffer[..len]);
        }
        all
    }

    /// The trap: a send that the kernel takes a part of must not pass as a success.
    #[test]
    fn a_short_send_moves_the_cursor_by_what_was_taken() {
        let Some(mut ring) = ring() else { return };
        let (mut log, mut subscribers) = (Log::new(None), Subscribers::default());
        let payload: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
        log.append(&Frame { first: 0x82, key: [0; 4], payload: &payload });
        let mut readers = Vec::new();
        for slot in 0..3 {
            let (ours, theirs) = pair();
            let socket = ring.admit(slot, ours).unwrap();
            assert!(socket.is_none(), "the ring has it alone");
            subscribers.join(slot, socket, 0);
            readers.push(theirs);
        }
        // The first is offered more than it takes, the second what fits, the third has closed.
        readers.pop();
        let head = log.head();
        let slice = [
            Offer { position: 0, end: head },
            Offer { position: 1, end: 1000 },
            Offer { position: 2, end: head },
        ];
        let taken = ring.send(&log, &mut subscribers, &slice).unwrap();
        assert_eq!(taken, Taken { any: true, refused: 1 });
        let short = subscribers.cursors[0];
        assert!(short > 0 && short < head, "{short}");
        assert_eq!(subscribers.cursors[1..], [1000, GONE]);

        let slice = [Offer { position: 0, end: head }];
        let taken = ring.send(&log, &mut subscribers, &slice).unwrap();
        assert_eq!((taken, subscribers.cursors[0]), (Taken { any: false, refused: 1 }, short));

        let mut received = drain(&readers[0]);
        assert_eq!(received.len() as u64, short, "the cursor says what was taken");
        while subscribers.cursors[0] < head {
            ring.send(&log, &mut subscribers, &slice).unwrap();
            received.extend(drain(&readers[0]));
        }
        assert!(received == log.between(0, head));
        assert_eq!(drain(&readers[1]), log.between(0, 1000));
    }

    #[test]
    fn sockets_in_the_table_alone_can_be_read() {
        let Some(mut ring) = ring() else { return };
        let (ours, theirs) = pair();
        ring.admit(7, ours).unwrap();
        let mut buffer = [0; 16];
        let mut receive = |ring: &mut Ring| ring.receive(7, &mut buffer).unwrap();
        assert_eq!(receive(&mut ring), Err(Errno::AGAIN));
        rustix::io::write(&theirs, b"hello").unwrap();
        assert_eq!(receive(&mut ring), Ok(5));
        drop(theirs);
        assert_eq!(receive(&mut ring), Ok(0));
        ring.dismiss(7).unwrap();
        assert_eq!(receive(&mut ring), Err(Errno::BADF));
        assert_eq!(&buffer[..5], b"hello");
    }
}
