//! What clients do in a world, and what must be true of what they get.

use std::net::SocketAddr;

use stentor::{
    config::SlowConsumer,
    engine::driver::sim::{Buffers, Dice, Ended},
};

use crate::{
    client::{Client, Kind, News, Reading},
    model::{self, Order, Reader, Topic},
    setup::welcome,
    world::{LARGE, World},
};

impl World {
    pub fn join(&mut self, kind: Kind, reading: Reading, good: bool) -> Option<usize> {
        let number = self.clients.len();
        let address = SocketAddr::from(([127, 0, 0, 1 + self.dice.below(3) as u8], 1));
        let (small, large) = ([60, 300, 2000, 20_000], if good { LARGE } else { 70_000 });
        let to_client = if good || self.dice.happens(100) { large } else { small[self.dice.below(4)] };
        let to_server = if good { 70_000 } else { small[1 + self.dice.below(3)] };
        let worker = self.dice.below(self.workers.len());
        let socket = self.net.connect(worker, address, Buffers { to_client, to_server })?;
        if good {
            self.net.shelter(socket);
        }
        let max = self.config.max_message_bytes;
        let mut client = Client::new(number, socket, kind, reading, max, &mut self.dice);
        client.good = good;
        self.clients.push(client);
        Some(number)
    }

    pub fn somebody_comes(&mut self) {
        let topic = self.dice.below(self.topics.len());
        let flip = |dice: &mut Dice| dice.happens(128);
        let kind = match self.dice.below(20) {
            0..6 => Kind::Member { topic, publishes: false, subscribes: true, echo_off: false },
            6..9 => Kind::Member { topic, publishes: true, subscribes: false, echo_off: false },
            9..14 => {
                Kind::Member { topic, publishes: true, subscribes: true, echo_off: flip(&mut self.dice) }
            }
            14 => Kind::Echo,
            15 | 16 => Kind::Multi,
            17 => [Kind::Visitor, Kind::Silent, Kind::Garbage, Kind::HalfHead][self.dice.below(4)],
            18 => Kind::Breaker,
            _ => Kind::HalfMessage,
        };
        let good = self.dice.happens(60);
        let reading = match self.dice.below(10) {
            _ if good => Reading::Fast,
            0..4 => Reading::Fast,
            4..6 => Reading::Slow(1 + self.dice.below(300)),
            6..9 => Reading::Stalling,
            _ => Reading::Never,
        };
        self.join(kind, reading, good);
    }

    pub fn somebody_goes(&mut self) {
        let number = 2 * self.witnessed() + self.dice.below(self.clients.len());
        let Some(client) = self.clients.get_mut(number).filter(|client| client.ended.is_none()) else {
            return;
        };
        let goes = self.dice.below(8);
        if goes < 3 {
            (client.mute, client.misbehaved, client.good) = (true, true, false);
        }
        match goes {
            0 => {
                client.leaving = true;
                client.ended = Some(Ended::Reset);
                self.net.reset(client.socket);
            }
            1 => {
                client.leaving = true;
                self.net.finish(client.socket);
            }
            // It vanishes.
            2 => client.reading = Reading::Never,
            _ => client.close(&mut self.dice),
        }
    }

    /// A client does something: publishes, reads, writes.
    pub fn act(&mut self, number: usize) -> Result<(), String> {
        let most = match self.clients[number].reading {
            _ if self.calm => usize::MAX,
            Reading::Fast => usize::MAX,
            Reading::Slow(bytes) => bytes,
            Reading::Stalling if self.dice.happens(20) => usize::MAX,
            Reading::Stalling | Reading::Never => 0,
        };
        self.read(number, most)?;
        if !self.calm && !self.quiet && self.clients[number].to_send.len() < 4000 {
            self.talk(number);
        }
        let most =
            if self.calm || self.clients[number].good { usize::MAX } else { 1 + self.dice.below(3000) };
        self.clients[number].write(&self.net, most);
        Ok(())
    }

    pub fn talk(&mut self, number: usize) {
        // The witnesses, and those that publish the last message.
        let waits = number < 2 * self.witnessed();
        let max = match self.clients[number].kind {
            Kind::Member { topic, .. } => self.rule(topic).max_message_bytes,
            _ => (0..self.topics.len())
                .map(|topic| self.rule(topic).max_message_bytes)
                .min()
                .expect("some topics"),
        } - 30;
        let len = match self.dice.below(20) {
            0 => self.dice.below(max),
            1..5 => self.dice.below(max.min(600)),
            _ => self.dice.below(40),
        };
        let client = &mut self.clients[number];
        if waits {
            return;
        }
        if client.kind == Kind::Multi && client.is_open() {
            self.talk_multi(number, len.min(max - 10));
            return;
        }
        if let Kind::Member { topic, publishes: true, .. } = client.kind
            && client.is_open()
        {
            for _ in 0..1 + self.dice.below(3) {
                publish(client, &mut self.topics, topic, len, self.step, &mut self.dice);
            }
        }
        client.send_something(len, &mut self.dice);
    }

    pub fn read(&mut self, number: usize, most: usize) -> Result<(), String> {
        let World { clients, net, dice, hash, .. } = self;
        let client = &mut clients[number];
        hash.add(&number.to_le_bytes());
        let about = {
            let kind = client.kind;
            move |what: String| format!("client {number} ({kind:?}): {what}")
        };
        let client_news = client.read(net, most, dice, &mut |bytes| hash.add(bytes));
        let news = client_news.map_err(about)?;
        for news in news {
            match news {
                News::Opened => self.opened(number),
                News::Message(payload) => self.got(number, &payload)?,
            }
        }
        self.check_close(number)
    }

    pub fn opened(&mut self, number: usize) {
        let step = self.step;
        let (topic, leaves_out, opened) = match self.clients[number].kind {
            Kind::Member { topic, subscribes: true, echo_off, .. } => {
                (topic, echo_off.then_some(number), Some(step))
            }
            // It is subscribed to one from the start.
            Kind::Multi => (0, None, Some(step)),
            _ => return,
        };
        let reader = Reader::new(self.order_of(topic), leaves_out, opened);
        self.clients[number].readers.insert(topic, reader);
    }

    pub fn got(&mut self, number: usize, payload: &[u8]) -> Result<(), String> {
        if let Some(topic) = (0..self.topics.len()).find(|&topic| welcome(topic).as_bytes() == payload) {
            return self.welcomed(number, topic);
        }
        let (topic, id) = model::identify(payload).map_err(|what| format!("client {number}: {what}"))?;
        let welcomes = self.rule(topic).welcome.is_some();
        let what = |what: String| format!("client {number} on topic {topic}: {what}");
        let Some(reader) = self.clients[number].readers.get_mut(&topic) else {
            return Err(what("a message nobody asked for".into()));
        };
        if welcomes && reader.welcomes == 0 {
            return Err(what("a message, and no welcome came".into()));
        }
        reader.got(id);
        let has_witness = self.order_of(topic) != Order::OfEachPublisher;
        if number < self.topics.len() - 1 && has_witness {
            self.topics[topic].witnessed(id).map_err(what)?;
        }
        let reader = self.clients[number].readers.get_mut(&topic).expect("found above");
        reader.check(&self.topics[topic]).map_err(what)
    }

    /// Each subscription is welcomed once, before all else.
    fn welcomed(&mut self, number: usize, topic: usize) -> Result<(), String> {
        let may = self.rule(topic).welcome.is_some();
        let client = &mut self.clients[number];
        let is_multi = client.kind == Kind::Multi;
        let reader = client.readers.get_mut(&topic).filter(|_| may);
        let Some(reader) = reader.filter(|reader| is_multi || (reader.welcomes, reader.received()) == (0, 0))
        else {
            return Err(format!("client {number} was welcomed to topic {topic}, once too often or too late"));
        };
        reader.welcomes += 1;
        Ok(())
    }

    /// Publishes, subscribes or unsubscribes somewhere.
    pub fn talk_multi(&mut self, number: usize, len: usize) {
        let topic = self.dice.below(self.witnessed());
        let order = self.order_of(topic);
        let World { clients, topics, dice, step, .. } = self;
        let client = &mut clients[number];
        match dice.below(4) {
            0 => {
                let reader = Reader::new(order, None, None);
                let reader = client.readers.entry(topic).or_insert(reader);
                reader.subscribed = true;
                client.send_text(format!("+t{topic}").as_bytes(), dice);
            }
            1 => {
                if let Some(reader) = client.readers.get_mut(&topic) {
                    reader.subscribed = false;
                    reader.was_away += 1;
                }
                client.send_text(format!("-t{topic}").as_bytes(), dice);
            }
            _ => publish(client, topics, topic, len, *step, dice),
        }
    }

    /// Whether the client was closed for a reason.
    pub fn check_close(&self, number: usize) -> Result<(), String> {
        let client = &self.clients[number];
        let cuts_off = |topic| self.policy(topic) == SlowConsumer::Disconnect;
        let may_be_slow = !client.good
            && (self.config.slow_consumer == SlowConsumer::Disconnect
                || (0..self.topics.len()).any(cuts_off)
                || self.config.log_bytes_max < LARGE);
        let Some(code) = client.close_code else {
            let cut = client.ended == Some(Ended::Reset) && client.status == Some(101) && !client.leaving;
            // Who sends through a small buffer may be too slow with a message.
            let sends_slowly = client.sends() && !client.good;
            let may = !client.is_healthy() || sends_slowly || may_be_slow || self.draining;
            return if !cut || may { Ok(()) } else { Err(format!("client {number} was reset: {client}")) };
        };
        let may = match code {
            1000 => client.leaving,
            1001 => self.draining,
            // The logs or half messages may be full for whoever comes in their way.
            1013 => {
                may_be_slow
                    || self.config.assembly_bytes_max < LARGE
                    || self.config.max_topics <= self.topics.len()
                    || client.kind == Kind::Echo
            }
            // A small buffer makes a slow sender.
            1008 => !client.good || client.misbehaved,
            1002 | 1007 | 1009 => client.misbehaved,
            _ => false,
        };
        if may { Ok(()) } else { Err(format!("client {number} was closed with {code}: {client}")) }
    }
}

/// A client publishes its next message to a topic.
pub fn publish(
    client: &mut Client,
    topics: &mut [Topic],
    topic: usize,
    len: usize,
    step: u64,
    dice: &mut Dice,
) {
    let number = client.numbers.entry(topic).or_default();
    let id = (client.id, *number);
    *number += 1;
    let payload = model::payload(topic, id, len);
    topics[topic].make(id, step, payload.len());
    if client.kind == Kind::Multi {
        client.send_text(&[format!("=t{topic} ").as_bytes(), &payload].concat(), dice);
    } else {
        client.send_message(&payload, dice);
    }
}
