//! Messages that are published later, or again and again: to which topic, when, and texts with placeholders.
//!
//! Owns [`Template`] and [`Schedules`], the messages of one worker. What time it is, and how a message is published, is for
//! others to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    home::{Delivery, scramble},
    ids::{UnixTime, WorkerId},
    limits::{Charge, Gauge},
    name::TopicName,
};

/// A message that is published to one topic in regular intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What it is called where schedules are listed and cancelled; no two have the same.
    pub name: Option<Arc<str>>,
    /// Where it is published.
    pub topic: TopicName,
    /// From one message to the next.
    pub every: Duration,
    /// The message.
    pub payload: Template,
}

/// A text with places that are filled in for each message: `{{now}}`, `{{now_ms}}`, `{{count}}`, `{{random}}`.
///
/// `{{{{` stands for `{{`. Everything else stands for itself, a `}}` that closes nothing as well. Cloning shares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Arc<Parsed>);

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    source: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Place(Place),
}

/// What can be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Now,
    NowMs,
    Count,
    Random,
}

const PLACES: [(&str, Place); 4] =
    [("now", Place::Now), ("now_ms", Place::NowMs), ("count", Place::Count), ("random", Place::Random)];

/// The longest texts of the places: `9999-12-31T23:59:59.999Z`, 64 bits, and 53 bits in decimal.
const NOW_LEN: usize = 24;
const NUMBER_LEN_MAX: usize = 20;
const RANDOM_LEN_MAX: usize = 16;
/// The end of year 9999, in milliseconds: RFC 3339 has no later years.
const NOW_MS_MAX: u64 = 253_402_300_799_999;

impl Template {
    /// Reads a text with placeholders. A placeholder may have spaces inside of its braces.
    ///
    /// # Errors
    /// A placeholder that is unknown or has no end.
    pub fn parse(source: &str) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("{{") {
            text.push_str(before);
            if let Some(after) = after.strip_prefix("{{") {
                text.push_str("{{");
                rest = after;
                continue;
            }
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
            let found = PLACES.iter().find(|(known, _)| *known == name.trim());
            let (_, place) = found.ok_or_else(|| TemplateError::Unknown(name.trim().to_owned()))?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
            }
            parts.push(Part::Place(*place));
            rest = after;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into()));
        }
        Ok(Template(Arc::new(Parsed { source: source.into(), parts: parts.into() })))
    }

    /// The text that [`Template::parse`] was given.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The text with its places filled in.
    ///
    /// `now_ms`: milliseconds of Unix time. `count`: how many messages of this template there are with this one.
    /// `random`: 64 bits, of which a whole number below 2^53 is made, so that JSON readers take it as it is.
    pub fn render(&self, now_ms: u64, count: u64, random: u64) -> String {
        let mut text = String::with_capacity(self.len_max());
        for part in &self.0.parts {
            let written = match part {
                Part::Text(part) => text.write_str(part),
                Part::Place(Place::Now) => {
                    let now = UNIX_EPOCH + Duration::from_millis(now_ms.min(NOW_MS_MAX));
                    write!(text, "{}", humantime::format_rfc3339_millis(now))
                }
                Part::Place(Place::NowMs) => write!(text, "{now_ms}"),
                Part::Place(Place::Count) => write!(text, "{count}"),
                Part::Place(Place::Random) => write!(text, "{}", random >> 11),
            };
            written.expect("a String takes every write");
        }
        text
    }

    /// Bytes of the longest text that [`Template::render`] gives.
    pub fn len_max(&self) -> usize {
        let len = |part: &Part| match part {
            Part::Text(text) => text.len(),
            Part::Place(Place::Now) => NOW_LEN,
            Part::Place(Place::NowMs | Place::Count) => NUMBER_LEN_MAX,
            Part::Place(Place::Random) => RANDOM_LEN_MAX,
        };
        self.0.parts.iter().map(len).sum()
    }
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// A `{{` without `}}` behind it.
    Open,
    /// A placeholder of this name.
    Unknown(String),
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Open => {
                f.write_str("'{{' has no '}}' behind it: close it, or write '{{{{' for '{{'")
            }
            TemplateError::Unknown(name) => {
                // The name is foreign, and may be as long as the text.
                let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
                let cut = if name.chars().nth(40).is_some() { "…" } else { "" };
                write!(f, "{{{{{shown}{cut}}}}} is no placeholder: there are ")?;
                for (name, _) in PLACES {
                    write!(f, "{{{{{name}}}}}, ")?;
                }
                f.write_str("and '{{{{' for '{{'")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// Names a scheduled message, in this run of the server and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ScheduleId {
    worker: WorkerId,
    number: u64,
    run: u32,
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{:08x}", self.worker, self.number, self.run)
    }
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A finished unit in the canonical encoding.
    Unit(Bytes),
    /// A text whose places are filled in each time.
    Text(Template),
}

/// A message that waits for its time.
#[derive(Debug)]
pub struct Scheduled {
    /// What it is called, where it has a name.
    pub name: Option<Arc<str>>,
    /// Where it is published.
    pub topic: TopicName,
    /// What is published.
    pub content: Content,
    /// What is asked for it.
    pub delivery: Delivery,
    /// When it is published next.
    pub at: UnixTime,
    /// From one to the next; `None`: once.
    pub every: Option<Duration>,
    /// How many of it were published.
    count: u64,
    /// The last one is being published: it may have to wait for room in its topic.
    under_way: bool,
    _charge: Charge,
}

/// A message whose time has come.
#[derive(Debug)]
pub struct Due {
    /// Its number.
    pub number: u64,
    /// Where it is published.
    pub topic: TopicName,
    /// What is published.
    pub content: Content,
    /// What is asked for it.
    pub delivery: Delivery,
    /// How many of it there are with this one.
    pub count: u64,
    /// A random number of its own.
    pub random: u64,
}

/// As much is scheduled as may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManySchedules;

/// The scheduled messages of the topics whose home one worker is.
#[derive(Debug)]
pub struct Schedules {
    worker: WorkerId,
    run: u32,
    all: BTreeMap<u64, Scheduled>,
    /// Soonest first; those that are not due again are not among them.
    order: BTreeSet<(UnixTime, u64)>,
    last: u64,
    max: usize,
    bytes: Arc<Gauge>,
    random: u64,
}

impl Schedules {
    /// None yet, of at most `max`; what they keep is charged to `bytes`. Random numbers depend on `seed`; `run` tells this start
    /// of the server from others.
    pub fn new(worker: WorkerId, run: u32, max: usize, bytes: Arc<Gauge>, seed: u64) -> Schedules {
        let (all, order) = (BTreeMap::new(), BTreeSet::new());
        Schedules { worker, run, all, order, last: 0, max, bytes, random: seed }
    }

    /// Adds a message; gives its id.
    ///
    /// # Errors
    /// [`TooManySchedules`]
    pub fn add(
        &mut self,
        name: Option<Arc<str>>,
        topic: TopicName,
        content: Content,
        delivery: Delivery,
        at: UnixTime,
        every: Option<Duration>,
    ) -> Result<String, TooManySchedules> {
        if self.all.len() >= self.max {
            return Err(TooManySchedules);
        }
        let content_len = match &content {
            Content::Unit(unit) => unit.len(),
            Content::Text(template) => template.source().len(),
        };
        let extras = delivery.extras.as_ref();
        let tags_len = extras.and_then(|extras| extras.tags.as_ref()).map_or(0, |tags| tags.len());
        let charge = self.bytes.charge(content_len + tags_len + OVERHEAD).ok_or(TooManySchedules)?;
        self.last += 1;
        let (count, under_way) = (0, false);
        let scheduled =
            Scheduled { name, topic, content, delivery, at, every, count, under_way, _charge: charge };
        self.all.insert(self.last, scheduled);
        self.order.insert((at, self.last));
        Ok(self.id(self.last))
    }

    fn id(&self, number: u64) -> String {
        ScheduleId { worker: self.worker, number, run: self.run }.to_string()
    }

    /// Takes back what has a name, or an id; false if it is not here, or not any more.
    pub fn cancel(&mut self, what: &str) -> bool {
        let is_it = |(number, scheduled): &(&u64, &Scheduled)| {
            scheduled.name.as_deref() == Some(what) || self.id(**number) == what
        };
        let found = self.all.iter().find(is_it).map(|(number, _)| *number);
        let Some((number, scheduled)) = found.and_then(|number| self.all.remove_entry(&number)) else {
            return false;
        };
        self.order.remove(&(scheduled.at, number)) || scheduled.every.is_some()
    }

    /// All of them with their ids, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Scheduled)> {
        self.all.iter().map(|(number, scheduled)| (self.id(*number), scheduled))
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<UnixTime> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A message whose time has come, if there is one; [`Schedules::published`] is to be told when its topic has it. A
    /// recurring one is due again at the next of its times that lies ahead: those that nobody came round to are left out, and
    /// so is one that comes while the last still waits for room.
    pub fn take_due(&mut self, now: UnixTime) -> Option<Due> {
        loop {
            let &(at, number) = self.order.first().filter(|(at, _)| *at <= now)?;
            self.order.remove(&(at, number));
            let scheduled = self.all.get_mut(&number).expect("what is in the order is there");
            if let Some(every) = scheduled.every {
                let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
                let steps = now.since(at) / every + 1;
                scheduled.at = UnixTime(at.0.saturating_add(steps.saturating_mul(every)));
                self.order.insert((scheduled.at, number));
            }
            if std::mem::replace(&mut scheduled.under_way, true) {
                continue;
            }
            scheduled.count += 1;
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            return Some(Due {
                number,
                topic: scheduled.topic.clone(),
                content: scheduled.content.clone(),
                delivery: scheduled.delivery.clone(),
                count: scheduled.count,
                random: scramble(self.random),
            });
        }
    }

    /// A message that was due is in its topic, or will never be.
    pub fn published(&mut self, number: u64) {
        if let Some(scheduled) = self.all.get_mut(&number) {
            scheduled.under_way = false;
            if scheduled.every.is_none() {
                self.all.remove(&number);
            }
        }
    }
}

/// What a scheduled message takes beside its bytes, about: names, places in lists.
const OVERHEAD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedules(max: usize) -> Schedules {
        Schedules::new(WorkerId(3), 7, max, Gauge::new(1 << 20), 1)
    }

    fn add(schedules: &mut Schedules, at: u64, every_ms: Option<u64>) -> Result<String, TooManySchedules> {
        let content = Content::Unit(Bytes::from_static(b"0123456789"));
        let topic = TopicName::parse("t").unwrap();
        let every = every_ms.map(Duration::from_millis);
        schedules.add(None, topic, content, Delivery::default(), UnixTime(at), every)
    }

    /// Numbers of those that are due, of which the topic takes all at once, and how many of each there were.
    fn take(schedules: &mut Schedules, now: u64) -> Vec<(u64, u64)> {
        let mut taken = Vec::new();
        while let Some(due) = schedules.take_due(UnixTime(now)) {
            schedules.published(due.number);
            taken.push((due.number, due.count));
        }
        taken
    }

    #[test]
    fn messages_come_at_their_time_and_in_order() {
        let mut schedules = schedules(10);
        add(&mut schedules, 200, None).unwrap();
        add(&mut schedules, 100, None).unwrap();
        assert_eq!(schedules.next_at(), Some(UnixTime(100)));
        assert_eq!(take(&mut schedules, 99), []);
        assert_eq!(take(&mut schedules, 100), [(2, 1)]);
        assert_eq!(take(&mut schedules, 1000), [(1, 1)]);
        assert_eq!((schedules.next_at(), schedules.bytes.used()), (None, 0), "nothing is left of them");
    }

    #[test]
    fn what_is_late_does_not_come_in_a_burst() {
        let mut schedules = schedules(10);
        add(&mut schedules, 100, Some(10)).unwrap();
        assert_eq!(take(&mut schedules, 100), [(1, 1)]);
        assert_eq!(take(&mut schedules, 109), []);
        assert_eq!(take(&mut schedules, 1_055), [(1, 2)], "one for all that were missed");
        assert_eq!(schedules.next_at(), Some(UnixTime(1_060)), "at its own times");
        assert_eq!(take(&mut schedules, 1_060), [(1, 3)]);
    }

    #[test]
    fn one_at_a_time_waits_for_room() {
        let mut schedules = schedules(10);
        add(&mut schedules, 0, Some(10)).unwrap();
        assert_eq!(schedules.take_due(UnixTime(0)).map(|due| due.count), Some(1));
        assert!(schedules.take_due(UnixTime(50)).is_none());
        schedules.published(1);
        assert_eq!(take(&mut schedules, 60), [(1, 2)], "what was left out is not counted");
    }

    #[test]
    fn what_waits_for_room_keeps_its_place_and_its_charge() {
        let mut schedules = schedules(1);
        let id = add(&mut schedules, 0, None).unwrap();
        assert!(schedules.take_due(UnixTime(0)).is_some());
        assert_eq!(add(&mut schedules, 0, None), Err(TooManySchedules));
        assert!(schedules.bytes.used() > 0);
        schedules.published(1);
        assert_eq!((schedules.iter().count(), schedules.bytes.used()), (0, 0));
        assert!(!schedules.cancel(&id));
        add(&mut schedules, 0, None).unwrap();
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let mut few = schedules(2);
        let first = add(&mut few, 1, None).unwrap();
        add(&mut few, 1, None).unwrap();
        assert_eq!(add(&mut few, 1, None), Err(TooManySchedules));
        assert!(few.cancel(&first) && !few.cancel(&first));
        assert!(add(&mut few, 1, None).is_ok());
        assert_eq!(few.iter().count(), 2);

        let mut small = Schedules::new(WorkerId(0), 1, 1000, Gauge::new(2 * (OVERHEAD + 10) + 5), 1);
        assert!(add(&mut small, 1, None).is_ok() && add(&mut small, 1, None).is_ok());
        assert_eq!(add(&mut small, 1, None), Err(TooManySchedules));
    }

    #[test]
    fn another_run_has_other_ids() {
        let mut now = schedules(2);
        let id = add(&mut now, 1, None).unwrap();
        assert_eq!(id, "3-1-00000007");
        assert!(!now.cancel("3-1-00000006") && !now.cancel("2-1-00000007") && !now.cancel(""));
        let content = Content::Text(Template::parse("x").unwrap());
        let topic = TopicName::parse("t").unwrap();
        let name = Some("3-9-00000007".into());
        now.add(name, topic, content, Delivery::default(), UnixTime(1), Some(Duration::from_secs(1)))
            .unwrap();
        assert!(now.cancel("3-9-00000007"), "a name may look like anything");
        assert!(now.cancel(&id));
    }

    fn rendered(source: &str) -> String {
        Template::parse(source).unwrap().render(1_700_000_000_123, 7, 5 << 11)
    }

    #[test]
    fn places_are_filled_in() {
        assert_eq!(
            rendered(r#"{"at":"{{now}}","ms":{{now_ms}},"n":{{ count }},"r":{"x":{{random}}}}"#),
            r#"{"at":"2023-11-14T22:13:20.123Z","ms":1700000000123,"n":7,"r":{"x":5}}"#
        );
        assert_eq!(rendered("{{count}}{{count}}"), "77");
        assert_eq!(rendered(""), "");
        assert_eq!(rendered("plain { text }}"), "plain { text }}");
    }

    #[test]
    fn two_braces_are_written_as_four() {
        assert_eq!(rendered("{{{{now}}"), "{{now}}");
        assert_eq!(rendered("{{{{{{count}}"), "{{7");
        assert_eq!(rendered("a{{{{b{{{{"), "a{{b{{");
    }

    #[test]
    fn what_is_no_placeholder_is_named() {
        let error = |source: &str| Template::parse(source).unwrap_err().to_string();
        assert_eq!(
            error("{{nwo}}"),
            "{{nwo}} is no placeholder: there are {{now}}, {{now_ms}}, {{count}}, {{random}}, and '{{{{' for '{{'"
        );
        assert_eq!(error("{{now"), "'{{' has no '}}' behind it: close it, or write '{{{{' for '{{'");
        assert_eq!(Template::parse("{{}}"), Err(TemplateError::Unknown(String::new())));
        assert_eq!(Template::parse("{{{now}}}"), Err(TemplateError::Unknown("{now".to_owned())));
        assert_eq!(Template::parse("{{NOW}}"), Err(TemplateError::Unknown("NOW".to_owned())));
        let long = error(&format!("{{{{{}}}}}", "\n".repeat(1000)));
        assert!(!long.contains('\n') && long.len() < 300, "{long}");
    }

    #[test]
    fn the_clock_may_stand_anywhere() {
        let now = |now_ms| Template::parse("{{now}}").unwrap().render(now_ms, 0, 0);
        assert_eq!(now(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(now(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(now(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn no_text_is_longer_than_said(
            source in "([a-z{}]|\\{\\{(now|now_ms|count|random)\\}\\}|\\{\\{\\{\\{){0,8}",
            now_ms: u64, count: u64, random: u64,
        ) {
            if let Ok(template) = Template::parse(&source) {
                prop_assert!(template.render(now_ms, count, random).len() <= template.len_max());
                prop_assert_eq!(template.render(u64::MAX, u64::MAX, u64::MAX).len(), template.len_max());
                prop_assert_eq!(Template::parse(template.source()), Ok(template));
            }
        }

        #[test]
        fn any_text_can_be_written(text in ".{0,20}") {
            prop_assert_eq!(rendered(&text.replace("{{", "{{{{")), text);
        }
    }
}
