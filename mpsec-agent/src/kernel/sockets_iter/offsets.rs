//! Where the kernel keeps what a list of sockets tells.

use mpsec_common::sockets::{COMMON_LEN, CONTEXT_LEN};

use super::super::btf::{BtfError, KernelBtf, Member};
use crate::kernel::sock_diag::SubflowFlags;

/// No such member.
const ABSENT: u32 = u32::MAX;
const CONTEXT: &str = "mptcp_subflow_context";

/// The kernel side's globals, and what the pieces that it copies hold.
#[derive(Debug)]
pub struct Offsets {
    globals: Vec<(&'static str, u32)>,
    /// Of `struct sock_common`.
    pub common: Common,
    /// Byte in the piece of the context, which begins with the token, bits in the byte, and what they mean.
    flags: Vec<(usize, u8, SubflowFlags)>,
    /// Byte in that piece of the local and of the remote identifier.
    ids: [usize; 2],
    /// The local identifier has two bytes, the sign among them.
    wide_local_id: bool,
    /// Connections know their bytes (from Linux 6.5 on).
    pub has_data_bytes: bool,
}

/// Offsets of members of `struct sock_common` in bytes, none of them beyond [`COMMON_LEN`].
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Family, two bytes.
    pub family: usize,
    /// State, a byte.
    pub state: usize,
    /// Local port in host order.
    pub local_port: usize,
    /// Remote port in network order.
    pub remote_port: usize,
    /// Local and remote IPv4 address.
    pub v4: [usize; 2],
    /// Local and remote IPv6 address; `None` without IPv6.
    pub v6: Option<[usize; 2]>,
}

impl Offsets {
    /// Looks everything up.
    ///
    /// # Errors
    /// The first member without which sockets cannot be listed so.
    pub fn resolve(btf: &KernelBtf) -> Result<Offsets, BtfError> {
        let token = btf.offset_of(CONTEXT, "token")?;
        let (start, flags) = (token.byte_offset(), flags(btf, token.byte_offset())?);
        let [local, remote] = [btf.offset_of(CONTEXT, "local_id")?, btf.offset_of(CONTEXT, "remote_id")?];
        let behind = |member: &Member| member.byte_offset().checked_sub(start).map(|byte| byte as usize);
        let (Some(local_id), Some(remote_id)) = (behind(&local), behind(&remote)) else {
            return Err(BtfError::Damaged("the identifiers of a subflow lie before its token"));
        };
        let ids = [local_id, remote_id];
        let ends = flags.iter().map(|(byte, ..)| byte + 1).chain([4, ids[0] + 2, ids[1] + 1]);
        let last = ends.max().unwrap_or_default();
        if last > CONTEXT_LEN {
            return Err(BtfError::Damaged("the members of a subflow's context lie too far apart"));
        }
        let mut globals = vec![("SOCKETS_CONTEXT", start), ("SOCKETS_CONTEXT_LEN", last as u32)];
        for (global, structure, member) in REQUIRED {
            globals.push((global, btf.offset_of(structure, member)?.byte_offset()));
        }
        let least =
            btf.offset_of("tcp_sock", "rtt_min.s")?.byte_offset() + btf.offset_of("minmax_sample", "v")?.byte_offset();
        globals.push(("SOCKETS_RTT_MIN", least));
        let is_mptcp = btf.offset_of("tcp_sock", "is_mptcp")?;
        let mask = if is_mptcp.bitfield { 1 << is_mptcp.bit_shift() } else { u32::from(u8::MAX) };
        globals.extend([("SOCKETS_IS_MPTCP", is_mptcp.byte_offset()), ("SOCKETS_IS_MPTCP_MASK", mask)]);
        let mut has_data_bytes = true;
        for (global, member) in DATA {
            let found = btf.offset_of("mptcp_sock", member);
            has_data_bytes &= found.is_ok();
            globals.push((global, found.map_or(ABSENT, |member| member.byte_offset())));
        }
        Ok(Offsets {
            globals,
            common: Common::resolve(btf)?,
            flags,
            ids,
            wide_local_id: local.byte_size() > 1,
            has_data_bytes,
        })
    }

    /// Name and value of each global.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        self.globals.iter().map(|(name, value)| (*name, value))
    }

    /// Flags of a subflow, as netlink gives them, by the piece of its context.
    pub fn subflow_flags(&self, context: &[u8]) -> SubflowFlags {
        let set = |(byte, mask, flag): &(usize, u8, SubflowFlags)| match context.get(*byte) {
            Some(byte) if byte & mask != 0 => flag.0,
            _ => 0,
        };
        SubflowFlags(self.flags.iter().map(set).fold(0, |all, flag| all | flag))
    }

    /// Local and remote address identifier. One that is not settled is 0, as netlink has it (subflow_get_local_id,
    /// net/mptcp/protocol.h, Linux 6.18).
    pub fn ids(&self, context: &[u8]) -> [u8; 2] {
        let [local, remote] = self.ids;
        let local = match self.wide_local_id {
            true => i16::from_ne_bytes(bytes_at(context, local)).max(0) as u8,
            false => context[local],
        };
        [local, context[remote]]
    }
}

/// The bytes from an offset on; zeroes behind the end.
pub fn bytes_at<const N: usize>(piece: &[u8], offset: usize) -> [u8; N] {
    piece.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn flags(btf: &KernelBtf, start: u32) -> Result<Vec<(usize, u8, SubflowFlags)>, BtfError> {
    let place = |(member, flag): &(&str, SubflowFlags)| {
        let member: Member = btf.offset_of(CONTEXT, member)?;
        let byte = member.byte_offset().checked_sub(start);
        let byte = byte.ok_or(BtfError::Damaged("a flag of a subflow lies before its token"))?;
        let mask = if member.bitfield { 1 << member.bit_shift() } else { u8::MAX };
        Ok((byte as usize, mask, *flag))
    };
    FLAGS.iter().map(place).collect()
}

impl Common {
    fn resolve(btf: &KernelBtf) -> Result<Common, BtfError> {
        let at = |member: &str| {
            let found = btf.offset_of("sock_common", member)?;
            let end = (found.byte_offset() + found.byte_size()) as usize;
            let fits = end <= COMMON_LEN;
            fits.then_some(found.byte_offset() as usize).ok_or(BtfError::Damaged("struct sock_common is too long"))
        };
        let v6 = btf.offset_of("sock_common", "skc_v6_rcv_saddr").is_ok();
        Ok(Common {
            family: at("skc_family")?,
            state: at("skc_state")?,
            local_port: at("skc_num")?,
            remote_port: at("skc_dport")?,
            v4: [at("skc_rcv_saddr")?, at("skc_daddr")?],
            v6: v6.then(|| Ok::<_, BtfError>([at("skc_v6_rcv_saddr")?, at("skc_v6_daddr")?])).transpose()?,
        })
    }
}

/// Members of the context, as subflow_get_info translates them (net/mptcp/diag.c, Linux 6.18).
const FLAGS: [(&str, SubflowFlags); 9] = [
    ("mp_capable", SubflowFlags::CAPABLE_REMOTE),
    ("request_mptcp", SubflowFlags::CAPABLE_LOCAL),
    ("mp_join", SubflowFlags::JOIN_REMOTE),
    ("request_join", SubflowFlags::JOIN_LOCAL),
    ("backup", SubflowFlags::BACKUP_REMOTE),
    ("request_bkup", SubflowFlags::BACKUP_LOCAL),
    ("fully_established", SubflowFlags::FULLY_ESTABLISHED),
    ("conn_finished", SubflowFlags::CONNECTED),
    ("map_valid", SubflowFlags::MAP_VALID),
];

/// What every kernel from 6.1 on has.
const REQUIRED: [(&str, &str, &str); 27] = [
    ("SOCKETS_STATE", "sock_common", "skc_state"),
    ("SOCKETS_ULP_OPS", "inet_connection_sock", "icsk_ulp_ops"),
    ("SOCKETS_ULP_DATA", "inet_connection_sock", "icsk_ulp_data"),
    ("SOCKETS_ULP_NAME", "tcp_ulp_ops", "name"),
    ("SOCKETS_CA_OPS", "inet_connection_sock", "icsk_ca_ops"),
    ("SOCKETS_CA_NAME", "tcp_congestion_ops", "name"),
    ("SOCKETS_PACING_RATE", "sock", "sk_pacing_rate"),
    ("SOCKETS_BYTES_SENT", "tcp_sock", "bytes_sent"),
    ("SOCKETS_BYTES_ACKED", "tcp_sock", "bytes_acked"),
    ("SOCKETS_BYTES_RECEIVED", "tcp_sock", "bytes_received"),
    ("SOCKETS_BYTES_RETRANS", "tcp_sock", "bytes_retrans"),
    ("SOCKETS_SRTT", "tcp_sock", "srtt_us"),
    ("SOCKETS_MDEV", "tcp_sock", "mdev_us"),
    ("SOCKETS_SND_CWND", "tcp_sock", "snd_cwnd"),
    ("SOCKETS_MSS_CACHE", "tcp_sock", "mss_cache"),
    ("SOCKETS_PACKETS_OUT", "tcp_sock", "packets_out"),
    ("SOCKETS_LOST_OUT", "tcp_sock", "lost_out"),
    ("SOCKETS_TOTAL_RETRANS", "tcp_sock", "total_retrans"),
    ("SOCKETS_WRITE_SEQ", "tcp_sock", "write_seq"),
    ("SOCKETS_SND_NXT", "tcp_sock", "snd_nxt"),
    ("SOCKETS_RATE_DELIVERED", "tcp_sock", "rate_delivered"),
    ("SOCKETS_RATE_INTERVAL", "tcp_sock", "rate_interval_us"),
    ("SOCKETS_REORDERING", "tcp_sock", "reordering"),
    ("SOCKETS_REORD_SEEN", "tcp_sock", "reord_seen"),
    ("SOCKETS_RCV_OOOPACK", "tcp_sock", "rcv_ooopack"),
    ("SOCKETS_DSACK_DUPS", "tcp_sock", "dsack_dups"),
    ("SOCKETS_CONN", CONTEXT, "conn"),
];

/// Of `struct mptcp_sock`.
const DATA: [(&str, &str); 5] = [
    ("SOCKETS_DATA_SENT", "bytes_sent"),
    ("SOCKETS_DATA_ACKED", "bytes_acked"),
    ("SOCKETS_DATA_RECEIVED", "bytes_received"),
    ("SOCKETS_DATA_RETRANS", "bytes_retrans"),
    ("SOCKETS_CONN_FLAGS", "flags"),
];
