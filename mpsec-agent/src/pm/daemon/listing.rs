//! The kernel's list of sockets, as the book takes it.

use std::collections::BTreeSet;

use crate::kernel::netlink::NetlinkError;
use crate::kernel::sock_diag::{Extensions, SockDiag, Socket, States, SubflowFlags};
use crate::pm::resync::{ListedConnection, ListedSubflow, Listing};
use crate::pm::subflow::Ends;
use crate::snapshot::mptcp::TcpState;

/// Lists the connections and then their subflows. What begins or ends meanwhile is told by events.
///
/// The kernel may leave a connection out while others end that lie next to it in its table, those of other network namespaces
/// too (mptcp_token_iter_next, net/mptcp/token.c, Linux 6.18); then its first subflow tells of it.
pub fn list(diag: &mut SockDiag) -> Result<Listing, NetlinkError> {
    let mut listing = Listing::default();
    let mut fell_back = BTreeSet::new();
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let Some(info) = socket.mptcp_info() else { return };
        match info.token() {
            Some(token) if info.fell_back() == Some(true) => drop(fell_back.insert(token)),
            Some(token) => drop(listing.connections.insert(token, connection(socket))),
            None => {}
        }
    })?;
    let mut left_out = Vec::new();
    // Without the extension the kernel does not tell of MPTCP.
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let Some((token, subflow)) = subflow(socket) else { return };
        if !subflow.joined && !subflow.connecting && !fell_back.contains(&token) {
            listing.connections.entry(token).or_insert_with(|| connection(socket));
        }
        match listing.connections.get_mut(&token) {
            Some(connection) => connection.subflows.push(subflow),
            None => left_out.push((token, subflow)),
        }
    })?;
    for (token, subflow) in left_out {
        if let Some(connection) = listing.connections.get_mut(&token) {
            connection.subflows.push(subflow);
        }
    }
    Ok(listing)
}

fn connection(socket: &Socket<'_>) -> ListedConnection {
    ListedConnection {
        ends: Ends { local: socket.local(), remote: socket.remote() },
        ipv6_socket: is_ipv6(socket),
        ifindex: Some(socket.interface()).filter(|index| *index != 0),
        open: socket.state() == Some(TcpState::Established),
        subflows: Vec::new(),
    }
}

/// A subflow that is there or on its way, and the token of its connection. One that is ending is as good as gone.
fn subflow(socket: &Socket<'_>) -> Option<(u32, ListedSubflow)> {
    let connecting = match socket.state()? {
        TcpState::SynSent => true,
        TcpState::Established => false,
        _ => return None,
    };
    let info = socket.subflow()?;
    let flags = info.flags?;
    let made_here = SubflowFlags(SubflowFlags::CAPABLE_LOCAL.0 | SubflowFlags::JOIN_LOCAL.0);
    let subflow = ListedSubflow {
        ends: Ends { local: socket.local(), remote: socket.remote() },
        local_id: info.id_local?,
        remote_id: info.id_remote?,
        ipv6_socket: is_ipv6(socket),
        joined: flags.joined(),
        by_us: flags.any(made_here),
        backup: flags.any(SubflowFlags::BACKUP_LOCAL),
        connecting,
        fully_established: flags.any(SubflowFlags::FULLY_ESTABLISHED),
    };
    Some((info.token_local?, subflow))
}

fn is_ipv6(socket: &Socket<'_>) -> bool {
    i32::from(socket.family()) == libc::AF_INET6
}
