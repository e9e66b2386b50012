//! MPTCP as a whole: connections, what fails and why, and how the kernel is set.

use std::collections::BTreeMap;

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::{Namespace, TcpState};

/// Metrics of MPTCP in each namespace.
pub const MPTCP: &[Metric] = &[
    Metric {
        name: "mpsec_mptcp_connections",
        help: "MPTCP connections by the state of the MPTCP-level socket; fallback is yes for those that are plain TCP by now.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "state", "fallback"],
        samples: connections,
    },
    total(
        "mpsec_mptcp_connections_opened",
        "Connections that were established since the agent started.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.connections_opened.into())),
    ),
    total("mpsec_mptcp_connections_closed", "Connections that ended since the agent started.", |snapshot, sample| {
        each(snapshot, sample, |namespace| Some(namespace.totals.connections_closed.into()));
    }),
    total(
        "mpsec_mptcp_subflows_opened",
        "Subflows that were established since the agent started, on all paths.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_opened.into())),
    ),
    total(
        "mpsec_mptcp_subflows_closed",
        "Subflows that ended since the agent started, on all paths.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_closed.into())),
    ),
    total(
        "mpsec_mptcp_subflows_lost",
        "Subflows that found no room in the kernel's table: neither they nor their bytes are counted.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_lost.into())),
    ),
    total(
        "mpsec_mptcp_handshakes_lost",
        "Subflows whose first packets came by before there was a record of them, and are missing from its counts.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.handshakes_lost.into())),
    ),
    total(
        "mpsec_mptcp_paths_folded",
        "Paths that found no room of their own and are counted as path _other.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.paths_folded.into())),
    ),
    gauge(
        "mpsec_mptcp_subflow_table_entries",
        "Entries of the kernel's table of subflows that are in use.",
        |snapshot, sample| {
            each(snapshot, sample, |namespace| {
                (namespace.totals.table_capacity > 0).then_some(namespace.totals.table_used.into())
            });
        },
    ),
    gauge(
        "mpsec_mptcp_subflow_table_capacity",
        "Entries that the kernel's table of subflows has room for.",
        |snapshot, sample| {
            each(snapshot, sample, |namespace| {
                (namespace.totals.table_capacity > 0).then_some(namespace.totals.table_capacity.into())
            });
        },
    ),
    Metric {
        name: "mpsec_mptcp_fallbacks",
        help: "Connections that are plain TCP although MPTCP was asked for, by cause: no_mp_capable_in_ack and \
               no_mp_capable_in_syn_ack (the peer, or something on the way, does without), syn_dropped (SYNs with \
               MP_CAPABLE got no answer), blackhole (not tried because of that), first_data, mapping, corruption, \
               md5_signature, tcp_ao, simultaneous_connect, no_token.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "cause"],
        samples: |snapshot, sample| causes(snapshot, sample, FALLBACKS),
    },
    Metric {
        name: "mpsec_mptcp_join_failures",
        help: "Subflows that did not join, by cause: token, address_id, hmac, rejected (by the path manager, often its limit), \
               not_established, no_mp_join (stripped on the way), unknown_ack, port, and in this host create_socket, bind, \
               connect.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "cause"],
        samples: |snapshot, sample| causes(snapshot, sample, JOIN_FAILURES),
    },
    gauge(
        "mpsec_mptcp_blackhole",
        "1 while new connections are made as plain TCP because an earlier one's MP_CAPABLE got no answer \
         (net.mptcp.blackhole_timeout).",
        |snapshot, sample| each(snapshot, sample, |namespace| namespace.blackhole.map(u64::from)),
    ),
    Metric {
        name: "mpsec_mptcp_findings",
        help: "What mpsec status finds wrong with MPTCP, by kind.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "kind"],
        samples: |snapshot, sample| {
            counted(snapshot, sample, |namespace| {
                Box::new(namespace.findings.iter().map(|finding| finding.kind.as_str()))
            });
        },
    },
    Metric {
        name: "mpsec_tcp_reordering",
        help: "Signs of reordering in all of TCP, by kind: detected_by_sack, detected_by_timestamp, detected_by_reno (the \
               sender saw that segments overtook one another), out_of_order (queued by the receiver), \
               out_of_order_merged, dsack_sent_old, dsack_sent_out_of_order, dsack_received, dsack_received_out_of_order \
               (something was sent for nothing), or the kernel's name.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "kind"],
        samples: |snapshot, sample| {
            for namespace in &snapshot.namespaces {
                for (name, value) in &namespace.tcp_mib {
                    let kind = REORDERING.iter().find(|(_, of)| of == name).map_or(name.as_str(), |(kind, _)| kind);
                    sample(&[&namespace.netns, kind], Value::Integer(*value));
                }
            }
        },
    },
    Metric {
        name: "mpsec_mptcp_endpoints",
        help: "Endpoints of the in-kernel path manager that have a flag (signal, subflow, backup, fullmesh, implicit, \
               laminar); none for those without any. One with two flags counts under both.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "flag"],
        samples: |snapshot, sample| {
            counted(snapshot, sample, |namespace| {
                Box::new(namespace.endpoints.iter().flat_map(|endpoint| match endpoint.flags.as_slice() {
                    [] => vec!["none"],
                    flags => flags.iter().map(String::as_str).collect(),
                }))
            });
        },
    },
    gauge(
        "mpsec_mptcp_limit_subflows",
        "Subflows that the in-kernel path manager lets a connection have beside its first one.",
        |snapshot, sample| each(snapshot, sample, |namespace| namespace.limits.map(|limits| limits.subflows.into())),
    ),
    gauge(
        "mpsec_mptcp_limit_add_addr_accepted",
        "Addresses that the in-kernel path manager takes from a connection's peer.",
        |snapshot, sample| {
            each(snapshot, sample, |namespace| namespace.limits.map(|limits| limits.add_addr_accepted.into()));
        },
    ),
    gauge(
        "mpsec_mptcp_enabled",
        "1 if the namespace lets programs use MPTCP (net.mptcp.enabled).",
        |snapshot, sample| each(snapshot, sample, |namespace| setting(namespace, "enabled").parse().ok()),
    ),
    Metric {
        name: "mpsec_mptcp_info",
        help: "How new connections are set up (net.mptcp.*); empty for what this kernel has no setting for. Always 1.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "path_manager", "scheduler", "checksum_enabled", "allow_join_initial_addr_port"],
        samples: |snapshot, sample| {
            for namespace in snapshot.namespaces.iter().filter(|namespace| !namespace.sysctls.is_empty()) {
                let of = |name| setting(namespace, name);
                let (checksum, initial) = (of("checksum_enabled"), of("allow_join_initial_addr_port"));
                let labels = [&namespace.netns, path_manager(namespace), of("scheduler"), checksum, initial];
                sample(&labels, Value::Integer(1));
            }
        },
    },
];

/// Causes of a fallback, and the counters of `MPTcpExt` that count them. Not here, because what they count is counted by one
/// of these already: `Blackhole` (among the SYNs that were dropped), `InfiniteMapTx` and `InfiniteMapRx` (how an end says
/// that it falls back).
const FALLBACKS: &[(&str, &[&str])] = &[
    ("no_mp_capable_in_ack", &["MPCapableFallbackACK"]),
    ("no_mp_capable_in_syn_ack", &["MPCapableFallbackSYNACK"]),
    ("syn_dropped", &["MPCapableSYNTXDrop"]),
    ("blackhole", &["MPCapableSYNTXDisabled"]),
    ("no_token", &["MPFallbackTokenInit"]),
    ("first_data", &["MPCapableDataFallback"]),
    ("mapping", &["DssFallback"]),
    ("corruption", &["DSSCorruptionFallback"]),
    ("md5_signature", &["MD5SigFallback"]),
    ("tcp_ao", &["TCPAOFallback"]),
    ("simultaneous_connect", &["SimultConnectFallback"]),
];

/// The same of subflows that did not join.
const JOIN_FAILURES: &[(&str, &[&str])] = &[
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
const REORDERING: &[(&str, &str)] = &[
    ("detected_by_sack", "TCPSACKReorder"),
    ("detected_by_timestamp", "TCPTSReorder"),
    ("detected_by_reno", "TCPRenoReorder"),
    ("out_of_order", "TCPOFOQueue"),
    ("out_of_order_merged", "TCPOFOMerge"),
    ("dsack_sent_old", "TCPDSACKOldSent"),
    ("dsack_sent_out_of_order", "TCPDSACKOfoSent"),
    ("dsack_received", "TCPDSACKRecv"),
    ("dsack_received_out_of_order", "TCPDSACKOfoRecv"),
];

type Samples = for<'a> fn(&'a Snapshot, Sample<'_, 'a>);

const fn total(name: &'static str, help: &'static str, samples: Samples) -> Metric {
    Metric { name, help, kind: Kind::Counter, unit: Unit::None, labels: &["netns"], samples }
}

const fn gauge(name: &'static str, help: &'static str, samples: Samples) -> Metric {
    Metric { name, help, kind: Kind::Gauge, unit: Unit::None, labels: &["netns"], samples }
}

fn each<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&Namespace) -> Option<u64>) {
    for namespace in &snapshot.namespaces {
        if let Some(value) = value(namespace) {
            sample(&[&namespace.netns], Value::Integer(value));
        }
    }
}

/// Every state that a connection is in, and established ones also where there is none: so that a graph falls to 0.
fn connections<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>) {
    for namespace in &snapshot.namespaces {
        for state in TcpState::ALL {
            for (label, fell_back) in [("no", false), ("yes", true)] {
                let is = |connection: &&_| same(connection, state, fell_back);
                let count = namespace.connections.iter().filter(is).count();
                if count > 0 || state == TcpState::Established {
                    sample(&[&namespace.netns, state.name(), label], Value::Integer(count as u64));
                }
            }
        }
    }
}

fn same(connection: &crate::snapshot::mptcp::Connection, state: TcpState, fell_back: bool) -> bool {
    connection.state == state && connection.fallback.is_some() == fell_back
}

/// The sum of each cause's counters; a cause that this kernel counts by none of them is absent.
fn causes<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, causes: &[(&'static str, &[&str])]) {
    for namespace in &snapshot.namespaces {
        for (cause, names) in causes {
            let counts = namespace.mib.iter().filter(|(name, _)| names.contains(&name.as_str()));
            if let Some(sum) = counts.map(|(_, count)| *count).reduce(|a, b| a + b) {
                sample(&[&namespace.netns, cause], Value::Integer(sum));
            }
        }
    }
}

/// How often each word comes.
fn counted<'a>(
    snapshot: &'a Snapshot,
    sample: Sample<'_, 'a>,
    words: for<'b> fn(&'b Namespace) -> Box<dyn Iterator<Item = &'b str> + 'b>,
) {
    for namespace in &snapshot.namespaces {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for word in words(namespace) {
            *counts.entry(word).or_default() += 1;
        }
        for (word, count) in counts {
            sample(&[&namespace.netns, word], Value::Integer(count));
        }
    }
}

fn setting<'a>(namespace: &'a Namespace, name: &str) -> &'a str {
    namespace.sysctls.get(name).map_or("", String::as_str)
}

/// Before Linux 6.16 it is a number (`enum mptcp_pm_type`, net/mptcp/protocol.h).
fn path_manager(namespace: &Namespace) -> &str {
    match (setting(namespace, "path_manager"), setting(namespace, "pm_type")) {
        ("", "0") => "kernel",
        ("", "1") => "userspace",
        ("", number) => number,
        (name, _) => name,
    }
}

#[cfg(test)]
mod tests;
