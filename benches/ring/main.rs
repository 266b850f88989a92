//! Two questions about io_uring for a driver: how to receive, and how one thread wakes another. Over sockets of the
//! loopback device, without the server.
//!
//! - `receive`, `ways`: what a message costs that is received with epoll, with polls, or by receives that go on;
//! - `memory`: what an idle socket takes in the kernel with each of them;
//! - `wake`: a round trip between two threads that sleep in their rings;
//! - `ring`: the ring of all of these, set up as the driver's.
//!
//! The differences are small, and where others run on the same processors, a mean is about them. So medians, system calls,
//! memory and processor time are printed beside.

mod memory;
mod receive;
mod ring;
mod wake;
mod ways;

use std::time::Duration;

use criterion::{Criterion, criterion_group};

use ring::Ring;

/// All benches together take about three minutes.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(
    name = benches;
    config = config();
    targets = receive::receiving, wake::waking
);

/// Of single rounds, which others disturb only if they always run.
fn median(times: &mut [Duration]) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}

fn main() {
    match Ring::new(1) {
        Ok(_) => benches(),
        Err(error) => println!("NOT RUN: there is no io_uring as the driver wants it: {error}"),
    }
}
