//! How to speak to a server that this tool knows nothing about: flags, and what they amount to.
//!
//! Owns the flags by which a server is described beside its URL. `template` fills in topics and payloads,
//! `greeting` is what is said before a connection is ready, `answers` are heartbeats above WebSocket's own, `text`
//! finds payloads in whatever a server wraps around them. The bytes that go to one topic are made up once.

pub(crate) mod answers;
pub(crate) mod greeting;
pub(crate) mod template;
pub(crate) mod text;

use clap::{Args, ValueEnum};

use self::answers::Answer;
use self::greeting::Script;
use self::template::{Template, Wrap, parse_query};
use crate::failure::Failure;
use crate::stamp::PayloadKind;
use crate::url::Url;
use crate::wire::Opcode;

/// Flags of every upgrade.
#[derive(Args, Clone, Debug)]
pub(crate) struct AddressArgs {
    /// What {topic} becomes in URLs, queries and messages: NAME, or NAME0, NAME1, … with several topics
    #[arg(long, value_name = "NAME", default_value = "bench", value_parser = parse_topic_name)]
    topic_name: String,
    /// Subprotocol to offer (Sec-WebSocket-Protocol)
    #[arg(long, value_name = "NAME", value_parser = parse_token)]
    pub(crate) subprotocol: Option<String>,
    /// Header to send with every upgrade: 'Name: value'; may be repeated
    #[arg(long, value_name = "HEADER", value_parser = parse_header)]
    pub(crate) header: Vec<String>,
}

impl AddressArgs {
    /// Topic `index` of `topics`.
    pub(crate) fn topic(&self, index: usize, topics: usize) -> Topic {
        if topics > 1 {
            Topic { name: format!("{}{index}", self.topic_name), segment: Some(index as u64) }
        } else {
            Topic { name: self.topic_name.clone(), segment: None }
        }
    }
}

/// One topic, and how a server is told which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// What `{topic}` becomes.
    pub(crate) name: String,
    /// The path segment that tells several topics apart where `{topic}` stands nowhere.
    segment: Option<u64>,
}

impl Topic {
    /// The same, named in one of these templates if `{topic}` stands there: then paths are left alone.
    fn named_in<'a>(mut self, templates: impl IntoIterator<Item = &'a Template>) -> Self {
        if templates.into_iter().any(Template::names_topic) {
            self.segment = None;
        }
        self
    }

    /// What to ask `url` for, with `query` added.
    pub(crate) fn request_target(&self, url: &Url, query: &str) -> String {
        let target = url.target(None, query);
        if target.contains("{topic}") {
            target.replace("{topic}", &self.name)
        } else {
            url.target(self.segment, query)
        }
    }
}

/// Flags of connections that subscribe.
#[derive(Args, Clone, Debug)]
pub(crate) struct DialectArgs {
    /// Query that makes a connection subscribe only; {topic} may stand in it
    #[arg(long, value_name = "QUERY", default_value = "mode=sub", value_parser = parse_query)]
    pub(crate) subscriber_query: String,
    /// Text message that a subscriber sends after the upgrade; {topic} may stand in it, and \r \n \t \\ \xHH. May be
    /// repeated: they are sent in this order
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::message)]
    subscribe_message: Vec<Template>,
    /// All subscribe messages but the first wait for a message that contains this text
    #[arg(long, value_name = "TEXT", value_parser = Template::message, requires = "subscribe_message")]
    subscribe_after: Option<Template>,
    /// A subscriber is ready when a message that contains this text has come [default: with its upgrade]
    #[arg(long, value_name = "TEXT", value_parser = Template::message)]
    ready_message: Option<Template>,
    /// Answer a message, or a line of one, that is RECEIVED with a text message SENT: 2=3, {}={}; may be repeated
    #[arg(long, value_name = "RECEIVED=SENT", value_parser = Answer::parse)]
    pub(crate) answer: Vec<Answer>,
}

impl DialectArgs {
    /// What a subscriber of `topic` asks `url` for …
    pub(crate) fn request_target(&self, url: &Url, topic: Topic) -> String {
        topic.named_in(&self.subscribe_message).request_target(url, &self.subscriber_query)
    }

    /// … and what it says then and waits for.
    pub(crate) fn script(&self, topic: &str) -> Script {
        let render = |template: &Template| template.render(topic);
        Script {
            messages: self.subscribe_message.iter().map(render).collect(),
            after: self.subscribe_after.as_ref().map(render),
            ready: self.ready_message.as_ref().map(render),
        }
    }
}

/// Flags of connections that publish, and of what they publish.
#[derive(Args, Clone, Debug)]
pub(crate) struct PublishArgs {
    /// Query that makes a connection publish only; {topic} may stand in it [default: mode=pub, none with
    /// --publisher-url or --publish-http]
    #[arg(long, value_name = "QUERY", value_parser = parse_query)]
    publisher_query: Option<String>,
    /// Where publishers connect, if not to --url
    #[arg(long, value_name = "URL", conflicts_with = "publish_http")]
    pub(crate) publisher_url: Option<String>,
    /// Text message that a publisher sends after the upgrade, like --subscribe-message; may be repeated
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::message, conflicts_with = "publish_http")]
    publisher_message: Vec<Template>,
    /// A publisher is ready when a message that contains this text has come [default: with its upgrade]
    #[arg(long, value_name = "TEXT", value_parser = Template::message, conflicts_with = "publish_http")]
    publisher_ready_message: Option<Template>,
    /// What payloads are: binary at the front of the message that arrives, or text that lies anywhere in it
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    pub(crate) payload: PayloadKind,
    /// What is sent for each payload: {payload} stands in it once, {payload_bytes} and {topic} may [default: the
    /// payload alone]
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::publication)]
    pub(crate) publish_template: Option<Template>,
    /// Opcode of the messages that publish [default: as the payload is]
    #[arg(long, value_name = "OPCODE", value_enum, conflicts_with = "publish_http")]
    publish_opcode: Option<PublishOpcode>,
    /// Publish by HTTP POST to this http:// URL, one request under way per publisher; {topic} may stand in it
    #[arg(long, value_name = "URL")]
    pub(crate) publish_http: Option<String>,
    /// Header of each POST: 'Name: value', {topic} may stand in it; may be repeated
    #[arg(long, value_name = "HEADER", value_parser = parse_topic_header, requires = "publish_http")]
    pub(crate) publish_header: Vec<String>,
    /// Publish to Pusher's HTTP API at --publish-http (the server alone: http://host:port), signed
    #[arg(long, value_name = "APP_ID:KEY:SECRET", requires = "publish_http")]
    pub(crate) publish_pusher: Option<String>,
}

/// `--publish-opcode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PublishOpcode {
    /// Opcode 2
    Binary,
    /// Opcode 1
    Text,
}

impl PublishArgs {
    /// Checks what clap cannot.
    pub(crate) fn check(&self, payload_bytes: usize) -> Result<(), Failure> {
        let is_text = matches!(self.publish_opcode, Some(PublishOpcode::Text));
        if is_text && self.payload == PayloadKind::Binary {
            let why = "--publish-opcode text needs --payload text: binary payloads are not UTF-8";
            return Err(Failure::Usage(why.into()));
        }
        if self.payload == PayloadKind::Text && payload_bytes < text::TEXT_BYTES_MIN {
            return Err(Failure::Usage(format!(
                "--payload-bytes {payload_bytes}: a text payload has at least {} bytes",
                text::TEXT_BYTES_MIN
            )));
        }
        Ok(())
    }

    /// What a publisher of `topic` asks `url` for …
    pub(crate) fn request_target(&self, url: &Url, topic: Topic) -> String {
        let elsewhere = self.publisher_url.is_some() || self.publish_http.is_some();
        let default = if elsewhere { "" } else { "mode=pub" };
        let query = self.publisher_query.as_deref().unwrap_or(default);
        topic.named_in(self.publisher_message.iter().chain(&self.publish_template)).request_target(url, query)
    }

    /// … and what it says then and waits for.
    pub(crate) fn script(&self, topic: &str) -> Script {
        let render = |template: &Template| template.render(topic);
        Script {
            messages: self.publisher_message.iter().map(render).collect(),
            after: None,
            ready: self.publisher_ready_message.as_ref().map(render),
        }
    }

    /// What stands around each payload for `topic`.
    pub(crate) fn wrap(&self, topic: &str, payload_bytes: usize) -> Wrap {
        self.publish_template
            .as_ref()
            .map_or_else(Wrap::default, |template| template.wrap(topic, payload_bytes))
    }

    /// Opcode of the messages that publish.
    pub(crate) fn opcode(&self) -> Opcode {
        match (self.publish_opcode, self.payload) {
            (Some(PublishOpcode::Binary), _) | (None, PayloadKind::Binary) => Opcode::Binary,
            (Some(PublishOpcode::Text), _) | (None, PayloadKind::Text) => Opcode::Text,
        }
    }
}

fn parse_topic_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\?#{}".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("write ASCII without spaces, quotes, braces, backslashes, ? and #".into())
    }
}

fn parse_token(text: &str) -> Result<String, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') {
        Ok(text.into())
    } else {
        Err("write one name, without spaces and commas".into())
    }
}

fn parse_header(text: &str) -> Result<String, String> {
    let name = text.split_once(':').map_or("", |(name, _)| name);
    if name.is_empty() || name.contains(' ') || text.contains(['\r', '\n']) {
        return Err("write 'Name: value'".into());
    }
    Ok(text.into())
}

fn parse_topic_header(text: &str) -> Result<String, String> {
    template::check_address(text).and_then(|()| parse_header(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_topics_stand() {
        let args =
            |name: &str| AddressArgs { topic_name: name.into(), subprotocol: None, header: Vec::new() };
        let url = |text: &str| Url::parse(text).unwrap();
        let target = |text: &str, query: &str, index, topics| {
            args("bench").topic(index, topics).request_target(&url(text), query)
        };
        assert_eq!(target("ws://h/ws", "mode=sub", 0, 1), "/ws?mode=sub");
        assert_eq!(target("ws://h/ws", "mode=sub", 2, 3), "/ws/2?mode=sub");
        assert_eq!(target("ws://h/{topic}/x?t={topic}", "", 0, 1), "/bench/x?t=bench");
        assert_eq!(target("ws://h/ws", "id={topic}", 2, 3), "/ws?id=bench2");
        let named = [Template::message("join {topic}").unwrap()];
        assert_eq!(args("b").topic(2, 3).named_in(&named).request_target(&url("ws://h/ws"), ""), "/ws");
        for bad in ["", "a b", "a\"", "a{b}", "ü"] {
            assert!(parse_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_have_a_name() {
        assert_eq!(parse_header("X-Key: a {b}").as_deref(), Ok("X-Key: a {b}"));
        assert_eq!(parse_topic_header("X-Topic: {topic}").as_deref(), Ok("X-Topic: {topic}"));
        assert!(parse_topic_header("a: {b}").is_err());
        for bad in ["", "x", ": y", "a b: c", "a: b\nc: d"] {
            assert!(parse_header(bad).is_err() && parse_topic_header(bad).is_err(), "{bad}");
        }
    }
}
