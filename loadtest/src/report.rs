//! What a run has to say: figures, whether they count, and the use of CPU beside them.
//!
//! Owns the shape of the JSON (`loadtest/README.md` documents it) and the text for people. A scenario supplies
//! its own figures as a [`Figures`]; everything else is the same for all.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value as Json;

use crate::failure::Failure;
use crate::proc::{self, MachineSample, ProcessSample};

/// The figures of one scenario.
pub(crate) trait Figures: Serialize {
    /// Lines for people: label and value.
    fn lines(&self) -> Vec<(&'static str, String)>;
}

/// Whether the figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Every message was accounted for.
    Valid,
    /// They do not: `void_because` says why.
    Void,
}

/// All that is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report<F> {
    /// Name of the subcommand.
    pub(crate) command: &'static str,
    /// As given by `--url`.
    pub(crate) url: String,
    /// The machine that it was measured on.
    pub(crate) environment: Json,
    /// Whether the figures count.
    pub(crate) verdict: Verdict,
    /// Why they do not; empty if they do.
    pub(crate) void_because: Vec<String>,
    /// What a reader of the figures must know.
    pub(crate) notes: Vec<String>,
    /// Length of the measurement, in seconds.
    pub(crate) seconds: f64,
    /// The scenario's own.
    pub(crate) figures: F,
    /// What the server's process and its descendants used, if `--server-pid` was given.
    pub(crate) server: Option<ServerUse>,
    /// What this process used.
    pub(crate) generator: GeneratorUse,
    /// What the whole machine did.
    pub(crate) machine: MachineUse,
}

impl<F: Figures> Report<F> {
    /// Joins figures with the use of CPU; void if `void_because` has reasons.
    pub(crate) fn new(
        command: &'static str,
        url: String,
        figures: F,
        usage: Usage,
        void_because: Vec<String>,
        mut notes: Vec<String>,
    ) -> Self {
        if usage.generator.busy {
            notes.push(format!(
                "{}: the rate is a lower bound; server CPU per unit of work still counts",
                usage.generator.busy_why(usage.machine.busy)
            ));
        }
        if usage.machine.steal > 0.01 {
            notes.push(format!(
                "the hypervisor took {} of the machine: measure again",
                percent(usage.machine.steal)
            ));
        }
        if let Some(others) = usage.machine.others.filter(|others| *others > OTHERS_MAX) {
            notes.push(format!("other programs took {} of the machine: measure again", percent(others)));
        }
        Self {
            command,
            url,
            environment: proc::environment(),
            verdict: if void_because.is_empty() { Verdict::Valid } else { Verdict::Void },
            void_because,
            notes,
            seconds: usage.seconds,
            figures,
            server: usage.server,
            generator: usage.generator,
            machine: usage.machine,
        }
    }

    /// Prints it: with `json`, the object to standard output and the text to standard error; else only the text.
    pub(crate) fn print(&self, json: bool) -> Result<Verdict, Failure> {
        let text = self.text();
        let printed = if json {
            let object = serde_json::to_string(self).expect("strings, numbers and lists always make JSON");
            io::stderr().write_all(text.as_bytes()).and_then(|()| writeln!(io::stdout(), "{object}"))
        } else {
            io::stdout().write_all(text.as_bytes())
        };
        printed.map_err(Failure::system("cannot print the report"))?;
        Ok(self.verdict)
    }

    fn text(&self) -> String {
        let mut lines =
            vec![("measured", format!("{} on {} for {:.1} s", self.command, self.url, self.seconds))];
        lines.extend(self.figures.lines());
        if let Some(server) = &self.server {
            lines.push((
                "server",
                format!(
                    "{:.2} cores ({:.2} user, {:.2} system), {} anonymous memory, {} switches/s",
                    server.cores,
                    server.user_seconds / self.seconds,
                    server.system_seconds / self.seconds,
                    bytes(server.rss_anon_bytes as f64),
                    quantity((server.voluntary_switches + server.involuntary_switches) as f64 / self.seconds),
                ),
            ));
        }
        let threads: Vec<String> = self
            .generator
            .threads
            .iter()
            .map(|thread| format!("{} {}", thread.name, percent(thread.busy)))
            .collect();
        lines.push(("generator", format!("{:.2} cores: {}", self.generator.cores, threads.join(", "))));
        lines.push((
            "machine",
            format!(
                "{} of {} CPUs busy, {} TCP memory",
                percent(self.machine.busy),
                self.machine.cpus,
                bytes(self.machine.tcp_memory_bytes as f64)
            ),
        ));
        lines.extend(self.notes.iter().map(|note| ("note", note.clone())));
        match self.verdict {
            Verdict::Valid => lines.push(("verdict", "valid".into())),
            Verdict::Void => lines.push(("verdict", format!("VOID: {}", self.void_because.join("; ")))),
        }
        lines.iter().map(|(label, value)| format!("{label:>16}  {value}\n")).collect()
    }
}

/// What the server used during the measurement.
#[derive(Debug, Serialize)]
pub(crate) struct ServerUse {
    pid: u32,
    /// User and system time of all its threads.
    pub(crate) cpu_seconds: f64,
    user_seconds: f64,
    system_seconds: f64,
    cores: f64,
    rss_anon_bytes: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

/// Share of the time above which a thread of the generator is a bottleneck.
const THREAD_BUSY_MAX: f64 = 0.9;

/// Share of the machine above which the generator may not have got the CPU that it wanted.
const MACHINE_BUSY_MAX: f64 = 0.97;

/// Idle share of the CPUs that a thread of the generator is bound to, below which it may not have got its turn: what
/// others do there, and the kernel for the network, is no time of the thread's own.
const CPU_IDLE_MIN: f64 = 0.1;

/// Share of the machine above which other programs are worth a note.
const OTHERS_MAX: f64 = 0.02;

/// What this process used during the measurement.
#[derive(Debug, Serialize)]
pub(crate) struct GeneratorUse {
    cpu_seconds: f64,
    cores: f64,
    threads: Vec<ThreadUse>,
    /// The rate is a lower bound: see [`THREAD_BUSY_MAX`], [`CPU_IDLE_MIN`] and [`MACHINE_BUSY_MAX`].
    busy: bool,
}

impl GeneratorUse {
    fn busy_why(&self, machine_busy: f64) -> String {
        if let Some(thread) = self.threads.iter().find(|thread| thread.busy > THREAD_BUSY_MAX) {
            return format!("generator busy ({} ran {})", thread.name, percent(thread.busy));
        }
        match self.threads.iter().find(|thread| thread.is_short_of_cpu()) {
            Some(ThreadUse { name, cpu_idle, .. }) => {
                let idle = percent(cpu_idle.unwrap_or(0.0));
                format!("generator short of CPU (where {name} is bound to, {idle} of the time was idle)")
            }
            None => format!("generator short of CPU (the machine was {} busy)", percent(machine_busy)),
        }
    }
}

/// One thread of this process.
#[derive(Debug, Serialize)]
pub(crate) struct ThreadUse {
    name: String,
    /// Share of the time that it ran, 0 to 1.
    busy: f64,
    /// Share of the time in which the CPUs that it is bound to were idle, 0 to 1; `None` if it may run on all.
    cpu_idle: Option<f64>,
}

impl ThreadUse {
    fn is_short_of_cpu(&self) -> bool {
        self.cpu_idle.is_some_and(|idle| idle < CPU_IDLE_MIN)
    }
}

/// What the whole machine did during the measurement.
#[derive(Debug, Serialize)]
pub(crate) struct MachineUse {
    cpus: usize,
    /// Share of all CPUs' time, 0 to 1.
    busy: f64,
    /// Share that the hypervisor gave to others, 0 to 1.
    steal: f64,
    /// Share that programs took which are neither server nor generator, 0 to 1; `None` if the server is not known.
    others: Option<f64>,
    /// Kernel memory that TCP sockets held for data at the end of the measurement.
    tcp_memory_bytes: u64,
}

/// Use of CPU and memory between two [`Sample`]s.
#[derive(Debug)]
pub(crate) struct Usage {
    /// Between them.
    pub(crate) seconds: f64,
    pub(crate) server: Option<ServerUse>,
    generator: GeneratorUse,
    machine: MachineUse,
}

impl Usage {
    /// Server CPU for each of `work` pieces, in microseconds.
    pub(crate) fn server_cpu_us_per(&self, work: f64) -> Option<f64> {
        self.server.as_ref().filter(|_| work > 0.0).map(|server| server.cpu_seconds * 1e6 / work)
    }
}

/// Reads what is needed for [`Usage`].
#[derive(Debug, Default)]
pub(crate) struct Watch {
    server_pid: Option<u32>,
    threads: Mutex<Vec<Enrolled>>,
}

/// A thread of this process.
#[derive(Clone, Debug)]
struct Enrolled {
    name: String,
    tid: i32,
    /// That it may run on.
    cpus: Vec<usize>,
}

/// One reading.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    server: Option<ProcessSample>,
    own_cpu_seconds: f64,
    /// With the CPU time of each, in seconds.
    threads: Vec<(Enrolled, f64)>,
    machine: MachineSample,
}

impl Watch {
    /// Watches this process, and the server's if its number is known; fails if that cannot be read.
    pub(crate) fn new(server_pid: Option<u32>) -> Result<Self, Failure> {
        let watch = Self { server_pid, threads: Mutex::default() };
        watch.server()?;
        Ok(watch)
    }

    /// Reads the server's process, if its number is known.
    pub(crate) fn server(&self) -> Result<Option<ProcessSample>, Failure> {
        self.server_pid.map(ProcessSample::read).transpose()
    }

    /// Adds the calling thread to the report, under `name`. It has been bound to its CPUs.
    pub(crate) fn enrol(&self, name: impl Into<String>) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = Enrolled { name: name.into(), tid, cpus: proc::allowed_cpus() };
        self.threads.lock().expect("no thread panics while it enrols").push(thread);
    }

    /// Reads all now.
    pub(crate) fn sample(&self) -> Result<Sample, Failure> {
        let mut threads = self.threads.lock().expect("no thread panics while it enrols").clone();
        threads.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Sample {
            at: Instant::now(),
            server: self.server()?,
            own_cpu_seconds: proc::own_cpu_seconds(),
            threads: threads
                .into_iter()
                .map(|thread| {
                    let seconds = proc::own_thread_cpu_seconds(thread.tid);
                    (thread, seconds)
                })
                .collect(),
            machine: MachineSample::read(),
        })
    }

    /// What was used from `a` to `b`.
    pub(crate) fn between(&self, a: &Sample, b: &Sample) -> Usage {
        let seconds = (b.at - a.at).as_secs_f64();
        let server = match (self.server_pid, a.server, b.server) {
            (Some(pid), Some(a), Some(b)) => {
                let (user, system) = (b.user_seconds - a.user_seconds, b.system_seconds - a.system_seconds);
                Some(ServerUse {
                    pid,
                    cpu_seconds: user + system,
                    user_seconds: user,
                    system_seconds: system,
                    cores: (user + system) / seconds,
                    rss_anon_bytes: b.rss_anon_bytes,
                    voluntary_switches: b.voluntary_switches.saturating_sub(a.voluntary_switches),
                    involuntary_switches: b.involuntary_switches.saturating_sub(a.involuntary_switches),
                })
            }
            _ => None,
        };
        let threads: Vec<ThreadUse> = (b.threads.iter())
            .map(|(thread, seconds_after)| {
                // A thread that enrolled after the first sample had not run before it.
                let before = a.threads.iter().find(|(other, _)| other.tid == thread.tid);
                let before = before.map_or(0.0, |(_, seconds)| *seconds);
                ThreadUse {
                    name: thread.name.clone(),
                    busy: (seconds_after - before) / seconds,
                    cpu_idle: b.machine.idle_since(&a.machine, &thread.cpus),
                }
            })
            .collect();
        let cpu_seconds = b.own_cpu_seconds - a.own_cpu_seconds;
        let total = (b.machine.total - a.machine.total).max(1) as f64;
        let machine = MachineUse {
            cpus: b.machine.cpus.len(),
            busy: (b.machine.busy - a.machine.busy) as f64 / total,
            steal: (b.machine.steal - a.machine.steal) as f64 / total,
            others: server
                .as_ref()
                .map(|server| b.machine.others_since(&a.machine, server.cpu_seconds + cpu_seconds)),
            tcp_memory_bytes: proc::tcp_memory_bytes(),
        };
        let generator = GeneratorUse {
            cpu_seconds,
            cores: cpu_seconds / seconds,
            busy: machine.busy > MACHINE_BUSY_MAX
                || threads.iter().any(|thread| thread.busy > THREAD_BUSY_MAX || thread.is_short_of_cpu()),
            threads,
        };
        Usage { seconds, server, generator, machine }
    }
}

/// `12.3 µs`, `1.23 ms`, `4.56 s`.
pub(crate) fn micros(us: f64) -> String {
    match us {
        ..1e3 => format!("{us:.1} µs"),
        1e3..1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// `950`, `12.3 k`, `4.56 M`.
pub(crate) fn quantity(n: f64) -> String {
    match n {
        ..1e4 => format!("{n:.0}"),
        1e4..1e6 => format!("{:.1} k", n / 1e3),
        _ => format!("{:.2} M", n / 1e6),
    }
}

/// `950 B`, `12.3 KiB`, `4.5 MiB`.
pub(crate) fn bytes(n: f64) -> String {
    match n {
        ..1024.0 => format!("{n:.0} B"),
        1024.0..1_048_576.0 => format!("{:.1} KiB", n / 1024.0),
        _ => format!("{:.1} MiB", n / 1_048_576.0),
    }
}

/// `12.3 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The use of CPU between two texts of `/proc/stat`, by a thread that is bound to CPU 1 and took 0.4 of a second.
    fn used(before: &str, after: &str) -> Usage {
        let at = Instant::now();
        let sample = |stat: &str, seconds: f64| Sample {
            at: at + std::time::Duration::from_secs_f64(seconds),
            server: Some(ProcessSample { user_seconds: seconds * 0.5, ..ProcessSample::default() }),
            own_cpu_seconds: seconds * 0.4,
            threads: vec![(Enrolled { name: "receive 0".into(), tid: 7, cpus: vec![1] }, seconds * 0.4)],
            machine: proc::parse_machine(stat).unwrap(),
        };
        let watch = Watch { server_pid: Some(1), threads: Mutex::default() };
        watch.between(&sample(before, 0.0), &sample(after, 1.0))
    }

    #[test]
    fn a_generator_whose_cpu_others_use_is_short_of_it() {
        let second = rustix::param::clock_ticks_per_second();
        let stat = |ticks: [[u64; 3]; 2]| {
            let line = |name: &str, [user, idle, softirq]: [u64; 3]| {
                // A second of idle time had passed before.
                let [user, idle, softirq] = [user, 100 + idle, softirq].map(|percent| percent * second / 100);
                format!("{name} {user} 0 0 {idle} 0 0 {softirq} 0 0 0\n")
            };
            let sum = [0, 1, 2].map(|field| ticks[0][field] + ticks[1][field]);
            line("cpu ", sum) + &line("cpu0", ticks[0]) + &line("cpu1", ticks[1])
        };
        let report = |usage: Usage| {
            struct Nothing;
            impl Serialize for Nothing {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_unit()
                }
            }
            impl Figures for Nothing {
                fn lines(&self) -> Vec<(&'static str, String)> {
                    Vec::new()
                }
            }
            let report = Report::new("echo", String::new(), Nothing, usage, Vec::new(), Vec::new());
            (report.generator.busy, report.notes.join("; "))
        };
        let before = stat([[0; 3]; 2]);
        let (busy, notes) = report(used(&before, &stat([[50, 50, 0], [40, 60, 0]])));
        assert!(!busy && notes.is_empty(), "{notes}");
        let (busy, notes) = report(used(&before, &stat([[50, 50, 0], [40, 5, 55]])));
        assert!(busy && notes.contains("where receive 0 is bound to, 5.0 % of the time was idle"), "{notes}");
        assert!(!notes.contains("other programs"), "{notes}");
        let (busy, notes) = report(used(&before, &stat([[50, 50, 0], [95, 5, 0]])));
        assert!(busy && notes.contains("other programs took 27.5 % of the machine"), "{notes}");
        let (busy, notes) = report(used(&before, &stat([[100, 0, 0], [40, 60, 0]])));
        assert!(!busy && notes.contains("other programs took 25.0 %"), "{notes}");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([micros(1.0), micros(1234.0), micros(2.5e6)], ["1.0 µs", "1.23 ms", "2.50 s"]);
        assert_eq!([quantity(950.0), quantity(12_345.0), quantity(4.56e6)], ["950", "12.3 k", "4.56 M"]);
        assert_eq!([bytes(12.0), bytes(2048.0), bytes(3.0 * 1_048_576.0)], ["12 B", "2.0 KiB", "3.0 MiB"]);
        assert_eq!(percent(0.1234), "12.3 %");
    }
}
