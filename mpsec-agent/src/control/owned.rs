//! What MPSec made or changed on the host, and so may take back. Plain data, kept in the state file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::mptcp::Limits;

use super::actual::Actual;
use super::change::{Change, Endpoint};
use super::desired::Desired;

/// What is ours. Routes and rules are not listed: they bear our mark in the kernel.
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
    /// Interfaces by name: whether they were on.
    #[serde(default)]
    pub links: BTreeMap<String, Changed<bool>>,
}

/// What something was before the first change, and what it was made last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed<T> {
    /// Before MPSec.
    pub original: T,
    /// By MPSec.
    pub ours: T,
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
            Change::Link { name, up, .. } => match self.links.get_mut(&name) {
                Some(changed) if changed.original == up => drop(self.links.remove(&name)),
                Some(changed) => changed.ours = up,
                None => drop(self.links.insert(name, Changed { original: !up, ours: up })),
            },
            Change::AddRoute(_)
            | Change::RemoveRoute(_)
            | Change::AddRule(_)
            | Change::RemoveRule(_)
            | Change::Daemon { .. }
            | Change::Policy { .. }
            | Change::Failover { .. }
            | Change::Force { .. } => {}
        }
    }

    /// Forgets what is wanted no more, after it was given back.
    pub fn prune(&mut self, desired: &Desired) {
        self.sysctls.retain(|name, _| desired.sysctls.contains_key(name));
        if desired.limits.is_none() {
            self.limits = None;
        }
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
