//! The whole path of a connection's bytes: request heads, routes, frames, the sessions of `/ws/{topic}` and `/echo`.
//! What is sent and published is what the slow reader finds in the same bytes, cut anywhere; every byte that is sent
//! belongs to a well-formed response or frame, and nothing follows a close.
//!
//! The first byte chooses how the server is configured (2 bits), which of the ready-made requests comes first (3 bits;
//! past them the request is in the bytes, too) and whether there are too many topics (1 bit). The second is the length of
//! the pieces.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use bytes::BytesMut;
use stentor::{
    broker::{encoding, ids::WorkerId},
    config::{Anonymous, Config},
    protocol::{
        http::{BodyReader, HeadLimits, Method, Request, Response, Version, parse_request},
        ws::{
            CloseCode, ControlFrame, Event, Inbox, Limits, OpCode, ProtocolError, Reader, close_frame,
            control_frame,
        },
    },
    session::{
        Answer, Audience, Close, ConnectionId, Context, Error, Handshake, Message, Route, Router, Session,
        Sink, Start, State, TopicName, routes::Routes,
    },
};

use super::reference::{self, Item};

const HEADS: HeadLimits = HeadLimits { head_bytes_max: 2048, headers_max: 24 };
const BODY_BYTES_MAX: usize = 512;
const MESSAGES: Limits = Limits { message_bytes_max: 1 << 16, fragments_max: 16 };

/// Requests that open a WebSocket.
const TARGETS: [&str; 5] = ["/ws/a", "/ws/a/b?echo=off", "/ws/%C3%A4?mode=pub", "/ws/c?mode=sub", "/echo"];

fn ready_made(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Who may come in, in four ways.
fn configurations() -> [Config; 4] {
    let open = Config::default();
    let reachable = Config { open_loopback: false, ..Config::default() };
    [
        Config { anonymous: Anonymous::Subscribe, ..reachable.clone() },
        Config {
            anonymous: Anonymous::Publish,
            allow_origin: vec!["https://*.example.com".into()],
            subprotocols: vec!["chat".into()],
            ..reachable.clone()
        },
        Config { anonymous: Anonymous::None, echo: false, ..reachable },
        open,
    ]
}

fn server(which: usize) -> &'static (Config, Routes) {
    static SERVERS: OnceLock<Vec<(Config, Routes)>> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        let routes = |config: Config| {
            let routes = Routes::new(&config, Box::new(|| "# EOF\n".into())).expect("valid patterns");
            (config, routes)
        };
        configurations().into_iter().map(routes).collect()
    });
    &servers[which]
}

/// What a connection's session commands.
struct Recorder {
    state: State,
    too_many_topics: bool,
    /// Frames to this client, behind the 101.
    sent: Vec<u8>,
    /// Topic, frame, and who gets it.
    published: Vec<(TopicName, Vec<u8>, Audience)>,
    subscribed: Vec<TopicName>,
    closing: Option<ControlFrame>,
}

impl Recorder {
    fn assert_not_closed(&self) {
        assert_ne!(self.state, State::Closing, "nothing is done after a close");
    }
}

fn frame(message: Message<'_>) -> Vec<u8> {
    message.payload.into_frame(message.kind).bytes().to_vec()
}

impl Sink for Recorder {
    fn send(&mut self, message: Message<'_>) {
        self.assert_not_closed();
        self.sent.extend(frame(message));
    }

    fn send_block(&mut self, _block: &[u8]) {
        panic!("nobody is told that its stream begins");
    }

    fn publish(&mut self, topic: &TopicName, message: Message<'_>, to: Audience, _: Option<u32>) {
        self.assert_not_closed();
        self.published.push((topic.clone(), frame(message), to));
    }

    fn subscribe(&mut self, topic: &TopicName) -> TopicName {
        self.assert_not_closed();
        self.subscribed.push(topic.clone());
        topic.clone()
    }

    fn subscribe_from(&mut self, topic: &TopicName, _: encoding::Encoding, _: Start) -> TopicName {
        self.subscribe(topic)
    }

    fn unsubscribe(&mut self, topic: &TopicName) {
        self.subscribed.retain(|other| other != topic);
    }

    fn set_timer(&mut self, _after: Option<Duration>) {}

    fn ping(&mut self, payload: &[u8]) {
        self.assert_not_closed();
        self.sent.extend_from_slice(&control_frame(OpCode::Ping, payload));
    }

    fn close(&mut self, code: CloseCode, reason: &str) {
        self.assert_not_closed();
        self.closing.get_or_insert(close_frame(code, reason));
    }

    fn terminate(&mut self) {
        panic!("no session of the server's own does that");
    }

    fn buffered_amount(&self) -> usize {
        self.sent.len()
    }

    fn connection(&self) -> ConnectionId {
        ConnectionId { worker: WorkerId(0), generation: 0, slot: 0 }
    }

    fn state(&self) -> State {
        self.state
    }
}

/// Where a connection's bytes go.
enum Phase {
    Head,
    Frames,
    /// Nothing is read any more.
    Over,
}

/// A connection as the engine drives it, without the engine.
struct Connection {
    routes: &'static Routes,
    phase: Phase,
    head: Vec<u8>,
    /// A request whose body is not whole yet.
    collecting: Option<(Request, BodyReader)>,
    /// Bytes of all request heads and bodies.
    heads_len: usize,
    responses: Vec<u8>,
    upgraded_by: Option<Request>,
    session: Option<Box<dyn Session>>,
    reader: Reader,
    recorder: Recorder,
}

impl Connection {
    fn run(routes: &'static Routes, too_many_topics: bool, bytes: &[u8], piece: usize) -> Connection {
        let mut connection = Connection {
            routes,
            phase: Phase::Head,
            head: Vec::new(),
            collecting: None,
            heads_len: 0,
            responses: Vec::new(),
            upgraded_by: None,
            session: None,
            reader: Reader::default(),
            recorder: Recorder {
                state: State::Opening,
                too_many_topics,
                sent: Vec::new(),
                published: Vec::new(),
                subscribed: Vec::new(),
                closing: None,
            },
        };
        for piece in bytes.chunks(piece.max(1)) {
            connection.feed(piece);
        }
        connection.recorder.state = State::Closing;
        if let Some(session) = &mut connection.session {
            session.close(&Close { code: CloseCode::ABNORMAL, reason: "", clean: false });
        }
        connection
    }

    fn feed(&mut self, bytes: &[u8]) {
        match self.phase {
            Phase::Head => {
                self.head.extend_from_slice(bytes);
                while matches!(self.phase, Phase::Head) && !self.head.is_empty() {
                    if let Some((request, body)) = self.collecting.take() {
                        self.read_body(request, body);
                        continue;
                    }
                    match parse_request(&self.head, &HEADS) {
                        Ok(None) => return,
                        Ok(Some((request, consumed))) => {
                            self.head.drain(..consumed);
                            self.heads_len += consumed;
                            self.request(&request);
                        }
                        Err(refusal) => self.respond(&Response::from(refusal), None, true),
                    }
                }
                if matches!(self.phase, Phase::Frames) {
                    let rest = std::mem::take(&mut self.head);
                    self.feed_frames(&rest);
                }
            }
            Phase::Frames => self.feed_frames(bytes),
            Phase::Over => {}
        }
    }

    fn request(&mut self, request: &Request) {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        match self.routes.route(request, address) {
            Route::Respond(response) => {
                self.respond(&response, Some(request), !request.keep_alive() || request.has_body());
            }
            Route::Refuse(refusal) => self.respond(&Response::from(refusal), Some(request), true),
            Route::Body => match BodyReader::new(request.framing(), BODY_BYTES_MAX) {
                Ok(body) => self.read_body(request.clone(), body),
                Err(refusal) => self.respond(&Response::from(refusal), Some(request), true),
            },
            Route::Stream { mut session, response } => {
                let handshake = Handshake { request, address, subprotocol: None };
                let opened = session.open(&mut Context::new(&mut self.recorder), &handshake);
                assert!(opened.is_ok() && !self.recorder.subscribed.is_empty());
                self.recorder.subscribed.clear();
                self.responses.extend(response.encode_until_close());
                self.phase = Phase::Over;
            }
            Route::Upgrade { mut session, response, subprotocol } => {
                let handshake = Handshake { request, address, subprotocol: subprotocol.as_deref() };
                if let Err(refusal) = session.open(&mut Context::new(&mut self.recorder), &handshake) {
                    self.recorder.subscribed.clear();
                    self.respond(&Response::from(refusal), Some(request), true);
                    return;
                }
                self.responses.extend(response);
                self.recorder.state = State::Open;
                self.session = Some(session);
                self.upgraded_by = Some(request.clone());
                self.phase = Phase::Frames;
            }
        }
    }

    fn read_body(&mut self, request: Request, mut body: BodyReader) {
        let mut bytes = BytesMut::from(&self.head[..]);
        let read = body.read(&mut bytes);
        let consumed = self.head.len() - bytes.len();
        self.head.drain(..consumed);
        self.heads_len += consumed;
        match read {
            Ok(Some(body)) => {
                assert!(body.len() <= BODY_BYTES_MAX);
                let address = SocketAddr::from(([127, 0, 0, 1], 0));
                let response = match self.routes.respond(&request, body, address) {
                    Answer::Respond(response) => response,
                    Answer::Refuse(refusal) => refusal.into(),
                    Answer::Call(_) => Response::new(200, "application/json", "{}"),
                };
                self.respond(&response, Some(&request), !request.keep_alive());
            }
            Ok(None) => {
                assert!(self.head.is_empty() && body.buffered() <= BODY_BYTES_MAX);
                self.collecting = Some((request, body));
            }
            Err(refusal) => self.respond(&Response::from(refusal), Some(&request), true),
        }
    }

    fn respond(&mut self, response: &Response, request: Option<&Request>, close: bool) {
        let version = request.map_or(Version::Http11, |request| request.version);
        let head_only = request.is_some_and(|request| request.method == Method::Head);
        let bytes = response.encode(version, close, head_only);
        assert!(bytes.starts_with(b"HTTP/1.1 "));
        self.responses.extend(bytes);
        if close {
            self.phase = Phase::Over;
        }
    }

    fn feed_frames(&mut self, bytes: &[u8]) {
        let mut inbox = Inbox::from_buffer(BytesMut::from(bytes), bytes.len());
        while !matches!(self.phase, Phase::Over) {
            let mut reader = std::mem::take(&mut self.reader);
            let next = reader.next(&mut inbox, &MESSAGES);
            let goes_on = matches!(next, Ok(Some(_)));
            match next {
                Ok(Some(event)) => self.event(event),
                Ok(None) => {}
                Err(error) => self.broken(error),
            }
            self.reader = reader;
            if !goes_on {
                return;
            }
        }
    }

    fn event(&mut self, event: Event<'_>) {
        if self.recorder.state == State::Closing {
            if let Event::Close(_) = event {
                self.phase = Phase::Over;
            }
            return;
        }
        match event {
            Event::Message(message) => {
                let published = self.recorder.published.len();
                self.call(|session, context| session.message(context, message).expect("they don't fail"));
                if self.recorder.too_many_topics && self.recorder.published.len() > published {
                    self.call(|session, context| {
                        session.error(context, &Error::TooManyTopics).expect("they don't fail");
                    });
                }
            }
            Event::Ping(payload) => {
                self.recorder.sent.extend_from_slice(&control_frame(OpCode::Pong, payload));
                self.call(|session, context| session.ping(context, payload).expect("they don't fail"));
            }
            Event::Pong(payload) => {
                self.call(|session, context| session.pong(context, payload).expect("they don't fail"));
            }
            Event::Close(frame) => {
                let answer = match frame.code {
                    Some(code) => close_frame(code, ""),
                    None => control_frame(OpCode::Close, &[]),
                };
                self.recorder.sent.extend_from_slice(&answer);
                self.recorder.state = State::Closing;
                self.phase = Phase::Over;
            }
        }
    }

    fn broken(&mut self, error: ProtocolError) {
        if self.recorder.state != State::Closing {
            self.call(|session, context| {
                session.error(context, &Error::Protocol(error)).expect("they don't fail");
            });
        }
        if self.recorder.state != State::Closing {
            self.recorder.sent.extend_from_slice(&close_frame(error.close_code(), &error.to_string()));
            self.recorder.state = State::Closing;
        }
        self.phase = Phase::Over;
    }

    fn call(&mut self, call: impl FnOnce(&mut dyn Session, &mut Context<'_>)) {
        let session = self.session.as_mut().expect("frames come after the upgrade");
        call(&mut **session, &mut Context::new(&mut self.recorder));
        if let Some(close) = self.recorder.closing.take() {
            self.recorder.sent.extend_from_slice(&close);
            self.recorder.state = State::Closing;
        }
    }
}

/// The frames that a server sent, each well-formed (RFC 6455 §5.1, §5.2): whole, unmasked, in as few bytes as it takes.
fn server_frames(mut bytes: &[u8]) -> Vec<Item> {
    let mut items = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(second & 0x80, 0, "a server's frame is not masked");
        let (len, rest) = match *second {
            126 => {
                let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                assert!(len > 125);
                (len, &rest[2..])
            }
            127 => {
                let len = rest[..8].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
                assert!(len > 65_535);
                (len, &rest[8..])
            }
            len => (usize::from(len), rest),
        };
        let payload = rest[..len].to_vec();
        items.push(match *first {
            0x81 => Item::Text(payload),
            0x82 => Item::Binary(payload),
            0x88 if len == 0 => Item::Close(None, String::new()),
            0x88 => {
                let reason = std::str::from_utf8(&payload[2..]).expect("a reason is text");
                Item::Close(Some(u16::from_be_bytes([payload[0], payload[1]])), reason.to_owned())
            }
            0x89 => Item::Ping(payload),
            0x8A => Item::Pong(payload),
            first => panic!("the first byte of a server's frame is {first:#x}"),
        });
        assert!(first & 0x08 == 0 || len <= 125, "a control frame is short");
        bytes = &rest[len..];
    }
    assert!(bytes.is_empty(), "half a header");
    items
}

/// What must have come of a connection's frames: what it was sent (a close without its reason) and what it published.
fn expected(connection: &Connection, config: &Config, request: &Request, bytes: &[u8]) -> [Vec<Item>; 2] {
    let echo = request.path == "/echo";
    let subscribes_only = config.anonymous == Anonymous::Subscribe
        || request.query_value("mode").is_some_and(|mode| mode == "sub");
    let (mut sent, mut published) = (Vec::new(), Vec::new());
    let close = |code| Item::Close(Some(code), String::new());
    for item in reference::read(bytes, MESSAGES.message_bytes_max, MESSAGES.fragments_max) {
        match item {
            message @ (Item::Text(_) | Item::Binary(_)) if echo => sent.push(message),
            Item::Text(_) | Item::Binary(_) if subscribes_only => {
                sent.push(close(1008));
                break;
            }
            message @ (Item::Text(_) | Item::Binary(_)) => {
                published.push(message);
                if connection.recorder.too_many_topics {
                    sent.push(close(1013));
                    break;
                }
            }
            Item::Ping(payload) => sent.push(Item::Pong(payload)),
            Item::Pong(_) => {}
            Item::Close(code, _) => sent.push(Item::Close(code, String::new())),
            Item::Error(error) => sent.push(close(match error {
                "invalid_utf8" | "invalid_close_reason" => 1007,
                "too_many_fragments" => 1008,
                "message_too_big" => 1009,
                _ => 1002,
            })),
        }
    }
    [sent, published]
}

/// Whether a request that was granted has opened the JSON dialect.
fn speaks_json(request: &Request) -> bool {
    match request.query_value("format") {
        _ if request.path == "/echo" => false,
        Some(format) => format == "json",
        None => request.list("sec-websocket-protocol").any(|offered| offered == "stentor.json"),
    }
}

/// See the head of this file.
pub fn session(data: &[u8]) {
    let [how, piece, rest @ ..] = data else { return };
    let (config, routes) = server(usize::from(how & 3));
    let ready = TARGETS.get(usize::from(how >> 2 & 7)).map(|target| ready_made(target));
    let bytes = [ready.unwrap_or_default().as_bytes(), rest].concat();
    let too_many_topics = how & 0x20 != 0;

    let whole = Connection::run(routes, too_many_topics, &bytes, bytes.len());
    let cut = Connection::run(routes, too_many_topics, &bytes, usize::from(*piece));
    assert_eq!(whole.responses, cut.responses);
    assert_eq!(whole.recorder.sent, cut.recorder.sent);
    assert_eq!(whole.recorder.published, cut.recorder.published);

    let Recorder { sent, published, subscribed, .. } = &whole.recorder;
    let Some(request) = &whole.upgraded_by else {
        assert!(sent.is_empty() && published.is_empty() && subscribed.is_empty());
        return;
    };
    let mut frames = server_frames(sent);
    let closes = frames.iter().filter(|frame| matches!(frame, Item::Close(..))).count();
    assert!(closes <= 1);
    if let Some(Item::Close(_, reason)) = frames.last_mut() {
        reason.clear();
    }
    if speaks_json(request) {
        // What commands do is for the tests of the dialect.
        assert!(frames.iter().all(|frame| !matches!(frame, Item::Binary(_))));
        return;
    }
    let messages =
        server_frames(&published.iter().flat_map(|(_, frame, _)| frame.clone()).collect::<Vec<_>>());
    assert_eq!([frames, messages], expected(&whole, config, request, &bytes[whole.heads_len..]));

    let to = if request.query_value("echo").is_some_and(|echo| echo == "off") {
        Audience::Others
    } else {
        Audience::All
    };
    assert!(published.iter().all(|(topic, _, audience)| {
        *audience == to && subscribed.first().is_none_or(|subscribed| subscribed == topic)
    }));
    let publishes_only = request.query_value("mode").is_some_and(|mode| mode == "pub");
    assert_eq!(subscribed.len(), usize::from(request.path != "/echo" && !publishes_only));
}
