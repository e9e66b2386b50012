//! Requests for lists of sockets.

use crate::kernel::netlink::Request;

const TCPDIAG_GETSOCK: u16 = 18;
/// The protocol, where its number takes more than eight bits.
const INET_DIAG_REQ_PROTOCOL: u16 = 3;
/// Length of `struct inet_diag_sockid`; zeros match every socket.
const ID_LEN: usize = 48;

/// Which states are asked for: a bit for each number of include/net/tcp_states.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(pub u32);

impl States {
    /// Connections: all but what listens, what is closed and what waits for its port to be free again.
    pub const CONNECTIONS: States = States(0x0fff & !Self::LISTEN.0 & !(1 << 6) & !(1 << 7) & !1);
    /// What listens.
    pub const LISTEN: States = States(1 << 10);
}

impl std::ops::BitOr for States {
    type Output = States;

    fn bitor(self, other: States) -> States {
        States(self.0 | other.0)
    }
}

/// What is told beside the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions(pub u8);

impl Extensions {
    /// `struct tcp_info`, and of a subflow its part in MPTCP; or `struct mptcp_info`.
    pub const INFO: Extensions = Extensions(1 << 1);
    /// Name of the congestion control.
    pub const CONGESTION: Extensions = Extensions(1 << 3);
    /// Memory of the socket.
    pub const MEMORY: Extensions = Extensions(1 << 6);
}

impl std::ops::BitOr for Extensions {
    type Output = Extensions;

    fn bitor(self, other: Extensions) -> Extensions {
        Extensions(self.0 | other.0)
    }
}

/// Asks for TCP sockets of both address families. The older request is the only one that takes both at once, so that the
/// table is walked once (inet_diag_dump_compat, net/ipv4/inet_diag.c, Linux 6.18).
pub fn tcp(states: States, extensions: Extensions) -> Request {
    both_families(states, extensions)
}

/// Asks for MPTCP sockets of both address families, likewise: the attribute is heeded there, too.
pub fn mptcp(states: States, extensions: Extensions) -> Request {
    both_families(states, extensions).attribute(INET_DIAG_REQ_PROTOCOL, &(libc::IPPROTO_MPTCP as u32).to_ne_bytes())
}

fn both_families(states: States, extensions: Extensions) -> Request {
    let mut header = [0; 4 + ID_LEN + 8];
    header[0] = libc::AF_UNSPEC as u8;
    header[3] = extensions.0;
    header[4 + ID_LEN..8 + ID_LEN].copy_from_slice(&states.0.to_ne_bytes());
    Request::new(TCPDIAG_GETSOCK, 0, &header)
}
