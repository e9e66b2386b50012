//! The tables hold what kernels have, and what they do not hold is published all the same.

use std::collections::BTreeSet;

use super::*;
use crate::snapshot::Snapshot;
use crate::snapshot::mptcp::Namespace;

fn samples(metric: &Metric, snapshot: &Snapshot) -> Vec<(String, u64)> {
    let mut seen = Vec::new();
    (metric.samples)(snapshot, &mut |labels, value| match value {
        Value::Integer(value) => seen.push((labels.join(" "), value)),
        other => panic!("{}: {other:?}", metric.name),
    });
    seen
}

fn known() -> impl Iterator<Item = (&'static Metric, &'static str)> {
    GROUPS.into_iter().flat_map(|group| group.metrics.iter().zip(group.names.iter().copied()))
}

#[test]
fn each_counter_is_there_once() {
    let names: BTreeSet<_> = known().map(|(_, name)| name).collect();
    assert_eq!(names.len(), known().count());
    // 86 counters of Linux 7.3, and TCPAOFallback.
    assert_eq!(names.len(), 87);
}

/// The metric is the kernel's name in other letters, and nothing else.
#[test]
fn a_metric_is_named_like_its_counter() {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    for (metric, name) in known() {
        assert_eq!(metric.name.strip_prefix("mpsec_mptcp_mib_").map(plain), Some(plain(name)));
    }
}

/// On this kernel nothing may end up among the counters that are not known.
#[test]
fn what_this_kernel_counts_is_known() {
    let netstat = std::fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let line = netstat.lines().find(|line| line.starts_with("MPTcpExt:")).unwrap_or_default();
    let unknown: Vec<_> = line.split_whitespace().skip(1).filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_counter_is_published_by_its_metric_or_by_its_name_and_never_as_0_where_it_is_not() {
    let mib = vec![("MPJoinRejected".to_owned(), 3), ("FromTheFuture".to_owned(), 4)];
    let namespace = Namespace { netns: "blue".into(), mib, ..Namespace::default() };
    let snapshot = Snapshot { namespaces: vec![namespace], ..Snapshot::empty() };
    for (metric, name) in known() {
        let expected = if name == "MPJoinRejected" { vec![("blue".to_owned(), 3)] } else { Vec::new() };
        assert_eq!(samples(metric, &snapshot), expected, "{name}");
    }
    assert_eq!(samples(&OTHER[0], &snapshot), [("blue FromTheFuture".to_owned(), 4)]);
}
