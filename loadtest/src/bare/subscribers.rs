//! Who gets the bytes: dense arrays in the order of creation, of which a walk reads two.
//!
//! A subscriber that has gone lacks nothing ([`GONE`]), so a walk passes it without asking; its place is closed up
//! between two walks, when nobody holds positions.

use std::os::fd::OwnedFd;

/// The cursor of a subscriber that takes nothing more: it has come as far as possible.
pub(super) const GONE: u64 = u64::MAX;

/// The slot of a place whose connection has been let go.
const VACANT: u32 = u32::MAX;

/// All subscribers; index `i` of each array is about the same one.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// Position in the log up to which each has the bytes.
    pub(super) cursors: Vec<u64>,
    /// The sockets; `None` where only a ring has it.
    pub(super) sockets: Vec<Option<OwnedFd>>,
    /// Numbers of the connections, and of their sockets in a ring's table.
    pub(super) slots: Vec<u32>,
    vacant: usize,
}

impl Subscribers {
    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.cursors.len()
    }

    /// Adds one that has everything before `cursor`; its position.
    pub(super) fn join(&mut self, slot: u32, socket: Option<OwnedFd>, cursor: u64) -> u32 {
        self.cursors.push(cursor);
        self.sockets.push(socket);
        self.slots.push(slot);
        (self.cursors.len() - 1) as u32
    }

    /// Lets one go, and its socket.
    pub(super) fn leave(&mut self, position: u32) {
        let position = position as usize;
        self.cursors[position] = GONE;
        self.sockets[position] = None;
        self.slots[position] = VACANT;
        self.vacant += 1;
    }

    /// Up to where all have the bytes; [`GONE`] if there is none that lacks any.
    pub(super) fn floor(&self) -> u64 {
        self.cursors.iter().copied().min().unwrap_or(GONE)
    }

    /// Closes up vacant places, keeping the order; `moved` hears of each slot's new position.
    pub(super) fn close_up(&mut self, mut moved: impl FnMut(u32, u32)) {
        if std::mem::take(&mut self.vacant) == 0 {
            return;
        }
        let mut kept = 0;
        for position in 0..self.len() {
            if self.slots[position] == VACANT {
                continue;
            }
            if kept != position {
                self.cursors[kept] = self.cursors[position];
                self.slots[kept] = self.slots[position];
                self.sockets.swap(kept, position);
                moved(self.slots[kept], kept as u32);
            }
            kept += 1;
        }
        self.cursors.truncate(kept);
        self.sockets.truncate(kept);
        self.slots.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_closed_up_in_order() {
        let mut subscribers = Subscribers::default();
        for slot in 0..6 {
            assert_eq!(subscribers.join(10 + slot, None, 100 + u64::from(slot)), slot);
        }
        for position in [0, 2, 3] {
            subscribers.leave(position);
        }
        assert_eq!((subscribers.len(), subscribers.floor()), (6, 101));
        let mut moved = Vec::new();
        subscribers.close_up(|slot, position| moved.push((slot, position)));
        assert_eq!(moved, [(11, 0), (14, 1), (15, 2)]);
        assert_eq!((subscribers.slots, subscribers.cursors), (vec![11, 14, 15], vec![101, 104, 105]));
    }

    #[test]
    fn without_subscribers_nothing_is_lacking() {
        let mut subscribers = Subscribers::default();
        assert_eq!(subscribers.floor(), GONE);
        subscribers.join(1, None, 5);
        subscribers.leave(0);
        assert_eq!(subscribers.floor(), GONE);
        subscribers.close_up(|_, _| panic!("nobody is left"));
        assert_eq!(subscribers.len(), 0);
    }
}
