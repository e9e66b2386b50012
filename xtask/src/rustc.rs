//! The compiler: its version, and the wrapper that makes its output independent of where the sources lie.
use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::command;

/// Set for the compilers of the kernel side only.
pub const WRAPPER_VARIABLE: &str = "MPSEC_STABLE_CRATE_IDS";

/// `rustc --version`, as in `rustc 1.95.0 (0123abcd 2026-04-14)`.
pub fn version(root: &Path) -> Result<String> {
    let text = command::stdout(rustc(root).arg("--version"))?;
    Ok(text.trim().to_owned())
}

/// The number alone, as in `1.95.0`.
#[must_use]
pub fn number(version: &str) -> &str {
    version.split_whitespace().nth(1).unwrap_or_default()
}

/// The compiler that cargo would use in `dir`.
#[must_use]
pub fn rustc(dir: &Path) -> Command {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(dir);
    command
}

/// When cargo started this program as its `RUSTC_WRAPPER`: runs the compiler with a stable crate identity.
///
/// Cargo hashes the absolute path of every crate that lies outside the workspace, `core` and `mpsec-common` here, into
/// `-C metadata`. From there it gets into symbol names, so the same sources would give another object in every folder.
/// A hash of name and version does the same work, since no two versions of one crate meet in this build.
pub fn act_as_wrapper() -> Result<Option<ExitCode>> {
    if env::var_os(WRAPPER_VARIABLE).is_none() {
        return Ok(None);
    }
    let mut args = env::args_os().skip(1);
    let Some(program) = args.next() else {
        return Ok(None);
    };
    let identity = format!(
        "{} {}",
        env::var("CARGO_PKG_NAME").unwrap_or_default(),
        env::var("CARGO_PKG_VERSION").unwrap_or_default()
    );
    let status = Command::new(&program)
        .args(with_stable_identity(args, &identity))
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn with_stable_identity(args: impl Iterator<Item = OsString>, identity: &str) -> impl Iterator<Item = OsString> {
    let metadata = format!("metadata={:.16}", crate::object::hex(&Sha256::digest(identity)));
    args.map(move |arg| if is_metadata(&arg) { OsString::from(&metadata) } else { arg })
}

fn is_metadata(arg: &OsStr) -> bool {
    arg.to_str().is_some_and(|arg| arg.starts_with("metadata="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(metadata: &str, identity: &str) -> Vec<String> {
        let args = ["--crate-name", "core", "-C", metadata, "-C", "extra-filename=-1"];
        with_stable_identity(args.iter().map(OsString::from), identity)
            .map(|arg| arg.into_string().expect("the input was text"))
            .collect()
    }

    #[test]
    fn identity_depends_on_the_crate_and_not_on_its_place() {
        let here = rewritten("metadata=1111", "core 0.0.0");
        assert_eq!(here, rewritten("metadata=2222", "core 0.0.0"));
        assert_ne!(here, rewritten("metadata=1111", "core 0.0.1"));
        assert_eq!(here[5], "extra-filename=-1");
    }

    #[test]
    fn number_is_the_second_word() {
        assert_eq!(number("rustc 1.95.0 (59807616e 2026-04-14)"), "1.95.0");
    }
}
