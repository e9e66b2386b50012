//! What crosses a device, added up by what it is: the judge of the agent's classes, which reads packets in its own way.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::counted::Counted;
use crate::frames::class;
use crate::netns::Netns;
use crate::sniffer::{Sniffer, VNET_HEADER};

/// Sums by class, received and sent, as the host has it that the device belongs to.
pub type Sums = [BTreeMap<&'static str, Counted>; 2];

/// Counts on a device from the moment that it is made.
#[derive(Debug)]
pub struct Tally(Sniffer<Sums>);

impl Tally {
    /// Begins to count on an Ethernet device.
    pub fn watch(netns: &Netns, device: &str) -> Result<Self> {
        let count = |sums: &mut Sums, bytes: &[u8], len, outgoing| {
            if let Some((class, counted)) = read(bytes, len) {
                *sums[usize::from(outgoing)].entry(class).or_default() += counted;
            }
        };
        Sniffer::watch(netns, device, count).map(Self)
    }

    /// What has passed so far. An error if packets were missed.
    pub fn sums(&self) -> Result<Sums> {
        self.0.seen()
    }
}

/// The sum of one class, or nothing.
pub fn of(sums: &BTreeMap<&'static str, Counted>, class: &str) -> Counted {
    sums.get(class).copied().unwrap_or_default()
}

const ETHERNET: usize = 14;

/// What a packet is, and how much it is, a super-packet as many as it stands for.
fn read(bytes: &[u8], len: usize) -> Option<(&'static str, Counted)> {
    let gso_size = usize::from(u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?));
    let frame = bytes.get(VNET_HEADER..)?;
    let (l3_len, packet) = (len - VNET_HEADER - ETHERNET, frame.get(ETHERNET..)?);
    let (class, headers) = match (frame[12], frame[13]) {
        (0x08, 0x00) if is_later_fragment(packet) => (later_fragment(*packet.get(9)?), 0),
        (0x08, 0x00) => transport(*packet.get(9)?, packet, usize::from(packet.first()? & 15) * 4)?,
        (0x86, 0xdd) => transport(*packet.get(6)?, packet, 40)?,
        (0x08, 0x06) => (class::ARP, 0),
        _ => (class::OTHER, 0),
    };
    let packets = if gso_size == 0 { 1 } else { (l3_len - headers).div_ceil(gso_size).max(1) };
    let l3_bytes = l3_len + (packets - 1) * headers;
    Some((class, Counted::new(packets as u64, l3_bytes as u64, ETHERNET as u64)))
}

/// Whether a packet of IPv4 is a fragment behind the first one.
fn is_later_fragment(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|high| high & 0x1f != 0) || packet.get(7).is_some_and(|low| *low != 0)
}

/// Such a fragment has no header but that of IP, and no ports.
fn later_fragment(protocol: u8) -> &'static str {
    match protocol {
        6 => class::TCP,
        17 => class::UDP,
        50 => class::ESP,
        _ => class::OTHER_IP,
    }
}

/// The class of an IP packet by its protocol, and the length of its headers, of which those of IP have `at` bytes.
fn transport(protocol: u8, packet: &[u8], at: usize) -> Option<(&'static str, usize)> {
    let header = packet.get(at..)?;
    Some(match protocol {
        50 => (class::ESP, at),
        // What is encrypted stays that behind an authentication header.
        51 => (if header.first() == Some(&50) { class::ESP } else { class::AH }, at),
        1 => (class::ICMP, at),
        58 if (133..=137).contains(header.first()?) => (class::NEIGHBOR_DISCOVERY, at),
        58 => (class::ICMP, at),
        17 => (datagram(header)?, at + 8),
        6 => {
            let header_len = usize::from(header.get(12)? >> 4) * 4;
            let options = header.get(20..header_len)?;
            (if has_mptcp(options) { class::MPTCP } else { class::TCP }, at + header_len)
        }
        _ => (class::OTHER_IP, at),
    })
}

/// RFC 3948 and RFC 7296 section 2.23: what follows port 4500 is told by its first four bytes.
fn datagram(header: &[u8]) -> Option<&'static str> {
    let half = |at: usize| Some(u16::from_be_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let ports = [half(0)?, half(2)?];
    if ports.contains(&500) {
        return Some(class::IKE);
    }
    if !ports.contains(&4500) {
        return Some(class::UDP);
    }
    Some(match (half(4)?, header.get(8..12)) {
        (9, _) => class::NAT_KEEPALIVE,
        (_, Some([0, 0, 0, 0])) => class::IKE,
        _ => class::ESP_UDP,
    })
}

/// Whether there is an option of MPTCP (RFC 8684, kind 30).
fn has_mptcp(mut options: &[u8]) -> bool {
    while let Some((&kind, rest)) = options.split_first() {
        match (kind, rest.first()) {
            (30, _) => return true,
            (0, _) | (_, None) => return false,
            (1, _) => options = rest,
            (_, Some(&len)) => options = rest.get(usize::from(len).max(2) - 1..).unwrap_or_default(),
        }
    }
    false
}
