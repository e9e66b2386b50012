//! MPSec's kernel side. This file only lists the programs; each lives in the module that is named for its hook.
#![no_std]
#![no_main]
// Atomic operations on maps.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "core's stable atomics are not there for this target")]

mod classify;
mod ipsec;
mod iter;
mod kernel;
mod packet;
mod policy;
mod probes;
mod record;
mod sockops;
mod subflow;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::{SockOpsContext, TcContext};
use mpsec_common::Direction;

/// TC ingress: counts what an interface receives.
#[aya_ebpf::macros::classifier]
pub fn mpsec_ingress(context: TcContext) -> i32 {
    classify::count(skb(&context), Direction::Rx)
}

/// TC egress: counts what an interface sends.
#[aya_ebpf::macros::classifier]
pub fn mpsec_egress(context: TcContext) -> i32 {
    classify::count(skb(&context), Direction::Tx)
}

/// Run by the agent only: takes note of the ports of subflows that the agent registers and releases.
#[aya_ebpf::macros::classifier]
pub fn mpsec_ports(context: TcContext) -> i32 {
    subflow::change_ports(skb(&context))
}

/// Sockets of a control group: registers MPTCP subflows.
#[aya_ebpf::macros::sock_ops]
pub fn mpsec_sockops(context: SockOpsContext) -> u32 {
    // What is no subflow is none of this program's business.
    let _ = sockops::called_back(context.ops);
    1
}

/// Walk through the table of TCP sockets: lists MPTCP subflows.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn mpsec_sockets(context: *mut iter::IterTcp) -> i32 {
    // What is no subflow is not listed.
    let _ = iter::list(context);
    0
}

fn skb(context: &TcContext) -> *mut __sk_buff {
    context.skb.skb
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The object check proves that nothing leads here.
    loop {}
}

/// Some of the helpers that are called are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
