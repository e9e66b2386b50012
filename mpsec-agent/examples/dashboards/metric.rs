//! The metrics that queries may name. Each is a row of the agent's tables, found while this compiles: a metric that is
//! renamed or dropped there does not leave a dead panel here, it breaks this build.

use mpsec_agent::metrics::{Metric, TABLES};

pub const BUILD_INFO: &Metric = metric("mpsec_build_info");
pub const ATTACH_FAILURES: &Metric = metric("mpsec_attach_failures");
pub const ATTACHMENTS_LOST: &Metric = metric("mpsec_attachments_lost");
pub const EVENTS_LOST: &Metric = metric("mpsec_events_lost");
pub const EBPF_EVENTS: &Metric = metric("mpsec_ebpf_events");
pub const PROGRAM_RUN_TIME: &Metric = metric("mpsec_ebpf_program_run_time_seconds");
pub const PROGRAM_RUNS: &Metric = metric("mpsec_ebpf_program_runs");
pub const MAP_ENTRIES: &Metric = metric("mpsec_ebpf_map_entries");
pub const MAP_CAPACITY: &Metric = metric("mpsec_ebpf_map_capacity");
pub const COLLECTOR_SUCCESS: &Metric = metric("mpsec_collector_success");
pub const COLLECTOR_DURATION: &Metric = metric("mpsec_collector_duration_seconds");
pub const CONFIG_GOOD: &Metric = metric("mpsec_config_last_reload_successful");
pub const CONFIG_LOADED_AT: &Metric = metric("mpsec_config_last_reload_success_timestamp_seconds");
pub const HTTP_REQUESTS: &Metric = metric("mpsec_http_requests");
pub const HTTP_CONNECTIONS: &Metric = metric("mpsec_http_connections");
pub const HTTP_REFUSED: &Metric = metric("mpsec_http_refused");
pub const HTTP_CONFIG_GOOD: &Metric = metric("mpsec_http_config_last_reload_successful");
pub const PACKETS: &Metric = metric("mpsec_interface_packets");
pub const BYTES: &Metric = metric("mpsec_interface_bytes");
pub const L3_BYTES: &Metric = metric("mpsec_interface_l3_bytes");
pub const ATTACHED: &Metric = metric("mpsec_interface_attached");
pub const INTERFACES: &Metric = metric("mpsec_interfaces");
pub const INTERFACES_FOLDED: &Metric = metric("mpsec_interfaces_folded");

/// Metrics that no query names, each with the reason: a new metric needs a panel, a rule or a line here.
#[cfg(test)]
pub const NOT_SHOWN: &[(&Metric, &str)] = &[(
    metric("mpsec_class_info"),
    "the queries have the classes' protection built in; it is for queries of one's own",
)];

const fn metric(name: &str) -> &'static Metric {
    let mut table = 0;
    while table < TABLES.len() {
        let rows: &'static [Metric] = TABLES[table];
        let mut row = 0;
        while row < rows.len() {
            if same(rows[row].name, name) {
                return &rows[row];
            }
            row += 1;
        }
        table += 1;
    }
    panic!("no metric of this name is in the agent's tables")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}
