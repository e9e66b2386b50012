//! Lists the subflows of MPTCP, and what their connections say of themselves, while the kernel walks through its table of TCP
//! sockets for the agent (bpf_iter_tcp_seq_show, net/ipv4/tcp_ipv4.c, Linux 6.18).
//!
//! The socket is locked meanwhile. Its own members are loaded where they lie; what it only points to without a type is copied,
//! with as few calls as there are pieces.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_seq_write, bpf_skc_to_tcp_sock};
use mpsec_common::sockets::{COMMON_LEN, CONTEXT_LEN, SocketRecord};

/// No such member.
const ABSENT: u32 = u32::MAX;
/// State LISTEN (include/net/tcp_states.h).
const TCP_LISTEN: u8 = 10;
/// Name of MPTCP's upper layer protocol, as the kernel keeps it (subflow_ulp_ops, net/mptcp/subflow.c).
const ULP_NAME: u64 = u64::from_le_bytes(*b"mptcp\0\0\0");

/// `struct bpf_iter__tcp`: what the kernel hands to the program (net/ipv4/tcp_ipv4.c).
#[repr(C)]
pub struct IterTcp {
    meta: *const IterMeta,
    socket: *mut u8,
}

/// `struct bpf_iter_meta` (include/linux/bpf.h).
#[repr(C)]
struct IterMeta {
    seq: *mut seq_file,
}

macro_rules! offsets {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        static $name: Global<u32> = Global::new(ABSENT);
    )* };
}

// Offsets in bytes of the members that they are named for; the agent sets them (kernel/sockets_iter/offsets.rs there).
offsets! {
    SOCKETS_STATE SOCKETS_IS_MPTCP SOCKETS_ULP_OPS SOCKETS_ULP_DATA SOCKETS_ULP_NAME SOCKETS_CA_OPS SOCKETS_CA_NAME
    SOCKETS_BYTES_SENT SOCKETS_BYTES_ACKED SOCKETS_BYTES_RECEIVED SOCKETS_BYTES_RETRANS SOCKETS_PACING_RATE
    SOCKETS_SRTT SOCKETS_MDEV SOCKETS_RTT_MIN SOCKETS_SND_CWND SOCKETS_MSS_CACHE SOCKETS_PACKETS_OUT SOCKETS_LOST_OUT
    SOCKETS_TOTAL_RETRANS SOCKETS_WRITE_SEQ SOCKETS_SND_NXT SOCKETS_RATE_DELIVERED SOCKETS_RATE_INTERVAL
    SOCKETS_REORDERING SOCKETS_REORD_SEEN SOCKETS_RCV_OOOPACK SOCKETS_DSACK_DUPS
    SOCKETS_CONTEXT SOCKETS_CONN
    SOCKETS_DATA_SENT SOCKETS_DATA_ACKED SOCKETS_DATA_RECEIVED SOCKETS_DATA_RETRANS SOCKETS_CONN_FLAGS
}

/// Bytes of the piece of the subflow's context that is copied.
#[unsafe(no_mangle)]
static SOCKETS_CONTEXT_LEN: Global<u32> = Global::new(0);

/// The bit of `tcp_sock.is_mptcp` in its byte.
#[unsafe(no_mangle)]
static SOCKETS_IS_MPTCP_MASK: Global<u32> = Global::new(0);

/// Writes down one socket, if it is a subflow.
#[inline(always)]
pub fn list(context: *mut IterTcp) -> Option<()> {
    // SAFETY: the context and what describes the walk are valid for as long as the program runs, and the helper takes its socket.
    let (seq, tcp) = unsafe {
        let socket = (*context).socket;
        if socket.is_null() {
            return None;
        }
        let tcp: *const u8 = bpf_skc_to_tcp_sock(socket.cast()).cast();
        if tcp.is_null() {
            return None;
        }
        ((*(*context).meta).seq, tcp)
    };
    let ulp = member::<u64>(tcp, &SOCKETS_ULP_OPS) as *const u8;
    if ulp.is_null() || member::<u8>(tcp, &SOCKETS_STATE) == TCP_LISTEN {
        return None;
    }
    let subflow = member::<u64>(tcp, &SOCKETS_ULP_DATA);
    if subflow == 0 || !is_mptcp(tcp, ulp) {
        return None;
    }
    let mut record = MaybeUninit::<SocketRecord>::uninit();
    // SAFETY: the pointer is to a whole record, of which every field is written before it is handed on.
    unsafe {
        let record = record.as_mut_ptr();
        write_tcp(&mut *record, tcp);
        write_mptcp(&mut *record, subflow);
        bpf_seq_write(seq, record.cast(), size_of::<SocketRecord>() as u32);
    }
    Some(())
}

/// Whether the upper layer protocol is MPTCP. The socket says so itself until it falls back.
#[inline(always)]
fn is_mptcp(tcp: *const u8, ulp: *const u8) -> bool {
    if member::<u8>(tcp, &SOCKETS_IS_MPTCP) & SOCKETS_IS_MPTCP_MASK.load() as u8 != 0 {
        return true;
    }
    member::<u64>(ulp, &SOCKETS_ULP_NAME) == ULP_NAME
}

/// What TCP knows.
#[inline(always)]
fn write_tcp(record: &mut SocketRecord, tcp: *const u8) {
    copy_from(&mut record.socket, COMMON_LEN as u32, tcp as u64);
    let name = member::<u64>(tcp, &SOCKETS_CA_OPS) as *const u8;
    record.congestion_control = [member(name, &SOCKETS_CA_NAME), member(name.wrapping_add(8), &SOCKETS_CA_NAME)];
    record.bytes_sent = member(tcp, &SOCKETS_BYTES_SENT);
    record.bytes_acked = member(tcp, &SOCKETS_BYTES_ACKED);
    record.bytes_received = member(tcp, &SOCKETS_BYTES_RECEIVED);
    record.bytes_retrans = member(tcp, &SOCKETS_BYTES_RETRANS);
    record.pacing_rate = member(tcp, &SOCKETS_PACING_RATE);
    record.srtt = member(tcp, &SOCKETS_SRTT);
    record.mdev = member(tcp, &SOCKETS_MDEV);
    record.rtt_min = member(tcp, &SOCKETS_RTT_MIN);
    record.snd_cwnd = member(tcp, &SOCKETS_SND_CWND);
    record.mss_cache = member(tcp, &SOCKETS_MSS_CACHE);
    record.packets_out = member(tcp, &SOCKETS_PACKETS_OUT);
    record.lost_out = member(tcp, &SOCKETS_LOST_OUT);
    record.total_retrans = member(tcp, &SOCKETS_TOTAL_RETRANS);
    record.write_seq = member(tcp, &SOCKETS_WRITE_SEQ);
    record.snd_nxt = member(tcp, &SOCKETS_SND_NXT);
    record.rate_delivered = member(tcp, &SOCKETS_RATE_DELIVERED);
    record.rate_interval_us = member(tcp, &SOCKETS_RATE_INTERVAL);
    record.reordering = member(tcp, &SOCKETS_REORDERING);
    record.reord_seen = member(tcp, &SOCKETS_REORD_SEEN);
    record.rcv_ooopack = member(tcp, &SOCKETS_RCV_OOOPACK);
    record.dsack_dups = member(tcp, &SOCKETS_DSACK_DUPS);
}

/// What MPTCP knows of the subflow and of its connection.
#[inline(always)]
fn write_mptcp(record: &mut SocketRecord, subflow: u64) {
    record.context = [0; CONTEXT_LEN / 8];
    copy(&mut record.context, SOCKETS_CONTEXT_LEN.load(), subflow, &SOCKETS_CONTEXT);
    let mut connection = 0;
    copy(&mut connection, 8, subflow, &SOCKETS_CONN);
    copy_from(&mut record.connection, COMMON_LEN as u32, connection);
    copy(&mut record.data_sent, 8, connection, &SOCKETS_DATA_SENT);
    copy(&mut record.data_acked, 8, connection, &SOCKETS_DATA_ACKED);
    copy(&mut record.data_received, 8, connection, &SOCKETS_DATA_RECEIVED);
    copy(&mut record.data_retrans, 8, connection, &SOCKETS_DATA_RETRANS);
    copy(&mut record.connection_flags, 8, connection, &SOCKETS_CONN_FLAGS);
}

/// A member of exactly the size of `T`, or a piece of an array, of a structure that the verifier knows, which is `struct
/// tcp_sock` and what it points to by type; 0 if this kernel has none.
#[inline(always)]
fn member<T: Copy + Default>(structure: *const u8, offset: &Global<u32>) -> T {
    match offset.load() {
        ABSENT => T::default(),
        // SAFETY: the verifier knows the type of the pointer, and that there is such a member.
        offset => unsafe { structure.add(offset as usize).cast::<T>().read_volatile() },
    }
}

/// Copies `size` bytes, which `to` has room for, of a structure that the verifier knows nothing of; zeroes if there is no such
/// member.
#[inline(always)]
fn copy<T: Copy>(to: &mut T, size: u32, structure: u64, offset: &Global<u32>) {
    match offset.load() {
        // SAFETY: every `T` here consists of integers.
        ABSENT => *to = unsafe { core::mem::zeroed() },
        offset => copy_from(to, size, structure.wrapping_add(offset as u64)),
    }
}

/// The same from an address.
#[inline(always)]
fn copy_from<T: Copy>(to: &mut T, size: u32, address: u64) {
    // SAFETY: the helper checks the address itself and fills so many bytes of `to`, with zeroes where it fails.
    unsafe { bpf_probe_read_kernel((&raw mut *to).cast(), size, address as *const _) };
}
