//! Messages that are published again and again: to which topic, how often, and the text with its placeholders.
//!
//! Owns [`Template`]. When a message is due, and what a placeholder's value is at that time, is for others to say.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::name::TopicName;

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
