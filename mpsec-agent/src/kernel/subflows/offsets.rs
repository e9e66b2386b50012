//! Where the kernel keeps what it knows of a subflow.

use super::super::btf::{BtfError, KernelBtf};

/// A member as the kernel side wants it: its offset in bytes, and its bits in the byte there, 0 for all.
type Place = [u32; 2];
/// No such member.
const ABSENT: Place = [u32::MAX, 0];

/// Members of `struct tcp_sock` and `struct mptcp_subflow_context` (net/mptcp/protocol.h), as the kernel side's globals.
pub struct Offsets(Vec<(&'static str, Place)>);

impl Offsets {
    /// Looks them up.
    ///
    /// # Errors
    /// The first member without which subflows cannot be told.
    pub fn resolve(btf: &KernelBtf) -> Result<Offsets, BtfError> {
        let place = |structure: &str, paths: &[&str]| {
            let member = btf.resolve_first(structure, paths)?;
            let mask = if member.bitfield { ((1 << member.bit_size.min(8)) - 1) << member.bit_shift() } else { 0 };
            Ok::<Place, BtfError>([member.byte_offset(), mask])
        };
        const CONTEXT: &str = "mptcp_subflow_context";
        let mut places = vec![
            ("TCP_IS_MPTCP", place("tcp_sock", &["is_mptcp"])?),
            ("TCP_ULP_DATA", place("inet_connection_sock", &["icsk_ulp_data"])?),
            ("SUBFLOW_TOKEN", place(CONTEXT, &["token"])?),
            ("SUBFLOW_MP_CAPABLE", place(CONTEXT, &["mp_capable"])?),
            ("SUBFLOW_MP_JOIN", place(CONTEXT, &["mp_join"])?),
            ("SUBFLOW_REQUEST_JOIN", place(CONTEXT, &["request_join"])?),
        ];
        let optional: [(&str, &str, &[&str]); 7] = [
            ("TCP_BYTES_SENT", "tcp_sock", &["bytes_sent"]),
            ("TCP_BYTES_RETRANS", "tcp_sock", &["bytes_retrans"]),
            ("SOCK_RX_IFINDEX", "sock", &["sk_rx_dst_ifindex"]),
            ("SUBFLOW_LOCAL_ID", CONTEXT, &["local_id"]),
            ("SUBFLOW_REMOTE_ID", CONTEXT, &["remote_id"]),
            ("SUBFLOW_BACKUP", CONTEXT, &["backup"]),
            ("SUBFLOW_REQUEST_BACKUP", CONTEXT, &["request_bkup"]),
        ];
        for (global, structure, paths) in optional {
            places.push((global, place(structure, paths).unwrap_or(ABSENT)));
        }
        Ok(Offsets(places))
    }

    /// Name and value of each global.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &Place)> {
        self.0.iter().map(|(name, place)| (*name, place))
    }
}
