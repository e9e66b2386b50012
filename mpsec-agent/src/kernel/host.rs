//! Facts about the host from /proc, /sys and rtnetlink. Each part is read on its own, and one that fails is absent.

use std::fmt::Display;
use std::fs;
use std::time::{Duration, Instant};

use crate::snapshot::host::Host;

mod interfaces;

/// Facts are not read again before they are so old.
const FRESH: Duration = Duration::from_secs(1);
/// Reading takes no more of the time than one part in so many: a host with thousands of interfaces waits longer.
const COST: u32 = 100;

/// Reads the facts, and remembers what the next reading needs.
#[derive(Debug, Default)]
pub struct HostReader {
    last: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    took: Duration,
    processor: Option<ProcessorTime>,
    host: Host,
    trouble: Option<String>,
}

impl HostReader {
    /// The facts of the moment, or of the last one or more seconds where they were read just now; and what could not be
    /// read.
    pub fn read(&mut self) -> (Host, Result<(), String>) {
        let is_fresh = |last: &Reading| last.at.elapsed() < FRESH.max(last.took * COST);
        let reading = match self.last.take() {
            Some(last) if is_fresh(&last) => last,
            last => Reading::take(last.as_ref()),
        };
        let reading = self.last.insert(reading);
        (reading.host.clone(), reading.trouble.clone().map_or(Ok(()), Err))
    }
}

impl Reading {
    fn take(before: Option<&Reading>) -> Reading {
        let at = Instant::now();
        let mut troubles = Troubles::default();
        let stat = troubles.file("/proc/stat");
        let processor = stat.as_deref().and_then(ProcessorTime::parse);
        let busy =
            processor.zip(before.and_then(|before| before.processor)).and_then(|(now, then)| now.use_since(then));
        let load = troubles.file("/proc/loadavg");
        let memory = troubles.file("/proc/meminfo");
        let line = |text: Option<String>| text.map(|text| text.trim().to_owned());
        let host = Host {
            hostname: line(troubles.file("/proc/sys/kernel/hostname")),
            kernel_release: line(troubles.file("/proc/sys/kernel/osrelease")),
            architecture: Some(std::env::consts::ARCH.to_owned()),
            uptime_seconds: troubles.file("/proc/uptime").and_then(|text| number(text.split(' ').next()?)),
            cpus: stat.as_deref().map(processors),
            cpu_use: busy.or(before.and_then(|before| before.host.cpu_use)),
            load_averages: load.as_deref().and_then(load_averages),
            memory_total_bytes: memory.as_deref().and_then(|text| memory_bytes(text, "MemTotal:")),
            memory_available_bytes: memory.as_deref().and_then(|text| memory_bytes(text, "MemAvailable:")),
            tasks: load.as_deref().and_then(tasks),
            interfaces: troubles.note("interfaces", interfaces::list()).unwrap_or_default(),
        };
        Reading { at, took: at.elapsed(), processor, host, trouble: troubles.first }
    }
}

/// The first thing that could not be read.
#[derive(Default)]
struct Troubles {
    first: Option<String>,
}

impl Troubles {
    fn file(&mut self, path: &str) -> Option<String> {
        self.note(path, fs::read_to_string(path))
    }

    fn note<T, E: Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.first.get_or_insert_with(|| format!("{what}: {error}")).len()).ok()
    }
}

/// Time of all processors since the start, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProcessorTime {
    all: u64,
    idle: u64,
}

impl ProcessorTime {
    /// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, and guests' time, which user
    /// and nice hold already (show_stat, fs/proc/stat.c, and account_guest_time, kernel/sched/cputime.c, 6.18).
    fn parse(stat: &str) -> Option<ProcessorTime> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(number).take(8).collect();
        let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
        Some(ProcessorTime { all: ticks.iter().sum(), idle })
    }

    fn use_since(self, then: ProcessorTime) -> Option<f64> {
        let all = self.all.checked_sub(then.all).filter(|all| *all > 0)?;
        // The time of waiting for a disk may go backwards.
        let idle = self.idle.saturating_sub(then.idle).min(all);
        Some((all - idle) as f64 / all as f64)
    }
}

/// Processors that are online: those have a line of their own.
fn processors(stat: &str) -> u32 {
    let is_processor =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    stat.lines().filter(is_processor).count() as u32
}

fn load_averages(text: &str) -> Option<[f64; 3]> {
    let mut words = text.split(' ').map(number);
    Some([words.next()??, words.next()??, words.next()??])
}

/// The fourth word of /proc/loadavg is "running/all".
fn tasks(text: &str) -> Option<u64> {
    number(text.split(' ').nth(3)?.split('/').nth(1)?)
}

/// A line of /proc/meminfo, whose kB are 1024 bytes.
fn memory_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    number::<u64>(line.trim().strip_suffix(" kB")?).map(|kib| kib * 1024)
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 5 0 10 30 5 0 0 0 0 0\ncpu1 5 0 10 30 5 0 0 0 0 0\nintr 5\n";

    #[test]
    fn processors_are_as_busy_as_they_were_in_between() {
        let then = ProcessorTime::parse(STAT).unwrap();
        assert_eq!(then, ProcessorTime { all: 100, idle: 70 });
        let now = ProcessorTime { all: 200, idle: 95 };
        assert_eq!((now.use_since(then), now.use_since(now), then.use_since(now)), (Some(0.75), None, None));
        assert_eq!((processors(STAT), ProcessorTime::parse("cpu x"), ProcessorTime::parse("")), (2, None, None));
    }

    #[test]
    fn the_lines_of_proc_are_read_with_their_units() {
        assert_eq!(load_averages("0.11 0.42 0.78 2/345 6789\n"), Some([0.11, 0.42, 0.78]));
        assert_eq!(tasks("0.11 0.42 0.78 2/345 6789\n"), Some(345));
        assert_eq!((load_averages("0.11"), tasks("")), (None, None));
        assert_eq!(memory_bytes("MemTotal:     2 kB\nMemAvailable: 1 kB\n", "MemAvailable:"), Some(1024));
        assert_eq!(memory_bytes("MemTotal: 2\n", "MemTotal:"), None);
    }

    #[test]
    fn this_host_is_described() {
        let mut reader = HostReader::default();
        let (host, outcome) = reader.read();
        assert_eq!(outcome, Ok(()));
        assert_eq!(host.cpu_use, None, "nothing to compare with yet");
        let known = [host.hostname, host.kernel_release].map(|text| text.is_some_and(|text| !text.is_empty()));
        assert_eq!(known, [true, true]);
        assert!(host.cpus.is_some_and(|cpus| cpus > 0) && host.tasks.is_some_and(|tasks| tasks > 1));
        assert!(host.memory_available_bytes <= host.memory_total_bytes && host.memory_total_bytes > Some(1 << 24));
        let lo = host.interfaces.iter().find(|interface| interface.name == "lo").expect("a loopback");
        assert_eq!((lo.index, lo.mac.as_deref(), lo.mtu_bytes.is_some()), (1, Some("00:00:00:00:00:00"), true));
        assert_eq!(reader.read().0.uptime_seconds, host.uptime_seconds, "it is fresh");
    }
}
