//! The server's binary as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, poll};

/// A running `stentor`; killed when dropped.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Process {
    /// Starts it with `flags` on a free port, and waits until it listens.
    pub fn start(flags: &[&str]) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stentor"))
            .arg("--listen=127.0.0.1:0")
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let address = loop {
            let line = lines.recv_timeout(PATIENCE).expect("it says where it listens");
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split('/').next().and_then(|address| address.parse().ok()).expect("an address");
            }
        };
        Process { child, lines, address }
    }

    /// Waits until it logs a line that contains `text`.
    pub fn until_logged(&self, text: &str) {
        while !self.lines.recv_timeout(PATIENCE).expect("a line of the log").contains(text) {}
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        assert!(poll(|| !self.runs()), "it has not ended within {PATIENCE:?}");
        self.child.wait().expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
