//! The sockets of MPTCP connections and their subflows, as the kernel lists them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use foldhash::fast::RandomState;

use crate::kernel::netlink::NetlinkError;
use crate::kernel::sock_diag::{Extensions, SockDiag, States, SubflowFlags};
use crate::kernel::sockets_iter::Listed;
use crate::snapshot::mptcp::{DataBytes, Role, TcpDetails, TcpState};

use super::ledger::Told;

/// Local and remote address and port.
pub type Ends = (SocketAddr, SocketAddr);

/// No subflow.
const NONE: u32 = u32::MAX;

/// All sockets of a network namespace that have to do with MPTCP.
#[derive(Default)]
pub struct Sockets {
    /// MPTCP-level sockets, by token.
    pub connections: HashMap<u32, ConnectionSocket, RandomState>,
    /// Subflows, in no order.
    pub subflows: Vec<SubflowSocket>,
    /// Connections were listed with their subflows.
    pub with_connections: bool,
    /// What else is said of some of those, by token: flags that may mean that they fell back, or nothing ([`Listed`]).
    pub marks: Vec<(u32, u64)>,
    /// Where in [`Sockets::subflows`] the one in a slot of the kernel's table is.
    by_slot: Vec<u32>,
}

/// An MPTCP-level socket.
#[derive(Clone)]
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
    /// Its ends.
    pub ends: Ends,
    /// Its slot in the kernel's table, if it is in the book.
    pub slot: Option<u32>,
    /// Token of its connection.
    pub token: u32,
    /// Its state.
    pub state: TcpState,
    /// Flags, where they are told.
    pub told_flags: Option<SubflowFlags>,
    /// Local and remote address identifiers.
    pub ids: [Option<u8>; 2],
    /// What TCP says of it.
    pub details: TcpDetails,
}

impl SubflowSocket {
    /// What the book is told.
    pub fn told(&self) -> Told {
        Told {
            backup: self.told_flags.map(SubflowFlags::backup),
            acked_bytes: self.details.acked_bytes.unwrap_or(0),
            waits: self.details.unacked_segments > 0,
            payload_bytes: self.payload_bytes(),
            retransmitted_bytes: self.details.retransmitted_bytes,
        }
    }

    /// The kernel counts a FIN that was received for a byte, so that there is nothing to be told from then on.
    fn payload_bytes(&self) -> Option<[u64; 2]> {
        let is_open = matches!(self.state, TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2);
        is_open.then_some([self.details.received_bytes?, self.details.sent_bytes?])
    }

    /// Flags, none where they are not told.
    pub fn flags(&self) -> SubflowFlags {
        self.told_flags.unwrap_or_default()
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
    /// Makes room for so many subflows and connections.
    pub fn make_room(&mut self, [subflows, connections]: [usize; 2]) {
        self.subflows.reserve(subflows);
        self.connections.reserve(connections);
    }

    /// Adds a subflow and its connection.
    pub fn add(&mut self, listed: &Listed<'_>) {
        let token = listed.token();
        let (Some(ends), true) = (listed.ends(), token != 0) else { return };
        self.subflows.push(SubflowSocket {
            ends,
            slot: None,
            token,
            state: listed.state().unwrap_or_default(),
            told_flags: Some(listed.flags()),
            ids: listed.ids().map(Some),
            details: listed.details(),
        });
        let Entry::Vacant(vacant) = self.connections.entry(token) else { return };
        let (Some(ends), Some(state)) = (listed.connection_ends(), listed.connection_state()) else { return };
        // One that is closed has subflows that take their leave, and is no connection any more.
        if state != TcpState::Closed {
            vacant.insert(ConnectionSocket { ends, state, fell_back: false, data: listed.data_bytes() });
            if listed.connection_flags() != 0 {
                self.marks.push((token, listed.connection_flags()));
            }
        }
    }

    /// Adds the subflows.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list_subflows(&mut self, diag: &mut SockDiag) -> Result<(), NetlinkError> {
        diag.visit_tcp(States::CONNECTIONS, Extensions::INFO | Extensions::CONGESTION, |socket| {
            let Some(info) = socket.subflow() else { return };
            // A connection that was a subflow and is plain TCP by now has no token.
            let Some(token) = info.token_local.filter(|token| *token != 0) else { return };
            let state = socket.state().unwrap_or_default();
            let details = socket.tcp_info().and_then(|tcp| tcp.details(socket.congestion_control()));
            let details = details.unwrap_or_default();
            self.subflows.push(SubflowSocket {
                ends: (socket.local(), socket.remote()),
                slot: None,
                token,
                state,
                told_flags: info.flags,
                ids: [info.id_local, info.id_remote],
                details,
            });
        })
    }

    /// Adds the connections.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list_connections(&mut self, diag: &mut SockDiag) -> Result<(), NetlinkError> {
        diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
            let Some(info) = socket.mptcp_info() else { return };
            let Some(token) = info.token() else { return };
            let connection = ConnectionSocket {
                ends: (socket.local(), socket.remote()),
                state: socket.state().unwrap_or_default(),
                fell_back: info.fell_back().unwrap_or(false),
                data: info.data_bytes(),
            };
            self.connections.insert(token, connection);
        })
    }

    /// Notes down which slot each subflow has.
    pub fn find(&mut self, mut find: impl FnMut(Ends) -> Option<u32>) {
        for (index, socket) in self.subflows.iter_mut().enumerate() {
            socket.slot = find(socket.ends);
            let Some(slot) = socket.slot.map(|slot| slot as usize) else { continue };
            if self.by_slot.len() <= slot {
                self.by_slot.resize(slot + 1, NONE);
            }
            self.by_slot[slot] = index as u32;
        }
    }

    /// The subflow in a slot.
    pub fn in_slot(&self, slot: u32) -> Option<&SubflowSocket> {
        self.subflows.get(*self.by_slot.get(slot as usize)? as usize)
    }

    /// The same, to be changed.
    pub fn in_slot_mut(&mut self, slot: u32) -> Option<&mut SubflowSocket> {
        self.subflows.get_mut(*self.by_slot.get(slot as usize)? as usize)
    }
}
