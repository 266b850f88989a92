//! On which CPUs server and generator run.

use super::args::{PlacementChoice, Series};
use crate::cli::CpuList;
use crate::failure::Failure;
use crate::proc::{allowed_cpus, bound_to};

/// On which CPUs server and generator run.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Placement {
    /// Each on its own.
    Apart {
        /// The server's.
        server: CpuList,
        /// The generator's.
        load: CpuList,
    },
    /// Wherever the system puts them.
    Free,
}

impl Placement {
    /// As `--placement` says, or apart if there are two CPUs; checked.
    pub(super) fn choose(series: &Series) -> Result<Vec<Self>, Failure> {
        let allowed = allowed_cpus();
        let choice = series.placement.unwrap_or(match allowed.len() {
            0 | 1 => PlacementChoice::Free,
            _ => PlacementChoice::Apart,
        });
        if choice == PlacementChoice::Free {
            return Ok(vec![Self::Free]);
        }
        let cpu = |asked: &Option<CpuList>, index: usize| match asked {
            Some(cpus) => Ok(cpus.clone()),
            None => allowed.get(index).map(|cpu| CpuList::one(*cpu)).ok_or_else(|| {
                Failure::Usage("--placement apart needs two CPUs, and this process may use one: free".into())
            }),
        };
        let (server, load) = (cpu(&series.server_cpus, 0)?, cpu(&series.load_cpus, 1)?);
        if let Some(shared) = server.numbers().iter().find(|cpu| load.numbers().contains(cpu)) {
            return Err(Failure::Usage(format!(
                "CPU {shared} is both the server's ({server}) and the generator's ({load}): give --server-cpus and \
                 --load-cpus different CPUs, or use --placement free"
            )));
        }
        for cpus in [&server, &load] {
            bound_to(cpus.numbers(), || ())?;
        }
        let apart = Self::Apart { server, load };
        Ok(if choice == PlacementChoice::Both { vec![apart, Self::Free] } else { vec![apart] })
    }

    /// One word, for the name of a variant.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Apart { .. } => "apart",
            Self::Free => "free",
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Apart { server, load } => format!("apart: server on CPU {server}, generator on CPU {load}"),
            Self::Free => "free: server and generator on any CPU".into(),
        }
    }

    /// CPUs of the server, if it has its own.
    pub(super) fn server(&self) -> Option<&CpuList> {
        match self {
            Self::Apart { server, .. } => Some(server),
            Self::Free => None,
        }
    }

    /// How many CPUs the server may use.
    pub(super) fn server_cpus(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.server().map_or_else(all, |cpus| cpus.numbers().len())
    }

    /// CPUs of the generator, if it has its own.
    pub(super) fn load(&self) -> Option<&CpuList> {
        match self {
            Self::Apart { load, .. } => Some(load),
            Self::Free => None,
        }
    }
}

/// Calls `work` while bound to `cpus`, if any.
pub(super) fn within<T>(cpus: Option<&CpuList>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    match cpus {
        Some(cpus) => bound_to(cpus.numbers(), work),
        None => Ok(work()),
    }
}
