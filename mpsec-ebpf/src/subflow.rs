//! Counting a packet for its MPTCP subflow: whose it is, and how much payload it carries.

use aya_ebpf::bindings::__sk_buff;
use mpsec_common::headers::{
    ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Ipv4, Ipv4Addresses, Ipv6, Ipv6Addresses, TcpHead, TcpTail,
};
use mpsec_common::maps::{InterfaceSlot, interface_flags};
use mpsec_common::mptcp::{PORTS_BATCH, PORTS_HEAD, PortsChange, tag_v4, tag_v6};
use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction, Layout, Link, Packet, Short};

use crate::packet::{Linear, Whole};
use crate::record::subflows::{self, Segment};

/// Bits of a VLAN tag that tell the VLAN; with none of them set it is a priority only (IEEE 802.1Q), and the packet is the
/// interface's own.
const VLAN_ID: u32 = 0xfff;

/// True when a packet may be one of a subflow.
#[inline(always)]
pub fn is_wanted(layout: &Layout) -> bool {
    matches!(layout.class, Class::Tcp | Class::Mptcp) && subflows::on()
}

/// True when subflows' packets are counted on this interface.
#[inline(always)]
fn counts_subflows(interface: &InterfaceSlot) -> bool {
    interface.flags & interface_flags::COUNTS_SUBFLOWS != 0
}

/// True when the packet is on its way to or from another interface of this host, which counts it.
#[inline(always)]
fn is_of_vlan(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context of a TC program is valid for as long as the program runs.
    let buffer = unsafe { &*skb };
    buffer.vlan_present != 0 && buffer.vlan_tci & VLAN_ID != 0
}

/// Counts a packet for its subflow that came by on an Ethernet interface: usual headers right here, others in
/// [`mpsec_subflow`].
#[inline(always)]
pub fn count_usual(
    skb: *mut __sk_buff,
    packet: &impl Packet,
    interface: &InterfaceSlot,
    direction: Direction,
    layout: &Layout,
    amount: &Counter,
) {
    // Where a TCP header begins tells what is in front of it: a tag, or another header, would move it elsewhere.
    const V4: u32 = ETHERNET_LEN + IPV4_LEN;
    const V6: u32 = ETHERNET_LEN + IPV6_LEN;
    let is_here = || counts_subflows(interface) && !is_of_vlan(skb);
    let at = |l4_offset| Layout { l3_offset: ETHERNET_LEN, l4_offset, ..*layout };
    let outcome = match layout.l4_offset {
        V4 => count::<_, true>(skb, packet, direction, &at(V4), amount, is_here),
        V6 => count::<_, false>(skb, packet, direction, &at(V6), amount, is_here),
        _ => Err(Short),
    };
    if outcome.is_err() && layout.l3_offset == ETHERNET_LEN && is_here() {
        mpsec_subflow(skb, pack(layout, direction), amount.packets, amount.bytes);
    }
}

#[inline(always)]
fn pack(layout: &Layout, direction: Direction) -> u64 {
    super::classify::pack(layout) | (direction as u64) << 56
}

/// Counts a packet of any kind for its subflow.
#[inline(always)]
pub fn count_slowly(
    skb: *mut __sk_buff,
    interface: &InterfaceSlot,
    direction: Direction,
    layout: &Layout,
    amount: &Counter,
) {
    let tagged = interface.link == Link::Ethernet as u8 && layout.l3_offset != ETHERNET_LEN;
    // Of a later fragment no transport header was read.
    if counts_subflows(interface) && !tagged && !is_of_vlan(skb) && layout.l4_offset != layout.l3_offset {
        mpsec_subflow(skb, pack(layout, direction), amount.packets, amount.bytes);
    }
}

/// Reads [`PortsChange`]s from a frame.
#[inline(always)]
pub fn change_ports(skb: *mut __sk_buff) -> i32 {
    let packet = Linear::<false>::new(skb);
    let mut count = 0;
    for index in 0..PORTS_BATCH {
        let Ok(change) = packet.read::<PortsChange>((PORTS_HEAD + index * size_of::<PortsChange>()) as u32) else {
            break;
        };
        count = subflows::change_ports(change.ports, change.change);
    }
    count as i32
}

/// Counts a packet for its subflow by copying headers out. A global function, so that the verifier follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow(skb: *mut __sk_buff, layout: u64, packets: u64, bytes: u64) -> i32 {
    let direction = if layout >> 56 == Direction::Rx as u64 { Direction::Rx } else { Direction::Tx };
    let layout = super::classify::unpack(layout);
    let amount = Counter { packets, bytes, l3_bytes: 0 };
    let packet = Whole::new(skb);
    let is_v4 = packet.read::<Ipv4>(layout.l3_offset).is_ok_and(|header| header.version() == 4);
    // What cannot be read now was read before.
    let _ = if is_v4 {
        count::<Whole, true>(skb, &packet, direction, &layout, &amount, || true)
    } else {
        count::<Whole, false>(skb, &packet, direction, &layout, &amount, || true)
    };
    0
}

/// Counts a packet for its subflow if `is_here`, which is asked only of what may be one.
#[inline(always)]
fn count<P: Packet, const V4: bool>(
    skb: *mut __sk_buff,
    packet: &P,
    direction: Direction,
    layout: &Layout,
    amount: &Counter,
    is_here: impl FnOnce() -> bool,
) -> Result<(), Short> {
    let ports = packet.view(layout.l4_offset, |head: &TcpHead| head.ports)?;
    let is_mptcp = layout.class as u32 == Class::Mptcp as u32;
    // The short way through the classifier has asked for the ports already.
    let is_other = P::COMPLETE && !is_mptcp && !subflows::may_have_ports(ports);
    if is_other || !is_here() {
        return Ok(());
    }
    let ports = match direction {
        Direction::Rx => ports,
        Direction::Tx => ports.rotate_left(16),
    };
    let tag = if V4 { v4(packet, direction, layout, ports)? } else { v6(packet, direction, layout, ports)? };
    // The rest is read when it is known where to add it, so that it need not be kept until then.
    let segment = || segment::<P, V4>(skb, packet, layout, amount);
    match subflows::find(tag) {
        Some(slot) => subflows::count(slot, direction, amount, segment)?,
        None if is_mptcp => {
            let is_first = packet.view(layout.l4_offset + TcpTail::OFFSET, TcpTail::is_first)?;
            subflows::unknown(tag, direction, amount, segment()?, is_first);
        }
        None => {}
    }
    Ok(())
}

#[inline(always)]
fn segment<P: Packet, const V4: bool>(
    skb: *mut __sk_buff,
    packet: &P,
    layout: &Layout,
    amount: &Counter,
) -> Result<Segment, Short> {
    // The length fields of a super-packet may not hold: they have no room for more than 64 KiB.
    let end = if amount.packets == 1 { ip_end::<P, V4>(packet, layout)? } else { packet.len() };
    let sequence = packet.view(layout.l4_offset, TcpHead::sequence)?;
    // SAFETY: as in `is_of_vlan`.
    let ifindex = unsafe { (*skb).ifindex };
    Ok(Segment { payload: end.wrapping_sub(layout.payload_offset) as i32, sequence, ifindex })
}

#[inline(always)]
fn v4<P: Packet>(packet: &P, direction: Direction, layout: &Layout, ports: u32) -> Result<u64, Short> {
    packet.view(layout.l3_offset + Ipv4Addresses::OFFSET, |addresses: &Ipv4Addresses| match direction {
        Direction::Rx => tag_v4(subflows::seed(), addresses.both, ports),
        Direction::Tx => tag_v4(subflows::seed(), addresses.both.rotate_left(32), ports),
    })
}

#[inline(always)]
fn v6<P: Packet>(packet: &P, direction: Direction, layout: &Layout, ports: u32) -> Result<u64, Short> {
    packet.view(layout.l3_offset + Ipv6Addresses::OFFSET, |addresses: &Ipv6Addresses| match direction {
        Direction::Rx => tag_v6(subflows::seed(), addresses.destination, addresses.source, ports),
        Direction::Tx => tag_v6(subflows::seed(), addresses.source, addresses.destination, ports),
    })
}

/// Offset behind the last byte of the IP packet: a frame may be longer, because the link fills up short ones.
#[inline(always)]
fn ip_end<P: Packet, const V4: bool>(packet: &P, layout: &Layout) -> Result<u32, Short> {
    let len = if V4 {
        packet.view(layout.l3_offset, Ipv4::total_len)?
    } else {
        match packet.view(layout.l3_offset, Ipv6::payload_len)? {
            // A jumbogram.
            0 => return Ok(packet.len()),
            len => IPV6_LEN + len,
        }
    };
    Ok(layout.l3_offset + len)
}
