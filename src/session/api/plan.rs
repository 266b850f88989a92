//! A call as a plan: what has to be done for it, in what order and by whom, and what the answers make together.
//!
//! Pure: whoever carries a call out takes one [`Errand`] after another with [`Plan::next_errand`], gives each outcome to
//! [`Plan::done`], and answers once the plan [is over](Plan::is_over).
//!
//! ```text
//!   Call ──▶ Plan ──next_errand──▶ Errand ──▶ a topic's home | a connection's owner | every worker
//!              ▲                                          │
//!              └───────────────done───────────────────────┘       is_over ──▶ response
//! ```

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    ApiError, Call, Method, Reply,
    reply::{self, Published},
    request::{Delay, Limit, Publication, Recipients, Since, When, Who},
};
use crate::{
    broker::{
        home::{Extras, NotPublished, PageRequest, Place},
        ids::{ConnectionId, Epoch, Offset, Tick, WorkerId},
        name::TopicName,
        pattern::Pattern,
        schedule::ScheduleId,
    },
    protocol::{
        http::{Refusal, Response},
        ws::CloseCode,
    },
    session::{frame_of, kept, message},
};

/// How long a client is asked to wait whose message found no room in time.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What a connection is closed with where the call does not say: Centrifugo's "force disconnect", after which its clients
/// and ours do not come back by themselves.
const FORCE_DISCONNECT: CloseCode = CloseCode::new(3503).expect("an application's code");

/// What became of an errand.
pub type Outcome = Result<Reply, ApiError>;

/// Something that one worker, or each, does for a call.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Publish a message.
    Publish(Post),
    /// Publish it later.
    Schedule(Post, When),
    /// Publish it to every live topic whose name matches.
    Announce(Pattern, Post),
    /// Read a part of a topic's history: so many messages at most.
    Page(TopicName, PageRequest, u64),
    /// Forget it.
    RemoveHistory(TopicName),
    /// Subscribe a connection.
    Subscribe(ConnectionId, TopicName),
    /// End its subscription.
    Unsubscribe(ConnectionId, TopicName),
    /// Close it.
    Disconnect(ConnectionId, CloseCode, Arc<str>),
    /// List the topics that match, or all.
    Channels(Option<Pattern>),
    /// List what is scheduled.
    Schedules,
    /// Take it back.
    Cancel(ScheduleId),
    /// Take back what is called so.
    CancelNamed(Arc<str>),
    /// Say what the server is and has.
    Info,
}

/// A message on its way, as the frame that raw subscribers get.
#[derive(Clone, Debug)]
pub struct Post {
    /// Its topic. Where it is announced: any.
    pub topic: Option<TopicName>,
    /// The message.
    pub frame: Bytes,
    /// Bytes of its payload.
    pub payload_len: usize,
    /// Who does not get it.
    pub exclude: Option<ConnectionId>,
    /// What else is asked for it.
    pub extras: Arc<Extras>,
}

/// Who does an errand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Doer {
    /// The home of this topic.
    HomeOf(TopicName),
    /// This worker.
    Worker(WorkerId),
    /// All workers, each its part.
    Everybody,
    /// Whoever has the call.
    Here,
}

impl Errand {
    /// Who does it.
    pub fn doer(&self) -> Doer {
        match self {
            Errand::Schedule(Post { topic: Some(topic), .. }, _)
            | Errand::Page(topic, ..)
            | Errand::RemoveHistory(topic) => Doer::HomeOf(topic.clone()),
            Errand::Subscribe(connection, _)
            | Errand::Unsubscribe(connection, _)
            | Errand::Disconnect(connection, ..) => Doer::Worker(connection.worker),
            Errand::Cancel(id) => Doer::Worker(id.worker),
            Errand::Announce(..) | Errand::Channels(_) | Errand::Schedules | Errand::CancelNamed(_) => {
                Doer::Everybody
            }
            Errand::Publish(_) | Errand::Schedule(..) | Errand::Info => Doer::Here,
        }
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Plan {
    commands: Vec<Command>,
    /// In the order of the commands.
    answers: Vec<Answer>,
    /// Errands that were not begun.
    steps: VecDeque<Step>,
    /// Answers that are missing of errands that were.
    open: usize,
    is_batch: bool,
    workers: u16,
}

#[derive(Debug)]
struct Command {
    /// Of a batch.
    method: Option<Method>,
    /// Answered with a list.
    is_list: bool,
    answers: Range<usize>,
}

#[derive(Debug)]
enum Step {
    Errand(u32, Box<Errand>),
    /// Nothing behind it is begun before all is answered.
    Wait,
}

/// What is known of one answer.
#[derive(Debug, Default)]
struct Answer {
    missing: u16,
    outcome: Option<Outcome>,
}

impl Plan {
    /// The plan of a call, for so many workers. Messages that find no room until `until` are dropped.
    pub fn new(call: Call, until: Tick, workers: u16) -> Plan {
        let mut plan = Plan {
            commands: Vec::new(),
            answers: Vec::new(),
            steps: VecDeque::new(),
            open: 0,
            is_batch: false,
            workers,
        };
        match call {
            Call::Batch { commands, parallel } => {
                plan.is_batch = true;
                for command in commands {
                    match command {
                        Ok((method, call)) => plan.add(Some(method), call, until, parallel),
                        Err(error) => {
                            let begun = plan.answers.len();
                            plan.answered(Err(error));
                            plan.command(None, false, begun);
                        }
                    }
                }
            }
            call => plan.add(None, call, until, true),
        }
        plan
    }

    /// How many calls it is: each command of a batch is one.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// Something that can be begun now, with the number that its outcome is named by.
    pub fn next_errand(&mut self) -> Option<(u32, Errand)> {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Errand(number, errand) => {
                    let missing = if errand.doer() == Doer::Everybody { self.workers } else { 1 };
                    self.answers[number as usize].missing = missing;
                    self.open += 1;
                    return Some((number, *errand));
                }
                Step::Wait if self.open > 0 => {
                    self.steps.push_front(Step::Wait);
                    return None;
                }
                Step::Wait => {}
            }
        }
        None
    }

    /// What became of an errand; of one for everybody, with one of them.
    pub fn done(&mut self, number: u32, outcome: Outcome) {
        let Some(answer) = self.answers.get_mut(number as usize).filter(|answer| answer.missing > 0) else {
            return;
        };
        answer.missing -= 1;
        if answer.missing == 0 {
            self.open -= 1;
        }
        answer.outcome = Some(match answer.outcome.take() {
            None => outcome,
            Some(before) => together(before, outcome),
        });
    }

    /// Whether all is done.
    pub fn is_over(&self) -> bool {
        self.open == 0 && self.steps.is_empty()
    }

    /// The answer to the call.
    ///
    /// # Errors
    /// A message of the one call found no room in its topic: 503.
    pub fn response(self) -> Result<Response, Refusal> {
        let Plan { commands, answers, is_batch, .. } = self;
        let mut answers = answers.into_iter().map(|answer| match answer.outcome {
            Some(Ok(Reply::Cancelled(false))) => Err(ApiError::NO_SCHEDULE),
            outcome => outcome.unwrap_or(Err(ApiError::INTERNAL)),
        });
        let mut outcomes = commands.into_iter().map(|command| {
            let outcome = if command.is_list {
                Ok(Reply::Broadcast(answers.by_ref().take(command.answers.len()).collect()))
            } else {
                answers.next().unwrap_or(Err(ApiError::INTERNAL))
            };
            (command.method, outcome)
        });
        if is_batch {
            let named = |(method, outcome): (Option<Method>, Outcome)| match (method, outcome) {
                (Some(method), outcome) => outcome.map(|reply| (method, reply)),
                (None, Ok(_)) => Err(ApiError::INTERNAL),
                (None, Err(error)) => Err(error),
            };
            return Ok(reply::response(&Ok(Reply::Batch(outcomes.map(named).collect()))));
        }
        let (_, outcome) = outcomes.next().expect("a call is a command");
        if outcome.as_ref().is_err_and(|error| *error == ApiError::NO_ROOM) {
            let hint = "the topic had no room for the message within --publish-timeout, and it was not \
                        published: its subscribers or this server are overloaded, try again";
            return Err(Refusal::unavailable("publish_timeout", hint, RETRY_AFTER));
        }
        Ok(reply::response(&outcome))
    }

    /// Adds a command. One whose order matters waits for those before it, unless all are messages: topics keep their order.
    fn add(&mut self, method: Option<Method>, call: Call, until: Tick, parallel: bool) {
        let begun = self.answers.len();
        let is_message = matches!(call, Call::Publish { .. } | Call::Broadcast { .. });
        if !parallel && !is_message {
            self.steps.push_back(Step::Wait);
        }
        let is_list = matches!(&call, Call::Broadcast { to: Recipients::Topics(_), .. });
        self.errands_of(call, until);
        if !parallel && !is_message {
            self.steps.push_back(Step::Wait);
        }
        self.command(method, is_list, begun);
    }

    fn command(&mut self, method: Option<Method>, is_list: bool, begun: usize) {
        self.commands.push(Command { method, is_list, answers: begun..self.answers.len() });
    }

    fn errand(&mut self, errand: Errand) {
        let number = u32::try_from(self.answers.len()).expect("bounded by the body");
        self.answers.push(Answer::default());
        self.steps.push_back(Step::Errand(number, Box::new(errand)));
    }

    fn answered(&mut self, outcome: Outcome) {
        self.answers.push(Answer { missing: 0, outcome: Some(outcome) });
    }

    fn either(&mut self, errand: Result<Errand, ApiError>) {
        match errand {
            Ok(errand) => self.errand(errand),
            Err(error) => self.answered(Err(error)),
        }
    }

    fn errands_of(&mut self, call: Call, until: Tick) {
        match call {
            Call::Publish { topic, message } => {
                let delay = message.delay;
                self.either(post(message, until).map(|post| post.to(topic, delay)));
            }
            Call::Broadcast { to: Recipients::Topics(topics), message } => {
                let delay = message.delay;
                let post = post(message, until);
                for topic in topics {
                    let post = post.clone();
                    self.either(topic.and_then(|topic| Ok(post?.to(topic, delay))));
                }
            }
            Call::Broadcast { to: Recipients::Match(pattern), message } => {
                self.either(announce(&pattern, message, until));
            }
            Call::Batch { .. } => self.answered(Err(ApiError::bad_request("a batch in a batch"))),
            Call::History { topic, limit, since, reverse } => {
                self.either(page(topic, limit, since, reverse));
            }
            Call::HistoryRemove { topic } => self.errand(Errand::RemoveHistory(topic)),
            Call::Channels { pattern } => {
                let pattern = pattern.map(|pattern| parse_pattern("pattern", &pattern)).transpose();
                self.either(pattern.map(Errand::Channels));
            }
            Call::Subscribe { who, topic } => {
                self.either(connection(&who).map(|connection| Errand::Subscribe(connection, topic)));
            }
            Call::Unsubscribe { who, topic } => {
                self.either(connection(&who).map(|connection| Errand::Unsubscribe(connection, topic)));
            }
            Call::Disconnect { who, whitelist: _, code, reason } => {
                let code = code.and_then(CloseCode::new).unwrap_or(FORCE_DISCONNECT);
                let reason = if reason.is_empty() { "force disconnect".into() } else { reason.into() };
                self.either(connection(&who).map(|connection| Errand::Disconnect(connection, code, reason)));
            }
            Call::Info => self.errand(Errand::Info),
            Call::Schedule { topic, message, when } => {
                let post = post(message, until);
                self.either(post.map(|post| post.scheduled(topic, when)));
            }
            Call::Schedules => self.errand(Errand::Schedules),
            Call::ScheduleCancel { id } => self.errand(match id.parse::<ScheduleId>() {
                // Another server's worker is nobody here, and a name may look like anything.
                Ok(id) if id.worker.0 < self.workers => Errand::Cancel(id),
                _ => Errand::CancelNamed(id.into()),
            }),
        }
    }
}

impl Post {
    fn to(mut self, topic: TopicName, delay: Option<Delay>) -> Errand {
        match delay {
            Some(delay) => self.scheduled(topic, When::Once(delay)),
            None => {
                self.topic = Some(topic);
                Errand::Publish(self)
            }
        }
    }

    fn scheduled(mut self, topic: TopicName, when: When) -> Errand {
        self.topic = Some(topic);
        // What waits for its time may wait for room as well.
        self.extras = Arc::new(Extras { until: None, ..(*self.extras).clone() });
        Errand::Schedule(self, when)
    }
}

/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;

fn post(publication: Publication, until: Tick) -> Result<Post, ApiError> {
    let Publication { kind, payload, skip_history, tags, idempotency_key, exclude, .. } = publication;
    if idempotency_key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
        return Err(ApiError::bad_request("idempotency_key has more than 255 bytes"));
    }
    let tags = (!tags.is_empty()).then(|| serde_json::to_string(&tags).unwrap_or_default().into());
    let extras = Extras {
        tags,
        skip_history,
        idempotency_key: idempotency_key.map(String::into_boxed_str),
        until: Some(until),
    };
    let exclude = exclude.map(|name| connection_named("exclude", &name)).transpose()?;
    Ok(Post {
        topic: None,
        frame: kept(frame_of(message(kind, &payload))),
        payload_len: payload.len(),
        exclude,
        extras: Arc::new(extras),
    })
}

fn announce(pattern: &str, message: Publication, until: Tick) -> Result<Errand, ApiError> {
    if message.delay.is_some() || message.report {
        return Err(ApiError::bad_request("match goes with neither delay, at nor report: give channels"));
    }
    Ok(Errand::Announce(parse_pattern("match", pattern)?, post(message, until)?))
}

fn page(topic: TopicName, limit: Limit, since: Option<Since>, reverse: bool) -> Result<Errand, ApiError> {
    let since = match since {
        None => None,
        Some(Since { offset, epoch: None }) => Some((None, Offset(offset))),
        Some(Since { offset, epoch: Some(epoch) }) => {
            let epoch = Epoch::parse(epoch.as_bytes()).ok_or(ApiError::UNRECOVERABLE_POSITION)?;
            Some((Some(epoch), Offset(offset)))
        }
    };
    let limit = match limit {
        Limit::PositionOnly => 0,
        Limit::AtMost(messages) => messages,
        Limit::All => u64::MAX,
    };
    Ok(Errand::Page(topic, PageRequest { since, reverse }, limit))
}

fn parse_pattern(field: &str, text: &str) -> Result<Pattern, ApiError> {
    Pattern::parse(text).map_err(|error| ApiError::bad_request(format_args!("{field}: {error}")))
}

/// The connection that a call is about.
fn connection(who: &Who) -> Result<ConnectionId, ApiError> {
    match &who.client {
        Some(client) => connection_named("client", client),
        None => Err(ApiError::NO_USERS),
    }
}

fn connection_named(field: &str, name: &str) -> Result<ConnectionId, ApiError> {
    name.parse().map_err(|error| ApiError::bad_request(format_args!("{field}: {error}")))
}

/// What became of a message that was to be published.
pub fn published(outcome: Result<Place, NotPublished>) -> Outcome {
    match outcome {
        Ok(Place { epoch, offset }) => {
            Ok(Reply::Published(Published { offset: offset.0, epoch: epoch.to_string(), report: None }))
        }
        Err(NotPublished::TooLate) => Err(ApiError::NO_ROOM),
        Err(NotPublished::TooLong) => Err(ApiError::MESSAGE_TOO_LONG),
        Err(NotPublished::TooManyTopics) => Err(ApiError::TOO_MANY_TOPICS),
    }
}

/// Two parts of one answer.
fn together(one: Outcome, other: Outcome) -> Outcome {
    match (one?, other?) {
        (Reply::Channels(mut all), Reply::Channels(more)) => {
            for (name, channel) in more {
                all.entry(name).or_default().num_clients += channel.num_clients;
            }
            if all.len() > CHANNELS_MAX { Err(ApiError::TOO_MANY_CHANNELS) } else { Ok(Reply::Channels(all)) }
        }
        (Reply::Announced { topics }, Reply::Announced { topics: more }) => {
            Ok(Reply::Announced { topics: topics + more })
        }
        (Reply::Cancelled(one), Reply::Cancelled(other)) => Ok(Reply::Cancelled(one || other)),
        (Reply::Schedules(mut all), Reply::Schedules(more)) => {
            all.extend(more);
            Ok(Reply::Schedules(all))
        }
        _ => Err(ApiError::INTERNAL),
    }
}

/// Topics in one answer to `channels`: more are no list that anybody wants in one piece.
pub const CHANNELS_MAX: usize = 100_000;
