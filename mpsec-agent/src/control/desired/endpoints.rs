//! Which addresses become endpoints, and the rules and routes that they need.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::MultipathConfig;
use crate::config::multipath::{EndpointRule, Match, PerInterface, matches};
use crate::kernel::address::{Address, Readiness};
use crate::kernel::mptcp_pm::EndpointFlags;

use super::super::actual::{Actual, Link, OnLink};
use super::super::change::{Endpoint, SourceRoute, SourceRule};
use super::super::mode::{self, MOST};
use super::super::owned::Owned;

use super::Desired;

impl Desired {
    pub(super) fn endpoints(&mut self, settings: &MultipathConfig, actual: &Actual, owned: &Owned) {
        let mode = settings.path_manager.map(mode::of);
        let usual = |nth| match mode {
            Some(mode) => mode.flags(nth),
            None => Some(EndpointFlags::SUBFLOW),
        };
        let every = [EndpointRule::every()];
        let rules = match settings.endpoints.as_slice() {
            [] if settings.path_manager.is_none() || usual(0).is_none() => return,
            [] => &every[..],
            rules => rules,
        };
        // Interfaces by importance.
        let mut ranks: Vec<u32> = Vec::new();
        let mut candidates = Vec::new();
        for rule in rules {
            // One that is down keeps its place.
            for link in links(rule, actual) {
                if !ranks.contains(&link.index) {
                    ranks.push(link.index);
                }
            }
            for (address, is_usable) in self.addresses(rule, settings, actual, owned) {
                let nth = ranks.iter().position(|known| *known == address.ifindex).unwrap_or(ranks.len());
                if let Some(usual) = usual(nth) {
                    candidates.push((endpoint(rule, usual, &address), is_usable));
                }
            }
        }
        self.choose(candidates, actual, owned);
    }

    /// The most important ones, as far as there is room beside those of others.
    fn choose(&mut self, candidates: Vec<(Endpoint, bool)>, actual: &Actual, owned: &Owned) {
        let is_at = |one: &Endpoint, other: &Endpoint| one.address == other.address && one.port == other.port;
        let others: Vec<&Endpoint> = actual.endpoints.iter().filter(|there| !owned.has(there)).collect();
        let mut room = (MOST as usize).saturating_sub(others.len());
        for (candidate, is_usable) in candidates {
            if self.endpoints.iter().chain(&self.held).any(|known| is_at(known, &candidate)) {
                continue;
            }
            let is_there = actual.endpoints.iter().any(|there| there.has_place_of(&candidate));
            if (is_usable || is_there) && !others.iter().any(|other| is_at(other, &candidate)) {
                if room == 0 {
                    self.waiting.push(format!("{}: there can be {MOST} endpoints at most", candidate.address));
                    continue;
                }
                room -= 1;
            }
            let list = if is_usable { &mut self.endpoints } else { &mut self.held };
            list.push(candidate);
        }
    }

    /// The addresses that a rule means, each with whether it can be used by now. Of an interface it is one of each family, or
    /// none of a family of which none can be used yet: then all that are there.
    fn addresses(
        &mut self,
        rule: &EndpointRule,
        settings: &MultipathConfig,
        actual: &Actual,
        owned: &Owned,
    ) -> Vec<(Address, bool)> {
        let links = links(rule, actual);
        if let Match::Address(wanted) = rule.matches {
            let mut candidates = Vec::new();
            for link in &links {
                let on_link = actual.addresses.iter().filter(|one| is_on(one, link, wanted));
                candidates.extend(on_link.map(|one| (*link, one.clone())));
            }
            let found = self.first_usable(candidates, settings, actual);
            if found.is_empty() {
                self.waiting.push(format!("{wanted}: it is on no interface but lo"));
            }
            return found;
        }
        if let (Match::Interfaces(pattern), true) = (&rule.matches, links.is_empty()) {
            self.waiting.push(format!("{pattern}: there is no such interface"));
        }
        let is_asked_for = |is_ipv4: &bool| rule.family.is_none_or(|only| (only == 4) == *is_ipv4);
        let mut all = Vec::new();
        for link in links {
            for is_ipv4 in [true, false].into_iter().filter(is_asked_for) {
                // Of those that nobody named, the ones that lead anywhere.
                if !settings.endpoints.is_empty() || has_exit(settings, actual, link, is_ipv4) {
                    all.extend(self.of_interface(link, is_ipv4, settings, actual, owned));
                } else {
                    let there = of_family(link, is_ipv4, actual);
                    all.extend(there.map(|address| (address.clone(), false)));
                }
            }
        }
        all
    }

    /// The address of a family that can be used: the one that is in use, as connections would lose their path with it, or one
    /// that stays. All, if none can.
    fn of_interface(
        &mut self,
        link: &Link,
        is_ipv4: bool,
        settings: &MultipathConfig,
        actual: &Actual,
        owned: &Owned,
    ) -> Vec<(Address, bool)> {
        let is_in_use = |one: &Address| {
            let holds = |ours: &Endpoint| ours.address == one.address && ours.interface == Some(one.ifindex);
            owned.endpoints.iter().any(holds)
        };
        let mut candidates: Vec<_> = of_family(link, is_ipv4, actual).map(|address| (link, address.clone())).collect();
        // The kernel lists the newest one first with IPv6, and temporary ones among them.
        candidates.sort_by_key(|(_, address)| (!is_in_use(address), address.is_temporary()));
        self.first_usable(candidates, settings, actual)
    }

    /// The first that can be used, or all that cannot.
    fn first_usable(
        &mut self,
        candidates: Vec<(&Link, Address)>,
        settings: &MultipathConfig,
        actual: &Actual,
    ) -> Vec<(Address, bool)> {
        let before = self.waiting.len();
        let mut unusable = Vec::new();
        for (link, address) in candidates {
            if self.is_usable(link, &address, settings, actual) {
                self.waiting.truncate(before);
                return vec![(address, true)];
            }
            unusable.push((address, false));
        }
        unusable
    }

    /// Whether an address can be used now; if not, it is said what it waits for.
    fn is_usable(&mut self, link: &Link, address: &Address, settings: &MultipathConfig, actual: &Actual) -> bool {
        let is_ipv4 = address.address.is_ipv4();
        let reason = match address.readiness {
            _ if !link.is_enabled => "its interface is switched off",
            _ if !link.is_up => "its interface has no carrier",
            Readiness::Tentative => "duplicate address detection has not ended",
            Readiness::Duplicate => "another host has this address",
            Readiness::Deprecated => "it is deprecated",
            Readiness::Ready if settings.manage_routes && !has_exit(settings, actual, link, is_ipv4) => {
                "no default route leads through its interface; set mptcp.gateways, or wait for one"
            }
            Readiness::Ready => return true,
        };
        self.waiting.push(format!("{} on {}: {reason}", address.address, link.name));
        false
    }

    /// The endpoints that are wanted, and those that cannot be used now and are there.
    fn there<'a>(&'a self, actual: &'a Actual) -> impl Iterator<Item = &'a Endpoint> {
        let held = self.held.iter().filter(|held| actual.endpoints.iter().any(|there| there.has_place_of(held)));
        self.endpoints.iter().chain(held)
    }

    /// What is on the links of interfaces that lead nowhere else: local networks, bridges of containers. Without it in their
    /// tables, answers of this host's outer addresses to them would leave by an uplink.
    fn beside_uplinks<'a>(&self, actual: &'a Actual, is_ipv4: bool) -> impl Iterator<Item = &'a OnLink> + use<'a> {
        let uplinks: Vec<u32> = self.there(actual).filter_map(|one| one.interface).collect();
        actual.on_links.iter().filter(move |there| {
            let is_enabled = actual.link(there.interface).is_some_and(|link| link.is_enabled);
            let is_uplink =
                uplinks.contains(&there.interface) || actual.exits.iter().any(|exit| exit.interface == there.interface);
            let is_loopback = there.destination.addr().is_loopback()
                || actual.link(there.interface).is_some_and(|link| link.name == "lo");
            is_enabled && !is_uplink && !is_loopback && there.destination.addr().is_ipv4() == is_ipv4
        })
    }

    pub(super) fn source_routes(&mut self, settings: &MultipathConfig, actual: &Actual) {
        let endpoints: Vec<Endpoint> = self.there(actual).cloned().collect();
        for endpoint in endpoints {
            let Some(index) = endpoint.interface else { continue };
            let (Some(link), table) = (actual.link(index), settings.route_table.saturating_add(index)) else {
                continue;
            };
            let is_it = |address: &&Address| address.address == endpoint.address && address.ifindex == index;
            let Some(address) = actual.addresses.iter().find(is_it) else { continue };
            let is_ipv4 = endpoint.address.is_ipv4();
            // The prefix is that of the other end where there is one.
            let on_link =
                IpNet::new(address.peer.unwrap_or(address.address), address.prefix_len).map(|net| net.trunc());
            let everywhere = if is_ipv4 { "0.0.0.0/0" } else { "::/0" }.parse().expect("a prefix");
            let routes = [
                on_link.ok().map(|destination| SourceRoute { table, destination, gateway: None, interface: index }),
                exit(settings, actual, link, is_ipv4).map(|gateway| SourceRoute {
                    table,
                    destination: everywhere,
                    gateway,
                    interface: index,
                }),
            ];
            let others = self.beside_uplinks(actual, is_ipv4).map(|there| SourceRoute {
                table,
                destination: there.destination,
                gateway: None,
                interface: there.interface,
            });
            let others: Vec<_> = others.collect();
            // An interface that is off has none.
            for route in routes.into_iter().flatten().chain(others).filter(|_| link.is_enabled) {
                let is_it = |known: &SourceRoute| known.table == table && known.destination == route.destination;
                if !self.routes.iter().any(is_it) {
                    self.routes.push(route);
                }
            }
            let rule = SourceRule { source: endpoint.address, table };
            if !self.rules.contains(&rule) {
                self.rules.push(rule);
            }
        }
    }
}

fn endpoint(rule: &EndpointRule, usual: EndpointFlags, address: &Address) -> Endpoint {
    Endpoint {
        id: 0,
        address: address.address,
        port: rule.port,
        flags: rule.flags(usual).names(),
        interface: Some(address.ifindex),
    }
}

fn is_on(address: &Address, link: &Link, wanted: IpAddr) -> bool {
    address.address == wanted && address.ifindex == link.index
}

/// The interfaces that a rule means, by name.
fn links<'a>(rule: &EndpointRule, actual: &'a Actual) -> Vec<&'a Link> {
    let is_meant = |link: &&Link| match &rule.matches {
        Match::Interfaces(pattern) => matches(pattern, &link.name),
        Match::Address(wanted) => actual.addresses.iter().any(|address| is_on(address, link, *wanted)),
    };
    let mut links: Vec<&Link> = actual.links.iter().filter(|link| link.name != "lo").filter(is_meant).collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    links
}

/// The addresses of a family that an interface has and that are good beyond its link.
fn of_family<'a>(link: &'a Link, is_ipv4: bool, actual: &'a Actual) -> impl Iterator<Item = &'a Address> {
    actual.addresses.iter().filter(move |address| {
        let suits = address.address.is_ipv4() == is_ipv4 && !address.address.is_loopback();
        address.ifindex == link.index && suits && !address.is_local
    })
}

/// The router of an interface, if packets can leave by it: `Some(None)` where none is needed.
fn exit(settings: &MultipathConfig, actual: &Actual, link: &Link, is_ipv4: bool) -> Option<Option<IpAddr>> {
    let of_family = |gateway: &&PerInterface<IpAddr>| gateway.value.is_ipv4() == is_ipv4;
    let mut configured = settings.gateways.iter().filter(of_family);
    if let Some(found) = configured.find(|gateway| matches(&gateway.interfaces, &link.name)) {
        return Some(Some(found.value));
    }
    let found = actual.exits.iter().find(|exit| exit.is_ipv4 == is_ipv4 && exit.interface == link.index);
    found.map(|exit| exit.gateway)
}

fn has_exit(settings: &MultipathConfig, actual: &Actual, link: &Link, is_ipv4: bool) -> bool {
    exit(settings, actual, link, is_ipv4).is_some()
}
