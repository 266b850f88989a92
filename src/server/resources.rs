//! What the machine gives: open files, cores.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use super::StartError;
use crate::{broker::ids::WorkerId, config::Config, engine::driver::Descriptors};

/// Descriptors for everything but connections and workers: standard streams, logs, a few to spare.
const SPARE_FILES: u64 = 32;

/// Places of a ring's table for connections that are only told that they are too many, and for one that is handed over.
const SPARE_PLACES: u64 = 66;

/// A worker may have a 64th more connections than another before one is handed over: places for 64 in 65.
const BALANCE: u64 = 64;

/// What the limit on open files holds, after it was raised as far as it may be.
pub(super) struct Room {
    /// How sockets are held.
    pub descriptors: Descriptors,
    /// Connections of the server.
    pub connections: usize,
}

/// How many connections the limit on open files holds.
///
/// # Errors
/// It holds fewer than `--max-connections` asks for.
pub(super) fn room(config: &Config) -> Result<Room, StartError> {
    let open_files = raise_open_files();
    let workers = config.workers as u64;
    let descriptors =
        if config.direct_descriptors { Descriptors::direct(open_files) } else { Descriptors::Ordinary };
    let (held, needed): (u64, Box<dyn Fn(u64) -> u64>) = match descriptors {
        Descriptors::Direct { places } => {
            // It bounds each worker's table.
            let per_worker = u64::from(places).saturating_sub(SPARE_PLACES) / (BALANCE + 1) * BALANCE;
            let needed =
                move |asked: u64| asked.div_ceil(workers).div_ceil(BALANCE) * (BALANCE + 1) + SPARE_PLACES;
            (per_worker * workers, Box::new(needed))
        }
        Descriptors::Ordinary => {
            // Per worker: epoll or a ring, its wake-up, its listeners.
            let spare = SPARE_FILES + workers * (2 + config.listen.len() as u64);
            (open_files.saturating_sub(spare), Box::new(move |asked| asked + spare))
        }
    };
    let held = usize::try_from(held).unwrap_or(usize::MAX);
    match config.max_connections {
        None if held > 0 => Ok(Room { descriptors, connections: held }),
        Some(asked) if asked <= held => Ok(Room { descriptors, connections: asked }),
        asked => {
            let files = needed(asked.unwrap_or(1) as u64);
            // More places than a ring's table can have are of no use, whatever the limit.
            let raise = match Descriptors::direct(files) {
                Descriptors::Direct { places } if config.direct_descriptors && u64::from(places) < files => {
                    "add --workers".to_owned()
                }
                _ => format!("raise it (ulimit -n {files})"),
            };
            Err(StartError(format!(
                "the limit on open files ({open_files}) holds {held} connections{}: {raise} or lower --max-connections",
                asked.map_or_else(String::new, |asked| format!(", fewer than --max-connections {asked}")),
            )))
        }
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
