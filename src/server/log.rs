//! Logging: one line per event on standard error.

use tracing::Level;

use crate::config::LogLevel;

/// Writes events of `level` and graver ones. Does nothing where the process logs already.
pub fn init(level: LogLevel) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        .finish();
    // Fails only where an embedding program has set its own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
