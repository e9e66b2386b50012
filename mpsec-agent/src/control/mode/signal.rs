//! `signal`: a server tells its clients the addresses that they can connect to.

use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::{MOST, Mode};

pub(super) struct Signal;

impl Mode for Signal {
    fn flags(&self, _nth: usize) -> Option<EndpointFlags> {
        Some(EndpointFlags::SIGNAL)
    }

    /// Subflows that clients make count too.
    fn limits(&self) -> Limits {
        Limits { subflows: MOST, add_addr_accepted: 0 }
    }
}
