//! The Debian package: what it holds is said in mpsec-agent/Cargo.toml, and laid out here for cargo-deb.
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::notices;
use crate::{command, tools::CARGO_DEB, tree};

/// The folder below `target/dist` of what is made for the package alone.
const STAGE: &str = "stage";
/// Where shells look for the completions of a program of this name.
const COMPLETIONS: &[(&str, &str)] = &[("bash", "mpsec"), ("zsh", "_mpsec"), ("fish", "mpsec.fish")];

/// Makes the package out of this program, and returns its file.
pub fn make(root: &Path, program: &Path, folder: &Path, revision: u32) -> Result<PathBuf> {
    // What is said in the manifest. Two that make packages at the same time would mix them up.
    let folder_of_all = tree::target(root).join(super::FOLDER);
    let _turn = turn(&folder_of_all)?;
    let stage = folder_of_all.join(STAGE);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("removing {}", stage.display()))?;
    }
    lay_out(program, &stage)?;
    fs::write(stage.join("third-party.txt"), notices::collect(root)?).context("writing the notices")?;
    let cargo_deb = CARGO_DEB.find_or_install(root)?;
    let mut deb = Command::new(cargo_deb);
    deb.current_dir(root.join("mpsec-agent"))
        // What cargo calls it by.
        .arg("deb")
        .args(["--no-build", "--no-strip", "--locked", "--quiet"])
        .arg("--deb-revision")
        .arg(revision.to_string())
        .arg("--output")
        .arg(folder);
    if let Some(time) = commit_time(root) {
        // Times inside the package: the same sources make the same package.
        deb.env("SOURCE_DATE_EPOCH", time);
    }
    let said = command::stdout(&mut deb)?;
    let package = folder.join(file_name(revision));
    ensure!(package.exists(), "cargo-deb made no {}: {said}", package.display());
    Ok(package)
}

/// Waits until nobody else makes a package in this folder, and keeps others waiting for as long as the file is held.
fn turn(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let lock = folder.join(".lock");
    let file = File::create(&lock).with_context(|| format!("making {}", lock.display()))?;
    file.lock().with_context(|| format!("locking {}", lock.display()))?;
    Ok(file)
}

/// The name that Debian gives such a file.
fn file_name(revision: u32) -> String {
    format!("mpsec_{}-{revision}_amd64.deb", env!("CARGO_PKG_VERSION"))
}

/// The program, and what it says of itself: manual pages and completions.
fn lay_out(program: &Path, stage: &Path) -> Result<()> {
    super::copy(program, &stage.join("mpsec"))?;
    command::run(Command::new(program).arg("man").arg(stage.join("man")))?;
    for (shell, name) in COMPLETIONS {
        let script = command::stdout(Command::new(program).args(["completions", shell]))?;
        let file = stage.join("completions").join(shell).join(name);
        fs::create_dir_all(stage.join("completions").join(shell))?;
        fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// When the commit was made that this tree is at; none outside version control.
fn commit_time(root: &Path) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(["log", "-1", "--format=%ct"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
