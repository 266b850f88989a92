//! Received bytes on their way through HTTP heads and frames to sessions. Feeding never writes to a socket.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    connections::{Collecting, Flag, Phase, Transport},
    driver::Driver,
    farewell::Why,
    guesses,
    outgoing::Outgoing,
    stats::Family,
    worker::Worker,
};
use crate::{
    broker::ids::Tick,
    protocol::{
        http::{BodyReader, CONTINUE, Method, Refusal, Request, Response, Version, parse_request},
        ws::{CloseCode, Event, Inbox, OpCode, ProtocolError, Reader, control_frame},
    },
    session::{Answer, Context, Error, Failure, Handshake, Route, Session},
};

/// Pipelined requests that one connection is answered in a turn.
const REQUESTS_PER_TURN: usize = 16;

/// What clients that came too many, or with too much, are asked to wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What became of a request's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Collected {
    /// More of it must come, or the request was refused.
    Begun,
    /// It was whole, and was answered.
    Whole,
}

impl<D: Driver> Worker<D> {
    /// Gives received bytes to whoever they are for. Gives the inbox back, for its buffer.
    pub(super) fn feed(&mut self, slot: u32, mut inbox: Inbox) -> Inbox {
        if self.connections.phase(slot) == Phase::Head {
            self.feed_head(slot, &mut inbox);
        }
        match self.connections.phase(slot) {
            Phase::Open | Phase::Closing => match self.connections.transport(slot) {
                Transport::WebSocket => self.feed_frames(slot, &mut inbox),
                Transport::EventStream => self.ignore(slot, inbox.remaining().len()),
            },
            Phase::Opening if !inbox.is_empty() => self.connections.extra(slot).unread = inbox.rest(),
            _ => {}
        }
        inbox
    }

    /// Frames (RFC 6455 section 5), until nothing is left or the connection may not be read any more.
    fn feed_frames(&mut self, slot: u32, inbox: &mut Inbox) {
        let limits = self.shared.settings.messages;
        let id = self.connections.id(slot);
        let mut reader = std::mem::take(&mut self.connections.warm(slot).reader);
        let before = reader.buffered();
        let began = reader.message_started();
        let (mut broken, mut completed) = (None, false);
        loop {
            match reader.next(inbox, &limits) {
                Ok(Some(event)) => {
                    completed |= matches!(event, Event::Message(_));
                    self.event(slot, event);
                }
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
            if !self.connections.is_current(id) {
                // Ended by its own session: what it held in memory was released with it.
                self.release_assembly(before);
                return;
            }
            if !matches!(self.connections.phase(slot), Phase::Open | Phase::Closing) {
                break;
            }
            if self.connections.phase(slot) == Phase::Open && self.is_held(slot) {
                if !inbox.is_empty() {
                    self.connections.extra(slot).unread = inbox.rest();
                }
                break;
            }
        }
        if broken.is_some() {
            // Nothing more can be read. Whatever the session does now, its half message is gone already.
            reader = Reader::default();
        }
        let (after, under_way) = (reader.buffered(), reader.message_started());
        let warm = self.connections.warm(slot);
        warm.reader = reader;
        if under_way && (!began || completed) {
            warm.began_at = self.now;
            let limit = self.shared.settings.message;
            self.deadlines.arm(slot, self.now, limit);
        }
        self.account_assembly(slot, before, after);
        if let Some(error) = broken {
            self.protocol_broken(slot, error);
        }
    }

    fn event(&mut self, slot: u32, event: Event<'_>) {
        if self.connections.phase(slot) == Phase::Closing {
            // Data that crossed our close frame is not delivered; the answer to it is awaited.
            if let Event::Close(frame) = event {
                self.close_received(slot, &frame);
            }
            return;
        }
        match event {
            Event::Message(message) => {
                self.stats().messages_received.add(1);
                self.connections.warm(slot).message_at = self.now;
                self.with_session(slot, |session, context| session.message(context, message));
                // Whoever closes over a message that was dropped does so before the next one is looked at.
                if !self.errors.is_empty() {
                    self.tell_errors();
                }
            }
            Event::Ping(payload) => {
                self.stats().pings_received.add(1);
                self.queue_pong(slot, &control_frame(OpCode::Pong, payload));
                self.with_session(slot, |session, context| session.ping(context, payload));
            }
            Event::Pong(payload) => {
                self.stats().pongs_received.add(1);
                self.with_session(slot, |session, context| session.pong(context, payload));
            }
            Event::Close(frame) => self.close_received(slot, &frame),
        }
    }

    fn protocol_broken(&mut self, slot: u32, error: ProtocolError) {
        self.stats().count(Family::ProtocolError, error.reason());
        if self.connections.phase(slot) == Phase::Closing {
            // It answers our close frame with nonsense: nothing more can be expected.
            self.finish(slot);
            return;
        }
        self.with_session(slot, |session, context| session.error(context, &Error::Protocol(error)));
        self.close(slot, error.close_code(), &error.to_string(), Why::Protocol);
        if self.connections.phase(slot) == Phase::Closing {
            // What follows can't be read any more, the answer included (section 7.1.7).
            self.finish(slot);
        }
    }

    /// Keeps the count of half-received bytes, and the bound on it.
    pub(super) fn account_assembly(&mut self, slot: u32, before: usize, after: usize) {
        if before == after {
            return;
        }
        self.release_assembly(before);
        if self.connections.phase(slot) == Phase::Free {
            return;
        }
        let all = self.hold_assembly(after);
        if after > before && all > self.shared.settings.assembly_bytes_max {
            self.close(
                slot,
                CloseCode::TRY_AGAIN_LATER,
                "the server is receiving too much at once",
                Why::AssemblyFull,
            );
            if self.connections.phase(slot) == Phase::Closing {
                self.release_assembly(after);
                self.connections.warm(slot).reader = Reader::default();
                self.finish(slot);
            }
        }
    }

    /// So many bytes more are half received, or wait; gives what the whole process has of them.
    pub(super) fn hold_assembly(&self, bytes: usize) -> usize {
        self.stats().assembly_bytes.add(bytes as u64);
        self.shared.assemblies.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Half-received bytes are gone.
    pub(super) fn release_assembly(&self, bytes: usize) {
        if bytes > 0 {
            self.stats().assembly_bytes.take_back(bytes as u64);
            self.shared.assemblies.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Requests: heads, and the bodies that are wanted.
    fn feed_head(&mut self, slot: u32, inbox: &mut Inbox) {
        let mut bytes = match &mut self.connections.warm(slot).extra {
            Some(extra) if !extra.head.is_empty() => {
                let mut head = std::mem::take(&mut extra.head);
                head.extend_from_slice(&inbox.rest());
                head
            }
            _ => inbox.rest(),
        };
        let mut left = REQUESTS_PER_TURN;
        while self.connections.phase(slot) == Phase::Head && !bytes.is_empty() {
            if self.is_held(slot) {
                self.connections.extra(slot).head = bytes;
                return;
            }
            if left == 0 {
                self.connections.extra(slot).head = bytes;
                self.resumed.push(slot);
                return;
            }
            if let Some(collecting) = self.take_collecting(slot) {
                left -= usize::from(self.collect(slot, collecting, &mut bytes) == Collected::Whole);
                continue;
            }
            left -= 1;
            match parse_request(&bytes, &self.shared.settings.heads) {
                Ok(None) => {
                    self.connections.extra(slot).head = bytes;
                    return;
                }
                Ok(Some((request, consumed))) => {
                    let _ = bytes.split_to(consumed);
                    self.request(slot, request, &mut bytes);
                }
                Err(refusal) => {
                    self.refuse(slot, refusal, None);
                    return;
                }
            }
        }
        self.connections.tidy(slot);
        if !bytes.is_empty() && matches!(self.connections.phase(slot), Phase::Opening | Phase::Open) {
            let len = bytes.len();
            self.feed(slot, Inbox::from_buffer(bytes, len));
        }
    }

    fn request(&mut self, slot: u32, request: Request, bytes: &mut BytesMut) {
        if self.connections.hot(slot).is(Flag::Surplus) {
            let hint = "this server has as many connections as it may have: try again later";
            let refusal = Refusal::unavailable("too_many_connections", hint, RETRY_AFTER);
            self.refuse(slot, refusal, Some(&request));
            return;
        }
        let address = SocketAddr::new(self.connections.address(slot), 0);
        let router = std::sync::Arc::clone(&self.shared.router);
        let routed =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| router.route(&request, address)));
        let route = routed.unwrap_or_else(|_| Route::Refuse(self.router_panicked()));
        match route {
            Route::Respond(response) => {
                // A body is nobody's here: what follows the head would be taken for the next request.
                let close = !self.goes_on(&request) || request.has_body();
                self.answer(slot, &response, Some(&request), close);
            }
            Route::Refuse(refusal) => {
                let refusal = if refusal.status == 401 { self.unauthorized(slot, refusal) } else { refusal };
                self.refuse(slot, refusal, Some(&request));
            }
            Route::Upgrade { session, response, subprotocol } => {
                let handshake = Handshake { request: &request, address, subprotocol: subprotocol.as_deref() };
                self.open(slot, session, Transport::WebSocket, &response, &handshake);
            }
            Route::Stream { response, .. } if request.method == Method::Head => {
                self.stats().requests.add(1);
                self.queue(slot, &response.encode_until_close());
                self.finish(slot);
            }
            Route::Stream { session, response } => {
                let handshake = Handshake { request: &request, address, subprotocol: None };
                let head = response.encode_until_close();
                self.open(slot, session, Transport::EventStream, &head, &handshake);
            }
            Route::Body => match BodyReader::new(request.framing(), self.shared.settings.body_bytes_max) {
                Ok(body) => self.begin_body(slot, Box::new(Collecting { request, body }), bytes),
                Err(refusal) => self.refuse(slot, refusal, Some(&request)),
            },
        }
    }

    /// Whoever has no key, time and again, is told to wait.
    fn unauthorized(&self, slot: u32, refusal: Refusal) -> Refusal {
        if self.shared.guesses.bears(self.connections.address(slot), self.now) {
            return refusal;
        }
        let hint = "too many requests without a right key from this address: see --max-wrong-keys";
        Refusal::new(429, "api_keys_guessed", hint)
            .with_header("Retry-After", (guesses::WINDOW / Tick::PER_SECOND).to_string())
    }

    fn router_panicked(&self) -> Refusal {
        self.stats().count(Family::SessionFailed, "panic");
        Refusal::new(500, "router_panic", "the server failed to look at this request")
    }

    /// A request's head was accepted, and its body is collected. What has come of it is looked at first: who has sent
    /// all of it does not wait for a word from us.
    fn begin_body(&mut self, slot: u32, collecting: Box<Collecting>, bytes: &mut BytesMut) {
        let waits = collecting.request.expects_continue();
        if self.collect(slot, collecting, bytes) == Collected::Whole
            || self.connections.phase(slot) != Phase::Head
        {
            return;
        }
        if waits {
            self.queue(slot, CONTINUE);
        }
        self.connections.warm(slot).began_at = self.now;
        let limit = self.shared.settings.message;
        self.deadlines.arm(slot, self.now, limit);
    }

    /// Gives a body what has come of it, and has it answered once it is whole.
    fn collect(&mut self, slot: u32, mut collecting: Box<Collecting>, bytes: &mut BytesMut) -> Collected {
        let before = collecting.body.buffered();
        let read = collecting.body.read(bytes);
        self.release_assembly(before);
        match read {
            Ok(Some(body)) => {
                self.answer_body(slot, collecting.request, body);
                Collected::Whole
            }
            Ok(None) => {
                let after = collecting.body.buffered();
                let all = self.hold_assembly(after);
                if after > before && all > self.shared.settings.assembly_bytes_max {
                    self.release_assembly(after);
                    let hint = "the server is receiving too much at once: try again later";
                    let refusal = Refusal::unavailable("assembly_full", hint, RETRY_AFTER);
                    self.refuse(slot, refusal, Some(&collecting.request));
                } else {
                    self.connections.extra(slot).collecting = Some(collecting);
                }
                Collected::Begun
            }
            Err(refusal) => {
                self.refuse(slot, refusal, Some(&collecting.request));
                Collected::Begun
            }
        }
    }

    fn answer_body(&mut self, slot: u32, request: Request, body: Bytes) {
        let address = SocketAddr::new(self.connections.address(slot), 0);
        let router = std::sync::Arc::clone(&self.shared.router);
        let body_len = body.len();
        let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            router.respond(&request, body, address)
        }));
        let answer = answered.unwrap_or_else(|_| Answer::Refuse(self.router_panicked()));
        let response = match answer {
            Answer::Respond(response) => response,
            Answer::Call(call) => return self.call(slot, request, *call, body_len),
            Answer::Refuse(refusal) => {
                self.stats().count(Family::Refused, refusal.reason);
                Response::from(refusal)
            }
        };
        let close = !self.goes_on(&request);
        self.answer(slot, &response, Some(&request), close);
    }

    fn take_collecting(&mut self, slot: u32) -> Option<Box<Collecting>> {
        self.connections.warm(slot).extra.as_mut()?.collecting.take()
    }

    /// Nothing more of a body will be read, and nobody waits for an answer to it.
    pub(super) fn drop_body(&mut self, slot: u32) {
        self.take_calling(slot);
        if let Some(collecting) = self.take_collecting(slot) {
            self.release_assembly(collecting.body.buffered());
        }
    }

    fn open(
        &mut self,
        slot: u32,
        mut session: Box<dyn Session>,
        transport: Transport,
        response: &[u8],
        handshake: &Handshake<'_>,
    ) {
        let hot = self.connections.hot(slot);
        (hot.phase, hot.transport) = (Phase::Opening, transport);
        // What the session sends while it opens goes behind the response.
        self.connections.extra(slot).response.push(response);
        let mut commands = self.commands(slot);
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            session.open(&mut Context::new(&mut commands), handshake)
        }));
        let ending = commands.ending;
        let refusal = match opened {
            Ok(Ok(())) if ending.is_none() => {
                self.connections.warm(slot).session = Some(session);
                self.opened_if_ready(slot);
                return;
            }
            Ok(Ok(())) => Refusal::forbidden("session", "the connection was closed before it opened"),
            Ok(Err(refusal)) => refusal,
            Err(_) => {
                self.stats().count(Family::SessionFailed, "panic");
                Refusal::new(500, "session_panic", "the session failed")
            }
        };
        self.refuse_opening(slot, refusal, Some(handshake.request));
    }

    /// Takes back what an opening session has got, and answers with a refusal.
    pub(super) fn refuse_opening(&mut self, slot: u32, refusal: Refusal, request: Option<&Request>) {
        self.drop_subscriptions(slot);
        self.connections.warm(slot).session = None;
        self.connections.hot(slot).phase = Phase::Head;
        if let Some(extra) = &mut self.connections.warm(slot).extra {
            extra.response = Outgoing::default();
            extra.pending = 0;
        }
        self.refuse(slot, refusal, request);
    }

    /// Completes the handshake once all subscriptions that the session made while opening stand.
    pub(super) fn opened_if_ready(&mut self, slot: u32) {
        let extra = self.connections.extra(slot);
        if extra.pending > 0 {
            return;
        }
        self.seat_all(slot);
        self.send_welcomes(slot);
        let extra = self.connections.extra(slot);
        let response = std::mem::take(&mut extra.response);
        let unread = !extra.unread.is_empty();
        self.queue_all(slot, response);
        self.connections.tidy(slot);
        match self.connections.transport(slot) {
            Transport::WebSocket => self.stats().upgrades.add(1),
            Transport::EventStream => self.stats().streams.add(1),
        }
        self.connections.hot(slot).phase = Phase::Open;
        if !self.connections.hot(slot).is(Flag::Blocked) {
            self.rejoin(slot);
        }
        let now = self.now;
        self.connections.warm(slot).message_at = now;
        self.deadlines.disarm(slot);
        self.arm_open(slot);
        if self.connections.hot(slot).is(Flag::Blocked) {
            self.deadlines.arm(slot, now, self.shared.settings.write);
        }
        if let Some(timer) = self.connections.warm(slot).extra.as_ref().and_then(|extra| extra.timer) {
            self.deadlines.arm(slot, now, timer.since(now));
        }
        if unread || self.connections.hot(slot).is(Flag::Readable) {
            self.resumed.push(slot);
        }
    }

    pub(super) fn refuse(&mut self, slot: u32, refusal: Refusal, request: Option<&Request>) {
        if !self.connections.hot(slot).is(Flag::Surplus) {
            self.stats().count(Family::Refused, refusal.reason);
        }
        self.answer(slot, &Response::from(refusal), request, true);
    }

    /// Whether the connection may serve another request behind this one.
    pub(super) fn goes_on(&self, request: &Request) -> bool {
        request.keep_alive() && self.draining.is_none()
    }

    pub(super) fn answer(&mut self, slot: u32, response: &Response, request: Option<&Request>, close: bool) {
        self.stats().requests.add(1);
        let version = request.map_or(Version::Http11, |request| request.version);
        let head_only = request.is_some_and(|request| request.method == Method::Head);
        self.queue_kept(slot, response.encode(version, close, head_only).into());
        if close {
            self.finish(slot);
        } else {
            // The time for the next head begins.
            let now = self.now;
            self.connections.warm(slot).received_at = now;
        }
    }

    /// Calls a session, and ends its connection if it fails.
    pub(super) fn with_session(
        &mut self,
        slot: u32,
        call: impl FnOnce(&mut dyn Session, &mut Context<'_>) -> Result<(), Failure>,
    ) {
        let Some(mut session) = self.connections.warm(slot).session.take() else { return };
        let id = self.connections.id(slot);
        let mut commands = self.commands(slot);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            call(&mut *session, &mut Context::new(&mut commands))
        }));
        let ending = commands.ending;
        debug_assert!(self.connections.is_current(id), "commands end no connection while its session runs");
        self.connections.warm(slot).session = Some(session);
        let failure = match result {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => {
                tracing::warn!(worker = self.id.0, error = %failure.0, "a session failed");
                Some("error")
            }
            Err(_) => Some("panic"),
        };
        if let Some(failure) = failure {
            self.stats().count(Family::SessionFailed, failure);
            self.close(slot, CloseCode::INTERNAL_ERROR, "internal error", Why::Failed);
        } else if let Some(ending) = ending {
            self.apply_ending(slot, ending);
        }
    }
}
