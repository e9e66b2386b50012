//! A second opinion: the class as the etherparse crate's view of a frame gives it.

use etherparse::{IpNumber, IpPayloadSlice, NetSlice, SlicedPacket, TcpSlice, TransportSlice, UdpSlice};
use mpsec_common::Class;
use mpsec_common::packet::{Context, classify_slice};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::frames::frame;
use crate::properties::changed;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_independent_parser_agrees(frame in frame(), changes in vec(any::<(u8, u8)>(), 0..4)) {
        let bytes = changed(&frame, &changes);
        let found = classify_slice(&bytes, &Context::ETHERNET).class;
        if let Some(expected) = opinion(&bytes) {
            prop_assert_eq!(found, expected, "{:02x?}", bytes);
        }
    }
}

/// The class, if etherparse holds the frame for valid and knows all of its headers.
fn opinion(bytes: &[u8]) -> Option<Class> {
    let packet = SlicedPacket::from_ethernet(bytes).ok()?;
    // It takes three tags and MACsec, and the tag that was in use before there was a standard.
    let is_old_tag = |at: usize| bytes.get(at..at + 2) == Some(&[0x91, 0]);
    if packet.link_exts.len() > 2 || is_old_tag(12) || is_old_tag(16) {
        return None;
    }
    let (payload, v6) = match packet.net.as_ref()? {
        NetSlice::Arp(_) => return Some(Class::Arp),
        NetSlice::Ipv4(ip) => (ip.payload(), false),
        // It takes a length of 0 for "all that is there", here and in UDP.
        NetSlice::Ipv6(ip) if ip.header().payload_length() == 0 => return None,
        NetSlice::Ipv6(ip) => (ip.payload(), true),
    };
    let authenticated = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => ip.extensions().auth.is_some(),
        NetSlice::Ipv6(ip) => ip.extensions().clone().into_iter().any(is_authentication),
        NetSlice::Arp(_) => false,
    };
    if authenticated {
        return (!payload.fragmented).then(|| behind_authentication(payload)).flatten();
    }
    match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Some(tcp_class(&tcp)),
        Some(TransportSlice::Udp(udp)) => (udp.length() != 0).then(|| udp_class(&udp)),
        Some(TransportSlice::Icmpv4(icmp)) => (!v6 && icmp.slice().len() >= 8).then_some(Class::Icmp),
        Some(TransportSlice::Icmpv6(icmp)) => {
            let discovery = matches!(icmp.type_u8(), 133..=137);
            v6.then_some(if discovery { Class::NeighborDiscovery } else { Class::Icmp })
        }
        Some(TransportSlice::Igmp(_)) => Some(Class::OtherIp),
        None if payload.fragmented => None,
        None => by_number(payload, v6),
    }
}

fn is_authentication(extension: etherparse::Ipv6ExtensionSlice<'_>) -> bool {
    matches!(extension, etherparse::Ipv6ExtensionSlice::Authentication(_))
}

fn behind_authentication(payload: &IpPayloadSlice<'_>) -> Option<Class> {
    match payload.ip_number {
        IpNumber::ENCAPSULATING_SECURITY_PAYLOAD if payload.payload.len() < 8 => None,
        IpNumber::ENCAPSULATING_SECURITY_PAYLOAD => Some(Class::Esp),
        _ => Some(Class::Ah),
    }
}

fn by_number(payload: &IpPayloadSlice<'_>, v6: bool) -> Option<Class> {
    match (payload.ip_number.0, v6) {
        (50, _) => Some(if payload.payload.len() >= 8 { Class::Esp } else { Class::Malformed }),
        // What it does not walk over in the place where it stands.
        (0 | 6 | 17 | 43 | 44 | 51 | 60 | 135 | 139 | 140, true) | (1 | 6 | 17 | 51, false) | (58, true) => None,
        _ => Some(Class::OtherIp),
    }
}

fn tcp_class(tcp: &TcpSlice<'_>) -> Class {
    // It stops at an option that it has no type for, as it has none for MPTCP's, and at one of an odd length.
    if tcp.options_iterator().all(|option| option.is_ok()) { Class::Tcp } else { options_class(tcp.options()) }
}

/// Whether an option is MPTCP's or is cut short.
fn options_class(options: &[u8]) -> Class {
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        let len = if options[at] == 1 { 1 } else { options.get(at + 1).map_or(0, |len| *len as usize) };
        if len == 0 || (options[at] != 1 && len < 2) || at + len > options.len() {
            return Class::Malformed;
        }
        if options[at] == 30 {
            return Class::Mptcp;
        }
        at += len;
    }
    Class::Tcp
}

fn udp_class(udp: &UdpSlice<'_>) -> Class {
    let has = |port: u16| udp.source_port() == port || udp.destination_port() == port;
    match udp.payload() {
        [0xff] if has(4500) => Class::NatKeepalive,
        [0, 0, 0, 0, ..] if has(4500) => Class::Ike,
        payload if has(4500) => {
            if payload.len() >= 8 {
                Class::EspUdp
            } else {
                Class::Udp
            }
        }
        _ if has(500) => Class::Ike,
        [kind, 0, 0, 0, ..] if has(51820) => match (kind, udp.payload().len()) {
            (1, 148) | (2, 92) | (3, 64) | (4, 32..) => Class::Wireguard,
            _ => Class::Udp,
        },
        _ => Class::Udp,
    }
}
