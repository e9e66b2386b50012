//! The sockets of MPTCP connections and their subflows, as the kernel lists them.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::kernel::netlink::NetlinkError;
use crate::kernel::sock_diag::{Extensions, SockDiag, States, SubflowFlags, SubflowInfo};
use crate::snapshot::mptcp::{DataBytes, Role, TcpDetails, TcpState};

use super::ledger::Told;

/// Local and remote address and port.
pub type Ends = (SocketAddr, SocketAddr);

/// All sockets of a network namespace that have to do with MPTCP.
#[derive(Default)]
pub struct Sockets {
    /// MPTCP-level sockets, by token.
    pub connections: HashMap<u32, ConnectionSocket>,
    /// Subflows, by their ends.
    pub subflows: HashMap<Ends, SubflowSocket>,
}

/// An MPTCP-level socket.
pub struct ConnectionSocket {
    /// Its ends.
    pub ends: Ends,
    /// Its state.
    pub state: TcpState,
    /// It is plain TCP.
    pub fell_back: bool,
    /// Its bytes.
    pub data: Option<DataBytes>,
}

/// A subflow's socket.
pub struct SubflowSocket {
    /// Token of its connection.
    pub token: u32,
    /// Its state.
    pub state: TcpState,
    /// Its part in MPTCP.
    pub info: SubflowInfo,
    /// What TCP says of it.
    pub details: TcpDetails,
}

impl SubflowSocket {
    /// What the book is told.
    pub fn told(&self) -> Told {
        Told {
            backup: self.info.flags.map(SubflowFlags::backup),
            acked_bytes: self.details.acked_bytes.unwrap_or(0),
            waits: self.details.unacked_segments > 0,
        }
    }

    /// Flags, none where they are not told.
    pub fn flags(&self) -> SubflowFlags {
        self.info.flags.unwrap_or_default()
    }

    /// Which end of the connection this host is, as far as the first subflow tells.
    pub fn role(&self) -> Role {
        match self.flags() {
            flags if flags.joined() => Role::Unknown,
            flags if flags.any(SubflowFlags::CAPABLE_LOCAL) => Role::Client,
            _ => Role::Server,
        }
    }
}

impl Sockets {
    /// Lists them.
    ///
    /// # Errors
    /// The kernel's refusal. What was listed before it is lost.
    pub fn list(diag: &mut SockDiag) -> Result<Sockets, NetlinkError> {
        let mut sockets = Sockets::default();
        diag.visit_tcp(States::CONNECTIONS, Extensions::INFO | Extensions::CONGESTION, |socket| {
            let Some(info) = socket.subflow() else { return };
            // A connection that was a subflow and is plain TCP by now has no token.
            let Some(token) = info.token_local.filter(|token| *token != 0) else { return };
            let state = socket.state().unwrap_or_default();
            let details = socket.tcp_info().and_then(|tcp| tcp.details(socket.congestion_control()));
            let details = details.unwrap_or_default();
            sockets.subflows.insert((socket.local(), socket.remote()), SubflowSocket { token, state, info, details });
        })?;
        diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
            let Some(info) = socket.mptcp_info() else { return };
            let Some(token) = info.token() else { return };
            let connection = ConnectionSocket {
                ends: (socket.local(), socket.remote()),
                state: socket.state().unwrap_or_default(),
                fell_back: info.fell_back().unwrap_or(false),
                data: info.data_bytes(),
            };
            sockets.connections.insert(token, connection);
        })?;
        Ok(sockets)
    }
}
