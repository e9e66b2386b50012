//! METRICS.md, made from the metric tables.

use std::fmt::Write as _;

use mpsec_common::Class;

use crate::metrics::{AGENT, CONTROL, INTERFACE, Kind, MIB, MIB_OTHER, MPTCP, Metric, PATH, SUBFLOW, canonical};

/// The text of METRICS.md.
pub fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\nMade from the agent's metric tables by `cargo xtask dashboards`; a stale copy fails a test.\n\n\
         A series whose value this kernel does not have, and a class that an interface has not seen, is absent rather than \
         0. Counters restart at 0 with the agent, and with an interface that goes and comes again.\n\n\
         `netns` is the network namespace, by its name in the configuration; it is empty, which Prometheus takes for a label \
         that is not there, for the agent's own.\n",
    );
    table(&mut text, "Interfaces", INTERFACE);
    classes(&mut text);
    table(&mut text, "Paths", PATH);
    table(&mut text, "MPTCP", MPTCP);
    mib(&mut text);
    table(&mut text, "Single subflows", SUBFLOW);
    text.push_str("\nThere are none of these unless `subflow_series` is on.\n");
    table(&mut text, "What MPSec changes", CONTROL);
    table(&mut text, "The agent", AGENT);
    text.push_str(
        "\nThe agent's process (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, \
         `process_max_fds`, `process_threads`, `process_virtual_memory_bytes`, `process_start_time_seconds`) is there as in \
         every Prometheus client.\n",
    );
    text
}

fn table(text: &mut String, title: &str, metrics: &[Metric]) {
    write!(text, "\n## {title}\n").expect(MEMORY);
    rows(text, metrics);
    for metric in metrics {
        buckets(text, metric);
    }
}

fn rows(text: &mut String, metrics: &[Metric]) {
    text.push_str("\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (metric.sample_name(), metric.kind.name(), labels.join(", "));
        writeln!(text, "| `{name}` | {kind} | {labels} | {} |", metric.help).expect(MEMORY);
    }
}

/// What a histogram's samples are called, and where its buckets end.
fn buckets(text: &mut String, metric: &Metric) {
    if let Kind::Histogram(bounds) = metric.kind {
        let bounds: Vec<String> = bounds.iter().copied().map(canonical).chain(["+Inf".to_owned()]).collect();
        let (name, bounds) = (metric.name, bounds.join("`, `"));
        write!(text, "\n`{name}_bucket` has the label `le` besides: `{bounds}`. `{name}_sum`, `{name}_count`.\n")
            .expect(MEMORY);
    }
}

fn mib(text: &mut String) {
    text.push_str(
        "\n## The kernel's counters of MPTCP\n\nAs they are in `MPTcpExt` of /proc/net/netstat, whose name is in brackets. They \
         count from the namespace's start, and restart with it.\n",
    );
    for group in &MIB {
        write!(text, "\n### {}\n\n{}\n", group.title, group.about).expect(MEMORY);
        rows(text, group.metrics);
    }
    text.push_str("\n### Any other\n");
    rows(text, MIB_OTHER);
}

fn classes(text: &mut String) {
    text.push_str("\n### Traffic classes\n\n| `class` | `protection` | what belongs to it |\n| --- | --- | --- |\n");
    for class in Class::ALL {
        writeln!(text, "| `{}` | {} | {} |", class.name(), class.protection().name(), class.meaning()).expect(MEMORY);
    }
}

const MEMORY: &str = "writing to memory does not fail";
