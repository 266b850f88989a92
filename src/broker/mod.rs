//! Topics, their logs and the subscriptions that read them: pure, no sockets, no clock, no wire format.
//!
//! ```text
//!   home worker                                   every worker with subscribers
//!   Homes ── Topic ── Log ──(Head: extents)──▶    Lane ── View ── entries (cursors)
//!     ▲                                             │
//!     └──────────────(floor: all swept have it)─────┘
//! ```
//!
//! A topic has one *home*, which gives offsets and appends finished units to the log. Other workers hold
//! references to the log's segments ([`log::View`]) and learn by mail how far they may read. A subscription
//! is a cursor in a [`lane::Lane`]; nothing is queued for it.

pub mod encoding;
pub mod home;
pub mod ids;
pub mod lane;
pub mod limits;
pub mod log;
pub mod name;
pub mod pattern;
pub mod rules;
pub mod schedule;
