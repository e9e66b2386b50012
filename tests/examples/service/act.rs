//! Changes go through the sandbox: settings of the kernel, endpoints, rules and routes, by root and by the group.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::need;

use super::guest::{answers_anew, fails, metric, scrape, sh, tell};
use super::net;

/// What is asked for in these trials and kept for those after them.
pub const SET: &str = "--set mptcp.path_manager=fullmesh --set mptcp.endpoints=wan0,wan1 --set mptcp.manage_routes=true \
     --set mptcp.gateways=wan0=10.9.0.2,wan1=10.9.1.2 --set mptcp.reordering=7 --set mptcp.sysctls=stale_loss_cnt=5";

pub fn trials() -> Vec<Trial> {
    vec![
        tell("apply", apply),
        tell("control_group", control_group),
        tell("reload_good", reload_good),
        tell("reload_bad", reload_bad),
        tell("forced_unit", forced_unit),
    ]
}

/// What the kernel has by now, of all that [`SET`] asks for.
pub fn in_force() -> Result<()> {
    for (file, expected) in [("mptcp/stale_loss_cnt", "5"), ("ipv4/tcp_reordering", "7")] {
        let found = sh(&format!("cat /proc/sys/net/{file}"))?;
        ensure!(found.trim() == expected, "{file} is {found}");
    }
    let endpoints = sh("ip mptcp endpoint")?;
    for wire in net::WIRES {
        ensure!(endpoints.contains(&format!("dev {wire}")), "no endpoint of {wire}: {endpoints}");
    }
    let rules = sh("ip -details rule")?;
    ensure!(rules.matches("proto 213").count() == 2, "rules: {rules}");
    Ok(())
}

fn apply() -> Result<()> {
    sh(&format!("mpsec apply {SET}"))?;
    in_force()?;
    // It fails where there is anything left to be changed.
    sh("mpsec plan --check").map(drop)
}

/// Members of the group may change things, others may not.
fn control_group() -> Result<()> {
    sh("useradd --groups mpsec member; useradd stranger")?;
    let as_user = |user: &str, command: &str| format!("setpriv --reuid={user} --regid={user} --init-groups {command}");
    sh(&as_user("member", "mpsec status"))?;
    sh(&as_user("member", "mpsec link down wan1 --dry-run"))?;
    sh(&as_user("member", "mpsec apply --set mptcp.max_reordering=301"))?;
    ensure!(sh("cat /proc/sys/net/ipv4/tcp_max_reordering")?.trim() == "301", "it was not set");
    fails(&as_user("stranger", "mpsec apply --set mptcp.max_reordering=302"))?;
    ensure!(sh("cat /proc/sys/net/ipv4/tcp_max_reordering")?.trim() == "301", "a stranger has set it");
    sh("mpsec apply --unset mptcp.max_reordering").map(drop)
}

fn reload_good() -> Result<()> {
    sh("printf '[interfaces]\\nexclude = [\"wan1\"]\\n' >/etc/mpsec/mpsec.toml && systemctl reload mpsec")?;
    mpsec_tests::wait::until(super::guest::PATIENCE, || {
        let attached = net::attached("wan1")?;
        ensure!(attached.iter().all(Vec::is_empty), "it is still counted: {attached:?}");
        Ok(())
    })?;
    ensure!(metric("mpsec_config_last_reload_successful", &[])? == 1.0, "the reload failed");
    in_force()
}

/// `systemctl reload` fails with the reason; what was in force stays so.
fn reload_bad() -> Result<()> {
    sh("printf '[interfaces]\\nexclud = 1\\n' >/etc/mpsec/mpsec.toml")?;
    fails("systemctl reload mpsec")?;
    ensure!(metric("mpsec_config_last_reload_successful", &[])? == 0.0, "nothing tells that the file is wrong");
    // Nor does one succeed that is good and has to wait for a restart.
    sh("printf '[interfaces]\\nmax_interfaces = 7\\n' >/etc/mpsec/mpsec.toml")?;
    fails("systemctl reload mpsec")?;
    ensure!(net::attached("wan1")?.iter().all(Vec::is_empty), "what was in force is not any more");
    let journal = sh("journalctl --no-pager --unit mpsec --lines 20")?;
    ensure!(journal.contains("exclud"), "the journal does not say what is wrong: {journal}");
    sh("mpsec config default >/etc/mpsec/mpsec.toml && systemctl reload mpsec")?;
    ensure!(metric("mpsec_config_last_reload_successful", &[])? == 1.0, "a good file does not mend it");
    in_force()
}

/// The program of a unit is given MPTCP through the sandbox, and has TCP while the service is stopped.
fn forced_unit() -> Result<()> {
    need::linux(6, 6, "programs can be given MPTCP")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // It ends with the test program.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        }
    });
    // Its control group is made with it; the agent has heard of that when the program begins.
    let fetch = || {
        sh(&format!(
            "systemd-run --quiet --wait --unit fetch sh -c \
             'sleep 5; exec curl --silent --fail --max-time 60 http://127.0.0.1:{port}/'"
        ))
    };
    let begun_by_mptcp = || -> Result<u64> {
        let before = handshakes()?;
        fetch()?;
        Ok(handshakes()? - before)
    };
    sh("printf '[mptcp.force]\\nclients = [\"system.slice/fetch.service\"]\\n' >/etc/mpsec/mpsec.toml
        systemctl reload mpsec")?;
    ensure!(begun_by_mptcp()? == 1, "it was not given MPTCP: {}", sh("mpsec status")?);
    let counted = scrape()?.sum("mpsec_control_forced_sockets_total", &[("listed", "clients")])?;
    ensure!(counted == 1, "{counted} sockets are told of");
    sh("systemctl stop mpsec")?;
    ensure!(begun_by_mptcp()? == 0, "it is given MPTCP by nobody");
    sh("systemctl start mpsec")?;
    answers_anew(None)?;
    ensure!(begun_by_mptcp()? == 1, "it was not given MPTCP again: {}", sh("mpsec status")?);
    sh("mpsec config default >/etc/mpsec/mpsec.toml && systemctl reload mpsec")?;
    ensure!(begun_by_mptcp()? == 0, "it is given MPTCP though that is not wanted any more");
    in_force()
}

/// Connections that this host began with MPTCP.
fn handshakes() -> Result<u64> {
    let said = sh("nstat --ignore --noupdate --zeros MPTcpExtMPCapableSYNTX")?;
    let count = said.lines().rev().find_map(|line| line.strip_prefix("MPTcpExtMPCapableSYNTX"));
    Ok(count.and_then(|words| words.split_whitespace().next()).context(said.clone())?.parse()?)
}
