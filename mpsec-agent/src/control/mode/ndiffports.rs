//! `ndiffports`: several subflows between the same two addresses, from different ports. The kernel's own path manager cannot
//! do that for a client, so the one inside the agent does.

use crate::config::MultipathConfig;
use crate::control::change::Daemon;
use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::{MOST, Mode};

pub(super) struct Ndiffports;

impl Mode for Ndiffports {
    fn flags(&self, _nth: usize) -> Option<EndpointFlags> {
        None
    }

    /// For connections that began with the kernel's path manager.
    fn limits(&self) -> Limits {
        Limits { subflows: MOST, add_addr_accepted: 0 }
    }

    fn daemon(&self, settings: &MultipathConfig) -> Option<Daemon> {
        Some(Daemon::Ndiffports(settings.ndiffports))
    }
}
