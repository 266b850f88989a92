//! Bodies of API requests as calls: JSON in, typed and checked values out.
//!
//! Three ways to say no. A method that does not exist is 404, a body that is no JSON or has a value of another type is
//! 400, and what a method itself refuses is an [`ApiError`]. Unknown fields are ignored, since Centrifugo's libraries
//! send more than is known here; `null` is the same as nothing, but for `data`.
//!
//! Payloads are slices of the body, not copies, unless they have to be decoded.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::ApiError;
use crate::{
    broker::name::{NAME_BYTES_MAX, NameError, TopicName},
    config::value::{self, Time},
    protocol::{http::Refusal, ws::Kind},
};

/// Commands of one batch.
const COMMANDS_MAX: usize = 1_000;

/// The farthest that a message may be scheduled ahead.
const DELAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A method of the API, by its name in the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `publish`
    Publish,
    /// `broadcast`
    Broadcast,
    /// `batch`
    Batch,
    /// `history`
    History,
    /// `history_remove`
    HistoryRemove,
    /// `channels`
    Channels,
    /// `subscribe`
    Subscribe,
    /// `unsubscribe`
    Unsubscribe,
    /// `disconnect`
    Disconnect,
    /// `info`
    Info,
    /// `schedule`
    Schedule,
    /// `schedules`
    Schedules,
    /// `schedule_cancel`
    ScheduleCancel,
    /// `presence`; not available yet.
    Presence,
    /// `presence_stats`; not available yet.
    PresenceStats,
    /// `refresh`; not available yet.
    Refresh,
}

impl Method {
    /// All methods.
    pub const ALL: [Method; 16] = [
        Method::Publish,
        Method::Broadcast,
        Method::Batch,
        Method::History,
        Method::HistoryRemove,
        Method::Channels,
        Method::Subscribe,
        Method::Unsubscribe,
        Method::Disconnect,
        Method::Info,
        Method::Schedule,
        Method::Schedules,
        Method::ScheduleCancel,
        Method::Presence,
        Method::PresenceStats,
        Method::Refresh,
    ];

    /// The method of that name.
    pub fn named(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|method| method.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Method::Publish => "publish",
            Method::Broadcast => "broadcast",
            Method::Batch => "batch",
            Method::History => "history",
            Method::HistoryRemove => "history_remove",
            Method::Channels => "channels",
            Method::Subscribe => "subscribe",
            Method::Unsubscribe => "unsubscribe",
            Method::Disconnect => "disconnect",
            Method::Info => "info",
            Method::Schedule => "schedule",
            Method::Schedules => "schedules",
            Method::ScheduleCancel => "schedule_cancel",
            Method::Presence => "presence",
            Method::PresenceStats => "presence_stats",
            Method::Refresh => "refresh",
        }
    }

    /// Whether a body says anything to it. `curl -X POST` without one is enough otherwise.
    fn needs_body(self) -> bool {
        !matches!(self, Method::Info | Method::Channels | Method::Schedules)
    }
}

/// A request that becomes no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The request as a whole: a status of HTTP.
    Request(Refusal),
    /// The method, which was understood.
    Method(ApiError),
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        Rejection::Request(refusal)
    }
}

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Rejection {
        Rejection::Method(error)
    }
}

/// What a backend asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A message to one topic.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The message.
        message: Publication,
    },
    /// A message to several topics.
    Broadcast {
        /// The topics.
        to: Recipients,
        /// The message.
        message: Publication,
    },
    /// Several calls.
    Batch {
        /// The calls with their methods; an error where a command is none. None of them is a batch.
        commands: Vec<Result<(Method, Call), ApiError>>,
        /// Whether their order does not matter.
        parallel: bool,
    },
    /// What was published to a topic.
    History {
        /// The topic.
        topic: TopicName,
        /// How much of it.
        limit: Limit,
        /// What comes behind this position; from either end of the history otherwise.
        since: Option<Since>,
        /// Newest first.
        reverse: bool,
    },
    /// Forgets the history of a topic.
    HistoryRemove {
        /// The topic.
        topic: TopicName,
    },
    /// Which topics have subscribers.
    Channels {
        /// Only those whose name matches.
        pattern: Option<String>,
    },
    /// Subscribes connections to a topic.
    Subscribe {
        /// Which.
        who: Who,
        /// The topic.
        topic: TopicName,
    },
    /// Ends their subscription.
    Unsubscribe {
        /// Whose.
        who: Who,
        /// To which topic.
        topic: TopicName,
    },
    /// Closes connections.
    Disconnect {
        /// Which.
        who: Who,
        /// Connections that stay.
        whitelist: Vec<String>,
        /// The close code, 3000 to 4999; the server's own choice otherwise.
        code: Option<u16>,
        /// The reason beside it.
        reason: String,
    },
    /// What the server is and has.
    Info,
    /// A message at a later time, or again and again.
    Schedule {
        /// The topic.
        topic: TopicName,
        /// The message.
        message: Publication,
        /// When.
        when: When,
    },
    /// What is scheduled.
    Schedules,
    /// Takes back what was scheduled.
    ScheduleCancel {
        /// By the identifier that `schedule` gave.
        id: String,
    },
}

/// A message to publish, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Text or binary. Text is valid UTF-8.
    pub kind: Kind,
    /// The payload.
    pub payload: Bytes,
    /// Whether it is left out of the topic's history.
    pub skip_history: bool,
    /// Attached to the message.
    pub tags: BTreeMap<String, String>,
    /// A second message of the same key is not published.
    pub idempotency_key: Option<String>,
    /// When it is published, if not now.
    pub delay: Option<Delay>,
    /// Whether the answer waits for its delivery and reports it.
    pub report: bool,
    /// The connection that does not get it.
    pub exclude: Option<String>,
}

/// Whom a broadcast is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// These topics, in this order; an error for each that is none.
    Topics(Vec<Result<TopicName, ApiError>>),
    /// All live topics that match.
    Match(String),
}

/// How much of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing, but where it ends.
    PositionOnly,
    /// So many messages.
    AtMost(u64),
    /// As much as the server gives at once.
    All,
}

/// A position in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The last offset that the caller has.
    pub offset: u64,
    /// The epoch that it is of; any if it is left out.
    pub epoch: Option<String>,
}

/// Connections that a call is about: all that fit what is given; never nothing at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Of this user.
    pub user: Option<String>,
    /// With this connection id.
    pub client: Option<String>,
    /// With this session id.
    pub session: Option<String>,
}

/// When a message is published that is not published now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// After this time.
    For(Duration),
    /// At this time: milliseconds since 1970. It may lie in the past.
    Until(u64),
}

/// When a scheduled message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once.
    Once(Delay),
    /// Again and again, never after no time at all.
    Every(Duration),
}

impl Call {
    /// Reads the body of a request for `method`.
    ///
    /// # Errors
    /// See [`Rejection`].
    pub fn parse(method: Method, body: &Bytes) -> Result<Call, Rejection> {
        let empty = body.trim_ascii().is_empty();
        if empty && method.needs_body() {
            return Err(bad_body("the request body is empty: send a JSON object").into());
        }
        let nothing = Bytes::from_static(b"{}");
        Command { method, body: if empty { &nothing } else { body } }.parse()
    }
}

/// One method with its parameters: a whole request, or one of a batch.
struct Command<'a> {
    method: Method,
    body: &'a Bytes,
}

impl Command<'_> {
    fn parse(&self) -> Result<Call, Rejection> {
        Ok(match self.method {
            Method::Publish => {
                let fields: MessageFields<'_> = self.fields()?;
                Call::Publish { topic: topic(fields.channel.as_deref())?, message: self.message(fields)? }
            }
            Method::Broadcast => {
                let mut fields: MessageFields<'_> = self.fields()?;
                let to = recipients(fields.channels.take(), fields.pattern.take())?;
                Call::Broadcast { to, message: self.message(fields)? }
            }
            Method::Batch => self.batch()?,
            Method::History => {
                let fields: HistoryFields = self.owned_fields()?;
                let limit = match fields.limit {
                    None | Some(0) => Limit::PositionOnly,
                    Some(limit) => u64::try_from(limit).map_or(Limit::All, Limit::AtMost),
                };
                let since = fields
                    .since
                    .map(|since| Since { offset: since.offset.unwrap_or(0), epoch: given(since.epoch) });
                let reverse = fields.reverse.unwrap_or(false);
                Call::History { topic: topic(fields.channel.as_deref())?, limit, since, reverse }
            }
            Method::HistoryRemove => Call::HistoryRemove { topic: self.target()?.0 },
            Method::Channels => {
                let fields: ChannelsFields = self.owned_fields()?;
                Call::Channels { pattern: given(fields.pattern) }
            }
            Method::Subscribe => {
                let (topic, who) = self.target()?;
                Call::Subscribe { who: who?, topic }
            }
            Method::Unsubscribe => {
                let (topic, who) = self.target()?;
                Call::Unsubscribe { who: who?, topic }
            }
            Method::Disconnect => {
                let fields: TargetFields = self.owned_fields()?;
                let how = fields.disconnect.unwrap_or_default();
                Call::Disconnect {
                    code: close_code(how.code.unwrap_or(0))?,
                    reason: how.reason.unwrap_or_default(),
                    whitelist: fields.whitelist.unwrap_or_default(),
                    who: who(fields.user, fields.client, fields.session)?,
                }
            }
            Method::Info => {
                let _: Nothing = self.owned_fields()?;
                Call::Info
            }
            Method::Schedule => {
                let mut fields: MessageFields<'_> = self.fields()?;
                let when = when(delay(fields.delay.take(), fields.at.take())?, fields.every.take())?;
                let topic = topic(fields.channel.as_deref())?;
                Call::Schedule { topic, message: self.message(fields)?, when }
            }
            Method::Schedules => {
                let _: Nothing = self.owned_fields()?;
                Call::Schedules
            }
            Method::ScheduleCancel => {
                let fields: CancelFields = self.owned_fields()?;
                let id = given(fields.id).ok_or_else(|| ApiError::bad_request("id is missing"))?;
                Call::ScheduleCancel { id }
            }
            Method::Presence | Method::PresenceStats | Method::Refresh => {
                let _: Nothing = self.owned_fields()?;
                return Err(ApiError::NOT_AVAILABLE.into());
            }
        })
    }

    /// The parameters, which may borrow from the body.
    fn fields<'b, T: Deserialize<'b>>(&'b self) -> Result<T, Refusal> {
        object(self.body)?;
        serde_json::from_slice(self.body).map_err(bad_body)
    }

    fn owned_fields<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        self.fields()
    }

    fn target(&self) -> Result<(TopicName, Result<Who, ApiError>), Rejection> {
        let fields: TargetFields = self.owned_fields()?;
        Ok((topic(fields.channel.as_deref())?, who(fields.user, fields.client, fields.session)))
    }

    fn message(&self, fields: MessageFields<'_>) -> Result<Publication, Rejection> {
        let (kind, payload) = self.payload(fields.data, fields.b64data.as_deref())?;
        Ok(Publication {
            kind,
            payload,
            skip_history: fields.skip_history.unwrap_or(false),
            tags: fields.tags.unwrap_or_default(),
            idempotency_key: given(fields.idempotency_key),
            delay: delay(fields.delay, fields.at)?,
            report: fields.report.unwrap_or(false),
            exclude: given(fields.exclude),
        })
    }

    /// A string's characters, or any other value's JSON text as it came; or the bytes of `b64data`. A `null` beside
    /// `b64data` and an empty `b64data` beside `data` are what libraries send for nothing.
    fn payload(&self, data: Option<&RawValue>, b64data: Option<&str>) -> Result<(Kind, Bytes), Rejection> {
        match (data.map(RawValue::get), b64data) {
            (None, None) => Err(ApiError::bad_request("data is missing: give data or b64data").into()),
            (None | Some("null"), Some(b64data)) => {
                let decoded = BASE64
                    .decode(b64data)
                    .map_err(|error| ApiError::bad_request(format_args!("b64data is not base64: {error}")))?;
                Ok((Kind::Binary, decoded.into()))
            }
            (Some(data), None | Some("")) => Ok((Kind::Text, self.text(data)?)),
            (Some(_), Some(_)) => Err(ApiError::bad_request("give data or b64data, not both").into()),
        }
    }

    /// The text that a JSON value publishes.
    fn text(&self, json: &str) -> Result<Bytes, Refusal> {
        let Some(rest) = json.strip_prefix('"') else {
            return Ok(self.body.slice_ref(json.as_bytes()));
        };
        match rest.strip_suffix('"').filter(|text| !text.contains('\\')) {
            Some(text) => Ok(self.body.slice_ref(text.as_bytes())),
            None => {
                // Its escapes were only skipped so far: half a surrogate pair shows here.
                let text: String = serde_json::from_str(json)
                    .map_err(|error| bad_body(format_args!("data: {error}, counted from its beginning")))?;
                Ok(text.into())
            }
        }
    }

    fn batch(&self) -> Result<Call, Rejection> {
        let fields: BatchFields<'_> = self.fields()?;
        let commands = fields.commands.unwrap_or_default();
        if commands.is_empty() {
            return Err(ApiError::bad_request("commands is missing or empty").into());
        }
        if commands.len() > COMMANDS_MAX {
            return Err(ApiError::LIMIT_EXCEEDED.into());
        }
        let commands = commands.into_iter().enumerate();
        let parsed =
            commands.map(|(at, command)| self.one_of_batch(command).map_err(|refusal| within(at, refusal)));
        let commands = parsed.collect::<Result<Vec<_>, Refusal>>()?;
        Ok(Call::Batch { commands, parallel: fields.parallel.unwrap_or(false) })
    }

    /// `{"method":{…}}`. A body that can't be read is the whole request's fault, anything else the command's own.
    fn one_of_batch(&self, command: &RawValue) -> Result<Result<(Method, Call), ApiError>, Refusal> {
        object(command.get().as_bytes())?;
        let methods: BTreeMap<String, &RawValue> = serde_json::from_str(command.get()).map_err(bad_body)?;
        let mut known =
            methods.iter().filter_map(|(name, parameters)| Some((Method::named(name)?, *parameters)));
        let (method, parameters) = match (known.next(), known.next()) {
            (Some((method, parameters)), None) if method != Method::Batch => (method, parameters),
            (Some(_), Some(_)) => return Ok(Err(ApiError::bad_request("a command is one method"))),
            _ => return Ok(Err(ApiError::METHOD_NOT_FOUND)),
        };
        let body = self.body.slice_ref(parameters.get().as_bytes());
        match (Command { method, body: &body }).parse() {
            Ok(call) => Ok(Ok((method, call))),
            Err(Rejection::Method(error)) => Ok(Err(error)),
            Err(Rejection::Request(refusal)) => Err(refusal),
        }
    }
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// 400 with one line that says what is wrong, and where.
fn bad_body(what: impl fmt::Display) -> Refusal {
    const CHARS_MAX: usize = 200;
    let line: String =
        what.to_string().chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Refusal::bad_request("api_body", line)
}

/// What went wrong in one command of a batch, with its number.
fn within(at: usize, refusal: Refusal) -> Refusal {
    Refusal { hint: format!("commands[{at}]: {}", refusal.hint).into(), ..refusal }
}

/// Parameters are an object: a list would be taken for one, field by field.
fn object(body: &[u8]) -> Result<(), Refusal> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        _ => Err(bad_body("the request body must be a JSON object")),
    }
}

/// A text that is not empty: libraries send empty ones for nothing.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn topic(name: Option<&str>) -> Result<TopicName, ApiError> {
    TopicName::parse(name.unwrap_or_default()).map_err(|error| match error {
        NameError::Empty => ApiError::bad_request("channel is missing or empty"),
        error => ApiError::bad_request(format_args!("channel: {error}")),
    })
}

fn recipients(topics: Option<Vec<String>>, pattern: Option<String>) -> Result<Recipients, ApiError> {
    match (topics, given(pattern)) {
        (Some(topics), None) if !topics.is_empty() => {
            Ok(Recipients::Topics(topics.iter().map(|name| topic(Some(name))).collect()))
        }
        (None, Some(pattern)) if pattern.len() > NAME_BYTES_MAX => {
            Err(ApiError::bad_request(format_args!("match has more than {NAME_BYTES_MAX} bytes")))
        }
        (None, Some(pattern)) => Ok(Recipients::Match(pattern)),
        (Some(_), Some(_)) => Err(ApiError::bad_request("give channels or match, not both")),
        _ => Err(ApiError::bad_request("channels is missing or empty: give channels or match")),
    }
}

fn who(user: Option<String>, client: Option<String>, session: Option<String>) -> Result<Who, ApiError> {
    match (given(user), given(client), given(session)) {
        (None, None, None) => Err(ApiError::bad_request("user, client or session must be given")),
        (user, client, session) => Ok(Who { user, client, session }),
    }
}

fn close_code(code: u64) -> Result<Option<u16>, ApiError> {
    match u16::try_from(code) {
        Ok(0) => Ok(None),
        Ok(code @ 3000..=4999) => Ok(Some(code)),
        _ => Err(ApiError::bad_request("disconnect.code must be 3000 to 4999")),
    }
}

/// A time as everywhere in the configuration: `500ms`, `25s`. A bare number could mean either.
fn time(field: &str, text: &str) -> Result<Duration, ApiError> {
    let Time(time) = text.parse().map_err(|refusal| match refusal {
        value::Refusal::Form(expected) => ApiError::bad_request(format_args!("{field}: {expected}")),
        value::Refusal::Range => ApiError::bad_request(format_args!("{field}: out of range")),
    })?;
    if time > DELAY_MAX {
        return Err(ApiError::bad_request(format_args!("{field}: at most 366 days")));
    }
    Ok(time)
}

fn delay(delay: Option<String>, at: Option<u64>) -> Result<Option<Delay>, ApiError> {
    match (delay, at) {
        (None, None) => Ok(None),
        (Some(delay), None) => Ok(Some(Delay::For(time("delay", &delay)?))),
        (None, Some(at)) => Ok(Some(Delay::Until(at))),
        (Some(_), Some(_)) => Err(ApiError::bad_request("give delay or at, not both")),
    }
}

fn when(delay: Option<Delay>, every: Option<String>) -> Result<When, ApiError> {
    match (delay, every) {
        (Some(delay), None) => Ok(When::Once(delay)),
        (None, Some(every)) => match time("every", &every)? {
            Duration::ZERO => Err(ApiError::bad_request("every: must be more than no time")),
            every => Ok(When::Every(every)),
        },
        _ => Err(ApiError::bad_request("give one of delay, at and every")),
    }
}

/// A value that is there, be it `null`.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Of `publish`, `broadcast` and `schedule`.
#[derive(Deserialize)]
struct MessageFields<'a> {
    channel: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(rename = "match")]
    pattern: Option<String>,
    #[serde(borrow, default, deserialize_with = "there")]
    data: Option<&'a RawValue>,
    b64data: Option<String>,
    skip_history: Option<bool>,
    tags: Option<BTreeMap<String, String>>,
    idempotency_key: Option<String>,
    delay: Option<String>,
    at: Option<u64>,
    every: Option<String>,
    report: Option<bool>,
    exclude: Option<String>,
}

#[derive(Deserialize)]
struct BatchFields<'a> {
    #[serde(borrow)]
    commands: Option<Vec<&'a RawValue>>,
    parallel: Option<bool>,
}

#[derive(Deserialize)]
struct HistoryFields {
    channel: Option<String>,
    limit: Option<i64>,
    since: Option<SinceFields>,
    reverse: Option<bool>,
}

#[derive(Deserialize)]
struct SinceFields {
    offset: Option<u64>,
    epoch: Option<String>,
}

#[derive(Deserialize)]
struct ChannelsFields {
    pattern: Option<String>,
}

/// Of `subscribe`, `unsubscribe`, `disconnect` and `history_remove`.
#[derive(Deserialize)]
struct TargetFields {
    channel: Option<String>,
    user: Option<String>,
    client: Option<String>,
    session: Option<String>,
    whitelist: Option<Vec<String>>,
    disconnect: Option<DisconnectFields>,
}

#[derive(Deserialize, Default)]
struct DisconnectFields {
    code: Option<u64>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct CancelFields {
    id: Option<String>,
}

#[derive(Deserialize)]
struct Nothing {}
