//! A `ws://` or `http://` address: the part of a URL that this tool needs, and nothing more.
//!
//! Owns parsing and the spelling of request targets. Not resolving (see `client`). TLS is refused by name:
//! ciphers in the generator would be measured along with the server.

use std::fmt;

use crate::dialect::template::check_address;

/// A parsed `ws://host[:port][/path][?query]`, or the same with `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    scheme: &'static str,
    /// Host name, IPv4 address, or IPv6 address without its brackets.
    pub(crate) host: String,
    /// 80 where the URL names none.
    pub(crate) port: u16,
    /// Begins with `/`, without a query.
    pub(crate) path: String,
    /// What follows `?`, without it; empty where there is none.
    pub(crate) query: String,
}

impl Url {
    /// Parses a `ws://` URL. The error is a sentence for the person who typed it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_scheme(text, "ws")
    }

    /// Parses an `http://` URL.
    pub(crate) fn parse_http(text: &str) -> Result<Self, String> {
        Self::parse_scheme(text, "http")
    }

    fn parse_scheme(text: &str, scheme: &'static str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some((found, rest)) if found == scheme => rest,
            Some(("wss" | "https", _)) => {
                return Err(format!("{text}: TLS is not supported, use the server's {scheme}:// listener"));
            }
            _ => return Err(format!("{text}: expected {scheme}://host:port/path")),
        };
        check_address(text).map_err(|what| format!("{text}: {what}"))?;
        if let Some(bad) = rest.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            return Err(format!("{text}: {bad:?} does not belong in a URL (percent-encode it)"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (host, after) =
                bracketed.split_once(']').ok_or_else(|| format!("{text}: the IPv6 address lacks its ]"))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(format!("{text}: expected a port after ]")),
            }
        } else {
            match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            }
        };
        if host.is_empty() {
            return Err(format!("{text}: the host is missing"));
        }
        let port = match port {
            None => 80,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("{text}: port {port:?} is not a number from 1 to 65535")),
            },
        };
        Ok(Self { scheme, host: host.into(), port, path: path.into(), query: query.into() })
    }

    /// The value of the `Host` header: as typed, port always included.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The URL of a request target on the same server, for messages.
    pub(crate) fn with_target(&self, request_target: &str) -> String {
        format!("{}://{}{request_target}", self.scheme, self.authority())
    }

    /// The request target with `suffix` as a further path segment and `query` added to the URL's own.
    ///
    /// `query` may begin with `?`, as people type it.
    pub(crate) fn target(&self, suffix: Option<u64>, query: &str) -> String {
        let mut target = self.path.clone();
        if let Some(suffix) = suffix {
            if !target.ends_with('/') {
                target.push('/');
            }
            target.push_str(&suffix.to_string());
        }
        let query = query.strip_prefix('?').unwrap_or(query);
        for (i, part) in [self.query.as_str(), query].into_iter().filter(|q| !q.is_empty()).enumerate() {
            target.push(if i == 0 { '?' } else { '&' });
            target.push_str(part);
        }
        target
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_target(&self.target(None, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let url = Url::parse("ws://127.0.0.1:8080/ws/bench?token=x").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str(), url.query.as_str()),
            ("127.0.0.1", 8080, "/ws/bench", "token=x")
        );
        assert_eq!(url.to_string(), "ws://127.0.0.1:8080/ws/bench?token=x");
        assert_eq!(Url::parse("ws://example").unwrap().to_string(), "ws://example:80/");
        assert_eq!(Url::parse("ws://h?q").unwrap().to_string(), "ws://h:80/?q");
        assert_eq!(Url::parse_http("http://h/{topic}").unwrap().to_string(), "http://h:80/{topic}");
        assert!(Url::parse_http("https://h/").unwrap_err().contains("TLS"));
        let six = Url::parse("ws://[::1]:9/x").unwrap();
        assert_eq!((six.host.as_str(), six.authority()), ("::1", "[::1]:9".into()));
    }

    #[test]
    fn targets() {
        let plain = Url::parse("ws://h:1/ws/bench").unwrap();
        assert_eq!(plain.target(None, ""), "/ws/bench");
        assert_eq!(plain.target(None, "?mode=pub"), "/ws/bench?mode=pub");
        assert_eq!(plain.target(Some(3), "mode=sub"), "/ws/bench/3?mode=sub");
        let query = Url::parse("ws://h:1/ws/?a=1").unwrap();
        assert_eq!(query.target(Some(0), "mode=sub"), "/ws/0?a=1&mode=sub");
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, word) in [
            ("wss://h/", "TLS"),
            ("http://h/", "ws://host"),
            ("h:80", "ws://host"),
            ("ws:///x", "host is missing"),
            ("ws://h:0/", "port"),
            ("ws://h:x/", "port"),
            ("ws://h:99999/", "port"),
            ("ws://[::1/", "]"),
            ("ws://[::1]x/", "port"),
            ("ws://h/a b", "percent-encode"),
            ("ws://h/a#b", "percent-encode"),
            ("ws://h:{port}/", "{port}"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(word) && error.contains(text), "{text}: {error}");
        }
    }
}
