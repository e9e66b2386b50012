//! `default`: no additional paths of our own; those that peers make are taken, as the kernel's own limits have it.

use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::Mode;

pub(super) struct Default;

impl Mode for Default {
    fn flags(&self, _nth: usize) -> Option<EndpointFlags> {
        None
    }

    /// What a kernel begins with (pm_nl_init_net, net/mptcp/pm_kernel.c, 6.18).
    fn limits(&self) -> Limits {
        Limits { subflows: 2, add_addr_accepted: 0 }
    }
}
