//! Telling what IPsec has decrypted from what came in clear.
//!
//! Behind a tunnel (ESP, or ESP in UDP; also BEET mode) the inner packet comes up a second time on the same device, ingress. The
//! kernel keeps with it by which states it came (`sec_path`; xfrm_input, net/xfrm/xfrm_input.c, 6.1 to 6.18), which nobody
//! on the network can bring about. On egress a packet that is passed on still has it, and leaves in clear: it says nothing there.
//!
//! Most hosts never see such a packet, so it is asked for only where IPsec is in use: from the first packet of ESP or AH on, which
//! comes by before anything that was in it, or when the agent finds states ([`MAP_IPSEC_IN_USE`]), because where a device or
//! GRO takes ESP off (esp4_gro_receive, net/ipv4/esp4_offload.c) no packet of it ever comes by here.
//!
//! [`MAP_IPSEC_IN_USE`]: mpsec_common::maps::MAP_IPSEC_IN_USE

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, bpf_xfrm_state};
use aya_ebpf::helpers::generated::bpf_skb_get_xfrm_state;
use mpsec_common::Class;

/// 1 where the kernel can be asked: one without CONFIG_XFRM refuses a program that does, so that nothing of this is in the
/// loaded one there.
#[unsafe(no_mangle)]
static XFRM_STATE: Global<u32> = Global::new(0);

/// 1 as soon as IPsec is known to be in use. In a section, and so in a map, of its own, which the agent writes to as well.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.ipsec")]
static mut IPSEC_IN_USE: u32 = 0;

/// Whether a packet can be one that was decrypted.
#[inline(always)]
pub fn in_use() -> bool {
    // SAFETY: the address is that of the static; volatile, because others write it.
    XFRM_STATE.load() != 0 && unsafe { (&raw const IPSEC_IN_USE).read_volatile() != 0 }
}

/// Takes note of a packet's class: from ESP or AH on, it is asked for what was decrypted.
#[inline(always)]
pub fn note(class: Class) {
    // One comparison for nearly all packets, before anything is loaded.
    if class as u32 <= Class::Ah as u32 && XFRM_STATE.load() != 0 && !in_use() {
        // SAFETY: as in `in_use`; all that is ever written is 1.
        unsafe { (&raw mut IPSEC_IN_USE).write_volatile(1) };
    }
}
const _: () =
    assert!(Class::Esp as u32 == 0 && Class::EspUdp as u32 == 1 && Class::Ah as u32 == 2, "`note` compares once");

/// Whether a packet that was received has been decrypted on this host. Inlined: a call would cost as much as the question, and
/// the structure has room on the stacks of both callers.
#[inline(always)]
pub fn has_decrypted(skb: *mut __sk_buff) -> bool {
    let mut state = MaybeUninit::<bpf_xfrm_state>::uninit();
    // SAFETY: the helper takes the context, and fills all of the structure or clears it.
    let result =
        unsafe { bpf_skb_get_xfrm_state(skb.cast(), 0, state.as_mut_ptr(), size_of::<bpf_xfrm_state>() as u32, 0) };
    result == 0
}
