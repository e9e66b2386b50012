//! What the kernel keeps of any socket, and of what lies in its queues.

use aya_ebpf::Global;
use mpsec_common::mptcp::mapped_halves;
use mpsec_common::packet::reset_reason;

use super::ABSENT;
use super::socket::{Place, bits, load, places, read};

places! {
    /// `sock_common.skc_family`
    SOCK_FAMILY;
    /// `sock_common.skc_state`
    SOCK_STATE;
    /// `inet_sock.inet_sport`; `skc_num` is the same until a port is given back, which is before the last reset is sent.
    SOCK_SPORT;
    /// `sock_common.skc_dport`
    SOCK_DPORT;
    /// `sock_common.skc_rcv_saddr`
    SOCK_RCV_SADDR;
    /// `sock_common.skc_daddr`
    SOCK_DADDR;
    /// `sock_common.skc_v6_rcv_saddr`
    SOCK_V6_RCV_SADDR;
    /// `sock_common.skc_v6_daddr`
    SOCK_V6_DADDR;
    /// `sock_common.skc_net.net`
    SOCK_NET;
    /// `sock.sk_err`
    SOCK_ERROR;
    /// `net.net_cookie`
    NET_COOKIE;
    /// `inet_connection_sock.icsk_ca_state`
    TCP_CA_STATE;
    /// `tcp_skb_cb.tcp_gso_segs`, within `sk_buff.cb`.
    SKB_TCP_SEGMENTS;
    /// `sk_buff.head`
    SKB_HEAD;
    /// `sk_buff.transport_header`: from the buffer's head, in bytes.
    SKB_TRANSPORT;
    /// `mptcp_sock.rtx_queue`
    MPTCP_RTX_QUEUE;
}

/// States of TCP (include/net/tcp_states.h).
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const FIN_WAIT1: u8 = 4;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LISTEN: u8 = 10;
    pub const NEW_SYN_RECV: u8 = 12;
}

const AF_INET: u16 = 2;

/// `struct sock`, which every socket begins with; of some there is no more than `struct sock_common`.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

impl Sock {
    /// The socket at this address.
    #[inline(always)]
    pub fn at(address: *const u8) -> Sock {
        Sock(address)
    }

    #[inline(always)]
    pub(super) fn address(self) -> *const u8 {
        self.0
    }

    /// One of [`state`].
    #[inline(always)]
    pub fn state(self) -> u8 {
        read(self.0, &SOCK_STATE).unwrap_or(0)
    }

    /// Whether there is a whole TCP socket behind it that has a peer.
    #[inline(always)]
    pub fn is_whole(self) -> bool {
        !matches!(self.state(), 0 | state::LISTEN | state::TIME_WAIT | state::NEW_SYN_RECV)
    }

    /// The cookie of its network namespace.
    #[inline(always)]
    pub fn netns_cookie(self) -> Option<u64> {
        let net: u64 = read(self.0, &SOCK_NET)?;
        read(net as *const u8, &NET_COOKIE)
    }

    /// `errno` of what went wrong with it last; 0 for nothing.
    #[inline(always)]
    pub fn error(self) -> u32 {
        read(self.0, &SOCK_ERROR).unwrap_or(0)
    }

    /// State of congestion control, as a number of `enum tcp_ca_state` (include/uapi/linux/tcp.h).
    #[inline(always)]
    pub fn ca_state(self) -> u8 {
        bits(self.0, &TCP_CA_STATE).unwrap_or(0)
    }

    /// Its ends.
    #[inline(always)]
    pub fn tuple(self) -> Option<Tuple> {
        let (local, remote) = if read::<u16>(self.0, &SOCK_FAMILY)? == AF_INET {
            (mapped_halves(read(self.0, &SOCK_RCV_SADDR)?), mapped_halves(read(self.0, &SOCK_DADDR)?))
        } else {
            (read(self.0, &SOCK_V6_RCV_SADDR)?, read(self.0, &SOCK_V6_DADDR)?)
        };
        let local_port = u16::from_be(read(self.0, &SOCK_SPORT)?);
        let remote_port = u16::from_be(read(self.0, &SOCK_DPORT)?);
        Some(Tuple { local, remote, local_port, remote_port })
    }

    /// Of an MPTCP socket: whether data was sent that is not acknowledged yet.
    #[inline(always)]
    pub fn has_unacknowledged(self) -> bool {
        let queue = MPTCP_RTX_QUEUE.load()[0];
        if queue == ABSENT {
            return false;
        }
        // A list begins with the address of its first element; that of an empty one is its own.
        let own = self.0.wrapping_add(queue as usize) as u64;
        read::<u64>(self.0, &MPTCP_RTX_QUEUE).is_some_and(|first| first != own)
    }
}

/// Ends of a socket: addresses as [`mpsec_common::mptcp::tag`] takes them, ports in host order.
pub struct Tuple {
    pub local: [u64; 2],
    pub remote: [u64; 2],
    pub local_port: u16,
    pub remote_port: u16,
}

/// Segments that a packet in the queue of a TCP socket stands for (`tcp_skb_pcount`, include/net/tcp.h).
#[inline(always)]
pub fn segments(skb: *const u8) -> u32 {
    read::<u16>(skb, &SKB_TCP_SEGMENTS).unwrap_or(1) as u32
}

/// What a received reset says.
pub enum Said {
    /// MP_TCPRST with this reason (RFC 8684 section 3.6).
    Reason(u8),
    /// No MP_TCPRST.
    Nothing,
}

/// What the reset in a packet of TCP says; its header is in the linear part when TCP handles it.
#[inline(always)]
pub fn said_by_reset(skb: *const u8) -> Option<Said> {
    const HEADER: usize = 20;
    const LENGTH_AT: usize = 12;
    let head: u64 = read(skb, &SKB_HEAD)?;
    let header = (head as *const u8).wrapping_add(read::<u16>(skb, &SKB_TRANSPORT)? as usize);
    let words = load::<u8>(header.wrapping_add(LENGTH_AT))? >> 4;
    let options = header.wrapping_add(HEADER);
    let len = (words as u32 * 4).wrapping_sub(HEADER as u32);
    // What follows the options is in the same buffer, which ends with a structure of the kernel that is longer than they can be.
    let reason = reset_reason(len, head as u32, |at| load(options.wrapping_add(at as usize))).ok()?;
    Some(match reason {
        Some(reason) => Said::Reason(reason),
        None => Said::Nothing,
    })
}
