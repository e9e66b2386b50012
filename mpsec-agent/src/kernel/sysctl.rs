//! The settings below `net.`, of which each network namespace has its own.
//!
//! /proc/sys/net shows those of the thread that looks (net_ctl_root_lookup, net/sysctl_net.c, Linux 6.18).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Source: mptcp_sysctl_table in net/mptcp/ctrl.c, Linux 6.18.
const FOLDER: &str = "/proc/sys/net/mptcp";

/// Why a setting is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// It is not the name of a setting below `net.`.
    #[error("{0:?} is no setting of the network: net.mptcp.enabled and net/ipv4/conf/eth0.5/rp_filter are such names")]
    Name(String),
    /// What is more than one line, or empty, is no value.
    #[error("{name} cannot be set to {value:?}: one line of text is needed")]
    Text {
        /// The setting's name.
        name: String,
        /// What was to be written.
        value: String,
    },
    /// This kernel has no such setting, or its interface is not there.
    #[error("this kernel has no setting {} in this network namespace", .0.display())]
    Missing(PathBuf),
    /// The kernel does not take the value.
    #[error("{}: the kernel does not take the value {value:?}: {error}", file.display())]
    Value {
        /// The setting's file.
        file: PathBuf,
        /// What was written.
        value: String,
        /// What the kernel said: `EINVAL`, `ERANGE`, `ENOENT` for a name that stands for nothing, ...
        error: io::Error,
    },
    /// It may not be written.
    #[error("{} cannot be set to {value:?}: {error}. {}", file.display(), advice(error))]
    Forbidden {
        /// The setting's file.
        file: PathBuf,
        /// What was to be written.
        value: String,
        /// What the kernel said: `EROFS`, `EACCES` or `EPERM`.
        error: io::Error,
    },
    /// It could not be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The setting's file.
        file: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What to do about a refusal.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EROFS) => {
            "/proc/sys is read-only: a systemd unit needs ReadWritePaths=/proc/sys/net, a container a writable /proc/sys/net"
        }
        Some(libc::EACCES) => "it needs CAP_NET_ADMIN in the network namespace, and some settings can only be read",
        _ => "it needs CAP_NET_ADMIN in the network namespace",
    }
}

/// The value of a setting of the calling thread's network namespace, its words parted by single spaces. `None` if this kernel
/// has no such setting.
///
/// The name is written with dots, or with slashes where a part of it may hold dots, as the name of an interface may:
/// `net.mptcp.enabled`, `net/ipv4/conf/eth0.5/rp_filter`. A slash anywhere makes dots part of the parts.
pub fn read(name: &str) -> Result<Option<String>, SysctlError> {
    let file = file(name)?;
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some(normal(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SysctlError::Read { file, error }),
    }
}

/// Sets a setting of the calling thread's network namespace; its name is written as for [`read`]. That the kernel takes a value
/// does not mean that it keeps it as it is: read it back.
pub fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    let file = file(name)?;
    if value.trim().is_empty() || value.contains(['\n', '\0']) {
        return Err(SysctlError::Text { name: name.to_owned(), value: value.to_owned() });
    }
    let value = value.to_owned();
    let mut open = match OpenOptions::new().write(true).open(&file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SysctlError::Missing(file)),
        Err(error) => return Err(SysctlError::Forbidden { file, value, error }),
    };
    // A value is taken by one write; a second one would be another value.
    match open.write(value.as_bytes()) {
        Ok(len) if len == value.len() => Ok(()),
        Ok(_) => Err(SysctlError::Value { file, value, error: io::ErrorKind::WriteZero.into() }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS)) => {
            Err(SysctlError::Forbidden { file, value, error })
        }
        Err(error) => Err(SysctlError::Value { file, value, error }),
    }
}

/// Words parted by single spaces, as values are compared: the kernel parts some by tabs.
pub fn normal(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a setting is. It can be nowhere but below /proc/sys/net.
fn file(name: &str) -> Result<PathBuf, SysctlError> {
    let separator = if name.contains('/') { '/' } else { '.' };
    let parts: Vec<&str> = name.split(separator).collect();
    let is_part = |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\0');
    if parts.len() < 3 || parts[0] != "net" || !parts.iter().all(is_part) {
        return Err(SysctlError::Name(name.to_owned()));
    }
    let mut file = PathBuf::from("/proc/sys");
    file.extend(parts);
    Ok(file)
}

/// The settings of the calling thread's network namespace, by the name behind `net.mptcp.`, without the line's end. Empty
/// if this kernel has no MPTCP; a setting that it lacks is not there.
pub fn read_mptcp() -> io::Result<BTreeMap<String, String>> {
    read_folder(Path::new(FOLDER))
}

/// Whether sockets that are made now leave subflows to a path manager in user space, by what [`read_mptcp`] gave. Sockets keep
/// what they were made with (mptcp_pm_data_reset, net/mptcp/pm.c). The name is there from Linux 6.15 on, the number before;
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
    fn names_lead_nowhere_but_below_net() {
        let found = |name: &str| file(name).ok().and_then(|file| file.to_str().map(str::to_owned));
        let expected = |path: &str| Some(path.to_owned());
        assert_eq!(found("net.mptcp.enabled"), expected("/proc/sys/net/mptcp/enabled"));
        assert_eq!(found("net/ipv4/conf/a.b/rp_filter"), expected("/proc/sys/net/ipv4/conf/a.b/rp_filter"));
        for name in ["", "net", "net.ipv4", "kernel.core_pattern", "net..x.y", "net.mptcp.", "/net/mptcp/enabled"] {
            assert_eq!(found(name), None, "{name}");
        }
        for name in
            ["net/../kernel/core_pattern", "net/ipv4/../../kernel/x", "net/./mptcp/x", "net/mptcp/a\0b", "net//a/b"]
        {
            assert_eq!(found(name), None, "{name}");
        }
        assert!(matches!(write("net.mptcp.enabled", "1\n2"), Err(SysctlError::Text { .. })));
        assert!(matches!(write("net.mptcp.enabled", " "), Err(SysctlError::Text { .. })));
        assert_eq!(normal("4096\t16384   99\n"), "4096 16384 99");
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
