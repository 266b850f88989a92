//! The server's binary as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Metrics, PATIENCE, poll};

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

    /// What `/metrics` says now.
    pub fn metrics(&self) -> Metrics {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        Metrics(Client::connect(self).request(&request).body)
    }

    /// Its resident anonymous memory, in bytes: heap and stacks.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux has it");
        let kib = line.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok());
        kib.expect("a number of kB") * 1024
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

impl From<&Process> for SocketAddr {
    fn from(process: &Process) -> SocketAddr {
        process.address
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
