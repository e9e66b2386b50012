//! `cargo xtask vm`: the tests on other kernels than this machine's, in virtual machines.
//!
//! `debian` fetches, `kernel` and `userland` make archives of what was fetched, `guest` builds what runs, `qemu` boots it.
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vm_init::plan::{Plan, Program};

use crate::{command, summary::Summary, tree};

pub mod debian;
pub mod guest;
pub mod kernel;
pub mod listener;
pub mod newc;
pub mod qemu;
pub mod report;
pub mod trials;
pub mod userland;

use guest::Programs;
use kernel::{Kernel, Kernels, SERIES};
use listener::{DOCTOR, Listener};
use qemu::Machine;
use report::OfKernel;

/// Which kernels to boot, and what to run on them.
#[derive(clap::Args)]
pub struct Args {
    /// Series of Debian's kernels, such as 6.12; `newest`, or `all`
    #[arg(long, default_value = "newest", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only these test programs, such as `system` or `pm`
    #[arg(long, value_delimiter = ',')]
    program: Vec<String>,
    /// Of the program `system`, only what asks most of a kernel
    #[arg(long)]
    brief: bool,
    /// A shell in the virtual machine instead of the tests (Ctrl-A X ends it)
    #[arg(long)]
    shell: bool,
    /// Minutes for one kernel, after which the machine is switched off and what is missing has failed
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Minutes for all kernels: one that they do not suffice for is left out, and the log says so
    #[arg(long)]
    budget: Option<u64>,
    /// Kernels at a time, each of which takes one processor; with more than one, each is shown when it has ended
    #[arg(long, default_value_t = 1, conflicts_with = "shell")]
    jobs: usize,
    /// Write what was seen into docs/kernels.json and docs/kernels.md
    #[arg(long, conflicts_with = "shell")]
    report: bool,
    /// Build and fetch what is needed, and run nothing
    #[arg(long, conflicts_with_all = ["shell", "report"])]
    prepare: bool,
    /// Filters for the tests' names, of which each is a run of its own, and arguments of the test programs
    #[arg(last = true)]
    harness: Vec<String>,
}

/// MiB of the guest: its whole file system lies there, and the lab's buffers.
const MEMORY_MIB: u32 = 3072;
/// A kernel that has less time left is not begun: it could not even boot and say something.
const LEAST: Duration = Duration::from_secs(120);
/// Modules that no kernel asks for by itself: the first opens /dev/net/tun.
const MODULES: &[&str] = &["tun", "veth"];

/// `cargo xtask vm [--kernel ...] [--shell] [-- filter and harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let folder = tree::target(root).join("vm");
    let mut total = Summary::default();
    let mut seen = Vec::new();
    let series = series(&args.kernel)?;
    let deadline = args.budget.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    match Bench::new(root, &folder) {
        Ok(bench) => {
            for (series, (summary, of_kernel)) in bench.test_all(&series, args, deadline)? {
                total.add(summary);
                seen.extend(of_kernel.map(|of_kernel| (series.to_owned(), of_kernel)));
            }
        }
        Err(reason) => total.add(skipped("every virtual machine", &format!("{reason:#}"))),
    }
    if args.report {
        report::write(root, seen)?;
    }
    print!("\nAll tests in virtual machines, summed up:\n{total}");
    std::io::stdout().flush()?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The series that these words name.
fn series(words: &[String]) -> Result<Vec<&str>> {
    let newest = *SERIES.last().context("a table that is not empty")?;
    let mut all = Vec::new();
    for word in words {
        match word.as_str() {
            "all" => all.extend(SERIES.iter().copied()),
            "newest" => all.push(newest),
            name => all.push(name),
        }
    }
    Ok(all)
}

fn skipped(what: &str, reason: &str) -> Summary {
    let mut summary = Summary::default();
    println!("{what} is skipped: {reason}");
    summary.skip(what, reason);
    summary
}

/// What a kernel's tests said, and what there is to report of it if it could be booted.
type Seen = (Summary, Option<OfKernel>);

/// What is needed whatever the kernel is.
struct Bench<'a> {
    root: &'a Path,
    folder: &'a Path,
    kernels: Kernels,
    userland: PathBuf,
    programs: Programs,
}

impl<'a> Bench<'a> {
    fn new(root: &'a Path, folder: &'a Path) -> Result<Self> {
        ensure!(qemu::program().is_some(), "qemu-system-x86_64 (package qemu-system-x86) is not on this machine");
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let kernels = Kernels::new(folder)?;
        let userland = userland::find_or_make(folder)?;
        Ok(Self { root, folder, kernels, userland, programs: guest::build(root, folder)? })
    }

    /// Runs the tests on the newest kernels of several series, as many of them at a time as was asked for.
    fn test_all<'s>(&self, series: &[&'s str], args: &Args, deadline: Option<Instant>) -> Result<Vec<(&'s str, Seen)>> {
        let waiting = Mutex::new(series.iter());
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut seen = Vec::new();
            while let Some(series) = next() {
                seen.push((*series, self.test(series, args, deadline)?));
            }
            Ok(seen)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..args.jobs.min(series.len()).max(1)).map(|_| scope.spawn(work)).collect();
            let seen: Result<Vec<_>> =
                workers.into_iter().map(|worker| worker.join().expect("a worker's errors are values")).collect();
            Ok(seen?.into_iter().flatten().collect())
        })
    }

    /// Runs the tests on the newest kernel of a series, and says what there is to report of it.
    fn test(&self, series: &str, args: &Args, deadline: Option<Instant>) -> Result<Seen> {
        let what = format!("Linux {series}");
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left < LEAST) {
            return Ok((skipped(&what, "left out: the minutes for all kernels are over"), None));
        }
        let kernel = match self.kernels.newest(series) {
            Ok(kernel) => kernel,
            Err(reason) => return Ok((skipped(&what, &format!("{reason:#}")), None)),
        };
        if args.prepare {
            return Ok((Summary::default(), None));
        }
        let limit = Duration::from_secs(args.minutes * 60);
        let machine = self.machine(&kernel, args, left.map_or(limit, |left| left.min(limit)))?;
        if args.shell {
            machine.at_terminal()?;
            return Ok((Summary::default(), None));
        }
        let start = Instant::now();
        let mut listener = Listener::new(&kernel.release, args.jobs < 2);
        listener.show(&format!("\nLinux {}:", kernel.release));
        let mut ended = machine.boot(&mut |line| listener.hear(line))?;
        if !listener.booted {
            // Emulation loses a boot now and then. A guest that spoke has no second chance: it may have shown a fault.
            listener.show(&format!("the machine said nothing ({ended:?}): once more"));
            ended = machine.boot(&mut |line| listener.hear(line))?;
        }
        let cut = left.is_some_and(|left| left < limit);
        let (summary, trials, features) = listener.close(ended, cut, &machine.console)?;
        println!("Linux {}: {:.0} s", kernel.release, start.elapsed().as_secs_f64());
        Ok((summary, Some(OfKernel { release: kernel.release, day: today()?, features, trials })))
    }

    fn machine(&self, kernel: &Kernel, args: &Args, timeout: Duration) -> Result<Machine> {
        let home = self.folder.join("run").join(&kernel.series);
        std::fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let initrd = home.join("initrd.cpio");
        let kept = [self.userland.as_path(), kernel.modules.as_path()];
        guest::write_initrd(&initrd, &kept, self.root, &self.programs, &self.plan(args)?)?;
        Ok(Machine {
            kernel: kernel.image.clone(),
            initrd: Some(initrd),
            disk: None,
            memory_mib: MEMORY_MIB,
            append: String::new(),
            timeout,
            console: home.join("console.log"),
            extra: Vec::new(),
        })
    }

    fn plan(&self, args: &Args) -> Result<Plan> {
        let environment = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/mpsec/bin"),
            ("HOME", "/root"),
            ("TERM", "linux"),
            ("LANG", "C.UTF-8"),
            ("MPSEC_BIN", &guest::place("mpsec")),
            ("MPSEC_EMULATED", "1"),
        ];
        let asked = |name: &str| args.program.is_empty() || args.program.iter().any(|program| program == name);
        let mut programs = Vec::new();
        for (name, _) in self.programs.tests.iter().filter(|(name, _)| asked(name)) {
            programs.extend(runs(name, args));
        }
        if programs.is_empty() {
            bail!("no test program of these: {}; there are {}", args.program.join(", "), guest::TESTS.join(", "));
        }
        if args.report {
            let words = ["mpsec", "doctor", "--json"].map(str::to_owned);
            programs.insert(0, Program { label: DOCTOR.to_owned(), limit_seconds: 120, words: words.to_vec() });
        }
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(Plan {
            modules: MODULES.iter().map(|&name| name.to_owned()).collect(),
            environment: environment.into_iter().map(own).collect(),
            programs,
            shell: args.shell,
            system: None,
        })
    }
}

/// A program's runs: one for each filter, as not every harness takes several.
fn runs(name: &str, args: &Args) -> Vec<Program> {
    let (options, mut filters): (Vec<_>, Vec<_>) = args.harness.iter().partition(|word| word.starts_with('-'));
    let brief: Vec<_> = guest::BRIEF.iter().map(|&filter| filter.to_owned()).collect();
    if args.brief && name == "system" && filters.is_empty() {
        filters.extend(&brief);
    }
    let filters: Vec<_> = if filters.is_empty() { vec![None] } else { filters.into_iter().map(Some).collect() };
    let run = |filter: Option<&String>| Program {
        label: name.to_owned(),
        limit_seconds: args.minutes * 60,
        // The lines are read as well as shown, and a serial port passes for a terminal.
        words: [guest::place(name), "--color=never".to_owned()]
            .into_iter()
            .chain(filter.cloned())
            .chain(options.iter().map(|&option| option.clone()))
            .collect(),
    };
    filters.into_iter().map(run).collect()
}

/// The day, in UTC.
fn today() -> Result<String> {
    Ok(command::stdout(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        Cli::parse_from(line.split(' ')).args
    }

    #[test]
    fn each_filter_is_a_run_of_its_own() {
        let words =
            |args: &Args| -> Vec<_> { runs("system", args).into_iter().map(|run| run.words[2..].join(" ")).collect() };
        assert_eq!(words(&args("vm -- a:: --nocapture b")), ["a:: --nocapture", "b --nocapture"]);
        assert_eq!(words(&args("vm")), [""]);
        assert_eq!(words(&args("vm --brief")), guest::BRIEF);
        assert_eq!(runs("pm", &args("vm --brief")).len(), 1);
    }

    #[test]
    fn kernels_are_named_by_their_series() {
        assert_eq!(series(&args("vm --kernel newest,6.1").kernel).unwrap(), [*SERIES.last().unwrap(), "6.1"]);
        assert_eq!(series(&args("vm --kernel all").kernel).unwrap(), SERIES);
    }
}
