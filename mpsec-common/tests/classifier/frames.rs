//! Valid frames, put together header by header, so that their class and their offsets are known without parsing them.

use mpsec_common::Class;
use mpsec_common::headers::{ethertype, protocol};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A valid frame and what the classifier must find in it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The frame, from the Ethernet header on, without padding.
    pub bytes: Vec<u8>,
    /// Its class.
    pub class: Class,
    /// Offset of the network header.
    pub l3_offset: u32,
    /// Offset of the transport payload, or of the network header where no transport header is read.
    pub payload_offset: u32,
}

/// What an IP packet carries.
#[derive(Clone, Debug)]
struct Payload {
    number: u8,
    bytes: Vec<u8>,
    class: Class,
    /// Length of the transport header, if one is read.
    header_len: Option<usize>,
    /// The class stays the same if this is the first one of several fragments.
    can_be_cut: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fragment {
    Whole,
    /// A fragment header of a packet in one piece (RFC 6946); in IPv4 it is like `Whole`.
    Atomic,
    First,
    Later(u16),
}

/// Any valid frame of at most about 1,000 bytes.
pub fn frame() -> BoxedStrategy<Frame> {
    let ip = any::<bool>().prop_flat_map(|v6| (Just(v6), payload(v6), network(v6), fragment(), 0..9usize));
    let ip = (tags(), ip).prop_map(|(tags, (v6, payload, network, fragment, surplus))| {
        ip_frame(&tags, v6, payload, &network, fragment, surplus)
    });
    prop_oneof![12 => ip, 1 => not_ip()].boxed()
}

/// Up to two VLAN tags: the identifier and the control information of each.
fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    vec((select(vec![ethertype::VLAN, ethertype::QINQ]), any::<u16>()), 0..=2)
}

fn link_header(tags: &[(u16, u16)], ethertype: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (identifier, control) in tags {
        bytes.extend(identifier.to_be_bytes());
        bytes.extend(control.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes
}

fn not_ip() -> impl Strategy<Value = Frame> {
    let known = [ethertype::IPV4, ethertype::IPV6, ethertype::ARP, ethertype::VLAN, ethertype::QINQ];
    let other = any::<u16>().prop_filter("known", move |number| !known.contains(number));
    let number = prop_oneof![Just(ethertype::ARP), other];
    (tags(), number, vec(any::<u8>(), 28..60)).prop_map(|(tags, number, body)| {
        let mut bytes = link_header(&tags, number);
        let l3_offset = bytes.len() as u32;
        bytes.extend(body);
        let class = if number == ethertype::ARP { Class::Arp } else { Class::Other };
        Frame { bytes, class, l3_offset, payload_offset: l3_offset }
    })
}

/// Options of an IPv4 header; or extension headers of IPv6, each by its number and its body.
#[derive(Clone, Debug)]
enum Network {
    V4(Vec<u8>),
    V6(Vec<(u8, Vec<u8>)>),
}

fn network(v6: bool) -> BoxedStrategy<Network> {
    if !v6 {
        return vec(any::<[u8; 4]>(), 0..=10).prop_map(|words| Network::V4(words.concat())).boxed();
    }
    let body = || (0..4usize).prop_flat_map(|units| vec(any::<u8>(), units * 8 + 6));
    let first = proptest::option::of(body().prop_map(|body| (protocol::HOP_BY_HOP, body)));
    let more = vec((select(vec![protocol::ROUTING, protocol::DESTINATION]), body()), 0..4);
    (first, more).prop_map(|(first, more)| Network::V6(first.into_iter().chain(more).collect())).boxed()
}

fn fragment() -> impl Strategy<Value = Fragment> {
    prop_oneof![
        5 => Just(Fragment::Whole),
        1 => Just(Fragment::Atomic),
        1 => Just(Fragment::First),
        1 => (1..0x1fffu16).prop_map(Fragment::Later),
    ]
}

fn ip_frame(
    tags: &[(u16, u16)],
    v6: bool,
    mut payload: Payload,
    network: &Network,
    fragment: Fragment,
    surplus: usize,
) -> Frame {
    let fragment = if payload.can_be_cut || !matches!(fragment, Fragment::First) { fragment } else { Fragment::Whole };
    shape(&mut payload, fragment, surplus, v6);
    let mut bytes = link_header(tags, if v6 { ethertype::IPV6 } else { ethertype::IPV4 });
    let l3_offset = bytes.len();
    match network {
        Network::V4(options) => ipv4_header(&mut bytes, options, &payload, fragment),
        Network::V6(extensions) => ipv6_headers(&mut bytes, extensions, &payload, fragment),
    }
    let payload_offset = payload.header_len.map_or(l3_offset, |len| bytes.len() + len) as u32;
    bytes.extend(&payload.bytes);
    Frame { bytes, class: payload.class, l3_offset: l3_offset as u32, payload_offset }
}

/// Makes the payload that of a fragment, or lets the IP packet be longer than the UDP datagram in it (RFC 9868).
fn shape(payload: &mut Payload, fragment: Fragment, surplus: usize, v6: bool) {
    match fragment {
        Fragment::First => {
            payload.bytes.resize(payload.bytes.len().next_multiple_of(8), 0);
            if payload.number == protocol::UDP {
                let len = payload.bytes.len() as u16 + 1000;
                payload.bytes[4..6].copy_from_slice(&len.to_be_bytes());
            }
        }
        Fragment::Later(_) => {
            payload.class = class_by_number(payload.number, v6);
            payload.header_len = None;
        }
        Fragment::Whole | Fragment::Atomic => {
            if payload.number == protocol::UDP {
                payload.bytes.extend(vec![0; surplus]);
            }
        }
    }
}

fn class_by_number(number: u8, v6: bool) -> Class {
    match (number, v6) {
        (6, _) => Class::Tcp,
        (17, _) => Class::Udp,
        (50, _) => Class::Esp,
        (51, _) => Class::Ah,
        (1, false) | (58, true) => Class::Icmp,
        _ => Class::OtherIp,
    }
}

fn ipv4_header(bytes: &mut Vec<u8>, options: &[u8], payload: &Payload, fragment: Fragment) {
    let header_len = 20 + options.len();
    let offset: u16 = match fragment {
        Fragment::Whole => 0,
        Fragment::Atomic => 0x4000,
        Fragment::First => 0x2000,
        Fragment::Later(offset) => offset | (offset & 1) << 13,
    };
    bytes.extend([0x40 | (header_len / 4) as u8, 0]);
    bytes.extend(((header_len + payload.bytes.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(offset.to_be_bytes());
    bytes.extend([64, payload.number, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    bytes.extend(options);
}

fn ipv6_headers(bytes: &mut Vec<u8>, extensions: &[(u8, Vec<u8>)], payload: &Payload, fragment: Fragment) {
    let mut chain: Vec<(u8, Vec<u8>)> = extensions.to_vec();
    let offset: Option<u16> = match fragment {
        Fragment::Whole => None,
        Fragment::Atomic => Some(0),
        Fragment::First => Some(1),
        Fragment::Later(offset) => Some(offset << 3 | (offset & 1)),
    };
    if let Some(offset) = offset {
        chain.push((protocol::FRAGMENT, [&offset.to_be_bytes()[..], &[1, 2, 3, 4]].concat()));
    }
    let mut numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).collect();
    numbers.push(payload.number);
    let extensions_len: usize = chain.iter().map(|(_, body)| body.len() + 2).sum();
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend(((extensions_len + payload.bytes.len()) as u16).to_be_bytes());
    bytes.extend([numbers[0], 255]);
    bytes.extend([0x20; 32]);
    for ((number, body), next) in chain.iter().zip(&numbers[1..]) {
        // The second byte of a fragment header is reserved.
        let len = if *number == protocol::FRAGMENT { 0xee } else { (body.len() + 2) / 8 - 1 };
        bytes.extend([*next, len as u8]);
        bytes.extend(body);
    }
}

fn payload(v6: bool) -> BoxedStrategy<Payload> {
    prop_oneof![4 => tcp(), 6 => udp(), 2 => esp(), 2 => ah(), 2 => icmp(v6), 1 => other(v6)].boxed()
}

fn without_transport(number: u8, bytes: Vec<u8>, class: Class) -> Payload {
    Payload { number, bytes, class, header_len: None, can_be_cut: true }
}

fn esp() -> impl Strategy<Value = Payload> {
    vec(any::<u8>(), 8..200).prop_map(|bytes| without_transport(protocol::ESP, bytes, Class::Esp))
}

fn ah() -> impl Strategy<Value = Payload> {
    let next = select(vec![protocol::TCP, protocol::UDP, protocol::ESP, protocol::ESP, 4, 41]);
    (next, 0..9usize, vec(any::<u8>(), 8..100)).prop_map(|(next, check_value_words, rest)| {
        let mut bytes = vec![next, check_value_words as u8 + 1, 0, 0];
        bytes.extend(vec![0xc5; 8 + check_value_words * 4]);
        bytes.extend(rest);
        without_transport(protocol::AH, bytes, if next == protocol::ESP { Class::Esp } else { Class::Ah })
    })
}

fn icmp(v6: bool) -> BoxedStrategy<Payload> {
    let message = (any::<u8>(), vec(any::<u8>(), 7..60));
    let message_type = prop_oneof![Just(128u8), 130..140u8, any::<u8>()];
    (message_type, message)
        .prop_map(move |(message_type, (_, rest))| {
            let discovery = v6 && (133..=137).contains(&message_type);
            let class = if discovery { Class::NeighborDiscovery } else { Class::Icmp };
            let number = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
            without_transport(number, [vec![message_type], rest].concat(), class)
        })
        .boxed()
}

/// IP in IP, GRE, SCTP, UDP-Lite, L2TP, no next header, and the ICMP of the other family.
fn other(v6: bool) -> impl Strategy<Value = Payload> {
    let stray = if v6 { protocol::ICMP } else { protocol::ICMPV6 };
    (select(vec![4, 41, 47, 59, 108, 115, 132, 136, stray]), vec(any::<u8>(), 0..60))
        .prop_map(|(number, bytes)| without_transport(number, bytes, Class::OtherIp))
}

fn tcp() -> impl Strategy<Value = Payload> {
    (options(), any::<[u8; 12]>(), any::<[u8; 7]>(), vec(any::<u8>(), 0..200)).prop_map(
        |(options, head, tail, data)| {
            let (options, mptcp) = options;
            let header_len = 20 + options.len();
            let mut bytes = head.to_vec();
            bytes.push((header_len as u8 / 4) << 4 | tail[0] & 0xf);
            bytes.extend(tail);
            bytes.truncate(20);
            bytes.extend(options);
            bytes.extend(data);
            let class = if mptcp { Class::Mptcp } else { Class::Tcp };
            Payload { number: protocol::TCP, bytes, class, header_len: Some(header_len), can_be_cut: true }
        },
    )
}

/// Well-formed TCP options, and whether one of MPTCP is among them.
fn options() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let option = prop_oneof![
        3 => Just(vec![1]),
        1 => Just(vec![2, 4, 5, 0xb4]),
        1 => Just(vec![3, 3, 7]),
        1 => Just(vec![4, 2]),
        3 => Just(vec![1, 1, 8, 10, 0, 0, 0, 30, 30, 30, 30, 30]),
        1 => Just(vec![5, 10, 30, 4, 30, 4, 30, 4, 30, 4]),
        2 => (2..20u8).prop_map(|len| [vec![30, len], vec![0; len as usize - 2]].concat()),
        1 => (2..12u8).prop_map(|len| [vec![253, len], vec![30; len as usize - 2]].concat()),
    ];
    (vec(option, 0..8), any::<bool>()).prop_map(|(list, no_operations)| {
        let (mut bytes, mut mptcp) = (Vec::new(), false);
        for option in list {
            if bytes.len() + option.len() > 40 {
                break;
            }
            mptcp |= option[0] == 30;
            bytes.extend(option);
        }
        let padded = bytes.len().next_multiple_of(4);
        if padded > bytes.len() && !no_operations {
            // Nothing behind the end of the list counts.
            bytes.push(0);
            bytes.resize(padded, 30);
        }
        bytes.resize(padded, 1);
        (bytes, mptcp)
    })
}

fn udp() -> BoxedStrategy<Payload> {
    let ports = |port: u16| (any::<bool>(), 1024..4000u16).prop_map(move |(out, other)| ordered(out, port, other));
    let plain = ((1024..4000u16, 1024..4000u16), vec(any::<u8>(), 0..300));
    let esp = (ports(4500), vec(any::<u8>(), 8..200)).prop_map(|(ports, mut data)| {
        data[0] |= 1;
        datagram(ports, data, Class::EspUdp, true)
    });
    let ike_behind_nat = (ports(4500), vec(any::<u8>(), 28..200))
        .prop_map(|(ports, data)| datagram(ports, [vec![0; 4], data].concat(), Class::Ike, true));
    // Neither a keepalive nor enough for ESP.
    let too_short = (ports(4500), vec(1..=0xfeu8, 0..8));
    let wireguard = (ports(51820), select(vec![(1u8, 148usize), (2, 92), (3, 64), (4, 32), (4, 128)]));
    let near_wireguard =
        (ports(51820), select(vec![(1u8, 147usize), (2, 93), (3, 60), (4, 31), (0, 32), (5, 64), (4, 0)]));
    prop_oneof![
        plain.prop_map(|(ports, data)| datagram(ports, data, Class::Udp, true)),
        (ports(500), vec(any::<u8>(), 28..200)).prop_map(|(ports, data)| datagram(ports, data, Class::Ike, true)),
        esp,
        ike_behind_nat,
        too_short.prop_map(|(ports, data)| datagram(ports, data, Class::Udp, false)),
        ports(4500).prop_map(|ports| datagram(ports, vec![0xff], Class::NatKeepalive, false)),
        wireguard.prop_map(|(ports, message)| datagram(
            ports,
            wireguard_message(message),
            Class::Wireguard,
            message.0 == 4
        )),
        near_wireguard.prop_map(|(ports, message)| datagram(ports, wireguard_message(message), Class::Udp, false)),
    ]
    .boxed()
}

fn ordered(first: bool, port: u16, other: u16) -> (u16, u16) {
    if first { (port, other) } else { (other, port) }
}

fn wireguard_message((message_type, len): (u8, usize)) -> Vec<u8> {
    let mut data = vec![message_type, 0, 0, 0];
    data.resize(len, 0x77);
    data
}

fn datagram(ports: (u16, u16), data: Vec<u8>, class: Class, can_be_cut: bool) -> Payload {
    let mut bytes = Vec::new();
    for field in [ports.0, ports.1, data.len() as u16 + 8, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(data);
    Payload { number: protocol::UDP, bytes, class, header_len: Some(8), can_be_cut }
}
