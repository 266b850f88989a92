//! How worlds end, and what must be true then: everything has arrived, what was left out was counted, nothing is
//! left of those who went, a drain is over in time.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use stentor::{
    config::SlowConsumer,
    engine::{
        driver::sim::{Ended, SocketId, Weather},
        stats::Family,
    },
};

use crate::{
    client::{Client, Kind, Reading},
    crowd::publish,
    model::{Reader, Topic},
    world::{LARGE, World, id},
};

/// What was published after all had been.
#[derive(Clone, Copy, PartialEq)]
pub enum Behind {
    Nothing,
    OneMore,
}

impl World {
    /// Runs until nothing happens any more and `quiet` has passed so.
    pub fn settle(&mut self, quiet: Duration) -> Result<(), String> {
        let mut quiet_since = self.net.now();
        for _ in 0..1_000_000 {
            self.step += 1;
            let now = self.net.now();
            for number in 0..self.clients.len() {
                if self.clients[number].ended.is_none() {
                    let unsent = self.clients[number].to_send.len();
                    let received = self.clients[number].received();
                    self.act(number)?;
                    let client = &self.clients[number];
                    let now_received = client.received();
                    if unsent > client.to_send.len() || now_received > received || client.ended.is_some() {
                        quiet_since = now;
                    }
                }
            }
            let mut slept = true;
            for worker in 0..self.workers.len() {
                if self.workers[worker].is_some() && self.net.asleep(worker).is_none() {
                    self.turn(worker)?;
                    slept = false;
                }
            }
            if slept {
                self.net.advance(Duration::from_millis(10));
            }
            if self.net.now() - quiet_since > quiet {
                return Ok(());
            }
            self.net.advance(Duration::from_micros(50));
        }
        Err(format!("it does not settle: {} connections", self.shared.connections()))
    }

    /// All goes well from now on, and everybody reads: everything that was published arrives.
    pub fn quiesce(&mut self) -> Result<(), String> {
        self.calm = true;
        self.net.set_weather(Weather::default());
        for (from, to, _) in std::mem::take(&mut self.jams) {
            self.shared.jam_mail(id(from), id(to), false);
        }
        self.paused.fill(Duration::ZERO);
        for client in &self.clients {
            self.net.resize(client.socket, LARGE);
        }
        self.settle(Duration::from_secs(5))?;
        self.check_order()?;
        // What there is has arrived, with nothing coming behind it.
        self.check_all_in_the_end(Behind::Nothing)?;
        self.check_latest()?;
        // One more message for each topic: it comes after all that was held, skipped or conflated.
        for topic in 0..self.witnessed() {
            let publisher = self.witnessed() + topic;
            publish(&mut self.clients[publisher], &mut self.topics, topic, 10, self.step, &mut self.dice);
        }
        self.settle(Duration::from_secs(2))?;
        self.check_all_in_the_end(Behind::OneMore)?;
        self.check_counts()?;
        self.check_policy()
    }

    fn check_all_in_the_end(&mut self, behind: Behind) -> Result<(), String> {
        for number in 0..self.clients.len() {
            self.check_in_the_end(number, behind).map_err(|what| {
                let client = &self.clients[number];
                format!("client {number} ({:?}, {:?}): {what}", client.kind, client.reading)
            })?;
        }
        Ok(())
    }

    /// Everybody has what the witness got last, if it was made after they came.
    fn check_latest(&self) -> Result<(), String> {
        for topic in (0..self.witnessed()).filter(|&topic| self.policy(topic) == SlowConsumer::Latest) {
            let Some(last) = self.clients[topic].readers[&topic].messages().last() else { continue };
            for client in self.clients.iter().filter(|client| client.is_open() && !client.mute) {
                if let Some(reader) = client.readers.get(&topic)
                    && reader.is_due(&self.topics[topic], *last)
                    && reader.messages().last() != Some(last)
                {
                    return Err(format!("client {} has not got the newest, {last:?}: {client}", client.id));
                }
            }
        }
        Ok(())
    }

    /// Whether nobody can have been slow: all that was published to any topic is less than the bounds.
    pub fn is_ample(&self) -> bool {
        let is_ample = |(number, topic): (usize, &Topic)| {
            let lag = self.rule(number).lag;
            topic.made() < lag.messages && topic.bytes() < lag.bytes
        };
        self.config.log_bytes_max == LARGE && self.topics.iter().enumerate().all(is_ample)
    }

    /// Whoever was slow had a reason to be.
    fn check_policy(&self) -> Result<(), String> {
        let slow = self.reasons(Family::SlowConsumer);
        let skipped = self.count("deliveries_skipped");
        if self.is_ample() && (!slow.is_empty() || skipped > 0) {
            return Err(format!(
                "nobody can have been slow, and {slow:?} were, {skipped} messages were skipped"
            ));
        }
        Ok(())
    }

    /// With `latest` the order is nobody's to know, but any two agree on it.
    fn check_order(&self) -> Result<(), String> {
        for topic in 0..self.topics.len() {
            let mut pairs = BTreeSet::new();
            for (number, client) in self.clients.iter().enumerate() {
                let got = client.readers.get(&topic).map_or(&[][..], |reader| reader.messages());
                for (at, &later) in got.iter().enumerate() {
                    for &earlier in &got[at.saturating_sub(8)..at] {
                        if pairs.contains(&(later, earlier)) {
                            return Err(format!(
                                "client {number} got {earlier:?} before {later:?}, another did not"
                            ));
                        }
                        pairs.insert((earlier, later));
                    }
                }
            }
        }
        Ok(())
    }

    /// Long enough for lanes and topics to go and come back, and for whoever says nothing to be found out.
    pub fn quiet_spell(&mut self) -> Result<(), String> {
        let pings = self.config.ping_interval.is_some();
        let silent = |client: &&Client| match client.kind {
            Kind::Silent | Kind::Garbage | Kind::HalfHead | Kind::HalfMessage => true,
            // A publisher may be held back for long, and can't show that it lives.
            _ => client.mute && client.reading == Reading::Never && pings && !client.sends(),
        };
        let silent: Vec<SocketId> = self.clients.iter().filter(silent).map(|client| client.socket).collect();
        self.quiet = true;
        let until = self.net.now() + Duration::from_secs(16);
        while self.net.now() < until {
            self.net.advance(Duration::from_millis(self.dice.below(5) as u64));
            self.step()?;
        }
        self.quiet = false;
        match silent.iter().find(|socket| !self.net.is_gone(**socket)) {
            Some(left) => {
                Err(format!("{left:?} has said nothing for long, and is there: {}", self.clients[left.0]))
            }
            None => Ok(()),
        }
    }

    pub fn check_in_the_end(&mut self, number: usize, behind: Behind) -> Result<(), String> {
        let policies: Vec<SlowConsumer> = (0..self.topics.len()).map(|topic| self.policy(topic)).collect();
        let client = &mut self.clients[number];
        let said_all = client.is_open() || (client.leaving && client.close_code == Some(1000));
        if said_all && !client.misbehaved {
            let has_witness = |at: usize| at < self.topics.len() - 1 && policies[at] != SlowConsumer::Latest;
            for (&at, &numbers) in client.numbers.iter().filter(|(at, _)| has_witness(**at)) {
                let topic = &self.topics[at];
                if let Some(lost) = (0..numbers).find(|&number| !topic.has((client.id, number))) {
                    return Err(format!("its message {lost} of {numbers} to topic {at} was lost"));
                }
            }
        }
        if !client.is_open() {
            return Ok(());
        }
        if client.mute {
            return Ok(());
        }
        if !client.to_send.is_empty() || !client.echoes.is_empty() || !client.pings.is_empty() {
            return Err(format!(
                "{} bytes are not read, {} echoes and {} pongs have not come",
                client.to_send.len(),
                client.echoes.len(),
                client.pings.len()
            ));
        }
        let witnessed = self.topics.len() - 1;
        let mut readers =
            client.readers.iter_mut().filter(|(topic, reader)| **topic < witnessed && reader.subscribed);
        readers.try_for_each(|(topic, reader)| {
            if behind == Behind::Nothing && policies[*topic] != SlowConsumer::Disconnect {
                // The newest may have been published while it could not be written to, or is looked at elsewhere.
                return Ok(());
            }
            if behind == Behind::Nothing && (reader.was_away > 0 || reader.received() == 0) {
                // Nobody knows whether it came, or came back, before or after the last message.
                return Ok(());
            }
            reader.check_complete(&self.topics[*topic]).map_err(|what| format!("on topic {topic}: {what}"))
        })
    }

    /// What was left out was counted, and no more than that.
    pub fn check_counts(&self) -> Result<(), String> {
        self.check_count(SlowConsumer::Skip, self.count("deliveries_skipped"))?;
        self.check_count(SlowConsumer::Latest, self.count("deliveries_conflated"))
    }

    /// What topics of a policy have left out.
    fn check_count(&self, policy: SlowConsumer, counted: u64) -> Result<(), String> {
        let (mut seen, mut most) = (0, 0);
        for client in &self.clients {
            let topics = match client.kind {
                Kind::Member { topic, subscribes: true, .. } => topic..topic + 1,
                Kind::Multi => 0..self.topics.len(),
                _ => continue,
            };
            for topic in topics.filter(|&topic| self.policy(topic) == policy) {
                let reader = client.readers.get(&topic);
                // Of one that left and came back nobody knows which gap is which.
                if client.kind != Kind::Multi {
                    seen += reader.map_or(0, |reader| reader.gaps);
                }
                // Who has not read its 101 may have missed everything.
                most += self.topics[topic].made() - reader.map_or(0, Reader::received) as u64;
            }
        }
        if counted < seen || counted > most {
            return Err(format!(
                "{policy:?}: {counted} are counted as left out; seen were {seen}, at most {most}"
            ));
        }
        Ok(())
    }

    /// Everybody leaves. After a while nothing is left of them.
    pub fn leave(&mut self) -> Result<(), String> {
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            if client.ended.is_none() {
                if self.dice.happens(128) && !client.leaving && !client.mute {
                    client.close(&mut self.dice);
                } else {
                    client.ended = Some(Ended::Reset);
                    self.net.reset(client.socket);
                }
            }
        }
        self.settle(self.config.topic_idle_timeout + Duration::from_secs(12))?;
        for worker in self.workers.iter_mut().flatten() {
            worker.audit_empty()?;
        }
        let shared = &self.shared;
        let left = (
            shared.connections(),
            shared.logs.used(),
            shared.topics.used(),
            shared.assemblies.load(Ordering::Relaxed),
        );
        if left == (0, 0, 0, 0) {
            Ok(())
        } else {
            Err(format!("connections, bytes of logs, topics, bytes of halves left: {left:?}"))
        }
    }

    /// The server stops in the middle of it all, in time.
    pub fn drain(&mut self) -> Result<(), String> {
        self.draining = true;
        self.shared.drain();
        let began = self.net.now();
        // A worker may be paused for a second, and be late by a tick or two.
        let limit = self.config.drain_timeout + self.config.close_timeout + Duration::from_millis(1500);
        while self.workers.iter().any(Option::is_some) {
            if self.net.now() - began > limit {
                let left: Vec<usize> =
                    (0..self.workers.len()).filter(|&worker| self.workers[worker].is_some()).collect();
                return Err(format!("workers {left:?} have not ended in {limit:?}"));
            }
            self.step()?;
        }
        for number in 0..self.clients.len() {
            self.read(number, usize::MAX)?;
            let client = &self.clients[number];
            let bounded =
                self.config.max_topics <= self.topics.len() || self.config.assembly_bytes_max < LARGE;
            let full = client.close_code == Some(1013) && bounded;
            let told = client.close_code == Some(1001) || full;
            let due = client.good && !client.misbehaved && client.status == Some(101) && !client.leaving;
            if due && !told {
                return Err(format!("client {number}, a good one, got {:?} in the drain", client.close_code));
            }
        }
        Ok(())
    }
}
