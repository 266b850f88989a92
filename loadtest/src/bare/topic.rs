//! The one topic: its log, its subscribers, and the means of sending from the one to the others.

use std::os::fd::OwnedFd;

use super::log::Log;
use super::sends::Sender;
use super::subscribers::Subscribers;
use crate::cli::BareArgs;
use crate::failure::Failure;

/// The one topic.
pub(super) struct Topic {
    pub(super) log: Log,
    pub(super) subscribers: Subscribers,
    pub(super) sender: Sender,
}

impl Topic {
    /// An empty topic; the process may have `files` open files.
    pub(super) fn new(args: &BareArgs, files: u64) -> Result<Self, Failure> {
        Ok(Self {
            log: Log::new(args.take.messages()),
            subscribers: Subscribers::default(),
            sender: Sender::new(args.sends, args.direct_descriptors, files)?,
        })
    }

    /// Adds connection `slot` as a subscriber to what is published from now on; its position.
    pub(super) fn join(&mut self, slot: u32, socket: OwnedFd) -> Result<u32, Failure> {
        let socket = self.sender.admit(slot, socket)?;
        Ok(self.subscribers.join(slot, socket, self.log.head()))
    }

    /// Lets the subscriber at `position` go.
    pub(super) fn leave(&mut self, slot: u32, position: u32) -> Result<(), Failure> {
        self.subscribers.leave(position);
        self.sender.dismiss(slot)
    }

    /// Between two walks: closes up the places of subscribers that have gone, and drops bytes that all have.
    pub(super) fn tidy(&mut self, moved: impl FnMut(u32, u32)) {
        self.subscribers.close_up(moved);
        if self.log.is_long() {
            self.log.compact(self.subscribers.floor().min(self.log.head()));
        }
    }
}
