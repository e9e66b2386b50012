//! The root of the control groups, on which a program sees every socket of the host, and what tells one network namespace
//! from another there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// Linux 5.14 (include/uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Opens the root of the unified hierarchy (cgroup v2), wherever it is mounted. Where it is not, as inside `ip netns exec`,
/// which mounts /sys anew, it is mounted for the moment, where nobody sees it.
///
/// # Errors
/// `NotFound` where it is not mounted and this process may not mount it (CAP_SYS_ADMIN).
pub fn open_root() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // Another file system may be mounted over it.
    let mut roots = mounts.lines().filter_map(mount_point).filter_map(|point| File::open(point).ok());
    let mounted = roots.find(is_cgroup2).map_or_else(open_unmounted, Ok);
    mounted.map_err(|error| {
        let text =
            format!("no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup), nor can be: {error}");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The root of the hierarchy through a mount that is attached nowhere (fsopen(2), Linux 5.2).
fn open_unmounted() -> io::Result<File> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: the name is a C string that outlives the call; the rest are numbers.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"cgroup2".as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: this command takes neither key nor value, for which the kernel wants null and 0.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsmount takes numbers alone.
    let mount = owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path is a C string that outlives the call, and the descriptor is open.
    let root = unsafe { libc::openat(mount.as_raw_fd(), c".".as_ptr(), flags) };
    owned(libc::c_long::from(root)).map(File::from)
}

/// The descriptor that a system call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_cgroup2(file: &File) -> bool {
    let mut about = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and the pointer is to room for a whole `statfs`.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) };
    // SAFETY: on success the kernel has filled all of it.
    let kind = || unsafe { about.assume_init() }.f_type;
    // C libraries do not agree on the sign.
    result == 0 && u64::try_from(kind()) == Ok(libc::CGROUP2_SUPER_MAGIC as u64)
}

/// Where a line of mountinfo says that the root of a cgroup2 file system is mounted (proc_pid_mountinfo(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let (before, behind) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (behind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point.replace("\\040", " ")))
}

/// The cookie of this thread's network namespace; 0 where the kernel has none.
///
/// # Errors
/// What opening a socket says.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and both pointers are to variables that outlive the call; the length is the first's.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(cookie),
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(0),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_told_from_the_others() {
        let lines = [
            "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory",
            "31 24 0:27 /sub /mnt/sub rw,relatime - cgroup2 cgroup2 rw",
            "32 24 0:27 / /sys/fs/cgroup/a\\040b rw,relatime shared:11 - cgroup2 cgroup2 rw,nsdelegate",
        ];
        let found: Vec<_> = lines.iter().filter_map(|line| mount_point(line)).collect();
        assert_eq!(found, [PathBuf::from("/sys/fs/cgroup/a b")]);
    }

    #[test]
    fn the_hierarchy_can_be_had_without_a_mount_point() {
        match open_unmounted() {
            Ok(root) => {
                assert!(is_cgroup2(&root));
                assert!(std::fs::metadata(format!("/proc/self/fd/{}/cgroup.procs", root.as_raw_fd())).is_ok());
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        }
    }

    #[test]
    fn the_same_namespace_has_the_same_cookie() {
        let cookie = netns_cookie().expect("a socket can be had");
        assert_eq!(cookie, netns_cookie().expect("a socket can be had"));
    }
}
