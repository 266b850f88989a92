//! One ring: requests in, completions out.
//!
//! The only unsafe code of the driver: the kernel is given addresses of borrowed bytes, always within one call. No
//! request that reads or writes memory of ours outlives the call that makes it: all of those carry `MSG_DONTWAIT` or
//! never wait, so they end inside the `io_uring_enter` that submits them.
//!
//! The sends of a slice post no completion when they succeed. With `MSG_DONTWAIT | MSG_WAITALL` silence then means that
//! all bytes went: a send that the socket takes in part, or not at all, counts as failed and always posts one.
//! `MSG_DONTWAIT` alone would pass a short send off as a success, silently; `MSG_WAITALL` alone would put it aside in
//! the kernel, to read the bytes later.

#![allow(unsafe_code)]

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd},
    time::Duration,
};

use io_uring::{
    Builder, IoUring, Probe, cqueue, opcode,
    squeue::{Entry, Flags},
    types::{Fd, Fixed, SubmitArgs, Timespec},
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket, socketpair};

use super::tag::{Owner, Tag};

/// What a poll asks for; errors and hang-ups are told unasked.
const INTEREST: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

/// Which socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// The one behind an ordinary descriptor.
    Descriptor(RawFd),
    /// The one in this place of the ring's table.
    Place(u32),
}

/// `$opcode` for a target; the crate has a type for each kind.
macro_rules! on {
    ($target:expr, |$fd:ident| $opcode:expr) => {
        match $target {
            Target::Descriptor(descriptor) => {
                let $fd = Fd(descriptor);
                $opcode
            }
            Target::Place(place) => {
                let $fd = Fixed(place);
                $opcode
            }
        }
    };
}

/// A completion, as far as anybody asks.
#[derive(Debug)]
pub(super) enum Completion {
    /// A socket's readiness, as poll(2) has it; `None`: it can't be polled. The poll goes on if `more`.
    Polled { owner: Owner, mask: Option<u32>, more: bool },
    /// A connection was accepted, or none can be. Accepting goes on if `more`.
    Accepted { listener: u32, socket: io::Result<OwnedFd>, more: bool },
    /// The wake-up was rung. Its poll goes on if `more`.
    Woken { more: bool },
}

/// Lengths of a ring's queues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    /// Requests that are submitted together at most.
    pub submissions: u32,
    /// Completions that wait at most, before the kernel has to put them aside.
    pub completions: u32,
}

/// See the head of this file.
pub(super) struct Ring {
    ring: IoUring,
    /// Places in its table.
    places: u32,
    /// Completions that were taken from the kernel.
    taken: VecDeque<Completion>,
    /// The same of a slice's sends: those that did not go whole.
    not_whole: Vec<(u32, io::Result<usize>)>,
    /// The same of receives that are made together: all of them.
    received: Vec<(u32, io::Result<usize>)>,
    /// How the request ended that is waited for.
    now: Option<i32>,
    /// Whether requests in the queue may be submitted: not if the memory that they name may be gone.
    sound: bool,
}

impl Ring {
    /// A ring as this kernel offers it, with so many places in its table. It belongs to the calling thread, which alone
    /// may use it. When it ends, the kernel interrupts what that thread waits in.
    ///
    /// # Errors
    /// There is no io_uring here, or it lacks what is needed. The text says which.
    pub(super) fn new(lengths: Lengths, places: u32) -> io::Result<Ring> {
        let ring = build(lengths)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        // The last is not used. It came with Linux 5.19, as accepts that go on did, which can't be asked for.
        let needed = [opcode::FilesUpdate::CODE, opcode::Socket::CODE];
        let features = ring.params();
        let has_all = needed.into_iter().all(|code| probe.is_supported(code))
            && features.is_feature_nodrop()
            && features.is_feature_ext_arg()
            && features.is_feature_skip_cqe_on_success();
        if !has_all {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring is older than Linux 5.19",
            ));
        }
        if places > 0 {
            ring.submitter().register_files_sparse(places)?;
        }
        Ok(Ring {
            ring,
            places,
            taken: VecDeque::new(),
            not_whole: Vec::new(),
            received: Vec::new(),
            now: None,
            sound: true,
        })
    }

    /// Places in the table.
    pub(super) fn places(&self) -> u32 {
        self.places
    }

    /// The next completion of those that were taken from the kernel.
    pub(super) fn next(&mut self) -> Option<Completion> {
        self.taken.pop_front()
    }

    /// Completions that will be asked for again.
    pub(super) fn put_back(&mut self, completions: VecDeque<Completion>) {
        self.taken.extend(completions);
    }

    /// Submits what is queued, and waits for completions unless some are there or the time has passed.
    ///
    /// # Errors
    /// The ring is broken.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.take();
        if !self.taken.is_empty() || timeout == Some(Duration::ZERO) {
            return if self.has_work() { self.submit() } else { self.check() };
        }
        self.check()?;
        let waited = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        match waited {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) || may_try_again(&error) => {}
            Err(error) => return Err(self.fail(error)),
        }
        self.take();
        if self.is_stuck() { self.submit() } else { Ok(()) }
    }

    /// Asks for a socket's readiness, now and whenever it changes.
    pub(super) fn poll(&mut self, target: Target, owner: Owner) {
        let entry = on!(target, |fd| opcode::PollAdd::new(fd, INTEREST).multi(true).build());
        self.push(entry, Tag::Poll(owner));
    }

    /// The same for the wake-up.
    pub(super) fn poll_wake(&mut self, descriptor: RawFd) {
        let entry = opcode::PollAdd::new(Fd(descriptor), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Tag::Wake);
    }

    /// Accepts all that comes to a listener, until that is cancelled.
    pub(super) fn accept(&mut self, descriptor: RawFd, listener: u32) {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let entry = opcode::AcceptMulti::new(Fd(descriptor)).flags(flags).build();
        self.push(entry, Tag::Accept(listener));
    }

    /// Ends what goes on under a tag: a last completion without `more` says so.
    pub(super) fn cancel(&mut self, tag: Tag) {
        self.push(unasked(opcode::AsyncCancel::new(tag.bits()).build()), Tag::Unasked);
    }

    /// A descriptor of a socket in the table, for what no request does well: the kernel hands a shutdown to another
    /// thread, which looks at the place when it comes to it, and may find the next socket there.
    pub(super) fn descriptor(&mut self, place: u32) -> io::Result<OwnedFd> {
        // SAFETY: the request names no memory.
        unsafe { self.push_now(opcode::FixedFdInstall::new(Fixed(place), 0).build()) };
        let descriptor = RawFd::try_from(self.ended()?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor, for us.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// When the socket is closed, it is reset.
    pub(super) fn reset_when_closed(&mut self, place: u32) {
        self.push(unasked(linger_none(place)), Tag::Unasked);
    }

    /// Closes a socket. It ends once no other request holds it.
    pub(super) fn close(&mut self, place: u32) {
        self.push(unasked(opcode::Close::new(Fixed(place)).build()), Tag::Unasked);
    }

    /// The same for one with a descriptor.
    pub(super) fn close_descriptor(&mut self, socket: OwnedFd) {
        self.push(unasked(opcode::Close::new(Fd(socket.into_raw_fd())).build()), Tag::Unasked);
    }

    /// Puts a socket into a place of the table, instead of its descriptor.
    pub(super) fn put(&mut self, place: u32, socket: OwnedFd) -> io::Result<()> {
        let descriptor = socket.into_raw_fd();
        let offset = i32::try_from(place).map_err(io::Error::other)?;
        let entry = opcode::FilesUpdate::new(&raw const descriptor, 1).offset(offset).build();
        // SAFETY: `descriptor` lives until this function returns, and the request has ended by then.
        unsafe { self.push_now(entry) };
        // Behind it, in the same submission, and whatever becomes of it.
        self.push(unasked(opcode::Close::new(Fd(descriptor)).build()), Tag::Unasked);
        self.ended().map(drop)
    }

    /// Tries what sockets in the table must be capable of. Uses two places, which are free afterwards. `None`: nothing
    /// is missing.
    pub(super) fn rehearse(&mut self) -> io::Result<Option<&'static str>> {
        self.put(0, socket(AddressFamily::INET, SocketType::STREAM, None)?)?;
        // SAFETY: the option's value is a static.
        unsafe { self.push_now(linger_none(0)) };
        let can_be_reset = self.ended().is_ok();
        let has_descriptor = self.descriptor(0).is_ok();
        self.close(0);

        let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let ((other, _kept), (ours, theirs)) = (pair()?, pair()?);
        let owner = Owner { slot: 0, generation: 0 };
        self.put(0, other)?;
        self.poll(Target::Place(0), owner);
        self.put(1, ours)?;
        self.close(1);
        self.submit()?;
        let ends = matches!(recv(&theirs, &mut [0; 1][..], RecvFlags::DONTWAIT), Ok((_, 0)));
        self.close(0);
        self.cancel(Tag::Poll(owner));
        self.submit()?;
        Ok(match (can_be_reset, has_descriptor, ends) {
            (false, ..) => Some("can't set their options (Linux 6.7 does)"),
            (_, false, _) => Some("gives them no descriptor (Linux 6.8 does)"),
            (.., false) => Some("keeps them open while others are polled (Linux 6.13 does not)"),
            _ => None,
        })
    }

    /// Receives what is there into the front of a buffer.
    pub(super) fn receive(&mut self, place: u32, buffer: &mut [u8]) -> io::Result<usize> {
        let entry = opcode::Recv::new(Fixed(place), buffer.as_mut_ptr(), length(buffer.len()));
        // SAFETY: the buffer is borrowed until this function returns, and the request has ended by then.
        unsafe { self.push_now(entry.flags(libc::MSG_DONTWAIT).build()) };
        self.ended()
    }

    /// Receives what is there from several sockets, each into its own buffer, and tells by their numbers (0, 1, 2, …)
    /// what each gave. If the ring breaks, nothing is told of those that are left.
    pub(super) fn receive_each<'a>(
        &mut self,
        receives: impl Iterator<Item = (Target, &'a mut [u8])>,
        mut tell: impl FnMut(u32, io::Result<usize>),
    ) {
        // As with sends: if `receives` panics, what it has given must stay in the queue for good.
        let mut whole = std::mem::replace(&mut self.sound, false);
        for (number, (target, buffer)) in (0..).zip(receives) {
            if whole && self.ring.submission().is_full() {
                whole = self.enter().is_ok();
            }
            let (start, len) = (buffer.as_mut_ptr(), length(buffer.len()));
            let entry = on!(target, |fd| opcode::Recv::new(fd, start, len).flags(libc::MSG_DONTWAIT).build());
            let entry = entry.user_data(Tag::Receive(number).bits());
            // SAFETY: the buffer is borrowed until this function returns. It returns when all requests have been
            // submitted, each of which ends inside its submission; else the queue is never submitted again.
            whole = whole && unsafe { self.ring.submission().push(&entry) }.is_ok();
        }
        self.sound = whole && self.enter().is_ok();
        for (number, result) in self.received.drain(..) {
            tell(number, result);
        }
    }

    /// Sends one run of bytes.
    pub(super) fn send(&mut self, place: u32, bytes: &[u8]) -> io::Result<usize> {
        let entry = opcode::Send::new(Fixed(place), bytes.as_ptr(), length(bytes.len()));
        // SAFETY: the bytes are borrowed until this function returns, and the request has ended by then.
        unsafe { self.push_now(entry.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build()) };
        self.ended()
    }

    /// Sends several runs of bytes.
    pub(super) fn send_vectored(&mut self, place: u32, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: a header of zeros says that there is no address, no bytes and nothing beside.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        // An `IoSlice` is an `iovec`; the kernel does not write to it.
        header.msg_iov = parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = parts.len();
        let entry = opcode::SendMsg::new(Fixed(place), &raw const header);
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        // SAFETY: header, parts and bytes live until this function returns, and the request has ended by then.
        unsafe { self.push_now(entry.flags(flags).build()) };
        self.ended()
    }

    /// Sends each socket its run, and tells those that did not go whole. If the ring breaks, nothing is told.
    pub(super) fn send_all<'a>(
        &mut self,
        runs: impl Iterator<Item = (u32, Target, &'a [u8])>,
        mut tell: impl FnMut(u32, io::Result<usize>),
    ) {
        // If `runs` panics, what it has given is in the queue, and must stay there for good.
        let mut whole = std::mem::replace(&mut self.sound, false);
        for (slot, target, run) in runs {
            if whole && self.ring.submission().is_full() {
                whole = self.enter().is_ok();
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
            let (start, len) = (run.as_ptr(), length(run.len()));
            let entry = on!(target, |fd| opcode::Send::new(fd, start, len).flags(flags).build());
            let entry = unasked(entry).user_data(Tag::Send(slot).bits());
            // SAFETY: the run is borrowed until this function returns. It returns when all requests have been
            // submitted, each of which ends inside its submission; else the queue is never submitted again.
            whole = whole && unsafe { self.ring.submission().push(&entry) }.is_ok();
        }
        self.sound = whole && self.enter().is_ok();
        for (slot, result) in self.not_whole.drain(..) {
            tell(slot, result);
        }
    }

    /// Queues a request that names no memory but statics.
    fn push(&mut self, entry: Entry, tag: Tag) {
        if self.ring.submission().is_full() && self.submit().is_err() {
            // The next wait says so.
            return;
        }
        // SAFETY: nothing that the request names can go.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(tag.bits())) };
        pushed.expect("a queue that was submitted is empty");
    }

    /// Queues a request for [`ended`](Self::ended), which must be called before what the request names can go.
    unsafe fn push_now(&mut self, entry: Entry) {
        self.now = None;
        self.push(entry, Tag::Now);
    }

    /// Submits, and says how the last request ended that was pushed for it.
    fn ended(&mut self) -> io::Result<usize> {
        self.submit()?;
        while self.now.is_none() {
            // Not seen where requests end inside the submission, as those do that are made here.
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if may_try_again(&error) => {}
                Err(error) => return Err(self.fail(error)),
            }
            self.take();
        }
        result(self.now.take().expect("it was waited for"))
    }

    /// Submits what is queued, and takes what has completed.
    fn submit(&mut self) -> io::Result<()> {
        self.check()?;
        self.enter().map_err(|error| self.fail(error))
    }

    fn enter(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if may_try_again(&error) => {}
                Err(error) => return Err(error),
            }
            self.take();
            if !self.is_stuck() {
                return Ok(());
            }
        }
    }

    /// Whether requests wait, or completions that the kernel has put aside because they had no room.
    fn is_stuck(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.cq_overflow()
    }

    /// Whether there is a reason to enter the kernel: those, or work that it has left for this thread to run.
    fn has_work(&mut self) -> bool {
        self.is_stuck() || self.ring.submission().taskrun()
    }

    fn check(&self) -> io::Result<()> {
        if self.sound { Ok(()) } else { Err(io::Error::other("the ring has failed")) }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.sound = false;
        error
    }

    /// Takes what has completed from the kernel.
    fn take(&mut self) {
        for entry in self.ring.completion() {
            let (code, more) = (entry.result(), cqueue::more(entry.flags()));
            self.taken.push_back(match Tag::of(entry.user_data()) {
                Tag::Poll(owner) => Completion::Polled { owner, mask: u32::try_from(code).ok(), more },
                Tag::Send(slot) => {
                    self.not_whole.push((slot, result(code)));
                    continue;
                }
                Tag::Receive(number) => {
                    self.received.push((number, result(code)));
                    continue;
                }
                Tag::Accept(listener) => {
                    // SAFETY: the kernel has just made this descriptor, for us.
                    let socket = result(code).map(|_| unsafe { OwnedFd::from_raw_fd(code) });
                    Completion::Accepted { listener, socket, more }
                }
                Tag::Wake => Completion::Woken { more },
                Tag::Now => {
                    self.now = Some(code);
                    continue;
                }
                Tag::Unasked => continue,
            });
        }
    }
}

/// The best ring that this kernel has: Linux 6.1 defers work to when we ask for it, 6.0 trusts one thread to submit.
fn build(lengths: Lengths) -> io::Result<IoUring> {
    let kinds: [fn(&mut Builder) -> &mut Builder; 3] = [
        |builder| builder.setup_single_issuer().setup_defer_taskrun(),
        |builder| builder.setup_single_issuer(),
        |builder| builder,
    ];
    let mut refused = None;
    for kind in kinds {
        let mut builder = IoUring::builder();
        builder
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(lengths.completions);
        match kind(&mut builder).build(lengths.submissions) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
            built => return built,
        }
    }
    Err(refused.expect("there are kinds"))
}

/// Nobody asks how it ends: it completes only if it fails.
fn unasked(entry: Entry) -> Entry {
    entry.flags(Flags::SKIP_SUCCESS)
}

/// Sets the linger time to 0.
fn linger_none(place: u32) -> Entry {
    static NONE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (level, option) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
    opcode::SetSockOpt::new(Fixed(place), level, option, (&raw const NONE).cast(), size_of_val(&NONE) as u32)
        .build()
}

/// What a request can name: more is a short send or receive.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A result as the kernel gives it: a number, or an error's negated.
fn result(code: i32) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::from_raw_os_error(-code))
}

/// Interrupted, or completions have to be taken first, or there is no memory just now.
fn may_try_again(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN))
}
