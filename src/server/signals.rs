//! SIGTERM and SIGINT: the first begins a drain, the second ends the process at once.

use std::io;

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use super::ServerHandle;

/// Exit status after a second signal: 128 and the signal's number, as a shell would have it.
const KILLED: i32 = 128;

/// Has a thread drain the server at the first signal.
///
/// ```
/// use stentor::server::{Server, signals};
///
/// let server = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
/// signals::drain_on_signal(server.handle()).expect("the system gives a thread");
/// ```
///
/// # Errors
/// The system refuses to deliver signals, or gives no thread.
pub fn drain_on_signal(server: ServerHandle) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut received = signals.forever();
        if received.next().is_some() {
            tracing::info!("draining: clients are closed with 1001; a second signal ends at once");
            // It may have stopped already.
            let _ = server.drain();
        }
        if let Some(signal) = received.next() {
            std::process::exit(KILLED + signal);
        }
    })?;
    Ok(())
}
