//! What the kernel says of a host's connections and their subflows (sock_diag).

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::topology::{Host, Topology, path_of};
use crate::kernel::sock_diag::{Extensions, SockDiag, Socket, States, SubflowFlags};
use crate::snapshot::mptcp::TcpState;

/// A subflow of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subflow {
    /// The path that its client's address belongs to.
    pub path: usize,
    /// Its own address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Bytes of payload that it received in order; absent where the kernel does not tell.
    pub received_bytes: Option<u64>,
    /// Whether either end wants it as a backup.
    pub is_backup: bool,
}

/// The established subflows of a host, by addresses and ports.
///
/// # Errors
/// Where the kernel does not list sockets.
pub fn list(topology: &Topology, host: Host) -> Result<Vec<Subflow>> {
    let mut all = Vec::new();
    let mut diag = topology.netns(host).run(SockDiag::open)?;
    diag.visit_tcp(States::CONNECTIONS, Extensions::INFO, |socket| all.extend(subflow(socket, host)))?;
    all.sort_by_key(|subflow| (subflow.local, subflow.remote));
    Ok(all)
}

fn subflow(socket: &Socket<'_>, host: Host) -> Option<Subflow> {
    let info = socket.subflow().filter(|_| socket.state() == Some(TcpState::Established))?;
    let (local, remote) = (socket.local(), socket.remote());
    let client = if host == Host::Client { local } else { remote };
    let path = match client.ip() {
        IpAddr::V4(address) => path_of(address),
        IpAddr::V6(_) => return None,
    };
    let received_bytes = socket.tcp_info().and_then(|info| info.bytes_received());
    let is_backup = info.flags.is_some_and(SubflowFlags::backup);
    Some(Subflow { path, local, remote, received_bytes, is_backup })
}

/// Whether the client's connections fell back to TCP: all of them (`Some(true)`), none (`Some(false)`); absent where there are
/// none, or some of each, or the kernel does not tell.
///
/// # Errors
/// Where the kernel does not list MPTCP sockets.
pub fn fell_back(topology: &Topology) -> Result<Option<bool>> {
    let mut all = Vec::new();
    let mut diag = topology.netns(Host::Client).run(SockDiag::open)?;
    diag.visit_mptcp(States::CONNECTIONS, Extensions::INFO, |socket| {
        all.push(socket.mptcp_info().and_then(|info| info.fell_back()));
    })?;
    let first = all.first().copied().flatten();
    Ok(first.filter(|_| all.iter().all(|one| *one == first)))
}
