//! A snapshot of a host with very many interfaces, and the same text written by hand.

use std::fmt::Write as _;
use std::time::SystemTime;

use mpsec_agent::snapshot::{Agent, Hook, Interface, InterfaceStates, Snapshot};
use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction};

/// Interfaces that give a hundred thousand series: two directions, sixteen classes, three metrics.
pub const INTERFACES: usize = 1042;

/// Series of traffic in [`snapshot`].
pub const fn count() -> usize {
    INTERFACES * 2 * Class::ALL.len() * METRICS.len()
}

type Of = fn(&Counter) -> u64;

/// The metrics of traffic, and what each takes of a counter.
const METRICS: [(&str, Of); 3] = [
    ("mpsec_interface_packets_total", |counter| counter.packets),
    ("mpsec_interface_bytes_total", |counter| counter.bytes),
    ("mpsec_interface_l3_bytes_total", |counter| counter.l3_bytes),
];

/// Every class has been seen on every interface, both ways.
pub fn snapshot() -> Snapshot {
    Snapshot {
        taken_at: SystemTime::now(),
        interfaces: (0..INTERFACES).map(interface).collect(),
        others: Vec::new(),
        interface_states: InterfaceStates { counted: INTERFACES as u64, folded: 0, excluded: 0 },
        namespaces: Vec::new(),
        per_subflow: None,
        control: Default::default(),
        host: Default::default(),
        agent: Agent::default(),
    }
}

fn interface(number: usize) -> Interface {
    let counter = |direction: usize, class: usize| {
        // Any numbers of the length that counters have after some days.
        let packets = (1 + number as u64) * 7_919 * (1 + class as u64) * (1 + direction as u64);
        Counter { packets, bytes: packets * 913, l3_bytes: packets * 899 }
    };
    let hook = || Hook { method: "tcx", error: None, ahead: 0 };
    Interface {
        netns: String::new(),
        name: format!("veth{number:04}"),
        index: number as u32 + 2,
        kind: "veth".into(),
        hooks: [hook(), hook()],
        has_counters: true,
        traffic: [0, 1].map(|direction| std::array::from_fn(|class| counter(direction, class))),
    }
}

/// The lines of traffic, as somebody would write them who writes nothing else.
pub fn written_by_hand(snapshot: &Snapshot, capacity: usize) -> String {
    let mut text = String::with_capacity(capacity);
    let mut digits = itoa::Buffer::new();
    for (metric, value) in METRICS {
        let _ = write!(text, "# HELP {metric} Traffic.\n# TYPE {metric} counter\n");
        for interface in &snapshot.interfaces {
            for direction in Direction::ALL {
                for class in Class::ALL {
                    let counter = &interface.traffic[direction as usize][*class as usize];
                    for part in [metric, "{netns=\"", &interface.netns, "\",interface=\"", &interface.name] {
                        text.push_str(part);
                    }
                    text.push_str("\",direction=\"");
                    text.push_str(direction.name());
                    for part in ["\",class=\"", class.name(), "\"} ", digits.format(value(counter)), "\n"] {
                        text.push_str(part);
                    }
                }
            }
        }
    }
    text
}

/// The samples of traffic in an exposition.
pub fn samples(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| METRICS.iter().any(|(name, _)| line.starts_with(name)))
}

#[cfg(test)]
mod tests {
    use mpsec_agent::publish::prometheus::{Dialect, render};

    use super::*;

    #[test]
    fn both_say_the_same() {
        let snapshot = snapshot();
        let ours = render(&snapshot, Dialect::Classic, 0);
        let ours = std::str::from_utf8(&ours).unwrap();
        let by_hand = written_by_hand(&snapshot, 0);
        assert!(samples(ours).eq(samples(&by_hand)));
        assert_eq!(samples(ours).count(), count());
    }
}
