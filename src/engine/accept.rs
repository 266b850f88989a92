//! New connections: how many at once, who gets them, and what happens to those beyond a bound.

use std::{net::SocketAddr, sync::atomic::Ordering};

use super::{
    connections::Flag,
    driver::{Driver, End},
    farewell::Why,
    stats::Family,
    worker::{Worker, canonical},
};
use crate::broker::ids::Tick;

/// Pause after an accept failed, in ticks: the cause (no descriptors) does not go away at once.
const PAUSE: u32 = 1;

/// Connections beyond a bound that are kept at one time to be told so; further ones are reset.
const SURPLUS_MAX: usize = 64;

impl<D: Driver> Worker<D> {
    /// Accepts a bounded number of connections, so that a connect storm does not starve a broadcast.
    pub(super) fn accept(&mut self) {
        if !self.acceptable || self.now < self.accept_after || self.draining.is_some() {
            return;
        }
        for _ in 0..self.shared.settings.accepts_per_tick {
            match self.driver.accept() {
                Ok(Some((socket, address))) => self.place(socket, canonical(address)),
                Ok(None) => {
                    self.acceptable = false;
                    return;
                }
                Err(error) => {
                    self.stats().accept_errors.add(1);
                    // Said once: while it lasts, the counter goes on.
                    if self.accept_after == Tick(0) || self.now.since(self.accept_after) >= Tick::PER_SECOND {
                        tracing::warn!(worker = self.id.0, %error, "no connection can be accepted now: is the limit on open files reached?");
                    }
                    self.accept_after = Tick(self.now.0 + PAUSE);
                    return;
                }
            }
        }
    }

    /// Keeps a new connection, or hands it to a worker that has fewer. The kernel spreads connections over
    /// the listeners by a hash, which leaves some workers with more than their share; a broadcast ends when
    /// the last worker is done.
    fn place(&mut self, socket: D::Socket, address: SocketAddr) {
        self.stats().accepted.add(1);
        let (least, count) = self.shared.least_loaded();
        let own = self.shared.connections[self.id.index()].load(Ordering::Relaxed);
        let target = if own > count + 1 + count / 64 { least } else { self.id };
        self.shared.connections[target.index()].fetch_add(1, Ordering::Relaxed);
        if target == self.id {
            self.welcome(socket, address);
        } else {
            self.stats().handed_over.add(1);
            self.outboxes[target.index()].batch.sockets.push((socket, address));
        }
    }

    /// Takes in a connection that was counted as this worker's already.
    pub(super) fn welcome(&mut self, socket: D::Socket, address: SocketAddr) {
        let in_bounds = self.shared.addresses.add(address.ip())
            && self.shared.connections() <= self.shared.settings.connections_max;
        let slot = self.connections.insert(address, self.now);
        if let Err(error) = self.driver.add(slot, socket) {
            tracing::warn!(worker = self.id.0, %error, "a connection can't be registered");
            self.stats().accept_errors.add(1);
            self.forget(slot, End::Reset);
            return;
        }
        if self.draining.is_some() {
            // Handed over by a worker that did not know yet.
            self.end(slot, End::Close, Why::Drain);
            return;
        }
        if !in_bounds {
            self.stats().count(Family::Refused, "too_many_connections");
            if self.surplus >= SURPLUS_MAX {
                self.forget(slot, End::Reset);
                return;
            }
            self.surplus += 1;
            self.connections.hot(slot).set(Flag::Surplus);
        }
        self.deadlines.arm(slot, self.now, self.shared.settings.handshake);
    }

    /// Frees all that a connection held, without a word to anybody.
    pub(super) fn forget(&mut self, slot: u32, end: End) {
        if self.connections.hot(slot).is(Flag::Surplus) {
            self.surplus -= 1;
        }
        self.driver.remove(slot, end);
        self.deadlines.disarm(slot);
        let address = self.connections.remove(slot);
        self.shared.addresses.remove(address);
        self.shared.connections[self.id.index()].fetch_sub(1, Ordering::Relaxed);
    }
}
