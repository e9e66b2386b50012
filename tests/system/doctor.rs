//! `mpsec doctor mptcp` on hosts where one thing is wrong.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp::{Conversation, Protocol};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::trial::trial;
use mpsec_tests::{need, wait};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("doctor::a_host_with_two_paths_is_well", LIMIT, well),
        trial("doctor::each_fault_is_found_and_its_remedy_mends_it", LIMIT, faults),
        trial("doctor::what_connections_met_is_told", LIMIT, met),
    ]
}

/// What the doctor says, and whether it is content.
fn doctor(netns: &Netns, arguments: &[&str]) -> Result<(Vec<Value>, bool)> {
    let program = need::mpsec()?;
    let mut all = vec!["doctor", "mptcp", "--json", "--control-socket", "/run/none.sock"];
    all.extend(arguments);
    let output = netns.run(|| std::process::Command::new(program).args(&all).output())?;
    let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let fine = answer["fine"] == true;
    ensure!(output.status.success() == fine, "{output:?}");
    Ok((answer["diagnoses"].as_array().context("no diagnoses")?.clone(), fine))
}

/// The remedies of what is wrong with this check.
fn wrong(diagnoses: &[Value], check: &str) -> Vec<String> {
    let all = diagnoses.iter().filter(|one| one["check"] == check && one["verdict"] == "wrong");
    all.map(|one| one["remedy"].as_str().unwrap_or_default().to_owned()).collect()
}

fn two_paths() -> Result<Paths> {
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoints(Family::V4)?;
    Ok(paths)
}

fn peer() -> String {
    address(Host::Server, Family::V4, 0).to_string()
}

fn well() -> Result<()> {
    let paths = two_paths()?;
    let (all, fine) = doctor(&paths.client, &["--peer", &peer()])?;
    ensure!(fine, "{all:#?}");
    let says = |check: &str| all.iter().any(|one| one["check"] == check && one["verdict"] == "fine");
    for check in ["enabled", "endpoints", "limits", "routes", "blackhole"] {
        ensure!(says(check), "{check}: {all:#?}");
    }
    Ok(())
}

/// Breaks one thing after the other, and mends it with the command that the doctor names, where it is a whole one.
fn faults() -> Result<()> {
    let paths = two_paths()?;
    let (netns, to) = (&paths.client, peer());
    let well = || -> Result<()> {
        let (all, fine) = doctor(netns, &["--peer", &to])?;
        ensure!(fine, "{all:#?}");
        Ok(())
    };
    let mend = |check: &str| -> Result<()> {
        let (all, fine) = doctor(netns, &["--peer", &to])?;
        let remedies = wrong(&all, check);
        ensure!(!fine && !remedies.is_empty(), "{check}: {all:#?}");
        for remedy in remedies {
            netns.output("sh", &["-c", &remedy])?;
        }
        well().with_context(|| format!("after the remedy for {check}"))
    };
    well()?;
    netns.sysctl("net/mptcp/enabled", "0")?;
    mend("enabled")?;
    netns.ip("mptcp limits set subflows 0")?;
    mend("limits")?;
    netns.ip("mptcp endpoint flush")?;
    mend("endpoints")?;
    netns.ip("mptcp endpoint add 203.0.113.77 subflow")?;
    let (all, _) = doctor(netns, &["--peer", &to])?;
    ensure!(wrong(&all, "endpoint_address").len() == 1, "{all:#?}");
    let remedy = wrong(&all, "endpoint_address")[0].split(',').next().unwrap_or_default().to_owned();
    netns.output("sh", &["-c", &remedy])?;
    well()?;
    // Without the rule, packets from the second address leave by whatever leads there.
    let source = address(Host::Client, Family::V4, 1).to_string();
    netns.ip(&format!("rule del from {source}"))?;
    let (all, fine) = doctor(netns, &["--peer", &to])?;
    ensure!(!fine && wrong(&all, "routes").iter().any(|remedy| remedy.contains(&source)), "{all:#?}");
    Ok(())
}

/// Fallbacks, joins and backups of connections that there were.
fn met() -> Result<()> {
    need::mptcp_counter("MPJoinRejected")?;
    let paths = Paths::new(Plan::wires(2))?;
    paths.add_endpoint(1, Family::V4, "backup")?;
    let talk = Conversation::between(&paths, Family::V4, [Protocol::Mptcp, Protocol::Tcp])?;
    talk.close()?;
    paths.server.ip("mptcp limits set subflows 0")?;
    let mut talk = Conversation::open(&paths, Family::V4)?;
    talk.exchange(50_000, 50_000)?;
    // The join is refused some time after the connection is there.
    wait::until(Duration::from_secs(5), || {
        let (client, _) = doctor(&paths.client, &[])?;
        for check in ["fallback", "backup", "joins"] {
            ensure!(client.iter().any(|one| one["check"] == check), "{check}: {client:#?}");
        }
        Ok(())
    })?;
    let (server, fine) = doctor(&paths.server, &[])?;
    let text = |one: &Value| one["text"].as_str().unwrap_or_default().to_owned();
    ensure!(
        !fine && server.iter().any(|one| one["check"] == "limits" && text(one).contains("refused here")),
        "{server:#?}"
    );
    Ok(())
}
