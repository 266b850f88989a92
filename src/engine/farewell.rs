//! Why and how connections end: the reasons that are counted, and what is remembered from the first word
//! of an end to the last.

use crate::{broker::ids::Tick, protocol::ws::CloseCode};

/// Why a connection ended, as counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The client closed it with a close frame.
    Client,
    /// The client's end of the stream came without a close frame.
    Eof,
    /// The connection broke.
    Reset,
    /// The client broke the protocol.
    Protocol,
    /// The session closed it.
    Session,
    /// The session terminated it.
    Terminated,
    /// The embedding program closed it from outside.
    Handle,
    /// A backend closed it.
    Api,
    /// The session failed.
    Failed,
    /// HTTP: answered, and over.
    Http,
    /// No whole request head in time.
    HandshakeTimeout,
    /// No whole message in time.
    MessageTimeout,
    /// No pong in time.
    PongTimeout,
    /// No message in time.
    IdleTimeout,
    /// The socket took nothing in time.
    WriteTimeout,
    /// No answer to our close frame in time.
    CloseTimeout,
    /// It lagged too far behind.
    SlowConsumer,
    /// Half-received messages are at their bound.
    AssemblyFull,
    /// The server stops.
    Drain,
}

impl Why {
    /// The reason in `/metrics`.
    pub fn label(self) -> &'static str {
        match self {
            Why::Client => "client",
            Why::Eof => "eof",
            Why::Reset => "reset",
            Why::Protocol => "protocol_error",
            Why::Session => "session",
            Why::Terminated => "terminated",
            Why::Handle => "handle",
            Why::Api => "api",
            Why::Failed => "session_failed",
            Why::Http => "http",
            Why::HandshakeTimeout => "handshake_timeout",
            Why::MessageTimeout => "message_timeout",
            Why::PongTimeout => "pong_timeout",
            Why::IdleTimeout => "idle_timeout",
            Why::WriteTimeout => "write_timeout",
            Why::CloseTimeout => "close_timeout",
            Why::SlowConsumer => "slow_consumer",
            Why::AssemblyFull => "assembly_full",
            Why::Drain => "drain",
        }
    }
}

/// How a connection ends, from the first word of it on.
#[derive(Debug)]
pub struct Farewell {
    /// Who began it, and why.
    pub why: Why,
    /// What [`crate::session::Close`] will say.
    pub code: CloseCode,
    /// The text beside the code.
    pub reason: String,
    /// Whether both sides exchanged close frames.
    pub clean: bool,
    /// When it began.
    pub at: Tick,
}
