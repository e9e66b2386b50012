//! What the agent wants set on subflows, by their local address.
//!
//! Options: bpf_sol_tcp_setsockopt, sol_tcp_sockopt and sol_socket_sockopt in net/core/filter.c, 6.1 to 6.18.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_setsockopt, bpf_sock_ops_cb_flags_set};
use mpsec_common::maps::Event;
use mpsec_common::policy::{CONGESTION_LEN, Policy, Timeout, flags};

use crate::kernel::sock::state;
use crate::record::{self, policy};
use crate::sockops::Tuple;

const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SO_MAX_PACING_RATE: i32 = 47;
const TCP_CONGESTION: i32 = 13;
const TCP_USER_TIMEOUT: i32 = 18;
const TCP_RTO_MAX_MS: i32 = 44;
const TCP_BPF_RTO_MIN: i32 = 1004;
/// How long TCP sends again before it gives up, unless set otherwise: with a shorter bound between two attempts it would give
/// up after as many of them, and therefore much sooner (retransmits_timed_out, net/ipv4/tcp_timer.c, 6.18).
const USUAL_TIMEOUT_MS: u32 = 924_600;
/// The callback that is made when a retransmission timer expires (BPF_SOCK_OPS_RTO_CB_FLAG).
const TIMEOUT_CALLBACK: u32 = 1 << 0;

/// Sets what the policy for the socket's local address says: before a SYN leaves the bound of its timeout, and when the
/// handshake is done all of it. Gives 0. A global function, so that the verifier follows once what each option may answer.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_policy(ops: *mut bpf_sock_ops, connects: u32, joined: u32) -> i32 {
    apply(ops, connects != 0, joined != 0);
    0
}

#[inline(always)]
fn apply(ops: *mut bpf_sock_ops, connects: bool, joined: bool) {
    let Some(policy) = policy::of(&key(Tuple::of(ops).local)) else { return };
    // SAFETY: the map returned a pointer to a whole value.
    let wanted = unsafe { &*policy };
    if joined && wanted.rto_max_ms != 0 {
        set(ops, SOL_TCP, TCP_RTO_MAX_MS, wanted.rto_max_ms);
        if !connects {
            set(ops, SOL_TCP, TCP_USER_TIMEOUT, USUAL_TIMEOUT_MS);
        }
    }
    if connects {
        return;
    }
    set(ops, SOL_TCP, TCP_BPF_RTO_MIN, wanted.rto_min_us);
    set(ops, SOL_SOCKET, SO_MAX_PACING_RATE, pacing(wanted));
    if wanted.congestion[0] != 0 {
        // SAFETY: the helper takes the context, and reads the name where it lies, in a value of a map.
        let result = unsafe {
            let name = wanted.congestion.as_ptr().cast_mut().cast();
            bpf_setsockopt(ops.cast(), SOL_TCP, TCP_CONGESTION, name, CONGESTION_LEN as i32)
        };
        check(result);
    }
    if wanted.flags & flags::REPORT_TIMEOUTS != 0 {
        // SAFETY: the helper takes the context.
        unsafe { bpf_sock_ops_cb_flags_set(ops, ((*ops).bpf_sock_ops_cb_flags | TIMEOUT_CALLBACK) as i32) };
    }
}

/// Reports that an established subflow's retransmission timer has expired.
#[inline(always)]
pub fn report(ops: *mut bpf_sock_ops, [local, remote]: [[u64; 2]; 2], [local_port, remote_port]: [u16; 2]) {
    // SAFETY: the context is valid for as long as the program runs; the first argument of this callback is how often the
    // timer has expired before (tcp_write_timeout, net/ipv4/tcp_timer.c, 6.18).
    let (in_state, srtt_us, retransmits) = unsafe {
        let [retransmits, ..] = (*ops).__bindgen_anon_1.args;
        ((*ops).state, (*ops).srtt_us >> 3, retransmits)
    };
    // A socket that was once asked for it calls back for ever: what nobody wants any more is not reported.
    // SAFETY: the map returned a pointer to a whole value.
    let is_wanted =
        policy::of(&key(local)).is_some_and(|policy| unsafe { (*policy).flags } & flags::REPORT_TIMEOUTS != 0);
    if in_state != state::ESTABLISHED as u32 || !is_wanted {
        return;
    }
    policy::report(Timeout {
        local: key(local),
        remote: key(remote),
        // SAFETY: the helper has no preconditions.
        at_ns: unsafe { bpf_ktime_get_ns() },
        local_port,
        remote_port,
        retransmits,
        srtt_us,
        reserved: 0,
    });
}

/// Sets an option, unless the value is 0.
#[inline(always)]
fn set(ops: *mut bpf_sock_ops, level: i32, option: i32, value: u32) {
    if value == 0 {
        return;
    }
    let mut value = value;
    // SAFETY: the helper takes the context and reads as many bytes as it is told.
    let result = unsafe { bpf_setsockopt(ops.cast(), level, option, (&raw mut value).cast(), 4) };
    check(result);
}

#[inline(always)]
fn check(result: i64) {
    if result != 0 {
        record::event(Event::PolicyRefused);
    }
}

/// The option is of 32 bits for programs, and all ones stand for no bound (sk_setsockopt, net/core/sock.c, 6.18).
#[inline(always)]
fn pacing(policy: &Policy) -> u32 {
    const MOST: u64 = u32::MAX as u64 - 1;
    if policy.max_pacing_rate > MOST { MOST as u32 } else { policy.max_pacing_rate as u32 }
}

/// Addresses lie in a tuple as in memory.
#[inline(always)]
fn key(halves: [u64; 2]) -> [u8; 16] {
    let [first, second] = halves.map(u64::to_ne_bytes);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&first);
    key[8..].copy_from_slice(&second);
    key
}
