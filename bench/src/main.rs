//! `cargo xtask bench`: what MPSec costs, each figure beside an anchor of the same run.
//!
//! One module a measurement; below them what they share. Every measurement makes its own network namespaces and ends
//! only the programs that it started.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

// Measurements.
mod act;
mod burst;
mod classify;
mod memory;
mod path;
mod read;
mod render;
mod scale;
mod scrape;
mod subflow;
mod tcp;

// What they share.
mod frames;
mod measure;
mod net;
mod peers;
mod program;
mod report;
mod series;
mod write;

use report::Section;

/// Measures MPSec beside anchors and peers.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub struct Options {
    /// What to measure; everything if nothing is named
    names: Vec<String>,
    /// Rounds, of which the median is taken
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Shorter runs: to see that it works, not to judge by
    #[arg(long)]
    quick: bool,
    /// Write what was found to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The released agent, whose memory is measured
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Serve synthetic metrics, and nothing else: what the measurements of scrapes start
    #[arg(long, hide = true)]
    serve: Option<scrape::Server>,
}

type Bench = fn(&Options) -> Result<Vec<Section>>;

const BENCHES: &[(&str, Bench)] = &[
    ("classify", classify::run),
    ("subflow", subflow::run),
    ("tcp", tcp::run),
    ("path", path::run),
    ("read", read::run),
    ("render", render::run),
    ("scrape", scrape::run),
    ("memory", memory::run),
    ("scale", scale::run),
    ("burst", burst::run),
    ("act", act::run),
];

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(server) = options.serve {
        return scrape::serve(server).map(|()| ExitCode::SUCCESS);
    }
    for name in &options.names {
        if !BENCHES.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
            bail!("no measurement is called {name}; there are {}", known.join(", "));
        }
    }
    let asked = |name: &str| options.names.is_empty() || options.names.iter().any(|asked| asked == name);
    let mut sections = Vec::new();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| asked(name)) {
        eprintln!("bench: measuring {name}");
        let new = in_its_own_thread(options, *bench).with_context(|| *name)?;
        if !options.json {
            new.iter().for_each(|section| print!("{}", section.to_text()));
        }
        sections.extend(new);
    }
    if let Some(path) = &options.write {
        write::write(path, &sections, options)?;
    }
    if options.json {
        let sections: Vec<_> = sections.iter().map(Section::to_json).collect();
        println!("{:#}", serde_json::Value::from(sections));
    }
    Ok(ExitCode::SUCCESS)
}

/// A thread that ends takes along its CPU affinity and its network namespaces.
fn in_its_own_thread(options: &Options, bench: Bench) -> Result<Vec<Section>> {
    std::thread::scope(|scope| scope.spawn(|| bench(options)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
