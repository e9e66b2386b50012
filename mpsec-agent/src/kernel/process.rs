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
    let here = identity(Path::new("/proc/thread-self/ns/net"));
    let one = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        // The kernel keeps fifteen bytes of a name (TASK_COMM_LEN).
        let name = names.iter().find(|name| name[..name.len().min(15)] == *comm.trim_end())?;
        let is_here = identity(&entry.path().join("ns/net")).map(|its| Some(its) == here);
        Some(Process { pid, name: (*name).to_owned(), is_here })
    };
    let mut found: Vec<_> = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(one).collect();
    found.sort_by_key(|process| process.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
