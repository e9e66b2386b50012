//! What the probes count: functions and tracepoints of the kernel that run when something goes wrong, and hardly ever else.

use crate::shared;

/// States of congestion control that are kept apart (`enum tcp_ca_state`, include/uapi/linux/tcp.h): a power of two.
pub const CA_STATES: usize = 8;
/// Numbers of `enum sk_rst_reason` (include/net/rstreason.h) that are kept apart, the last of them for all beyond: a power of
/// two.
pub const KERNEL_REASONS: usize = 64;
/// Reset reasons of RFC 8684 section 3.6 that are kept apart, as the kernel keeps them: four bits.
pub const OPTION_REASONS: usize = 16;

shared! {
    /// What the probes have counted of the MPTCP subflows of one network namespace, on one CPU.
    pub struct ProbeCounts {
        /// TCP segments sent again, by the state of congestion control.
        pub retransmissions: [u64; CA_STATES],
        /// Resets sent, by the kernel's own reason; where it has such reasons (since 6.10).
        pub sent_resets: KernelReasons,
        /// Resets sent, by the reason that MP_TCPRST gives, 0 for none in particular; where the kernel has no other.
        pub sent_resets_by_option: [u64; OPTION_REASONS],
        /// Those of them without MP_TCPRST, as the subflow has become plain TCP.
        pub sent_resets_without_option: u64,
        /// Resets received, by the reason that MP_TCPRST gives.
        pub received_resets: [u64; OPTION_REASONS],
        /// Resets received without MP_TCPRST.
        pub received_resets_without_option: u64,
        /// Resets received of which it is not known what they said: the kernel did not look, or the subflow is not followed.
        pub received_resets_unknown: u64,
        /// How often MPTCP's own timer ran out while data was not acknowledged.
        pub data_timeouts: u64,
    }
}

shared! {
    /// A count for each reason of the kernel.
    pub struct KernelReasons {
        /// Up to 31.
        pub low: [u64; KERNEL_REASONS / 2],
        /// The others.
        pub high: [u64; KERNEL_REASONS / 2],
    }
}

/// Who began to end a subflow: bits of [`crate::mptcp::SubflowInfo::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Closer {
    /// The program on this host closed the connection.
    Application = 1,
    /// MPTCP on this host, while the connection went on: a path manager had an address removed, or the subflow.
    PathManager = 2,
    /// The peer sent a FIN.
    Peer = 3,
    /// The peer, or somebody on the way, sent a reset.
    ResetReceived = 4,
    /// This host sent a reset.
    ResetSent = 5,
    /// TCP gave up: what it sent was not answered for too long.
    Timeout = 6,
}

impl Closer {
    /// Who it was, by [`crate::mptcp::SubflowInfo::flags`]; `None` while nobody has.
    pub const fn of(flags: u16) -> Option<Closer> {
        match (flags >> CLOSER_SHIFT) as u8 & CLOSER_MASK {
            1 => Some(Self::Application),
            2 => Some(Self::PathManager),
            3 => Some(Self::Peer),
            4 => Some(Self::ResetReceived),
            5 => Some(Self::ResetSent),
            6 => Some(Self::Timeout),
            _ => None,
        }
    }

    /// Its bits among the flags.
    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self as u16) << CLOSER_SHIFT
    }

    /// The name in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::PathManager => "path_manager",
            Self::Peer => "peer",
            Self::ResetReceived => "reset_received",
            Self::ResetSent => "reset_sent",
            Self::Timeout => "timed_out",
        }
    }
}

/// Where a [`Closer`] lies among the flags.
const CLOSER_SHIFT: u32 = 8;
const CLOSER_MASK: u8 = 0b111;
/// All the bits of a [`Closer`] among the flags.
pub const CLOSER_FLAGS: u16 = (CLOSER_MASK as u16) << CLOSER_SHIFT;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mptcp::flags;

    #[test]
    fn closers_are_found_among_the_flags_and_share_no_bit_with_them() {
        use Closer::{Application, PathManager, Peer, ResetReceived, ResetSent, Timeout};
        let all = flags::JOINED | flags::BACKUP | flags::FELL_BACK | flags::ACTIVE_OPEN | flags::HANDSHAKE_UNSEEN;
        let all = all | flags::ADOPTED | flags::HAS_FIGURES | flags::RESET_RECEIVED;
        assert_eq!(all & CLOSER_FLAGS, 0);
        assert_eq!(Closer::of(all), None);
        for closer in [Application, PathManager, Peer, ResetReceived, ResetSent, Timeout] {
            assert_eq!(Closer::of(all | closer.flags()), Some(closer));
            assert_eq!(closer.flags() & !CLOSER_FLAGS, 0);
        }
    }
}
