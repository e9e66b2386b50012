//! What each path carries, how fast, and how well.

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::{DELIVERY_RATE_BOUNDS, Path, RTT_BOUNDS, SubflowTraffic};

/// A path. `netns` is there for the agent's own namespace too, and then empty, which Prometheus and OpenMetrics take for a
/// label that is not there: so every series of a family has the same labels, and who watches one namespace sees none.
const PATH_LABELS: &[&str] = &["netns", "interface", "family", "remote"];
const FLOW_LABELS: &[&str] = &["netns", "interface", "family", "remote", "direction"];

/// Metrics of paths.
pub const PATH: &[Metric] = &[
    Metric {
        name: "mpsec_path_bytes",
        help: "Bytes on the wire of all subflows that ever took the path, link header included. Absent where no packet was ever \
               seen, because IPsec hides the ports: the payload is there, by the sockets.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| on_wire(snapshot, sample, |traffic| traffic.bytes),
    },
    Metric {
        name: "mpsec_path_packets",
        help: "Packets on the wire of all subflows that ever took the path. A GSO or GRO super-packet counts as the packets \
               that it stands for.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| on_wire(snapshot, sample, |traffic| traffic.packets),
    },
    Metric {
        name: "mpsec_path_payload_bytes",
        help: "TCP payload of all subflows that ever took the path, retransmissions included.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |traffic| traffic.payload_bytes),
    },
    Metric {
        name: "mpsec_path_retransmitted_bytes",
        help: "TCP payload that had been sent on the same subflow before.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |traffic| traffic.retransmitted_bytes),
    },
    Metric {
        name: "mpsec_path_subflows",
        help: "Subflows on the path by what they are doing: connecting, active, backup (established, and used only when \
               nothing else is left), closing.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "interface", "family", "remote", "state"],
        samples: |snapshot, sample| {
            for (netns, path) in paths(snapshot) {
                let counts = &path.subflows;
                for (state, count) in [
                    ("connecting", counts.connecting),
                    ("active", counts.active),
                    ("backup", counts.backup),
                    ("closing", counts.closing),
                ] {
                    sample(&[netns, &path.interface, &path.family, &path.remote, state], Value::Integer(count));
                }
            }
        },
    },
    Metric {
        name: "mpsec_path_subflows_opened",
        help: "Subflows that were established on the path.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: PATH_LABELS,
        samples: |snapshot, sample| each(snapshot, sample, |path| Value::Integer(path.opened_total)),
    },
    Metric {
        name: "mpsec_path_subflows_closed",
        help: "Subflows on the path that ended, by reason: what the path manager said (a reset's reason of RFC 8684, or an error \
               that tells more, such as timed_out), else who began to end it: application, peer (by FIN), path_manager (while \
               the connection went on), reset_received, reset_sent. fin_unanswered, vanished, not_established: what it sounds \
               like; fin, reset: nobody was seen to begin.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["netns", "interface", "family", "remote", "reason"],
        samples: |snapshot, sample| {
            for (netns, path) in paths(snapshot) {
                for (reason, count) in &path.closed_total {
                    sample(&[netns, &path.interface, &path.family, &path.remote, reason], Value::Integer(*count));
                }
            }
        },
    },
    Metric {
        name: "mpsec_path_rtt_seconds",
        help: "Smoothed round-trip times of the path's subflows, each once a second while TCP measures it anew.",
        kind: Kind::Histogram(RTT_BOUNDS),
        unit: Unit::Seconds,
        labels: PATH_LABELS,
        samples: |snapshot, sample| each(snapshot, sample, |path| Value::Histogram(&path.rtt_seconds)),
    },
    Metric {
        name: "mpsec_path_delivery_rate_bytes_per_second",
        help: "How fast TCP saw data delivered on each of the path's subflows, sampled like mpsec_path_rtt_seconds. A subflow \
               with little to send shows less than the path could carry.",
        kind: Kind::Histogram(DELIVERY_RATE_BOUNDS),
        unit: Unit::BytesPerSecond,
        labels: PATH_LABELS,
        samples: |snapshot, sample| each(snapshot, sample, |path| Value::Histogram(&path.delivery_rate)),
    },
    Metric {
        name: "mpsec_path_silent",
        help: "1 while the path carries nothing although it should; mpsec status says why.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: PATH_LABELS,
        samples: |snapshot, sample| each(snapshot, sample, |path| path.silent.is_some().into()),
    },
];

fn paths(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &Path)> {
    snapshot.namespaces.iter().flat_map(|namespace| namespace.paths.iter().map(|path| (namespace.netns.as_str(), path)))
}

fn each<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&'a Path) -> Value<'a>) {
    for (netns, path) in paths(snapshot) {
        sample(&[netns, &path.interface, &path.family, &path.remote], value(path));
    }
}

fn traffic<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&SubflowTraffic) -> u64) {
    of_paths(snapshot, sample, value, |_| true);
}

/// What packets tell: nothing of a path of which none was ever seen.
fn on_wire<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&SubflowTraffic) -> u64) {
    of_paths(snapshot, sample, value, |path| path.rx.packets + path.tx.packets > 0);
}

fn of_paths<'a>(
    snapshot: &'a Snapshot,
    sample: Sample<'_, 'a>,
    value: fn(&SubflowTraffic) -> u64,
    wanted: fn(&Path) -> bool,
) {
    for (netns, path) in paths(snapshot).filter(|(_, path)| wanted(path)) {
        for (direction, traffic) in [("rx", &path.rx), ("tx", &path.tx)] {
            let labels = [netns, &path.interface, &path.family, &path.remote, direction];
            sample(&labels, Value::Integer(value(traffic)));
        }
    }
}
