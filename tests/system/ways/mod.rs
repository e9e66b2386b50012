//! The ways into the kernel: each counts what the others count, of the very same traffic, and what is known of it from elsewhere.
//!
//! Two agents look at a host at the same time, one through BTF tracepoints, the other through the way that is tried; what differs
//! between them must be what mpsec-ebpf/src/probes.rs says that it is.

mod closers;
mod ends;
mod losses;
mod retrans;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::Skip;
use serde_json::Value;

use crate::mptcp_view::{list, number, status};

const LIMIT: Duration = Duration::from_secs(120);
/// As `mptcp.probes` names them.
const WAYS: [&str; 3] = ["tp_btf", "fentry", "kprobe"];
/// Those that go into functions rather than tracepoints.
const FUNCTIONS: [&str; 2] = ["fentry", "kprobe"];
/// Where the second agent of a host listens.
const SECOND: &str = "127.0.0.1:9476";

pub(crate) fn trials() -> Vec<Trial> {
    [losses::trials(), retrans::trials(), ends::trials(), closers::trials()].into_iter().flatten().collect()
}

/// Two agents on one host.
struct Both {
    /// Uses tracepoints, and counts packets, too.
    tracepoints: Agent,
    /// Uses the way that is tried. No packets: on a clsact hook there is one agent at a time.
    tried: Agent,
}

impl Both {
    /// Starts them. `probes` must have an entry of the way; the trial ends where one has not.
    fn start(netns: &Arc<Netns>, way: &str, probes: &[&str]) -> Result<Both> {
        let tracepoints = Options::default().with("--probes tp_btf").start(netns)?;
        let tried = alone(netns, way, probes)?;
        need_probes(&tracepoints, &probes.iter().copied().filter(|name| *name != "data_timeout").collect::<Vec<_>>())?;
        Ok(Both { tracepoints, tried })
    }

    fn each(&self) -> [(&'static str, &Agent); 2] {
        [("tracepoints", &self.tracepoints), ("tried", &self.tried)]
    }
}

/// An agent that uses one way and counts no packets.
fn alone(netns: &Arc<Netns>, way: &str, probes: &[&str]) -> Result<Agent> {
    let options = Options { listen: Some(SECOND.parse()?), ..Options::default() };
    let agent = options.with(&format!("--probes {way} --exclude *")).start(netns)?;
    need_probes(&agent, probes)?;
    Ok(agent)
}

/// How an agent's probes got into the kernel: the entry, and what is said of it.
fn entries(agent: &Agent) -> Result<BTreeMap<String, (String, String)>> {
    let status = status(agent)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let probes = list(&status["agent"]["probes"]).with_context(|| format!("{status:#}"))?;
    Ok(probes.iter().map(|one| (text(&one["name"]), (text(&one["entry"]), text(&one["error"])))).collect())
}

fn need_probes(agent: &Agent, probes: &[&str]) -> Result<()> {
    let entries = entries(agent)?;
    for name in probes {
        let (entry, error) = entries.get(*name).with_context(|| format!("no probe {name}: {entries:?}"))?;
        if entry == "none" {
            // What the kernel has, and the program does not please its verifier, is no reason to look away.
            ensure!(!error.contains("the verifier refuses"), "the probe {name}: {error}");
            // Those of the virtual machines have every way.
            let lack = Skip::because(format!("the probe {name} has no such way into this kernel: {error}"));
            return need::certain(Err(lack));
        }
    }
    Ok(())
}

/// A number of what the probes have counted by name.
fn counts(value: &Value) -> Result<BTreeMap<String, u64>> {
    let counts = value.as_object().with_context(|| format!("no counts: {value}"))?;
    counts
        .iter()
        .map(|(name, count)| Ok((name.clone(), number(count)?)))
        .filter(|one| !matches!(one, Ok((_, 0))))
        .collect()
}

/// A trial for each way, under the way's name.
fn for_each_way(ways: &[&'static str], name: &str, body: fn(&'static str) -> Result<()>) -> Vec<Trial> {
    let trial = |way: &'static str| mpsec_tests::trial::trial(&format!("ways::{way}_{name}"), LIMIT, move || body(way));
    ways.iter().copied().map(trial).collect()
}

fn total(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

fn ensure_equal(what: &str, one: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>) -> Result<()> {
    ensure!(one == other, "{what}: {one:?} and {other:?}");
    Ok(())
}
