//! The bare machine made into one that programs can run on: file systems, the loopback device, power off.
use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::symlink},
    path::Path,
};

use anyhow::{Context, Result};

/// Type, place, data. Those that a kernel does not have are missed by the test that needs them.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "ptmxmode=0666,mode=0620"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("bpf", "/sys/fs/bpf", "mode=0700"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=0755"),
];

/// Mounts what programs expect to find.
pub fn mount_all() {
    for (kind, place, data) in MOUNTS {
        // Below sysfs the folders are there already.
        let _ = fs::create_dir_all(place);
        if let Err(error) = mount(kind, place, data) {
            eprintln!("vm-init: {kind} on {place}: {error}");
        }
    }
    for folder in ["/run/netns", "/run/lock", "/var/lib"] {
        let _ = fs::create_dir_all(folder);
    }
    // Debian's link (package base-files): what is kept in the one place is looked for in the other.
    if let Err(error) = symlink("/run", "/var/run").or_else(exists_already) {
        eprintln!("vm-init: /var/run: {error}");
    }
}

fn exists_already(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

fn mount(kind: &str, place: &str, data: &str) -> io::Result<()> {
    let [kind, place, data] = [kind, place, data].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: the pointers are to strings with their ends, which outlive the call.
    let result = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, data.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes away what [`mount_all`] mounted, the last first: another system mounts its own.
pub fn unmount_all() {
    for (_, place, _) in MOUNTS.iter().rev() {
        let place = CString::new(*place).unwrap_or_default();
        // SAFETY: the pointer is to a string with its end, which outlives the call.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

/// The loopback device of the first namespace, up.
pub fn loopback_up() -> Result<()> {
    // SAFETY: socket takes no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error()).context("a socket");
    }
    // SAFETY: the structure is plain data, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // The flag fits: it is 1.
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the socket is open and the request outlives the call.
    let result = unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) };
    let error = io::Error::last_os_error();
    // SAFETY: the descriptor is ours and not used after this.
    unsafe { libc::close(socket) };
    if result == 0 { Ok(()) } else { Err(error).context("setting lo up") }
}

/// Sends what this process and its children write to the serial port, as it is, without carriage returns.
pub fn speak_on(port: &Path) -> Result<()> {
    let file =
        OpenOptions::new().read(true).write(true).open(port).with_context(|| format!("opening {}", port.display()))?;
    // SAFETY: the structure is plain data, for which zeros are values; the calls get the open descriptor and its address.
    let is_raw = unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        libc::tcgetattr(file.as_raw_fd(), &raw mut settings) == 0 && {
            libc::cfmakeraw(&raw mut settings);
            libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &raw const settings) == 0
        }
    };
    if !is_raw {
        return Err(io::Error::last_os_error()).with_context(|| format!("setting {} raw", port.display()));
    }
    for descriptor in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open; the second becomes a copy of the first.
        if unsafe { libc::dup2(file.as_raw_fd(), descriptor) } < 0 {
            return Err(io::Error::last_os_error()).context("dup2");
        }
    }
    Ok(())
}

/// Lets programs have as many descriptors as systemd's services may ask for; the first program starts with few (`INR_OPEN_MAX`).
pub fn raise_descriptor_limit() -> Result<()> {
    let limit = libc::rlimit { rlim_cur: 1024, rlim_max: 512 * 1024 };
    // SAFETY: the pointer is to a whole `rlimit`, which is only read.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("the limit of descriptors") }
}

/// The kernel's release, as in the name of the folder of its modules.
pub fn release() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    Ok(text.trim().to_owned())
}

/// Waits until everything written to the ports is out, then switches off. Does not come back.
pub fn power_off() -> ! {
    // SAFETY: neither call takes a pointer that lives, and the process has nothing left to do.
    unsafe {
        libc::tcdrain(libc::STDOUT_FILENO);
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Only without the right to switch off does it come here; the end of the first program is a panic, which ends it, too.
    std::process::exit(1)
}
