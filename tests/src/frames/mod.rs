//! Crafted frames, each with what must be said of it.
//!
//! The expectation comes from how a frame is put together, never from parsing it: a payload knows its class, a shape knows
//! whether the payload's header is still in the packet, and a flaw makes the frame malformed.

pub mod flaws;
mod ip;
mod matrix;
mod payload;

pub use ip::{Extension, Packet};
pub use matrix::{Part, Shape, Tags, matrix};
pub use payload::Payload;

/// The values of the label `class`.
pub mod class {
    /// IPsec ESP over IP.
    pub const ESP: &str = "esp";
    /// IPsec ESP in UDP port 4500.
    pub const ESP_UDP: &str = "esp_udp";
    /// IPsec AH.
    pub const AH: &str = "ah";
    /// The key exchange of IPsec.
    pub const IKE: &str = "ike";
    /// What keeps the port mapping of an ESP-in-UDP path alive.
    pub const NAT_KEEPALIVE: &str = "nat_keepalive";
    /// One of WireGuard's four messages.
    pub const WIREGUARD: &str = "wireguard";
    /// TCP with an MPTCP option.
    pub const MPTCP: &str = "mptcp";
    /// TCP without one.
    pub const TCP: &str = "tcp";
    /// UDP that is none of the above.
    pub const UDP: &str = "udp";
    /// ICMP, and ICMPv6 that is not neighbour discovery.
    pub const ICMP: &str = "icmp";
    /// ARP.
    pub const ARP: &str = "arp";
    /// ICMPv6 types 133 to 137.
    pub const NEIGHBOR_DISCOVERY: &str = "neighbor_discovery";
    /// IP with a payload that is none of the above.
    pub const OTHER_IP: &str = "other_ip";
    /// Not IP.
    pub const OTHER: &str = "other";
    /// Headers that contradict each other or the frame's length.
    pub const MALFORMED: &str = "malformed";

    /// All of them.
    pub const ALL: [&str; 15] = [
        ESP,
        ESP_UDP,
        AH,
        IKE,
        NAT_KEEPALIVE,
        WIREGUARD,
        MPTCP,
        TCP,
        UDP,
        ICMP,
        ARP,
        NEIGHBOR_DISCOVERY,
        OTHER_IP,
        OTHER,
        MALFORMED,
    ];
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET_LEN: usize = 14;

/// A frame and what must be said of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is, for people.
    pub name: String,
    /// All bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Bytes before the network header: the Ethernet header and the tags.
    pub link_len: usize,
    /// The class that it must be counted in.
    pub class: &'static str,
}

impl Case {
    /// Bytes on the wire, as the device counts them.
    pub fn wire_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes from the network header on.
    pub fn l3_bytes(&self) -> u64 {
        self.l3().len() as u64
    }

    /// The packet without its link header, as a tun device carries it.
    pub fn l3(&self) -> &[u8] {
        &self.bytes[self.link_len..]
    }

    /// True for an IP packet that a tun device takes: it looks at the version alone.
    pub fn fits_tun(&self) -> bool {
        let version = self.l3().first().map(|byte| byte >> 4);
        let ethertype = [self.bytes[self.link_len - 2], self.bytes[self.link_len - 1]];
        matches!((ethertype, version), (IPV4, Some(4)) | (IPV6, Some(6)))
    }
}

/// EtherType of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

/// Puts a packet into a frame. The destination is nobody's address, so that no host answers.
pub fn frame(tags: Tags, ethertype: [u8; 2], l3: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x02, 0, 0, 0, 0, 0xfe, 0x02, 0, 0, 0, 0, 0x01];
    for (number, protocol) in tags.protocols().iter().enumerate() {
        bytes.extend(protocol);
        bytes.extend([0x20, 5 + number as u8]);
    }
    bytes.extend(ethertype);
    bytes.extend(l3);
    bytes
}

/// Every case there is: the matrix, what is not IP, and what is broken.
pub fn all() -> Vec<Case> {
    let mut cases = matrix();
    cases.extend(flaws::all());
    cases
}

/// The one's complement sum of RFC 1071, complemented, over `parts` as if they were one; all but the last are of even
/// length.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_class_occurs() {
        let cases = all();
        let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        let classes: HashSet<_> = cases.iter().map(|case| case.class).collect();
        assert_eq!(classes, HashSet::from(class::ALL));
        assert!(cases.len() > 1000, "{}", cases.len());
    }

    #[test]
    fn frames_fit_the_mtu_and_say_where_their_network_header_is() {
        for case in all() {
            assert!(case.bytes.len() <= ETHERNET_LEN + 1500, "{}", case.name);
            assert!([14, 18, 22].contains(&case.link_len), "{}", case.name);
        }
    }

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), (!0xddf2_u16).to_be_bytes());
        assert_eq!(checksum(&[&[0xff]]), [0x00, 0xff]);
    }
}
