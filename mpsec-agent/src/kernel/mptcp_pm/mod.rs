//! The path manager of MPTCP through generic netlink: its commands, its answers and its events.
//!
//! Commands and events are lists of attributes that keep their order and whatever they do not know, so that each encodes to
//! the bytes that it was decoded from; typed views lie above them. Source: include/uapi/linux/mptcp_pm.h and
//! net/mptcp/pm_netlink.c, Linux 6.18.

mod address;
mod attribute;
mod command;
mod event;
mod events;
mod manager;
#[cfg(test)]
mod tests;

use std::io;

pub use address::{AddressAttribute, Endpoint, EndpointFlags};
pub use attribute::{Attribute, Malformed, Packet};
pub use command::{Command, CommandAttribute, CommandKind};
pub use event::{Event, EventAttribute, EventKind, ResetReason};
pub use events::Events;
pub use manager::PathManager;

use super::genetlink::{Family, resolve};
use super::netlink::{Client, NetlinkError};

/// Name of the generic netlink family.
const FAMILY: &str = "mptcp_pm";

/// Why the path manager cannot be asked or heard, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum PathManagerError {
    /// Built without CONFIG_MPTCP.
    #[error("this kernel has no MPTCP")]
    NoMptcp,
    /// Before Linux 5.12.
    #[error("this kernel tells no MPTCP events")]
    NoEvents,
    /// What the kernel, or the socket, answered.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl PathManagerError {
    /// The kernel's explanation and its error number in words, where it gave both.
    pub fn in_full(&self) -> String {
        match self {
            Self::Netlink(error) => error.in_full(),
            other => other.to_string(),
        }
    }
}

impl From<io::Error> for PathManagerError {
    fn from(error: io::Error) -> PathManagerError {
        PathManagerError::Netlink(error.into())
    }
}

fn family(client: &mut Client) -> Result<Family, PathManagerError> {
    resolve(client, FAMILY)?.ok_or(PathManagerError::NoMptcp)
}
