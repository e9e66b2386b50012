//! A terminal of our own: a program runs in it, keys go in, and what it would show is read.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::zeroed;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::ptr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::die_with_parent;
use crate::netns::check;
use crate::screen::Screen;
use crate::wait;

/// A pseudo-terminal with a program in it, which is killed on drop.
pub struct Pty {
    master: File,
    child: Child,
    screen: Arc<Mutex<Screen>>,
    before: libc::termios,
}

impl Pty {
    /// Starts a program on a terminal of so many columns and rows, which says that it is an `xterm` and speaks UTF-8.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Result<Pty> {
        let (master, slave) = open(columns, rows)?;
        let before = settings(&master)?;
        for (name, value) in [("TERM", "xterm-256color"), ("LC_ALL", "C.UTF-8")] {
            command.env(name, value);
        }
        command.env_remove("NO_COLOR");
        let stdio = || slave.try_clone().map(Stdio::from);
        command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
        // SAFETY: between fork and exec these call nothing but prctl, setsid and ioctl, which are async-signal-safe.
        unsafe { command.pre_exec(die_with_parent).pre_exec(take_terminal) };
        let child = command.spawn().context("start a program on a terminal")?;
        drop(command);
        drop(slave);
        let screen = Arc::new(Mutex::new(Screen::new(columns, rows)));
        let (mut reader, shown) = (master.try_clone()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO: nobody has the other end any more.
            while let Ok(len @ 1..) = reader.read(&mut bytes) {
                if let Ok(mut screen) = shown.lock() {
                    screen.feed(&bytes[..len]);
                }
            }
        });
        Ok(Pty { master, child, screen, before })
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    /// Waits until the screen is so.
    pub fn until(&self, limit: Duration, holds: impl Fn(&str) -> bool) -> Result<()> {
        wait::until(limit, || {
            let text = self.text();
            ensure!(holds(&text), "the screen shows:\n{text}");
            Ok(())
        })
    }

    /// What the screen shows, a line for each row.
    pub fn text(&self) -> String {
        self.screen.lock().map(|screen| screen.text()).unwrap_or_default()
    }

    /// Whether the program uses the alternate screen, and hides the cursor.
    pub fn modes(&self) -> (bool, bool) {
        self.screen.lock().map(|screen| (screen.is_alternate, screen.is_cursor_hidden)).unwrap_or_default()
    }

    /// Gives the terminal another size; the kernel tells the program with SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        if let Ok(mut screen) = self.screen.lock() {
            screen.resize(columns, rows);
        }
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the ioctl reads one winsize.
        check(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).context("resize")
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: libc::c_int) -> Result<()> {
        // SAFETY: kill takes no pointers; the child is ours and not reaped before `wait`.
        check(unsafe { libc::kill(self.child.id() as libc::pid_t, signal) }).context("signal")
    }

    /// Waits for the program's end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(limit, || self.child.try_wait()?.context("the program still runs"))
            .with_context(|| format!("the screen shows:\n{}", self.text()))
    }

    /// Whether the terminal's settings are those from before the program.
    pub fn is_as_before(&self) -> Result<bool> {
        let now = settings(&self.master)?;
        let flags = |all: &libc::termios| (all.c_iflag, all.c_oflag, all.c_cflag, all.c_lflag, all.c_cc);
        Ok(flags(&now) == flags(&self.before))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // One that has ended already is what this wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open(columns: u16, rows: u16) -> Result<(File, OwnedFd)> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: both descriptors and the size outlive the call; neither a name nor settings are asked for.
    check(unsafe { libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), &raw const size) })
        .context("openpty")?;
    for fd in [master, slave] {
        // SAFETY: fcntl with F_SETFD takes no pointers. Other programs that tests start must not keep the terminal.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    // SAFETY: openpty gave both descriptors to us alone.
    Ok(unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
}

fn settings(terminal: &File) -> Result<libc::termios> {
    // SAFETY: all zeros are a termios.
    let mut settings: libc::termios = unsafe { zeroed() };
    // SAFETY: the pointer is to a whole termios that outlives the call.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) }).context("tcgetattr")?;
    Ok(settings)
}

/// Begins a session whose terminal is standard input. For `pre_exec`.
fn take_terminal() -> std::io::Result<()> {
    // SAFETY: setsid has no preconditions; the ioctl takes a number.
    match unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 } {
        true => Ok(()),
        false => Err(std::io::Error::last_os_error()),
    }
}
