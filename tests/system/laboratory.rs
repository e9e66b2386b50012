//! `mpsec lab`: every scenario shows what it is there for, in short and with bounds for a busy machine, and leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::{need, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
/// What of a segment of 1,514 bytes on the wire is payload: 1,448 bytes less what MPTCP takes of them.
const PAYLOAD: f64 = 1428.0 / 1514.0;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("laboratory::the_list_names_every_scenario", LIMIT, list),
        trial("laboratory::like_paths_add_up_and_are_what_they_should_be", LIMIT, like_paths),
        trial("laboratory::unlike_paths_add_up", LIMIT, unlike_paths),
        trial("laboratory::losses_cost_throughput", LIMIT, losses),
        trial("laboratory::a_failing_path_loses_nothing_link_down", LIMIT, || failover("link-down", "link_down")),
        trial("laboratory::a_failing_path_loses_nothing_silent", LIMIT, || failover("silent", "silent")),
        trial("laboratory::the_agent_helps_when_a_link_goes_down", LIMIT, || helped("link-down", "link_down", 0.15)),
        trial("laboratory::the_agent_helps_when_a_path_falls_silent", LIMIT, || helped("silent", "silent", 0.35)),
        trial("laboratory::a_video_plays_on_over_mptcp_alone", LIMIT, stream),
        trial("laboratory::a_fallback_is_seen_and_explained", LIMIT, fallback),
        trial("laboratory::a_backup_path_waits", LIMIT, backup),
        trial("laboratory::ndiffports_carries_bytes_on_each_subflow", LIMIT, ndiffports),
        trial("laboratory::ctrl_c_ends_it_at_once", LIMIT, || ends_with(libc::SIGINT)),
        trial("laboratory::kill_leaves_nothing", LIMIT, || ends_with(libc::SIGKILL)),
        trial("laboratory::what_cannot_run_has_its_own_exit_code", LIMIT, cannot_run),
    ]
}

/// `mpsec lab` with arguments.
fn lab(args: &str) -> Result<Command> {
    need::root()?;
    let mut command = Command::new(need::mpsec()?);
    command.args(["lab", "--json", "--quiet"]).args(args.split_whitespace()).stdin(Stdio::null());
    Ok(command)
}

/// The one document that it prints.
fn document(output: &Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A scenario's result.
struct Seen(Value);

impl Seen {
    fn run(args: &str) -> Result<Self> {
        need::mptcp()?;
        let output = lab(args)?.output()?;
        let document = document(&output)?;
        if let Some(reason) = document["cannot_run"].as_str() {
            return Err(Skip::because(reason));
        }
        let code = if document["met"] == true { 0 } else { 1 };
        ensure!(output.status.code() == Some(code), "{}: {document:#}", output.status);
        Ok(Self(document))
    }

    /// A figure of a column; "" for the only one.
    fn figure(&self, name: &str, column: &str) -> Result<f64> {
        let figures = self.0["figures"].as_array().context("no figures")?;
        let is_it = |figure: &&Value| figure["name"] == name && figure["column"].as_str().unwrap_or_default() == column;
        let figure = figures.iter().find(is_it).with_context(|| format!("no {name}: {:#}", self.0))?;
        figure["value"].as_f64().with_context(|| format!("{name} has no value: {:#}", self.0))
    }

    /// A figure that must lie in a range.
    fn lies(&self, name: &str, column: &str, range: std::ops::RangeInclusive<f64>) -> Result<()> {
        let value = self.figure(name, column)?;
        ensure!(range.contains(&value), "{name} {column}: {value}, not in {range:?}: {:#}", self.0);
        Ok(())
    }
}

fn list() -> Result<()> {
    let output = lab("list")?.output()?;
    let document = document(&output)?;
    let names: BTreeSet<_> =
        document.as_array().context("no list")?.iter().map(|row| row["scenario"].as_str()).collect();
    let expected = ["backup", "failover", "fallback", "ndiffports", "stream", "throughput"];
    ensure!(names == expected.into_iter().map(Some).collect(), "{document:#}");
    Ok(())
}

fn like_paths() -> Result<()> {
    let seen = Seen::run("throughput --rate 20 --delay 10 --warm-up 1 --seconds 1 --rounds 1")?;
    seen.lies("all_paths_by_one", "", 1.8..=2.1)?;
    for path in 0..2 {
        seen.lies(&format!("path_{path}_alone"), "", 20.0 * PAYLOAD * 0.95..=20.0 * PAYLOAD * 1.02)?;
        seen.lies(&format!("path_{path}_round_trip"), "", 20.0..=35.0)?;
    }
    Ok(())
}

fn unlike_paths() -> Result<()> {
    let seen = Seen::run("throughput --rate 10,5 --delay 5,20 --warm-up 1 --seconds 1 --rounds 1")?;
    // In so short a time the slower one may not come to its full rate alone, and what had to wait for it may come at once.
    seen.lies("all_paths_by_sum_of_each_alone", "", 0.85..=1.5)?;
    seen.lies("all_paths_by_rate_of_the_wires", "", 0.8 * PAYLOAD..=1.2 * PAYLOAD)
}

fn losses() -> Result<()> {
    let seen = Seen::run("throughput --paths 1 --rate 20 --delay 20 --loss 5 --warm-up 0.5 --seconds 1 --rounds 1")?;
    seen.lies("path_0_alone", "", 0.1..=10.0)
}

fn failover(fault: &str, name: &str) -> Result<()> {
    let seen = Seen::run(&format!("failover --no-agent --fault {fault} --before 1 --during 2.5 --after 1.5"))?;
    let column = "kernel alone";
    seen.lies(&format!("{name}_usual_gap"), column, 0.0..=0.1)?;
    // The kernel waits for its retransmission timer, which is no shorter than 200 ms.
    seen.lies(&format!("{name}_longest_gap"), column, 0.03..=1.2)?;
    seen.lies(&format!("{name}_full_rate_after"), column, 0.03..=2.4)?;
    seen.lies(&format!("{name}_bytes_lost_or_wrong"), column, 0.0..=0.0)
}

/// Whichever path fails, and whichever end sends.
fn helped(fault: &str, name: &str, most: f64) -> Result<()> {
    for path in ["first", "second"] {
        let words = format!("--only-agent --sender both --fault {fault} --path {path} --during 2 --after 3.5");
        let seen = Seen::run(&format!("failover {words}"))?;
        let column = "with the agent";
        for name in [name.to_owned(), format!("{name}_upload")] {
            let what = |what: &str| format!("{name}_{what}");
            seen.lies(&what("longest_gap"), column, 0.0..=most).context(path)?;
            seen.lies(&what("full_rate_after"), column, 0.0..=1.0).context(path)?;
            seen.lies(&what("path_used_again_after"), column, 0.0..=3.0).context(path)?;
            seen.lies(&what("bytes_lost_or_wrong"), column, 0.0..=0.0).context(path)?;
        }
    }
    Ok(())
}

fn stream() -> Result<()> {
    let seen = Seen::run("stream --bitrate 3 --length 7 --buffer 2.5 --before 1 --during 5")?;
    seen.lies("silent_stalls", "MPTCP", 0.0..=0.0)?;
    seen.lies("silent_segments", "MPTCP", 7.0..=7.0)?;
    seen.lies("silent_stalls", "TCP", 1.0..=2.0)?;
    seen.lies("silent_longest_stall", "TCP", 0.5..=20.0)
}

fn fallback() -> Result<()> {
    let seen = Seen::run("fallback --seconds 0.5")?;
    ensure!(seen.0["met"] == true, "{:#}", seen.0);
    let summary = seen.0["summary"].as_str().unwrap_or_default();
    ensure!(summary.contains("MPCapableFallbackSYNACK"), "{summary}");
    Ok(())
}

fn backup() -> Result<()> {
    let seen = Seen::run("backup --seconds 1.5")?;
    ensure!(seen.0["met"] == true, "{:#}", seen.0);
    Ok(())
}

fn ndiffports() -> Result<()> {
    let seen = Seen::run("ndiffports --subflows 3 --seconds 1.5")?;
    seen.lies("subflows", "", 3.0..=3.0)?;
    seen.lies("pairs_of_addresses", "", 1.0..=1.0)?;
    seen.lies("least_bytes_of_a_subflow", "", 1.0..=4e6)
}

/// Whatever ends it: no process, no namespace and no device of it is left, and this one has seen nothing.
fn ends_with(signal: libc::c_int) -> Result<()> {
    need::mptcp()?;
    let outside = Netns::new()?;
    let devices = outside.devices()?;
    let namespaces = || fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let named = namespaces();
    let mut command = lab("ndiffports --seconds 60")?;
    let mut running = outside.run(|| command.stdout(Stdio::null()).spawn())?;
    let agents = wait::until(Duration::from_secs(30), || {
        let children = children_of(running.id())?;
        ensure!(children.len() == 1, "children: {children:?}");
        Ok(children)
    });
    let began = Instant::now();
    // SAFETY: kill takes numbers alone, and the child is not yet waited for.
    let sent = unsafe { libc::kill(running.id() as libc::pid_t, signal) };
    ensure!(sent == 0, "the signal was not sent");
    let code = end_of(&mut running)?;
    ensure!(signal != libc::SIGINT || code == Some(130), "exit code {code:?}");
    ensure!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    let agents = agents?;
    wait::until(Duration::from_secs(10), || {
        let left: Vec<_> = agents.iter().filter(|pid| is_alive(**pid)).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    })?;
    ensure!(namespaces() == named, "named namespaces: {named} before, {} after", namespaces());
    ensure!(outside.devices()? == devices, "{:?} instead of {devices:?}", outside.devices()?);
    Ok(())
}

fn end_of(child: &mut Child) -> Result<Option<i32>> {
    wait::until(Duration::from_secs(10), || match child.try_wait()? {
        Some(status) => Ok(status.code()),
        None => bail!("it runs on"),
    })
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ppid = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|word| word.parse().ok());
        let agent = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if ppid == Some(parent) && agent.contains("\0run\0") {
            children.push(pid);
        }
    }
    Ok(children)
}

fn cannot_run() -> Result<()> {
    let output = lab("backup")?.env("PATH", "/nonexistent").output()?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    let document = document(&output)?;
    let reason = document["cannot_run"].as_str().unwrap_or_default();
    ensure!(reason.contains("iproute2"), "{document:#}");
    Ok(())
}
