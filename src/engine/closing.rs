//! How connections end: close handshakes (RFC 6455 section 7), ends without one, and the drain.

use super::{
    connections::{Flag, Phase, Transport},
    driver::{Driver, End},
    farewell::{Farewell, Why},
    lanes::NONE,
    stats::Family,
    worker::{Turn, Worker},
};
use crate::{
    broker::ids::Tick,
    protocol::ws::{CloseCode, CloseFrame, ControlFrame, OpCode, close_frame, control_frame},
    session::Close,
};

/// A slow consumer has this long to take the close frame, in ticks; then it is reset.
const SLOW_CLOSE: u32 = Tick::PER_SECOND;

/// Progress of a drain.
#[derive(Clone, Copy, Debug)]
pub struct Draining {
    began: Tick,
    /// Slots below were asked to close.
    next: u32,
}

impl<D: Driver> Worker<D> {
    /// Closes a connection with a close frame. What waits for it leaves before, what it subscribes to does
    /// not. An event stream just ends, behind a whole event. Before the upgrade there is nobody to send a frame to, and the
    /// connection is reset.
    pub(super) fn close(&mut self, slot: u32, code: CloseCode, reason: &str, why: Why) {
        match self.connections.phase(slot) {
            Phase::Free | Phase::Closing | Phase::Finishing => return,
            Phase::Head | Phase::Opening => {
                self.end(slot, End::Reset, why);
                return;
            }
            Phase::Open => {}
        }
        self.drop_subscriptions(slot);
        let farewell = Farewell { why, code, reason: reason.to_owned(), clean: false, at: self.now };
        self.connections.extra(slot).farewell = Some(farewell);
        match self.connections.transport(slot) {
            Transport::WebSocket => {
                self.queue(slot, &close_frame(code, reason));
                self.connections.hot(slot).phase = Phase::Closing;
            }
            Transport::EventStream => self.finish(slot),
        }
        // What was kept while the connection was held back is read again, for the answer behind it.
        self.resumed.push(slot);
        let slow = why == Why::SlowConsumer;
        if slow {
            self.connections.hot(slot).set(Flag::Slow);
        }
        self.deadlines.arm(slot, self.now, if slow { SLOW_CLOSE } else { self.shared.settings.close });
    }

    /// The client's close frame came: it is answered (section 5.5.1), or answers ours.
    pub(super) fn close_received(&mut self, slot: u32, frame: &CloseFrame<'_>) {
        let code = frame.code.unwrap_or(CloseCode::NO_STATUS);
        match self.connections.phase(slot) {
            Phase::Open => {
                self.drop_subscriptions(slot);
                let answer = frame.code.map_or_else(empty_close, |code| close_frame(code, ""));
                self.queue(slot, &answer);
                let farewell = Farewell {
                    why: Why::Client,
                    code,
                    reason: frame.reason.to_owned(),
                    clean: true,
                    at: self.now,
                };
                self.connections.extra(slot).farewell = Some(farewell);
            }
            Phase::Closing => {
                if let Some(farewell) = &mut self.connections.extra(slot).farewell {
                    farewell.clean = true;
                    farewell.code = code;
                    farewell.reason = frame.reason.to_owned();
                }
            }
            _ => return,
        }
        self.finish(slot);
    }

    /// The client's end of the stream came. It may well read on: what waits for it alone leaves first.
    pub(super) fn stream_ended(&mut self, slot: u32) {
        let phase = self.connections.phase(slot);
        let why = if phase == Phase::Head { Why::Http } else { Why::Eof };
        if self.connections.hot(slot).outgoing.is_none() {
            self.end(slot, End::Close, why);
        } else if phase != Phase::Finishing {
            self.drop_subscriptions(slot);
            let farewell = Farewell {
                why,
                code: CloseCode::ABNORMAL,
                reason: String::new(),
                clean: false,
                at: self.now,
            };
            self.connections.extra(slot).farewell.get_or_insert(farewell);
            self.finish(slot);
        }
    }

    /// All is said: what is queued leaves, then the end of the stream. The peer's end is awaited for
    /// `--close-timeout`, since closing a socket that has unread bytes would reset it, and the reset could
    /// overtake our last words.
    pub(super) fn finish(&mut self, slot: u32) {
        self.drop_body(slot);
        self.connections.hot(slot).phase = Phase::Finishing;
        self.list_flush(slot);
        self.deadlines.arm(slot, self.now, self.shared.settings.close);
        let farewell = Farewell {
            why: Why::Http,
            code: CloseCode::NO_STATUS,
            reason: String::new(),
            clean: false,
            at: self.now,
        };
        let extra = self.connections.extra(slot);
        extra.farewell.get_or_insert(farewell).at = self.now;
    }

    /// When a closing connection is given up, in ticks from now; it ends here if that is now.
    pub(super) fn closing_deadline(&mut self, slot: u32) -> Option<u32> {
        let close = self.shared.settings.close;
        let slow = self.connections.hot(slot).is(Flag::Slow);
        let since = self.connections.warm(slot).extra.as_ref()?.farewell.as_ref()?.at;
        let last_words = self.connections.phase(slot) == Phase::Closing
            || self.connections.transport(slot) == Transport::EventStream;
        let limit = if slow && last_words && self.connections.hot(slot).outgoing.is_some() {
            SLOW_CLOSE
        } else {
            close
        };
        let takes =
            self.connections.phase(slot) == Phase::Finishing && self.connections.hot(slot).is(Flag::Blocked);
        // Whoever takes an answer that is longer than its socket's buffer has all its time again with each part.
        let since = if takes { since.max(self.connections.warm(slot).progress_at) } else { since };
        let passed = self.now.since(since);
        if passed < limit {
            return Some(limit - passed);
        }
        self.end(slot, End::Close, Why::CloseTimeout);
        None
    }

    /// Ends a connection now: the session is told, the subscriptions go, the socket closes. Counted under
    /// the reason that its farewell began with, if it had begun. Where something still waits for it, the peer
    /// sees a reset: an end in order would say that all has been said.
    pub(super) fn end(&mut self, slot: u32, end: End, why: Why) {
        if self.connections.phase(slot) == Phase::Free {
            return;
        }
        let unsent = self.connections.hot(slot).outgoing.is_some();
        let end = if unsent { End::Reset } else { end };
        self.drop_subscriptions(slot);
        self.drop_body(slot);
        let warm = self.connections.warm(slot);
        let session = warm.session.take();
        let buffered = warm.reader.buffered();
        let farewell = warm.extra.as_mut().and_then(|extra| extra.farewell.take());
        let why = farewell.as_ref().map_or(why, |farewell| farewell.why);
        if self.connections.hot(slot).is(Flag::Slow) {
            self.stats().count(Family::SlowConsumer, if end == End::Reset { "reset" } else { "close" });
        }
        self.release_assembly(buffered);
        self.stats().count(Family::Closed, why.label());
        self.forget(slot, end);
        if let Some(mut session) = session {
            let (code, reason, clean) = match &farewell {
                Some(farewell) => (farewell.code, farewell.reason.as_str(), farewell.clean),
                None => (CloseCode::ABNORMAL, "", false),
            };
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                session.close(&Close { code, reason, clean });
            }));
            if told.is_err() {
                self.stats().count(Family::SessionFailed, "panic");
            }
        }
    }

    pub(super) fn drop_subscriptions(&mut self, slot: u32) {
        let mut key = std::mem::replace(&mut self.connections.warm(slot).first_subscription, NONE);
        while key != NONE {
            let next = self.lanes.subscriptions[key as usize].next;
            self.drop_subscription(slot, key);
            key = next;
        }
        self.connections.hot(slot).clear(Flag::Several);
        if let Some(extra) = &mut self.connections.warm(slot).extra {
            extra.pending = 0;
            extra.positions = None;
        }
    }

    /// A tenth of a second's share of a drain: closes come spread over `--drain-timeout`, so that clients do
    /// not all come back at once. For their answers there is `--close-timeout` more.
    pub(super) fn drain_some(&mut self) {
        if !self.shared.is_draining() {
            return;
        }
        let draining = match self.draining {
            Some(draining) => draining,
            None => {
                self.driver.stop_listening();
                self.acceptable = false;
                Draining { began: self.now, next: 0 }
            }
        };
        let slots = self.connections.slots();
        let drain = self.shared.settings.drain.max(1);
        let share =
            (u64::from(slots) * u64::from(self.now.since(draining.began) + 1)).div_ceil(u64::from(drain));
        // A server with few clients need not take its time.
        let until = u32::try_from(share).unwrap_or(u32::MAX).max(draining.next.saturating_add(50)).min(slots);
        for slot in draining.next..until {
            match self.connections.phase(slot) {
                Phase::Open => self.close(slot, CloseCode::GOING_AWAY, "the server is stopping", Why::Drain),
                // Who has asked already gets the answer, after which the connection ends.
                Phase::Head if self.has_call(slot) => {}
                Phase::Head if self.connections.hot(slot).outgoing.is_some() => self.finish(slot),
                Phase::Head | Phase::Opening => self.end(slot, End::Close, Why::Drain),
                Phase::Finishing if self.connections.hot(slot).is(Flag::Finished) => {
                    self.end(slot, End::Close, Why::Drain);
                }
                Phase::Free | Phase::Closing | Phase::Finishing => {}
            }
        }
        self.draining = Some(Draining { next: until, ..draining });
    }

    /// Whether the worker goes on: a drain is over when nobody is left in the whole process (topics live
    /// here for others), or its time is.
    pub(super) fn turn(&mut self) -> Turn {
        let Some(draining) = self.draining else { return Turn::Again };
        let settings = &self.shared.settings;
        let late = self.now.since(draining.began) >= settings.drain + settings.close;
        if late {
            for slot in 0..self.connections.slots() {
                self.end(slot, End::Reset, Why::Drain);
            }
        }
        let over = self.connections.len() == 0 && (late || self.shared.connections() == 0);
        if over { Turn::Over } else { Turn::Again }
    }
}

/// A close frame without code and reason.
fn empty_close() -> ControlFrame {
    control_frame(OpCode::Close, b"")
}
