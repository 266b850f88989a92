//! What the machine gives: open files, cores.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use super::StartError;
use crate::{broker::ids::WorkerId, config::Config};

/// Descriptors for everything but connections and workers: standard streams, logs, a few to spare.
const SPARE_FILES: u64 = 32;

/// How many connections the limit on open files holds; the limit is raised as far as it may be.
///
/// # Errors
/// It holds fewer than `--max-connections` asks for.
pub(super) fn connections_max(config: &Config) -> Result<usize, StartError> {
    let files = raise_open_files();
    // Per worker: epoll, its wake-up, its listeners.
    let workers = config.workers as u64 * (2 + config.listen.len() as u64);
    let room = usize::try_from(files.saturating_sub(SPARE_FILES + workers)).unwrap_or(usize::MAX);
    match config.max_connections {
        None if room > 0 => Ok(room),
        Some(asked) if asked <= room => Ok(asked),
        asked => Err(StartError(format!(
            "the limit on open files ({files}) holds {room} connections{}: raise it (ulimit -n {}) or lower --max-connections",
            asked.map_or_else(String::new, |asked| format!(", fewer than --max-connections {asked}")),
            asked.unwrap_or(1) as u64 + SPARE_FILES + workers,
        ))),
    }
}

fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum || setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum.unwrap_or(u64::MAX)
    } else {
        limit.current.unwrap_or(u64::MAX)
    }
}

/// Binds the calling thread to the worker's core: the n-th of those that this process may use.
pub(super) fn pin(worker: WorkerId) {
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    let Some(&core) = cores.get(worker.index() % cores.len().max(1)) else { return };
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(worker = worker.0, core, %error, "the worker can't be bound to its core");
    }
}
