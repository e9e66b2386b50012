//! What the host is like, as far as MPSec may change it or has to know it for that. Plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::address::Address;
use crate::snapshot::mptcp::Limits;

use super::change::{Change, Daemon, Endpoint, Force, Policy, SourceRoute, SourceRule};

/// A host, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// Settings by their dotted names; what this kernel lacks is not there.
    pub sysctls: BTreeMap<String, String>,
    /// Whether this is the host's own network namespace.
    pub is_initial: bool,
    /// Congestion controls that are installed as modules, by the modules' names.
    pub modules: Vec<String>,
    /// Limits of the in-kernel path manager; `None` without MPTCP.
    pub limits: Option<Limits>,
    /// Its endpoints, but for those that the kernel made itself.
    pub endpoints: Vec<Endpoint>,
    /// Interfaces.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// Default routes that somebody else made, best first.
    pub exits: Vec<Exit>,
    /// What is on its links, as its main table has it; not looked at where no routes are wanted.
    pub on_links: Vec<OnLink>,
    /// Routes that bear our mark.
    pub routes: Vec<SourceRoute>,
    /// Rules that bear our mark.
    pub rules: Vec<SourceRule>,
    /// What the agent itself does; `None` where none runs.
    pub agent: Option<Doings>,
}

/// What lasts no longer than the agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Doings {
    /// Why it does nothing that needs subflows to be counted; `None` where they are.
    pub uncounted: Option<String>,
    /// Its path manager.
    pub daemon: Option<Daemon>,
    /// What new subflows are given, by local address.
    pub policies: BTreeMap<IpAddr, Policy>,
    /// Whether paths that went down or silent are taken out.
    pub failover: bool,
    /// Programs that get MPTCP sockets.
    pub force: Force,
}

impl Doings {
    /// Whether it does anything.
    #[must_use]
    pub fn is_something(&self) -> bool {
        self.daemon.is_some() || !self.policies.is_empty() || self.failover || !self.force.is_empty()
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Whether it is switched on.
    pub is_enabled: bool,
    /// Whether it is switched on and has a carrier.
    pub is_up: bool,
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whether it is of IPv4.
    pub is_ipv4: bool,
    /// Index of the interface.
    pub interface: u32,
    /// The router; `None` on a link without one.
    pub gateway: Option<IpAddr>,
}

/// A network that is on the link of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnLink {
    /// Its prefix.
    pub destination: IpNet,
    /// Index of the interface.
    pub interface: u32,
}

impl Actual {
    /// The interface with this index.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The setting with this name.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// What it is like after a change: the model that plans are tested against.
    ///
    /// # Errors
    /// What the kernel would refuse.
    pub fn with(mut self, change: &Change) -> Result<Actual, String> {
        match change.clone() {
            Change::Sysctl { name, to, .. } => match self.sysctls.get_mut(&name) {
                Some(value) => *value = to,
                None => return Err(format!("this kernel has no {name}")),
            },
            Change::Limits { to, .. } => self.limits = Some(to),
            Change::AddEndpoint(endpoint) => self.add_endpoint(endpoint)?,
            Change::RemoveEndpoint(endpoint) => take(&mut self.endpoints, |known| known.has_place_of(&endpoint))?,
            Change::EndpointFlags { from, to } => {
                let known = self.endpoints.iter_mut().find(|known| known.has_place_of(&from));
                known.ok_or("address not found")?.flags = to.flags;
            }
            Change::AddRoute(route) => put(&mut self.routes, route)?,
            Change::RemoveRoute(route) => take(&mut self.routes, |known| *known == route)?,
            Change::AddRule(rule) => put(&mut self.rules, rule)?,
            Change::RemoveRule(rule) => take(&mut self.rules, |known| *known == rule)?,
            Change::Link { index, up, .. } => {
                let link = self.links.iter_mut().find(|link| link.index == index).ok_or("No such device")?;
                (link.is_enabled, link.is_up) = (up, up);
            }
            Change::Daemon { to, .. } => self.doings()?.daemon = to,
            Change::Policy { address, to: Some(policy), .. } => drop(self.doings()?.policies.insert(address, policy)),
            Change::Policy { address, to: None, .. } => drop(self.doings()?.policies.remove(&address)),
            Change::Failover { to } => self.doings()?.failover = to,
            Change::Force { to, .. } => self.doings()?.force = to,
        }
        Ok(self)
    }

    fn doings(&mut self) -> Result<&mut Doings, String> {
        self.agent.as_mut().ok_or_else(|| "it needs the running agent".to_owned())
    }

    fn add_endpoint(&mut self, mut endpoint: Endpoint) -> Result<(), String> {
        let same = |known: &Endpoint| known.address == endpoint.address && known.port == endpoint.port;
        if self.endpoints.iter().any(same) {
            return Err("address already in use".into());
        }
        // MPTCP_PM_ADDR_MAX (net/mptcp/protocol.h, 6.18).
        if self.endpoints.len() >= 8 {
            return Err("too many addresses or duplicate one: -34".into());
        }
        let is_free = |id: &u8| self.endpoints.iter().all(|known| known.id != *id);
        if endpoint.id == 0 || !is_free(&endpoint.id) {
            endpoint.id = (1..=u8::MAX).find(is_free).ok_or("no more identifiers")?;
        }
        self.endpoints.push(endpoint);
        Ok(())
    }
}

fn put<T: PartialEq>(all: &mut Vec<T>, one: T) -> Result<(), String> {
    if all.contains(&one) {
        return Err("File exists".into());
    }
    all.push(one);
    Ok(())
}

fn take<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> Result<(), String> {
    let place = all.iter().position(is_it).ok_or("No such process")?;
    all.remove(place);
    Ok(())
}
