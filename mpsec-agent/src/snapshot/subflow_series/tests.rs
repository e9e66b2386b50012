//! What is chosen, and that nothing goes backwards or is counted twice.

use super::*;
use crate::snapshot::mptcp::{Role, TcpState};

/// A namespace whose subflows, one connection each, have sent these bytes; their number is their port.
fn namespace(netns: &str, subflows: &[(u16, u64)]) -> Namespace {
    let connections = subflows.iter().map(|(port, bytes)| connection(*port, *bytes)).collect();
    Namespace { netns: netns.into(), connections, ..Namespace::default() }
}

fn connection(port: u16, bytes: u64) -> Connection {
    let (local, remote) = (SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([192, 0, 2, 2], 80)));
    let subflow = Subflow {
        local,
        remote,
        local_id: None,
        remote_id: None,
        interface: None,
        state: TcpState::Established,
        joined: false,
        backup: false,
        rx: SubflowTraffic::default(),
        tx: SubflowTraffic { packets: 1, bytes, payload_bytes: bytes, retransmitted_bytes: 0 },
        rx_bytes_per_second: 0.0,
        tx_bytes_per_second: 0.0,
        scheduler_share: None,
        tcp: None,
    };
    Connection {
        token: port.into(),
        role: Role::Client,
        local,
        remote,
        state: TcpState::Established,
        fallback: None,
        age_seconds: 0.0,
        data: None,
        subflows: vec![subflow],
    }
}

/// The chosen ports, the bytes of all others, and how often one was folded.
fn choose(folding: &mut Folding, subflows: &[(u16, u64)], cap: usize) -> (Vec<u16>, u64, u64) {
    let chosen = folding.choose(&[namespace("", subflows)], Some(cap)).unwrap();
    let ports = chosen.chosen.iter().map(|series| series.local.rsplit_once(':').unwrap().1.parse().unwrap());
    (ports.collect(), chosen.other.iter().map(|other| other.tx.bytes).sum(), chosen.folded_total)
}

#[test]
fn without_a_cap_there_is_nothing_and_nothing_is_remembered() {
    let mut folding = Folding::default();
    choose(&mut folding, &[(1, 10), (2, 20)], 1);
    assert_eq!(folding.choose(&[namespace("", &[(1, 10)])], None), None);
    assert!(folding.namespaces.is_empty());
}

#[test]
fn the_largest_are_chosen_and_the_rest_is_summed() {
    assert_eq!(choose(&mut Folding::default(), &[(1, 10), (2, 30), (3, 20), (4, 5)], 2), (vec![2, 3], 15, 2));
    assert_eq!(choose(&mut Folding::default(), &[(1, 10), (2, 30)], 2), (vec![2, 1], 0, 0));
    assert_eq!(choose(&mut Folding::default(), &[], 2), (vec![], 0, 0));
}

#[test]
fn between_equals_the_one_that_has_a_series_keeps_it() {
    let mut folding = Folding::default();
    assert_eq!(choose(&mut folding, &[(2, 10), (1, 10)], 1), (vec![1], 10, 1));
    assert_eq!(choose(&mut folding, &[(1, 10), (2, 20)], 1), (vec![2], 10, 2));
    assert_eq!(choose(&mut folding, &[(1, 20), (2, 20)], 1), (vec![2], 20, 2));
}

#[test]
fn the_sum_of_the_others_never_falls_and_counts_no_byte_twice() {
    let mut folding = Folding::default();
    assert_eq!(choose(&mut folding, &[(1, 100), (2, 50)], 1), (vec![1], 50, 1));
    // 2 gets the series: what it carried before stays with the others, what it carries now is its own.
    assert_eq!(choose(&mut folding, &[(1, 110), (2, 500)], 1), (vec![2], 60, 2));
    // 2 is gone, and 1 chosen again.
    assert_eq!(choose(&mut folding, &[(1, 120)], 1), (vec![1], 60, 2));
    // Both are gone.
    assert_eq!(choose(&mut folding, &[], 1), (vec![], 60, 2));
}

#[test]
fn a_new_subflow_with_an_old_ones_addresses_is_counted_from_0() {
    let mut folding = Folding::default();
    assert_eq!(choose(&mut folding, &[(1, 100), (2, 50)], 1), (vec![1], 50, 1));
    assert_eq!(choose(&mut folding, &[(1, 100), (2, 7)], 1), (vec![1], 57, 2));
}

#[test]
fn namespaces_share_the_cap_and_have_others_of_their_own() {
    let mut folding = Folding::default();
    let both = [namespace("", &[(1, 10), (2, 20)]), namespace("blue", &[(1, 30), (2, 5)])];
    let chosen = folding.choose(&both, Some(2)).unwrap();
    let names: Vec<_> = chosen.chosen.iter().map(|series| (series.netns.as_str(), series.token.as_str())).collect();
    assert_eq!(names, [("blue", "00000001"), ("", "00000002")]);
    let others: Vec<_> = chosen.other.iter().map(|other| (other.netns.as_str(), other.tx.bytes)).collect();
    assert_eq!(others, [("", 10), ("blue", 5)]);
    // A namespace that is gone keeps what it had: a counter that came back smaller would be taken for a restart.
    let chosen = folding.choose(&both[..1], Some(2)).unwrap();
    assert_eq!(chosen.other.last().map(|other| other.tx.bytes), Some(5));
}
