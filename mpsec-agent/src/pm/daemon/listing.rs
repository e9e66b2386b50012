//! The kernel's list of sockets, as the book takes it.

use crate::kernel::netlink::NetlinkError;
use crate::kernel::sock_diag::{Extensions, SockDiag, Socket, States, SubflowFlags};
use crate::pm::connection::Ends;
use crate::pm::resync::{ListedConnection, ListedSubflow, Listing};
use crate::snapshot::mptcp::TcpState;

/// Lists the connections and then their subflows. What begins or ends meanwhile is told by events.
pub fn list(diag: &mut SockDiag) -> Result<Listing, NetlinkError> {
    let mut listing = Listing::default();
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let Some(info) = socket.mptcp_info() else { return };
        if let Some(token) = info.token()
            && info.fell_back() != Some(true)
        {
            listing.connections.insert(token, connection(socket));
        }
    })?;
    // Without the extension the kernel does not tell of MPTCP.
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        let Some((token, subflow)) = subflow(socket) else { return };
        if let Some(connection) = listing.connections.get_mut(&token) {
            connection.subflows.push(subflow);
        }
    })?;
    Ok(listing)
}

fn connection(socket: &Socket<'_>) -> ListedConnection {
    ListedConnection {
        ends: Ends { local: socket.local(), remote: socket.remote() },
        ipv6_socket: is_ipv6(socket),
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
