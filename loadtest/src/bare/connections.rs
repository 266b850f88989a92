//! The sockets: accepting, the upgrade, reading what publishers send, and noticing who has gone.
//!
//! Every connection is registered once, edge-triggered, for both directions, under its slot. Subscribers' sockets
//! belong to the topic. Publishers are not read from an event but from a list of those that may have more, once in
//! each turn of the loop: so no publisher is read while the log is full, and none holds up the others.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::frames::Frames;
use super::log::Log;
use super::topic::Topic;
use super::upgrade::{self, Request, Role};
use crate::failure::Failure;

/// Connections that may wait to be accepted: a storm of them must not cost retries.
const BACKLOG: i32 = 4096;

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 256;

/// Bytes read from a connection at once.
const READ_BYTES: usize = 256 * 1024;

/// Where the listener's events go.
const LISTENER: u64 = u64::MAX;

/// All connections.
pub(super) struct Connections {
    listener: Socket,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    open: Slab<Connection>,
    /// Publishers that may have bytes to read.
    unread: Vec<usize>,
    buffer: Vec<u8>,
}

/// One connection, by how far it has come.
enum Connection {
    Upgrading { socket: OwnedFd, head: Vec<u8> },
    Publisher { socket: OwnedFd, frames: Frames, unread: bool },
    Subscriber { position: u32, frames: Frames },
}

/// What a wait brought.
pub(super) struct Seen {
    /// How many events.
    pub(super) events: usize,
    /// A subscriber's socket takes bytes.
    pub(super) writable: bool,
}

/// What reading brought.
enum Read {
    /// That many bytes; `more` if there may be more.
    Bytes { len: usize, more: bool },
    /// Nothing now.
    Nothing,
    /// The connection is over.
    End,
}

impl Connections {
    /// Listens on `address`. TCP_NODELAY is set on the listener: accepted sockets inherit it.
    pub(super) fn listen(address: SocketAddr) -> Result<Self, Failure> {
        let listen = || {
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            listener.set_reuse_address(true)?;
            listener.set_tcp_nodelay(true)?;
            listener.set_nonblocking(true)?;
            listener.bind(&address.into())?;
            listener.listen(BACKLOG)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
            Ok((listener, epoll))
        };
        let (listener, epoll) = listen().map_err(Failure::system(format!(
            "--listen {address}: cannot listen there: choose an address of this machine and a free port"
        )))?;
        Ok(Self {
            listener,
            epoll,
            events: Vec::with_capacity(1024),
            open: Slab::new(),
            unread: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    pub(super) fn address(&self) -> Result<SocketAddr, Failure> {
        let address = self.listener.local_addr().map_err(Failure::system("getsockname"))?;
        Ok(address.as_socket().expect("the listener was bound to an internet address"))
    }

    /// Some publisher may be read at once.
    pub(super) fn has_unread(&self, log: &Log) -> bool {
        !self.unread.is_empty() && !log.is_full()
    }

    /// A subscriber has got another place.
    pub(super) fn moved(&mut self, slot: u32, to: u32) {
        match &mut self.open[slot as usize] {
            Connection::Subscriber { position, .. } => *position = to,
            _ => unreachable!("only subscribers have places"),
        }
    }

    /// Waits for events, without bound if `timeout` is `None`, and does what they call for, save reading publishers.
    pub(super) fn poll(&mut self, topic: &mut Topic, timeout: Option<Duration>) -> Result<Seen, Failure> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::system("epoll_wait")(error.into())),
        }
        let mut seen = Seen { events: events.len(), writable: false };
        for event in &events {
            let (flags, data) = (event.flags, event.data.u64());
            if data == LISTENER {
                self.accept()?;
            } else {
                seen.writable |= flags.contains(EventFlags::OUT);
                if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
                    self.readable(data as usize, topic)?;
                }
            }
        }
        self.events = events;
        Ok(seen)
    }

    fn accept(&mut self) -> Result<(), Failure> {
        for _ in 0..ACCEPTS_MAX {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                // It was reset before it was accepted.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => continue,
                Err(error) => {
                    let what = format!(
                        "cannot accept more than {} connections: ask for fewer, or raise the limit on open files \
                         (`ulimit -Hn`)",
                        self.open.len()
                    );
                    return Err(Failure::system(what)(error.into()));
                }
            };
            let entry = self.open.vacant_entry();
            let data = EventData::new_u64(entry.key() as u64);
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &socket, data, flags)
                .map_err(|error| Failure::system("cannot watch a connection")(error.into()))?;
            entry.insert(Connection::Upgrading { socket, head: Vec::new() });
        }
        Ok(())
    }

    /// An event for a slot, perhaps a late one for a connection that has ended.
    fn readable(&mut self, slot: usize, topic: &mut Topic) -> Result<(), Failure> {
        match self.open.get_mut(slot) {
            None => Ok(()),
            Some(Connection::Upgrading { .. }) => self.read_head(slot, topic),
            Some(Connection::Publisher { unread, .. }) => {
                if !mem::replace(unread, true) {
                    self.unread.push(slot);
                }
                Ok(())
            }
            Some(Connection::Subscriber { .. }) => self.read_subscriber(slot, topic),
        }
    }

    fn read_head(&mut self, slot: usize, topic: &mut Topic) -> Result<(), Failure> {
        while let Some(Connection::Upgrading { socket, head }) = self.open.get_mut(slot) {
            let more = match read(socket, &mut self.buffer) {
                Read::Bytes { len, more } => {
                    head.extend_from_slice(&self.buffer[..len]);
                    more
                }
                Read::Nothing => return Ok(()),
                Read::End => return self.end(slot, topic),
            };
            match upgrade::parse(head) {
                Request::Incomplete if more => {}
                Request::Incomplete => return Ok(()),
                Request::Upgrade { head_bytes, role, response } => {
                    let rest = head.split_off(head_bytes);
                    if !sent_whole(socket, response.as_bytes()) {
                        return self.end(slot, topic);
                    }
                    return self.upgraded(slot, role, &rest, more, topic);
                }
                Request::Invalid => {
                    sent_whole(socket, upgrade::REFUSAL);
                    return self.end(slot, topic);
                }
            }
        }
        Ok(())
    }

    /// The answer has gone out; `rest` came behind the request, and more may have.
    fn upgraded(
        &mut self,
        slot: usize,
        role: Role,
        rest: &[u8],
        more: bool,
        topic: &mut Topic,
    ) -> Result<(), Failure> {
        let Connection::Upgrading { socket, .. } = self.open.remove(slot) else {
            unreachable!("only connections that are being upgraded have been")
        };
        let mut frames = Frames::default();
        let fed = match role {
            Role::Publisher => frames.feed(rest, |frame| topic.log.append(frame)),
            Role::Subscriber => frames.feed(rest, |_| {}),
        };
        if fed.is_err() {
            return Ok(());
        }
        let connection = match role {
            Role::Publisher => {
                if more {
                    self.unread.push(slot);
                }
                Connection::Publisher { socket, frames, unread: more }
            }
            Role::Subscriber => Connection::Subscriber { position: topic.join(slot as u32, socket)?, frames },
        };
        let same = self.open.insert(connection);
        assert_eq!(same, slot, "the slot that was vacated last is filled first");
        if more && role == Role::Subscriber { self.read_subscriber(slot, topic) } else { Ok(()) }
    }

    /// Reads each publisher that may have more, once, into the log; none beyond its being full.
    pub(super) fn read_publishers(&mut self, topic: &mut Topic) -> Result<(), Failure> {
        if self.unread.is_empty() {
            return Ok(());
        }
        let mut slots = mem::take(&mut self.unread);
        for slot in slots.drain(..) {
            // The slot may have become another's.
            let Some(Connection::Publisher { socket, frames, unread }) = self.open.get_mut(slot) else {
                continue;
            };
            if topic.log.is_full() {
                self.unread.push(slot);
                continue;
            }
            match read(socket, &mut self.buffer) {
                Read::Bytes { len, more } => {
                    *unread = more;
                    if frames.feed(&self.buffer[..len], |frame| topic.log.append(frame)).is_err() {
                        self.end(slot, topic)?;
                    } else if more {
                        self.unread.push(slot);
                    }
                }
                Read::Nothing => *unread = false,
                Read::End => self.end(slot, topic)?,
            }
        }
        if self.unread.is_empty() {
            // Its capacity serves the next turn.
            self.unread = slots;
        }
        Ok(())
    }

    /// Reads what a subscriber says, only to learn of its end.
    fn read_subscriber(&mut self, slot: usize, topic: &mut Topic) -> Result<(), Failure> {
        while let Some(Connection::Subscriber { position, frames }) = self.open.get_mut(slot) {
            let received = match &topic.subscribers.sockets[*position as usize] {
                Some(socket) => read(socket, &mut self.buffer),
                None => {
                    let result = topic.sender.receive(slot as u32, &mut self.buffer)?;
                    Read::of(result, self.buffer.len())
                }
            };
            match received {
                Read::Bytes { len, more } => {
                    if frames.feed(&self.buffer[..len], |_| {}).is_err() {
                        return self.end(slot, topic);
                    }
                    if !more {
                        return Ok(());
                    }
                }
                Read::Nothing => return Ok(()),
                Read::End => return self.end(slot, topic),
            }
        }
        Ok(())
    }

    /// Lets a connection go: its socket is closed, and with that it leaves the epoll.
    fn end(&mut self, slot: usize, topic: &mut Topic) -> Result<(), Failure> {
        match self.open.remove(slot) {
            Connection::Subscriber { position, .. } => topic.leave(slot as u32, position),
            Connection::Upgrading { .. } | Connection::Publisher { .. } => Ok(()),
        }
    }
}

impl Read {
    /// What a call with room for `room` bytes brought. If it did not fill the room, the socket is empty: the next
    /// byte makes a new edge (epoll(7)). The end makes an edge of its own.
    fn of(result: Result<usize, Errno>, room: usize) -> Self {
        match result {
            Ok(0) => Self::End,
            Ok(len) => Self::Bytes { len, more: len == room },
            Err(Errno::AGAIN | Errno::INTR) => Self::Nothing,
            Err(_) => Self::End,
        }
    }
}

fn read(socket: &OwnedFd, buffer: &mut [u8]) -> Read {
    let room = buffer.len();
    Read::of(rustix::io::read(socket, buffer), room)
}

/// Sends to a socket to which hardly anything was sent before, so that all of it fits.
fn sent_whole(socket: &OwnedFd, bytes: &[u8]) -> bool {
    send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) == Ok(bytes.len())
}
