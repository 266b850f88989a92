//! What calls give, as JSON: `{"result":{…}}` or `{"error":{…}}`.

use std::collections::BTreeMap;

use serde::{
    Serialize,
    ser::{SerializeMap, Serializer},
};
use serde_json::value::RawValue;

use super::{ApiError, Method};
use crate::protocol::http::Response;

/// What a call gave.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Of `publish`.
    Published(Published),
    /// Of `broadcast`: for each topic, in the order of the request.
    Broadcast(Vec<Result<Reply, ApiError>>),
    /// Of `broadcast` to a pattern: to how many topics it went.
    Announced {
        /// Live ones whose name matched.
        topics: u64,
    },
    /// Of `batch`: for each command, in the order of the request.
    Batch(Vec<Result<(Method, Reply), ApiError>>),
    /// Of `history`.
    History(History),
    /// Of `channels`: the subscribers of each topic.
    Channels(BTreeMap<String, Channel>),
    /// Of `info`.
    Info(Vec<Node>),
    /// Of `schedule`.
    Scheduled {
        /// What `schedule_cancel` takes.
        id: String,
    },
    /// Of `schedules`.
    Schedules(Vec<Scheduled>),
    /// Of `publish`: one lane's part of its report.
    Reported(Report),
    /// Of `schedule_cancel`: whether it was there.
    Cancelled(bool),
    /// Of all others: it is done.
    Done,
}

/// Where a message went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Its offset in the topic.
    pub offset: u64,
    /// The topic's epoch.
    pub epoch: String,
    /// What came of its delivery, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// What came of a message's delivery, in subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Have it.
    pub sent: u64,
    /// Will have it once their sockets take it.
    pub behind: u64,
    /// Go on behind it.
    pub skipped: u64,
    /// Got, or will get, a newer one instead.
    pub conflated: u64,
    /// Were closed before it.
    pub closed: u64,
}

impl std::ops::Add for Report {
    type Output = Report;

    fn add(self, other: Report) -> Report {
        Report {
            sent: self.sent + other.sent,
            behind: self.behind + other.behind,
            skipped: self.skipped + other.skipped,
            conflated: self.conflated + other.conflated,
            closed: self.closed + other.closed,
        }
    }
}

/// A part of a topic's history.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// The messages.
    pub publications: Vec<HistoryItem>,
    /// The topic's last offset.
    pub offset: u64,
    /// The topic's epoch.
    pub epoch: String,
}

/// A message of a history.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryItem {
    /// The message as JSON dialects embed it.
    pub data: Box<RawValue>,
    /// Its offset.
    pub offset: u64,
    /// What was attached to it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// A topic that has subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// How many.
    pub num_clients: u64,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its identifier, another with each start.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Connections.
    pub num_clients: u64,
    /// Users.
    pub num_users: u64,
    /// Topics.
    pub num_channels: u64,
    /// Subscriptions.
    pub num_subs: u64,
    /// Seconds since its start.
    pub uptime: u64,
}

/// What is scheduled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scheduled {
    /// What `schedule_cancel` takes.
    pub id: String,
    /// What it is called in the configuration; `schedule_cancel` takes that as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The topic.
    pub channel: String,
    /// When it is published next: milliseconds since 1970.
    pub at: u64,
    /// How often, as it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
}

impl Reply {
    /// About how many bytes it holds.
    pub fn bytes(&self) -> usize {
        const OF_ONE: usize = 100;
        match self {
            Reply::History(history) => {
                let of_one = |item: &HistoryItem| {
                    let tags = item.tags.iter().map(|(key, value)| OF_ONE + key.len() + value.len());
                    OF_ONE + item.data.get().len() + tags.sum::<usize>()
                };
                history.publications.iter().map(of_one).sum()
            }
            Reply::Channels(channels) => channels.keys().map(|name| OF_ONE + name.len()).sum(),
            Reply::Schedules(schedules) => schedules.iter().map(|one| 2 * OF_ONE + one.channel.len()).sum(),
            _ => OF_ONE,
        }
    }
}

/// The response to a call.
pub fn response(outcome: &Result<Reply, ApiError>) -> Response {
    let body = match outcome {
        // Centrifugo's answer to a batch is not wrapped.
        Ok(reply @ Reply::Batch(_)) => serde_json::to_vec(reply),
        Ok(_) | Err(_) => serde_json::to_vec(&Wrapped(outcome)),
    };
    // A value of these types can always be written: keys are texts, and no number is infinite.
    Response::new(200, "application/json", body.unwrap_or_default())
}

/// `{"result":…}` or `{"error":…}`.
struct Wrapped<'a, T>(&'a Result<T, ApiError>);

impl<T: Serialize> Serialize for Wrapped<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Ok(result) => one_field("result", result, serializer),
            Err(error) => one_field("error", error, serializer),
        }
    }
}

/// One command's reply: `{"publish":{…}}` or `{"error":…}`.
struct OfBatch<'a>(&'a Result<(Method, Reply), ApiError>);

impl Serialize for OfBatch<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Ok((method, reply)) => one_field(method.name(), reply, serializer),
            Err(error) => one_field("error", error, serializer),
        }
    }
}

fn one_field<S: Serializer>(name: &str, value: &impl Serialize, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, value)?;
    map.end()
}

impl Serialize for ApiError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("code", &self.code)?;
        map.serialize_entry("message", &self.message)?;
        map.end()
    }
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Reply::Published(published) => published.serialize(serializer),
            Reply::Broadcast(published) => {
                one_field("responses", &published.iter().map(Wrapped).collect::<Vec<_>>(), serializer)
            }
            Reply::Announced { topics } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("responses", &[(); 0])?;
                map.serialize_entry("topics", topics)?;
                map.end()
            }
            Reply::Batch(replies) => {
                one_field("replies", &replies.iter().map(OfBatch).collect::<Vec<_>>(), serializer)
            }
            Reply::History(history) => history.serialize(serializer),
            Reply::Channels(channels) => one_field("channels", channels, serializer),
            Reply::Info(nodes) => one_field("nodes", nodes, serializer),
            Reply::Scheduled { id } => one_field("id", id, serializer),
            Reply::Schedules(schedules) => one_field("schedules", schedules, serializer),
            Reply::Reported(_) | Reply::Cancelled(_) | Reply::Done => {
                serializer.serialize_map(Some(0))?.end()
            }
        }
    }
}
