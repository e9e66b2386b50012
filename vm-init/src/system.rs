//! Makes way for the system on a disk: what `switch_root` does after an initial file system.
use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use crate::host;

/// Where the disk is put before it becomes the root.
const ROOT: &str = "/system";
/// The first program of the system.
const FIRST: &str = "/sbin/init";
/// Folders of the initial file system that the system sees, too: the kernel's modules, and what xtask put there.
const SHARED: &[&str] = &["/lib/modules", "/mpsec"];
/// What the kernel calls for a module. The system's own program needs lists in a form that xtask does not carry over.
const MODPROBE: (&str, &str) = ("/proc/sys/kernel/modprobe", "/mpsec/bin/modprobe");

/// Starts the system in place of this program.
pub fn become_it(disk: &Path) -> Result<Infallible> {
    fs::write(MODPROBE.0, MODPROBE.1).with_context(|| format!("writing {}", MODPROBE.0))?;
    fs::create_dir_all(ROOT)?;
    mount(disk, Path::new(ROOT), c"ext4", 0).with_context(|| format!("mounting {}", disk.display()))?;
    for folder in SHARED {
        let inside = Path::new(ROOT).join(folder.trim_start_matches('/'));
        fs::create_dir_all(&inside).with_context(|| format!("making {}", inside.display()))?;
        mount(Path::new(folder), &inside, c"none", libc::MS_BIND).with_context(|| format!("sharing {folder}"))?;
    }
    host::unmount_all();
    std::env::set_current_dir(ROOT).context("going to the system's root")?;
    mount(Path::new("."), Path::new("/"), c"none", libc::MS_MOVE).context("moving the system to the root")?;
    std::os::unix::fs::chroot(".").context("changing the root")?;
    std::env::set_current_dir("/")?;
    Err(Command::new(FIRST).env_clear().exec()).with_context(|| format!("starting {FIRST}"))
}

fn mount(what: &Path, place: &Path, kind: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let [what, place] = [what, place].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default());
    // SAFETY: the pointers are to strings with their ends, which outlive the call; no data is given.
    let result = unsafe { libc::mount(what.as_ptr(), place.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
