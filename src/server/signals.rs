//! SIGTERM and SIGINT: the first begins a drain, the second ends the process at once.

use std::io;

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Exit status after a second signal: 128 and the signal's number, as a shell would have it.
const KILLED: i32 = 128;

/// Has a thread call `drain` at the first signal.
///
/// # Errors
/// The system refuses to deliver signals, or gives no thread.
pub fn on_signal(drain: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut received = signals.forever();
        if received.next().is_some() {
            tracing::info!("draining: clients are closed with 1001; a second signal ends at once");
            drain();
        }
        if let Some(signal) = received.next() {
            std::process::exit(KILLED + signal);
        }
    })?;
    Ok(())
}
