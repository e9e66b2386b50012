//! What the kernel keeps of a TCP socket that is an MPTCP subflow.

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock};

use super::ABSENT;
use super::sock::Sock;

/// A member: its offset in bytes, and its bits in the byte there, 0 for all.
pub(super) type Place = Global<[u32; 2]>;

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: Place = Global::new([ABSENT, 0]);
    )* };
}

pub(super) use places;

places! {
    /// `tcp_sock.is_mptcp`
    TCP_IS_MPTCP;
    /// `inet_connection_sock.icsk_ulp_data`, which every `tcp_sock` begins with.
    TCP_ULP_DATA;
    /// `tcp_sock.bytes_sent`
    TCP_BYTES_SENT;
    /// `tcp_sock.bytes_retrans`
    TCP_BYTES_RETRANS;
    /// `sock.sk_rx_dst_ifindex`
    SOCK_RX_IFINDEX;
    /// `mptcp_subflow_context.token`
    SUBFLOW_TOKEN;
    /// `mptcp_subflow_context.mp_capable`
    SUBFLOW_MP_CAPABLE;
    /// `mptcp_subflow_context.mp_join`
    SUBFLOW_MP_JOIN;
    /// `mptcp_subflow_context.request_join`
    SUBFLOW_REQUEST_JOIN;
    /// `mptcp_subflow_context.local_id`
    SUBFLOW_LOCAL_ID;
    /// `mptcp_subflow_context.remote_id`
    SUBFLOW_REMOTE_ID;
    /// `mptcp_subflow_context.backup`
    SUBFLOW_BACKUP;
    /// `mptcp_subflow_context.request_bkup`
    SUBFLOW_REQUEST_BACKUP;
    /// `mptcp_subflow_context.fully_established`
    SUBFLOW_FULLY_ESTABLISHED;
    /// `mptcp_subflow_context.reset_seen`
    SUBFLOW_RESET_SEEN;
    /// `mptcp_subflow_context.reset_reason`
    SUBFLOW_RESET_REASON;
    /// `mptcp_subflow_context.conn`
    SUBFLOW_CONNECTION;
}

/// `struct tcp_sock`.
pub struct TcpSock(*const u8);

impl TcpSock {
    /// The socket of a callback; `None` for one that is not whole yet.
    #[inline(always)]
    pub fn of(ops: *mut bpf_sock_ops) -> Option<TcpSock> {
        // SAFETY: the context is valid for as long as the program runs, and the helper takes its socket.
        unsafe {
            let sock = (*ops).__bindgen_anon_2.sk;
            if sock.is_null() {
                return None;
            }
            let tcp = bpf_skc_to_tcp_sock(sock.cast());
            if tcp.is_null() { None } else { Some(TcpSock(tcp.cast())) }
        }
    }

    /// The socket at this address, which must be one of TCP and whole.
    #[inline(always)]
    pub fn at(sock: Sock) -> TcpSock {
        TcpSock(sock.address())
    }

    /// What it has in common with all sockets.
    #[inline(always)]
    pub fn sock(&self) -> Sock {
        Sock::at(self.0)
    }

    /// Whether it is a subflow.
    #[inline(always)]
    pub fn is_mptcp(&self) -> bool {
        bit(self.0, &TCP_IS_MPTCP)
    }

    /// Payload bytes sent, those sent again included; 0 if the kernel does not tell.
    #[inline(always)]
    pub fn bytes_sent(&self) -> u64 {
        read(self.0, &TCP_BYTES_SENT).unwrap_or(0)
    }

    /// Payload bytes sent again; 0 if the kernel does not tell.
    #[inline(always)]
    pub fn bytes_retrans(&self) -> u64 {
        read(self.0, &TCP_BYTES_RETRANS).unwrap_or(0)
    }

    /// Index of the interface that its last packets came in by, as far as the kernel tells; 0 for none.
    #[inline(always)]
    pub fn rx_ifindex(&self) -> u32 {
        read(self.0, &SOCK_RX_IFINDEX).unwrap_or(0)
    }

    /// What makes it a subflow.
    #[inline(always)]
    pub fn subflow(&self) -> Option<Subflow> {
        match read::<u64>(self.0, &TCP_ULP_DATA)? {
            0 => None,
            context => Some(Subflow(context as *const u8)),
        }
    }
}

/// `struct mptcp_subflow_context`.
pub struct Subflow(*const u8);

impl Subflow {
    /// The local token of the connection.
    #[inline(always)]
    pub fn token(&self) -> u32 {
        read(self.0, &SUBFLOW_TOKEN).unwrap_or(0)
    }

    /// Local and remote address identifier. The former has more bits on newer kernels, to say that there is none.
    #[inline(always)]
    pub fn ids(&self) -> [u8; 2] {
        [read(self.0, &SUBFLOW_LOCAL_ID).unwrap_or(u8::MAX), read(self.0, &SUBFLOW_REMOTE_ID).unwrap_or(0)]
    }

    /// Whether both ends agreed on MPTCP by MP_CAPABLE.
    #[inline(always)]
    pub fn is_capable(&self) -> bool {
        bit(self.0, &SUBFLOW_MP_CAPABLE)
    }

    /// Whether it joined, or is about to join, another subflow's connection.
    #[inline(always)]
    pub fn joined(&self) -> bool {
        bit(self.0, &SUBFLOW_MP_JOIN) || bit(self.0, &SUBFLOW_REQUEST_JOIN)
    }

    /// Whether the peer has sent MP_TCPRST (RFC 8684 section 3.6).
    #[inline(always)]
    pub fn reset_seen(&self) -> bool {
        bit(self.0, &SUBFLOW_RESET_SEEN)
    }

    /// Whether it is known to be established at both ends. Before, as when the SYN or the third ACK of a join is answered with a
    /// reset, the kernel does not look at what a reset says (check_fully_established, net/mptcp/options.c, 6.1 to 6.18).
    #[inline(always)]
    pub fn is_fully_established(&self) -> bool {
        bit(self.0, &SUBFLOW_FULLY_ESTABLISHED)
    }

    /// The reason that this MP_TCPRST gives, or that one that is sent will.
    #[inline(always)]
    pub fn reset_reason(&self) -> u8 {
        bits(self.0, &SUBFLOW_RESET_REASON).unwrap_or(0)
    }

    /// The socket of its connection.
    #[inline(always)]
    pub fn connection(&self) -> Option<Sock> {
        match read::<u64>(self.0, &SUBFLOW_CONNECTION)? {
            0 => None,
            socket => Some(Sock::at(socket as *const u8)),
        }
    }

    /// Whether either end wants it for a backup.
    #[inline(always)]
    pub fn is_backup(&self) -> bool {
        bit(self.0, &SUBFLOW_BACKUP) || bit(self.0, &SUBFLOW_REQUEST_BACKUP)
    }
}

/// A member of a few bits within one byte.
#[inline(always)]
pub(super) fn bits(structure: *const u8, place: &Place) -> Option<u8> {
    let mask = place.load()[1] & 0xff;
    let byte = read::<u8>(structure, place)? as u32;
    // The lowest bit of the mask tells how far up they lie.
    (byte & mask).checked_div(mask & mask.wrapping_neg()).map(|value| value as u8)
}

/// A member that is a single bit, or a whole byte that is not 0.
#[inline(always)]
fn bit(structure: *const u8, place: &Place) -> bool {
    let mask = match place.load()[1] {
        0 => 0xff,
        mask => mask as u8,
    };
    read::<u8>(structure, place).is_some_and(|byte| byte & mask != 0)
}

/// The first bytes of a member.
#[inline(always)]
pub(super) fn read<T: Copy + Default>(structure: *const u8, place: &Place) -> Option<T> {
    let offset = place.load()[0];
    if offset == ABSENT { None } else { load(structure.wrapping_add(offset as usize)) }
}

/// What is at an address of the kernel.
#[inline(always)]
pub(super) fn load<T: Copy + Default>(address: *const u8) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the helper checks the address itself and fills all of `value` or fails.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address.cast()) };
    (result == 0).then_some(value)
}
