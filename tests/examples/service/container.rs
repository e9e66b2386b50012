//! The image and the manifest on a real engine, Podman, as docs/service.md says that they are started.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::mptcp_socket::Protocol;
use mpsec_tests::wait;

use super::guest::{PATIENCE, fails, note, scrape, sh, tell};
use super::{act, gone, installed, net};

/// What is handed out for containers, as `cargo xtask dist` lays it out.
const HANDED_OUT: &str = "/mpsec/handed-out";
/// The same program, started on the host.
const HOST: &str = "/mpsec/handed-out/container/mpsec";
const PORT: u16 = 5021;

pub fn trials() -> Vec<Trial> {
    vec![tell("container", container), tell("pod", pod)]
}

/// The commands of docs/service.md's section on containers, each on a line of its own.
fn documented() -> Result<Vec<String>> {
    let text = include_str!("../../../docs/service.md");
    let (_, section) = text.split_once("\n## In a container\n").context("the section on containers")?;
    let block = section.split("```").nth(1).context("the section's commands")?;
    let joined = block.replace("\\\n", " ").replace("target/dist", HANDED_OUT);
    Ok(joined.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Built and run by the documented commands, it counts to the packet, sees subflows, takes commands from the host, and has
/// no capability but its three; what it set outlives it, and nothing else does.
fn container() -> Result<()> {
    net::peer()?;
    documented()?.iter().try_for_each(|command| sh(command).map(drop))?;
    let pid: u32 = sh("podman inspect --format '{{.State.Pid}}' mpsec")?.trim().parse()?;
    works(pid)?;
    sh("podman exec mpsec /usr/bin/mpsec status")?;
    sh(&format!("{HOST} apply {}", act::SET))?;
    act::in_force()?;

    sh("podman stop mpsec")?;
    let code = sh("podman inspect --format '{{.State.ExitCode}}' mpsec")?;
    ensure!(code.trim() == "0", "it ended with {}", code.trim());
    gone::nothing_is_attached()?;
    act::in_force().context("what was asked for does not stay")?;
    starts_as_after_a_boot()?;
    sh(&format!("{HOST} release"))?;
    gone::nothing_is_ours()?;
    sh("podman rm --force mpsec")?;
    gone::nothing_is_attached()?;
    sh("rm -r /run/mpsec /var/lib/mpsec /etc/tmpfiles.d/mpsec-container.conf").map(drop)
}

/// A boot finds an empty /run. The folder is made by what makes such folders, and the container started by the engine's unit.
fn starts_as_after_a_boot() -> Result<()> {
    sh("rm -r /run/mpsec && systemctl is-enabled podman-restart.service")?;
    sh("systemd-tmpfiles --create mpsec-container.conf && systemctl restart podman-restart.service")?;
    wait::until(PATIENCE, scrape).map(drop)
}

/// What a node starts of the DaemonSet: its template as a pod, with the manifest's configuration. The engine takes pods only.
fn pod() -> Result<()> {
    net::peer()?;
    let text = fs::read_to_string(format!("{HANDED_OUT}/kubernetes/daemonset.yaml"))?;
    let documents: Vec<&str> = text.split("\n---\n").collect();
    let find = |kind: &str| {
        let is = |document: &&&str| document.lines().any(|line| line == format!("kind: {kind}"));
        documents.iter().find(is).with_context(|| format!("no {kind}"))
    };
    let (_, template) = find("DaemonSet")?.split_once("\n  template:\n").context("a template")?;
    let template: String =
        template.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    // The engine would give it its own profile, which a node's runtime does not do unless it is told to.
    let unconfined = "  annotations:\n    seccomp.security.alpha.kubernetes.io/pod: unconfined\n";
    let named = template.replacen("metadata:\n", &format!("metadata:\n  name: mpsec\n{unconfined}"), 1);
    if sh(concat!("podman image exists mpsec:", env!("CARGO_PKG_VERSION"))).is_err() {
        let build = documented()?.into_iter().find(|command| command.starts_with("podman build"));
        sh(&build.context("no command that builds")?)?;
    }
    fs::write("/run/pod.yaml", format!("{}\n---\napiVersion: v1\nkind: Pod\n{named}", find("ConfigMap")?))?;
    sh("podman kube play --network host /run/pod.yaml")?;
    // Pod and container.
    let container = "mpsec-mpsec";
    let pid: u32 = sh(&format!("podman inspect --format '{{{{.State.Pid}}}}' {container}"))?.trim().parse()?;
    works(pid)?;
    // The probes' command. The engine would have a shell run it, which the image has not.
    ensure!(text.matches("command: [\"/usr/bin/mpsec\", \"status\"]").count() == 2, "the manifest has other probes");
    sh(&format!("podman exec {container} /usr/bin/mpsec status"))?;
    // Here /proc/sys is read-only: it is said what cannot be set, and nothing changes.
    let before = sh("cat /proc/sys/net/mptcp/stale_loss_cnt")?;
    let said = fails(&format!("{HOST} apply --set mptcp.sysctls=stale_loss_cnt=5"))?;
    ensure!(said.contains("stale_loss_cnt") && said.contains("nothing is changed"), "it says {said}");
    ensure!(sh("cat /proc/sys/net/mptcp/stale_loss_cnt")? == before, "it was set");
    sh("podman kube down /run/pod.yaml")?;
    gone::nothing_is_attached()?;
    sh("rm -r /run/pod.yaml /run/mpsec /var/lib/mpsec && podman rmi --all --force").map(drop)
}

/// It answers, has the capabilities that it is given, counts what the devices count, and knows an MPTCP connection of the host's
/// and its subflow, which takes the root of the host's control groups.
fn works(pid: u32) -> Result<()> {
    wait::until(PATIENCE, || scrape().with_context(|| sh("podman logs --latest 2>&1").unwrap_or_default()))?;
    let status = sh(&format!("cat /proc/{pid}/status"))?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).context(set)?;
        let found = u64::from_str_radix(line.trim(), 16)?;
        ensure!(found == installed::THREE, "{set} is {found:x}");
    }
    installed::counts()?;
    let listener = net::peer()?.run(|| Protocol::Mptcp.listen(([10, 9, 0, 2], PORT).into()))?;
    let _from = Protocol::Mptcp.connect(([10, 9, 0, 2], PORT).into())?;
    let _to = listener.accept()?;
    let [known, subflows] = wait::until(PATIENCE, || {
        let metrics = scrape()?;
        let known = metrics.sum("mpsec_mptcp_connections", &[("fallback", "no")])?;
        ensure!(known > 0, "it knows no MPTCP connection");
        let is_read = metrics.sum("mpsec_collector_success", &[("source", "mptcp_subflows")])?;
        ensure!(is_read == 1, "the table of subflows is not read");
        let subflows = metrics.sum("mpsec_mptcp_subflow_table_entries", &[])?;
        ensure!(subflows > 0, "it counts no subflow");
        Ok([known, subflows])
    })?;
    note(format!("service: {known} MPTCP connections and {subflows} subflows are known in a container"));
    Ok(())
}
