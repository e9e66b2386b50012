//! The package is removed and purged: nothing of it is left, in the kernel or on the disk.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::guest::{self, PACKAGES, fails, sh, tell};
use super::{act, net};

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

/// All is given back, although the agent does not run, for its file is wrong.
fn remove() -> Result<()> {
    sh("printf 'nonsense\\n' >/etc/mpsec/mpsec.toml")?;
    fails("systemctl restart mpsec")?;
    ensure!(sh("ip mptcp endpoint")?.contains("wan1"), "there is nothing to give back");
    sh("dpkg --remove mpsec")?;
    nothing_is_ours()?;
    nothing_is_attached()?;
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

/// What is not the package's is kept, for root.
fn purge() -> Result<()> {
    sh("install -m 0640 -g mpsec /dev/null /etc/mpsec/server.key")?;
    sh("dpkg --purge mpsec")?;
    let key = sh("stat --format %U:%G:%a /etc/mpsec/server.key && rm -r /etc/mpsec")?;
    ensure!(key.trim() == "root:root:600", "the group's number may become another's: {key}");
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
