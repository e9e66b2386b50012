//! `cargo xtask vm`: the tests on other kernels than this machine's, in virtual machines.
//!
//! `debian` fetches, `kernel` and `userland` make archives of what was fetched, `guest` builds what runs, `qemu` boots it.
use std::{
    io::Write,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vm_init::{
    plan::{Plan, Program},
    word::{Code, Word},
};

use crate::{summary::Summary, tree};

pub mod debian;
pub mod guest;
pub mod kernel;
pub mod newc;
pub mod qemu;
pub mod userland;

use guest::Programs;
use kernel::{Kernel, Kernels, SERIES};
use qemu::{Ended, Machine};

/// Which kernels to boot, and what to run on them.
#[derive(clap::Args)]
pub struct Args {
    /// Series of Debian's kernels, such as 6.12; `newest`, or `all`
    #[arg(long, default_value = "newest", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only these test programs, such as `system` or `pm`
    #[arg(long, value_delimiter = ',')]
    program: Vec<String>,
    /// A shell in the virtual machine instead of the tests (Ctrl-A X ends it)
    #[arg(long)]
    shell: bool,
    /// Minutes for one kernel, after which the machine is switched off and what is missing has failed
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// A filter for the tests' names, and arguments of the test programs
    #[arg(last = true)]
    harness: Vec<String>,
}

/// MiB of the guest: its whole file system lies there, and the lab's buffers.
const MEMORY_MIB: u32 = 3072;
/// Modules that no kernel asks for by itself: the first opens /dev/net/tun.
const MODULES: &[&str] = &["tun", "veth"];

/// `cargo xtask vm [--kernel ...] [--shell] [-- filter and harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    let folder = tree::target(root).join("vm");
    let mut total = Summary::default();
    let series = series(&args.kernel)?;
    match Bench::new(root, &folder) {
        Ok(bench) => {
            for series in series {
                total.add(bench.test(series, args)?);
            }
        }
        Err(reason) => total.add(skipped("every virtual machine", &reason)),
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

fn skipped(what: &str, reason: &anyhow::Error) -> Summary {
    let mut summary = Summary::default();
    summary.skip(what, &format!("{reason:#}"));
    println!("{}", summary.remarkable.concat());
    summary
}

/// What is needed whatever the kernel is.
struct Bench<'a> {
    root: &'a Path,
    folder: &'a Path,
    kernels: Kernels,
    userland: std::path::PathBuf,
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

    fn test(&self, series: &str, args: &Args) -> Result<Summary> {
        let kernel = match self.kernels.newest(series) {
            Ok(kernel) => kernel,
            Err(reason) => return Ok(skipped(&format!("Linux {series}"), &reason)),
        };
        let machine = self.machine(&kernel, args)?;
        if args.shell {
            machine.at_terminal()?;
            return Ok(Summary::default());
        }
        println!("\nLinux {}:", kernel.release);
        let start = Instant::now();
        let mut listener = Listener::new(&kernel.release);
        let mut ended = machine.boot(&mut |line| listener.hear(line))?;
        if !listener.booted {
            // Emulation loses a boot now and then. A guest that spoke has no second chance: it may have shown a fault.
            println!("the machine said nothing ({ended:?}): once more");
            ended = machine.boot(&mut |line| listener.hear(line))?;
        }
        let summary = listener.close(ended, &machine.console);
        println!("Linux {}: {:.0} s", kernel.release, start.elapsed().as_secs_f64());
        Ok(summary)
    }

    fn machine(&self, kernel: &Kernel, args: &Args) -> Result<Machine> {
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
            timeout: Duration::from_secs(args.minutes * 60),
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
        let names = self.programs.tests.iter().map(|(name, _)| name).filter(|name| asked(name));
        let programs: Vec<_> = names
            .map(|name| Program {
                label: name.clone(),
                limit_seconds: args.minutes * 60,
                // The lines are read as well as shown, and a serial port passes for a terminal.
                words: [guest::place(name), "--color=never".to_owned()]
                    .into_iter()
                    .chain(args.harness.clone())
                    .collect(),
            })
            .collect();
        if programs.is_empty() {
            bail!("no test program of these: {}; there are {}", args.program.join(", "), guest::TESTS.join(", "));
        }
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Ok(Plan {
            modules: MODULES.iter().map(|&name| name.to_owned()).collect(),
            environment: environment.into_iter().map(own).collect(),
            programs,
            shell: args.shell,
        })
    }
}

/// Hears the guest: shows what the programs print, and keeps the account.
struct Listener {
    release: String,
    summary: Summary,
    booted: bool,
    off: bool,
    /// Programs that began, or that ended as they should not.
    running: Option<String>,
}

impl Listener {
    fn new(release: &str) -> Self {
        Self { release: release.to_owned(), summary: Summary::default(), booted: false, off: false, running: None }
    }

    fn hear(&mut self, line: &str) {
        match Word::parse(line) {
            None if line.is_empty() => {}
            None => self.note(line),
            Some(Word::Boot(release)) => {
                self.booted = true;
                println!("booted {release}");
            }
            Some(Word::Start(label)) => {
                self.note(&format!("     Running {label} (Linux {})", self.release));
                self.running = Some(label);
            }
            Some(Word::End { label, code, seconds }) => {
                self.running = None;
                println!("{label}: {code} after {seconds:.1} s");
                // Test programs say themselves what failed, with exit code 101.
                if !matches!(code, Code::Exit(0 | 101)) {
                    self.fail(&format!("{label} ended with {code}"));
                }
            }
            Some(Word::Broken(why)) => self.fail(&why),
            Some(Word::Off) => self.off = true,
        }
        // Where nobody reads it, it is in the summary all the same.
        let _ = std::io::stdout().flush();
    }

    fn note(&mut self, line: &str) {
        println!("{line}");
        self.summary.read(line);
    }

    fn fail(&mut self, what: &str) {
        self.summary.fail(&format!("Linux {}: {what}", self.release));
        println!("FAILED: {what}");
    }

    fn close(mut self, ended: Ended, console: &Path) -> Summary {
        if !self.off || ended != Ended::ByItself {
            let doing = self.running.take().map_or_else(String::new, |label| format!(" in {label}"));
            self.fail(&format!("the machine ended{doing} before it was done ({ended:?}); see {}", console.display()));
        }
        let success = self.summary.failed == 0;
        self.summary.close(success)
    }
}
