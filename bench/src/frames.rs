//! Frames to run programs on.

use mpsec_common::Class;

/// A frame and what it must be counted as.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Name of the case.
    pub name: &'static str,
    /// Its class.
    pub class: Class,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A short frame of a class; none of what is known by something else than its bytes.
pub fn of(class: Class) -> Option<Vec<u8>> {
    let v4 = |protocol, payload: &[u8], len| ethernet(&[], &ipv4(protocol, payload, len));
    let datagram = |port, payload: &[u8], len| v4(17, &udp(port, port, payload, len - 20), len);
    Some(match class {
        Class::Esp => v4(50, &ESP, 60),
        Class::EspUdp => datagram(4500, &ESP, 60),
        Class::Ah => v4(51, &[6, 4, 0, 0], 60),
        Class::Ike => datagram(500, &[], 60),
        Class::NatKeepalive => datagram(4500, &[0xff], 29),
        Class::Wireguard => datagram(51820, &[4, 0, 0, 0], 60),
        Class::Mptcp => v4(6, &tcp(2, &[SYN, MP_CAPABLE].concat()), 64),
        Class::Tcp => v4(6, &tcp(0x10, TIMESTAMP), 60),
        Class::Udp => datagram(40000, &[], 60),
        Class::Icmp => v4(1, &[8, 0, 0, 0], 60),
        Class::Arp => arp(),
        Class::NeighborDiscovery => ethernet(&[], &ipv6(58, &[135, 0, 0, 0])),
        Class::OtherIp => v4(99, &[], 60),
        Class::Other => [&[0xff; 12][..], &[0x88, 0xcc], &[0; 46]].concat(),
        Class::Malformed => ethernet(&[], &[0x41; 46]),
        Class::Decrypted => return None,
    })
}

/// What an IP packet measures unless the case says otherwise.
const MTU: usize = 1500;

/// All cases, the goals' first.
pub fn all() -> Vec<Frame> {
    let frame = |name, class, bytes| Frame { name, class, bytes };
    let tcp_segment = || tcp(0x10, TIMESTAMP);
    let plain = |l3: Vec<u8>| ethernet(&[], &l3);
    vec![
        frame("tcp", Class::Tcp, plain(ipv4(6, &tcp_segment(), MTU))),
        frame("udp", Class::Udp, plain(ipv4(17, &udp(40000, 4433, &[1, 2, 3, 4], MTU - 20), MTU))),
        frame("esp", Class::Esp, plain(ipv4(50, &ESP, MTU))),
        frame("esp_udp", Class::EspUdp, plain(ipv4(17, &udp(4500, 4500, &ESP, MTU - 20), MTU))),
        frame("ipv6 tcp", Class::Tcp, plain(ipv6(6, &tcp_segment()))),
        frame("ipv6 udp", Class::Udp, plain(ipv6(17, &udp(40000, 4433, &[1, 2, 3, 4], MTU - 40)))),
        frame("ipv6 esp", Class::Esp, plain(ipv6(50, &ESP))),
        frame("vlan tcp", Class::Tcp, ethernet(&[0x8100], &ipv4(6, &tcp_segment(), MTU))),
        frame("qinq tcp", Class::Tcp, ethernet(&[0x88a8, 0x8100], &ipv4(6, &tcp_segment(), MTU))),
        frame("ipv6 extensions tcp", Class::Tcp, plain(ipv6(0, &[&extensions(6), &tcp_segment()[..]].concat()))),
        frame("mptcp dss", Class::Mptcp, plain(ipv4(6, &tcp(0x10, &[TIMESTAMP, DSS].concat()), MTU))),
        frame("wireguard", Class::Wireguard, plain(ipv4(17, &udp(51820, 51820, &[4, 0, 0, 0], MTU - 20), MTU))),
        frame("tcp without options", Class::Tcp, plain(ipv4(6, &tcp(0x10, &[]), MTU))),
        frame("tcp syn", Class::Tcp, plain(ipv4(6, &tcp(2, SYN), 60))),
        frame("mptcp syn", Class::Mptcp, plain(ipv4(6, &tcp(2, &[SYN, MP_CAPABLE].concat()), 64))),
        frame("tcp, 40 one-byte options", Class::Tcp, plain(ipv4(6, &tcp(0x10, &[1; 40]), MTU))),
        frame("arp", Class::Arp, arp()),
    ]
}

/// Two no-operations and a time stamp, as on every segment of an established connection.
const TIMESTAMP: &[u8] = &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
/// What Linux puts on a SYN.
const SYN: &[u8] = &[2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
/// RFC 8684 section 3.1, version 1, HMAC-SHA256.
const MP_CAPABLE: &[u8] = &[30, 4, 1, 1];
/// A mapping and an acknowledgement, 8 bytes each (RFC 8684 section 3.3), with four bytes of padding.
const DSS: &[u8] = &[30, 26, 0x20, 0x0f, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 5, 160, 1, 1];
/// Security parameter index and sequence number; the ciphertext may be anything.
const ESP: [u8; 8] = [0xc0, 1, 2, 3, 0, 0, 0, 1];

/// An Ethernet header with tags of these kinds, and what is behind it.
fn ethernet(tags: &[u16], l3: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 42]);
    }
    frame.extend(if l3[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(l3);
    frame
}

/// An IPv4 packet of `len` bytes that begins with `payload`.
pub fn ipv4(protocol: u8, payload: &[u8], len: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2];
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet.extend(payload);
    packet.resize(len, 0x5a);
    packet
}

/// An IPv6 packet of [`MTU`] bytes that begins with `payload`.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet[4..6].copy_from_slice(&((MTU - 40) as u16).to_be_bytes());
    for host in 1..=2 {
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    packet.extend(payload);
    packet.resize(MTU, 0x5a);
    packet
}

/// Hop-by-hop and destination options of 8 bytes each, in front of `next`.
fn extensions(next: u8) -> [u8; 16] {
    [60, 0, 1, 4, 0, 0, 0, 0, next, 0, 1, 4, 0, 0, 0, 0]
}

fn tcp(flags: u8, options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0, "options fill whole words");
    let words = 5 + options.len() as u8 / 4;
    let mut header = vec![0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, words << 4, flags, 1, 0, 0, 0, 0, 0];
    header.extend(options);
    header
}

/// A UDP header for a datagram of `len` bytes, and the beginning of its payload.
pub fn udp(source: u16, destination: u16, payload: &[u8], len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for word in [source, destination, len as u16, 0] {
        header.extend(word.to_be_bytes());
    }
    header.extend(payload);
    header
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 2, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use mpsec_common::packet::{Context, classify_slice};

    use super::*;

    #[test]
    fn frames_are_what_they_are_called() {
        for frame in all() {
            assert_eq!(classify_slice(&frame.bytes, &Context::ETHERNET).class, frame.class, "{}", frame.name);
        }
        for (class, frame) in Class::ALL.iter().filter_map(|class| Some((class, of(*class)?))) {
            assert_eq!(classify_slice(&frame, &Context::ETHERNET).class, *class);
        }
    }
}
