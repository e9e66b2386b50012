//! Runs programs, one after the other, with a limit; nothing that one started lives on when the next begins.
use std::{
    io,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{plan::Program, word::Code};

/// How often it is looked whether a program has ended: short against what a test takes.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs to the end or to the limit, and reaps every orphan meanwhile, as the first program must.
pub fn run(program: &Program, environment: &[(String, String)]) -> Result<(Code, Duration)> {
    let start = Instant::now();
    let (path, arguments) = program.words.split_first().context("a program without a path")?;
    let mut command = Command::new(path);
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null()).current_dir("/");
    let child = command.spawn().with_context(|| format!("cannot start {path}"))?;
    let pid = libc::pid_t::try_from(child.id()).context("the process id is too large")?;
    let limit = Duration::from_secs(program.limit_seconds);
    let code = loop {
        if let Some(code) = reap(pid) {
            break code;
        }
        if start.elapsed() >= limit {
            break Code::Overdue;
        }
        thread::sleep(PAUSE);
    };
    end_all();
    Ok((code, start.elapsed()))
}

/// A person at the console. Comes back when the shell is left.
pub fn shell(environment: &[(String, String)]) -> Result<()> {
    // busybox finds the terminal behind the console, without which there is no Ctrl-C.
    let mut command = Command::new("/bin/busybox");
    command.args(["setsid", "cttyhack", "sh", "-l"]).envs(environment.iter().cloned()).current_dir("/root");
    let child = command.spawn().context("cannot start a shell")?;
    let pid = libc::pid_t::try_from(child.id()).context("the process id is too large")?;
    while reap(pid).is_none() {
        thread::sleep(PAUSE);
    }
    end_all();
    Ok(())
}

/// Takes leave of every process that has ended. Says how the one with this id did, if it is among them.
fn reap(wanted: libc::pid_t) -> Option<Code> {
    let mut code = None;
    while let Some((pid, status)) = next_ended() {
        if pid == wanted {
            let by_signal = libc::WIFSIGNALED(status);
            let signal = || Code::Signal(libc::WTERMSIG(status));
            code = Some(if by_signal { signal() } else { Code::Exit(libc::WEXITSTATUS(status)) });
        }
    }
    code
}

/// A process that has ended, and how.
fn next_ended() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the status is a number of ours that outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Ends every process but this one. All of them are, or become, its children: it is over when there are none.
fn end_all() {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        // SAFETY: kill takes no pointers; as the first program this one is left out.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        reap(0);
        if !has_children() || Instant::now() >= deadline {
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn has_children() -> bool {
    // SAFETY: with WNOWAIT nothing is taken, and the structure, for which zeros are a value, outlives the call.
    let result = unsafe {
        let mut about: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut about, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ECHILD)
}
