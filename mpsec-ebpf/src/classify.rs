//! The TC classifier: which class a packet is of, how much of the wire it takes, and where that is counted.

use core::hint::black_box;
use core::num::NonZero;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use mpsec_common::headers::VLAN_LEN;
use mpsec_common::maps::{Event, InterfaceSlot, WIREGUARD_PORTS, interface_flags};
use mpsec_common::packet::{Context, classify_usual};
use mpsec_common::traffic::{CLASS_SLOTS, Counter};
use mpsec_common::{Class, Direction, Layout, Link, Packet as _, classify};

use crate::packet::{Linear, Whole};
use crate::{ipsec, kernel, record, subflow};

/// Counts one packet and lets it pass on to whatever comes next on the hook.
///
/// What nearly every packet on an Ethernet interface is, super-packets of TCP among them, with headers that lie in the linear
/// part of the buffer, is counted right here. For the rest there is [`mpsec_count`], which takes its time.
#[inline(always)]
pub fn count(skb: *mut __sk_buff, direction: Direction) -> i32 {
    if count_usual(skb, direction).is_none() && !(is_received(direction) && is_copy_of_sent(skb)) {
        mpsec_count(skb, direction as u32);
    }
    // The same number as TCX_NEXT.
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count_usual(skb: *mut __sk_buff, direction: Direction) -> Option<()> {
    // SAFETY: the context of a TC program is valid for as long as the program runs.
    let buffer = unsafe { &*skb };
    let interface = record::interface_at_home(buffer.ifindex)?;
    if interface.link != Link::Ethernet as u8 {
        return None;
    }
    // Asked before anything else is known that would have to be kept meanwhile; only what was decrypted goes the long way.
    if is_received(direction) && ipsec::in_use() && ipsec::has_decrypted(skb) {
        return None;
    }
    let packet = Linear::<false>::new(skb);
    let layout = classify_usual(&packet, &Context::ETHERNET)?;
    ipsec::note(layout.class);
    let stripped_tag = if buffer.vlan_present != 0 { VLAN_LEN } else { 0 };
    // What is not counted is no longer than the headers that were just read.
    let beside = stripped_tag.wrapping_sub(interface.uncounted[direction as usize] as u32);
    let amount = if buffer.gso_size == 0 {
        let bytes = packet.len().wrapping_add(beside);
        Counter { packets: 1, bytes: bytes as u64, l3_bytes: (packet.len() - layout.l3_offset) as u64 }
    } else {
        // Of others than TCP the lengths may not hold, and there may be a tunnel.
        if !matches!(layout.class, Class::Tcp | Class::Mptcp) {
            return None;
        }
        // Each segment repeats the headers; on egress the kernel has worked that out. Without the number of segments, the
        // long way works it out.
        let segments = NonZero::new(buffer.gso_segs)?.get();
        let wire_len = match direction {
            Direction::Rx => packet.len().wrapping_add((segments - 1).wrapping_mul(layout.payload_offset)),
            Direction::Tx => buffer.wire_len,
        };
        let bytes = wire_len.wrapping_add(segments.wrapping_mul(beside));
        let l3_bytes = wire_len.wrapping_sub(segments.wrapping_mul(layout.l3_offset));
        Counter { packets: segments as u64, bytes: bytes as u64, l3_bytes: l3_bytes as u64 }
    };
    record::traffic(interface.first_counter, direction, layout.class as usize, &amount);
    if layout.l4_offset != layout.l3_offset {
        subflow::count_usual(skb, &packet, interface, direction, &layout, &amount);
    }
    Some(())
}

/// Counts one packet of any kind. A global function, so that the verifier follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_count(skb: *mut __sk_buff, direction: u32) -> i32 {
    let direction = if direction == Direction::Rx as u32 { Direction::Rx } else { Direction::Tx };
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    let interface = record::interface(buffer.ifindex);
    let layout = layout(skb, interface, direction);
    let amount = amount(skb, interface, direction, &layout);
    if layout.class == Class::Malformed {
        log_malformed(skb);
    }
    ipsec::note(layout.class);
    // Inside all of an interface's traffic is alike. Elsewhere what was decrypted is seen one way only, so that it would be half of
    // what its subflow carries: that is then told by the socket alone.
    let is_inside = interface.flags & interface_flags::INSIDE_IPSEC != 0;
    let is_decrypted = !is_inside && is_received(direction) && ipsec::in_use() && ipsec::has_decrypted(skb);
    let class = if is_inside || is_decrypted { Class::Decrypted } else { layout.class };
    record::traffic(interface.first_counter, direction, black_box(class as usize), &amount);
    if subflow::is_wanted(&layout) && !is_decrypted {
        subflow::count_slowly(skb, interface, direction, &layout, &amount);
    }
    0
}

#[inline(always)]
fn is_received(direction: Direction) -> bool {
    direction as u32 == Direction::Rx as u32
}

/// `PACKET_LOOPBACK` (include/uapi/linux/if_packet.h).
const PACKET_LOOPBACK: u32 = 5;

/// True for the copy that the IP layer makes for this host's own listeners of what is sent to many. It was on no wire, and what is
/// sent is counted. It has no link header (dev_loopback_xmit, net/core/dev.c, 6.1 to 6.18), which others of its kind have, so that
/// nothing is put before it here: those between hosts behind a VRF.
#[inline(always)]
fn is_copy_of_sent(skb: *mut __sk_buff) -> bool {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    buffer.pkt_type == PACKET_LOOPBACK && link_header_len(skb, Direction::Rx) == 0
}

/// Says where a malformed packet came by. The loader sets the log level in a read-only global, so that this is not in the
/// program at all unless it was asked for.
#[inline(never)]
fn log_malformed(skb: *mut __sk_buff) {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    let (ifindex, len, protocol) = (buffer.ifindex, buffer.len, u16::from_be(buffer.protocol as u16));
    debug!(&TcContext::new(skb), "malformed packet: ifindex {} length {} ethertype 0x{:x}", ifindex, len, protocol);
}

/// Class and headers: from the linear part where that is enough, else from the whole packet.
#[inline(always)]
fn layout(skb: *mut __sk_buff, interface: &InterfaceSlot, direction: Direction) -> Layout {
    let (link, direction) = (interface.link as u32, direction as u32);
    let packed = if link == Link::Foreign as u32 { SHORT } else { mpsec_layout_of_linear(skb, link, direction) };
    unpack(if packed == SHORT { mpsec_layout_of_whole(skb, link, direction) } else { packed })
}

/// What stands for a header that reached beyond the linear part.
const SHORT: u64 = u64::MAX;

/// [`layout`] where the headers lie. A global function, so that the verifier does not follow what comes after it on each of the
/// ways through it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_layout_of_linear(skb: *mut __sk_buff, link: u32, direction: u32) -> u64 {
    let direction = if direction == Direction::Rx as u32 { Direction::Rx } else { Direction::Tx };
    let context = context(skb, link == Link::Ethernet as u32, direction);
    classify(&Linear::<true>::new(skb), &context).map_or(SHORT, |layout| pack(&layout))
}

/// How the frame begins, as far as the kernel tells.
#[inline(always)]
fn context(skb: *mut __sk_buff, ethernet: bool, direction: Direction) -> Context {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    Context {
        ethertype: if ethernet { None } else { Some(u16::from_be(buffer.protocol as u16)) },
        start: if ethernet { 0 } else { link_header_len(skb, direction) },
        gso: buffer.gso_size != 0,
        wireguard_ports: [0; WIREGUARD_PORTS],
    }
}

/// No link header is as long, in bytes (`hard_header_len`, of which `LL_MAX_HEADER` is for 128). A mask.
const LONGEST_LINK_HEADER: u32 = 0xff;

/// Length of the link header on an interface that is not Ethernet. On ingress the kernel has recorded the length without
/// it (`qdisc_pkt_len`, net/core/dev.c, sch_handle_ingress, 6.1 to 6.18), but from 6.19 on that of a super-packet as its
/// segments take; on egress there is none yet.
#[inline(always)]
fn link_header_len(skb: *mut __sk_buff, direction: Direction) -> u32 {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    let recorded = buffer.len.saturating_sub(buffer.wire_len);
    let len = match direction {
        Direction::Rx if buffer.gso_size != 0 => kernel::link_header_len(skb).unwrap_or(recorded),
        Direction::Rx => recorded,
        Direction::Tx => 0,
    };
    len & LONGEST_LINK_HEADER
}

/// [`layout`] by copying header after header: slower, and right for every buffer. A global function, so that the verifier
/// follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_layout_of_whole(skb: *mut __sk_buff, link: u32, direction: u32) -> u64 {
    let direction = if direction == Direction::Rx as u32 { Direction::Rx } else { Direction::Tx };
    let foreign = link == Link::Foreign as u32;
    if !foreign {
        record::event(Event::NonLinear);
    }
    let mut context = context(skb, link == Link::Ethernet as u32, direction);
    let (mut packet, mut before) = (Whole::new(skb), 0);
    if foreign {
        // `bpf_skb_load_bytes_relative` reads the linear part only (net/core/filter.c, shown on 6.18), so it is the last
        // resort.
        if let Some(link_len) = kernel::link_header_len(skb) {
            context.start = link_len.min(packet.len()).min(LONGEST_LINK_HEADER);
        } else {
            before = context.start;
            context.start = 0;
            packet = Whole::from_network_header(skb, before);
        }
    }
    let mut layout = classify(&packet, &context).unwrap_or(Layout::without_link_header(packet.len()));
    layout.l3_offset += before;
    layout.l4_offset += before;
    layout.payload_offset += before;
    pack(&layout)
}

/// A layout in a register: a function of the kernel side can return no more. The highest byte is 0.
#[inline(always)]
pub fn pack(layout: &Layout) -> u64 {
    layout.class as u64
        | ((layout.l3_offset as u64 & 0xffff) << 8)
        | ((layout.payload_offset as u64 & 0xffff) << 24)
        | ((layout.l4_offset as u64 & 0xffff) << 40)
}

#[inline(always)]
pub fn unpack(packed: u64) -> Layout {
    // Masked, so that the verifier knows a bound, which the function that packed it does not tell.
    let class = Class::from_number(packed as u8 & (CLASS_SLOTS as u8 - 1)).unwrap_or(Class::Other);
    Layout {
        class,
        l3_offset: (packed >> 8) as u32 & 0xffff,
        l4_offset: (packed >> 40) as u32 & 0xffff,
        payload_offset: (packed >> 24) as u32 & 0xffff,
    }
}

/// What the packet takes of the wire.
#[inline(always)]
fn amount(skb: *mut __sk_buff, interface: &InterfaceSlot, direction: Direction, layout: &Layout) -> Counter {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    let (packets, wire_len) = if buffer.gso_size == 0 {
        (1, buffer.len as u64)
    } else {
        let unfolded = mpsec_unfold(skb, direction as u32, layout.payload_offset, layout.class as u32);
        (unfolded >> 32, unfolded & 0xffff_ffff)
    };
    let stripped_tag = if buffer.vlan_present != 0 { VLAN_LEN as u64 } else { 0 };
    let l3_bytes = wire_len.saturating_sub(packets * layout.l3_offset as u64);
    // What comes out of IPsec still has the link header, if any, of the device that it came by, which its own does not count
    // (xfrmi_rcv_cb, vti_rcv_cb).
    if interface.flags & interface_flags::INSIDE_IPSEC != 0 && is_received(direction) {
        return Counter { packets, bytes: l3_bytes, l3_bytes };
    }
    let uncounted = interface.uncounted[direction as usize] as u64;
    let bytes = (wire_len + packets * stripped_tag).saturating_sub(packets * uncounted);
    Counter { packets, bytes, l3_bytes }
}

/// Packets (upper half) and bytes (lower half) on the wire of a super-packet: each segment repeats the headers.
/// A global function, as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_unfold(skb: *mut __sk_buff, direction: u32, header_len: u32, class: u32) -> u64 {
    // SAFETY: as in `count`.
    let buffer = unsafe { &*skb };
    let tunnel = class == Class::Udp as u32 || class == Class::OtherIp as u32;
    let inner_header_len = if tunnel { kernel::inner_payload_offset(skb) } else { None };
    let header_len = inner_header_len.unwrap_or(header_len);
    let segments = match buffer.gso_segs {
        // Whoever made the super-packet (a guest, the owner of a tun device) left the count to others.
        0 => {
            let payload = buffer.len.saturating_sub(header_len);
            payload.wrapping_add(buffer.gso_size).wrapping_sub(1).checked_div(buffer.gso_size).unwrap_or(1)
        }
        segments => segments,
    };
    let wire_len = if direction == Direction::Tx as u32 && inner_header_len.is_none() {
        // The kernel has worked it out already (qdisc_pkt_len_init, net/core/dev.c), but before 6.17 it takes the outer
        // headers of a tunnel for all of them.
        buffer.wire_len
    } else {
        buffer.len.wrapping_add(segments.saturating_sub(1).wrapping_mul(header_len))
    };
    (segments as u64) << 32 | wire_len as u64
}
