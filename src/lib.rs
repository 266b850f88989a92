//! Stentor: a dedicated WebSocket broadcast server.
//!
//! A message comes in at one place and is put in front of very many clients at once.
//! `docs/architecture.md` draws the whole; each module's first lines say what it owns.

pub mod broker;
pub mod cli;
pub mod config;
pub mod engine;
pub mod protocol;
pub mod server;
pub mod session;

/// The guide for programs that embed the server: what it shows is compiled as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
pub struct EmbeddingGuide;
