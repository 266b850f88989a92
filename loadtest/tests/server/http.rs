//! A server's HTTP API for the tests: each POST gets the next offset.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What goes wrong, once, at the 20th request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// An offset is left out.
    Skip,
    /// It is answered with the last one's offset.
    Repeat,
    /// It is answered with 503.
    Refuse,
    /// The connection ends.
    Close,
}

/// Starts a server that lives as long as the test.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, requests) = (stream.unwrap(), Arc::clone(&requests));
            // A client that resets its connection ends its thread, as it should.
            thread::spawn(move || serve(stream, &requests, fault));
        }
    });
    address
}

fn serve(stream: TcpStream, requests: &AtomicU64, fault: Fault) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        assert!(body.starts_with(b"{\"channel\":\"bench\",\"data\":\"") && body.ends_with(b"\"}"));
        let request = requests.fetch_add(1, Ordering::SeqCst) + 1;
        let (status, offset) = match fault {
            Fault::Close if request == 20 => return Ok(()),
            Fault::Refuse if request == 20 => ("503 Service Unavailable", 0),
            Fault::Repeat if request == 20 => ("200 OK", request - 1),
            Fault::Skip if request >= 20 => ("200 OK", request + 1),
            _ => ("200 OK", request),
        };
        let body = if status.starts_with("200") {
            format!("{{\"result\":{{\"offset\":{offset},\"epoch\":\"e\"}}}}")
        } else {
            String::new()
        };
        write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}
