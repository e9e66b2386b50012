//! What a bulk TCP transfer costs with the programs attached to one end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mpsec_common::{Class, Direction};
use mpsec_tests::cpu::{cpus, pin};

use crate::Options;
use crate::measure::{cpu_time, interleave, median, pairs};
use crate::peers::{Peer, Stage};
use crate::program::counted;
use crate::report::{Row, Section};

/// What the agent may add with offloads on and off.
const GOALS: [(bool, f64); 2] = [(true, 1.02), (false, 1.07)];

/// `cargo xtask bench tcp`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    pin(*cpus().last().context("no CPU")?)?;
    let stage = Stage::new(false)?;
    GOALS.into_iter().map(|(offloads, goal)| section(options, &stage, offloads, goal)).collect()
}

fn section(options: &Options, stage: &Stage, offloads: bool, goal: f64) -> Result<Section> {
    stage.pair.set_offloads(offloads)?;
    let mut connection = Connection::new(stage)?;
    let megabytes = if offloads { 96 } else { 24 } / if options.quick { 4 } else { 1 };
    connection.transfer(megabytes)?;
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| peer.missing().is_none()).collect();
    let before = counted(stage.kernel(), Direction::Tx, Class::Tcp);
    let times = interleave(options.rounds, peers.len(), |_, subject| {
        let running = stage.put(peers[subject])?;
        let own = running.cpu()?;
        let (time, result) = cpu_time(|| connection.transfer(megabytes));
        result?;
        // Nanoseconds a kilobyte.
        let total = time + running.cpu()?.saturating_sub(own);
        anyhow::Ok(total.as_nanos() as f64 / (megabytes as f64 * 1e3))
    })?;
    ensure!(counted(stage.kernel(), Direction::Tx, Class::Tcp) > before, "the counters stand still");
    let measured = |peer: Peer| {
        let Some(index) = peers.iter().position(|other| *other == peer) else {
            return Row::skipped(peer.name(), peer.missing().unwrap_or_default());
        };
        let ratio = median(&pairs(&times[index], &times[0], |time, none| time / none));
        let row = Row::new(peer.name(), median(&times[index])).ratio(ratio);
        if peer == Peer::Ours { row.ratio_at_most(goal) } else { row }
    };
    Ok(Section {
        bench: "tcp",
        title: format!("TCP in bulk over a veth pair, offloads {}", if offloads { "on" } else { "off" }),
        method: format!(
            "CPU time of one thread that writes and reads {megabytes} MB over one connection between two namespaces, and of \
             the peer's own process. Programs on both hooks of one end."
        ),
        unit: "ns/kB",
        against: "nothing",
        rows: Peer::ALL.into_iter().map(measured).collect(),
    })
}

/// Both ends of a connection, in one thread.
struct Connection {
    sender: TcpStream,
    receiver: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn new(stage: &Stage) -> Result<Connection> {
        let listener = stage.pair.in_far(|| Ok(TcpListener::bind("10.77.0.2:0")?))?;
        let sender = TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(5))?;
        let (receiver, _) = listener.accept()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Connection { sender, receiver, buffer: vec![0x5a; 256 * 1024] })
    }

    /// Writes as much as fits, reads what is there, and so on.
    fn transfer(&mut self, megabytes: usize) -> Result<()> {
        let total = megabytes * 1_000_000;
        let (mut sent, mut received) = (0, 0);
        while received < total {
            if sent < total {
                let len = self.buffer.len().min(total - sent);
                match self.sender.write(&self.buffer[..len]) {
                    Ok(written) => sent += written,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            loop {
                match self.receiver.read(&mut self.buffer) {
                    Ok(0) => anyhow::bail!("the connection ended"),
                    Ok(read) => received += read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}
