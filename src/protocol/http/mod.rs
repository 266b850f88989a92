//! HTTP/1.1 as a server speaks it before, or instead of, a WebSocket (RFC 9110, RFC 9112).
//!
//! `request` parses heads, `body` collects what follows them, `response` writes answers and says what a refusal looks
//! like, `origin` decides which web pages may connect.

mod body;
mod origin;
mod request;
mod response;

pub use body::{BodyReader, Framing};
pub use origin::{InvalidOriginPattern, OriginPattern, is_loopback_host, is_loopback_origin};
pub use request::{HeadLimits, Method, Request, Version, decode_segments, parse_request};
pub use response::{CONTINUE, Refusal, Response};
