//! What is said on a connection between its upgrade and the moment when it counts as ready.
//!
//! A [`Script`] is what to say and what to wait for, with the topic filled in; a [`Greeting`] is one connection on
//! its way through it. Sans-loop: the caller sends what is appended to its output and hands over what comes.

use std::time::{Duration, Instant};

use memchr::memmem;

use crate::wire::{Opcode, append_frame};

/// Bytes that a greeting remembers of what the server says.
const HEARD_BYTES_MAX: usize = 64 * 1024;

/// Bytes of it that a failure shows.
const EXCERPT_BYTES: usize = 200;

/// What to say, and what to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// Sent in this order.
    pub(crate) messages: Vec<Vec<u8>>,
    /// All but the first wait until this has come.
    pub(crate) after: Option<Vec<u8>>,
    /// The connection is ready when this has come.
    pub(crate) ready: Option<Vec<u8>>,
}

/// One connection that is not ready yet.
#[derive(Debug)]
pub(crate) struct Greeting {
    script: Script,
    sent: usize,
    heard: Vec<u8>,
    began: Instant,
}

impl Greeting {
    /// Begins, and appends the frames to send at once. `None` if the connection is ready with that.
    pub(crate) fn begin(script: Script, out: &mut Vec<u8>) -> Option<Box<Self>> {
        let mut greeting = Self { script, sent: 0, heard: Vec::new(), began: Instant::now() };
        (!greeting.go_on(out)).then(|| Box::new(greeting))
    }

    /// Takes the next bytes that the server sent, `end` if a message ends with them. `true` if the connection is
    /// ready.
    pub(crate) fn hear(&mut self, bytes: &[u8], end: bool, out: &mut Vec<u8>) -> bool {
        if self.heard.len() + bytes.len() > HEARD_BYTES_MAX {
            self.heard.drain(..self.heard.len() / 2);
        }
        self.heard.extend_from_slice(bytes);
        end && self.go_on(out)
    }

    /// Why the connection will never be ready, if it has waited for longer than `timeout`.
    pub(crate) fn overdue(&self, now: Instant, timeout: Duration) -> Option<String> {
        let text = self.waiting_for()?;
        (now.saturating_duration_since(self.began) > timeout).then(|| {
            format!("no message with {text} within {timeout:?} (--connect-timeout); {}", self.received())
        })
    }

    /// Why the connection will never be ready: it has ended.
    pub(crate) fn cut_short(&self, how: &str) -> String {
        let text = self.waiting_for().unwrap_or_default();
        format!("{how}, before a message with {text} came; {}", self.received())
    }

    fn waiting_for(&self) -> Option<String> {
        let after = self.script.after.as_ref().filter(|_| self.sent < self.script.messages.len());
        let text = after.or(self.script.ready.as_ref())?;
        Some(excerpt(text))
    }

    fn received(&self) -> String {
        match self.heard.is_empty() {
            true => "nothing was received".into(),
            false => format!("received was {}", excerpt(&self.heard)),
        }
    }

    /// Sends what may be sent now; `true` if nothing is left to wait for.
    fn go_on(&mut self, out: &mut Vec<u8>) -> bool {
        let has = |text: &Option<Vec<u8>>| {
            text.as_ref().is_none_or(|text| memmem::find(&self.heard, text).is_some())
        };
        while let Some(message) = self.script.messages.get(self.sent) {
            if self.sent > 0 && !has(&self.script.after) {
                return false;
            }
            append_frame(out, Opcode::Text, fastrand::u32(..).to_ne_bytes(), &[message]);
            self.sent += 1;
        }
        has(&self.script.ready)
    }
}

/// The first bytes of what a server said, on one line and in quotes.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let (shown, more) = match bytes.split_at_checked(EXCERPT_BYTES) {
        Some((shown, rest)) if !rest.is_empty() => (shown, " …"),
        _ => (bytes, ""),
    };
    let text: String = String::from_utf8_lossy(shown).chars().flat_map(escaped).collect();
    format!("\"{text}\"{more}")
}

/// Quotes as they are, since JSON is full of them; all that would disturb a terminal as an escape.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let (plain, escape) = if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(frames: &[u8]) -> usize {
        // Every frame here is short and masked: two bytes of header, four of key.
        let (mut count, mut rest) = (0, frames);
        while let [0x81, len, ..] = rest {
            rest = &rest[6 + usize::from(len & 0x7f)..];
            count += 1;
        }
        assert!(rest.is_empty());
        count
    }

    fn script(messages: &[&str], after: Option<&str>, ready: Option<&str>) -> Script {
        Script {
            messages: messages.iter().map(|text| text.as_bytes().to_vec()).collect(),
            after: after.map(Into::into),
            ready: ready.map(Into::into),
        }
    }

    #[test]
    fn without_anything_to_wait_for_it_is_ready_at_once() {
        let mut out = Vec::new();
        assert!(Greeting::begin(script(&["a", "b"], None, None), &mut out).is_none());
        assert_eq!(texts(&out), 2);
    }

    #[test]
    fn ready_with_the_end_of_the_message_that_has_the_text() {
        let mut out = Vec::new();
        let mut greeting = Greeting::begin(script(&["sub"], None, Some("ok")), &mut out).unwrap();
        assert_eq!(texts(&out), 1);
        assert!(!greeting.hear(b"hello", true, &mut out));
        assert!(!greeting.hear(b"o", false, &mut out) && !greeting.hear(b"k", false, &mut out));
        assert!(greeting.hear(b"", true, &mut out));
    }

    #[test]
    fn later_messages_wait_for_the_first_ones_answer() {
        let mut out = Vec::new();
        let script = script(&["40", "42a", "42b"], Some("40{"), Some("joined"));
        let mut greeting = Greeting::begin(script, &mut out).unwrap();
        assert_eq!(texts(&out), 1);
        assert!(
            greeting
                .overdue(Instant::now() + Duration::from_secs(2), Duration::from_secs(1))
                .unwrap()
                .contains("40{")
        );
        assert!(!greeting.hear(b"40{}", true, &mut out));
        assert_eq!(texts(&out), 3);
        assert!(greeting.hear(b"joined", true, &mut out));
    }

    #[test]
    fn a_server_that_never_is_ready_is_quoted() {
        let mut greeting = Greeting::begin(script(&[], None, Some("ok")), &mut Vec::new()).unwrap();
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(greeting.overdue(now, second), None);
        assert!(greeting.overdue(now + 2 * second, second).unwrap().contains("nothing was received"));
        greeting.hear(&[b"no \"such\" app\r\n".as_slice(), &[b'x'; 300]].concat(), true, &mut Vec::new());
        let why = greeting.overdue(now + 2 * second, second).unwrap();
        assert!(why.contains(r#"with "ok" within 1s"#) && why.contains(r#""no "such" app\r\nxxx"#), "{why}");
        assert!(why.ends_with("x\" …") && why.len() < 350, "{why}");
        assert!(greeting.cut_short("close 4001").starts_with("close 4001, before"));
    }

    #[test]
    fn a_talkative_server_fills_no_memory() {
        let mut greeting = Greeting::begin(script(&[], None, Some("needle")), &mut Vec::new()).unwrap();
        for _ in 0..100 {
            assert!(!greeting.hear(&[b'x'; 10_000], true, &mut Vec::new()));
            assert!(greeting.heard.len() <= HEARD_BYTES_MAX);
        }
        assert!(greeting.hear(b"needle", true, &mut Vec::new()));
    }
}
