//! Which programs run on this host, and in which network namespace.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Which of the names that were asked for it has.
    pub name: String,
    /// Whether it is in the network namespace of the calling thread; `None` where that may not be looked at (CAP_SYS_PTRACE).
    pub is_here: Option<bool>,
    /// Whether it may change the network here: it has CAP_NET_ADMIN, and not merely in a user namespace of its own. Anybody can
    /// give a program any name. `None` where that may not be looked at.
    pub may_manage: Option<bool>,
}

impl Process {
    /// The folder of what /proc tells of it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }
}

/// Processes with one of `names`, as /proc/PID/comm calls them, by their numbers. What may not be looked at is taken not to run.
#[must_use]
pub fn find(names: &[&str]) -> Vec<Process> {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let [here, users] = ["net", "user"].map(|kind| identity(&Path::new("/proc/thread-self/ns").join(kind)));
    let one = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        // The kernel keeps fifteen bytes of a name (TASK_COMM_LEN).
        let name = names.iter().find(|name| name[..name.len().min(15)] == *comm.trim_end())?;
        let is_here = identity(&entry.path().join("ns/net")).map(|its| Some(its) == here);
        let is_of_users = identity(&entry.path().join("ns/user")).map(|its| Some(its) == users);
        let may_manage = match std::fs::read_to_string(entry.path().join("status")).ok().as_deref().and_then(net_admin)
        {
            Some(false) => Some(false),
            can => can.and(is_of_users),
        };
        Some(Process { pid, name: (*name).to_owned(), is_here, may_manage })
    };
    let mut found: Vec<_> = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(one).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Whether CAP_NET_ADMIN is among the effective capabilities that /proc/PID/status tells (fs/proc/array.c, Linux 6.18).
fn net_admin(status: &str) -> Option<bool> {
    /// include/uapi/linux/capability.h
    const CAP_NET_ADMIN: u32 = 12;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    Some(u64::from_str_radix(effective.trim(), 16).ok()? >> CAP_NET_ADMIN & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_in_effect() {
        assert_eq!(net_admin("Name:\tx\nCapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n"), Some(false));
        assert_eq!(net_admin("CapEff:\t0000000000003000\n"), Some(true));
        assert_eq!(net_admin("CapEff:\t000001ffffffffff\n"), Some(true));
        assert_eq!(net_admin("Name:\tx\n"), None);
    }

    #[test]
    fn a_program_without_rights_manages_nothing_whatever_its_name() {
        // Without the right to become somebody else there is nothing to compare.
        if crate::kernel::peer::own_user() != 0 {
            return;
        }
        let mut command = std::process::Command::new("sleep");
        let mut child = std::os::unix::process::CommandExt::uid(command.arg("20"), 65_534).spawn().unwrap();
        let mine = || find(&["sleep"]).into_iter().find(|process| process.pid == child.id());
        let found = std::iter::repeat_with(mine).take(1000).flatten().next();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.expect("it runs").may_manage, Some(false));
    }

    #[test]
    fn this_test_runs_and_others_do_not() {
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let own = own.trim_end();
        let found = find(&[own, "no-such-program-at-all"]);
        let this = found.iter().find(|process| process.pid == std::process::id()).expect("it runs");
        assert_eq!((this.name.as_str(), this.is_here), (own, Some(true)));
        assert!(found.iter().all(|process| process.name == own));
    }
}
