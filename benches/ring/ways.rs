//! The ways to receive.

use std::{io, net::TcpStream, os::fd::OwnedFd, rc::Rc};

use rustix::{
    buffer::spare_capacity,
    event::epoll,
    net::{RecvFlags, recv},
};

use crate::ring::{Buffers, Provided, Ring, Tag};

/// A way to receive from many sockets on one thread.
pub trait Way: Sized {
    const NAME: &'static str;

    /// With these sockets, which it asks nothing of yet.
    fn new(sockets: &Rc<[TcpStream]>) -> io::Result<Self>;

    /// Asks to be told what comes.
    fn arm(&mut self) -> io::Result<()>;

    /// Receives this message so many times, each from another socket.
    fn receive(&mut self, times: usize, message: &[u8]);

    /// System calls so far.
    fn calls(&self) -> u64;
}

/// epoll, edge-triggered, and one receive for each socket that is ready.
pub struct Epoll {
    epoll: OwnedFd,
    sockets: Rc<[TcpStream]>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    calls: u64,
}

impl Way for Epoll {
    const NAME: &'static str = "epoll";

    fn new(sockets: &Rc<[TcpStream]>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let sockets = Rc::clone(sockets);
        Ok(Epoll { epoll, sockets, events: Vec::with_capacity(1024), buffer: vec![0; 4096], calls: 0 })
    }

    fn arm(&mut self) -> io::Result<()> {
        let interest =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        for (place, socket) in (0..).zip(&*self.sockets) {
            epoll::add(&self.epoll, socket, epoll::EventData::new_u64(place), interest)?;
        }
        // All can be written to, which is told once.
        for _ in self.sockets.chunks(self.events.capacity()) {
            self.events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), None)?;
        }
        Ok(())
    }

    fn receive(&mut self, times: usize, message: &[u8]) {
        let mut received = 0;
        while received < times {
            self.events.clear();
            self.calls += 1;
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), None).expect("it is waited for");
            for event in &self.events {
                let socket = &self.sockets[event.data.u64() as usize];
                self.calls += 1;
                let (bytes, _) = recv(socket, &mut self.buffer[..], RecvFlags::empty()).expect("a message");
                assert_eq!(self.buffer[..bytes], *message);
                received += 1;
            }
        }
    }

    fn calls(&self) -> u64 {
        self.calls
    }
}

/// A poll for each socket that goes on, as the driver's, and receives for those that are ready: up to so many in one
/// system call.
pub struct Polls<const TOGETHER: u16> {
    ring: Ring,
    sockets: u32,
    ready: Vec<u32>,
    buffers: Buffers,
}

impl<const TOGETHER: u16> Polls<TOGETHER> {
    /// Takes what has completed, and says how many messages came.
    fn take(&mut self, message: &[u8]) -> usize {
        let mut received = 0;
        for completion in self.ring.completions() {
            match completion.tag {
                Tag::Polled(place) => {
                    assert!(completion.more && completion.result & i32::from(libc::POLLIN) != 0);
                    self.ready.push(place);
                }
                Tag::Received(number) => {
                    assert_eq!(completion.result, message.len() as i32);
                    assert!(self.buffers.begins_with(number as u16, message));
                    received += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        received
    }
}

impl<const TOGETHER: u16> Way for Polls<TOGETHER> {
    const NAME: &'static str = if TOGETHER == 1 { "poll, each" } else { "poll, together" };

    fn new(sockets: &Rc<[TcpStream]>) -> io::Result<Self> {
        let ring = Ring::new(sockets.len())?;
        ring.put(sockets)?;
        Ok(Polls { ring, sockets: sockets.len() as u32, ready: Vec::new(), buffers: Buffers::new(TOGETHER) })
    }

    fn arm(&mut self) -> io::Result<()> {
        (0..self.sockets).for_each(|place| self.ring.poll(place));
        self.ring.settle();
        Ok(())
    }

    fn receive(&mut self, times: usize, message: &[u8]) {
        let mut received = 0;
        while received < times {
            if self.ready.is_empty() {
                self.ring.wait();
            } else {
                let together = self.ready.len().min(TOGETHER.into());
                for (number, place) in (0..).zip(self.ready.drain(..together)) {
                    self.ring.receive(place, &mut self.buffers, number);
                }
                self.ring.submit();
            }
            received += self.take(message);
        }
    }

    fn calls(&self) -> u64 {
        self.ring.calls
    }
}

/// A receive for each socket that goes on, into buffers that the kernel takes from one ring of them.
pub struct Multishot {
    ring: Ring,
    sockets: u32,
    provided: Provided,
    /// Sockets whose receive has ended, since no buffer was there.
    ended: Vec<u32>,
}

impl Way for Multishot {
    const NAME: &'static str = "multishot";

    fn new(sockets: &Rc<[TcpStream]>) -> io::Result<Self> {
        let ring = Ring::new(sockets.len())?;
        ring.put(sockets)?;
        let provided = Provided::new(&ring)?;
        Ok(Multishot { ring, sockets: sockets.len() as u32, provided, ended: Vec::new() })
    }

    fn arm(&mut self) -> io::Result<()> {
        (0..self.sockets).for_each(|place| self.ring.receive_on(place));
        self.ring.settle();
        Ok(())
    }

    fn receive(&mut self, times: usize, message: &[u8]) {
        let mut received = 0;
        while received < times {
            self.ring.wait();
            for completion in self.ring.completions() {
                let Tag::Received(place) = completion.tag else { panic!("{completion:?}") };
                if !completion.more {
                    self.ended.push(place);
                }
                let Some(number) = completion.buffer else {
                    assert_eq!(completion.result, -libc::ENOBUFS);
                    continue;
                };
                assert_eq!(completion.result, message.len() as i32);
                assert!(self.provided.begins_with(number, message));
                self.provided.give(number);
                received += 1;
            }
            for place in self.ended.drain(..) {
                self.ring.receive_on(place);
            }
        }
    }

    fn calls(&self) -> u64 {
        self.ring.calls
    }
}
