//! What crosses a device, counted for each TCP connection from the packets themselves: the judge of whoever else counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;

use anyhow::Result;

use crate::netns::Netns;
use crate::sniffer::{self, Sniffer, VNET_HEADER};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sum {
    /// Packets on the wire; a super-packet is as many as it stands for.
    pub packets: u64,
    /// Bytes on the wire, Ethernet header included.
    pub bytes: u64,
    /// TCP payload, repeated bytes included.
    pub payload: u64,
    /// TCP payload below the end of the furthest payload that was seen before.
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
pub struct Wire(Sniffer<BTreeMap<Tuple, Flow>>);

impl Wire {
    /// Begins to count.
    pub fn watch(netns: &Netns, device: &str) -> Result<Self> {
        let count = |flows: &mut BTreeMap<Tuple, Flow>, bytes: &[u8], len, outgoing| {
            if let Some(packet) = Packet::parse(bytes, len) {
                let tuple = if outgoing { (packet.from, packet.to) } else { (packet.to, packet.from) };
                flows.entry(tuple).or_default().add(&packet, outgoing);
            }
        };
        Sniffer::watch(netns, device, count).map(Self)
    }

    /// What has passed so far. An error if packets were missed.
    pub fn flows(&self) -> Result<BTreeMap<Tuple, Flow>> {
        self.0.seen()
    }
}

/// What has passed on each device when nothing more comes.
pub fn settled<'a>(wires: impl Iterator<Item = &'a Wire> + Clone) -> Result<Vec<BTreeMap<Tuple, Flow>>> {
    sniffer::settled(|| wires.clone().map(Wire::flows).collect())
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

/// What of a TCP packet is of use here.
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    joins: bool,
    /// The reason of MP_TCPRST.
    pub(crate) reason: Option<u8>,
    pub(crate) sum: Sum,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
const ACK: u8 = 16;

/// Subtypes of MPTCP's option (RFC 8684 section 8.1).
const MP_JOIN: u8 = 1;
const MP_TCPRST: u8 = 8;

impl Packet {
    /// Reads a packet of `len` bytes whose beginning is `bytes`; `None` for what is not TCP.
    pub(crate) fn parse(bytes: &[u8], len: usize) -> Option<Self> {
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
        let options = bytes.get(tcp + 20..data)?;
        Some(Self {
            from: (addresses[0], half(tcp)?).into(),
            to: (addresses[1], half(tcp + 2)?).into(),
            sequence: u32::from_be_bytes(bytes.get(tcp + 4..tcp + 8)?.try_into().ok()?),
            flags: *bytes.get(tcp + 13)?,
            joins: mptcp_option(options, MP_JOIN).is_some(),
            // Behind the flags, which share a byte with the subtype.
            reason: mptcp_option(options, MP_TCPRST).and_then(|option| option.get(1).copied()),
            sum: Sum { packets: packets as u64, bytes: on_wire as u64, payload: payload as u64, retransmitted: 0 },
        })
    }
}

/// What of MPTCP's option of this subtype, if there is one among TCP's, follows its length (RFC 8684 section 3).
fn mptcp_option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [0, ..] | [] | [_] => return None,
            [kind, len, ..] => {
                let (option, rest) = options.split_at_checked(usize::from(len).max(2))?;
                match option {
                    [_, _, subtype, ..] if kind == 30 && subtype >> 4 == wanted => return Some(&option[2..]),
                    _ => options = rest,
                }
            }
        }
    }
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
        // A bare acknowledgement that overtakes data tells where that will end, and brings none of it.
        if sum.payload > 0 && end.wrapping_sub(highest).cast_signed() > 0 {
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
