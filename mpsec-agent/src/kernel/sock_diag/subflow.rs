//! What the kernel tells of a TCP socket's part in MPTCP.

use crate::kernel::netlink::attributes;

/// Flags of a subflow (`MPTCP_SUBFLOW_FLAG_*`, include/uapi/linux/mptcp.h, Linux 6.18), known and unknown ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubflowFlags(pub u32);

impl SubflowFlags {
    /// The peer spoke MP_CAPABLE.
    pub const CAPABLE_REMOTE: SubflowFlags = SubflowFlags(1);
    /// This host asked with MP_CAPABLE.
    pub const CAPABLE_LOCAL: SubflowFlags = SubflowFlags(1 << 1);
    /// The peer spoke MP_JOIN.
    pub const JOIN_REMOTE: SubflowFlags = SubflowFlags(1 << 2);
    /// This host asked with MP_JOIN.
    pub const JOIN_LOCAL: SubflowFlags = SubflowFlags(1 << 3);
    /// The peer wants it as a backup.
    pub const BACKUP_REMOTE: SubflowFlags = SubflowFlags(1 << 4);
    /// This host wants it as a backup.
    pub const BACKUP_LOCAL: SubflowFlags = SubflowFlags(1 << 5);
    /// Fully established (RFC 8684 section 3.1).
    pub const FULLY_ESTABLISHED: SubflowFlags = SubflowFlags(1 << 6);
    /// Connected.
    pub const CONNECTED: SubflowFlags = SubflowFlags(1 << 7);
    /// There is a valid mapping of data.
    pub const MAP_VALID: SubflowFlags = SubflowFlags(1 << 8);

    /// Whether any of `other` is among them.
    pub const fn any(self, other: SubflowFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it joined by MP_JOIN.
    pub const fn joined(self) -> bool {
        self.any(SubflowFlags(Self::JOIN_REMOTE.0 | Self::JOIN_LOCAL.0))
    }

    /// Whether either end wants it as a backup.
    pub const fn backup(self) -> bool {
        self.any(SubflowFlags(Self::BACKUP_REMOTE.0 | Self::BACKUP_LOCAL.0))
    }
}

/// A subflow (`MPTCP_SUBFLOW_ATTR_*`, subflow_get_info in net/mptcp/diag.c, Linux 6.18). Without CAP_NET_ADMIN newer kernels
/// tell less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubflowInfo {
    /// The peer's token; 0 of a subflow that was not made by this host's MP_JOIN.
    pub token_remote: Option<u32>,
    /// Local token of the connection.
    pub token_local: Option<u32>,
    /// Sequence number in the subflow of the next mapping, relative to the subflow's first.
    pub relative_write_seq: Option<u32>,
    /// Sequence number of the mapping in the connection.
    pub map_seq: Option<u64>,
    /// Sequence number of the mapping in the subflow.
    pub map_subflow_seq: Option<u32>,
    /// Initial sequence number of the subflow.
    pub ssn_offset: Option<u32>,
    /// Length of the mapping in bytes.
    pub map_data_len: Option<u16>,
    /// Flags.
    pub flags: Option<SubflowFlags>,
    /// Remote address identifier.
    pub id_remote: Option<u8>,
    /// Local address identifier.
    pub id_local: Option<u8>,
}

impl SubflowInfo {
    /// What the attributes tell; what they do not, or not in the right length, is absent.
    pub fn decode(bytes: &[u8]) -> SubflowInfo {
        let mut info = SubflowInfo::default();
        for (kind, value) in attributes(bytes) {
            match kind {
                1 => info.token_remote = value.try_into().ok().map(u32::from_ne_bytes),
                2 => info.token_local = value.try_into().ok().map(u32::from_ne_bytes),
                3 => info.relative_write_seq = value.try_into().ok().map(u32::from_ne_bytes),
                4 => info.map_seq = value.try_into().ok().map(u64::from_ne_bytes),
                5 => info.map_subflow_seq = value.try_into().ok().map(u32::from_ne_bytes),
                6 => info.ssn_offset = value.try_into().ok().map(u32::from_ne_bytes),
                7 => info.map_data_len = value.try_into().ok().map(u16::from_ne_bytes),
                8 => info.flags = value.try_into().ok().map(u32::from_ne_bytes).map(SubflowFlags),
                9 => info.id_remote = value.first().copied(),
                10 => info.id_local = value.first().copied(),
                _ => {}
            }
        }
        info
    }
}
