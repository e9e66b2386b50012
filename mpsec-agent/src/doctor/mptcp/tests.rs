//! What is said of hosts on which one thing is wrong.

use super::*;
use crate::conflicts::{Managers, conflicts};

const WAN0: &str = "192.0.2.1";
const WAN1: &str = "198.51.100.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(ifindex: u32, text: &str) -> Address {
    Address::new(ifindex, ip(text), 24)
}

fn endpoint(text: &str, interface: &str, flags: &[&str]) -> Endpoint {
    Endpoint {
        id: 1,
        address: ip(text),
        port: None,
        interface: Some(interface.into()),
        flags: flags.iter().map(ToString::to_string).collect(),
    }
}

/// Two interfaces, each with an address, an endpoint and a route of its own.
fn healthy() -> Facts {
    let route = |ifindex| Ok(Route { ifindex, gateway: None });
    Facts {
        sockets: Some(Ok(())),
        sysctls: BTreeMap::from([("enabled".into(), "1".into()), ("path_manager".into(), "kernel".into())]),
        endpoints: Ok(vec![endpoint(WAN0, "wan0", &["subflow"]), endpoint(WAN1, "wan1", &["subflow"])]),
        limits: Ok(Limits { subflows: 2, add_addr_accepted: 0 }),
        interfaces: BTreeMap::from([(2, ("wan0".into(), true)), (3, ("wan1".into(), true))]),
        addresses: vec![address(2, WAN0), address(3, WAN1)],
        routes: vec![(ip(WAN0), route(2)), (ip(WAN1), route(3))],
        mib: BTreeMap::from([("MPCapableSYNTXDisabled".into(), 0), ("MPJoinRejected".into(), 0)]),
        ..Facts::default()
    }
}

/// What is not fine: check and verdict.
fn troubles(facts: &Facts) -> Vec<(&'static str, Verdict)> {
    let all = diagnose(facts);
    all.iter().filter(|d| d.verdict != Verdict::Fine).map(|d| (d.check, d.verdict)).collect()
}

#[test]
fn nothing_is_wrong_with_a_healthy_host() {
    assert_eq!(troubles(&healthy()), []);
    let (text, fine) = to_text(&diagnose(&healthy()), Style::default());
    assert!(fine && text.is_ascii(), "{text}");
}

#[test]
fn each_fault_is_told_and_no_other() {
    type Break = fn(&mut Facts);
    let table: &[(&str, Verdict, Break)] = &[
        ("enabled", Verdict::Wrong, |facts| {
            facts.sysctls.insert("enabled".into(), "0".into());
        }),
        ("enabled", Verdict::Wrong, |facts| facts.sysctls.clear()),
        ("path_manager", Verdict::Noteworthy, |facts| {
            facts.sysctls.insert("pm_type".into(), "1".into());
        }),
        ("endpoints", Verdict::Wrong, |facts| facts.endpoints = Ok(Vec::new())),
        ("endpoint_address", Verdict::Wrong, |facts| {
            facts.endpoints.as_mut().unwrap()[1].address = ip("203.0.113.9");
        }),
        ("endpoint_address", Verdict::Wrong, |facts| facts.interfaces.get_mut(&3).unwrap().1 = false),
        ("endpoint_address", Verdict::Wrong, |facts| facts.addresses[1].readiness = Readiness::Tentative),
        ("endpoint_address", Verdict::Wrong, |facts| facts.addresses[1].readiness = Readiness::Duplicate),
        ("endpoint_address", Verdict::Wrong, |facts| {
            facts.endpoints.as_mut().unwrap()[1].interface = Some("wan0".into());
        }),
        ("backup", Verdict::Noteworthy, |facts| facts.endpoints.as_mut().unwrap()[1].flags.push("backup".into())),
        ("limits", Verdict::Wrong, |facts| facts.limits.as_mut().unwrap().subflows = 1),
        ("limits", Verdict::Wrong, |facts| {
            facts.mib.insert("MPJoinRejected".into(), 3);
        }),
        ("limits", Verdict::Noteworthy, |facts| {
            facts.mib.insert("AddAddr".into(), 3);
        }),
        ("limits", Verdict::Unknown, |facts| facts.limits = Err("no".into())),
        ("routes", Verdict::Wrong, |facts| facts.routes[1].1 = facts.routes[0].1.clone()),
        ("routes", Verdict::Wrong, |facts| facts.routes[1].1 = Err("Network is unreachable".into())),
        ("routes", Verdict::Unknown, |facts| {
            facts.routes.iter_mut().for_each(|(_, route)| *route = Err("Network is unreachable".into()));
        }),
        ("other_manager", Verdict::Noteworthy, |facts| {
            let managers = Managers { mptcpd: true, ..Managers::default() };
            facts.managers = conflicts(&managers, &BTreeMap::new());
        }),
        ("blackhole", Verdict::Noteworthy, |facts| {
            facts.mib.insert("MPCapableSYNTXDisabled".into(), 1);
        }),
        ("blackhole", Verdict::Wrong, |facts| facts.agent = Some((Some(true), Vec::new()))),
        ("joins", Verdict::Noteworthy, |facts| {
            facts.mib.insert("MPJoinSynTx".into(), 4);
        }),
        ("fallback", Verdict::Noteworthy, |facts| {
            facts.mib.insert("MPCapableFallbackSYNACK".into(), 4);
        }),
    ];
    for (check, verdict, break_it) in table {
        let mut facts = healthy();
        break_it(&mut facts);
        assert_eq!(troubles(&facts), [(*check, *verdict)], "{facts:?}");
    }
}

#[test]
fn a_host_without_endpoints_is_told_the_command() {
    let facts = Facts { endpoints: Ok(Vec::new()), ..healthy() };
    let told = diagnose(&facts).into_iter().find(|d| d.check == "endpoints").unwrap();
    assert_eq!(told.remedy.as_deref(), Some("ip mptcp endpoint add 198.51.100.1 dev wan1 subflow"));
}
