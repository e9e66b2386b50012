//! `backup`: the first interface carries everything, the others when it is lost.

use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::{MOST, Mode};

pub(super) struct Backup;

impl Mode for Backup {
    fn flags(&self, nth: usize) -> Option<EndpointFlags> {
        Some(if nth == 0 { EndpointFlags::SUBFLOW } else { EndpointFlags::SUBFLOW | EndpointFlags::BACKUP })
    }

    fn limits(&self) -> Limits {
        Limits { subflows: MOST, add_addr_accepted: 0 }
    }
}
