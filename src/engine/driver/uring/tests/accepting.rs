//! Listeners: a crowd at the door, sockets that move, addresses that are free again.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use super::{super::DOOR, Descriptors, PATIENCE, Test, Uring, read_exactly, readable, with_each};
use crate::engine::driver::{Driver, Event, listener};

fn listening(descriptors: Descriptors) -> (Uring, SocketAddr) {
    let options = listener::Options { backlog: 4096, send_buffer_bytes: 65536, receive_buffer_bytes: None };
    let (mut listeners, bound) = listener::bind(&["127.0.0.1:0".parse().unwrap()], 1, options).unwrap();
    (Uring::new(listeners.remove(0), descriptors, Instant::now()).unwrap(), bound[0])
}

/// A connection that has spoken, so that it is handed over at once.
fn connect(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"G").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn accept(driver: &mut Uring) -> (OwnedFd, SocketAddr) {
    let began = Instant::now();
    loop {
        if let Some(accepted) = driver.accept().unwrap() {
            return accepted;
        }
        driver.wait(Some(Duration::from_millis(50)), &mut Vec::new()).unwrap();
        assert!(began.elapsed() < PATIENCE, "nothing was accepted");
    }
}

/// More than may wait for the worker: accepting stops, and goes on when they have been taken in.
#[test]
fn a_crowd_waits_at_the_listener_and_not_in_the_driver() {
    with_each(|descriptors| {
        let (mut driver, address) = listening(descriptors);
        let clients: Vec<TcpStream> = (0..DOOR + 50).map(|_| connect(address)).collect();
        let mut events = Vec::new();
        while driver.door.len() <= DOOR {
            driver.wait(Some(Duration::from_secs(1)), &mut events).unwrap();
        }
        assert_eq!(events.last(), Some(&Event::Acceptable));
        // The end of accepting comes, and what is accepted from now on is nothing.
        driver.wait(Some(Duration::from_millis(50)), &mut events).unwrap();
        let before = driver.door.len();
        let more: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
        driver.wait(Some(Duration::from_millis(50)), &mut events).unwrap();
        assert_eq!(driver.door.len(), before);

        let addresses: BTreeSet<SocketAddr> =
            (0..clients.len() + more.len()).map(|_| accept(&mut driver).1).collect();
        let clients = clients.iter().chain(&more);
        assert_eq!(addresses, clients.map(|client| client.local_addr().unwrap()).collect());
    });
}

/// An accept under way would hold the listener, even after the process.
#[test]
fn an_address_is_free_when_nobody_listens_any_more() {
    with_each(|descriptors| {
        for stopped in [true, false] {
            let (mut driver, address) = listening(descriptors);
            let waits = connect(address);
            driver.wait(Some(Duration::from_secs(1)), &mut Vec::new()).unwrap();
            let _open = {
                let open = connect(address);
                let (socket, _) = accept(&mut driver);
                driver.add(0, socket).unwrap();
                open
            };
            if stopped {
                driver.stop_listening();
                assert!(TcpStream::connect(address).is_err());
                driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
            } else {
                drop(driver);
            }
            drop(waits);
            let again = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            again.set_reuse_address(true).unwrap();
            again.bind(&address.into()).unwrap();
            again.listen(1).expect("nobody listens there");
        }
    });
}

#[test]
fn sockets_move_from_one_ring_to_another() {
    with_each(|descriptors| {
        let (mut driver, address) = listening(descriptors);
        let client = connect(address);
        let (socket, peer) = accept(&mut driver);
        assert_eq!(peer, client.local_addr().unwrap());
        thread::spawn(move || {
            let mut test = Test::new(descriptors);
            test.driver.add(3, socket).unwrap();
            test.until(readable(3, false));
            assert_eq!(test.receive(3).unwrap(), b"G");
            assert_eq!(test.submit(&[(3, b"moved")]), []);
        })
        .join()
        .unwrap();
        assert_eq!(read_exactly(&client, 5), b"moved");
    });
}
