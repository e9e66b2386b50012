//! What crosses a device, counted for each TCP connection from the packets themselves: the judge of whoever else counts.

use std::collections::BTreeMap;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::netns::{Netns, check};
use crate::packet_socket::PacketSocket;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h) before each packet: how it is kept together.
const VNET_HEADER: usize = 10;
/// Room for the longest headers.
const SNAP: usize = VNET_HEADER + ETHERNET + 60 + 60;
/// Room for packets that wait to be counted.
const QUEUE_BYTES: libc::c_int = 128 << 20;
/// How often the thread looks whether it shall end.
const TURN: Duration = Duration::from_millis(20);
/// Nothing is on its way when nothing has come for so long: longer than an acknowledgement is delayed (TCP_DELACK_MAX in
/// include/net/tcp.h, Linux 6.18: 200 ms).
const QUIET: Duration = Duration::from_millis(260);

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sum {
    /// Packets on the wire; a super-packet is as many as it stands for.
    pub packets: u64,
    /// Bytes on the wire, Ethernet header included.
    pub bytes: u64,
    /// TCP payload, repeated bytes included.
    pub payload: u64,
    /// TCP payload below the highest sequence number that was seen before.
    pub retransmitted: u64,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.payload += other.payload;
        self.retransmitted += other.retransmitted;
    }
}

/// A TCP connection as the device's host sees it: local and remote address.
pub type Tuple = (SocketAddr, SocketAddr);

/// What passed of one TCP connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flow {
    /// Received by the host.
    pub rx: Sum,
    /// Sent by the host.
    pub tx: Sum,
    /// A SYN with MP_JOIN was seen, rather than MP_CAPABLE or none.
    pub joined: bool,
    /// A SYN was answered.
    pub answered: bool,
    /// FINs and resets seen, repeated ones included.
    pub fins: u64,
    /// Resets among them.
    pub resets: u64,
    next: [Option<u32>; 2],
}

/// Counts on a device from the moment that it is made.
#[derive(Debug)]
pub struct Wire {
    flows: Arc<Mutex<BTreeMap<Tuple, Flow>>>,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Result<()>>>,
    socket: Arc<PacketSocket>,
}

impl Wire {
    /// Begins to count.
    pub fn watch(netns: &Netns, device: &str) -> Result<Self> {
        let socket = Arc::new(PacketSocket::receiver(netns, device)?);
        socket.set(libc::PACKET_VNET_HDR, 1 as libc::c_int)?;
        let (size, len) = (QUEUE_BYTES, size_of::<libc::c_int>() as libc::socklen_t);
        let (from, fd) = ((&raw const size).cast(), socket.fd());
        // SAFETY: the pointer and the length are those of `size`.
        check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, from, len) })
            .context("SO_RCVBUFFORCE")?;
        let (flows, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let worker = {
            let (flows, stop, socket) = (Arc::clone(&flows), Arc::clone(&stop), Arc::clone(&socket));
            thread::Builder::new().name("wire".into()).spawn(move || count(&socket, &flows, &stop))?
        };
        Ok(Self { flows, stop, worker: Some(worker), socket })
    }

    /// What has passed so far. An error if packets were missed.
    pub fn flows(&self) -> Result<BTreeMap<Tuple, Flow>> {
        // SAFETY: all zeros is a value of this structure of integers.
        let mut stats: libc::tpacket_stats = unsafe { zeroed() };
        let mut len = size_of_val(&stats) as libc::socklen_t;
        let (fd, to) = (self.socket.fd(), (&raw mut stats).cast());
        // SAFETY: `stats` has room for `len` bytes.
        check(unsafe { libc::getsockopt(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS, to, &raw mut len) })?;
        ensure!(stats.tp_drops == 0, "the capture missed {} packets", stats.tp_drops);
        ensure!(self.worker.as_ref().is_some_and(|worker| !worker.is_finished()), "the capture has ended");
        Ok(self.flows.lock().map_err(|_| anyhow!("the capture panicked"))?.clone())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

/// What has passed on each device when nothing more comes.
pub fn settled<'a>(wires: impl Iterator<Item = &'a Wire> + Clone) -> Result<Vec<BTreeMap<Tuple, Flow>>> {
    let read = || wires.clone().map(Wire::flows).collect::<Result<Vec<_>>>();
    let (start, mut last, mut since) = (Instant::now(), read()?, Instant::now());
    while since.elapsed() < QUIET {
        ensure!(start.elapsed() < Duration::from_secs(20), "traffic that does not end");
        thread::sleep(TURN);
        let now = read()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// Everything together, received and sent.
pub fn total<'a>(flows: impl IntoIterator<Item = &'a Flow>) -> (Sum, Sum) {
    let (mut rx, mut tx) = (Sum::default(), Sum::default());
    for flow in flows {
        rx += flow.rx;
        tx += flow.tx;
    }
    (rx, tx)
}

fn count(socket: &PacketSocket, flows: &Mutex<BTreeMap<Tuple, Flow>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; SNAP];
    while !stop.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, as the count says.
        if unsafe { libc::poll(&raw mut poll, 1, i32::try_from(TURN.as_millis())?) } <= 0 {
            continue;
        }
        // One turn at the lock takes what there is, so that reading packets stays quick.
        let mut flows = flows.lock().map_err(|_| anyhow!("a reader panicked"))?;
        for _ in 0..256 {
            let Some((len, outgoing)) = receive(socket, &mut buffer)? else { break };
            if let Some(packet) = Packet::parse(&buffer[..len.min(SNAP)], len) {
                let tuple = if outgoing { (packet.from, packet.to) } else { (packet.to, packet.from) };
                flows.entry(tuple).or_default().add(&packet, outgoing);
            }
        }
    }
    Ok(())
}

/// The length of the next packet, the header before it included, and whether the host sends it.
fn receive(socket: &PacketSocket, buffer: &mut [u8; SNAP]) -> Result<Option<(usize, bool)>> {
    // SAFETY: all zeros is a value of this structure of integers.
    let mut from: libc::sockaddr_ll = unsafe { zeroed() };
    let mut len = size_of_val(&from) as libc::socklen_t;
    let (fd, to, name) = (socket.fd(), buffer.as_mut_ptr().cast(), (&raw mut from).cast());
    // SAFETY: the buffer has SNAP bytes and `from` has `len`.
    let got = unsafe { libc::recvfrom(fd, to, SNAP, libc::MSG_DONTWAIT | libc::MSG_TRUNC, name, &raw mut len) };
    match usize::try_from(got) {
        Ok(got) => Ok(Some((got, from.sll_pkttype == libc::PACKET_OUTGOING))),
        Err(_) => match io::Error::last_os_error() {
            // ENETDOWN is told once when the device goes down, and packets come again when it is up.
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENETDOWN)) => Ok(None),
            error => bail!("capture: {error}"),
        },
    }
}

/// What of a TCP packet is of use here.
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    flags: u8,
    joins: bool,
    sum: Sum,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Packet {
    /// Reads a packet of `len` bytes whose beginning is `bytes`; `None` for what is not TCP.
    fn parse(bytes: &[u8], len: usize) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let gso_size = usize::from(u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?));
        let ip = VNET_HEADER + ETHERNET;
        let (tcp, end, addresses) = match half(ip - 2)? {
            0x0800 if bytes.get(ip + 9) == Some(&6) => {
                let address = |at: usize| <[u8; 4]>::try_from(bytes.get(at..at + 4)?).map(IpAddr::from).ok();
                let header = usize::from(bytes[ip] & 15) * 4;
                (ip + header, ip + usize::from(half(ip + 2)?), [address(ip + 12)?, address(ip + 16)?])
            }
            0x86dd if bytes.get(ip + 6) == Some(&6) => {
                let address = |at: usize| <[u8; 16]>::try_from(bytes.get(at..at + 16)?).map(IpAddr::from).ok();
                (ip + 40, ip + 40 + usize::from(half(ip + 4)?), [address(ip + 8)?, address(ip + 24)?])
            }
            _ => return None,
        };
        let data = tcp + usize::from(bytes.get(tcp + 12)? >> 4) * 4;
        let payload = end.checked_sub(data)?;
        let packets = if gso_size == 0 { 1 } else { payload.div_ceil(gso_size).max(1) };
        let headers = data - VNET_HEADER;
        let on_wire = len - VNET_HEADER + (packets - 1) * headers;
        Some(Self {
            from: (addresses[0], half(tcp)?).into(),
            to: (addresses[1], half(tcp + 2)?).into(),
            sequence: u32::from_be_bytes(bytes.get(tcp + 4..tcp + 8)?.try_into().ok()?),
            flags: *bytes.get(tcp + 13)?,
            joins: joins(bytes.get(tcp + 20..data)?),
            sum: Sum { packets: packets as u64, bytes: on_wire as u64, payload: payload as u64, retransmitted: 0 },
        })
    }
}

/// Whether there is an MP_JOIN (RFC 8684 section 3.2) among the options of TCP.
fn joins(mut options: &[u8]) -> bool {
    while let Some((&kind, rest)) = options.split_first() {
        match (kind, rest.first()) {
            (0, _) | (_, None) => return false,
            (1, _) => options = rest,
            (30, _) => {
                if rest.get(1).is_some_and(|subtype| subtype >> 4 == 1) {
                    return true;
                }
                options = rest.get(usize::from(rest[0]).max(2) - 1..).unwrap_or_default();
            }
            (_, Some(&len)) => options = rest.get(usize::from(len).max(2) - 1..).unwrap_or_default(),
        }
    }
    false
}

impl Flow {
    fn add(&mut self, packet: &Packet, outgoing: bool) {
        let mut sum = packet.sum;
        let next = &mut self.next[usize::from(outgoing)];
        let begin = packet.sequence.wrapping_add(u32::from(packet.flags & SYN != 0));
        let end = begin.wrapping_add(sum.payload as u32);
        let highest = *next.get_or_insert(begin);
        let below = highest.wrapping_sub(begin).cast_signed();
        sum.retransmitted = u64::try_from(below).unwrap_or(0).min(sum.payload);
        if end.wrapping_sub(highest).cast_signed() > 0 {
            *next = Some(end);
        }
        if outgoing {
            self.tx += sum;
        } else {
            self.rx += sum;
        }
        self.joined |= packet.flags & SYN != 0 && packet.joins;
        self.answered |= packet.flags & (SYN | ACK) == SYN | ACK;
        self.fins += u64::from(packet.flags & (FIN | RST) != 0);
        self.resets += u64::from(packet.flags & RST != 0);
    }

    /// Everything that passed either way.
    pub fn both(&self) -> Sum {
        let mut sum = self.rx;
        sum += self.tx;
        sum
    }
}
