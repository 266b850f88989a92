//! Patterns over topic names: `chat/lobby`, `chat/*`, `prices/**`.
//!
//! Owns what a pattern matches, and whether patterns that come first leave another one anything to match. A name's
//! levels are what stands between its slashes; an empty level is a level.
//!
//! Invariant: matching allocates nothing.

use std::{collections::BTreeSet, fmt, sync::Arc};

use super::name::{NAME_BYTES_MAX, RESERVED_PREFIX};

/// Exactly one level, whatever it is.
const ONE: &str = "*";
/// One or more levels: the rest of the name.
const REST: &str = "**";

/// A pattern: levels that are literal, `*` (any one level), or, at the end, `**` (one or more levels).
///
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pattern {
    text: Arc<str>,
    /// How much of the text stands in front of the first level that is not literal. All of it in a plain name.
    literal: usize,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::Control);
        }
        let mut literal = None;
        let mut from = 0;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                ONE => {}
                REST if levels.peek().is_some() => return Err(PatternError::RestInside),
                REST => {}
                _ if level.contains('*') => return Err(PatternError::StarInside),
                _ => {
                    from += level.len() + 1;
                    continue;
                }
            }
            literal = literal.or(Some(from));
            from += level.len() + 1;
        }
        if text.split('/').next() == Some(RESERVED_PREFIX.trim_end_matches('/')) {
            return Err(PatternError::Reserved);
        }
        Ok(Pattern { literal: literal.unwrap_or(text.len()), text: text.into() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a topic of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let (literal, wild) = self.text.split_at(self.literal);
        match name.strip_prefix(literal) {
            None => false,
            Some(rest) if wild.is_empty() => rest.is_empty(),
            Some(rest) => follows(wild.split('/'), rest.split('/').map(Some)),
        }
    }

    /// Which of the patterns that come first take every name that this one matches, as places in `first`: one
    /// where one is enough. `None`: some name is left.
    ///
    /// Names with a level of their own, which no pattern spells out, in each place of a wildcard are the last ones
    /// to be taken: a pattern that matches such a name matches all with as many levels. So one such name for each
    /// number of levels answers for all names.
    pub fn covered_by(&self, first: &[&Pattern]) -> Option<Vec<usize>> {
        let mut covering = BTreeSet::new();
        let mut alone: Vec<_> = (0..first.len()).collect();
        for levels in self.numbers_of_levels(first) {
            let name = || self.own_name(levels);
            let takes = |at: &usize| follows(first[*at].text.split('/'), name());
            covering.insert((0..first.len()).find(takes)?);
            alone.retain(takes);
        }
        Some(alone.first().map_or_else(|| covering.into_iter().collect(), |one| vec![*one]))
    }

    /// The numbers of levels that names of this pattern have, as far as `first` could tell them apart.
    fn numbers_of_levels(&self, first: &[&Pattern]) -> BTreeSet<usize> {
        let count = |pattern: &Pattern| pattern.text.split('/').count();
        let least = count(self);
        let mut numbers = BTreeSet::from([least]);
        if self.ends_open() {
            let others = first.iter().flat_map(|other| [count(other), count(other) + 1]);
            numbers.extend(others.filter(|number| *number > least));
        }
        numbers
    }

    /// Whether it ends with `**`.
    fn ends_open(&self) -> bool {
        self.text.rsplit('/').next() == Some(REST)
    }

    /// The levels of a name that this pattern matches, `None` where the level is one that no pattern spells out.
    fn own_name(&self, levels: usize) -> impl Iterator<Item = Option<&str>> {
        let spelled = self.text.split('/').map(|level| (level != ONE && level != REST).then_some(level));
        spelled.chain(std::iter::repeat(None)).take(levels)
    }
}

/// Whether a name of these levels (`None`: one that is spelled out nowhere) follows a pattern of those.
fn follows<'a>(
    pattern: impl Iterator<Item = &'a str>,
    mut levels: impl Iterator<Item = Option<&'a str>>,
) -> bool {
    for wanted in pattern {
        match (wanted, levels.next()) {
            (_, None) => return false,
            (REST, Some(_)) => return true,
            (ONE, Some(_)) => {}
            (literal, Some(level)) if Some(literal) == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatternError {
    /// Nothing at all.
    Empty,
    /// Longer than any name.
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Contains a control character, as no name does.
    Control,
    /// `*` beside other characters of its level.
    StarInside,
    /// `**` in front of other levels.
    RestInside,
    /// Only names under [`RESERVED_PREFIX`] could match.
    Reserved,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::Empty => write!(f, "expected a pattern such as chat/*"),
            PatternError::TooLong { bytes } => {
                write!(f, "has {bytes} bytes, and the name of a topic at most {NAME_BYTES_MAX}: shorten it")
            }
            PatternError::Control => {
                write!(f, "contains a control character, as the name of no topic does: leave it out")
            }
            PatternError::StarInside => {
                write!(f, "'*' stands for a whole level only, as in chat/* or chat/*/news")
            }
            PatternError::RestInside => {
                write!(f, "'**' can be the last level only: write '*' for each level in between")
            }
            PatternError::Reserved => {
                write!(f, "can never match, since topics under {RESERVED_PREFIX} are the server's own")
            }
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::name::TopicName;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn covered(text: &str, first: &[&str]) -> Option<Vec<usize>> {
        let first: Vec<_> = first.iter().map(|text| pattern(text)).collect();
        pattern(text).covered_by(&first.iter().collect::<Vec<_>>())
    }

    #[test]
    fn levels_are_literal_or_wild() {
        for (text, names, others) in [
            ("chat", &["chat"][..], &["chat/", "chats", "cha", "/chat"][..]),
            ("chat/*", &["chat/a", "chat/", "chat/ж"], &["chat", "chat/a/b", "chats/a", "a/chat/b"]),
            ("chat/**", &["chat/a", "chat/", "chat/a/b", "chat/a/b/"], &["chat", "chats/a", "xchat/a"]),
            ("*/news/*", &["a/news/b", "/news/"], &["a/news", "a/b/c", "a/b/news/c", "news/a"]),
            ("*/**", &["a/b", "a/b/c", "/"], &["a"]),
            ("*", &["a", "чат"], &["a/b", "/"]),
            ("**", &["a", "a/b", "/"], &[]),
            ("a//b", &["a//b"], &["a/b", "a/x/b"]),
        ] {
            for name in names {
                assert!(pattern(text).matches(name), "{text} {name}");
            }
            for name in others {
                assert!(!pattern(text).matches(name), "{text} {name}");
            }
        }
    }

    #[test]
    fn each_mistake_has_its_error() {
        for (text, error) in [
            ("", PatternError::Empty),
            (&"ж".repeat(128), PatternError::TooLong { bytes: 256 }),
            ("a\u{85}", PatternError::Control),
            ("a/b*", PatternError::StarInside),
            ("a/***", PatternError::StarInside),
            ("a/**/b", PatternError::RestInside),
            ("**/**", PatternError::RestInside),
            ("_stentor", PatternError::Reserved),
            ("_stentor/*", PatternError::Reserved),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text:?}");
        }
        for text in ["_stentors/*", "*/_stentor", &"x".repeat(255), "/", " "] {
            assert_eq!(pattern(text).as_str(), text);
        }
    }

    #[test]
    fn what_comes_first_can_leave_nothing() {
        assert_eq!(covered("chat/a", &["chat/*"]), Some(vec![0]));
        assert_eq!(covered("chat/*", &["other", "chat/**"]), Some(vec![1]));
        assert_eq!(covered("chat/**", &["chat/**"]), Some(vec![0]));
        assert_eq!(covered("a/*/c", &["*/b/*", "a/**"]), Some(vec![1]));
        // One is enough, though two others would be, too.
        assert_eq!(covered("**", &["*", "*/**", "**"]), Some(vec![2]));
        assert_eq!(covered("**", &["*", "*/**"]), Some(vec![0, 1]));
        assert_eq!(covered("a/**", &["a/*", "a/*/*", "a/*/*/**"]), Some(vec![0, 1, 2]));

        for (text, first) in [
            ("chat/*", &["chat/a", "chat/b"][..]),
            ("chat/**", &["chat/*"]),
            ("chat", &["chat/**", "chat/*"]),
            ("**", &["*/**"]),
            ("**", &["*", "*/*", "*/*/*"]),
            ("*/*", &["a/*", "*/a"]),
        ] {
            assert_eq!(covered(text, first), None, "{text} {first:?}");
        }
    }

    /// What a pattern means, word for word.
    fn naive(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], [_, ..]) => true,
            (["*", pattern @ ..], [_, name @ ..]) => naive(pattern, name),
            ([wanted, pattern @ ..], [level, name @ ..]) => wanted == level && naive(pattern, name),
            _ => false,
        }
    }

    /// Patterns of up to three levels over few letters, so that they meet often.
    fn any_pattern() -> impl Strategy<Value = String> {
        let levels = prop::collection::vec(prop::sample::select(&["a", "b", "*", "*", ""][..]), 0..3);
        (levels, prop::sample::select(&["a", "*", "**"][..])).prop_map(|(mut levels, last)| {
            levels.push(last);
            levels.join("/")
        })
    }

    /// Every name of one to five levels over `a`, `b`, `c` and nothing: `c` is in no pattern.
    fn all_names() -> Vec<String> {
        let letters = ["a", "b", "c", ""];
        let mut names = Vec::new();
        let mut longest: Vec<String> = letters.iter().map(ToString::to_string).collect();
        for _ in 0..5 {
            let longer = longest.iter().flat_map(|name| letters.map(|letter| format!("{name}/{letter}")));
            let longer = longer.collect();
            names.extend(std::mem::replace(&mut longest, longer));
        }
        names.retain(|name| TopicName::parse(name).is_ok());
        names
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_its_slow_twin(text in any_pattern(), name in "[ab]?(/[abc]{0,2}){0,4}") {
            let levels: Vec<_> = text.split('/').collect();
            let name_levels: Vec<_> = name.split('/').collect();
            prop_assert_eq!(pattern(&text).matches(&name), naive(&levels, &name_levels));
        }

        #[test]
        fn it_is_covered_exactly_if_no_name_is_left(texts in prop::collection::vec(any_pattern(), 1..7)) {
            let patterns: Vec<_> = texts.iter().map(|text| pattern(text)).collect();
            let (last, first) = patterns.split_last().expect("at least one");
            let first: Vec<_> = first.iter().collect();
            let names = all_names();
            let mut left = names
                .iter()
                .filter(|name| last.matches(name) && !first.iter().any(|first| first.matches(name)));
            match last.covered_by(&first) {
                None => prop_assert!(left.next().is_some()),
                Some(covering) => {
                    prop_assert_eq!(left.next(), None);
                    // Those that are named are enough.
                    let uncovered = names.iter().find(|name| {
                        last.matches(name) && !covering.iter().any(|at| first[*at].matches(name))
                    });
                    prop_assert_eq!(uncovered, None);
                }
            }
        }
    }
}
