//! Placeholder: one classifier that counts packets.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};

#[map]
static PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Counts one packet and leaves the verdict to whoever comes next.
#[classifier]
pub fn count(_ctx: TcContext) -> i32 {
    if let Some(slot) = PACKETS.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own and the map's type is u64.
        unsafe { *slot = (*slot).wrapping_add(1) };
    }
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
