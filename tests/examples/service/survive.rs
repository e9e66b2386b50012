//! Crashes and hangs: the service is back, and nothing is there twice.

use std::time::Instant;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::act;
use super::guest::{answers_anew, metric, note, pid, scrape, sh, show, tell};
use super::net;

/// Seconds without a word after which systemd acts, in these trials.
const WATCHDOG: u32 = 8;

pub fn trials() -> Vec<Trial> {
    vec![tell("crash", crash), tell("hang", hang)]
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
