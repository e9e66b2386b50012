//! `cargo xtask bench`: builds the measurements and the agent as released, and runs the measurements as root.
use std::{
    ffi::OsString,
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{command, run};

/// Where `--write` writes to, from the root of the tree.
const DOCUMENT: &str = "docs/performance.md";

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    /// classify, subflow, tcp, path, read, render, scrape, memory, scale, burst; everything if nothing is named
    names: Vec<String>,
    /// Rounds, of which the median is taken
    #[arg(long)]
    rounds: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Shorter runs: to see that it works, not to judge by
    #[arg(long)]
    quick: bool,
    /// Write docs/performance.md
    #[arg(long)]
    write: bool,
}

/// `cargo xtask bench [name...] [--rounds N] [--json] [--quick] [--write]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    eprintln!("xtask: building the agent and the measurements as released (the first build takes minutes)");
    let agent = run::build_agent(root, &["--package", "mpsec-agent", "--release"])?;
    let mut cargo = command::cargo(root);
    cargo.args(["build", "--release", "--package", "mpsec-bench", "--message-format=json-render-diagnostics"]);
    let messages = command::stdout(cargo.stdout(Stdio::piped()))?;
    let bench = run::executable(&messages, "mpsec-bench").context("cargo built no program named mpsec-bench")?;
    let mut bench = run::as_root(&bench)?;
    bench.args(words(root, args)).arg("--agent").arg(agent);
    let status = bench.status().with_context(|| format!("cannot start: {}", command::line(&bench)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(root: &Path, args: &Args) -> Vec<OsString> {
    let mut words: Vec<OsString> = args.names.iter().map(OsString::from).collect();
    if let Some(rounds) = args.rounds {
        words.push(format!("--rounds={rounds}").into());
    }
    let switches = [(args.json, "--json"), (args.quick, "--quick"), (args.write, "--write")];
    words.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.into()));
    if args.write {
        words.push(root.join(DOCUMENT).into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_its_place() {
        let args = Args { names: vec!["read".into()], rounds: Some(11), json: false, quick: false, write: true };
        let words = words(Path::new("tree"), &args);
        assert_eq!(words, ["read", "--rounds=11", "--write", "tree/docs/performance.md"]);
    }
}
