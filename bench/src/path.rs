//! What small UDP packets cost on their whole way, from one socket to the other.

use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::{io, mem, ptr};

use anyhow::{Context as _, Result, ensure};
use mpsec_common::{Class, Direction};
use mpsec_tests::cpu::{cpus, pin};

use crate::Options;
use crate::measure::{cpu_time, interleave, median, pairs};
use crate::peers::{Peer, Stage};
use crate::program::counted;
use crate::report::{Row, Section};

/// Bytes of payload.
const PAYLOAD: usize = 64;
/// Packets in one system call.
const BATCH: usize = 32;

/// `cargo xtask bench path`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    pin(*cpus().last().context("no CPU")?)?;
    let stage = Stage::new(true)?;
    let receiver = stage.pair.in_far(|| Ok(UdpSocket::bind("10.77.0.2:4433")?))?;
    let sender = UdpSocket::bind("10.77.0.1:40000")?;
    sender.connect(receiver.local_addr()?)?;
    receiver.set_nonblocking(true)?;
    let packets = if options.quick { 20_000 } else { 100_000 };
    exchange(&sender, &receiver, packets)?;
    let peers: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| peer.missing().is_none()).collect();
    let before = counted(stage.kernel(), Direction::Tx, Class::Udp);
    let times = interleave(options.rounds, peers.len(), |_, subject| {
        let running = stage.put(peers[subject])?;
        let own = running.cpu()?;
        let (time, result) = cpu_time(|| exchange(&sender, &receiver, packets));
        result?;
        let total = time + running.cpu()?.saturating_sub(own);
        anyhow::Ok(total.as_nanos() as f64 / packets as f64)
    })?;
    let risen = counted(stage.kernel(), Direction::Tx, Class::Udp) - before;
    ensure!(risen >= (packets * options.rounds) as u64, "only {risen} packets were counted");
    let measured = |peer: Peer| match peers.iter().position(|other| *other == peer) {
        Some(index) => Row::new(peer.name(), median(&times[index])).ratio(median(&pairs(
            &times[index],
            &times[0],
            |time, none| time / none,
        ))),
        None => Row::skipped(peer.name(), peer.missing().unwrap_or_default()),
    };
    Ok(vec![Section {
        bench: "path",
        title: format!("UDP with {PAYLOAD} bytes over a veth pair, one flow"),
        method: format!(
            "CPU time a packet of one thread that sends and receives {packets} packets, {BATCH} in a system call, and of the \
             peer's own process. Programs and chains are on both hooks of both ends, of which a packet meets two; tcpdump \
             and softflowd watch one end."
        ),
        unit: "ns/packet",
        against: "nothing",
        rows: Peer::ALL.into_iter().map(measured).collect(),
    }])
}

/// Sends and receives in turns.
fn exchange(sender: &UdpSocket, receiver: &UdpSocket, packets: usize) -> io::Result<()> {
    let mut batch = Batch::new();
    let mut left = packets;
    while left > 0 {
        let count = left.min(BATCH);
        let sent = batch.send(sender, count)?;
        let mut received = 0;
        while received < sent {
            received += batch.receive(receiver, sent - received)?;
        }
        left -= sent;
    }
    Ok(())
}

/// Messages for sendmmsg(2) and recvmmsg(2).
struct Batch {
    payload: Box<[u8; PAYLOAD]>,
}

impl Batch {
    fn new() -> Batch {
        Batch { payload: Box::new([0x5a; PAYLOAD]) }
    }

    /// Calls `work` with `count` messages, which all lie in the same place: nobody looks at what comes.
    fn with<T>(&mut self, work: impl FnOnce(*mut libc::mmsghdr) -> T) -> T {
        let mut part = libc::iovec { iov_base: self.payload.as_mut_ptr().cast(), iov_len: PAYLOAD };
        // SAFETY: all zeroes is a message without a name, parts and control data.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        for message in &mut messages {
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (&raw mut part, 1);
        }
        work(messages.as_mut_ptr())
    }

    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let socket = socket.as_raw_fd();
        // SAFETY: `with` gives at least `count` whole messages, whose parts outlive the call.
        done(self.with(|messages| unsafe { libc::sendmmsg(socket, messages, count as u32, 0) }))
    }

    fn receive(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let socket = socket.as_raw_fd();
        // SAFETY: as in `send`; without a timeout the last argument may be null.
        done(self.with(|messages| unsafe { libc::recvmmsg(socket, messages, count as u32, 0, ptr::null_mut()) }))
    }
}

fn done(result: libc::c_int) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}
