//! The agent's figures of paths and subflows against captures, sockets and programs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::counted::Classes;
use mpsec_tests::link::Offload;
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::paths::{Family, Host, Plan, device};
use mpsec_tests::trial::trial;
use mpsec_tests::{need, ss, wait};
use serde_json::Value;

use crate::lab::{HOSTS, Lab, Truth, all_agree};
use crate::mptcp_view::{SHOWN, Stage, View, close_to, list, number, subflows, sum, view};

const LIMIT: Duration = Duration::from_secs(60);
const UP: u64 = 8_000_000;
const DOWN: u64 = 2_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        for paths in [1, 2, 4] {
            let name = format!("mptcp_truth::bulk_{paths}_{family}");
            trials.push(trial(&name, LIMIT, move || bulk(Plan::wires(paths), family)));
        }
        for offload in [Offload::Software, Offload::Full] {
            let name = format!("mptcp_truth::bulk_2_{family}_{}", format!("{offload:?}").to_lowercase());
            trials.push(trial(&name, LIMIT, move || bulk(Plan::wires(2).offload(offload), family)));
        }
    }
    trials.extend([
        trial("mptcp_truth::both_families", LIMIT, both_families),
        trial("mptcp_truth::repetitions", LIMIT, repetitions),
        trial("mptcp_truth::repetitions_over_a_bottleneck", LIMIT, bottleneck),
        trial("mptcp_truth::a_peer_without_mptcp_is_named", LIMIT, fallback),
        trial("mptcp_truth::a_backup_is_shown", LIMIT, backup),
        trial("mptcp_truth::shares_sum_to_one", LIMIT, shares),
        trial("mptcp_truth::endpoints_limits_and_counters_are_the_kernels", LIMIT, settings),
    ]);
    trials
}

fn bulk(plan: Plan, family: Family) -> Result<()> {
    let stage = Stage::new(plan)?;
    stage.lab.paths.add_endpoints(family)?;
    let mut talk = Conversation::open(&stage.lab.paths, family)?;
    talk.joined(u32::try_from(plan.paths)?)?;
    talk.exchange(UP, DOWN)?;
    let truths = all_agree(&stage.lab, &talk, true)?;
    stage.says_what_is_true(family, 0)?;
    let tokens = talk.info()?.map(|info| info.map(|info| info.token));
    for ((truth, host), token) in truths.iter().zip(HOSTS).zip(tokens) {
        let agent = stage.agent(host);
        let token = token.context("no MPTCP")?;
        wait::until(SHOWN, || each_subflow(&view(agent)?, truth, token, host)).with_context(|| format!("{host:?}"))?;
        nothing_else(agent, truth, family)?;
    }
    talk.close()?;
    stage.says_what_is_true(family, 1)
}

/// Every subflow is there, on its device, with its figures; its payload, repetitions taken off, is what the program sent and
/// what MPTCP sent again, which is shown of the paths already.
fn each_subflow(view: &View, truth: &Truth, token: u32, host: Host) -> Result<()> {
    let connection = view.connection(token)?;
    let role = if host == Host::Client { "client" } else { "server" };
    ensure!(connection["role"] == role && connection["fallback"].is_null(), "{connection:#}");
    ensure!(connection["state"] == "established", "{connection:#}");
    let subflows = subflows(connection)?;
    ensure!(subflows.len() == truth.flows().count(), "{connection:#}");
    let missed = 3 * view.total("handshakes_lost")?;
    for (path, tuple, flow) in truth.flows() {
        let said = subflows.get(tuple).with_context(|| format!("no {tuple:?}: {connection:#}"))?;
        ensure!(said["interface"] == device(host, path) && said["joined"] == flow.joined, "{said:#}");
        ensure!(said["state"] == "established" && said["backup"] == false, "{said:#}");
        for (said, is) in [(&said["rx"], flow.rx), (&said["tx"], flow.tx)] {
            close_to(sum(said)?, is, missed).with_context(|| format!("{tuple:?}"))?;
        }
        // What TCP says of itself is what it says to us, too: the payload that it sent and sent again.
        let tcp = [number(&said["tcp"]["sent_bytes"])?, number(&said["tcp"]["retransmitted_bytes"])?];
        ensure!(tcp == [flow.tx.payload, flow.tx.retransmitted], "{said:#}");
    }
    ensure!(subflows.values().next().is_some(), "no subflow");
    Ok(())
}

/// The interface counted no more than its paths, as nothing else crosses it; what opens a subflow is in both, or said to be
/// missing in one. One subflow was opened on each path and is active.
fn nothing_else(agent: &Agent, truth: &Truth, family: Family) -> Result<()> {
    let (view, metrics) = (view(agent)?, agent.scrape()?);
    let lost = view.total("handshakes_lost")?;
    for path in 0..truth.paths.len() {
        let device = device(truth.host, path);
        let said = view.path(&device, family)?;
        for (direction, said) in [("rx", said.rx), ("tx", said.tx)] {
            let seen = Classes::read(&metrics, &device, direction)?.total();
            let missing = seen.packets.checked_sub(said.packets).context("more than the interface saw")?;
            ensure!(missing <= 3 * lost && (missing > 0 || seen.bytes == said.bytes), "{device}: {seen:?}, {said:?}");
        }
        ensure!(said.opened == 1 && said.closed.values().sum::<u64>() == 0, "{said:?}");
        ensure!(said.subflows.get("active") == Some(&1), "{said:?}");
        let labels = [("interface", device.as_str()), ("state", "active")];
        ensure!(metrics.sum("mpsec_path_subflows", &labels)? == 1, "mpsec_path_subflows of {device}");
    }
    Ok(())
}

fn both_families() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let mut talks = Vec::new();
    for family in Family::ALL {
        stage.lab.paths.add_endpoints(family)?;
        let mut talk = Conversation::open(&stage.lab.paths, family)?;
        talk.joined(2)?;
        talk.exchange(UP, DOWN)?;
        talks.push(talk);
    }
    Family::ALL.into_iter().try_for_each(|family| stage.says_what_is_true(family, 0))
}

fn repetitions() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let paths = &stage.lab.paths;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    (0..2).try_for_each(|path| paths.drop_arriving(Host::Server, path, "numgen inc mod 97 == 0"))?;
    talk.exchange(UP, 0)?;
    ss::wait_acknowledged(&paths.client)?;
    let [client, _] = all_agree(&stage.lab, &talk, false)?;
    ensure!(client.total().1.retransmitted > 10_000, "little was lost: {client:?}");
    // Sent: what ss counts. Received: what the capture does, before the loss.
    stage.says_what_is_true(Family::V4, 0)
}

fn bottleneck() -> Result<()> {
    let stage = Stage::new(Plan::wires(2).bottleneck(30, 40_000))?;
    let paths = &stage.lab.paths;
    paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(UP, 0)?;
    ss::wait_acknowledged(&paths.client)?;
    let client = stage.lab.truth(Host::Client)?;
    client.agrees_with_ss(paths, true)?;
    ensure!(client.total().1.retransmitted > 0, "nothing was lost: {client:?}");
    stage.says_what_is_true(Family::V4, 0)
}

fn fallback() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let mut talk = Conversation::between(&stage.lab.paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    talk.exchange(100_000, 100_000)?;
    wait::until(SHOWN, || {
        let view = view(&stage.agents[0])?;
        let connections = list(view.get("connections"))?;
        ensure!(connections.len() == 1, "{connections:#?}");
        let why = connections[0]["fallback"].as_str().unwrap_or_default();
        ensure!(!why.is_empty() && view.findings("fallback")? == 1, "{connections:#?}, {:#}", view.get("findings"));
        Ok(())
    })?;
    talk.close()
}

fn backup() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    let paths = &stage.lab.paths;
    paths.add_endpoint(1, Family::V4, "backup")?;
    let mut talk = Conversation::open(paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(1_000_000, 0)?;
    let token = talk.token()?;
    for backup in [true, false, true] {
        paths.set_backup(1, Family::V4, backup)?;
        wait::until(SHOWN, || {
            let view = view(&stage.agents[0])?;
            let subflows = subflows(view.connection(token)?)?;
            let flags: Vec<_> = subflows.values().map(|one| one["backup"] == true).collect();
            ensure!(flags == [false, backup], "{subflows:#?}");
            let path = view.path("west1", Family::V4)?;
            let state = if backup { "backup" } else { "active" };
            ensure!(path.subflows.get(state) == Some(&1), "{path:?}");
            Ok(())
        })?;
    }
    stage.says_what_is_true(Family::V4, 0)
}

/// While something is sent, each subflow has a part of it, and the parts are the whole: they are quotients of whole numbers
/// by their sum, so that only their rounding is left.
fn shares() -> Result<()> {
    let stage = Stage::new(Plan::wires(2))?;
    stage.lab.paths.add_endpoints(Family::V4)?;
    let mut talk = Conversation::open(&stage.lab.paths, Family::V4)?;
    talk.joined(2)?;
    let token = talk.token()?;
    std::thread::scope(|scope| {
        let steady = scope.spawn(|| talk.exchange_at(12_000_000, 0, Some(4_000_000)));
        let seen = wait::until(SHOWN, || {
            let view = view(&stage.agents[0])?;
            let subflows = list(&view.connection(token)?["subflows"])?;
            let shares: Vec<f64> = subflows.iter().filter_map(|one| one["scheduler_share"].as_f64()).collect();
            ensure!(shares.len() == 2, "{subflows:#?}");
            Ok(shares)
        });
        steady.join().expect("no panic")?;
        let shares = seen?;
        ensure!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
        Ok(())
    })
}

fn settings() -> Result<()> {
    need::mpsec()?;
    let lab = Lab::new(Plan::wires(2))?;
    lab.paths.add_endpoint(1, Family::V4, "backup")?;
    lab.paths.add_endpoint(1, Family::V6, "")?;
    let agent = Agent::start(&lab.paths.client)?;
    view(&agent)?;
    let mut talk = Conversation::open(&lab.paths, Family::V4)?;
    talk.joined(2)?;
    talk.exchange(10_000, 0)?;
    wait::until(SHOWN, || {
        let view = view(&agent)?;
        ensure!(
            view.get("limits") == &serde_json::json!({"subflows": 8, "add_addr_accepted": 8}),
            "{:#}",
            view.get("limits")
        );
        ensure!(view.get("sysctls")["enabled"] == "1", "{:#}", view.get("sysctls"));
        let endpoints = list(view.get("endpoints"))?;
        let short: Vec<(&Value, &Value)> = endpoints.iter().map(|one| (&one["address"], &one["flags"])).collect();
        let (v4, v6) = (Value::from("10.0.1.1"), Value::from("2001:db8:1::1"));
        let flags = |words: &[&str]| Value::from(words.to_vec());
        let wanted = [(&v4, &flags(&["subflow", "backup"])), (&v6, &flags(&["subflow"]))];
        ensure!(short == wanted, "{endpoints:#?}");
        let said = list(view.get("mib"))?.iter().filter(|pair| pair[1] != 0);
        let said: Vec<_> =
            said.map(|pair| (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].as_u64())).collect();
        for (name, value) in ss::mib(&lab.paths.client)? {
            ensure!(said.contains(&(name.clone(), Some(value))), "{name} is {value}: {said:?}");
        }
        Ok(())
    })
}
