//! `cargo xtask check`: the gate. Runs every step, whatever failed before, and prints one line each.
use std::{
    io::Write,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::Result;

use crate::{command, ebpf, rust_src, rustc, tidy, tools::CARGO_DENY, tree};

/// Which steps to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only steps whose names contain one of these
    steps: Vec<String>,
}

/// How a step ended, with what there is to say about it.
enum Outcome {
    Ok,
    Skipped(String),
    Failed(String),
}

type Step = fn(&Path) -> Result<Outcome>;

const STEPS: &[(&str, Step)] = &[
    ("tidy", tidy),
    ("fmt", |root| cargo(root, &["fmt", "--all", "--check"], &[])),
    ("fmt ebpf", |root| cargo(&root.join("mpsec-ebpf"), &["fmt", "--check"], &[])),
    ("clippy", |root| cargo(root, CLIPPY, &[])),
    ("clippy ebpf", clippy_ebpf),
    ("doc", |root| cargo(root, DOC, &[("RUSTDOCFLAGS", "-D warnings")])),
    ("deny", |root| deny(root, "Cargo.toml", LASTING)),
    ("deny ebpf", |root| deny(root, "mpsec-ebpf/Cargo.toml", LASTING)),
    ("advisories", |root| deny(root, "Cargo.toml", &["advisories"])),
];

const CLIPPY: &[&str] = &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
const DOC: &[&str] = &["doc", "--workspace", "--no-deps", "--all-features"];
/// What depends on the sources alone; advisories change by the day.
const LASTING: &[&str] = &["licenses", "bans", "sources"];

/// `cargo xtask check [step...]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let asked = |name: &str| args.steps.is_empty() || args.steps.iter().any(|step| name.contains(step));
    let (mut ok, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for (name, step) in STEPS.iter().filter(|(name, _)| asked(name)) {
        print!("{name:<12} ");
        std::io::stdout().flush()?;
        let start = Instant::now();
        let outcome = step(root).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Outcome::Ok => {
                println!("ok       {seconds:6.1} s");
                ok += 1;
            }
            Outcome::Skipped(reason) => {
                println!("skipped  {seconds:6.1} s  {reason}");
                skipped.push(*name);
            }
            Outcome::Failed(output) => {
                println!("FAILED   {seconds:6.1} s\n{}\n", output.trim_end());
                failed.push(*name);
            }
        }
    }
    println!("check: {ok} ok, {}, {}", counted(&failed, "failed"), counted(&skipped, "skipped"));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn counted(names: &[&str], what: &str) -> String {
    match names {
        [] => format!("0 {what}"),
        names => format!("{} {what} ({})", names.len(), names.join(", ")),
    }
}

fn tidy(root: &Path) -> Result<Outcome> {
    let untidy = tidy::untidy(root)?;
    Ok(if untidy.is_empty() { Outcome::Ok } else { Outcome::Failed(untidy.join("\n")) })
}

fn cargo(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Result<Outcome> {
    let mut cargo = command::cargo(dir);
    cargo.args(args).envs(variables.iter().copied());
    judge(&mut cargo)
}

fn judge(command: &mut Command) -> Result<Outcome> {
    let (success, output) = command::quietly(command.stdin(Stdio::null()))?;
    Ok(if success { Outcome::Ok } else { Outcome::Failed(output) })
}

/// Needs no linker, but the source of `core`: a machine that cannot get that one skips the step.
fn clippy_ebpf(root: &Path) -> Result<Outcome> {
    let rust_src = match rust_src::find_or_fetch(root, &rustc::version(root)?) {
        Ok(rust_src) => rust_src,
        Err(reason) => return Ok(Outcome::Skipped(one_line(&format!("{reason:#}")))),
    };
    let mut cargo = ebpf::cargo(root, "clippy", "x86_64", &rust_src)?;
    let target = tree::target(root).join("ebpf/clippy");
    cargo.arg("--target-dir").arg(target).args(["--", "-D", "warnings"]);
    judge(&mut cargo)
}

fn deny(root: &Path, manifest: &str, checks: &[&str]) -> Result<Outcome> {
    let program = match CARGO_DENY.find_or_install(root) {
        Ok(program) => program,
        Err(reason) => return Ok(Outcome::Skipped(one_line(&format!("{reason:#}")))),
    };
    let mut deny = Command::new(program);
    deny.current_dir(root)
        .args(["--color", "never", "--log-level", "warn"])
        .args(["--all-features", "--locked", "--config", "deny.toml"])
        .args(["--manifest-path", manifest, "check"])
        .args(checks);
    Ok(match judge(&mut deny)? {
        Outcome::Failed(output) if is_unreachable(&output) => {
            Outcome::Skipped("the advisory database cannot be fetched from here".to_owned())
        }
        outcome => outcome,
    })
}

/// cargo-deny's word for an advisory database that it could not fetch.
fn is_unreachable(output: &str) -> bool {
    output.contains("failed to fetch advisory database")
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
