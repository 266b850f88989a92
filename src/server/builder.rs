//! How an embedding program says what its server is.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;

use super::{Counts, Server, ServerHandle, StartError};
use crate::{
    broker::pattern::Pattern,
    config::{Anonymous, Config, SlowConsumer, TopicRule},
    session::{
        AcceptRequest, Guard, Opening, Refusal, Session,
        routes::Routes,
        table::{Plan, Table},
    },
};

/// A server that is not started: its configuration, sessions, pages. `U` is what its hook attaches to connections.
///
/// ```
/// use stentor::{
///     server::Server,
///     session::{Audience, Context, Failure, Handshake, Message, Refusal, Session, TopicName},
/// };
///
/// struct Member {
///     room: TopicName,
/// }
///
/// impl Session for Member {
///     fn open(&mut self, context: &mut Context<'_>, _: &Handshake<'_>) -> Result<(), Refusal> {
///         self.room = context.subscribe(&self.room);
///         Ok(())
///     }
///
///     fn message(&mut self, context: &mut Context<'_>, message: Message<'_>) -> Result<(), Failure> {
///         context.publish(&self.room, message, Audience::All);
///         Ok(())
///     }
/// }
///
/// let server = Server::builder()
///     .listen(([127, 0, 0, 1], 0))
///     .route("/chat/{room}", |opening| Ok(Member { room: TopicName::parse(opening.parameter("room"))? }))
///     .page("/", "text/html; charset=utf-8", "<!doctype html><title>Chat</title>")
///     .start()
///     .expect("a free port");
/// assert_ne!(server.addresses()[0].port(), 0);
/// ```
pub struct Builder<U = ()> {
    config: Config,
    plan: Plan<U>,
    /// Behind those of the configuration; the first pattern that can't be read.
    topics: Result<Vec<TopicRule>, StartError>,
    own_routes: bool,
    handle: ServerHandle,
}

impl Builder<()> {
    pub(super) fn new() -> Builder<()> {
        Builder {
            config: Config::default(),
            plan: Plan::default(),
            topics: Ok(Vec::new()),
            own_routes: false,
            handle: ServerHandle::new(),
        }
    }

    /// Asks `hook` about each request for a WebSocket or an event stream, on the server's own routes as well. It sees the whole
    /// request, and refuses it, or attaches a value that the route then gets as `opening.user`. It runs on a worker,
    /// so it must not wait for anything. Pages are for everybody.
    ///
    /// Routes that were added before do not see the value.
    ///
    /// ```
    /// use stentor::{
    ///     server::Server,
    ///     session::{Context, Failure, Message, Refusal, Session, text},
    /// };
    ///
    /// /// What is counted, in `stentor_refused_total`.
    /// const NO_NAME: &str = "no_name";
    ///
    /// struct User {
    ///     name: String,
    /// }
    ///
    /// struct Greeting(User);
    ///
    /// impl Session for Greeting {
    ///     fn message(&mut self, context: &mut Context<'_>, _: Message<'_>) -> Result<(), Failure> {
    ///         context.send(text(&format!("Hello, {}!", self.0.name)));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let server = Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .accept(|asks| match asks.request.query_value("name") {
    ///         Some(name) => Ok(User { name }),
    ///         None => Err(Refusal::new(401, NO_NAME, "say who you are: ?name=")),
    ///     })
    ///     .route("/hello", |opening| Ok(Greeting(opening.user)))
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    pub fn accept<U: 'static>(
        self,
        hook: impl Fn(&AcceptRequest<'_>) -> Result<U, Refusal> + Send + Sync + 'static,
    ) -> Builder<U> {
        let Builder { config, plan, topics, own_routes, handle } = self;
        Builder { config, plan: plan.accept(hook), topics, own_routes, handle }
    }
}

impl<U: 'static> Builder<U> {
    /// Everything that can be configured; `Config::default()` is what holds otherwise. Replaces what was set before.
    ///
    /// On the default, where only this machine can connect, requests whose `Host` or `Origin` is not a loopback name
    /// are refused. Otherwise web pages may connect to the host that they came from, or according to `allow_origin`.
    ///
    /// ```
    /// use stentor::{config::Config, server::Server};
    ///
    /// let config = Config { max_message_bytes: 4096, workers: 2, ..Config::default() };
    /// let builder = Server::builder().config(config).listen(([127, 0, 0, 1], 0));
    /// # builder.start().expect("a free port");
    /// ```
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Listens at this address alone; port 0 takes a free one. Unless it is a loopback address, the server is open
    /// to others: what the routes here serve to anybody who comes, or as the hook of [`Builder::accept`] says. The
    /// server's own routes then let nobody in without `anonymous` in [`Builder::config`].
    ///
    /// ```
    /// let builder = stentor::server::Server::builder().listen(([127, 0, 0, 1], 0));
    /// # builder.start().expect("a free port");
    /// ```
    #[must_use]
    pub fn listen(mut self, address: impl Into<SocketAddr>) -> Self {
        let address = address.into();
        if self.config.open_loopback && !address.ip().to_canonical().is_loopback() {
            self.config.open_loopback = false;
            self.config.anonymous = Anonymous::None;
        }
        self.config.listen = vec![address];
        self
    }

    /// Runs on so many threads, 1 to 256; otherwise on one per processor.
    ///
    /// ```
    /// let builder = stentor::server::Server::builder().listen(([127, 0, 0, 1], 0)).workers(1);
    /// # builder.start().expect("a free port");
    /// ```
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// What happens to subscribers that do not keep up.
    ///
    /// ```
    /// use stentor::{config::SlowConsumer, server::Server};
    ///
    /// // Of prices only the newest is worth sending.
    /// let builder = Server::builder().listen(([127, 0, 0, 1], 0)).slow_consumer(SlowConsumer::Latest);
    /// # builder.start().expect("a free port");
    /// ```
    #[must_use]
    pub fn slow_consumer(mut self, policy: SlowConsumer) -> Self {
        self.config.slow_consumer = policy;
        self
    }

    /// Makes a session for each WebSocket at a path. In the path, `{name}` stands for one segment and `{*name}`, at
    /// the end, for one or more; [`Opening::parameter`] gives them decoded. Where several paths fit, a literal goes
    /// before a parameter, and one segment before many, from the left. Two that fit the same paths are an error at
    /// the start.
    ///
    /// `make` runs on a worker and may refuse the request; a `?` on a topic's name is a 400.
    ///
    /// ```
    /// use stentor::{
    ///     server::Server,
    ///     session::{Refusal, TopicName, echo::Echo, raw::{Mode, Raw}, Audience},
    /// };
    ///
    /// let server = Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .route("/echo", |_| Ok(Echo))
    ///     .route("/news/{*topic}", |opening| {
    ///         let topic = TopicName::parse(opening.parameter("topic"))?;
    ///         Ok(Raw::new(topic, Mode::Subscribe, Audience::All, 0))
    ///     })
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn route<S: Session + 'static>(
        mut self,
        path: &str,
        make: impl Fn(Opening<'_, U>) -> Result<S, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.plan.route(path, make);
        self
    }

    /// The same for clients of the JSON dialect, such as `/client.js`: they come back and miss nothing of topics that keep
    /// a history. They name topics by commands, and what `make` makes is asked about each: see [`Guard`].
    ///
    /// ```
    /// use stentor::{server::Server, session::{Unguarded, json::CLIENT_SCRIPT}};
    ///
    /// // new Stentor('/ws').subscribe('news', ({ data }) => …, { history: 10 })
    /// let server = Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .topic("news", |rule| rule.history = Some(100))
    ///     .json_route("/ws", |_| Ok(Unguarded))
    ///     .page("/client.js", "text/javascript; charset=utf-8", CLIENT_SCRIPT)
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn json_route<G: Guard + 'static>(
        mut self,
        path: &str,
        make: impl Fn(Opening<'_, U>) -> Result<G, Refusal> + Send + Sync + 'static,
    ) -> Self {
        self.plan.json_route(path, make);
        self
    }

    /// A rule for the topics that a pattern fits: `chat/lobby`, `chat/*` for one more level, `prices/**` for any number.
    /// The first pattern that fits a topic counts, and what its rule leaves open is as [`Builder::config`] has it.
    /// `docs/topics.md` tells what each part means.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stentor::server::Server;
    ///
    /// let server = Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .topic("chat/*", |rule| {
    ///         rule.history = Some(100);
    ///         rule.history_age = Some(Duration::from_secs(3600));
    ///     })
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn topic(mut self, pattern: &str, set: impl FnOnce(&mut TopicRule)) -> Self {
        let Ok(topics) = &mut self.topics else { return self };
        match Pattern::parse(pattern) {
            Ok(parsed) => {
                let mut rule = TopicRule::new(parsed);
                set(&mut rule);
                topics.push(rule);
            }
            Err(error) => self.topics = Err(StartError(format!("the topics {pattern:?}: {error}"))),
        }
        self
    }

    /// Serves a page, to GET and HEAD. Browsers keep it and ask each time whether it has changed (`ETag`). What is
    /// neither a page nor a route gets 404.
    ///
    /// ```
    /// let server = stentor::server::Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .page("/", "text/html; charset=utf-8", "<!doctype html><script src=app.js></script>")
    ///     .page("/app.js", "text/javascript; charset=utf-8", "console.log('hello')")
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn page(mut self, path: &str, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.plan.page(path, content_type, body.into());
        self
    }

    /// Keeps the server's own routes (`/ws/{topic}`, `/api/{method}`, `/metrics`, `/health`, …) for what is not a route
    /// or page of the program. The API is not the hook's of [`Builder::accept`] to guard: it takes `api_keys` of
    /// [`Builder::config`], and without any is for this machine only.
    ///
    /// ```
    /// let server = stentor::server::Server::builder()
    ///     .listen(([127, 0, 0, 1], 0))
    ///     .with_own_routes()
    ///     .page("/", "text/plain; charset=utf-8", "instead of the server's own page")
    ///     .start()
    ///     .expect("a free port");
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn with_own_routes(mut self) -> Self {
        self.own_routes = true;
        self
    }

    /// The handle of the server to be, for routes to keep. Until it has started nothing can be done with it
    /// ([`HandleError::NotRunning`](super::HandleError::NotRunning)).
    ///
    /// ```
    /// use stentor::server::{HandleError, Server};
    ///
    /// let builder = Server::builder().listen(([127, 0, 0, 1], 0));
    /// let handle = builder.handle();
    /// assert_eq!(handle.connections(), Err(HandleError::NotRunning));
    /// let server = builder.start().expect("a free port");
    /// assert_eq!(handle.connections(), Ok(0));
    /// # drop(server);
    /// ```
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Starts it.
    ///
    /// ```
    /// use stentor::server::Server;
    ///
    /// let first = Server::builder().listen(([127, 0, 0, 1], 0)).start().expect("a free port");
    /// let second = Server::builder().listen(first.addresses()[0]).start();
    /// assert!(second.err().expect("the port is taken").to_string().starts_with("can't listen on 127.0.0.1:"));
    /// ```
    ///
    /// # Errors
    /// An address is taken, the machine can't hold what is asked for, a path or pattern can't be read, two paths
    /// fit the same requests, a topic's rule makes no sense. Nothing runs then.
    pub fn start(self) -> Result<Server, StartError> {
        let Builder { mut config, plan, topics, own_routes, handle } = self;
        config.topics.extend(topics?);
        let counts = Counts::new(&config);
        let own = own_routes.then(|| Routes::new(&config, counts.metrics())).transpose();
        let own = own.map_err(|error| StartError(format!("--allow-origin: {error}")))?;
        let table = Table::new(plan, &config, own).map_err(|error| StartError(error.to_string()))?;
        Server::start_counted(&config, Arc::new(table), counts, handle)
    }
}
