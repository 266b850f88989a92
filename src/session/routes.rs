//! Which request gets what: the server's own routes.
//!
//! | where | what |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /health`, `GET /metrics` | liveness; Prometheus text |
//! | `/ws/{topic}` (upgrade) | the raw dialect |
//! | `/echo` (upgrade) | echo |
//! | `POST /api/{method}` | the server API |
//!
//! Here it is decided who may come in: `Host`, `Origin`, what anonymous clients may do.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    Answer, Audience, Refusal, Request, Route, Router, Session, TopicName,
    api::{self, Call, Rejection, keys::ApiKeys},
    echo::Echo,
    page,
    raw::{Mode, Raw},
};
use crate::{
    config::{Anonymous, Config},
    protocol::{
        http::{
            InvalidOriginPattern, Method, OriginPattern, Response, decode_segments, is_loopback_host,
            is_loopback_origin,
        },
        ws::{self, Upgrade},
    },
};

/// Composes the text of `/metrics`.
pub type MetricsText = Box<dyn Fn() -> String + Send + Sync>;

/// The server's routes.
pub struct Routes {
    anonymous: Anonymous,
    open_loopback: bool,
    echo: bool,
    subprotocols: Vec<String>,
    origins: Vec<OriginPattern>,
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
            open_loopback: config.open_loopback,
            echo: config.echo,
            subprotocols: config.subprotocols.clone(),
            origins: config.allow_origin.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            api_keys: ApiKeys::new(config),
            metrics,
        })
    }

    fn answer(&self, request: &Request) -> Result<Route, Refusal> {
        if request.path.starts_with(API) {
            self.check_host(request)?;
            self.api_keys.check(request)?;
            return api_method(request).map(|_| Route::Body);
        }
        if request.has_body() {
            return Err(Refusal::content_too_large("body", "no route here takes a request body: send none"));
        }
        self.check_host(request)?;
        let known = request.path == "/echo" || request.path.starts_with("/ws/");
        if !known && ws::is_upgrade(request) {
            return Err(Refusal::not_found("no_route", "no WebSocket is here: connect to /ws/TOPIC"));
        }
        match request.path.as_str() {
            "/" => get(request, page::response),
            "/health" => get(request, || Response::new(200, TEXT, "ok\n")),
            "/metrics" => get(request, || Response::new(200, page::METRICS_TYPE, (self.metrics)())),
            "/echo" if self.echo => {
                let upgrade = self.check_upgrade(request)?;
                Ok(self.accept(&upgrade, Box::new(Echo)))
            }
            "/echo" => Err(Refusal::not_found("echo_off", "/echo is off on this server: --echo turns it on")),
            path => match path.strip_prefix("/ws/") {
                Some(rest) => self.raw(request, rest),
                None => Err(Refusal::not_found(
                    "no_route",
                    "nothing is here: try / (a page), /ws/TOPIC (WebSocket), /health or /metrics",
                )),
            },
        }
    }

    fn raw(&self, request: &Request, rest: &str) -> Result<Route, Refusal> {
        let upgrade = self.check_upgrade(request)?;
        let name = decode_segments(rest)?.join("/");
        let topic =
            TopicName::parse(&name).map_err(|error| Refusal::bad_request("topic_name", error.to_string()))?;
        let mode = self.mode(request.query_value("mode").as_deref())?;
        let audience = match request.query_value("echo").as_deref() {
            None | Some("on") => Audience::All,
            Some("off") => Audience::Others,
            Some(_) => return Err(Refusal::bad_request("query", "?echo= is on or off")),
        };
        Ok(self.accept(&upgrade, Box::new(Raw::new(topic, mode, audience))))
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

    /// On the open loopback default only loopback names may be asked for, so that a web page from elsewhere
    /// whose name was made to point here (DNS rebinding) gets nothing, and only pages of this machine, or of
    /// an origin that is allowed, may ask at all.
    fn check_host(&self, request: &Request) -> Result<(), Refusal> {
        if !self.open_loopback {
            return Ok(());
        }
        if request.header("host").is_some_and(|host| !is_loopback_host(host)) {
            return Err(Refusal::forbidden(
                "host",
                "this server is open to its own machine only: ask for localhost, or start it with --anonymous",
            ));
        }
        match request.header("origin") {
            Some(origin) if !self.origin_allowed(origin, "") => Err(foreign_origin()),
            _ => Ok(()),
        }
    }

    fn check_upgrade(&self, request: &Request) -> Result<Upgrade, Refusal> {
        let upgrade = ws::check_upgrade(request)?;
        match &upgrade.origin {
            Some(origin) if !self.origin_allowed(origin, request.header("host").unwrap_or_default()) => {
                Err(foreign_origin())
            }
            _ => Ok(upgrade),
        }
    }

    /// Without patterns a page may connect to the host that it came from; on the open loopback default,
    /// any page of this machine may.
    fn origin_allowed(&self, origin: &str, host: &str) -> bool {
        if self.origins.iter().any(|pattern| pattern.matches(origin)) {
            return true;
        }
        if self.open_loopback {
            return is_loopback_origin(origin);
        }
        let same_host =
            |scheme| origin.strip_prefix(scheme).is_some_and(|rest| rest.eq_ignore_ascii_case(host));
        self.origins.is_empty() && (same_host("http://") || same_host("https://"))
    }

    fn accept(&self, upgrade: &Upgrade, session: Box<dyn Session>) -> Route {
        let subprotocol = ws::select_subprotocol(&upgrade.subprotocols, &self.subprotocols);
        let response = ws::switching_protocols(upgrade, subprotocol);
        Route::Upgrade { session, response, subprotocol: subprotocol.map(str::to_owned) }
    }
}

fn foreign_origin() -> Refusal {
    Refusal::forbidden("origin", "pages of this origin may not connect: see --allow-origin")
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

const TEXT: &str = "text/plain; charset=utf-8";

fn get(request: &Request, response: impl FnOnce() -> Response) -> Result<Route, Refusal> {
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
