//! Who may call the API: whoever has a key, or, where there is none, this machine.

use crate::{
    config::{
        Config,
        api_key::{self, ApiKey},
    },
    protocol::http::{Refusal, Request, is_loopback_host, is_loopback_origin},
};

/// The API's keys.
#[derive(Debug)]
pub struct ApiKeys {
    keys: Vec<ApiKey>,
    /// Whether nobody but this machine reaches any listener.
    loopback_only: bool,
}

/// By what right somebody calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access<'a> {
    /// By the key of this name.
    Key(&'a str),
    /// From this machine, and there are no keys.
    Loopback,
}

impl ApiKeys {
    /// The keys of a configuration.
    pub fn new(config: &Config) -> ApiKeys {
        ApiKeys { keys: config.all_api_keys().cloned().collect(), loopback_only: config.is_loopback_only() }
    }

    /// Whether the sender of a request may call.
    ///
    /// A key is in `X-API-Key`, in `Authorization: apikey KEY` or in `?api_key=`; the first of them counts. Without
    /// any key every listener must be on loopback, and the request must name this machine: as its host, and as the
    /// origin of its page if there is one. So a page that somebody visits can't call through the browser.
    ///
    /// # Errors
    /// 401: a key is missing or wrong. 403: there are no keys, and this is not only for this machine.
    pub fn check(&self, request: &Request) -> Result<Access<'_>, Refusal> {
        if self.keys.is_empty() {
            return self.check_loopback(request).map(|()| Access::Loopback);
        }
        let Some(presented) = presented(request) else {
            let hint = "the API takes a key: send it as X-API-Key, see --api-key";
            return Err(challenging(Refusal::new(401, "api_key_missing", hint)));
        };
        let digest = api_key::digest(&presented);
        // All are compared, so that the time does not tell which one it was.
        let found = self.keys.iter().fold(None, |found, key| if key.is(&digest) { Some(key) } else { found });
        found.map(|key| Access::Key(key.name())).ok_or_else(|| {
            challenging(Refusal::new(401, "api_key", "this is no key of the API: see --api-key"))
        })
    }

    fn check_loopback(&self, request: &Request) -> Result<(), Refusal> {
        if !self.loopback_only {
            return Err(Refusal::forbidden(
                "api_closed",
                "a server that others can reach has an API only with a key: start it with --api-key",
            ));
        }
        if request.header("host").is_some_and(|host| !is_loopback_host(host)) {
            return Err(Refusal::forbidden(
                "host",
                "without a key the API is for this machine only: ask for localhost, or see --api-key",
            ));
        }
        if request.header("origin").is_some_and(|origin| !is_loopback_origin(origin)) {
            return Err(Refusal::forbidden(
                "origin",
                "without a key the API is for pages of this machine only: see --api-key",
            ));
        }
        Ok(())
    }
}

fn presented(request: &Request) -> Option<String> {
    if let Some(key) = request.header("x-api-key") {
        return Some(key.to_owned());
    }
    let authorization = request.header("authorization").and_then(|value| value.split_once(' '));
    match authorization {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("apikey") => Some(key.trim().to_owned()),
        _ => request.query_value("api_key"),
    }
}

/// With the scheme that would do (RFC 9110 §11.6.1).
fn challenging(refusal: Refusal) -> Refusal {
    refusal.with_header("WWW-Authenticate", "apikey")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::{HeadLimits, parse_request};

    const KEY: &str = "0123456789abcdef";

    fn request(target: &str, lines: &str) -> Request {
        let head = format!("POST {target} HTTP/1.1\r\n{lines}\r\n");
        let limits = HeadLimits { head_bytes_max: 10_000, headers_max: 10 };
        parse_request(head.as_bytes(), &limits).expect("not refused").expect("whole").0
    }

    fn check<'a>(keys: &'a ApiKeys, target: &str, lines: &str) -> Result<Access<'a>, (u16, &'static str)> {
        keys.check(&request(target, lines)).map_err(|refusal| (refusal.status, refusal.reason))
    }

    #[test]
    fn a_key_opens_wherever_it_stands() {
        let keys = ["ops:fedcba9876543210", "backend:0123456789abcdef"];
        let keys = keys.map(|key| key.parse().expect("a key")).into();
        let keys = ApiKeys { keys, loopback_only: false };
        let host = "Host: example.com\r\n";
        for (target, line) in [
            ("/api/info", "X-API-Key: 0123456789abcdef\r\n"),
            ("/api/info", "x-api-key:   0123456789abcdef  \r\n"),
            ("/api/info", "Authorization: apikey 0123456789abcdef\r\n"),
            ("/api/info", "Authorization: ApiKey  0123456789abcdef\r\n"),
            ("/api/info?a=b&api_key=0123456789abcdef", ""),
            ("/api/info?api_key=0123456789abcdef", "Authorization: Bearer x\r\n"),
            ("/api/info", "Origin: https://example.org\r\nX-API-Key: 0123456789abcdef\r\n"),
        ] {
            let access = check(&keys, target, &format!("{host}{line}"));
            assert_eq!(access, Ok(Access::Key("backend")), "{target} {line}");
        }
        let ops = format!("{host}X-API-Key: fedcba9876543210\r\n");
        assert_eq!(check(&keys, "/api/info", &ops), Ok(Access::Key("ops")));
        for (target, line, reason) in [
            ("/api/info", "", "api_key_missing"),
            ("/api/info", "Authorization: Bearer 0123456789abcdef\r\n", "api_key_missing"),
            ("/api/info", "X-API-Key: \r\n", "api_key"),
            ("/api/info", "X-API-Key: 0123456789abcde\r\n", "api_key"),
            ("/api/info", "X-API-Key: 0123456789abcdefx\r\n", "api_key"),
            ("/api/info", "X-API-Key: backend:0123456789abcdef\r\n", "api_key"),
            ("/api/info", "X-API-Key: \u{e9}\r\n", "api_key"),
            ("/api/info?api_key=0123456789abcdef", "X-API-Key: wrong\r\n", "api_key"),
            ("/api/info?api_key=", "", "api_key"),
        ] {
            let access = check(&keys, target, &format!("{host}{line}"));
            assert_eq!(access, Err((401, reason)), "{target} {line}");
        }
        let refusal = keys.check(&request("/api/info", host)).expect_err("no key");
        assert_eq!(refusal.headers, [("WWW-Authenticate", "apikey".to_owned())]);
        assert!(!format!("{keys:?}").contains(KEY), "a key is not shown");
    }

    #[test]
    fn without_keys_this_machine_may_call_and_nobody_else() {
        let keys = ApiKeys { keys: Vec::new(), loopback_only: true };
        for lines in [
            "Host: localhost:8080\r\n",
            "Host: 127.0.0.1\r\n",
            "Host: [::1]:1\r\n",
            "Host: localhost\r\nX-API-Key: any\r\n",
            "Host: localhost\r\nOrigin: http://localhost:3000\r\n",
        ] {
            assert_eq!(check(&keys, "/api/info", lines), Ok(Access::Loopback), "{lines}");
        }
        let foreign = "Host: example.com\r\n";
        assert_eq!(check(&keys, "/api/info", foreign), Err((403, "host")));
        for origin in ["https://example.com", "null"] {
            let lines = format!("Host: localhost\r\nOrigin: {origin}\r\n");
            assert_eq!(check(&keys, "/api/info", &lines), Err((403, "origin")), "{origin}");
        }
        let keys = ApiKeys { keys: Vec::new(), loopback_only: false };
        assert_eq!(check(&keys, "/api/info", "Host: localhost\r\n"), Err((403, "api_closed")));
    }
}
