//! Topic names: checked once, cheap to share.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A topic's name: UTF-8, 1 to 255 bytes, no control characters, no `*`. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TopicName(Arc<str>);

/// Names under this prefix are the server's own; clients can't use them.
pub const RESERVED_PREFIX: &str = "_stentor/";

/// The longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

impl TopicName {
    /// Checks a name that a client asks for.
    ///
    /// # Errors
    /// Says which rule the name breaks.
    pub fn parse(name: &str) -> Result<TopicName, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::Control);
        }
        if name.contains('*') {
            return Err(NameError::Wildcard);
        }
        if name.starts_with(RESERVED_PREFIX) || name == RESERVED_PREFIX.trim_end_matches('/') {
            return Err(NameError::Reserved);
        }
        Ok(TopicName(name.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is not a topic's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// Nothing between the route and the end of the path.
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Contains a control character.
    Control,
    /// Contains `*`, which is kept for patterns.
    Wildcard,
    /// Begins with [`RESERVED_PREFIX`].
    Reserved,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => write!(f, "the topic name is empty: name one, as in /ws/TOPIC or /sse/TOPIC"),
            NameError::TooLong { bytes } => {
                write!(f, "the topic name has {bytes} bytes: at most {NAME_BYTES_MAX} are allowed")
            }
            NameError::Control => write!(f, "the topic name contains a control character"),
            NameError::Wildcard => write!(f, "the topic name contains '*', which is kept for patterns"),
            NameError::Reserved => write!(f, "topics under {RESERVED_PREFIX} are the server's own"),
        }
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["a", "chat/room1", "чат/комната", "🎉", "a//b", "with space", &"x".repeat(255)]
        {
            assert_eq!(TopicName::parse(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!(TopicName::parse(""), Err(NameError::Empty));
        assert_eq!(TopicName::parse(&"x".repeat(256)), Err(NameError::TooLong { bytes: 256 }));
        assert_eq!(TopicName::parse(&"ж".repeat(128)), Err(NameError::TooLong { bytes: 256 }));
        assert_eq!(TopicName::parse("a\nb"), Err(NameError::Control));
        assert_eq!(TopicName::parse("a\u{85}b"), Err(NameError::Control));
        assert_eq!(TopicName::parse("a/*"), Err(NameError::Wildcard));
        assert_eq!(TopicName::parse("_stentor/x"), Err(NameError::Reserved));
        assert_eq!(TopicName::parse("_stentor"), Err(NameError::Reserved));
        assert!(TopicName::parse("_stentors").is_ok());
    }
}
