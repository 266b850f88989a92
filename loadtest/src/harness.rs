//! What every scenario needs around its threads: a common stop, the first failure, phases with a live view.
//!
//! Each thread owns its connections; it shares with the main thread only this and a few relaxed counters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::Failure;
use crate::report::{Watch, bytes};

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

/// True from the first SIGINT or SIGTERM on; one more ends the program at once.
///
/// # Errors
/// The system refuses to deliver signals.
pub(crate) fn interrupted() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag not set yet.
        flag::register_conditional_default(signal, Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .map_err(Failure::system("cannot wait for signals"))?;
    }
    Ok(interrupted)
}

/// How often the lines on the terminal are written anew.
const REDRAW: Duration = Duration::from_millis(200);

/// Lines of a live view beside heading and phase.
const LINES: usize = 4;

/// A few lines on the terminal, redrawn in place; nothing if standard error is no terminal.
///
/// A command that stands alone makes one and drops it; a comparison keeps one over many runs and names each of them
/// in the heading.
#[derive(Debug)]
pub(crate) struct Screen {
    multi: MultiProgress,
    heading: ProgressBar,
    phase: ProgressBar,
    lines: [ProgressBar; LINES],
}

impl Screen {
    /// An empty one on standard error.
    pub(crate) fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr_with_hz(10))
    }

    /// One that shows nothing: for a run beside another that has the terminal.
    pub(crate) fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let multi = MultiProgress::with_draw_target(target);
        let line = |template: &str| {
            let style = ProgressStyle::with_template(template).expect("the templates are constants");
            multi.add(ProgressBar::no_length().with_style(style))
        };
        let heading = line("{msg}");
        let phase = line("{spinner} {prefix:>10} [{bar:24}] {msg}");
        let lines = std::array::from_fn(|_| line("{msg}"));
        Self { multi, heading, phase, lines }
    }

    /// A line of its own above the run's, such as which run of how many this is.
    pub(crate) fn heading(&self, text: impl Into<String>) {
        self.heading.set_message(text.into());
        self.heading.tick();
    }

    /// Whether nobody sees it.
    pub(crate) fn is_hidden(&self) -> bool {
        self.multi.is_hidden()
    }

    /// Prints a line that stays, above the others; to standard error if that is no terminal.
    pub(crate) fn print(&self, line: &str) {
        if self.is_hidden() {
            eprintln!("{line}");
        } else {
            // Nothing is left to be done about a terminal that cannot be written to.
            let _ = self.multi.println(line);
        }
    }

    /// Names the phase that begins, `length` long in whatever `wait` counts.
    pub(crate) fn phase(&self, name: &'static str, length: u64) {
        self.phase.set_prefix(name);
        self.phase.set_length(length.max(1));
        self.phase.set_position(0);
        self.phase.set_message("");
    }

    /// Waits until `position` returns `None`, a thread fails, or `deadline`. Shows the position, the time left if
    /// there is a deadline, and what `lines` says: label and value.
    pub(crate) fn wait(
        &self,
        control: &Control,
        deadline: Option<Instant>,
        mut position: impl FnMut() -> Option<u64>,
        mut lines: impl FnMut() -> Vec<(&'static str, String)>,
    ) {
        let mut drawn: Option<Instant> = None;
        while !control.stopped() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let Some(at) = position() else { return };
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !self.multi.is_hidden() && drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
                drawn = Some(Instant::now());
                self.phase.set_position(at);
                match left {
                    Some(left) => self.phase.set_message(format!("{:.1} s left", left.as_secs_f64())),
                    None => {
                        let of = self.phase.length().unwrap_or(0);
                        self.phase.set_message(format!("{at} of {of}"));
                    }
                }
                let lines = lines();
                for (index, line) in self.lines.iter().enumerate() {
                    let text = lines.get(index).map(|(label, value)| format!("{label:>12}  {value}"));
                    let text = text.unwrap_or_default();
                    if line.message() != text {
                        line.set_message(text);
                    }
                }
            }
            std::thread::sleep(left.map_or(PATIENCE, |left| left.min(PATIENCE)));
        }
    }

    /// A phase of fixed length, with lines that change.
    pub(crate) fn wait_for(
        &self,
        control: &Control,
        name: &'static str,
        duration: Duration,
        lines: impl FnMut() -> Vec<(&'static str, String)>,
    ) {
        self.wait_for_unless(control, name, duration, || false, lines);
    }

    /// The same, which ends early once `is_over`.
    pub(crate) fn wait_for_unless(
        &self,
        control: &Control,
        name: &'static str,
        duration: Duration,
        is_over: impl Fn() -> bool,
        lines: impl FnMut() -> Vec<(&'static str, String)>,
    ) {
        let began = Instant::now();
        self.phase(name, duration.as_millis() as u64);
        let position = || (!is_over()).then(|| began.elapsed().as_millis() as u64);
        self.wait(control, Some(began + duration), position, lines);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to be done about a terminal that cannot be written to.
        let _ = self.multi.clear();
    }
}

/// No lines: for phases in which there is nothing to say.
pub(crate) fn nothing() -> Vec<(&'static str, String)> {
    Vec::new()
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

/// The server's process now and then: CPU in use and memory, for a line of the live view.
#[derive(Debug)]
pub(crate) struct LiveServer<'a> {
    watch: &'a Watch,
    last: Option<(Instant, f64)>,
    cores: Option<f64>,
}

impl<'a> LiveServer<'a> {
    /// Reads through `watch`.
    pub(crate) fn new(watch: &'a Watch) -> Self {
        Self { watch, last: None, cores: None }
    }

    /// Adds the line, if the server's process is known and still there.
    pub(crate) fn append(&mut self, lines: &mut Vec<(&'static str, String)>) {
        let Ok(Some(sample)) = self.watch.server() else { return };
        let cpu_seconds = sample.user_seconds + sample.system_seconds;
        let (at, before) = *self.last.get_or_insert((Instant::now(), cpu_seconds));
        // Ticks of 10 ms: over half a second the figure is good to 2 %.
        if at.elapsed() >= Duration::from_millis(500) {
            self.cores = Some((cpu_seconds - before) / at.elapsed().as_secs_f64());
            self.last = Some((Instant::now(), cpu_seconds));
        }
        let cores = self.cores.map_or(String::new(), |cores| format!("{cores:.2} cores, "));
        lines.push(("server", format!("{cores}{}", bytes(sample.rss_anon_bytes as f64))));
    }
}
