//! The first program in the virtual machines that MPSec is tested in; under the name `modprobe`, what the kernel calls to
//! have a module loaded.
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use vm_init::{
    host,
    modules::{self, Modules},
    plan::{self, Plan},
    run, system,
    word::Word,
};

/// Where the programs and the guest itself speak. The console, `ttyS0`, is the kernel's.
const PORT: &str = "/dev/ttyS1";

fn main() -> ExitCode {
    let called = env::args().next().unwrap_or_default();
    if Path::new(&called).file_name().is_some_and(|name| name == "modprobe") {
        return modprobe();
    }
    if std::process::id() != 1 {
        eprintln!("vm-init: this is the first program of a virtual machine: `cargo xtask vm` starts it");
        return ExitCode::FAILURE;
    }
    host::mount_all();
    if let Err(error) = work() {
        say(&Word::Broken(format!("{error:#}")));
    }
    say(&Word::Off);
    host::power_off()
}

fn work() -> Result<()> {
    let text = fs::read_to_string(plan::PATH).with_context(|| format!("reading {}", plan::PATH))?;
    let plan = Plan::parse(&text)?;
    if !plan.shell {
        host::speak_on(Path::new(PORT))?;
    }
    let release = host::release()?;
    say(&Word::Boot(release.clone()));
    let folder = modules_folder(&release);
    let known = Modules::read(&folder)?;
    for name in &plan.modules {
        // What this kernel does not have is missed by the test that needs it, which says so.
        if let Err(error) = modules::load(&folder, &known, name) {
            eprintln!("vm-init: {error:#}");
        }
    }
    host::loopback_up()?;
    host::raise_descriptor_limit()?;
    if plan.shell {
        return run::shell(&plan.environment);
    }
    if let Some(disk) = &plan.system {
        let never = system::become_it(Path::new(disk))?;
        match never {}
    }
    for program in &plan.programs {
        say(&Word::Start(program.label.clone()));
        let (code, took) = run::run(program, &plan.environment)?;
        say(&Word::End { label: program.label.clone(), code, seconds: took.as_secs_f64() });
    }
    Ok(())
}

/// On a line of its own, whatever a program left unfinished.
fn say(word: &Word) {
    let mut out = std::io::stdout();
    // Where nothing can be written, nobody can be told.
    let _ = out.write_all(format!("\n{word}\n").as_bytes()).and_then(|()| out.flush());
}

fn modules_folder(release: &str) -> PathBuf {
    Path::new("/lib/modules").join(release)
}

/// `modprobe [-q] [--] NAME`, as the kernel calls it (`kernel/module/kmod.c`), and `modprobe NAME...` by hand.
fn modprobe() -> ExitCode {
    let load_all = || {
        let folder = modules_folder(&host::release()?);
        let known = Modules::read(&folder)?;
        env::args()
            .skip(1)
            .filter(|word| !word.starts_with('-'))
            .try_for_each(|name| modules::load(&folder, &known, &name))
    };
    match load_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !env::args().any(|word| word == "-q") {
                eprintln!("modprobe: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
