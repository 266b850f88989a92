//! Paths with parameters: `/chat/{room}` takes one segment, `/files/{*path}` one or more up to the end.
//!
//! Segments are compared and given decoded, and none that a parameter takes is empty. Where several patterns fit,
//! the one that is a literal where the other is a parameter goes first, and one segment before many, from the left.

use std::fmt;

/// What a path must look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
}

/// In the order in which they are tried.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    Literal(String),
    Parameter(String),
    Rest(String),
}

/// Why a text is no pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PatternError {
    NoSlash,
    Query,
    Brace,
    Name,
    NameTwice,
    RestBeforeEnd,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternError::NoSlash => "a path begins with '/'",
            PatternError::Query => "'?' and '#' are no part of a path",
            PatternError::Brace => "a parameter is a whole segment: {name}, or {*name} at the end",
            PatternError::Name => "a parameter's name is letters, digits and '_'",
            PatternError::NameTwice => "two parameters have the same name",
            PatternError::RestBeforeEnd => "{*name} takes all that is left, so nothing can follow",
        })
    }
}

/// What the parameters of a pattern stand for in one path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let path = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        if path.contains(['?', '#']) {
            return Err(PatternError::Query);
        }
        if path.is_empty() {
            return Ok(Pattern { segments: Vec::new() });
        }
        let segments: Vec<Segment> = path.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
        let names: Vec<&String> = segments.iter().filter_map(Segment::name).collect();
        if (1..names.len()).any(|at| names[..at].contains(&names[at])) {
            return Err(PatternError::NameTwice);
        }
        match segments.split_last() {
            Some((_, before)) if before.iter().any(|segment| matches!(segment, Segment::Rest(_))) => {
                Err(PatternError::RestBeforeEnd)
            }
            _ => Ok(Pattern { segments }),
        }
    }

    /// Whether both fit exactly the same paths.
    pub fn is_like(&self, other: &Pattern) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(one), Segment::Literal(other)) => one == other,
                (one, other) => one.rank() == other.rank(),
            })
    }

    /// Sorts patterns into the order in which they are tried.
    pub fn ranks(&self) -> Vec<u8> {
        self.segments.iter().map(Segment::rank).collect()
    }

    /// The parameters of a path, given as its decoded segments; `None` if it does not fit.
    pub fn matches(&self, path: &[String]) -> Option<Parameters> {
        let mut parameters = Parameters::default();
        let mut left = path;
        for segment in &self.segments {
            let (first, others) = left.split_first()?;
            match segment {
                Segment::Literal(text) if text == first => {}
                Segment::Parameter(name) if !first.is_empty() => {
                    parameters.0.push((name.clone(), first.clone()));
                }
                Segment::Rest(name) if !first.is_empty() => {
                    parameters.0.push((name.clone(), left.join("/")));
                    return Some(parameters);
                }
                _ => return None,
            }
            left = others;
        }
        left.is_empty().then_some(parameters)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, PatternError> {
        let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
            let literal = !text.contains(['{', '}']);
            return if literal { Ok(Segment::Literal(text.to_owned())) } else { Err(PatternError::Brace) };
        };
        let (name, kind): (_, fn(String) -> Segment) = match inner.strip_prefix('*') {
            Some(name) => (name, Segment::Rest),
            None => (inner, Segment::Parameter),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(PatternError::Name);
        }
        Ok(kind(name.to_owned()))
    }

    fn name(&self) -> Option<&String> {
        match self {
            Segment::Literal(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => Some(name),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Segment::Literal(_) => 0,
            Segment::Parameter(_) => 1,
            Segment::Rest(_) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::decode_segments;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    /// The values of the parameters, joined.
    fn values(text: &str, path: &str) -> Option<String> {
        let parameters = pattern(text).matches(&decode_segments(path).unwrap())?;
        Some(
            parameters
                .0
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(","),
        )
    }

    #[test]
    fn segments_are_taken_decoded() {
        let fits = |text: &str, path: &str, expected: &str| {
            assert_eq!(values(text, path).as_deref(), Some(expected));
        };
        fits("/", "/", "");
        fits("/chat", "/chat", "");
        fits("/chat/", "/chat/", "");
        fits("/чат/{room}", "/%D1%87%D0%B0%D1%82/a%2Fb%20c", "room=a/b c");
        fits("/{a}/x/{b}", "/1/x/2", "a=1,b=2");
        fits("/files/{*path}", "/files/a/b/c.txt", "path=a/b/c.txt");
        fits("/files/{*path}", "/files/a/", "path=a/");
        fits("/{*all}", "/x", "all=x");
    }

    #[test]
    fn what_does_not_fit() {
        let not = |text: &str, path: &str| assert_eq!(values(text, path), None, "{text} {path}");
        not("/", "/x");
        not("/chat", "/chat/");
        not("/chat", "/Chat");
        not("/chat/{room}", "/chat");
        not("/chat/{room}", "/chat/");
        not("/chat/{room}", "/chat/a/b");
        not("/files/{*path}", "/files");
        not("/files/{*path}", "/files/");
        not("/{*all}", "/");
    }

    #[test]
    fn what_is_no_pattern() {
        for (text, error) in [
            ("", PatternError::NoSlash),
            ("chat", PatternError::NoSlash),
            ("/a?b", PatternError::Query),
            ("/a#b", PatternError::Query),
            ("/a{b}", PatternError::Brace),
            ("/{a}b", PatternError::Brace),
            ("/{a", PatternError::Brace),
            ("/{}", PatternError::Name),
            ("/{*}", PatternError::Name),
            ("/{a b}", PatternError::Name),
            ("/{a}/{a}", PatternError::NameTwice),
            ("/{*a}/b", PatternError::RestBeforeEnd),
        ] {
            assert_eq!(Pattern::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn who_fits_the_same_paths_is_alike() {
        assert!(pattern("/chat/{room}").is_like(&pattern("/chat/{name}")));
        assert!(!pattern("/chat/{room}").is_like(&pattern("/chat/{*room}")));
        assert!(!pattern("/chat/{room}").is_like(&pattern("/news/{room}")));
        assert!(!pattern("/chat").is_like(&pattern("/chat/")));
    }

    #[test]
    fn literals_go_first_from_the_left() {
        let mut patterns = ["/{*all}", "/{a}/b", "/a/{*b}", "/a/{b}", "/a/b", "/a/b/{*c}"].map(pattern);
        patterns.sort_by_key(Pattern::ranks);
        let order = ["/a/b", "/a/b/{*c}", "/a/{b}", "/a/{*b}", "/{a}/b", "/{*all}"].map(pattern);
        assert_eq!(patterns, order);
    }
}
