//! The configuration: one validated value per key.
//!
//! Owns [`Config`], how raw texts become one ([`Config::resolve`]), and which values contradict each other.
//! Each key is defined once, in [`keys`]: flag, default, range, prose. From there come the command line
//! (`crate::cli`), `--help`, and the reference page ([`mod@reference`]).
//!
//! Pure data. It asks the system two things: how many processors this process may use, and for the file that
//! `--config` names ([`mod@file`]).
//!
//! Invariant: what [`Config::flags`] writes resolves to an equal configuration, as long as that file is the same, but for
//! secrets, which it does not show.

pub mod api_key;
pub mod file;
mod key;
pub mod keys;
pub mod kind;
pub mod reference;
pub mod value;

use std::net::SocketAddr;
use std::time::Duration;

pub use crate::broker::rules::SlowConsumer;
use crate::broker::{
    limits::Window,
    rules::{Rule, Rules},
    schedule::Schedule,
};
use api_key::{ApiKey, ApiKeyFile};
pub use file::TopicRule;
pub(crate) use key::quote;
pub use key::{About, Entry, Error, Given, Group, Key};
use value::Size;

/// What clients without credentials may do. Ordered: each includes what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anonymous {
    /// Nothing.
    None,
    /// Subscribe to topics.
    Subscribe,
    /// Subscribe to topics and publish to them.
    Publish,
}

/// What moves bytes between the kernel and the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Driver {
    /// The server's choice.
    Auto,
    /// epoll.
    Epoll,
    /// io_uring.
    Uring,
}

/// How much is logged. Ordered: each includes what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// What the operator has to put right.
    Error,
    /// What is refused or cut off, and may be intended.
    Warn,
    /// Start, stop and what changes in between.
    Info,
    /// Each connection.
    Debug,
    /// Each message.
    Trace,
}

/// Everything that the server can be told, validated. `Config::default()` is what holds without any flag.
///
/// Each field is the key of the same name; the reference page says what it bounds and why its default is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Addresses to listen on, at least one. Port 0 takes a free port.
    pub listen: Vec<SocketAddr>,
    /// Connections that the kernel completes and holds until they are accepted, per listener.
    pub backlog: u32,
    /// Connections accepted in one tick at most, per worker.
    pub accepts_per_tick: usize,

    /// Worker threads, 1 to 256.
    pub workers: usize,
    /// Whether each worker is bound to its core.
    pub pin: bool,
    /// What moves bytes between the kernel and the workers.
    pub driver: Driver,
    /// Whether sockets are in the rings' tables, and take none of the process' descriptors. Takes io_uring.
    pub direct_descriptors: bool,
    /// Requests under way between each ordered pair of workers.
    pub mail_len_max: usize,

    /// What clients without credentials may do.
    pub anonymous: Anonymous,
    /// Whether `anonymous` was left open and every listener is on loopback. Then anybody on this machine may
    /// publish, and requests whose `Host` or `Origin` is not a loopback name are answered with 403, so that no
    /// web page can reach the server through its visitor's browser.
    pub open_loopback: bool,
    /// Patterns of web origins: `*`, or `scheme://host` with an optional leading `*.` and port, in lower case.
    pub allow_origin: Vec<String>,
    /// Subprotocols that a handshake may select.
    pub subprotocols: Vec<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Keys of the server API that were given one by one.
    pub api_keys: Vec<ApiKey>,
    /// A file of further ones.
    pub api_key_file: Option<ApiKeyFile>,

    /// Open connections; `None`: as many as the limit on open files holds.
    pub max_connections: Option<usize>,
    /// Open connections from one address; `None`: no bound of its own.
    pub max_connections_per_ip: Option<usize>,
    /// Topics that exist at one time.
    pub max_topics: usize,
    /// Topics that one connection subscribes to.
    pub max_subscriptions: usize,
    /// Bytes of one message's payload.
    pub max_message_bytes: usize,
    /// Frames of one message.
    pub max_fragments: u32,
    /// Bytes of one request head: request line and header fields.
    pub max_head_bytes: usize,
    /// Bytes of one request body.
    pub max_body_bytes: usize,
    /// Idempotency keys that each worker remembers.
    pub max_idempotency_keys: usize,
    /// Requests to the API without a right key, from one address in a minute.
    pub max_wrong_keys: u32,
    /// Schedules on each worker.
    pub max_schedules: usize,
    /// Bytes of all messages that wait for their time.
    pub schedule_bytes_max: usize,

    /// From accept to the end of the request head.
    pub handshake_timeout: Duration,
    /// From a message's first byte to its last.
    pub message_timeout: Duration,
    /// Silence after which a ping is sent; `None`: no pings.
    pub ping_interval: Option<Duration>,
    /// Silence after a ping that ends the connection.
    pub pong_timeout: Duration,
    /// Time without a message from the client; `None`: no bound.
    pub idle_timeout: Option<Duration>,
    /// Time for which a socket may refuse all bytes that wait for it.
    pub write_timeout: Duration,
    /// From our close frame to the end of the connection.
    pub close_timeout: Duration,
    /// Time over which a drain spreads its closes.
    pub drain_timeout: Duration,
    /// Time for which a topic without subscribers and publishers goes on existing.
    pub topic_idle_timeout: Duration,
    /// Time for which a message of the API may wait for room in its topic.
    pub publish_timeout: Duration,
    /// Time for which an idempotency key is remembered.
    pub idempotency_time: Duration,

    /// What happens to a slow consumer.
    pub slow_consumer: SlowConsumer,
    /// Lag in bytes.
    pub lag_bytes_max: usize,
    /// Lag in messages.
    pub lag_messages_max: u64,

    /// Bytes of all topics' logs together.
    pub log_bytes_max: usize,
    /// Bytes of all half-received messages and request bodies together.
    pub assembly_bytes_max: usize,
    /// Bytes of replies that wait for one connection.
    pub reply_bytes_max: usize,
    /// `SO_SNDBUF` of each connection.
    pub send_buffer_bytes: usize,
    /// `SO_RCVBUF` of each connection; `None`: the kernel's own choice.
    pub receive_buffer_bytes: Option<usize>,

    /// How much is logged.
    pub log_level: LogLevel,

    /// The file with what follows.
    pub config_file: Option<String>,
    /// Rules for topics, of which the first match counts; [`Config::rules`] says what holds.
    pub topics: Vec<TopicRule>,
    /// What the server publishes by itself.
    pub schedules: Vec<Schedule>,
}

impl Config {
    /// Turns raw texts into a configuration: reads each, fills in defaults, refuses contradictions.
    ///
    /// # Errors
    /// [`Error`]: the first text that is no value of its key, values that contradict each other, or a listener
    /// that others can reach while nothing says what anonymous clients may do; a file that can't be read, or a mistake
    /// in it.
    pub fn resolve(given: &Given) -> Result<Self, Error> {
        let listen = given.all(&keys::LISTEN)?;
        let loopback_only = are_loopback(&listen);
        let anonymous = given.last(&keys::ANONYMOUS)?;
        let mut config = Self {
            backlog: given.one(&keys::BACKLOG)?,
            accepts_per_tick: given.one(&keys::ACCEPTS_PER_TICK)?,
            workers: given.one(&keys::WORKERS)?.unwrap_or_else(available_workers),
            pin: given.one(&keys::PIN)?,
            driver: given.one(&keys::DRIVER)?,
            direct_descriptors: given.one(&keys::DIRECT_DESCRIPTORS)?,
            mail_len_max: given.one(&keys::MAIL_LEN_MAX)?,
            anonymous: anonymous.unwrap_or(Anonymous::Publish),
            open_loopback: anonymous.is_none() && loopback_only,
            allow_origin: given.all(&keys::ALLOW_ORIGIN)?,
            subprotocols: given.all(&keys::SUBPROTOCOL)?,
            echo: given.one(&keys::ECHO)?.unwrap_or(loopback_only),
            api_keys: given.all(&keys::API_KEY)?,
            api_key_file: given.last(&keys::API_KEY_FILE)?,
            max_connections: given.one(&keys::MAX_CONNECTIONS)?,
            max_connections_per_ip: given.one(&keys::MAX_CONNECTIONS_PER_IP)?,
            max_topics: given.one(&keys::MAX_TOPICS)?,
            max_subscriptions: given.one(&keys::MAX_SUBSCRIPTIONS)?,
            max_message_bytes: given.one(&keys::MAX_MESSAGE_BYTES)?,
            max_fragments: given.one(&keys::MAX_FRAGMENTS)?,
            max_head_bytes: given.one(&keys::MAX_HEAD_BYTES)?,
            max_body_bytes: given.one(&keys::MAX_BODY_BYTES)?,
            max_idempotency_keys: given.one(&keys::MAX_IDEMPOTENCY_KEYS)?,
            max_wrong_keys: given.one(&keys::MAX_WRONG_KEYS)?,
            max_schedules: given.one(&keys::MAX_SCHEDULES)?,
            schedule_bytes_max: given.one(&keys::SCHEDULE_BYTES_MAX)?,
            handshake_timeout: given.one(&keys::HANDSHAKE_TIMEOUT)?,
            message_timeout: given.one(&keys::MESSAGE_TIMEOUT)?,
            ping_interval: given.one(&keys::PING_INTERVAL)?,
            pong_timeout: given.one(&keys::PONG_TIMEOUT)?,
            idle_timeout: given.one(&keys::IDLE_TIMEOUT)?,
            write_timeout: given.one(&keys::WRITE_TIMEOUT)?,
            close_timeout: given.one(&keys::CLOSE_TIMEOUT)?,
            drain_timeout: given.one(&keys::DRAIN_TIMEOUT)?,
            topic_idle_timeout: given.one(&keys::TOPIC_IDLE_TIMEOUT)?,
            publish_timeout: given.one(&keys::PUBLISH_TIMEOUT)?,
            idempotency_time: given.one(&keys::IDEMPOTENCY_TIME)?,
            slow_consumer: given.one(&keys::SLOW_CONSUMER)?,
            lag_bytes_max: given.one(&keys::LAG_BYTES_MAX)?,
            lag_messages_max: given.one(&keys::LAG_MESSAGES_MAX)?,
            log_bytes_max: given.one(&keys::LOG_BYTES_MAX)?,
            assembly_bytes_max: given.one(&keys::ASSEMBLY_BYTES_MAX)?,
            reply_bytes_max: given.one(&keys::REPLY_BYTES_MAX)?,
            send_buffer_bytes: given.one(&keys::SEND_BUFFER_BYTES)?,
            receive_buffer_bytes: given.one(&keys::RECEIVE_BUFFER_BYTES)?,
            log_level: given.one(&keys::LOG_LEVEL)?,
            config_file: given.last(&keys::CONFIG)?,
            topics: Vec::new(),
            schedules: Vec::new(),
            listen,
        };
        config.check_contradictions()?;
        let reachable = config.listen.iter().find(|address| !address.ip().to_canonical().is_loopback());
        if let (Some(address), None) = (reachable, anonymous) {
            return Err(Error::new(format!(
                "--listen {address} can be reached by others: say what clients without credentials may do, \
                 with --anonymous none, --anonymous subscribe or --anonymous publish"
            )));
        }
        if let Some(path) = &config.config_file {
            let contents = file::read(path, &config)?;
            (config.topics, config.schedules) = (contents.topics, contents.schedules);
            if config.schedules.len() > config.max_schedules {
                return Err(Error::new(format!(
                    "--config {}: it has {} schedules, more than --max-schedules {} lets one worker have",
                    quote(path),
                    config.schedules.len(),
                    config.max_schedules
                )));
            }
        }
        Ok(config)
    }

    /// What holds for each topic: the rules, with the flags where they say nothing.
    pub fn rules(&self) -> Rules {
        self.rules_with(&self.topics)
    }

    /// What would hold with these rules.
    fn rules_with(&self, topics: &[TopicRule]) -> Rules {
        let listed = topics.iter().map(|topic| (topic.pattern.clone(), topic.resolve(self)));
        Rules::new(listed, self.rule_by_flags())
    }

    /// What holds for a topic that no rule is for.
    fn rule_by_flags(&self) -> Rule {
        Rule {
            slow_consumer: self.slow_consumer,
            lag: Window { bytes: self.lag_bytes_max as u64, messages: self.lag_messages_max },
            max_message_bytes: self.max_message_bytes,
            history: None,
            welcome: None,
            min_interval: None,
        }
    }

    /// All keys of the server API, wherever they were given.
    pub fn all_api_keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.api_keys.iter().chain(self.api_key_file.iter().flat_map(|file| &file.keys))
    }

    /// Whether nobody but this machine reaches any listener.
    pub fn is_loopback_only(&self) -> bool {
        are_loopback(&self.listen)
    }

    /// Refuses values that are each allowed but make no sense together.
    fn check_contradictions(&self) -> Result<(), Error> {
        for (index, address) in self.listen.iter().enumerate() {
            if address.port() != 0 && self.listen[..index].contains(address) {
                return Err(Error::new(format!("--listen {address}: given twice")));
            }
        }
        let names: Vec<&str> = self.all_api_keys().map(ApiKey::name).collect();
        if let Some((_, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(Error::new(format!("--api-key: there are two keys of the name {name}")));
        }
        at_most(
            (&keys::MAX_MESSAGE_BYTES.about, self.max_message_bytes),
            (&keys::ASSEMBLY_BYTES_MAX.about, self.assembly_bytes_max),
            "no message of the allowed size could be received",
        )?;
        at_most(
            (&keys::MAX_BODY_BYTES.about, self.max_body_bytes),
            (&keys::ASSEMBLY_BYTES_MAX.about, self.assembly_bytes_max),
            "no request body of the allowed size could be received",
        )?;
        at_most(
            (&keys::MAX_MESSAGE_BYTES.about, self.max_message_bytes),
            (&keys::LAG_BYTES_MAX.about, self.lag_bytes_max),
            "a single message could cut off subscribers that keep up",
        )?;
        at_most(
            (&keys::LAG_BYTES_MAX.about, self.lag_bytes_max),
            (&keys::LOG_BYTES_MAX.about, self.log_bytes_max),
            "one topic's lag alone could fill all logs",
        )?;
        if self.direct_descriptors && self.driver != Driver::Uring {
            return Err(Error::new(
                "--direct-descriptors: only io_uring has them, give --driver uring with it",
            ));
        }
        match (self.max_connections_per_ip, self.max_connections) {
            (Some(per_ip), Some(all)) if per_ip > all => Err(Error::new(format!(
                "--max-connections-per-ip {per_ip} is more than --max-connections {all}, so it bounds nothing: \
                 lower it or leave it out"
            ))),
            _ => Ok(()),
        }
    }

    /// The configuration as flags, one a line: what `--print-config` prints.
    ///
    /// A key that holds no value is a comment line (`# --subprotocol: none`), and so is a secret, of which only the name
    /// is told. Given back to the server, the flags resolve to an equal configuration, but for the secrets. What the file
    /// says follows in comment lines, as TOML with every value in effect.
    pub fn flags(&self) -> String {
        let mut lines = String::new();
        for key in keys::ALL {
            let about = key.about();
            let values = key.effective(self);
            if values.is_empty() {
                lines += &format!("# --{}: {}\n", about.name, about.default_text());
            }
            for value in &values {
                let hidden = if key.is_secret() { "# " } else { "" };
                lines += &format!("{hidden}--{}={value}\n", about.name);
            }
        }
        let topics = self.topics.iter().map(|topic| topic.table(self));
        for table in topics.chain(self.schedules.iter().map(file::schedule_table)) {
            lines += "#\n";
            lines.extend(table.lines().map(|line| format!("# {line}\n")));
        }
        lines
    }

    /// One line that says what would be started: what `--check` prints.
    pub fn summary(&self) -> String {
        let listen: Vec<_> = self.listen.iter().map(ToString::to_string).collect();
        let number = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let workers = number(self.workers, "worker");
        let mut summary = format!("configuration is valid: {workers}, listening on {}", listen.join(", "));
        let names: Vec<_> = self.all_api_keys().map(ApiKey::name).collect();
        if !names.is_empty() {
            summary += &format!(", API keys: {}", names.join(", "));
        }
        if let Some(path) = &self.config_file {
            let topics = number(self.topics.len(), "topic rule");
            let schedules = number(self.schedules.len(), "schedule");
            summary += &format!("; {topics} and {schedules} from {}", quote(path));
        }
        summary
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::resolve(&Given::default()).expect("the defaults in the table are valid together")
    }
}

/// Refuses a `lower` bound above the `upper` one, both in bytes, with what would follow from it.
fn at_most(lower: (&About, usize), upper: (&About, usize), consequence: &str) -> Result<(), Error> {
    if lower.1 <= upper.1 {
        return Ok(());
    }
    let (low, high) = (Size(lower.1 as u64), Size(upper.1 as u64));
    Err(Error::new(format!(
        "--{} {low} is more than --{upper} {high}: {consequence}; give --{upper} {low} or more",
        lower.0.name,
        upper = upper.0.name,
    )))
}

fn are_loopback(listeners: &[SocketAddr]) -> bool {
    listeners.iter().all(|address| address.ip().to_canonical().is_loopback())
}

/// One worker for each processor that this process may use, within the range of `--workers`.
fn available_workers() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    available.clamp(keys::WORKERS.kind.kind.from, keys::WORKERS.kind.kind.to)
}
