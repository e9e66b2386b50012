//! Listed control groups: their ids, and when one comes or goes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use mpsec_common::force::flags;

use super::ForceError;
use crate::kernel::cgroup;

/// Where the hierarchy is mounted nearly everywhere.
const MOUNT: &str = "/sys/fs/cgroup";

/// The listed control groups.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: File,
    /// An instance of inotify(7).
    events: File,
    listed: Vec<Listed>,
}

#[derive(Debug)]
struct Listed {
    /// From the root of the hierarchy.
    path: PathBuf,
    flags: u32,
    /// While it is there.
    id: Option<u64>,
}

impl Cgroups {
    pub(super) fn new(cgroups: &[(PathBuf, u32)]) -> Result<Cgroups, ForceError> {
        let mut listed: BTreeMap<PathBuf, u32> = BTreeMap::new();
        for (path, flags) in cgroups {
            let bad = |reason| ForceError::BadCgroup { path: path.clone(), reason };
            *listed.entry(below_root(path).map_err(bad)?).or_default() |= flags & flags::ALL;
        }
        Ok(Cgroups {
            root: cgroup::open_root().map_err(ForceError::NoCgroup2)?,
            events: inotify().map_err(ForceError::Watch)?.into(),
            listed: listed.into_iter().map(|(path, flags)| Listed { path, flags, id: None }).collect(),
        })
    }

    /// Looks all of them up, after what could make one of them come or go is watched: what happens meanwhile is an event.
    pub(super) fn look_up(&mut self) -> Result<(), ForceError> {
        self.forget_events().map_err(ForceError::Watch)?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()));
        for listed in &mut self.listed {
            watch_above(&self.events, &root, &listed.path).map_err(ForceError::Watch)?;
            // The id of a control group is the number of its inode on machines of 64 bits (kernfs_ino, include/linux/kernfs.h).
            listed.id =
                std::fs::metadata(root.join(&listed.path)).ok().filter(|found| found.is_dir()).map(|found| found.ino());
        }
        Ok(())
    }

    pub(super) fn flags_by_id(&self) -> BTreeMap<u64, u32> {
        self.listed.iter().filter_map(|listed| Some((listed.id?, listed.flags))).collect()
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &Path> {
        self.listed.iter().filter(|listed| listed.id.is_none()).map(|listed| listed.path.as_path())
    }

    fn forget_events(&mut self) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            match self.events.read(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Cgroups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// The path from the root of the hierarchy, however it was written.
fn below_root(path: &Path) -> Result<PathBuf, &'static str> {
    let path = path.strip_prefix(MOUNT).unwrap_or(path);
    let mut below = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err("it leads upwards"),
        }
    }
    if below.as_os_str().as_bytes().contains(&0) { Err("it has a zero byte in it") } else { Ok(below) }
}

fn inotify() -> io::Result<OwnedFd> {
    // SAFETY: the call takes flags alone.
    match unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just made this descriptor for us alone.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Watches the nearest control group above that is there: in it the next one of the path comes or goes. The root never does.
fn watch_above(events: &File, root: &Path, path: &Path) -> io::Result<()> {
    for above in path.ancestors().skip(1) {
        match watch(events, &root.join(above)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    Ok(())
}

fn watch(events: &File, folder: &Path) -> io::Result<()> {
    // The root is reached by a symbolic link of /proc, which ends in a slash to be followed.
    let folder = CString::new([folder.as_os_str().as_bytes(), b"/"].concat())?;
    let mask = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVE | libc::IN_DELETE_SELF | libc::IN_ONLYDIR;
    // SAFETY: the descriptor is open, and the path is a C string that outlives the call.
    match unsafe { libc::inotify_add_watch(events.as_raw_fd(), folder.as_ptr(), mask) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_can_be_written_in_three_ways() {
        for path in ["system.slice/a.service", "/system.slice/a.service/", "/sys/fs/cgroup/system.slice/./a.service"] {
            assert_eq!(below_root(Path::new(path)), Ok(PathBuf::from("system.slice/a.service")));
        }
        for root in ["", "/", "/sys/fs/cgroup"] {
            assert_eq!(below_root(Path::new(root)), Ok(PathBuf::new()));
        }
        assert!(below_root(Path::new("a/../../etc")).is_err());
    }
}
