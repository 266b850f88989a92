//! Which web pages may connect: origins (RFC 6454) against the operator's patterns, and what counts as loopback.
//!
//! A browser lets any page open a WebSocket to any server; the Origin header is the server's only means to tell them
//! apart (RFC 6455 §10.2). Other clients may send what they like, so this is no authentication.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An origin, or a family of origins, that may connect.
///
/// `https://example.com` is that origin alone, with the scheme's default port; `https://example.com:8443` names
/// another port; `https://*.example.com` is every name below it, at any depth, but not `example.com` itself; `*` is
/// any origin, `null` included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern(Pattern);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(Origin),
    /// The host is a suffix that begins with a dot.
    Below(Origin),
}

impl OriginPattern {
    /// Whether an Origin header's value is allowed. Scheme and host are compared in any case.
    pub fn matches(&self, origin: &str) -> bool {
        match &self.0 {
            Pattern::Any => true,
            Pattern::Exact(allowed) => Origin::parse(origin).is_some_and(|origin| origin == *allowed),
            Pattern::Below(allowed) => Origin::parse(origin).is_some_and(|origin| {
                origin.scheme == allowed.scheme
                    && origin.port == allowed.port
                    && origin.host.len() > allowed.host.len()
                    && origin.host.ends_with(&allowed.host)
            }),
        }
    }
}

impl FromStr for OriginPattern {
    type Err = InvalidOriginPattern;

    fn from_str(text: &str) -> Result<Self, InvalidOriginPattern> {
        let invalid = || InvalidOriginPattern { pattern: text.to_owned() };
        if text == "*" {
            return Ok(Self(Pattern::Any));
        }
        let origin = Origin::parse(text).ok_or_else(invalid)?;
        match origin.host.strip_prefix('*') {
            None if !origin.host.contains('*') => Ok(Self(Pattern::Exact(origin))),
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*') => {
                let host = suffix.to_owned();
                Ok(Self(Pattern::Below(Origin { host, ..origin })))
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (star, origin) = match &self.0 {
            Pattern::Any => return f.write_str("*"),
            Pattern::Exact(origin) => ("", origin),
            Pattern::Below(origin) => ("*", origin),
        };
        write!(f, "{}://{star}{}", origin.scheme, origin.host)?;
        match origin.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// The text is no [`OriginPattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOriginPattern {
    /// The text.
    pub pattern: String,
}

impl fmt::Display for InvalidOriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not an origin pattern: write https://example.com, https://example.com:8443, \
             https://*.example.com (all names below it) or * (any), without a path",
            self.pattern
        )
    }
}

impl std::error::Error for InvalidOriginPattern {}

/// Whether a Host header names this machine: `localhost`, a name below it, 127.0.0.0/8 or `[::1]`, with any port.
pub fn is_loopback_host(host_header: &str) -> bool {
    split_port(host_header).is_some_and(|(host, _)| is_loopback(&host.to_ascii_lowercase()))
}

/// Whether an Origin header's value names a page that was served from this machine, with any scheme and port.
pub fn is_loopback_origin(origin: &str) -> bool {
    Origin::parse(origin).is_some_and(|origin| is_loopback(&origin.host))
}

fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    // RFC 6761 §6.3: localhost and all names below it; a dot at the end makes a name absolute, no other.
    let name = host.strip_suffix('.').unwrap_or(host);
    name == "localhost"
        || name.ends_with(".localhost")
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
}

/// Scheme, host and port (RFC 6454 §4), in lower case; the scheme's default port is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(in_scheme) {
            return None;
        }
        let (host, port) = split_port(authority)?;
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        let default_port = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Some(Self { scheme, host, port: port.filter(|port| Some(*port) != default_port) })
    }
}

/// Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; `None` if it is neither.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let host_end = match authority.find(']') {
        Some(bracket) if authority.starts_with('[') => bracket + 1,
        _ => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(host_end);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let v6 = bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/?#@\\[]:".contains(c);
    let plain = !host.is_empty() && !host.contains(forbidden);
    if !plain && !v6 {
        return None;
    }
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        None if rest.is_empty() => None,
        _ => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> OriginPattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn exact_origins() {
        let exact = pattern("https://Example.com");
        for origin in ["https://example.com", "HTTPS://EXAMPLE.COM", "https://example.com:443"] {
            assert!(exact.matches(origin), "{origin}");
        }
        for origin in [
            "http://example.com",
            "https://example.com:8443",
            "https://www.example.com",
            "https://example.com.evil.org",
            "https://example.com@evil.org",
            "https://evil.org/https://example.com",
            "https://example.com/",
            "https://example.com:",
            "null",
            "",
        ] {
            assert!(!exact.matches(origin), "{origin}");
        }
        assert!(pattern("http://localhost:3000").matches("http://localhost:3000"));
        assert!(!pattern("http://localhost:3000").matches("http://localhost"));
        assert!(pattern("http://[::1]:3000").matches("http://[::1]:3000"));
        assert!(pattern("capacitor://localhost").matches("capacitor://localhost"));
    }

    #[test]
    fn names_below_at_any_depth() {
        let below = pattern("https://*.example.com:8443");
        assert!(below.matches("https://a.example.com:8443") && below.matches("https://a.b.Example.com:8443"));
        for origin in [
            "https://example.com:8443",
            "https://.example.com:8443",
            "https://a.example.com",
            "https://aexample.com:8443",
        ] {
            assert!(!below.matches(origin), "{origin}");
        }
    }

    #[test]
    fn any_is_any() {
        assert!(pattern("*").matches("null") && pattern("*").matches("https://x"));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for text in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://*",
            "https://*.",
            "https://*example.com",
            "https://a.*.com",
            "https://*.*.com",
            "://a",
            "https://a:b",
            "https://a:70000",
            "https://a b",
            "https://[::1",
            "https://u@a",
            "ht*p://a",
            "**",
        ] {
            let error = text.parse::<OriginPattern>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("'{text}' is not an origin pattern")));
        }
    }

    #[test]
    fn patterns_are_written_as_they_were_read() {
        for text in ["*", "https://example.com", "https://*.example.com:8443", "http://[::1]:80"] {
            let expected = text.strip_suffix(":80").unwrap_or(text);
            assert_eq!(pattern(text).to_string(), expected);
        }
    }

    #[test]
    fn loopback() {
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "a.localhost",
            "localhost.",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:8000",
        ] {
            assert!(is_loopback_host(host), "{host}");
            assert!(is_loopback_origin(&format!("http://{host}")), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.evil.org",
            "127.0.0.1.evil.org",
            "evillocalhost",
            "128.0.0.1",
            "[::2]",
            "::1",
            "127.0.0.1.",
            "localhost:x",
            "localhost:1:2",
            "127.0.0.1@evil.org",
            "localhost/",
            "[localhost]",
        ] {
            assert!(!is_loopback_host(host), "{host}");
            assert!(!is_loopback_origin(&format!("http://{host}")), "{host}");
        }
        assert!(!is_loopback_origin("localhost") && !is_loopback_origin("null"));
    }
}
