//! The atomics and locks that the mailboxes are made of: the standard library's, and in their model check
//! loom's, which runs a test under every interleaving and every value that a load may see.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib loom_` is that check; no other test runs in such a build.

#[cfg(all(test, loom))]
pub use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, fence},
};
#[cfg(not(all(test, loom)))]
pub use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, fence},
};
