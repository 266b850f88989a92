//! A driver in memory: sockets whose other ends a test holds, a clock that a test moves, and faults that
//! come from one seed.
//!
//! A [`Net`] is what all workers' drivers and all clients of a world share. It runs on one thread. What it
//! does to bytes is what a kernel and a network may do: they arrive in pieces and late, a send is taken in
//! part, an event comes later or for nothing, an accept fails, a reset throws away what was not read yet.
//! It keeps the contract that the engine relies on: a send that was not taken whole is followed by an event
//! once there is room, and arriving bytes by an event each time.
//!
//! Both kinds of driver can be played ([`Personality`]). A worker that would have to wait gets
//! [`io::ErrorKind::WouldBlock`] from [`Driver::wait`], and whoever moves the clock calls it again when
//! something has happened or its time has come ([`Net::asleep`]).

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Driver, End, Event, Received, Sent, Wake};

/// When the sends of a slice go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Personality {
    /// At once, as with epoll.
    Readiness,
    /// Together, at the submit, as with io_uring.
    Completion,
}

/// A connection's index in its net.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SocketId(pub usize);

/// How often things go wrong, in 1/256. All zero: never.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Weather {
    /// A send is taken in part although there is room.
    pub short_send: u8,
    /// Bytes arrive in pieces, at several waits.
    pub pieces: u8,
    /// An event is reported at a later wait.
    pub late_event: u8,
    /// An event is reported though nothing has happened.
    pub false_event: u8,
    /// An accept fails.
    pub accept_fails: u8,
    /// An accepted socket can't be registered.
    pub add_fails: u8,
}

/// What a socket's buffers hold at most, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffers {
    /// From the server, until the client reads.
    pub to_client: usize,
    /// To the server, until the server receives.
    pub to_server: usize,
}

/// How a socket's stream ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// In order: all that was sent can be read.
    Finished,
    /// By a reset.
    Reset,
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `bound` (≥ 1).
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).expect("below a usize")
    }

    /// True in `chance` of 256 cases. A chance of 0 takes no number.
    pub fn happens(&mut self, chance: u8) -> bool {
        chance > 0 && self.bits() % 256 < u64::from(chance)
    }
}

#[derive(Default)]
struct Socket {
    worker: usize,
    slot: Option<u32>,
    /// Written by the client, not arrived yet, and arrived.
    wire: VecDeque<u8>,
    inbound: VecDeque<u8>,
    /// Sent by the server, not read by the client.
    outbound: VecDeque<u8>,
    to_client_max: usize,
    to_server_max: usize,
    /// Whether what the server sends is counted and thrown away.
    discards: bool,
    /// Bytes that the server has sent.
    sent: u64,
    client_finished: bool,
    /// Has good weather always.
    sheltered: bool,
    /// The client has reset it.
    broken: bool,
    /// A send was not taken whole.
    wants_room: bool,
    ended: Option<Ended>,
    /// In its worker's list of sockets with events.
    listed: bool,
    readable: bool,
    told_end: bool,
}

impl Socket {
    fn room(&self) -> usize {
        if self.discards {
            usize::MAX
        } else {
            self.to_client_max - self.outbound.len().min(self.to_client_max)
        }
    }

    /// As a kernel does, room is reported once a third of the buffer is free.
    fn has_room(&self) -> bool {
        self.room() >= (self.to_client_max / 3).max(1)
    }
}

#[derive(Default)]
struct Desk {
    backlog: VecDeque<(SocketId, SocketAddr)>,
    acceptable: bool,
    listens: bool,
    /// Sockets that may have events.
    events: VecDeque<SocketId>,
    /// Until when it sleeps; `None`: it is awake.
    asleep: Option<Duration>,
    rung: Arc<AtomicBool>,
}

struct State {
    sockets: Vec<Socket>,
    desks: Vec<Desk>,
    now: Duration,
    weather: Weather,
    dice: Dice,
    /// Where bytes lay that were to be sent, if somebody wants to know.
    sends: Option<Vec<(SocketId, usize, usize)>>,
    /// Where the last received bytes were put, likewise.
    receives: Option<Vec<(SocketId, usize, usize)>>,
}

/// See the head of this file.
#[derive(Clone)]
pub struct Net(Rc<RefCell<State>>);

impl Net {
    /// A net for `workers` workers, with good weather.
    pub fn new(workers: usize, seed: u64) -> Net {
        let desk = || Desk { listens: true, ..Desk::default() };
        Net(Rc::new(RefCell::new(State {
            sockets: Vec::new(),
            desks: (0..workers).map(|_| desk()).collect(),
            now: Duration::ZERO,
            weather: Weather::default(),
            dice: Dice::new(seed),
            sends: None,
            receives: None,
        })))
    }

    /// The driver of one worker.
    pub fn driver(&self, worker: usize, personality: Personality) -> Sim {
        Sim {
            net: self.clone(),
            worker,
            personality,
            queued: VecDeque::new(),
            slots: Vec::new(),
            waits: Vec::new(),
        }
    }

    /// From now on things go wrong as often as this.
    pub fn set_weather(&self, weather: Weather) {
        self.0.borrow_mut().weather = weather;
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.0.borrow().now
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.0.borrow_mut().now += by;
    }

    /// Until when a worker sleeps if nothing happens before; `None`: it has work, or something has happened.
    pub fn asleep(&self, worker: usize) -> Option<Duration> {
        let state = self.0.borrow();
        let desk = &state.desks[worker];
        let woken = desk.rung.load(Ordering::Relaxed) || desk.acceptable || !desk.events.is_empty();
        desk.asleep.filter(|&until| !woken && until > state.now)
    }

    /// A client's new connection, which waits to be accepted by `worker`. `None`: it listens no more.
    pub fn connect(&self, worker: usize, address: SocketAddr, buffers: Buffers) -> Option<SocketId> {
        let mut state = self.0.borrow_mut();
        let id = SocketId(state.sockets.len());
        let desk = &mut state.desks[worker];
        if !desk.listens {
            return None;
        }
        desk.backlog.push_back((id, address));
        desk.acceptable = true;
        state.sockets.push(Socket {
            worker,
            to_client_max: buffers.to_client,
            to_server_max: buffers.to_server,
            ..Socket::default()
        });
        Some(id)
    }

    /// What the server sends to this client is counted and thrown away from now on.
    pub fn discard(&self, id: SocketId) {
        self.0.borrow_mut().sockets[id.0].discards = true;
    }

    /// This client has good weather from now on.
    pub fn shelter(&self, id: SocketId) {
        self.0.borrow_mut().sockets[id.0].sheltered = true;
    }

    /// Bytes that the server has sent to this client.
    pub fn sent(&self, id: SocketId) -> u64 {
        self.0.borrow().sockets[id.0].sent
    }

    /// The client writes: gives how many bytes had room.
    pub fn write(&self, id: SocketId, bytes: &[u8]) -> usize {
        let mut state = self.0.borrow_mut();
        let socket = &mut state.sockets[id.0];
        if socket.broken || socket.ended.is_some() || socket.client_finished {
            return bytes.len();
        }
        let room = socket.to_server_max.saturating_sub(socket.wire.len() + socket.inbound.len());
        let taken = bytes.len().min(room);
        socket.wire.extend(&bytes[..taken]);
        state.list(id);
        taken
    }

    /// The client reads up to `most` bytes of what has come.
    pub fn read(&self, id: SocketId, most: usize) -> Vec<u8> {
        let mut state = self.0.borrow_mut();
        let socket = &mut state.sockets[id.0];
        let most = most.min(socket.outbound.len());
        let bytes = socket.outbound.drain(..most).collect();
        if socket.wants_room && socket.has_room() {
            state.list(id);
        }
        bytes
    }

    /// The client's socket takes so many bytes more than it has not read, from now on.
    pub fn resize(&self, id: SocketId, to_client: usize) {
        let mut state = self.0.borrow_mut();
        state.sockets[id.0].to_client_max = to_client;
        state.list(id);
    }

    /// The client sends no more.
    pub fn finish(&self, id: SocketId) {
        let mut state = self.0.borrow_mut();
        state.sockets[id.0].client_finished = true;
        state.list(id);
    }

    /// The client resets the connection.
    pub fn reset(&self, id: SocketId) {
        self.reset_unseen(id);
        self.0.borrow_mut().list(id);
    }

    /// The client resets the connection, and the event has not come yet: the next send or receive finds out.
    pub fn reset_unseen(&self, id: SocketId) {
        let socket = &mut self.0.borrow_mut().sockets[id.0];
        socket.broken = true;
        socket.wire.clear();
    }

    /// How the stream from the server ended, once all before its end was read.
    pub fn ended(&self, id: SocketId) -> Option<Ended> {
        let state = self.0.borrow();
        let socket = &state.sockets[id.0];
        socket.ended.filter(|_| socket.outbound.is_empty())
    }

    /// Whether the server has let go of the socket.
    pub fn is_gone(&self, id: SocketId) -> bool {
        let state = self.0.borrow();
        let socket = &state.sockets[id.0];
        socket.slot.is_none() && socket.ended.is_some()
    }

    /// Remembers from now on where bytes lie that are sent and received.
    pub fn trace_addresses(&self) {
        let mut state = self.0.borrow_mut();
        (state.sends, state.receives) = (Some(Vec::new()), Some(Vec::new()));
    }

    /// Sends and receives since the trace began: the socket, where the bytes lay, how many they were. Of a
    /// send all that it was given, whatever the socket took.
    #[expect(clippy::type_complexity, reason = "two lists of the same, for tests")]
    pub fn traced(&self) -> (Vec<(SocketId, usize, usize)>, Vec<(SocketId, usize, usize)>) {
        let state = self.0.borrow();
        (state.sends.clone().unwrap_or_default(), state.receives.clone().unwrap_or_default())
    }
}

impl State {
    fn list(&mut self, id: SocketId) {
        let State { sockets, desks, .. } = self;
        let socket = &mut sockets[id.0];
        if socket.slot.is_some() && !std::mem::replace(&mut socket.listed, true) {
            desks[socket.worker].events.push_back(id);
        }
    }

    /// Lets bytes arrive and reports a socket's events. True: it has more to report later.
    fn report(&mut self, id: SocketId, events: &mut Vec<Event>) -> bool {
        let State { sockets, weather, dice, .. } = self;
        let socket = &mut sockets[id.0];
        let Some(slot) = socket.slot else { return false };
        let weather = if socket.sheltered { Weather::default() } else { *weather };
        if dice.happens(weather.late_event) {
            return true;
        }
        if dice.happens(weather.false_event) {
            events.push(if dice.happens(128) { Event::Writable(slot) } else { readable(slot, false) });
        }
        if socket.broken {
            if !std::mem::replace(&mut socket.told_end, true) {
                events.push(Event::Broken(slot));
            }
            return false;
        }
        if !socket.wire.is_empty() {
            let all = socket.wire.len();
            let arriving = if dice.happens(weather.pieces) { 1 + dice.below(all) } else { all };
            if arriving == all {
                socket.inbound.append(&mut socket.wire);
            } else {
                socket.inbound.extend(socket.wire.drain(..arriving));
            }
            socket.readable = true;
        }
        let at_end = socket.client_finished && socket.wire.is_empty();
        if std::mem::take(&mut socket.readable) || (at_end && !socket.told_end) {
            socket.told_end = at_end;
            events.push(readable(slot, at_end));
        }
        if socket.wants_room && socket.has_room() {
            socket.wants_room = false;
            events.push(Event::Writable(slot));
        }
        !socket.wire.is_empty()
    }

    /// Sends `asked` bytes: `parts`, of which a client that discards needs none.
    fn send<'a>(&mut self, id: SocketId, asked: usize, parts: impl Iterator<Item = &'a [u8]>) -> Sent {
        let State { sockets, weather, dice, .. } = self;
        let socket = &mut sockets[id.0];
        let weather = if socket.sheltered { Weather::default() } else { *weather };
        if socket.broken {
            return Sent::Failed;
        }
        let mut room = socket.room();
        if room > 1 && dice.happens(weather.short_send) {
            room = dice.below(room.min(4096));
        }
        let taken = asked.min(room);
        if !socket.discards {
            let mut left = taken;
            for part in parts {
                let bytes = part.len().min(left);
                socket.outbound.extend(&part[..bytes]);
                left -= bytes;
            }
        }
        socket.wants_room |= taken < asked;
        socket.sent += taken as u64;
        let wants_room = socket.wants_room && socket.has_room();
        if wants_room {
            self.list(id);
        }
        if taken == 0 { Sent::Refused } else { Sent::Bytes(taken) }
    }

    /// Remembers where bytes lie that are sent.
    fn trace(&mut self, id: SocketId, part: &[u8]) {
        if let Some(sends) = &mut self.sends {
            sends.push((id, part.as_ptr().addr(), part.len()));
        }
    }
}

fn readable(slot: u32, to_end: bool) -> Event {
    Event::Readable { slot, to_end }
}

/// One worker's driver in a [`Net`].
pub struct Sim {
    net: Net,
    worker: usize,
    personality: Personality,
    /// Slots that wait for the submit.
    queued: VecDeque<u32>,
    slots: Vec<Option<SocketId>>,
    /// Which slots are among the queued: asked at each send, and what a send takes is counted.
    waits: Vec<bool>,
}

impl Sim {
    fn socket(&self, slot: u32) -> Option<SocketId> {
        self.slots.get(slot as usize).copied().flatten()
    }

    fn assert_none_in_flight(&self, slot: u32) {
        assert!(self.waits.get(slot as usize) != Some(&true), "slot {slot} has a send in flight");
    }

    fn send_parts<'a>(&mut self, slot: u32, parts: impl Iterator<Item = &'a [u8]> + Clone) -> Sent {
        self.assert_none_in_flight(slot);
        let Some(id) = self.socket(slot) else { return Sent::Failed };
        let mut state = self.net.0.borrow_mut();
        let asked = parts.clone().map(<[u8]>::len).sum();
        assert!(asked > 0 && parts.clone().all(|part| !part.is_empty()), "a send has bytes");
        parts.clone().for_each(|part| state.trace(id, part));
        state.send(id, asked, parts)
    }
}

impl Driver for Sim {
    type Socket = SocketId;

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let mut state = self.net.0.borrow_mut();
        let now = state.now;
        let desk = &mut state.desks[self.worker];
        let rung = desk.rung.swap(false, Ordering::Relaxed);
        let before = events.len();
        if std::mem::take(&mut desk.acceptable) && desk.listens {
            events.push(Event::Acceptable);
        }
        let listed = desk.events.len();
        let slept = desk.asleep.take();
        for _ in 0..listed {
            let Some(id) = state.desks[self.worker].events.pop_front() else { break };
            if state.report(id, events) {
                state.desks[self.worker].events.push_back(id);
            } else {
                state.sockets[id.0].listed = false;
            }
        }
        let desk = &mut state.desks[self.worker];
        let expired = slept.is_some_and(|until| until <= now);
        if timeout == Some(Duration::ZERO) || events.len() > before || rung || expired {
            return Ok(());
        }
        let until = timeout.map_or(Duration::MAX, |timeout| now + timeout);
        desk.asleep = Some(slept.map_or(until, |slept| slept.min(until)));
        Err(ErrorKind::WouldBlock.into())
    }

    fn now(&self) -> Duration {
        self.net.now()
    }

    fn wake(&self) -> Wake {
        let rung = Arc::clone(&self.net.0.borrow().desks[self.worker].rung);
        Arc::new(move || rung.store(true, Ordering::Relaxed))
    }

    fn accept(&mut self) -> io::Result<Option<(SocketId, SocketAddr)>> {
        let mut state = self.net.0.borrow_mut();
        let State { desks, weather, dice, .. } = &mut *state;
        let desk = &mut desks[self.worker];
        if !desk.backlog.is_empty() && dice.happens(weather.accept_fails) {
            return Err(io::Error::other("too many open files, says the simulation"));
        }
        Ok(desk.backlog.pop_front())
    }

    fn stop_listening(&mut self) {
        let mut state = self.net.0.borrow_mut();
        let desk = &mut state.desks[self.worker];
        desk.listens = false;
        for (id, _) in std::mem::take(&mut desk.backlog) {
            state.sockets[id.0].ended = Some(Ended::Reset);
        }
    }

    fn add(&mut self, slot: u32, socket: SocketId) -> io::Result<()> {
        let mut state = self.net.0.borrow_mut();
        let State { sockets, weather, dice, .. } = &mut *state;
        if dice.happens(weather.add_fails) {
            sockets[socket.0].ended = Some(Ended::Reset);
            return Err(io::Error::other("no memory for another socket, says the simulation"));
        }
        sockets[socket.0].slot = Some(slot);
        sockets[socket.0].worker = self.worker;
        sockets[socket.0].readable = true;
        state.list(socket);
        if slot as usize >= self.slots.len() {
            self.slots.resize(slot as usize + 1, None);
            self.waits.resize(slot as usize + 1, false);
        }
        assert!(self.slots[slot as usize].replace(socket).is_none(), "slot {slot} is in use");
        Ok(())
    }

    fn receive(&mut self, slot: u32, buffer: &mut [u8]) -> Received {
        assert!(!buffer.is_empty(), "a receive has room");
        let Some(id) = self.socket(slot) else { return Received::Failed(ErrorKind::NotConnected) };
        let mut state = self.net.0.borrow_mut();
        let State { sockets, receives, .. } = &mut *state;
        let socket = &mut sockets[id.0];
        if socket.broken {
            return Received::Failed(ErrorKind::ConnectionReset);
        }
        let bytes = buffer.len().min(socket.inbound.len());
        io::Read::read_exact(&mut socket.inbound, &mut buffer[..bytes]).expect("so many are there");
        if let Some(receives) = receives {
            receives.push((id, buffer.as_ptr().addr(), bytes));
        }
        match bytes {
            0 if socket.client_finished && socket.wire.is_empty() => Received::End,
            0 => Received::Empty,
            bytes => Received::Bytes(bytes),
        }
    }

    fn receives_per_call(&self) -> usize {
        match self.personality {
            Personality::Readiness => 1,
            Personality::Completion => 4,
        }
    }

    fn send(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        self.send_parts(slot, std::iter::once(bytes))
    }

    fn send_vectored(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> Sent {
        self.send_parts(slot, parts.iter().map(|part| &**part))
    }

    fn queue(&mut self, slot: u32, bytes: &[u8]) -> Sent {
        match self.personality {
            Personality::Readiness => self.send(slot, bytes),
            Personality::Completion => {
                self.assert_none_in_flight(slot);
                self.waits[slot as usize] = true;
                self.queued.push_back(slot);
                Sent::Queued
            }
        }
    }

    fn submit<'a>(&mut self, runs: impl Iterator<Item = (u32, &'a [u8])>, outcomes: &mut Vec<(u32, Sent)>) {
        for (slot, run) in runs {
            assert_eq!(self.queued.pop_front(), Some(slot), "what was queued is submitted, in order");
            self.waits[slot as usize] = false;
            let sent = self.send(slot, run);
            if sent != Sent::Bytes(run.len()) {
                outcomes.push((slot, sent));
            }
        }
        assert!(self.queued.is_empty(), "all that was queued is submitted");
    }

    fn finish(&mut self, slot: u32) {
        let Some(id) = self.socket(slot) else { return };
        self.net.0.borrow_mut().sockets[id.0].ended = Some(Ended::Finished);
    }

    fn remove(&mut self, slot: u32, end: End) {
        self.assert_none_in_flight(slot);
        let Some(id) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        let mut state = self.net.0.borrow_mut();
        let State { sockets, dice, .. } = &mut *state;
        let socket = &mut sockets[id.0];
        socket.slot = None;
        // As a kernel does: closing a socket with unread bytes resets it.
        let unread = !socket.inbound.is_empty() || !socket.wire.is_empty();
        if end == End::Reset || unread {
            let left = dice.below(socket.outbound.len() + 1);
            socket.outbound.truncate(left);
            socket.ended = Some(Ended::Reset);
        } else {
            socket.ended = Some(Ended::Finished);
        }
    }
}
