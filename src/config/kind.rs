//! Kinds of values: what a key's text may be, with its range, and how its value is written.
//!
//! Owns reading one text into one typed value and back; a kind is plain data, so that the table in `keys` can
//! state it beside the prose. Does not know keys, defaults, or how values depend on each other.
//!
//! Invariant: `kind.parse(&kind.show(&value)) == Ok(value)` for every value in the kind's range, unless it is secret.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use super::api_key::{ApiKey, ApiKeyFile};
use super::value::{Count, Refusal, Size, Time};

/// What a key's text may be, and the type of value that it becomes.
pub trait Kind {
    /// What a text becomes.
    type Value: Clone + PartialEq;

    /// Reads one text.
    ///
    /// # Errors
    /// [`Refusal`] if it is written in another form or its value is out of range.
    fn parse(&self, text: &str) -> Result<Self::Value, Refusal>;

    /// Writes a value as a text that [`Kind::parse`] reads back.
    fn show(&self, value: &Self::Value) -> String;

    /// What is allowed, for people: `1 to 256`.
    fn accepts(&self) -> String;

    /// What stands for the value in `--help`: `N`, `SIZE`, `TIME`.
    fn placeholder(&self) -> &'static str;

    /// The unit of the value; empty where it has none.
    fn unit(&self) -> &'static str {
        ""
    }

    /// Whether the flag may stand alone and then means `on`.
    fn is_switch(&self) -> bool {
        false
    }

    /// Whether texts must not be shown; what [`show`](Self::show) writes may, and can't be read back.
    fn is_secret(&self) -> bool {
        false
    }
}

/// `on` or `off`; the flag alone is `on`.
pub struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn parse(&self, text: &str) -> Result<bool, Refusal> {
        match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(Refusal::form("expected on or off")),
        }
    }

    fn show(&self, value: &bool) -> String {
        if *value { "on" } else { "off" }.to_owned()
    }

    fn accepts(&self) -> String {
        "on or off".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "on|off"
    }

    fn is_switch(&self) -> bool {
        true
    }
}

/// A whole number from `from` to `to`, both allowed.
pub struct Counts<N> {
    /// The least that is allowed.
    pub from: N,
    /// The most that is allowed.
    pub to: N,
    /// What is counted: `connections`.
    pub unit: &'static str,
}

/// A number as [`Counts`] and [`Sizes`] write it: no integer type here is wider than 64 bits.
fn widen<N: TryInto<u64> + Copy>(number: N) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

/// `number` as the key's own type, if it lies in the range.
fn narrow<N: TryFrom<u64> + PartialOrd>(number: u64, from: &N, to: &N) -> Result<N, Refusal> {
    N::try_from(number).ok().filter(|number| from <= number && number <= to).ok_or(Refusal::Range)
}

/// A range for people.
fn range(from: impl Display, to: impl Display) -> String {
    format!("{from} to {to}")
}

impl<N: TryFrom<u64> + TryInto<u64> + PartialOrd + Copy> Kind for Counts<N> {
    type Value = N;

    fn parse(&self, text: &str) -> Result<N, Refusal> {
        narrow(text.parse::<Count>()?.0, &self.from, &self.to)
    }

    fn show(&self, value: &N) -> String {
        Count(widen(*value)).to_string()
    }

    fn accepts(&self) -> String {
        range(self.show(&self.from), self.show(&self.to))
    }

    fn placeholder(&self) -> &'static str {
        "N"
    }

    fn unit(&self) -> &'static str {
        self.unit
    }
}

/// A number of bytes from `from` to `to`, both allowed.
pub struct Sizes {
    /// The least that is allowed.
    pub from: usize,
    /// The most that is allowed.
    pub to: usize,
}

impl Kind for Sizes {
    type Value = usize;

    fn parse(&self, text: &str) -> Result<usize, Refusal> {
        narrow(text.parse::<Size>()?.0, &self.from, &self.to)
    }

    fn show(&self, value: &usize) -> String {
        Size(widen(*value)).to_string()
    }

    fn accepts(&self) -> String {
        range(self.show(&self.from), self.show(&self.to))
    }

    fn placeholder(&self) -> &'static str {
        "SIZE"
    }

    fn unit(&self) -> &'static str {
        "bytes, or KiB, MiB, GiB"
    }
}

/// A length of time from `from` to `to`, both allowed.
pub struct Times {
    /// The shortest that is allowed.
    pub from: Duration,
    /// The longest that is allowed.
    pub to: Duration,
}

impl Kind for Times {
    type Value = Duration;

    fn parse(&self, text: &str) -> Result<Duration, Refusal> {
        let Time(time) = text.parse()?;
        if (self.from..=self.to).contains(&time) { Ok(time) } else { Err(Refusal::Range) }
    }

    fn show(&self, value: &Duration) -> String {
        Time(*value).to_string()
    }

    fn accepts(&self) -> String {
        range(Time(self.from), Time(self.to))
    }

    fn placeholder(&self) -> &'static str {
        "TIME"
    }

    fn unit(&self) -> &'static str {
        "ms, s, m or h"
    }
}

/// A word that stands for "no value of its own" (`off`, `auto`, `kernel`), or a value of `kind`.
pub struct Or<K> {
    /// The words; the first is the one that is written.
    pub words: &'static [&'static str],
    /// What else is allowed.
    pub kind: K,
}

impl<K: Kind> Kind for Or<K> {
    type Value = Option<K::Value>;

    fn parse(&self, text: &str) -> Result<Option<K::Value>, Refusal> {
        if self.words.contains(&text) {
            return Ok(None);
        }
        match self.kind.parse(text) {
            Ok(value) => Ok(Some(value)),
            Err(Refusal::Form(expected)) => {
                Err(Refusal::Form(format!("{expected}, or {}", self.words.join(" or "))))
            }
            Err(Refusal::Range) => Err(Refusal::Range),
        }
    }

    fn show(&self, value: &Option<K::Value>) -> String {
        match value {
            Some(value) => self.kind.show(value),
            None => self.words.first().copied().unwrap_or_default().to_owned(),
        }
    }

    fn accepts(&self) -> String {
        format!("{}, or {}", self.kind.accepts(), self.words.join(" or "))
    }

    fn placeholder(&self) -> &'static str {
        self.kind.placeholder()
    }

    fn unit(&self) -> &'static str {
        self.kind.unit()
    }

    fn is_switch(&self) -> bool {
        self.kind.is_switch()
    }
}

/// One of a few words.
pub struct Words<E: 'static> {
    /// What stands for the words in `--help`.
    pub placeholder: &'static str,
    /// Each word with what it means; every value of the type has one.
    pub words: &'static [(&'static str, E)],
}

impl<E: Copy + PartialEq> Kind for Words<E> {
    type Value = E;

    fn parse(&self, text: &str) -> Result<E, Refusal> {
        let found = self.words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| Refusal::Form(format!("expected {}", self.accepts())))
    }

    fn show(&self, value: &E) -> String {
        let found = self.words.iter().find(|(_, known)| known == value);
        found.map(|(word, _)| *word).unwrap_or_default().to_owned()
    }

    fn accepts(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
}

/// An IP address with a port: `127.0.0.1:8080`, `[::1]:8080`. Names are not looked up.
pub struct Address;

impl Kind for Address {
    type Value = SocketAddr;

    fn parse(&self, text: &str) -> Result<SocketAddr, Refusal> {
        text.parse().map_err(|_| {
            Refusal::form(
                "expected an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080",
            )
        })
    }

    fn show(&self, value: &SocketAddr) -> String {
        value.to_string()
    }

    fn accepts(&self) -> String {
        "an IPv4 address or an IPv6 address in brackets, with a port; port 0 takes a free one".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "ADDRESS"
    }
}

/// A key of the server API with its name: `NAME:KEY`.
pub struct NamedKey;

impl Kind for NamedKey {
    type Value = ApiKey;

    fn parse(&self, text: &str) -> Result<ApiKey, Refusal> {
        text.parse()
    }

    fn show(&self, value: &ApiKey) -> String {
        format!("{}:…", value.name())
    }

    fn accepts(&self) -> String {
        "a name of letters, digits and -_., a colon, and 16 to 512 visible ASCII characters".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "NAME:KEY"
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// A file of such keys. It is read when its name is.
pub struct KeyFile;

impl Kind for KeyFile {
    type Value = ApiKeyFile;

    fn parse(&self, text: &str) -> Result<ApiKeyFile, Refusal> {
        ApiKeyFile::read(text)
    }

    fn show(&self, value: &ApiKeyFile) -> String {
        value.path.clone()
    }

    fn accepts(&self) -> String {
        "the path of a file that can be read".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "FILE"
    }
}

/// The path of a file. Nothing is looked up.
pub struct FilePath;

impl Kind for FilePath {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refusal> {
        if text.is_empty() || text.contains('\0') {
            return Err(Refusal::form("expected the path of a file"));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepts(&self) -> String {
        "the path of a file".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "FILE"
    }
}

/// The name of a WebSocket subprotocol: a token (RFC 6455 §4.1, RFC 9110 §5.6.2).
pub struct Subprotocol;

impl Kind for Subprotocol {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refusal> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !text.is_empty() && text.bytes().all(is_token) {
            Ok(text.to_owned())
        } else {
            Err(Refusal::form("expected one name of letters, digits and !#$%&'*+-.^_`|~, such as chat.v1"))
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepts(&self) -> String {
        "a token: letters, digits and the marks that RFC 9110 §5.6.2 allows".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "NAME"
    }
}

/// A pattern of web origins: `*`, or `scheme://host` with an optional leading `*.` and an optional port.
///
/// The value is the text as a browser would write the origin (RFC 6454 §6.2): in lower case, and without the
/// scheme's own port.
pub struct Origin;

const ORIGIN_FORM: &str =
    "expected *, or scheme://host with an optional leading *. and port, such as https://*.example.com";

/// Whether `host` is a name of labels or an IPv6 address in brackets, as it stands in an origin.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

impl Kind for Origin {
    type Value = String;

    fn parse(&self, text: &str) -> Result<String, Refusal> {
        if text == "*" {
            return Ok(text.to_owned());
        }
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| Refusal::form(ORIGIN_FORM))?;
        if matches!(scheme, "ws" | "wss") {
            return Err(Refusal::form(
                "an origin is the page's, so its scheme is http or https, not ws or wss",
            ));
        }
        if rest.contains(['/', '?', '#', '@']) {
            return Err(Refusal::form(
                "an origin is scheme, host and port only: leave out what follows them",
            ));
        }
        // The port follows the last colon, unless that colon is inside an IPv6 address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let named = match host.strip_prefix("*.") {
            Some(parent) => is_host(parent) && !parent.starts_with('['),
            None => is_host(host),
        };
        if !is_scheme || !named {
            return Err(Refusal::form(ORIGIN_FORM));
        }
        let Some(port) = port else { return Ok(text) };
        match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(match (scheme, number) {
                    ("http", 80) | ("https", 443) => format!("{scheme}://{host}"),
                    _ => format!("{scheme}://{host}:{number}"),
                })
            }
            _ => Err(Refusal::form("the port of an origin is a number from 1 to 65535")),
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn accepts(&self) -> String {
        "`*`, or `scheme://host` with an optional leading `*.` and an optional port".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "ORIGIN"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_refused_beyond_either_end_and_beyond_their_type() {
        let kind = Counts::<u32> { from: 2, to: 256, unit: "" };
        assert_eq!(kind.parse("2"), Ok(2));
        assert_eq!(kind.parse("256"), Ok(256));
        for text in ["0", "1", "257", "4_294_967_298", "99999999999999999999"] {
            assert_eq!(kind.parse(text), Err(Refusal::Range), "{text}");
        }
        assert_eq!(kind.accepts(), "2 to 256");
    }

    #[test]
    fn a_word_stands_for_no_value() {
        let kind = Or {
            words: &["off", "0"],
            kind: Times { from: Duration::from_secs(1), to: Duration::from_secs(60) },
        };
        assert_eq!(kind.parse("off"), Ok(None));
        assert_eq!(kind.parse("0"), Ok(None));
        assert_eq!(kind.parse("1m"), Ok(Some(Duration::from_secs(60))));
        assert_eq!(kind.parse("0s"), Err(Refusal::Range));
        assert!(matches!(kind.parse("5"), Err(Refusal::Form(why)) if why.ends_with("or off or 0")));
        assert_eq!(kind.show(&None), "off");
        assert_eq!(kind.accepts(), "1s to 1m, or off or 0");
    }

    #[test]
    fn addresses_need_a_port_and_no_name() {
        for text in ["127.0.0.1:8080", "[::1]:0", "[fe80::1%3]:80"] {
            assert_eq!(Address.parse(text).map(|address| Address.show(&address)), Ok(text.to_owned()));
        }
        for text in ["", "8080", ":8080", "127.0.0.1", "localhost:8080", "::1:8080", "127.0.0.1:65536"] {
            assert!(matches!(Address.parse(text), Err(Refusal::Form(_))), "{text}");
        }
    }

    #[test]
    fn subprotocols_are_tokens() {
        assert_eq!(Subprotocol.parse("chat.v1"), Ok("chat.v1".to_owned()));
        for text in ["", "a b", "a,b", "a/b", "\u{e9}", "a\n"] {
            assert!(Subprotocol.parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn origins_are_kept_as_a_browser_writes_them() {
        for (text, kept) in [
            ("*", "*"),
            ("https://example.com", "https://example.com"),
            ("HTTPS://*.Example.com:8443", "https://*.example.com:8443"),
            ("https://example.com:443", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("http://example.com:0443", "http://example.com:443"),
            ("http://[::1]", "http://[::1]"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(Origin.parse(text), Ok(kept.to_owned()), "{text}");
            assert_eq!(Origin.parse(kept), Ok(kept.to_owned()), "{kept}");
        }
    }

    #[test]
    fn what_no_origin_can_match_is_refused() {
        for text in [
            "",
            "example.com",
            "null",
            "**",
            "https://",
            "https://*",
            "https://*.",
            "https://*.[::1]",
            "https://a.*.com",
            "https://*example.com",
            "https://example.com/",
            "https://example.com/chat",
            "https://user@example.com",
            "https://example..com",
            "https://example.com:",
            "https://example.com:0",
            "https://example.com:65536",
            "https://example.com:+80",
            "https://[::1",
            "https://b\u{fc}cher.example",
            "wss://example.com",
            "1http://example.com",
            "https://a b",
        ] {
            assert!(matches!(Origin.parse(text), Err(Refusal::Form(_))), "{text}");
        }
    }
}
