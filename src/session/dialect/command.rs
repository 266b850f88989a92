//! What a client of the JSON dialect may send.
//!
//! ```text
//!   {"subscribe":"t", "since":N, "epoch":"…", "history":N}    ─▶ {"subscribed":"t",…} and messages | {"error":…,"topic":"t"}
//!   {"unsubscribe":"t"}                                       ─▶ {"unsubscribed":"t"}, in any case
//!   {"publish":"t", "data":… | "b64":"…", "id":…}             ─▶ {"published":"t",…,"id":…} | {"error":…,"id":…}; without an id, errors alone
//!   {"ping":…}                                                ─▶ {"pong":…}
//! ```
//!
//! One command per text message. What can't be understood as a whole is refused as a whole, and nothing else is hurt.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Content, ErrorCode, Notice, Since, is_object_or_array};
use crate::broker::{
    ids::{Epoch, Offset},
    name::TopicName,
};

/// The longest `id`, or value of a ping, in bytes of JSON.
pub const ID_BYTES_MAX: usize = 256;

/// The longest name that is sent back beside an error, in bytes of JSON: some more than a topic's may have.
const TOPIC_BYTES_MAX: usize = 1024;

/// The longest text that says what is wrong, in bytes: it may quote the client.
const MESSAGE_BYTES_MAX: usize = 200;

/// A command.
#[derive(Debug)]
pub enum Command<'a> {
    /// Subscribe to a topic.
    Subscribe {
        /// The topic.
        topic: TopicName,
        /// Where to go on.
        since: Option<Since>,
        /// How many of the newest messages come first, where there is no `since` or it can't be recovered.
        history: u64,
    },
    /// End a subscription.
    Unsubscribe {
        /// The topic.
        topic: TopicName,
    },
    /// Publish a message.
    Publish {
        /// The topic.
        topic: TopicName,
        /// The payload.
        content: Content<'a>,
        /// What the client calls it. Without one it wants no answer but an error.
        id: Option<&'a RawValue>,
    },
    /// Answer with the same value.
    Ping {
        /// Whatever the client likes.
        value: &'a RawValue,
    },
}

/// Why a command was refused. [`CommandError::notice`] is what the client gets.
#[derive(Debug)]
pub struct CommandError<'a> {
    /// What to do about it.
    pub message: String,
    /// The topic, if the command was to subscribe.
    pub topic: Option<Cow<'a, str>>,
    /// What the client called the command, if that could be read.
    pub id: Option<&'a RawValue>,
}

impl CommandError<'_> {
    /// What the client is told.
    pub fn notice(&self) -> Notice<'_> {
        Notice::Error {
            code: ErrorCode::BadRequest,
            message: &self.message,
            topic: self.topic.as_deref(),
            id: self.id,
        }
    }
}

/// A command as it comes. `Some` of a [`RawValue`] may be `null`: that is a value, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a command, which is a JSON object")]
struct Fields<'a> {
    #[serde(borrow, default)]
    subscribe: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    unsubscribe: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    publish: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "some_value")]
    ping: Option<&'a RawValue>,
    #[serde(default)]
    since: Option<u64>,
    #[serde(borrow, default)]
    epoch: Option<Cow<'a, str>>,
    #[serde(default)]
    history: Option<u64>,
    #[serde(borrow, default, deserialize_with = "some_value")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    b64: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "some_value")]
    id: Option<&'a RawValue>,
}

fn some_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What says whose command was refused, whatever else is wrong with it.
#[derive(Deserialize, Default)]
struct Whose<'a> {
    #[serde(borrow, default, deserialize_with = "some_value")]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "some_value")]
    id: Option<&'a RawValue>,
}

impl<'a> Command<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// Says what is wrong with it, and whose it was as far as that can be read.
    pub fn parse(json: &'a [u8]) -> Result<Command<'a>, CommandError<'a>> {
        // An array of all fields in their order would be taken for them.
        let is_array = json.trim_ascii_start().starts_with(b"[");
        let understood = match serde_json::from_slice::<Fields<'a>>(json) {
            _ if is_array => Err("a command is a JSON object".to_owned()),
            Ok(fields) => fields.command(),
            Err(error) => Err(error.to_string()),
        };
        understood.map_err(|message| {
            let whose: Whose<'a> =
                if is_array { Whose::default() } else { serde_json::from_slice(json).unwrap_or_default() };
            CommandError {
                message: cut(message),
                topic: whose
                    .subscribe
                    .filter(|topic| topic.get().len() <= TOPIC_BYTES_MAX)
                    .and_then(|topic| serde_json::from_str(topic.get()).ok()),
                id: whose.id.filter(|id| is_small(id)),
            }
        })
    }
}

impl<'a> Fields<'a> {
    fn command(self) -> Result<Command<'a>, String> {
        let foreign = |fields: &[(&str, bool)]| match fields.iter().find(|(_, is_there)| *is_there) {
            Some((name, _)) => Err(format!("{name} does not belong to this command")),
            None => Ok(()),
        };
        let of_subscribe = [
            ("since", self.since.is_some()),
            ("epoch", self.epoch.is_some()),
            ("history", self.history.is_some()),
        ];
        let of_publish =
            [("data", self.data.is_some()), ("b64", self.b64.is_some()), ("id", self.id.is_some())];
        match (self.subscribe, self.unsubscribe, self.publish, self.ping) {
            (Some(topic), None, None, None) => {
                foreign(&of_publish)?;
                let since = match (self.since, self.epoch) {
                    (None, None) => None,
                    (Some(offset), Some(epoch)) => Some(Since {
                        offset: Offset(offset),
                        epoch: Epoch::parse(epoch.as_bytes()).ok_or("that is no epoch of this server")?,
                    }),
                    _ => return Err("since and epoch go together: both as they came with a message".into()),
                };
                Ok(Command::Subscribe { topic: name(&topic)?, since, history: self.history.unwrap_or(0) })
            }
            (None, Some(topic), None, None) => {
                foreign(&of_subscribe)?;
                foreign(&of_publish)?;
                Ok(Command::Unsubscribe { topic: name(&topic)? })
            }
            (None, None, Some(topic), None) => {
                foreign(&of_subscribe)?;
                let content = match (self.data, self.b64) {
                    (Some(data), None) => Content::from_data(data),
                    (None, Some(text)) => Content::from_base64(&text),
                    _ => return Err("publish takes either data or b64".into()),
                };
                let content = content.map_err(|error| error.to_string())?;
                if self.id.is_some_and(|id| !is_small(id)) {
                    return Err(too_large("id"));
                }
                Ok(Command::Publish { topic: name(&topic)?, content, id: self.id })
            }
            (None, None, None, Some(value)) => {
                foreign(&of_subscribe)?;
                foreign(&of_publish)?;
                if is_small(value) {
                    Ok(Command::Ping { value })
                } else {
                    Err(too_large("the value of ping"))
                }
            }
            _ => Err("a command has one of subscribe, unsubscribe, publish, ping".into()),
        }
    }
}

fn name(topic: &str) -> Result<TopicName, String> {
    TopicName::parse(topic).map_err(|error| error.to_string())
}

/// What is sent back must be small, and nested no deeper than what anybody can read.
fn is_small(value: &RawValue) -> bool {
    let text = value.get();
    text.len() <= ID_BYTES_MAX && (!text.starts_with(['{', '[']) || is_object_or_array(text.as_bytes()))
}

fn too_large(what: &str) -> String {
    format!("{what} has at most {ID_BYTES_MAX} bytes, and is not nested deeply")
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let boundary = (0..=MESSAGE_BYTES_MAX).rev().find(|&at| message.is_char_boundary(at));
        message.truncate(boundary.expect("0 is one"));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Command<'_> {
        Command::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error:?}"))
    }

    fn refused(json: &str) -> String {
        let error = Command::parse(json.as_bytes()).expect_err(json);
        let mut out = Vec::new();
        error.notice().write_json(&mut out);
        assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok(), "{json}");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn subscribe() {
        assert!(matches!(
            parse(r#"{"subscribe":"a\/б"}"#),
            Command::Subscribe { topic, since: None, history: 0 } if topic.as_str() == "a/б"
        ));
        let Command::Subscribe { since, history, .. } =
            parse(r#" {"epoch":"z1000000","since":18446744073709551615,"history":9,"subscribe":"a"} "#)
        else {
            panic!("not a subscribe");
        };
        let expected = Since { epoch: Epoch(71), offset: Offset(u64::MAX) };
        assert_eq!((since, history), (Some(expected), 9));
    }

    #[test]
    fn unsubscribe() {
        assert!(
            matches!(parse(r#"{"unsubscribe":"a"}"#), Command::Unsubscribe { topic } if topic.as_str() == "a")
        );
    }

    #[test]
    fn publish() {
        for (fields, kind, payload, id) in [
            (r#""data":"text""#, "text", &b"text"[..], None),
            (r#""data":"\u0410\n","id":7"#, "text", "А\n".as_bytes(), Some("7")),
            (r#""data": {"a": [1 , 2]} ,"id":null"#, "text", br#"{"a": [1 , 2]}"#, Some("null")),
            (r#""data":null"#, "text", b"null", None),
            (r#""data":1e400"#, "text", b"1e400", None),
            (r#""data":"","id":{"a":[]}"#, "text", b"", Some(r#"{"a":[]}"#)),
            (r#""b64":"AP8=","id":"x""#, "binary", b"\0\xff", Some(r#""x""#)),
            (r#""b64":"""#, "binary", b"", None),
        ] {
            let json = format!(r#"{{"publish":"t",{fields}}}"#);
            let Command::Publish { topic, content, id: got } = parse(&json) else { panic!("{json}") };
            assert_eq!(topic.as_str(), "t");
            assert_eq!(
                (format!("{:?}", content.kind()).to_lowercase(), content.bytes()),
                (kind.into(), payload)
            );
            assert_eq!(got.map(RawValue::get), id, "{json}");
        }
    }

    #[test]
    fn ping() {
        assert!(matches!(parse(r#"{"ping":[1]}"#), Command::Ping { value } if value.get() == "[1]"));
        assert!(matches!(parse(r#"{"ping":null}"#), Command::Ping { value } if value.get() == "null"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let deep =
            |key: &str| format!(r#"{{"publish":"t","{key}":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        let long_id = format!(r#"{{"publish":"t","data":1,"id":"{}"}}"#, "x".repeat(300));
        let long_name = format!(r#"{{"subscribe":"{}"}}"#, "x".repeat(300));
        let mut wrong = Vec::new();
        for (json, expected) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("\u{feff}{}", "expected value"),
            ("[]", "a command is a JSON object"),
            (r#" ["t",null,null,null,null,null,null,null,null,null]"#, "a command is a JSON object"),
            ("7", "a command, which is a JSON object"),
            ("{}", "one of subscribe"),
            ("{} {}", "trailing"),
            (r#"{"subscribe":null}"#, "one of subscribe"),
            (r#"{"subscribe":"a","unsubscribe":"b"}"#, "one of subscribe"),
            (r#"{"subscribe":"a","subscribe":"b"}"#, "duplicate field"),
            (r#"{"subscribe":"a","color":1}"#, "unknown field"),
            (r#"{"subscribe":7}"#, "invalid type"),
            (r#"{"subscribe":""}"#, "empty"),
            (r#"{"subscribe":"a*"}"#, "'*'"),
            (r#"{"subscribe":"\ud800"}"#, "hex escape"),
            (r#"{"subscribe":"a","since":1}"#, "go together"),
            (r#"{"subscribe":"a","epoch":"00000000"}"#, "go together"),
            (r#"{"subscribe":"a","since":1,"epoch":"x"}"#, "no epoch"),
            (r#"{"subscribe":"a","since":-1,"epoch":"00000000"}"#, "invalid value"),
            (r#"{"subscribe":"a","since":1.5,"epoch":"00000000"}"#, "invalid type"),
            (r#"{"subscribe":"a","since":18446744073709551616,"epoch":"00000000"}"#, "invalid type"),
            (r#"{"subscribe":"a","since":1e999,"epoch":"00000000"}"#, "out of range"),
            (r#"{"subscribe":"a","since":"1","epoch":"00000000"}"#, "invalid type"),
            (r#"{"subscribe":"a","history":99999999999999999999}"#, "invalid type"),
            (r#"{"subscribe":"a","data":1}"#, "data does not belong"),
            (r#"{"unsubscribe":"a","history":1}"#, "history does not belong"),
            (r#"{"publish":"a"}"#, "either data or b64"),
            (r#"{"publish":"a","data":1,"b64":""}"#, "either data or b64"),
            (r#"{"publish":"a","data":"\udc00"}"#, "surrogate"),
            (r#"{"publish":"a","b64":"A"}"#, "not base64"),
            (r#"{"publish":"a","b64":"AP8"}"#, "not base64"),
            (r#"{"publish":"a","b64":7}"#, "invalid type"),
            (r#"{"publish":"a","data":1,"since":1}"#, "since does not belong"),
            (r#"{"ping":1,"id":1}"#, "id does not belong"),
            (&deep("data"), "nested deeper"),
            (&deep("id"), "either data or b64"),
            (&deep("x"), "unknown field"),
            (&long_id, "at most 256 bytes"),
            (&long_name, "at most 255 are allowed"),
        ] {
            let message = refused(json);
            if !message.contains(expected) || message.len() > 700 {
                wrong.push(format!("{json}: {message}, not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn an_error_says_whose_it_is() {
        assert!(refused(r#"{"subscribe":"a","color":1}"#).ends_with(r#","topic":"a"}"#));
        assert!(refused(r#"{"publish":"a","id":[7]}"#).ends_with(r#","id":[7]}"#));
        assert!(refused(r#"{"publish":"a","color":{"id":1},"id":"x"}"#).ends_with(r#","id":"x"}"#));
        let long = format!(r#"{{"publish":"a","id":"{}"}}"#, "x".repeat(300));
        assert!(refused(&long).ends_with("b64\"}}"), "a long id is not sent back");
        let long = format!(r#"{{"subscribe":"{}"}}"#, "x".repeat(10_000));
        assert!(refused(&long).len() < 200, "nor is a long name");
        let long = format!(r#"{{"{}":1}}"#, "ж".repeat(1000));
        assert!(refused(&long).len() < 300, "an error quotes little");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Command::parse(&bytes);
        }

        #[test]
        fn what_is_nearly_a_command_is_read_or_refused_with_json(
            json in r#"\{("(subscribe|unsubscribe|publish|ping|since|epoch|history|data|b64|id|x)":("a"|1|-1|null|\[\]|"00000000"|"AA=="),?){0,4}\}"#
        ) {
            if let Err(error) = Command::parse(json.as_bytes()) {
                let mut out = Vec::new();
                error.notice().write_json(&mut out);
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }
}
