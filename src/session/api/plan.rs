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
//!
//! What a call has under way is bounded, as between two workers: so many errands, and so many bytes of messages beyond one
//! of any size. So is what its answer may become.

use std::{collections::VecDeque, ops::Range, sync::Arc, time::Duration, vec};

use bytes::Bytes;

use super::{
    ApiError, Call, Method, Reply,
    reply::{self, Published, Report},
    request::{Delay, Limit, Publication, Recipients, Since, When, Who},
};
use crate::{
    broker::{
        home::{Extras, NotPublished, PageRequest, Place},
        ids::{ConnectionId, Epoch, Offset, WorkerId},
        name::TopicName,
        pattern::Pattern,
    },
    protocol::{
        http::{Refusal, Response},
        ws::CloseCode,
    },
    session::{frame_of, kept, message},
};

/// Errands of one call under way.
const OPEN_MAX: usize = 64;
/// Bytes of their messages, beyond which none is begun; one of any size always may.
const OPEN_BYTES_MAX: usize = 1 << 20;

/// What an answer may become: what is asked for beyond it is refused. The last part may be longer than what is left.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Topics in one answer to `channels`, and in the list of one broadcast: more are nothing that anybody wants in one piece.
pub const CHANNELS_MAX: usize = 100_000;

/// Parts of an answer before it is known how many there are: more than there ever are.
const UNTOLD: u32 = 1 << 20;

/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;

/// The longest tags, as a JSON object.
const TAGS_BYTES_MAX: usize = 16 << 10;

/// The longest reason of a close frame (RFC 6455 section 5.5).
const REASON_BYTES_MAX: usize = 123;

/// How long a client is asked to wait whose message found no room in time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a connection is closed with where the call does not say: Centrifugo's "force disconnect", after which its clients
/// and ours do not come back by themselves.
const FORCE_DISCONNECT: CloseCode = CloseCode::new(3503).expect("an application's code");

/// What became of an errand.
pub type Outcome = Result<Reply, ApiError>;

/// Something that one worker, or each, does for a call.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Publish a message.
    Publish(TopicName, Draft),
    /// Publish it later.
    Schedule(TopicName, Draft, When),
    /// Publish it to every live topic whose name matches.
    Announce(Pattern, Draft),
    /// Read a part of a topic's history.
    Page(TopicName, PageRequest),
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
    /// Take back what has this name, or this id.
    Cancel(Arc<str>),
    /// Say what the server is and has.
    Info,
}

/// A message to publish, as the frame that raw subscribers get, and what is asked for it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The message.
    pub frame: Bytes,
    /// Bytes of its payload.
    pub payload_len: usize,
    /// Who does not get it.
    pub exclude: Option<ConnectionId>,
    /// What is seldom asked.
    pub extras: Option<Arc<Extras>>,
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
            Errand::Schedule(topic, ..) | Errand::Page(topic, _) | Errand::RemoveHistory(topic) => {
                Doer::HomeOf(topic.clone())
            }
            Errand::Subscribe(connection, _)
            | Errand::Unsubscribe(connection, _)
            | Errand::Disconnect(connection, ..) => Doer::Worker(connection.worker),
            Errand::Announce(..) | Errand::Channels(_) | Errand::Schedules | Errand::Cancel(_) => {
                Doer::Everybody
            }
            Errand::Publish(..) | Errand::Info => Doer::Here,
        }
    }

    /// Bytes of its message, if it has one.
    fn bytes(&self) -> usize {
        match self {
            Errand::Publish(_, draft) | Errand::Schedule(_, draft, _) => draft.frame.len(),
            _ => 0,
        }
    }

    /// Whether it asks for something that may be long.
    pub fn is_question(&self) -> bool {
        matches!(self, Errand::Page(..) | Errand::Channels(_) | Errand::Schedules)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Plan {
    commands: Vec<Command>,
    /// In the order of the commands.
    answers: Vec<Answer>,
    /// What was not begun.
    steps: VecDeque<Step>,
    /// Errands under way, and the bytes of their messages.
    open: usize,
    open_bytes: usize,
    /// What the answer has become so far.
    answer_bytes: usize,
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
    One(u32, Box<Errand>),
    /// The same message to one topic after another; the number is the next one's.
    Each(u32, Box<Each>),
    /// Nothing behind it is begun before all is answered.
    Wait,
}

#[derive(Debug)]
struct Each {
    draft: Draft,
    delay: Option<Delay>,
    topics: vec::IntoIter<Result<TopicName, ApiError>>,
}

/// What is known of one answer.
#[derive(Debug, Default)]
struct Answer {
    /// Parts that have not come.
    missing: u32,
    /// Of the errand's message.
    bytes: usize,
    outcome: Option<Outcome>,
}

impl Plan {
    /// The plan of a call, for so many workers.
    pub fn new(call: Call, workers: u16) -> Plan {
        let mut plan = Plan {
            commands: Vec::new(),
            answers: Vec::new(),
            steps: VecDeque::new(),
            open: 0,
            open_bytes: 0,
            answer_bytes: 0,
            is_batch: false,
            workers,
        };
        match call {
            // In order, also where that does not matter.
            Call::Batch { commands, parallel: _ } => {
                plan.is_batch = true;
                for command in commands {
                    match command {
                        Ok((method, call)) => plan.add(Some(method), call),
                        Err(error) => {
                            let begun = plan.answers.len();
                            plan.answered(Err(error));
                            plan.command(None, false, begun);
                        }
                    }
                }
            }
            call => plan.add(None, call),
        }
        plan
    }

    /// How many calls it is: each command of a batch is one.
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// About how many bytes the answer has so far.
    pub fn answer_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Something that can be begun now, with the number that its outcome is named by. `None`: something under way must be
    /// done first, or there is nothing more.
    pub fn next_errand(&mut self) -> Option<(u32, Errand)> {
        loop {
            if self.open >= OPEN_MAX {
                return None;
            }
            let has_room = |bytes: usize| self.open == 0 || self.open_bytes + bytes <= OPEN_BYTES_MAX;
            let (number, errand) = match self.steps.front_mut()? {
                Step::Wait if self.open > 0 => return None,
                Step::Wait => {
                    self.steps.pop_front();
                    continue;
                }
                Step::One(_, errand) if !has_room(errand.bytes()) => return None,
                Step::One(..) => match self.steps.pop_front() {
                    Some(Step::One(number, errand)) => (number, Ok(*errand)),
                    _ => unreachable!("it was looked at"),
                },
                Step::Each(_, each) if !has_room(each.draft.frame.len()) => return None,
                Step::Each(number, each) => match each.topics.next() {
                    None => {
                        self.steps.pop_front();
                        continue;
                    }
                    Some(topic) => {
                        *number += 1;
                        (*number - 1, topic.map(|topic| each.draft.clone().to(topic, each.delay)))
                    }
                },
            };
            let answer = &mut self.answers[number as usize];
            match errand {
                Err(error) => answer.outcome = Some(Err(error)),
                Ok(errand) if errand.is_question() && self.answer_bytes > ANSWER_BYTES_MAX => {
                    answer.outcome = Some(Err(ApiError::ANSWER_TOO_LONG));
                }
                Ok(errand) => {
                    answer.missing = match &errand {
                        Errand::Publish(_, draft) if draft.wants_report() => 1 + UNTOLD,
                        errand if errand.doer() == Doer::Everybody => self.workers.into(),
                        _ => 1,
                    };
                    answer.bytes = errand.bytes();
                    self.open += 1;
                    self.open_bytes += answer.bytes;
                    return Some((number, errand));
                }
            }
        }
    }

    /// So many reports of a message come beside what became of it, if any were asked for.
    pub fn expect(&mut self, number: u32, reports: u16) {
        if let Some(answer) = self.answers.get_mut(number as usize)
            && answer.missing > UNTOLD / 2
        {
            // Some may have come already.
            answer.missing = answer.missing + u32::from(reports) - UNTOLD;
            answer.outcome.get_or_insert(Ok(Reply::Reported(Report::default())));
        }
    }

    /// Reports that have not come are not waited for any longer.
    pub fn stop_waiting_for_reports(&mut self) {
        for answer in &mut self.answers {
            let is_published =
                matches!(answer.outcome, Some(Ok(Reply::Published(Published { report: Some(_), .. }))));
            if is_published && answer.missing > 0 {
                answer.missing = 0;
                self.open -= 1;
                self.open_bytes -= answer.bytes;
            }
        }
    }

    /// What became of an errand; of one for everybody, with one of them.
    pub fn done(&mut self, number: u32, outcome: Outcome) {
        let Some(answer) = self.answers.get_mut(number as usize).filter(|answer| answer.missing > 0) else {
            return;
        };
        if outcome.is_err() && answer.missing > UNTOLD / 2 {
            // Nobody reports of a message that is in no topic.
            answer.missing = 1;
        }
        answer.missing -= 1;
        if answer.missing == 0 {
            self.open -= 1;
            self.open_bytes -= answer.bytes;
        }
        self.answer_bytes += outcome.as_ref().map_or(0, Reply::bytes);
        answer.outcome = Some(match answer.outcome.take() {
            None => outcome,
            Some(before) => together(before, outcome),
        });
    }

    /// Whether all is done.
    pub fn is_over(&self) -> bool {
        self.open == 0 && self.steps.iter().all(|step| matches!(step, Step::Wait))
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

    /// Adds a command. Messages are begun together, since topics keep their order; any other command has its effect after all
    /// before it, and before all behind it.
    fn add(&mut self, method: Option<Method>, call: Call) {
        let begun = self.answers.len();
        let is_message = match &call {
            Call::Publish { message, .. } | Call::Broadcast { to: Recipients::Topics(_), message } => {
                message.delay.is_none()
            }
            _ => false,
        };
        if !is_message {
            self.steps.push_back(Step::Wait);
        }
        let is_list = self.errands_of(call);
        if !is_message {
            self.steps.push_back(Step::Wait);
        }
        self.command(method, is_list, begun);
    }

    fn command(&mut self, method: Option<Method>, is_list: bool, begun: usize) {
        self.commands.push(Command { method, is_list, answers: begun..self.answers.len() });
    }

    /// The number of the next answer.
    fn number(&self) -> u32 {
        u32::try_from(self.answers.len()).expect("bounded by the body")
    }

    fn answered(&mut self, outcome: Outcome) {
        self.answers.push(Answer { outcome: Some(outcome), ..Answer::default() });
    }

    /// Adds what a call has to be done; says whether it is answered with a list.
    fn errands_of(&mut self, call: Call) -> bool {
        let errand = match call {
            Call::Broadcast { to: Recipients::Topics(topics), message } => {
                return self.each(topics, message).map_err(|error| self.answered(Err(error))).is_ok();
            }
            Call::Broadcast { to: Recipients::Match(pattern), message } => announce(&pattern, message),
            Call::Publish { topic, message } => {
                let delay = message.delay;
                draft(message).map(|draft| draft.to(topic, delay))
            }
            Call::Batch { .. } => Err(ApiError::bad_request("a batch in a batch")),
            Call::History { topic, limit, since, reverse } => page(topic, limit, since, reverse),
            Call::HistoryRemove { topic } => Ok(Errand::RemoveHistory(topic)),
            Call::Channels { pattern } => {
                let pattern = pattern.map(|pattern| parse_pattern("pattern", &pattern)).transpose();
                pattern.map(Errand::Channels)
            }
            Call::Subscribe { who, topic } => {
                connection(&who).map(|connection| Errand::Subscribe(connection, topic))
            }
            Call::Unsubscribe { who, topic } => {
                connection(&who).map(|connection| Errand::Unsubscribe(connection, topic))
            }
            Call::Disconnect { who, whitelist, code, reason } => {
                if who.client.as_ref().is_some_and(|client| whitelist.contains(client)) {
                    self.answered(Ok(Reply::Done));
                    return false;
                }
                disconnect(&who, code, reason)
            }
            Call::Info => Ok(Errand::Info),
            Call::Schedule { message, when: When::Every(_), .. } if message.idempotency_key.is_some() => {
                let why = "idempotency_key does not go with every: one message of all would be published";
                Err(ApiError::bad_request(why))
            }
            Call::Schedule { topic, message, when } => {
                draft(message).map(|draft| Errand::Schedule(topic, draft, when))
            }
            Call::Schedules => Ok(Errand::Schedules),
            Call::ScheduleCancel { id } => Ok(Errand::Cancel(id.into())),
        };
        match errand {
            Ok(errand) => {
                self.steps.push_back(Step::One(self.number(), Box::new(errand)));
                self.answers.push(Answer::default());
            }
            Err(error) => self.answered(Err(error)),
        }
        false
    }

    /// Adds a message to each of some topics.
    fn each(
        &mut self,
        topics: Vec<Result<TopicName, ApiError>>,
        message: Publication,
    ) -> Result<(), ApiError> {
        // Those of all commands of a batch together.
        if self.answers.len() + topics.len() > CHANNELS_MAX {
            return Err(ApiError::TOO_MANY_RECIPIENTS);
        }
        let delay = message.delay;
        let draft = draft(message)?;
        let number = self.number();
        self.answers.extend(topics.iter().map(|_| Answer::default()));
        let each = Each { draft, delay, topics: topics.into_iter() };
        self.steps.push_back(Step::Each(number, Box::new(each)));
        Ok(())
    }
}

impl Draft {
    fn wants_report(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.report)
    }

    fn to(self, topic: TopicName, delay: Option<Delay>) -> Errand {
        match delay {
            Some(delay) => Errand::Schedule(topic, self, When::Once(delay)),
            None => Errand::Publish(topic, self),
        }
    }
}

fn draft(publication: Publication) -> Result<Draft, ApiError> {
    let Publication { kind, payload, skip_history, tags, idempotency_key, exclude, report, .. } = publication;
    if idempotency_key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX) {
        return Err(ApiError::bad_request("idempotency_key has more than 255 bytes"));
    }
    let tags: Option<Arc<str>> =
        (!tags.is_empty()).then(|| serde_json::to_string(&tags).unwrap_or_default().into());
    if tags.as_ref().is_some_and(|tags| tags.len() > TAGS_BYTES_MAX) {
        return Err(ApiError::bad_request("tags have more than 16 KiB"));
    }
    let idempotency_key = idempotency_key.map(String::into_boxed_str);
    let extras = Extras { tags, skip_history, idempotency_key, report };
    Ok(Draft {
        frame: kept(frame_of(message(kind, &payload))),
        payload_len: payload.len(),
        exclude: exclude.map(|name| connection_named("exclude", &name)).transpose()?,
        extras: (extras != Extras::default()).then(|| Arc::new(extras)),
    })
}

fn announce(pattern: &str, message: Publication) -> Result<Errand, ApiError> {
    if message.delay.is_some() || message.report {
        return Err(ApiError::bad_request("match goes with neither delay, at nor report: give channels"));
    }
    Ok(Errand::Announce(parse_pattern("match", pattern)?, draft(message)?))
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
    Ok(Errand::Page(topic, PageRequest { since, reverse, limit }))
}

fn disconnect(who: &Who, code: Option<u16>, reason: String) -> Result<Errand, ApiError> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::bad_request("disconnect.reason has more than 123 bytes"));
    }
    let code = code.and_then(CloseCode::new).unwrap_or(FORCE_DISCONNECT);
    let reason = if reason.is_empty() { "force disconnect".into() } else { reason.into() };
    Ok(Errand::Disconnect(connection(who)?, code, reason))
}

fn parse_pattern(field: &str, text: &str) -> Result<Pattern, ApiError> {
    Pattern::parse(text).map_err(|error| ApiError::bad_request(format_args!("{field}: {error}")))
}

/// The connection that a call is about.
fn connection(who: &Who) -> Result<ConnectionId, ApiError> {
    match who {
        Who { client: Some(client), user: None, session: None } => connection_named("client", client),
        _ => Err(ApiError::NO_USERS),
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
        (Reply::Published(published), Reply::Reported(report))
        | (Reply::Reported(report), Reply::Published(published)) => {
            let report = published.report.unwrap_or_default() + report;
            Ok(Reply::Published(Published { report: Some(report), ..published }))
        }
        (Reply::Reported(one), Reply::Reported(other)) => Ok(Reply::Reported(one + other)),
        (Reply::Cancelled(one), Reply::Cancelled(other)) => Ok(Reply::Cancelled(one || other)),
        (Reply::Schedules(mut all), Reply::Schedules(more)) => {
            all.extend(more);
            Ok(Reply::Schedules(all))
        }
        _ => Err(ApiError::INTERNAL),
    }
}

#[cfg(test)]
mod tests;
