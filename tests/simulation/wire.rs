//! The client's side of the wire, written from RFC 6455 and sharing nothing with the server's code.

use stentor::engine::driver::sim::Dice;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// A client's frame, masked with zeros or not quite.
pub fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    frame
}

/// A whole frame that ends its message.
pub fn whole(op_code: u8, payload: &[u8], dice: &mut Dice) -> Vec<u8> {
    frame(0x80 | op_code, payload, (dice.bits() as u32).to_le_bytes())
}

/// A message in up to four fragments, perhaps with a ping among them, whose payload is given.
pub fn message(op_code: u8, payload: &[u8], ping: Option<&[u8]>, dice: &mut Dice) -> Vec<u8> {
    let (mut bytes, mut rest, mut op_code) = (Vec::new(), payload, op_code);
    let mut ping = ping;
    while dice.happens(80) && !rest.is_empty() {
        let (fragment, later) = rest.split_at(dice.below(rest.len()));
        bytes.extend(frame(op_code, fragment, (dice.bits() as u32).to_le_bytes()));
        (rest, op_code) = (later, CONTINUATION);
        if let Some(payload) = ping.take() {
            bytes.extend(whole(PING, payload, dice));
        }
    }
    bytes.extend(whole(op_code, rest, dice));
    if let Some(payload) = ping {
        bytes.extend(whole(PING, payload, dice));
    }
    bytes
}

pub fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// What a client finds in the stream from the server.
#[derive(Debug)]
pub enum Found {
    Response(u16),
    /// Of an event stream, without the empty line that ends it.
    Block(String),
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
}

/// Reads the stream from the server.
#[derive(Default)]
pub struct Parser {
    bytes: Vec<u8>,
    upgraded: bool,
    streams: bool,
    closed: bool,
}

impl Parser {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the stream may end here: no half frame, no half response.
    pub fn is_between(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The next whole thing.
    pub fn next(&mut self) -> Result<Option<Found>, String> {
        match (self.upgraded, self.streams) {
            (true, _) => self.frame(),
            (_, true) => self.block(),
            _ => self.response(),
        }
    }

    /// Whether an event stream has begun.
    pub fn is_stream(&self) -> bool {
        self.streams
    }

    fn block(&mut self) -> Result<Option<Found>, String> {
        let Some(end) = self.bytes.windows(2).position(|window| window == b"\n\n") else { return Ok(None) };
        let block = String::from_utf8(self.bytes[..end].to_vec()).map_err(|error| error.to_string())?;
        self.bytes.drain(..end + 2);
        Ok(Some(Found::Block(block)))
    }

    fn response(&mut self) -> Result<Option<Found>, String> {
        let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = String::from_utf8(self.bytes[..end].to_vec()).map_err(|_| "a head that is no text")?;
        let status =
            head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("not a response: {head}"))?;
        let len = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let len: usize = len.map_or(Ok(0), |len| len.parse()).map_err(|_| format!("no length: {head}"))?;
        if self.bytes.len() < end + 4 + len {
            return Ok(None);
        }
        self.bytes.drain(..end + 4 + len);
        self.upgraded = status == 101;
        self.streams = status == 200 && head.contains("\r\nContent-Type: text/event-stream");
        Ok(Some(Found::Response(status)))
    }

    fn frame(&mut self) -> Result<Option<Found>, String> {
        let bytes = &self.bytes;
        if bytes.len() < 2 {
            return Ok(None);
        }
        if self.closed {
            return Err("a frame behind a close frame".into());
        }
        let (header, len) = match bytes[1] {
            127 if bytes.len() >= 10 => (10, u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize),
            126 if bytes.len() >= 4 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            126 | 127 => return Ok(None),
            len @ 0..126 => (2, usize::from(len)),
            _ => return Err(format!("a masked frame from the server: {:x?}", &bytes[..2])),
        };
        if bytes.len() < header + len {
            return Ok(None);
        }
        let first = bytes[0];
        let payload = bytes[header..header + len].to_vec();
        self.bytes.drain(..header + len);
        if first & 0xf0 != 0x80 {
            return Err(format!("a first byte {first:x} from the server"));
        }
        Ok(Some(match first & 0x0f {
            TEXT | BINARY => Found::Message(payload),
            PING => Found::Ping(payload),
            PONG => Found::Pong(payload),
            CLOSE => {
                self.closed = true;
                Found::Close(payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]])))
            }
            other => return Err(format!("an op code {other:x} from the server")),
        }))
    }
}
