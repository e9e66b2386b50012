//! The real host: what the kernel says, as plain data, and changes, as calls of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::MultipathConfig;
use crate::conflicts::{self, Conflict, Stops};
use crate::kernel::mptcp_pm::{self, EndpointFlags, PathManager, PathManagerError};
use crate::kernel::netlink::Client;
use crate::kernel::route::{self, Filter, Kind, Route};
use crate::kernel::rtnl::{Family, PROTOCOL, TABLE_MAIN};
use crate::kernel::rule::{self, Rule};
use crate::kernel::{address, features, link, managers, sysctl};

use super::actual::{Actual, Doings, Exit, Link, OnLink};
use super::apply::{Host, Outcome};
use super::change::{Change, Endpoint, SourceRoute, SourceRule};
use super::plan::Plan;

/// Priority of our rules: before the main table (32766), behind those that people write by hand without a thought (32765 and
/// downwards), which are more than a rule for single addresses means.
const RULE_PRIORITY: u32 = 15_480;
/// What made a route to what is on a link (`RTPROT_KERNEL`, include/uapi/linux/rtnetlink.h).
const PROTOCOL_KERNEL: u8 = 2;
/// Settings that are looked at beside `net.mptcp.*`.
const SYSCTLS: [&str; 7] = [
    "net.ipv4.tcp_allowed_congestion_control",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_reordering",
    "net.ipv4.tcp_recovery",
    "net.ipv4.tcp_reordering",
    "net.ipv4.tcp_rmem",
];

/// What the running agent does itself.
pub trait Agency {
    /// What it does now.
    fn doings(&self) -> Doings;

    /// Endpoints that it has taken away for a while, and puts back.
    fn suspended(&self) -> Vec<mptcp_pm::Endpoint> {
        Vec::new()
    }

    /// One of those, by its address and port, is not to be put back. False if it was none.
    fn forget(&mut self, _endpoint: &mptcp_pm::Endpoint) -> bool {
        false
    }

    /// Begins or ends to do something.
    ///
    /// # Errors
    /// Why it cannot.
    fn perform(&mut self, change: &Change) -> Result<(), String>;
}

/// The network namespace of the calling thread.
pub struct Live<'a> {
    rtnl: Client,
    /// `None` without MPTCP.
    manager: Option<PathManager>,
    agency: Option<&'a mut dyn Agency>,
    /// Modules that are looked for.
    modules: Vec<String>,
    /// What the numbers of our tables begin at.
    route_table: u32,
    /// Whether routes are wanted, which take knowing what is on links.
    manages_routes: bool,
}

impl<'a> Live<'a> {
    /// Opens what is needed for these settings. Without an agency what needs the running agent is refused.
    ///
    /// # Errors
    /// Why the kernel cannot be asked.
    pub fn open(settings: &MultipathConfig, agency: Option<&'a mut dyn Agency>) -> Result<Live<'a>, String> {
        let rtnl = Client::open(netlink_sys::protocols::NETLINK_ROUTE).map_err(text)?;
        let manager = match PathManager::open() {
            Ok(manager) => Some(manager),
            Err(PathManagerError::NoMptcp) => None,
            Err(error) => return Err(text(error)),
        };
        let by_path = settings.path_congestion_control.iter().map(|one| &one.value);
        let modules = settings.congestion_control.iter().chain(by_path).map(|name| format!("tcp_{name}")).collect();
        let MultipathConfig { route_table, manage_routes: manages_routes, .. } = *settings;
        Ok(Live { rtnl, manager, agency, modules, route_table, manages_routes })
    }

    fn manager(&mut self) -> Result<&mut PathManager, String> {
        self.manager.as_mut().ok_or_else(|| PathManagerError::NoMptcp.to_string())
    }

    fn endpoints(&mut self) -> Result<Vec<Endpoint>, String> {
        let Some(manager) = &mut self.manager else { return Ok(Vec::new()) };
        let all = manager.endpoints().map_err(|error| format!("endpoints: {error}"))?;
        // An implicit one goes when another of its address comes.
        let is_made = |endpoint: &&mptcp_pm::Endpoint| !endpoint.flags.contains(EndpointFlags::IMPLICIT);
        let mut all: Vec<Endpoint> = all.iter().filter(is_made).map(endpoint).collect();
        let suspended = self.agency.as_ref().map_or(Vec::new(), |agency| agency.suspended());
        for endpoint in suspended.iter().map(endpoint) {
            match all.iter_mut().find(|known| known.has_place_of(&endpoint)) {
                Some(known) => *known = endpoint,
                None => all.push(endpoint),
            }
        }
        Ok(all)
    }

    fn sysctls(&self) -> Result<BTreeMap<String, String>, String> {
        let mptcp = sysctl::read_mptcp().map_err(|error| format!("net.mptcp: {error}"))?;
        let mut all: BTreeMap<_, _> =
            mptcp.into_iter().map(|(name, value)| (format!("net.mptcp.{name}"), sysctl::normal(&value))).collect();
        for name in SYSCTLS {
            if let Some(value) = sysctl::read(name).map_err(text)? {
                all.insert(name.to_owned(), value);
            }
        }
        Ok(all)
    }

    fn exits(&mut self) -> Result<Vec<Exit>, String> {
        let filter = Filter { only_defaults: true, ..Filter::default() };
        let mut routes = route::list_filtered(&mut self.rtnl, &filter).map_err(text)?;
        routes.retain(|route| route.protocol != PROTOCOL);
        // Tables that somebody made for other ends say what the main one does not.
        routes.sort_by_key(|route| (route.table != TABLE_MAIN, route.metric.unwrap_or(0)));
        let exits = routes.iter().flat_map(|route| {
            let is_ipv4 = route.family() == Family::V4;
            route.ways().map(move |(interface, gateway)| Exit { is_ipv4, interface, gateway })
        });
        Ok(exits.collect())
    }

    /// What is on the links of this host, by the main table: what the kernel put there for addresses.
    fn on_links(&mut self) -> Result<Vec<OnLink>, String> {
        let filter = Filter { table: Some(TABLE_MAIN), protocol: Some(PROTOCOL_KERNEL), ..Filter::default() };
        let routes = route::list_filtered(&mut self.rtnl, &filter).map_err(text)?;
        let found = routes.iter().filter(|route| route.kind == Kind::Unicast && route.gateway.is_none());
        let found = found.filter_map(|route| {
            let network = route.destination.addr();
            let is_beyond_the_link = match network {
                IpAddr::V4(address) => !address.is_link_local(),
                IpAddr::V6(address) => !address.is_unicast_link_local(),
            };
            let is_network = route.destination.prefix_len() > 0 && !network.is_multicast() && is_beyond_the_link;
            let interface = route.ifindex.filter(|_| is_network)?;
            Some(OnLink { destination: route.destination, interface })
        });
        Ok(found.collect())
    }

    fn own_routes(&mut self) -> Result<Vec<SourceRoute>, String> {
        let filter = Filter { protocol: Some(PROTOCOL), ..Filter::default() };
        let routes = route::list_filtered(&mut self.rtnl, &filter).map_err(text)?;
        let ours = routes.iter().filter_map(|route| {
            let interface = route.ifindex?;
            let Route { table, destination, gateway, .. } = *route;
            Some(SourceRoute { table, destination, gateway, interface })
        });
        Ok(ours.collect())
    }

    fn own_rules(&mut self) -> Result<Vec<SourceRule>, String> {
        let rules = rule::list(&mut self.rtnl).map_err(text)?;
        let ours = rules.iter().filter(|rule| rule.protocol == PROTOCOL).filter_map(|rule| {
            let source = rule.source?.addr();
            Some(SourceRule { source, table: rule.table })
        });
        Ok(ours.collect())
    }

    /// The kernel's identifier, where it was not known when the change was made up.
    fn found(&mut self, endpoint: &Endpoint) -> Result<Option<Endpoint>, String> {
        Ok(self.endpoints()?.into_iter().find(|known| known.has_place_of(endpoint)))
    }

    /// Whether the agent had taken it away; then it is not put back.
    fn forget(&mut self, endpoint: &Endpoint) -> bool {
        self.agency.as_mut().is_some_and(|agency| agency.forget(&kernels(endpoint)))
    }

    fn remove_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), String> {
        if self.forget(endpoint) {
            return Ok(());
        }
        // One that is gone already need not go.
        let Some(found) = self.found(endpoint)? else { return Ok(()) };
        self.manager()?.delete_endpoint(&kernels(&found)).map_err(refused)
    }

    fn change_endpoint(&mut self, to: &Endpoint) -> Result<(), String> {
        if self.forget(to) {
            return self.perform(&Change::AddEndpoint(to.clone()));
        }
        let id = self.found(to)?.ok_or("the kernel has no such endpoint")?.id;
        self.manager()?.set_endpoint_flags(&kernels(&Endpoint { id, ..to.clone() })).map_err(refused)
    }
}

/// Whether Linux has this congestion control as a module (net/ipv4/Kconfig, 6.1 to 6.18), for where it cannot be seen which ones
/// are installed.
fn is_of_mainline(module: &str) -> bool {
    const NAMES: &[&str] = &[
        "bbr",
        "bic",
        "cdg",
        "cubic",
        "dctcp",
        "highspeed",
        "htcp",
        "hybla",
        "illinois",
        "lp",
        "nv",
        "scalable",
        "vegas",
        "veno",
        "westwood",
        "yeah",
    ];
    module.strip_prefix("tcp_").is_some_and(|name| NAMES.contains(&name))
}

impl Host for Live<'_> {
    fn retrieve(&mut self) -> Result<Actual, String> {
        let sysctls = self.sysctls()?;
        let installed = |name: &&String| features::module_installed(name).unwrap_or_else(|| is_of_mainline(name));
        let links = link::list().map_err(|error| format!("interfaces: {error}"))?;
        Ok(Actual {
            // The kernel offers this one in the first network namespace alone (tcp_cong.c, sysctl_net_ipv4.c).
            is_initial: sysctls.contains_key("net.ipv4.tcp_allowed_congestion_control"),
            sysctls,
            modules: self.modules.iter().filter(installed).cloned().collect(),
            limits: match &mut self.manager {
                Some(manager) => Some(manager.limits().map_err(|error| format!("limits: {error}"))?),
                None => None,
            },
            endpoints: self.endpoints()?,
            links: links
                .into_iter()
                .map(|link| Link { index: link.index, is_enabled: link.is_enabled, is_up: link.is_up, name: link.name })
                .collect(),
            addresses: address::list().map_err(|error| format!("addresses: {error}"))?,
            exits: self.exits()?,
            on_links: if self.manages_routes { self.on_links()? } else { Vec::new() },
            routes: self.own_routes()?,
            rules: self.own_rules()?,
            agent: self.agency.as_ref().map(|agency| agency.doings()),
        })
    }

    fn perform(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Sysctl { name, to, .. } => sysctl::write(name, to).map_err(text),
            Change::Limits { to, .. } => self.manager()?.set_limits(*to).map_err(refused),
            Change::AddEndpoint(endpoint) => {
                // An identifier that it had before may be another's by now.
                let new = Endpoint { id: 0, ..endpoint.clone() };
                self.manager()?.add_endpoint(&kernels(&new)).map_err(refused)
            }
            Change::RemoveEndpoint(endpoint) => self.remove_endpoint(endpoint),
            Change::EndpointFlags { to, .. } => self.change_endpoint(to),
            Change::AddRoute(route) => {
                route::add(&mut self.rtnl, &kernel_route(route)).map_err(|error| error.in_full())
            }
            Change::RemoveRoute(route) => gone(route::delete(&mut self.rtnl, &kernel_route(route))),
            Change::AddRule(rule) => rule::add(&mut self.rtnl, &kernel_rule(rule)).map_err(|error| error.in_full()),
            Change::RemoveRule(rule) => gone(rule::delete(&mut self.rtnl, &kernel_rule(rule))),
            Change::Link { index, up, .. } => {
                link::set_up(&mut self.rtnl, *index, *up).map_err(|error| error.in_full())
            }
            Change::Daemon { .. } | Change::Policy { .. } | Change::Failover { .. } | Change::Force { .. } => {
                match &mut self.agency {
                    Some(agency) => agency.perform(change),
                    None => Err("it needs the running agent: start it (mpsec run)".into()),
                }
            }
        }
    }

    fn conflicts(&mut self, plan: &Plan) -> Vec<String> {
        let interface = |change| interface(change, self.route_table);
        let interfaces: BTreeSet<u32> = plan.changes.iter().filter_map(interface).collect();
        if interfaces.is_empty() {
            return Vec::new();
        }
        let links = link::list().unwrap_or_default();
        let named = links.into_iter().filter(|link| interfaces.contains(&link.index));
        let named: BTreeMap<u32, String> = named.map(|link| (link.index, link.name)).collect();
        let is_of_routes = |change: &Change| matches!(change, Change::AddRoute(_) | Change::AddRule(_));
        let routes = plan.changes.iter().any(is_of_routes);
        let stops = |conflict: &Conflict| match conflict.stops {
            Stops::Endpoints => true,
            Stops::Routes => routes,
            Stops::Nothing => false,
        };
        let all = conflicts::conflicts(&managers::look(), &named);
        all.iter().filter(|conflict| stops(conflict)).map(ToString::to_string).collect()
    }
}

/// The interface that a change makes something for that another program might undo. Each table of ours is for one, whose
/// number it has; the others that it leads to keep theirs.
fn interface(change: &Change, route_table: u32) -> Option<u32> {
    match change {
        Change::AddEndpoint(endpoint) => Some(endpoint.interface.unwrap_or(0)),
        Change::EndpointFlags { to, .. } => Some(to.interface.unwrap_or(0)),
        Change::AddRoute(route) => Some(route.table.saturating_sub(route_table)),
        _ => None,
    }
}

/// Names of the interfaces that changes speak of, by index, as far as those are there.
#[must_use]
pub fn interface_names(outcome: &Outcome) -> BTreeMap<u32, String> {
    let failed = outcome.failures.iter().filter_map(|failure| failure.change.as_ref());
    let changes = outcome.changes.iter().chain(&outcome.undone).chain(failed);
    let indices: BTreeSet<u32> = changes.filter_map(Change::interface).collect();
    let links = if indices.is_empty() { Vec::new() } else { link::list().unwrap_or_default() };
    let named = links.into_iter().filter(|link| indices.contains(&link.index));
    named.map(|link| (link.index, link.name)).collect()
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn refused(error: PathManagerError) -> String {
    error.in_full()
}

/// What goes with its interface may be gone already.
fn gone(outcome: Result<(), crate::kernel::netlink::NetlinkError>) -> Result<(), String> {
    match outcome {
        Err(error) if !matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Err(text(error)),
        _ => Ok(()),
    }
}

/// An endpoint of the kernel's as plain data.
pub(crate) fn endpoint(kernels: &mptcp_pm::Endpoint) -> Endpoint {
    Endpoint {
        id: kernels.id,
        address: kernels.address,
        port: kernels.port,
        flags: kernels.flags.names(),
        interface: kernels.interface.and_then(|index| u32::try_from(index).ok()),
    }
}

/// The other way round.
pub(crate) fn kernels(endpoint: &Endpoint) -> mptcp_pm::Endpoint {
    mptcp_pm::Endpoint {
        id: endpoint.id,
        port: endpoint.port,
        interface: endpoint.interface.and_then(|index| i32::try_from(index).ok()),
        ..mptcp_pm::Endpoint::new(endpoint.address, endpoint.bits())
    }
}

/// The router need not be in the interface's own prefix, as with some providers, or point to point.
fn kernel_route(route: &SourceRoute) -> Route {
    let made = Route::new(route.destination, route.table, route.interface, route.gateway);
    Route { onlink: route.gateway.is_some(), ..made }
}

fn kernel_rule(rule: &SourceRule) -> Rule {
    let family = Family::of(rule.source);
    let host = match rule.source {
        IpAddr::V4(address) => IpNet::V4(address.into()),
        IpAddr::V6(address) => IpNet::V6(address.into()),
    };
    Rule { source: Some(host), ..Rule::lookup(family, RULE_PRIORITY, rule.table) }
}
