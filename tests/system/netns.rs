//! Network namespaces beside the agent's own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options, exit_code};
use mpsec_tests::counted::Classes;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Paths, Plan, device};
use mpsec_tests::trial::trial;
use mpsec_tests::{need, wait};
use serde_json::Value;

use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(90);
/// The agent looks every ten seconds whether what it lacks has come.
const LOOKED: Duration = Duration::from_secs(15);
const BYTES: u64 = 500_000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("netns::another_namespace_is_counted_as_ones_own", LIMIT, counted),
        trial("netns::one_that_comes_later_is_watched_and_one_that_goes_is_let_go", LIMIT, later),
        trial("netns::one_that_is_none_is_told", LIMIT, refused),
    ]
}

fn json(agent: &Agent, path: &str) -> Result<Value> {
    let response = agent.get(path)?;
    ensure!(response.status == 200, "{path} says {}", response.status);
    Ok(serde_json::from_str(response.text()?)?)
}

/// What the agent says of a namespace's connections.
fn connections(agent: &Agent, netns: &str) -> Result<Vec<Value>> {
    let answer = json(agent, &format!("/api/v1/connections?netns={netns}"))?;
    let list = answer["namespaces"][0]["connections"].as_array().with_context(|| format!("{answer:#}"))?;
    Ok(list.clone())
}

/// The agent of the client's host watches the server's too: both ends of the connection are shown, each in its place, with
/// the same bytes the other way round.
fn counted() -> Result<()> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoints(Family::V4)?;
    let config = format!("[[netns]]\nname = \"far\"\npath = \"{}\"\n", paths.server.path());
    let mut agent = Options { config, ..Options::default() }.start(&paths.client)?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(BYTES, BYTES / 2)?;
    wait::until(SHOWN, || {
        let (near, far) = (connections(&agent, "")?, connections(&agent, "far")?);
        ensure!(near.len() == 1 && far.len() == 1, "{near:#?} {far:#?}");
        ensure!(near[0]["role"] == "client" && far[0]["role"] == "server", "{near:#?} {far:#?}");
        let sum = |end: &Value, way: &str| -> u64 {
            let subflows = end["subflows"].as_array().into_iter().flatten();
            subflows.filter_map(|one| one[way]["payload_bytes"].as_u64()).sum()
        };
        ensure!(sum(&near[0], "tx") == sum(&far[0], "rx") && sum(&near[0], "tx") >= BYTES, "{near:#?} {far:#?}");
        ensure!(sum(&near[0], "rx") == sum(&far[0], "tx") && sum(&near[0], "rx") >= BYTES / 2, "{near:#?} {far:#?}");
        Ok(())
    })?;
    talk.close()?;
    let metrics = agent.scrape()?;
    for path in 0..2 {
        let (west, east) = (device(Host::Client, path), device(Host::Server, path));
        let sent = Classes::read(&metrics, &west, "tx")?.total();
        let received = Classes::read(&metrics, &east, "rx")?.total();
        ensure!(sent.packets > 0 && sent == received, "{west} sent {sent:?}, {east} received {received:?}");
        let labels = [("netns", "far"), ("interface", east.as_str()), ("direction", "rx")];
        ensure!(metrics.sum("mpsec_interface_packets_total", &labels)? == received.packets, "not under its namespace");
        let labels = [("netns", ""), ("interface", west.as_str()), ("direction", "tx")];
        ensure!(metrics.sum("mpsec_interface_packets_total", &labels)? == sent.packets, "not under its own");
    }
    ensure!(exit_code(agent.stop(libc::SIGTERM)?)? == 0, "{}", agent.stderr());
    let left = paths.server.tc("filter show dev east0 ingress")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}

fn later() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let options = Options { config: "netns = [\"blue\"]\n".into(), ..Options::default() };
    let agent = options.spawn(&paths.client)?;
    wait::until(SHOWN, || {
        let text = agent.get("/-/ready")?.text()?.to_owned();
        ensure!(text.contains("blue"), "{text}");
        let metrics = agent.scrape()?;
        ensure!(metrics.sum("mpsec_collector_success", &[("source", "netns")])? == 0, "no word of it");
        Ok(())
    })?;
    paths.client.ip("netns add blue")?;
    paths.client.ip("-n blue link set lo up")?;
    wait::until(LOOKED, || agent.ready())?;
    let listed = |netns: &str| -> Result<usize> {
        let answer = json(&agent, &format!("/api/v1/interfaces?netns={netns}"))?;
        Ok(answer["interfaces"].as_array().context("no interfaces")?.len())
    };
    ensure!(listed("blue")? == 1, "its loopback is not listed");
    paths.client.ip("netns delete blue")?;
    wait::until(LOOKED, || {
        ensure!(listed("blue")? == 0, "still listed");
        Ok(())
    })?;
    ensure!(listed("")? > 0, "its own interfaces are gone");
    Ok(())
}

fn refused() -> Result<()> {
    let paths = Paths::new(Plan::wires(1))?;
    let config = "[[netns]]\nname = \"odd\"\npath = \"/proc/self/status\"\n".to_owned();
    let agent = Options { config, ..Options::default() }.spawn(&paths.client)?;
    wait::until(LOOKED, || {
        ensure!(agent.stderr().contains("/proc/self/status"), "{}", agent.stderr());
        ensure!(agent.get("/metrics")?.status == 200, "the rest does not work");
        Ok(())
    })
}
