//! Modes of the path manager: one file each, and a row in [`of`].

mod backup;
mod default;
mod fullmesh;
mod ndiffports;
mod signal;

use crate::config::MultipathConfig;
use crate::config::multipath::PathManagerMode;
use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::change::Daemon;

/// Most subflows, and most addresses, that every kernel with MPTCP allows a connection (MPTCP_PM_ADDR_MAX,
/// net/mptcp/protocol.h, 6.18).
pub(super) const MOST: u32 = 8;

/// How connections get additional paths. Pure: what it wants follows from the settings alone.
pub trait Mode {
    /// The flags of endpoints on the interface that is the `nth` by importance, from 0; `None` where it wants no endpoints.
    fn flags(&self, nth: usize) -> Option<EndpointFlags>;

    /// The limits that it needs, unless others are asked for.
    fn limits(&self) -> Limits;

    /// What the path manager inside the agent does; `None` for the one in the kernel.
    fn daemon(&self, _settings: &MultipathConfig) -> Option<Daemon> {
        None
    }
}

/// The mode with this name.
#[must_use]
pub fn of(mode: PathManagerMode) -> &'static dyn Mode {
    match mode {
        PathManagerMode::Default => &default::Default,
        PathManagerMode::Fullmesh => &fullmesh::Fullmesh,
        PathManagerMode::Ndiffports => &ndiffports::Ndiffports,
        PathManagerMode::Backup => &backup::Backup,
        PathManagerMode::Signal => &signal::Signal,
    }
}
