//! Listening sockets: one per worker and address. Options are set here and inherited by what is accepted,
//! so that a new connection costs no further system call.

#![allow(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Options of the listeners and of all connections that they accept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections that may wait to be accepted, per listener.
    pub backlog: u32,
    /// SO_SNDBUF in bytes, as asked for; Linux doubles it for its own bookkeeping.
    pub send_buffer_bytes: usize,
    /// SO_RCVBUF in bytes; `None` leaves it to the kernel, which then adapts it.
    pub receive_buffer_bytes: Option<usize>,
}

/// Binds one listener per worker to each address: `result[worker][address]`, and the addresses with the
/// ports that were given where 0 was asked for.
///
/// # Errors
/// The address and what the system said. A port that another process listens at is refused, although
/// `SO_REUSEPORT` would let us share it with a second server of the same user.
pub fn bind(
    addresses: &[SocketAddr],
    workers: usize,
    options: Options,
) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), BindError> {
    let mut listeners: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for &address in addresses {
        let fail = |error| BindError { address, error };
        let probe = open(address, Sharing::Exclusive, options).map_err(fail)?;
        let address = probe.local_addr().map_err(fail)?;
        drop(probe);
        for of_worker in &mut listeners {
            of_worker.push(open(address, Sharing::WithOtherWorkers, options).map_err(fail)?);
        }
        bound.push(address);
    }
    Ok((listeners, bound))
}

/// Why an address can't be listened at.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub error: io::Error,
}

#[derive(Clone, Copy, PartialEq)]
enum Sharing {
    Exclusive,
    WithOtherWorkers,
}

fn open(address: SocketAddr, sharing: Sharing, options: Options) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Only IPv6: whoever wants both listens at both, and [::] beside 0.0.0.0 is no conflict.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if sharing == Sharing::WithOtherWorkers {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(options.send_buffer_bytes)?;
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_nonblocking(true)?;
    // Only an advantage: a system that does not know it does without.
    let _ = defer_accept(&socket);
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// A connection is only handed over with its first bytes, or after about a second without any (`TCP_DEFER_ACCEPT`,
/// tcp(7)): a handshake wakes the worker once less, which is a third of what it costs. In HTTP the client speaks first.
fn defer_accept(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    let len = size_of_val(&seconds) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of an integer that outlives the call, and the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

    const OPTIONS: Options = Options { backlog: 16, send_buffer_bytes: 65536, receive_buffer_bytes: None };

    #[test]
    fn workers_share_a_port_and_strangers_do_not() {
        let (listeners, bound) = bind(&["127.0.0.1:0".parse().unwrap()], 3, OPTIONS).unwrap();
        assert_eq!((listeners.len(), bound.len()), (3, 1));
        assert!(listeners.iter().all(|of_worker| of_worker[0].local_addr().unwrap() == bound[0]));
        let error = bind(&bound, 1, OPTIONS).unwrap_err();
        assert_eq!((error.address, error.error.kind()), (bound[0], io::ErrorKind::AddrInUse));
    }

    #[test]
    fn who_says_nothing_wakes_nobody() {
        let (listeners, bound) = bind(&["127.0.0.1:0".parse().unwrap()], 1, OPTIONS).unwrap();
        let mut client = std::net::TcpStream::connect(bound[0]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(listeners[0][0].accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"G").unwrap();
        let (socket, _) = listeners[0][0].accept().unwrap();
        drop(socket);
        // Not for ever: what never speaks is the worker's to time out.
        let _silent = std::net::TcpStream::connect(bound[0]).unwrap();
        let began = std::time::Instant::now();
        while listeners[0][0].accept().is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let (listeners, bound) = bind(&["127.0.0.1:0".parse().unwrap()], 1, OPTIONS).unwrap();
        let mut client = std::net::TcpStream::connect(bound[0]).unwrap();
        client.write_all(b"G").unwrap();
        let began = std::time::Instant::now();
        let (socket, _) = loop {
            match listeners[0][0].accept() {
                Ok(accepted) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(began.elapsed() < Duration::from_secs(10), "nothing to accept");
        };
        assert!(socket.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&socket).send_buffer_size().unwrap(), 2 * 65536);
    }
}
