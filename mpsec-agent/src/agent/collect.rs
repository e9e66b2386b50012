//! Taking a snapshot: every source is read on its own, and one that fails is named and leaves the rest alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::api::HttpStats;
use crate::kernel::host::HostReader;
use crate::snapshot::host::Host;
use crate::snapshot::subflow_series::Folding;
use crate::snapshot::{self, Collector, HttpCount, HttpWhat, Reload, Snapshot};

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
    /// At most so many series of single subflows.
    pub subflow_series: usize,
}

impl Sources {
    /// The configuration was loaded just now.
    pub fn new(http: Arc<HttpStats>) -> Sources {
        let reload = Reload { succeeded: true, loaded_at: SystemTime::now() };
        Sources { unwatched: BTreeMap::new(), reload, http, folding: Folding::default(), host: HostReader::default() }
    }

    /// Reads everything.
    pub fn collect(&mut self, namespaces: &mut [Namespace], wanted: Wanted) -> Snapshot {
        let mut reports = Vec::new();
        let overflows = namespaces.iter().map(|namespace| namespace.overflows).sum();
        let mptcp: Vec<_> = namespaces.iter_mut().map(|namespace| namespace.mptcp(&mut reports)).collect();
        let per_subflow = self.folding.choose(&mptcp, wanted.subflow_series);
        let pm_overflows = namespaces.iter().map(|namespace| namespace.mptcp.overflows).sum();
        let interfaces = &namespaces[0].interfaces;
        let kernel = &interfaces.kernel;
        let (traffic, other) =
            timed(&mut reports, "counters", || Ok::<_, String>(interfaces.traffic())).unwrap_or_default();
        let kernel_events = timed(&mut reports, "ebpf_events", || kernel.events()).unwrap_or_default();
        let programs = if wanted.program_stats {
            timed(&mut reports, "ebpf_programs", || kernel.program_stats()).unwrap_or_default()
        } else {
            Vec::new()
        };
        let mut host = Host::default();
        timed(&mut reports, "host", || {
            let outcome;
            (host, outcome) = self.host.read();
            outcome
        });
        let troubles = interfaces.troubles;
        Snapshot {
            taken_at: SystemTime::now(),
            interfaces: traffic,
            other,
            interface_states: interfaces.states(),
            namespaces: mptcp,
            per_subflow,
            host,
            agent: snapshot::Agent {
                folded_total: troubles.folded,
                attach_failures_total: troubles.attach_failures,
                attachments_lost_total: troubles.attachments_lost,
                lost_events: vec![("rtnetlink", overflows), ("mptcp_pm", pm_overflows)],
                kernel_events,
                maps: interfaces.maps(),
                probes: kernel.probes.states().to_vec(),
                programs,
                collectors: reports,
                reload: self.reload.clone(),
                http: self.http_counts(),
            },
        }
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
