//! What every scenario needs around its threads: a common stop, the first failure, phases with a progress bar.
//!
//! Each thread owns its connections; it shares with the main thread only this and a few relaxed counters.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;

/// How long a thread waits for events before it looks whether to stop.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// Shared by the main thread and those that hold connections.
#[derive(Debug, Default)]
pub(crate) struct Control {
    ready: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl Control {
    /// A thread has opened all its connections.
    pub(crate) fn ready(&self) {
        self.ready.fetch_add(1, Ordering::Release);
    }

    /// Threads that are ready.
    pub(crate) fn ready_threads(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }

    /// Ends all threads.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// All threads are to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Keeps the first failure of any thread, and ends them all.
    pub(crate) fn guard<T>(&self, outcome: Result<T, Failure>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(failure) => {
                self.failure.lock().expect("no thread panics with a failure in hand").get_or_insert(failure);
                self.stop();
                None
            }
        }
    }

    /// The failure that was kept.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        let kept = self.failure.lock().expect("no thread panics with a failure in hand").take();
        kept.map_or(Ok(()), Err)
    }
}

/// A line on the terminal; nothing if standard error is no terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// An empty line.
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{spinner} {prefix:>10} [{bar:24}] {msg}");
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(10));
        Self(bar.with_style(style.expect("the template is a constant")))
    }

    /// Names the phase that begins, `length` long in whatever `wait` counts.
    pub(crate) fn phase(&self, name: &'static str, length: u64) {
        self.0.set_prefix(name);
        self.0.set_length(length.max(1));
        self.0.set_position(0);
        self.0.set_message("");
    }

    /// Waits until `position` returns `None`, a thread fails, or `deadline`; shows the position and its text
    /// meanwhile.
    pub(crate) fn wait(
        &self,
        control: &Control,
        deadline: Option<Instant>,
        mut position: impl FnMut() -> Option<(u64, String)>,
    ) {
        while !control.stopped() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let Some((at, text)) = position() else { return };
            self.0.set_position(at);
            self.0.set_message(text);
            let left =
                deadline.map_or(PATIENCE, |deadline| deadline.saturating_duration_since(Instant::now()));
            std::thread::sleep(left.min(PATIENCE));
        }
    }

    /// A phase of fixed length, with a text that changes.
    pub(crate) fn wait_for(
        &self,
        control: &Control,
        name: &'static str,
        duration: Duration,
        mut text: impl FnMut(Duration) -> String,
    ) {
        let began = Instant::now();
        self.phase(name, duration.as_millis() as u64);
        self.wait(control, Some(began + duration), || {
            let elapsed = began.elapsed();
            Some((elapsed.as_millis() as u64, text(elapsed)))
        });
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A rate that is read off a counter now and then.
#[derive(Debug)]
pub(crate) struct LiveRate {
    at: Instant,
    count: u64,
    rate: f64,
}

impl LiveRate {
    /// Starts from zero.
    pub(crate) fn new() -> Self {
        Self { at: Instant::now(), count: 0, rate: 0.0 }
    }

    /// The rate per second over about the last half second.
    pub(crate) fn update(&mut self, count: u64) -> f64 {
        let elapsed = self.at.elapsed();
        if elapsed >= Duration::from_millis(500) {
            self.rate = (count - self.count) as f64 / elapsed.as_secs_f64();
            (self.at, self.count) = (Instant::now(), count);
        }
        self.rate
    }
}
