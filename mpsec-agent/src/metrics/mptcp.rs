//! MPTCP as a whole: connections, what fails and why, and how the kernel is set.

mod causes;

use std::collections::BTreeMap;

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::{Namespace, TcpState};
use causes::{FALLBACKS, JOIN_FAILURES, REORDERING, causes};

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
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.connections_opened)),
    ),
    total("mpsec_mptcp_connections_closed", "Connections that ended since the agent started.", |snapshot, sample| {
        each(snapshot, sample, |namespace| Some(namespace.totals.connections_closed));
    }),
    total(
        "mpsec_mptcp_subflows_opened",
        "Subflows that were established since the agent started, on all paths.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_opened)),
    ),
    total(
        "mpsec_mptcp_subflows_closed",
        "Subflows that ended since the agent started, on all paths.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_closed)),
    ),
    total(
        "mpsec_mptcp_subflows_lost",
        "Subflows that found no room in the kernel's table: neither they nor their bytes are counted.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.subflows_lost)),
    ),
    total(
        "mpsec_mptcp_handshakes_lost",
        "Subflows whose first packets came by before there was a record of them, and are missing from its counts; each that is \
         accepted inside IPsec, too.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.handshakes_lost)),
    ),
    total(
        "mpsec_mptcp_paths_folded",
        "Paths that found no room of their own and are counted as path _other.",
        |snapshot, sample| each(snapshot, sample, |namespace| Some(namespace.totals.paths_folded)),
    ),
    gauge(
        "mpsec_mptcp_subflow_table_entries",
        "Entries of the kernel's table of subflows that are in use.",
        |snapshot, sample| {
            each(snapshot, sample, |namespace| {
                (namespace.totals.table_capacity > 0).then_some(namespace.totals.table_used)
            });
        },
    ),
    gauge(
        "mpsec_mptcp_subflow_table_capacity",
        "Entries that the kernel's table of subflows has room for.",
        |snapshot, sample| {
            each(snapshot, sample, |namespace| {
                (namespace.totals.table_capacity > 0).then_some(namespace.totals.table_capacity)
            });
        },
    ),
    Metric {
        name: "mpsec_mptcp_fallbacks",
        help: "Connections that are plain TCP although MPTCP was asked for, by cause: no_mp_capable_in_ack and \
               no_mp_capable_in_syn_ack (the peer, or something on the way, does without), syn_dropped (SYNs with \
               MP_CAPABLE got no answer), blackhole (not tried because of that), first_data, mapping, corruption, checksum, \
               md5_signature, tcp_ao, simultaneous_connect, no_token. One that is made before Linux 6.17 for the sake of \
               a mapping is missing.",
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
        "1 from when a connection was made as plain TCP because an earlier one's MP_CAPABLE got no answer \
         (net.mptcp.blackhole_timeout), until one asks for MPTCP again. Absent until the agent has seen either.",
        |snapshot, sample| each(snapshot, sample, |namespace| namespace.blackhole.map(u64::from)),
    ),
    Metric {
        name: "mpsec_mptcp_findings",
        help: "What mpsec status finds wrong with MPTCP, by kind: blackhole, path_silent, fallback, join_refused, \
               connection_fell_back, table_full.",
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
        name: "mpsec_mptcp_subflow_retransmissions",
        help: "TCP segments of subflows that were sent again, by the state of congestion control: open (SYNs, and probes for the \
               loss of the last segments), disorder, cwr (slowed down by ECN or for want of room), recovery (fast \
               retransmission), loss (after a timeout).",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "state"],
        samples: |snapshot, sample| {
            for namespace in &snapshot.namespaces {
                for (state, count) in &namespace.probed.retransmissions {
                    sample(&[&namespace.netns, state], Value::Integer(*count));
                }
            }
        },
    },
    Metric {
        name: "mpsec_mptcp_subflow_resets",
        help: "Resets of subflows, by direction (sent, received) and reason: that of MP_TCPRST (RFC 8684 section 3.6) or, of those \
               sent since Linux 6.10, the kernel's own. It is without_option if there was no MP_TCPRST, as from something on \
               the way or when MPTCP was given up. A received one is unknown if the subflow is older than the agent, or the reset \
               answered a SYN or the third ACK of a join, where no function of the kernel can be probed.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "direction", "reason"],
        samples: |snapshot, sample| {
            for namespace in &snapshot.namespaces {
                for resets in &namespace.probed.resets {
                    let labels = [&namespace.netns, resets.direction.as_str(), &resets.reason];
                    sample(&labels, Value::Integer(resets.count));
                }
            }
        },
    },
    total(
        "mpsec_mptcp_data_timeouts",
        "How often MPTCP's own timer ran out while data was not acknowledged. What it then sends again, if a subflow is fit for \
         it, is counted by mpsec_mptcp_mib_mptcp_retrans_total. Only where functions of the kernel can be probed.",
        |snapshot, sample| each(snapshot, sample, |namespace| namespace.probed.data_timeouts),
    ),
    Metric {
        name: "mpsec_tcp_reordering",
        help: "Signs of reordering in all of TCP, by kind: detected_by_sack, detected_by_timestamp, detected_by_reno (the \
               sender saw that segments overtook one another), out_of_order, out_of_order_merged, out_of_order_dropped \
               (by the receiver's queue), dsack_sent_old, dsack_sent_out_of_order, dsack_received, \
               dsack_received_out_of_order (something was sent for nothing), still_queued (a retransmission found that \
               the first transmission had not left the host), or the kernel's name.",
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

/// Before Linux 6.15 it is a number (`enum mptcp_pm_type`, net/mptcp/protocol.h).
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
