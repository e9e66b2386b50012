//! Which of the kernel's counters tell of which cause.

use crate::metrics::{Sample, Value};
use crate::snapshot::Snapshot;

/// Causes of a fallback, and the counters of `MPTcpExt` that count them (`__mptcp_try_fallback`, net/mptcp/protocol.c, Linux
/// 6.17). Not here, because what they count is counted by one of these already: `Blackhole` (among the SYNs that were
/// dropped, `mptcp_active_disable`) and `InfiniteMapRx` (a mapping that makes this end fall back).
pub(super) const FALLBACKS: &[(&str, &[&str])] = &[
    ("no_mp_capable_in_ack", &["MPCapableFallbackACK"]),
    ("no_mp_capable_in_syn_ack", &["MPCapableFallbackSYNACK"]),
    ("syn_dropped", &["MPCapableSYNTXDrop"]),
    ("blackhole", &["MPCapableSYNTXDisabled"]),
    ("no_token", &["MPFallbackTokenInit"]),
    ("first_data", &["MPCapableDataFallback"]),
    ("mapping", &["DssFallback"]),
    ("corruption", &["DSSCorruptionFallback"]),
    ("checksum", &["InfiniteMapTx"]),
    ("md5_signature", &["MD5SigFallback"]),
    ("tcp_ao", &["TCPAOFallback"]),
    ("simultaneous_connect", &["SimultConnectFallback"]),
];

/// The same of subflows that did not join.
pub(super) const JOIN_FAILURES: &[(&str, &[&str])] = &[
    ("token", &["MPJoinNoTokenFound"]),
    ("address_id", &["MPJoinNoIdFound"]),
    ("hmac", &["MPJoinSynAckHMacFailure", "MPJoinAckHMacFailure"]),
    ("rejected", &["MPJoinRejected"]),
    ("not_established", &["MPJoinNotEstablished"]),
    ("no_mp_join", &["MPJoinSynAckNoMPJoin", "MPJoinAckNoMPJoin"]),
    ("unknown_ack", &["MPJoinAckNoCtx"]),
    ("port", &["MismatchPortSynRx", "MismatchPortAckRx"]),
    ("create_socket", &["MPJoinSynTxCreatSkErr"]),
    ("bind", &["MPJoinSynTxBindErr"]),
    ("connect", &["MPJoinSynTxConnectErr"]),
];

/// Kinds of reordering, and the counter of `TcpExt` for each (net/ipv4/proc.c).
pub(super) const REORDERING: &[(&str, &str)] = &[
    ("detected_by_sack", "TCPSACKReorder"),
    ("detected_by_timestamp", "TCPTSReorder"),
    ("detected_by_reno", "TCPRenoReorder"),
    ("out_of_order", "TCPOFOQueue"),
    ("out_of_order_merged", "TCPOFOMerge"),
    ("out_of_order_dropped", "TCPOFODrop"),
    ("dsack_sent_old", "TCPDSACKOldSent"),
    ("dsack_sent_out_of_order", "TCPDSACKOfoSent"),
    ("dsack_received", "TCPDSACKRecv"),
    ("dsack_received_out_of_order", "TCPDSACKOfoRecv"),
    ("still_queued", "TCPSpuriousRtxHostQueues"),
];

/// The sum of each cause's counters; a cause that this kernel counts by none of them is absent.
pub(super) fn causes<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, causes: &[(&'static str, &[&str])]) {
    for namespace in &snapshot.namespaces {
        for (cause, names) in causes {
            let counts = namespace.mib.iter().filter(|(name, _)| names.contains(&name.as_str()));
            if let Some(sum) = counts.map(|(_, count)| *count).reduce(|a, b| a + b) {
                sample(&[&namespace.netns, cause], Value::Integer(sum));
            }
        }
    }
}
