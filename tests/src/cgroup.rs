//! Control groups (v2) that are gone on drop, and programs that run in them: unmodified ones, which nobody here wrote.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mpsec_agent::kernel::features::Features;

use crate::netns::{Netns, check};
use crate::trial::Skip;
use crate::wait;

/// A control group below the root of the hierarchy, gone on drop with those below, if no program is left in it.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// Makes one whose name is this process's own.
    pub fn make(name: &str) -> Result<Group> {
        let root = Features::probe().cgroup_root().map(Path::to_owned);
        let root = root.ok_or_else(|| Skip::because("no cgroup2 file system is mounted"))?;
        let group = Group(root.join(format!("mpsec-test-{}-{name}", std::process::id())));
        fs::create_dir(&group.0).map_err(|error| Skip::because(format!("no control group can be made: {error}")))?;
        Ok(group)
    }

    /// Makes another one in it.
    pub fn below(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// As it is listed.
    pub fn name(&self) -> PathBuf {
        self.0.file_name().expect("it was given one").into()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The files of a control group go with it.
fn remove(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
    let _ = fs::remove_dir(group);
}

/// What starts a program in a control group; without one, in that of this process.
pub fn command(group: Option<&Path>, line: &[&str]) -> Command {
    let procs = group.map_or_else(|| "/dev/null".into(), |group| group.join("cgroup.procs"));
    let mut command = Command::new("sh");
    command.args(["-c", "echo 0 >\"$0\" && exec \"$@\""]).arg(procs).args(line);
    command
}

/// A program that runs, killed on drop. What it prints must not be much.
#[derive(Debug)]
pub struct Program {
    child: Child,
    line: String,
}

impl Program {
    /// Starts one in a namespace and a control group.
    pub fn start(netns: &Netns, group: Option<&Path>, line: &[&str]) -> Result<Program> {
        let mut command = command(group, line);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = line.join(" ");
        let child = netns.run(|| command.spawn()).with_context(|| line.clone())?;
        Ok(Program { child, line })
    }

    /// Whether it has ended, and how.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: kill takes no pointers; the pid is our child's, which is not reaped before this guard is given up.
        check(unsafe { libc::kill(self.child.id().cast_signed(), signal) }).with_context(|| self.line.clone())
    }

    /// Waits for its end, which must be a success, and gives what it printed.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let ended = wait::until(limit, || self.status()?.with_context(|| format!("`{}` is still running", self.line)));
        if ended.is_err() {
            let _ = self.child.kill();
        }
        let (mut told, mut complaint) = (String::new(), String::new());
        self.child.stdout.take().context("no output")?.read_to_string(&mut told)?;
        self.child.stderr.take().context("no output")?.read_to_string(&mut complaint)?;
        let status = ended.with_context(|| complaint.clone())?;
        ensure!(status.success(), "`{}`: {status}: {complaint}{told}", self.line);
        Ok(told)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already is what this wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
