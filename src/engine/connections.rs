//! A worker's connections: dense arrays, one entry per slot.
//!
//! What every visit of a sweep reads is in [`Hot`], the rest in [`Warm`]; what only some connections have,
//! or have only for a while, is in boxes that come and go. A slot's generation tells its owners apart.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use bytes::BytesMut;
use foldhash::fast::RandomState;
use slab::Slab;

use super::{farewell::Farewell, lanes::NONE, outgoing::Outgoing, streams::Positions};
use crate::{
    broker::ids::{ConnectionId, Tick, WorkerId},
    protocol::{
        http::{BodyReader, Request},
        ws::Reader,
    },
    session::{Session, api::Plan},
};

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nobody's: the slot is free.
    Free,
    /// HTTP: a request head is awaited or has begun.
    Head,
    /// The upgrade is valid; its session's subscriptions are being made.
    Opening,
    /// A WebSocket, or an event stream: see [`Transport`].
    Open,
    /// Our close frame was queued; the client's is awaited.
    Closing,
    /// All is said: what is queued leaves, then the end of the stream, and the peer's end is awaited.
    Finishing,
}

/// What a connection speaks once it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Frames, both ways (RFC 6455).
    WebSocket,
    /// A response that goes on until the connection ends; nothing comes back.
    EventStream,
}

/// Things that are true of a connection for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Flag {
    /// The socket refused bytes; its write event is awaited.
    Blocked = 1,
    /// Something can be received: in the ready list, or will be once the connection may be read.
    Readable = 1 << 1,
    /// In the ready list.
    ListedReady = 1 << 2,
    /// In the flush list.
    ListedFlush = 1 << 3,
    /// Receive until the end: the peer has finished.
    ToEnd = 1 << 4,
    /// A ping was sent since something came.
    AwaitsPong = 1 << 5,
    /// The end of the stream was sent.
    Finished = 1 << 6,
    /// One too many: it is only told so.
    Surplus = 1 << 7,
    /// Its own queue is at its bound: not read until it drains.
    Paused = 1 << 8,
    /// It was called slow.
    Slow = 1 << 9,
    /// The socket refused bytes, and has not taken all that it was given since.
    Stalled = 1 << 10,
    /// A send of it was queued and its outcome is not known.
    InFlight = 1 << 11,
    /// It subscribes to more than one topic, or its stream did when it began: what it gets is gathered.
    Several = 1 << 12,
    /// In the list of those that something is gathered for.
    ListedGathered = 1 << 13,
    /// It last sent more than a piece of a receive together holds.
    SendsMuch = 1 << 14,
    /// Its ping was queued, and the worker has not come round to sending it.
    PingWaits = 1 << 15,
}

/// What a visit reads: 16 bytes.
#[derive(Debug)]
pub struct Hot {
    /// What waits for this connection alone.
    pub outgoing: Option<Box<Outgoing>>,
    generation: u32,
    flags: u16,
    /// Where it stands.
    pub phase: Phase,
    /// What it speaks. Only meaningful from [`Phase::Opening`] on.
    pub transport: Transport,
}

impl Hot {
    /// Whether the flag is set.
    pub fn is(&self, flag: Flag) -> bool {
        self.flags & flag as u16 != 0
    }

    /// Whether a visit must look closer: something of its own waits, its socket refused bytes and has not taken all it
    /// was given since, a send is in flight, or it has several topics.
    #[inline]
    pub fn is_special(&self) -> bool {
        const FLAGS: u16 =
            Flag::Blocked as u16 | Flag::Stalled as u16 | Flag::InFlight as u16 | Flag::Several as u16;
        self.flags & FLAGS != 0 || self.outgoing.is_some()
    }

    /// Sets the flag.
    pub fn set(&mut self, flag: Flag) {
        self.flags |= flag as u16;
    }

    /// Clears the flag; true if it was set.
    pub fn clear(&mut self, flag: Flag) -> bool {
        let was = self.is(flag);
        self.flags &= !(flag as u16);
        was
    }
}

/// What is needed when something happens on the connection itself.
pub struct Warm {
    /// The owner; `None` before the upgrade and while the session itself runs.
    pub session: Option<Box<dyn Session>>,
    /// Half a message, if there is one.
    pub reader: Reader,
    /// What few connections have.
    pub extra: Option<Box<Extra>>,
    /// Head of the list of its subscriptions, or [`NONE`].
    pub first_subscription: u32,
    /// The newest of its subscriptions that are gathered, or [`NONE`].
    pub last_gathered: u32,
    /// Into [`Connections::peers`].
    pub peer: u32,
    /// When bytes last came; before the upgrade, when the head's time began.
    pub received_at: Tick,
    /// When a message last came.
    pub message_at: Tick,
    /// When the last ping was sent.
    pub pinged_at: Tick,
    /// When the message, or the request body, that is under way began. Only meaningful while one is.
    pub began_at: Tick,
    /// When the socket last took bytes; only meaningful while it is blocked or closing.
    pub progress_at: Tick,
}

/// What few connections have, or only for a while.
#[derive(Default)]
pub struct Extra {
    /// A request head that is not whole yet, or requests whose turn has not come.
    pub head: BytesMut,
    /// A request whose body is not whole yet.
    pub collecting: Option<Box<Collecting>>,
    /// A call of the server API that is being carried out.
    pub calling: Option<Box<Calling>>,
    /// Received, and not to be looked at before the connection may be read again.
    pub unread: BytesMut,
    /// Published messages that wait for room or credit.
    pub held: u32,
    /// Subscriptions whose place is not known yet.
    pub pending: u32,
    /// Questions for some of the past that are not answered yet.
    pub asked: u32,
    /// The 101 response that waits for those, and what comes behind it.
    pub response: Outgoing,
    /// When the session's timer comes.
    pub timer: Option<Tick>,
    /// How the connection ends.
    pub farewell: Option<Farewell>,
    /// Where a stream of several topics stands.
    pub positions: Option<Box<Positions>>,
    /// Bytes that came on an event stream, and were for nobody.
    pub ignored: usize,
}

/// A request, and what of its body has come.
#[derive(Debug)]
pub struct Collecting {
    /// The head.
    pub request: Request,
    /// The body.
    pub body: BodyReader,
}

/// A call of the server API, and what is known of its answer.
#[derive(Debug)]
pub struct Calling {
    /// The head of its request.
    pub request: Request,
    /// What is done for it.
    pub plan: Plan,
    /// Bytes of its body, which lives as long, of its messages, and of what its answer has become.
    pub bytes: usize,
    /// In the list of those that can go on.
    pub listed: bool,
    /// Tells its errands from those of the connection's other calls.
    pub serial: u8,
    /// Reports are not waited for any longer than this.
    pub reports_until: Option<Tick>,
}

/// Questions for some of the past that one connection may have under way; with so many it is not read.
const ASKED_MAX: u32 = 16;

impl Extra {
    /// Whether the connection is not read before something of it is taken, or answered.
    pub fn holds(&self) -> bool {
        self.held > 0 || self.asked >= ASKED_MAX || self.calling.is_some()
    }

    fn is_default(&self) -> bool {
        self.head.is_empty()
            && self.collecting.is_none()
            && self.calling.is_none()
            && self.unread.is_empty()
            && self.held == 0
            && self.pending == 0
            && self.asked == 0
            && self.response.is_empty()
            && self.timer.is_none()
            && self.farewell.is_none()
            && self.positions.is_none()
            && self.ignored == 0
    }
}

/// An address and how many of this worker's connections come from it.
#[derive(Debug)]
pub struct Peer {
    /// The address.
    pub address: IpAddr,
    connections: u32,
}

/// See the head of this file.
pub struct Connections {
    worker: WorkerId,
    hot: Vec<Hot>,
    warm: Vec<Warm>,
    free: Vec<u32>,
    len: usize,
    peers: Slab<Peer>,
    peer_of: HashMap<IpAddr, u32, RandomState>,
}

impl Connections {
    /// None yet, on `worker`.
    pub fn new(worker: WorkerId) -> Connections {
        Connections {
            worker,
            hot: Vec::new(),
            warm: Vec::new(),
            free: Vec::new(),
            len: 0,
            peers: Slab::new(),
            peer_of: HashMap::default(),
        }
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Slots that are or were in use: all connections are below.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.hot.len()).expect("slots are u32")
    }

    /// Takes a slot for a new connection.
    pub fn insert(&mut self, address: SocketAddr, now: Tick) -> u32 {
        let peer = self.peer(address.ip());
        let warm = Warm {
            session: None,
            reader: Reader::default(),
            extra: None,
            first_subscription: NONE,
            last_gathered: NONE,
            peer,
            received_at: now,
            message_at: now,
            pinged_at: now,
            began_at: now,
            progress_at: now,
        };
        self.len += 1;
        match self.free.pop() {
            Some(slot) => {
                let hot = &mut self.hot[slot as usize];
                hot.phase = Phase::Head;
                hot.transport = Transport::WebSocket;
                hot.flags = 0;
                self.warm[slot as usize] = warm;
                slot
            }
            None => {
                self.hot.push(Hot {
                    outgoing: None,
                    flags: 0,
                    generation: 0,
                    phase: Phase::Head,
                    transport: Transport::WebSocket,
                });
                self.warm.push(warm);
                self.slots() - 1
            }
        }
    }

    /// Frees a slot; gives the address that the connection came from.
    pub fn remove(&mut self, slot: u32) -> IpAddr {
        let hot = &mut self.hot[slot as usize];
        hot.phase = Phase::Free;
        hot.flags = 0;
        hot.generation = hot.generation.wrapping_add(1);
        hot.outgoing = None;
        let warm = &mut self.warm[slot as usize];
        warm.session = None;
        warm.reader = Reader::default();
        warm.extra = None;
        let key = warm.peer;
        self.free.push(slot);
        self.len -= 1;
        let peer = &mut self.peers[key as usize];
        let address = peer.address;
        peer.connections -= 1;
        if peer.connections == 0 {
            self.peers.remove(key as usize);
            self.peer_of.remove(&address);
        }
        address
    }

    /// What a visit reads.
    pub fn hot(&mut self, slot: u32) -> &mut Hot {
        &mut self.hot[slot as usize]
    }

    /// The rest.
    pub fn warm(&mut self, slot: u32) -> &mut Warm {
        &mut self.warm[slot as usize]
    }

    /// Where a connection stands.
    pub fn phase(&self, slot: u32) -> Phase {
        self.hot.get(slot as usize).map_or(Phase::Free, |hot| hot.phase)
    }

    /// What a connection speaks.
    pub fn transport(&self, slot: u32) -> Transport {
        self.hot[slot as usize].transport
    }

    /// Where a stream of several topics stands; `None` for all other connections.
    pub fn positions(&mut self, slot: u32) -> Option<&mut Box<Positions>> {
        self.warm[slot as usize].extra.as_mut()?.positions.as_mut()
    }

    /// The box for what few connections have; made if need be.
    pub fn extra(&mut self, slot: u32) -> &mut Extra {
        self.warm[slot as usize].extra.get_or_insert_default()
    }

    /// The same without what others are sent as well.
    pub fn own_len(&self, slot: u32) -> usize {
        self.hot[slot as usize].outgoing.as_ref().map_or(0, |outgoing| outgoing.own_len())
    }

    /// Bytes that wait for this connection outside of logs.
    pub fn outgoing_len(&self, slot: u32) -> usize {
        self.hot[slot as usize].outgoing.as_ref().map_or(0, |outgoing| outgoing.len())
    }

    /// The same, where they lie in one piece; empty if they do not.
    pub fn only_run(&self, slot: u32) -> &[u8] {
        self.hot[slot as usize].outgoing.as_ref().and_then(|outgoing| outgoing.only_run()).unwrap_or_default()
    }

    /// Head of the list of the connection's subscriptions.
    pub fn first_subscription(&self, slot: u32) -> u32 {
        self.warm[slot as usize].first_subscription
    }

    /// Lets go of the box if nothing is in it.
    pub fn tidy(&mut self, slot: u32) {
        let extra = &mut self.warm[slot as usize].extra;
        if extra.as_ref().is_some_and(|extra| extra.is_default()) {
            *extra = None;
        }
    }

    /// The name by which any worker can name this connection.
    pub fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId { worker: self.worker, generation: self.hot[slot as usize].generation, slot }
    }

    /// Whether the connection of that name still lives.
    pub fn is_current(&self, id: ConnectionId) -> bool {
        id.worker == self.worker
            && self
                .hot
                .get(id.slot as usize)
                .is_some_and(|hot| hot.generation == id.generation && hot.phase != Phase::Free)
    }

    /// The address that a connection came from.
    pub fn address(&self, slot: u32) -> IpAddr {
        self.peers[self.warm[slot as usize].peer as usize].address
    }

    fn peer(&mut self, address: IpAddr) -> u32 {
        let key = *self.peer_of.entry(address).or_insert_with(|| {
            let key = self.peers.insert(Peer { address, connections: 0 });
            u32::try_from(key).expect("no more peers than slots")
        });
        self.peers[key as usize].connections += 1;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn sizes_are_as_planned() {
        assert_eq!(size_of::<Hot>(), 16);
        assert_eq!(size_of::<Warm>(), 64);
    }

    #[test]
    fn a_slots_next_owner_has_another_name() {
        let mut connections = Connections::new(WorkerId(3));
        let slot = connections.insert(address(1), Tick(0));
        let first = connections.id(slot);
        assert!(connections.is_current(first));
        assert_eq!(connections.remove(slot), address(1).ip());
        assert!(!connections.is_current(first));
        assert_eq!(connections.insert(address(2), Tick(0)), slot);
        assert!(!connections.is_current(first) && connections.is_current(connections.id(slot)));
    }

    #[test]
    fn connections_of_one_address_share_its_entry() {
        let mut connections = Connections::new(WorkerId(0));
        let slots = [1, 2, 3].map(|port| connections.insert(address(port), Tick(0)));
        assert_eq!(connections.peers.len(), 1);
        for slot in slots {
            connections.remove(slot);
        }
        assert_eq!((connections.peers.len(), connections.peer_of.len(), connections.len()), (0, 0, 0));
    }
}
