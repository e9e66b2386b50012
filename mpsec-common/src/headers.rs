//! Headers as they lie in a frame. Multi-byte fields are big-endian; the getters return host order.
//!
//! The structures are packed to two bytes: in a kernel buffer every header starts at an even offset, and the eBPF target
//! then loads 16 bits at a time rather than single bytes. None of more than a word is exactly two words long: the compiler
//! would put such a one together in a register first, and take it apart again.

use crate::packet::filter_bit;
use crate::{header, shared};

/// EtherTypes (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

/// Length of an Ethernet header in bytes.
pub const ETHERNET_LEN: u32 = 14;
/// Length of a VLAN tag in bytes.
pub const VLAN_LEN: u32 = 4;
/// Length of an IPv4 header without options in bytes.
pub const IPV4_LEN: u32 = 20;
/// Length of an IPv6 header in bytes.
pub const IPV6_LEN: u32 = 40;
/// Length of a TCP header without options in bytes.
pub const TCP_LEN: u32 = 20;
/// Length of a UDP header in bytes.
pub const UDP_LEN: u32 = 8;

header! {
    /// The two bytes that say what follows: an EtherType, or a tag's.
    pub struct EtherType { be: u16 }
}
impl EtherType {
    /// The number in host order.
    #[inline(always)]
    pub fn get(self) -> u16 {
        u16::from_be(self.be)
    }
    /// True when it is `number`; a comparison without turning bytes round.
    #[inline(always)]
    pub fn is(self, number: u16) -> bool {
        self.be == number.to_be()
    }
}

header! {
    /// IPv4 header without options (RFC 791).
    pub struct Ipv4 {
        version_ihl: u8, tos: u8, total_len: u16, id: u16, fragment: u16, ttl: u8,
        /// Protocol number of the payload.
        pub protocol: u8,
        checksum: u16, source: [u8; 4], destination: [u8; 4],
    }
}
impl Ipv4 {
    /// Version field.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }
    /// Header length in bytes, 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        ((self.version_ihl & 0xf) as u32) << 2
    }
    /// Length of header and payload in bytes.
    #[inline(always)]
    pub fn total_len(&self) -> u32 {
        u16::from_be(self.total_len) as u32
    }
    /// True for a fragment that is not the first one.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        u16::from_be(self.fragment) & 0x1fff != 0
    }
    /// True when more fragments follow.
    #[inline(always)]
    pub fn more_fragments(&self) -> bool {
        u16::from_be(self.fragment) & 0x2000 != 0
    }
    /// True for version 4 without options that is no fragment.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.version_ihl == 0x45 && self.fragment & 0x3fffu16.to_be() == 0
    }
}

header! {
    /// IPv6 header (RFC 8200) up to the first bytes of an address.
    pub struct Ipv6 {
        version_class: u8, flow: [u8; 3], payload_len: u16,
        /// Number of the header that follows.
        pub next_header: u8,
        hop_limit: u8, source: [u8; 2],
    }
}
impl Ipv6 {
    /// Version field.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.version_class >> 4
    }
    /// Bytes behind the header; 0 in a jumbogram (RFC 2675).
    #[inline(always)]
    pub fn payload_len(&self) -> u32 {
        u16::from_be(self.payload_len) as u32
    }
}

header! {
    /// What IPv6 extension headers and the authentication header begin with; bytes 2 and 3 are the offset field of a
    /// fragment header.
    pub struct Extension {
        /// Number of the header that follows.
        pub next_header: u8,
        len: u8,
        fragment: u16,
    }
}
impl Extension {
    /// Length in bytes, counted in units of 8 beyond the first.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        (self.len as u32 + 1) << 3
    }
    /// Length in bytes of an authentication header: units of 4, less 2 (RFC 4302 section 2.2).
    #[inline(always)]
    pub fn ah_len(&self) -> u32 {
        (self.len as u32 + 2) << 2
    }
    /// True in the fragment header of a fragment that is not the first one.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        u16::from_be(self.fragment) & 0xfff8 != 0
    }
    /// True in the fragment header when more fragments follow.
    #[inline(always)]
    pub fn more_fragments(&self) -> bool {
        u16::from_be(self.fragment) & 1 != 0
    }
}

header! {
    /// TCP header without options (RFC 9293), from the data offset on.
    pub struct TcpTail { offset_reserved: u8, flags: u8 }
}
impl TcpTail {
    /// Where the tail lies in a TCP header.
    pub const OFFSET: u32 = 12;
    /// Header length in bytes, 0 to 60.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        ((self.offset_reserved >> 4) as u32) << 2
    }
    /// True for the first segment of a handshake: SYN without ACK.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.flags & 0x12 == 0x02
    }
}

shared! {
    /// The addresses of an IPv4 header, as they lie there. Not packed, as the next two are not: the machines that the agent
    /// runs on load a whole word from any address.
    pub struct Ipv4Addresses {
        /// Source address, and behind it the destination address.
        pub both: u64,
    }
}
impl Ipv4Addresses {
    /// Where they lie in the header.
    pub const OFFSET: u32 = 12;
}

shared! {
    /// The addresses of an IPv6 header, as they lie there.
    pub struct Ipv6Addresses {
        /// Source address.
        pub source: [u64; 2],
        /// Destination address.
        pub destination: [u64; 2],
    }
}
impl Ipv6Addresses {
    /// Where they lie in the header.
    pub const OFFSET: u32 = 8;
}

shared! {
    /// What a TCP header begins with: as much of it as every frame has that is long enough to be read at all.
    pub struct TcpHead {
        /// Source and destination, as they lie in the header.
        pub ports: u32,
        sequence: u32,
    }
}
impl TcpHead {
    /// The sequence number of the first byte, of the SYN if it is one.
    #[inline(always)]
    pub fn sequence(&self) -> u32 {
        u32::from_be(self.sequence)
    }
}

header! {
    /// As many bytes as an untagged frame has at the least that carries IPv4 with 8 bytes of a transport's header.
    pub struct Untagged { ethernet: [u16; 7], ipv4: [u16; 10], transport: [u16; 4] }
}

header! {
    /// Both ports, with which every transport header begins that has any.
    pub struct Ports { ports: u32 }
}
impl Ports {
    /// Source and destination, as they lie in the header.
    #[inline(always)]
    pub fn both(&self) -> u32 {
        self.ports
    }
}

header! {
    /// TCP header up to its flags, as [`Ports`] and [`TcpTail`] show it.
    pub struct TcpStart { ports: Ports, between: [u16; 4], tail: TcpTail }
}
impl TcpStart {
    /// The ports, and the length of the header in bytes. Both at once, because the verifier holds a comparison with the end of
    /// the frame good only for the pointer that was compared.
    #[inline(always)]
    pub fn ports_and_header_len(&self) -> (Ports, u32) {
        (self.ports, self.tail.header_len())
    }
}

header! {
    /// TCP header with nothing but a time stamp for an option: what nearly every segment of an established connection has.
    pub struct TcpTimestamp { ports: Ports, before: [u16; 4], offset_reserved: u8, flags: u8, between: [u16; 3], options: [u16; 6] }
}
impl TcpTimestamp {
    /// Length in bytes.
    pub const LEN: u32 = size_of::<TcpTimestamp>() as u32;
    /// The ports, if it is one: 32 bytes of header, two no-operations, a time stamp (RFC 7323 appendix A).
    #[inline(always)]
    pub fn ports(&self) -> Option<Ports> {
        self.is_all().then_some(self.ports)
    }
    #[inline(always)]
    fn is_all(&self) -> bool {
        let [first, second, ..] = self.options;
        self.offset_reserved >> 4 == 8 && first == 0x0101u16.to_be() && second == 0x080au16.to_be()
    }
}

header! {
    /// UDP header (RFC 768) without its checksum.
    pub struct Udp { source: u16, destination: u16, len: u16 }
}
impl Udp {
    /// The fields, each on its own.
    #[inline(always)]
    pub fn fields(&self) -> UdpFields {
        UdpFields { source: self.source, destination: self.destination, len: self.len }
    }
}

/// The fields of a [`Udp`] header, as they lie in a frame.
#[derive(Clone, Copy, Debug)]
pub struct UdpFields {
    source: u16,
    destination: u16,
    len: u16,
}
impl UdpFields {
    /// True when either port is `port`.
    #[inline(always)]
    pub fn has_port(&self, port: u16) -> bool {
        self.source == port.to_be() || self.destination == port.to_be()
    }
    /// True when either port may be one of those of a [`crate::packet::port_filter`]; false when neither is.
    #[inline(always)]
    pub fn may_have_port_of(&self, filter: u64) -> bool {
        ((filter >> filter_bit(self.source)) | (filter >> filter_bit(self.destination))) & 1 != 0
    }
    /// Length of header and payload in bytes.
    #[inline(always)]
    pub fn total_len(&self) -> u32 {
        u16::from_be(self.len) as u32
    }
}

header! {
    /// Four bytes, as two words in network order.
    pub struct Word { high: u16, low: u16 }
}
impl Word {
    /// True when all bits are 0.
    #[inline(always)]
    pub fn is_zero(self) -> bool {
        self.high | self.low == 0
    }
    /// The number in host order.
    #[inline(always)]
    pub fn get(self) -> u32 {
        ((u16::from_be(self.high) as u32) << 16) | u16::from_be(self.low) as u32
    }
}

header! {
    /// Two bytes. The least that is read at a time: of a comparison for a single byte, which the compiler turns into "less
    /// than the end", the verifier learns nothing.
    pub struct Pair {
        /// The byte that comes first.
        pub first: u8,
        /// The byte behind it.
        pub second: u8,
    }
}

header! {
    /// Kind and length of a TCP option.
    pub struct OptionHead {
        /// Option kind.
        pub kind: u8,
        /// Option length in bytes, kind and length included.
        pub len: u8,
    }
}
