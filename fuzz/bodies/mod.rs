//! What the fuzz targets do with their input, as plain functions: libFuzzer calls them on nightly, and
//! `tests/corpus.rs` replays the committed corpus through them on stable. A function that panics has found something.

pub mod broker_operations;
pub mod frames;
pub mod handshake;
mod reference;
pub mod session;

/// A target's name, which is also its corpus', and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("frames", frames::frames),
    ("handshake", handshake::handshake),
    ("session", session::session),
    ("broker_operations", broker_operations::broker_operations),
];
