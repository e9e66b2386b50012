//! Boots a virtual machine under QEMU's own emulation and passes on what it says, line by line.
use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::command;

/// QEMU's program for the machines that MPSec is tested on.
const PROGRAM: &str = "qemu-system-x86_64";
/// The file of the lines that were heard, in the folder of the console's.
pub const SAID: &str = "said.log";
/// One thread for both processors, and no 16-byte compare-and-swap: with either, one boot in ten of QEMU 7.2 fails.
const EMULATION: &[&str] = &["-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", "2"];
/// No devices that nobody asked for, no window, and an end where the guest would start again.
const BARE: &[&str] = &["-nodefaults", "-display", "none", "-no-reboot"];

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The first file system, if there is one.
    pub initrd: Option<PathBuf>,
    /// A raw disk image, seen by the guest as `/dev/vda`.
    pub disk: Option<PathBuf>,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// More words of the kernel's command line, after those of the console and of a quick end.
    pub append: String,
    /// After so long it is switched off, whatever it does.
    pub timeout: Duration,
    /// The file that the console, `ttyS0`, is written to.
    pub console: PathBuf,
    /// More arguments of QEMU.
    pub extra: Vec<String>,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It switched itself off, or ended in a panic, which its console tells.
    ByItself,
    /// It was still running at the limit, and had been silent for so long.
    Overdue {
        /// Since its last whole line, or since the start.
        silent: Duration,
    },
    /// QEMU failed.
    Failed(ExitStatus),
}

/// The emulator's program, if it is on this machine.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(PROGRAM)).find(|file| file.is_file())
}

impl Machine {
    /// Boots, gives each line of the second serial port, `ttyS1`, to `hear`, and comes back when the machine is off. The lines are
    /// kept beside the console, in [`SAID`], as they come.
    pub fn boot(&self, hear: &mut dyn FnMut(&str)) -> Result<Ended> {
        if let Some(folder) = self.console.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let mut command = self.command("console=ttyS0 quiet");
        command.arg("-serial").arg(format!("file:{}", self.console.display())).args(["-serial", "stdio"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn();
        let mut child = Running(child.with_context(|| format!("cannot start: {}", command::line(&command)))?);
        let said = self.console.with_file_name(SAID);
        let mut kept = File::create(&said).with_context(|| format!("creating {}", said.display()))?;
        let mut hear = |line: &str| {
            // That is for whoever looks on; what comes of it is what `hear` makes of it.
            let _ = writeln!(kept, "{line}");
            hear(line);
        };
        if let Some(silent) = hear_until(&mut child.0, self.timeout, &mut hear)? {
            return Ok(Ended::Overdue { silent });
        }
        let status = child.0.wait().context("waiting for QEMU")?;
        Ok(if status.success() { Ended::ByItself } else { Ended::Failed(status) })
    }

    /// Boots with this terminal as the console. Ctrl-A X switches the machine off.
    pub fn at_terminal(&self) -> Result<ExitStatus> {
        let mut command = self.command("console=ttyS0 quiet");
        command.args(["-serial", "mon:stdio", "-serial", "null"]);
        command.status().with_context(|| format!("cannot start: {}", command::line(&command)))
    }

    fn command(&self, console: &str) -> Command {
        let mut command = Command::new(program().unwrap_or_else(|| PathBuf::from(PROGRAM)));
        command.args(EMULATION).args(BARE);
        command.arg("-m").arg(format!("{}M", self.memory_mib));
        command.arg("-kernel").arg(&self.kernel);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
        if let Some(disk) = &self.disk {
            command.arg("-drive").arg(drive(disk));
        }
        // A panic is an end at once.
        command.arg("-append").arg(format!("{console} panic=-1 {}", self.append));
        command.args(&self.extra);
        command
    }
}

/// A comma in a file's name is written twice.
fn drive(disk: &Path) -> String {
    format!("file={},format=raw,if=virtio", disk.to_string_lossy().replace(',', ",,"))
}

/// The emulator, which ends with its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is what this wants.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gives each line to `hear`, to the end, or to the limit: then the program is ended, and it is known how long it was silent.
fn hear_until(child: &mut Child, limit: Duration, hear: &mut dyn FnMut(&str)) -> Result<Option<Duration>> {
    let lines = child.stdout.take().map(lines_of).context("QEMU has no output")?;
    let mut heard = Instant::now();
    let deadline = heard + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                heard = Instant::now();
                hear(&line);
            }
            Err(RecvTimeoutError::Timeout) => {
                let silent = heard.elapsed();
                child.kill().context("switching QEMU off")?;
                // What stands on a line that was only begun: the name of the test that ran.
                lines.iter().for_each(|line| hear(&line));
                return Ok(Some(silent));
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_what_the_machine_is() {
        let machine = Machine {
            kernel: "/k".into(),
            initrd: Some("/i".into()),
            disk: Some("/a,b.img".into()),
            memory_mib: 512,
            append: "init=/x".to_owned(),
            timeout: Duration::from_secs(1),
            console: "/c".into(),
            extra: vec!["-snapshot".into()],
        };
        let line = command::line(&machine.command("console=ttyS0"));
        for part in [
            "-m 512M -kernel /k -initrd /i",
            "-drive file=/a,,b.img,format=raw,if=virtio",
            "-append console=ttyS0 panic=-1 init=/x -snapshot",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn lines_come_without_their_ends() {
        let lines: Vec<_> = lines_of(&b"a\r\nb\n\nc"[..]).iter().collect();
        assert_eq!(lines, ["a", "b", "", "c"]);
    }

    fn heard(script: &str, limit: Duration) -> (Option<Duration>, Vec<String>) {
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let (mut child, mut heard) = (Running(child), Vec::new());
        let silent = hear_until(&mut child.0, limit, &mut |line| heard.push(line.to_owned())).unwrap();
        (silent, heard)
    }

    #[test]
    fn at_the_limit_it_is_known_for_how_long_nothing_was_said_and_what_was_begun() {
        let (silent, said) = heard("echo a; printf 'test b ... '; exec sleep 60", Duration::from_secs(4));
        assert_eq!(said, ["a", "test b ... "]);
        assert!(
            silent.is_some_and(|silent| silent > Duration::ZERO && silent <= Duration::from_secs(30)),
            "{silent:?}"
        );
        assert_eq!(heard("echo a", Duration::from_secs(60)), (None, vec!["a".to_owned()]));
    }
}
