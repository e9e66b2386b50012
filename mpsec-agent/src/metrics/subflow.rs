//! Single subflows: off unless the configuration asks for them, and never more than it allows.

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::{OTHER, SubflowTraffic};
use crate::snapshot::subflow_series::{PerSubflow, Series};

const LABELS: &[&str] = &["netns", "token", "local", "remote", "interface"];
const FLOW_LABELS: &[&str] = &["netns", "token", "local", "remote", "interface", "direction"];

/// Metrics of subflows.
pub const SUBFLOW: &[Metric] = &[
    Metric {
        name: "mpsec_subflow_bytes",
        help: "Bytes on the wire, link header included, of the largest subflows (max_subflow_series). token, local, remote and \
               interface are _other for what all others carried while they had no series of their own: that never falls, \
               and keeps what a subflow carried before it became one of the largest. Absent of a subflow of which no packet was \
               seen, because IPsec hides its ports: its payload is there, by its socket.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| on_wire(snapshot, sample, |traffic| traffic.bytes),
    },
    Metric {
        name: "mpsec_subflow_packets",
        help: "Packets on the wire, of the same subflows as mpsec_subflow_bytes_total, _other included.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| on_wire(snapshot, sample, |traffic| traffic.packets),
    },
    Metric {
        name: "mpsec_subflow_payload_bytes",
        help: "TCP payload, retransmissions included, of the same subflows as mpsec_subflow_bytes_total, _other included.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |traffic| traffic.payload_bytes),
    },
    Metric {
        name: "mpsec_subflow_retransmitted_bytes",
        help: "TCP payload that had been sent before, of the same subflows as mpsec_subflow_bytes_total, _other included.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: FLOW_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |traffic| traffic.retransmitted_bytes),
    },
    Metric {
        name: "mpsec_subflow_srtt_seconds",
        help: "Smoothed round-trip time of the largest subflows.",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: LABELS,
        samples: |snapshot, sample| each(snapshot, sample, |series| series.srtt_seconds.map(Value::Float)),
    },
    Metric {
        name: "mpsec_subflow_congestion_window_segments",
        help: "Congestion window of the largest subflows.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: LABELS,
        samples: |snapshot, sample| {
            each(snapshot, sample, |series| series.cwnd_segments.map(|segments| Value::Integer(segments.into())));
        },
    },
    Metric {
        name: "mpsec_subflow_delivery_rate_bytes_per_second",
        help: "How fast TCP last saw data delivered on the largest subflows.",
        kind: Kind::Gauge,
        unit: Unit::BytesPerSecond,
        labels: LABELS,
        samples: |snapshot, sample| {
            each(snapshot, sample, |series| series.delivery_rate_bytes_per_second.map(Value::Integer));
        },
    },
    Metric {
        name: "mpsec_subflow_series_folded",
        help: "How often a subflow was counted under _other for the first time, or again after it had series of its own.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| {
            if let Some(PerSubflow { folded_total, .. }) = &snapshot.per_subflow {
                sample(&[], Value::Integer(*folded_total));
            }
        },
    },
];

fn each<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&Series) -> Option<Value<'a>>) {
    for series in snapshot.per_subflow.iter().flat_map(|subflows| &subflows.chosen) {
        if let Some(value) = value(series) {
            sample(&[&series.netns, &series.token, &series.local, &series.remote, &series.interface], value);
        }
    }
}

fn traffic<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&SubflowTraffic) -> u64) {
    of_subflows(snapshot, sample, value, |_| true);
}

/// What packets tell: nothing of a subflow of which none was ever seen.
fn on_wire<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&SubflowTraffic) -> u64) {
    of_subflows(snapshot, sample, value, |series| series.rx.packets + series.tx.packets > 0);
}

fn of_subflows<'a>(
    snapshot: &'a Snapshot,
    sample: Sample<'_, 'a>,
    value: fn(&SubflowTraffic) -> u64,
    wanted: fn(&Series) -> bool,
) {
    let Some(PerSubflow { chosen, other, .. }) = &snapshot.per_subflow else { return };
    for series in chosen.iter().filter(|series| wanted(series)) {
        for (direction, traffic) in [("rx", &series.rx), ("tx", &series.tx)] {
            let Series { netns, token, local, remote, interface, .. } = series;
            sample(&[netns, token, local, remote, interface, direction], Value::Integer(value(traffic)));
        }
    }
    for others in other {
        for (direction, traffic) in [("rx", &others.rx), ("tx", &others.tx)] {
            let labels = [&others.netns, OTHER, OTHER, OTHER, OTHER, direction];
            sample(&labels, Value::Integer(value(traffic)));
        }
    }
}
