//! The end of the whole process: SIGTERM and SIGINT drain it, a second signal ends it at once.

mod common;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{Client, Metrics, client::CLOSE, client::close_body, process::Process};
use rustix::process::Signal;

#[test]
fn clients_are_told_and_the_exit_code_is_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&["--workers=2", "--drain-timeout=5s"]);
        let clients: Vec<_> =
            (0..10).map(|i| Client::to(process.address).upgraded(&format!("/ws/{i}"))).collect();
        process.signal(signal);
        for mut client in clients {
            let (code, reason) = client.close_frame();
            assert_eq!((code, reason.is_empty()), (Some(1001), false));
            client.send_frame(CLOSE, &close_body(1001, ""));
            client.end();
        }
        let began = Instant::now();
        assert_eq!(process.ended().code(), Some(0), "{signal:?}");
        assert!(began.elapsed() < Duration::from_secs(3), "it does not wait when nobody is left");
    }
}

#[test]
fn the_closes_are_spread() {
    let mut process = Process::start(&["--workers=1", "--drain-timeout=2s"]);
    let mut clients: Vec<_> = (0..500).map(|_| Client::to(process.address).upgraded("/ws/t")).collect();
    process.signal(Signal::TERM);
    let told: Vec<Instant> = clients
        .iter_mut()
        .map(|client| {
            assert_eq!(client.close_frame().0, Some(1001));
            client.send_frame(CLOSE, &close_body(1001, ""));
            Instant::now()
        })
        .collect();
    let spread = told[499] - told[0];
    assert!(spread >= Duration::from_millis(400), "they do not all come back at once: {spread:?}");
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn nobody_new_gets_in() {
    let mut process = Process::start(&["--drain-timeout=20s", "--close-timeout=20s"]);
    let mut staying = Client::to(process.address).upgraded("/ws/t");
    let mut waiting = Client::to(process.address);
    // Who has said nothing at all is still the kernel's.
    Metrics::asked_on(&mut waiting);
    process.signal(Signal::TERM);
    // This one does not answer, so the drain goes on.
    assert_eq!(staying.close_frame().0, Some(1001));
    waiting.end();
    common::eventually("connections are refused", || TcpStream::connect(process.address).is_err());
    assert!(process.runs());
    staying.send_frame(CLOSE, &close_body(1001, ""));
    staying.end();
    drop(staying);
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn a_drain_has_its_time() {
    // A client that does not answer has the close timeout on top of the drain's; also where the drain has none.
    for (drain, all) in [("1s", 1500), ("0s", 500)] {
        let mut process = Process::start(&[&format!("--drain-timeout={drain}"), "--close-timeout=500ms"]);
        let mut silent = Client::to(process.address).upgraded("/ws/t");
        process.signal(Signal::TERM);
        let began = Instant::now();
        assert_eq!(silent.close_frame().0, Some(1001));
        assert_eq!(process.ended().code(), Some(0));
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
        assert!(began.elapsed() <= Duration::from_millis(all + 2000), "{:?}", began.elapsed());
        silent.gone();
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)] {
        let mut process = Process::start(&["--drain-timeout=1h", "--close-timeout=1h"]);
        let mut client = Client::to(process.address).upgraded("/ws/t");
        process.signal(first);
        process.until_logged("draining");
        assert_eq!(client.close_frame().0, Some(1001));
        assert!(process.runs());
        process.signal(second);
        assert_eq!(process.ended().code(), Some(code));
    }
}
