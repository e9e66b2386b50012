//! What is counted together, and what is absent.

use super::*;
use crate::metrics::mib::GROUPS;
use crate::snapshot::mptcp::{Connection, Endpoint, Role};

fn samples(name: &str, namespace: Namespace) -> Vec<(String, u64)> {
    let metric = MPTCP.iter().find(|metric| metric.name == name).unwrap();
    let snapshot = Snapshot { namespaces: vec![namespace], ..Snapshot::empty() };
    let mut seen = Vec::new();
    (metric.samples)(&snapshot, &mut |labels, value| match value {
        Value::Integer(value) => seen.push((labels.join(" "), value)),
        other => panic!("{name}: {other:?}"),
    });
    seen
}

fn mib(counters: &[(&str, u64)]) -> Namespace {
    let mib = counters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Namespace { netns: "n".into(), mib, ..Namespace::default() }
}

fn own(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect()
}

#[test]
fn nothing_is_published_of_what_is_not_known() {
    for metric in MPTCP {
        let totals = metric.name.ends_with("opened")
            || metric.name.ends_with("closed")
            || metric.name.ends_with("lost")
            || ["mpsec_mptcp_paths_folded", "mpsec_mptcp_connections"].contains(&metric.name);
        assert_eq!(samples(metric.name, Namespace::default()).is_empty(), !totals, "{}", metric.name);
    }
}

#[test]
fn a_cause_is_the_sum_of_its_counters_and_absent_without_them() {
    let namespace = mib(&[("MPJoinSynAckHMacFailure", 2), ("MPJoinAckHMacFailure", 3), ("MPJoinRejected", 0)]);
    assert_eq!(samples("mpsec_mptcp_join_failures", namespace), own(&[("n hmac", 5), ("n rejected", 0)]));
    let namespace = mib(&[("MPCapableSYNTXDrop", 2), ("Blackhole", 1)]);
    assert_eq!(samples("mpsec_mptcp_fallbacks", namespace), own(&[("n syn_dropped", 2)]));
}

/// A cause whose counter is misspelt would be absent for ever.
#[test]
fn causes_are_made_of_counters_that_there_are() {
    for (cause, names) in FALLBACKS.iter().chain(JOIN_FAILURES) {
        for name in *names {
            assert!(GROUPS.iter().any(|group| group.names.contains(name)), "{cause}: {name}");
        }
        let of = if FALLBACKS.iter().any(|(of, _)| of == cause) { "fallbacks" } else { "join_failures" };
        let metric = MPTCP.iter().find(|metric| metric.name == format!("mpsec_mptcp_{of}")).unwrap();
        assert!(metric.help.contains(cause), "{cause} is not explained");
    }
}

#[test]
fn connections_are_counted_by_state_and_fallback() {
    let connection = |state, fallback: Option<&str>| Connection {
        token: 1,
        role: Role::Client,
        local: ([192, 0, 2, 1], 1).into(),
        remote: ([192, 0, 2, 2], 2).into(),
        state,
        fallback: fallback.map(str::to_owned),
        age_seconds: 0.0,
        data: None,
        subflows: Vec::new(),
    };
    let connections = vec![
        connection(TcpState::Established, None),
        connection(TcpState::Established, Some("why")),
        connection(TcpState::FinWait1, None),
        connection(TcpState::Established, None),
    ];
    let namespace = Namespace { connections, ..Namespace::default() };
    let expected = own(&[(" established no", 2), (" established yes", 1), (" fin_wait1 no", 1)]);
    assert_eq!(samples("mpsec_mptcp_connections", namespace), expected);
}

#[test]
fn endpoints_count_under_each_of_their_flags() {
    let endpoint = |id, flags: &[&str]| Endpoint {
        id,
        address: [192, 0, 2, id].into(),
        port: None,
        interface: None,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    let endpoints = vec![endpoint(1, &["subflow", "backup"]), endpoint(2, &[]), endpoint(3, &["subflow"])];
    let namespace = Namespace { endpoints, ..Namespace::default() };
    let expected = own(&[(" backup", 1), (" none", 1), (" subflow", 2)]);
    assert_eq!(samples("mpsec_mptcp_endpoints", namespace), expected);
}

#[test]
fn the_path_manager_has_a_name_on_old_kernels_too() {
    let info = |settings: &[(&str, &str)]| {
        let sysctls = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        samples("mpsec_mptcp_info", Namespace { sysctls, ..Namespace::default() })
    };
    assert_eq!(info(&[("pm_type", "1"), ("checksum_enabled", "0")]), own(&[(" userspace  0 ", 1)]));
    let new = info(&[("path_manager", "kernel"), ("pm_type", "0"), ("scheduler", "default")]);
    assert_eq!(new, own(&[(" kernel default  ", 1)]));
}

#[test]
fn reordering_that_has_no_kind_yet_keeps_its_name() {
    let tcp_mib = vec![("TCPSACKReorder".to_owned(), 1), ("TCPNewReorder".to_owned(), 2)];
    let namespace = Namespace { tcp_mib, ..Namespace::default() };
    assert_eq!(samples("mpsec_tcp_reordering", namespace), own(&[(" detected_by_sack", 1), (" TCPNewReorder", 2)]));
}
