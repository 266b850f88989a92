//! The server API, `POST /api/{method}`: what backends ask for, in the shapes of Centrifugo's HTTP API.
//!
//! Pure: [`request`] makes a [`Call`] of a body, [`plan`] says what has to be done for it, [`reply`] makes a response of what
//! that gave, [`keys`] decides who may call. Nobody here carries a call out: a router hands it to the engine as [`Answer::Call`](super::Answer::Call).

pub mod keys;
pub mod plan;
pub mod reply;
pub mod request;

use std::{borrow::Cow, fmt};

pub use plan::Plan;
pub use reply::Reply;
pub use request::{Call, Method, Rejection};

/// What a method refuses: answered with 200 and `{"error":{"code","message"}}`. The codes are Centrifugo's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// Centrifugo's code.
    pub code: u16,
    /// What is wrong, for whoever has to repair the caller.
    pub message: Cow<'static, str>,
}

impl ApiError {
    /// 100: the server's own failure.
    pub const INTERNAL: ApiError = ApiError::of(100, "internal server error");
    /// 102: there is no such topic, and the method does not make one.
    pub const UNKNOWN_CHANNEL: ApiError = ApiError::of(102, "unknown channel");
    /// 104: a command of a batch is of no known method.
    pub const METHOD_NOT_FOUND: ApiError = ApiError::of(104, "method not found");
    /// 106: something is over a bound of the server's.
    pub const LIMIT_EXCEEDED: ApiError = ApiError::of(106, "limit exceeded");
    /// 108: the server does not do that, or not as it is configured.
    pub const NOT_AVAILABLE: ApiError = ApiError::of(108, "not available");
    /// 111: too many at once.
    pub const TOO_MANY_REQUESTS: ApiError = ApiError::of(111, "too many requests");
    /// 112: the history does not reach back to the position, or it is of another epoch.
    pub const UNRECOVERABLE_POSITION: ApiError = ApiError::of(112, "unrecoverable position");

    /// 106: as many topics as there may be.
    pub const TOO_MANY_TOPICS: ApiError =
        ApiError::of(106, "limit exceeded: no further topic can be created, --max-topics is reached");
    /// 106: the list of a broadcast is too long.
    pub const TOO_MANY_RECIPIENTS: ApiError = ApiError::of(
        106,
        "limit exceeded: a broadcast lists at most 100000 channels, or names them by match",
    );
    /// 106: the other parts of the answer are as long as it may be.
    pub const ANSWER_TOO_LONG: ApiError = ApiError::of(
        106,
        "limit exceeded: the answer is longer than 16 MiB already, ask for the rest by itself",
    );
    /// 106: the list would be too long.
    pub const TOO_MANY_CHANNELS: ApiError =
        ApiError::of(106, "limit exceeded: more than 100000 topics match, give a narrower pattern");
    /// 106: as many topics as a connection may have.
    pub const TOO_MANY_SUBSCRIPTIONS: ApiError = ApiError::of(
        106,
        "limit exceeded: the connection has as many topics as it may (--max-subscriptions)",
    );
    /// 106: as much is scheduled as may be.
    pub const TOO_MANY_SCHEDULES: ApiError =
        ApiError::of(106, "limit exceeded: --max-schedules or --schedule-bytes-max is reached");
    /// 106: a message that its topic does not take.
    pub const MESSAGE_TOO_LONG: ApiError = ApiError::of(
        106,
        "limit exceeded: the message is longer than --max-message-bytes, or its topic's rule, allows",
    );
    /// 108: history is asked of a topic that has none.
    pub const NO_HISTORY: ApiError =
        ApiError::of(108, "not available: no history is kept of this topic, see docs/topics.md");
    /// 108: what is asked for has no users.
    pub const NO_USERS: ApiError = ApiError::of(
        108,
        "not available: connections have no users and sessions here yet, name one by client alone",
    );
    /// 111: a message found no room in its topic in time, and was dropped.
    pub const NO_ROOM: ApiError = ApiError::of(
        111,
        "too many requests: the topic had no room for the message within --publish-timeout, try again",
    );
    /// 107: what is to be cancelled is not there, or not any more.
    pub const NO_SCHEDULE: ApiError = ApiError::of(107, "bad request: nothing of this id is scheduled");

    /// 107: a value is missing, or is none that the method takes.
    pub fn bad_request(why: impl fmt::Display) -> ApiError {
        ApiError { code: 107, message: format!("bad request: {why}").into() }
    }

    /// 108: a connection does not do what was asked of it.
    pub fn not_available(why: impl fmt::Display) -> ApiError {
        ApiError { code: 108, message: format!("not available: {why}").into() }
    }

    const fn of(code: u16, message: &'static str) -> ApiError {
        ApiError { code, message: Cow::Borrowed(message) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests;
