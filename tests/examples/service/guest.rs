//! The machine, as its administrator sees it.

use std::fs;
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::exposition::Exposition;
use mpsec_tests::trial::Skip;
use mpsec_tests::{trial, wait};

/// Where xtask has put the packages.
pub const PACKAGES: &str = "/mpsec/packages";
/// What xtask was told for the test program, a word a line.
pub const ARGUMENTS: &str = "/mpsec/arguments";
/// Where xtask has said after how many seconds no trial is begun any more, if there is such a limit.
const BUDGET: &str = "/mpsec/budget";
/// What anything may take that is not watched: the machine is emulated.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What is worth knowing beside the outcome of trials, told when they are over: lines of their own between trials would tear
/// the trials' lines.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// When no trial is begun any more, if there is such a limit: told to whoever asks first, and the same for all.
static DEADLINE: LazyLock<Option<Instant>> = LazyLock::new(|| {
    let seconds = fs::read_to_string(BUDGET).ok()?.trim().parse().ok()?;
    Some(Instant::now() + Duration::from_secs(seconds))
});

/// Notes something down.
pub fn note(what: String) {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

/// Tells it all.
pub fn tell_notes() {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|note| println!("{note}"));
}

/// A trial that notes how long it took, and on failure what the service said last. That is told at once as well, in a line after
/// the outcome: the machine may be switched off before all trials are over and their failures printed.
pub fn tell(name: &str, body: impl Fn() -> Result<()> + Send + Sync + 'static) -> Trial {
    let full = format!("service::{name}");
    let shown = full.clone();
    trial::trial(&full, 3 * PATIENCE, move || {
        let start = Instant::now();
        if DEADLINE.is_some_and(|deadline| start > deadline) {
            return Err(Skip::because("the minutes are over"));
        }
        let result = body();
        note(format!("{shown}: {:.1} s", start.elapsed().as_secs_f64()));
        let journal = || sh("journalctl --no-pager --unit mpsec --lines 20 2>&1").unwrap_or_default();
        result.map_err(|error| {
            if error.downcast_ref::<Skip>().is_none() {
                println!("FAILED\nsaid: {shown}: {}", format!("{error:#}").lines().collect::<Vec<_>>().join(" | "));
            }
            error.context(format!("the journal ends with\n{}", journal()))
        })
    })
}

/// Runs a line of shell and gives what it printed. Failure is an error with all that was said.
pub fn sh(line: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", line]).output().context("sh")?;
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "`{line}` ({}): {out}{err}", output.status);
    Ok(out)
}

/// What is expected to fail: everything that it said.
pub fn fails(line: &str) -> Result<String> {
    let output = Command::new("sh").args(["-euc", line]).output().context("sh")?;
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(!output.status.success(), "`{line}` did not fail: {out}");
    Ok(out + &err)
}

/// A property of the unit.
pub fn show(property: &str) -> Result<String> {
    Ok(sh(&format!("systemctl show mpsec --value --property {property}"))?.trim().to_owned())
}

/// The agent's process, when systemd says that the unit is active.
pub fn pid() -> Result<u32> {
    ensure!(show("ActiveState")? == "active", "the unit is {}", show("ActiveState")?);
    let pid: u32 = show("MainPID")?.parse()?;
    ensure!(pid > 0, "no process");
    Ok(pid)
}

/// Waits until it answers, and another process than `old` does.
pub fn answers_anew(old: Option<u32>) -> Result<u32> {
    wait::until(PATIENCE, || {
        let pid = pid()?;
        ensure!(Some(pid) != old, "still the old process");
        scrape()?;
        Ok(pid)
    })
}

/// The metrics.
pub fn scrape() -> Result<Exposition> {
    Exposition::parse(&sh("curl --silent --show-error --fail http://127.0.0.1:9475/metrics")?)
}

/// A value of the metrics.
pub fn metric(name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(scrape()?.get(name, labels).with_context(|| format!("no {name}"))?.float())
}
