//! What the kernel side writes of each socket of MPTCP when the agent lists them.

use crate::shared;

/// Program that lists sockets, on the kernel's own walk through the table of TCP sockets.
pub const PROGRAM_SOCKETS: &str = "mpsec_sockets";

/// Bytes of `struct sock_common` that are copied: up to and with `skc_v6_rcv_saddr`.
pub const COMMON_LEN: usize = 88;
/// The most bytes of `struct mptcp_subflow_context`, from its token over its flags to its identifiers, that are copied.
pub const CONTEXT_LEN: usize = 96;

shared! {
    /// A subflow, as the kernel's structures have it, in host order where nothing else is said; the agent knows where in the
    /// copied pieces the members lie, and which ones its kernel has. What it has not is 0.
    pub struct SocketRecord {
        /// The beginning of the subflow's `struct sock_common`.
        pub socket: [u64; COMMON_LEN / 8],
        /// The beginning of its connection's.
        pub connection: [u64; COMMON_LEN / 8],
        /// A piece of its `struct mptcp_subflow_context`.
        pub context: [u64; CONTEXT_LEN / 8],
        /// `icsk_ca_ops->name`: the congestion control, ended by a zero, in the order of memory.
        pub congestion_control: [u64; 2],
        /// `tcp_sock.bytes_sent`
        pub bytes_sent: u64,
        /// `tcp_sock.bytes_acked`
        pub bytes_acked: u64,
        /// `tcp_sock.bytes_received`
        pub bytes_received: u64,
        /// `tcp_sock.bytes_retrans`
        pub bytes_retrans: u64,
        /// `sock.sk_pacing_rate`; all ones for none.
        pub pacing_rate: u64,
        /// `mptcp_sock.bytes_sent`
        pub data_sent: u64,
        /// `mptcp_sock.bytes_acked`
        pub data_acked: u64,
        /// `mptcp_sock.bytes_received`
        pub data_received: u64,
        /// `mptcp_sock.bytes_retrans`
        pub data_retrans: u64,
        /// `mptcp_sock.flags`, whose bits have other numbers in other kernels.
        pub connection_flags: u64,
        /// `tcp_sock.srtt_us`: eighths of microseconds.
        pub srtt: u32,
        /// `tcp_sock.mdev_us`: quarters of microseconds.
        pub mdev: u32,
        /// The least of `tcp_sock.rtt_min`, in microseconds; all ones before there is one.
        pub rtt_min: u32,
        /// `tcp_sock.snd_cwnd`
        pub snd_cwnd: u32,
        /// `tcp_sock.mss_cache`
        pub mss_cache: u32,
        /// `tcp_sock.packets_out`
        pub packets_out: u32,
        /// `tcp_sock.lost_out`
        pub lost_out: u32,
        /// `tcp_sock.total_retrans`
        pub total_retrans: u32,
        /// `tcp_sock.write_seq`
        pub write_seq: u32,
        /// `tcp_sock.snd_nxt`
        pub snd_nxt: u32,
        /// `tcp_sock.rate_delivered`, in segments.
        pub rate_delivered: u32,
        /// `tcp_sock.rate_interval_us`
        pub rate_interval_us: u32,
        /// `tcp_sock.reordering`
        pub reordering: u32,
        /// `tcp_sock.reord_seen`
        pub reord_seen: u32,
        /// `tcp_sock.rcv_ooopack`
        pub rcv_ooopack: u32,
        /// `tcp_sock.dsack_dups`
        pub dsack_dups: u32,
    }
}
