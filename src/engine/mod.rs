//! The engine: workers, each one thread with one event loop that owns its sockets, timers and memory.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `worker` | the worker and its tick: the order of everything |
//! | `connections` | dense arrays of connections |
//! | `accept` | new connections: bounds, balance between workers |
//! | `read` | bytes in: who is received from, and into what |
//! | `feed` | HTTP requests and WebSocket frames, feeding sessions |
//! | `commands` | what sessions ask for |
//! | `api` | what backends ask for |
//! | `reports` | what has become of a message, for publishers that want to know |
//! | `guesses` | wrong keys, by address |
//! | `subscribe`, `lanes` | subscriptions and their hand-over to the log |
//! | `sweep` | the ring sweep; **backpressure**: what a refused send leads to |
//! | `gather` | connections with several topics: what is new leaves in one send |
//! | `streams` | event streams: what a client that only listens is sent, and the ids of those with several topics |
//! | `slow` | **slow consumers**: the policies, and what is kept of a log |
//! | `interval` | least times between deliveries |
//! | `flush`, `outgoing` | a connection's own queue |
//! | `closing`, `farewell` | close handshakes, ends, drain |
//! | `due`, `deadlines` | timeouts and pings |
//! | `post`, `mail`, `mailboxes`, `outbox` | mail between workers, push-back by credits |
//! | `outside`, `letterbox` | what threads that are no workers ask for |
//! | `stats` | counters |
//! | `welcome` | what is sent beside messages: welcomes, word of what was skipped |
//! | `sync` | what threads share the mailboxes by |
//! | `trim` | free memory back to the system |
//! | `audit` | what must be true between two turns |
//! | `driver` | sockets |
//!
//! Feeding never writes to a socket: sends happen in the sweep and the flush. Only the tick reads the
//! clock, so a worker is a function of bytes, mail and time.

mod accept;
mod api;
mod audit;
mod closing;
mod commands;
mod connections;
mod deadlines;
pub mod driver;
mod due;
mod farewell;
mod feed;
mod flush;
mod gather;
mod guesses;
mod interval;
mod lanes;
mod letterbox;
mod mail;
mod mailboxes;
mod outbox;
mod outgoing;
pub mod outside;
mod post;
mod read;
mod reports;
pub mod shared;
mod slow;
pub mod stats;
mod streams;
mod subscribe;
mod sweep;
mod sync;
#[cfg(test)]
mod tests;
pub(crate) mod trim;
mod welcome;
mod worker;

pub use shared::{Settings, Shared};
pub use worker::{Turn, Worker};
