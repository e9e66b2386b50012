//! Crashes and hangs: the service is back, and nothing is there twice.

use std::time::Instant;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp_socket::Protocol;
use mpsec_tests::wait;

use super::act;
use super::guest::{PATIENCE, answers_anew, metric, note, pid, scrape, sh, show, tell};
use super::net;

/// Seconds without a word after which systemd acts, in these trials.
const WATCHDOG: u32 = 8;

pub fn trials() -> Vec<Trial> {
    vec![
        tell("crash", crash),
        tell("crash_of_the_path_manager", path_manager),
        tell("crash_while_a_path_is_left", path_left),
        tell("hang", hang),
    ]
}

/// One program each way on each wire, and no packet counted that the device has not seen.
fn nothing_is_doubled() -> Result<()> {
    net::talk()?;
    for wire in net::WIRES {
        let attached = net::attached(wire)?;
        ensure!(attached.iter().all(|names| names.len() == 1), "on {wire}: {attached:?}");
        let metrics = scrape()?;
        let device = net::device_packets(wire)?;
        for (number, direction) in ["rx", "tx"].into_iter().enumerate() {
            let labels = [("interface", wire), ("direction", direction)];
            let counted = metrics.sum("mpsec_interface_packets_total", &labels)?;
            ensure!(counted <= device[number], "{wire} {direction}: {counted} counted of {}", device[number]);
        }
    }
    Ok(())
}

/// The gap is to be seen: the process' start is later, and the counters began anew.
fn crash() -> Result<()> {
    net::talk()?;
    let (old, started) = (pid()?, metric("process_start_time_seconds", &[])?);
    let before = scrape()?.sum("mpsec_interface_packets_total", &[("interface", "wan0")])?;
    let killed = Instant::now();
    sh(&format!("kill -KILL {old}"))?;
    answers_anew(Some(old))?;
    note(format!("service::crash: answers again after {:.1} s", killed.elapsed().as_secs_f64()));
    ensure!(show("NRestarts")? == "1", "restarts: {}", show("NRestarts")?);
    ensure!(metric("process_start_time_seconds", &[])? > started, "the start is not later");
    let after = scrape()?.sum("mpsec_interface_packets_total", &[("interface", "wan0")])?;
    ensure!(after < before, "{after} packets of before: {before}");
    nothing_is_doubled()?;
    act::in_force()
}

/// Ends the process as a crash does, and waits for the next one.
fn crashed() -> Result<()> {
    let old = pid()?;
    sh(&format!("kill -KILL {old}"))?;
    answers_anew(Some(old)).map(drop)
}

/// With the path manager inside the agent: connections keep their subflows and get no more of them, and those that are made
/// after the crash get theirs from the next process.
fn path_manager() -> Result<()> {
    const PORTS: [u16; 2] = [5011, 5012];
    sh("mpsec apply --set mptcp.path_manager=ndiffports --set mptcp.ndiffports=3")?;
    let peer = net::peer()?;
    let mut connections = Vec::new();
    let mut connect = |port| {
        let listener = peer.run(|| Protocol::Mptcp.listen(([10, 9, 0, 2], port).into()))?;
        let from = Protocol::Mptcp.connect(([10, 9, 0, 2], port).into())?;
        let (to, _) = listener.accept()?;
        connections.push((listener, from, to));
        wait::until(PATIENCE, || {
            let subflows = net::subflows(port)?;
            ensure!(subflows.len() == 3, "subflows: {subflows:?}");
            Ok(subflows)
        })
    };
    let before = connect(PORTS[0])?;
    crashed()?;
    connect(PORTS[1])?;
    let after = net::subflows(PORTS[0])?;
    ensure!(before == after, "{before:?} became {after:?}");
    sh(&format!("mpsec apply {}", act::SET))?;
    act::in_force()
}

/// Failover has taken an endpoint away when the agent crashes: the next one gives it back when the link is there again.
fn path_left() -> Result<()> {
    let peer = net::peer()?;
    let has_endpoint = || Ok::<_, anyhow::Error>(sh("ip mptcp endpoint")?.contains("dev wan1"));
    peer.ip("link set east1 down")?;
    wait::until(PATIENCE, || {
        ensure!(!has_endpoint()?, "the endpoint of a dead link stays");
        Ok(())
    })?;
    crashed()?;
    ensure!(!has_endpoint()?, "the next process made an endpoint of a dead link");
    peer.ip("link set east1 up")?;
    wait::until(PATIENCE, act::in_force)?;
    nothing_is_doubled()
}

/// A process that is stopped says nothing: systemd ends it and starts another.
fn hang() -> Result<()> {
    sh(&format!(
        "mkdir -p /run/systemd/system/mpsec.service.d
         printf '[Service]\\nWatchdogSec={WATCHDOG}\\n' >/run/systemd/system/mpsec.service.d/trial.conf
         systemctl daemon-reload
         systemctl restart mpsec"
    ))?;
    let old = answers_anew(None)?;
    // It lives for longer than that while it is heard of.
    std::thread::sleep(std::time::Duration::from_secs(u64::from(WATCHDOG) + 3));
    ensure!(pid()? == old, "it was started again though it did not hang");
    let stopped = Instant::now();
    sh(&format!("kill -STOP {old}"))?;
    answers_anew(Some(old))?;
    note(format!("service::hang: answers again after {:.1} s", stopped.elapsed().as_secs_f64()));
    let journal = sh("journalctl --no-pager --unit mpsec --lines 40")?;
    ensure!(journal.contains("Watchdog timeout"), "the journal does not tell of it: {journal}");
    sh("rm -r /run/systemd/system/mpsec.service.d && systemctl daemon-reload")?;
    nothing_is_doubled()?;
    act::in_force()
}
