//! What is asked of the kernel, and what it says to that.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::locals::Local;
use super::subflow::{Ends, Remote};

/// A request to the kernel's half of the path manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// SUBFLOW_CREATE: make a subflow. Its local port is the kernel's choice.
    CreateSubflow {
        /// Local token of the connection.
        token: u32,
        /// Where from; its id is the one that this connection knows the address by.
        local: Local,
        /// Where to.
        remote: Remote,
    },
    /// SUBFLOW_DESTROY: end a subflow.
    DestroySubflow {
        /// Local token of the connection.
        token: u32,
        /// Its addresses and ports.
        ends: Ends,
        /// Whether its socket is one of IPv6 with IPv4 addresses, which the kernel knows by mapped addresses alone.
        mapped: bool,
        /// Why.
        why: Why,
    },
    /// ANNOUNCE: tell the peer of a local address.
    Announce {
        /// Local token of the connection.
        token: u32,
        /// The address.
        local: Local,
    },
    /// REMOVE: tell the peer that a local address is gone.
    Remove {
        /// Local token of the connection.
        token: u32,
        /// The address.
        address: IpAddr,
        /// Its id in this connection.
        id: u8,
    },
    /// SET_FLAGS: make a subflow a backup, or no longer one.
    SetFlags {
        /// Local token of the connection.
        token: u32,
        /// Its addresses and ports.
        ends: Ends,
        /// As in `DestroySubflow`.
        mapped: bool,
        /// Whether it is to be a backup.
        backup: bool,
    },
}

/// Why a subflow is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The connection has more of them than it may.
    OverTheCap,
    /// Its local address is gone.
    AddressGone,
    /// The mode does not want it, or not so many.
    Unwanted,
}

impl Request {
    /// Local token of the connection that it is about.
    pub fn token(&self) -> u32 {
        match self {
            Request::CreateSubflow { token, .. }
            | Request::DestroySubflow { token, .. }
            | Request::Announce { token, .. }
            | Request::Remove { token, .. }
            | Request::SetFlags { token, .. } => *token,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::CreateSubflow { local, remote, .. } => write!(f, "subflow {} > {}", local.address, remote.address),
            Request::DestroySubflow { ends, .. } => write!(f, "end of subflow {} > {}", ends.local, ends.remote),
            Request::Announce { local, .. } => write!(f, "announcement of {}", local.address),
            Request::Remove { address, id, .. } => write!(f, "removal of {address} (id {id})"),
            Request::SetFlags { ends, backup, .. } => {
                write!(
                    f,
                    "priority of subflow {} > {}: {}",
                    ends.local,
                    ends.remote,
                    if *backup { "backup" } else { "normal" }
                )
            }
        }
    }
}

/// What the kernel refused a request with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error number; `None` where it was not the kernel who failed.
    pub errno: Option<i32>,
    /// The kernel's words, or those for the number.
    pub text: String,
}

impl Refusal {
    /// Nobody has this token: the connection is over (mptcp_userspace_pm_get_sock, net/mptcp/pm_userspace.c, Linux 6.18).
    pub fn connection_is_gone(&self) -> bool {
        self.text.contains("invalid token")
    }

    /// The connection is not established both ways, no longer or not yet (__mptcp_subflow_connect, net/mptcp/subflow.c).
    pub fn too_late(&self) -> bool {
        self.errno == Some(libc::ENOTCONN)
    }

    /// The kernel knows the local address by another id, or the id by another address
    /// (mptcp_userspace_pm_append_new_local_addr). Linux 7.2 and 7.3 say so of connections, too, that end at this moment
    /// (seen of a few among 3,000 requests for short connections).
    pub fn other_id(&self) -> bool {
        self.text.contains("did not match address and id")
    }

    /// The kernel takes no request for a subflow with a local id of 0, as kernels before Linux 6.6 may not
    /// (mptcp_nl_cmd_sf_create, net/mptcp/pm_userspace.c, Linux 5.19).
    pub fn wants_id(&self) -> bool {
        self.text.contains("missing local addr id")
    }

    /// The connection was made while the namespace had another path manager, and keeps that (the same function).
    pub fn other_manager(&self) -> bool {
        self.text.contains("userspace PM not selected")
    }

    /// There is no such subflow (mptcp_pm_nl_subflow_destroy_doit).
    pub fn no_such_subflow(&self) -> bool {
        self.errno == Some(libc::ESRCH)
    }
}

/// As the kernel knows an address of such a socket.
pub(super) fn on_the_socket(address: SocketAddr, mapped: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        _ => address,
    }
}
