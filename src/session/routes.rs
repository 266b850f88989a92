//! Which request gets what: the server's own routes.
//!
//! | where | what |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /health`, `GET /metrics` | liveness; Prometheus text |
//! | `/ws/{topic}` (upgrade) | the raw dialect; with `?format=json`, or the subprotocol `stentor.json`, the JSON dialect |
//! | `/ws` (upgrade) | the JSON dialect, with topics by `?topic=` and by commands |
//! | `GET /sse/{topic}`, `/sse` | Server-Sent Events, with further topics by `?topic=` |
//! | `GET /client.js` | a client for browsers and Node |
//! | `/echo` (upgrade) | echo |
//! | `POST /api/{method}` | the server API |
//!
//! Here it is decided what anonymous clients may do; `admission` knows `Host` and `Origin`.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    Answer, Audience, Epoch, Offset, Refusal, Request, Route, Router, TopicName,
    admission::Admission,
    api::{self, Call, Rejection, keys::ApiKeys},
    dialect::{
        Since,
        sse::{CONTENT_TYPE, POSITIONS_MAX, parse_last_event_id},
    },
    echo::Echo,
    json::{self, Json},
    page,
    raw::{Mode, Raw},
    sse::Sse,
};
use crate::{
    config::{Anonymous, Config},
    protocol::{
        http::{InvalidOriginPattern, Method, Response, decode_segments},
        ws,
    },
};

/// Composes the text of `/metrics`.
pub type MetricsText = Box<dyn Fn() -> String + Send + Sync>;

/// The server's routes.
pub struct Routes {
    anonymous: Anonymous,
    echo: bool,
    subscriptions_max: usize,
    admission: Admission,
    api_keys: ApiKeys,
    metrics: MetricsText,
}

impl Routes {
    /// Routes as `config` has them.
    ///
    /// # Errors
    /// A pattern of `--allow-origin` that can't be read.
    pub fn new(config: &Config, metrics: MetricsText) -> Result<Routes, InvalidOriginPattern> {
        Ok(Routes {
            anonymous: config.anonymous,
            echo: config.echo,
            subscriptions_max: config.max_subscriptions,
            admission: Admission::new(config)?,
            api_keys: ApiKeys::new(config),
            metrics,
        })
    }

    fn answer(&self, request: &Request) -> Result<Route, Refusal> {
        if request.path.starts_with(API) {
            self.admission.check_host(request)?;
            self.api_keys.check(request)?;
            return api_method(request).map(|_| Route::Body);
        }
        if request.has_body() {
            return Err(Refusal::content_too_large("body", "no route here takes a request body: send none"));
        }
        self.admission.check_host(request)?;
        let known = ["/echo", "/ws"].contains(&request.path.as_str()) || request.path.starts_with("/ws/");
        if !known && ws::is_upgrade(request) {
            return Err(Refusal::not_found("no_route", "no WebSocket is here: connect to /ws/TOPIC"));
        }
        match request.path.as_str() {
            "/" => get(request, page::response),
            "/health" => get(request, || Response::new(200, TEXT, "ok\n")),
            "/metrics" => get(request, || Response::new(200, page::METRICS_TYPE, (self.metrics)())),
            "/client.js" => get(request, || Response::new(200, SCRIPT, json::CLIENT_SCRIPT)),
            "/ws" => self.socket(request, None),
            "/sse" => self.events(request, None),
            "/echo" if self.echo => {
                let upgrade = self.admission.check_upgrade(request)?;
                Ok(self.admission.open(&upgrade, Box::new(Echo)))
            }
            "/echo" => Err(Refusal::not_found("echo_off", "/echo is off on this server: --echo turns it on")),
            path => match (path.strip_prefix("/ws/"), path.strip_prefix("/sse/")) {
                (Some(rest), _) => self.socket(request, Some(rest)),
                (_, Some(rest)) => self.events(request, Some(rest)),
                _ => Err(Refusal::not_found(
                    "no_route",
                    "nothing is here: try / (a page), /ws/TOPIC (WebSocket), /sse/TOPIC (events), /client.js, /health or \
                     /metrics",
                )),
            },
        }
    }

    /// `/sse/{topic}` and `/sse`: an event stream, or what a browser asks before it lets a page of another origin ask for one.
    fn events(&self, request: &Request, rest: Option<&str>) -> Result<Route, Refusal> {
        let readable = self.admission.check_page(request)?;
        let route = match request.method {
            Method::Get | Method::Head => self.stream(request, rest),
            Method::Options => Ok(Route::Respond(preflight())),
            _ => {
                let hint = "an event stream is asked for with GET";
                Err(Refusal::method_not_allowed("method", hint, "GET, HEAD, OPTIONS"))
            }
        };
        // The page may see why it is refused, too.
        match route {
            Ok(Route::Stream { session, mut response }) => {
                response.headers.extend(readable);
                Ok(Route::Stream { session, response })
            }
            Ok(Route::Respond(mut response)) => {
                response.headers.extend(readable);
                Ok(Route::Respond(response))
            }
            Err(mut refusal) => {
                refusal.headers.extend(readable);
                Err(refusal)
            }
            other => other,
        }
    }

    fn stream(&self, request: &Request, rest: Option<&str>) -> Result<Route, Refusal> {
        self.mode(Some("sub"))?;
        if !accepts_events(request) {
            return Err(Refusal::new(406, "not_acceptable", "only text/event-stream is to be had here"));
        }
        let topics = topics(request, rest)?;
        if topics.is_empty() {
            return Err(Refusal::bad_request("query", "no topic: ask for /sse/TOPIC or /sse?topic=TOPIC"));
        }
        if topics.len() > self.subscriptions_max {
            let hint = "more topics than one connection may have (--max-subscriptions)";
            return Err(Refusal::forbidden("subscribe", hint));
        }
        if topics.len() > POSITIONS_MAX {
            let hint = format!("one stream has {POSITIONS_MAX} topics at most");
            return Err(Refusal::bad_request("query", hint));
        }
        let history = number(request, "history")?.unwrap_or(0);
        let since = since(request)?;
        if since.is_some() && topics.len() != 1 {
            let hint = "?since= and ?epoch= are one topic's: resume several by the id of their last event";
            return Err(Refusal::bad_request("query", hint));
        }
        let places: Vec<Option<Since>> = match last_event_id(request) {
            // It says more than the address that the client began with.
            Some(id) => match parse_last_event_id(id.as_bytes()) {
                Ok(places) if places.len() == topics.len() => places.into_iter().map(Some).collect(),
                // An error would end an EventSource for good. It is told that nothing was recovered.
                _ => vec![None; topics.len()],
            },
            None => vec![since; topics.len()],
        };
        let starts = places.into_iter().map(|place| json::start(place, history));
        let response = Response::new(200, CONTENT_TYPE, "")
            .with_header("Cache-Control", "no-store, no-transform")
            .with_header("X-Accel-Buffering", "no");
        Ok(Route::Stream { session: Box::new(Sse::new(topics.into_iter().zip(starts))), response })
    }

    /// `/ws/{topic}` and `/ws`, in both dialects.
    fn socket(&self, request: &Request, rest: Option<&str>) -> Result<Route, Refusal> {
        let upgrade = self.admission.check_upgrade(request)?;
        let topic = match rest {
            Some(rest) => Some(TopicName::parse(&decode_segments(rest)?.join("/"))?),
            None => None,
        };
        let mode = self.mode(request.query_value("mode").as_deref())?;
        let audience = match request.query_value("echo").as_deref() {
            None | Some("on") => Audience::All,
            Some("off") => Audience::Others,
            Some(_) => return Err(Refusal::bad_request("query", "?echo= is on or off")),
        };
        let history = number(request, "history")?.unwrap_or(0);
        let offers = |name: &str| upgrade.subprotocols.iter().any(|offered| offered == name);
        let is_json = match request.query_value("format").as_deref() {
            None => offers(json::SUBPROTOCOL),
            Some("json") => true,
            Some("raw") => false,
            Some(_) => return Err(Refusal::bad_request("query", "?format= is raw or json")),
        };
        if is_json {
            let since = since(request)?;
            let named = request.query_pairs().filter(|(key, _)| key == "topic");
            let more: Vec<TopicName> =
                named.map(|(_, name)| TopicName::parse(&name)).collect::<Result<_, _>>()?;
            let topics: Vec<TopicName> = topic.into_iter().chain(more).collect();
            if since.is_some() && topics.len() != 1 {
                let hint =
                    "?since= and ?epoch= are one topic's: resume several by commands, each with its own";
                return Err(Refusal::bad_request("query", hint));
            }
            let asked = topics.into_iter().map(|topic| (topic, json::start(since, history))).collect();
            let session = Json::new(asked, mode, audience, self.subscriptions_max);
            let subprotocol = offers(json::SUBPROTOCOL).then_some(json::SUBPROTOCOL);
            return Ok(self.admission.open_as(&upgrade, subprotocol, Box::new(session)));
        }
        let Some(topic) = topic else {
            let hint =
                "no topic: connect to /ws/TOPIC, or with ?format=json to /ws and subscribe by commands";
            return Err(Refusal::bad_request("query", hint));
        };
        Ok(self.admission.open(&upgrade, Box::new(Raw::new(topic, mode, audience, history))))
    }

    fn mode(&self, asked: Option<&str>) -> Result<Mode, Refusal> {
        let asked = match asked {
            None => None,
            Some("sub") => Some(Mode::Subscribe),
            Some("pub") => Some(Mode::Publish),
            Some("both") => Some(Mode::Both),
            Some(_) => return Err(Refusal::bad_request("query", "?mode= is sub, pub or both")),
        };
        match (self.anonymous, asked) {
            (Anonymous::None, _) => Err(Refusal::forbidden(
                "anonymous",
                "this server serves no anonymous clients (--anonymous none)",
            )),
            (Anonymous::Subscribe, Some(Mode::Publish | Mode::Both)) => Err(Refusal::forbidden(
                "anonymous",
                "anonymous clients may only subscribe here: use ?mode=sub",
            )),
            (Anonymous::Subscribe, _) => Ok(Mode::Subscribe),
            (Anonymous::Publish, asked) => Ok(asked.unwrap_or(Mode::Both)),
        }
    }
}

/// A number of the query.
fn number(request: &Request, key: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = request.query_value(key) else { return Ok(None) };
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number
        .map(Some)
        .ok_or_else(|| Refusal::bad_request("query", format!("?{key}= is a number, and not so large")))
}

/// The topics that are asked for: the path's, and those of `?topic=`, each once.
fn topics(request: &Request, rest: Option<&str>) -> Result<Vec<TopicName>, Refusal> {
    let mut topics = Vec::new();
    if let Some(rest) = rest {
        topics.push(TopicName::parse(&decode_segments(rest)?.join("/"))?);
    }
    for (_, name) in request.query_pairs().filter(|(key, _)| key == "topic") {
        let topic = TopicName::parse(&name)?;
        // Who names more than any connection may have is refused for that, and needs no order among them.
        if topics.len() > TOPICS_COMPARED || !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    Ok(topics)
}

/// Names of a request that are looked at for doubles.
const TOPICS_COMPARED: usize = 256;

/// What a client of an event stream has seen last: as browsers say it, or as scripts do that can't set headers.
fn last_event_id(request: &Request) -> Option<String> {
    let id = request.header("last-event-id").filter(|id| !id.is_empty()).map(str::to_owned);
    id.or_else(|| request.query_value("lastEventId")).filter(|id| !id.is_empty())
}

/// Whether events are among what a client takes (RFC 9110 section 12.5.1). Preferences do not count: there is nothing
/// else.
fn accepts_events(request: &Request) -> bool {
    let mut members = request.list("accept").peekable();
    members.peek().is_none()
        || members.any(|member| {
            let range = member.split(';').next().unwrap_or_default().trim();
            [CONTENT_TYPE, "text/*", "*/*"].iter().any(|accepted| range.eq_ignore_ascii_case(accepted))
        })
}

/// What a page of another origin may send with its request for a stream (CORS).
fn preflight() -> Response {
    Response::new(204, TEXT, "")
        .with_header("Allow", "GET, HEAD, OPTIONS")
        .with_header("Access-Control-Allow-Methods", "GET")
        .with_header("Access-Control-Allow-Headers", "Last-Event-ID, Cache-Control")
        .with_header("Access-Control-Max-Age", "7200")
}

/// Where a client goes on.
fn since(request: &Request) -> Result<Option<Since>, Refusal> {
    match (number(request, "since")?, request.query_value("epoch")) {
        (None, None) => Ok(None),
        (Some(offset), Some(epoch)) => match Epoch::parse(epoch.as_bytes()) {
            Some(epoch) => Ok(Some(Since { epoch, offset: Offset(offset) })),
            None => Err(Refusal::bad_request(
                "query",
                "?epoch= has eight characters of 0-9a-z, as a message had it",
            )),
        },
        _ => Err(Refusal::bad_request(
            "query",
            "?since= and ?epoch= go together, as the last message had them",
        )),
    }
}

const API: &str = "/api/";

/// The method that a request is for, if it is one of the API.
fn api_method(request: &Request) -> Result<api::Method, Refusal> {
    if request.method != Method::Post {
        return Err(Refusal::method_not_allowed("api_method", "the API is called with POST", "POST"));
    }
    request.path.strip_prefix(API).and_then(api::Method::named).ok_or_else(|| {
        Refusal::not_found(
            "api_unknown",
            "the API has no such method: docs/http-api.md lists those that it has",
        )
    })
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn get(request: &Request, response: impl FnOnce() -> Response) -> Result<Route, Refusal> {
    match request.method {
        Method::Get | Method::Head => Ok(Route::Respond(response())),
        _ => Err(Refusal::method_not_allowed("method", "only GET and HEAD are answered here", "GET, HEAD")),
    }
}

impl Router for Routes {
    fn route(&self, request: &Request, _address: SocketAddr) -> Route {
        self.answer(request).unwrap_or_else(Route::Refuse)
    }

    fn respond(&self, request: &Request, body: Bytes, _address: SocketAddr) -> Answer {
        let called =
            api_method(request).map_err(Rejection::from).and_then(|method| Call::parse(method, &body));
        match called {
            Ok(call) => Answer::Call(Box::new(call)),
            Err(Rejection::Request(refusal)) => Answer::Refuse(refusal),
            Err(Rejection::Method(error)) => Answer::Respond(api::reply::response(&Err(error))),
        }
    }
}
