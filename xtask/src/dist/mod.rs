//! `cargo xtask dist`: what is handed out, in `target/dist`: package, program, container context, manifests, checksums.
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::tree;

pub mod notices;
pub mod package;
pub mod program;

/// What to make.
#[derive(clap::Args)]
pub struct Args {
    /// Build without the optimisations of a release: to try the package, not to hand it out
    #[arg(long)]
    dev: bool,
    /// The package's revision: what is behind the program's version
    #[arg(long, default_value_t = 1)]
    revision: u32,
}

/// Where everything lies, from the root of the tree.
const FOLDER: &str = "dist";
/// The list of checksums, as `sha256sum --check` reads it.
const SUMS: &str = "SHA256SUMS";
/// From packaging/ into the folder that an image is built from.
const CONTAINER: &[(&str, &str)] = &[
    ("packaging/container/Containerfile", "Containerfile"),
    ("packaging/container/seccomp.json", "seccomp.json"),
    ("docs/mpsec.toml", "mpsec.toml"),
];
/// Handed out as they are.
const PLAIN: &[(&str, &str)] = &[("packaging/kubernetes/daemonset.yaml", "kubernetes/daemonset.yaml")];

/// `cargo xtask dist [--dev] [--revision N]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let program = program::build(root, args.dev)?;
    let folder = tree::target(root).join(FOLDER);
    let package = package::make(root, &program, &folder, args.revision)?;
    let mut made = lay_out(root, &program, &folder)?;
    made.push(package.clone());
    let sums = check_sums(&folder, &made)?;
    fs::write(folder.join(SUMS), sums.iter().map(|(sum, name)| format!("{sum}  {name}\n")).collect::<String>())?;
    println!("{}", package.display());
    for (_, name) in &sums {
        println!("{}", folder.join(name).display());
    }
    println!("{}", folder.join(SUMS).display());
    Ok(ExitCode::SUCCESS)
}

/// Everything but the package. Returns the files.
pub(crate) fn lay_out(root: &Path, program: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let alone = format!("mpsec-{}-x86_64-linux", env!("CARGO_PKG_VERSION"));
    let mut made = Vec::new();
    let mut lay = |from: &Path, to: PathBuf| {
        copy(from, &to)?;
        made.push(to);
        anyhow::Ok(())
    };
    lay(program, folder.join(alone))?;
    lay(program, folder.join("container/mpsec"))?;
    for (from, to) in CONTAINER {
        lay(&root.join(from), folder.join("container").join(to))?;
    }
    for (from, to) in PLAIN {
        lay(&root.join(from), folder.join(to))?;
    }
    Ok(made)
}

/// Copies a file, and makes the folder that it goes to.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("copying {} to {}", from.display(), to.display());
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(what)?;
    }
    fs::copy(from, to).map(drop).with_context(what)
}

/// Checksum and name of each of these files, by name. What else lies in the folder, such as earlier revisions, is not vouched for.
fn check_sums(folder: &Path, files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let sum = |file: &PathBuf| {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(folder).with_context(|| format!("{} lies elsewhere", file.display()))?;
        Ok((hex(&Sha256::digest(&bytes)), name.to_string_lossy().into_owned()))
    };
    let mut sums = files.iter().map(sum).collect::<Result<Vec<_>>>()?;
    sums.sort_by(|(_, one), (_, other)| one.cmp(other));
    Ok(sums)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
