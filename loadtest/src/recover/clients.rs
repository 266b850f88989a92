//! One thread of clients: they subscribe, are cut off, come back behind the last message that they had, and count.

use std::io::Write;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::net::TcpStream;

use super::{Shared, Step, WINDOWS};
use crate::accounting::{Arrival, Ledger, Totals};
use crate::dialect::greeting::excerpt;
use crate::dialect::text::{Decoder, Finder, Found};
use crate::distribution::{Latencies, latencies};
use crate::failure::Failure;
use crate::harness::PATIENCE;
use crate::poller::{Handler, Opened, Poller, RECEIVE_BYTES, Ramp, Received, receive};
use crate::stamp::Stamp;
use crate::wire::{Opcode, Sink, Walker, append_frame, close_text};

/// Connections that are cut in a row: a close takes some microseconds, and those who stay must be read meanwhile.
const CUT_PER_TURN: usize = 64;

/// One connection in this many compares every byte.
const CHECK_EVERY: usize = 64;

/// What one thread found out.
pub(super) struct Outcome {
    pub(super) totals: Totals,
    /// Messages whose bytes are not those published, or that nobody published.
    pub(super) corrupt: u64,
    /// Who came back and was told that not all that it had missed follows.
    pub(super) not_recovered: u64,
    /// Connections closed by the server, and how the first one was.
    pub(super) closed: u64,
    pub(super) closed_how: Option<String>,
    /// From the SYN of who comes back to the last message that it had missed.
    pub(super) back: Latencies,
    /// Receive time minus due time, of those who stay.
    pub(super) latency: [Latencies; WINDOWS],
}

/// Runs the `thread`th of the run's threads until it is stopped.
pub(super) fn run(shared: &Shared, thread: usize) -> Result<Outcome, Failure> {
    let args = &shared.args;
    args.common.pin_thread(thread)?;
    shared.watch.enrol(format!("receive {thread}"));
    let ids = (thread..shared.connections() as usize).step_by(shared.threads);
    // Those who stay have the highest numbers.
    let clients: Vec<Client> = ids
        .map(|id| Client {
            stays: id >= args.clients as usize,
            checked: id.is_multiple_of(CHECK_EVERY),
            ..Client::default()
        })
        .collect();
    let leaving = clients.iter().filter(|client| !client.stays).count();
    let mut crew = Crew {
        shared,
        ledger: Ledger::new(clients.len()),
        clients,
        decoder: Decoder::default(),
        buffer: vec![0; RECEIVE_BYTES],
        outcome: Outcome {
            totals: Totals::default(),
            corrupt: 0,
            not_recovered: 0,
            closed: 0,
            closed_how: None,
            back: latencies(),
            latency: std::array::from_fn(|_| latencies()),
        },
    };
    let mut poller = Poller::new(shared.target.clone())?;
    let mut ramp = args.common.ramp(shared.threads);
    let (mut step, mut dialled, mut cut) = (Step::Connect, 0, 0);
    while !shared.control.stopped() {
        let next = shared.step();
        if next >= Step::Cut && cut < leaving {
            let some = cut..leaving.min(cut + CUT_PER_TURN);
            cut = some.end;
            shared.cut.fetch_add(some.len() as u64, Ordering::Release);
            crew.cut(some);
        }
        if step < Step::Return && next == Step::Return {
            let rate = f64::from(args.clients) / args.within.as_secs_f64().max(1e-9) / shared.threads as f64;
            let rate = if args.within.is_zero() { 0.0 } else { rate };
            ramp = Ramp::new(rate, args.concurrency as usize);
            dialled = 0;
        }
        step = next;
        let goal = match step {
            Step::Connect => crew.clients.len(),
            Step::Cut => 0,
            Step::Return => leaving,
        };
        while dialled < goal && ramp.allowed(poller.dialling()) > 0 {
            poller.dial(dialled, &crew.request_target(dialled))?;
            ramp.count();
            dialled += 1;
        }
        let patience = match step {
            Step::Cut if cut < leaving => Duration::ZERO,
            _ if dialled < goal => Duration::from_millis(1),
            _ => PATIENCE,
        };
        poller.turn(&mut crew, patience)?;
    }
    Ok(crew.close())
}

/// A thread's clients and all that they share.
struct Crew<'a> {
    shared: &'a Shared,
    clients: Vec<Client>,
    /// What each client has.
    ledger: Ledger,
    decoder: Decoder,
    buffer: Vec<u8>,
    outcome: Outcome,
}

/// One client, over one connection after another.
#[derive(Default)]
struct Client {
    stream: Option<TcpStream>,
    walker: Walker,
    finder: Finder,
    stays: bool,
    /// Compares every byte.
    checked: bool,
    /// Where it has begun, once it was told so.
    begun: Option<Begun>,
    /// This connection's first message, while it comes in.
    subscribed: Option<Vec<u8>>,
    /// Since when it comes back, and how many messages it is to have to be back.
    returns: Option<(u64, u32)>,
    reply: Vec<u8>,
    closed: Option<String>,
}

/// Where a client's first subscription began.
struct Begun {
    epoch: String,
    /// The message before its first.
    offset: u64,
}

impl Handler for Crew<'_> {
    fn opened(&mut self, token: usize, opened: Opened) -> Result<(), Failure> {
        let client = &mut self.clients[token];
        client.stream = Some(opened.stream);
        client.subscribed = Some(Vec::new());
        self.walk(token, &opened.rest)?;
        self.ready(token)
    }

    fn ready(&mut self, token: usize) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(stream) = &mut self.clients[token].stream {
            match receive(stream, &mut buffer) {
                Received::Bytes { len, more } => {
                    self.walk(token, &buffer[..len])?;
                    if !more {
                        break;
                    }
                }
                Received::WouldBlock => break,
                Received::End(how) => self.end(token, how)?,
            }
        }
        self.buffer = buffer;
        Ok(())
    }
}

impl Crew<'_> {
    /// What a client asks for: the head, or what comes behind the last message that it has.
    fn request_target(&mut self, token: usize) -> String {
        let has = self.ledger.next(token);
        let client = &mut self.clients[token];
        let query = match &client.begun {
            None => "mode=sub&format=json".to_string(),
            Some(Begun { epoch, offset }) => {
                let missed = self.shared.published.load(Ordering::Acquire);
                client.returns = Some((self.shared.clock.now(), missed));
                format!("mode=sub&format=json&since={}&epoch={epoch}", offset + u64::from(has))
            }
        };
        self.shared.topic().request_target(&self.shared.target.url, &query)
    }

    /// Cuts off some of those who do not stay, with a reset.
    fn cut(&mut self, some: Range<usize>) {
        for client in &mut self.clients[some] {
            *client = Client { begun: client.begun.take(), checked: client.checked, ..Client::default() };
        }
    }

    fn walk(&mut self, token: usize, bytes: &[u8]) -> Result<(), Failure> {
        let client = &mut self.clients[token];
        let mut walker = std::mem::take(&mut client.walker);
        let mut sink = Receipt {
            shared: self.shared,
            client,
            ledger: &mut self.ledger,
            decoder: &mut self.decoder,
            outcome: &mut self.outcome,
            token,
            now_ns: self.shared.clock.now(),
        };
        let walked = walker.feed(bytes, &mut sink);
        client.walker = walker;
        if client.subscribed.is_none()
            && let Some((since_ns, goal)) = client.returns
            && self.ledger.next(token) >= goal
        {
            client.returns = None;
            self.outcome.back.saturating_record(self.shared.clock.now().saturating_sub(since_ns).max(1));
            self.shared.back.fetch_add(1, Ordering::Release);
        }
        if !client.reply.is_empty() {
            let reply = std::mem::take(&mut client.reply);
            // Little is ever sent here, so the socket has room for it unless it has failed.
            if let Some(Err(error)) = client.stream.as_mut().map(|stream| stream.write_all(&reply)) {
                client.closed.get_or_insert(format!("cannot send a pong: {error}"));
            }
        }
        if let Err(violation) = walked {
            client.closed.get_or_insert(violation.into());
        }
        match client.closed.take() {
            Some(how) => self.end(token, how),
            None => Ok(()),
        }
    }

    /// A connection has ended: a failure while not all are there, a matter of the verdict later.
    #[cold]
    fn end(&mut self, token: usize, how: String) -> Result<(), Failure> {
        self.clients[token].stream = None;
        if self.shared.opened.load(Ordering::Acquire) < self.shared.connections() {
            let url = self.shared.target.url.to_string();
            return Err(Failure::Refused { url, how: format!("a client was closed: {how}") });
        }
        self.outcome.closed += 1;
        self.outcome.closed_how.get_or_insert(how);
        Ok(())
    }

    /// Closes the books.
    fn close(mut self) -> Outcome {
        let published = self.shared.published.load(Ordering::Acquire);
        (0..self.clients.len()).for_each(|token| self.ledger.close(token, published));
        self.outcome.totals = self.ledger.totals();
        self.outcome
    }
}

/// Takes what comes in on one connection.
struct Receipt<'a, 'b> {
    shared: &'a Shared,
    client: &'b mut Client,
    ledger: &'b mut Ledger,
    decoder: &'b mut Decoder,
    outcome: &'b mut Outcome,
    token: usize,
    now_ns: u64,
}

impl Sink for Receipt<'_, '_> {
    fn data(&mut self, _at: u64, bytes: &[u8], end: bool) {
        if self.client.subscribed.is_some() {
            return self.subscribed(bytes, end);
        }
        let Receipt { shared, client, ledger, decoder, outcome, token, now_ns } = self;
        let window = usize::from(shared.window.load(Ordering::Relaxed));
        let stays = client.stays;
        client.finder.feed(decoder, &shared.pattern, client.checked, bytes, |found| {
            let Found::Payload { stamp, intact } = found else { return };
            let published = shared.published.load(Ordering::Acquire);
            let Some(stamp @ Stamp { due_ns, .. }) =
                stamp.filter(|stamp| intact && stamp.sequence < published)
            else {
                outcome.corrupt += 1;
                return;
            };
            if ledger.receive(*token, stamp.sequence) == Arrival::New {
                shared.received.fetch_add(1, Ordering::Relaxed);
                if stays {
                    outcome.latency[window].saturating_record(now_ns.saturating_sub(due_ns).max(1));
                }
            }
        });
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        match opcode {
            Opcode::Ping => {
                append_frame(
                    &mut self.client.reply,
                    Opcode::Pong,
                    fastrand::u32(..).to_ne_bytes(),
                    &[payload],
                );
            }
            Opcode::Close => self.client.closed = Some(close_text(payload)),
            Opcode::Text | Opcode::Binary | Opcode::Pong => {}
        }
    }
}

impl Receipt<'_, '_> {
    /// A piece of a connection's first message, which says where the subscription begins.
    #[cold]
    fn subscribed(&mut self, bytes: &[u8], end: bool) {
        let heard = self.client.subscribed.get_or_insert_default();
        heard.extend_from_slice(bytes);
        if !end {
            return;
        }
        let heard = std::mem::take(heard);
        self.client.subscribed = None;
        let message: serde_json::Value = serde_json::from_slice(&heard).unwrap_or_default();
        let (Some(_), Some(epoch), Some(offset), Some(recovered)) = (
            message["subscribed"].as_str(),
            message["epoch"].as_str(),
            message["offset"].as_u64(),
            message["recovered"].as_bool(),
        ) else {
            self.client.closed = Some(format!("the first message was {}", excerpt(&heard)));
            return;
        };
        if let Some(Begun { epoch: of, offset: begun }) = &self.client.begun {
            let goes_on =
                recovered && epoch == of && offset == begun + u64::from(self.ledger.next(self.token));
            self.outcome.not_recovered += u64::from(!goes_on);
        } else {
            self.client.begun = Some(Begun { epoch: epoch.into(), offset });
            self.shared.opened.fetch_add(1, Ordering::Release);
        }
    }
}
