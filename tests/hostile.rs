//! Clients that do their worst within the protocol: what they cost is bounded, they are ended and counted, and who
//! behaves does not notice. Memory and processor time are those of a server process.

mod common;

use std::{
    io::{ErrorKind, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use common::{
    Client, Frame, Metrics, TestServer,
    client::{BINARY, PING, TEXT, header, upgrade_request},
    config, eventually, frame,
    process::Process,
    refusals::Neighbour,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stentor::config::Config;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Has this process open `files` files, if it may; says so if not.
fn may_open(files: u64) -> bool {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let enough = maximum.is_none_or(|maximum| maximum >= files)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(maximum.unwrap_or(files)), maximum }).is_ok();
    if !enough {
        eprintln!("NOT RUN: the hard limit on open files is {maximum:?}, this takes {files}");
    }
    enough
}

#[test]
fn ten_thousand_declare_much_and_send_a_byte() {
    const CLIENTS: usize = 10_000;
    const DECLARED: usize = MIB;
    if !may_open(CLIENTS as u64 + 200) {
        return;
    }
    let process = Process::start(&["--workers=1", "--max-message-bytes=1MiB"]);
    let mut neighbour = Neighbour::at(process.address);
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|_| Client::to(process.address).upgraded("/ws/t?mode=pub")).collect();
    let received = |process: &Process| process.metrics().sum("bytes_received");
    let mut before = process.anonymous_bytes();
    let begun = header(BINARY, DECLARED as u64);
    // First header and byte together, in one segment; then one byte more, for which a buffer is there already or not.
    for (name, bytes) in [("header and byte", [&begun[..], &[0]].concat()), ("a byte more", vec![0])] {
        let target = received(&process) + (CLIENTS * bytes.len()) as u64;
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(&bytes);
            if number % 1000 == 0 {
                neighbour.unhurt_by(name);
            }
        }
        eventually("it has received them", || received(&process) >= target);
        let after = process.anonymous_bytes();
        let each = after.saturating_sub(before) / CLIENTS as u64;
        // What was allocated and never written to is no memory yet; here it counts.
        let assembly = process.metrics().sum("assembly_bytes") / CLIENTS as u64;
        println!("{name}: {each} bytes of memory each, {assembly} counted; {DECLARED} were declared");
        assert!(each.max(assembly) <= 5 * KIB as u64, "{name}: {each} bytes each, {assembly} counted");
        before = before.min(after);
        neighbour.unhurt_by(name);
    }
    // Nobody was refused for what it declared.
    let metrics = process.metrics();
    assert_eq!((metrics.sum("protocol_errors"), metrics.reason("closed", "assembly_full")), (0, 0));
    drop(clients);
    process.until("all is given back", |metrics| metrics.sum("assembly_bytes") == 0);
    neighbour.unhurt_by("their end");
}

/// Clients that send `bytes` again and again until they are cut off, and never read.
fn flood(process: &Process, clients: usize, path: &str, bytes: &[u8]) -> Vec<JoinHandle<()>> {
    let flooders = (0..clients).map(|_| {
        let mut client = Client::narrow(process).upgraded(path);
        let bytes = bytes.to_vec();
        std::thread::spawn(move || {
            let began = Instant::now();
            loop {
                match client.stream.write_all(&bytes) {
                    Ok(()) => assert!(began.elapsed() < common::PATIENCE, "it is never cut off"),
                    Err(error) => {
                        assert_ne!(error.kind(), ErrorKind::WouldBlock, "it is held back, and never cut off");
                        return;
                    }
                }
            }
        })
    });
    flooders.collect()
}

/// What floods cost: watched until all flooders were cut off for it.
struct Cost {
    /// The most memory that the server took beyond what it had.
    memory_bytes: usize,
    /// What it received of them.
    received_bytes: u64,
}

fn watch(process: &Process, flooders: usize, start: impl FnOnce() -> Vec<JoinHandle<()>>) -> Cost {
    let mut neighbour = Neighbour::at(process.address);
    // The first round trips make what stays: buffers, tables.
    neighbour.unhurt_by("nobody");
    let (before, received) = (process.anonymous_bytes(), process.metrics().sum("bytes_received"));
    let ended = |metrics: &Metrics| metrics.reason("closed", "write_timeout");
    let already = ended(&process.metrics());
    let threads = start();
    let mut most = before;
    let mut asked = Client::to(process.address);
    eventually("they are cut off", || {
        neighbour.unhurt_by("a flood");
        most = most.max(process.anonymous_bytes());
        ended(&Metrics::asked_on(&mut asked)) == already + flooders as u64
    });
    for thread in threads {
        thread.join().expect("it was cut off");
    }
    neighbour.unhurt_by("their end");
    Cost {
        memory_bytes: (most - before) as usize,
        received_bytes: process.metrics().sum("bytes_received") - received,
    }
}

const FLOOD: &[&str] =
    &["--workers=1", "--echo", "--write-timeout=2s", "--reply-bytes-max=1MiB", "--send-buffer-bytes=16KiB"];

#[test]
fn who_floods_echo_and_never_reads() {
    const FLOODERS: usize = 8;
    for message in [1_000, 200_000] {
        let process = Process::start(FLOOD);
        let bytes = frame(BINARY, &vec![7; message]);
        let cost = watch(&process, FLOODERS, || flood(&process, FLOODERS, "/echo", &bytes));
        let each = (cost.memory_bytes / FLOODERS, cost.received_bytes / FLOODERS as u64);
        println!("echoes of {message} bytes: memory and bytes received {each:?} of each");
        // Replies up to the bound and the one that passed it, and what the allocator rounds up.
        assert!(each.0 <= MIB + message + MIB / 2, "{each:?}");
        // The same and what the sockets hold: then it is not read any more.
        assert!(each.1 <= (MIB + 2 * message + 512 * KIB) as u64, "{each:?}");
    }
}

#[test]
fn who_floods_pings_and_never_reads() {
    const FLOODERS: usize = 8;
    let process = Process::start(FLOOD);
    let bytes = frame(PING, &[7; 125]).repeat(1000);
    let cost = watch(&process, FLOODERS, || flood(&process, FLOODERS, "/ws/t?mode=pub", &bytes));
    let each = cost.memory_bytes / FLOODERS;
    println!("pings: {each} bytes of memory for each");
    // Pongs up to the bound, and what the allocator rounds up.
    assert!(each <= MIB + MIB / 2, "{each}");
}

#[test]
fn who_reads_a_byte_a_second_is_judged_by_its_lag() {
    let server = TestServer::start(&Config {
        workers: 1,
        lag_bytes_max: 256 * KIB,
        max_message_bytes: 64 * KIB,
        send_buffer_bytes: 16 * KIB,
        ..config()
    });
    let slow = Client::narrow(&server).upgraded("/ws/t?mode=sub");
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let reader = std::thread::spawn(move || {
        let mut stream = slow.stream;
        let mut next = Instant::now();
        while !told.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                next += Duration::from_secs(1);
                if !matches!(stream.read(&mut [0]), Ok(1)) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut neighbours: Vec<_> = (0..3).map(|_| Client::open(&server, "/ws/t?mode=sub")).collect();
    let mut publisher = Client::open(&server, "/ws/t?mode=pub");
    server.until("all subscribe", |metrics| metrics.sum("subscriptions") == 4);
    let mut publish = |number: usize| {
        let payload = vec![u8::try_from(number % 251).expect("below 251"); 10_000];
        publisher.send_frame(BINARY, &payload);
        for neighbour in &mut neighbours {
            assert_eq!(neighbour.message(), Frame::binary(&payload), "message {number}");
        }
    };
    // Within its bound it stays, however slow it is.
    (0..20).for_each(&mut publish);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.metrics().sum("closed"), 0);
    // Beyond, it has a second to take the close frame, and is counted when it is gone.
    let mut sent = 20;
    eventually("it is called slow", || {
        publish(sent);
        sent += 1;
        server.metrics().sum("slow_consumers") == 1
    });
    assert_eq!(server.metrics().reason("closed", "slow_consumer"), 1);
    over.store(true, Ordering::Relaxed);
    reader.join().expect("no panic");
}

#[test]
fn descriptors_run_out() {
    const FILES: u32 = 64;
    const SILENT: usize = 200;
    // With direct descriptors they are not what runs out: see `direct_descriptors.rs`.
    let process = Process::start_with_files(FILES, &["--workers=1", "--handshake-timeout=1m"]);
    let mut asked = Client::to(process.address);
    let mut neighbour = Neighbour::at(process.address);
    let mut subscribers: Vec<_> =
        (0..10).map(|_| Client::to(process.address).upgraded("/ws/t?mode=sub")).collect();
    let mut publisher = Client::to(process.address).upgraded("/ws/t?mode=pub");
    // They fill what is allowed, what is kept to tell the others so, and the kernel's queue.
    let silent: Vec<_> = (0..SILENT).map(|_| Client::to(process.address)).collect();
    eventually("descriptors have run out", || Metrics::asked_on(&mut asked).sum("accept_errors") > 0);
    let metrics = Metrics::asked_on(&mut asked);
    assert!(metrics.sum("accepted") < u64::from(FILES), "{}", metrics.0);
    assert!(metrics.reason("refused", "too_many_connections") > 0, "{}", metrics.0);

    let (began, before) = (Instant::now(), process.cpu_time());
    while began.elapsed() < Duration::from_secs(2) {
        neighbour.unhurt_by("two hundred who wait");
        publisher.send_frame(TEXT, b"to all");
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.text(), "to all");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (passed, used) = (began.elapsed(), process.cpu_time() - before);
    println!("without descriptors: {used:?} of processor time in {passed:?}");
    assert!(used < passed / 5, "it spins: {used:?} of {passed:?}");
    let later = Metrics::asked_on(&mut asked);
    assert_eq!(later.sum("accepted"), metrics.sum("accepted"), "nobody could be accepted meanwhile");

    drop(silent);
    eventually("who comes now is served", || {
        Client::to(process.address).request(&upgrade_request("/ws/t")).status == 101
    });
    neighbour.unhurt_by("their end");
    assert_eq!(process.logged("no connection can be accepted"), 1, "said once, not at every attempt");
}
