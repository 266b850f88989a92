//! The JSON dialect, `stentor.json`: each message is a text frame of an envelope.
//!
//! `{"topic":"…","epoch":"…","offset":N,"time":MS,"tags":{…},"data":…}`, with `"b64"` instead of `"data"` for binary,
//! and `"tags"` only where there are some. A topic's welcome has `"welcome":true` in the place of its numbers.

use super::{Stamp, View, base64_len, check, write_base64, write_frame, write_number, write_string};
use crate::protocol::ws::Kind;

/// Bytes of an envelope without topic and data, at least.
const AROUND: usize = r#"{"topic":"","epoch":"01234567","offset":1,"time":1700000000000,"b64":""}"#.len();

/// Appends the frame of one message.
pub(super) fn write_envelope(stamp: &Stamp<'_>, payload: View<'_>, out: &mut Vec<u8>) {
    let data_len = match payload {
        View::Text(text) => text.len(),
        View::Binary(bytes) => base64_len(bytes.len()),
    };
    write_frame(Kind::Text, AROUND + stamp.topic.len() + data_len, out, |out| {
        out.extend_from_slice(b"{\"topic\":");
        write_string(stamp.topic, out);
        out.extend_from_slice(b",\"epoch\":\"");
        out.extend_from_slice(&stamp.epoch.text());
        out.extend_from_slice(b"\",\"offset\":");
        write_number(stamp.offset.0, out);
        out.extend_from_slice(b",\"time\":");
        write_number(stamp.time_ms, out);
        if let Some(tags) = stamp.tags {
            out.extend_from_slice(b",\"tags\":");
            out.extend_from_slice(tags.as_json().as_bytes());
        }
        match payload {
            View::Text(text) => write_data(text, out),
            View::Binary(bytes) => {
                out.extend_from_slice(b",\"b64\":\"");
                write_base64(bytes, out);
                out.push(b'"');
            }
        }
        out.push(b'}');
    });
}

/// Appends the frame of a topic's welcome: `{"topic":"…","welcome":true,"data":…}`.
pub(super) fn write_welcome(topic: &str, text: &str, out: &mut Vec<u8>) {
    write_frame(Kind::Text, AROUND + topic.len() + text.len(), out, |out| {
        out.extend_from_slice(b"{\"topic\":");
        write_string(topic, out);
        out.extend_from_slice(b",\"welcome\":true");
        write_data(text, out);
        out.push(b'}');
    });
}

/// Appends a payload as one JSON value: `{"b64":"…"}` where it is binary.
pub(super) fn write_value(payload: View<'_>, out: &mut Vec<u8>) {
    match payload {
        View::Text(text) => write_text(text, out),
        View::Binary(bytes) => {
            out.extend_from_slice(b"{\"b64\":\"");
            write_base64(bytes, out);
            out.extend_from_slice(b"\"}");
        }
    }
}

fn write_data(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"data\":");
    write_text(text, out);
}

/// Appends a text: as it is if that is an object or an array, else as a string.
fn write_text(text: &str, out: &mut Vec<u8>) {
    if check::is_object_or_array(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        write_string(text, out);
    }
}
