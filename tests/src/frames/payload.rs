//! What IP packets carry: one sample for each way in which a class shows, and its near misses.

use super::{Packet, checksum, class};

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ESP: u8 = 50;
pub(super) const AH: u8 = 51;
pub(super) const ICMPV6: u8 = 58;

/// The payload of an IP packet.
#[derive(Clone, Debug)]
pub struct Payload {
    /// What it is, for people.
    pub name: String,
    /// The protocol number.
    pub protocol: u8,
    /// All bytes from the transport header on.
    pub bytes: Vec<u8>,
    /// How many of them a first fragment must hold so that the class shows.
    pub telling: usize,
    /// The class where they are there.
    pub class: &'static str,
}

impl Payload {
    fn new(name: &str, protocol: u8, bytes: Vec<u8>, telling: usize, class: &'static str) -> Self {
        Self { name: name.into(), protocol, bytes, telling, class }
    }

    /// The class of a later fragment: the protocol number is all that it tells.
    pub fn class_by_number(&self) -> &'static str {
        match self.protocol {
            ESP => class::ESP,
            AH => class::AH,
            TCP => class::TCP,
            UDP => class::UDP,
            ICMP | ICMPV6 => class::ICMP,
            _ => class::OTHER_IP,
        }
    }
}

/// Every sample that can be in a packet like `packet`.
pub(super) fn all(packet: &Packet) -> Vec<Payload> {
    let mut payloads = ipsec();
    payloads.extend(udp_samples());
    payloads.extend(tcp_samples());
    match packet {
        Packet::V4 { .. } => payloads.extend(only_v4()),
        Packet::V6 { .. } => payloads.extend(only_v6()),
    }
    for payload in &mut payloads {
        mend_checksum(packet, payload.protocol, &mut payload.bytes);
    }
    payloads
}

/// Writes the transport checksum where the protocol has one and the bytes reach that far.
pub(super) fn mend_checksum(packet: &Packet, protocol: u8, bytes: &mut [u8]) {
    let (at, pseudo) = match protocol {
        TCP => (16, packet.pseudo_header(protocol, bytes.len())),
        UDP => (6, packet.pseudo_header(protocol, bytes.len())),
        ICMPV6 => (2, packet.pseudo_header(protocol, bytes.len())),
        ICMP => (2, Vec::new()),
        _ => return,
    };
    if bytes.len() >= at + 2 {
        bytes[at..at + 2].fill(0);
        let sum = checksum(&[&pseudo, bytes]);
        bytes[at..at + 2].copy_from_slice(&sum);
    }
}

fn ipsec() -> Vec<Payload> {
    let esp = [&[0xc0, 0xff, 0xee, 1, 0, 0, 0, 9][..], &noise(40)].concat();
    let ah = [&[TCP, 4, 0, 0, 0xc0, 0xff, 0xee, 2, 0, 0, 0, 7][..], &noise(12), &tcp(&[], 20)].concat();
    vec![Payload::new("esp", ESP, esp, 8, class::ESP), Payload::new("ah around tcp", AH, ah, 24, class::AH)]
}

fn udp_samples() -> Vec<Payload> {
    let sample = |name: &str, source: u16, destination: u16, data: &[u8], class: &'static str| {
        // What is told from the data is told from at most 8 bytes of it.
        Payload::new(name, UDP, udp(source, destination, data), 8 + data.len().min(8), class)
    };
    let esp = [&[0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1][..], &noise(40)].concat();
    let marked_ike = [&[0; 4][..], &noise(40)].concat();
    let mut samples = vec![
        sample("esp in udp", 4500, 4500, &esp, class::ESP_UDP),
        sample("esp in udp from 4500", 4500, 31_000, &esp, class::ESP_UDP),
        sample("esp in udp to 4500", 31_000, 4500, &esp, class::ESP_UDP),
        sample("esp in udp, shortest", 4500, 4500, &esp[..8], class::ESP_UDP),
        sample("esp in udp, small spi", 4500, 4500, &[0, 0, 0, 1, 0, 0, 0, 1, 5], class::ESP_UDP),
        sample("ike", 500, 500, &noise(60), class::IKE),
        sample("ike from 500", 500, 31_000, &noise(60), class::IKE),
        sample("ike to 500", 31_000, 500, &noise(60), class::IKE),
        sample("ike behind nat", 4500, 4500, &marked_ike, class::IKE),
        sample("ike behind nat, to 4500", 31_000, 4500, &marked_ike, class::IKE),
        sample("keepalive", 4500, 4500, &[0xff], class::NAT_KEEPALIVE),
        sample("keepalive to 4500", 31_000, 4500, &[0xff], class::NAT_KEEPALIVE),
        sample("port 4500, empty", 4500, 4500, &[], class::UDP),
        sample("port 4500, other single byte", 4500, 4500, &[0xfe], class::UDP),
        sample("port 4500, keepalive twice", 4500, 4500, &[0xff, 0xff], class::UDP),
        sample("port 4500, too short for esp", 4500, 4500, &esp[..7], class::UDP),
        sample("dns", 31_000, 53, &noise(30), class::UDP),
        sample("empty udp", 31_000, 53, &[], class::UDP),
        sample("ports next to the known ones", 501, 4501, &esp, class::UDP),
    ];
    let wireguard = |kind: u8, len: usize| [&[kind, 0, 0, 0][..], &noise(len - 4)].concat();
    for (name, kind, len, class) in [
        ("wireguard initiation", 1, 148, class::WIREGUARD),
        ("wireguard response", 2, 92, class::WIREGUARD),
        ("wireguard cookie", 3, 64, class::WIREGUARD),
        ("wireguard data, empty", 4, 32, class::WIREGUARD),
        ("wireguard data", 4, 128, class::WIREGUARD),
        ("wireguard port, type 0", 0, 148, class::UDP),
        ("wireguard port, type 5", 5, 148, class::UDP),
        ("wireguard initiation, too short", 1, 147, class::UDP),
        ("wireguard response, too long", 2, 93, class::UDP),
        ("wireguard cookie, too short", 3, 63, class::UDP),
        ("wireguard data, too short", 4, 31, class::UDP),
    ] {
        samples.push(sample(name, 51_820, 51_820, &wireguard(kind, len), class));
    }
    let mut reserved = wireguard(4, 64);
    reserved[3] = 1;
    samples.push(sample("wireguard port, reserved byte set", 51_820, 51_820, &reserved, class::UDP));
    samples.push(sample("wireguard to its port", 31_000, 51_820, &wireguard(4, 64), class::WIREGUARD));
    samples.push(sample("wireguard from its port", 51_820, 31_000, &wireguard(1, 148), class::WIREGUARD));
    samples
}

fn tcp_samples() -> Vec<Payload> {
    let sample = |name: &str, options: &[u8], data: usize, class: &'static str| {
        Payload::new(name, TCP, tcp(options, data), 20 + options.len(), class)
    };
    let time_stamp = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let looks_like_mptcp = [1, 1, 8, 10, 30, 12, 30, 12, 30, 12, 30, 12];
    let capable = [30, 4, 1, 0x81];
    let join = [30, 12, 0x10, 2, 0xaa, 0xbb, 0xcc, 0xdd, 1, 2, 3, 4];
    let dss = [30, 20, 0x20, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 100, 0, 0];
    let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    vec![
        sample("tcp", &[], 40, class::TCP),
        sample("tcp without data", &[], 0, class::TCP),
        sample("tcp syn", &syn, 0, class::TCP),
        sample("tcp with time stamp", &time_stamp, 40, class::TCP),
        sample("tcp, 30 inside an option", &looks_like_mptcp, 40, class::TCP),
        sample("tcp, unknown option", &[253, 8, 30, 4, 30, 4, 30, 4], 40, class::TCP),
        sample("tcp, 30 behind the end of options", &[0, 30, 4, 0], 40, class::TCP),
        sample("tcp, illegal bytes behind the end of options", &[1, 0, 5, 0], 40, class::TCP),
        sample("tcp, 40 no-operations", &[1; 40], 40, class::TCP),
        sample("mptcp syn", &[&syn[..], &capable].concat(), 0, class::MPTCP),
        sample("mptcp alone", &capable, 40, class::MPTCP),
        sample("mptcp join", &[&syn[..], &join].concat(), 0, class::MPTCP),
        sample("mptcp data", &[&time_stamp[..], &dss].concat(), 60, class::MPTCP),
        sample("mptcp before others", &[&dss[..], &time_stamp].concat(), 60, class::MPTCP),
        sample("mptcp behind 36 no-operations", &[&[1; 36][..], &capable].concat(), 0, class::MPTCP),
        sample("mptcp fills the options", &[&[30, 40][..], &[7; 38]].concat(), 0, class::MPTCP),
    ]
}

fn only_v4() -> Vec<Payload> {
    let mut payloads = vec![
        Payload::new("echo request", ICMP, [&[8, 0, 0, 0, 0, 1, 0, 1][..], &noise(32)].concat(), 8, class::ICMP),
        Payload::new("unreachable", ICMP, [&[3, 1, 0, 0, 0, 0, 0, 0][..], &noise(28)].concat(), 8, class::ICMP),
    ];
    // 43, 44 and 60 are extension headers in IPv6 and nothing special here.
    for number in [2, 4, 41, 43, 44, 47, 60, 89, 132, 253] {
        payloads.push(Payload::new(&format!("protocol {number}"), number, noise(48), 8, class::OTHER_IP));
    }
    payloads
}

fn only_v6() -> Vec<Payload> {
    let message = |kind: u8, class| {
        let bytes = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &noise(32)].concat();
        Payload::new(&format!("icmpv6 {kind}"), ICMPV6, bytes, 8, class)
    };
    let mut payloads: Vec<_> = [1, 128, 129, 130, 132, 138, 143].map(|kind| message(kind, class::ICMP)).into();
    payloads.extend((133..=137).map(|kind| message(kind, class::NEIGHBOR_DISCOVERY)));
    for number in [2, 4, 41, 47, 89, 132, 253] {
        payloads.push(Payload::new(&format!("protocol {number}"), number, noise(48), 8, class::OTHER_IP));
    }
    payloads.push(Payload::new("no next header", 59, Vec::new(), 0, class::OTHER_IP));
    payloads
}

/// A TCP segment with the options given and `data` bytes of data.
pub(super) fn tcp(options: &[u8], data: usize) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut bytes = vec![0x79, 0x18, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 2];
    bytes.extend([(header_len * 4) as u8, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(noise(data));
    bytes
}

/// A UDP datagram.
pub(super) fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut bytes = [source, destination, len, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    bytes
}

/// Bytes that look like nothing in particular, the first of them not zero.
pub(super) fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(97).wrapping_add(0x5b)).collect()
}
