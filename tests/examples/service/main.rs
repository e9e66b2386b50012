//! Trials of the packaged service under a real systemd. Started in a virtual machine by `cargo xtask service`, which puts the
//! packages there; each trial stands on those before it, from the installation to the purge;
//! those of the container have the host to themselves then.

mod act;
mod container;
mod dropins;
mod gone;
mod guest;
mod installed;
mod net;
mod survive;
mod upgrade;
mod web;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, ColorSetting};

fn main() -> ExitCode {
    if !Path::new(guest::PACKAGES).is_dir() {
        eprintln!("this installs packages: `cargo xtask service` starts it, in a virtual machine");
        return ExitCode::FAILURE;
    }
    let words = fs::read_to_string(guest::ARGUMENTS).unwrap_or_default();
    let mut arguments = Arguments::from_iter(std::iter::once("service").chain(words.lines()));
    arguments.test_threads = Some(1);
    arguments.color = Some(ColorSetting::Never);
    let trials = [
        installed::trials(),
        web::trials(),
        act::trials(),
        dropins::trials(),
        survive::trials(),
        upgrade::trials(),
        gone::trials(),
        container::trials(),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    guest::tell_notes();
    conclusion.exit_code()
}
