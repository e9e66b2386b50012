//! Five hundred devices come and go, again and again: all are counted, and nothing is left behind.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::counted::{Classes, interfaces};
use mpsec_tests::frames;
use mpsec_tests::need;
use mpsec_tests::netns::Netns;
use mpsec_tests::packet_socket::PacketSocket;
use mpsec_tests::trial::trial;
use mpsec_tests::wait;

const LIMIT: Duration = Duration::from_secs(300);
const WIRES: usize = 500;
const ROUNDS: usize = 3;
/// How long the agent may take to follow all of them.
const FOLLOW: Duration = Duration::from_secs(30);
/// What may remain of memory: the allocator's slack, not the devices' share.
const SLACK: u64 = 4 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    ["tcx", "clsact"]
        .map(|attach| trial(&format!("flood::memory_and_descriptors_come_back_{attach}"), LIMIT, move || run(attach)))
        .into()
}

fn run(attach: &str) -> Result<()> {
    need::mpsec()?;
    if attach == "tcx" {
        need::tcx()?;
    }
    let here = Arc::new(Netns::new()?);
    let agent = Options::default().with(&format!("--attach {attach} --include flood*")).start(&here)?;
    // The first round fills caches; what is held after it is the measure.
    round(&agent, &here)?;
    let (files, memory) = (agent.open_files()?, agent.resident_bytes()?);
    for _ in 1..ROUNDS {
        round(&agent, &here)?;
    }
    wait::until(FOLLOW, || {
        let (files_now, memory_now) = (agent.open_files()?, agent.resident_bytes()?);
        ensure!(files_now <= files, "{files_now} descriptors, {files} after the first round");
        ensure!(memory_now <= memory + SLACK, "{memory_now} bytes, {memory} after the first round");
        Ok(())
    })
}

/// Adds all wires, lets each carry one frame, sees all counted, and lets all of them go at once.
fn round(agent: &Agent, here: &Netns) -> Result<()> {
    let there = Netns::new()?;
    batch(here, |number| {
        format!("link add name flood{number} type veth peer name far{number} netns {}\n", there.path())
    })?;
    batch(&there, |number| format!("link set dev far{number} arp off up\n"))?;
    batch(here, |number| format!("link set dev flood{number} arp off up\n"))?;
    wait::until(FOLLOW, || agent_has_all(agent))?;
    let frame = &frames::all()[0].bytes;
    let socket = PacketSocket::unbound(here)?;
    for number in 0..WIRES {
        socket.send_through(here.ifindex(&format!("flood{number}"))?, frame)?;
    }
    wait::until(FOLLOW, || {
        let now = agent.scrape()?;
        for number in 0..WIRES {
            let sent = Classes::read(&now, &format!("flood{number}"), "tx")?.total().packets;
            ensure!(sent == 1, "flood{number} sent {sent} packets");
        }
        Ok(())
    })?;
    // With the namespace go its ends of the wires, and with each end the other.
    drop(there);
    wait::until(FOLLOW, || {
        let left = interfaces(&agent.scrape()?).len();
        ensure!(left == 0, "{left} devices are still shown");
        Ok(())
    })
}

/// Without traffic a device has no series, so the agent's own number of attached devices is asked.
fn agent_has_all(agent: &Agent) -> Result<()> {
    let (name, labels) = crate::names::ATTACHED;
    let attached = agent.scrape()?.sum(name, labels)?;
    ensure!(attached == WIRES as u64, "{name} is {attached}");
    Ok(())
}

/// Many `ip` commands in one process.
fn batch(netns: &Netns, line: impl Fn(usize) -> String) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let mut text = String::new();
    for number in 0..WIRES {
        write!(text, "{}", line(number))?;
    }
    fs::write(file.path(), text)?;
    let path = file.path().to_str().context("a path that is no text")?;
    netns.output("ip", &["-batch", path]).map(drop)
}
