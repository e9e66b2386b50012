//! Every counter of `MPTcpExt` in /proc/net/netstat (net/mptcp/mib.c), from Linux 6.1 to 7.3 and the one that follows.
//!
//! A counter that this kernel lacks is absent. One that is younger than these tables is published by its kernel name.

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::Snapshot;

/// Counters that tell of the same thing.
pub struct Group {
    /// What they tell of.
    pub title: &'static str,
    /// The same in a sentence.
    pub about: &'static str,
    /// One row a counter.
    pub metrics: &'static [Metric],
    /// The kernel's name of each.
    pub names: &'static [&'static str],
}

/// All counters that are known.
pub const GROUPS: [Group; 7] = [HANDSHAKE, FALLBACK, JOIN, JOIN_FAILURE, DATA, ADDRESS, CONTROL];

/// All counters that are not.
pub const OTHER: &[Metric] = &[Metric {
    name: "mpsec_mptcp_mib_other",
    help: "Counters of MPTcpExt in /proc/net/netstat that are younger than this agent, by the kernel's name. The kernel may \
           count one of them down again.",
    kind: Kind::Counter,
    unit: Unit::None,
    labels: &["netns", "name"],
    samples: |snapshot, sample| {
        for namespace in &snapshot.namespaces {
            for (name, value) in &namespace.mib {
                if !is_known(name) {
                    sample(&[&namespace.netns, name], Value::Integer(*value));
                }
            }
        }
    },
}];

fn is_known(name: &str) -> bool {
    GROUPS.iter().any(|group| group.names.contains(&name))
}

/// One sample for each namespace whose kernel has the counter.
fn one<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, name: &str) {
    for namespace in &snapshot.namespaces {
        if let Some((_, value)) = namespace.mib.iter().find(|(of, _)| of == name) {
            sample(&[&namespace.netns], Value::Integer(*value));
        }
    }
}

macro_rules! group {
    ($group:ident $title:literal $about:literal: $($kind:ident $metric:literal $name:literal $help:literal)*) => {
        const $group: Group = Group {
            title: $title,
            about: $about,
            metrics: &[$(Metric {
                name: concat!("mpsec_mptcp_mib_", $metric),
                help: concat!($help, " (", $name, ")."),
                kind: Kind::$kind,
                unit: Unit::None,
                labels: &["netns"],
                samples: |snapshot, sample| one(snapshot, sample, $name),
            }),*],
            names: &[$($name),*],
        };
    };
}

group! { HANDSHAKE "MP_CAPABLE" "Connections as they begin.":
    Counter "mp_capable_syn_rx" "MPCapableSYNRX"
        "SYNs with MP_CAPABLE that came in"
    Counter "mp_capable_syn_tx" "MPCapableSYNTX"
        "SYNs with MP_CAPABLE that were sent"
    Counter "mp_capable_syn_ack_rx" "MPCapableSYNACKRX"
        "SYN/ACKs with MP_CAPABLE that came in: the peer speaks MPTCP"
    Counter "mp_capable_ack_rx" "MPCapableACKRX"
        "Third ACKs with MP_CAPABLE that came in: a server's connection is MPTCP from then on"
    Counter "mp_capable_syn_tx_disabled" "MPCapableSYNTXDisabled"
        "Connections that were made as plain TCP from the start, because a blackhole for MPTCP had been found before"
    Counter "mp_capable_endp_attempt" "MPCapableEndpAttempt"
        "Connections refused because they began at an endpoint's own port, which is for joins alone"
    Counter "blackhole" "Blackhole"
        "How often a blackhole was found: SYNs got an answer only after MP_CAPABLE was left out of them"
    Gauge "mp_curr_estab" "MPCurrEstab"
        "MPTCP connections that are established now. The kernel counts this one up and down"
}

group! { FALLBACK "Fallback" "Connections that became plain TCP, or could not.":
    Counter "mp_capable_fallback_ack" "MPCapableFallbackACK"
        "A server's connections that became plain TCP because the third ACK or the first data came without MPTCP"
    Counter "mp_capable_fallback_syn_ack" "MPCapableFallbackSYNACK"
        "A client's connections that became plain TCP because the SYN/ACK came without MP_CAPABLE"
    Counter "mp_capable_syn_tx_drop" "MPCapableSYNTXDrop"
        "A client's connections that became plain TCP because SYNs with MP_CAPABLE got no answer"
    Counter "mp_fallback_token_init" "MPFallbackTokenInit"
        "Connections that became plain TCP because no token could be made for them"
    Counter "mp_capable_data_fallback" "MPCapableDataFallback"
        "Connections that became plain TCP because their first data came without a mapping"
    Counter "md5_sig_fallback" "MD5SigFallback"
        "Connections that became plain TCP because TCP-MD5 signatures leave no room for MPTCP's options"
    Counter "tcp_ao_fallback" "TCPAOFallback"
        "Connections that became plain TCP because TCP-AO leaves no room for MPTCP's options"
    Counter "dss_fallback" "DssFallback"
        "Connections that became plain TCP because a mapping was bad or missing"
    Counter "dss_corruption_fallback" "DSSCorruptionFallback"
        "Connections that became plain TCP because the stream and its mapping disagreed, as a middlebox leaves them"
    Counter "simult_connect_fallback" "SimultConnectFallback"
        "Connections that became plain TCP because both ends opened them at the same time"
    Counter "fallback_failed" "FallbackFailed"
        "Fallbacks that were no longer possible, so that the subflow was reset"
    Counter "infinite_map_tx" "InfiniteMapTx"
        "Infinite mappings sent, which tell the peer that this end falls back"
    Counter "infinite_map_rx" "InfiniteMapRx"
        "Infinite mappings that came in: the peer falls back"
}

group! { JOIN "MP_JOIN" "Subflows as they join.":
    Counter "mp_join_syn_tx" "MPJoinSynTx"
        "SYNs with MP_JOIN that were sent"
    Counter "mp_join_syn_rx" "MPJoinSynRx"
        "SYNs with MP_JOIN that came in"
    Counter "mp_join_syn_backup_rx" "MPJoinSynBackupRx"
        "SYNs with MP_JOIN that came in and ask for a backup subflow"
    Counter "mp_join_syn_ack_rx" "MPJoinSynAckRx"
        "SYN/ACKs with MP_JOIN that came in"
    Counter "mp_join_syn_ack_backup_rx" "MPJoinSynAckBackupRx"
        "SYN/ACKs with MP_JOIN that came in and ask for a backup subflow"
    Counter "mp_join_ack_rx" "MPJoinAckRx"
        "Third ACKs with MP_JOIN that came in: a subflow has joined"
    Counter "mp_join_port_syn_rx" "MPJoinPortSynRx"
        "SYNs with MP_JOIN that came to an endpoint's own port"
    Counter "mp_join_port_syn_ack_rx" "MPJoinPortSynAckRx"
        "SYN/ACKs with MP_JOIN that came from a port which the peer announced"
    Counter "mp_join_port_ack_rx" "MPJoinPortAckRx"
        "Third ACKs with MP_JOIN that came to an endpoint's own port"
}

group! { JOIN_FAILURE "MP_JOIN failures" "Subflows that did not join.":
    Counter "mp_join_no_token_found" "MPJoinNoTokenFound"
        "Joins refused because no connection here has the token that they name"
    Counter "mp_join_no_id_found" "MPJoinNoIdFound"
        "Joins refused because the address that they came to has no identifier here"
    Counter "mp_join_syn_ack_hmac_failure" "MPJoinSynAckHMacFailure"
        "SYN/ACKs with MP_JOIN whose HMAC was wrong"
    Counter "mp_join_syn_ack_no_mp_join" "MPJoinSynAckNoMPJoin"
        "Joins given up because the SYN/ACK came without MP_JOIN"
    Counter "mp_join_ack_hmac_failure" "MPJoinAckHMacFailure"
        "Third ACKs with MP_JOIN whose HMAC was wrong"
    Counter "mp_join_ack_no_mp_join" "MPJoinAckNoMPJoin"
        "Joins reset because the third ACK came without MP_JOIN"
    Counter "mp_join_ack_no_ctx" "MPJoinAckNoCtx"
        "Joins reset because nothing was known of them when the third ACK came"
    Counter "mp_join_rejected" "MPJoinRejected"
        "Joins that the path manager turned away, most often because its limit of subflows was reached"
    Counter "mp_join_not_established" "MPJoinNotEstablished"
        "Joins reset because their connection was not fully established yet"
    Counter "mp_join_syn_tx_creat_sk_err" "MPJoinSynTxCreatSkErr"
        "Joins that failed here because no socket could be made"
    Counter "mp_join_syn_tx_bind_err" "MPJoinSynTxBindErr"
        "Joins that failed here because the local address could not be bound"
    Counter "mp_join_syn_tx_connect_err" "MPJoinSynTxConnectErr"
        "Joins that failed here as they connected, for example for want of a route"
    Counter "mismatch_port_syn_rx" "MismatchPortSynRx"
        "SYNs with MP_JOIN refused because they came to a port that no endpoint announced"
    Counter "mismatch_port_ack_rx" "MismatchPortAckRx"
        "Third ACKs with MP_JOIN refused because they came to a port that no endpoint announced"
}

group! { DATA "Data and order" "What happens to data on its way.":
    Counter "mptcp_retrans" "MPTCPRetrans"
        "Segments sent again by MPTCP, mostly on another subflow than at first"
    Counter "ofo_queue_tail" "OFOQueueTail"
        "Segments out of order between subflows that went to the end of the queue, which is the quick case"
    Counter "ofo_queue" "OFOQueue"
        "Segments out of order between subflows that were queued"
    Counter "ofo_merge" "OFOMerge"
        "Segments out of order between subflows that were merged with a neighbour in the queue"
    Counter "ofo_pruned" "OFOPruned"
        "How often queued segments were thrown away for want of memory"
    Counter "no_dss_in_window" "NoDSSInWindow"
        "Segments thrown away because they were outside of the receive window"
    Counter "duplicate_data" "DuplicateData"
        "Segments thrown away because their data was there already"
    Counter "dss_not_matching" "DSSNotMatching"
        "New mappings that contradicted the one in force"
    Counter "dss_no_match_tcp" "DSSNoMatchTCP"
        "Mappings that did not fit the subflow's sequence numbers"
    Counter "dss_corruption_reset" "DSSCorruptionReset"
        "Joined subflows reset because the stream and its mapping disagreed"
    Counter "dss_reset" "DssReset"
        "Subflows reset because of a bad mapping"
    Counter "data_csum_err" "DataCsumErr"
        "Mappings whose checksum was wrong: something on the way changed the data"
    Counter "rcv_pruned" "RcvPruned"
        "Segments thrown away on arrival for want of memory"
    Counter "backlog_drop" "BacklogDrop"
        "Segments thrown away because the connection's backlog was full"
}

group! { ADDRESS "Addresses" "Addresses announced and withdrawn.":
    Counter "add_addr" "AddAddr"
        "ADD_ADDR that came in: the peer announces an address"
    Counter "add_addr_tx" "AddAddrTx"
        "ADD_ADDR that were sent"
    Counter "add_addr_tx_drop" "AddAddrTxDrop"
        "ADD_ADDR that could not be sent for want of room"
    Counter "add_addr_drop" "AddAddrDrop"
        "ADD_ADDR that came in and were thrown away"
    Counter "port_add" "PortAdd"
        "ADD_ADDR that came in with a port"
    Counter "echo_add" "EchoAdd"
        "Echoes of ADD_ADDR that came in: the peer has got the address"
    Counter "echo_add_tx" "EchoAddTx"
        "Echoes of ADD_ADDR that were sent"
    Counter "echo_add_tx_drop" "EchoAddTxDrop"
        "Echoes of ADD_ADDR that could not be sent for want of room"
    Counter "rm_addr" "RmAddr"
        "RM_ADDR that came in: the peer withdraws an address"
    Counter "rm_addr_drop" "RmAddrDrop"
        "RM_ADDR that came in and were thrown away"
    Counter "rm_addr_tx" "RmAddrTx"
        "RM_ADDR that were sent"
    Counter "rm_addr_tx_drop" "RmAddrTxDrop"
        "RM_ADDR that could not be sent for want of room"
    Counter "rm_subflow" "RmSubflow"
        "Subflows closed because their address was withdrawn"
}

group! { CONTROL "Priorities, resets, windows" "How subflows are steered and ended.":
    Counter "mp_prio_tx" "MPPrioTx"
        "MP_PRIO that were sent: a subflow becomes backup, or is none any more"
    Counter "mp_prio_rx" "MPPrioRx"
        "MP_PRIO that came in"
    Counter "mp_fail_tx" "MPFailTx"
        "MP_FAIL that were sent: a checksum was wrong"
    Counter "mp_fail_rx" "MPFailRx"
        "MP_FAIL that came in: the peer found a checksum wrong"
    Counter "mp_fastclose_tx" "MPFastcloseTx"
        "MP_FASTCLOSE that were sent: a connection was cut off"
    Counter "mp_fastclose_rx" "MPFastcloseRx"
        "MP_FASTCLOSE that came in"
    Counter "mp_rst_tx" "MPRstTx"
        "Resets of a single subflow that were sent"
    Counter "mp_rst_rx" "MPRstRx"
        "Resets of a single subflow that came in"
    Counter "md5_sig_reset" "MD5SigReset"
        "Subflows reset because the listener asks for TCP-MD5 signatures"
    Counter "subflow_stale" "SubflowStale"
        "How often a subflow was set aside because it made no progress while others did"
    Counter "subflow_recover" "SubflowRecover"
        "How often a subflow that was set aside came back"
    Counter "snd_wnd_shared" "SndWndShared"
        "How often the window of the whole connection let a subflow send more than its own would have"
    Counter "rcv_wnd_shared" "RcvWndShared"
        "How often a subflow announced the receive window of the whole connection in place of its own"
    Counter "rcv_wnd_conflict_update" "RcvWndConflictUpdate"
        "How often a subflow took over the receive window that another one had announced at the same time"
    Counter "rcv_wnd_conflict" "RcvWndConflict"
        "How often two subflows announced a receive window at the same time"
    Counter "win_probe" "WinProbe"
        "Probes of a closed window by MPTCP"
}

#[cfg(test)]
mod tests;
