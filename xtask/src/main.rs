//! `cargo xtask`: MPSec's build, test and measurement commands. Parses and dispatches, nothing else.
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, check, dashboards, dist, ebpf, fleet, lab, run, rustc, service, test, vm};

/// MPSec's build, test and measurement commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the agent and run it on this machine (as root; through sudo where it is there)
    Run(run::Args),
    /// Show on this machine what several paths do: build the agent and run its laboratory (as root, the same way)
    Lab(lab::Args),
    /// Run every test that this machine can run, and sum up
    Test(test::Args),
    /// Run the tests that need a kernel on others than this one, in virtual machines, and sum up
    Vm(vm::Args),
    /// Run the gate: format, lints, documentation, dependencies, tidiness
    Check(check::Args),
    /// Build the kernel side into mpsec-ebpf/prebuilt, or prove that what lies there is what the sources give
    Ebpf(ebpf::Args),
    /// Make METRICS.md and what lies in grafana/ from the metric tables, or say what is stale
    Dashboards(dashboards::Args),
    /// Measure what MPSec costs, beside anchors of the same run (as root; through sudo where it is there)
    Bench(bench::Args),
    /// Make what is handed out: Debian package, program, container context, manifests, checksums
    Dist(dist::Args),
    /// Try the packaged service under a real systemd, in virtual machines with Debian
    Service(service::Args),
    /// Try the plays in fleet/ on four hosts with systemd, in namespaces of this machine (as root)
    Fleet(fleet::Args),
}

fn main() -> ExitCode {
    dispatch().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch() -> Result<ExitCode> {
    if let Some(code) = rustc::act_as_wrapper()? {
        return Ok(code);
    }
    let root = xtask::tree::root()?;
    match Cli::parse().command {
        Command::Run(args) => run::main(&root, &args),
        Command::Lab(args) => lab::main(&root, &args),
        Command::Test(args) => test::main(&root, &args),
        Command::Vm(args) => vm::main(&root, &args),
        Command::Check(args) => check::main(&root, &args),
        Command::Ebpf(args) => ebpf::main(&root, &args),
        Command::Dashboards(args) => dashboards::main(&root, &args),
        Command::Bench(args) => bench::main(&root, &args),
        Command::Dist(args) => dist::main(&root, &args),
        Command::Service(args) => service::main(&root, &args),
        Command::Fleet(args) => fleet::main(&root, &args),
    }
}
