//! The server as a whole: checks what the machine can hold, binds, starts the workers, stops them.
//!
//! Nothing is started unless everything can be: errors are one line that says what to do.

pub mod log;
pub mod metrics;
mod resources;
pub mod signals;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};

use crate::{
    broker::{ids::WorkerId, limits::Gauge},
    config::Config,
    engine::{
        Settings, Shared, Worker,
        driver::{Driver, Epoll, listener},
        stats::Stats,
    },
    session::{
        Router,
        routes::{MetricsText, Routes},
    },
};

pub use crate::engine::trim::prepare_allocator;

type EpollShared = Shared<<Epoll as Driver>::Socket>;

/// A running server. Dropping it does not stop it: [`Server::drain`] and [`Server::join`] do.
pub struct Server {
    addresses: Vec<SocketAddr>,
    shared: Arc<EpollShared>,
    metrics: MetricsText,
    workers: Vec<JoinHandle<std::io::Result<()>>>,
}

/// Why a server did not start. The text says what to do.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl Server {
    /// Starts a server with the routes of its own.
    ///
    /// # Errors
    /// An address is taken, the machine can't hold what is asked for, or a pattern can't be read.
    pub fn start(config: &Config) -> Result<Server, StartError> {
        let counts = Counts::new(config);
        let routes = Routes::new(config, counts.metrics())
            .map_err(|error| StartError(format!("--allow-origin: {error}")))?;
        Server::start_counted(config, Arc::new(routes), counts)
    }

    /// Starts a server with routes of the embedding program. Of `config`, what concerns the server's own
    /// routes (who may connect, subprotocols, echo) has no effect then.
    ///
    /// # Errors
    /// An address is taken, or the machine can't hold what is asked for.
    pub fn start_with(config: &Config, router: Arc<dyn Router>) -> Result<Server, StartError> {
        Server::start_counted(config, router, Counts::new(config))
    }

    fn start_counted(config: &Config, router: Arc<dyn Router>, counts: Counts) -> Result<Server, StartError> {
        let metrics = counts.metrics();
        let Counts { stats, topics, logs } = counts;
        let connections_max = resources::connections_max(config)?;
        let options = listener::Options {
            backlog: config.backlog,
            send_buffer_bytes: config.send_buffer_bytes,
            receive_buffer_bytes: config.receive_buffer_bytes,
        };
        let (listeners, addresses) =
            listener::bind(&config.listen, config.workers, options).map_err(cannot_listen)?;
        let system = |error| StartError(format!("the system gives no event queue: {error}"));
        let started = Instant::now();
        let drivers: Vec<Epoll> = listeners
            .into_iter()
            .map(|listeners| Epoll::new(listeners, started))
            .collect::<Result<_, _>>()
            .map_err(system)?;
        let wakes = drivers.iter().map(Driver::wake).collect();
        let seed = RandomState::new().hash_one(std::process::id());
        let settings = Settings::new(config, connections_max, seed);
        let shared = Arc::new(Shared::new(settings, router, stats, topics, logs, wakes));
        let mut workers = Vec::new();
        for (number, driver) in drivers.into_iter().enumerate() {
            let id = WorkerId(u16::try_from(number).expect("at most 256 workers"));
            let shared = Arc::clone(&shared);
            let pin = config.pin;
            let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
                if pin {
                    resources::pin(id);
                }
                let _stop = DrainOnExit(Arc::clone(&shared));
                Worker::new(id, driver, shared).run()
            });
            workers.push(thread.map_err(|error| StartError(format!("the system gives no thread: {error}")))?);
        }
        Ok(Server { addresses, shared, metrics, workers })
    }

    /// Where it listens; with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        (self.metrics)()
    }

    /// Begins to stop: no new connections, clients are closed with 1001, spread over the drain timeout.
    pub fn drain(&self) {
        self.shared.drain();
    }

    /// What lets another thread begin the drain.
    pub fn drainer(&self) -> impl Fn() + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.drain()
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// A worker's event queue broke, or a worker panicked.
    pub fn join(self) -> std::io::Result<()> {
        for worker in self.workers {
            worker.join().map_err(|_| std::io::Error::other("a worker panicked"))??;
        }
        Ok(())
    }
}

/// A worker that ends, for whatever reason, takes the server with it: the others could not reach the topics
/// whose home it was.
struct DrainOnExit(Arc<EpollShared>);

impl Drop for DrainOnExit {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// What is counted: by the workers, and for the bounds of the whole process.
struct Counts {
    stats: Arc<Vec<Stats>>,
    topics: Arc<Gauge>,
    logs: Arc<Gauge>,
}

impl Counts {
    fn new(config: &Config) -> Counts {
        Counts {
            stats: Arc::new((0..config.workers).map(|_| Stats::default()).collect()),
            topics: Gauge::new(config.max_topics),
            logs: Gauge::new(config.log_bytes_max),
        }
    }

    fn metrics(&self) -> MetricsText {
        metrics::text(Arc::clone(&self.stats), Arc::clone(&self.topics), Arc::clone(&self.logs))
    }
}

fn cannot_listen(error: listener::BindError) -> StartError {
    use std::io::ErrorKind;
    let listener::BindError { address, error } = error;
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another process listens there: stop it, or choose another --listen",
        ErrorKind::PermissionDenied => {
            "this user may not: choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
        }
        ErrorKind::AddrNotAvailable => "this machine does not have that address: choose another --listen",
        _ => "choose another --listen",
    };
    StartError(format!("can't listen on {address}: {error}; {advice}"))
}
