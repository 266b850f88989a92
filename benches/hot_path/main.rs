//! What the hot path costs without sockets: its parts one by one, and a worker as a whole over the driver in memory.
//! Each bench checks its answer.

#[path = "../../tests/common/mod.rs"]
mod common;
mod parts;
mod whole;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// All benches together take about three minutes.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(
    name = benches;
    config = config();
    targets =
        parts::parsing,
        parts::unmasking,
        parts::validating,
        parts::rewriting,
        parts::reading,
        parts::appending,
        parts::lap,
        whole::sweeping,
        whole::publishing,
);
criterion_main!(benches);
