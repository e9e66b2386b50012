//! Where things lie in the source tree.
use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The root of the workspace that this command was started in.
pub fn root() -> Result<PathBuf> {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest_dir.parent().context("xtask's manifest has no parent folder")?;
    root.canonicalize().with_context(|| format!("no workspace at {}", root.display()))
}

/// The folder of what xtask itself builds, apart from the workspace's own artefacts so that neither evicts the other.
#[must_use]
pub fn target(root: &Path) -> PathBuf {
    root.join("target")
}

/// Every file below `dir`, sorted, without build output and version control.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && !is_left_out(&entry.file_name().to_string_lossy()) {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_left_out(dir_name: &str) -> bool {
    dir_name == "target" || dir_name == "node_modules" || dir_name == ".git"
}

/// Whether this process has root's rights.
pub fn is_root() -> Result<bool> {
    let me = fs::metadata("/proc/self").context("reading the owner of /proc/self")?;
    Ok(me.uid() == 0)
}
