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
pub const CONTROL_DESIRED: &Metric = metric("mpsec_control_desired_generation");
pub const CONTROL_ACTUAL: &Metric = metric("mpsec_control_actual_generation");
pub const CONTROL_CHANGES: &Metric = metric("mpsec_control_changes");
pub const CONTROL_FAILURES: &Metric = metric("mpsec_control_failures");
pub const CONTROL_WAITING: &Metric = metric("mpsec_control_waiting");
pub const CONTROL_OWNED: &Metric = metric("mpsec_control_owned");
pub const CONTROL_RELEASED: &Metric = metric("mpsec_control_released");
pub const CONTROL_AUDIT_ERRORS: &Metric = metric("mpsec_control_audit_errors");
pub const HTTP_REQUESTS: &Metric = metric("mpsec_http_requests");
pub const HTTP_CONNECTIONS: &Metric = metric("mpsec_http_connections");
pub const HTTP_REFUSED: &Metric = metric("mpsec_http_refused");
pub const HTTP_CONFIG_GOOD: &Metric = metric("mpsec_http_config_last_reload_successful");
pub const PACKETS: &Metric = metric("mpsec_interface_packets");
pub const BYTES: &Metric = metric("mpsec_interface_bytes");
pub const L3_BYTES: &Metric = metric("mpsec_interface_l3_bytes");
pub const CLEARTEXT_PACKETS: &Metric = metric("mpsec_interface_cleartext_packets");
pub const CLEARTEXT_BYTES: &Metric = metric("mpsec_interface_cleartext_bytes");
pub const ENCRYPTED_PACKETS: &Metric = metric("mpsec_interface_encrypted_packets");
pub const ENCRYPTED_BYTES: &Metric = metric("mpsec_interface_encrypted_bytes");
pub const ATTACHED: &Metric = metric("mpsec_interface_attached");
pub const PROGRAMS_AHEAD: &Metric = metric("mpsec_interface_programs_ahead");
pub const INTERFACES: &Metric = metric("mpsec_interfaces");
pub const INTERFACES_FOLDED: &Metric = metric("mpsec_interfaces_folded");
pub const PROBE_INFO: &Metric = metric("mpsec_probe_info");
pub const PROBE_MISSED: &Metric = metric("mpsec_probe_missed");
pub const PATH_BYTES: &Metric = metric("mpsec_path_bytes");
pub const PATH_PACKETS: &Metric = metric("mpsec_path_packets");
pub const PATH_PAYLOAD: &Metric = metric("mpsec_path_payload_bytes");
pub const PATH_RETRANSMITTED: &Metric = metric("mpsec_path_retransmitted_bytes");
pub const PATH_SUBFLOWS: &Metric = metric("mpsec_path_subflows");
pub const PATH_OPENED: &Metric = metric("mpsec_path_subflows_opened");
pub const PATH_CLOSED: &Metric = metric("mpsec_path_subflows_closed");
pub const RTT: &Metric = metric("mpsec_path_rtt_seconds");
pub const DELIVERY_RATE: &Metric = metric("mpsec_path_delivery_rate_bytes_per_second");
pub const PATH_SILENT: &Metric = metric("mpsec_path_silent");
pub const CONNECTIONS: &Metric = metric("mpsec_mptcp_connections");
pub const CONNECTIONS_OPENED: &Metric = metric("mpsec_mptcp_connections_opened");
pub const CONNECTIONS_CLOSED: &Metric = metric("mpsec_mptcp_connections_closed");
pub const SUBFLOWS_OPENED: &Metric = metric("mpsec_mptcp_subflows_opened");
pub const SUBFLOWS_CLOSED: &Metric = metric("mpsec_mptcp_subflows_closed");
pub const SUBFLOWS_LOST: &Metric = metric("mpsec_mptcp_subflows_lost");
pub const HANDSHAKES_LOST: &Metric = metric("mpsec_mptcp_handshakes_lost");
pub const PATHS_FOLDED: &Metric = metric("mpsec_mptcp_paths_folded");
pub const TABLE_ENTRIES: &Metric = metric("mpsec_mptcp_subflow_table_entries");
pub const TABLE_CAPACITY: &Metric = metric("mpsec_mptcp_subflow_table_capacity");
pub const FALLBACKS: &Metric = metric("mpsec_mptcp_fallbacks");
pub const JOIN_FAILURES: &Metric = metric("mpsec_mptcp_join_failures");
pub const BLACKHOLE: &Metric = metric("mpsec_mptcp_blackhole");
pub const FINDINGS: &Metric = metric("mpsec_mptcp_findings");
pub const SUBFLOW_RETRANSMISSIONS: &Metric = metric("mpsec_mptcp_subflow_retransmissions");
pub const SUBFLOW_RESETS: &Metric = metric("mpsec_mptcp_subflow_resets");
pub const DATA_TIMEOUTS: &Metric = metric("mpsec_mptcp_data_timeouts");
pub const REORDERING: &Metric = metric("mpsec_tcp_reordering");
pub const ENDPOINTS: &Metric = metric("mpsec_mptcp_endpoints");
pub const LIMIT_SUBFLOWS: &Metric = metric("mpsec_mptcp_limit_subflows");
pub const LIMIT_ADD_ADDR: &Metric = metric("mpsec_mptcp_limit_add_addr_accepted");
pub const ENABLED: &Metric = metric("mpsec_mptcp_enabled");
pub const MPTCP_INFO: &Metric = metric("mpsec_mptcp_info");
pub const MIB_SYN_TX: &Metric = metric("mpsec_mptcp_mib_mp_capable_syn_tx");
pub const MIB_SYN_RX: &Metric = metric("mpsec_mptcp_mib_mp_capable_syn_rx");
pub const MIB_OFO_QUEUE: &Metric = metric("mpsec_mptcp_mib_ofo_queue");
pub const MIB_OFO_QUEUE_TAIL: &Metric = metric("mpsec_mptcp_mib_ofo_queue_tail");
pub const MIB_OFO_MERGE: &Metric = metric("mpsec_mptcp_mib_ofo_merge");
pub const MIB_RETRANS: &Metric = metric("mpsec_mptcp_mib_mptcp_retrans");
pub const MIB_DUPLICATE: &Metric = metric("mpsec_mptcp_mib_duplicate_data");
pub const MIB_OTHER: &Metric = metric("mpsec_mptcp_mib_other");
pub const SUBFLOW_BYTES: &Metric = metric("mpsec_subflow_bytes");
pub const SUBFLOW_PACKETS: &Metric = metric("mpsec_subflow_packets");
pub const SUBFLOW_PAYLOAD: &Metric = metric("mpsec_subflow_payload_bytes");
pub const SUBFLOW_RETRANSMITTED: &Metric = metric("mpsec_subflow_retransmitted_bytes");
pub const SUBFLOW_SRTT: &Metric = metric("mpsec_subflow_srtt_seconds");
pub const SUBFLOW_CWND: &Metric = metric("mpsec_subflow_congestion_window_segments");
pub const SUBFLOW_DELIVERY: &Metric = metric("mpsec_subflow_delivery_rate_bytes_per_second");
pub const SUBFLOW_FOLDED: &Metric = metric("mpsec_subflow_series_folded");

/// Metrics that no query names, each with the reason: a new metric needs a panel, a rule or a line here.
#[cfg(test)]
pub const NOT_SHOWN: &[(&Metric, &str)] = &[
    (metric("mpsec_class_info"), "the queries have the classes' protection built in; it is for queries of one's own"),
    (
        metric("mpsec_control_forced_sockets"),
        "most hosts list no control group and have none; what becomes of the sockets is in the panels on connections",
    ),
];

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
