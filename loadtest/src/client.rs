//! Opening one WebSocket connection: where to, from which address, and the handshake of RFC 6455 section 4.1.
//!
//! Sans-loop: [`Handshake::advance`] is called when the socket is ready (see `poller`) and never blocks. Sockets
//! are reset on close (`SO_LINGER` 0), so that no run leaves its ports in TIME_WAIT for the next.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mio::net::TcpStream;
use sha1::{Digest, Sha1};
use socket2::{Domain, Protocol, Socket, Type};

use crate::dialect::greeting::excerpt;
use crate::failure::Failure;
use crate::url::Url;

/// Appended to the key before hashing (RFC 6455 section 1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Longest response head accepted, in bytes.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

/// The server under test, resolved once.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As given.
    pub(crate) url: Url,
    address: SocketAddr,
    /// How many of 127.0.0.1, 127.0.0.2, … to connect from; 1 leaves the choice to the system.
    sources: u8,
    /// Size of the sockets' receive buffers, in bytes; `None` leaves it to the system.
    receive_buffer_bytes: Option<usize>,
    /// Bound on connect and upgrade together.
    pub(crate) timeout: Duration,
    /// Offered with every upgrade.
    subprotocol: Option<String>,
    /// Further lines of every upgrade's head, each with its line end.
    headers: String,
}

impl Target {
    /// Resolves `url`. More than one source address is only possible towards IPv4 loopback.
    pub(crate) fn resolve(url: Url, sources: u8, timeout: Duration) -> Result<Self, Failure> {
        let address = (url.host.as_str(), url.port)
            .to_socket_addrs()
            .map_err(Failure::system(format!("{url}: cannot resolve the host")))?
            .next()
            .ok_or_else(|| Failure::Usage(format!("{url}: the host has no address")))?;
        let loopback = matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback());
        if sources > 1 && !loopback {
            return Err(Failure::Usage(format!(
                "--source-addresses {sources} binds to 127.0.0.1…{sources} and needs a server on 127.0.0.1, not {address}"
            )));
        }
        Ok(Self {
            url,
            address,
            sources,
            receive_buffer_bytes: None,
            timeout,
            subprotocol: None,
            headers: String::new(),
        })
    }

    /// The same server, asked with these in every upgrade.
    pub(crate) fn with(mut self, subprotocol: Option<&str>, headers: &[String]) -> Self {
        self.subprotocol = subprotocol.map(Into::into);
        self.headers = headers.iter().map(|header| format!("{header}\r\n")).collect();
        if let Some(name) = subprotocol {
            self.headers.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
        }
        self
    }

    /// The same server, for connections that never read: their receive buffers are as small as the system allows.
    pub(crate) fn narrow(&self) -> Self {
        Self { receive_buffer_bytes: Some(1), ..self.clone() }
    }

    /// Starts to connect; the socket turns writable when that has succeeded or failed. `serial` chooses the
    /// source address.
    pub(crate) fn connect(&self, serial: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if self.sources > 1 {
            let last = 1 + (serial % usize::from(self.sources)) as u8;
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
        }
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                Err(error)
            }
            _ => Ok(TcpStream::from_std(socket.into())),
        }
    }

    /// The URL of a request target on this server, for messages.
    pub(crate) fn url_of(&self, request_target: &str) -> String {
        self.url.with_target(request_target)
    }
}

/// How far a handshake has come.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Wait until the socket is ready again.
    Pending,
    /// The server answered 101, or there is no upgrade; these bytes came behind its head.
    Open(Vec<u8>),
}

/// The client's side of one handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    request: Vec<u8>,
    sent: usize,
    connected: bool,
    response: Vec<u8>,
    accept: String,
    subprotocol: Option<String>,
    url: String,
}

impl Handshake {
    /// For `request_target` (path and query) on `target`.
    pub(crate) fn new(target: &Target, request_target: &str) -> Self {
        let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
        let request = format!(
            "GET {request_target} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
            target.url.authority(),
            target.headers
        );
        Self {
            request: request.into_bytes(),
            sent: 0,
            connected: false,
            response: Vec::new(),
            accept: accept_for(&key),
            subprotocol: target.subprotocol.clone(),
            url: target.url_of(request_target),
        }
    }

    /// No handshake at all: the connection is open when TCP is.
    pub(crate) fn none(target: &Target) -> Self {
        Self {
            request: Vec::new(),
            sent: 0,
            connected: false,
            response: Vec::new(),
            accept: String::new(),
            subprotocol: None,
            url: target.url.to_string(),
        }
    }

    /// What the handshake is for, for messages.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Goes on as far as the socket allows.
    pub(crate) fn advance(&mut self, stream: &mut TcpStream) -> Result<Progress, Failure> {
        self.step(stream).map_err(|error| match error {
            StepError::Io(source) => Failure::Connect { url: self.url.clone(), source },
            StepError::Failure(failure) => failure,
        })
    }

    fn step(&mut self, stream: &mut TcpStream) -> Result<Progress, StepError> {
        if !self.connected {
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            match stream.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(Progress::Pending),
                Err(error) => return Err(error.into()),
            }
        }
        while self.sent < self.request.len() {
            match stream.write(&self.request[self.sent..]) {
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Pending),
                Err(error) => return Err(error.into()),
            }
        }
        if self.request.is_empty() {
            return Ok(Progress::Open(Vec::new()));
        }
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(self.invalid("the server closed the connection").into()),
                Ok(len) => self.response.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Pending),
                Err(error) => return Err(error.into()),
            }
            if let Some(head_bytes) = self.check_response()? {
                return Ok(Progress::Open(self.response.split_off(head_bytes)));
            }
        }
    }

    /// Length of a complete and valid response head, in bytes; `None` while it is incomplete.
    fn check_response(&self) -> Result<Option<usize>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = match response.parse(&self.response) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if self.response.len() > RESPONSE_BYTES_MAX => {
                return Err(self.invalid("its head is longer than 16 KiB"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(self.invalid("it is not HTTP/1.1")),
        };
        let status = response.code.unwrap_or(0);
        if status != 101 {
            let reason = response.reason.unwrap_or("").into();
            let body = &self.response[head_bytes..];
            let body = if body.is_empty() { String::new() } else { format!(" and {}", excerpt(body)) };
            return Err(Failure::Status { url: self.url.clone(), status, reason, body });
        }
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| header.value.trim_ascii())
        };
        if !header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
            return Err(self.invalid("Upgrade: websocket is missing"));
        }
        let has_upgrade = |value: &[u8]| {
            value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        };
        if !header("Connection").is_some_and(has_upgrade) {
            return Err(self.invalid("Connection: Upgrade is missing"));
        }
        if header("Sec-WebSocket-Accept") != Some(self.accept.as_bytes()) {
            return Err(self.invalid("Sec-WebSocket-Accept does not match the key"));
        }
        if header("Sec-WebSocket-Extensions").is_some_and(|value| !value.is_empty()) {
            return Err(self.invalid("it names an extension, though none was offered"));
        }
        if let Some(chosen) = header("Sec-WebSocket-Protocol")
            && self.subprotocol.as_ref().is_none_or(|offered| offered.as_bytes() != chosen)
        {
            return Err(self.invalid("it names a subprotocol that was not offered (--subprotocol)"));
        }
        Ok(Some(head_bytes))
    }

    fn invalid(&self, what: &'static str) -> Failure {
        Failure::Handshake { url: self.url.clone(), what }
    }
}

/// Either the socket's error, which still lacks its URL, or a finished failure.
enum StepError {
    Io(io::Error),
    Failure(Failure),
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// The `Sec-WebSocket-Accept` that belongs to `key` (RFC 6455 section 4.2.2).
pub(crate) fn accept_for(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_SUFFIX).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: &str) -> Result<Option<usize>, String> {
        let target =
            Target::resolve(Url::parse("ws://127.0.0.1:1/x").unwrap(), 1, Duration::from_secs(1)).unwrap();
        let mut handshake = Handshake::new(&target, "/x?mode=sub");
        handshake.response = response.replace("ACCEPT", &handshake.accept).into_bytes();
        handshake.check_response().map_err(|failure| failure.to_string())
    }

    /// The example of RFC 6455 section 1.3.
    #[test]
    fn accept_of_the_rfc() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_good_answer_and_what_follows() {
        let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                    Sec-WebSocket-Accept: ACCEPT\r\n\r\n";
        let len = head.len() - "ACCEPT".len() + 28;
        assert_eq!(check(&format!("{head}\u{1}x")), Ok(Some(len)));
        assert_eq!(check(&head[..head.len() - 2]), Ok(None));
    }

    #[test]
    fn bad_answers_name_url_and_fault() {
        let good = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
        for (response, word) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_string(), "503 Service Unavailable"),
            ("SSH-2.0-OpenSSH\r\n\r\n".to_string(), "not HTTP"),
            ("HTTP/1.1 101 X\r\n\r\n".to_string(), "Upgrade: websocket"),
            ("HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n".to_string(), "Connection"),
            (format!("HTTP/1.1 101 X\r\n{good}Sec-WebSocket-Accept: no\r\n\r\n"), "match the key"),
            (
                format!(
                    "HTTP/1.1 101 X\r\n{good}Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: x\r\n\r\n"
                ),
                "extension",
            ),
            (
                format!(
                    "HTTP/1.1 101 X\r\n{good}Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: b\r\n\r\n"
                ),
                "--subprotocol",
            ),
            ("HTTP/1.1 400 Bad\r\n\r\n{\"no\":\n1}".to_string(), r#"400 Bad and "{"no":\n1}""#),
            (format!("HTTP/1.1 101 X\r\nA: {}", "a".repeat(RESPONSE_BYTES_MAX)), "16 KiB"),
        ] {
            let error = check(&response).unwrap_err();
            assert!(error.contains(word) && error.contains("ws://127.0.0.1:1/x?mode=sub"), "{error}");
        }
    }

    #[test]
    fn several_sources_only_on_loopback() {
        let url = Url::parse("ws://192.0.2.1:1/").unwrap();
        let error = Target::resolve(url, 4, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("--source-addresses 4"), "{error}");
    }
}
