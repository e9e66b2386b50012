//! Trials of the packaged service under a real systemd. Started in a virtual machine by `cargo xtask service`, which puts the
//! packages there; each trial stands on those before it, from the installation to the purge.

mod act;
mod dropins;
mod gone;
mod guest;
mod installed;
mod net;
mod survive;
mod upgrade;
mod web;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, ColorSetting};

fn main() -> ExitCode {
    if !Path::new(guest::PACKAGES).is_dir() {
        eprintln!("this installs packages: `cargo xtask service` starts it, in a virtual machine");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
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
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    guest::tell_notes();
    conclusion.exit_code()
}
