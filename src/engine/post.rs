//! A worker's mail: what it takes, and what it posts once per turn, before the sweep.

use super::{
    driver::Driver,
    mail::{Batch, Control, Credits, Floor, Recover, Recovered},
    mailboxes::Patience,
    worker::Worker,
};
use crate::{
    broker::{
        home::{Published, Sender},
        ids::WorkerId,
    },
    session::Error,
};

impl<D: Driver> Worker<D> {
    /// Takes what the others sent, one after another. As a home: appends.
    pub(super) fn take_mail(&mut self) {
        for from in (0..self.shared.workers()).map(WorkerId) {
            if from == self.id || !self.shared.post.has_mail(from, self.id) {
                continue;
            }
            let mut mail = std::mem::take(&mut self.mail);
            self.shared.post.take(from, self.id, &mut mail);
            if !mail.is_empty() {
                self.stats().mail_taken.add(1);
                self.open_mail(from, &mut mail);
                mail.clear();
            }
            self.mail = mail;
        }
        self.take_orders();
        if !self.refused.is_empty() {
            std::mem::take(&mut self.refused).into_iter().for_each(|lane| self.lane_refused(lane));
        }
    }

    fn open_mail(&mut self, from: WorkerId, mail: &mut Batch<D::Socket>) {
        for (socket, address) in mail.sockets.drain(..) {
            self.welcome(socket, address);
        }
        for control in mail.control.drain(..) {
            match control {
                Control::Join(topic, encoding, lane) => {
                    if self.homes.join(&topic, encoding, from, lane, self.now).is_err() {
                        self.outboxes[from.index()].batch.control.push(Control::Refused(lane));
                    }
                }
                Control::Leave(topic, lane) => self.homes.leave(&topic, from, lane, self.now),
                Control::Recover(Recover { topic, encoding, start, asker }) => {
                    let replay = self.homes.replay(&topic, encoding, start, self.now);
                    self.outboxes[from.index()].batch.recovered.push(Recovered { asker, replay });
                }
                Control::Refused(lane) => self.lane_refused(lane),
                Control::Dropped(sender, receipt) => self.dropped(sender, receipt, Error::TooManyTopics),
                Control::Receipted(receipted) => self.receipted(receipted),
                Control::Errand(caller, errand) => self.do_errand(caller, *errand),
                Control::Done(caller, outcome) => self.errand_done(caller, *outcome),
            }
        }
        for floor in mail.floors.drain(..) {
            self.homes.raise_floor(floor.topic, from, floor.lane, floor.floor, self.now);
        }
        for head in mail.heads.drain(..) {
            self.apply_head(head);
        }
        if !mail.recovered.is_empty() {
            mail.recovered.drain(..).for_each(|recovered| self.recovered(recovered));
        }
        for (publish, unit) in mail.requests() {
            let bytes = unit.bytes().len();
            let sender = Sender::Worker(from, bytes);
            match self.homes.publish(&publish.topic, unit, publish.delivery.clone(), sender, self.now) {
                Published::Held => continue,
                Published::Taken | Published::TooLate => {}
                Published::TooManyTopics => {
                    let dropped = Control::Dropped(publish.sender, publish.delivery.receipt);
                    self.outboxes[from.index()].batch.control.push(dropped);
                }
            }
            self.give_credit(from, bytes);
        }
        let mut released = Vec::new();
        self.outboxes[from.index()].credit(mail.credits, |sender, bytes| released.push((sender, bytes)));
        released.into_iter().for_each(|(sender, bytes)| self.release(sender, bytes));
    }

    /// Posts: floors to homes, heads to lanes (its own included), requests, credits.
    pub(super) fn post(&mut self, patience: Patience) {
        self.post_floors();
        self.let_go_held();
        self.post_heads();
        if self.homes.has_receipts() || !self.failed.is_empty() {
            self.post_receipts();
        }
        if !self.recovered.is_empty() {
            std::mem::take(&mut self.recovered).into_iter().for_each(|recovered| self.recovered(recovered));
        }
        let taken = self.homes.take_count();
        self.stats().messages_published.add(taken);
        let late = self.homes.take_late_count();
        self.stats().messages_late.add(late);
        for to in (0..self.shared.workers()).map(WorkerId) {
            if to != self.id {
                self.shared.post.put(self.id, to, &mut self.outboxes[to.index()].batch, patience);
            }
        }
        self.shared.post.settle(self.id, &mut self.orders.account, patience);
    }

    fn post_floors(&mut self) {
        // Trimming may close who is slow, and so end laps of their other topics: the list grows meanwhile.
        let mut at = 0;
        while at < self.floors.len() {
            let lane = self.floors[at];
            at += 1;
            let Some(record) = self.lanes.get(lane) else { continue };
            let floor = record.lane.floor();
            let Some(topic) = record.topic else { continue };
            if floor == record.floor_sent {
                continue;
            }
            record.floor_sent = floor;
            let home = record.home;
            let key = self.lanes.key(lane);
            if home == self.id {
                self.homes.raise_floor(topic, self.id, key, floor, self.now);
            } else {
                self.outboxes[home.index()].batch.floor(Floor { topic, lane: key, floor });
            }
            self.trim(lane);
        }
        self.floors.clear();
    }

    fn post_heads(&mut self) {
        for to in (0..self.shared.workers()).map(WorkerId) {
            while let Some((topic, encoding)) = self.homes.dirty(to).pop() {
                let Some(head) = self.homes.head_for(topic, encoding, to) else { continue };
                if to == self.id {
                    self.apply_head(head);
                } else {
                    self.outboxes[to.index()].batch.head(head);
                }
            }
        }
    }

    /// Lets go of those whose held messages were taken.
    fn let_go_held(&mut self) {
        while let Some(sender) = self.homes.released().pop() {
            match sender {
                Sender::Connection(connection, bytes) => self.release(connection, bytes),
                Sender::Worker(worker, bytes) => self.give_credit(worker, bytes),
                Sender::Outside(bytes) => self.orders.account.give_back(Credits { messages: 1, bytes }),
                Sender::Schedule(number) => self.schedules.published(number),
                Sender::Announcement(bytes) => self.release_assembly(bytes),
            }
        }
    }

    fn give_credit(&mut self, to: WorkerId, bytes: usize) {
        let credits = &mut self.outboxes[to.index()].batch.credits;
        credits.messages += 1;
        credits.bytes += bytes;
    }
}
