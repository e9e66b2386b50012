//! Names, capacities and indices of the maps and programs, and what lies in the small ones.

use crate::{Direction, shared};

/// TC program on the ingress hook.
pub const PROGRAM_INGRESS: &str = "mpsec_ingress";
/// TC program on the egress hook.
pub const PROGRAM_EGRESS: &str = "mpsec_egress";
/// Program on the sockets of the root cgroup: registers MPTCP subflows.
pub const PROGRAM_SOCKOPS: &str = "mpsec_sockops";
/// TC program that is attached nowhere: the agent runs it to tell of the ports of subflows, see
/// [`crate::mptcp::PortsChange`]. It returns how many subflows may have those of the last one.
pub const PROGRAM_PORTS: &str = "mpsec_ports";
/// The counters: a memory-mapped array of [`crate::traffic::InterfaceCounters`], indexed by [`counter_index`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Which interface has which slot: an array of [`InterfaceSlot`], indexed by [`slot_index`].
pub const MAP_INTERFACES: &str = "INTERFACES";
/// What happened off the usual path: a per-CPU array of `u64`, indexed by [`Event`].
pub const MAP_EVENTS: &str = "EVENTS";
/// Which tag has which slot: a memory-mapped array of [`crate::mptcp::TagSet`], indexed by [`crate::mptcp::set_of`].
pub const MAP_SUBFLOW_TAGS: &str = "SUBFLOW_TAGS";
/// Slots that are free: a memory-mapped array of `u64`, with the words of [`crate::mptcp::free`].
pub const MAP_SUBFLOW_FREE: &str = "SUBFLOW_FREE";
/// What is known of each subflow: a memory-mapped array of [`crate::mptcp::SubflowInfo`], indexed by slot.
pub const MAP_SUBFLOWS: &str = "SUBFLOWS";
/// What is counted of each: a memory-mapped array of [`crate::mptcp::SubflowCounters`], indexed by
/// [`crate::mptcp::subflow_counter_index`].
pub const MAP_SUBFLOW_COUNTERS: &str = "SUBFLOW_COUNTERS";
/// Handshakes that this host answers: a hash that forgets the oldest, from tag to [`crate::mptcp::Handshake`].
pub const MAP_HANDSHAKES: &str = "HANDSHAKES";
/// What is set on subflows: a hash from [`crate::policy::PolicyKey`] to [`crate::policy::Policy`].
pub const MAP_POLICIES: &str = "POLICIES";
/// Subflows that hear nothing: a ring buffer of [`crate::policy::Timeout`].
pub const MAP_TIMEOUTS: &str = "TIMEOUTS";
/// What the probes count: a per-CPU array of one [`crate::probes::ProbeCounts`].
pub const MAP_PROBE_COUNTS: &str = "PROBE_COUNTS";
/// Whether IPsec is in use: an array of one `u32`, 0 until it is known to be; the section of the object that it is made of.
pub const MAP_IPSEC_IN_USE: &str = ".data.ipsec";
/// Read-only global of the object, named for [`crate::LAYOUT_VERSION`]: an object of another version has no such symbol.
pub const LAYOUT_SYMBOL: &str = "LAYOUT_2";

/// The slot whose counters are published as `_other`: interfaces beyond the configured maximum, and packets that come by
/// before the agent has assigned a slot.
pub const OTHER_SLOT: u16 = 0;

/// Entries of [`MAP_INTERFACES`]. A power of two.
pub const INTERFACE_ENTRIES: u32 = 1 << 16;
/// How many entries, from its home entry on, an interface may lie in.
pub const INTERFACE_PROBES: u32 = 4;

/// The entry of [`MAP_INTERFACES`] that an interface lies in, for `probe` in `0..INTERFACE_PROBES`.
pub const fn slot_index(ifindex: u32, probe: u32) -> u32 {
    ifindex.wrapping_add(probe) & (INTERFACE_ENTRIES - 1)
}

/// The entry of [`MAP_COUNTERS`] for a slot, a CPU (of `cpus`) and a direction.
///
/// The slot varies slowest, so that the slots in use are one stretch of memory and the rest need not be mapped.
pub const fn counter_index(slot: u32, cpus: u32, cpu: u32, direction: Direction) -> u32 {
    counter_index_from(slot.wrapping_mul(cpus).wrapping_mul(2), cpu, direction)
}

/// [`counter_index`] from that for the first CPU and the first direction on, as [`InterfaceSlot`] holds it.
#[inline(always)]
pub const fn counter_index_from(first: u32, cpu: u32, direction: Direction) -> u32 {
    first.wrapping_add(cpu.wrapping_mul(2)).wrapping_add(direction as u32)
}

shared! {
    /// What the kernel side has to know of an interface.
    pub struct InterfaceSlot {
        /// The interface's index; 0 in an entry that is free.
        pub ifindex: u32,
        /// [`counter_index`] of its slot, for the first CPU and the first direction.
        pub first_counter: u32,
        /// The framing at TC, a [`crate::Link`] as a number.
        pub link: u8,
        /// Bytes of link header that the device's own counter leaves out, received and sent.
        pub uncounted: [u8; 2],
        /// Bits of [`interface_flags`].
        pub flags: u8,
    }
}

/// Bits of [`InterfaceSlot::flags`].
pub mod interface_flags {
    /// Subflows are counted here: the IP layer sits on this interface, so each of their packets comes by once.
    pub const COUNTS_SUBFLOWS: u8 = 1 << 0;
    /// All that passes is inside an IPsec tunnel: xfrm and vti interfaces send nothing for which there is no state, and receive
    /// nothing but what was decrypted (xfrmi_xmit2 and xfrmi_rcv_cb, net/xfrm/xfrm_interface_core.c; vti_xmit and vti_rcv_cb,
    /// net/ipv4/ip_vti.c; 6.1 to 6.18).
    pub const INSIDE_IPSEC: u8 = 1 << 1;
}

/// What happens off the usual path and is worth a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// A header lay outside the linear part of the buffer and was copied out.
    NonLinear = 0,
    /// A packet came by on an interface without a slot.
    NoSlot = 1,
    /// A counter could not be reached: the packet is not counted.
    NoCounter = 2,
    /// A subflow found no free slot, or both of its sets full: it is not counted.
    SubflowTableFull = 3,
    /// A subflow has the tag of another one that is still there: it is not counted.
    SubflowTagTaken = 4,
    /// A subflow was registered whose handshake was not noted down: its first packets are not counted.
    HandshakeUnseen = 5,
    /// The kernel did not take a setting of a [`crate::policy::Policy`].
    PolicyRefused = 6,
    /// There was no room to report a [`crate::policy::Timeout`].
    TimeoutUnreported = 7,
}

impl Event {
    /// Every event, in the order of their numbers.
    pub const ALL: [Event; 8] = [
        Event::NonLinear,
        Event::NoSlot,
        Event::NoCounter,
        Event::SubflowTableFull,
        Event::SubflowTagTaken,
        Event::HandshakeUnseen,
        Event::PolicyRefused,
        Event::TimeoutUnreported,
    ];

    /// The value of the label `event`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NonLinear => "non_linear_header",
            Self::NoSlot => "interface_without_slot",
            Self::NoCounter => "not_counted",
            Self::SubflowTableFull => "subflow_table_full",
            Self::SubflowTagTaken => "subflow_tag_taken",
            Self::HandshakeUnseen => "subflow_handshake_unseen",
            Self::PolicyRefused => "subflow_policy_refused",
            Self::TimeoutUnreported => "subflow_timeout_unreported",
        }
    }
}

/// How many UDP ports can be told to be WireGuard's.
pub const WIREGUARD_PORTS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_do_not_overlap() {
        let mut seen = std::collections::BTreeSet::new();
        for slot in 0..5 {
            for cpu in 0..3 {
                for direction in Direction::ALL {
                    assert!(seen.insert(counter_index(slot, 3, cpu, direction)));
                }
            }
        }
        assert_eq!(seen.last(), Some(&(5 * 3 * 2 - 1)));
    }
}
