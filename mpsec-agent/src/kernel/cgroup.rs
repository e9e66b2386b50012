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
/// A container with a control group namespace of its own has the host's root in sight where the host's /sys/fs/cgroup is
/// mounted into it; else what it takes for the root is its own branch, which is warned of: there, only its own sockets are seen.
///
/// # Errors
/// `NotFound` where it is not mounted and this process may not mount it (CAP_SYS_ADMIN).
pub fn open_root() -> io::Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // Another file system may be mounted over it.
    let opened = mounts.lines().filter_map(mount_point);
    let opened = opened.filter_map(|(root, point)| Some((root, File::open(point).ok()?)));
    let (mut seen, mut branches) = (Vec::new(), Vec::new());
    for (root, file) in opened.filter(|(_, file)| is_cgroup2(file)) {
        // Of several mounts of the root, the first.
        if is_the_hosts_root(&file) {
            seen.push(file);
        } else if root == "/" {
            branches.push(file);
        }
    }
    let mounted = seen.into_iter().next().map_or_else(|| whole_or_branch(branches), Ok);
    mounted.map_err(|error| {
        let text =
            format!("no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup), nor can be: {error}");
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The root that can be mounted, or, in a container, the branch that it takes for the root.
fn whole_or_branch(branches: Vec<File>) -> io::Result<File> {
    let branch = branches.into_iter().next().map_or_else(open_unmounted, Ok)?;
    if !is_the_hosts_root(&branch) {
        tracing::warn!(
            "the root of the host's control groups is not in sight: only sockets of this container's programs are seen \
             (mount the host's /sys/fs/cgroup into it, or start it in the host's control group namespace)"
        );
    }
    Ok(branch)
}

/// Every control group but the root has a type (cgroup_base_files, kernel/cgroup/cgroup.c, 6.18).
fn is_the_hosts_root(file: &File) -> bool {
    let name = c"cgroup.type";
    // SAFETY: the descriptor is open, and the name is a C string that outlives the call.
    let found = unsafe { libc::faccessat(file.as_raw_fd(), name.as_ptr(), libc::F_OK, 0) };
    found != 0
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

/// Which part of a cgroup2 file system a line of mountinfo says is mounted, and where (proc_pid_mountinfo(5)). What lies above
/// the reader's own root, as the host's in a container, is told as /.. as often as it takes.
fn mount_point(line: &str) -> Option<(&str, PathBuf)> {
    let (before, behind) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    behind.starts_with("cgroup2 ").then(|| (root, PathBuf::from(point.replace("\\040", " "))))
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
        let points = [("/sub", "/mnt/sub"), ("/", "/sys/fs/cgroup/a b")];
        assert_eq!(found, points.map(|(root, point)| (root, PathBuf::from(point))));
    }

    #[test]
    fn the_root_is_told_from_a_branch() {
        // Where it can be had: not in a container, nor without CAP_SYS_ADMIN where nothing is mounted.
        let Ok(root) = open_root() else { return };
        if !is_the_hosts_root(&root) {
            return;
        }
        let path = format!("/proc/self/fd/{}", root.as_raw_fd());
        let is_group = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        for branch in std::fs::read_dir(path).expect("a folder").flatten().filter(is_group).take(3) {
            let branch = File::open(branch.path()).expect("a folder");
            assert!(is_cgroup2(&branch) && !is_the_hosts_root(&branch));
        }
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
