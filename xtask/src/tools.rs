//! The programs that xtask needs beside cargo, each of one version: found, or installed into `target/tools`.
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{command, tree};

/// A program of one exact version that `cargo install` can provide.
pub struct Tool {
    /// The crate and the program that it installs.
    pub name: &'static str,
    /// The version that everybody uses, so that everybody gets the same result.
    pub version: &'static str,
    /// The environment variable that names another copy.
    pub variable: &'static str,
}

/// Links the kernel side. Another version gives another object.
pub const BPF_LINKER: Tool = Tool { name: "bpf-linker", version: "0.10.4", variable: "MPSEC_BPF_LINKER" };

/// Judges licences, sources and advisories of what we depend on.
pub const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", variable: "MPSEC_CARGO_DENY" };

/// Makes the Debian package.
pub const CARGO_DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0", variable: "MPSEC_CARGO_DEB" };

/// How they are built.
const PROFILE: [(&str, &str); 4] = [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1"), ("DEBUG", "0")];

impl Tool {
    /// The environment's copy, the one in `target/tools`, the one on the PATH; else installs it.
    pub fn find_or_install(&self, root: &Path) -> Result<PathBuf> {
        if let Some(named) = env::var_os(self.variable) {
            let named = PathBuf::from(named);
            if !self.fits(&named) {
                bail!("{} is {}, which is not {} {}", self.variable, named.display(), self.name, self.version);
            }
            return Ok(named);
        }
        let home = tools_dir(root);
        let installed = home.join("bin").join(self.name);
        for candidate in [installed.clone(), PathBuf::from(self.name)] {
            if self.fits(&candidate) {
                return Ok(candidate);
            }
        }
        eprintln!("xtask: installing {} {} into {}", self.name, self.version, home.display());
        command::run(
            command::cargo(root)
                .args(["install", self.name, "--version", self.version, "--locked"])
                .arg("--root")
                .arg(&home)
                // Each runs for seconds, and is built on every new machine: what its own profile asks for takes minutes.
                .envs(PROFILE.map(|(name, value)| (format!("CARGO_PROFILE_RELEASE_{name}"), value)))
                // The folder is ours and no part of anybody's PATH, which cargo would warn about.
                .arg("--quiet"),
        )?;
        Ok(installed)
    }

    fn fits(&self, program: &Path) -> bool {
        Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| is_version(&String::from_utf8_lossy(&output.stdout), self.version))
    }
}

/// Where xtask keeps programs and sources that it fetched.
#[must_use]
pub fn tools_dir(root: &Path) -> PathBuf {
    tree::target(root).join("tools")
}

/// Whether `output`, as in `name 1.2.3 (more)`, tells exactly this version.
fn is_version(output: &str, version: &str) -> bool {
    output.split_whitespace().nth(1) == Some(version)
}

#[cfg(test)]
mod tests {
    use super::is_version;

    #[test]
    fn a_version_is_compared_as_a_whole() {
        assert!(is_version("bpf-linker 0.10.4\n", "0.10.4"));
        assert!(!is_version("bpf-linker 0.10.40\n", "0.10.4"));
        assert!(!is_version("bpf-linker\n", "0.10.4"));
    }
}
