//! Probes: one body for each, and an entry for each way into the kernel, which does no more than fetch the arguments. The
//! agent loads one entry of each probe, the first that works.
//!
//! They run when a segment is sent again, a reset is sent or received, or a timer of MPTCP runs out: hardly ever.

use aya_ebpf::Global;
use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext};
use aya_ebpf::{EbpfContext as _, cty::c_int};
use mpsec_common::mptcp::{flags, tag};
use mpsec_common::probes::{CA_STATES, Closer, KERNEL_REASONS, OPTION_REASONS};

use crate::kernel::registers::argument;
use crate::kernel::sock::{Said, Sock, said_by_reset, segments};
use crate::kernel::socket::TcpSock;
use crate::record::probes::{add, closed_by, marks, reset_received};
use crate::record::subflows;
use crate::sockops;

/// 1 where the tracepoint tells whether the retransmission failed (since 6.18).
#[unsafe(no_mangle)]
static RETRANSMIT_TELLS_ERROR: Global<u32> = Global::new(0);
/// 1 where the kernel says why it sends a reset (since 6.10).
#[unsafe(no_mangle)]
static RESET_TELLS_REASON: Global<u32> = Global::new(0);

/// `tcp_retransmit_skb(sk, skb[, err])`: behind the transmission (net/ipv4/tcp_output.c).
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn mpsec_retransmit_tp(context: BtfTracePointContext) -> Option<()> {
    if RETRANSMIT_TELLS_ERROR.load() != 0 && context.arg::<c_int>(2) != 0 {
        return None;
    }
    retransmitted(context.arg(0), context.arg(1), u32::MAX)
}

/// `tcp_retransmit_skb(sk, skb, segs)`: before it, so that one that fails is counted too, and without probes for the loss of
/// the last segments, which go past it. `__tcp_retransmit_skb`, which they do not, is inlined into its callers in some kernels.
#[fentry(function = "tcp_retransmit_skb")]
pub fn mpsec_retransmit_fe(context: FEntryContext) -> Option<()> {
    retransmitted(context.arg(0), context.arg(1), context.arg::<c_int>(2) as u32)
}

/// As [`mpsec_retransmit_fe`].
#[kprobe]
pub fn mpsec_retransmit_kp(context: ProbeContext) -> Option<()> {
    let context = context.as_ptr();
    retransmitted(argument(context, 0)? as _, argument(context, 1)? as _, argument(context, 2)? as u32)
}

/// Counts a retransmission of at most so many segments.
#[inline(always)]
fn retransmitted(sock: *const u8, skb: *const u8, most: u32) -> Option<()> {
    let sock = subflow(sock)?.sock();
    let state = sock.ca_state() as usize & (CA_STATES - 1);
    let segments = segments(skb);
    let segments = if segments < most { segments } else { most };
    // SAFETY: the index is masked to the array's length.
    add(segments as u64, |counts| unsafe { (&raw mut (*counts).retransmissions).cast::<u64>().add(state) });
    Some(())
}

/// `tcp_send_reset(sk, skb[, reason])`: resets in answer to a packet and on the host's own account
/// (net/ipv4/{tcp_ipv4,tcp_output}.c, net/ipv6/tcp_ipv6.c).
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn mpsec_reset_sent_tp(context: BtfTracePointContext) -> Option<()> {
    let reason = if RESET_TELLS_REASON.load() != 0 { context.arg(2) } else { NO_REASON };
    sent_reset(context.arg(0), reason)
}

/// `tcp_send_active_reset(sk, ...)`: on the host's own account only. The kernel's reason is left alone: the type information of
/// some kernels leaves the argument before it out, and then it is not where it should be.
#[fentry(function = "tcp_send_active_reset")]
pub fn mpsec_reset_sent_fe(context: FEntryContext) -> Option<()> {
    sent_reset(context.arg(0), NO_REASON)
}

/// As [`mpsec_reset_sent_fe`].
#[kprobe]
pub fn mpsec_reset_sent_kp(context: ProbeContext) -> Option<()> {
    sent_reset(argument(context.as_ptr(), 0)? as _, NO_REASON)
}

/// Where the kernel gives none. No `Option`: what lies in one that is empty would be kept in a register that nobody has written,
/// which the verifier refuses.
const NO_REASON: u32 = u32::MAX;

#[inline(always)]
fn sent_reset(sock: *const u8, reason: u32) -> Option<()> {
    let tcp = subflow(sock)?;
    let info = slot(&tcp).and_then(subflows::info);
    if reason != NO_REASON {
        let last = KERNEL_REASONS as u32 - 1;
        let reason = if reason < last { reason } else { last } as usize & (KERNEL_REASONS - 1);
        // SAFETY: the index is masked to the length of both halves together, which lie one behind the other.
        add(1, |counts| unsafe { (&raw mut (*counts).sent_resets).cast::<u64>().add(reason) });
    } else if info.is_some_and(|info| marks(info) & flags::FELL_BACK != 0) {
        // SAFETY: the pointer is to a whole value.
        add(1, |counts| unsafe { &raw mut (*counts).sent_resets_without_option });
    } else {
        let reason = tcp.subflow()?.reset_reason() as usize & (OPTION_REASONS - 1);
        // SAFETY: the index is masked to the array's length.
        add(1, |counts| unsafe { (&raw mut (*counts).sent_resets_by_option).cast::<u64>().add(reason) });
    }
    closed_by(info?, Closer::ResetSent);
    Some(())
}

/// `tcp_receive_reset(sk)`: before the options are looked at (tcp_reset, net/ipv4/tcp_input.c).
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn mpsec_reset_received_tp(context: BtfTracePointContext) -> Option<()> {
    received_reset(context.arg(0))
}

/// `tcp_reset(sk, skb)`: with the packet, so that it is known what the reset says even where the kernel does not look.
#[fentry(function = "tcp_reset")]
pub fn mpsec_reset_received_fe(context: FEntryContext) -> Option<()> {
    read_reset(context.arg(0), context.arg(1))
}

/// As [`mpsec_reset_received_fe`].
#[kprobe]
pub fn mpsec_reset_received_kp(context: ProbeContext) -> Option<()> {
    let context = context.as_ptr();
    read_reset(argument(context, 0)? as _, argument(context, 1)? as _)
}

/// Notes down that a reset was received: what it says is known, and counted, when the socket is closed on account of it
/// ([`sockops`]). A subflow that is not followed makes no callbacks.
#[inline(always)]
fn received_reset(sock: *const u8) -> Option<()> {
    let tcp = subflow(sock)?;
    let info = slot(&tcp).and_then(subflows::info);
    if let Some(info) = info {
        reset_received(info);
    }
    if info.is_none_or(|info| marks(info) & flags::ADOPTED != 0) {
        // SAFETY: the pointer is to a whole value.
        add(1, |counts| unsafe { &raw mut (*counts).received_resets_unknown });
    }
    Some(())
}

/// Counts a reset that was received, by what it says.
#[inline(always)]
fn read_reset(sock: *const u8, skb: *const u8) -> Option<()> {
    let tcp = subflow(sock)?;
    if let Some(info) = slot(&tcp).and_then(subflows::info) {
        closed_by(info, Closer::ResetReceived);
    }
    match said_by_reset(skb) {
        Some(Said::Reason(reason)) => {
            let last = OPTION_REASONS as u8 - 1;
            let reason = if reason < last { reason } else { last } as usize & (OPTION_REASONS - 1);
            // SAFETY: the index is masked to the array's length.
            add(1, |counts| unsafe { (&raw mut (*counts).received_resets).cast::<u64>().add(reason) });
        }
        // SAFETY: the pointer is to a whole value.
        Some(Said::Nothing) => add(1, |counts| unsafe { &raw mut (*counts).received_resets_without_option }),
        // SAFETY: as above.
        None => add(1, |counts| unsafe { &raw mut (*counts).received_resets_unknown }),
    }
    Some(())
}

/// `__mptcp_retrans(sk)`, of the connection: MPTCP's timer has run out (net/mptcp/protocol.c).
#[fentry(function = "__mptcp_retrans")]
pub fn mpsec_data_timeout_fe(context: FEntryContext) -> Option<()> {
    data_timed_out(context.arg(0))
}

/// As [`mpsec_data_timeout_fe`].
#[kprobe]
pub fn mpsec_data_timeout_kp(context: ProbeContext) -> Option<()> {
    data_timed_out(argument(context.as_ptr(), 0)? as _)
}

#[inline(always)]
fn data_timed_out(connection: *const u8) -> Option<()> {
    let connection = Sock::at(connection);
    if !is_ours(connection) {
        return None;
    }
    if connection.has_unacknowledged() {
        // SAFETY: the pointer is to a whole value.
        add(1, |counts| unsafe { &raw mut (*counts).data_timeouts });
    }
    Some(())
}

/// The socket, if it is a subflow of the network namespace that is looked at.
#[inline(always)]
fn subflow(sock: *const u8) -> Option<TcpSock> {
    // The verifier wants to see that it was looked at: a reset may be sent without a socket.
    if sock.is_null() {
        return None;
    }
    let sock = Sock::at(sock);
    if !sock.is_whole() {
        return None;
    }
    let tcp = TcpSock::at(sock);
    if tcp.is_mptcp() && is_ours(sock) { Some(tcp) } else { None }
}

#[inline(always)]
fn is_ours(sock: Sock) -> bool {
    let wanted = sockops::netns_cookie();
    wanted == 0 || sock.netns_cookie() == Some(wanted)
}

/// Where the subflow is in the table.
#[inline(always)]
fn slot(tcp: &TcpSock) -> Option<u32> {
    let tuple = tcp.sock().tuple()?;
    let ports = mpsec_common::mptcp::ports(tuple.local_port, tuple.remote_port);
    subflows::find(tag(subflows::seed(), tuple.local, tuple.remote, ports))
}
