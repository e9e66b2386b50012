//! What is lost and sent again, by TCP and by MPTCP above it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::kprobe::Kprobe;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, Paths, Plan};
use mpsec_tests::{need, ss, wait};

use super::{Both, FUNCTIONS, WAYS, alone, counts, ensure_equal, entries, for_each_way, total};
use crate::lab::Lab;
use crate::mptcp_view::{SHOWN, number, view};

const UP: u64 = 4_000_000;

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_way(&WAYS, "counts_what_is_sent_again", |way| {
            sent_again(way, Plan::wires(2), |paths| {
                (0..2).try_for_each(|path| paths.drop_arriving(Host::Server, path, "numgen inc mod 97 == 0"))
            })
        }),
        for_each_way(&WAYS, "counts_what_netem_loses", |way| {
            need::netem()?;
            sent_again(way, Plan::wires(2).bottleneck(15, 60_000), |paths| {
                (0..2).try_for_each(|path| paths.shape(path, Host::Server, "limit 200 rate 15mbit delay 5ms loss 2%"))
            })
        }),
        for_each_way(&FUNCTIONS, "counts_mptcp_timeouts", mptcp_timeouts),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Counters of the kernel's TCP that bound what the ways may differ by.
struct Bounds {
    /// Segments sent again, all of the namespace.
    sent_again: u64,
    /// Probes for the loss of the last segments, which go past the function: some send data again, others new.
    tail_probes: u64,
    /// What entered the function and was not sent.
    failed: u64,
}

impl Bounds {
    fn read(netns: &Netns) -> Result<Bounds> {
        let (tcp, ext) = (ss::counters(netns, "Tcp")?, ss::counters(netns, "TcpExt")?);
        let count = |of: &BTreeMap<String, u64>, name: &str| of.get(name).copied().unwrap_or(0);
        Ok(Bounds {
            sent_again: count(&tcp, "RetransSegs"),
            tail_probes: count(&ext, "TCPLossProbes"),
            failed: count(&ext, "TCPRetransFail") + count(&ext, "TCPSpuriousRtxHostQueues"),
        })
    }

    /// What has been counted since: before, programs have asked the agents over the loopback device, which may send again, too.
    fn since(netns: &Netns, before: &Bounds) -> Result<Bounds> {
        let now = Bounds::read(netns)?;
        Ok(Bounds {
            sent_again: now.sent_again - before.sent_again,
            tail_probes: now.tail_probes - before.tail_probes,
            failed: now.failed - before.failed,
        })
    }
}

/// By state, and all together, against each socket's own count and the kernel's.
fn sent_again(way: &str, plan: Plan, lose: fn(&Paths) -> Result<()>) -> Result<()> {
    let lab = Lab::new(plan)?;
    let paths = &lab.paths;
    let agents = Both::start(&paths.client, way, &["retransmit"])?;
    let before = Bounds::read(&paths.client)?;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    lose(paths)?;
    talk.exchange(UP, 0)?;
    ss::wait_acknowledged(&paths.client)?;
    wait::until(SHOWN, || {
        let mut by_sockets = 0;
        for socket in ss::subflows(&paths.client)? {
            by_sockets += socket.number("retrans")?;
        }
        let bounds = Bounds::since(&paths.client, &before)?;
        ensure!(by_sockets > 10 && by_sockets == bounds.sent_again, "{by_sockets} by ss, {} in all", bounds.sent_again);
        let [tracepoints, tried] = [&agents.tracepoints, &agents.tried].map(states);
        let (tracepoints, tried) = (tracepoints?, tried?);
        let [missed, missed_by_tried] = [missed(&agents.tracepoints)?, missed(&agents.tried)?];
        let counted = total(&tracepoints);
        ensure!(
            counted <= by_sockets && by_sockets <= counted + missed,
            "{by_sockets} by ss: {tracepoints:?}, {missed} missed"
        );
        let are_whole = missed + missed_by_tried == 0;
        if way == "tp_btf" && are_whole {
            return ensure_equal("by state", &tracepoints, &tried);
        }
        let low = by_sockets.saturating_sub(bounds.tail_probes + missed_by_tried);
        let high = by_sockets + bounds.failed;
        ensure!(
            (low..=high).contains(&total(&tried)),
            "{by_sockets} by ss, {} tail probes, {} failed: {tried:?}",
            bounds.tail_probes,
            bounds.failed
        );
        if bounds.tail_probes + bounds.failed == 0 && are_whole {
            ensure_equal("by state", &tracepoints, &tried)?;
        }
        ensure!(tried.get("recovery").is_some_and(|count| *count > 0), "{tried:?}");
        Ok(())
    })?;
    report("sent again", &agents, states)?;
    agree_with_captures(&lab)
}

/// What the probe was not told, as the kernel says.
fn missed(agent: &Agent) -> Result<u64> {
    agent.scrape()?.sum("mpsec_probe_missed_total", &[("probe", "retransmit")])
}

fn states(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    counts(&view(agent)?.get("probed")["retransmissions"])
}

/// Figures, for who reads the output with `--nocapture`.
fn report(what: &str, agents: &Both, of: fn(&Agent) -> Result<BTreeMap<String, u64>>) -> Result<()> {
    for (name, agent) in agents.each() {
        eprintln!("{what}, {name}: {:?}", of(agent)?);
    }
    Ok(())
}

/// What the sockets say is what was on the wire.
fn agree_with_captures(lab: &Lab) -> Result<()> {
    lab.truth(Host::Client)?.agrees_with_ss(&lab.paths, false)
}

/// A path falls silent and MPTCP's own timer runs out; it is counted by the functions alone, and by none while all is well.
fn mptcp_timeouts(way: &'static str) -> Result<()> {
    let lab = Lab::new(Plan::wires(2))?;
    let paths = &lab.paths;
    let start = |netns| alone(netns, way, &["data_timeout"]);
    let (client, server) = (start(&paths.client)?, start(&paths.server)?);
    let (entry, _) = &entries(&client)?["data_timeout"];
    ensure!(entry == way, "{entry}");
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(UP, UP)?;
    let timeouts = |agent: &Agent| number(&view(agent)?.get("probed")["data_timeouts"]);
    let again = || Ok::<_, anyhow::Error>(ss::mib(&paths.client)?.get("MPTCPRetrans").copied().unwrap_or(0));
    let judge = Kprobe::count("__mptcp_retrans")?;
    let before = (timeouts(&client)? + timeouts(&server)?, again()?);
    for host in [Host::Client, Host::Server] {
        paths.drop_arriving(host, 1, "")?;
    }
    talk.exchange(UP, 0)?;
    wait::until(SHOWN, || {
        let counted = timeouts(&client)? + timeouts(&server)? - before.0;
        let (hits, again) = (judge.hits()?, again()? - before.1);
        eprintln!("{way}: {counted} timeouts, {hits} calls, {again} segments sent again by MPTCP");
        ensure!(again > 0, "MPTCP sent nothing again");
        ensure!(counted > 0 && counted <= hits, "{counted} counted, {hits} calls");
        // A call for nothing: what the timer was for was acknowledged before the worker ran.
        ensure!(hits - counted <= hits / 4 + 1, "{counted} counted, {hits} calls");
        Ok(())
    })
}
