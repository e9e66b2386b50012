//! The settings of MPTCP, `net.mptcp.*`, which each network namespace has for itself.
//!
//! Source: mptcp_sysctl_table in net/mptcp/ctrl.c, Linux 6.18.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// /proc/sys/net shows the namespace of the thread that looks (net_ctl_root_lookup, net/sysctl_net.c).
const FOLDER: &str = "/proc/sys/net/mptcp";

/// The settings of the calling thread's network namespace, by the name behind `net.mptcp.`, without the line's end. Empty
/// if this kernel has no MPTCP; a setting that it lacks is not there.
pub fn read_mptcp() -> io::Result<BTreeMap<String, String>> {
    read_folder(Path::new(FOLDER))
}

/// Whether sockets that are made now leave subflows to a path manager in user space, by what [`read_mptcp`] gave. Sockets keep
/// what they were made with (mptcp_pm_data_reset, net/mptcp/pm.c). The name is there from Linux 6.16 on, the number before;
/// newer kernels have both.
pub fn is_userspace(settings: &BTreeMap<String, String>) -> bool {
    match settings.get("path_manager") {
        Some(name) => name == "userspace",
        None => settings.get("pm_type").is_some_and(|number| number == "1"),
    }
}

fn read_folder(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut settings = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        settings.insert(name, std::fs::read_to_string(entry.path())?.trim_end().to_owned());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_setting() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("enabled"), "1\n").expect("a file");
        std::fs::write(folder.path().join("available_schedulers"), "default mine\n").expect("a file");
        let settings = read_folder(folder.path()).expect("it is readable");
        let expected = [("available_schedulers", "default mine"), ("enabled", "1")];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn the_path_manager_is_told_by_name_or_number() {
        let settings = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert!(is_userspace(&settings(&[("path_manager", "userspace"), ("pm_type", "1")])));
        assert!(!is_userspace(&settings(&[("path_manager", "kernel"), ("pm_type", "0")])));
        assert!(!is_userspace(&settings(&[("path_manager", "mine"), ("pm_type", "1")])));
        assert!(is_userspace(&settings(&[("pm_type", "1")])));
        assert!(!is_userspace(&settings(&[("pm_type", "0")])));
        assert!(!is_userspace(&settings(&[("enabled", "1")])));
    }

    #[test]
    fn a_kernel_without_mptcp_has_none() {
        assert_eq!(
            read_folder(Path::new("/proc/sys/net/no_such")).expect("nothing there is no error"),
            BTreeMap::new()
        );
    }
}
