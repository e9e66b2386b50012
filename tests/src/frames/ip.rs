//! IP headers of both versions.

use super::{IPV4, IPV6, checksum};

/// Protocol numbers that lead to another IPv6 header.
pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const DESTINATION: u8 = 60;

const V4_ADDRESSES: [u8; 8] = [192, 0, 2, 1, 192, 0, 2, 2];
const V6_SOURCE: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const V6_DESTINATION: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The protocol number by which the header before names this one.
    pub number: u8,
    /// All of its bytes; the first, the number of the next header, is filled in when it is put into a packet.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// A header of options, `8 * (1 + longer)` bytes of padding.
    pub fn options(number: u8, longer: u8) -> Self {
        let len = 8 + 8 * usize::from(longer);
        let mut bytes = vec![0; len];
        bytes[1] = longer;
        bytes[2] = 1; // PadN
        bytes[3] = (len - 4) as u8;
        Self { number, bytes }
    }

    /// A routing header that has nowhere left to go.
    pub fn routing() -> Self {
        Self { number: ROUTING, bytes: vec![0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// A fragment header; `offset` is in units of 8 bytes.
    pub fn fragment(offset: u16, more: bool) -> Self {
        let field = (offset << 3 | u16::from(more)).to_be_bytes();
        Self { number: FRAGMENT, bytes: vec![0, 0, field[0], field[1], 0xaa, 0xbb, 0xcc, 0xdd] }
    }
}

/// An IP packet in the making. Whoever wants a flaw changes the bytes of [`Packet::build`]'s result.
#[derive(Clone, Debug)]
pub enum Packet {
    /// IPv4.
    V4 {
        /// Options, a multiple of 4 bytes.
        options: Vec<u8>,
        /// Fragment offset in units of 8 bytes, and whether more fragments follow.
        fragment: (u16, bool),
    },
    /// IPv6.
    V6 {
        /// Extension headers in their order.
        extensions: Vec<Extension>,
    },
}

impl Packet {
    /// IPv4 without options.
    pub fn v4() -> Self {
        Self::V4 { options: Vec::new(), fragment: (0, false) }
    }

    /// IPv6 without extension headers.
    pub fn v6() -> Self {
        Self::V6 { extensions: Vec::new() }
    }

    /// The EtherType that announces this version.
    pub fn ethertype(&self) -> [u8; 2] {
        match self {
            Self::V4 { .. } => IPV4,
            Self::V6 { .. } => IPV6,
        }
    }

    /// What the transport checksum covers beside the transport's own bytes.
    pub fn pseudo_header(&self, protocol: u8, len: usize) -> Vec<u8> {
        match self {
            Self::V4 { .. } => [&V4_ADDRESSES[..], &[0, protocol], &(len as u16).to_be_bytes()].concat(),
            Self::V6 { .. } => {
                [&V6_SOURCE[..], &V6_DESTINATION, &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
            }
        }
    }

    /// The bytes of the packet around `payload`, with lengths and the header's checksum right.
    pub fn build(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::V4 { options, fragment } => v4(options, *fragment, protocol, payload),
            Self::V6 { extensions } => v6(extensions, protocol, payload),
        }
    }
}

fn v4(options: &[u8], (offset, more): (u16, bool), protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let total = (header_len + payload.len()) as u16;
    let fragment = offset | if more { 0x2000 } else { 0 };
    let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(V4_ADDRESSES);
    bytes.extend(options);
    mend_v4_checksum(&mut bytes);
    bytes.extend(payload);
    bytes
}

/// Writes the checksum of an IPv4 header, as far as its own length says that it goes.
pub(super) fn mend_v4_checksum(bytes: &mut [u8]) {
    let header_len = (usize::from(bytes[0] & 0x0f) * 4).clamp(12, bytes.len());
    bytes[10..12].fill(0);
    let sum = checksum(&[&bytes[..header_len]]);
    bytes[10..12].copy_from_slice(&sum);
}

fn v6(extensions: &[Extension], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = extensions.iter().map(|extension| extension.number).chain([protocol]).collect();
    let mut body = Vec::new();
    for (extension, next) in extensions.iter().zip(&numbers[1..]) {
        let start = body.len();
        body.extend(&extension.bytes);
        body[start] = *next;
    }
    body.extend(payload);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([numbers[0], 64]);
    bytes.extend(V6_SOURCE);
    bytes.extend(V6_DESTINATION);
    bytes.extend(body);
    bytes
}
