//! Builds the program that is handed out: one file that needs nothing of the host but its kernel.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use object::{
    Endianness, elf,
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

use crate::{command, run};

/// Named although it is this machine's own: build scripts and procedural macros are then built without the flags below,
/// with which they cannot be loaded.
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `mpsec`, and makes sure that it is linked statically.
pub fn build(root: &Path, dev: bool) -> Result<PathBuf> {
    let profile = if dev { "dev" } else { "release" };
    if !dev {
        eprintln!("xtask: building the agent as released, linked statically (the first build takes minutes)");
    }
    let mut cargo = command::cargo(root);
    cargo.args(["build", "--locked", "--package", "mpsec-agent", "--bin", "mpsec", "--profile", profile]);
    cargo.args(["--target", TARGET, "--message-format=json-render-diagnostics"]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let messages = command::stdout(cargo.stdout(std::process::Stdio::piped()))?;
    let program = run::executable(&messages, "mpsec").context("cargo built no program named mpsec")?;
    let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let needs = needs(&bytes).with_context(|| format!("reading {}", program.display()))?;
    ensure!(needs.is_empty(), "{} is not linked statically: it needs {}", program.display(), needs.join(", "));
    Ok(program)
}

/// What else has to be on the host for this program to start: the loader, and libraries.
fn needs(program: &[u8]) -> Result<Vec<String>> {
    type Header = elf::FileHeader64<Endianness>;
    let header = Header::parse(program)?;
    let endian = header.endian()?;
    let mut needs = Vec::new();
    for segment in header.program_headers(endian, program)? {
        if let Some(loader) = segment.interpreter(endian, program)? {
            needs.push(String::from_utf8_lossy(loader).into_owned());
        }
        for entry in segment.dynamic(endian, program)?.unwrap_or_default() {
            if entry.tag(endian) == elf::DT_NEEDED {
                needs.push("a shared library".to_owned());
            }
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_told_from_one_without() {
        let here = std::env::current_exe().and_then(fs::read).expect("this program");
        let found = needs(&here).expect("it is ELF");
        assert_eq!(found.is_empty(), cfg!(target_feature = "crt-static"), "{found:?}");
        assert!(needs(b"#!/bin/sh\n").is_err());
    }
}
