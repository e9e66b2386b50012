//! What is done where it cannot be written down beforehand, as on a full or read-only disk.

use super::super::change::Change;
use super::super::owned::Owned;
use super::{Failure, Spirit};

/// Changes that are possible all the same, and what the others fail with.
///
/// What gives back needs no note: the file goes on saying that it is ours, and the next start finds that it is not there any
/// more. What ends with the agent needs none at all. Who asked for all or nothing gets nothing.
pub(super) fn possible(changes: &[Change], owned: &Owned, spirit: Spirit, error: &str) -> (Vec<Change>, Vec<Failure>) {
    let needs_no_note = |change: &Change| change.needs_agent() || gives_back(change, changes, owned);
    let (possible, others): (Vec<_>, Vec<_>) = changes.iter().cloned().partition(needs_no_note);
    if spirit == Spirit::Whole || possible.is_empty() {
        return (Vec::new(), vec![Failure::other(format!("nothing is changed, as it cannot be kept what: {error}"))]);
    }
    tracing::warn!("what gives back, or ends with the agent, is done without a note of it: {error}");
    let fails = |change: &Change| Failure::of(change, format!("it is not changed, as that cannot be kept: {error}"));
    (possible, others.iter().map(fails).collect())
}

/// Whether a change makes something what it was before MPSec, or takes away what is ours while nothing of the kind comes.
fn gives_back(change: &Change, among: &[Change], owned: &Owned) -> bool {
    match change {
        Change::Sysctl { name, to, .. } => owned.sysctls.get(name).is_some_and(|changed| changed.original == *to),
        Change::Limits { from, to } => owned.limits.as_ref().is_some_and(|changed| {
            let is_kept_or_given_back = |from, to, original| to == from || to == original;
            is_kept_or_given_back(from.subflows, to.subflows, changed.original.subflows)
                && is_kept_or_given_back(
                    from.add_addr_accepted,
                    to.add_addr_accepted,
                    changed.original.add_addr_accepted,
                )
        }),
        Change::Link { index, up, .. } => owned.links.get(index).is_some_and(|changed| changed.original == *up),
        // What comes would be refused, and the host be left with less than before.
        Change::RemoveEndpoint(_) | Change::RemoveRoute(_) | Change::RemoveRule(_) => !among.iter().any(comes_anew),
        Change::AddEndpoint(_) | Change::EndpointFlags { .. } | Change::AddRoute(_) | Change::AddRule(_) => false,
        Change::Daemon { .. } | Change::Policy { .. } | Change::Failover { .. } | Change::Force { .. } => false,
    }
}

fn comes_anew(change: &Change) -> bool {
    matches!(change, Change::AddEndpoint(_) | Change::AddRoute(_) | Change::AddRule(_))
}
