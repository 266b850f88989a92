//! The page at `/`: topics, publish, log of messages. One file, embedded, and `/client.js`; nothing is loaded from
//! elsewhere.

use crate::protocol::http::Response;

/// Content type of the Prometheus text format in its OpenMetrics form.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const HTML: &str = include_str!("page.html");

/// The page. It may talk to this server and run its own scripts, nothing else.
pub fn response() -> Response {
    Response::new(200, "text/html; charset=utf-8", HTML).with_header(
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; \
         img-src data:; base-uri 'none'; form-action 'none'",
    )
}
