//! Offsets of members of kernel structures: the only place that knows them.
//!
//! Rust has no CO-RE relocations. The agent looks the offsets up in the running kernel's BTF and writes them into these
//! read-only globals before it loads the object, so the verifier sees constants. An offset of [`ABSENT`] means that this
//! kernel has no such member, or that the agent may not read kernel memory.

use aya_ebpf::Global;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use mpsec_common::Packet as _;
use mpsec_common::headers::{Ipv4, Ipv6, TcpTail, UDP_LEN, protocol};

use crate::packet::Whole;

pub mod registers;
pub mod sock;
pub mod socket;

/// No such member.
const ABSENT: u32 = u32::MAX;

/// `sk_buff.encapsulation`: offset of its byte.
#[unsafe(no_mangle)]
static SKB_ENCAPSULATION: Global<u32> = Global::new(ABSENT);
/// `sk_buff.encapsulation`: its bit in that byte.
#[unsafe(no_mangle)]
static SKB_ENCAPSULATION_MASK: Global<u32> = Global::new(0);
/// `sk_buff.inner_transport_header`: from the buffer's head, in bytes.
#[unsafe(no_mangle)]
static SKB_INNER_TRANSPORT: Global<u32> = Global::new(ABSENT);
/// `sk_buff.inner_network_header`: from the buffer's head, in bytes.
#[unsafe(no_mangle)]
static SKB_INNER_NETWORK: Global<u32> = Global::new(ABSENT);
/// `sk_buff.mac_header`: from the buffer's head, in bytes.
#[unsafe(no_mangle)]
static SKB_MAC_HEADER: Global<u32> = Global::new(ABSENT);

/// `sk_buff.network_header`: from the buffer's head, in bytes.
#[unsafe(no_mangle)]
static SKB_NETWORK_HEADER: Global<u32> = Global::new(ABSENT);

/// Length of the link header. What TC sees of a packet begins with it: on ingress it is put back before the programs run
/// (tcx_run and cls_bpf, net/core/dev.c and net/sched/cls_bpf.c), on egress the two were made equal (__dev_queue_xmit).
#[inline(always)]
pub fn link_header_len(skb: *mut __sk_buff) -> Option<u32> {
    if SKB_MAC_HEADER.load() == ABSENT || SKB_NETWORK_HEADER.load() == ABSENT {
        return None;
    }
    let network = read::<u16>(skb, SKB_NETWORK_HEADER.load())?;
    Some(network.checked_sub(read::<u16>(skb, SKB_MAC_HEADER.load())?)? as u32)
}

/// Length of all the headers, from the link header to the inner payload, of a packet that the kernel knows to be
/// encapsulated (VXLAN, Geneve, GRE, IP in IP) with TCP or UDP inside.
#[inline(always)]
pub fn inner_payload_offset(skb: *mut __sk_buff) -> Option<u32> {
    if [&SKB_ENCAPSULATION, &SKB_INNER_TRANSPORT, &SKB_INNER_NETWORK, &SKB_MAC_HEADER]
        .iter()
        .any(|o| o.load() == ABSENT)
    {
        return None;
    }
    if read::<u8>(skb, SKB_ENCAPSULATION.load())? & SKB_ENCAPSULATION_MASK.load() as u8 == 0 {
        return None;
    }
    let mac = read::<u16>(skb, SKB_MAC_HEADER.load())?;
    let network = read::<u16>(skb, SKB_INNER_NETWORK.load())?.checked_sub(mac)? as u32;
    let transport = read::<u16>(skb, SKB_INNER_TRANSPORT.load())?.checked_sub(mac)? as u32;
    let packet = Whole::new(skb);
    let ipv4: Ipv4 = packet.read(network).ok()?;
    let next = if ipv4.version() == 4 { ipv4.protocol } else { packet.read::<Ipv6>(network).ok()?.next_header };
    match next {
        protocol::TCP => Some(transport + packet.read::<TcpTail>(transport + TcpTail::OFFSET).ok()?.header_len()),
        protocol::UDP => Some(transport + UDP_LEN),
        _ => None,
    }
}

/// The member of `struct sk_buff` at `offset`. The register that holds the context holds the address of the kernel's own
/// structure; the verifier lets it be passed on as a number where CAP_PERFMON allows reading kernel memory.
#[inline(always)]
fn read<T: Copy + Default>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper checks the address itself and fills all of `value` or fails.
    let result = unsafe {
        let address = skb.cast::<u8>().wrapping_add(offset as usize);
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address.cast())
    };
    (result == 0).then_some(value)
}
