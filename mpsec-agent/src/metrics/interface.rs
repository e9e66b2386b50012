//! What each interface carries, by direction and traffic class.

use mpsec_common::traffic::{Counter, Protection};
use mpsec_common::{Class, Direction};

use super::{Kind, Metric, Sample, Unit, Value};
use crate::snapshot::{Classes, OTHER_INTERFACE, Snapshot};

/// `netns` is empty for the agent's own namespace, which is as if it were not there.
const TRAFFIC_LABELS: &[&str] = &["netns", "interface", "direction", "class"];

const SUM_LABELS: &[&str] = &["netns", "interface", "direction"];

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
        name: "mpsec_interface_cleartext_packets",
        help: "Packets on the wire of all classes that are cleartext. There from the first scrape on, at 0 if so: the first packet \
               that leaks is a rise, where a class has no series before it.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: SUM_LABELS,
        samples: |snapshot, sample| summed(snapshot, sample, Protection::Cleartext, |counter| counter.packets),
    },
    Metric {
        name: "mpsec_interface_cleartext_bytes",
        help: "Bytes on the wire of the same packets.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: SUM_LABELS,
        samples: |snapshot, sample| summed(snapshot, sample, Protection::Cleartext, |counter| counter.bytes),
    },
    Metric {
        name: "mpsec_interface_encrypted_packets",
        help: "Packets on the wire of all classes that are encrypted, likewise.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: SUM_LABELS,
        samples: |snapshot, sample| summed(snapshot, sample, Protection::Encrypted, |counter| counter.packets),
    },
    Metric {
        name: "mpsec_interface_encrypted_bytes",
        help: "Bytes on the wire of the same packets.",
        kind: Kind::Counter,
        unit: Unit::Bytes,
        labels: SUM_LABELS,
        samples: |snapshot, sample| summed(snapshot, sample, Protection::Encrypted, |counter| counter.bytes),
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
        name: "mpsec_interface_programs_ahead",
        help: "Programs and filters of others that see a packet before MPSec's program does. What they drop, redirect or let pass \
               without giving it on (any answer but TCX_NEXT) is not counted.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["netns", "interface", "direction"],
        samples: |snapshot, sample| {
            for interface in snapshot.interfaces.iter().filter(|interface| interface.has_counters) {
                for direction in Direction::ALL {
                    let ahead = interface.hook(direction).ahead.into();
                    sample(&[&interface.netns, &interface.name, direction.name()], Value::Integer(ahead));
                }
            }
        },
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

/// Namespace, name and counts of each interface that has counters of its own, and of all others of each namespace.
fn counted(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str, &[Classes; 2])> {
    let own = snapshot.interfaces.iter().filter(|own| own.has_counters);
    let own = own.map(|own| (own.netns.as_str(), own.name.as_str(), &own.traffic));
    let others = snapshot.others.iter().map(|others| (others.netns.as_str(), OTHER_INTERFACE, &others.traffic));
    own.chain(others)
}

/// One sample for every interface and direction: what all classes of one protection come to.
fn summed<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, of: Protection, value: fn(&Counter) -> u64) {
    let classes = || Class::ALL.iter().filter(|class| class.protection() == of);
    for (netns, name, traffic) in counted(snapshot) {
        for direction in Direction::ALL {
            let sum = classes().map(|class| value(&traffic[direction as usize][*class as usize])).sum();
            sample(&[netns, name, direction.name()], Value::Integer(sum));
        }
    }
}

/// One sample for every interface, direction and class that has seen a packet.
fn traffic<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, value: fn(&Counter) -> u64) {
    for (netns, name, traffic) in counted(snapshot) {
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
        let hook = |error: Option<&str>| Hook { method: "tcx", error: error.map(str::to_owned), ahead: 0 };
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
    fn there_are_sums_before_there_is_any_packet() {
        let mut leaking = interface("a", true, None);
        for (class, bytes) in
            [(Class::Esp, 1000), (Class::Tcp, 60), (Class::Udp, 40), (Class::Decrypted, 900), (Class::Arp, 42)]
        {
            leaking.traffic[Direction::Tx as usize][class as usize] = Counter { packets: 1, bytes, l3_bytes: bytes };
        }
        let snapshot = Snapshot { interfaces: vec![leaking, interface("b", false, None)], ..Snapshot::empty() };
        for (protection, sent) in [(Protection::Cleartext, 100), (Protection::Encrypted, 1000)] {
            let mut seen = Vec::new();
            let mut sample = |labels: &[&str], value| seen.push((labels.join(" "), value));
            summed(&snapshot, &mut sample, protection, |counter| counter.bytes);
            assert_eq!(seen, [(" a rx".to_owned(), Value::Integer(0)), (" a tx".to_owned(), Value::Integer(sent))]);
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
