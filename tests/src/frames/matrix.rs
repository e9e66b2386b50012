//! Every payload in every kind of packet, in every kind of frame, whole and in pieces.

use super::ip::{DESTINATION, HOP_BY_HOP};
use super::{Case, Extension, Packet, class, frame, payload};

/// The VLAN tags of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tags {
    /// None.
    None,
    /// One, 0x8100.
    Vlan,
    /// Two: 0x88a8 around 0x8100.
    QinQ,
    /// Two, both 0x8100.
    Double,
}

impl Tags {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::None, Self::Vlan, Self::QinQ, Self::Double];

    /// The protocol of each tag, outermost first.
    pub fn protocols(self) -> &'static [[u8; 2]] {
        match self {
            Self::None => &[],
            Self::Vlan => &[[0x81, 0x00]],
            Self::QinQ => &[[0x88, 0xa8], [0x81, 0x00]],
            Self::Double => &[[0x81, 0x00], [0x81, 0x00]],
        }
    }

    /// Length of the Ethernet header with these tags.
    pub fn link_len(self) -> usize {
        super::ETHERNET_LEN + 4 * self.protocols().len()
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "untagged",
            Self::Vlan => "vlan",
            Self::QinQ => "qinq",
            Self::Double => "double vlan",
        }
    }
}

/// The kind of packet around a payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// IPv4.
    V4,
    /// IPv4 with a few options.
    V4Options,
    /// IPv4 with as many options as there can be.
    V4FullOptions,
    /// IPv6.
    V6,
    /// IPv6 with hop-by-hop options.
    V6HopByHop,
    /// IPv6 with destination options, longer than 8 bytes.
    V6Destination,
    /// IPv6 with a routing header.
    V6Routing,
    /// IPv6 with four headers in a chain.
    V6Chain,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::V4,
        Self::V4Options,
        Self::V4FullOptions,
        Self::V6,
        Self::V6HopByHop,
        Self::V6Destination,
        Self::V6Routing,
        Self::V6Chain,
    ];

    fn packet(self) -> Packet {
        let v4 = |options: &[u8]| Packet::V4 { options: options.into(), fragment: (0, false) };
        let v6 = |extensions: &[Extension]| Packet::V6 { extensions: extensions.into() };
        let (hop, destination) = (Extension::options(HOP_BY_HOP, 0), Extension::options(DESTINATION, 2));
        match self {
            Self::V4 => v4(&[]),
            Self::V4Options => v4(&[0x94, 4, 0, 0]),
            Self::V4FullOptions => v4(&[1; 40]),
            Self::V6 => v6(&[]),
            Self::V6HopByHop => v6(&[hop]),
            Self::V6Destination => v6(&[destination]),
            Self::V6Routing => v6(&[Extension::routing()]),
            Self::V6Chain => v6(&[hop, destination.clone(), Extension::routing(), destination]),
        }
    }
}

/// How much of a datagram a packet holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All of it, behind a fragment header that says so (IPv6 only).
    Atomic,
    /// The beginning, with the transport header.
    First,
    /// The rest, without it.
    Later,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Whole, Self::Atomic, Self::First, Self::Later];
}

/// The product of payloads, shapes, tags and parts, and the frames that are not IP.
pub fn matrix() -> Vec<Case> {
    let mut cases = Vec::new();
    for tags in Tags::ALL {
        for shape in Shape::ALL {
            for payload in payload::all(&shape.packet()) {
                for part in Part::ALL {
                    cases.extend(case(tags, shape, &payload, part));
                }
            }
        }
        cases.extend(special(tags));
        cases.extend(not_ip(tags));
    }
    cases
}

/// `None` where the combination does not exist.
fn case(tags: Tags, shape: Shape, payload: &payload::Payload, part: Part) -> Option<Case> {
    let packet = shape.packet();
    let cut = payload.telling.next_multiple_of(8);
    let (packet, bytes, class) = match part {
        Part::Whole => (packet, &payload.bytes[..], payload.class),
        Part::Atomic => match &packet {
            Packet::V6 { .. } => (fragment(&packet, 0, false), &payload.bytes[..], payload.class),
            Packet::V4 { .. } => return None,
        },
        Part::First if cut < payload.bytes.len() => (fragment(&packet, 0, true), &payload.bytes[..cut], payload.class),
        Part::Later if cut < payload.bytes.len() => {
            (fragment(&packet, cut / 8, false), &payload.bytes[cut..], payload.class_by_number())
        }
        Part::First | Part::Later => return None,
    };
    let name = format!("{}: {shape:?}, {part:?}, {}", payload.name, tags.name());
    Some(ip_case(name, tags, &packet, payload.protocol, bytes, class))
}

/// The same packet as a fragment at `offset`, in units of 8 bytes.
fn fragment(packet: &Packet, offset: usize, more: bool) -> Packet {
    let offset = offset as u16;
    match packet {
        Packet::V4 { options, .. } => Packet::V4 { options: options.clone(), fragment: (offset, more) },
        Packet::V6 { extensions } => {
            let mut extensions = extensions.clone();
            extensions.push(Extension::fragment(offset, more));
            Packet::V6 { extensions }
        }
    }
}

/// Combinations that the product does not have.
fn special(tags: Tags) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, packet: Packet, protocol: u8, bytes: &[u8], class| {
        cases.push(ip_case(format!("{name}, {}", tags.name()), tags, &packet, protocol, bytes, class));
    };
    let esp_in_udp = payload::udp(4500, 4500, &payload::noise(40));
    let mptcp = payload::tcp(&[30, 4, 1, 0x81], 44);
    let destination = Extension::options(DESTINATION, 0);
    for (packet, version) in [(Packet::v4(), "v4"), (Packet::v6(), "v6")] {
        let (udp, tcp) = (payload::UDP, payload::TCP);
        let later = fragment(&packet, 9, true);
        add(&format!("{version} fragment in the middle, like esp in udp"), later.clone(), udp, &esp_in_udp, class::UDP);
        add(&format!("{version} fragment in the middle, like mptcp"), later.clone(), tcp, &mptcp, class::TCP);
        add(&format!("{version} later fragment of one byte"), fragment(&packet, 9, false), tcp, &[30], class::TCP);
        add(&format!("{version} later fragment without bytes"), fragment(&packet, 9, false), udp, &[], class::UDP);
    }
    let behind = |offset, more| Packet::V6 { extensions: vec![Extension::fragment(offset, more), destination.clone()] };
    add("v6 first fragment, options behind its header", behind(0, true), payload::TCP, &mptcp[..32], class::MPTCP);
    let tail = Packet::V6 { extensions: vec![Extension::fragment(4, false)] };
    add("v6 later fragment of a packet with more options", tail, DESTINATION, &mptcp, class::OTHER_IP);
    cases.extend(padded(tags));
    cases
}

/// Frames that are longer than the packet in them, as the shortest Ethernet frames are.
fn padded(tags: Tags) -> Vec<Case> {
    [Packet::v4(), Packet::v6()]
        .into_iter()
        .flat_map(|packet| payload::all(&packet).into_iter().map(move |payload| (packet.clone(), payload)))
        .filter(|(_, payload)| payload.bytes.len() <= 24)
        .map(|(packet, payload)| {
            let name = format!("{}, padded: {:?}, {}", payload.name, packet.ethertype(), tags.name());
            let mut case = ip_case(name, tags, &packet, payload.protocol, &payload.bytes, payload.class);
            case.bytes.extend([0; 18]);
            case
        })
        .collect()
}

fn ip_case(name: String, tags: Tags, packet: &Packet, protocol: u8, bytes: &[u8], class: &'static str) -> Case {
    let bytes = frame(tags, packet.ethertype(), &packet.build(protocol, bytes));
    Case { name, bytes, link_len: tags.link_len(), class }
}

fn not_ip(tags: Tags) -> Vec<Case> {
    let arp =
        [&[0, 1, 8, 0, 6, 4, 0, 1][..], &[2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2]].concat();
    let mut samples = vec![("arp".to_owned(), [0x08, 0x06], arp, class::ARP)];
    for ethertype in [0x8035, 0x8847, 0x8864, 0x88cc, 0x88e5, 0x9000_u16] {
        samples.push((format!("ethertype {ethertype:04x}"), ethertype.to_be_bytes(), payload::noise(46), class::OTHER));
    }
    // Below 0x600 the field is a length, and what follows is LLC: a bridge's spanning tree message.
    let llc = [&[0x42, 0x42, 0x03][..], &[0; 35]].concat();
    samples.push(("llc".to_owned(), [0, 38], llc, class::OTHER));
    samples
        .into_iter()
        .map(|(name, ethertype, l3, class)| Case {
            name: format!("{name}, {}", tags.name()),
            bytes: frame(tags, ethertype, &l3),
            link_len: tags.link_len(),
            class,
        })
        .collect()
}
