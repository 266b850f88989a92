//! Which request gets what: the server's own routes.
//!
//! | where | what |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /health`, `GET /metrics` | liveness; Prometheus text |
//! | `/ws/{topic}` (upgrade) | the raw dialect |
//! | `/echo` (upgrade) | echo |
//!
//! Here it is decided what anonymous clients may do; `admission` knows `Host` and `Origin`.

use std::net::SocketAddr;

use super::{
    Audience, Refusal, Request, Route, Router, TopicName,
    admission::Admission,
    echo::Echo,
    page,
    raw::{Mode, Raw},
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
    admission: Admission,
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
            admission: Admission::new(config)?,
            metrics,
        })
    }

    fn answer(&self, request: &Request) -> Result<Route, Refusal> {
        if request.has_body() {
            return Err(Refusal::content_too_large("body", "no route here takes a request body: send none"));
        }
        self.admission.check_host(request)?;
        let known = request.path == "/echo" || request.path.starts_with("/ws/");
        if !known && ws::is_upgrade(request) {
            return Err(Refusal::not_found("no_route", "no WebSocket is here: connect to /ws/TOPIC"));
        }
        match request.path.as_str() {
            "/" => get(request, page::response),
            "/health" => get(request, || Response::new(200, TEXT, "ok\n")),
            "/metrics" => get(request, || Response::new(200, page::METRICS_TYPE, (self.metrics)())),
            "/echo" if self.echo => {
                let upgrade = self.admission.check_upgrade(request)?;
                Ok(self.admission.open(&upgrade, Box::new(Echo)))
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
        let upgrade = self.admission.check_upgrade(request)?;
        let name = decode_segments(rest)?.join("/");
        let topic = TopicName::parse(&name)?;
        let mode = self.mode(request.query_value("mode").as_deref())?;
        let audience = match request.query_value("echo").as_deref() {
            None | Some("on") => Audience::All,
            Some("off") => Audience::Others,
            Some(_) => return Err(Refusal::bad_request("query", "?echo= is on or off")),
        };
        Ok(self.admission.open(&upgrade, Box::new(Raw::new(topic, mode, audience))))
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
}
