//! tcpdump, as a judge that shares nothing with the agent or with these tests: what it has written, and its own filters.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::counted::Counted;
use crate::netns::{Netns, check};
use crate::{need, sniffer};

/// It ends by itself after so many seconds, whatever becomes of the test.
const LONGEST: &str = "300";
/// What it writes.
const ALL: &str = "all.pcap";
const ETHERNET: u64 = 14;
/// Headers of a file in the byte order of whoever wrote it (draft-ietf-opsawg-pcap): of the file, with its magic number, and of
/// each packet.
const FILE_HEADER: usize = 24;
const MAGIC: u32 = 0xa1b2_c3d4;
const PACKET_HEADER: usize = 16;

/// A running tcpdump, which writes down what a device receives.
#[derive(Debug)]
pub struct Tcpdump {
    running: Running,
    stderr: BufReader<ChildStderr>,
    folder: TempDir,
}

impl Tcpdump {
    /// Starts it on an Ethernet device. It misses nothing from the moment that this returns.
    pub fn watch(netns: &Netns, device: &str) -> Result<Self> {
        need::command("tcpdump")?;
        let folder = tempfile::Builder::new().prefix("mpsec-tcpdump-").tempdir()?;
        let mut command = Command::new("timeout");
        command.args(["-s", "INT", LONGEST, "tcpdump", "-n", "-Z", "root", "-Q", "in", "--immediate-mode", "-U"]);
        // A packet takes as much room as it may be long: with little of each, many can wait.
        command.args(["-s", "128", "-B", "16384", "-i", device, "-w"]).arg(folder.path().join(ALL));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = netns.run(|| command.spawn()).context("start tcpdump")?;
        let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let mut tcpdump = Self { running: Running(child), stderr, folder };
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(tcpdump.stderr.read_line(&mut line)? > 0, "tcpdump on {device} has ended");
        }
        Ok(tcpdump)
    }

    /// Ends it when nothing more comes, and gives what it has. An error if it missed packets.
    pub fn stop(mut self) -> Result<Dump> {
        sniffer::settled(|| Ok(fs::metadata(self.folder.path().join(ALL))?.len()))?;
        self.running.interrupt()?;
        let mut told = String::new();
        self.stderr.read_to_string(&mut told)?;
        ensure!(self.running.0.wait()?.success(), "tcpdump: {told}");
        ensure!(told.contains("\n0 packets dropped by kernel"), "tcpdump missed packets: {told}");
        Ok(Dump { folder: self.folder })
    }
}

/// Its process, which is ended with the test.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn interrupt(&self) -> Result<()> {
        let pid = libc::pid_t::try_from(self.0.id())?;
        // SAFETY: kill takes no pointers; the pid is our child's, which is not reaped yet.
        check(unsafe { libc::kill(pid, libc::SIGINT) }).map(drop).context("end tcpdump")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.interrupt();
            let _ = self.0.wait();
        }
    }
}

/// What a tcpdump has written.
#[derive(Debug)]
pub struct Dump {
    folder: TempDir,
}

impl Dump {
    /// All packets.
    pub fn total(&self) -> Result<Counted> {
        add_up(&fs::read(self.folder.path().join(ALL))?)
    }

    /// The packets that pass a filter in tcpdump's language (pcap-filter(7)).
    pub fn counted(&self, filter: &str) -> Result<Counted> {
        let place = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-Z", "root", "-r"]).arg(place(ALL)).arg("-w").arg(place("some.pcap")).arg(filter);
        let output = command.output().context("tcpdump")?;
        ensure!(output.status.success(), "tcpdump {filter:?}: {}", String::from_utf8_lossy(&output.stderr));
        add_up(&fs::read(place("some.pcap"))?)
    }
}

/// The sum of the packets in a file.
fn add_up(file: &[u8]) -> Result<Counted> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?)) };
    ensure!(word(0) == Some(MAGIC), "no file of tcpdump's");
    let (mut at, mut sum) = (FILE_HEADER, Counted::default());
    while at < file.len() {
        let (Some(kept), Some(len)) = (word(at + 8), word(at + 12)) else { bail!("a file that is cut off") };
        sum += Counted::new(1, u64::from(len) - ETHERNET, ETHERNET);
        at += PACKET_HEADER + usize::try_from(kept)?;
    }
    Ok(sum)
}
