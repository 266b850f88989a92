//! Reports: what has become of a message, lane by lane, for publishers that want to know.
//!
//! The home asks each lane that reads the log, with the head that covers the message: so nobody has it yet. From then on every
//! subscription that was there is counted once: it got the message, is behind, was made to skip it, got a newer one instead,
//! or has ended. The lane reports when its floor has passed the message, or after a second.

use super::{driver::Driver, mail::Caller, worker::Worker};
use crate::{
    broker::{
        home::{Note, Receipt, ReportRequest},
        ids::{ConnectionId, Key, Mark, Position, Tick},
    },
    session::api::{Reply, reply::Report},
};

/// How long a lane may take to report.
const PATIENCE: u32 = Tick::PER_SECOND;

/// A message that a lane reports of.
pub(super) struct Watch {
    receipt: Receipt,
    lane: Key,
    /// The place behind the message.
    end: Mark,
    exclude: Option<ConnectionId>,
    until: Tick,
    /// Subscriptions that were to get it.
    readers: u64,
    /// What has become of some of them so far.
    report: Report,
}

/// Why a subscription never gets a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Missed {
    /// It was too slow, and goes on behind it.
    Skipped,
    /// It gets a newer one instead.
    Conflated,
    /// It has ended.
    Closed,
}

impl<D: Driver> Worker<D> {
    /// A message that the next head covers is to be reported of.
    pub(super) fn watch(&mut self, lane: u32, request: ReportRequest) {
        let ReportRequest { receipt, end, exclude } = request;
        let mut readers = self.lanes.at(lane).lane.len() as u64;
        if let Some(connection) = exclude.filter(|connection| self.connections.is_current(*connection)) {
            let first = self.connections.first_subscription(connection.slot);
            let excluded = self.lanes.of_connection(first, lane);
            readers -= u64::from(excluded.is_some_and(|key| self.lanes.is_seated(key)));
        }
        let (lane, until) = (self.lanes.key(lane), self.now.after(PATIENCE));
        let report = Report::default();
        self.watches.push(Watch { receipt, lane, end, exclude, until, readers, report });
    }

    /// The cursor of a subscription goes from one place to another, or nowhere, without what lies between.
    pub(super) fn note_missed(
        &mut self,
        lane: u32,
        slot: u32,
        from: Position,
        to: Option<Position>,
        missed: Missed,
    ) {
        let (lane, connection) = (self.lanes.key(lane), self.connections.id(slot));
        let passed = |end: Position| from < end && to.is_none_or(|to| end <= to);
        for watch in self.watches.iter_mut().filter(|watch| watch.lane == lane) {
            if passed(watch.end.position) && watch.exclude != Some(connection) {
                *match missed {
                    Missed::Skipped => &mut watch.report.skipped,
                    Missed::Conflated => &mut watch.report.conflated,
                    Missed::Closed => &mut watch.report.closed,
                } += 1;
            }
        }
    }

    /// A subscription has got its place in the log: before a message that is watched, it is one of its readers.
    pub(super) fn note_seated(&mut self, lane: u32, slot: u32, from: Position) {
        let (lane, connection) = (self.lanes.key(lane), self.connections.id(slot));
        for watch in self.watches.iter_mut().filter(|watch| watch.lane == lane) {
            let is_reader = from < watch.end.position && watch.exclude != Some(connection);
            watch.readers += u64::from(is_reader);
        }
    }

    /// Messages of a lane that is not there any more were to be reported of.
    pub(super) fn report_nothing(&mut self, notes: &[Note]) {
        for note in notes {
            if let Note::Report(ReportRequest { receipt: Receipt { connection, number }, .. }) = *note {
                self.errand_done(Caller { connection, number }, Ok(Reply::Reported(Report::default())));
            }
        }
    }

    /// Reports of the messages that all swept subscriptions have, or whose time is over.
    pub(super) fn look_at_watches(&mut self) {
        for mut watch in std::mem::take(&mut self.watches) {
            let end = watch.end.position;
            let floor = self.lanes.by_key(watch.lane).map(|record| record.lane.floor().position);
            if floor.is_some_and(|floor| floor < end) && self.now < watch.until {
                self.watches.push(watch);
                continue;
            }
            let excluded = watch.exclude.filter(|connection| self.connections.is_current(*connection));
            let excluded = excluded.map(|connection| connection.slot);
            if let Some(record) = self.lanes.by_key(watch.lane) {
                // Those that are swept have what lies before the floor.
                let swept = if floor.is_some_and(|floor| floor >= end) { &[] } else { record.lane.swept() };
                let entries = swept.iter().chain(record.lane.behind());
                let left = entries.filter(|entry| entry.position < end && Some(entry.connection) != excluded);
                for entry in left {
                    *if entry.lost { &mut watch.report.skipped } else { &mut watch.report.behind } += 1;
                }
            }
            let Report { behind, skipped, conflated, closed, .. } = watch.report;
            watch.report.sent = watch.readers.saturating_sub(behind + skipped + conflated + closed);
            let Receipt { connection, number } = watch.receipt;
            self.errand_done(Caller { connection, number }, Ok(Reply::Reported(watch.report)));
        }
    }
}
