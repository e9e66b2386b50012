//! Closing a socket from outside, as its own program could not.

use mpsec_common::mptcp::SubflowKey;

use crate::kernel::netlink::{Client, NetlinkError, Request};

/// `SOCK_DESTROY` (include/uapi/linux/sock_diag.h, Linux 4.9). Needs CONFIG_INET_DIAG_DESTROY and CAP_NET_ADMIN.
const SOCK_DESTROY: u16 = 21;
/// Each half of the cookie that stands for any socket (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: u32 = u32::MAX;

/// Resets a subflow. What it owed is sent by the others of its connection, which goes on if there is one (tcp_abort,
/// net/ipv4/tcp.c; __mptcp_close_subflow, net/mptcp/protocol.c, Linux 6.18).
///
/// # Errors
/// `ENOENT` if there is no such socket any more, `EOPNOTSUPP` where the kernel was built without it.
pub fn destroy(key: &SubflowKey) -> Result<(), NetlinkError> {
    let mut client = Client::open(netlink_sys::protocols::NETLINK_SOCK_DIAG)?;
    client.execute(request(key))
}

fn request(key: &SubflowKey) -> Request {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let is_v4 = key.local.starts_with(&MAPPED);
    let mut header = [0; 56];
    header[0] = if is_v4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    header[1] = libc::IPPROTO_TCP as u8;
    // All states.
    header[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    header[8..10].copy_from_slice(&key.local_port.to_be_bytes());
    header[10..12].copy_from_slice(&key.remote_port.to_be_bytes());
    let from = if is_v4 { MAPPED.len() } else { 0 };
    header[12..28 - from].copy_from_slice(&key.local[from..]);
    header[28..44 - from].copy_from_slice(&key.remote[from..]);
    header[48..52].copy_from_slice(&NO_COOKIE.to_ne_bytes());
    header[52..56].copy_from_slice(&NO_COOKIE.to_ne_bytes());
    Request::new(SOCK_DESTROY, 0, &header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_socket_is_asked_for_by_its_four_bytes() {
        let bytes = request(&SubflowKey::v4([10, 0, 0, 1], [10, 0, 0, 2], 0x1234, 443)).finish(7);
        // Behind the message's own header of 16 bytes.
        assert_eq!(bytes[16..18], [libc::AF_INET as u8, libc::IPPROTO_TCP as u8]);
        assert_eq!(bytes[24..32], [0x12, 0x34, 0x01, 0xbb, 10, 0, 0, 1]);
        assert_eq!(bytes[44..48], [10, 0, 0, 2]);
        assert_eq!(bytes.len(), 16 + 56);
    }
}
