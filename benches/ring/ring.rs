//! A ring as the driver's, and memory that the kernel receives into.
//!
//! That memory is never freed, so no request can outlive it. And the kernel writes to it only inside of the system calls
//! of the ring's thread, since the ring defers its work to those.

#![allow(unsafe_code)]

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{
    IoUring, cqueue, opcode,
    squeue::{Entry, Flags},
    types::{BufRingEntry, Fd, Fixed},
};

/// What the driver polls for.
const INTEREST: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

/// The only group of provided buffers.
const GROUP: u16 = 0;

/// `IORING_REGISTER_SEND_MSG_RING`, which came with Linux 6.13.
const SEND_MSG_RING: libc::c_int = 31;

/// What a completion is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// The socket in this place is ready.
    Polled(u32),
    /// A message came: into this buffer, if that was named, else from the socket in this place.
    Received(u32),
    /// Somebody wakes this ring's thread.
    Woken,
    /// A message to another ring failed.
    Message,
}

impl Tag {
    fn bits(self) -> u64 {
        let (kind, number) = match self {
            Tag::Polled(place) => (0, place),
            Tag::Received(number) => (1, number),
            Tag::Woken => (2, 0),
            Tag::Message => (3, 0),
        };
        kind << 32 | u64::from(number)
    }

    fn of(bits: u64) -> Tag {
        match bits >> 32 {
            0 => Tag::Polled(bits as u32),
            1 => Tag::Received(bits as u32),
            2 => Tag::Woken,
            _ => Tag::Message,
        }
    }
}

/// A completion.
#[derive(Debug)]
pub struct Completion {
    /// Of what.
    pub tag: Tag,
    /// A number, or an error's negated.
    pub result: i32,
    /// Whether the request goes on.
    pub more: bool,
    /// The provided buffer that the kernel took.
    pub buffer: Option<u16>,
}

/// See the head of this file.
pub struct Ring {
    ring: IoUring,
    /// System calls so far, without those that set up.
    pub calls: u64,
}

impl Ring {
    /// A ring for the calling thread, with so many places in its table.
    ///
    /// # Errors
    /// There is none, or not with these flags (Linux 6.1 has them).
    pub fn new(places: usize) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(8192);
        let ring = builder.build(256)?;
        if places > 0 {
            ring.submitter().register_files_sparse(u32::try_from(places).expect("not so many"))?;
        }
        Ok(Ring { ring, calls: 0 })
    }

    /// Puts sockets into the first places of the table.
    pub fn put(&self, sockets: &[TcpStream]) -> io::Result<()> {
        let descriptors: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        self.ring.submitter().register_files_update(0, &descriptors).map(drop)
    }

    /// Asks for a socket's readiness, now and whenever it changes.
    pub fn poll(&mut self, place: u32) {
        let entry = opcode::PollAdd::new(Fixed(place), INTEREST).multi(true).build();
        self.push(entry, Tag::Polled(place));
    }

    /// Asks to be woken by an event descriptor.
    pub fn poll_wake(&mut self, eventfd: RawFd) {
        let entry = opcode::PollAdd::new(Fd(eventfd), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Tag::Woken);
    }

    /// Receives what is there into a buffer.
    pub fn receive(&mut self, place: u32, buffers: &mut Buffers, number: u16) {
        let entry = opcode::Recv::new(Fixed(place), buffers.start(number), Buffers::LEN);
        self.push(entry.flags(libc::MSG_DONTWAIT).build(), Tag::Received(number.into()));
    }

    /// Receives whatever comes, into provided buffers.
    pub fn receive_on(&mut self, place: u32) {
        self.push(opcode::RecvMulti::new(Fixed(place), GROUP).build(), Tag::Received(place));
    }

    /// Wakes another ring's thread once this ring is submitted.
    pub fn message(&mut self, other: RawFd) {
        self.push(message(other).flags(Flags::SKIP_SUCCESS), Tag::Message);
    }

    fn push(&mut self, entry: Entry, tag: Tag) {
        if self.ring.submission().is_full() {
            self.submit();
        }
        // SAFETY: the only memory that entries name is that of `Buffers`, which is never freed.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(tag.bits())) };
        pushed.expect("a queue that was submitted is empty");
    }

    /// Submits what was asked for.
    pub fn submit(&mut self) {
        self.calls += 1;
        self.ring.submit().expect("it is submitted");
    }

    /// The same, and waits for a completion.
    pub fn wait(&mut self) {
        self.calls += 1;
        self.ring.submit_and_wait(1).expect("it is waited for");
    }

    /// What has completed.
    pub fn completions(&mut self) -> impl Iterator<Item = Completion> {
        self.ring.completion().map(|entry| Completion {
            tag: Tag::of(entry.user_data()),
            result: entry.result(),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        })
    }

    /// Submits, and throws away what completes at once: a socket takes bytes, which polls tell when they begin.
    pub fn settle(&mut self) {
        loop {
            self.submit();
            assert!(self.completions().all(|completion| completion.more), "a request ended");
            if !self.ring.submission().taskrun() {
                break;
            }
        }
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn message(other: RawFd) -> Entry {
    opcode::MsgRingData::new(Fd(other), 0, Tag::Woken.bits(), None).build()
}

/// Wakes a ring's thread, without a ring of one's own.
///
/// # Errors
/// The kernel can't.
pub fn message_without_ring(other: RawFd) -> io::Result<()> {
    let entry = message(other);
    let no_ring: libc::c_int = -1;
    // SAFETY: the entry is as long as the kernel wants it, names no memory, and lives until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, no_ring, SEND_MSG_RING, &raw const entry, 1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Zeros, for the kernel to write to.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

fn pages(count: u16) -> NonNull<Page> {
    NonNull::from(vec![Page([0; 4096]); count.into()].leak()).cast()
}

/// Buffers of 4 KiB.
pub struct Buffers {
    pages: NonNull<Page>,
    count: u16,
}

impl Buffers {
    const LEN: u32 = size_of::<Page>() as u32;

    /// So many.
    pub fn new(count: u16) -> Buffers {
        Buffers { pages: pages(count), count }
    }

    fn page(&self, number: u16) -> NonNull<Page> {
        assert!(number < self.count);
        // SAFETY: there are more pages than that.
        unsafe { self.pages.add(number.into()) }
    }

    fn start(&mut self, number: u16) -> *mut u8 {
        self.page(number).as_ptr().cast()
    }

    /// Whether a buffer begins with these bytes.
    pub fn begins_with(&self, number: u16, bytes: &[u8]) -> bool {
        // SAFETY: it is never freed, and nobody writes to it outside of a system call of this thread.
        unsafe { self.page(number).as_ref() }.0.starts_with(bytes)
    }
}

/// Buffers that the kernel takes one of for each receive, and the ring that they are given to it by.
pub struct Provided {
    buffers: Buffers,
    entries: NonNull<BufRingEntry>,
    given: u16,
}

impl Provided {
    /// As many as fill one page with their entries.
    const COUNT: u16 = (size_of::<Page>() / size_of::<BufRingEntry>()) as u16;

    /// Gives all of them to a ring.
    ///
    /// # Errors
    /// The kernel can't take them (Linux 5.19 can).
    pub fn new(ring: &Ring) -> io::Result<Provided> {
        let entries: NonNull<BufRingEntry> = pages(1).cast();
        // SAFETY: they have this length, and are never freed.
        unsafe {
            let start = entries.as_ptr() as u64;
            ring.ring.submitter().register_buf_ring_with_flags(start, Self::COUNT, GROUP, 0)?;
        }
        let mut provided = Provided { buffers: Buffers::new(Self::COUNT), entries, given: 0 };
        (0..Self::COUNT).for_each(|number| provided.give(number));
        Ok(provided)
    }

    /// See [`Buffers::begins_with`].
    pub fn begins_with(&self, number: u16, bytes: &[u8]) -> bool {
        self.buffers.begins_with(number, bytes)
    }

    /// Gives one to the kernel.
    pub fn give(&mut self, number: u16) {
        let start = self.buffers.start(number);
        // SAFETY: the entry is in the page, and the kernel does not look at it before the tail is behind it.
        let entry = unsafe { self.entries.add((self.given % Self::COUNT).into()).as_mut() };
        entry.set_addr(start as u64);
        entry.set_len(Buffers::LEN);
        entry.set_bid(number);
        self.given = self.given.wrapping_add(1);
        // SAFETY: these are the first entry, which has the tail in it, and the tail, which the kernel only reads.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.given, Ordering::Release);
    }
}
