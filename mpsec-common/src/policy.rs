//! What is set on each MPTCP subflow by its local address, and what the kernel side reports of subflows that hear nothing.

use crate::shared;

/// Room for this many addresses, the one that stands for all others included.
pub const POLICY_ENTRIES: u32 = 256;
/// Bytes of [`MAP_TIMEOUTS`](crate::maps::MAP_TIMEOUTS): room for about 1,000 reports.
pub const TIMEOUTS_BYTES: u32 = 1 << 16;
/// Length of the name of a congestion control, with a zero at the end (`TCP_CA_NAME_MAX`, include/net/tcp.h).
pub const CONGESTION_LEN: usize = 16;

/// An address as [`crate::mptcp::SubflowKey`] has it, IPv4 mapped into IPv6 (RFC 4291 section 2.5.5.2).
pub type PolicyKey = [u8; 16];

/// The key of the policy for addresses that have none of their own.
pub const EVERY_ADDRESS: PolicyKey = [0; 16];

/// Bits of [`Policy::flags`].
pub mod flags {
    /// A retransmission timeout of a subflow is reported, see [`super::Timeout`].
    pub const REPORT_TIMEOUTS: u32 = 1 << 0;
}

shared! {
    /// What is set on a subflow when it is established, by either end. What is 0 is left alone.
    pub struct Policy {
        /// Lower bound of the retransmission timeout in microseconds, 8,000 to 200,000 where the kernel's timer has 250
        /// ticks a second (TCP_BPF_RTO_MIN, net/core/filter.c, 5.10 to 6.18). The round-trip time comes on top.
        pub rto_min_us: u32,
        /// Upper bound of the retransmission timeout in milliseconds, 1,000 to 120,000 (TCP_RTO_MAX_MS, Linux 6.15), of
        /// subflows that join; it holds for their SYN, too. They are given up as late as without it (TCP_USER_TIMEOUT).
        pub rto_max_ms: u32,
        /// Upper bound of the pacing rate in bytes per second (SO_MAX_PACING_RATE). The kernel side can set no more than
        /// 2^32 - 2.
        pub max_pacing_rate: u64,
        /// Name of a congestion control, filled with zeros.
        pub congestion: [u8; CONGESTION_LEN],
        /// Bits of [`flags`].
        pub flags: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

shared! {
    /// A subflow's retransmission timer has expired: for a whole timeout nothing was acknowledged.
    pub struct Timeout {
        /// Local address.
        pub local: PolicyKey,
        /// Remote address.
        pub remote: PolicyKey,
        /// Nanoseconds of CLOCK_MONOTONIC.
        pub at_ns: u64,
        /// Local port in host order.
        pub local_port: u16,
        /// Remote port in host order.
        pub remote_port: u16,
        /// How often the timer has expired before, without an acknowledgement in between.
        pub retransmits: u32,
        /// Smoothed round-trip time in microseconds.
        pub srtt_us: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_says_nothing_is_all_zeros() {
        let Policy { rto_min_us, rto_max_ms, max_pacing_rate, congestion, flags, reserved } = Policy::default();
        assert_eq!((rto_min_us, rto_max_ms, max_pacing_rate, flags, reserved), (0, 0, 0, 0, 0));
        assert_eq!(congestion, [0; CONGESTION_LEN]);
        assert_eq!((size_of::<Policy>(), size_of::<Timeout>()), (40, 56));
    }
}
