//! The short way through the classifier, for what nearly all packets are.

use super::{Context, Layout, Options, Packet, datagram, is_extension, link_header, options};
use crate::Class;
use crate::headers::*;

/// How many IPv6 extension headers are walked over here.
const EXTENSIONS: u32 = 3;
/// No length field of an IP header says more.
const MAX_LEN: u32 = 0xffff;

/// [`classify`](super::classify) for what nearly all packets are: up to [`MAX_TAGS`](super::MAX_TAGS) tags,
/// IPv4 without options or IPv6, no fragment, and TCP, UDP or ESP in it. `None` for everything else, among it everything that
/// is malformed, and for headers that the reader does not have.
///
/// It says the same as [`classify`](super::classify), which tests prove, and takes half the time: lengths are compared once,
/// and there is one way through it for each network header, with distances that the compiler knows.
#[inline(always)]
pub fn classify_usual<P: Packet>(packet: &P, context: &Context) -> Option<Layout> {
    if context.ethertype.is_none() && context.start == 0 {
        // Without tags first, and on a way of its own, where every offset is a constant.
        // One comparison for all of the first headers: the compiler leaves out those that it implies.
        packet.view(0, |_: &Untagged| ()).ok()?;
        let first: EtherType = packet.read(ETHERNET_LEN - 2).ok()?;
        if first.is(ethertype::IPV4) {
            return ipv4(packet, context, ETHERNET_LEN);
        }
        if first.is(ethertype::IPV6) {
            return ipv6(packet, context, ETHERNET_LEN);
        }
    }
    match link_header(packet, context).ok()? {
        (ethertype::IPV4, l3) => ipv4(packet, context, l3),
        (ethertype::IPV6, l3) => ipv6(packet, context, l3),
        _ => None,
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, context: &Context, l3: u32) -> Option<Layout> {
    let header: Ipv4 = packet.read(l3).ok()?;
    let len = header.total_len();
    if !header.is_plain() || l3 + len > packet.len() {
        return None;
    }
    transport(packet, context, l3, l3 + IPV4_LEN, header.protocol, len.wrapping_sub(IPV4_LEN))
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, context: &Context, l3: u32) -> Option<Layout> {
    let header: Ipv6 = packet.read(l3).ok()?;
    let (mut at, mut len, mut next) = (l3 + IPV6_LEN, header.payload_len(), header.next_header);
    if header.version() != 6 || at + len > packet.len() {
        return None;
    }
    if !matches!(next, protocol::TCP | protocol::UDP | protocol::ESP) {
        (at, len, next) = extensions(packet, at, len, next)?;
    }
    transport(packet, context, l3, at, next, len)
}

/// The class of a segment, where its header is if that is asked, and where its payload begins.
#[inline(always)]
fn tcp<P: Packet>(packet: &P, l3: u32, at: u32, len: u32) -> Option<(Class, u32, u32)> {
    let l4_offset = |class, ports: Ports| if packet.wants_transport(class, ports.both()) { at } else { l3 };
    if len >= TcpTimestamp::LEN
        && let Ok(Some(ports)) = packet.view(at, TcpTimestamp::ports)
    {
        return Some((Class::Tcp, l4_offset(Class::Tcp, ports), at + TcpTimestamp::LEN));
    }
    let (ports, header_len) = packet.view(at, TcpStart::ports_and_header_len).ok()?;
    if header_len < TCP_LEN || header_len > len {
        return None;
    }
    let class = match options(packet, at + TCP_LEN, header_len - TCP_LEN) {
        Ok(Options::Plain) => Class::Tcp,
        Ok(Options::Mptcp) => Class::Mptcp,
        _ => return None,
    };
    Some((class, l4_offset(class, ports), at + header_len))
}

/// Walks over IPv6 extension headers, to what is behind them.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, mut at: u32, mut len: u32, mut next: u8) -> Option<(u32, u32, u8)> {
    for _ in 0..EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        let (following, header_len) =
            packet.view(at, |header: &Extension| (header.next_header, header.header_len())).ok()?;
        if next == protocol::FRAGMENT || header_len > len {
            return None;
        }
        (at, len, next) = (at + header_len, len - header_len, following);
    }
    Some((at, len, next))
}

/// `len` bytes at `at` belong to the IP packet; a length below 0 has wrapped around and is the greatest of all.
#[inline(always)]
fn transport<P: Packet>(packet: &P, context: &Context, l3: u32, at: u32, number: u8, len: u32) -> Option<Layout> {
    if !(8..=MAX_LEN).contains(&len) {
        return None;
    }
    let (class, l4_offset, payload_offset) = match number {
        protocol::TCP => tcp(packet, l3, at, len)?,
        // Other super-packets may be tunnels, or have lengths that do not hold.
        _ if context.gso => return None,
        protocol::UDP => {
            let header = packet.view(at, Udp::fields).ok()?;
            let total_len = header.total_len();
            if total_len < UDP_LEN || total_len > len {
                return None;
            }
            let payload = total_len - UDP_LEN;
            let class = datagram(packet, context, &header, at + UDP_LEN, payload, payload).ok()?;
            (class, if packet.wants_transport(class, 0) { at } else { l3 }, at + UDP_LEN)
        }
        protocol::ESP => (Class::Esp, l3, l3),
        _ => return None,
    };
    Some(Layout { class, l3_offset: l3, l4_offset, payload_offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Slice, classify_slice};

    /// One frame of each shape; what varies comes from [`mutated`].
    const FRAMES: [&str; 9] = [
        // IPv4: TCP with a time stamp, with an MPTCP option, UDP, ESP.
        "0800 4500003400010000400600000a0000010a000002 9c4001bb0000000100000001801001000000 00000101080a0102030405060708",
        "0800 4500003400010000400600000a0000010a000002 9c4001bb0000000100000001801001000000 00001e0c20010102030405060708",
        "0800 4500002400010000401100000a0000010a000002 9c40ca6c00100000 0400000000000000",
        "0800 4500002400010000401100000a0000010a000002 1194ca6c00100000 0100000000000000",
        "0800 4500001c00010000403200000a0000010a000002 c001020300000001",
        // IPv6: UDP, and TCP behind two extension headers.
        "86dd 6000000000101140 fd000000000000000000000000000001 fd000000000000000000000000000002 9c40cafe00100000 0400000000000000",
        "86dd 6000000000240040 fd000000000000000000000000000001 fd000000000000000000000000000002 3c00010400000000 \
         0600010400000000 9c4001bb00000001000000015010010000000000",
        // Tagged.
        "8100002a 0800 4500001c00010000403200000a0000010a000002 c001020300000001",
        "88a80007 8100002a 0800 4500002400010000401100000a0000010a000002 9c40ca6c00100000 0400000000000000",
    ];

    fn frame(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        [0; 12].into_iter().chain(digits.chunks(2).map(byte)).collect()
    }

    /// The frame with a few bytes changed, and perhaps cut short or made longer.
    fn mutated(frame: &[u8], mut random: impl FnMut() -> u32) -> Vec<u8> {
        const TELLING: [u8; 16] = [0, 1, 4, 5, 6, 8, 17, 20, 30, 32, 44, 50, 51, 0x11, 0x94, 0xff];
        let mut frame = frame.to_vec();
        for _ in 0..random() % 4 {
            let at = 12 + random() as usize % (frame.len() - 12);
            frame[at] = if random().is_multiple_of(2) { TELLING[random() as usize % 16] } else { random() as u8 };
        }
        if random().is_multiple_of(4) {
            frame.resize(frame.len() + 8 - random() as usize % 20, 0);
        }
        frame
    }

    #[test]
    fn whole_frames_are_usual() {
        for text in FRAMES {
            let frame = frame(text);
            let layout = classify_usual(&Slice(&frame), &Context::ETHERNET);
            assert_eq!(layout, Some(classify_slice(&frame, &Context::ETHERNET)), "{text}");
        }
    }

    #[test]
    fn the_short_way_says_the_same_as_the_long_one() {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u32
        };
        let frames = FRAMES.map(frame);
        let mut usual = 0;
        for round in 0..400_000 {
            let frame = mutated(&frames[round % frames.len()], &mut random);
            let untagged = random().is_multiple_of(4);
            let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
            let gso = random().is_multiple_of(8);
            let context = match untagged {
                true => Context { ethertype: Some(ethertype), start: 14, gso, ..Context::ETHERNET },
                false => Context { gso, ..Context::ETHERNET },
            };
            if let Some(layout) = classify_usual(&Slice(&frame), &context) {
                assert_eq!(layout, classify_slice(&frame, &context), "{frame:02x?}");
                usual += 1;
            }
        }
        assert!(usual > 50_000, "only {usual} frames went the short way");
    }

    #[test]
    fn super_packets_of_tcp_are_usual() {
        let context = Context { gso: true, ..Context::ETHERNET };
        for (text, tcp) in FRAMES.into_iter().zip([true, true, false, false, false, false, true, false, false]) {
            let frame = frame(text);
            let layout = classify_usual(&Slice(&frame), &context);
            assert_eq!(layout, tcp.then(|| classify_slice(&frame, &context)), "{text}");
        }
    }
}
