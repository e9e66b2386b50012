//! The answers: parts of a snapshot in an envelope that says when it was taken.

use serde::Serialize;

use super::query::Query;
use crate::snapshot::host::Host;
use crate::snapshot::json::InterfaceView;
use crate::snapshot::mptcp::{Connection, Endpoint, Finding, Limits, Namespace, Path, Totals};
use crate::snapshot::{InterfaceStates, Snapshot};

/// MPTCP connections, a page of them.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Connections<'a> {
    /// When the snapshot was taken, in seconds since 1970.
    taken_at: f64,
    /// Connections that match, on all pages.
    total: usize,
    /// Connections that were passed over.
    offset: usize,
    /// Connections on a page at most.
    limit: usize,
    /// The next page; null on the last one. It shows a later moment: connections that came or went may move others.
    next: Option<String>,
    /// Network namespaces that are watched, the agent's own first.
    namespaces: Vec<NamespaceConnections<'a>>,
}

/// The connections of a network namespace.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NamespaceConnections<'a> {
    /// The configured name; empty for the agent's own namespace.
    netns: &'a str,
    /// Connections and subflows that came and went.
    totals: &'a Totals,
    /// What is wrong, most important first.
    findings: &'a [Finding],
    /// Those on this page, by token.
    connections: Vec<&'a Connection>,
}

/// Paths.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Paths<'a> {
    /// When the snapshot was taken, in seconds since 1970.
    taken_at: f64,
    /// Network namespaces that are watched, the agent's own first.
    namespaces: Vec<NamespacePaths<'a>>,
}

/// The paths of a network namespace.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct NamespacePaths<'a> {
    /// The configured name; empty for the agent's own namespace.
    netns: &'a str,
    /// Those that match.
    paths: Vec<&'a Path>,
    /// The in-kernel path manager's endpoints.
    endpoints: &'a [Endpoint],
    /// Its limits; null where they cannot be read.
    limits: Option<Limits>,
    /// What is wrong, most important first.
    findings: &'a [Finding],
}

/// Interfaces that are counted.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Interfaces {
    /// When the snapshot was taken, in seconds since 1970.
    taken_at: f64,
    /// How many there are of each state.
    states: InterfaceStates,
    /// Those that match, by name; `_other`, if it is there, is last.
    interfaces: Vec<InterfaceView>,
}

/// The host.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct HostView<'a> {
    /// When the snapshot was taken, in seconds since 1970.
    taken_at: f64,
    /// Version of the agent.
    agent_version: &'static str,
    /// What is known of the host.
    host: &'a Host,
}

pub(super) fn connections(snapshot: &Snapshot, query: &Query) -> serde_json::Result<Vec<u8>> {
    let mut total = 0;
    let page = query.offset..query.offset.saturating_add(query.limit);
    let namespaces = namespaces(snapshot, query)
        .map(|namespace| {
            let mut on_page = Vec::new();
            for connection in namespace.connections.iter().filter(|connection| is_wanted(connection, query)) {
                if page.contains(&total) {
                    on_page.push(connection);
                }
                total += 1;
            }
            let Namespace { netns, totals, findings, .. } = namespace;
            NamespaceConnections { netns, totals, findings, connections: on_page }
        })
        .collect();
    let next = (page.end < total).then(|| query.link("/api/v1/connections", page.end));
    let taken_at = snapshot.taken_at_seconds();
    serde_json::to_vec(&Connections { taken_at, total, offset: query.offset, limit: query.limit, next, namespaces })
}

pub(super) fn paths(snapshot: &Snapshot, query: &Query) -> serde_json::Result<Vec<u8>> {
    let is_wanted = |path: &&Path| query.interface.as_ref().is_none_or(|wanted| path.interface == *wanted);
    let namespaces = namespaces(snapshot, query)
        .map(|namespace| {
            let Namespace { netns, paths, endpoints, limits, findings, .. } = namespace;
            let paths = paths.iter().filter(is_wanted).collect();
            NamespacePaths { netns, paths, endpoints, limits: *limits, findings }
        })
        .collect();
    serde_json::to_vec(&Paths { taken_at: snapshot.taken_at_seconds(), namespaces })
}

pub(super) fn interfaces(snapshot: &Snapshot, query: &Query) -> serde_json::Result<Vec<u8>> {
    let mut interfaces = snapshot.interface_views();
    if let Some(wanted) = &query.netns {
        interfaces.retain(|interface| interface.netns == *wanted);
    }
    if let Some(wanted) = &query.interface {
        interfaces.retain(|interface| interface.name == *wanted);
    }
    let (taken_at, states) = (snapshot.taken_at_seconds(), snapshot.interface_states);
    serde_json::to_vec(&Interfaces { taken_at, states, interfaces })
}

pub(super) fn host(snapshot: &Snapshot, _: &Query) -> serde_json::Result<Vec<u8>> {
    let (taken_at, agent_version) = (snapshot.taken_at_seconds(), env!("CARGO_PKG_VERSION"));
    serde_json::to_vec(&HostView { taken_at, agent_version, host: &snapshot.host })
}

fn namespaces<'a>(snapshot: &'a Snapshot, query: &Query) -> impl Iterator<Item = &'a Namespace> {
    let wanted = query.netns.clone();
    snapshot.namespaces.iter().filter(move |namespace| wanted.as_ref().is_none_or(|wanted| namespace.netns == *wanted))
}

fn is_wanted(connection: &Connection, query: &Query) -> bool {
    let uses = |wanted: &String| connection.subflows.iter().any(|subflow| subflow.interface.as_ref() == Some(wanted));
    query.state.is_none_or(|state| connection.state == state) && query.interface.as_ref().is_none_or(uses)
}
