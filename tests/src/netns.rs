//! A network namespace with everything in it, gone on drop.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::resume_unwind;
use std::process::{self, Command};
use std::ptr;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::link::Counters;

/// What every new namespace has beside `lo`: devices of tunnels whose modules are loaded
/// (`net.core.fb_tunnels_only_for_init_net`).
pub fn devices_of_every_namespace() -> Result<Vec<String>> {
    let mut devices = Netns::new()?.devices()?;
    devices.retain(|device| device != "lo");
    Ok(devices)
}

/// A network namespace, with a mount namespace beside it so that `/sys`, `/sys/fs/bpf` and `/run` are its own too.
///
/// It is silent: IPv6 is off until [`Netns::enable_ipv6`], and `lo` is up. The kernel takes it down when this guard and
/// every process, socket and thread in it are gone, devices, programs and pinned objects with it.
#[derive(Debug)]
pub struct Netns {
    net: OwnedFd,
    mnt: OwnedFd,
}

impl Netns {
    /// Makes a namespace.
    pub fn new() -> Result<Self> {
        let netns = on_own_thread(|| -> Result<Self> {
            unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS).context("making a namespace needs root")?;
            private_mounts()?;
            let open = |name: &str| File::open(format!("/proc/thread-self/ns/{name}")).map(OwnedFd::from);
            Ok(Self { net: open("net")?, mnt: open("mnt")? })
        })?;
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        netns.ip("link set dev lo up")?;
        Ok(netns)
    }

    /// Turns IPv6 on for the devices there are and those to come, without the packets that it sends on its own: no
    /// duplicate address detection, no link-local address, no router solicitation.
    pub fn enable_ipv6(&self) -> Result<()> {
        let mut scopes = self.devices()?;
        scopes.extend(["all".into(), "default".into()]);
        for scope in &scopes {
            for (key, value) in [
                ("accept_dad", "0"),
                ("accept_ra", "0"),
                ("autoconf", "0"),
                ("router_solicitations", "0"),
                ("addr_gen_mode", "1"),
                ("disable_ipv6", "0"),
            ] {
                // `all` and `lo` lack some of them.
                let key = format!("net/ipv6/conf/{scope}/{key}");
                let _ = self.sysctl(&key, value);
            }
        }
        ensure!(self.read("/proc/sys/net/ipv6/conf/all/disable_ipv6")?.trim() == "0", "IPv6 stays off");
        Ok(())
    }

    /// Runs `body` on a thread of its own inside the namespace. The current folder is `/` in there.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            self.enter().expect("a namespace that is held open can be entered");
            body()
        })
    }

    /// Moves the calling thread into the namespace, for good: for threads that live as long as what they serve.
    pub fn enter(&self) -> Result<()> {
        // A thread that shares its root and current folder with others may not change its mount namespace.
        unshare(libc::CLONE_FS)?;
        for (fd, kind) in [(&self.mnt, libc::CLONE_NEWNS), (&self.net, libc::CLONE_NEWNET)] {
            // SAFETY: setns takes any descriptor and changes nothing but the calling thread.
            check(unsafe { libc::setns(fd.as_raw_fd(), kind) }).context("setns")?;
        }
        Ok(())
    }

    /// A path that names the namespace, for `ip link set ... netns PATH` in any namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.net.as_raw_fd())
    }

    /// The descriptor of the network namespace.
    pub fn fd(&self) -> RawFd {
        self.net.as_raw_fd()
    }

    /// Runs a program inside the namespace and gives what it printed. Failure is an error with what it complained about.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.run(|| Command::new(program).args(args).output()).with_context(|| program.to_owned())?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("`{program} {}`: {complaint}", args.join(" "));
        }
        String::from_utf8(output.stdout).with_context(|| format!("what {program} printed"))
    }

    /// `ip` with the words of `line`.
    pub fn ip(&self, line: &str) -> Result<String> {
        self.output("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// `tc` with the words of `line`.
    pub fn tc(&self, line: &str) -> Result<String> {
        self.output("tc", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Sets a sysctl of the namespace, named by its path under `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{key}"), value)).with_context(|| format!("sysctl {key}={value}"))
    }

    /// Reads a file as the namespace shows it.
    pub fn read(&self, path: &str) -> Result<String> {
        self.run(|| fs::read_to_string(path)).with_context(|| path.to_owned())
    }

    /// The names of all devices.
    pub fn devices(&self) -> Result<Vec<String>> {
        let table = self.read("/proc/thread-self/net/dev")?;
        Ok(table.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect())
    }

    /// The index of a device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        let text = self.read(&format!("/sys/class/net/{device}/ifindex"))?;
        text.trim().parse().with_context(|| format!("index of {device}"))
    }

    /// The device's own counters.
    pub fn counters(&self, device: &str) -> Result<Counters> {
        Counters::parse(&self.read("/proc/thread-self/net/dev")?, device)
    }
}

/// Runs `body` on a new thread and waits for it; a panic goes on in the caller.
fn on_own_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(body).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// `/sys` shows the devices of the namespace that it was mounted in, so it is mounted anew; what other file systems lie
/// below it is carried over, except for pinned BPF objects, which the namespace has of its own. `/run` is empty.
fn private_mounts() -> Result<()> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
    let carried = [c"/sys/fs/cgroup", c"/sys/kernel/debug", c"/sys/kernel/tracing", c"/sys/kernel/security"];
    let trees: Vec<_> = carried.iter().filter_map(|path| Some((*path, open_tree(path).ok()?))).collect();
    mount(Some(c"sysfs"), c"/sys", Some(c"sysfs"), 0)?;
    for (path, tree) in &trees {
        move_mount(tree, path)?;
    }
    mount(Some(c"bpf"), c"/sys/fs/bpf", Some(c"bpf"), 0)?;
    mount(Some(c"tmpfs"), c"/run", Some(c"tmpfs"), 0)
}

fn mount(source: Option<&CStr>, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null where mount(2) allows it, or a C string that outlives the call.
    check(unsafe { libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, ptr::null()) })
        .with_context(|| format!("mount on {target:?}"))
}

/// A detached copy of a mount and of all that lies below it.
fn open_tree(path: &CStr) -> Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE as libc::c_int | libc::AT_RECURSIVE | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = RawFd::try_from(fd).context("open_tree")?;
    check(fd).with_context(|| format!("open_tree {path:?}"))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn move_mount(tree: &OwnedFd, path: &CStr) -> Result<()> {
    let (from, flags) = (tree.as_raw_fd(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: both paths are C strings that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), flags) };
    check(i32::try_from(done).unwrap_or(-1)).with_context(|| format!("move_mount {path:?}"))
}

fn unshare(flags: libc::c_int) -> Result<()> {
    // SAFETY: unshare changes nothing but the calling thread.
    check(unsafe { libc::unshare(flags) }).context("unshare")
}

/// Turns the return value of a system call into a result.
pub(crate) fn check(returned: libc::c_int) -> Result<()> {
    if returned < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
