//! All privileged input and output of the agent, and all of its `unsafe` code.
//!
//! Each module is one source or one means, and may fail alone; what they return is plain data.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

pub mod address;
pub mod attach;
pub mod btf;
pub mod cgroup;
pub mod clsact;
pub mod counters;
pub mod ebpf;
pub mod features;
pub mod force;
pub mod genetlink;
pub mod host;
pub mod identity;
pub mod link;
pub mod managers;
pub mod mib;
pub mod mptcp_pm;
pub mod netlink;
pub mod netns;
pub mod peer;
pub mod policy;
pub mod probes;
pub mod process;
pub mod readable;
pub mod realtime;
pub mod route;
pub mod rtnl;
pub mod rtnl_events;
pub mod rule;
pub mod sock_diag;
pub mod sockets_iter;
pub mod stream;
pub mod subflows;
pub mod sysctl;
pub mod tap;
pub mod tcx;
pub mod tracing;

/// Makes reads on a socket fail with `EAGAIN` after `timeout`.
fn set_receive_timeout(socket: &netlink_sys::Socket, timeout: Duration) -> io::Result<()> {
    let value = libc::timeval { tv_sec: timeout.as_secs() as _, tv_usec: timeout.subsec_micros() as _ };
    // SAFETY: the option takes a `timeval`.
    unsafe { set_option(socket, libc::SO_RCVTIMEO, &value) }
}

/// Has a netlink socket that lost messages hear again. The kernel marks it as congested and drops everything until it is read
/// empty; if it sets the mark while the last message is being read, there is nothing to read any more, and it stays deaf
/// (netlink_overrun, netlink_rcv_wake in net/netlink/af_netlink.c, Linux 6.18). Setting this option takes the mark away.
fn hear_again(socket: &netlink_sys::Socket) -> io::Result<()> {
    socket.set_no_enobufs(true)?;
    socket.set_no_enobufs(false)
}

/// Gives a socket room for so many bytes, beyond what `net.core.rmem_max` allows those without CAP_NET_ADMIN.
fn force_receive_buffer(socket: &netlink_sys::Socket, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the option takes an `int`.
    unsafe { set_option(socket, libc::SO_RCVBUFFORCE, &bytes) }
}

/// Sets an option of the level SOL_SOCKET.
///
/// # Safety
/// `T` is what the kernel takes for `option`.
unsafe fn set_option<T>(socket: &netlink_sys::Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the option's value and its length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Number of possible CPUs: the kernel numbers them from 0 to this, exclusively.
pub fn possible_cpus() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    // "0", "0-7", "0-3,8-11": the last number is the highest one.
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<u32>().ok());
    last.map(|number| number + 1)
        .ok_or_else(|| io::Error::other(format!("/sys/devices/system/cpu/possible holds {text:?}")))
}

/// Allows this process as many descriptors as it may allow itself. Each attached program takes one, and the usual limit,
/// which is low for the sake of select(2), is reached with 500 interfaces.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole `rlimit` that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the same, and it is only read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens what a path names, whatever it is, to look at it and to change its owner or mode (O_PATH, open(2)). Not through
/// [`File::options`]: musl counts O_PATH among the access modes, which Rust takes out of flags.
///
/// # Errors
/// Those of open(2); `ELOOP` never, as a symbolic link is opened itself.
pub fn open_itself(path: &Path) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Has large pieces of memory come from the kernel, and go back there as soon as they are free. Without this the C library
/// takes the first of them that is given back for a sign that more will be needed, and keeps what it has.
pub fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives memory that is free back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
