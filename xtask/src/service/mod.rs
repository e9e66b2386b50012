//! `cargo xtask service`: the package, installed under a real systemd, in virtual machines with Debian.
//!
//! What is tried is in `tests/examples/service`; that program runs in the guest and prints what test programs print.
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use vm_init::plan::{self, Plan};

use crate::{
    command, dist, run,
    summary::Summary,
    tree,
    vm::{
        guest,
        kernel::{self, Kernel, Kernels},
        newc::Archive,
        qemu::{self, Ended, Machine},
    },
};

pub mod image;

/// Which kernels, and which build.
#[derive(clap::Args)]
pub struct Args {
    /// Series of Debian's kernels
    #[arg(long, default_value = "6.1,6.12", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Try the package as it is handed out, with the program as released, which takes minutes to build
    #[arg(long)]
    release: bool,
    /// Minutes for one kernel, after which the machine is switched off
    #[arg(long, default_value_t = 25)]
    minutes: u64,
    /// Minutes of the trials on one kernel, after which no other is begun: the log says what was left out
    #[arg(long)]
    budget: Option<u64>,
    /// Build and fetch what is needed, and try nothing
    #[arg(long)]
    prepare: bool,
    /// A filter for the trials' names (most stand on those before them), and arguments of the test program
    #[arg(last = true)]
    harness: Vec<String>,
}

/// MiB of the guest.
const MEMORY_MIB: u32 = 1536;
/// What the disk needs, and what no kernel asks for by itself.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "veth", "tun", "overlay"];
/// The folders of that which is handed out beside the package, of which something is tried.
const HANDED_OUT: &[&str] = &["container", "kubernetes"];
/// The disk, as the guest has it.
const DISK: &str = "/dev/vda";

/// `cargo xtask service [--kernel ...] [--release] [-- filter and harness args]`
pub fn main(root: &Path, args: &Args) -> Result<ExitCode> {
    for series in &args.kernel {
        kernel::known(series)?;
    }
    let folder = tree::target(root).join("vm");
    let total = test_with(Needed::find_or_make(&folder), |needed| {
        let bench = Bench::build(root, &folder, needed, args)?;
        let mut total = Summary::default();
        for series in &args.kernel {
            total.add(bench.test(series, args).unwrap_or_else(|error| failed(series, &error)));
        }
        Ok(total)
    })?;
    print!("\nAll tests of the packaged service, summed up:\n{total}");
    std::io::stdout().flush()?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tests with what is needed, and skips everything where that cannot be had. What goes wrong after that is no skip.
fn test_with<T>(needed: Result<T>, test: impl FnOnce(T) -> Result<Summary>) -> Result<Summary> {
    needed.map_or_else(|reason| Ok(skipped("the packaged service", &reason)), test)
}

fn skipped(what: &str, reason: &anyhow::Error) -> Summary {
    let mut summary = Summary::default();
    summary.skip(what, &format!("{reason:#}"));
    summary
}

/// An error is a failure of that kernel alone.
fn failed(series: &str, error: &anyhow::Error) -> Summary {
    let mut summary = Summary::default();
    summary.fail(&format!("the packaged service on Linux {series}: {error:#}"));
    summary
}

/// What is needed whatever the kernel is, and not in this tree.
struct Needed {
    kernels: Kernels,
    disk: PathBuf,
}

impl Needed {
    fn find_or_make(folder: &Path) -> Result<Self> {
        ensure!(qemu::program().is_some(), "qemu-system-x86_64 (package qemu-system-x86) is not on this machine");
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { disk: image::find_or_make(folder)?, kernels: Kernels::new(folder)? })
    }
}

/// That, and what was built of this tree.
struct Bench {
    folder: PathBuf,
    needed: Needed,
    init: PathBuf,
    trials: PathBuf,
    /// The package, and the same as a later revision.
    packages: [PathBuf; 2],
    /// What is handed out beside the package.
    handed_out: PathBuf,
}

impl Bench {
    fn build(root: &Path, folder: &Path, needed: Needed, args: &Args) -> Result<Self> {
        let mut cargo = guest::cargo_build(root, folder);
        cargo.args(["-p", "vm-init", "-p", "mpsec-agent", "-p", "mpsec-tests", "--bins", "--example", "service"]);
        let messages = command::stdout(&mut cargo)?;
        let find = |name: &str| run::executable(&messages, name).with_context(|| format!("cargo built no {name}"));
        let agent = if args.release { dist::program::build(root, false)? } else { find("mpsec")? };
        let made = folder.join("service");
        fs::create_dir_all(&made)?;
        let package = |revision| dist::package::make(root, &agent, &made, revision);
        let packages = [package(1)?, package(2)?];
        let handed_out = made.join("handed-out");
        dist::lay_out(root, &agent, &handed_out)?;
        let (init, trials) = (find("vm-init")?, find("service")?);
        Ok(Self { init, trials, folder: folder.to_owned(), needed, packages, handed_out })
    }

    fn test(&self, series: &str, args: &Args) -> Result<Summary> {
        let kernel = match self.needed.kernels.newest(series) {
            Ok(kernel) => kernel,
            Err(reason) => return Ok(skipped(&format!("the packaged service on Linux {series}"), &reason)),
        };
        let mut summary = Summary::default();
        if args.prepare {
            return Ok(summary);
        }
        let machine = self.machine(&kernel, args)?;
        let start = Instant::now();
        println!("\n     Running service (Linux {}):", kernel.release);
        let mut said = Vec::new();
        let mut ended = machine.boot(&mut |line| hear(line, &mut said))?;
        if said.is_empty() {
            // Emulation loses a boot now and then. A guest that spoke has no second chance: it may have shown a fault.
            println!("the machine said nothing ({ended:?}): once more");
            ended = machine.boot(&mut |line| hear(line, &mut said))?;
        }
        said.iter().for_each(|line| summary.read(line));
        if summary.results.is_empty() || ended != Ended::ByItself {
            let what =
                format!("the packaged service on Linux {}: the machine ended too soon ({ended:?})", kernel.release);
            summary.fail(&format!("{what}; see {}", machine.console.display()));
        }
        println!("Linux {}: {:.0} s", kernel.release, start.elapsed().as_secs_f64());
        Ok(summary)
    }

    fn machine(&self, kernel: &Kernel, args: &Args) -> Result<Machine> {
        let home = self.folder.join("run").join(format!("service-{}", kernel.series));
        fs::create_dir_all(&home).with_context(|| format!("making {}", home.display()))?;
        let initrd = home.join("initrd.cpio");
        self.write_initrd(&initrd, kernel, args)?;
        Ok(Machine {
            kernel: kernel.image.clone(),
            initrd: Some(initrd),
            disk: Some(self.needed.disk.clone()),
            memory_mib: MEMORY_MIB,
            // There is no udev to bring the device that a prompt on the console would wait for.
            append: "systemd.mask=serial-getty@ttyS0.service systemd.show_status=no".to_owned(),
            timeout: Duration::from_secs(args.minutes * 60),
            console: home.join("console.log"),
            // What the guest writes on the disk is gone with it.
            extra: vec!["-snapshot".to_owned()],
        })
    }

    fn write_initrd(&self, to: &Path, kernel: &Kernel, args: &Args) -> Result<()> {
        let mut file = BufWriter::new(File::create(to).with_context(|| format!("creating {}", to.display()))?);
        let mut modules =
            File::open(&kernel.modules).with_context(|| format!("opening {}", kernel.modules.display()))?;
        std::io::copy(&mut modules, &mut file)?;
        let plan = Plan {
            modules: MODULES.iter().map(|&name| name.to_owned()).collect(),
            system: Some(DISK.to_owned()),
            ..Plan::default()
        };
        let init = fs::read(&self.init)?;
        let mut archive = Archive::new(file);
        archive.file("init", 0o755, &init)?;
        archive.folders_to("sbin/modprobe")?;
        archive.link("sbin/modprobe", "/init")?;
        archive.folders_to("mpsec/bin/x")?;
        archive.file(plan::PATH.trim_start_matches('/'), 0o644, plan.to_string().as_bytes())?;
        // The system on the disk sees this folder, but nothing else of ours.
        archive.file(guest::place("modprobe").trim_start_matches('/'), 0o755, &init)?;
        archive.file(guest::place("service").trim_start_matches('/'), 0o755, &fs::read(&self.trials)?)?;
        archive.file("mpsec/arguments", 0o644, args.harness.join("\n").as_bytes())?;
        if let Some(minutes) = args.budget {
            archive.file("mpsec/budget", 0o644, (minutes * 60).to_string().as_bytes())?;
        }
        archive.folders_to("mpsec/packages/x")?;
        for package in &self.packages {
            let name = package.file_name().context("a file without a name")?.to_string_lossy();
            archive.file(&format!("mpsec/packages/{name}"), 0o644, &fs::read(package)?)?;
        }
        for folder in HANDED_OUT {
            for file in tree::files(&self.handed_out.join(folder))? {
                let place = Path::new("mpsec/handed-out").join(file.strip_prefix(&self.handed_out)?);
                let place = place.to_string_lossy();
                archive.folders_to(&place)?;
                archive.file(&place, 0o755, &fs::read(&file)?)?;
            }
        }
        archive.close()?;
        Ok(())
    }
}

fn hear(line: &str, said: &mut Vec<String>) {
    if !line.is_empty() {
        println!("{line}");
        said.push(line.to_owned());
        // Where nobody reads it, it is in the summary all the same.
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_breaks_is_no_skip() {
        let skipped = test_with(Err::<(), _>(anyhow::anyhow!("no qemu")), |()| bail!("not reached")).expect("a skip");
        assert_eq!((skipped.failed, skipped.skipped), (0, 1));
        assert!(test_with(Ok(()), |()| bail!("it does not compile")).is_err());
        let failed = failed("6.1", &anyhow::anyhow!("no archive").context("making it"));
        assert_eq!((failed.failed, failed.skipped), (1, 0));
        assert!(failed.to_string().contains("Linux 6.1: making it: no archive: FAILED"), "{failed}");
    }
}
