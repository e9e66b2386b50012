//! TCP and MPTCP sockets as the kernel lists them.
//!
//! Sockets are handed to a function one after the other, read where the kernel's answer lies: nothing is allocated for any
//! of them. Source: net/ipv4/inet_diag.c and tcp_diag.c, net/mptcp/mptcp_diag.c and diag.c, Linux 6.18.

mod destroy;
mod fields;
mod message;
mod mptcp_info;
mod request;
mod subflow;
mod tcp_info;
#[cfg(test)]
mod tests;

use std::io;

pub use destroy::destroy;
pub use message::{Memory, Socket};
pub use mptcp_info::MptcpInfo;
pub use request::{Extensions, States};
pub use subflow::{SubflowFlags, SubflowInfo};
pub use tcp_info::TcpInfo;

use super::netlink::{Client, NetlinkError, Request};

/// A socket that lists the sockets of the network namespace that it was opened in. Keep it: the kernel answers in larger
/// pieces once it has seen large reads (netlink_dump, net/netlink/af_netlink.c).
pub struct SockDiag {
    client: Client,
    undecoded: u64,
}

impl SockDiag {
    /// Opens it in the calling thread's network namespace.
    pub fn open() -> io::Result<SockDiag> {
        Ok(SockDiag { client: Client::open(libc::NETLINK_SOCK_DIAG as isize)?, undecoded: 0 })
    }

    /// Hands every TCP socket in one of `states`, of both address families, to `visit`. One that comes or goes meanwhile may
    /// or may not be among them.
    ///
    /// What a subflow is to MPTCP is told in full only to those with CAP_NET_ADMIN.
    pub fn visit_tcp(
        &mut self,
        states: States,
        extensions: Extensions,
        visit: impl FnMut(&Socket<'_>),
    ) -> Result<(), NetlinkError> {
        self.visit(request::tcp(states, extensions), visit)
    }

    /// The same for MPTCP sockets.
    pub fn visit_mptcp(
        &mut self,
        states: States,
        extensions: Extensions,
        visit: impl FnMut(&Socket<'_>),
    ) -> Result<(), NetlinkError> {
        self.visit(request::mptcp(states, extensions), visit).map_err(explain)
    }

    /// How many sockets could not be decoded, ever.
    pub fn undecoded(&self) -> u64 {
        self.undecoded
    }

    fn visit(&mut self, request: Request, mut visit: impl FnMut(&Socket<'_>)) -> Result<(), NetlinkError> {
        let undecoded = &mut self.undecoded;
        self.client.dump(request, |message| match Socket::decode(message.payload) {
            Some(socket) => visit(&socket),
            None => *undecoded += 1,
        })
    }
}

/// Says what it means that the kernel knows no such protocol (inet_diag_lock_handler).
fn explain(error: NetlinkError) -> NetlinkError {
    match error {
        NetlinkError::Refused { error, text: None } if error.raw_os_error() == Some(libc::ENOENT) => {
            let text = "this kernel cannot list MPTCP sockets (CONFIG_INET_MPTCP_DIAG)";
            NetlinkError::Refused { error, text: Some(text.to_owned()) }
        }
        other => other,
    }
}
