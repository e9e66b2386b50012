//! Events of the kernel, as the book takes them.

use std::net::SocketAddr;

use super::connection::Role;
use super::subflow::{Ends, Remote};
use crate::kernel::mptcp_pm::{Event, EventAttribute, EventKind, ResetReason};

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// It began, or was established: then it can have more subflows.
    Began {
        /// Addresses and ports of its first subflow.
        ends: Ends,
        /// Which end this host is.
        role: Role,
        /// Whether the first subflow's socket is one of IPv6.
        ipv6_socket: bool,
        /// Index of the interface that it is bound to.
        ifindex: Option<u32>,
        /// Whether the peer refuses joins to the address that the connection began with.
        denies_first: bool,
        /// Whether it is established.
        established: bool,
    },
    /// It ended.
    Ended,
    /// A subflow joined, or failed to if there is an error.
    Joined {
        /// Addresses and ports.
        ends: Ends,
        /// Identifier of the local address.
        local_id: u8,
        /// Identifier of the remote address.
        remote_id: u8,
        /// Whether its socket is one of IPv6.
        ipv6_socket: bool,
        /// Why it failed.
        error: Option<i32>,
    },
    /// A subflow ended, or was never established.
    Left {
        /// Addresses and ports.
        ends: Ends,
        /// The error of its socket.
        error: Option<i32>,
        /// What the peer said when it reset it.
        reason: Option<ResetReason>,
    },
    /// The peer announced an address. Without a port it is that of the connection.
    Announced {
        /// The address and its id; port 0 stands for none.
        remote: Remote,
    },
    /// The peer took back the address with this id.
    Removed {
        /// The id.
        id: u8,
    },
}

impl Happening {
    /// What an event says, and the token of the connection. `None` for events that are of no use here, and for those that
    /// lack what they should have.
    pub fn of(event: &Event) -> Option<(u32, Happening)> {
        let ends = || Some(Ends { local: event.local()?, remote: event.remote()? });
        let happening = match event.kind() {
            kind @ (EventKind::Created | EventKind::Established) => Happening::Began {
                ends: ends()?,
                // Kernels with this path manager that do not tell it of clients tell it of servers.
                role: if event.server_side() == Some(true) { Role::Server } else { Role::Client },
                ipv6_socket: ipv6_socket(event),
                ifindex: event.interface().and_then(|index| u32::try_from(index).ok()),
                denies_first: event.denies_join_to_first_address(),
                established: kind == EventKind::Established,
            },
            EventKind::Closed => Happening::Ended,
            EventKind::SubflowEstablished => Happening::Joined {
                ends: ends()?,
                local_id: event.local_id()?,
                remote_id: event.remote_id()?,
                ipv6_socket: ipv6_socket(event),
                error: event.error(),
            },
            EventKind::SubflowClosed => {
                Happening::Left { ends: ends()?, error: event.error(), reason: event.reset_reason() }
            }
            EventKind::Announced => {
                let port = event.remote().map_or(0, |remote| remote.port());
                let address = SocketAddr::new(event.remote_ip()?, port);
                Happening::Announced { remote: Remote { id: event.remote_id()?, address } }
            }
            EventKind::Removed => Happening::Removed { id: event.remote_id()? },
            _ => return None,
        };
        Some((event.token()?, happening))
    }
}

/// Whether the subflow's socket is one of IPv6, whatever its addresses are.
fn ipv6_socket(event: &Event) -> bool {
    event.attributes.contains(&EventAttribute::Family(libc::AF_INET6 as u16))
}
