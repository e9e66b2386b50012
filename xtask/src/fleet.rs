//! `cargo xtask fleet`: the plays in fleet/, run by Ansible against four hosts with systemd, in namespaces of this machine.
//!
//! What is tried is in `tests/examples/fleet`; here is what it needs: a system for the hosts, and two packages.
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{
    command, dist, run, rust_src,
    summary::Summary,
    tree,
    vm::{debian, guest},
};

/// Which build, and which trials.
#[derive(clap::Args)]
pub struct Args {
    /// Try the package as it is handed out, with the program as released, which takes minutes to build
    #[arg(long)]
    release: bool,
    /// Build and fetch what is needed, and try nothing
    #[arg(long)]
    prepare: bool,
    /// A filter for the trials' names, and arguments of the test program
    #[arg(last = true)]
    harness: Vec<String>,
}

/// The release that the hosts have.
const RELEASE: &str = "bookworm";
/// What a host has before the play comes: a system, a way in, and what Ansible's modules are written in.
const PACKAGES: &[&str] =
    &["dbus", "init-system-helpers", "iproute2", "openssh-server", "python3-apt", "systemd", "systemd-sysv"];
/// What nobody reads there.
const UNWANTED: &[&str] = &["usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt"];

/// `cargo xtask fleet [--release] [-- filter and harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let mut summary = Summary::default();
    match find_or_make_system(&tree::target(root).join("fleet")) {
        Ok(system) => summary.add(try_plays(root, &system, args)?),
        Err(reason) => {
            println!("fleet::all is skipped: {reason:#}");
            summary.skip("fleet::all", &format!("{reason:#}"));
        }
    }
    print!("\nAll tests of the plays for fleets, summed up:\n{summary}");
    std::io::stdout().flush()?;
    Ok(if summary.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn try_plays(root: &Path, system: &Path, args: &Args) -> Result<Summary> {
    let (agent, trials) = build(root)?;
    let agent = if args.release { dist::program::build(root, false)? } else { agent };
    let packages = make_packages(root, &agent)?;
    if args.prepare {
        return Ok(Summary::default());
    }
    let mut child = Command::new(&trials)
        .args(&args.harness)
        .env("MPSEC_FLEET_SYSTEM", system)
        .env("MPSEC_FLEET_PACKAGES", packages)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", trials.display()))?;
    let mut summary = Summary::default();
    for line in BufReader::new(child.stdout.take().context("a pipe")?).lines() {
        let line = line?;
        println!("{line}");
        summary.read(&line);
    }
    let status = child.wait()?;
    if summary.results.is_empty() {
        summary.fail(&format!("the trials of the fleet ended without a result ({status})"));
    }
    Ok(summary.close(status.success()))
}

/// The agent, linked statically, and the trials: what virtual machines get, so that it is built once for all.
fn build(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let folder = tree::target(root).join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut cargo = guest::cargo_build(root, &folder);
    cargo.args(["-p", "vm-init", "-p", "mpsec-agent", "-p", "mpsec-tests", "--bins", "--example", "fleet"]);
    let messages = command::stdout(&mut cargo)?;
    let find = |name: &str| run::executable(&messages, name).with_context(|| format!("cargo built no {name}"));
    Ok((find("mpsec")?, find("fleet")?))
}

/// The package, the same as a later revision, and their checksums, in a folder of their own.
fn make_packages(root: &Path, agent: &Path) -> Result<PathBuf> {
    let folder = tree::target(root).join("fleet/packages");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut sums = String::new();
    for revision in [1, 2] {
        let package = dist::package::make(root, agent, &folder, revision)?;
        let name = package.file_name().context("a package with a name")?.to_string_lossy().into_owned();
        let digest = Sha256::digest(fs::read(&package)?);
        digest.iter().try_for_each(|byte| write!(sums, "{byte:02x}"))?;
        writeln!(sums, "  {name}")?;
    }
    fs::write(folder.join("SHA256SUMS"), sums).context("writing the checksums")?;
    Ok(folder)
}

/// A folder with an installed system, made where it is not here already.
fn find_or_make_system(folder: &Path) -> Result<PathBuf> {
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("ansible-playbook", "ansible-core")] {
        ensure!(debian::is_here(program), "{program} (package {package}) is not on this machine");
    }
    ensure!(tree::is_root()?, "hosts in namespaces need root");
    let (system, noted) = (folder.join("system"), folder.join("made-from"));
    let made_from = format!("{RELEASE}\n{PACKAGES:?}\n{UNWANTED:?}\n");
    if system.is_dir() && fs::read_to_string(&noted).is_ok_and(|text| text == made_from) {
        return Ok(system);
    }
    eprintln!("xtask: installing Debian {RELEASE} into a folder");
    if system.exists() {
        fs::remove_dir_all(&system).with_context(|| format!("removing {}", system.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let archive = rust_src::archive().context("no Debian archive among this machine's sources")?;
    let source = format!("deb {}{} {RELEASE} main", archive.options, archive.uri);
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=minbase"]).arg(format!("--include={}", PACKAGES.join(",")));
    mmdebstrap.args(UNWANTED.iter().map(|name| format!("--dpkgopt=path-exclude=/{name}/*")));
    mmdebstrap.arg(RELEASE).arg(&system).arg(source).stdin(Stdio::null());
    let (done, said) = command::quietly(&mut mmdebstrap)?;
    let last: Vec<&str> = said.trim().lines().rev().take(3).collect();
    ensure!(done, "mmdebstrap installed no system: {}", last.into_iter().rev().collect::<Vec<_>>().join(" "));
    fs::write(noted, made_from).context("noting what the system was made from")?;
    Ok(system)
}
