//! Dialects: what one message looks like to each kind of client. Pure: bytes in, bytes out.
//!
//! A message is a payload and a kind, text or binary. [`encode`] makes it the unit of one [`Encoding`]: finished bytes
//! that are appended to that encoding's log once, and sent to any number of subscribers. `docs/dialects.md` has the
//! table of what becomes of which payload; `tests/dialects.rs` has a test for each of its cells.
//!
//! ```text
//!   payload ─┬─ Raw     a WebSocket frame of the payload
//!            ├─ Json    a WebSocket frame of {"topic","epoch","offset","time","data"}     json, check
//!            └─ Event   id, event, data: Server-Sent Events                               sse
//!   client's JSON ──▶ Command                                                             command
//!   Notice ──▶ JSON: what is said beside messages                                         notice
//! ```

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::{
    command::{Command, CommandError, ID_BYTES_MAX},
    notice::{ErrorCode, Notice},
};
use crate::{
    broker::{
        encoding,
        ids::{Epoch, Offset},
        name::TopicName,
    },
    protocol::ws::{self, Kind},
    session::{Message, binary, text},
};

mod check;
mod command;
mod json;
mod notice;
pub mod sse;

pub use check::{NESTING_MAX, is_object_or_array};

/// What the units of a log are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encoding {
    /// A WebSocket frame of the payload. The canonical log has it: see [`message_of`].
    Raw,
    /// A WebSocket text frame of a JSON envelope.
    Json,
    /// A whole Server-Sent Event with its id, for streams of one topic.
    Event,
    /// A Server-Sent Event up to its id, which each stream of several topics adds itself: see
    /// [`sse::write_id`].
    OpenEvent,
}

impl From<Encoding> for encoding::Encoding {
    fn from(encoding: Encoding) -> encoding::Encoding {
        encoding::Encoding(match encoding {
            Encoding::Raw => encoding::Encoding::CANONICAL.0,
            Encoding::Json => 1,
            Encoding::Event => 2,
            Encoding::OpenEvent => 3,
        })
    }
}

impl Encoding {
    /// The one of that number.
    fn of(number: encoding::Encoding) -> Encoding {
        let all = [Encoding::Raw, Encoding::Json, Encoding::Event, Encoding::OpenEvent];
        let found = all.into_iter().find(|one| encoding::Encoding::from(*one) == number);
        found.expect("nobody reads what is no encoding")
    }
}

/// The encoder of all homes: units of whichever encoding, from raw ones.
#[derive(Clone, Copy, Debug)]
pub struct Dialects;

impl encoding::Encoder for Dialects {
    fn encode(&self, into: encoding::Encoding, stamp: &encoding::Stamp<'_>, unit: &[u8], out: &mut Vec<u8>) {
        let (kind, payload) = message_of(unit).expect("the canonical log has frames");
        let stamp = Stamp {
            topic: stamp.topic.as_str(),
            epoch: stamp.epoch,
            offset: stamp.offset,
            time_ms: stamp.time.0,
            tags: stamp.tags.map(Tags),
        };
        encode(Encoding::of(into), &stamp, kind, payload, out);
    }

    fn encode_welcome(&self, into: encoding::Encoding, topic: &TopicName, text: &str, out: &mut Vec<u8>) {
        match Encoding::of(into) {
            Encoding::Raw => {
                write_frame(Kind::Text, text.len(), out, |out| out.extend_from_slice(text.as_bytes()));
            }
            Encoding::Json => json::write_welcome(topic.as_str(), text, out),
            Encoding::Event | Encoding::OpenEvent => {
                sse::write_open_event(View::Text(text), out);
                sse::write_end(out);
            }
        }
    }

    fn encode_skipped(&self, into: encoding::Encoding, topic: &TopicName, messages: u64, out: &mut Vec<u8>) {
        let notice = Notice::Skipped { topic: topic.as_str(), count: messages };
        match Encoding::of(into) {
            Encoding::Raw => {}
            Encoding::Json => notice.write_frame(out),
            Encoding::Event | Encoding::OpenEvent => {
                sse::write_open_notice(&notice, out);
                sse::write_end(out);
            }
        }
    }
}

/// What a message has got from its topic, and when.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The topic's life.
    pub epoch: Epoch,
    /// The message's number in it.
    pub offset: Offset,
    /// Milliseconds since 1970, as the home's worker saw them.
    pub time_ms: u64,
    /// What the publisher has attached.
    pub tags: Option<Tags<'a>>,
}

/// A place in a topic that a client knows: it has had everything up to `offset`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Since {
    /// The topic's life that the offset belongs to.
    pub epoch: Epoch,
    /// The last message that the client has had.
    pub offset: Offset,
}

/// Tags of a message: a JSON object that has only strings in it, and at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tags<'a>(&'a str);

impl<'a> Tags<'a> {
    /// Checks tags as they come from a publisher. No tags (`{}`, `null`) are `Ok(None)`.
    ///
    /// # Errors
    /// Not JSON, or anything but an object of strings.
    pub fn parse(json: &'a str) -> Result<Option<Tags<'a>>, serde_json::Error> {
        // They are looked at and not kept: the object is embedded as it came.
        let tags: Option<BTreeMap<Text<'_>, Text<'_>>> = serde_json::from_str(json)?;
        Ok(tags.is_some_and(|tags| !tags.is_empty()).then(|| Tags(json.trim_ascii())))
    }

    /// The JSON object.
    pub fn as_json(self) -> &'a str {
        self.0
    }
}

/// Appends a message's unit in `encoding` to `out`. Allocates nothing but what `out` grows by.
///
/// Total: a payload that is called text and is not UTF-8 is encoded as binary.
pub fn encode(encoding: Encoding, stamp: &Stamp<'_>, kind: Kind, payload: &[u8], out: &mut Vec<u8>) {
    match encoding {
        Encoding::Raw => write_frame(kind, payload.len(), out, |out| out.extend_from_slice(payload)),
        Encoding::Json => json::write_envelope(stamp, View::of(kind, payload), out),
        Encoding::Event => {
            sse::write_open_event(View::of(kind, payload), out);
            sse::write_id([Since { epoch: stamp.epoch, offset: stamp.offset }], out);
        }
        Encoding::OpenEvent => sse::write_open_event(View::of(kind, payload), out),
    }
}

/// A message as one JSON value, as the server API shows it.
pub fn json_value(kind: Kind, payload: &[u8]) -> Box<RawValue> {
    let mut json = Vec::with_capacity(payload.len() + 16);
    json::write_value(View::of(kind, payload), &mut json);
    let text = String::from_utf8(json).expect("made of texts");
    RawValue::from_string(text).expect("an object or an array that was checked, or made here")
}

/// The kind and the payload of a unit in [`Encoding::Raw`]; `None` if it is none.
pub fn message_of(unit: &[u8]) -> Option<(Kind, &[u8])> {
    let (opcode, payload) = ws::parse_server_frame(unit)?;
    Some((Kind::of(opcode)?, payload))
}

/// A payload as encoders look at it.
#[derive(Clone, Copy)]
enum View<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

impl<'a> View<'a> {
    fn of(kind: Kind, payload: &'a [u8]) -> View<'a> {
        match kind {
            Kind::Text => simdutf8::basic::from_utf8(payload).map_or(View::Binary(payload), View::Text),
            Kind::Binary => View::Binary(payload),
        }
    }
}

/// A payload that came inside JSON: from the server API or a client of the JSON dialect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// To be published as text.
    Text(Cow<'a, str>),
    /// To be published as binary.
    Binary(Vec<u8>),
}

impl<'a> Content<'a> {
    /// What `data` publishes: a string its characters, any other value its JSON text as it came.
    ///
    /// # Errors
    /// A string that is no Unicode (half a surrogate pair); a value nested deeper than [`NESTING_MAX`].
    pub fn from_data(data: &'a RawValue) -> Result<Content<'a>, ContentError> {
        let text = data.get();
        match text.as_bytes()[0] {
            b'"' => match serde_json::from_str::<Text<'_>>(text) {
                Ok(Text(characters)) => Ok(Content::Text(characters)),
                Err(_) => Err(ContentError::NoUnicode),
            },
            b'{' | b'[' if !is_object_or_array(text.as_bytes()) => Err(ContentError::TooDeep),
            _ => Ok(Content::Text(text.into())),
        }
    }

    /// What `b64data`, or `b64`, publishes: the bytes.
    ///
    /// # Errors
    /// Not base64 (RFC 4648 section 4, with padding).
    pub fn from_base64(text: &str) -> Result<Content<'static>, ContentError> {
        STANDARD.decode(text).map(Content::Binary).map_err(|_| ContentError::NoBase64)
    }

    /// As a session publishes it.
    pub fn message(&self) -> Message<'static> {
        match self {
            Content::Text(characters) => text(characters),
            Content::Binary(bytes) => binary(bytes),
        }
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        match self {
            Content::Text(_) => Kind::Text,
            Content::Binary(_) => Kind::Binary,
        }
    }

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Content::Text(text) => text.as_bytes(),
            Content::Binary(bytes) => bytes,
        }
    }
}

/// Why JSON is no payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentError {
    /// A string with half a surrogate pair.
    NoUnicode,
    /// Deeper than [`NESTING_MAX`].
    TooDeep,
    /// Not base64.
    NoBase64,
}

impl std::fmt::Display for ContentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContentError::NoUnicode => f.write_str("the string of data is no Unicode: half a surrogate pair"),
            ContentError::TooDeep => write!(f, "data is nested deeper than {NESTING_MAX} levels"),
            ContentError::NoBase64 => {
                f.write_str("that is not base64: the alphabet with + and /, and padding with =")
            }
        }
    }
}

impl std::error::Error for ContentError {}

/// A string in JSON, borrowed where nothing in it is escaped.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Appends a frame of one message whose payload `write` appends.
///
/// The header is as long as `expected_len` bytes of payload need; where `write` appends so many more that it takes a
/// longer one, they are moved.
fn write_frame(kind: Kind, expected_len: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let frame_start = out.len();
    let expected_room = ws::server_header_len(expected_len);
    out.reserve(expected_room + expected_len);
    out.resize(frame_start + expected_room, 0);
    write(out);
    let payload_start = frame_start + expected_room;
    let payload_len = out.len() - payload_start;
    let room = ws::server_header_len(payload_len);
    if room > expected_room {
        out.resize(frame_start + room + payload_len, 0);
        out.copy_within(payload_start..payload_start + payload_len, frame_start + room);
    } else if room < expected_room {
        out.copy_within(payload_start.., frame_start + room);
        out.truncate(frame_start + room + payload_len);
    }
    ws::write_header_before(out, frame_start + room, kind.opcode());
}

/// Appends a number in decimal.
fn write_number(number: u64, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &number).expect("a Vec takes everything");
}

/// Appends a JSON string.
fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a Vec takes everything");
}

/// Appends base64 with padding.
fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + base64_len(bytes.len()), 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room is as long as the text");
    debug_assert_eq!(start + written, out.len());
}

/// Characters of so many bytes in base64.
const fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}
