//! Calls of the server API: here they meet the homes.

use super::{driver::Driver, stats::Family, worker::Worker};
use crate::{
    protocol::http::{Refusal, Response},
    session::api::Call,
};

impl<D: Driver> Worker<D> {
    /// Carries a call out. No call is, yet.
    pub(super) fn call(&mut self, _call: &Call) -> Response {
        let refusal =
            Refusal::new(501, "api_call", "the API understands this call, and does not carry it out yet");
        self.stats().count(Family::Refused, refusal.reason);
        refusal.into()
    }
}
