//! One host with ten thousand MPTCP connections and twenty thousand subflows: what the released agent takes of CPU and memory.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mpsec_tests::crowd::Crowd;
use mpsec_tests::paths::{Family, Paths, Plan};

use crate::measure::{interleave, median, pairs, process_cpu};
use crate::memory::{self, resident};
use crate::report::{Row, Section};
use crate::scrape::Served;
use crate::{Options, net};

const CONNECTIONS: usize = 10_000;
/// Of each connection: as many as there are paths.
const SUBFLOWS: usize = 2;
/// CPU time of one poll, in milliseconds.
const GOAL_POLL: f64 = 3.0;
/// CPU time of one snapshot, in milliseconds, and against `ss`.
const GOAL_SNAPSHOT: (f64, f64) = (50.0, 0.3);
/// CPU time a second in milliseconds: one per cent of a core.
const GOAL_STEADY: f64 = 10.0;
/// Growth of resident memory in megabytes.
const GOAL_MEMORY: f64 = 32.0;
/// Between two scrapes of a usual Prometheus.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
/// Scrapes before memory is looked at.
const SCRAPES: usize = 5;

/// `cargo xtask bench scale`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let agent = memory::released(options)?;
    mpsec_agent::kernel::raise_descriptor_limit()?;
    let paths = Paths::new(Plan::wires(SUBFLOWS))?;
    paths.add_endpoints(Family::V4)?;
    paths.client.enter()?;
    let host = Host::start(agent)?;
    host.scrape()?;
    let before = resident(host.agent.pid())?;
    let crowd = Crowd::open(&paths, Family::V4, CONNECTIONS, SUBFLOWS)?;
    host.wait_for("mpsec_mptcp_connections", CONNECTIONS as f64)?;
    host.wait_for("mpsec_mptcp_subflow_table_entries", (CONNECTIONS * SUBFLOWS) as f64)?;
    let sections = vec![cpu(&host, options)?, growth(&host, before)?];
    drop(crowd);
    Ok(sections)
}

fn cpu(host: &Host, options: &Options) -> Result<Section> {
    let second = Duration::from_secs(1);
    let times = interleave(options.rounds, 4, |_, subject| match subject {
        0 => ss_cpu(),
        1 => host.cpu_of(|| host.scrape()),
        2 => host.cpu_of(|| host.ask_for_one()),
        _ => host.cpu_of(|| {
            sleep(second);
            Ok(())
        }),
    })?;
    let [ss, scrapes, snapshots, polls] = &times[..] else { bail!("four subjects") };
    let of = |values: &[f64]| median(&pairs(values, ss, |ours, ss| ours / ss));
    let length = Duration::from_secs(if options.quick { 15 } else { 75 });
    let steady = host.steady(length)?;
    let once_in_a_while = median(ss) / SCRAPE_INTERVAL.as_secs_f64();
    let lost: f64 = host.sum("mpsec_events_lost_total")?;
    let missed = host.sum("mpsec_mptcp_subflows_lost_total")? + host.sum("mpsec_mptcp_handshakes_lost_total")?;
    let told = format!("events lost: {lost}; subflows or handshakes not seen: {missed}");
    let rows = vec![
        Row::new("ss -tniM", median(ss)).ratio(1.0),
        Row::new("mpsec, all that it does in a second while nobody asks", median(polls))
            .ratio(of(polls))
            .at_most(GOAL_POLL),
        Row::new("mpsec, a scrape, with the snapshot that it is made of", median(scrapes))
            .ratio(of(scrapes))
            .at_most(GOAL_SNAPSHOT.0)
            .ratio_at_most(GOAL_SNAPSHOT.1),
        Row::new("mpsec, a question to the API, with a snapshot of all subflows", median(snapshots))
            .ratio(of(snapshots))
            .at_most(GOAL_SNAPSHOT.0)
            .ratio_at_most(GOAL_SNAPSHOT.1)
            .note(host.sources()?),
        Row::new(format!("ss -tniM every {} s, a second", SCRAPE_INTERVAL.as_secs()), once_in_a_while),
        Row::new(format!("mpsec with a scrape every {} s, a second", SCRAPE_INTERVAL.as_secs()), steady)
            .at_most(GOAL_STEADY)
            .note(format!("over {} s; {told}", length.as_secs())),
    ];
    Ok(Section {
        bench: "scale",
        title: format!("CPU time with {CONNECTIONS} MPTCP connections of {SUBFLOWS} subflows"),
        method: "The released agent, in a network namespace that has the clients' ends of all connections, which are open and \
                 idle; the servers' ends are in another one on the same machine. CPU time of all threads of the agent, and of \
                 `ss` by its resource usage, in turns; medians over rounds. `ss` prints to /dev/null. The last two rows are per \
                 second: 10 ms are one per cent of a core. The note of a scrape has the time of the sources that took longest, \
                 by the agent's own clock."
            .into(),
        unit: "ms",
        against: "ss -tniM",
        rows,
    })
}

fn growth(host: &Host, before: f64) -> Result<Section> {
    let pid = host.agent.pid();
    let mut rows = vec![Row::new("mpsec, all in all, without connections", before)];
    let mut row = |case: &str| -> Result<()> {
        let row = Row::new(format!("growth after {case}"), resident(pid)? - before);
        rows.push(row.at_most(GOAL_MEMORY).note(format!("all in all {}", memory::parts(pid)?)));
        Ok(())
    };
    (0..SCRAPES).try_for_each(|_| host.scrape())?;
    row("scrapes")?;
    let answer = memory::get(host.agent.address(), "/api/v1/connections")?;
    let api = format!("the API's list of connections, {:.1} MB", answer.len() as f64 / 1e6);
    sleep(Duration::from_secs(2));
    row(&api)?;
    let status = host.status()?;
    ensure!(status["namespaces"][0]["connections"].as_array().is_some_and(|all| all.len() == CONNECTIONS), "status");
    sleep(Duration::from_secs(2));
    row("mpsec status --json")?;
    (0..SCRAPES).try_for_each(|_| host.scrape())?;
    row("scrapes again")?;
    Ok(Section {
        bench: "scale",
        title: format!("Memory with {CONNECTIONS} MPTCP connections of {SUBFLOWS} subflows"),
        method: "VmRSS of the same agent, against what it was before the first connection. Memory of the kernel that it has \
                 mapped, where the counters lie, is in it."
            .into(),
        unit: "MB",
        against: "",
        rows,
    })
}

/// A running agent and how to ask it.
pub struct Host<'a> {
    /// The agent's process.
    pub agent: Served,
    program: &'a Path,
    dir: tempfile::TempDir,
}

impl<'a> Host<'a> {
    /// Starts it in the network namespace of the calling thread.
    pub fn start(program: &'a Path) -> Result<Host<'a>> {
        let dir = tempfile::tempdir()?;
        let agent = memory::start(program, dir.path())?;
        Ok(Host { agent, program, dir })
    }

    /// What `mpsec status --json` prints.
    pub fn status(&self) -> Result<serde_json::Value> {
        let mut command = Command::new(self.program);
        command.args(["status", "--json", "--control-socket"]).arg(self.dir.path().join("mpsec.sock"));
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "mpsec status: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The sum of a metric's series.
    pub fn sum(&self, metric: &str) -> Result<f64> {
        let text = memory::get(self.agent.address(), "/metrics")?;
        let series =
            text.lines().filter_map(|line| line.strip_prefix(metric)).filter(|rest| rest.starts_with(['{', ' ']));
        let values = series.map(|rest| Ok(rest.rsplit(' ').next().unwrap_or_default().parse::<f64>()?));
        values.sum::<Result<f64>>().with_context(|| metric.to_owned())
    }

    fn wait_for(&self, metric: &str, wanted: f64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let have = self.sum(metric)?;
            if have == wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{metric} is {have}, not {wanted}");
            sleep(Duration::from_millis(500));
        }
    }

    /// One scrape.
    fn scrape(&self) -> Result<()> {
        let answer = memory::get(self.agent.address(), "/metrics")?;
        ensure!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        Ok(())
    }

    /// Asks for a single connection, which takes a snapshot of all of them.
    fn ask_for_one(&self) -> Result<()> {
        let answer = memory::get(self.agent.address(), "/api/v1/connections?limit=1")?;
        ensure!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        Ok(())
    }

    /// CPU time of the agent while something is done, in milliseconds.
    fn cpu_of(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let before = process_cpu(self.agent.pid())?;
        work()?;
        // What it throws away when it has answered belongs to the answer.
        sleep(Duration::from_millis(20));
        Ok((process_cpu(self.agent.pid())? - before).as_secs_f64() * 1e3)
    }

    /// CPU time a second with scrapes as they are usual, in milliseconds.
    fn steady(&self, length: Duration) -> Result<f64> {
        let start = Instant::now();
        let cpu = self.cpu_of(|| {
            while start.elapsed() < length {
                self.scrape()?;
                sleep(SCRAPE_INTERVAL.min(length.saturating_sub(start.elapsed())));
            }
            Ok(())
        })?;
        Ok(cpu / start.elapsed().as_secs_f64())
    }

    /// How long the sources took that took longest.
    fn sources(&self) -> Result<String> {
        let status = self.status()?;
        let collectors = status["agent"]["collectors"].as_array().context("no collectors")?;
        let mut times: Vec<(f64, &str)> = collectors
            .iter()
            .filter_map(|one| Some((one["seconds"].as_f64()? * 1e3, one["source"].as_str()?)))
            .collect();
        times.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(times.iter().take(4).map(|(time, name)| format!("{name} {time:.1}")).collect::<Vec<_>>().join(", "))
    }
}

/// CPU time of `ss -tniM`, in milliseconds.
fn ss_cpu() -> Result<f64> {
    ensure!(net::is_installed("ss"), "ss is not installed");
    let nowhere = File::options().write(true).open("/dev/null")?;
    let child = Command::new("ss").arg("-tniM").stdin(Stdio::null()).stdout(nowhere).spawn().context("ss")?;
    let (mut status, pid) = (0, child.id() as libc::pid_t);
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to whole values; the child is nobody else's to wait for.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        return Err(io::Error::last_os_error()).context("wait4");
    }
    if status != 0 {
        bail!("ss ended with {status}");
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
