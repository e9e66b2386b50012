//! Network namespaces of a measurement's own, and what is in them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A network namespace, for as long as somebody holds it.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one and moves this thread into it, with the programs that it starts from now on.
    pub fn enter_new() -> Result<Namespace> {
        // SAFETY: unshare takes flags alone, and moves nothing but the calling thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error()).context("a network namespace (are you root?)");
        }
        let file = File::open("/proc/thread-self/ns/net")?;
        ip("link set lo up")?;
        Ok(Namespace { file })
    }

    /// Moves this thread there.
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is a network namespace's, and only the calling thread moves.
        match unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A path that names it to other programs while this process runs.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// `ip` with these words.
pub fn ip(words: &str) -> Result<()> {
    command("ip", words)
}

/// Runs a program with these words to its end; nothing may go wrong.
pub fn command(program: &str, words: &str) -> Result<()> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The index of an interface in the namespace of this thread.
pub fn ifindex(name: &str) -> Result<u32> {
    let all = mpsec_agent::kernel::link::list()?;
    let found = all.iter().find(|interface| interface.name == name);
    Ok(found.with_context(|| format!("no interface {name}"))?.index)
}

/// Two namespaces, joined by a veth pair `near` (10.77.0.1) and `far` (10.77.0.2).
pub struct Pair {
    /// Where `near` is; the thread stands here.
    pub near: Namespace,
    /// Where `far` is.
    pub far: Namespace,
}

impl Pair {
    /// Makes both. Addresses are known to both from the start, so that nobody asks during a measurement.
    pub fn new() -> Result<Pair> {
        let far = Namespace::enter_new()?;
        quiet()?;
        let near = Namespace::enter_new()?;
        quiet()?;
        ip("link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02")?;
        ip(&format!("link set far netns {}", far.path()))?;
        end("near", "10.77.0.1", "10.77.0.2", "02:00:00:00:00:02")?;
        far.enter()?;
        end("far", "10.77.0.2", "10.77.0.1", "02:00:00:00:00:01")?;
        near.enter()?;
        Ok(Pair { near, far })
    }
}

impl Pair {
    /// Does something in the far namespace and comes back.
    pub fn in_far<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.far.enter()?;
        let result = work();
        self.near.enter()?;
        result
    }

    /// Turns segmentation and receive offloads of both ends on or off.
    pub fn set_offloads(&self, on: bool) -> Result<()> {
        set_offloads("near", on)?;
        self.in_far(|| set_offloads("far", on))
    }
}

/// `SIOCETHTOOL`'s request (include/uapi/linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

fn set_offloads(interface: &str, on: bool) -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO] {
        let mut value = EthtoolValue { command, data: u32::from(on) };
        // SAFETY: all zeroes is an interface request without a name.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value that it points to outlive the call.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("offloads of {interface}"));
        }
    }
    Ok(())
}

/// No IPv6, whose neighbour discovery would send packets at any time.
pub fn quiet() -> Result<()> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match std::fs::write(&path, "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(path),
            _ => {}
        }
    }
    Ok(())
}

fn end(name: &str, own: &str, other: &str, other_link: &str) -> Result<()> {
    ip(&format!("addr add {own}/24 dev {name}"))?;
    ip(&format!("link set {name} up"))?;
    ip(&format!("neigh replace {other} lladdr {other_link} dev {name} nud permanent"))
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
}
