//! The agent itself: is it complete, is it well, what does it cost.

use std::time::UNIX_EPOCH;

use super::{Kind, Metric, Sample, Unit, Value};
use crate::kernel::ebpf::OBJECT_SHA256;
use crate::snapshot::{HttpWhat, Snapshot};

/// Metrics of the agent.
pub const AGENT: &[Metric] = &[
    Metric {
        name: "mpsec_build_info",
        help: "Version of the agent and SHA-256 of the eBPF object that it embeds. Always 1.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["version", "object_sha256"],
        samples: |_, sample| sample(&[env!("CARGO_PKG_VERSION"), OBJECT_SHA256], Value::Integer(1)),
    },
    Metric {
        name: "mpsec_attach_failures",
        help: "Attempts to attach a program to an interface that failed.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.agent.attach_failures_total)),
    },
    Metric {
        name: "mpsec_attachments_lost",
        help: "Attached programs that were found to be gone, because somebody else removed them. They are attached again.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], Value::Integer(snapshot.agent.attachments_lost_total)),
    },
    Metric {
        name: "mpsec_events_lost",
        help: "Events from the kernel that were lost before the agent read them, by source. After lost rtnetlink events the \
               agent lists all interfaces anew.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["source"],
        samples: |snapshot, sample| {
            for (source, count) in &snapshot.agent.lost_events {
                sample(&[source], Value::Integer(*count));
            }
        },
    },
    Metric {
        name: "mpsec_ebpf_events",
        help: "What happened off the usual path in the kernel: non_linear_header (a header had to be copied out), \
               interface_without_slot (counted as _other), not_counted (the packet is missing from the counters), \
               subflow_table_full and subflow_tag_taken (subflows that are not counted), subflow_handshake_unseen (met too late \
               for their first packets, as every subflow inside IPsec that is accepted), subflow_policy_refused (congestion \
               control, pacing or a timeout that a socket did not take), subflow_timeout_unreported (failover was not told of it).",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["event"],
        samples: |snapshot, sample| {
            for (event, count) in &snapshot.agent.kernel_events {
                sample(&[event.name()], Value::Integer(*count));
            }
        },
    },
    Metric {
        name: "mpsec_ebpf_program_run_time_seconds",
        help: "Time that a program ran, where the kernel was told to keep it (kernel_stats).",
        kind: Kind::Counter,
        unit: Unit::Seconds,
        labels: &["program"],
        samples: |snapshot, sample| {
            for program in &snapshot.agent.programs {
                sample(&[program.name], Value::Float(program.run_time_seconds));
            }
        },
    },
    Metric {
        name: "mpsec_ebpf_program_runs",
        help: "How often a program ran, where the kernel was told to keep it (kernel_stats).",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["program"],
        samples: |snapshot, sample| {
            for program in &snapshot.agent.programs {
                sample(&[program.name], Value::Integer(program.runs));
            }
        },
    },
    Metric {
        name: "mpsec_ebpf_map_entries",
        help: "Entries of a map that are in use.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["map"],
        samples: |snapshot, sample| {
            for map in &snapshot.agent.maps {
                sample(&[map.name], Value::Integer(map.entries));
            }
        },
    },
    Metric {
        name: "mpsec_ebpf_map_capacity",
        help: "Entries that a map has room for.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["map"],
        samples: |snapshot, sample| {
            for map in &snapshot.agent.maps {
                sample(&[map.name], Value::Integer(map.capacity));
            }
        },
    },
    Metric {
        name: "mpsec_probe_info",
        help: "Which way into the kernel each probe uses: tp_btf, fentry, kprobe, sock_ops, or none, for what cannot be had \
               here; mpsec doctor says why. Always 1.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["probe", "entry"],
        samples: |snapshot, sample| {
            for probe in &snapshot.agent.probes {
                sample(&[probe.name, probe.entry], Value::Integer(1));
            }
        },
    },
    Metric {
        name: "mpsec_probe_missed",
        help: "What happened and a probe was not told, so that it is in none of its counts: the kernel does not run a program \
               that interrupts itself.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["probe"],
        samples: |snapshot, sample| {
            for (probe, count) in &snapshot.agent.missed_by_probes {
                sample(&[probe], Value::Integer(*count));
            }
        },
    },
    Metric {
        name: "mpsec_collector_success",
        help: "1 if the source was read without an error when it was last read.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &["source"],
        samples: |snapshot, sample| {
            for collector in &snapshot.agent.collectors {
                sample(&[collector.source], collector.error.is_none().into());
            }
        },
    },
    Metric {
        name: "mpsec_collector_duration_seconds",
        help: "Time that it took to read the source.",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: &["source"],
        samples: |snapshot, sample| {
            for collector in &snapshot.agent.collectors {
                sample(&[collector.source], Value::Float(collector.duration.as_secs_f64()));
            }
        },
    },
    Metric {
        name: "mpsec_config_last_reload_successful",
        help: "1 if the last attempt to load the configuration succeeded; 0 while an older one is kept because the new one \
               is bad, or changes what a restart alone can change.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| sample(&[], snapshot.agent.reload.succeeded.into()),
    },
    Metric {
        name: "mpsec_config_last_reload_success_timestamp_seconds",
        help: "When the configuration in force was loaded, in Unix time.",
        kind: Kind::Gauge,
        unit: Unit::Seconds,
        labels: &[],
        samples: |snapshot, sample| {
            let since = snapshot.agent.reload.loaded_at.duration_since(UNIX_EPOCH).unwrap_or_default();
            sample(&[], Value::Float(since.as_secs_f64()));
        },
    },
    Metric {
        name: "mpsec_http_requests",
        help: "HTTP requests that were answered, by handler and status code.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["handler", "code"],
        samples: |snapshot, sample| http(snapshot, sample, HttpWhat::Requests),
    },
    Metric {
        name: "mpsec_http_connections",
        help: "HTTP connections that are open.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| http(snapshot, sample, HttpWhat::Connections),
    },
    Metric {
        name: "mpsec_http_refused",
        help: "HTTP connections and requests that were turned away, by reason: closed_for_room, timed_out, accept_error, \
               tls_handshake, authentication.",
        kind: Kind::Counter,
        unit: Unit::None,
        labels: &["reason"],
        samples: |snapshot, sample| http(snapshot, sample, HttpWhat::Refused),
    },
    Metric {
        name: "mpsec_http_config_last_reload_successful",
        help: "1 if the web configuration file was good when it last changed; 0 while an older one is kept.",
        kind: Kind::Gauge,
        unit: Unit::None,
        labels: &[],
        samples: |snapshot, sample| http(snapshot, sample, HttpWhat::ConfigLoaded),
    },
];

fn http<'a>(snapshot: &'a Snapshot, sample: Sample<'_, 'a>, what: HttpWhat) {
    for count in snapshot.agent.http.iter().filter(|count| count.what == what) {
        let labels: Vec<&str> = count.labels.iter().map(String::as_str).collect();
        sample(&labels, Value::Integer(count.value));
    }
}
