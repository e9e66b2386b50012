//! One socket out of a list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::mptcp_info::MptcpInfo;
use super::subflow::SubflowInfo;
use super::tcp_info::TcpInfo;
use crate::kernel::netlink::{attribute, attributes, u32_at};
use crate::snapshot::mptcp::TcpState;

/// Length of `struct inet_diag_msg` in bytes.
const HEADER_LEN: usize = 72;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CONG: u16 = 4;
const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_MPTCP: u16 = 3;

/// A socket, read where the kernel's answer lies (`struct inet_diag_msg`, include/uapi/linux/inet_diag.h, Linux 6.18).
#[derive(Clone, Copy, Debug)]
pub struct Socket<'a> {
    header: &'a [u8; HEADER_LEN],
    info: Option<&'a [u8]>,
    congestion: Option<&'a [u8]>,
    memory: Option<&'a [u8]>,
    subflow: Option<&'a [u8]>,
}

impl<'a> Socket<'a> {
    /// The socket in a message's payload; `None` if that is too short or of no address family that is known here.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Option<Socket<'a>> {
        let (header, bytes) = payload.split_first_chunk()?;
        if !matches!(i32::from(header[0]), libc::AF_INET | libc::AF_INET6) {
            return None;
        }
        let mut socket = Socket { header, info: None, congestion: None, memory: None, subflow: None };
        for (kind, value) in attributes(bytes) {
            match kind {
                INET_DIAG_INFO => socket.info = Some(value),
                INET_DIAG_CONG => socket.congestion = Some(value),
                INET_DIAG_SKMEMINFO => socket.memory = Some(value),
                INET_DIAG_ULP_INFO => socket.subflow = attribute(value, INET_ULP_INFO_MPTCP),
                _ => {}
            }
        }
        Some(socket)
    }

    /// Address family of the socket, `AF_INET` or `AF_INET6`. One of IPv6 can have IPv4 addresses.
    pub fn family(&self) -> u8 {
        self.header[0]
    }

    /// State as the kernel's number.
    pub fn state_number(&self) -> u8 {
        self.header[1]
    }

    /// State; `None` for a number that has no name here.
    pub fn state(&self) -> Option<TcpState> {
        TcpState::from_number(self.state_number())
    }

    /// Local address and port. IPv4 addresses of IPv6 sockets are IPv4 addresses here.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.address(8), self.port(4))
    }

    /// Remote address and port.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.address(24), self.port(6))
    }

    /// Index of the interface that it is bound to; 0 for none.
    pub fn interface(&self) -> u32 {
        self.number(40)
    }

    /// A number that no other socket of this boot has.
    pub fn cookie(&self) -> u64 {
        u64::from(self.number(44)) | u64::from(self.number(48)) << 32
    }

    /// Which timer runs: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe.
    pub fn timer(&self) -> u8 {
        self.header[2]
    }

    /// How often it has run out.
    pub fn retransmissions(&self) -> u8 {
        self.header[3]
    }

    /// Milliseconds until it does.
    pub fn expires_ms(&self) -> u32 {
        self.number(52)
    }

    /// Bytes that wait to be read; of a listening socket, connections that wait to be accepted. Of an MPTCP socket it is the
    /// memory of what was received (mptcp_diag_get_info, net/mptcp/mptcp_diag.c).
    pub fn receive_queue(&self) -> u32 {
        self.number(56)
    }

    /// Bytes that wait for their acknowledgement; of a listening socket, how many connections may wait. Of an MPTCP socket it
    /// is the memory of what is to be sent.
    pub fn send_queue(&self) -> u32 {
        self.number(60)
    }

    /// User that made it.
    pub fn uid(&self) -> u32 {
        self.number(64)
    }

    /// Inode number; 0 once it is closed.
    pub fn inode(&self) -> u32 {
        self.number(68)
    }

    /// What TCP tells, if it was asked for and this is a TCP socket.
    pub fn tcp_info(&self) -> Option<TcpInfo<'a>> {
        self.info.map(TcpInfo)
    }

    /// What MPTCP tells, if it was asked for and this is an MPTCP socket.
    pub fn mptcp_info(&self) -> Option<MptcpInfo<'a>> {
        self.info.map(MptcpInfo)
    }

    /// Name of the congestion control, if it was asked for.
    pub fn congestion_control(&self) -> Option<&'a str> {
        let bytes = self.congestion?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// Memory, if it was asked for.
    pub fn memory(&self) -> Option<Memory> {
        self.memory.and_then(Memory::decode)
    }

    /// Whether this TCP socket is a subflow of MPTCP, or was one before it fell back.
    pub fn is_subflow(&self) -> bool {
        self.subflow.is_some()
    }

    /// Its part in MPTCP.
    pub fn subflow(&self) -> Option<SubflowInfo> {
        self.subflow.map(SubflowInfo::decode)
    }

    fn address(&self, offset: usize) -> IpAddr {
        let bytes = self.header.get(offset..).and_then(|bytes| bytes.first_chunk::<16>()).unwrap_or(&[0; 16]);
        let [a, b, c, d, ..] = *bytes;
        match i32::from(self.family()) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            _ => IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical(),
        }
    }

    fn port(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.header[offset], self.header[offset + 1]])
    }

    fn number(&self, offset: usize) -> u32 {
        u32_at(self.header, offset).unwrap_or_default()
    }
}

/// Memory of a socket in bytes (`SK_MEMINFO_*`, include/uapi/linux/sock_diag.h). What a kernel does not tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Allocated for receiving.
    pub received: u32,
    /// Limit of the receive buffer.
    pub receive_limit: u32,
    /// Allocated for sending.
    pub sent: u32,
    /// Limit of the send buffer.
    pub send_limit: u32,
    /// Reserved for use to come.
    pub forward: u32,
    /// Queued for sending: what the default packet scheduler of MPTCP looks at.
    pub queued: u32,
    /// Options.
    pub options: Option<u32>,
    /// In the backlog.
    pub backlog: Option<u32>,
    /// Packets, not bytes, that were dropped.
    pub drops: Option<u32>,
}

impl Memory {
    fn decode(bytes: &[u8]) -> Option<Memory> {
        let at = |index: usize| u32_at(bytes, 4 * index);
        Some(Memory {
            received: at(0)?,
            receive_limit: at(1)?,
            sent: at(2)?,
            send_limit: at(3)?,
            forward: at(4)?,
            queued: at(5)?,
            options: at(6),
            backlog: at(7),
            drops: at(8),
        })
    }
}
