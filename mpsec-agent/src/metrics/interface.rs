//! What each interface carries, by direction and traffic class.

use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction};

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::{OTHER_INTERFACE, Snapshot};

/// `netns` is empty for the agent's own namespace, which is as if it were not there.
const TRAFFIC_LABELS: &[&str] = &["netns", "interface", "direction", "class"];

/// Metrics of interfaces.
pub const INTERFACE: &[Metric] = &[
    Metric {
        name: "mpsec_interface_packets",
        help: "Packets on the wire, by traffic class. A GSO or GRO super-packet counts as the packets that it stands for; \
               a virtual device's own counter takes it for one.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: TRAFFIC_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |counter| counter.packets),
    },
    Metric {
        name: "mpsec_interface_bytes",
        help: "Bytes on the wire, by traffic class, link header included as far as the device's own counters include it. \
               A VLAN tag counts as on a wire, also where a virtual device carries it beside the packet and leaves it out. \
               Sent packets are counted before the queueing discipline, which may still drop them.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: TRAFFIC_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |counter| counter.bytes),
    },
    Metric {
        name: "mpsec_interface_l3_bytes",
        help: "Bytes from the network header on, by traffic class: what is left of mpsec_interface_bytes_total without link \
               headers and VLAN tags.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: TRAFFIC_LABELS,
        samples: |snapshot, sample| traffic(snapshot, sample, |counter| counter.l3_bytes),
    },
    Metric {
        name: "mpsec_interface_attached",
        help: "1 if the interface's traffic in this direction is counted, 0 if the program could not be attached.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "interface", "direction", "method"],
        samples: attached,
    },
    Metric {
        name: "mpsec_interfaces",
        help: "Interfaces by state: counted, folded (counted together as _other, because max_interfaces was reached), \
               excluded (by the configuration).",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["state"],
        samples: |snapshot, sample| {
            let states = &snapshot.interface_states;
            sample(&["counted"], Value::Integer(states.counted));
            sample(&["folded"], Value::Integer(states.folded));
            sample(&["excluded"], Value::Integer(states.excluded));
        },
    },
    Metric {
        name: "mpsec_interfaces_folded",
        help: "Interfaces that found no room of their own since the agent started, and whose traffic went to interface \
               _other.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.agent.folded_total)),
    },
    Metric {
        name: "mpsec_class_info",
        help: "What each traffic class means for confidentiality: encrypted, cleartext, exempt (must be in clear for the \
               link or tunnel to work), or inner (inside an IPsec tunnel of this host, whose packets are counted once more). \
               Always 1; for joins.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["class", "protection"],
        samples: |_, sample| {
            for class in Class::ALL {
                sample(&[class.name(), class.protection().name()], Value::Integer(1));
            }
        },
    },
];

/// One sample for every interface, direction and class that has seen a packet.
fn traffic<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&Counter) -> u64) {
    let own = snapshot.interfaces.iter().map(|own| (own.netns.as_str(), own.name.as_str(), &own.traffic));
    let others = snapshot.others.iter().map(|others| (others.netns.as_str(), OTHER_INTERFACE, &others.traffic));
    for (netns, name, traffic) in own.chain(others) {
        for direction in Direction::ALL {
            for class in Class::ALL {
                let counter = &traffic[direction as usize][*class as usize];
                if !counter.is_zero() {
                    sample(&[netns, name, direction.name(), class.name()], Value::Integer(value(counter)));
                }
            }
        }
    }
}

/// One sample for every direction of an interface with counters of its own, and one for all others together.
fn attached<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>) {
    let (own, others): (Vec<_>, Vec<_>) = snapshot.interfaces.iter().partition(|interface| interface.has_counters);
    for interface in own {
        for direction in Direction::ALL {
            let hook = interface.hook(direction);
            sample(&[&interface.netns, &interface.name, direction.name(), hook.method], hook.error.is_none().into());
        }
    }
    for others in others.chunk_by(|a, b| a.netns == b.netns) {
        for direction in Direction::ALL {
            let hooks = || others.iter().map(|interface| interface.hook(direction));
            let (method, all_attached) =
                (hooks().next().map_or("", |hook| hook.method), hooks().all(|h| h.error.is_none()));
            sample(&[&others[0].netns, OTHER_INTERFACE, direction.name(), method], all_attached.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Hook, Interface};

    fn interface(name: &str, has_counters: bool, error: Option<&str>) -> Interface {
        let hook = |error: Option<&str>| Hook { method: "tcx", error: error.map(str::to_owned) };
        Interface {
            netns: String::new(),
            name: name.into(),
            index: 1,
            kind: String::new(),
            hooks: [hook(None), hook(error)],
            has_counters,
            traffic: Default::default(),
        }
    }

    #[test]
    fn interfaces_beyond_the_limit_share_one_series() {
        let snapshot = Snapshot {
            interfaces: vec![
                interface("a", true, Some("no")),
                interface("b", false, None),
                interface("c", false, Some("no")),
                interface("d", false, None),
            ],
            ..Snapshot::empty()
        };
        let mut seen = Vec::new();
        attached(&snapshot, &mut |labels, value| seen.push((labels.join(" "), value)));
        let expected = [(" a rx tcx", 1), (" a tx tcx", 0), (" _other rx tcx", 1), (" _other tx tcx", 0)];
        assert_eq!(seen, expected.map(|(labels, value)| (labels.to_owned(), Value::Integer(value))));
    }
}
