//! Which programs get MPTCP: those of the listed control groups and those below, on the hosts whose agents list them.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::trial::trial;

use super::*;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("force::other_control_groups_stay_tcp_at_the_same_time", LIMIT, groups),
        trial("force::the_same_control_group_elsewhere_stays_tcp", LIMIT, namespaces),
        trial("force::a_control_group_is_waited_for", LIMIT, comes_and_goes),
        trial("force::what_names_no_control_group_is_refused_at_the_start", LIMIT, named_wrongly),
    ]
}

fn groups() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let others = Group::make("others")?;
    let grandchild = hosts.clients.below("child")?.join("child");
    fs::create_dir(&grandchild)?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let places = [
        (Some(hosts.clients.path()), true),
        (Some(grandchild.as_path()), true),
        (Some(others.path()), false),
        (None, false),
    ];
    let curls: Vec<_> = (40_001..)
        .zip(places)
        .map(|(port, (group, expected))| Ok((port, hosts.held(group, Family::V4, port)?, expected)))
        .collect::<Result<_>>()?;
    for (port, _, expected) in &curls {
        ensure!(is_mptcp(&hosts, *port)? == *expected, "port {port}: MPTCP is {}, not {expected}", !expected);
    }
    // All at the same time.
    for (port, _, _) in &curls {
        connected(&hosts, Host::Client, *port)?;
    }
    curls.into_iter().try_for_each(|(_, curl, _)| curl.finish())?;
    ensure!(hosts.handshakes()? == [2; 3], "handshakes: {:?}", hosts.handshakes()?);
    ensure!(counted(hosts.agent(Host::Client), "clients")? == 2, "in all");
    Ok(())
}

/// The agent of the servers' host does not list the clients' control group.
fn namespaces() -> Result<()> {
    let hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let to = hosts.folder.path().join("near").display().to_string();
    let url = format!("http://127.0.0.1:{PORT}/file");
    let line = ["curl", "-sS", "--noproxy", "*", "-o", &to, &url];
    Program::start(&hosts.lab().paths.server, Some(hosts.clients.path()), &line)?.finish(PATIENCE)?;
    ensure!(fs::read(&to)? == hosts.content, "other bytes came");
    let mib = ss::mib(&hosts.lab().paths.server)?;
    ensure!(!mib.contains_key("MPCapableSYNTX"), "{mib:?}");
    Program::start(&hosts.lab().paths.server, Some(hosts.servers.path()), &line)?.finish(PATIENCE)?;
    let mib = ss::mib(&hosts.lab().paths.server)?;
    ensure!(mib.get("MPCapableSYNTX") == Some(&1), "what is listed for servers connects, too: {mib:?}");
    Ok(())
}

/// As that of a service is, which is made anew at each start.
fn comes_and_goes() -> Result<()> {
    let mut hosts = Hosts::new(Plan::wires(1), Forced::Both)?;
    let _server = hosts.serve(Some(hosts.servers.path()), Family::V4)?;
    let name = hosts.clients.name().join("service");
    let config = listing("clients", &name);
    hosts.stage.agents[0].stop(libc::SIGTERM)?;
    hosts.stage.agents[0] = Options { config, ..Options::default() }.start(&hosts.lab().paths.client)?;
    let agent = hosts.agent(Host::Client);
    let told = format!("the control group {}: it is not there yet", name.display());
    let waits = |expected: bool| {
        wait::until(SHOWN, || {
            let table = text(agent)?;
            ensure!(table.contains(&told) == expected, "{table}");
            let published = agent.scrape()?.sum("mpsec_control_waiting", &[])?;
            ensure!(published == u64::from(expected), "mpsec_control_waiting is {published}");
            Ok(())
        })
    };
    ensure!(agent.stderr().contains(&told), "{}", agent.stderr());
    for round in 0..2 {
        waits(true)?;
        ensure!(!hosts.fetches_by_mptcp(Some(hosts.clients.path()), 40_001 + round * 2)?, "above it");
        let service = hosts.clients.below("service")?;
        waits(false)?;
        ensure!(hosts.fetches_by_mptcp(Some(&service), 40_002 + round * 2)?, "start {round}");
        fs::remove_dir(service)?;
    }
    waits(true)
}

/// What `mpsec status` shows to people.
pub(super) fn text(agent: &Agent) -> Result<String> {
    let socket = agent.folder().join("mpsec.sock");
    let output =
        std::process::Command::new(need::mpsec()?).args(["status", "--control-socket"]).arg(socket).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Before anything is changed; no kernel is needed for that.
fn named_wrongly() -> Result<()> {
    need::mpsec()?;
    need::root()?;
    let netns = std::sync::Arc::new(mpsec_tests::netns::Netns::new()?);
    let config = listing("servers", Path::new("system.slice/../../etc"));
    let mut agent = Options { config, ..Options::default() }.spawn(&netns)?;
    let code = mpsec_tests::agent::exit_code(agent.wait(SHOWN)?)?;
    let said = agent.stderr();
    ensure!(code == 64 && said.contains("system.slice/../../etc") && said.contains("is no cgroup"), "{code}: {said}");
    Ok(())
}
