//! The filter of ports, which tells most packets without an MPTCP option from those of subflows.

use crate::shared;

/// Entries of the port filter.
pub const PORT_ENTRIES: u32 = 1 << 15;

/// The entry of the port filter for [`SubflowKey::ports`](super::SubflowKey::ports), the same for both directions. It counts
/// the subflows in it: what has 0 there is none.
#[inline(always)]
pub const fn port_entry(ports: u32) -> u32 {
    (ports ^ (ports >> 16)) & (PORT_ENTRIES - 1)
}

shared! {
    /// How many subflows more, or less, have some ports.
    pub struct PortsChange {
        /// [`SubflowKey::ports`](super::SubflowKey::ports).
        pub ports: u32,
        /// So many more.
        pub change: i32,
    }
}

/// Bytes in front of the first [`PortsChange`] of a frame that [`crate::maps::PROGRAM_PORTS`] is run on: an Ethernet header
/// of zeros, and two more.
pub const PORTS_HEAD: usize = 16;
/// Changes that one frame tells of, at the most.
pub const PORTS_BATCH: usize = 64;
