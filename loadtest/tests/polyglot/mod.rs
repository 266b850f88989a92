//! A server of three protocols for the tests: JSON with several messages to a frame, lines cut between frames, and
//! HTTP POST. None of its code is the tool's own.
//!
//! `/json`: `{"hello":1}` is answered with a welcome, and only then may `{"subscribe":TOPIC}` or
//! `{"publish":TOPIC,"data":…}` follow. `/lines`: NATS in miniature. `POST /TOPIC` publishes its body's `data`.
//! Deliveries and heartbeats gather for some milliseconds. One [`Fault`] befalls one subscriber at its 20th message.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tungstenite::{Message, WebSocket, accept_hdr};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    None,
    /// A message is not delivered.
    Drop,
    /// A message is delivered twice.
    Repeat,
    /// The last byte but one of a payload is changed.
    Damage,
    /// Nobody's subscription is ever confirmed.
    Unready,
    /// Whoever says hello is closed with 4001.
    Close,
    /// A POST is answered with 403.
    Forbid,
    /// A connection ends with its first response, which says so.
    SayGoodbye,
    /// A connection ends with its first response, which does not say so.
    Leave,
    /// A connection ends instead of a response.
    Vanish,
}

const FAULTY: usize = 20;

/// Frames of the protocol of lines are no longer.
const CUT: usize = 50;

struct Subscriber {
    socket: WebSocket<TcpStream>,
    lines: bool,
    sent: usize,
    pending: Vec<u8>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    fault: Fault,
    topics: Mutex<HashMap<String, Vec<Subscriber>>>,
    /// Heartbeats sent, and those that were answered.
    pub(crate) heartbeats: AtomicU64,
    pub(crate) answers: AtomicU64,
}

/// Starts a server that lives as long as the test.
pub(crate) fn start(fault: Fault) -> Arc<Server> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Arc::new(Server {
        address: listener.local_addr().unwrap(),
        fault,
        topics: Mutex::default(),
        heartbeats: AtomicU64::new(0),
        answers: AtomicU64::new(0),
    });
    let (accepting, flushing) = (server.clone(), server.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, server) = (stream.unwrap(), accepting.clone());
            // A client that resets its connection ends its thread, as it should.
            thread::spawn(move || drop(server.serve(stream)));
        }
    });
    thread::spawn(move || {
        for turn in 1.. {
            thread::sleep(Duration::from_millis(4));
            flushing.flush(turn % 20 == 0);
        }
    });
    server
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

impl Server {
    fn serve(&self, stream: TcpStream) -> Outcome {
        stream.set_nodelay(true)?;
        let mut first = [0];
        stream.peek(&mut first)?;
        if first == *b"P" {
            return self.posts(stream);
        }
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
        let on_request = |request: &Request, mut response: Response| {
            path = request.uri().path().into();
            if let Some(name) = request.headers().get("Sec-WebSocket-Protocol") {
                response.headers_mut().insert("Sec-WebSocket-Protocol", name.clone());
            }
            Ok(response)
        };
        let socket = accept_hdr(stream, on_request).map_err(|_| "no upgrade")?;
        if path == "/json" { self.json(socket) } else { self.lines(socket) }
    }

    fn json(&self, mut socket: WebSocket<TcpStream>) -> Outcome {
        assert_eq!(socket.read()?.to_text()?, r#"{"hello":1}"#);
        if self.fault == Fault::Close {
            let reason = CloseFrame { code: CloseCode::Library(4001), reason: "no such app".into() };
            return Ok(socket.close(Some(reason))?);
        }
        // Whoever goes on without having been welcomed breaks the protocol.
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(20)))?;
        assert!(socket.read().is_err());
        socket.get_ref().set_read_timeout(None)?;
        socket.send(Message::text(r#"{"welcome":"to all"}"#))?;
        loop {
            let message = socket.read()?;
            let text = message.to_text()?;
            if text == "{}" {
                self.answers.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let json: Value = serde_json::from_str(text)?;
            if let Some(topic) = json["subscribe"].as_str() {
                if self.fault != Fault::Unready {
                    socket.send(Message::text(format!(r#"{{"subscribed":"{topic}"}}"#)))?;
                    self.subscribe(topic, &socket, false)?;
                }
            } else if let (Some(topic), Some(data)) = (json["publish"].as_str(), json["data"].as_str()) {
                self.publish(topic, data);
                socket.send(Message::text(r#"{"ok":true}"#))?;
            }
        }
    }

    fn lines(&self, mut socket: WebSocket<TcpStream>) -> Outcome {
        socket.send(Message::binary("INFO {\"server\":\"test\"}\r\n"))?;
        let mut stream = String::new();
        loop {
            stream.push_str(socket.read()?.to_text()?);
            while let Some((line, rest)) = stream.split_once("\r\n") {
                let words: Vec<&str> = line.split(' ').collect();
                let rest = match words[..] {
                    ["SUB", topic, _] => {
                        self.subscribe(topic, &socket, true)?;
                        rest
                    }
                    ["PING"] => {
                        socket.send(Message::binary("PONG\r\n"))?;
                        rest
                    }
                    ["PONG"] => {
                        self.answers.fetch_add(1, Ordering::Relaxed);
                        rest
                    }
                    ["PUB", topic, len] => {
                        let len: usize = len.parse()?;
                        let Some(payload) = rest.get(..len + 2) else { break };
                        self.publish(topic, payload.strip_suffix("\r\n").ok_or("no line end")?);
                        &rest[len + 2..]
                    }
                    _ => rest,
                };
                stream = rest.to_string();
            }
        }
    }

    fn posts(&self, stream: TcpStream) -> Outcome {
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
        for count in 0.. {
            let (mut line, mut len, mut authorized) = (String::new(), 0, false);
            reader.read_line(&mut line)?;
            let topic = line.split(' ').nth(1).ok_or("no path")?.trim_start_matches('/').to_string();
            while !line.trim().is_empty() {
                line.clear();
                reader.read_line(&mut line)?;
                if let Some(value) = line.strip_prefix("Content-Length:") {
                    len = value.trim().parse()?;
                }
                authorized |= line.trim() == "X-Key: secret";
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body)?;
            if self.fault == Fault::Forbid || !authorized {
                writer.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nkey unknown")?;
                continue;
            }
            if self.fault == Fault::Vanish {
                return Ok(());
            }
            let json: Value = serde_json::from_slice(&body)?;
            self.publish(&topic, json["data"].as_str().ok_or("no data")?);
            writer.write_all(match count % 2 {
                _ if self.fault == Fault::SayGoodbye => {
                    let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
                    return Ok(writer.write_all(last)?);
                }
                0 => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".as_slice(),
                _ => b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            })?;
            if self.fault == Fault::Leave {
                return Ok(());
            }
        }
        Ok(())
    }

    fn subscribe(&self, topic: &str, socket: &WebSocket<TcpStream>, lines: bool) -> Outcome {
        let stream = socket.get_ref().try_clone()?;
        let socket = WebSocket::from_raw_socket(stream, Role::Server, None);
        let subscriber = Subscriber { socket, lines, sent: 0, pending: Vec::new() };
        self.topics.lock().unwrap().entry(topic.into()).or_default().push(subscriber);
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &str) {
        let mut topics = self.topics.lock().unwrap();
        for (index, subscriber) in topics.get_mut(topic).into_iter().flatten().enumerate() {
            subscriber.sent += 1;
            let faulty = index == 0 && subscriber.sent == FAULTY;
            let mut payload = payload.to_string();
            if faulty && self.fault == Fault::Damage {
                let at = payload.len() - 2;
                payload.replace_range(at..=at, "!");
            }
            let message = if subscriber.lines {
                format!("MSG {topic} 1 {}\r\n{payload}\r\n", payload.len())
            } else {
                format!("{{\"push\":{{\"channel\":\"{topic}\",\"data\":\"{payload}\"}}}}\n")
            };
            let times = match self.fault {
                Fault::Drop if faulty => 0,
                Fault::Repeat if faulty => 2,
                _ => 1,
            };
            subscriber.pending.extend_from_slice(message.repeat(times).as_bytes());
        }
    }

    /// Sends what has gathered, and a heartbeat behind it.
    fn flush(&self, heartbeat: bool) {
        let mut topics = self.topics.lock().unwrap();
        for subscriber in topics.values_mut().flatten() {
            if heartbeat {
                self.heartbeats.fetch_add(1, Ordering::Relaxed);
                subscriber.pending.extend_from_slice(if subscriber.lines { b"PING\r\n" } else { b"{}\n" });
            }
            let pending = std::mem::take(&mut subscriber.pending);
            let pieces: Vec<Message> = match subscriber.lines {
                true => pending.chunks(CUT).map(|piece| Message::binary(piece.to_vec())).collect(),
                // The last line of a message has no line end.
                false => (pending.strip_suffix(b"\n").into_iter())
                    .map(|text| Message::text(String::from_utf8_lossy(text).as_ref()))
                    .collect(),
            };
            for piece in pieces {
                // A subscriber that has gone is nobody's concern.
                let _ = subscriber.socket.write(piece);
            }
            let _ = subscriber.socket.flush();
        }
    }
}
