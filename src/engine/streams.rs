//! Event streams (SSE): connections that are sent events until they end, and are heard no more.
//!
//! A stream of one topic gets the units of its log as they are: each has its id. With several topics an id names what
//! the client has had of *all* of them, which no bytes that others get as well can say. So the units of such a log end
//! before the id ([`OpenEvent`](crate::session::dialect::Encoding)), and here each gets its own behind it. An event counts with the blank
//! line that ends its id: whatever a client has of one that is cut counts for nothing.
//!
//! ```text
//!   lane a   ──unit──┐                  ┌──── own queue: the rest of an event that was cut
//!   lane b   ──unit──┼─▶ unit, id, unit, id …        (one send)
//!   replays  ──unit──┘ first, some at a time
//! ```

use std::{collections::VecDeque, io::IoSlice, ops::Range};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    connections::Flag,
    driver::{Driver, End, Sent},
    farewell::Why,
    lanes::{Lanes, NONE, low},
    outgoing::Outgoing,
    sweep::{VISIT_BYTES, VISIT_RUNS},
    worker::Worker,
};
use crate::{
    broker::{
        encoding::Encoding,
        home::Run,
        ids::{Epoch, Mark, Offset, Position},
        lane::Seat,
    },
    protocol::ws::CloseCode,
    session::dialect::{self, Since, sse},
};

/// Events of one send at most.
const EVENTS_MAX: usize = 128;

/// A unit up to this length is copied together with its id; a longer one is sent from where it lies.
const COPIED_BYTES: usize = 1024;

/// So much of the replays is given ids at once, and the event that reaches this: a client that takes little keeps little
/// alive that is its own.
const REPLAY_BYTES: usize = 16 * 1024;

/// What a client may send behind its request, for nobody, before its stream ends.
const IGNORED_BYTES_MAX: usize = 16 * 1024;

/// Where a stream of several topics stands: what it was sent of each.
#[derive(Debug, Default)]
pub struct Positions {
    /// In the order of the request.
    places: Vec<Place>,
    /// What of the past is still to be sent, before all that is new.
    replays: VecDeque<Replaying>,
    /// Lanes whose topics welcome the client, once it is told where all of them begin.
    welcomes: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    /// [`NONE`] once it has ended: the place stays in the ids.
    subscription: u32,
    since: Since,
    /// What it was made to skip while the past was still leaving: it is told behind that.
    skipped: u32,
}

#[derive(Debug)]
struct Replaying {
    /// Into the places.
    place: usize,
    run: Run,
}

impl Positions {
    /// Whether units of this encoding lack the id that each stream adds itself.
    pub fn are_needed_for(encoding: Encoding) -> bool {
        encoding == Encoding::from(dialect::Encoding::OpenEvent)
    }

    /// A further topic. Where it begins is not known yet.
    pub fn add(&mut self, subscription: u32) {
        let since = Since { epoch: Epoch(0), offset: Offset(0) };
        self.places.push(Place { subscription, since, skipped: 0 });
    }

    /// A topic's beginning: behind a message, with these of the past, and a lane's welcome.
    pub fn begin(&mut self, subscription: u32, since: Since, runs: Vec<Run>, welcome: Option<u32>) {
        let Some(place) = self.place(subscription) else { return };
        self.places[place].since = since;
        self.welcomes.extend(welcome);
        self.replays.extend(runs.into_iter().map(|run| Replaying { place, run }));
    }

    /// A subscription has ended.
    pub fn end(&mut self, subscription: u32) {
        let Some(place) = self.place(subscription) else { return };
        (self.places[place].subscription, self.places[place].skipped) = (NONE, 0);
        self.replays.retain(|replaying| replaying.place != place);
    }

    /// Whether some of the past is still to be sent.
    pub fn replays(&self) -> bool {
        !self.replays.is_empty()
    }

    /// A subscription was made to skip so many messages. False: that can be told at once.
    pub fn skip(&mut self, subscription: u32, messages: u32) -> bool {
        let waits = self.replays();
        if let Some(place) = self.place(subscription).filter(|_| waits) {
            self.places[place].skipped = self.places[place].skipped.saturating_add(messages);
        }
        waits
    }

    /// What was skipped, and is to be told now.
    fn take_skipped(&mut self) -> SmallVec<[(u32, u32); 4]> {
        let skipped = self.places.iter_mut().filter(|place| place.skipped > 0);
        skipped.map(|place| (place.subscription, std::mem::take(&mut place.skipped))).collect()
    }

    fn place(&self, subscription: u32) -> Option<usize> {
        self.places.iter().position(|place| place.subscription == subscription)
    }

    /// The client is about to have a further message of a topic. Gives the one that it had before.
    fn pass(&mut self, place: usize, to: Offset) -> Offset {
        std::mem::replace(&mut self.places[place].since.offset, to)
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        sse::write_id(self.places.iter().map(|place| place.since), out);
    }

    /// The next event of the replays: its unit, and its id.
    fn next_replayed(&mut self, id: &mut Vec<u8>) -> Option<Bytes> {
        loop {
            let Replaying { place, run } = self.replays.front_mut()?;
            let place = *place;
            if let Some((offset, unit)) = run.next() {
                if unit.is_empty() {
                    // Left out of the history: the topic's next id is behind it.
                    continue;
                }
                self.pass(place, offset);
                id.clear();
                self.write_id(id);
                return Some(unit);
            }
            self.replays.pop_front();
            if self.replays.is_empty() {
                self.replays = VecDeque::new();
            }
        }
    }
}

/// One topic's part of a send.
struct Share {
    /// Into the positions.
    place: usize,
    lane: u32,
    subscription: u32,
    seat: Seat,
    from: Mark,
    /// Where the head is, or what the subscription must not get.
    until: Position,
}

/// An event of a send.
struct Event {
    /// Into the shares.
    share: usize,
    /// What the client had of the topic before.
    before: Offset,
    /// Where its unit ends.
    end: Mark,
    unit_len: usize,
    /// Its id, in the scratch buffer.
    id: Range<usize>,
}

impl Event {
    fn len(&self) -> usize {
        self.unit_len + self.id.len()
    }
}

type Events = SmallVec<[Event; EVENTS_MAX]>;
type Units<'a> = SmallVec<[(usize, &'a [u8]); VISIT_RUNS]>;

/// Puts a send together, as much as one may take: the events with their ids, as if all of them left. Short units and ids are
/// copied; the others are given with the number of copied bytes before each.
fn compose<'a>(
    lanes: &'a Lanes,
    shares: &[Share],
    positions: &mut Positions,
    scratch: &mut Vec<u8>,
) -> (Events, Units<'a>) {
    let (mut events, mut units, mut bytes) = (Events::new(), Units::new(), 0);
    for (at, share) in shares.iter().enumerate() {
        let (place, mut end) = (share.place, share.from);
        for (offset, _, unit) in lanes.view(share.lane).units(share.from) {
            if end.position >= share.until {
                break;
            }
            if events.len() == EVENTS_MAX || units.len() == VISIT_RUNS || bytes >= VISIT_BYTES {
                return (events, units);
            }
            end = Mark { position: end.position.advanced(unit.len()), offset };
            if unit.len() > COPIED_BYTES {
                units.push((scratch.len(), unit));
            } else {
                scratch.extend_from_slice(unit);
            }
            let before = positions.pass(place, offset);
            let id_start = scratch.len();
            positions.write_id(scratch);
            let event = Event { share: at, before, end, unit_len: unit.len(), id: id_start..scratch.len() };
            bytes += event.len();
            events.push(event);
        }
    }
    (events, units)
}

/// What a send consists of: bytes that were copied, and units that lie between them, each with the number of copied
/// bytes before it.
fn slices<'a>(copied: &'a [u8], units: &[(usize, &'a [u8])]) -> SmallVec<[IoSlice<'a>; 2 * VISIT_RUNS + 1]> {
    let mut slices = SmallVec::new();
    let mut from = 0;
    for &(to, unit) in units {
        if from < to {
            slices.push(IoSlice::new(&copied[from..to]));
        }
        slices.push(IoSlice::new(unit));
        from = to;
    }
    if from < copied.len() {
        slices.push(IoSlice::new(&copied[from..]));
    }
    slices
}

impl<D: Driver> Worker<D> {
    /// One send of what a stream of several topics has gathered, each event with its id. What does not fit stays gathered.
    /// The connection's own queue, and with it all of its replays, has left.
    pub(super) fn send_events(&mut self, slot: u32) {
        let Some(mut positions) = self.take_positions(slot) else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let shares = self.event_shares(slot, &positions);
        let (events, units) = compose(&self.lanes, &shares, &mut positions, &mut scratch);
        let asked = events.iter().map(Event::len).sum();
        let sent = match &slices(&scratch, &units)[..] {
            [] => Sent::Bytes(0),
            [one] => self.driver.send(slot, one),
            several => self.driver.send_vectored(slot, several),
        };
        drop(units);
        let taken = match sent {
            Sent::Bytes(bytes) => bytes,
            Sent::Refused | Sent::Queued => 0,
            Sent::Failed => {
                (self.scratch, self.connections.extra(slot).positions) = (scratch, Some(positions));
                self.end(slot, End::Reset, Why::Reset);
                return;
            }
        };
        if asked > 0 {
            self.count_send(taken, asked);
        }
        let passed = self.settle_events(slot, &shares, &events, &scratch, taken);
        for event in events[passed..].iter().rev() {
            positions.pass(shares[event.share].place, event.before);
        }
        (self.scratch, self.connections.extra(slot).positions) = (scratch, Some(positions));
        if taken < asked {
            self.block(slot, taken > 0);
            self.demote_gathered(slot);
        } else {
            self.connections.hot(slot).clear(Flag::Stalled);
            self.list_if_gathered(slot);
        }
    }

    fn take_positions(&mut self, slot: u32) -> Option<Box<Positions>> {
        self.connections.warm(slot).extra.as_mut()?.positions.take()
    }

    /// Whose turn it is.
    fn event_shares(&mut self, slot: u32, positions: &Positions) -> SmallVec<[Share; VISIT_RUNS]> {
        let (mut shares, mut bytes) = (SmallVec::new(), 0);
        while shares.len() < VISIT_RUNS && bytes < VISIT_BYTES as u64 {
            let last = &mut self.connections.warm(slot).last_gathered;
            let Some((subscription, lane, seat)) = self.lanes.take_gathered(last) else { break };
            if self.lanes.at(lane).is_latest() {
                self.pass_over(lane, seat);
            }
            let until = self.pass_holes(lane, seat);
            let record = self.lanes.at(lane);
            let (position, head) = (record.lane.entry(seat).position, record.lane.view.head());
            let Some(place) = positions.place(subscription).filter(|_| position != head.position) else {
                // Nothing is left, or its session has mixed encodings: what has no place in the ids can't be sent.
                let entry = record.lane.entry_mut(seat);
                (entry.position, entry.offset_low) = (head.position, low(head));
                self.end_lap(lane);
                continue;
            };
            let from = record.lane.view.place(position).unit_start;
            debug_assert_eq!(from.position, position, "a cursor stands between units");
            shares.push(Share { place, lane, subscription, seat, from, until });
            bytes += until.since(position);
        }
        shares
    }

    /// Moves a cursor over the ranges that it stands at and that must not be sent; gives where the next one begins, or the
    /// head.
    fn pass_holes(&mut self, lane: u32, seat: Seat) -> Position {
        let record = self.lanes.at(lane);
        let head = record.lane.view.head().position;
        let entry = *record.lane.entry(seat);
        if !entry.holes {
            return head;
        }
        let holes = self.lanes.holes.entry(entry.subscription).or_default();
        let (mut position, mut messages) = (entry.position, 0);
        while let Some(hole) = holes.front().filter(|hole| hole.from == position) {
            (position, messages) = (hole.to, messages + hole.messages);
            holes.pop_front();
        }
        let next = holes.front().map(|hole| hole.from);
        if next.is_none() {
            self.lanes.holes.remove(&entry.subscription);
        }
        let entry = self.lanes.at(lane).lane.entry_mut(seat);
        entry.position = position;
        entry.offset_low = entry.offset_low.wrapping_add(messages);
        entry.holes = next.is_some();
        self.stats().deliveries_left_out.add(u64::from(messages));
        next.unwrap_or(head)
    }

    /// Moves the cursors by what was taken of a send; gives how many of the events the client has, or is sure to be sent: of
    /// one that was cut the rest, its id included, is queued.
    fn settle_events(
        &mut self,
        slot: u32,
        shares: &[Share],
        events: &[Event],
        scratch: &[u8],
        mut taken: usize,
    ) -> usize {
        let (mut passed, mut deliveries) = (0, 0);
        for event in events {
            if taken == 0 {
                break;
            }
            let Share { lane, seat, .. } = shares[event.share];
            let unit_taken = taken.min(event.unit_len);
            let id_taken = (taken - unit_taken).min(event.id.len());
            taken -= unit_taken + id_taken;
            if unit_taken < event.unit_len {
                let left = event.unit_len - unit_taken;
                self.queue_rest(slot, lane, event.end.position.back(left as u64), event.end.position);
            }
            if id_taken < event.id.len() {
                let rest = &scratch[event.id.clone()][id_taken..];
                self.connections.hot(slot).outgoing.get_or_insert_default().push(rest);
            }
            let entry = self.lanes.at(lane).lane.entry_mut(seat);
            deliveries += u64::from(low(event.end).wrapping_sub(entry.offset_low));
            (entry.position, entry.offset_low) = (event.end.position, low(event.end));
            passed += 1;
        }
        self.stats().deliveries.add(deliveries);
        // Those whose turn has not come are the first of the next send: one busy topic does not keep the others back.
        let begun = events.last().map_or(0, |event| event.share + 1).min(shares.len());
        for share in shares[begun..].iter().chain(&shares[..begun]) {
            self.go_on(slot, share.subscription);
        }
        passed
    }

    /// Sends the welcomes of a stream of several topics that opens.
    pub(super) fn send_welcomes(&mut self, slot: u32) {
        let Some(positions) = self.connections.positions(slot) else { return };
        for lane in std::mem::take(&mut positions.welcomes) {
            self.send_welcome(slot, lane);
        }
    }

    /// What comes next of the replays of a stream whose own queue has run empty: events with their ids. So an empty queue
    /// says that all of the past has left.
    pub(super) fn refill(&mut self, slot: u32) {
        let waits = |positions: &&mut Box<Positions>| {
            positions.replays() || positions.places.iter().any(|place| place.skipped > 0)
        };
        let Some(positions) = self.connections.positions(slot).filter(waits) else { return };
        let mut outgoing = Outgoing::default();
        let mut id = Vec::new();
        while outgoing.len() < REPLAY_BYTES
            && let Some(unit) = positions.next_replayed(&mut id)
        {
            if unit.len() > COPIED_BYTES {
                outgoing.push_shared(unit);
            } else {
                outgoing.push(&unit);
            }
            outgoing.push(&id);
        }
        if !positions.replays() {
            for (subscription, messages) in positions.take_skipped() {
                let lane = self.lanes.subscriptions[subscription as usize].lane;
                outgoing.push(&self.word_of_skipped(lane, messages));
            }
        }
        if !outgoing.is_empty() {
            self.connections.hot(slot).outgoing = Some(Box::new(outgoing));
        }
    }

    /// A client has sent something behind its request. Nobody waits for it; whoever goes on is no client of a stream.
    pub(super) fn ignore(&mut self, slot: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let extra = self.connections.extra(slot);
        extra.ignored += bytes;
        if extra.ignored > IGNORED_BYTES_MAX {
            self.close(slot, CloseCode::POLICY, "an event stream takes no bytes", Why::Protocol);
        }
    }
}
