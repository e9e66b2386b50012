//! The difference between what a host is and what it should be, as changes in an order that works. Pure.

use crate::kernel::mptcp_pm::EndpointFlags;

use super::actual::{Actual, Doings};
use super::change::{Change, Endpoint, Force};
use super::desired::Desired;
use super::owned::Owned;

/// What would be done, and what keeps it from being done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changes, in their order.
    pub changes: Vec<Change>,
    /// What has to be mended first, in words.
    pub refusals: Vec<String>,
    /// What waits, and for what.
    pub waiting: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What leads from `actual` to `desired`, touching nothing but what is ours.
#[must_use]
pub fn plan(desired: &Desired, actual: &Actual, owned: &Owned) -> Plan {
    let mut plan = Plan { changes: Vec::new(), refusals: desired.refusals.clone(), waiting: desired.waiting.clone() };
    let (before, after): (Vec<_>, Vec<_>) =
        sysctls(desired, actual, owned).into_iter().partition(|change| !is_path_manager(change));
    plan.changes.extend(before);
    let daemon = daemon(desired, actual);
    // Joins are refused while nobody listens: the agent's path manager is there before sockets are given to it, and goes
    // after they are not any more.
    if desired.daemon.is_some() {
        plan.changes.extend(daemon.into_iter().chain(after));
    } else {
        plan.changes.extend(after.into_iter().chain(daemon));
    }
    plan.changes.extend(limits(desired, actual, owned));
    let (additions, removals) = endpoints(desired, actual, owned, &mut plan.refusals);
    plan.changes.extend(removals);
    // The mark alone may be that of another agent, with a state of its own.
    let stale_routes = actual.routes.iter().filter(|route| owned.routes && !desired.routes.contains(route));
    let stale_rules = actual.rules.iter().filter(|rule| owned.routes && !desired.rules.contains(rule));
    plan.changes.extend(stale_rules.cloned().map(Change::RemoveRule));
    plan.changes.extend(stale_routes.cloned().map(Change::RemoveRoute));
    plan.changes.extend(missing(&desired.routes, &actual.routes).map(Change::AddRoute));
    plan.changes.extend(missing(&desired.rules, &actual.rules).map(Change::AddRule));
    plan.changes.extend(policies(desired, actual));
    plan.changes.extend(additions);
    let failover = actual.agent.as_ref().filter(|doings| doings.failover != desired.failover);
    plan.changes.extend(failover.map(|_| Change::Failover { to: desired.failover }));
    plan.changes.extend(force(desired, actual));
    plan
}

/// Whether it decides which path manager new sockets have.
pub(super) fn is_path_manager(change: &Change) -> bool {
    matches!(change, Change::Sysctl { name, .. } if matches!(name.as_str(), "net.mptcp.path_manager" | "net.mptcp.pm_type"))
}

fn missing<'a, T: PartialEq + Clone>(wanted: &'a [T], there: &'a [T]) -> impl Iterator<Item = T> + 'a {
    wanted.iter().filter(|one| !there.contains(one)).cloned()
}

/// Settings that are wanted, and those that are given back: what somebody else changed since stays as it is.
fn sysctls(desired: &Desired, actual: &Actual, owned: &Owned) -> Vec<Change> {
    let given_back = owned.sysctls.iter().filter(|(name, changed)| {
        !desired.sysctls.contains_key(*name) && actual.sysctls.get(*name) == Some(&changed.ours)
    });
    let given_back = given_back.map(|(name, changed)| (name, &changed.original));
    let all = given_back.chain(&desired.sysctls).filter_map(|(name, to)| {
        let from = actual.sysctls.get(name)?;
        (from != to).then(|| Change::Sysctl { name: name.clone(), from: from.clone(), to: to.clone() })
    });
    all.collect()
}

fn limits(desired: &Desired, actual: &Actual, owned: &Owned) -> Option<Change> {
    let from = actual.limits?;
    let given_back = || owned.limits.as_ref().map(|changed| changed.given_back(from));
    let to = desired.limits.or_else(given_back)?;
    (from != to).then_some(Change::Limits { from, to })
}

/// Endpoints to make or change, and those to remove.
fn endpoints(
    desired: &Desired,
    actual: &Actual,
    owned: &Owned,
    refusals: &mut Vec<String>,
) -> (Vec<Change>, Vec<Change>) {
    let (mut additions, mut removals) = (Vec::new(), Vec::new());
    for there in actual.endpoints.iter().filter(|there| owned.has(there)) {
        // One that is held can change, and cannot be made anew.
        let held = desired.held.iter().find(|held| held.has_place_of(there));
        match desired.endpoints.iter().find(|wanted| wanted.has_place_of(there)).or(held) {
            None => removals.push(Change::RemoveEndpoint(there.clone())),
            Some(wanted) if wanted.flags == there.flags => {}
            Some(wanted) if can_become(there, wanted) => {
                let to = Endpoint { flags: wanted.flags.clone(), ..there.clone() };
                additions.push(Change::EndpointFlags { from: there.clone(), to });
            }
            Some(_) if held.is_some() => {}
            Some(wanted) => {
                removals.push(Change::RemoveEndpoint(there.clone()));
                additions.push(Change::AddEndpoint(wanted.clone()));
            }
        }
    }
    for wanted in &desired.endpoints {
        let in_place =
            actual.endpoints.iter().find(|there| there.address == wanted.address && there.port == wanted.port);
        match in_place {
            None => additions.push(Change::AddEndpoint(wanted.clone())),
            Some(there) if owned.has(there) && there.has_place_of(wanted) => {}
            // Ours, but of another interface: it goes, as it is not wanted, and comes anew.
            Some(there) if owned.has(there) => additions.push(Change::AddEndpoint(wanted.clone())),
            Some(there) if there.flags == wanted.flags => {}
            Some(there) => refusals.push(format!(
                "{} is an endpoint already, which is not MPSec's, with the flags {}: keep it and leave it out of \
                 mptcp.endpoints, or delete it (ip mptcp endpoint delete id {})",
                there.address,
                there.flags.join(","),
                there.id
            )),
        }
    }
    (additions, removals)
}

/// Only two flags of an endpoint can change (mptcp_pm_nl_set_flags, net/mptcp/pm_kernel.c, 6.18), fullmesh not on one that is
/// announced.
fn can_become(there: &Endpoint, wanted: &Endpoint) -> bool {
    let changeable = EndpointFlags::BACKUP.0 | EndpointFlags::FULLMESH.0;
    let differ = there.bits().0 ^ wanted.bits().0;
    differ & !changeable == 0 && (!there.has(EndpointFlags::SIGNAL) || differ & EndpointFlags::FULLMESH.0 == 0)
}

fn daemon(desired: &Desired, actual: &Actual) -> Option<Change> {
    let from = actual.agent.as_ref()?.daemon;
    (from != desired.daemon).then_some(Change::Daemon { from, to: desired.daemon })
}

fn policies(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let Some(Doings { policies: there, .. }) = &actual.agent else { return Vec::new() };
    let removed = there.iter().filter(|(address, _)| !desired.policies.contains_key(address));
    let removed =
        removed.map(|(address, policy)| Change::Policy { address: *address, from: Some(policy.clone()), to: None });
    let changed = desired.policies.iter().filter(|(address, policy)| there.get(address) != Some(policy));
    let changed = changed.map(|(address, policy)| Change::Policy {
        address: *address,
        from: there.get(address).cloned(),
        to: Some(policy.clone()),
    });
    removed.chain(changed).collect()
}

fn force(desired: &Desired, actual: &Actual) -> Option<Change> {
    let from: &Force = &actual.agent.as_ref()?.force;
    (*from != desired.force).then(|| Change::Force { from: from.clone(), to: desired.force.clone() })
}
