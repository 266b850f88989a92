//! Kinds of values that only keys of the file have: patterns, names, texts.

use crate::broker::{
    name::{NAME_BYTES_MAX, NameError, TopicName},
    pattern::Pattern,
    schedule::Template,
};
use crate::config::kind::Kind;
use crate::config::value::{Refusal, Size};

/// A pattern over topic names.
pub struct Patterns;

impl Kind for Patterns {
    type Value = Pattern;

    fn parse(&self, text: &str) -> Result<Pattern, Refusal> {
        Pattern::parse(text).map_err(|error| Refusal::form(error.to_string()))
    }

    fn show(&self, value: &Pattern) -> String {
        value.as_str().to_owned()
    }

    fn accepts(&self) -> String {
        format!("a pattern of 1 to {NAME_BYTES_MAX} bytes")
    }

    fn placeholder(&self) -> &'static str {
        "PATTERN"
    }
}

/// The name of one topic.
pub struct Topic;

impl Kind for Topic {
    type Value = TopicName;

    fn parse(&self, text: &str) -> Result<TopicName, Refusal> {
        TopicName::parse(text).map_err(|error| match error {
            NameError::Empty => Refusal::form("expected the name of a topic, such as clock"),
            NameError::Wildcard => Refusal::form("expected the name of one topic, without '*'"),
            error => Refusal::form(error.to_string()),
        })
    }

    fn show(&self, value: &TopicName) -> String {
        value.as_str().to_owned()
    }

    fn accepts(&self) -> String {
        format!("the name of a topic, 1 to {NAME_BYTES_MAX} bytes")
    }

    fn placeholder(&self) -> &'static str {
        "TOPIC"
    }
}

/// A text with placeholders.
pub struct Payload;

impl Kind for Payload {
    type Value = Template;

    fn parse(&self, text: &str) -> Result<Template, Refusal> {
        Template::parse(text).map_err(|error| Refusal::form(error.to_string()))
    }

    fn show(&self, value: &Template) -> String {
        value.source().to_owned()
    }

    fn accepts(&self) -> String {
        "any text, filled in no longer than the topic's `max-message-bytes`".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "TEXT"
    }
}

/// A text of 1 to `to` bytes.
pub struct Text {
    /// The most bytes that are allowed.
    pub to: usize,
    /// Whether it is a name, which has no line breaks and other control characters.
    pub is_name: bool,
}

impl Kind for Text {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refusal> {
        if text.is_empty() || text.len() > self.to {
            return Err(Refusal::Range);
        }
        if self.is_name && text.contains(char::is_control) {
            return Err(Refusal::form("contains a control character: leave it out"));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepts(&self) -> String {
        let what = if self.is_name { "a text without control characters" } else { "a text" };
        match Size(self.to as u64).to_string() {
            size if size.contains(char::is_alphabetic) => format!("{what}, 1 byte to {size}"),
            bytes => format!("{what}, 1 to {bytes} bytes"),
        }
    }

    fn placeholder(&self) -> &'static str {
        "TEXT"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_of_one_topic() {
        for (text, why) in [
            ("", "expected the name of a topic, such as clock"),
            ("a/*", "expected the name of one topic, without '*'"),
            ("_stentor/x", "topics under _stentor/ are the server's own"),
        ] {
            assert_eq!(Topic.parse(text), Err(Refusal::form(why)), "{text}");
        }
        assert_eq!(Topic.parse("a b").map(|name| Topic.show(&name)), Ok("a b".to_owned()));
    }

    #[test]
    fn texts_have_a_bound_and_names_are_one_line() {
        let name = Text { to: 3, is_name: true };
        let text = Text { to: 4096, is_name: false };
        assert_eq!(name.parse("abc"), Ok("abc".to_owned()));
        assert_eq!(name.parse(""), Err(Refusal::Range));
        assert_eq!(name.parse("abcd"), Err(Refusal::Range));
        assert!(matches!(name.parse("a\n"), Err(Refusal::Form(_))));
        assert_eq!(text.parse("a\n"), Ok("a\n".to_owned()));
        assert_eq!(name.accepts(), "a text without control characters, 1 to 3 bytes");
        assert_eq!(text.accepts(), "a text, 1 byte to 4KiB");
    }
}
