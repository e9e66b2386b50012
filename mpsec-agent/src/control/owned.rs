//! What MPSec made or changed on the host, and so may take back. Plain data, kept in the state file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::mptcp::Limits;

use super::actual::Actual;
use super::change::{Change, Endpoint};
use super::desired::Desired;

/// What is ours. Routes and rules are not listed: they bear our mark in the kernel, and it is only kept that there are some.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// Settings of the kernel's, by name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, Changed<String>>,
    /// The limits.
    #[serde(default)]
    pub limits: Option<Changed<Limits>>,
    /// Endpoints.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Whether there may be routes or rules that we made.
    #[serde(default)]
    pub routes: bool,
    /// Interfaces by index, as names change: whether they were on.
    #[serde(default)]
    pub links: BTreeMap<u32, Changed<bool>>,
}

/// What something was before the first change, and what it was made last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed<T> {
    /// Before MPSec.
    pub original: T,
    /// By MPSec.
    pub ours: T,
}

impl Changed<Limits> {
    /// The limits as they were, but for one that somebody else has set since.
    #[must_use]
    pub fn given_back(&self, now: Limits) -> Limits {
        let one = |now, ours, original| if now == ours { original } else { now };
        Limits {
            subflows: one(now.subflows, self.ours.subflows, self.original.subflows),
            add_addr_accepted: one(now.add_addr_accepted, self.ours.add_addr_accepted, self.original.add_addr_accepted),
        }
    }
}

impl Owned {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an endpoint is ours.
    #[must_use]
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.iter().any(|ours| ours.has_place_of(endpoint))
    }

    /// What the kernel's settings would be without us: what those that are ours were before.
    #[must_use]
    pub fn originals(&self, actual: &Actual) -> Actual {
        let mut original = actual.clone();
        for (name, changed) in &self.sysctls {
            original.sysctls.entry(name.clone()).and_modify(|value| {
                if *value == changed.ours {
                    value.clone_from(&changed.original);
                }
            });
        }
        original.limits = actual.limits.map(|now| self.limits.as_ref().map_or(now, |changed| changed.given_back(now)));
        original
    }

    /// Takes note of a change that was made.
    pub fn note(&mut self, change: &Change) {
        match change.clone() {
            Change::Sysctl { name, from, to } => match self.sysctls.get_mut(&name) {
                Some(changed) => changed.ours = to,
                None => drop(self.sysctls.insert(name, Changed { original: from, ours: to })),
            },
            Change::Limits { from, to } => match &mut self.limits {
                Some(changed) => changed.ours = to,
                None => self.limits = Some(Changed { original: from, ours: to }),
            },
            Change::AddEndpoint(endpoint) => {
                self.endpoints.retain(|known| !known.has_place_of(&endpoint));
                self.endpoints.push(endpoint);
            }
            Change::RemoveEndpoint(endpoint) => self.endpoints.retain(|known| !known.has_place_of(&endpoint)),
            Change::EndpointFlags { to, .. } => {
                self.endpoints.iter_mut().filter(|known| known.has_place_of(&to)).for_each(|known| *known = to.clone());
            }
            Change::Link { index, up, .. } => match self.links.get_mut(&index) {
                Some(changed) if changed.original == up => drop(self.links.remove(&index)),
                Some(changed) => changed.ours = up,
                None => drop(self.links.insert(index, Changed { original: !up, ours: up })),
            },
            Change::AddRoute(_) | Change::AddRule(_) => self.routes = true,
            Change::RemoveRoute(_)
            | Change::RemoveRule(_)
            | Change::Daemon { .. }
            | Change::Policy { .. }
            | Change::Failover { .. }
            | Change::Force { .. } => {}
        }
    }

    /// Forgets what is wanted no more, after it was given back, and what somebody else took away: what may come in its place
    /// is not ours.
    pub fn prune(&mut self, desired: &Desired, actual: &Actual) {
        self.sysctls.retain(|name, _| desired.sysctls.contains_key(name));
        if desired.limits.is_none() {
            self.limits = None;
        }
        self.endpoints.retain(|ours| actual.endpoints.iter().any(|there| there.has_place_of(ours)));
        // Those that are there as they are wanted, without our knowing, were made before the memory was lost.
        self.routes |= !desired.rules.is_empty();
        self.routes &= !actual.routes.is_empty() || !actual.rules.is_empty();
    }

    /// What is ours after changes of which nobody knows how many were made, judged by what is there now. `self` is what was
    /// ours before them.
    #[must_use]
    pub fn recovered(mut self, changes: &[Change], actual: &Actual) -> Owned {
        let is_there = |endpoint: &Endpoint| actual.endpoints.iter().any(|known| known.has_place_of(endpoint));
        for change in changes {
            let happened = match change {
                Change::AddEndpoint(endpoint) => is_there(endpoint),
                Change::RemoveEndpoint(endpoint) => !is_there(endpoint),
                Change::Link { index, up, .. } => actual.link(*index).is_some_and(|link| link.is_enabled == *up),
                Change::Sysctl { name, from, .. } => actual.sysctl(name) != Some(from),
                Change::Limits { from, .. } => actual.limits != Some(*from),
                _ => true,
            };
            if happened {
                self.note(change);
            }
        }
        self
    }
}
