//! `cargo xtask run`: builds the agent and becomes it, so that Ctrl-C reaches the agent and nothing else.
use std::{
    env,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{command, tree};

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Build without the optimisations of a release: sooner there after a change, slower then
    #[arg(long)]
    dev: bool,
    /// Arguments of `mpsec run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    agent: Vec<String>,
}

/// `cargo xtask run [--dev] [-- args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let profile = if args.dev { "dev" } else { "release" };
    if !args.dev {
        eprintln!("xtask: building the agent as released (the first build takes minutes; --dev is quicker)");
    }
    let agent = build_agent(root, &["--package", "mpsec-agent", "--profile", profile])?;
    let mut command = as_root(&agent)?;
    command.arg("run").args(&args.agent);
    eprintln!("xtask: {}", command::line(&command));
    Err(command.exec()).with_context(|| format!("cannot start: {}", command::line(&command)))
}

/// Builds the program `mpsec` and asks cargo where it lies.
pub fn build_agent(root: &Path, args: &[&str]) -> Result<PathBuf> {
    let mut cargo = command::cargo(root);
    cargo
        .args(["build", "--bin", "mpsec", "--message-format=json-render-diagnostics"])
        .args(args)
        .stdout(Stdio::piped());
    executable(&command::stdout(&mut cargo)?, "mpsec").context("cargo built no program named mpsec")
}

/// From cargo's messages: the program of this name, of the last artefact that is one.
#[must_use]
pub fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
}

/// A command that runs `program` with root's rights.
pub fn as_root(program: &Path) -> Result<Command> {
    if tree::is_root()? {
        return Ok(Command::new(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let Some(sudo) = env::split_paths(&path).map(|dir| dir.join("sudo")).find(|sudo| sudo.is_file()) else {
        bail!(
            "the agent loads eBPF programs and needs root, and sudo is not on this machine: start as root\n  {} run",
            program.display()
        );
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_artefact_with_an_executable() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"mpsec_agent"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"mpsec"},"executable":"/t/debug/mpsec"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "mpsec"), Some(PathBuf::from("/t/debug/mpsec")));
        assert_eq!(executable("not json", "mpsec"), None);
    }
}
