//! A server process: started for one run, waited for, and ended with all its children.
//!
//! Invariants: a server that was started is ended, whatever becomes of the run: by `Drop`, or by the thread that
//! waits for SIGINT, SIGTERM and SIGHUP. It is the leader of a process group of its own, so that its children end
//! with it, and so that Ctrl-C reaches it only through here. Its scratch directory goes with it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::peer::Peer;
use super::placement::within;
use crate::cli::CpuList;
use crate::failure::Failure;

/// How long a server may take until its port accepts.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to end by SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Servers that run now.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

struct Running {
    leader: Pid,
    directory: PathBuf,
}

/// From now on a signal that ends this program ends its servers first.
pub(super) fn end_on_signals() -> Result<(), Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(Failure::system("cannot wait for signals, so servers might be left running"))?;
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // Held until the end: nothing can be started any more.
        let running = RUNNING.lock().expect("nobody panics while a server starts or ends");
        for server in running.iter() {
            end_group(server.leader);
            let _ = fs::remove_dir_all(&server.directory);
        }
        let _ = writeln!(io::stderr(), "\nstentor-load: interrupted; the servers were ended");
        std::process::exit(128 + signal);
    });
    Ok(())
}

/// A server that accepts connections.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    leader: Pid,
    port: u16,
    directory: PathBuf,
}

impl Server {
    /// Starts `peer` on a free port, on `cpus` if it has its own, and waits until it accepts. What fails is told
    /// with the end of what it printed.
    pub(super) fn start(peer: &Peer, cpus: Option<&CpuList>) -> Result<Self, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let directory = scratch().map_err(|error| format!("no temporary directory: {error}"))?;
        let mut server = match spawn(peer, cpus, port, &directory) {
            Ok((child, leader)) => Self { child, leader, port, directory },
            Err(what) => {
                let _ = fs::remove_dir_all(&directory);
                return Err(what);
            }
        };
        server.wait_until_up()?;
        Ok(server)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        loop {
            if let Some(how) = self.exited() {
                return Err(format!("before it accepted connections, the server {how}"));
            }
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                // While nobody listens, the system may connect a socket to itself: both ends choose from the same
                // ports.
                Ok(stream) if stream.local_addr().is_ok_and(|own| own != address) => return Ok(()),
                _ if began.elapsed() > START_TIMEOUT => {
                    return Err(format!(
                        "the server did not accept connections on port {} within {START_TIMEOUT:?}{}",
                        self.port,
                        self.last_words()
                    ));
                }
                _ => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The leader's process number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has: `exited with status 1; it said: …`.
    pub(super) fn exited(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{}{}", text(status), self.last_words()))
    }

    /// Fills all placeholders.
    pub(super) fn fill(&self, peer: &Peer, text: &str) -> String {
        fill(peer, self.port, &self.directory, text)
    }

    fn last_words(&self) -> String {
        let log = fs::read(log(&self.directory)).unwrap_or_default();
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<&str> = tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match lines[lines.len().saturating_sub(4)..] {
            [] => String::new(),
            ref last => format!("; it said: {}", last.join(" / ")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().expect("nobody panics while a server starts or ends");
        end_group(self.leader);
        // It has ended: this only takes its number back.
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
        running.retain(|server| server.leader != self.leader);
    }
}

fn spawn(peer: &Peer, cpus: Option<&CpuList>, port: u16, directory: &Path) -> Result<(Child, Pid), String> {
    let fill = |text: &String| fill(peer, port, directory, text);
    let said = File::create(log(directory)).and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = said.map_err(|error| format!("no file for what the server prints: {error}"))?;
    let words: Vec<String> = peer.start.iter().map(fill).collect();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .envs(peer.environment.iter().map(|(name, value)| (name, fill(value))))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0);
    let mut running = RUNNING.lock().expect("nobody panics while a server starts or ends");
    let child = within(cpus, || command.spawn())
        .map_err(|failure| failure.to_string())?
        .map_err(|error| format!("cannot start {}: {error}", words[0]))?;
    let leader = Pid::from_child(&child);
    running.push(Running { leader, directory: directory.into() });
    Ok((child, leader))
}

/// Ends a process group by SIGTERM, and what is left of it by SIGKILL. The leader is not waited for: its number must
/// not be given to others while it is the group's.
fn end_group(leader: Pid) {
    // An error means that nobody is left.
    let _ = kill_process_group(leader, Signal::TERM);
    let began = Instant::now();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(leader), options), Ok(None)) && began.elapsed() < END_TIMEOUT {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = kill_process_group(leader, Signal::KILL);
}

fn fill(peer: &Peer, port: u16, directory: &Path, text: &str) -> String {
    let scratch = directory.join("scratch");
    peer.fill(text).replace("{port}", &port.to_string()).replace("{scratch}", &scratch.to_string_lossy())
}

fn text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// A port that nobody listens on now. Another program may take it before the server does; the run then fails, and
/// says so.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A new directory with an empty `scratch` in it.
fn scratch() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("stentor-load-{}-{number}", std::process::id()));
    let mut builder = DirBuilder::new();
    builder.mode(0o700).create(&directory)?;
    builder.create(directory.join("scratch"))?;
    Ok(directory)
}

fn log(directory: &Path) -> PathBuf {
    directory.join("output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::test_kill_process_group;

    fn shell(script: &str) -> Peer {
        let start = ["sh", "-c", script].map(Into::into).to_vec();
        Peer::known("shell", String::new(), start, "ws://127.0.0.1:{port}/", "")
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let error = Server::start(&shell("echo out; echo no luck on {port} >&2; exit 3"), None).unwrap_err();
        let want =
            "before it accepted connections, the server exited with status 3; it said: out / no luck on ";
        assert!(error.starts_with(want), "{error}");
        let mut missing = shell("");
        missing.start = vec!["/no/such/program".into()];
        let error = Server::start(&missing, None).unwrap_err();
        assert!(error.contains("cannot start /no/such/program"), "{error}");
    }

    #[test]
    fn all_processes_of_a_server_end_and_its_files_go() {
        let directory = scratch().unwrap();
        // The child does not hear SIGTERM.
        let peer = shell("cd {scratch}; (trap '' TERM; sleep 60; sleep 60) & wait");
        let (child, leader) = spawn(&peer, None, 1, &directory).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert!(test_kill_process_group(leader).is_ok());
        drop(Server { child, leader, port: 1, directory: directory.clone() });
        let began = Instant::now();
        // The system takes away what has been killed a moment later.
        while test_kill_process_group(leader).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(5), "a process is left");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!directory.exists());
    }
}
