//! A lane: the subscriptions of one worker that read one log.
//!
//! It has two parts. The *swept* part is a ring: a lap begins where the last one ended, each visit sends up
//! to the head *of that moment*, and when every entry has been visited all of them have what the head was
//! when the lap began: that place is the lane's floor. The part *behind* holds those whose sockets refused
//! bytes. It is not swept, so that stuck readers cost a sweep nothing; who can be written to again comes
//! back into the lap that is under way, at the end of what is still to be visited. So what the server owes
//! is always in the swept part, and what only a client can change is always behind.
//!
//! What a visit does is the engine's; here are the arrays and their order, and nothing else.

use super::{
    ids::{Mark, Position},
    log::View,
};

/// A subscription's cursor and what a visit needs besides. 24 bytes, visited in array order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The next byte to send.
    pub position: Position,
    /// Low bits of the offset of the last message sent whole: counts messages exactly.
    pub offset_low: u32,
    /// The connection's slot on this worker.
    pub connection: u32,
    /// The subscription's index on this worker.
    pub subscription: u32,
    /// Whether ranges must be left out for it.
    pub holes: bool,
    /// Behind, and it has lost its place: it holds nothing of the log and goes on at the head.
    pub lost: bool,
    /// Which of the lane's two rounds it is counted in while it is gathered.
    pub round: u8,
}

/// Which part an entry is in, and where.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Seat {
    /// With the head: swept.
    Swept(u32),
    /// Behind: its socket refused bytes.
    Behind(u32),
}

/// When laps begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Laps {
    /// As soon as the head has moved.
    Free,
    /// The next one as soon as it has; then they are held.
    Next,
    /// Not before that is allowed.
    Held,
}

/// The subscriptions of one worker to one log.
#[derive(Debug)]
pub struct Lane {
    /// The log, as far as this worker knows it.
    pub view: View,
    swept: Vec<Entry>,
    behind: Vec<Entry>,
    /// The entry that is visited next.
    next: usize,
    /// Entries of this lap still to be visited: they lie at `next` and behind it, around the ring.
    remaining: usize,
    /// Entries that were visited and whose bytes are still to leave, in two rounds: laps go on meanwhile, and the floor
    /// rises when all of the older round have left. New ones are counted in round `round`.
    gathered: [usize; 2],
    round: u8,
    laps: Laps,
    /// What the floor will be then, if there is an older round.
    pending: Option<Mark>,
    /// Where the head was when the lap began.
    lap_head: Mark,
    /// The same of the last lap that has ended.
    ended: Mark,
    floor: Mark,
    /// The lowest cursor that came back since the last round began, if it was below the floor …
    returned: Option<Position>,
    /// … and before that.
    returned_before: Option<Position>,
}

/// Which of the two rounds an entry belongs to when it is gathered.
#[derive(Clone, Copy)]
struct Rounds {
    newer: u8,
    /// What the older round is to have, if there is one.
    older_end: Option<Position>,
}

impl Rounds {
    /// Who has not got what the older round is to have belongs to it.
    fn enter(self, entry: &mut Entry) -> usize {
        let is_older = self.older_end.is_some_and(|end| entry.position < end);
        entry.round = if is_older { 1 - self.newer } else { self.newer };
        usize::from(entry.round)
    }
}

impl Lane {
    /// A lane without subscriptions whose log is readable from `head` on.
    pub fn new(head: Mark) -> Lane {
        Lane {
            view: View::new(head),
            swept: Vec::new(),
            behind: Vec::new(),
            next: 0,
            remaining: 0,
            gathered: [0; 2],
            round: 0,
            laps: Laps::Free,
            pending: None,
            lap_head: head,
            ended: head,
            floor: head,
            returned: None,
            returned_before: None,
        }
    }

    /// What all swept subscriptions surely have.
    pub fn floor(&self) -> Mark {
        self.floor
    }

    /// The lowest position that a swept subscription may still have before it.
    pub fn needed(&self) -> Position {
        let returned = self.returned.into_iter().chain(self.returned_before);
        returned.fold(self.floor.position, Position::min)
    }

    /// From now on each lap must be allowed.
    pub fn hold_laps(&mut self) {
        self.laps = Laps::Held;
    }

    /// The next lap may begin, in a lane whose laps are held.
    pub fn allow_lap(&mut self) {
        self.laps = Laps::Next;
    }

    /// Whether the head has moved since the last lap began.
    pub fn has_news(&self) -> bool {
        self.lap_head != self.view.head()
    }

    /// Nobody minds missing what is new but the newest: the floor says that all is done with, while no lap is under way.
    /// False if it said so before.
    pub fn concede(&mut self) -> bool {
        let head = self.view.head();
        debug_assert!(self.remaining == 0 && self.gathered() == 0, "no lap is under way");
        std::mem::replace(&mut self.floor, head) != head
    }

    /// Number of subscriptions.
    pub fn len(&self) -> usize {
        self.swept.len() + self.behind.len()
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.swept.is_empty() && self.behind.is_empty()
    }

    /// The subscriptions in the swept part.
    pub fn swept(&self) -> &[Entry] {
        &self.swept
    }

    /// The subscriptions that are behind.
    pub fn behind(&self) -> &[Entry] {
        &self.behind
    }

    /// The entry at a seat.
    pub fn entry(&self, seat: Seat) -> &Entry {
        match seat {
            Seat::Swept(i) => &self.swept[i as usize],
            Seat::Behind(i) => &self.behind[i as usize],
        }
    }

    /// The entry at a seat that may be gone.
    pub fn get(&self, seat: Seat) -> Option<&Entry> {
        match seat {
            Seat::Swept(i) => self.swept.get(i as usize),
            Seat::Behind(i) => self.behind.get(i as usize),
        }
    }

    /// The entry at a seat, to move its cursor. Its connection and subscription must stay.
    pub fn entry_mut(&mut self, seat: Seat) -> &mut Entry {
        match seat {
            Seat::Swept(i) => &mut self.swept[i as usize],
            Seat::Behind(i) => &mut self.behind[i as usize],
        }
    }

    /// The next seat that this lap visits. `None`: all that were there have everything up to the head, the
    /// ring rests until the head moves, or until a lap is allowed where they are held. A lap that ends raises the floor, at once or when what was gathered has left;
    /// if the head has moved since the lap began, the next lap begins at once.
    pub fn next_visit(&mut self) -> Option<Seat> {
        if self.remaining == 0 {
            self.ended = self.lap_head;
            self.settle_floor();
            let head = self.view.head();
            if self.lap_head == head || (self.laps == Laps::Held && !self.swept.is_empty()) {
                return None;
            }
            if self.laps == Laps::Next {
                self.laps = Laps::Held;
            }
            self.lap_head = head;
            self.remaining = self.swept.len();
            if self.remaining == 0 {
                self.ended = head;
                self.settle_floor();
                return None;
            }
        }
        Some(self.next_seat())
    }

    /// The seat that is visited next, in a lap that is under way.
    pub fn next_seat(&self) -> Seat {
        Seat::Swept(index(self.next))
    }

    /// The entries that this lap visits next, `max` of them at most, as far as they lie in a row; and the log.
    #[inline]
    pub fn stretch(&mut self, max: usize) -> (&mut [Entry], &View) {
        let end = self.swept.len().min(self.next + self.remaining.min(max));
        (&mut self.swept[self.next..end], &self.view)
    }

    /// Raises the floor as far as laps have ended and what was gathered in them has left.
    fn settle_floor(&mut self) {
        let older = 1 - usize::from(self.round);
        if self.gathered[older] > 0 {
            return;
        }
        if let Some(pending) = self.pending.take() {
            self.raise_floor(pending);
            self.returned_before = None;
        }
        if self.gathered[1 - older] == 0 {
            self.raise_floor(self.ended);
            (self.returned, self.returned_before) = (None, None);
        } else {
            // Those that were gathered up to here become the older round.
            self.pending = Some(self.ended);
            self.round = 1 - self.round;
            self.returned_before = self.returned.take();
        }
    }

    /// It may be there already, where it was conceded.
    fn raise_floor(&mut self, floor: Mark) {
        if floor.position > self.floor.position {
            self.floor = floor;
        }
    }

    /// So many entries have been visited, from the one on that [`Lane::next_visit`] named, as far as they lie in a row:
    /// goes on to the one after them.
    pub fn visited(&mut self, entries: usize) {
        self.next += entries;
        if self.next >= self.swept.len() {
            self.next = 0;
        }
        self.remaining -= entries;
    }

    /// What a swept entry gets leaves later, together with what its connection gets of other topics.
    pub fn gather(&mut self, seat: Seat) {
        let rounds = self.rounds();
        let round = rounds.enter(self.entry_mut(seat));
        self.gathered[round] += 1;
    }

    /// Visits the entries that this lap visits next, `max` of them at most, as far as they lie in a row. Of each
    /// that has not got all, `gathers` tells whether it is gathered by this visit; at `None` the visits end. Gives
    /// their number.
    pub fn gather_next(&mut self, max: usize, mut gathers: impl FnMut(&Entry) -> Option<bool>) -> usize {
        let (head, rounds) = (self.view.head().position, self.rounds());
        let end = self.swept.len().min(self.next + self.remaining.min(max));
        let mut visits = 0;
        for entry in &mut self.swept[self.next..end] {
            if entry.position != head {
                let Some(gathers) = gathers(entry) else { break };
                if gathers {
                    self.gathered[rounds.enter(entry)] += 1;
                }
            }
            visits += 1;
        }
        self.visited(visits);
        visits
    }

    fn rounds(&self) -> Rounds {
        Rounds { newer: self.round, older_end: self.pending.map(|pending| pending.position) }
    }

    /// What a gathered entry gets has left, or can't.
    pub fn release_gathered(&mut self, seat: Seat) {
        let round = usize::from(self.entry(seat).round);
        self.gathered[round] -= 1;
    }

    /// Entries that are gathered.
    pub fn gathered(&self) -> usize {
        self.gathered[0] + self.gathered[1]
    }

    /// Whether the floor waits for nobody of the older round.
    pub fn may_rise(&self) -> bool {
        self.gathered[1 - usize::from(self.round)] == 0
    }

    /// Takes in a subscription that has all up to the head, or all that this lap gives.
    pub fn insert_swept(&mut self, entry: Entry) -> Seat {
        // Where the unvisited run reaches the end of the array the newcomer becomes part of it: it is
        // visited once for nothing, and the run stays in one piece.
        if self.remaining > 0 && self.next + self.remaining >= self.swept.len() {
            self.remaining += 1;
        }
        self.swept.push(entry);
        Seat::Swept(index(self.swept.len() - 1))
    }

    /// Takes back a subscription from the part behind: it is visited in this lap, after all others that
    /// still are; where laps are held, only if this one owes it something. `moved` hears of an entry that gets another seat.
    pub fn rejoin(&mut self, entry: Entry, mut moved: impl FnMut(u32, Seat)) -> Seat {
        if self.laps != Laps::Free && entry.position >= self.lap_head.position {
            return self.insert_swept(entry);
        }
        self.returned = Some(self.returned.map_or(entry.position, |lowest| lowest.min(entry.position)));
        let len = self.swept.len();
        self.swept.push(entry);
        self.remaining += 1;
        // The run of the unvisited must stay in one piece: its new end is the newcomer's.
        let run_end = self.next + self.remaining - 1;
        if run_end < len {
            self.swept.swap(run_end, len);
            moved(self.swept[len].subscription, Seat::Swept(index(len)));
            return Seat::Swept(index(run_end));
        }
        // The run wraps around or reaches the end of the array: what is at the end is part of it.
        Seat::Swept(index(len))
    }

    /// Takes in a subscription whose socket refused bytes.
    pub fn insert_behind(&mut self, entry: Entry) -> Seat {
        self.behind.push(entry);
        Seat::Behind(index(self.behind.len() - 1))
    }

    /// Takes out the entry at `seat`, in constant time. `moved` hears of each entry that gets another seat
    /// (its subscription, the seat): at most two.
    ///
    /// A plain swap with the last entry would be wrong in the middle of a lap: an entry not yet visited
    /// could land in the visited part and wait there for the next message. Here the entries still to be
    /// visited stay one run that begins at `next`.
    pub fn remove(&mut self, seat: Seat, mut moved: impl FnMut(u32, Seat)) -> Entry {
        let at = match seat {
            Seat::Behind(i) => {
                let entry = self.behind.swap_remove(i as usize);
                if let Some(other) = self.behind.get(i as usize) {
                    moved(other.subscription, seat);
                }
                return entry;
            }
            Seat::Swept(i) => i as usize,
        };
        let len = self.swept.len();
        let last = len - 1;
        let distance = (at + len - self.next) % len;
        let entry = self.swept[at];
        let mut put = |swept: &mut Vec<Entry>, from: usize, to: usize| {
            if from != to {
                swept[to] = swept[from];
                moved(swept[to].subscription, Seat::Swept(index(to)));
            }
        };
        if distance < self.remaining {
            // Unvisited: the run loses its last entry to the hole, the array its last to that one's place.
            let run_end = (self.next + self.remaining - 1) % len;
            if self.next + self.remaining <= len {
                put(&mut self.swept, run_end, at);
                put(&mut self.swept, last, run_end);
            } else if at >= self.next {
                put(&mut self.swept, last, at);
            } else {
                put(&mut self.swept, run_end, at);
                put(&mut self.swept, last, run_end);
            }
            self.remaining -= 1;
        } else if self.next + self.remaining >= len && self.remaining > 0 && at < self.next {
            // Visited, and the array's last entry is not: the visited entry before `next` fills the hole,
            // and the last one takes its place, at the front of the run.
            put(&mut self.swept, self.next - 1, at);
            put(&mut self.swept, last, self.next - 1);
            self.next -= 1;
        } else {
            put(&mut self.swept, last, at);
        }
        self.swept.pop();
        if self.next >= self.swept.len() {
            self.next = 0;
        }
        entry
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("fewer subscriptions than a u32 counts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    fn entry(subscription: u32) -> Entry {
        Entry {
            position: Position::START,
            offset_low: 0,
            connection: 0,
            subscription,
            holes: false,
            lost: false,
            round: 0,
        }
    }

    fn mark(n: u64) -> Mark {
        Mark { position: Position(Position::START.0 + n), offset: super::super::ids::Offset(n) }
    }

    #[test]
    fn an_entry_is_24_bytes() {
        assert_eq!(size_of::<Entry>(), 24);
    }

    #[test]
    fn a_lap_visits_everyone_once_and_raises_the_floor() {
        let mut lane = Lane::new(Mark::START);
        for s in 0..3 {
            lane.insert_swept(entry(s));
        }
        assert_eq!(lane.next_visit(), None);
        lane.view.apply(mark(1), []);
        for i in 0..3 {
            assert_eq!(lane.next_visit(), Some(Seat::Swept(i)));
            assert_eq!(lane.floor(), Mark::START);
            lane.visited(1);
        }
        assert_eq!(lane.next_visit(), None);
        assert_eq!(lane.floor(), mark(1));
    }

    #[test]
    fn a_head_that_moves_in_mid_lap_gives_another_lap_from_there() {
        let mut lane = Lane::new(Mark::START);
        for s in 0..3 {
            lane.insert_swept(entry(s));
        }
        lane.view.apply(mark(1), []);
        lane.next_visit();
        lane.visited(1);
        lane.view.apply(mark(2), []);
        for _ in 0..2 {
            lane.next_visit().unwrap();
            lane.visited(1);
        }
        assert_eq!(lane.next_visit(), Some(Seat::Swept(0)));
        assert_eq!(lane.floor(), mark(1));
    }

    #[test]
    fn without_swept_entries_the_floor_is_the_head() {
        let mut lane = Lane::new(Mark::START);
        lane.insert_behind(entry(0));
        lane.view.apply(mark(5), []);
        assert_eq!(lane.next_visit(), None);
        assert_eq!(lane.floor(), mark(5));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert,
        Visit,
        Remove(usize),
        Demote,
        Gather,
        Leave(usize, bool),
        Rejoin(usize),
        Publish,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Insert),
            8 => Just(Step::Visit),
            3 => any::<usize>().prop_map(Step::Remove),
            2 => Just(Step::Demote),
            4 => Just(Step::Gather),
            3 => (any::<usize>(), any::<bool>()).prop_map(|(n, whole)| Step::Leave(n, whole)),
            2 => any::<usize>().prop_map(Step::Rejoin),
            2 => Just(Step::Publish),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// The model: who has which head. Whenever a lap ends, everyone swept has the head of its
        /// beginning; whoever is removed, demoted or comes back in mid-lap, nobody is left out or lost.
        #[test]
        #[cfg_attr(miri, ignore = "thousands of cases, and no pointer")]
        fn removal_in_mid_lap_leaves_nobody_out(steps in prop::collection::vec(step(), 1..200)) {
            let mut lane = Lane::new(Mark::START);
            let mut seats: HashMap<u32, Seat> = HashMap::new();
            let mut has: HashMap<u32, u64> = HashMap::new();
            let (mut head, mut born) = (0u64, 0u32);
            let mut gathered: Vec<u32> = Vec::new();
            for step in steps {
                let swept = |seats: &HashMap<u32, Seat>| seats.values().filter(|seat| matches!(seat, Seat::Swept(_))).count();
                match step {
                    Step::Insert => {
                        seats.insert(born, lane.insert_swept(Entry { position: mark(head).position, ..entry(born) }));
                        has.insert(born, head);
                        born += 1;
                    }
                    Step::Publish => {
                        head += 1;
                        lane.view.apply(mark(head), []);
                    }
                    Step::Visit => match lane.next_visit() {
                        Some(seat) => {
                            let subscription = lane.entry(seat).subscription;
                            prop_assert_eq!(seats[&subscription], seat);
                            if !gathered.contains(&subscription) {
                                has.insert(subscription, head);
                                lane.entry_mut(seat).position = mark(head).position;
                            }
                            lane.visited(1);
                        }
                        None => {
                            for (subscription, seat) in &seats {
                                if matches!(seat, Seat::Swept(_)) && !gathered.contains(subscription) {
                                    prop_assert_eq!(has[subscription], head, "{} rests without the head", subscription);
                                }
                            }
                            if gathered.is_empty() {
                                prop_assert_eq!(lane.floor(), mark(head), "all have left, and the floor has not risen");
                            }
                        }
                    },
                    Step::Gather => if lane.next_visit().is_some() {
                        let visits = lane.gather_next(1, |entry| {
                            let gathers = !gathered.contains(&entry.subscription);
                            gathered.extend(gathers.then_some(entry.subscription));
                            Some(gathers)
                        });
                        prop_assert_eq!(visits, 1);
                    },
                    Step::Leave(n, whole) => {
                        if gathered.is_empty() { continue }
                        let subscription = gathered.remove(n % gathered.len());
                        let seat = seats[&subscription];
                        lane.release_gathered(seat);
                        // All of it, or a part: then it is gathered again.
                        let now = if whole { head } else { (has[&subscription] + 1).min(head) };
                        has.insert(subscription, now);
                        lane.entry_mut(seat).position = mark(now).position;
                        if now < head {
                            lane.gather(seat);
                            gathered.push(subscription);
                        }
                    }
                    Step::Demote => if let Some(seat) = lane.next_visit() {
                        let subscription = lane.entry(seat).subscription;
                        if let Some(at) = gathered.iter().position(|&other| other == subscription) {
                            gathered.remove(at);
                            lane.release_gathered(seat);
                        }
                        let removed = lane.remove(seat, |s, seat| { seats.insert(s, seat); });
                        seats.insert(removed.subscription, lane.insert_behind(removed));
                    },
                    Step::Rejoin(n) => {
                        if lane.behind().is_empty() { continue }
                        let at = u32::try_from(n % lane.behind().len()).unwrap();
                        let mut removed = lane.remove(Seat::Behind(at), |s, seat| { seats.insert(s, seat); });
                        removed.position = mark(has[&removed.subscription]).position;
                        let seat = lane.rejoin(removed, |s, seat| { seats.insert(s, seat); });
                        seats.insert(removed.subscription, seat);
                    }
                    Step::Remove(n) => {
                        let mut all: Vec<_> = seats.keys().copied().collect();
                        if all.is_empty() { continue }
                        all.sort_unstable();
                        let subscription = all[n % all.len()];
                        let seat = seats.remove(&subscription).unwrap();
                        if let Some(at) = gathered.iter().position(|&other| other == subscription) {
                            gathered.remove(at);
                            lane.release_gathered(seat);
                        }
                        let removed = lane.remove(seat, |s, seat| { seats.insert(s, seat); });
                        prop_assert_eq!(removed.subscription, subscription);
                    }
                }
                // Every subscription sits where the books say, each seat is taken once, and the floor holds.
                prop_assert_eq!(seats.len(), lane.len());
                prop_assert_eq!(seats.values().collect::<HashSet<_>>().len(), seats.len());
                prop_assert_eq!(swept(&seats), lane.swept().len());
                for (subscription, seat) in &seats {
                    prop_assert_eq!(lane.entry(*seat).subscription, *subscription);
                    if matches!(seat, Seat::Swept(_)) {
                        prop_assert!(mark(has[subscription]).position >= lane.needed());
                    }
                }
            }
        }
    }
}
