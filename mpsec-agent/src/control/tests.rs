//! Plans against a model of a host: for any two settings, applying leads from one to the other and back.

use std::net::IpAddr;

use proptest::collection::{btree_set, vec};
use proptest::option::of as maybe;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::config::MultipathConfig;
use crate::config::multipath::{PathManagerMode, PerInterface};
use crate::kernel::address::{Address, Readiness};
use crate::snapshot::mptcp::Limits;

use super::actual::{Actual, Doings, Exit, Link, OnLink};
use super::apply::{Host, Memory, Outcome, Spirit, apply, command, preview, release, stop};
use super::change::{Change, Endpoint};
use super::desired::desired;
use super::owned::Owned;
use super::plan::Plan;

mod unwritten;

/// A host in memory, which may refuse a change, or die after some.
#[derive(Clone, Debug)]
struct Model {
    actual: Actual,
    performed: usize,
    /// Changes of these numbers are refused: a bit each.
    refuses: u64,
    /// From this number on nothing happens any more.
    dies: Option<usize>,
}

impl Model {
    fn new(actual: Actual) -> Model {
        Model { actual, performed: 0, refuses: 0, dies: None }
    }
}

impl Host for Model {
    fn retrieve(&mut self) -> Result<Actual, String> {
        Ok(self.actual.clone())
    }

    fn perform(&mut self, change: &Change) -> Result<(), String> {
        let number = self.performed;
        self.performed += 1;
        if self.dies.is_some_and(|dies| number >= dies)
            || self.refuses.checked_shr(number as u32).is_some_and(|rest| rest & 1 == 1)
        {
            return Err("no".into());
        }
        self.actual = self.actual.clone().with(change)?;
        Ok(())
    }

    fn conflicts(&mut self, _plan: &Plan) -> Vec<String> {
        Vec::new()
    }
}

/// What is kept, until the program dies.
#[derive(Clone, Debug, Default)]
struct Notebook {
    owned: Owned,
    begun: Vec<Change>,
    is_dead: bool,
    /// Nothing can be written.
    is_full: bool,
    /// What the next program reads of what is ours.
    written: Owned,
}

impl Notebook {
    /// The next program's.
    fn read(&self) -> Notebook {
        Notebook { owned: self.written.clone(), written: self.written.clone(), ..Notebook::default() }
    }
}

impl Memory for Notebook {
    fn owned(&self) -> &Owned {
        &self.owned
    }

    fn begin(&mut self, changes: &[Change]) -> Result<(), String> {
        if self.is_full && !changes.iter().all(Change::needs_agent) {
            return Err("no room".into());
        }
        self.begun = changes.to_vec();
        Ok(())
    }

    fn end(&mut self, owned: Owned) -> Result<(), String> {
        if self.is_dead {
            return Ok(());
        }
        self.begun.clear();
        self.owned = owned;
        if self.is_full && self.owned != self.written {
            return Err("no room".into());
        }
        self.written = self.owned.clone();
        Ok(())
    }
}

/// Without what the kernel chooses: identifiers and order.
fn plain(mut actual: Actual) -> Actual {
    actual.endpoints.iter_mut().for_each(|endpoint| endpoint.id = 0);
    actual.endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
    actual.routes.sort();
    actual.rules.sort();
    actual
}

fn address(interface: u32, is_ipv4: bool) -> IpAddr {
    match is_ipv4 {
        true => IpAddr::from([192, 0, 2, interface as u8]),
        false => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, interface as u16]),
    }
}

fn settings() -> impl Strategy<Value = MultipathConfig> {
    let rule = select(vec!["wan1", "wan*", "wan2=backup", "wan3=ipv4", "*=signal", "192.0.2.1", "2001:db8::2=subflow"]);
    let rules = btree_set(rule, 0..4).prop_shuffle_into_vec();
    let modes = maybe(select(PathManagerMode::ALL.to_vec()));
    let reordering = (maybe(1..9u32), maybe(1..9u32), maybe(0..9u32), maybe(0..9u32));
    let names = (maybe(any::<bool>()), reordering, maybe(select(vec!["reno", "cubic", "none"])));
    let more = (vec(select(vec!["stale_loss_cnt=2", "close_timeout=9"]), 0..2), any::<bool>(), any::<bool>());
    (modes, rules, names, more, 1..9u32).prop_map(|(mode, rules, names, more, ndiffports)| {
        let (enabled, (reordering, max_reordering, subflows, accepted), congestion_control) = names;
        let (sysctls, manage_routes, failover) = more;
        MultipathConfig {
            enabled,
            path_manager: mode,
            ndiffports,
            endpoints: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            subflow_limit: subflows,
            add_addr_accepted_limit: accepted,
            congestion_control: congestion_control.map(str::to_owned),
            reordering,
            max_reordering,
            sysctls: sysctls.first().into_iter().map(|text| text.parse().unwrap()).collect(),
            manage_routes,
            failover: failover.then_some(true),
            gateways: vec![PerInterface { interfaces: "wan3".into(), value: IpAddr::from([192, 0, 2, 254]) }],
            ..MultipathConfig::default()
        }
    })
}

/// Shuffled, so that order counts.
trait Shuffled: Strategy + Sized {
    fn prop_shuffle_into_vec(self) -> BoxedStrategy<Vec<&'static str>>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<&'static str>> + 'static> Shuffled for S {
    fn prop_shuffle_into_vec(self) -> BoxedStrategy<Vec<&'static str>> {
        self.prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle().boxed()
    }
}

fn sysctls() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let all = vec![
        ("net.mptcp.enabled", "1"),
        ("net.mptcp.path_manager", "kernel"),
        ("net.mptcp.available_path_managers", "kernel userspace"),
        ("net.mptcp.pm_type", "0"),
        ("net.mptcp.stale_loss_cnt", "4"),
        ("net.mptcp.close_timeout", "60"),
        ("net.ipv4.tcp_reordering", "3"),
        ("net.ipv4.tcp_max_reordering", "300"),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
        ("net.ipv4.tcp_congestion_control", "cubic"),
        ("net.ipv4.tcp_available_congestion_control", "reno cubic"),
        ("net.ipv4.tcp_allowed_congestion_control", "reno cubic"),
    ];
    // Mostly all of them.
    prop_oneof![4 => Just(all.clone()), 1 => subsequence(all.clone(), 0..=all.len())]
}

fn hosts() -> impl Strategy<Value = Actual> {
    let readiness = select(vec![Readiness::Ready, Readiness::Ready, Readiness::Tentative, Readiness::Deprecated]);
    let one = (any::<bool>(), any::<bool>(), any::<bool>(), readiness, any::<bool>());
    let foreign = vec((1..4u32, any::<bool>(), select(vec!["subflow", "signal"])), 0..2);
    (vec(one, 3), foreign, sysctls(), any::<bool>()).prop_map(|(links, foreign, sysctls, has_agent)| {
        let mut actual = Actual {
            is_initial: true,
            sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            limits: Some(Limits { subflows: 2, add_addr_accepted: 0 }),
            agent: has_agent.then(Doings::default),
            ..Actual::default()
        };
        for (index, (is_enabled, is_up, has_exit, readiness, has_ipv6)) in (1..).zip(links) {
            let name = format!("wan{index}");
            actual.links.push(Link { index, name, is_enabled, is_up: is_enabled && is_up });
            for is_ipv4 in [true, false].into_iter().filter(|is_ipv4| *is_ipv4 || has_ipv6) {
                let address = Address { readiness, ..Address::new(index, address(index, is_ipv4), 24) };
                actual.addresses.push(address);
                if has_exit {
                    actual.exits.push(Exit { is_ipv4, interface: index, gateway: None });
                }
            }
        }
        for (id, (index, is_ipv4, flag)) in (1..).zip(foreign) {
            let address = address(index, is_ipv4);
            let endpoint = Endpoint { id, address, port: None, flags: vec![flag.into()], interface: None };
            if actual.endpoints.iter().all(|known| known.address != address) {
                actual.endpoints.push(endpoint);
            }
        }
        actual
    })
}

fn succeeded(outcome: &Outcome) -> bool {
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    outcome.refusals.is_empty()
}

fn host_of(links: u32) -> Actual {
    let mut actual = Actual { limits: Some(Limits { subflows: 2, add_addr_accepted: 0 }), ..Actual::default() };
    for index in 1..=links {
        actual.links.push(Link { index, name: format!("wan{index:02}"), is_enabled: true, is_up: true });
        actual.addresses.push(Address::new(index, address(index, true), 24));
    }
    actual
}

fn wanted(rules: &[&str]) -> MultipathConfig {
    let endpoints = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    MultipathConfig { endpoints, failover: Some(false), ..MultipathConfig::default() }
}

fn interfaces(actual: &Actual) -> Vec<u32> {
    let mut all: Vec<u32> = actual.endpoints.iter().filter_map(|endpoint| endpoint.interface).collect();
    all.sort_unstable();
    all
}

#[test]
fn the_most_important_endpoints_find_room_beside_those_of_others() {
    let mut host = Model::new(host_of(20));
    let theirs = Endpoint { id: 0, address: address(99, true), port: None, flags: vec![], interface: None };
    host.actual.endpoints.push(theirs);
    let (mut memory, settings) = (Notebook::default(), wanted(&["wan*"]));
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Parts)));
    assert_eq!(interfaces(&host.actual), [1, 2, 3, 4, 5, 6, 7]);
    // One that lost its carrier keeps its place, one whose address is gone does not.
    host.actual.links[2].is_up = false;
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Parts)));
    assert_eq!(interfaces(&host.actual), [1, 2, 3, 4, 5, 6, 7]);
    let gone = host.actual.addresses.remove(2);
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Parts)));
    assert_eq!(interfaces(&host.actual), [1, 2, 4, 5, 6, 7, 8]);
    host.actual.addresses.push(gone);
    host.actual.links[2].is_up = true;
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Parts)));
    assert_eq!(interfaces(&host.actual), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_address_that_is_in_use_stays_so_when_another_one_comes() {
    let mut host = Model::new(host_of(1));
    let (mut memory, settings) = (Notebook::default(), wanted(&["wan*=ipv6"]));
    // As the kernel lists them: the newest one first.
    let temporary = Address { flags: 0x01, ..Address::new(1, address(7, false), 64) };
    host.actual.addresses.splice(0..0, [temporary.clone(), Address::new(1, address(1, false), 64)]);
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Whole)));
    assert_eq!(host.actual.endpoints[0].address, address(1, false));
    host.actual.addresses.insert(0, Address::new(1, address(2, false), 64));
    let outcome = apply(&mut host, &mut memory, &settings, Spirit::Whole);
    assert!(outcome.changes.is_empty(), "{outcome:?}");
    host.actual.addresses.retain(|one| one.address != address(1, false));
    assert!(succeeded(&apply(&mut host, &mut memory, &settings, Spirit::Whole)));
    assert_eq!(host.actual.endpoints[0].address, address(2, false));
}

#[test]
fn an_address_on_several_interfaces_is_used_where_it_can_be() {
    let mut host = Model::new(host_of(3));
    for index in [3, 2] {
        host.actual.addresses.insert(0, Address::new(index, address(9, true), 32));
    }
    host.actual.links[1].is_up = false;
    let mut memory = Notebook::default();
    assert!(succeeded(&apply(&mut host, &mut memory, &wanted(&["192.0.2.9"]), Spirit::Whole)));
    assert_eq!(interfaces(&host.actual), [3]);
}

#[test]
fn an_interface_that_was_renamed_is_switched_back() {
    let mut host = Model::new(host_of(2));
    let mut memory = Notebook::default();
    for index in [1, 2] {
        let change = Change::Link { name: format!("wan{index:02}"), index, up: false };
        assert!(succeeded(&command(&mut host, &mut memory, change)));
    }
    // The first one gets another name; in place of the second one there is another, which has not been switched on yet.
    host.actual.links[0].name = "uplink".into();
    host.actual.links[1].index = 3;
    assert!(succeeded(&release(&mut host, &mut memory)));
    let on: Vec<bool> = host.actual.links.iter().map(|link| link.is_enabled).collect();
    assert_eq!(on, [true, false]);
    assert!(memory.owned.is_empty(), "{:?}", memory.owned);
}

#[test]
fn what_uplinks_answer_to_local_networks_stays_inside() {
    let mut host = Model::new(host_of(2));
    host.actual.exits = [1, 2].map(|interface| Exit { is_ipv4: true, interface, gateway: None }).into();
    host.actual.links.push(Link { index: 7, name: "lan0".into(), is_enabled: true, is_up: true });
    host.actual.addresses.push(Address::new(7, [10, 0, 0, 1].into(), 24));
    host.actual.links.push(Link { index: 8, name: "lo".into(), is_enabled: true, is_up: true });
    let on_link = |text: &str, interface| OnLink { destination: text.parse().unwrap(), interface };
    let on_links = [("192.0.2.0/24", 1), ("10.0.0.0/24", 7), ("2001:db8::/64", 7), ("198.51.100.0/24", 8)];
    host.actual.on_links = on_links.map(|(text, interface)| on_link(text, interface)).into();
    // Whoever names no endpoints means every interface that leads anywhere.
    let named = MultipathConfig { manage_routes: true, ..wanted(&["wan*"]) };
    let all = MultipathConfig { path_manager: Some(PathManagerMode::Fullmesh), endpoints: Vec::new(), ..named.clone() };
    for settings in [named, all] {
        assert_stays_inside(&mut Model::new(host.actual.clone()), &settings);
    }
}

fn assert_stays_inside(host: &mut Model, settings: &MultipathConfig) {
    assert!(succeeded(&apply(host, &mut Notebook::default(), settings, Spirit::Whole)));
    for table in [1, 2].map(|index| settings.route_table + index) {
        let routes = host.actual.routes.iter().filter(|route| route.table == table);
        let routes: Vec<_> = routes.map(|route| (route.destination.to_string(), route.interface)).collect();
        let uplink = table - settings.route_table;
        let expected = [("192.0.2.0/24", uplink), ("0.0.0.0/0", uplink), ("10.0.0.0/24", 7)];
        assert_eq!(routes, expected.map(|(text, interface)| (text.to_owned(), interface)));
    }
}

#[test]
fn the_prefix_of_a_point_to_point_link_is_that_of_its_other_end() {
    let mut host = Model::new(host_of(1));
    host.actual.addresses[0].peer = Some(address(200, true));
    host.actual.addresses[0].prefix_len = 32;
    host.actual.exits.push(Exit { is_ipv4: true, interface: 1, gateway: None });
    let settings = MultipathConfig { manage_routes: true, ..wanted(&["wan*"]) };
    assert!(succeeded(&apply(&mut host, &mut Notebook::default(), &settings, Spirit::Whole)));
    let destinations: Vec<String> = host.actual.routes.iter().map(|route| route.destination.to_string()).collect();
    assert_eq!(destinations, ["192.0.2.200/32", "0.0.0.0/0"]);
}

proptest! {
    #[test]
    fn applying_leads_from_any_settings_to_any_others_and_back(
        actual in hosts(), first in settings(), second in settings(),
    ) {
        let before = plain(actual.clone());
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        for settings in [&first, &second, &first] {
            let was = host.clone();
            if succeeded(&apply(&mut host, &mut memory, settings, Spirit::Whole)) {
                let rest = preview(&mut host, &memory.owned, settings).unwrap();
                prop_assert!(rest.is_empty(), "{rest:?}");
                let again = apply(&mut host, &mut memory, settings, Spirit::Whole);
                prop_assert!(again.changes.is_empty() && again.is_success(), "{again:?}");
            } else {
                prop_assert_eq!(&was.actual, &host.actual);
            }
            for foreign in &before.endpoints {
                prop_assert!(plain(host.actual.clone()).endpoints.contains(foreign));
            }
        }
        prop_assert!(succeeded(&release(&mut host, &mut memory)));
        prop_assert_eq!(plain(host.actual), before);
        prop_assert!(memory.owned.is_empty(), "{:?}", memory.owned);
    }

    #[test]
    fn what_fails_is_undone(actual in hosts(), first in settings(), second in settings(), fails in 0..12usize) {
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        apply(&mut host, &mut memory, &first, Spirit::Whole);
        let (before, owned) = (plain(host.actual.clone()), memory.owned.clone());
        (host.performed, host.refuses) = (0, 1 << fails);
        let outcome = apply(&mut host, &mut memory, &second, Spirit::Whole);
        if !outcome.failures.is_empty() {
            prop_assert!(outcome.changes.is_empty(), "{outcome:?}");
            prop_assert_eq!(outcome.undone.len(), fails);
            prop_assert_eq!(plain(host.actual), before);
            // Identifiers may be others by now.
            prop_assert_eq!(memory.owned.endpoints.len(), owned.endpoints.len());
        }
    }

    #[test]
    fn whatever_is_refused_on_the_way_all_is_given_back(
        actual in hosts(), all in vec((settings(), any::<u64>(), any::<u64>()), 1..5), ends in any::<bool>(),
    ) {
        let before = plain(actual.clone());
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        for (settings, some, others) in &all {
            (host.performed, host.refuses) = (0, some & others);
            apply(&mut host, &mut memory, settings, Spirit::Parts);
            let is_foreign = |endpoint: &Endpoint| before.endpoints.iter().any(|known| known.has_place_of(endpoint));
            for endpoint in &host.actual.endpoints {
                prop_assert!(memory.owned.has(endpoint) != is_foreign(endpoint), "{endpoint:?} {:?}", memory.owned);
            }
            let is_served = |actual: &Actual| actual.agent.as_ref().is_none_or(|doings| doings.daemon.is_some());
            let manager = host.actual.sysctl("net.mptcp.path_manager");
            prop_assert!(manager != Some("userspace") || is_served(&host.actual), "nobody sees to connections");
        }
        host.refuses = 0;
        if ends && host.actual.agent.is_some() {
            stop(&mut host, &mut memory, &all[all.len() - 1].0.without_agent());
            prop_assert_eq!(host.actual.agent.as_ref(), Some(&Doings::default()));
            prop_assert!(host.actual.sysctl("net.mptcp.path_manager") != Some("userspace"));
        }
        prop_assert!(succeeded(&release(&mut host, &mut memory)));
        prop_assert_eq!(plain(host.actual), before);
        prop_assert!(memory.owned.is_empty(), "{:?}", memory.owned);
    }

    #[test]
    fn what_was_wanted_before_leaves_no_trace(actual in hosts(), first in settings(), second in settings()) {
        let (mut host, mut memory) = (Model::new(actual.clone()), Notebook::default());
        apply(&mut host, &mut memory, &first, Spirit::Whole);
        let (mut fresh, mut fresh_memory) = (Model::new(actual), Notebook::default());
        let outcome = apply(&mut host, &mut memory, &second, Spirit::Whole);
        let expected = apply(&mut fresh, &mut fresh_memory, &second, Spirit::Whole);
        prop_assert_eq!(&outcome.refusals, &expected.refusals);
        if outcome.is_success() {
            // What cannot be used now may stay if it was there.
            let held = desired(&second, &host.actual, &memory.owned).held;
            let is_held = |address: IpAddr| held.iter().any(|held| held.address == address);
            let keep = |mut actual: Actual| {
                actual.endpoints.retain(|endpoint| !is_held(endpoint.address));
                actual.rules.retain(|rule| !is_held(rule.source));
                actual.routes.clear();
                plain(actual)
            };
            prop_assert_eq!(keep(host.actual), keep(fresh.actual));
        }
    }

    #[test]
    fn what_somebody_else_takes_away_is_theirs_when_it_comes_back(actual in hosts(), settings in settings()) {
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        apply(&mut host, &mut memory, &settings, Spirit::Whole);
        let theirs = host.actual.endpoints.clone();
        host.actual.endpoints.clear();
        release(&mut host, &mut memory);
        host.actual.endpoints.clone_from(&theirs);
        apply(&mut host, &mut memory, &MultipathConfig::default(), Spirit::Parts);
        prop_assert_eq!(&host.actual.endpoints, &theirs);
    }

    #[test]
    fn who_dies_in_the_middle_finds_out_at_the_next_start(
        actual in hosts(), first in settings(), second in settings(), third in settings(), dies in 0..12usize,
    ) {
        let before = plain(actual.clone());
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        apply(&mut host, &mut memory, &first, Spirit::Whole);
        (host.performed, host.dies, memory.is_dead) = (0, Some(dies), true);
        apply(&mut host, &mut memory, &second, Spirit::Parts);
        // What ends with the agent has ended.
        host.actual.agent = host.actual.agent.take().map(|_| Doings::default());
        (host.dies, memory.is_dead) = (None, false);
        memory.owned = memory.owned.recovered(&std::mem::take(&mut memory.begun), &host.actual);
        if succeeded(&apply(&mut host, &mut memory, &third, Spirit::Parts)) {
            prop_assert!(preview(&mut host, &memory.owned, &third).unwrap().is_empty());
        }
        prop_assert!(succeeded(&release(&mut host, &mut memory)));
        prop_assert_eq!(plain(host.actual), before);
        prop_assert!(memory.owned.is_empty(), "{:?}", memory.owned);
    }

    #[test]
    fn what_somebody_else_changed_since_is_not_given_back(actual in hosts(), settings in settings()) {
        let (mut host, mut memory) = (Model::new(actual), Notebook::default());
        apply(&mut host, &mut memory, &settings, Spirit::Whole);
        let name = "net.ipv4.tcp_congestion_control";
        if let Some(value) = host.actual.sysctls.get_mut(name) {
            *value = "theirs".into();
            release(&mut host, &mut memory);
            prop_assert_eq!(host.actual.sysctl(name), Some("theirs"));
        }
    }
}
