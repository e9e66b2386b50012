//! `cargo xtask dashboards`: METRICS.md, dashboards, rules and scrape configuration, made from the agent's metric tables.
use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};

use crate::command;

/// Whether to write or to compare.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail and name the files that are not what the tables give
    #[arg(long)]
    check: bool,
}

/// `cargo xtask dashboards [--check]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let mut cargo = generator(root);
    if args.check {
        cargo.arg("--check");
    }
    // What it has to complain about, it says itself.
    let status = cargo.status().with_context(|| format!("cannot start: {}", command::line(&cargo)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The generator links the agent's library, which xtask, built for every other command too, does not.
fn generator(root: &Path) -> Command {
    let mut cargo = command::cargo(root);
    cargo.args(["run", "--quiet", "--package", "mpsec-agent", "--example", "dashboards", "--"]);
    cargo
}
