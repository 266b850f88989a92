//! The wire, sans-I/O: HTTP/1.1 request and response heads, and RFC 6455 WebSocket in the server's role.
//!
//! Bytes in, values out, and back. Nothing here knows of sockets, clocks, topics or sessions; every bound is an
//! argument. Bad input is an error value that says which rule was broken: a [`ws::ProtocolError`] has the close
//! code that the peer gets, an [`http::Refusal`] the status and a hint for whoever has to repair the client.

pub mod http;
pub mod ws;
