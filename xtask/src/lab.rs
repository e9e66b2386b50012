//! `cargo xtask lab`: builds the agent as released and becomes its laboratory, so that Ctrl-C reaches it.
use std::{os::unix::process::CommandExt as _, path::Path, process::ExitCode};

use anyhow::{Context, Result};

use crate::{command, run};

/// What to show.
#[derive(clap::Args)]
pub struct Args {
    /// Build without the optimisations of a release: sooner there after a change, and enough for slow paths
    #[arg(long)]
    dev: bool,
    /// Arguments of `mpsec lab`; `list` if there are none
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    lab: Vec<String>,
}

/// `cargo xtask lab [--dev] [args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let profile = if args.dev { "dev" } else { "release" };
    if !args.dev {
        eprintln!("xtask: building the agent as released (the first build takes minutes; --dev is quicker)");
    }
    let agent = run::build_agent(root, &["--package", "mpsec-agent", "--profile", profile])?;
    let mut command = run::as_root(&agent)?;
    command.arg("lab").args(&args.lab);
    if args.lab.is_empty() {
        command.arg("list");
    }
    eprintln!("xtask: {}", command::line(&command));
    Err(command.exec()).with_context(|| format!("cannot start: {}", command::line(&command)))
}
