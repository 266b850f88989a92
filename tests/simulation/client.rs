//! Clients: what they are, how they read, what they send.

use std::collections::{BTreeMap, VecDeque};

use stentor::engine::driver::sim::{Dice, Ended, Net, SocketId};

use crate::{
    model::Reader,
    wire::{self, BINARY, CLOSE, Found, PING, PONG, Parser, TEXT},
};

/// What a client came for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `/ws/{topic}`.
    Member { topic: usize, publishes: bool, subscribes: bool, echo_off: bool },
    /// `/multi`: topics come and go.
    Multi,
    /// `/echo`.
    Echo,
    /// Asks for `/health` again and again.
    Visitor,
    /// Connects and says nothing.
    Silent,
    /// Sends no HTTP.
    Garbage,
    /// Sends half a head.
    HalfHead,
    /// Opens and breaks the protocol in one of several ways.
    Breaker,
    /// Opens, declares the largest message and sends a byte of it.
    HalfMessage,
}

/// How it reads what comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// All of it, at once.
    Fast,
    /// So many bytes at a time.
    Slow(usize),
    /// Now and then, all of it.
    Stalling,
    /// Not.
    Never,
}

pub struct Client {
    pub id: usize,
    pub socket: SocketId,
    pub kind: Kind,
    pub reading: Reading,
    /// Reads fast, answers pings, has good weather: must not be closed.
    pub good: bool,
    /// It has done something after which it may be closed.
    pub misbehaved: bool,
    /// Nothing comes from it any more.
    pub mute: bool,
    /// Has closed, or finished, or reset.
    pub leaving: bool,
    pub to_send: VecDeque<u8>,
    parser: Parser,
    pub status: Option<u16>,
    pub close_code: Option<u16>,
    pub ended: Option<Ended>,
    /// Number of the next message to each topic.
    pub numbers: BTreeMap<usize, u32>,
    /// What it gets of its topics.
    pub readers: BTreeMap<usize, Reader>,
    /// Payloads that must come back.
    pub echoes: VecDeque<Vec<u8>>,
    /// Payloads of pings that were not answered.
    pub pings: VecDeque<Vec<u8>>,
    pub responses: usize,
    pub requests: usize,
}

/// What a client learned that the world must know.
pub enum News {
    Opened,
    Message(Vec<u8>),
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Client { kind, reading, good, misbehaved, .. } = self;
        write!(f, "{kind:?}, reads {reading:?}, good: {good}, misbehaved: {misbehaved}")
    }
}

impl Client {
    pub fn new(
        id: usize,
        socket: SocketId,
        kind: Kind,
        reading: Reading,
        max_message: usize,
        dice: &mut Dice,
    ) -> Client {
        let mut client = Client {
            id,
            socket,
            kind,
            reading,
            good: false,
            misbehaved: false,
            mute: false,
            leaving: false,
            to_send: VecDeque::new(),
            parser: Parser::default(),
            status: None,
            close_code: None,
            ended: None,
            numbers: BTreeMap::new(),
            readers: BTreeMap::new(),
            echoes: VecDeque::new(),
            pings: VecDeque::new(),
            responses: 0,
            requests: 0,
        };
        client.introduce(max_message, dice);
        client
    }

    /// Whether it sends messages.
    pub fn sends(&self) -> bool {
        matches!(self.kind, Kind::Member { publishes: true, .. } | Kind::Echo | Kind::Multi)
    }

    /// Messages that it got.
    pub fn received(&self) -> usize {
        self.readers.values().map(Reader::received).sum()
    }

    /// Whether it does all that keeps a connection alive.
    pub fn is_healthy(&self) -> bool {
        self.good || (self.reading == Reading::Fast && !self.misbehaved && !self.mute)
    }

    /// Whether messages go both ways, as far as it knows.
    pub fn is_open(&self) -> bool {
        self.status == Some(101) && self.close_code.is_none() && self.ended.is_none() && !self.leaving
    }

    fn introduce(&mut self, max_message: usize, dice: &mut Dice) {
        let member;
        let path = match self.kind {
            Kind::Member { topic, publishes, subscribes, echo_off } => {
                let mode = match (publishes, subscribes) {
                    (true, true) => "both",
                    (true, false) => "pub",
                    _ => "sub",
                };
                member = format!("/ws/t{topic}?mode={mode}{}", if echo_off { "&echo=off" } else { "" });
                &member
            }
            Kind::Echo => "/echo",
            Kind::Multi => "/multi",
            Kind::Breaker | Kind::HalfMessage => "/ws/t0?mode=pub",
            Kind::Visitor | Kind::Silent => return,
            Kind::Garbage => {
                self.misbehaved = true;
                self.to_send.extend((0..dice.below(300)).map(|_| dice.below(256) as u8).collect::<Vec<_>>());
                return;
            }
            Kind::HalfHead => {
                self.misbehaved = true;
                self.to_send.extend(b"GET /ws/t0 HTTP/1.1\r\nHost: loc");
                return;
            }
        };
        self.to_send.extend(wire::upgrade(path));
        if self.kind == Kind::HalfMessage {
            self.misbehaved = true;
            self.to_send.extend([0x82, 0x80 | 127]);
            self.to_send.extend((max_message as u64).to_be_bytes());
            self.to_send.extend([1, 2, 3, 4, 5]);
        }
        if self.kind == Kind::Breaker {
            self.misbehaved = true;
            let break_it: &[u8] = match dice.below(6) {
                0 => &[0x82, 0x01, 0x00],
                1 => &[0xf2, 0x80, 0, 0, 0, 0],
                2 => &[0x83, 0x80, 0, 0, 0, 0],
                3 => &[0x80, 0x80, 0, 0, 0, 0],
                4 => &[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe],
                _ => &[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            };
            self.to_send.extend(break_it);
        }
    }

    /// Sends something of what its kind sends. `len` is that of a message's filler.
    pub fn send_something(&mut self, len: usize, dice: &mut Dice) {
        match self.kind {
            Kind::Echo if self.is_open() => {
                let payload: Vec<u8> = (0..len).map(|_| b'0' + dice.below(10) as u8).collect();
                self.echoes.push_back(payload.clone());
                self.send_message(&payload, dice);
            }
            Kind::Visitor if self.responses == self.requests && self.ended.is_none() => {
                self.requests += 1;
                self.to_send.extend(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
            }
            Kind::Member { .. } if self.is_open() && dice.happens(60) => {
                let payload = dice.bits().to_be_bytes();
                self.pings.push_back(payload.to_vec());
                self.to_send.extend(wire::whole(PING, &payload, dice));
            }
            _ => {}
        }
    }

    /// Queues a message, sometimes in fragments, sometimes with a ping in it.
    pub fn send_message(&mut self, payload: &[u8], dice: &mut Dice) {
        let op_code = if dice.happens(128) { TEXT } else { BINARY };
        let ping = dice.happens(20).then(|| dice.bits().to_be_bytes());
        if let Some(ping) = ping {
            self.pings.push_back(ping.to_vec());
        }
        let bytes = wire::message(op_code, payload, ping.as_ref().map(|ping| &ping[..]), dice);
        self.to_send.extend(bytes);
    }

    /// Queues a text message.
    pub fn send_text(&mut self, text: &[u8], dice: &mut Dice) {
        self.to_send.extend(wire::message(TEXT, text, None, dice));
    }

    /// Says goodbye properly, behind all that it has to say.
    pub fn close(&mut self, dice: &mut Dice) {
        if self.status == Some(101) && !self.leaving {
            self.to_send.extend(wire::whole(CLOSE, &1000u16.to_be_bytes(), dice));
        }
        self.leaving = true;
    }

    /// Writes some of what it has to send.
    pub fn write(&mut self, net: &Net, most: usize) {
        if self.mute {
            self.to_send.clear();
        }
        let most = most.min(self.to_send.len());
        if most > 0 && self.ended.is_none() {
            let bytes: Vec<u8> = self.to_send.range(..most).copied().collect();
            let taken = net.write(self.socket, &bytes);
            self.to_send.drain(..taken);
        }
    }

    /// Reads up to `most` bytes; `heard` gets them as they are.
    pub fn read(
        &mut self,
        net: &Net,
        most: usize,
        dice: &mut Dice,
        heard: &mut impl FnMut(&[u8]),
    ) -> Result<Vec<News>, String> {
        let mut news = Vec::new();
        if self.ended.is_some() {
            return Ok(news);
        }
        let bytes = net.read(self.socket, most);
        heard(&bytes);
        self.parser.push(&bytes);
        while let Some(found) = self.parser.next()? {
            self.found(found, dice, &mut news)?;
        }
        self.ended = net.ended(self.socket);
        if self.ended == Some(Ended::Finished) && !self.parser.is_between() {
            return Err("the stream ended in the middle of a frame".into());
        }
        if self.ended == Some(Ended::Finished)
            && self.status == Some(101)
            && !self.parser.is_closed()
            && !self.leaving
        {
            return Err("the stream ended in order, without a close frame".into());
        }
        if self.ended.is_some() {
            self.to_send.clear();
        }
        Ok(news)
    }

    fn found(&mut self, found: Found, dice: &mut Dice, news: &mut Vec<News>) -> Result<(), String> {
        match found {
            Found::Response(status) => {
                self.responses += 1;
                self.status = Some(status);
                if status == 101 {
                    news.push(News::Opened);
                }
            }
            Found::Block(block) => return Err(format!("a block of a stream that nobody asked for: {block}")),
            Found::Ping(payload) => {
                let vanished = self.reading == Reading::Never;
                if !vanished && !self.leaving && self.close_code.is_none() {
                    self.to_send.extend(wire::whole(PONG, &payload, dice));
                }
            }
            Found::Pong(payload) => {
                // Pongs come in the order of their pings; some may be left out.
                while let Some(ping) = self.pings.pop_front() {
                    if ping == payload {
                        return Ok(());
                    }
                }
                return Err("a pong without a ping".into());
            }
            Found::Message(payload) if self.kind == Kind::Echo => {
                if self.echoes.pop_front() != Some(payload) {
                    return Err("an echo that is not the next".into());
                }
            }
            Found::Message(payload) if self.kind == Kind::Multi && payload == b"*" => {}
            Found::Message(payload) => news.push(News::Message(payload)),
            Found::Close(code) => {
                self.close_code = Some(code);
                if !self.leaving {
                    self.to_send.extend(wire::whole(CLOSE, &code.to_be_bytes(), dice));
                }
            }
        }
        Ok(())
    }
}
