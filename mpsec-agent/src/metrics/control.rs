//! What was asked to be changed on the host: whether it is so, and what became of changes.

use super::{Kind, Metric, Unit, Value};

/// Metrics of what MPSec changes.
pub const CONTROL: &[Metric] = &[
    Metric {
        name: "mpsec_control_desired_generation",
        help: "How often what is wanted of the host has changed.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.desired_generation)),
    },
    Metric {
        name: "mpsec_control_actual_generation",
        help: "The last of these generations that the host was found to be like. While it is another one, the host is not as it \
               is wanted; that they are equal does not say that it still is: see mpsec_control_failures.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.actual_generation)),
    },
    Metric {
        name: "mpsec_control_changes",
        help: "Changes on the host by what became of them: applied (made, and it holds), failed, undone (made and taken back).",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["outcome"],
        samples: |snapshot, sample| {
            let control = &snapshot.control;
            sample(&["applied"], Value::Integer(control.changes_total));
            sample(&["failed"], Value::Integer(control.failed_total));
            sample(&["undone"], Value::Integer(control.undone_total));
        },
    },
    Metric {
        name: "mpsec_control_failures",
        help: "Things that are not as they should be, as the last attempt left them. mpsec status says which, and why.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.failures.len() as u64)),
    },
    Metric {
        name: "mpsec_control_waiting",
        help: "Things that wait for the host, such as an address that an interface has not got yet.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.waiting.len() as u64)),
    },
    Metric {
        name: "mpsec_control_owned",
        help: "Endpoints, settings, limits and interfaces that are as MPSec made them, and will be given back.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.owned)),
    },
    Metric {
        name: "mpsec_control_released",
        help: "1 after mpsec release: everything is given back, and nothing is changed until the next mpsec apply or boot.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::from(snapshot.control.released)),
    },
    Metric {
        name: "mpsec_control_audit_errors",
        help: "Entries that could not be written into the log of changes. The agent's own log has them all the same.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.control.audit_errors_total)),
    },
    Metric {
        name: "mpsec_control_forced_sockets",
        help: "TCP sockets of programs in listed control groups that were made MPTCP ones (mptcp.force), by what the control \
               group is listed for: clients, servers, both.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["listed"],
        samples: |snapshot, sample| {
            let Some(sockets) = &snapshot.control.forced_sockets else { return };
            sample(&["clients"], Value::Integer(sockets.clients));
            sample(&["servers"], Value::Integer(sockets.servers));
            sample(&["both"], Value::Integer(sockets.both));
        },
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::Snapshot;
    use crate::snapshot::control::{Control, ForcedSockets};

    #[test]
    fn each_metric_has_its_own_value() {
        let texts = |count: usize| vec!["x".to_owned(); count];
        let control = Control {
            desired_generation: 1,
            actual_generation: 2,
            released: true,
            failures: texts(3),
            waiting: texts(4),
            owned: 5,
            changes_total: 6,
            failed_total: 7,
            undone_total: 8,
            audit_errors_total: 9,
            forced_sockets: Some(ForcedSockets { clients: 10, servers: 11, both: 12 }),
        };
        let snapshot = Snapshot { control, ..Snapshot::empty() };
        let mut found = BTreeMap::new();
        for metric in CONTROL {
            let name = metric.name.strip_prefix("mpsec_control_").unwrap();
            (metric.samples)(&snapshot, &mut |labels, value| {
                let Value::Integer(value) = value else { panic!("{name}") };
                assert_eq!(labels.len(), metric.labels.len());
                found.insert(format!("{name} {}", labels.join("")).trim().to_owned(), value);
            });
        }
        let expected = [
            ("desired_generation", 1),
            ("actual_generation", 2),
            ("released", 1),
            ("failures", 3),
            ("waiting", 4),
            ("owned", 5),
            ("changes applied", 6),
            ("changes failed", 7),
            ("changes undone", 8),
            ("audit_errors", 9),
            ("forced_sockets clients", 10),
            ("forced_sockets servers", 11),
            ("forced_sockets both", 12),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }
}
