//! Which programs run on this host.

use std::collections::BTreeSet;

/// Those of `names` that run, as /proc/PID/comm calls them. What may not be looked at is taken not to run.
pub fn running(names: &[&str]) -> BTreeSet<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let comm = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).ok();
    // The kernel keeps fifteen bytes of a name (TASK_COMM_LEN).
    let known = |comm: String| names.iter().find(|name| name[..name.len().min(15)] == *comm.trim_end());
    processes.filter_map(comm).filter_map(known).map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_runs_and_others_do_not() {
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let own = own.trim_end();
        assert_eq!(running(&[own, "no-such-program-at-all"]), BTreeSet::from([own.to_owned()]));
    }
}
