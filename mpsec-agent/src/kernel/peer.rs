//! Who is at the other end of a local socket, and which groups there are.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// More groups than a process can be in (NGROUPS_MAX, include/uapi/linux/limits.h, Linux 6.18).
const MOST_GROUPS: usize = 65_536;

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

/// The number of a group, by its name; `None` where there is none of this name in /etc/group.
///
/// The files are read here rather than through the C library: a program that is linked statically would load the modules of
/// the host's name service (nss_systemd, nss_ldap) for that, which need the very C library that it was built with.
///
/// # Errors
/// When the file cannot be read.
pub fn group_number(name: &str) -> io::Result<Option<u32>> {
    Ok(number_in(&std::fs::read_to_string("/etc/group")?, name))
}

/// The number of a user, by its name; `None` where there is none of this name in /etc/passwd.
///
/// # Errors
/// When the file cannot be read.
pub fn user_number(name: &str) -> io::Result<Option<u32>> {
    Ok(number_in(&std::fs::read_to_string("/etc/passwd")?, name))
}

/// Both files have the name first and the number third (group(5), passwd(5)).
fn number_in(database: &str, name: &str) -> Option<u32> {
    database.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
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
        assert_eq!(user_number("root").unwrap(), Some(0));
        let database = "# made by hand\nroot:x:0:\nmpsec:!:997:alice,bob\nbroken:x\nodd:x:-1:\n";
        let found = ["root", "mpsec", "mpse", "broken", "odd", ""].map(|name| number_in(database, name));
        assert_eq!(found, [Some(0), Some(997), None, None, None, None]);
    }

    #[test]
    fn the_own_user_owns_this_process() {
        assert_eq!(own_user(), std::fs::metadata("/proc/self").unwrap().uid());
    }
}
