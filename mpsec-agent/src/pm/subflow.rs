//! Subflows: those that are there, those that are asked for and those that are to be.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::mode::Wanted;

/// A subflow that lived for so long was a good one: its end is no sign that another would fail. One that the peer refuses
/// after the handshake, or ends because it has too many, ends much sooner.
pub const GOOD_AFTER: Duration = Duration::from_secs(1);

/// Addresses and ports of a subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// Of this host.
    pub local: SocketAddr,
    /// Of the peer.
    pub remote: SocketAddr,
}

impl Ends {
    /// The same without the local port.
    pub fn pair(self) -> Pair {
        Pair { local: self.local.ip(), remote: self.remote }
    }
}

/// What subflows that differ in nothing but the local port have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// Local address.
    pub local: IpAddr,
    /// Remote address and port.
    pub remote: SocketAddr,
}

/// An address of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its identifier; 0 for the one that the connection began with.
    pub id: u8,
    /// The address and the port that it is joined at.
    pub address: SocketAddr,
}

/// Who made a subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the one that the connection began with.
    First,
    /// This host joined.
    Ours,
    /// The peer joined.
    Peer,
}

/// An established subflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subflow {
    /// Addresses and ports.
    pub ends: Ends,
    /// Identifier of the local address.
    pub local_id: u8,
    /// Identifier of the remote address.
    pub remote_id: u8,
    /// Who made it.
    pub origin: Origin,
    /// Whether its socket is one of IPv6 with IPv4 addresses.
    pub mapped: bool,
    /// Whether this host wants it as a backup.
    pub backup: bool,
    /// Since when it is known.
    pub since: Instant,
    /// The kernel has been, or is about to be, asked to end it.
    pub ending: bool,
    /// The kernel has been, or is about to be, asked to change its priority.
    pub changing: bool,
}

impl Subflow {
    /// The one that a connection begins with.
    pub(super) fn first(ends: Ends, ipv6_socket: bool, since: Instant) -> Subflow {
        Subflow {
            ends,
            local_id: 0,
            remote_id: 0,
            origin: Origin::First,
            mapped: ipv6_socket && ends.local.is_ipv4(),
            backup: false,
            since,
            ending: false,
            changing: false,
        }
    }
}

/// A subflow that was asked for and of which nothing has been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The kernel took the request: from now on events can be about it.
    pub taken: bool,
    /// Its local port, where a list has told it.
    pub port: Option<u16>,
}

/// Subflows between two addresses: how many there are to be, how many are asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairState {
    /// What the mode wants.
    pub wanted: Wanted,
    /// Those that are asked for.
    pub attempts: Vec<Attempt>,
    /// Failures, and until when no other is asked for.
    pub backoff: Backoff,
    /// The kernel will never make one: the families do not fit the connection.
    pub impossible: bool,
    /// Since when the kernel has said of each request that it knows the address by another id.
    pub other_id_since: Option<Instant>,
}

impl PairState {
    pub(super) fn new(wanted: Wanted) -> PairState {
        PairState { wanted, attempts: Vec::new(), backoff: Backoff::default(), impossible: false, other_id_since: None }
    }

    /// The addresses.
    pub fn pair(&self) -> Pair {
        Pair { local: self.wanted.local.address, remote: self.wanted.remote.address }
    }
}
