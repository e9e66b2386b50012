//! Who is at the other end of a local socket, and which groups there are.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// More groups than a process can be in (NGROUPS_MAX, include/uapi/linux/limits.h, Linux 6.18).
const MOST_GROUPS: usize = 65_536;
/// No entry of the group database takes more bytes than this.
const LONGEST_ENTRY: usize = 1 << 20;

/// The supplementary groups that the peer of a connected Unix socket had when it connected (SO_PEERGROUPS,
/// net/core/sock.c, since Linux 4.13). Its primary group is not always among them.
///
/// # Errors
/// What the kernel says, such as `ENODATA` for a socket without a peer.
pub fn supplementary_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open while it is borrowed; the pointer and the length describe `groups`, of which the
        // kernel writes no more than that length, and says how much.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says in `bytes` how much room it needs.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > MOST_GROUPS {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The number of a group, by its name; `None` where there is none of this name.
///
/// # Errors
/// When the database cannot be read, or the name holds a NUL.
pub fn group_number(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    let mut buffer: Vec<libc::c_char> = vec![0; 1024];
    loop {
        let mut entry = std::mem::MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends with a NUL; entry, buffer with its length, and result are ours, and outlive the call.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
        };
        match error {
            0 if found.is_null() => return Ok(None),
            // SAFETY: the result points to the entry, which the call has filled in.
            0 => return Ok(Some(unsafe { (*found).gr_gid })),
            libc::ERANGE if buffer.len() < LONGEST_ENTRY => buffer.resize(buffer.len() * 2, 0),
            // What some libraries say of a name that is not there (getgrnam(3), ERRORS).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The effective user of this process.
#[must_use]
pub fn own_user() -> u32 {
    // SAFETY: no preconditions, and it cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_is_in_the_groups_that_this_process_is_in() {
        let (left, _right) = UnixStream::pair().unwrap();
        let mut found = supplementary_groups(&left).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut expected: Vec<u32> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn groups_are_known_by_name() {
        assert_eq!(group_number("root").unwrap(), Some(0));
        assert_eq!(group_number("no-such-group-here").unwrap(), None);
        assert!(group_number("a\0b").is_err());
    }

    #[test]
    fn the_own_user_owns_this_process() {
        assert_eq!(own_user(), std::fs::metadata("/proc/self").unwrap().uid());
    }
}
