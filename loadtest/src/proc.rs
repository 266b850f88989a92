//! What the system says about processes and the machine: CPU time, memory, open-file limit, CPU affinity.
//!
//! Linux only (`/proc`). Thread CPU time is not trusted alone: the network's share of the work is charged to
//! whichever thread is running, so whole-machine busy time is always read beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::SystemTime;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};

use crate::failure::Failure;

/// A process and all that descend from it, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessSample {
    /// CPU time in user mode of all threads that have been, and of children that have ended, in seconds.
    pub(crate) user_seconds: f64,
    /// CPU time in the kernel, in seconds.
    pub(crate) system_seconds: f64,
    /// Resident anonymous memory, in bytes: heap and stacks, not the program file.
    pub(crate) rss_anon_bytes: u64,
    /// Times that threads now alive gave up the CPU to wait.
    pub(crate) voluntary_switches: u64,
    /// Times that threads now alive were made to give up the CPU.
    pub(crate) involuntary_switches: u64,
}

impl ProcessSample {
    /// Reads process `pid` and its descendants: a server may be a wrapper, or have a process per CPU.
    ///
    /// The time of a child that has ended and was waited for is its parent's from then on, so the sum never falls.
    pub(crate) fn read(pid: u32) -> Result<Self, Failure> {
        let mut sum = Self::default();
        let mut tree = vec![pid];
        let mut next = 0;
        while let Some(&one) = tree.get(next) {
            match sum.add(one, &mut tree) {
                // A descendant that ends just now is no error.
                Err(source) if next == 0 => {
                    let what =
                        format!("--server-pid {pid}: cannot read /proc/{pid}: is that process running?");
                    return Err(Failure::System { what, source });
                }
                _ => next += 1,
            }
        }
        Ok(sum)
    }

    /// Adds process `pid`, and its children to `tree`.
    fn add(&mut self, pid: u32, tree: &mut Vec<u32>) -> io::Result<()> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
        let (user_ticks, system_ticks) = cpu_ticks(&stat).unwrap_or_default();
        let ticks_per_second = ticks_per_second();
        self.user_seconds += user_ticks as f64 / ticks_per_second;
        self.system_seconds += system_ticks as f64 / ticks_per_second;
        self.rss_anon_bytes += status_field(&status, "RssAnon").unwrap_or(0) * 1024;
        for thread in threads.flatten() {
            // A thread that ends just now is no error.
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            self.voluntary_switches += status_field(&status, "voluntary_ctxt_switches").unwrap_or(0);
            self.involuntary_switches += status_field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0);
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            tree.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Ok(())
    }
}

/// Ticks in user mode and in the kernel, of a process and of its children that have ended, from
/// `/proc/PID/stat` (proc_pid_stat(5)). The process name may hold spaces and parentheses: fields count from the
/// last one.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let ticks: Vec<u64> = fields.take(4).map_while(|field| field.parse().ok()).collect();
    let [user, system, children_user, children_system] = ticks[..] else { return None };
    Some((user + children_user, system + children_system))
}

/// The number of a `Name:  123 kB` line.
fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The whole machine, at one moment; times in clock ticks over all CPUs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MachineSample {
    /// Time in which a CPU did something.
    pub(crate) busy: u64,
    /// Of that, what was no interrupt: programs, and the kernel for them.
    pub(crate) programs: u64,
    /// Time that the hypervisor gave to others.
    pub(crate) steal: u64,
    /// All time.
    pub(crate) total: u64,
    /// CPUs of the machine by number, whether or not this process may use them: idle time and all time.
    pub(crate) cpus: BTreeMap<usize, (u64, u64)>,
}

impl MachineSample {
    /// Reads `/proc/stat`.
    pub(crate) fn read() -> Self {
        fs::read_to_string("/proc/stat").ok().and_then(|text| parse_machine(&text)).unwrap_or_default()
    }

    /// The share of time since `before` in which `cpus` had nothing to do, 0 to 1; `None` if that is all CPUs, whose
    /// idle time says nothing of anybody in particular, or if no time has passed.
    pub(crate) fn idle_since(&self, before: &Self, cpus: &[usize]) -> Option<f64> {
        if self.cpus.keys().all(|cpu| cpus.contains(cpu)) {
            return None;
        }
        let (mut idle, mut total) = (0, 0);
        for cpu in cpus {
            let ((idle_after, total_after), (idle_before, total_before)) =
                (self.cpus.get(cpu)?, before.cpus.get(cpu)?);
            // Idle time may be a tick less than it was (proc_stat(5)).
            idle += idle_after.saturating_sub(*idle_before);
            total += total_after.saturating_sub(*total_before);
        }
        (total > 0).then(|| idle as f64 / total as f64)
    }

    /// The share of the machine that programs took since `before` beside those that took `known_seconds` of CPU time,
    /// 0 to 1. Without interrupts, as far as `/proc/stat` tells them apart.
    pub(crate) fn others_since(&self, before: &Self, known_seconds: f64) -> f64 {
        let programs = self.programs.saturating_sub(before.programs) as f64;
        let total = self.total.saturating_sub(before.total).max(1) as f64;
        ((programs - known_seconds * ticks_per_second()) / total).max(0.0)
    }
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Reads the text of `/proc/stat`.
pub(crate) fn parse_machine(text: &str) -> Option<MachineSample> {
    let mut sample = MachineSample::default();
    for line in text.lines().map_while(|line| line.strip_prefix("cpu")) {
        let (number, fields) = line.split_once(' ')?;
        let ticks: Vec<u64> = fields.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
        let (programs, idle) = (user + nice + system, idle + iowait);
        let busy = programs + irq + softirq;
        let total = busy + steal + idle;
        match number {
            // The first line is the sum of all.
            "" => (sample.busy, sample.programs, sample.steal, sample.total) = (busy, programs, steal, total),
            number => drop(sample.cpus.insert(number.parse().ok()?, (idle, total))),
        }
    }
    (sample.total > 0).then_some(sample)
}

/// Kernel memory that TCP sockets hold for data, machine-wide, in bytes (`/proc/net/sockstat`).
pub(crate) fn tcp_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    tcp_memory_pages(&text).unwrap_or(0) * rustix::param::page_size() as u64
}

fn tcp_memory_pages(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut fields = line.split_ascii_whitespace();
    fields.find(|field| *field == "mem")?;
    fields.next()?.parse().ok()
}

/// CPU time of this process, in seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU time of thread `tid` of this process, in seconds.
pub(crate) fn own_thread_cpu_seconds(tid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap_or_default();
    let nanos = text.split_ascii_whitespace().next().and_then(|field| field.parse::<u64>().ok());
    nanos.unwrap_or(0) as f64 / 1e9
}

/// Files that the process needs beside its connections: standard streams, epoll, timers, `/proc`.
const SPARE_FILES: u64 = 64;

/// Raises the soft limit on open files to the hard one; what it is now.
pub(crate) fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised =
        maximum != current && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    // No number is no limit.
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

/// Raises the soft limit on open files to the hard one and checks that `connections` fit.
pub(crate) fn ensure_files(connections: usize) -> Result<(), Failure> {
    let limit = raise_file_limit();
    let needed = connections as u64 + SPARE_FILES;
    if needed > limit { Err(Failure::FileLimit { connections, needed, limit }) } else { Ok(()) }
}

/// Binds the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<(), Failure> {
    bind(&[cpu]).map_err(Failure::system(format!("--pin: cannot run on CPU {cpu}")))
}

/// CPUs that the calling thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Calls `work` while the calling thread is bound to `cpus`: what it starts meanwhile, thread or process, is bound
/// with it and stays so.
pub(crate) fn bound_to<T>(cpus: &[usize], work: impl FnOnce() -> T) -> Result<T, Failure> {
    let fail = || Failure::system(format!("cannot run on CPUs {cpus:?}"));
    let before = sched_getaffinity(None).map_err(io::Error::from).map_err(fail())?;
    bind(cpus).map_err(fail())?;
    let outcome = work();
    sched_setaffinity(None, &before).map_err(io::Error::from).map_err(fail())?;
    Ok(outcome)
}

fn bind(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// What this machine is, and when that was asked.
pub(crate) fn environment() -> Json {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown"),
        "cpus": MachineSample::read().cpus.len(),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "memory_bytes": memory_bytes(&read("/proc/meminfo")),
        "date": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "tool_version": env!("CARGO_PKG_VERSION"),
    })
}

/// The value of a `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(line.trim())
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let kib = field(meminfo, "MemTotal")?.split_ascii_whitespace().next()?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_an_oddly_named_process() {
        let stat = "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 1234 567 1000 100 20";
        assert_eq!(cpu_ticks(stat), Some((2234, 667)));
        assert_eq!(cpu_ticks("nonsense"), None);
    }

    #[test]
    fn status_lines() {
        let status =
            "Name:\tx\nRssAnon:\t    1234 kB\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t5\n";
        assert_eq!(status_field(status, "RssAnon"), Some(1234));
        assert_eq!(status_field(status, "voluntary_ctxt_switches"), Some(9));
        assert_eq!(status_field(status, "nonvoluntary_ctxt_switches"), Some(5));
        assert_eq!(status_field(status, "Rss"), None);
    }

    #[test]
    fn machine_lines() {
        let stat =
            "cpu  10 1 20 100 5 2 3 7 0 0\ncpu0 4 0 10 60 5 1 1 7 0 0\ncpu3 6 1 10 40 0 1 2 0 0 0\nintr 5\n";
        let cpus = BTreeMap::from([(0, (65, 88)), (3, (40, 60))]);
        let want = MachineSample { busy: 36, programs: 31, steal: 7, total: 148, cpus };
        assert_eq!(parse_machine(stat), Some(want));
        assert_eq!(parse_machine("cpu 1 2"), None);
        assert_eq!(parse_machine("intr 5"), None);
        assert_eq!(
            tcp_memory_pages("sockets: used 11\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 158\n"),
            Some(158)
        );
    }

    #[test]
    fn idle_time_of_some_cpus() {
        let sample = |text: &str| parse_machine(text).unwrap();
        let before = sample(
            "cpu  0 0 0 300 0 0 0 0\ncpu0 0 0 0 100 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0\ncpu2 0 0 0 100 0 0 0 0\n",
        );
        // CPU 0 is busy with a program, CPU 1 with interrupts and a hypervisor's other guest, CPU 2 idles.
        let after = sample(
            "cpu  90 0 0 400 10 0 60 40\ncpu0 90 0 0 105 5 0 0 0\ncpu1 0 0 0 100 0 0 60 40\ncpu2 0 0 0 195 5 0 0 0\n",
        );
        assert_eq!(after.idle_since(&before, &[0]), Some(0.1));
        assert_eq!(after.idle_since(&before, &[1]), Some(0.0));
        assert_eq!(after.idle_since(&before, &[0, 2]), Some(0.55));
        assert_eq!(after.idle_since(&before, &[0, 1, 2]), None, "bound to all is bound to none");
        assert_eq!(after.idle_since(&before, &[7]), None);
        assert_eq!(before.idle_since(&before, &[0]), None, "no time has passed");
    }

    #[test]
    fn what_other_programs_took() {
        let sample = |text: &str| parse_machine(text).unwrap();
        let before = sample("cpu  100 0 100 1000 0 0 0 0\n");
        // 100 ticks of programs, 50 of interrupts, 250 idle.
        let after = sample("cpu  130 20 150 1200 50 10 40 0\n");
        let ticks = |count: f64| count / ticks_per_second();
        assert!((after.others_since(&before, ticks(80.0)) - 0.05).abs() < 1e-9);
        assert_eq!(after.others_since(&before, ticks(120.0)), 0.0, "interrupts may be charged to programs");
    }

    #[test]
    fn this_process_is_readable() {
        let sample = ProcessSample::read(std::process::id()).unwrap();
        assert!(sample.rss_anon_bytes > 0 && sample.voluntary_switches + sample.involuntary_switches > 0);
        assert!(own_cpu_seconds() > 0.0);
        let error = ProcessSample::read(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("--server-pid"), "{error}");
    }

    #[test]
    fn children_count_with_their_parent() {
        let spin = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read line";
        let mut parent = std::process::Command::new("sh")
            .args(["-c", &format!("sh -c '{spin}'; true")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The child has done its work when its line comes, and waits then.
        io::Read::read_exact(parent.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let alone = fs::read_to_string(format!("/proc/{}/stat", parent.id())).unwrap();
        let sample = ProcessSample::read(parent.id()).unwrap();
        let alone = cpu_ticks(&alone).unwrap().0 as f64 / ticks_per_second();
        assert!(sample.user_seconds > alone + 0.02, "{alone} s of it, {sample:?}");
        drop(parent.stdin.take());
        parent.wait().unwrap();
    }

    #[test]
    fn what_is_started_while_bound_is_bound() {
        let all = allowed_cpus();
        let within = bound_to(&all[..1], || std::thread::spawn(allowed_cpus).join().unwrap()).unwrap();
        assert_eq!((within, allowed_cpus()), (all[..1].to_vec(), all));
        assert!(bound_to(&[1023], || ()).unwrap_err().to_string().contains("1023"));
    }

    #[test]
    fn too_many_connections_say_what_to_do() {
        let error = ensure_files(1 << 40).unwrap_err().to_string();
        assert!(error.contains("ulimit") && error.contains("open files"), "{error}");
    }

    #[test]
    fn lines_of_the_system() {
        assert_eq!(field("a\t: 1\nmodel name\t: X 2 CPU\n", "model name"), Some("X 2 CPU"));
        assert_eq!(memory_bytes("MemTotal:       8 kB\nMemFree: 1 kB\n"), Some(8192));
        assert_eq!(memory_bytes(""), None);
    }
}
