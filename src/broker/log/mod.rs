//! A topic's log: what its messages are on the wire, one after another, written once.
//!
//! [`Log`] is the home's side: it appends. [`View`] is a worker's side: it reads. Between them travel
//! [`Extent`]s, runs of whole units in one segment. A large message is an extent in a segment of its own,
//! and the open small segment goes on behind it.

mod extent;
mod segment;
mod view;
mod write;

pub use extent::Extent;
pub use segment::{Span, Writer};
pub use view::{Place, View};
pub use write::{LARGE_BYTES, Log, LogFull, Unit};
