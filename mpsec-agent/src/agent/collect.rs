//! Taking a snapshot: every source is read on its own, and one that fails is named and leaves the rest alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::api::HttpStats;
use crate::kernel::host::HostReader;
use crate::snapshot::host::Host;
use crate::snapshot::subflow_series::Folding;
use crate::snapshot::{self, Collector, HttpCount, HttpWhat, InterfaceStates, Reload, Snapshot};

use super::namespace::Namespace;

/// What a snapshot is made of beside the interfaces.
pub struct Sources {
    /// Named network namespaces that cannot be watched, and why.
    pub unwatched: BTreeMap<String, String>,
    /// The last attempt to load the configuration.
    pub reload: Reload,
    http: Arc<HttpStats>,
    host: HostReader,
    /// What subflows carried that had no series.
    folding: Folding,
}

/// What is in a snapshot only if it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Run time of the programs.
    pub program_stats: bool,
    /// At most so many subflows with series of their own; without it there are no such series.
    pub subflow_series: Option<usize>,
    /// The subflows of connections, and what their sockets say: they take most of the time that a snapshot takes.
    pub subflows: bool,
}

impl Sources {
    /// The configuration was loaded just now.
    pub fn new(http: Arc<HttpStats>) -> Sources {
        let reload = Reload { succeeded: true, loaded_at: SystemTime::now() };
        Sources { unwatched: BTreeMap::new(), reload, http, folding: Folding::default(), host: HostReader::default() }
    }

    /// Reads everything.
    pub fn collect(&mut self, namespaces: &mut [Namespace], wanted: Wanted) -> Snapshot {
        let mut snapshot = Snapshot {
            taken_at: SystemTime::now(),
            interfaces: Vec::new(),
            others: Vec::new(),
            interface_states: InterfaceStates::default(),
            namespaces: Vec::new(),
            per_subflow: None,
            control: Default::default(),
            host: Host::default(),
            agent: snapshot::Agent { reload: self.reload.clone(), http: self.http_counts(), ..Default::default() },
        };
        for namespace in namespaces {
            let mut reports = Vec::new();
            let mptcp = namespace.mptcp(wanted.subflows, &mut reports);
            snapshot.namespaces.push(mptcp);
            namespace.collect(&mut snapshot, wanted, &mut reports);
            merge(&mut snapshot.agent.collectors, reports, &namespace.name);
        }
        snapshot.per_subflow = self.folding.choose(&snapshot.namespaces, wanted.subflow_series);
        timed(&mut snapshot.agent.collectors, "host", || {
            let outcome;
            (snapshot.host, outcome) = self.host.read();
            outcome
        });
        for (netns, reason) in &self.unwatched {
            let reports = vec![Collector { source: "netns", duration: Duration::ZERO, error: Some(reason.clone()) }];
            merge(&mut snapshot.agent.collectors, reports, netns);
        }
        snapshot
    }

    fn http_counts(&self) -> Vec<HttpCount> {
        let http = self.http.snapshot();
        let requests = http.requests.into_iter().map(|request| HttpCount {
            what: HttpWhat::Requests,
            labels: vec![request.handler, request.code.to_string()],
            value: request.count,
        });
        let refused = [
            ("closed_for_room", http.closed_for_room),
            ("timed_out", http.timed_out),
            ("accept_error", http.accept_errors),
            ("tls_handshake", http.tls_handshake_failures),
            ("authentication", http.auth_failures),
        ];
        let refused = refused.into_iter().map(|(reason, value)| HttpCount {
            what: HttpWhat::Refused,
            labels: vec![reason.to_owned()],
            value,
        });
        let plain = [
            (HttpWhat::Connections, http.open_connections),
            (HttpWhat::ConfigLoaded, u64::from(!http.config_reload_failed)),
        ];
        let plain = plain.into_iter().map(|(what, value)| HttpCount { what, labels: Vec::new(), value });
        requests.chain(refused).chain(plain).collect()
    }
}

/// Reads a source and reports how it fared.
pub fn timed<T, E: std::fmt::Display>(
    reports: &mut Vec<Collector>,
    source: &'static str,
    read: impl FnOnce() -> Result<T, E>,
) -> Option<T> {
    let start = Instant::now();
    let result = read();
    let error = result.as_ref().err().map(ToString::to_string);
    reports.push(Collector { source, duration: start.elapsed(), error });
    result.ok()
}

/// One report a source: what it took in all namespaces, and the first error, with where it happened.
fn merge(all: &mut Vec<Collector>, reports: Vec<Collector>, netns: &str) {
    for mut report in reports {
        if let (Some(error), false) = (&mut report.error, netns.is_empty()) {
            *error = format!("{netns}: {error}");
        }
        match all.iter_mut().find(|known| known.source == report.source) {
            Some(known) => {
                known.duration += report.duration;
                known.error = known.error.take().or(report.error);
            }
            None => all.push(report),
        }
    }
}

/// Adds counts to those of the same key.
pub fn add<K: PartialEq>(all: &mut Vec<(K, u64)>, counts: impl IntoIterator<Item = (K, u64)>) {
    for (key, count) in counts {
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += count,
            None => all.push((key, count)),
        }
    }
}
