//! `/echo`: every message comes back. For conformance suites and latency tests.

use super::{Context, Failure, Message, Session};

/// Sends back what it gets.
#[derive(Debug)]
pub struct Echo;

impl Session for Echo {
    fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
        context.send(message);
        Ok(())
    }
}
