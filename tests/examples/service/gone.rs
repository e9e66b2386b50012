//! The package is removed and purged: nothing of it is left, in the kernel or on the disk.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::wait;

use super::guest::{self, PACKAGES, PATIENCE, fails, sh, show, tell};
use super::{act, net};

/// Where the unit's drop-ins are that are gone with the boot.
const DROPINS: &str = "/run/systemd/system/mpsec.service.d";

pub fn trials() -> Vec<Trial> {
    vec![
        tell("stopped_release", stopped_release),
        tell("remove", remove),
        tell("installed_again", installed_again),
        tell("purge", purge),
    ]
}

/// Without the agent root gives back what the service's user made, and the service takes up what root left.
fn stopped_release() -> Result<()> {
    sh("systemctl stop mpsec")?;
    let endpoints = sh("ip mptcp endpoint")?;
    ensure!(endpoints.contains("wan1"), "what was asked for does not stay: {endpoints}");
    sh("mpsec release")?;
    nothing_is_ours()?;
    sh("systemctl start mpsec")?;
    sh(&format!("mpsec apply {}", act::SET))?;
    act::in_force()
}

/// All is given back, although the agent was killed and does not start again, for its file is wrong.
fn remove() -> Result<()> {
    let status = wait::until(PATIENCE, || {
        let status = show("StatusText")?;
        ensure!(status.contains("interfaces counted by"), "it says of itself: {status:?}");
        Ok(status)
    })?;
    let by_filters = status.contains("clsact");
    sh("printf 'nonsense\\n' >/etc/mpsec/mpsec.toml")?;
    sh(&format!("kill -KILL {}", guest::pid()?))?;
    wait::until(PATIENCE, || {
        ensure!(show("ActiveState")? == "failed", "the unit is {}", show("ActiveState")?);
        Ok(())
    })?;
    ensure!(sh("ip mptcp endpoint")?.contains("wan1"), "there is nothing to give back");
    // Links of TCX end with the process; filters do not.
    for wire in net::WIRES {
        let is_bare = net::attached(wire)?.iter().all(Vec::is_empty);
        ensure!(!by_filters || !is_bare, "the killed agent left nothing on {wire} to be removed");
    }
    let said = sh("dpkg --remove mpsec 2>&1")?;
    nothing_is_ours()?;
    nothing_is_attached()?;
    for wire in net::WIRES {
        ensure!(!by_filters || said.contains(&format!("removed from {wire}")), "nothing is said of {wire}: {said}");
    }
    fails("systemctl is-active mpsec")?;
    fails("pgrep --exact mpsec")?;
    sh("test ! -e /usr/bin/mpsec && test -e /etc/mpsec/mpsec.toml && test -e /var/lib/mpsec/audit.jsonl").map(drop)
}

/// The agent runs again, with the file that was kept and is right by now.
fn installed_again() -> Result<()> {
    sh("printf '' >/etc/mpsec/mpsec.toml")?;
    sh(&format!("dpkg --force-confold --install {PACKAGES}/mpsec_*-2_amd64.deb"))?;
    guest::answers_anew(None)?;
    // One that gave up is revived by the next version.
    sh("printf 'nonsense\\n' >/etc/mpsec/mpsec.toml")?;
    fails("systemctl restart mpsec")?;
    sh("printf '' >/etc/mpsec/mpsec.toml")?;
    sh(&format!("dpkg --force-confold --install {PACKAGES}/mpsec_*-2_amd64.deb"))?;
    guest::answers_anew(None)?;
    sh("dpkg --remove mpsec")?;
    nothing_is_attached()
}

/// An agent that hangs gives nothing back; all goes nevertheless. What is not the package's is kept, for root.
fn purge() -> Result<()> {
    sh(&format!(
        "mkdir -p {DROPINS}
         printf '[Service]\\nWatchdogSec=8\\n' >{DROPINS}/trial.conf
         dpkg --force-confold --install {PACKAGES}/mpsec_*-2_amd64.deb
         rm -r {DROPINS}"
    ))?;
    guest::answers_anew(None)?;
    sh(&format!("mpsec apply {}", act::SET))?;
    act::in_force()?;
    sh("install -m 0640 -g mpsec /dev/null /etc/mpsec/server.key")?;
    sh("install -m 0400 -o mpsec /dev/null /etc/mpsec/token")?;
    sh(&format!("kill -STOP {}", guest::pid()?))?;
    let said = sh("dpkg --purge mpsec 2>&1")?;
    ensure!(!said.contains("not everything could be given back"), "{said}");
    nothing_is_attached()?;
    let kept = sh("stat --format %U:%G:%a /etc/mpsec/server.key /etc/mpsec/token && rm -r /etc/mpsec")?;
    ensure!(kept == "root:root:600\nroot:root:400\n", "the user's or the group's number may become another's: {kept}");
    let left = sh(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /mpsec -prune -o -path /var/log/journal -prune -o \
                   -iname '*mpsec*' -print",
    )?;
    let ours: Vec<&str> =
        left.lines().filter(|path| !path.ends_with("/mpsec-trials.service") && *path != "/mpsec").collect();
    ensure!(ours.is_empty(), "files are left: {ours:?}");
    ensure!(sh("find /run /sys/fs/bpf -iname '*mpsec*' -not -name '*trials*'")?.is_empty(), "in /run or pinned");
    for database in ["passwd", "group", "shadow", "gshadow"] {
        fails(&format!("grep '^mpsec:' /etc/{database}"))?;
    }
    fails("systemctl cat mpsec")?;
    fails("dpkg-query --status mpsec")?;
    nothing_is_ours()
}

/// No endpoint, rule, route, queueing discipline, filter or program; settings as they were.
pub fn nothing_is_ours() -> Result<()> {
    ensure!(!sh("ip -details rule")?.contains("proto 213"), "rules: {}", sh("ip -details rule")?);
    for command in ["ip mptcp endpoint", "ip route show table all proto 213"] {
        let found = sh(command)?;
        ensure!(found.trim().is_empty(), "{command}: {found}");
    }
    for (file, not) in [("mptcp/stale_loss_cnt", "5"), ("ipv4/tcp_reordering", "7")] {
        let found = sh(&format!("cat /proc/sys/net/{file}"))?;
        ensure!(found.trim() != not, "{file} is still {found}");
    }
    Ok(())
}

/// With the agent's process everything goes that it counted with.
pub fn nothing_is_attached() -> Result<()> {
    for wire in net::WIRES {
        ensure!(net::attached(wire)?.iter().all(Vec::is_empty), "programs on {wire}");
        ensure!(!sh(&format!("tc qdisc show dev {wire}"))?.contains("clsact"), "clsact on {wire}");
    }
    let programs = mpsec_tests::bpf::all_names()?;
    let ours: Vec<_> = programs.iter().filter(|name| name.starts_with("mpsec")).collect();
    ensure!(ours.is_empty(), "programs are loaded: {ours:?}");
    Ok(())
}
