//! A client over one TCP connection: says what it is told to, byte for byte, and reads what comes.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use super::PATIENCE;

/// First bytes of whole frames (FIN is set).
pub const TEXT: u8 = 0x81;
/// See [`TEXT`].
pub const BINARY: u8 = 0x82;
/// See [`TEXT`].
pub const CLOSE: u8 = 0x88;
/// See [`TEXT`].
pub const PING: u8 = 0x89;
/// See [`TEXT`].
pub const PONG: u8 = 0x8a;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame: its first byte as given, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A client's frame header for a payload of `len` bytes, with the mask.
pub fn header(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(0x80 | u8::try_from(len).expect("at most 125")),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).expect("two bytes").to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// A close frame's body.
pub fn close_body(code: u16, reason: &str) -> Vec<u8> {
    let mut body = code.to_be_bytes().to_vec();
    body.extend(reason.as_bytes());
    body
}

/// The frame that a server makes of a message: not masked, in one piece, with the shortest header.
pub fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.truncate(bytes.len() - MASK.len());
    bytes[1] &= 0x7f;
    bytes.extend(payload);
    bytes
}

/// A request to become a WebSocket.
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A frame that the server sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = String::from_utf8_lossy(&self.payload[..self.payload.len().min(60)]);
        write!(f, "{:#04x} of {} bytes: {start:?}", self.first, self.payload.len())
    }
}

impl Frame {
    /// A text message.
    pub fn text(text: &str) -> Frame {
        Frame { first: TEXT, payload: text.as_bytes().to_vec() }
    }

    /// A binary message.
    pub fn binary(bytes: &[u8]) -> Frame {
        Frame { first: BINARY, payload: bytes.to_vec() }
    }

    /// The frame at the front of `bytes` and how many it takes; `None` if more are needed. A frame that a server
    /// must not send fails the test.
    pub fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(first & 0x70, 0, "reserved bits are clear");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (start, len) = match second {
            126 => {
                let len = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
                assert!(len > 125, "a length of {len} in three bytes");
                (4, usize::from(len))
            }
            127 => {
                let len = u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
                assert!(len > 0xffff, "a length of {len} in nine bytes");
                (10, usize::try_from(len).expect("fits in memory"))
            }
            len => (2, usize::from(len)),
        };
        let payload = bytes.get(start..start + len)?.to_vec();
        Some((Frame { first, payload }, start + len))
    }

    /// The code of a close frame; `None` without a body.
    pub fn code(&self) -> Option<u16> {
        assert_eq!(self.first, CLOSE, "a close frame: {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }
}

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers; their names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: String,
}

impl Response {
    /// A header's value, or the empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// See the head of this file.
pub struct Client {
    /// The socket.
    pub stream: TcpStream,
    received: Vec<u8>,
    /// What of `received` was given out.
    taken: usize,
}

impl Client {
    /// A connection that has said nothing yet.
    pub fn connect(server: impl Into<SocketAddr>) -> Client {
        Client::to(server.into())
    }

    /// The same, to an address.
    pub fn to(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
    }

    /// A connection with small buffers, so that they are full after a few packets.
    pub fn narrow(server: impl Into<SocketAddr>) -> Client {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.set_send_buffer_size(4096).expect("a small buffer");
        socket.connect(&server.into().into()).expect("the server accepts");
        Client::over(socket.into())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("TCP");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Client { stream, received: Vec::new(), taken: 0 }
    }

    /// A WebSocket at `path`.
    pub fn open(server: impl Into<SocketAddr>, path: &str) -> Client {
        Client::connect(server).upgraded(path)
    }

    /// The connection as a WebSocket at `path`.
    pub fn upgraded(mut self, path: &str) -> Client {
        self.send(upgrade_request(path).as_bytes());
        let response = self.response();
        assert_eq!(response.status, 101, "{path}: {response:?}");
        self
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes bytes");
    }

    /// Sends a frame.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&frame(first, payload));
    }

    /// Sends a text message.
    pub fn send_text(&mut self, text: &str) {
        self.send_frame(TEXT, text.as_bytes());
    }

    /// The other half, for a thread that sends.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle")
    }

    /// No more will be sent; what comes can still be read.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Receives once. `Ok(0)`: the server has finished.
    fn receive(&mut self) -> std::io::Result<usize> {
        if self.taken == self.received.len() {
            self.received.clear();
            self.taken = 0;
        }
        let mut buffer = [0; 64 * 1024];
        let bytes = self.stream.read(&mut buffer)?;
        self.received.extend(&buffer[..bytes]);
        Ok(bytes)
    }

    /// The next frame; `None` at the end of the stream.
    pub fn next_frame(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some((frame, len)) = Frame::parse(&self.received[self.taken..]) {
                self.taken += len;
                return Ok(Some(frame));
            }
            if self.receive()? == 0 {
                assert_eq!(self.taken, self.received.len(), "the stream ends inside a frame");
                return Ok(None);
            }
        }
    }

    /// The next frame.
    pub fn frame(&mut self) -> Frame {
        self.next_frame().expect("a frame comes").expect("a frame, not the end")
    }

    /// The next frame that is no ping.
    pub fn message(&mut self) -> Frame {
        loop {
            let frame = self.frame();
            if frame.first != PING {
                return frame;
            }
        }
    }

    /// The next message, as text.
    pub fn text(&mut self) -> String {
        let frame = self.message();
        assert_eq!(frame.first, TEXT, "{frame:?}");
        String::from_utf8(frame.payload).expect("text is UTF-8")
    }

    /// The next response of a request that was not HEAD.
    pub fn response(&mut self) -> Response {
        let mut response = self.response_head();
        let len = response.header("content-length").parse().unwrap_or(0);
        while self.received.len() - self.taken < len {
            assert_ne!(self.receive().expect("the body comes"), 0, "the body is cut");
        }
        let body = self.received[self.taken..self.taken + len].to_vec();
        response.body = String::from_utf8(body).expect("a text");
        self.taken += len;
        response
    }

    /// The next response's head.
    pub fn response_head(&mut self) -> Response {
        let end = loop {
            let rest = &self.received[self.taken..];
            if let Some(at) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
                break self.taken + at + 4;
            }
            let received = self.receive().expect("a response comes");
            assert_ne!(received, 0, "no response: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head = String::from_utf8(self.received[self.taken..end].to_vec()).expect("a text");
        self.taken = end;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().expect("a status line");
        let status = status.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1").split(' ').next();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header line");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Response {
            status: status.and_then(|code| code.parse().ok()).expect("a status"),
            headers: headers.collect(),
            body: String::new(),
        }
    }

    /// What comes up to the next empty line, of an event stream; `None` at the end of the stream.
    pub fn next_block(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let rest = &self.received[self.taken..];
            if let Some(len) = rest.windows(2).position(|window| window == b"\n\n") {
                let block = String::from_utf8(rest[..len].to_vec()).expect("a stream is UTF-8");
                self.taken += len + 2;
                return Ok(Some(block));
            }
            if self.receive()? == 0 {
                assert_eq!(self.taken, self.received.len(), "the stream ends inside a block");
                return Ok(None);
            }
        }
    }

    /// Sends a request and gives the response.
    pub fn request(&mut self, text: &str) -> Response {
        self.send(text.as_bytes());
        self.response()
    }

    /// Skips messages and pings up to the close frame; its code and reason.
    pub fn close_frame(&mut self) -> (Option<u16>, String) {
        loop {
            let frame = self.frame();
            if frame.first == CLOSE {
                let reason = frame.payload.get(2..).unwrap_or_default().to_vec();
                return (frame.code(), String::from_utf8(reason).expect("a reason is UTF-8"));
            }
        }
    }

    /// The server finishes, and nothing comes before.
    pub fn end(&mut self) {
        let next = self.next_frame().expect("the end of the stream");
        assert!(next.is_none(), "nothing more: {next:?}");
    }

    /// Reads on until the connection is over, be it finished or reset. True if it was reset.
    pub fn gone(&mut self) -> bool {
        loop {
            match self.receive() {
                Ok(0) => return false,
                Ok(_) => self.taken = self.received.len(),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
                Err(error) => panic!("the connection should be over: {error}"),
            }
        }
    }

    /// Closes with a close handshake; gives what came before the answer.
    pub fn close(mut self) -> Vec<Frame> {
        self.send_frame(CLOSE, &close_body(1000, ""));
        let mut before = Vec::new();
        loop {
            let frame = self.frame();
            if frame.first == CLOSE {
                assert_eq!(frame.code(), Some(1000));
                self.end();
                return before;
            }
            before.push(frame);
        }
    }

    /// Waits for at most `time`; true if nothing came.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("a timeout");
        let silent = self.taken == self.received.len()
            && self.receive().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silent
    }
}

/// A client of another make (tungstenite) at `path`.
pub fn tungstenite(server: impl Into<SocketAddr>, path: &str) -> tungstenite::WebSocket<TcpStream> {
    let address = server.into();
    let Client { stream, .. } = Client::connect(address);
    let url = format!("ws://{address}{path}");
    tungstenite::client(url, stream).expect("a handshake").0
}
