//! Packets whose headers contradict each other or the length of the frame.

use super::ip::{DESTINATION, HOP_BY_HOP, mend_v4_checksum};
use super::payload::{self, ICMP, ICMPV6, TCP, UDP};
use super::{Case, Extension, IPV4, IPV6, Packet, Tags, class, frame};

/// More extension headers than any sensible packet has.
const TOO_MANY: usize = 40;

/// Bytes that have to follow a lone tag: with fewer the kernel drops the frame before TC sees it (`skb_vlan_untag` in
/// net/core/skbuff.c, Linux 6.18).
const SHORTEST_TAGGED: usize = 2;

/// A flaw: its name, the EtherType, and the packet.
type Flaw = (String, [u8; 2], Vec<u8>);

/// Every flawed packet, in frames with and without tags.
pub fn all() -> Vec<Case> {
    let mut flaws = v4();
    flaws.extend(v6());
    for packet in [Packet::v4(), Packet::v6(), Packet::V6 { extensions: vec![Extension::options(DESTINATION, 1)] }] {
        flaws.extend(transport(&packet));
    }
    let tagged = Tags::ALL.into_iter().flat_map(|tags| flaws.iter().map(move |flaw| (tags, flaw)));
    tagged
        .filter(|(tags, (_, _, l3))| *tags != Tags::Vlan || l3.len() >= SHORTEST_TAGGED)
        .map(|(tags, (name, ethertype, l3))| Case {
            name: format!("malformed, {name}, {tags:?}"),
            bytes: frame(tags, *ethertype, l3),
            link_len: tags.link_len(),
            class: class::MALFORMED,
        })
        .collect()
}

fn v4() -> Vec<Flaw> {
    let good = Packet::v4().build(TCP, &payload::tcp(&[], 20));
    let with_options = Packet::V4 { options: vec![1; 8], fragment: (0, false) }.build(TCP, &payload::tcp(&[], 20));
    let mut flaws = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| flaws.push((format!("v4, {name}"), IPV4, bytes));
    for len in [0, 1, 9, 19] {
        add(&format!("{len} bytes of the header"), good[..len].into());
    }
    add("22 bytes of a header with options", with_options[..22].into());
    for (name, first) in [("version 0", 0x05), ("version 6", 0x65), ("version 5", 0x55)] {
        add(name, changed_v4(&good, 0, &[first]));
    }
    for words in [0, 1, 4] {
        add(&format!("header length {words}"), changed_v4(&good, 0, &[0x40 | words]));
    }
    add("header longer than the packet", changed_v4(&Packet::v4().build(253, &[]), 0, &[0x46]));
    for total in [0_u16, 1, 19] {
        add(&format!("total length {total}"), changed_v4(&good, 2, &total.to_be_bytes()));
    }
    add("total length below a header with options", changed_v4(&with_options, 2, &[0, 27]));
    add("total length 1 beyond the frame", changed_v4(&good, 2, &(good.len() as u16 + 1).to_be_bytes()));
    add("total length 65535", changed_v4(&good, 2, &[0xff, 0xff]));
    // The bytes are in the frame, but they are padding.
    add("transport header beyond the total length", changed_v4(&good, 2, &[0, 30]));
    flaws
}

fn v6() -> Vec<Flaw> {
    let good = Packet::v6().build(TCP, &payload::tcp(&[], 20));
    let mut flaws = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| flaws.push((format!("v6, {name}"), IPV6, bytes));
    for len in [0, 1, 20, 39] {
        add(&format!("{len} bytes of the header"), good[..len].into());
    }
    for (name, first) in [("version 0", 0x00), ("version 4", 0x45), ("version 7", 0x70)] {
        add(name, changed(&good, 0, &[first]));
    }
    for number in [HOP_BY_HOP, DESTINATION, 43, 44] {
        add(&format!("no header {number} where one is announced"), Packet::v6().build(number, &[]));
        add(&format!("7 bytes of header {number}"), Packet::v6().build(number, &[TCP, 0, 0, 0, 0, 0, 0]));
    }
    let mut long = Extension::options(DESTINATION, 0);
    long.bytes[1] = 9;
    add(
        "extension header longer than the packet",
        Packet::V6 { extensions: vec![long] }.build(TCP, &payload::tcp(&[], 20)),
    );
    let chain = Packet::V6 { extensions: vec![Extension::options(DESTINATION, 0); TOO_MANY] };
    add("too many extension headers", chain.build(TCP, &payload::tcp(&[], 20)));
    add("transport header beyond the payload length", changed(&good, 4, &[0, 10]));
    flaws
}

/// Flaws of the transport header, in an otherwise good packet.
fn transport(packet: &Packet) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let version = match packet {
        Packet::V4 { .. } => "v4",
        Packet::V6 { extensions } if extensions.is_empty() => "v6",
        Packet::V6 { .. } => "v6 with options",
    };
    let mut add = |name: &str, protocol: u8, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        payload::mend_checksum(packet, protocol, &mut bytes);
        flaws.push((format!("{name}, {version}"), packet.ethertype(), packet.build(protocol, &bytes)));
    };
    tcp_flaws(&mut add);
    let good = payload::udp(31_000, 4500, &payload::noise(20));
    for len in [0, 1, 7] {
        add(&format!("{len} bytes of udp"), UDP, &good[..len]);
    }
    for len in [0_u16, 1, 7, 29, 0xffff] {
        add(&format!("udp length {len}"), UDP, &changed(&good, 4, &len.to_be_bytes()));
    }
    let icmp = if version == "v4" { ICMP } else { ICMPV6 };
    add("icmp without a byte", icmp, &[]);
    flaws
}

fn tcp_flaws(add: &mut impl FnMut(&str, u8, &[u8])) {
    let good = payload::tcp(&[], 20);
    for len in [0, 1, 13, 19] {
        add(&format!("{len} bytes of tcp"), TCP, &good[..len]);
    }
    for words in [0, 1, 4] {
        add(&format!("tcp data offset {words}"), TCP, &changed(&good, 12, &[words << 4]));
    }
    add("tcp data offset past the end", TCP, &changed(&payload::tcp(&[], 0), 12, &[6 << 4]));
    add("tcp data offset 15 past the end", TCP, &changed(&good, 12, &[15 << 4]));
    let options: [(&str, &[u8]); 8] = [
        ("of length 0", &[8, 0, 1, 1]),
        ("of length 1", &[8, 1, 1, 1]),
        ("past the header", &[1, 1, 8, 3]),
        ("far past the header", &[8, 255, 1, 1]),
        ("without its length", &[1, 1, 1, 8]),
        ("of mptcp, length 0", &[30, 0, 1, 1]),
        ("of mptcp, past the header", &[1, 1, 30, 4]),
        ("of length 0 behind many", &[[1; 38].as_slice(), &[5, 0]].concat()),
    ];
    for (name, bytes) in options {
        add(&format!("tcp option {name}"), TCP, &payload::tcp(bytes, 20));
    }
}

fn changed(bytes: &[u8], at: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// The same, with the header's checksum right again: the flaw must be the only one.
fn changed_v4(bytes: &[u8], at: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = changed(bytes, at, to);
    mend_v4_checksum(&mut bytes);
    bytes
}
