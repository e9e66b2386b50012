//! What is put beside the agent's programs on an interface: nothing, anchors, and tools that count or watch as well.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mpsec_agent::kernel::ebpf::Kernel;
use mpsec_agent::kernel::tcx;
use mpsec_common::Direction;

use crate::net::{self, Pair};
use crate::program::{Anchors, load_agent};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nothing.
    None,
    /// Nothing, once more: the noise.
    NoneAgain,
    /// An empty program on every hook.
    Empty,
    /// The agent's programs.
    Ours,
    /// One nftables counter for each of TCP, UDP, ESP and the rest, on every hook.
    Nft,
    /// tcpdump, writing what it sees into nothing.
    Tcpdump,
    /// softflowd, keeping flows and exporting them to nobody.
    Softflowd,
}

impl Peer {
    /// All, nothing first.
    pub const ALL: [Peer; 7] =
        [Peer::None, Peer::NoneAgain, Peer::Empty, Peer::Ours, Peer::Nft, Peer::Tcpdump, Peer::Softflowd];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Peer::None => "nothing",
            Peer::NoneAgain => "nothing again",
            Peer::Empty => "empty program",
            Peer::Ours => "mpsec",
            Peer::Nft => "nft, four counters",
            Peer::Tcpdump => "tcpdump -w /dev/null",
            Peer::Softflowd => "softflowd",
        }
    }

    /// The program that must be installed.
    fn program(self) -> Option<&'static str> {
        match self {
            Peer::Nft => Some("nft"),
            Peer::Tcpdump => Some("tcpdump"),
            Peer::Softflowd => Some("softflowd"),
            _ => None,
        }
    }

    /// Why it cannot be measured here.
    pub fn missing(self) -> Option<&'static str> {
        self.program().filter(|program| !net::is_installed(program)).map(|_| "not installed")
    }
}

/// Where peers are put: one or both ends of a pair.
pub struct Stage {
    /// The two namespaces; the thread stands in the near one.
    pub pair: Pair,
    kernel: Kernel,
    anchors: Anchors,
    /// On both ends, or on the near one alone.
    both_ends: bool,
    near: u32,
    far: u32,
}

impl Stage {
    /// Makes the namespaces and loads the programs.
    pub fn new(both_ends: bool) -> Result<Stage> {
        let pair = Pair::new()?;
        let near = net::ifindex("near")?;
        let far = pair.in_far(|| net::ifindex("far"))?;
        // The two ends may have the same number; the programs then count both in one slot.
        Ok(Stage { kernel: load_agent(&[near, far])?, anchors: Anchors::load()?, pair, both_ends, near, far })
    }

    /// The agent's programs.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Puts a peer there, until it is dropped.
    pub fn put(&self, peer: Peer) -> Result<Running<'_>> {
        let mut running = Running { stage: self, links: Vec::new(), tables: false, child: None };
        match peer {
            Peer::None | Peer::NoneAgain => {}
            Peer::Empty => running.links = self.attach(|_| self.anchors.empty())?,
            Peer::Ours => running.links = self.attach(|direction| self.kernel.program(direction))?,
            Peer::Nft => {
                running.tables = true;
                self.on_ends(counters)?;
            }
            Peer::Tcpdump => running.start("tcpdump", "-n -i near -w /dev/null")?,
            Peer::Softflowd => {
                let dir = tempfile::tempdir()?;
                let (pid, control) = (dir.path().join("pid"), dir.path().join("control"));
                let words = format!("-d -i near -n 127.0.0.1:9995 -p {} -c {}", pid.display(), control.display());
                running.start("softflowd", &words)?;
            }
        }
        Ok(running)
    }

    fn attach<'a>(&self, program: impl Fn(Direction) -> BorrowedFd<'a>) -> Result<Vec<OwnedFd>> {
        let attach = |ifindex| -> io::Result<Vec<OwnedFd>> {
            Direction::ALL.into_iter().map(|direction| tcx::attach(program(direction), ifindex, direction)).collect()
        };
        let mut links = attach(self.near).context("attaching through TCX")?;
        if self.both_ends {
            links.extend(self.pair.in_far(|| Ok(attach(self.far)?))?);
        }
        Ok(links)
    }

    /// Does something in the near namespace, and in the far one if both are used.
    fn on_ends(&self, work: impl Fn(&str) -> Result<()>) -> Result<()> {
        work("near")?;
        if self.both_ends { self.pair.in_far(|| work("far")) } else { Ok(()) }
    }
}

/// A table of netdev chains that count by class.
fn counters(interface: &str) -> Result<()> {
    let mut rules = String::from("table netdev bench {\n");
    for hook in ["ingress", "egress"] {
        rules += &format!("chain {hook} {{ type filter hook {hook} device {interface} priority 0;\n");
        for class in ["meta l4proto tcp", "meta l4proto udp", "meta l4proto esp"] {
            rules += &format!("{class} counter accept\n");
        }
        rules += "counter\n}\n";
    }
    rules += "}\n";
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), rules)?;
    net::command("nft", &format!("-f {}", file.path().display()))
}

/// A peer that is there.
pub struct Running<'a> {
    stage: &'a Stage,
    /// Detach when they are dropped.
    links: Vec<OwnedFd>,
    tables: bool,
    child: Option<Child>,
}

impl Running<'_> {
    fn start(&mut self, program: &str, words: &str) -> Result<()> {
        let child = Command::new(program)
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let child = self.child.insert(child);
        // It opens a packet socket when it is ready.
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            let sockets = fs::read_to_string("/proc/thread-self/net/packet")?;
            if sockets.lines().count() > 1 {
                // The ring comes after the socket.
                std::thread::sleep(Duration::from_millis(100));
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!("{program} ended: {status}");
            }
        }
        bail!("{program} opened no packet socket");
    }

    /// CPU time that the peer's own process has taken.
    pub fn cpu(&self) -> Result<Duration> {
        match &self.child {
            Some(child) => Ok(crate::measure::process_cpu(child.id())?),
            None => Ok(Duration::ZERO),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.tables {
            let _ = self.stage.on_ends(|_| net::command("nft", "delete table netdev bench"));
        }
        self.links.clear();
    }
}
