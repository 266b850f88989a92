//! The keys: each defined once, with its flag, default, range, and the prose of `--help` and the reference page.
//!
//! A key's static is named as its flag. To add one: write its [`Key`] here, list it in [`ALL`], add its field to
//! [`Config`](super::Config) and its line to `Config::resolve`; then `UPDATE_DOCS=1 cargo test --test config` writes the page anew.
//!
//! Rules: a default is a value of its own key, written as `--print-config` writes it; prose says what happens
//! at the bound, why the default is so, and the worst case in memory.

use std::time::Duration;

use super::kind::{
    Address, Counts, FilePath, KeyFile, NamedKey, Or, Origin, Sizes, Subprotocol, Switch, Times, Words,
};
use super::{About, Anonymous, Driver, Entry, Group, Key, LogLevel, SlowConsumer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const TIB: usize = 1 << 40;

/// More connections than this are beyond what one machine has addresses, ports and memory for.
const CONNECTIONS: usize = 10_000_000;

/// Timeouts: from what a test needs to a day; what should last longer is better switched off.
const TIMES: Times = Times { from: Duration::from_millis(10), to: Duration::from_secs(24 * 3600) };

/// Every key, in the order of the reference page.
pub static ALL: &[&dyn Entry] = &[
    &CONFIG,
    &LISTEN,
    &BACKLOG,
    &ACCEPTS_PER_TICK,
    &WORKERS,
    &PIN,
    &DRIVER,
    &DIRECT_DESCRIPTORS,
    &MAIL_LEN_MAX,
    &ANONYMOUS,
    &ALLOW_ORIGIN,
    &SUBPROTOCOL,
    &ECHO,
    &API_KEY,
    &API_KEY_FILE,
    &MAX_CONNECTIONS,
    &MAX_CONNECTIONS_PER_IP,
    &MAX_TOPICS,
    &MAX_SUBSCRIPTIONS,
    &MAX_MESSAGE_BYTES,
    &MAX_FRAGMENTS,
    &MAX_HEAD_BYTES,
    &MAX_BODY_BYTES,
    &MAX_IDEMPOTENCY_KEYS,
    &MAX_WRONG_KEYS,
    &MAX_SCHEDULES,
    &SCHEDULE_BYTES_MAX,
    &HANDSHAKE_TIMEOUT,
    &MESSAGE_TIMEOUT,
    &PING_INTERVAL,
    &PONG_TIMEOUT,
    &IDLE_TIMEOUT,
    &WRITE_TIMEOUT,
    &CLOSE_TIMEOUT,
    &DRAIN_TIMEOUT,
    &TOPIC_IDLE_TIMEOUT,
    &PUBLISH_TIMEOUT,
    &IDEMPOTENCY_TIME,
    &SLOW_CONSUMER,
    &LAG_BYTES_MAX,
    &LAG_MESSAGES_MAX,
    &LOG_BYTES_MAX,
    &ASSEMBLY_BYTES_MAX,
    &REPLY_BYTES_MAX,
    &SEND_BUFFER_BYTES,
    &RECEIVE_BUFFER_BYTES,
    &LOG_LEVEL,
];

/// `--config`
pub static CONFIG: Key<FilePath> = Key {
    about: About {
        name: "config",
        group: Group::File,
        default: &[],
        means: "none is read",
        repeats: false,
        brief: "file with rules for topics and with schedules, in TOML",
        effect: "`docs/topics.md` has its keys: `[[topic]]` says for some topics what flags say for all, and what is kept of \
                 them; `[[schedule]]` is a message that the server publishes by itself. Flags are not read from it. It is \
                 read once, at the start; a mistake in it is told with file and line. At most 4 MiB.",
        reason: "Without rules all topics are alike, as the flags say.",
        memory: "",
    },
    kind: FilePath,
    field: |config| config.config_file.iter().cloned().collect(),
};

/// `--listen`
pub static LISTEN: Key<Address> = Key {
    about: About {
        name: "listen",
        group: Group::Listening,
        default: &["127.0.0.1:8080"],
        means: "",
        repeats: true,
        brief: "address and port to accept connections on",
        effect: "Give it once for each address. If any of them is not on loopback, the server does not start until \
                 `--anonymous` says what clients without credentials may do. With port 0 the system chooses a free \
                 port, which is logged.",
        reason: "Nobody but this machine can reach loopback, so trying the server out exposes nothing.",
        memory: "",
    },
    kind: Address,
    field: |config| config.listen.clone(),
};

/// `--backlog`
pub static BACKLOG: Key<Counts<u32>> = Key {
    about: About {
        name: "backlog",
        group: Group::Listening,
        default: &["4096"],
        means: "",
        repeats: false,
        brief: "connections that the kernel holds until they are accepted",
        effect: "The length of the kernel's queue of each listener. When it is full, further clients have to try \
                 again, which takes them a second or more. Linux cuts it to `net.core.somaxconn`: raise both.",
        reason: "It is what `net.core.somaxconn` has been since Linux 5.4, so more would have no effect by itself.",
        memory: "",
    },
    kind: Counts { from: 1, to: 65_535, unit: "connections" },
    field: |config| vec![config.backlog],
};

/// `--accepts-per-tick`
pub static ACCEPTS_PER_TICK: Key<Counts<usize>> = Key {
    about: About {
        name: "accepts-per-tick",
        group: Group::Listening,
        default: &["64"],
        means: "",
        repeats: false,
        brief: "connections a worker accepts before it turns to its other work",
        effect: "When everybody reconnects at once, it keeps the storm from starving a running broadcast: a worker \
                 accepts so many, then reads, delivers and pings, then accepts more. The rest waits in the backlog.",
        reason: "As many as the sends of one slice of a broadcast, so that neither waits long for the other.",
        memory: "",
    },
    kind: Counts { from: 1, to: 65_536, unit: "connections" },
    field: |config| vec![config.accepts_per_tick],
};

/// `--workers`
pub static WORKERS: Key<Or<Counts<usize>>> = Key {
    about: About {
        name: "workers",
        group: Group::Workers,
        default: &["auto"],
        means: "one for each processor that the process may use",
        repeats: false,
        brief: "worker threads, each with its own event loop and sockets",
        effect: "Connections are spread over the workers. Affinity and CPU quotas of a container count: with a quota \
                 of two processors, `auto` is 2.",
        reason: "A worker never waits for another, so more than one for a processor only adds switches.",
        memory: "",
    },
    kind: Or { words: &["auto"], kind: Counts { from: 1, to: 256, unit: "threads" } },
    field: |config| vec![Some(config.workers)],
};

/// `--pin`
pub static PIN: Key<Switch> = Key {
    about: About {
        name: "pin",
        group: Group::Workers,
        default: &["off"],
        means: "",
        repeats: false,
        brief: "bind each worker to a processor of its own",
        effect: "Saves cache misses on a machine that runs nothing else.",
        reason: "Beside other programs a bound worker waits for its processor while another one is free.",
        memory: "",
    },
    kind: Switch,
    field: |config| vec![config.pin],
};

/// `--driver`
pub static DRIVER: Key<Words<Driver>> = Key {
    about: About {
        name: "driver",
        group: Group::Workers,
        default: &["auto"],
        means: "epoll",
        repeats: false,
        brief: "what moves bytes between the kernel and the workers: auto, epoll or uring",
        effect: "With `uring` each worker has an io_uring: all sends of a slice of a broadcast are one system \
                 call, and so are the replies and the receives of several connections. Nothing else changes. It takes Linux 5.19 (6.1 or later is better), `kernel.io_uring_disabled` at 0 and a \
                 seccomp profile that allows it; where that is not so, the server does not start.",
        reason: "epoll is to be had everywhere; many container runtimes forbid io_uring.",
        memory: "",
    },
    kind: Words {
        placeholder: "DRIVER",
        words: &[("auto", Driver::Auto), ("epoll", Driver::Epoll), ("uring", Driver::Uring)],
    },
    field: |config| vec![config.driver],
};

/// `--direct-descriptors`
pub static DIRECT_DESCRIPTORS: Key<Switch> = Key {
    about: About {
        name: "direct-descriptors",
        group: Group::Workers,
        default: &["off"],
        means: "",
        repeats: false,
        brief: "hold connections in the rings' tables and not as open files",
        effect: "The limit on open files then bounds the connections of each worker and not of the process, and a send \
                 looks no descriptor up. Tools that list a process' open files do not see these connections. Takes \
                 `--driver uring` and Linux 6.13.",
        reason: "What operators see of a process with their tools should be all of it, unless they choose otherwise.",
        memory: "the kernel's: eight bytes for each place, as many in each worker as the process may have open files.",
    },
    kind: Switch,
    field: |config| vec![config.direct_descriptors],
};

/// `--mail-len-max`
pub static MAIL_LEN_MAX: Key<Counts<usize>> = Key {
    about: About {
        name: "mail-len-max",
        group: Group::Workers,
        default: &["256"],
        means: "",
        repeats: false,
        brief: "requests under way from each worker to each other worker",
        effect: "A message whose topic is ordered by another worker is a request to it. With this many unanswered, \
                 a publisher that would send one more is not read until one is answered. Nothing is dropped.",
        reason: "Enough to fill the way between two busy workers; more would only add latency under load.",
        memory: "`workers × (workers − 1) × mail-len-max` requests, at worst each with a message of \
                 `--max-message-bytes`.",
    },
    kind: Counts { from: 1, to: 65_536, unit: "requests" },
    field: |config| vec![config.mail_len_max],
};

/// `--anonymous`
pub static ANONYMOUS: Key<Words<Anonymous>> = Key {
    about: About {
        name: "anonymous",
        group: Group::Access,
        default: &[],
        means: "publish, for this machine only, if every listener is on loopback; has to be given otherwise",
        repeats: false,
        brief: "what clients without credentials may do: none, subscribe or publish",
        effect: "`none` refuses them, `subscribe` lets them listen, `publish` lets them subscribe and publish. If it \
                 is not given and every listener is on loopback, all may publish, but requests whose `Host` or \
                 `Origin` is not a loopback name are answered with 403: a web page that somebody visits on this \
                 machine can't reach the server through the browser.",
        reason: "Open for development without a flag; what others can reach is open only if the operator says so.",
        memory: "",
    },
    kind: Words {
        placeholder: "WHAT",
        words: &[
            ("none", Anonymous::None),
            ("subscribe", Anonymous::Subscribe),
            ("publish", Anonymous::Publish),
        ],
    },
    field: |config| if config.open_loopback { Vec::new() } else { vec![config.anonymous] },
};

/// `--allow-origin`
pub static ALLOW_ORIGIN: Key<Origin> = Key {
    about: About {
        name: "allow-origin",
        group: Group::Access,
        default: &[],
        means: "only pages from the host that the request itself names, or from this machine while open on loopback",
        repeats: true,
        brief: "web pages that may connect, by their origin",
        effect: "Browsers name the page's origin in each handshake; a page that may not connect is answered with 403. \
                 `https://*.example.com` is every host below example.com, but not example.com itself; `*` is every \
                 page. Once a pattern is given, pages of the server's own host need one too. Clients that are not \
                 browsers send no origin and are not affected.",
        reason: "A page of somebody else should not speak to the server in its visitor's name.",
        memory: "",
    },
    kind: Origin,
    field: |config| config.allow_origin.clone(),
};

/// `--subprotocol`
pub static SUBPROTOCOL: Key<Subprotocol> = Key {
    about: About {
        name: "subprotocol",
        group: Group::Access,
        default: &[],
        means: "none is selected",
        repeats: true,
        brief: "WebSocket subprotocol that a handshake may select",
        effect: "The first one that the client offers and that is listed here is confirmed. If none is, the handshake \
                 succeeds without one, and a browser that had asked for one closes the connection. It does not change \
                 how messages are read.",
        reason: "Stentor passes payloads on as they are, so it has no subprotocol of its own.",
        memory: "",
    },
    kind: Subprotocol,
    field: |config| config.subprotocols.clone(),
};

/// `--echo`
pub static ECHO: Key<Or<Switch>> = Key {
    about: About {
        name: "echo",
        group: Group::Access,
        default: &["auto"],
        means: "on if every listener is on loopback, off otherwise",
        repeats: false,
        brief: "serve /echo, which sends every message back",
        effect: "For conformance suites and latency tests. `--echo` alone is `on`.",
        reason: "What others can reach should not spend bandwidth on whoever asks.",
        memory: "",
    },
    kind: Or { words: &["auto"], kind: Switch },
    field: |config| vec![Some(config.echo)],
};

/// `--api-key`
pub static API_KEY: Key<NamedKey> = Key {
    about: About {
        name: "api-key",
        group: Group::Access,
        default: &[],
        means: "none: the API answers only if every listener is on loopback, and only this machine",
        repeats: true,
        brief: "key of the server API, with the name that it has in logs",
        effect: "`POST /api/…` takes one of the keys, in `X-API-Key`, `Authorization: apikey KEY` or `?api_key=`, and \
                 answers 401 without. Other users of the machine see the flags of a process: better give keys in \
                 `--api-key-file`, or in the environment variable `STENTOR_API_KEYS`, with spaces between. Keys are \
                 compared in constant time, and never printed or logged. Behind a proxy on the same machine give a key, \
                 since all that comes through it comes from loopback.",
        reason: "Whoever can call the API can publish anything to anybody.",
        memory: "",
    },
    kind: NamedKey,
    field: |config| config.api_keys.clone(),
};

/// `--api-key-file`
pub static API_KEY_FILE: Key<KeyFile> = Key {
    about: About {
        name: "api-key-file",
        group: Group::Access,
        default: &[],
        means: "none",
        repeats: false,
        brief: "file with keys of the server API, one NAME:KEY on each line",
        effect: "Read once, at start. Empty lines and lines that begin with `#` are left out. The keys are as good as \
                 those of `--api-key`.",
        reason: "A file can be kept from other users, and be what a secret store mounts.",
        memory: "",
    },
    kind: KeyFile,
    field: |config| config.api_key_file.iter().cloned().collect(),
};

/// `--max-connections`
pub static MAX_CONNECTIONS: Key<Or<Counts<usize>>> = Key {
    about: About {
        name: "max-connections",
        group: Group::Limits,
        default: &["auto"],
        means: "as many as the limit on open files holds",
        repeats: false,
        brief: "open connections in all",
        effect: "One more is refused and counted. The limit on open files is the system's \
                 (`ulimit -n`, `LimitNOFILE=` in systemd); with `--direct-descriptors` each worker holds about as many.",
        reason: "The system's own limit is the operator's word already; a second number would only disagree with it.",
        memory: "256 bytes for each idle connection with one subscription are the budget, beside what the kernel needs \
                 for its socket: see `--send-buffer-bytes`.",
    },
    kind: Or { words: &["auto"], kind: Counts { from: 1, to: CONNECTIONS, unit: "connections" } },
    field: |config| vec![config.max_connections],
};

/// `--max-connections-per-ip`
pub static MAX_CONNECTIONS_PER_IP: Key<Or<Counts<usize>>> = Key {
    about: About {
        name: "max-connections-per-ip",
        group: Group::Limits,
        default: &["off"],
        means: "",
        repeats: false,
        brief: "open connections from one IP address",
        effect: "One more is refused and counted. Of IPv6 addresses the /64 counts. Set it where clients connect directly, so that none can take all \
                 connections.",
        reason: "Behind a proxy all clients have one address, and behind a carrier's NAT thousands have.",
        memory: "",
    },
    kind: Or { words: &["off", "0"], kind: Counts { from: 1, to: CONNECTIONS, unit: "connections" } },
    field: |config| vec![config.max_connections_per_ip],
};

/// `--max-topics`
pub static MAX_TOPICS: Key<Counts<usize>> = Key {
    about: About {
        name: "max-topics",
        group: Group::Limits,
        default: &["1_000_000"],
        means: "",
        repeats: false,
        brief: "topics that exist at one time",
        effect: "A topic begins with its first subscriber or message, so clients that may subscribe can make them. \
                 What would begin one more is refused.",
        reason: "An idle topic costs at most 400 bytes and its name: a million with names of 20 bytes are 420 MB.",
        memory: "`max-topics × (400 bytes + name)`; a name has at most 255 bytes, so 655 MB with the default. \
                 Messages in their logs count for `--log-bytes-max`.",
    },
    kind: Counts { from: 1, to: 100_000_000, unit: "topics" },
    field: |config| vec![config.max_topics],
};

/// `--max-subscriptions`
pub static MAX_SUBSCRIPTIONS: Key<Counts<usize>> = Key {
    about: About {
        name: "max-subscriptions",
        group: Group::Limits,
        default: &["128"],
        means: "",
        repeats: false,
        brief: "topics that one connection may subscribe to",
        effect: "What would be one more is refused: the others go on.",
        reason: "A page shows a few dozen things at once; what comes on many topics leaves in one send.",
        memory: "about 150 bytes per subscription, and a topic may be made for each.",
    },
    kind: Counts { from: 1, to: 1_000_000, unit: "topics" },
    field: |config| vec![config.max_subscriptions],
};

/// `--max-message-bytes`
pub static MAX_MESSAGE_BYTES: Key<Sizes> = Key {
    about: About {
        name: "max-message-bytes",
        group: Group::Limits,
        default: &["1MiB"],
        means: "",
        repeats: false,
        brief: "payload of one message",
        effect: "A client whose message is larger, in one frame or in all its fragments, is closed with 1009 as soon as \
                 a frame header says so. May not be more than `--assembly-bytes-max` or `--lag-bytes-max`.",
        reason: "Broadcast messages are mostly a few hundred bytes; what is much larger is better fetched over HTTP.",
        memory: "bounded for all unfinished messages together, by `--assembly-bytes-max`.",
    },
    kind: Sizes { from: 1, to: GIB },
    field: |config| vec![config.max_message_bytes],
};

/// `--max-fragments`
pub static MAX_FRAGMENTS: Key<Counts<u32>> = Key {
    about: About {
        name: "max-fragments",
        group: Group::Limits,
        default: &["100_000"],
        means: "",
        repeats: false,
        brief: "frames that one message may come in",
        effect: "A client that sends more is closed with 1008. Fragments may be empty, so `--max-message-bytes` alone \
                 would let one message go on for ever.",
        reason: "Conformance suites send up to 65,536 (4 MiB in fragments of 64 bytes); no real client comes near.",
        memory: "",
    },
    kind: Counts { from: 1, to: 16_777_216, unit: "frames" },
    field: |config| vec![config.max_fragments],
};

/// `--max-head-bytes`
pub static MAX_HEAD_BYTES: Key<Sizes> = Key {
    about: About {
        name: "max-head-bytes",
        group: Group::Limits,
        default: &["16KiB"],
        means: "",
        repeats: false,
        brief: "request line and header fields of one request",
        effect: "A longer head is answered with 431 and the connection is closed.",
        reason: "Holds the cookies and tokens of any browser; common proxies pass on 8 KiB to 32 KiB.",
        memory: "`max-head-bytes` for each connection whose head is not complete: 16 MiB for 1,024 of them.",
    },
    kind: Sizes { from: KIB, to: MIB },
    field: |config| vec![config.max_head_bytes],
};

/// `--max-body-bytes`
pub static MAX_BODY_BYTES: Key<Sizes> = Key {
    about: About {
        name: "max-body-bytes",
        group: Group::Limits,
        default: &["2MiB"],
        means: "",
        repeats: false,
        brief: "body of one request",
        effect: "A longer body is answered with 413 and the connection is closed: before any of it is read where \
                 `Content-Length` says so, else at the chunk that passes the bound. May not be more than \
                 `--assembly-bytes-max`.",
        reason: "A message of the largest size (`--max-message-bytes`) takes 1.34 MiB in base64, and a few fields beside it.",
        memory: "bounded for all unfinished bodies and messages together, by `--assembly-bytes-max`.",
    },
    kind: Sizes { from: KIB, to: GIB },
    field: |config| vec![config.max_body_bytes],
};

/// `--max-idempotency-keys`
pub static MAX_IDEMPOTENCY_KEYS: Key<Counts<usize>> = Key {
    about: About {
        name: "max-idempotency-keys",
        group: Group::Limits,
        default: &["10_000"],
        means: "",
        repeats: false,
        brief: "idempotency keys of published messages that each worker remembers",
        effect: "The oldest is forgotten when there is one more: a message with that key would be published again.",
        reason: "Outlasts a retry within `--idempotency-time` at 33 keyed publishes a second and worker.",
        memory: "about 700 bytes for each with the longest names and keys: 7 MB a worker.",
    },
    kind: Counts { from: 0, to: 10_000_000, unit: "keys" },
    field: |config| vec![config.max_idempotency_keys],
};

/// `--max-wrong-keys`
pub static MAX_WRONG_KEYS: Key<Counts<u32>> = Key {
    about: About {
        name: "max-wrong-keys",
        group: Group::Limits,
        default: &["100"],
        means: "",
        repeats: false,
        brief: "requests to the API without a right key, from one address in a minute",
        effect: "Further ones are answered with 429 and `Retry-After` instead of 401. Right keys are taken from that address as \
                 before. Of an IPv6 address its /64 counts.",
        reason: "A backend with an old key shows in the counters, and one that tries again without a pause is told to wait.",
        memory: "10,000 addresses of some 50 bytes.",
    },
    kind: Counts { from: 1, to: 1_000_000_000, unit: "requests" },
    field: |config| vec![config.max_wrong_keys],
};

/// `--max-schedules`
pub static MAX_SCHEDULES: Key<Counts<usize>> = Key {
    about: About {
        name: "max-schedules",
        group: Group::Limits,
        default: &["10_000"],
        means: "",
        repeats: false,
        brief: "messages that wait for their time, and recurring ones, on each worker",
        effect: "Further ones are refused by the API with error 106.",
        reason: "Timed messages are few; who needs millions of timers has a database for them.",
        memory: "bounded by `--schedule-bytes-max`.",
    },
    kind: Counts { from: 0, to: 10_000_000, unit: "schedules" },
    field: |config| vec![config.max_schedules],
};

/// `--schedule-bytes-max`
pub static SCHEDULE_BYTES_MAX: Key<Sizes> = Key {
    about: About {
        name: "schedule-bytes-max",
        group: Group::Memory,
        default: &["64MiB"],
        means: "",
        repeats: false,
        brief: "messages that wait for their time, all together",
        effect: "Further ones are refused by the API with error 106.",
        reason: "10,000 messages of 6 KiB. What is due and finds no room in its topic still counts.",
        memory: "this much.",
    },
    kind: Sizes { from: 0, to: TIB },
    field: |config| vec![config.schedule_bytes_max],
};

/// `--handshake-timeout`
pub static HANDSHAKE_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "handshake-timeout",
        group: Group::Timeouts,
        default: &["10s"],
        means: "",
        repeats: false,
        brief: "time for a new connection to send its whole request head",
        effect: "Counted from accept; bytes that trickle in don't extend it. Then the connection is closed; if \
                 a head had begun, it is answered with 408 first.",
        reason: "A slow phone with lost packets needs a few seconds; who needs more is holding the socket open.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.handshake_timeout],
};

/// `--message-timeout`
pub static MESSAGE_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "message-timeout",
        group: Group::Timeouts,
        default: &["1m"],
        means: "",
        repeats: false,
        brief: "time for a started message to be whole",
        effect: "From the first byte of a message to the last of its last fragment. Then the connection is closed, and \
                 what it had sent of the message is dropped. A request body has as long from the end of its head, and \
                 is answered with 408 then.",
        reason: "1 MiB at 150 kbit/s takes 56 seconds; slower senders should send smaller messages.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.message_timeout],
};

/// `--ping-interval`
pub static PING_INTERVAL: Key<Or<Times>> = Key {
    about: About {
        name: "ping-interval",
        group: Group::Timeouts,
        default: &["25s"],
        means: "",
        repeats: false,
        brief: "silence of a client after which it is pinged",
        effect: "Any byte received counts as life, so a client that sends is not pinged. Pings that fall due within a \
                 second (or a twenty-fifth of the interval, if that is shorter) leave together, none late: so one may \
                 come early by so much. While a ping is unanswered no other is sent. An event stream is sent a comment at this \
                 interval instead, and nothing is awaited. With `off` a client that vanished \
                 without a word is noticed only when bytes for it wait longer than `--write-timeout`.",
        reason: "Many proxies and NATs forget a silent connection after 30 to 60 seconds.",
        memory: "",
    },
    kind: Or { words: &["off", "0"], kind: TIMES },
    field: |config| vec![config.ping_interval],
};

/// `--pong-timeout`
pub static PONG_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "pong-timeout",
        group: Group::Timeouts,
        default: &["10s"],
        means: "",
        repeats: false,
        brief: "further silence after a ping that ends the connection",
        effect: "Any byte received counts, not only the pong, and so does any that the client takes while our ping waits \
                 behind others. A vanished client is gone after `--ping-interval` and \
                 `--pong-timeout` together; either may be the longer one. Without pings it has no effect.",
        reason: "Longer than any round trip that still works, and a phone's radio waking up.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.pong_timeout],
};

/// `--idle-timeout`
pub static IDLE_TIMEOUT: Key<Or<Times>> = Key {
    about: About {
        name: "idle-timeout",
        group: Group::Timeouts,
        default: &["off"],
        means: "",
        repeats: false,
        brief: "time without a message from the client",
        effect: "Only messages from the client count: neither what it receives nor pongs keep it. Then it is closed.",
        reason: "Most clients of a broadcast only listen, and would be closed for it.",
        memory: "",
    },
    kind: Or { words: &["off", "0"], kind: TIMES },
    field: |config| vec![config.idle_timeout],
};

/// `--write-timeout`
pub static WRITE_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "write-timeout",
        group: Group::Timeouts,
        default: &["30s"],
        means: "",
        repeats: false,
        brief: "time for which a socket may take no byte while bytes wait for it",
        effect: "Then the connection is reset: a socket that takes nothing can't take a close frame. A slow subscriber \
                 that still reads is judged by its lag instead.",
        reason: "Longer than a radio link is usually lost for, and short enough to free what gone readers hold in the kernel.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.write_timeout],
};

/// `--close-timeout`
pub static CLOSE_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "close-timeout",
        group: Group::Timeouts,
        default: &["5s"],
        means: "",
        repeats: false,
        brief: "time for a client to answer the server's close frame",
        effect: "Then the TCP connection is closed without the answer.",
        reason: "A round trip on a bad line; clients that answer at all do so at once.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.close_timeout],
};

/// `--drain-timeout`
pub static DRAIN_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "drain-timeout",
        group: Group::Timeouts,
        default: &["10s"],
        means: "",
        repeats: false,
        brief: "time over which a graceful stop closes its clients",
        effect: "SIGTERM stops accepting and closes the clients with 1001, spread evenly over this time, so that they \
                 do not all return to another server in the same moment. `0s` closes them at once.",
        reason: "Well within the 30 seconds that Kubernetes waits before it kills, with `--close-timeout` on top.",
        memory: "",
    },
    kind: Times { from: Duration::ZERO, to: Duration::from_secs(3600) },
    field: |config| vec![config.drain_timeout],
};

/// `--topic-idle-timeout`
pub static TOPIC_IDLE_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "topic-idle-timeout",
        group: Group::Timeouts,
        default: &["1m"],
        means: "",
        repeats: false,
        brief: "time for which a topic that nobody uses goes on existing",
        effect: "A topic without subscribers and without new messages vanishes then, and begins with a new epoch and \
                 offset 1 if it returns.",
        reason: "Bridges a reconnect of all its subscribers; names that are used once don't fill `--max-topics`.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.topic_idle_timeout],
};

/// `--publish-timeout`
pub static PUBLISH_TIMEOUT: Key<Times> = Key {
    about: About {
        name: "publish-timeout",
        group: Group::Timeouts,
        default: &["2s"],
        means: "",
        repeats: false,
        brief: "time for which a message of the API may wait for room in its topic",
        effect: "Then it is dropped, and the call is answered with 503 and `Retry-After`: it was surely not published. Messages \
                 of WebSocket clients wait without such a bound: those clients are not read meanwhile.",
        reason: "Longer than any lap over the subscribers takes; shorter than the timeouts of HTTP clients.",
        memory: "",
    },
    kind: TIMES,
    field: |config| vec![config.publish_timeout],
};

/// `--idempotency-time`
pub static IDEMPOTENCY_TIME: Key<Times> = Key {
    about: About {
        name: "idempotency-time",
        group: Group::Timeouts,
        default: &["5m"],
        means: "",
        repeats: false,
        brief: "time for which the idempotency key of a message is remembered",
        effect: "A further message to its topic with the same key is not published meanwhile, and answered as the first was.",
        reason: "Longer than a publisher goes on to try again.",
        memory: "bounded by `--max-idempotency-keys`.",
    },
    kind: TIMES,
    field: |config| vec![config.idempotency_time],
};

/// `--slow-consumer`
pub static SLOW_CONSUMER: Key<Words<SlowConsumer>> = Key {
    about: About {
        name: "slow-consumer",
        group: Group::SlowConsumers,
        default: &["disconnect"],
        means: "",
        repeats: false,
        brief: "what happens to a subscriber that lags too far",
        effect: "A slow consumer is a subscriber whose own socket refuses bytes and that lags more than \
                 `--lag-bytes-max` or `--lag-messages-max`. `disconnect` closes it with 1013 (try again later), or \
                 resets it where its socket no longer takes the close frame. `skip` keeps it: it goes on with what \
                 is published next, and `stentor_deliveries_skipped_total` counts what it missed. `latest` is for values \
                 of which only the newest counts: every visit sends the newest message alone, to slow subscribers \
                 and to others, and `stentor_deliveries_conflated_total` counts what was passed over. A message that was \
                 begun is always finished. It is never the server's own lateness: when that lags, publishers are \
                 held back. With `skip` and `latest` a subscriber that never reads stays until `--pong-timeout` or \
                 `--write-timeout` ends it.",
        reason: "A client that is told can return and catch up; one that silently misses messages can't know.",
        memory: "",
    },
    kind: Words {
        placeholder: "POLICY",
        words: &[
            ("disconnect", SlowConsumer::Disconnect),
            ("skip", SlowConsumer::Skip),
            ("latest", SlowConsumer::Latest),
        ],
    },
    field: |config| vec![config.slow_consumer],
};

/// `--lag-bytes-max`
pub static LAG_BYTES_MAX: Key<Sizes> = Key {
    about: About {
        name: "lag-bytes-max",
        group: Group::SlowConsumers,
        default: &["16MiB"],
        means: "",
        repeats: false,
        brief: "lag behind a topic's newest message, in bytes",
        effect: "A subscriber whose own socket refuses bytes is slow (`--slow-consumer`) once it lags by all of it. A publisher is held \
                 back, its socket not read, once the server's own delivery lags by a quarter of it. At least \
                 `--max-message-bytes`; the newest message alone cuts nobody off. Where the logs are nearly full \
                 (`--log-bytes-max`), half of it holds.",
        reason: "Sixteen messages of the largest size. With 1 MiB, readers on the same machine that read as fast as \
                 they could were cut off by a burst of four messages of 1 MiB, or of forty of 100 kB.",
        memory: "so much for each topic that is in use, whatever the number of slow subscribers, since all read one \
                 log; together at most `--log-bytes-max`.",
    },
    kind: Sizes { from: KIB, to: 64 * GIB },
    field: |config| vec![config.lag_bytes_max],
};

/// `--lag-messages-max`
pub static LAG_MESSAGES_MAX: Key<Counts<u64>> = Key {
    about: About {
        name: "lag-messages-max",
        group: Group::SlowConsumers,
        default: &["10_000"],
        means: "",
        repeats: false,
        brief: "lag behind a topic's newest message, in messages",
        effect: "As `--lag-bytes-max`, for topics of small messages; whichever is reached first counts.",
        reason: "With messages of 100 bytes it is reached together with the default of `--lag-bytes-max`.",
        memory: "",
    },
    kind: Counts { from: 2, to: 1_000_000_000, unit: "messages" },
    field: |config| vec![config.lag_messages_max],
};

/// `--log-bytes-max`
pub static LOG_BYTES_MAX: Key<Sizes> = Key {
    about: About {
        name: "log-bytes-max",
        group: Group::Memory,
        default: &["1GiB"],
        means: "",
        repeats: false,
        brief: "logs of all topics together",
        effect: "What messages occupy until every subscriber has them or lags too far. From seven eighths on, \
                 and where the largest message would not fit, subscribers are slow at half of their lag bounds, and \
                 those that keep some of the logs and have taken nothing for a second are reset. At the bound publishers are held back, \
                 their sockets not read, until there is room. At least `--lag-bytes-max`.",
        reason: "Room for 64 topics that all lag by 16 MiB, on a machine of 4 GiB.",
        memory: "the bound itself.",
    },
    kind: Sizes { from: 64 * KIB, to: TIB },
    field: |config| vec![config.log_bytes_max],
};

/// `--assembly-bytes-max`
pub static ASSEMBLY_BYTES_MAX: Key<Sizes> = Key {
    about: About {
        name: "assembly-bytes-max",
        group: Group::Memory,
        default: &["256MiB"],
        means: "",
        repeats: false,
        brief: "half-received messages and request bodies of all connections together",
        effect: "A message that is not whole waits in a buffer of its connection. A client whose message would pass the \
                 bound is closed with 1013, one whose request body would is answered with 503. Whole messages that wait \
                 because their topic's window is full count, too, and are kept. At least `--max-message-bytes` and \
                 `--max-body-bytes`.",
        reason: "256 clients may be in the middle of a message of 1 MiB, or 16,384 in one of 16 KiB.",
        memory: "the bound itself, and what of held messages fits in one receive (up to 68 KiB) of each publisher.",
    },
    kind: Sizes { from: 64 * KIB, to: TIB },
    field: |config| vec![config.assembly_bytes_max],
};

/// `--reply-bytes-max`
pub static REPLY_BYTES_MAX: Key<Sizes> = Key {
    about: About {
        name: "reply-bytes-max",
        group: Group::Memory,
        default: &["1MiB"],
        means: "",
        repeats: false,
        brief: "replies that wait for one connection",
        effect: "Replies are what a connection gets beside its topics: echoes, pongs, responses. A client that asks and \
                 does not read is itself not read once so much waits for it, until it has left. A session of an embedding \
                 program that goes on sending to it (from a timer, say) is closed with 1013 at four times as much, or \
                 at four messages of the largest size.",
        reason: "One echoed message of the largest size; who reads what it asks for never has more.",
        memory: "`reply-bytes-max` and one message for each connection that asks without reading.",
    },
    kind: Sizes { from: 4 * KIB, to: GIB },
    field: |config| vec![config.reply_bytes_max],
};

/// `--send-buffer-bytes`
pub static SEND_BUFFER_BYTES: Key<Sizes> = Key {
    about: About {
        name: "send-buffer-bytes",
        group: Group::Memory,
        default: &["64KiB"],
        means: "",
        repeats: false,
        brief: "kernel's send buffer of each connection (SO_SNDBUF)",
        effect: "Smaller saves kernel memory for readers that are stuck; larger lets bursts leave in fewer calls, and \
                 one connection's throughput is at most this in each round trip. Linux cuts it to \
                 `net.core.wmem_max`.",
        reason: "Left alone, the kernel lets one stuck reader hold 3.9 MB. With 1,024 or more pending messages of \
                 64 bytes 16 KiB costs 6 to 42 % of throughput; with fewer, and against 256 KiB, nothing measurable.",
        memory: "a stuck reader holds about twice this in the kernel: 130 KB with the default, 1.3 GB for 10,000.",
    },
    kind: Sizes { from: 4 * KIB, to: GIB },
    field: |config| vec![config.send_buffer_bytes],
};

/// `--receive-buffer-bytes`
pub static RECEIVE_BUFFER_BYTES: Key<Or<Sizes>> = Key {
    about: About {
        name: "receive-buffer-bytes",
        group: Group::Memory,
        default: &["kernel"],
        means: "the kernel's own choice, which grows with the traffic",
        repeats: false,
        brief: "kernel's receive buffer of each connection (SO_RCVBUF)",
        effect: "Bounds what a publisher that is held back can leave in the kernel. A set size no longer grows, and \
                 bounds the throughput of one connection to this in each round trip. Linux cuts it to \
                 `net.core.rmem_max`.",
        reason: "Most clients of a broadcast send little, and the kernel then reserves little.",
        memory: "about twice this in the kernel for each connection that is not read; with `kernel`, up to \
                 `net.ipv4.tcp_rmem`.",
    },
    kind: Or { words: &["kernel"], kind: Sizes { from: 4 * KIB, to: GIB } },
    field: |config| vec![config.receive_buffer_bytes],
};

/// `--log-level`
pub static LOG_LEVEL: Key<Words<LogLevel>> = Key {
    about: About {
        name: "log-level",
        group: Group::Logging,
        default: &["info"],
        means: "",
        repeats: false,
        brief: "how much is logged, on stderr",
        effect: "`error`: what the operator has to put right. `warn`: also what is refused or cut off. `info`: also \
                 start, stop and changes. `debug`: also each connection. `trace`: also each message.",
        reason: "Quiet in operation, whatever the number of clients.",
        memory: "",
    },
    kind: Words {
        placeholder: "LEVEL",
        words: &[
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ],
    },
    field: |config| vec![config.log_level],
};
