//! `cargo xtask vm`: the tests on other kernels than this machine's, in virtual machines.
//!
//! `debian` fetches, `kernel` and `userland` make archives of what was fetched, `guest` builds what runs, `qemu` boots it.
use std::{
    fs,
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

pub mod console;
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
use qemu::{Ended, Machine};
use report::{OfKernel, Results};

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
    /// Minutes for one kernel, after which the machine is switched off and what is missing has failed [default: 30; with
    /// --report, 600]
    #[arg(long)]
    minutes: Option<u64>,
    /// Minutes for all kernels: what they do not suffice for is left out, and the log says so; what hung has failed
    #[arg(long)]
    budget: Option<u64>,
    /// Kernels at a time, each of which takes one processor; with more than one, each is shown when it has ended, and is in
    /// `said.log` beside its console's log meanwhile
    #[arg(long, default_value_t = 1, conflicts_with = "shell")]
    jobs: usize,
    /// Only what docs/kernels.json does not have yet of the same release, and what failed there: goes on where a run ended
    #[arg(long, conflicts_with_all = ["brief", "shell", "harness"])]
    rest: bool,
    /// Write what was seen into docs/kernels.json, docs/kernels.md and the readme's table
    #[arg(long, conflicts_with = "shell")]
    report: bool,
    /// Build and fetch what is needed, and run nothing
    #[arg(long, conflicts_with_all = ["shell", "report"])]
    prepare: bool,
    /// Filters for the tests' names, of which each is a run of its own, and arguments of the test programs
    #[arg(last = true)]
    harness: Vec<String>,
}

impl Args {
    /// How long one kernel may take. All tests take hours, and what is cut off would be written down as failed.
    fn limit(&self) -> Duration {
        Duration::from_secs(60 * self.minutes.unwrap_or(if self.report { 600 } else { 30 }))
    }

    /// Whether all that runs must have a test to run: its filters are this program's own.
    fn is_brief_alone(&self) -> bool {
        self.brief && self.harness.iter().all(|word| word.starts_with('-'))
    }
}

/// MiB of the guest: its whole file system lies there, and the lab's buffers.
const MEMORY_MIB: u32 = 3072;
/// A kernel that has less time left is not begun: it could not even boot and say something.
const LEAST: Duration = Duration::from_secs(120);
/// The console gets the kernel's warnings, too, which `quiet` keeps from it, and an oops is an end at once.
const TELLING: &str = "loglevel=5 oops=panic";
/// Modules that no kernel asks for by itself: the first opens /dev/net/tun.
const MODULES: &[&str] = &["tun", "veth"];

/// `cargo xtask vm [--kernel ...] [--shell] [-- filter and harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let folder = tree::target(root).join("vm");
    let mut total = Summary::default();
    let mut seen = Vec::new();
    let series = series(&args.kernel)?;
    let deadline = args.budget.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let needed = Needed::find_or_fetch(&folder);
    let test = |needed| {
        let bench = Bench { root, folder: &folder, needed, programs: guest::build(root, &folder)? };
        Ok(test_all(&series, args.jobs, |series| bench.test(series, args, deadline)))
    };
    for (series, (summary, of_kernel)) in test_with(needed, test)? {
        total.add(summary);
        seen.extend(of_kernel.map(|of_kernel| (series.to_owned(), of_kernel)));
    }
    if args.report {
        report::write(root, seen)?;
    }
    if total.passed + total.failed + total.skipped == 0 && !args.prepare && !args.shell && !args.rest {
        total.fail(&format!("no test has a name with {}", args.harness.join(" or ")));
    }
    if args.brief {
        total.remark(&guest::left_out_in_brief(&args.program));
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
            name => all.push(kernel::known(name)?),
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

fn failed(what: &str, reason: &str) -> Summary {
    let mut summary = Summary::default();
    println!("{what}: FAILED: {reason}");
    summary.fail(&format!("{what}: {reason}"));
    summary
}

/// What a kernel's tests said, and what there is to report of it if it was booted.
type Seen = (Summary, Option<OfKernel>);

/// Tests with what is needed, and skips everything where that cannot be had. What goes wrong after that is no skip.
fn test_with<'s, T>(
    needed: Result<T>,
    test: impl FnOnce(T) -> Result<Vec<(&'s str, Seen)>>,
) -> Result<Vec<(&'s str, Seen)>> {
    match needed {
        Ok(needed) => test(needed),
        Err(reason) => Ok(vec![("", (skipped("every virtual machine", &format!("{reason:#}")), None))]),
    }
}

/// Tests the kernels of several series, so many of them at a time. An error is a failure of that kernel alone.
fn test_all<'s>(series: &[&'s str], jobs: usize, test: impl Fn(&str) -> Result<Seen> + Sync) -> Vec<(&'s str, Seen)> {
    let waiting = Mutex::new(series.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut all = Vec::new();
        while let Some(series) = next() {
            let error = |error| (failed(&format!("Linux {series}"), &format!("{error:#}")), None);
            all.push((*series, test(series).unwrap_or_else(error)));
        }
        all
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(series.len()).max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker's errors are values")).collect()
    })
}

/// What is needed whatever the kernel is, and not in this tree.
struct Needed {
    kernels: Kernels,
    userland: PathBuf,
}

impl Needed {
    fn find_or_fetch(folder: &Path) -> Result<Self> {
        ensure!(qemu::program().is_some(), "qemu-system-x86_64 (package qemu-system-x86) is not on this machine");
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { kernels: Kernels::new(folder)?, userland: userland::find_or_make(folder)? })
    }
}

/// That, and what was built of this tree.
struct Bench<'a> {
    root: &'a Path,
    folder: &'a Path,
    needed: Needed,
    programs: Programs,
}

impl Bench<'_> {
    /// Runs the tests on the newest kernel of a series, and says what there is to report of it.
    fn test(&self, series: &str, args: &Args, deadline: Option<Instant>) -> Result<Seen> {
        let left = || deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let left_out =
            || Ok((skipped(&format!("Linux {series}"), "left out: the minutes for all kernels are over"), None));
        if left() < LEAST {
            return left_out();
        }
        let kernel = match self.needed.kernels.newest(series) {
            Ok(kernel) => kernel,
            Err(reason) => return Ok((skipped(&format!("Linux {series}"), &format!("{reason:#}")), None)),
        };
        if args.prepare {
            return Ok((Summary::default(), None));
        }
        let mut machine = self.machine(&kernel, args)?;
        if args.shell {
            machine.at_terminal()?;
            return Ok((Summary::default(), None));
        }
        // Fetching the kernel took some of it.
        if left() < LEAST {
            return left_out();
        }
        let (start, day) = (Instant::now(), today()?);
        let mut listener = Listener::new(&kernel.release, args.jobs < 2);
        listener.needs_tests = args.is_brief_alone();
        listener.show(&format!("\nLinux {}:", kernel.release));
        let (ended, in_a_hurry) = boot_within(&mut machine, left, &mut listener)?;
        let longest = if args.brief { guest::LONGEST_IN_BRIEF } else { guest::LONGEST };
        let forgiven = in_a_hurry.then_some(longest);
        let booted = listener.booted;
        let (summary, trials, features) = listener.close(ended, forgiven, &machine.console);
        println!("Linux {}: {:.0} s", kernel.release, start.elapsed().as_secs_f64());
        Ok((summary, booted.then_some(OfKernel { release: kernel.release, day, features, trials })))
    }

    fn machine(&self, kernel: &Kernel, args: &Args) -> Result<Machine> {
        let home = self.folder.join("run").join(&kernel.series);
        fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let initrd = home.join("initrd.cpio");
        let kept = [self.needed.userland.as_path(), kernel.modules.as_path()];
        guest::write_initrd(&initrd, &kept, self.root, &self.programs, &self.plan(kernel, args)?)?;
        Ok(Machine {
            kernel: kernel.image.clone(),
            initrd: Some(initrd),
            disk: None,
            memory_mib: MEMORY_MIB,
            append: TELLING.to_owned(),
            timeout: args.limit(),
            console: home.join("console.log"),
            extra: Vec::new(),
        })
    }

    fn plan(&self, kernel: &Kernel, args: &Args) -> Result<Plan> {
        let environment = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/mpsec/bin"),
            ("HOME", "/root"),
            ("TERM", "linux"),
            ("LANG", "C.UTF-8"),
            ("MPSEC_BIN", &guest::place("mpsec")),
            ("MPSEC_EMULATED", "1"),
        ];
        let asked = |name: &str| args.program.is_empty() || args.program.iter().any(|program| program == name);
        let known = if args.rest { report::read(self.root)? } else { Results::default() };
        let known = known.said_on(&kernel.series, &kernel.release);
        let mut programs = Vec::new();
        for (name, _) in self.programs.tests.iter().filter(|(name, _)| asked(name)) {
            programs.extend(runs(name, args, &known));
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

/// Boots, with no more time than is left. Says how it ended, and whether that was less than the machine's own limit.
fn boot_within(machine: &mut Machine, left: impl Fn() -> Duration, listener: &mut Listener) -> Result<(Ended, bool)> {
    let limit = machine.timeout;
    machine.timeout = left().min(limit);
    let mut ended = boot(machine, listener)?;
    if !listener.booted && left() >= LEAST {
        // Emulation loses a boot now and then. A guest that spoke has no second chance: it may have shown a fault.
        listener.show(&format!("the machine said nothing ({ended:?}): once more"));
        keep_console(machine)?;
        machine.timeout = left().min(limit);
        ended = boot(machine, listener)?;
    }
    Ok((ended, machine.timeout < limit))
}

/// Boots, and hears what the machine and its kernel say.
fn boot(machine: &Machine, listener: &mut Listener) -> Result<Ended> {
    // One of an earlier run would be taken for this one's if QEMU did not start.
    if machine.console.exists() {
        fs::remove_file(&machine.console).with_context(|| format!("removing {}", machine.console.display()))?;
    }
    let ended = machine.boot(&mut |line| listener.hear(line))?;
    let log = fs::read(&machine.console).unwrap_or_default();
    listener.hear_console(&String::from_utf8_lossy(&log));
    Ok(ended)
}

/// Puts the console of a boot that was lost beside that of the next.
fn keep_console(machine: &Machine) -> Result<()> {
    let console = &machine.console;
    if console.exists() {
        fs::rename(console, console.with_extension("lost.log"))
            .with_context(|| format!("renaming {}", console.display()))?;
    }
    Ok(())
}

/// A program's runs: one for each filter, as not every harness takes several. Without the tests that are known already.
fn runs(name: &str, args: &Args, known: &[&str]) -> Vec<Program> {
    let known = known.iter().filter_map(|test| test.strip_prefix(name)?.strip_prefix("::"));
    let mut left_out: Vec<_> = known.flat_map(|test| ["--skip".to_owned(), test.to_owned()]).collect();
    if !left_out.is_empty() {
        left_out.push("--exact".to_owned());
    }
    let (options, mut filters): (Vec<_>, Vec<_>) = args.harness.iter().partition(|word| word.starts_with('-'));
    let brief: Vec<_> = guest::BRIEF.iter().map(|&filter| filter.to_owned()).collect();
    if args.brief && name == "system" && filters.is_empty() {
        filters.extend(&brief);
    }
    let filters: Vec<_> = if filters.is_empty() { vec![None] } else { filters.into_iter().map(Some).collect() };
    let run = |filter: Option<&String>| Program {
        label: name.to_owned(),
        limit_seconds: args.limit().as_secs(),
        // The lines are read as well as shown, and a serial port passes for a terminal.
        words: [guest::place(name), "--color=never".to_owned()]
            .into_iter()
            .chain(filter.cloned())
            .chain(options.iter().map(|&option| option.clone()))
            .chain(left_out.iter().cloned())
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
        let words = |args: &Args| -> Vec<_> {
            runs("system", args, &[]).into_iter().map(|run| run.words[2..].join(" ")).collect()
        };
        assert_eq!(words(&args("vm -- a:: --nocapture b")), ["a:: --nocapture", "b --nocapture"]);
        assert_eq!(words(&args("vm")), [""]);
        assert_eq!(words(&args("vm --brief")), guest::BRIEF);
        assert_eq!(runs("pm", &args("vm --brief"), &[]).len(), 1);
    }

    #[test]
    fn what_is_known_is_left_out_of_its_own_program() {
        let known = ["pm::many::a", "system::a::b", "system::a::b_c"];
        let words = |name| runs(name, &args("vm --rest"), &known)[0].words[2..].join(" ");
        assert_eq!(words("system"), "--skip a::b --skip a::b_c --exact");
        assert_eq!(words("pm"), "--skip many::a --exact");
        assert_eq!(words("rtnl"), "");
        // Filters would have to be whole names then, too.
        for line in ["vm --rest --brief", "vm --rest -- a::"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn kernels_are_named_by_their_series() {
        assert_eq!(series(&args("vm --kernel newest,6.1").kernel).unwrap(), [*SERIES.last().unwrap(), "6.1"]);
        assert_eq!(series(&args("vm --kernel all").kernel).unwrap(), SERIES);
        assert!(series(&args("vm --kernel 6.11").kernel).unwrap_err().to_string().contains("6.12"));
    }

    #[test]
    fn an_error_is_a_failure_of_that_kernel_alone() {
        let tested = test_all(&["6.1", "6.12"], 2, |series| match series {
            "6.1" => bail!("no room"),
            _ => Ok((Summary::default(), Some(OfKernel::default()))),
        });
        let of = |wanted: &str| &tested.iter().find(|(series, _)| *series == wanted).unwrap().1;
        assert!(of("6.1").1.is_none() && of("6.1").0.to_string().contains("Linux 6.1: no room: FAILED"));
        assert_eq!((of("6.12").0.failed, of("6.12").1.is_some()), (0, true));
    }

    #[test]
    fn what_this_machine_lacks_is_a_skip_and_what_breaks_is_not() {
        let skipped = test_with::<()>(Err(anyhow::anyhow!("no qemu")), |()| Ok(Vec::new())).unwrap();
        let [(_, (summary, None))] = &skipped[..] else { panic!("{} kernels", skipped.len()) };
        assert_eq!((summary.failed, summary.skipped), (0, 1));
        assert!(test_with(Ok(()), |()| bail!("could not compile")).is_err());
    }

    fn machine(folder: &Path) -> Machine {
        Machine {
            kernel: "/k".into(),
            initrd: None,
            disk: None,
            memory_mib: 1,
            append: String::new(),
            timeout: Duration::ZERO,
            console: folder.join("console.log"),
            extra: Vec::new(),
        }
    }

    #[test]
    fn the_console_of_a_lost_boot_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let machine = machine(folder.path());
        keep_console(&machine).unwrap();
        fs::write(&machine.console, "BUG: a").unwrap();
        keep_console(&machine).unwrap();
        assert!(!machine.console.exists());
        assert_eq!(fs::read_to_string(folder.path().join("console.lost.log")).unwrap(), "BUG: a");
    }
}
