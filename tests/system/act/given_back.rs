//! What is given back although no state file lists it, or although nothing else can be done.

use std::fs;

use anyhow::{Result, ensure};
use mpsec_tests::paths::{Family, Host, Paths, Plan, address};
use mpsec_tests::{need, wait};

use super::{FULLMESH, SOON, mpsec, start, state};

pub(super) fn unlisted() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(2))?;
    let client = &paths.client;
    for path in 0..2 {
        let (from, to) = (address(Host::Client, Family::V4, path), address(Host::Server, Family::V4, path));
        client.ip(&format!("mptcp endpoint add {from} subflow dev west{path}"))?;
        client.ip(&format!("route add default via {to} dev west{path} metric {}", 100 + path))?;
    }
    let before = state(client)?;
    let config = "[mptcp]\nendpoints = [\"west*=ipv4\"]\nmanage_routes = true\nfailover = \"off\"\n\
                  path_max_rate = [\"west*=1mbit\"]\n";
    let mut agent = start(client, config)?;
    let rules = || -> Result<usize> { Ok(client.ip("-d rule")?.matches("proto 213").count()) };
    wait::until(SOON, || {
        ensure!(rules()? == 2, "{} rules; {}", rules()?, agent.stderr());
        Ok(())
    })?;
    // Somebody with a state of their own takes nothing of it away.
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (program, [socket, state_dir]) = (need::mpsec()?.display().to_string(), [path("socket"), path("state")]);
    for words in [&["apply", "--set", "mptcp.reordering=9"][..], &["release"]] {
        client.output(&program, &[words, &["--control-socket", &socket, "--state-dir", &state_dir]].concat())?;
    }
    ensure!(rules()? == 2, "others took rules away");
    fs::write(agent.folder().join("mpsec.toml"), "")?;
    agent.signal(libc::SIGHUP)?;
    wait::until(SOON, || {
        let now = state(client)?;
        ensure!(now == before, "not given back:\n{now}\ninstead of\n{before}\n{}", agent.stderr());
        let (_, plan) = mpsec(&agent, &["plan"])?;
        ensure!(plan.contains("Nothing to change"), "{plan}");
        Ok(())
    })?;
    agent.stop(libc::SIGTERM).map(drop)
}

pub(super) fn refused_at_last() -> Result<()> {
    need::mpsec()?;
    let paths = Paths::new(Plan::wires(1))?;
    let file = "/proc/sys/net/mptcp/path_manager";
    paths.client.run(|| need::file(file))?;
    let manager = || -> Result<String> { Ok(paths.client.read(file)?.trim().to_owned()) };
    let mut agent = start(&paths.client, "[mptcp]\npath_manager = \"ndiffports\"\n")?;
    wait::until(SOON, || {
        let manager = manager()?;
        ensure!(manager == "userspace", "{manager}");
        Ok(())
    })?;
    fs::write(agent.folder().join("mpsec.toml"), format!("{FULLMESH}scheduler = \"redundant\"\n"))?;
    agent.signal(libc::SIGHUP)?;
    wait::until(SOON, || {
        let said = agent.stderr();
        ensure!(said.contains("no packet scheduler `redundant`"), "{said}");
        Ok(())
    })?;
    agent.stop(libc::SIGTERM)?;
    let manager = manager()?;
    ensure!(manager == "kernel", "sockets are left to nobody: {manager}");
    Ok(())
}
