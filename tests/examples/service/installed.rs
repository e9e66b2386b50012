//! The package is installed: the service runs, as little privileged as it is said to be.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::guest::{self, PACKAGES, note, scrape, sh, show, tell};
use super::net;

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF by their numbers (include/uapi/linux/capability.h).
pub const THREE: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// What `systemd-analyze security` may say at most.
const MOST_EXPOSED: f64 = 2.5;

pub fn trials() -> Vec<Trial> {
    vec![
        tell("install", install),
        tell("ready", ready),
        tell("files", files),
        tell("unprivileged", unprivileged),
        tell("limits", limits),
        tell("host_name", host_name),
        tell("security", security),
        tell("counts", counts),
        tell("probes", probes),
    ]
}

/// dpkg is content only when the scripts are, and the start waits until the agent says that it is ready.
fn install() -> Result<()> {
    net::peer()?;
    sh(&format!("dpkg --install {PACKAGES}/mpsec_*-1_amd64.deb"))?;
    guest::pid()?;
    ensure!(show("NRestarts")? == "0", "it was started again");
    sh("systemctl is-enabled mpsec").map(drop)
}

fn ready() -> Result<()> {
    guest::answers_anew(None)?;
    mpsec_tests::wait::until(guest::PATIENCE, || {
        let status = show("StatusText")?;
        ensure!(status.contains("interfaces counted by"), "it says of itself: {status:?}");
        Ok(())
    })
}

fn files() -> Result<()> {
    for (path, expected) in [
        ("/run/mpsec", "755 mpsec mpsec"),
        ("/run/mpsec/mpsec.sock", "660 mpsec mpsec"),
        ("/var/lib/mpsec", "750 mpsec mpsec"),
        ("/etc/mpsec", "755 root root"),
        ("/etc/mpsec/mpsec.toml", "644 root root"),
        ("/usr/bin/mpsec", "755 root root"),
    ] {
        let found = sh(&format!("stat --format '%a %U %G' {path}"))?;
        ensure!(found.trim() == expected, "{path} is {found}");
    }
    sh("mpsec config check /etc/mpsec/mpsec.toml && test -s /usr/share/man/man1/mpsec.1.gz").map(drop)?;
    sh("bash -c '. /usr/share/bash-completion/completions/mpsec && complete -p mpsec'").map(drop)
}

/// What the kernel says of the process: no root, three capabilities, none to be had, calls filtered; its own keys read-only.
fn unprivileged() -> Result<()> {
    let pid = guest::pid()?;
    let status = sh(&format!("cat /proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|text| text.split_whitespace().collect::<Vec<_>>()).with_context(|| format!("no {name}"))
    };
    let user = sh("id --user mpsec")?;
    ensure!(field("Uid")? == [user.trim(); 4] && user.trim() != "0", "it runs as {:?}", field("Uid")?);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let found = u64::from_str_radix(field(set)?[0], 16)?;
        ensure!(found == THREE, "{set} is {found:x}");
    }
    ensure!(field("NoNewPrivs")? == ["1"], "it can get more privileges");
    ensure!(field("Seccomp")? == ["2"], "its system calls are not filtered");
    // As root, whom nothing else would keep from it.
    let said = guest::fails(&format!("nsenter --target {pid} --mount touch /etc/mpsec/written"))?;
    ensure!(said.contains("Read-only file system"), "it may write into /etc/mpsec, or not for another reason: {said}");
    Ok(())
}

fn limits() -> Result<()> {
    let group = format!("/sys/fs/cgroup{}", show("ControlGroup")?);
    for (file, expected) in [("memory.max", "536870912"), ("pids.max", "64")] {
        let found = sh(&format!("cat {group}/{file}"))?;
        ensure!(found.trim() == expected, "{file} is {found}");
    }
    let used: u64 = sh(&format!("cat {group}/memory.current"))?.trim().parse()?;
    note(format!("service::limits: {} MiB of the control group in use", used >> 20));
    ensure!(used < 256 << 20, "it uses {used} bytes with three interfaces");
    Ok(())
}

/// The unit has no copy of the host's name, which would stay as it was.
fn host_name() -> Result<()> {
    const FILE: &str = "/proc/sys/kernel/hostname";
    let before = sh(&format!("cat {FILE}"))?;
    sh(&format!("echo renamed >{FILE}"))?;
    let told = mpsec_tests::wait::until(guest::PATIENCE, || {
        let host = sh("curl --silent --show-error --fail http://127.0.0.1:9475/api/v1/host")?;
        ensure!(host.contains("\"renamed\""), "it tells another name: {host}");
        Ok(())
    });
    sh(&format!("echo {} >{FILE}", before.trim()))?;
    told
}

fn security() -> Result<()> {
    let said = sh("systemd-analyze security mpsec.service --no-pager")?;
    let last = said.lines().rev().find(|line| line.contains("Overall exposure level")).context("no figure")?;
    note(format!("service::security: {}", last.trim()));
    let figure: f64 = last.split_whitespace().find_map(|word| word.parse().ok()).context("no number")?;
    ensure!(figure <= MOST_EXPOSED, "{last}");
    Ok(())
}

/// What the agent has counted since the wires came is what they have counted.
pub fn counts() -> Result<()> {
    let before = at_rest()?;
    net::talk()?;
    let after = at_rest()?;
    for (number, direction) in ["rx", "tx"].into_iter().enumerate() {
        let [counted, expected] = [0, 1].map(|whose| after[whose][number] - before[whose][number]);
        ensure!(counted >= 10, "{direction}: {counted} packets");
        ensure!(counted == expected, "{direction}: {counted} packets counted, the device says {expected}");
    }
    Ok(())
}

/// What the agent and what the device has counted on the first wire, each received and sent, when no packet came between.
fn at_rest() -> Result<[[u64; 2]; 2]> {
    let [wire, _] = net::WIRES;
    mpsec_tests::wait::until(guest::PATIENCE, || {
        let device = net::device_packets(wire)?;
        let metrics = scrape()?;
        ensure!(net::device_packets(wire)? == device, "there is always something on the wire");
        let ours =
            |direction| metrics.sum("mpsec_interface_packets_total", &[("interface", wire), ("direction", direction)]);
        Ok([[ours("rx")?, ours("tx")?], device])
    })
}

/// Debian refuses perf events to those without CAP_SYS_ADMIN; the probes come in by other ways.
fn probes() -> Result<()> {
    let paranoid = sh("cat /proc/sys/kernel/perf_event_paranoid")?;
    ensure!(paranoid.trim() == "3", "kernel.perf_event_paranoid is {paranoid}");
    let metrics = scrape()?;
    let all: Vec<_> = metrics.select("mpsec_probe_info", &[]).map(|(labels, _)| labels.clone()).collect();
    let word = |labels: &mpsec_tests::exposition::Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
    for labels in &all {
        note(format!("service::probes: {} by {}", word(labels, "probe"), word(labels, "entry")));
    }
    ensure!(all.len() == 5, "{} probes", all.len());
    ensure!(all.iter().all(|labels| word(labels, "entry") != "none"), "a probe is not there");
    Ok(())
}
