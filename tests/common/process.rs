//! The server's binary as a process of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Metrics, PATIENCE, eventually, poll};

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
        Process::run(Command::new(env!("CARGO_BIN_EXE_stentor")), flags)
    }

    /// The same, with so many open files at most. Its connections are among them, whatever [`flags`](super::flags) say: unless
    /// the test itself asks for direct descriptors.
    pub fn start_with_files(files: u32, flags: &[&str]) -> Process {
        let mut shell = Command::new("/bin/sh");
        shell.args([
            "-c",
            &format!("ulimit -n {files} && exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_stentor"),
        ]);
        let asks = flags.iter().any(|flag| flag.starts_with("--driver"));
        let given = super::flags().into_iter().filter(|flag| !asks && flag != "--direct-descriptors");
        shell.args(given);
        Process::spawn(shell, flags)
    }

    fn run(mut command: Command, flags: &[&str]) -> Process {
        command.args(super::flags());
        Process::spawn(command, flags)
    }

    fn spawn(mut command: Command, flags: &[&str]) -> Process {
        let mut child = command
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

    /// Lines with `text` among those that it has logged since the last call.
    pub fn logged(&self, text: &str) -> usize {
        self.lines.try_iter().filter(|line| line.contains(text)).count()
    }

    /// What its `/metrics` says, on a connection of its own.
    pub fn metrics(&self) -> Metrics {
        Metrics::asked_on(&mut Client::to(self.address))
    }

    /// Waits until a condition on the metrics holds.
    pub fn until(&self, what: &str, condition: impl Fn(&Metrics) -> bool) {
        eventually(what, || condition(&self.metrics()));
    }

    /// Bytes of memory that it has for itself, beside what it maps from files.
    pub fn anonymous_bytes(&self) -> u64 {
        let status = self.of_proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells it");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    /// Processor time that it has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.of_proc("stat");
        // The fields behind the name, which may contain spaces; user and system time are the 14th and 15th of all.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // Hundredths of a second (USER_HZ), whatever the kernel's own rate is.
        Duration::from_millis(ticks * 10)
    }

    /// Files that it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    fn of_proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
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
