//! What the path manager tells of connections, subflows, addresses and listeners.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attribute::{Host, Network, Packet, attributes, numbers};

numbers! {
    /// What happened (`enum mptcp_event_type`, include/uapi/linux/mptcp_pm.h, Linux 6.18).
    EventKind {
        /// A connection began.
        Created = 1, "created";
        /// A connection is established: it can have more subflows.
        Established = 2, "established";
        /// A connection ended. It says no more than the token.
        Closed = 3, "closed";
        /// The peer announced an address. It has no family attribute.
        Announced = 6, "announced";
        /// The peer took an address back.
        Removed = 7, "removed";
        /// A subflow joined, or its join failed if there is an error.
        SubflowEstablished = 10, "sub_established";
        /// A subflow ended.
        SubflowClosed = 11, "sub_closed";
        /// The peer made a subflow a backup, or no longer wants it as one. What this host changes is not told.
        SubflowPriority = 13, "sub_priority";
        /// Something listens for MPTCP: a program, or the path manager on the port of an endpoint.
        ListenerCreated = 15, "listener_created";
        /// It no longer does.
        ListenerClosed = 16, "listener_closed";
    }
}

attributes! {
    /// What an event consists of (`enum mptcp_event_attr`). Ports lie in network order, unlike in commands.
    EventAttribute {
        /// Local token of the connection.
        Token(u32) = 1, Host;
        /// Address family of the subflow's socket.
        Family(u16) = 2, Host;
        /// Local address identifier.
        LocalId(u8) = 3, Host;
        /// Remote address identifier.
        RemoteId(u8) = 4, Host;
        /// Local IPv4 address.
        Local4(Ipv4Addr) = 5, Network;
        /// Local IPv6 address.
        Local6(Ipv6Addr) = 6, Network;
        /// Remote IPv4 address.
        Remote4(Ipv4Addr) = 7, Network;
        /// Remote IPv6 address.
        Remote6(Ipv6Addr) = 8, Network;
        /// Local port.
        LocalPort(u16) = 9, Network;
        /// Remote port.
        RemotePort(u16) = 10, Network;
        /// Whether the subflow is a backup.
        Backup(u8) = 11, Host;
        /// Error of the socket, an `errno` number.
        Error(u8) = 12, Host;
        /// Flags of the connection: `MPTCP_PM_EV_FLAG_*`.
        Flags(u16) = 13, Host;
        /// No kernel up to Linux 6.18 sends it.
        Timeout(u32) = 14, Host;
        /// Index of the interface that the socket is bound to.
        Interface(i32) = 15, Host;
        /// Why the subflow was reset, as in [`ResetReason`].
        ResetReason(u32) = 16, Host;
        /// Whether the reason may pass: the T bit of MP_TCPRST.
        ResetFlags(u32) = 17, Host;
        /// Whether this host accepted the connection. Linux 6.18 tells it in the flags too.
        ServerSide(u8) = 18, Host;
    }
}

const EV_FLAG_DENY_JOIN_ID0: u16 = 1;
const EV_FLAG_SERVER_SIDE: u16 = 2;

/// Why a subflow was reset (RFC 8684 section 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResetReason {
    /// Unspecified.
    Unspecified,
    /// An error of MPTCP itself.
    MptcpSpecific,
    /// Lack of resources.
    LackOfResources,
    /// Administratively prohibited.
    AdministrativelyProhibited,
    /// Too much outstanding data.
    TooMuchOutstandingData,
    /// Unacceptable performance.
    UnacceptablePerformance,
    /// A middlebox interferes.
    MiddleboxInterference,
    /// A reason that has no name here.
    Other(u32),
}

impl ResetReason {
    /// The reason with the number that is on the wire.
    pub const fn from_number(number: u32) -> ResetReason {
        match number {
            0 => Self::Unspecified,
            1 => Self::MptcpSpecific,
            2 => Self::LackOfResources,
            3 => Self::AdministrativelyProhibited,
            4 => Self::TooMuchOutstandingData,
            5 => Self::UnacceptablePerformance,
            6 => Self::MiddleboxInterference,
            other => Self::Other(other),
        }
    }

    /// The name in labels; those that have no name here share one.
    pub fn label(self) -> String {
        match self {
            Self::Other(_) => "other_reset_reason".to_owned(),
            known => known.to_string().to_ascii_lowercase().replace(' ', "_"),
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::MptcpSpecific => "MPTCP specific",
            Self::LackOfResources => "lack of resources",
            Self::AdministrativelyProhibited => "administratively prohibited",
            Self::TooMuchOutstandingData => "too much outstanding data",
            Self::UnacceptablePerformance => "unacceptable performance",
            Self::MiddleboxInterference => "middlebox interference",
            Self::Other(number) => return write!(f, "{number}"),
        })
    }
}

/// An event.
pub type Event = Packet<EventAttribute>;

/// The value of the first attribute of a variant.
macro_rules! first {
    ($event:expr, $variant:ident) => {
        $event.attributes.iter().find_map(|attribute| match attribute {
            EventAttribute::$variant(value) => Some(*value),
            _ => None,
        })
    };
}

impl Event {
    /// What happened.
    pub fn kind(&self) -> EventKind {
        EventKind::from_number(self.header.command)
    }

    /// Local token of the connection; events of listeners have none.
    pub fn token(&self) -> Option<u32> {
        first!(self, Token)
    }

    /// Local address and port, if both are told. An IPv4 address of an IPv6 socket is an IPv4 address here.
    pub fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.local_ip()?, first!(self, LocalPort)?))
    }

    /// Remote address and port, if both are told.
    pub fn remote(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.remote_ip()?, first!(self, RemotePort)?))
    }

    /// Local address.
    pub fn local_ip(&self) -> Option<IpAddr> {
        ip(first!(self, Local4), first!(self, Local6))
    }

    /// Remote address; that of an announcement may come without a port.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        ip(first!(self, Remote4), first!(self, Remote6))
    }

    /// Local address identifier.
    pub fn local_id(&self) -> Option<u8> {
        first!(self, LocalId)
    }

    /// Remote address identifier.
    pub fn remote_id(&self) -> Option<u8> {
        first!(self, RemoteId)
    }

    /// Whether the subflow is a backup.
    pub fn backup(&self) -> Option<bool> {
        first!(self, Backup).map(|backup| backup != 0)
    }

    /// The error of the subflow's socket, as an `errno` number.
    pub fn error(&self) -> Option<i32> {
        first!(self, Error).map(i32::from)
    }

    /// Index of the interface that the subflow's socket is bound to; `None` if it is bound to none.
    pub fn interface(&self) -> Option<i32> {
        first!(self, Interface).filter(|index| *index != 0)
    }

    /// Why the subflow was reset.
    pub fn reset_reason(&self) -> Option<ResetReason> {
        first!(self, ResetReason).map(ResetReason::from_number)
    }

    /// Whether the reason may pass and the path be tried again (the T bit).
    pub fn reset_is_transient(&self) -> Option<bool> {
        first!(self, ResetFlags).map(|flags| flags & 1 != 0)
    }

    /// Whether this host accepted the connection. `None` where it is not told, as by kernels that tell it only of servers.
    pub fn server_side(&self) -> Option<bool> {
        let in_flags = first!(self, Flags).is_some_and(|flags| flags & EV_FLAG_SERVER_SIDE != 0);
        first!(self, ServerSide).map(|side| side != 0).or(in_flags.then_some(true))
    }

    /// Whether the peer refuses joins to the address that the connection began with (the C bit of MP_CAPABLE).
    pub fn denies_join_to_first_address(&self) -> bool {
        first!(self, Flags).is_some_and(|flags| flags & EV_FLAG_DENY_JOIN_ID0 != 0)
    }
}

fn ip(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Option<IpAddr> {
    v4.map(IpAddr::V4).or_else(|| v6.map(|v6| IpAddr::V6(v6).to_canonical()))
}
