//! The routes of an embedding program: paths of sessions and pages, and the hook that decides who may come in.
//!
//! Sessions and pages may share a path: who asks for a WebSocket gets the session, others the page. What the table
//! does not have is left to the server's own routes, if they are kept.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;
use sha1::{Digest, Sha1};

use super::{
    Answer, Audience, Guard, Refusal, Request, Route, Router, Session,
    admission::Admission,
    json::{self, Json},
    pattern::{Parameters, Pattern},
    raw::Mode,
    routes::{Routes, get},
};
use crate::{
    config::Config,
    protocol::{
        http::{InvalidOriginPattern, Response, decode_segments},
        ws,
    },
};

/// A request for a WebSocket, or for an event stream of the server's own routes, as the hook of `Builder::accept` sees it.
///
/// ```
/// use stentor::session::{AcceptRequest, Refusal};
///
/// /// What may come in: a client of this machine that speaks our subprotocol.
/// fn accept(asks: &AcceptRequest<'_>) -> Result<(), Refusal> {
///     let speaks = asks.subprotocols.iter().any(|name| name == "chat.v1");
///     if speaks && asks.address.ip().is_loopback() { Ok(()) } else { Err(refusal(asks.request.header("origin"))) }
/// }
/// # fn refusal(_: Option<&str>) -> Refusal { unimplemented!() }
/// ```
#[derive(Debug)]
pub struct AcceptRequest<'a> {
    /// Method, path, query, headers.
    pub request: &'a Request,
    /// The client's address; its port is 0.
    pub address: SocketAddr,
    /// The subprotocols that the client offers, best first.
    pub subprotocols: &'a [String],
}

/// A connection that was accepted and is to get its session.
///
/// ```
/// use stentor::session::{Audience, Opening, Refusal, TopicName, raw::{Mode, Raw}};
///
/// /// For `.route("/rooms/{room}", room)`.
/// fn room(opening: Opening<'_, ()>) -> Result<Raw, Refusal> {
///     let quiet = opening.request.query_value("echo").as_deref() == Some("off");
///     let audience = if quiet { Audience::Others } else { Audience::All };
///     Ok(Raw::new(TopicName::parse(opening.parameter("room"))?, Mode::Both, audience, 0))
/// }
/// ```
#[derive(Debug)]
pub struct Opening<'a, U> {
    /// Method, path, query, headers.
    pub request: &'a Request,
    /// The client's address; its port is 0.
    pub address: SocketAddr,
    /// What was selected of the subprotocols that the client offered.
    pub subprotocol: Option<&'a str>,
    /// What the hook of `Builder::accept` has attached.
    pub user: U,
    parameters: &'a Parameters,
    subscriptions_max: usize,
}

impl<'a, U> Opening<'a, U> {
    /// What the route's parameter of this name stands for, decoded.
    ///
    /// # Panics
    /// The route has no such parameter. The client gets 500 then.
    pub fn parameter(&self, name: &str) -> &'a str {
        self.parameters.get(name).unwrap_or_else(|| panic!("the route has no parameter {{{name}}}"))
    }

    fn for_nobody(self) -> Opening<'a, ()> {
        let Opening { request, address, subprotocol, user: _, parameters, subscriptions_max } = self;
        Opening { request, address, subprotocol, user: (), parameters, subscriptions_max }
    }
}

/// Makes the sessions of a path.
struct Maker<U> {
    make: Make<U>,
    /// The subprotocol that its sessions speak, for clients who offer it.
    speaks: Option<&'static str>,
}

type Make<U> = Box<dyn Fn(Opening<'_, U>) -> Result<Box<dyn Session>, Refusal> + Send + Sync>;
type Accept<U> = Box<dyn Fn(&AcceptRequest<'_>) -> Result<U, Refusal> + Send + Sync>;

/// What an embedding program has said so far.
pub struct Plan<U> {
    routes: Vec<(String, Maker<U>)>,
    pages: Vec<(String, Page)>,
    accept: Accept<U>,
}

impl Default for Plan<()> {
    /// Nothing yet, and everybody may come in.
    fn default() -> Self {
        Plan { routes: Vec::new(), pages: Vec::new(), accept: Box::new(|_| Ok(())) }
    }
}

impl Plan<()> {
    /// With a hook that decides who may come in. Routes that were added before do not see whom it attaches.
    pub fn accept<U: 'static>(
        self,
        hook: impl Fn(&AcceptRequest<'_>) -> Result<U, Refusal> + Send + Sync + 'static,
    ) -> Plan<U> {
        let without_user = |(pattern, Maker { make, speaks }): (String, Maker<()>)| {
            let make: Make<U> = Box::new(move |opening: Opening<'_, U>| make(opening.for_nobody()));
            (pattern, Maker { make, speaks })
        };
        Plan {
            routes: self.routes.into_iter().map(without_user).collect(),
            pages: self.pages,
            accept: Box::new(hook),
        }
    }
}

impl<U> Plan<U> {
    /// One more path of sessions.
    pub fn route<S: Session + 'static>(
        &mut self,
        pattern: &str,
        make: impl Fn(Opening<'_, U>) -> Result<S, Refusal> + Send + Sync + 'static,
    ) {
        let make: Make<U> = Box::new(move |opening| Ok(Box::new(make(opening)?)));
        self.routes.push((pattern.to_owned(), Maker { make, speaks: None }));
    }

    /// One more path of sessions in the JSON dialect.
    pub fn json_route<G: Guard + 'static>(
        &mut self,
        pattern: &str,
        make: impl Fn(Opening<'_, U>) -> Result<G, Refusal> + Send + Sync + 'static,
    ) {
        let make: Make<U> = Box::new(move |opening| {
            let session = Json::new(Vec::new(), Mode::Both, Audience::All, opening.subscriptions_max);
            Ok(Box::new(session.guarded_by(make(opening)?)))
        });
        self.routes.push((pattern.to_owned(), Maker { make, speaks: Some(json::SUBPROTOCOL) }));
    }

    /// One more page.
    pub fn page(&mut self, path: &str, content_type: &'static str, body: Bytes) {
        self.pages.push((path.to_owned(), Page::new(content_type, body)));
    }
}

/// Why a table of routes can't be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TableError {
    /// A path that can't be read, and why.
    Path(String, String),
    /// Two paths of sessions, or of pages, that fit the same requests.
    Conflict(String, String),
    /// A pattern of `--allow-origin` that can't be read.
    Origin(String),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Path(path, error) => write!(f, "the path {path:?} can't be served: {error}"),
            TableError::Conflict(one, other) => {
                write!(f, "the paths {one:?} and {other:?} fit the same requests: leave one out")
            }
            TableError::Origin(error) => write!(f, "--allow-origin: {error}"),
        }
    }
}

impl std::error::Error for TableError {}

impl From<InvalidOriginPattern> for TableError {
    fn from(error: InvalidOriginPattern) -> Self {
        TableError::Origin(error.to_string())
    }
}

/// See the head of this file.
pub struct Table<U> {
    /// In the order in which they are tried.
    routes: Vec<(Pattern, Maker<U>)>,
    pages: Vec<(Pattern, Page)>,
    accept: Accept<U>,
    admission: Admission,
    subscriptions_max: usize,
    own: Option<Routes>,
}

impl<U> Table<U> {
    /// What was planned, under the rules of `config`; `own` gets what is not in it.
    ///
    /// # Errors
    /// [`TableError`]
    pub fn new(plan: Plan<U>, config: &Config, own: Option<Routes>) -> Result<Table<U>, TableError> {
        let mut routes = parsed(plan.routes)?;
        routes.sort_by_key(|(pattern, _)| pattern.ranks());
        let with_parameters = plan.pages.iter().find(|(path, _)| path.contains(['{', '}']));
        if let Some((path, _)) = with_parameters {
            return Err(TableError::Path(path.clone(), "a page's path has no parameters".to_owned()));
        }
        let pages = parsed(plan.pages)?;
        let admission = Admission::new(config)?;
        let subscriptions_max = config.max_subscriptions;
        Ok(Table { routes, pages, accept: plan.accept, admission, subscriptions_max, own })
    }

    fn answer(&self, request: &Request, address: SocketAddr) -> Result<Route, Refusal> {
        let path = decode_segments(&request.path)?;
        let page = self.pages.iter().find(|(pattern, _)| pattern.matches(&path).is_some());
        let is_upgrade = ws::is_upgrade(request);
        if let Some((_, page)) = page
            && !is_upgrade
        {
            self.admission.check_host(request)?;
            return if request.has_body() {
                Err(Refusal::content_too_large("body", "no page takes a request body: send none"))
            } else {
                get(request, || page.response(request))
            };
        }
        for (pattern, maker) in &self.routes {
            let Some(parameters) = pattern.matches(&path) else { continue };
            return self.open(request, address, &parameters, maker);
        }
        match &self.own {
            Some(own) if page.is_none() => {
                if is_upgrade {
                    let subprotocols: Vec<String> =
                        request.list("sec-websocket-protocol").map(str::to_owned).collect();
                    (self.accept)(&AcceptRequest { request, address, subprotocols: &subprotocols })?;
                }
                let route = own.route(request, address);
                if matches!(route, Route::Stream { .. }) {
                    (self.accept)(&AcceptRequest { request, address, subprotocols: &[] })?;
                }
                Ok(route)
            }
            _ if is_upgrade => Err(Refusal::not_found("no_route", "no WebSocket is here")),
            _ => Err(Refusal::not_found("no_route", "nothing is here")),
        }
    }

    fn open(
        &self,
        request: &Request,
        address: SocketAddr,
        parameters: &Parameters,
        maker: &Maker<U>,
    ) -> Result<Route, Refusal> {
        self.admission.check_host(request)?;
        let upgrade = self.admission.check_upgrade(request)?;
        let asks = AcceptRequest { request, address, subprotocols: &upgrade.subprotocols };
        let user = (self.accept)(&asks)?;
        let spoken = maker.speaks.filter(|name| upgrade.subprotocols.iter().any(|offered| offered == name));
        let subprotocol = spoken.or_else(|| self.admission.subprotocol(&upgrade));
        let subscriptions_max = self.subscriptions_max;
        let opening = Opening { request, address, subprotocol, user, parameters, subscriptions_max };
        let session = (maker.make)(opening)?;
        Ok(self.admission.open_as(&upgrade, spoken, session))
    }
}

/// The paths read, if no two of them are alike.
fn parsed<T>(paths: Vec<(String, T)>) -> Result<Vec<(Pattern, T)>, TableError> {
    let mut seen: Vec<(String, Pattern)> = Vec::new();
    let mut parsed = Vec::new();
    for (path, what) in paths {
        let pattern =
            Pattern::parse(&path).map_err(|error| TableError::Path(path.clone(), error.to_string()))?;
        if let Some((other, _)) = seen.iter().find(|(_, other)| other.is_like(&pattern)) {
            return Err(TableError::Conflict(other.clone(), path));
        }
        seen.push((path, pattern.clone()));
        parsed.push((pattern, what));
    }
    Ok(parsed)
}

impl<U> Router for Table<U> {
    fn route(&self, request: &Request, address: SocketAddr) -> Route {
        self.answer(request, address).unwrap_or_else(Route::Refuse)
    }

    /// Only the server's own routes want bodies.
    fn respond(&self, request: &Request, body: Bytes, address: SocketAddr) -> Answer {
        match &self.own {
            Some(own) => own.respond(request, body, address),
            None => Answer::Refuse(Refusal::not_found("no_route", "nothing is here")),
        }
    }
}

/// Bytes that are served as they are. Browsers keep them, and ask each time whether they have changed.
struct Page {
    content_type: &'static str,
    body: Bytes,
    etag: String,
}

impl Page {
    fn new(content_type: &'static str, body: Bytes) -> Page {
        let digest = Sha1::digest(&body);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Page { content_type, body, etag: format!("\"{hex}\"") }
    }

    fn response(&self, request: &Request) -> Response {
        // RFC 9110 section 13.1.2: weak comparison.
        let has_it = request
            .list("if-none-match")
            .any(|member| member == "*" || member.strip_prefix("W/").unwrap_or(member) == self.etag);
        let response = if has_it {
            Response::new(304, self.content_type, Bytes::new())
        } else {
            Response::new(200, self.content_type, self.body.clone())
        };
        response.with_header("ETag", self.etag.clone()).with_header("Cache-Control", "no-cache")
    }
}
