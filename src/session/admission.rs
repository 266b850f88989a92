//! Who may come in, whatever is asked for: `Host`, `Origin`, subprotocols.

use super::{Refusal, Request, Route, Session};
use crate::{
    config::Config,
    protocol::{
        http::{InvalidOriginPattern, OriginPattern, is_loopback_host, is_loopback_origin},
        ws::{self, Upgrade},
    },
};

/// The rules of one server.
pub(super) struct Admission {
    open_loopback: bool,
    subprotocols: Vec<String>,
    origins: Vec<OriginPattern>,
}

/// Headers of a response.
pub(super) type Headers = Vec<(&'static str, String)>;

impl Admission {
    /// The rules as `config` has them.
    ///
    /// # Errors
    /// A pattern of `--allow-origin` that can't be read.
    pub fn new(config: &Config) -> Result<Admission, InvalidOriginPattern> {
        Ok(Admission {
            open_loopback: config.open_loopback,
            subprotocols: config.subprotocols.clone(),
            origins: config.allow_origin.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        })
    }

    /// On the open loopback default only loopback names may be asked for, so that a web page from elsewhere
    /// whose name was made to point here (DNS rebinding) gets nothing, and only pages of this machine, or of
    /// an origin that is allowed, may ask at all.
    pub fn check_host(&self, request: &Request) -> Result<(), Refusal> {
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

    /// A request that is a valid upgrade, from where one may come.
    pub fn check_upgrade(&self, request: &Request) -> Result<Upgrade, Refusal> {
        let upgrade = ws::check_upgrade(request)?;
        match &upgrade.origin {
            Some(origin) if !self.origin_allowed(origin, request.header("host").unwrap_or_default()) => {
                Err(foreign_origin())
            }
            _ => Ok(upgrade),
        }
    }

    /// Whether the page that asks for something else than a WebSocket may; gives the headers that let it read the answer
    /// (CORS). The answer differs between origins, and caches have to know.
    pub fn check_page(&self, request: &Request) -> Result<Headers, Refusal> {
        let mut headers = vec![("Vary", "Origin".to_owned())];
        if let Some(origin) = request.header("origin") {
            if !self.origin_allowed(origin, request.header("host").unwrap_or_default()) {
                return Err(foreign_origin());
            }
            headers.push(("Access-Control-Allow-Origin", origin.to_owned()));
        }
        Ok(headers)
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

    /// What is selected of the subprotocols that the client offers.
    pub fn subprotocol(&self, upgrade: &Upgrade) -> Option<&str> {
        ws::select_subprotocol(&upgrade.subprotocols, &self.subprotocols)
    }

    /// Grants an upgrade.
    pub fn open(&self, upgrade: &Upgrade, session: Box<dyn Session>) -> Route {
        self.open_as(upgrade, None, session)
    }

    /// The same, with the subprotocol that the session speaks, or else one of those that the configuration has.
    pub fn open_as(&self, upgrade: &Upgrade, spoken: Option<&str>, session: Box<dyn Session>) -> Route {
        let subprotocol = spoken.or_else(|| self.subprotocol(upgrade));
        let response = ws::switching_protocols(upgrade, subprotocol);
        Route::Upgrade { session, response, subprotocol: subprotocol.map(str::to_owned) }
    }
}

fn foreign_origin() -> Refusal {
    Refusal::forbidden("origin", "pages of this origin may not connect: see --allow-origin")
}
