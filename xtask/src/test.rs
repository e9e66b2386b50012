//! `cargo xtask test`: every test that this machine can run, summed up so that nothing gets lost in the scroll.
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};

use crate::{command, run, summary::Summary};

/// Which tests to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose names contain one of these (a test that two of them name runs twice)
    filters: Vec<String>,
    /// Stop at the first test program that fails
    #[arg(long)]
    fail_fast: bool,
    /// Arguments of the test programs, such as --nocapture or --bless
    #[arg(last = true)]
    harness: Vec<String>,
}

/// `cargo xtask test [filter...] [-- harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let agent = run::build_agent(root, &["--workspace", "--all-features"])?;
    let mut total = Summary::default();
    // One filter a run: not every harness takes several.
    let filters: Vec<_> = match args.filters.as_slice() {
        [] => vec![None],
        filters => filters.iter().map(Some).collect(),
    };
    for filter in filters {
        let harness = filter.into_iter().chain(&args.harness);
        total.add(cargo_test(root, &agent, args.fail_fast, harness)?);
    }
    print!("\nAll tests, summed up:\n{total}");
    std::io::stdout().flush()?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo_test<'a>(
    root: &Path,
    agent: &Path,
    fail_fast: bool,
    harness: impl Iterator<Item = &'a String>,
) -> Result<Summary> {
    let mut cargo = command::cargo(root);
    cargo.args(["test", "--workspace", "--all-features"]);
    if !fail_fast {
        cargo.arg("--no-fail-fast");
    }
    cargo
        .arg("--")
        .args(harness)
        .env("MPSEC_BIN", agent)
        // The lines are read as well as shown.
        .env("CARGO_TERM_COLOR", "never")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = cargo.spawn().context("cannot start cargo test")?;
    let summary = Arc::new(Mutex::new(Summary::default()));
    let readers = [
        child.stdout.take().map(|from| pass_on(from, std::io::stdout(), &summary)),
        child.stderr.take().map(|from| pass_on(from, std::io::stderr(), &summary)),
    ];
    for reader in readers.into_iter().flatten() {
        reader.join().expect("a reader only reads and writes")?;
    }
    let success = child.wait()?.success();
    let summary = std::mem::take(&mut *summary.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(summary.close(success))
}

/// Shows every line at once and notes what it says.
fn pass_on(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    summary: &Arc<Mutex<Summary>>,
) -> thread::JoinHandle<Result<()>> {
    let summary = Arc::clone(summary);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 {
            to.write_all(&line)?;
            to.flush()?;
            let text = String::from_utf8_lossy(&line);
            summary.lock().unwrap_or_else(PoisonError::into_inner).read(&text);
            line.clear();
        }
        Ok(())
    })
}
