//! The packet classifier: one body that the kernel side runs on socket buffers and the tests run on byte slices.
//!
//! It reads a frame through [`Packet`], front to back, and never beyond what the frame's own length fields allow. Any
//! contradiction between them makes the packet [`Class::Malformed`]. A frame that ends before a header does gives
//! [`Short`]: a reader of the linear part of a buffer then falls back to a reader of the whole, and for that one it means
//! malformed.

use crate::headers::*;
use crate::maps::WIREGUARD_PORTS;
use crate::{Class, Pod};

mod options;
mod slice;
mod usual;
use options::options;
pub use options::{OPTION_BYTES, reset_reason, scan};
pub use slice::{Slice, classify_slice};
pub use usual::classify_usual;

/// A header reached beyond what the reader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short;

/// How a frame can be read.
pub trait Packet {
    /// True when what the reader does not have, the frame does not have either.
    const COMPLETE: bool;

    /// A copy of the `T` that lies at `offset` bytes into the frame.
    fn read<T: Pod>(&self, offset: u32) -> Result<T, Short>;

    /// What `look` makes of the `T` that lies at `offset` bytes into the frame. A reader that has it in memory shows it there,
    /// so that only the fields that are looked at are loaded.
    #[inline(always)]
    fn view<T: Pod, R>(&self, offset: u32, look: impl FnOnce(&T) -> R) -> Result<R, Short> {
        self.read(offset).map(|value| look(&value))
    }

    /// Length of the whole frame in bytes, whether or not the reader has all of it.
    fn len(&self) -> u32;

    /// True for a frame that holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a walk over `len` bytes (1 to 40) of TCP options at `offset` finds.
    fn scan_options(&self, offset: u32, len: u32) -> Result<Options, Short>;

    /// True when it is asked where the transport header of a packet of this class lies, for TCP with these ports as they lie in
    /// it. Of what is not asked for, [`classify_usual`] says that none was read.
    #[inline(always)]
    fn wants_transport(&self, _class: Class, _ports: u32) -> bool {
        true
    }

    /// [`port_filter`] of the context's ports.
    #[inline(always)]
    fn port_filter(&self, context: &Context) -> u64 {
        port_filter(&context.wireguard_ports)
    }

    /// The same offset, which is below 32768. The kernel side has its verifier forget all else that it knows of it, so that it
    /// follows what comes next once, and not for each way that led here.
    #[inline(always)]
    fn forget(&self, offset: u32) -> u32 {
        offset
    }

    /// One of the UDP ports of WireGuard; 0 for none. Asked for only when a port must be compared.
    #[inline(always)]
    fn wireguard_port(&self, context: &Context, index: usize) -> u16 {
        context.wireguard_ports[index]
    }
}

/// The UDP ports that tell what a datagram is, as a filter: a port whose [`filter_bit`] is not set is none of them. Most
/// datagrams are told to be plain by two bits of it.
pub const fn port_filter(wireguard_ports: &[u16; WIREGUARD_PORTS]) -> u64 {
    let mut filter = 1 << filter_bit(PORT_IKE) | 1 << filter_bit(PORT_NAT_T);
    let mut index = 0;
    while index < WIREGUARD_PORTS {
        if wireguard_ports[index] != 0 {
            filter |= 1 << filter_bit(wireguard_ports[index]);
        }
        index += 1;
    }
    filter
}

/// The bit of a port in [`port_filter`], whichever way round its bytes are.
#[inline(always)]
pub const fn filter_bit(port: u16) -> u32 {
    (port ^ (port >> 8)) as u32 & 63
}

/// What a walk over TCP options found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Options {
    /// No MPTCP option.
    Plain = 0,
    /// Option 30.
    Mptcp = 1,
    /// An option's length is below 2 or reaches beyond the header (RFC 9293 section 3.1).
    Illegal = 2,
}

/// How frames of an interface begin where TC sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Link {
    /// An Ethernet header, and tags that were not stripped.
    Ethernet = 0,
    /// The IP header: tun, WireGuard, IP tunnels, PPP.
    Ip = 1,
    /// Something else: read from the network header on, where the kernel says that it lies.
    Foreign = 2,
}

/// What the classifier must be told beside the frame.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Where the EtherType comes from: `None` to read an Ethernet header, else the protocol that the kernel recorded.
    pub ethertype: Option<u16>,
    /// Offset of the link header, or of the network header if there is no Ethernet header, in bytes.
    pub start: u32,
    /// True for a GSO or GRO super-packet, whose length fields do not hold.
    pub gso: bool,
    /// UDP ports of WireGuard; 0 for none.
    pub wireguard_ports: [u16; WIREGUARD_PORTS],
}

impl Context {
    /// A plain Ethernet frame, WireGuard on its usual port.
    pub const ETHERNET: Context = Context { ethertype: None, start: 0, gso: false, wireguard_ports: [51820, 0, 0, 0] };
}

/// What the classifier found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The class.
    pub class: Class,
    /// Offset of the network header in bytes.
    pub l3_offset: u32,
    /// Offset of the transport header in bytes; equal to `l3_offset` where none was read.
    pub l4_offset: u32,
    /// Offset of the transport payload in bytes: what each segment of a super-packet repeats. Equal to `l3_offset` where
    /// no transport header was read.
    pub payload_offset: u32,
}

impl Layout {
    /// A frame of `len` bytes that ends within its link header.
    #[inline(always)]
    pub const fn without_link_header(len: u32) -> Layout {
        Layout { class: Class::Malformed, l3_offset: len, l4_offset: len, payload_offset: len }
    }
}

/// How many IPv6 extension headers are walked over. RFC 8200 section 4.1 has no more than seven in a sensible packet.
pub const MAX_EXTENSIONS: u32 = 8;
/// How many VLAN tags are read inside the frame (one more may have been stripped).
pub const MAX_TAGS: u32 = 2;

/// Where a walk over the headers stands.
struct Cursor {
    /// Offset of the network header.
    l3: u32,
    /// Offset of the header that comes next.
    at: u32,
    /// Offset behind the last byte that belongs to the IP packet.
    end: u32,
    /// True for the first one of several fragments, whose payload ends before the transport's own length says so.
    first_fragment: bool,
}

impl Cursor {
    #[inline(always)]
    fn found(&self, class: Class) -> Result<Layout, Short> {
        Ok(Layout { class, l3_offset: self.l3, l4_offset: self.l3, payload_offset: self.l3 })
    }

    #[inline(always)]
    fn found_with_transport(&self, class: Class, header_len: u32) -> Result<Layout, Short> {
        Ok(Layout { class, l3_offset: self.l3, l4_offset: self.at, payload_offset: self.at + header_len })
    }

    /// True when the IP packet has `len` more bytes.
    #[inline(always)]
    fn has(&self, len: u32) -> bool {
        self.at + len <= self.end
    }
}

/// Finds the class of a frame and where its headers end.
#[inline(always)]
pub fn classify<P: Packet>(packet: &P, context: &Context) -> Result<Layout, Short> {
    let (ethertype, at) = link_header(packet, context)?;
    let at = packet.forget(at);
    let mut cursor = Cursor { l3: at, at, end: packet.len(), first_fragment: false };
    let next = match ethertype {
        ethertype::IPV4 => ipv4(packet, context, &mut cursor),
        ethertype::IPV6 => ipv6(packet, context, &mut cursor),
        ethertype::ARP => Ok(Next::Found(Class::Arp)),
        _ => Ok(Next::Found(Class::Other)),
    };
    let found = match next {
        Ok(Next::Found(class)) => cursor.found(class),
        Ok(Next::Transport(number)) => {
            cursor.at = packet.forget(cursor.at);
            let icmp = if ethertype == ethertype::IPV4 { protocol::ICMP } else { protocol::ICMPV6 };
            transport(packet, context, cursor, number, icmp)
        }
        Err(Short) => Err(Short),
    };
    match found {
        Err(Short) if P::COMPLETE => {
            Ok(Layout { class: Class::Malformed, l3_offset: at, l4_offset: at, payload_offset: at })
        }
        found => found,
    }
}

/// The EtherType behind all tags, and where the network header begins.
#[inline(always)]
fn link_header<P: Packet>(packet: &P, context: &Context) -> Result<(u16, u32), Short> {
    let mut at = context.start;
    let mut ethertype = match context.ethertype {
        Some(ethertype) => ethertype,
        None => {
            at += ETHERNET_LEN;
            packet.read::<EtherType>(at - 2)?.get()
        }
    };
    for _ in 0..MAX_TAGS {
        if ethertype != ethertype::VLAN && ethertype != ethertype::QINQ {
            break;
        }
        ethertype = packet.read::<EtherType>(at + 2)?.get();
        at += VLAN_LEN;
    }
    Ok((ethertype, at))
}

/// What the network header leads to.
enum Next {
    /// The class is known already.
    Found(Class),
    /// The header of this protocol.
    Transport(u8),
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, context: &Context, cursor: &mut Cursor) -> Result<Next, Short> {
    let header: Ipv4 = packet.read(cursor.l3)?;
    let header_len = header.header_len();
    if header.version() != 4 || header_len < 20 {
        return Ok(Next::Found(Class::Malformed));
    }
    if !context.gso {
        let end = cursor.l3 + header.total_len();
        if header.total_len() < header_len || end > cursor.end {
            return Ok(Next::Found(Class::Malformed));
        }
        cursor.end = end;
    }
    cursor.at += header_len;
    if header.is_later_fragment() {
        return Ok(Next::Found(class_of_later_fragment(header.protocol, protocol::ICMP)));
    }
    cursor.first_fragment = header.more_fragments();
    Ok(Next::Transport(header.protocol))
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, context: &Context, cursor: &mut Cursor) -> Result<Next, Short> {
    let header: Ipv6 = packet.read(cursor.l3)?;
    if header.version() != 6 {
        return Ok(Next::Found(Class::Malformed));
    }
    cursor.at += IPV6_LEN;
    // A jumbogram's length is in an option, and is beyond what the field could hold (RFC 2675 section 3).
    let jumbogram =
        header.payload_len() == 0 && header.next_header == protocol::HOP_BY_HOP && cursor.at + 0xffff < cursor.end;
    if !context.gso && !jumbogram {
        let end = cursor.at + header.payload_len();
        if end > cursor.end {
            return Ok(Next::Found(Class::Malformed));
        }
        cursor.end = end;
    }
    let mut next = header.next_header;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) {
            break;
        }
        if !cursor.has(8) {
            return Ok(Next::Found(Class::Malformed));
        }
        let extension: Extension = packet.read(cursor.at)?;
        let mut len = extension.header_len();
        if next == protocol::FRAGMENT {
            if extension.is_later_fragment() {
                return Ok(Next::Found(class_of_later_fragment(extension.next_header, protocol::ICMPV6)));
            }
            cursor.first_fragment = extension.more_fragments();
            len = 8;
        }
        cursor.at += len;
        next = extension.next_header;
    }
    Ok(if is_extension(next) { Next::Found(Class::Malformed) } else { Next::Transport(next) })
}

/// True for headers that only lead on to the next one. ESP and AH are not among them: they are what is looked for.
#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
    )
}

/// The class of a fragment without a transport header: what the protocol number alone tells.
#[inline(always)]
fn class_of_later_fragment(number: u8, icmp: u8) -> Class {
    match number {
        protocol::ESP => Class::Esp,
        protocol::AH => Class::Ah,
        protocol::TCP => Class::Tcp,
        protocol::UDP => Class::Udp,
        _ if number == icmp => Class::Icmp,
        _ => Class::OtherIp,
    }
}

#[inline(always)]
fn transport<P: Packet>(p: &P, context: &Context, cursor: Cursor, number: u8, icmp: u8) -> Result<Layout, Short> {
    match number {
        protocol::TCP => tcp(p, cursor),
        protocol::UDP => udp(p, context, cursor),
        protocol::ESP => esp(cursor),
        protocol::AH => ah(p, cursor),
        _ if number == icmp => icmp_message(p, cursor, icmp),
        // An extension header may have led beyond the end.
        _ => cursor.found(if cursor.has(0) { Class::OtherIp } else { Class::Malformed }),
    }
}

/// Security parameter index and sequence number must be there; the rest is ciphertext.
#[inline(always)]
fn esp(cursor: Cursor) -> Result<Layout, Short> {
    cursor.found(if cursor.has(8) { Class::Esp } else { Class::Malformed })
}

/// An authentication header around ESP leaves the payload encrypted.
#[inline(always)]
fn ah<P: Packet>(packet: &P, mut cursor: Cursor) -> Result<Layout, Short> {
    if !cursor.has(12) {
        return cursor.found(Class::Malformed);
    }
    let header: Extension = packet.read(cursor.at)?;
    if !cursor.has(header.ah_len()) || header.ah_len() < 12 {
        return cursor.found(Class::Malformed);
    }
    cursor.at += header.ah_len();
    if header.next_header == protocol::ESP { esp(cursor) } else { cursor.found(Class::Ah) }
}

#[inline(always)]
fn icmp_message<P: Packet>(packet: &P, cursor: Cursor, icmp: u8) -> Result<Layout, Short> {
    if !cursor.has(8) {
        return cursor.found(Class::Malformed);
    }
    let message_type = packet.read::<Pair>(cursor.at)?.first;
    let discovery = icmp == protocol::ICMPV6 && matches!(message_type, 133..=137);
    cursor.found(if discovery { Class::NeighborDiscovery } else { Class::Icmp })
}

#[inline(always)]
fn tcp<P: Packet>(packet: &P, cursor: Cursor) -> Result<Layout, Short> {
    if !cursor.has(TCP_LEN) {
        return cursor.found(Class::Malformed);
    }
    let header_len = packet.read::<TcpTail>(cursor.at + TcpTail::OFFSET)?.header_len();
    if header_len < TCP_LEN || !cursor.has(header_len) {
        return cursor.found(Class::Malformed);
    }
    let class = match options(packet, cursor.at + TCP_LEN, header_len - TCP_LEN)? {
        Options::Plain => Class::Tcp,
        Options::Mptcp => Class::Mptcp,
        Options::Illegal => return cursor.found(Class::Malformed),
    };
    cursor.found_with_transport(class, header_len)
}

/// UDP port of IKE.
const PORT_IKE: u16 = 500;
/// UDP port of IKE and ESP behind a NAT.
const PORT_NAT_T: u16 = 4500;

#[inline(always)]
fn udp<P: Packet>(packet: &P, context: &Context, cursor: Cursor) -> Result<Layout, Short> {
    if !cursor.has(UDP_LEN) {
        return cursor.found(Class::Malformed);
    }
    let header = packet.view(cursor.at, Udp::fields)?;
    let payload = if context.gso {
        cursor.end - cursor.at - UDP_LEN
    } else {
        let total_len = header.total_len();
        if total_len < UDP_LEN || (!cursor.first_fragment && !cursor.has(total_len)) {
            return cursor.found(Class::Malformed);
        }
        total_len - UDP_LEN
    };
    // A first fragment holds less than the datagram's length says; and what lies behind a datagram that is shorter than
    // the packet is none of its payload (RFC 9868).
    let here = (cursor.end - cursor.at - UDP_LEN).min(payload);
    let class = datagram(packet, context, &header, cursor.at + UDP_LEN, payload, here)?;
    cursor.found_with_transport(class, UDP_LEN)
}

/// What a datagram is by its ports: its payload of `payload` bytes lies at `at`, and the packet holds the first `here`.
#[inline(always)]
fn datagram<P: Packet>(
    packet: &P,
    context: &Context,
    header: &UdpFields,
    at: u32,
    payload: u32,
    here: u32,
) -> Result<Class, Short> {
    if header.has_port(PORT_NAT_T) {
        nat_traversal(packet, at, payload, here)
    } else if !header.may_have_port_of(packet.port_filter(context)) {
        Ok(Class::Udp)
    } else if header.has_port(PORT_IKE) {
        Ok(Class::Ike)
    } else if is_wireguard_port(packet, context, header) && here >= 4 {
        wireguard(packet, at, payload)
    } else {
        Ok(Class::Udp)
    }
}

/// What UDP port 4500 carries (RFC 3948 section 2): of `payload` bytes the frame holds the first `here`.
#[inline(always)]
fn nat_traversal<P: Packet>(packet: &P, at: u32, payload: u32, here: u32) -> Result<Class, Short> {
    if payload == 1 && here == 1 {
        // Read with the last byte of the header.
        let keepalive = packet.read::<Pair>(at - 1)?.second == 0xff;
        return Ok(if keepalive { Class::NatKeepalive } else { Class::Udp });
    }
    if here < 4 {
        return Ok(Class::Udp);
    }
    if packet.read::<Word>(at)?.is_zero() {
        return Ok(Class::Ike);
    }
    // Security parameter index and sequence number: less cannot be ESP.
    Ok(if payload >= 8 { Class::EspUdp } else { Class::Udp })
}

#[inline(always)]
fn is_wireguard_port<P: Packet>(packet: &P, context: &Context, header: &UdpFields) -> bool {
    (0..WIREGUARD_PORTS).any(|index| {
        let port = packet.wireguard_port(context, index);
        port != 0 && header.has_port(port)
    })
}

/// One of WireGuard's four messages, by type and length, or plain UDP on its port.
#[inline(always)]
fn wireguard<P: Packet>(packet: &P, at: u32, payload: u32) -> Result<Class, Short> {
    // The type is little-endian with three reserved zero bytes.
    let message = packet.read::<Word>(at)?.get().swap_bytes();
    let known = match message {
        1 => payload == 148,
        2 => payload == 92,
        3 => payload == 64,
        4 => payload >= 32,
        _ => false,
    };
    Ok(if known { Class::Wireguard } else { Class::Udp })
}
