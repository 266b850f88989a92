//! The server as a whole: checks what the machine can hold, binds, starts the workers, stops them.
//!
//! Nothing is started unless everything can be: errors are one line that says what to do.

mod builder;
mod handle;
pub mod log;
pub mod metrics;
mod resources;
pub mod signals;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    broker::{
        ids::{UnixTime, WorkerId},
        limits::Gauge,
    },
    config::{self, Config},
    engine::{
        Settings, Shared, Worker,
        driver::{Descriptors, Driver, Epoll, Uring, Wake, listener},
        outside::Outside,
        stats::Stats,
    },
    session::{
        Router,
        routes::{MetricsText, Routes},
    },
};

pub use crate::engine::trim::prepare_allocator;
pub use builder::Builder;
pub use handle::{HandleError, ServerHandle};

/// A running server. Dropping it does not stop it: [`ServerHandle::drain`] and [`Server::join`] do.
///
/// ```
/// use stentor::{config::Config, server::Server};
///
/// let config = Config { listen: vec![([127, 0, 0, 1], 0).into()], ..Config::default() };
/// let server = Server::start(&config).expect("a free port");
/// println!("listening on {}", server.addresses()[0]);
/// assert!(server.metrics().contains("stentor_connections"));
/// server.drain();
/// server.join().expect("no worker failed");
/// ```
pub struct Server {
    addresses: Vec<SocketAddr>,
    handle: ServerHandle,
    metrics: MetricsText,
    workers: Vec<JoinHandle<io::Result<()>>>,
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
    /// A server with sessions and pages of the embedding program, to be started.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts a server with the routes of its own.
    ///
    /// # Errors
    /// An address is taken, the machine can't hold what is asked for, or a pattern can't be read.
    pub fn start(config: &Config) -> Result<Server, StartError> {
        let counts = Counts::new(config);
        let routes = Routes::new(config, counts.metrics())
            .map_err(|error| StartError(format!("--allow-origin: {error}")))?;
        Server::start_counted(config, Arc::new(routes), counts, ServerHandle::new())
    }

    /// Starts a server whose requests all go to one router, which also decides who may come in: of `config`, what
    /// concerns that (anonymous clients, origins, subprotocols, echo) has no effect. [`Server::builder`] is for
    /// ordinary routes.
    ///
    /// # Errors
    /// An address is taken, or the machine can't hold what is asked for.
    pub fn start_with(config: &Config, router: Arc<dyn Router>) -> Result<Server, StartError> {
        Server::start_counted(config, router, Counts::new(config), ServerHandle::new())
    }

    fn start_counted(
        config: &Config,
        router: Arc<dyn Router>,
        counts: Counts,
        handle: ServerHandle,
    ) -> Result<Server, StartError> {
        let room = resources::room(config)?;
        let (server, what) = match config.driver {
            config::Driver::Auto | config::Driver::Epoll => {
                (start_on(config, router, counts, handle, room.connections, Epoll::new, no_epoll), "epoll")
            }
            config::Driver::Uring => {
                let descriptors = room.descriptors;
                let what = match descriptors {
                    Descriptors::Ordinary => "io_uring",
                    Descriptors::Direct { .. } => "io_uring with direct descriptors",
                };
                let make = move |listeners, started| Uring::new(listeners, descriptors, started);
                (start_on(config, router, counts, handle, room.connections, make, no_uring), what)
            }
        };
        if server.is_ok() {
            let why = if config.driver == config::Driver::Auto { "--driver auto" } else { "as asked for" };
            tracing::info!("sockets are moved by {what} ({why})");
        }
        server
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
        // Where it has stopped already there is nothing to do.
        let _ = self.handle.drain();
    }

    /// What lets any thread publish, close, count, and stop the server.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// A worker's event queue broke, or a worker panicked.
    pub fn join(self) -> io::Result<()> {
        for worker in self.workers {
            worker.join().map_err(|_| io::Error::other("a worker panicked"))??;
        }
        Ok(())
    }
}

/// Starts the workers on drivers of one kind. Each makes its own, since a driver may belong to the thread that made it.
fn start_on<D: Driver>(
    config: &Config,
    router: Arc<dyn Router>,
    counts: Counts,
    handle: ServerHandle,
    connections_max: usize,
    make: impl Fn(Vec<TcpListener>, Instant) -> io::Result<D> + Clone + Send + 'static,
    cannot_make: fn(&io::Error) -> StartError,
) -> Result<Server, StartError>
where
    D::Socket: 'static,
{
    let metrics = counts.metrics();
    let Counts { stats, topics, logs } = counts;
    let options = listener::Options {
        backlog: config.backlog,
        send_buffer_bytes: config.send_buffer_bytes,
        receive_buffer_bytes: config.receive_buffer_bytes,
    };
    let (listeners, addresses) =
        listener::bind(&config.listen, config.workers, options).map_err(cannot_listen)?;
    let (started, began) = (Instant::now(), SystemTime::now());
    let (mut workers, mut made, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut no_thread = None;
    for (number, listeners) in listeners.into_iter().enumerate() {
        let id = WorkerId(u16::try_from(number).expect("at most 256 workers"));
        let (tell, is_made) = mpsc::sync_channel::<io::Result<Wake>>(1);
        let (start, may_start) = mpsc::sync_channel::<Arc<Shared<D::Socket>>>(1);
        let (make, pin) = (make.clone(), config.pin);
        let thread = std::thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            if pin {
                resources::pin(id);
            }
            let made = make(listeners, started).map(|driver| (driver.wake(), driver));
            let (wake, driver) = match made {
                Ok((wake, driver)) => (Ok(wake), Some(driver)),
                Err(error) => (Err(error), None),
            };
            // Whoever starts us waits for it; if any worker has failed, none goes on.
            let _ = tell.send(wake);
            let (Some(driver), Ok(shared)) = (driver, may_start.recv()) else { return Ok(()) };
            let _end = EndOnExit(Arc::clone(&shared), id);
            Worker::new(id, driver, shared).run()
        });
        match thread {
            Ok(thread) => workers.push(thread),
            Err(error) => no_thread = Some(StartError(format!("the system gives no thread: {error}"))),
        }
        made.push(is_made);
        starts.push(start);
    }
    let wake =
        |made: mpsc::Receiver<_>| made.recv().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")));
    let wakes = made.into_iter().map(wake).collect::<io::Result<Vec<Wake>>>();
    let wakes = match no_thread.map_or_else(|| wakes.map_err(|error| cannot_make(&error)), Err) {
        Ok(wakes) => wakes,
        Err(error) => {
            // What they listen at is free again when they have ended.
            drop(starts);
            workers.into_iter().for_each(|worker| drop(worker.join()));
            return Err(error);
        }
    };
    let seed = RandomState::new().hash_one(std::process::id());
    let mut settings = Settings::new(config, connections_max, seed);
    // A clock before 1970 is nobody's.
    let began = began.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    settings.began = UnixTime(u64::try_from(began).unwrap_or(u64::MAX));
    settings.run = RandomState::new().hash_one(std::process::id());
    let shared = Arc::new(Shared::new(settings, router, stats, topics, logs, wakes));
    let outside: Arc<dyn Outside> = shared.clone();
    handle.attach(&outside);
    for start in starts {
        // Fails only where a worker has ended, which its end says.
        let _ = start.send(Arc::clone(&shared));
    }
    Ok(Server { addresses, handle, metrics, workers })
}

/// A worker that ends does so for all, even if it panics.
struct EndOnExit<S>(Arc<Shared<S>>, WorkerId);

impl<S> Drop for EndOnExit<S> {
    fn drop(&mut self) {
        self.0.end(self.1);
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

fn no_epoll(error: &io::Error) -> StartError {
    StartError(format!("the system gives no event queue: {error}"))
}

fn no_uring(error: &io::Error) -> StartError {
    use io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => {
            "set the sysctl kernel.io_uring_disabled to 0 and allow the system calls io_uring_* in the seccomp profile"
        }
        ErrorKind::Unsupported => {
            "run a newer kernel, or allow the system calls io_uring_* in the seccomp profile"
        }
        ErrorKind::OutOfMemory => {
            "it takes memory that can't be swapped: raise the limit on that (ulimit -l)"
        }
        _ => "lower --workers or raise the limit on open files",
    };
    StartError(format!("--driver uring: no io_uring here ({error}): {advice}, or use --driver epoll"))
}

fn cannot_listen(error: listener::BindError) -> StartError {
    use io::ErrorKind;
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
