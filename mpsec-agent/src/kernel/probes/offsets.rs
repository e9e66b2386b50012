//! Where the kernel keeps what the probes look at.

use super::super::btf::{BtfError, KernelBtf, Member};
use super::ARGUMENT_REGISTERS;

/// A member as the kernel side wants it: its offset in bytes, and its bits in the byte there, 0 for all.
type Place = [u32; 2];
/// No such member.
const ABSENT: Place = [u32::MAX, 0];

/// Global, structure and member.
type Row = (&'static str, &'static str, &'static str);

/// Members without which no probe can tell a subflow from another socket.
const NEEDED: &[Row] = &[
    ("SOCK_FAMILY", "sock_common", "skc_family"),
    ("SOCK_STATE", "sock_common", "skc_state"),
    ("SOCK_SPORT", "inet_sock", "inet_sport"),
    ("SOCK_DPORT", "sock_common", "skc_dport"),
    ("SOCK_RCV_SADDR", "sock_common", "skc_rcv_saddr"),
    ("SOCK_DADDR", "sock_common", "skc_daddr"),
    ("SOCK_NET", "sock_common", "skc_net.net"),
    ("NET_COOKIE", "net", "net_cookie"),
];
/// Members without which a part of what they tell is missing.
const OPTIONAL: &[Row] = &[
    ("SOCK_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr"),
    ("SOCK_V6_DADDR", "sock_common", "skc_v6_daddr"),
    ("SOCK_ERROR", "sock", "sk_err"),
    ("TCP_CA_STATE", "inet_connection_sock", "icsk_ca_state"),
    ("SKB_HEAD", "sk_buff", "head"),
    ("SKB_TRANSPORT", "sk_buff", "transport_header"),
    ("SUBFLOW_FULLY_ESTABLISHED", "mptcp_subflow_context", "fully_established"),
    ("SUBFLOW_RESET_SEEN", "mptcp_subflow_context", "reset_seen"),
    ("SUBFLOW_RESET_REASON", "mptcp_subflow_context", "reset_reason"),
    ("SUBFLOW_CONNECTION", "mptcp_subflow_context", "conn"),
    ("MPTCP_RTX_QUEUE", "mptcp_sock", "rtx_queue"),
];

/// Members of kernel structures, as the kernel side's globals.
pub struct Offsets {
    places: Vec<(&'static str, Place)>,
    retransmit_tells_error: u32,
    reset_tells_reason: u32,
}

impl Offsets {
    /// Looks them up.
    ///
    /// # Errors
    /// The first member without which there can be no probes.
    pub fn resolve(btf: &KernelBtf) -> Result<Offsets, BtfError> {
        let place =
            |(global, structure, path): &Row| Ok::<_, BtfError>((*global, as_place(btf.offset_of(structure, path)?)));
        let mut places = NEEDED.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        places.extend(OPTIONAL.iter().map(|row| place(row).unwrap_or((row.0, ABSENT))));
        places.push(("SKB_TCP_SEGMENTS", segments(btf).unwrap_or(ABSENT)));
        // The context that all tracepoints are given comes first in these prototypes.
        let arguments = |tracepoint: &str| btf.parameters_of(&format!("btf_trace_{tracepoint}")).unwrap_or(0);
        Ok(Offsets {
            places,
            retransmit_tells_error: u32::from(arguments("tcp_retransmit_skb") > 3),
            reset_tells_reason: u32::from(arguments("tcp_send_reset") > 3),
        })
    }

    /// Name and value of each member's global.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &Place)> {
        self.places.iter().map(|(name, place)| (*name, place))
    }

    /// Name and value of each switch.
    pub fn switches(&self) -> [(&'static str, &u32); 2] {
        [("RETRANSMIT_TELLS_ERROR", &self.retransmit_tells_error), ("RESET_TELLS_REASON", &self.reset_tells_reason)]
    }

    /// Name and value of the registers.
    pub const fn registers() -> (&'static str, &'static [u32; 4]) {
        ("ARGUMENT_REGISTERS", &ARGUMENT_REGISTERS)
    }
}

/// TCP's own data of a packet lies in a space that `sk_buff` has for whoever owns it (TCP_SKB_CB, include/net/tcp.h).
fn segments(btf: &KernelBtf) -> Result<Place, BtfError> {
    let space = btf.offset_of("sk_buff", "cb")?;
    let within = btf.offset_of("tcp_skb_cb", "tcp_gso_segs")?;
    Ok([space.byte_offset() + within.byte_offset(), 0])
}

fn as_place(member: Member) -> Place {
    let mask = if member.bitfield { ((1 << member.bit_size.min(8)) - 1) << member.bit_shift() } else { 0 };
    [member.byte_offset(), mask]
}
