//! The subflows of MPTCP and their connections, listed by a program on the kernel's walk through its table of TCP sockets
//! (BPF iterator `tcp`).
//!
//! A fraction of the work of two dumps by netlink: the kernel translates nothing and asks no socket twice. What it cannot show
//! are connections without any subflow, and which of them fell back to TCP: that bit has another number in other kernels, and
//! type information does not tell it. Source: net/ipv4/tcp_ipv4.c and kernel/bpf/bpf_iter.c, Linux 5.9 to 6.18.

mod load;
mod offsets;

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use mpsec_common::sockets::{COMMON_LEN, CONTEXT_LEN, SocketRecord};

pub use load::Ready;
pub use offsets::Offsets;
use offsets::bytes_at;

use super::sock_diag::SubflowFlags;
use crate::snapshot::mptcp::{DataBytes, TcpDetails, TcpState, congestion_control as named};

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_TRACE_ITER: u32 = 28;
/// The kernel hands over no more than this at once (bpf_seq_read: eight pages).
const BUFFER_LEN: usize = 32 << 10;
const RECORD_LEN: usize = size_of::<SocketRecord>();
/// Where in a record the copied pieces begin.
const SOCKET: usize = offset_of!(SocketRecord, socket);
const CONNECTION: usize = offset_of!(SocketRecord, connection);
const CONTEXT: usize = offset_of!(SocketRecord, context);
const CONGESTION_CONTROL: usize = offset_of!(SocketRecord, congestion_control);

/// Lists the sockets of the calling thread's network namespace.
pub struct SocketsIter {
    link: OwnedFd,
    offsets: Offsets,
    buffer: Vec<u8>,
}

impl SocketsIter {
    /// Makes a list of a loaded program.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_PERFMON.
    pub fn new(program: BorrowedFd<'_>, offsets: Offsets) -> io::Result<SocketsIter> {
        let fd = program.as_raw_fd() as u32;
        // Program, no target, the type of attachment, no flags, and no parameters of the walk.
        let link = bpf(BPF_LINK_CREATE, &[fd, 0, BPF_TRACE_ITER, 0, 0, 0, 0, 0])?;
        Ok(SocketsIter { link, offsets, buffer: vec![0; BUFFER_LEN] })
    }

    /// Shows every subflow of the network namespace that the calling thread is in. One that comes or goes meanwhile may or
    /// may not be among them. Listening sockets are not, nor those that wait for their port to be free again.
    ///
    /// # Errors
    /// What bpf(2) and read(2) say.
    pub fn read(&mut self, mut visit: impl FnMut(&Listed<'_>)) -> io::Result<()> {
        let mut walk = File::from(bpf(BPF_ITER_CREATE, &[self.link.as_raw_fd() as u32, 0])?);
        let mut filled = 0;
        loop {
            let read = match walk.read(&mut self.buffer[filled..]) {
                // The kernel paused after many sockets that were none of ours.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => continue,
                other => other?,
            };
            if read == 0 {
                return if filled == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            filled += read;
            let (records, rest) = self.buffer[..filled].as_chunks::<RECORD_LEN>();
            for bytes in records {
                visit(&Listed { bytes, record: &record(bytes), offsets: &self.offsets });
            }
            let rest = filled - rest.len()..filled;
            filled = rest.len();
            self.buffer.copy_within(rest, 0);
        }
    }
}

fn record(bytes: &[u8; RECORD_LEN]) -> SocketRecord {
    // SAFETY: every byte pattern is a `SocketRecord`, which is `mpsec_common::Pod`, and so many bytes are there.
    unsafe { bytes.as_ptr().cast::<SocketRecord>().read_unaligned() }
}

/// Calls bpf(2) with a command that takes nothing but numbers and gives a descriptor.
fn bpf(command: libc::c_long, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the pointer and the length describe `attributes`, which outlives the call and is only read.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes) as libc::c_uint) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success both commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// A subflow out of the list, with its connection.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    bytes: &'a [u8; RECORD_LEN],
    record: &'a SocketRecord,
    offsets: &'a Offsets,
}

impl Listed<'_> {
    /// Token of its connection; 0 of one that is plain TCP by now.
    pub fn token(&self) -> u32 {
        u32::from_ne_bytes(bytes_at(self.context(), 0))
    }

    /// Local and remote address and port; `None` for a family that is not known here. IPv4 addresses of IPv6 sockets are
    /// IPv4 addresses here.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends_of(SOCKET)
    }

    /// State; `None` for a number that has no name here.
    pub fn state(&self) -> Option<TcpState> {
        self.state_of(SOCKET)
    }

    /// Its flags.
    pub fn flags(&self) -> SubflowFlags {
        self.offsets.subflow_flags(self.context())
    }

    /// Local and remote address identifier.
    pub fn ids(&self) -> [u8; 2] {
        self.offsets.ids(self.context())
    }

    /// Ends of its connection.
    pub fn connection_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends_of(CONNECTION)
    }

    /// State of its connection.
    pub fn connection_state(&self) -> Option<TcpState> {
        self.state_of(CONNECTION)
    }

    /// `mptcp_sock.flags`: 0 if the connection has not fallen back, and there is nothing else to be said of it either. No bit
    /// but that of falling back stays for ever.
    pub fn connection_flags(&self) -> u64 {
        self.record.connection_flags
    }

    /// Bytes of its connection; `None` before Linux 6.5.
    pub fn data_bytes(&self) -> Option<DataBytes> {
        self.offsets.has_data_bytes.then_some(DataBytes {
            sent_bytes: self.record.data_sent,
            acked_bytes: self.record.data_acked,
            received_bytes: self.record.data_received,
            retransmitted_bytes: self.record.data_retrans,
        })
    }

    /// What TCP says, as tcp_get_info has it (net/ipv4/tcp.c, Linux 6.18).
    pub fn details(&self) -> TcpDetails {
        let record = self.record;
        TcpDetails {
            srtt_us: record.srtt >> 3,
            rttvar_us: record.mdev >> 2,
            min_rtt_us: Some(record.rtt_min).filter(|rtt| *rtt != u32::MAX),
            cwnd_segments: record.snd_cwnd,
            mss_bytes: record.mss_cache,
            unacked_segments: record.packets_out,
            lost_segments: record.lost_out,
            retransmitted_segments: record.total_retrans,
            sent_bytes: Some(record.bytes_sent),
            acked_bytes: Some(record.bytes_acked),
            received_bytes: Some(record.bytes_received),
            retransmitted_bytes: Some(record.bytes_retrans),
            unsent_bytes: Some(record.write_seq.wrapping_sub(record.snd_nxt).cast_signed().max(0).cast_unsigned()),
            delivery_rate_bytes_per_second: Some(delivery_rate(record)),
            pacing_rate_bytes_per_second: Some(record.pacing_rate).filter(|rate| *rate != u64::MAX),
            reordering_segments: record.reordering,
            reordering_seen: Some(record.reord_seen),
            out_of_order_segments: Some(record.rcv_ooopack),
            dsack_duplicates: Some(record.dsack_dups),
            congestion_control: named(until_zero(&self.bytes[CONGESTION_CONTROL..CONGESTION_CONTROL + 16])),
        }
    }

    fn context(&self) -> &[u8] {
        &self.bytes[CONTEXT..CONTEXT + CONTEXT_LEN]
    }

    fn state_of(&self, common: usize) -> Option<TcpState> {
        TcpState::from_number(self.bytes[common + self.offsets.common.state])
    }

    fn ends_of(&self, common: usize) -> Option<(SocketAddr, SocketAddr)> {
        let common = &self.bytes[common..common + COMMON_LEN];
        let places = &self.offsets.common;
        let v4 = |at| IpAddr::from(Ipv4Addr::from(bytes_at::<4>(common, at)));
        let v6 = |at| Ipv6Addr::from(bytes_at::<16>(common, at)).to_canonical();
        let [local, remote] = match i32::from(u16::from_ne_bytes(bytes_at(common, places.family))) {
            libc::AF_INET => places.v4.map(v4),
            libc::AF_INET6 => places.v6?.map(v6),
            _ => return None,
        };
        let local_port = u16::from_ne_bytes(bytes_at(common, places.local_port));
        let remote_port = u16::from_be_bytes(bytes_at(common, places.remote_port));
        Some((SocketAddr::new(local, local_port), SocketAddr::new(remote, remote_port)))
    }
}

/// Bytes per second, as tcp_compute_delivery_rate has it (net/ipv4/tcp.c).
fn delivery_rate(record: &SocketRecord) -> u64 {
    let bytes = u64::from(record.rate_delivered) * u64::from(record.mss_cache);
    bytes.saturating_mul(1_000_000).checked_div(record.rate_interval_us.into()).unwrap_or(0)
}

/// The text before the first zero.
fn until_zero(name: &[u8]) -> &str {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    std::str::from_utf8(&name[..end]).unwrap_or_default()
}
