//! A host: a Debian system with its own systemd, in namespaces and a control group of its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mpsec_tests::agent::die_with_parent;
use mpsec_tests::netns::Netns;
use mpsec_tests::wait;

/// What a boot and an end may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Makes a machine of a folder, and becomes its first process.
const BOOT: &str = include_str!("boot.sh");
/// Into the control group, before its namespace is made: it becomes the root of what the machine sees.
const ENTER: &str = "echo 0 >\"$1/cgroup.procs\"; shift
exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child sh -euc \"$0\" boot \"$@\"";

/// A host that runs. It ends on drop, with all that is in it.
#[derive(Debug)]
pub struct Host {
    /// Its name in the inventory.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its network.
    pub netns: Arc<Netns>,
    outer: u32,
    inner: u32,
    cgroup: PathBuf,
}

/// What a machine is made of.
pub struct Parts<'a> {
    /// The folder with the system, which stays as it is.
    pub system: &'a Path,
    /// A folder for what the machine writes, which is a tmpfs of its own.
    pub scratch: &'a Path,
    /// The public key that may log in.
    pub key: &'a str,
}

impl Host {
    /// Starts the machine, in a network that is there already, and does not wait for it.
    pub fn start(name: &str, address: &str, netns: Netns, parts: &Parts<'_>) -> Result<Self> {
        let netns = Arc::new(netns);
        let cgroup = cgroups()?.join(format!("mpsec-fleet-{}-{name}", process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("making the control group {}", cgroup.display()))?;
        let mut command = Command::new("sh");
        command.args(["-euc", ENTER, BOOT]).arg(&cgroup).arg(parts.system).arg(parts.scratch);
        command.args([name, parts.key]).stdin(Stdio::null()).stdout(Stdio::null());
        let outer = spawn(command, &netns)?;
        let (name, address) = (name.to_owned(), address.to_owned());
        let mut host = Self { name, address, netns, outer, inner: 0, cgroup };
        host.inner = wait::until(PATIENCE, || only_child(outer))?;
        Ok(host)
    }

    /// Waits until it has booted and lets people in.
    pub fn wait(&self) -> Result<()> {
        wait::until(PATIENCE, || {
            let state = self.sh("systemctl is-system-running || true")?;
            ensure!(state.trim() == "running", "{} is {}", self.name, state.trim());
            self.sh("systemctl is-active --quiet ssh").map(drop)
        })
    }

    /// Runs a line of shell inside, as root, and gives what it printed. Failure is an error with all that was said.
    pub fn sh(&self, line: &str) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.inner.to_string(), "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]);
        let output = command.args(["sh", "-euc", line]).stdin(Stdio::null()).output().context("nsenter")?;
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        ensure!(output.status.success(), "{}: `{line}` ({}): {out}{err}", self.name, output.status);
        Ok(out)
    }

    /// A property of the agent's unit.
    pub fn unit(&self, property: &str) -> Result<String> {
        Ok(self.sh(&format!("systemctl show mpsec --value --property {property}"))?.trim().to_owned())
    }

    /// The agent's process, where its unit is up.
    pub fn agent(&self) -> Result<u32> {
        let state = self.unit("SubState")?;
        ensure!(state == "running", "{}: mpsec.service is {state}", self.name);
        self.unit("MainPID")?.parse().context("a process")
    }

    /// When that process was started, by the clock that all hosts share.
    pub fn started_us(&self) -> Result<u64> {
        self.unit("ExecMainStartTimestampMonotonic")?.parse().context("a time")
    }

    /// The version that is installed; nothing where there is none.
    pub fn version(&self) -> Result<String> {
        self.sh("dpkg-query --show --showformat='${db:Status-Status} ${Version}' mpsec 2>/dev/null || true")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: kill takes no pointers; its end is waited for below, so the number is still that of our child's.
        unsafe { libc::kill(self.outer as libc::pid_t, libc::SIGKILL) };
        let _ = wait::until(PATIENCE, || remove_tree(&self.cgroup));
    }
}

/// Starts it on a thread that lives as long: the kernel takes the thread's end for that of the parent.
fn spawn(mut command: Command, netns: &Arc<Netns>) -> Result<u32> {
    // SAFETY: between fork and exec this calls nothing but prctl, which is async-signal-safe.
    unsafe { command.pre_exec(die_with_parent) };
    let (sender, receiver) = channel();
    let inside = Arc::clone(netns);
    thread::Builder::new().name("host".into()).spawn(move || {
        let child = inside.enter().and_then(|()| command.spawn().context("sh"));
        match child {
            Err(error) => drop(sender.send(Err(error))),
            Ok(mut child) => {
                let _ = sender.send(Ok(child.id()));
                let _ = child.wait();
            }
        }
    })?;
    receiver.recv().context("the thread is gone")?
}

/// The first process inside, once it is systemd.
fn only_child(parent: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).context("it ended")?;
    let child: u32 = children.trim().parse().with_context(|| format!("children {children:?}"))?;
    let name = fs::read_to_string(format!("/proc/{child}/comm"))?;
    ensure!(name.trim() == "systemd", "it is still {}", name.trim());
    Ok(child)
}

/// Where control groups of version 2 are.
pub fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let found = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
        _ => None,
    });
    found.context("no control groups of version 2 are mounted")
}

/// Removes control groups, the innermost first.
fn remove_tree(group: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(group) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path())?;
    }
    if let Err(error) = fs::remove_dir(group) {
        bail!("{}: {error}", group.display());
    }
    Ok(())
}
