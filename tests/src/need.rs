//! What a test needs from the machine. Each function returns a [`Skip`] with the reason where the need is not met.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Result, anyhow};

use crate::netns::Netns;
use crate::trial::Skip;
use crate::{bpf, link};

/// Root, as namespaces, raw sockets and BPF need it.
pub fn root() -> Result<()> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } == 0 { Ok(()) } else { Err(Skip::because("needs root")) }
}

/// Whether this machine is emulated, as whoever started it says: it is slow then, and its clock runs on while it stands still.
pub fn is_emulated() -> bool {
    env::var_os("MPSEC_EMULATED").is_some()
}

/// A machine that keeps time, as comparing rates and short times needs it.
pub fn native() -> Result<()> {
    if is_emulated() { Err(Skip::because("needs a machine that keeps time: this one is emulated")) } else { Ok(()) }
}

/// A need that the virtual machines meet for certain, whose kernels and programs are chosen so: there a lack is no skip.
pub fn certain(met: Result<()>) -> Result<()> {
    match met {
        Err(lack) if is_emulated() && lack.is::<Skip>() => {
            Err(anyhow!("every one of these machines should have it: {lack}"))
        }
        met => met,
    }
}

/// A limit for what costs processor time or waits for it, longer where that is emulated.
pub fn patience(native: Duration) -> Duration {
    if is_emulated() { native * 5 } else { native }
}

/// This version of Linux or a later one, which has `what`. For what cannot be asked of the kernel without trusting the answer
/// that is to be tested.
pub fn linux(major: u32, minor: u32, what: &str) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse().ok());
    let have: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let reason = || Skip::because(format!("needs Linux {major}.{minor}: {what}"));
    if have >= (major, minor) { Ok(()) } else { Err(reason()) }
}

/// A program in PATH. Gives its full path.
pub fn command(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Skip::because(format!("needs the program `{name}`")))
}

/// A file or folder.
pub fn file(path: &str) -> Result<()> {
    if Path::new(path).exists() { Ok(()) } else { Err(Skip::because(format!("needs {path}"))) }
}

/// A kind of network device that this kernel can make, such as `vlan`. Shown by making one.
pub fn link_kind(kind: &str) -> Result<()> {
    root()?;
    let netns = Netns::new()?;
    link::make(&netns, kind, "probe")
        .map_err(|error| Skip::because(format!("this kernel makes no {kind} device: {}", error.root_cause())))
}

/// TCX (Linux 6.6 and later). Shown by attaching a program.
pub fn tcx() -> Result<()> {
    root()?;
    let netns = Netns::new()?;
    let program = bpf::Program::pass("probe")?;
    let index = netns.ifindex("lo")?;
    match netns.run(|| program.attach_tcx(index, bpf::Hook::Ingress)) {
        Ok(_link) => Ok(()),
        Err(error) => Err(Skip::because(format!("this kernel has no TCX: {}", error.root_cause()))),
    }
}

/// MPTCP with the kernel's own path manager. Shown by asking for its limits in a new namespace.
pub fn mptcp() -> Result<()> {
    root()?;
    command("ip")?;
    let limits = Netns::new()?.ip("mptcp limits show");
    let lack = |error: anyhow::Error| Skip::because(format!("this kernel has no MPTCP: {}", error.root_cause()));
    certain(limits.map(drop).map_err(lack))
}

/// A counter of MPTCP that this kernel has.
pub fn mptcp_counter(name: &str) -> Result<()> {
    let names = fs::read_to_string("/proc/net/netstat")?;
    let known =
        names.lines().filter(|line| line.starts_with("MPTcpExt:")).any(|line| line.split(' ').any(|word| word == name));
    if known { Ok(()) } else { Err(Skip::because(format!("this kernel has no MPTCP counter {name}"))) }
}

/// A queueing discipline that loses and delays. Shown by giving one to a device.
pub fn netem() -> Result<()> {
    root()?;
    command("tc")?;
    let given = Netns::new()?.tc("qdisc add dev lo root netem delay 1ms");
    let lack = |error: anyhow::Error| Skip::because(format!("this kernel has no netem: {}", error.root_cause()));
    certain(given.map(drop).map_err(lack))
}

/// The agent's program: the one that `MPSEC_BIN` names, else the one that cargo built beside this test.
pub fn mpsec() -> Result<PathBuf> {
    let (path, from) = match env::var_os("MPSEC_BIN") {
        Some(path) => (PathBuf::from(path), "MPSEC_BIN"),
        None => (beside_this_test()?, "`cargo build -p mpsec-agent`"),
    };
    let help = Command::new(&path).args(["run", "--help"]).output();
    match help {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("--listen") => Ok(path),
        _ => Err(Skip::because(format!("no mpsec binary that can `run` at {} ({from})", path.display()))),
    }
}

/// `target/<profile>/mpsec` of the `target/<profile>/deps/system-*` that is running.
fn beside_this_test() -> Result<PathBuf> {
    let mut path = env::current_exe()?;
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    Ok(path.join("mpsec"))
}
