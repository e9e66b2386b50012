//! What the kernel tells of an MPTCP connection.

use super::fields::fields;
use crate::snapshot::mptcp::DataBytes;

const FLAG_FALLBACK: u32 = 1;
const FLAG_REMOTE_KEY_RECEIVED: u32 = 2;

fields! {
    /// `struct mptcp_info` (include/uapi/linux/mptcp.h, Linux 7.3): 48 bytes up to Linux 6.4, 80 from 6.5, 88 from 6.8 and 96
    /// from 6.10 on. Integers lie in host order. What newer headers call otherwise is said with the field.
    MptcpInfo {
        /// Subflows beside the first one (`extra_subflows`).
        subflows: u8 = 0;
        /// Addresses that were announced to the peer.
        add_addr_signal: u8 = 1;
        /// Addresses of the peer that were accepted.
        add_addr_accepted: u8 = 2;
        /// Limit of `subflows` (`limit_extra_subflows`).
        subflows_max: u8 = 3;
        /// Endpoints with the flag signal (`endp_signal_max`).
        add_addr_signal_max: u8 = 4;
        /// Limit of `add_addr_accepted` (`limit_add_addr_accepted`).
        add_addr_accepted_max: u8 = 5;
        /// Flags: 1 fell back to TCP, 2 has the remote key.
        flags: u32 = 8;
        /// Local token.
        token: u32 = 12;
        /// Sequence number of the next byte to be written.
        write_seq: u64 = 16;
        /// Sequence number of the first byte that is not acknowledged.
        snd_una: u64 = 24;
        /// Sequence number of the next byte that is expected.
        rcv_nxt: u64 = 32;
        /// Local addresses that are in use for subflows.
        local_addr_used: u8 = 40;
        /// Endpoints with the flag subflow (`endp_subflow_max`).
        local_addr_max: u8 = 41;
        /// Whether checksums are used (RFC 8684 section 3.3).
        csum_enabled: u8 = 42;
        /// Retransmissions at the MPTCP level, from Linux 6.5 on.
        retransmits: u32 = 44, since 80;
        /// Payload bytes that they sent again.
        bytes_retrans: u64 = 48;
        /// Payload bytes sent, each once.
        bytes_sent: u64 = 56;
        /// Payload bytes received in order.
        bytes_received: u64 = 64;
        /// Payload bytes that the peer's MPTCP acknowledged.
        bytes_acked: u64 = 72;
        /// Subflows with the first one, as long as that is there; from Linux 6.8 on.
        subflows_total: u8 = 80;
        /// Endpoints with the flag laminar, from Linux 6.18 on. Before, from 6.8 on, this is a reserved byte of value 0, which
        /// nothing tells from 0 endpoints.
        endp_laminar_max: u8 = 81;
        /// Endpoints with the flag fullmesh, from Linux 7.0 on; before, likewise reserved.
        endp_fullmesh_max: u8 = 82;
        /// Milliseconds since data was sent, from Linux 6.10 on.
        last_data_sent: u32 = 84, since 96;
        /// Milliseconds since data was received.
        last_data_recv: u32 = 88;
        /// Milliseconds since an acknowledgement was received.
        last_ack_recv: u32 = 92;
    }
}

impl MptcpInfo<'_> {
    /// Whether the connection fell back to TCP.
    pub fn fell_back(&self) -> Option<bool> {
        self.flags().map(|flags| flags & FLAG_FALLBACK != 0)
    }

    /// Whether the peer's key was received.
    pub fn remote_key_received(&self) -> Option<bool> {
        self.flags().map(|flags| flags & FLAG_REMOTE_KEY_RECEIVED != 0)
    }

    /// Byte counts as a snapshot shows them; `None` before Linux 6.5.
    pub fn data_bytes(&self) -> Option<DataBytes> {
        Some(DataBytes {
            sent_bytes: self.bytes_sent()?,
            acked_bytes: self.bytes_acked()?,
            received_bytes: self.bytes_received()?,
            retransmitted_bytes: self.bytes_retrans()?,
        })
    }
}
