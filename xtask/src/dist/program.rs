//! Builds the program that is handed out: one file that needs nothing of the host but its kernel.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use object::{
    Endianness, elf,
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

use crate::{command, run, vm::debian};

/// With musl, whose licence asks for no more than its notice: a static program holds its C library.
pub(super) const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds `mpsec`, and makes sure that it is linked statically.
pub fn build(root: &Path, dev: bool) -> Result<PathBuf> {
    add_target()?;
    let profile = if dev { "dev" } else { "release" };
    if !dev {
        eprintln!("xtask: building the agent as released, linked statically (the first build takes minutes)");
    }
    let mut cargo = command::cargo(root);
    cargo.args(["build", "--locked", "--package", "mpsec-agent", "--bin", "mpsec", "--profile", profile]);
    cargo.args(["--target", TARGET, "--message-format=json-render-diagnostics"]);
    cargo.envs(c_compiler());
    let messages = command::stdout(cargo.stdout(Stdio::piped()))?;
    let program = run::executable(&messages, "mpsec").context("cargo built no program named mpsec")?;
    let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
    let needs = needs(&bytes).with_context(|| format!("reading {}", program.display()))?;
    ensure!(needs.is_empty(), "{} is not linked statically: it needs {}", program.display(), needs.join(", "));
    Ok(program)
}

/// Rust's standard library for the target, installed by rustup where it is missing.
fn add_target() -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let library = command::stdout(
        Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).stdout(Stdio::piped()),
    )?;
    if Path::new(library.trim()).is_dir() {
        return Ok(());
    }
    eprintln!("xtask: rustup target add {TARGET}");
    let added = Command::new("rustup").args(["target", "add", TARGET]).stdin(Stdio::null()).status();
    ensure!(
        added.is_ok_and(|status| status.success()),
        "Rust's standard library for {TARGET} is not installed, and rustup could not install it: \
         run `rustup target add {TARGET}`, or install your distribution's package of it"
    );
    Ok(())
}

/// What compiles the little C that crates bring along: musl-gcc if it is there, else the machine's own compiler, whose headers
/// do as long as they put no checks of glibc's into the code.
fn c_compiler() -> Vec<(String, &'static str)> {
    let target = TARGET.replace('-', "_");
    let (compiler, flags) = (format!("CC_{target}"), format!("CFLAGS_{target}"));
    let is_chosen = std::env::var_os(&compiler).is_some() || std::env::var_os("TARGET_CC").is_some();
    if is_chosen || debian::is_here("musl-gcc") {
        return Vec::new();
    }
    vec![(compiler, "cc"), (flags, "-U_FORTIFY_SOURCE")]
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
