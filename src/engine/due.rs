//! Timeouts and pings: what a connection needs when its deadline has come.

use std::sync::Arc;

use super::{
    connections::{Flag, Phase, Transport},
    driver::{Driver, End},
    farewell::{Farewell, Why},
    worker::Worker,
};
use crate::{
    broker::ids::Tick,
    protocol::{
        http::Refusal,
        ws::{CloseCode, OpCode, control_frame},
    },
    session::dialect::sse,
};

/// Pings that leave together at most, if they are spread evenly: so many connections are looked at in one tick.
const PINGS_PER_BEAT: usize = 1024;

/// Pings leave in beats of up to a second, since then most pongs come together as well and the worker is woken once for
/// many of them. So a ping comes early, by less than a beat, and never late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Beat {
    ticks: u32,
}

impl Beat {
    /// The beat of so many connections that are pinged after `interval` ticks of silence.
    pub fn of(connections: usize, interval: u32) -> Beat {
        let per_tick = connections / interval as usize;
        let ticks = u32::try_from(PINGS_PER_BEAT / per_tick.max(1)).unwrap_or(u32::MAX);
        Beat { ticks: ticks.min(interval / 25).clamp(1, Tick::PER_SECOND) }
    }

    /// When a client is pinged that was last heard at a time.
    fn after(self, heard: Tick, interval: u32) -> Tick {
        Tick(heard.after(interval).0 / self.ticks * self.ticks)
    }
}

impl<D: Driver> Worker<D> {
    /// Looks at a connection whose deadline has come: does what is due and arms the next.
    pub(super) fn look(&mut self, slot: u32) {
        if self.now < self.grace_until {
            self.deadlines.arm(slot, self.now, self.grace_until.since(self.now));
            return;
        }
        let next = match self.connections.phase(slot) {
            Phase::Free => None,
            Phase::Head | Phase::Opening => self.look_at_head(slot),
            Phase::Open => self.look_at_open(slot),
            Phase::Closing | Phase::Finishing => self.closing_deadline(slot),
        };
        if let Some(ticks) = next {
            self.deadlines.arm(slot, self.now, ticks);
        }
    }

    /// Arms the first deadline of a connection that has just opened.
    pub(super) fn arm_open(&mut self, slot: u32) {
        let settings = &self.shared.settings;
        let (ping, idle) = (settings.ping, settings.idle);
        if let Some(ping) = ping {
            // As if the client had last been heard a while ago, slot by slot another while, so that a
            // connect storm is not answered by a storm of pings an interval later, and ever after.
            let phase = (slot.wrapping_mul(0x9e37_79b9) >> 8) % (ping / 2).max(1);
            let heard = Tick(self.now.0.saturating_sub(phase));
            self.connections.warm(slot).received_at = heard;
            let due = self.beat.after(heard, ping);
            self.deadlines.arm(slot, self.now, due.since(self.now));
        }
        if let Some(idle) = idle {
            self.deadlines.arm(slot, self.now, idle);
        }
    }

    fn look_at_head(&mut self, slot: u32) -> Option<u32> {
        let settings = &self.shared.settings;
        let (handshake, message) = (settings.handshake, settings.message);
        let warm = self.connections.warm(slot);
        let extra = warm.extra.as_ref();
        if extra.is_some_and(|extra| extra.calling.is_some()) {
            // It waits for us.
            return Some(handshake);
        }
        // Whoever takes an answer that is longer than its socket's buffer has all its time again with each part.
        let took_at = if self.connections.hot(slot).is(Flag::Blocked) {
            self.connections.warm(slot).progress_at
        } else {
            Tick::default()
        };
        let warm = self.connections.warm(slot);
        let extra = warm.extra.as_ref();
        // A body is as long as a message, and has as long.
        let in_body = extra.is_some_and(|extra| extra.collecting.is_some());
        let begun = in_body || extra.is_some_and(|extra| !extra.head.is_empty());
        let (since, limit) = if in_body { (warm.began_at, message) } else { (warm.received_at, handshake) };
        let passed = self.now.since(since.max(took_at));
        if passed < limit {
            return Some(limit - passed);
        }
        let why = if in_body { Why::MessageTimeout } else { Why::HandshakeTimeout };
        if !begun || self.connections.hot(slot).outgoing.is_some() {
            self.end(slot, End::Close, why);
            return None;
        }
        // Who has said half a request is told what is the matter (RFC 9110, section 15.5.9).
        let farewell =
            Farewell { why, code: CloseCode::NO_STATUS, reason: String::new(), clean: false, at: self.now };
        self.connections.extra(slot).farewell = Some(farewell);
        let refusal = if in_body {
            let hint = "the request body took too long to arrive: see --message-timeout";
            Refusal::new(408, "body_timeout", hint)
        } else {
            let hint = "the request head took too long to arrive: see --handshake-timeout";
            Refusal::new(408, "handshake_timeout", hint)
        };
        self.refuse(slot, refusal, None);
        None
    }

    /// Ticks until a socket that refuses bytes has refused them for too long. `None`: it has, and the connection was ended.
    fn look_at_blocked(&mut self, slot: u32) -> Option<u32> {
        let since = self.connections.warm(slot).progress_at;
        let left = self.shared.settings.write.saturating_sub(self.now.since(since));
        if left == 0 {
            self.end(slot, End::Reset, Why::WriteTimeout);
            return None;
        }
        Some(left)
    }

    fn look_at_open(&mut self, slot: u32) -> Option<u32> {
        let (now, held) = (self.now, self.is_held(slot));
        let shared = Arc::clone(&self.shared);
        let settings = &shared.settings;
        let mut next = u32::MAX;
        // Ticks that are left of a limit; 0: it is reached.
        let left = |since: Tick, limit: u32| limit.saturating_sub(now.since(since));

        if self.connections.hot(slot).is(Flag::Blocked) {
            next = next.min(self.look_at_blocked(slot)?);
        }
        if self.connections.warm(slot).reader.message_started() && !held {
            let left = left(self.connections.warm(slot).began_at, settings.message);
            if left == 0 {
                self.close(slot, CloseCode::POLICY, "a message took too long to arrive", Why::MessageTimeout);
                return None;
            }
            next = next.min(left);
        }
        // Nothing is expected of a stream's client.
        let is_stream = self.connections.transport(slot) == Transport::EventStream;
        if let Some(idle) = settings.idle.filter(|_| !held && !is_stream) {
            let left = left(self.connections.warm(slot).message_at, idle);
            if left == 0 {
                self.close(slot, CloseCode::NORMAL, "no message for too long", Why::IdleTimeout);
                return None;
            }
            next = next.min(left);
        }
        if let Some(timer) = self.connections.warm(slot).extra.as_ref().and_then(|extra| extra.timer) {
            if timer <= now {
                self.connections.extra(slot).timer = None;
                self.connections.tidy(slot);
                self.with_session(slot, |session, context| session.timer(context));
                if self.connections.phase(slot) != Phase::Open {
                    return None;
                }
                // The session may have set it again: that armed the deadline.
            } else {
                next = next.min(timer.since(now));
            }
        }
        if let Some(ping) = settings.ping {
            next = next.min(match is_stream {
                true => self.look_at_heartbeat(slot, ping),
                false => self.look_at_ping(slot, ping, settings.pong)?,
            });
        }
        (next != u32::MAX).then_some(next)
    }

    /// Ticks until the next heartbeat of a stream is due. They come at the ping interval, whatever else is sent: so whoever
    /// has gone finds out at the next one, or at the one after that. There is no answer to wait for.
    fn look_at_heartbeat(&mut self, slot: u32, interval: u32) -> u32 {
        let now = self.now;
        let due = self.beat.after(self.connections.warm(slot).received_at, interval);
        if now < due {
            return due.since(now);
        }
        self.connections.warm(slot).received_at = now;
        if self.connections.hot(slot).outgoing.is_none() {
            self.stats().pings_sent.add(1);
            self.queue(slot, sse::HEARTBEAT);
        }
        self.beat.after(now, interval).since(now).max(1)
    }

    /// Ticks until the connection's ping or pong is due. Any byte received counts as life. `None`: the
    /// connection was ended.
    fn look_at_ping(&mut self, slot: u32, ping: u32, pong: u32) -> Option<u32> {
        // A client that we don't read, or have not come round to reading or asking, can't show that it lives.
        let hot = self.connections.hot(slot);
        let unasked = hot.is(Flag::PingWaits) && !hot.is(Flag::Blocked);
        let unheard = unasked || hot.is(Flag::Readable) || self.is_held(slot);
        let now = self.now;
        // Our ping may wait behind what its socket takes slowly: who takes something lives.
        let stalled = self.connections.hot(slot).is(Flag::Stalled);
        let warm = self.connections.warm(slot);
        let asked_at = if stalled { warm.pinged_at.max(warm.progress_at) } else { warm.pinged_at };
        let (received_at, waited) = (warm.received_at, now.since(asked_at));
        if self.connections.hot(slot).is(Flag::AwaitsPong) {
            if waited >= pong && !unheard {
                self.end(slot, End::Reset, Why::PongTimeout);
                return None;
            }
            // Should it come at once, the next ping may be due before this one's time is over.
            return Some(
                pong.saturating_sub(waited).max(1).min(self.beat.after(now, ping).since(now).max(1)),
            );
        }
        let due = self.beat.after(received_at, ping);
        if now < due {
            return Some(due.since(now));
        }
        self.stats().pings_sent.add(1);
        self.queue(slot, &control_frame(OpCode::Ping, b""));
        let hot = self.connections.hot(slot);
        hot.set(Flag::AwaitsPong);
        hot.set(Flag::PingWaits);
        self.connections.warm(slot).pinged_at = now;
        Some(pong.min(self.beat.after(now, ping).since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_early_by_less_than_a_beat() {
        let second = Tick::PER_SECOND;
        for (interval, connections, beat) in [
            (251, 1, second),
            (251, 25_000, second),
            (251, 100_000, 2),
            (251, 1_000_000, 1),
            (251, usize::MAX, 1),
            (101, 1, 4),
            (4, 1, 1),
            (1, 1_000, 1),
            (u32::MAX / 2, 1_000_000, second),
        ] {
            assert_eq!(Beat::of(connections, interval), Beat { ticks: beat });
            for heard in Tick::START.0..Tick::START.0 + 20 {
                let due = Beat { ticks: beat }.after(Tick(heard), interval).0;
                let latest = heard + interval;
                assert!(
                    due <= latest && latest - due < beat && due.is_multiple_of(beat),
                    "{interval} ticks: {due}"
                );
            }
        }
    }
}
