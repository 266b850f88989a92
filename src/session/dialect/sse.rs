//! Server-Sent Events: messages as events, ids that name positions, heartbeats (WHATWG HTML section 9.2).
//!
//! ```text
//!   event: binary            where the data is base64: binary, and text with CR, which no event can carry
//!   data: first line         one per line of the text; lines end with LF
//!   data: second line
//!   id: z1000000-7           epoch and offset; several topics: one after another, with commas between
//!                            the blank line, with which the event counts
//! ```
//!
//! The id comes last, so that what comes before is the same for streams of one topic and of several.

use super::{Notice, Since, View, base64_len, write_base64, write_number};
use crate::{
    broker::ids::{Epoch, Offset},
    protocol::ws::Kind,
};

/// The content type of a stream.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// The most positions that a `Last-Event-ID` names: so many topics has a stream at most.
pub const POSITIONS_MAX: usize = 64;

/// A comment, for when nothing was sent for a while: proxies and clients see that the stream lives.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// The longest position: epoch, hyphen, offset.
const POSITION_BYTES_MAX: usize = Epoch::TEXT_LEN + 1 + 20;

/// Appends a whole event without an id: the client's position stays where it is.
pub fn write_event(kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    write_open_event(View::of(kind, payload), out);
    write_end(out);
}

/// Appends an event up to its id. [`write_id`] ends it.
pub(super) fn write_open_event(payload: View<'_>, out: &mut Vec<u8>) {
    match payload {
        View::Text(text) if memchr::memchr(b'\r', text.as_bytes()).is_none() => {
            out.reserve(text.len() + 64);
            write_data(text.as_bytes(), out);
        }
        View::Text(text) => write_binary(text.as_bytes(), out),
        View::Binary(bytes) => write_binary(bytes, out),
    }
}

fn write_binary(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(base64_len(bytes.len()) + 96);
    out.extend_from_slice(b"event: binary\ndata: ");
    write_base64(bytes, out);
    out.push(b'\n');
}

/// Appends the lines of a text that has no CR. The space is for people, and for lines that begin with one.
fn write_data(text: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', text).chain([text.len()]) {
        out.extend_from_slice(if start == end { b"data:" } else { b"data: " });
        out.extend_from_slice(&text[start..end]);
        out.push(b'\n');
        start = end + 1;
    }
}

/// Appends an event's id and the blank line that ends it: what the client has had of each of its topics, in the order
/// of its request. Without an event before it, it tells the client where it stands, and no listener is called.
pub fn write_id(positions: impl IntoIterator<Item = Since>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    for (i, position) in positions.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&position.epoch.text());
        out.push(b'-');
        write_number(position.offset.0, out);
    }
    out.extend_from_slice(b"\n\n");
}

/// Reads a `Last-Event-ID` as [`write_id`] wrote it.
///
/// # Errors
/// Anything else. Nothing can be recovered then, and the client is to be told so.
pub fn parse_last_event_id(value: &[u8]) -> Result<Vec<Since>, InvalidLastEventId> {
    if value.len() > POSITIONS_MAX * (POSITION_BYTES_MAX + 1) {
        return Err(InvalidLastEventId);
    }
    let positions: Option<Vec<_>> =
        value.split(|&byte| byte == b',').take(POSITIONS_MAX + 1).map(parse_position).collect();
    positions.filter(|positions| positions.len() <= POSITIONS_MAX).ok_or(InvalidLastEventId)
}

fn parse_position(text: &[u8]) -> Option<Since> {
    let (epoch, rest) = text.split_at_checked(Epoch::TEXT_LEN)?;
    let digits = rest.strip_prefix(b"-")?;
    // `u64::from_str` takes a plus sign, too, and leading zeros.
    let is_canonical =
        digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    let offset = std::str::from_utf8(digits).ok()?.parse().ok()?;
    is_canonical.then_some(Since { epoch: Epoch::parse(epoch)?, offset: Offset(offset) })
}

/// A `Last-Event-ID` that this server has not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidLastEventId;

impl std::fmt::Display for InvalidLastEventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Last-Event-ID names no positions: EPOCH-OFFSET of each topic, with commas between")
    }
}

impl std::error::Error for InvalidLastEventId {}

/// Appends the line that says how long a client waits before it comes back.
pub fn write_retry(milliseconds: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"retry: ");
    write_number(milliseconds, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends an event with the notice's name, which only those who listen for it see. Ended by [`write_id`] or
/// [`write_end`].
pub fn write_open_notice(notice: &Notice<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(notice.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    notice.write_json(out);
    out.push(b'\n');
}

/// Appends the blank line that ends an event without an id.
pub fn write_end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn since(epoch: u64, offset: u64) -> Since {
        Since { epoch: Epoch::new(epoch), offset: Offset(offset) }
    }

    #[test]
    fn an_empty_payload_is_an_event() {
        let mut out = Vec::new();
        write_open_event(View::Text(""), &mut out);
        write_end(&mut out);
        assert_eq!(out, b"data:\n\n");
    }

    #[test]
    fn ids() {
        let mut out = Vec::new();
        write_id([since(71, 7), since(0, 0)], &mut out);
        assert_eq!(out, b"id: z1000000-7,00000000-0\n\n");
        for nonsense in [
            "",
            "-",
            ",",
            "7",
            "z1000000",
            "z1000000-",
            "z1000000-+7",
            "z1000000--7",
            "z1000000-07",
            "z1000000-7 ",
            "z1000000-7,",
            ",z1000000-7",
            "Z1000000-7",
            "z100000-7",
            "z10000000-7",
            "z1000000-18446744073709551616",
            "z1000000-7,x",
            "z1000000_7",
            "ä00000-7",
            "z1000000-٧",
            "z1000000-1e3",
            "null",
        ] {
            assert_eq!(parse_last_event_id(nonsense.as_bytes()), Err(InvalidLastEventId), "{nonsense}");
        }
        let many = |count| vec!["z1000000-7"; count].join(",");
        assert_eq!(
            parse_last_event_id(many(POSITIONS_MAX).as_bytes()).map(|all| all.len()),
            Ok(POSITIONS_MAX)
        );
        assert_eq!(parse_last_event_id(many(POSITIONS_MAX + 1).as_bytes()), Err(InvalidLastEventId));
        assert_eq!(parse_last_event_id(many(1_000_000).as_bytes()), Err(InvalidLastEventId));
    }

    #[test]
    fn retry_and_notices() {
        let mut out = Vec::new();
        write_retry(3000, &mut out);
        write_open_notice(&Notice::Skipped { topic: "a\nb", count: 3 }, &mut out);
        write_end(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "retry: 3000\n\nevent: skipped\ndata: {\"skipped\":3,\"topic\":\"a\\nb\"}\n\n"
        );
    }

    proptest! {
        #[test]
        fn an_id_comes_back(positions in prop::collection::vec((any::<u64>(), any::<u64>()), 1..POSITIONS_MAX)) {
            let positions: Vec<_> = positions.into_iter().map(|(epoch, offset)| since(epoch, offset)).collect();
            let mut out = Vec::new();
            write_id(positions.iter().copied(), &mut out);
            let id = out.strip_prefix(b"id: ").and_then(|rest| rest.strip_suffix(b"\n\n")).expect("an id");
            prop_assert!(id.len() <= POSITIONS_MAX * (POSITION_BYTES_MAX + 1));
            prop_assert_eq!(parse_last_event_id(id), Ok(positions));
        }

        #[test]
        fn any_last_event_id_is_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_last_event_id(&value);
        }
    }
}
