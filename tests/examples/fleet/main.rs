//! Trials of the plays in fleet/: a controller and four hosts, each with its own systemd. Started by `cargo xtask fleet`,
//! which makes packages and a system; each trial stands on those before it, from the installation to the removal.

mod host;
mod secrets;
mod tower;
mod trials;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, ColorSetting};

/// What is told when the trials are over: lines of their own between trials would tear the trials' lines.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    arguments.color = Some(ColorSetting::Never);
    let conclusion = libtest_mimic::run(&arguments, trials::all());
    trials::close();
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|note| println!("{note}"));
    conclusion.exit_code()
}

/// Notes something down.
fn note(what: String) {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}
