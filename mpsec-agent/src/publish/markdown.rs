//! METRICS.md, made from the metric tables.

use std::fmt::Write as _;

use mpsec_common::Class;

use crate::metrics::{AGENT, INTERFACE, Metric};

/// The text of METRICS.md.
pub fn metrics() -> String {
    let mut text = String::from(
        "# Metrics\n\nMade from the agent's metric tables by `cargo xtask dashboards`; a stale copy fails a test.\n\n\
         A series whose value this kernel does not have, and a class that an interface has not seen, is absent rather than \
         0. Counters restart at 0 with the agent, and with an interface that goes and comes again.\n",
    );
    table(&mut text, "Interfaces", INTERFACE);
    classes(&mut text);
    table(&mut text, "The agent", AGENT);
    text.push_str(
        "\nThe agent's process (`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, \
         `process_max_fds`, `process_threads`, `process_virtual_memory_bytes`, `process_start_time_seconds`) is there as in \
         every Prometheus client.\n",
    );
    text
}

fn table(text: &mut String, title: &str, metrics: &[Metric]) {
    write!(text, "\n## {title}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n").expect(MEMORY);
    for metric in metrics {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels) = (metric.sample_name(), metric.kind.name(), labels.join(", "));
        writeln!(text, "| `{name}` | {kind} | {labels} | {} |", metric.help).expect(MEMORY);
    }
}

fn classes(text: &mut String) {
    text.push_str("\n### Traffic classes\n\n| `class` | `protection` | what belongs to it |\n| --- | --- | --- |\n");
    for class in Class::ALL {
        writeln!(text, "| `{}` | {} | {} |", class.name(), class.protection().name(), class.meaning()).expect(MEMORY);
    }
}

const MEMORY: &str = "writing to memory does not fail";
