//! `fullmesh`: from each endpoint's address to each address of the peer, as far as it announces them.

use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::{MOST, Mode};

pub(super) struct Fullmesh;

impl Mode for Fullmesh {
    fn flags(&self, _nth: usize) -> Option<EndpointFlags> {
        Some(EndpointFlags::SUBFLOW | EndpointFlags::FULLMESH)
    }

    fn limits(&self) -> Limits {
        Limits { subflows: MOST, add_addr_accepted: MOST }
    }
}
