//! Payload arrives, every path carries, and captures, sockets, programs and devices agree on how much.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::link::Offload;
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{Family, Host, Plan};
use mpsec_tests::ss;
use mpsec_tests::trial::trial;

use super::{Lab, all_agree};

const LIMIT: Duration = Duration::from_secs(60);
const UP: u64 = 12_000_000;
const DOWN: u64 = 3_000_000;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        for paths in [1, 2, 4] {
            let name = format!("lab::oracles_agree_{paths}_{family}");
            trials.push(trial(&name, LIMIT, move || agree(Plan::wires(paths), family)));
        }
    }
    for offload in [Offload::Software, Offload::Full] {
        let name = format!("lab::oracles_agree_offload_{}", format!("{offload:?}").to_lowercase());
        trials.push(trial(&name, LIMIT, move || agree(Plan::wires(2).offload(offload), Family::V4)));
    }
    trials.push(trial("lab::both_families_share_paths", LIMIT, both_families));
    trials.push(trial("lab::losses_are_agreed_on", LIMIT, losses));
    trials.push(trial("lab::a_bottleneck_drops_what_was_sent", LIMIT, bottleneck));
    trials
}

fn agree(plan: Plan, family: Family) -> Result<()> {
    let lab = Lab::new(plan)?;
    lab.paths.add_endpoints(family)?;
    let mut talk = Conversation::open(&lab.paths, family)?;
    talk.joined(u32::try_from(plan.paths)?)?;
    talk.exchange(UP, DOWN)?;
    let [client, _] = all_agree(&lab, &talk, true)?;
    for (path, flows) in client.paths.iter().enumerate() {
        ensure!(flows.len() == 1, "path {path} has {} subflows", flows.len());
        let (rx, tx) = client.path(path);
        ensure!(rx.payload + tx.payload > 10_000, "path {path} carries nothing: {flows:?}");
        ensure!(flows.values().all(|flow| flow.joined == (path > 0) && flow.answered), "{flows:?}");
    }
    if plan.offload != Offload::Full {
        // A device that segments nothing itself counts what is on the wire, and nothing else crossed it.
        lab.devices_agree()?;
    }
    talk.close()?;
    // The end of the data is told without payload.
    let after = lab.truth(Host::Client)?;
    ensure!(after.total().1.payload == client.total().1.payload, "closing sent payload");
    ensure!(after.flows().all(|(_, _, flow)| flow.fins >= 2 && flow.resets == 0), "{after:?}");
    Ok(())
}

fn both_families() -> Result<()> {
    let lab = Lab::new(Plan::wires(2))?;
    let mut talks = Vec::new();
    for family in Family::ALL {
        lab.paths.add_endpoints(family)?;
        let mut talk = Conversation::open(&lab.paths, family)?;
        talk.joined(2)?;
        talk.exchange(UP, DOWN)?;
        talks.push(talk);
    }
    let truth = lab.truth(Host::Client)?;
    truth.agrees_with_ss(&lab.paths, true)?;
    let tx = truth.total().1;
    let once = |talk: &Conversation| -> Result<u64> {
        let again = talk.info()?[0].map_or(Ok(0), |info| info.bytes().map(|bytes| bytes.retrans));
        Ok(talk.client.sent + again?)
    };
    let sent = talks.iter().map(once).sum::<Result<u64>>()?;
    let probes = ss::mib(&lab.paths.client)?.get("WinProbe").copied().unwrap_or(0);
    ensure!(tx.payload - tx.retransmitted == sent + probes, "{tx:?}: {sent}, {probes} probes");
    for flows in &truth.paths {
        let versions: Vec<bool> = flows.keys().map(|(local, _)| local.is_ipv4()).collect();
        ensure!(versions == [true, false], "{flows:?}");
    }
    lab.devices_agree()
}

/// What is dropped behind the server's device has crossed it, so that all who count there still agree.
fn losses() -> Result<()> {
    let lab = Lab::new(Plan::wires(2))?;
    lab.paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&lab.paths, Family::V4)?;
    talk.joined(2)?;
    (0..2).try_for_each(|path| lab.paths.drop_arriving(Host::Server, path, "numgen inc mod 97 == 0"))?;
    talk.exchange(UP, 0)?;
    (0..2).try_for_each(|path| lab.paths.let_through(Host::Server, path))?;
    ss::wait_acknowledged(&lab.paths.client)?;
    let [client, _] = all_agree(&lab, &talk, false)?;
    ensure!(client.total().1.retransmitted > 10_000, "little was lost: {client:?}");
    lab.devices_agree()
}

fn bottleneck() -> Result<()> {
    let lab = Lab::new(Plan::wires(2).bottleneck(30, 40_000))?;
    lab.paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&lab.paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(6_000_000, 0)?;
    ss::wait_acknowledged(&lab.paths.client)?;
    let [client, server] = lab.truths()?;
    client.agrees_with_ss(&lab.paths, true)?;
    client.agrees_with(&lab.paths, &talk.client, talk.info()?[0])?;
    let (sent, received) = (client.total().1, server.total().0);
    let dropped = lab.paths.dropped()?;
    ensure!(dropped > 0 && sent.retransmitted > 0, "nothing was dropped: {sent:?}");
    // Its queue drops segments one by one, as nothing keeps them together here.
    ensure!(sent.packets - received.packets == dropped, "{sent:?}, {received:?}, {dropped} dropped");
    ensure!(received.retransmitted <= sent.retransmitted, "{sent:?}, {received:?}");
    lab.devices_agree()
}
