//! What the examples of drop-ins lift: other namespaces, kprobes on a host that is strict about them, more of other processes.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::guest::{PATIENCE, answers_anew, scrape, sh, tell};

/// Where the package has the examples.
const EXAMPLES: &str = "/usr/share/doc/mpsec/examples/dropins";
/// Where an administrator puts them; gone with the boot.
const PLACE: &str = "/run/systemd/system/mpsec.service.d";

pub fn trials() -> Vec<Trial> {
    vec![tell("dropin_namespaces", namespaces), tell("dropin_kprobes", kprobes), tell("dropins_gone", gone)]
}

/// Restarts the service with this example and these settings.
fn with(example: &str, environment: &str) -> Result<()> {
    sh(&format!(
        "mkdir -p {PLACE} && rm -f {PLACE}/*
         cp {EXAMPLES}/{example}.conf {PLACE}/
         printf '[Service]\\nEnvironment=%s\\n' '{environment}' >{PLACE}/trial.conf
         systemctl daemon-reload && systemctl restart mpsec"
    ))?;
    answers_anew(None).map(drop)
}

fn namespaces() -> Result<()> {
    sh("ip netns add blue && ip -n blue link set lo up")?;
    with("other-namespaces", "MPSEC_NETNS=blue")?;
    mpsec_tests::wait::until(PATIENCE, || {
        sh("ip netns exec blue curl --silent --max-time 1 http://127.0.0.1:9/ || true")?;
        let counted = scrape()?.sum("mpsec_interface_packets_total", &[("netns", "blue"), ("interface", "lo")])?;
        ensure!(counted > 0, "nothing is counted in the other namespace");
        Ok(())
    })
}

fn kprobes() -> Result<()> {
    with("kprobes", "MPSEC_PROBES=kprobe")?;
    let metrics = scrape()?;
    let entries = metrics.label_values("mpsec_probe_info", "entry");
    ensure!(entries.contains("kprobe") && !entries.contains("none"), "probes come in by {entries:?}");
    Ok(())
}

/// The others are at least understood; then it runs again without any.
fn gone() -> Result<()> {
    with("other-managers", "MPSEC_PROBES=auto")?;
    with("large-host", "MPSEC_PROBES=auto")?;
    sh(&format!("rm -r {PLACE} && ip netns delete blue && systemctl daemon-reload && systemctl restart mpsec"))?;
    answers_anew(None).map(drop)
}
