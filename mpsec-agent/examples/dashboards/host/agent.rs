//! Panels on the agent itself.

use super::{SHOWN, WINDOW, agents, processes, targets};
use crate::metric::{
    ATTACH_FAILURES, ATTACHED, ATTACHMENTS_LOST, BUILD_INFO, COLLECTOR_DURATION, COLLECTOR_SUCCESS, CONFIG_GOOD,
    CONFIG_LOADED_AT, EBPF_EVENTS, EVENTS_LOST, HTTP_CONFIG_GOOD, HTTP_CONNECTIONS, HTTP_REFUSED, HTTP_REQUESTS,
    INTERFACES, INTERFACES_FOLDED, MAP_CAPACITY, MAP_ENTRIES, PROBE_MISSED, PROGRAM_RUN_TIME, PROGRAM_RUNS,
};
use crate::panel::Kind::{Lines, Stat, Table};
use crate::panel::{Limit, Panel, panel};
use crate::promql::{number, time};

const NONE_IS_GOOD: &[Limit] = &[(0.0, "green"), (1.0, "red")];
const HOST: &[&str] = &["instance"];

/// What could make the numbers above incomplete.
pub fn completeness() -> Vec<Panel> {
    let state: &[(u32, &str, &str)] = &[(0, "refused", "red"), (1, "good", "green")];
    vec![
        panel(Stat, "Configuration", "none", 4)
            .about(
                "Whether the last attempt to load mpsec.toml succeeded. When refused, an older one is in force: the \
                 log says why.",
            )
            .query(agents(CONFIG_GOOD).now(), "{{instance}}")
            .words(state),
        panel(Stat, "Web configuration", "none", 4)
            .about("The same of the file with TLS certificates and users.")
            .query(agents(HTTP_CONFIG_GOOD).now(), "{{instance}}")
            .words(state),
        panel(Stat, "Configuration loaded", "s", 4)
            .about("How long ago the configuration in force was loaded.")
            .query(time().op("-", agents(CONFIG_LOADED_AT).now()).max_by(HOST), "{{instance}}"),
        panel(Stat, "Up for", "s", 4)
            .about("How long the agent has been running.")
            .query(time().op("-", processes("process_start_time_seconds").now()).max_by(HOST), "{{instance}}"),
        panel(Stat, "Failures to attach", "short", 4)
            .about("Attempts in the shown time.")
            .query(agents(ATTACH_FAILURES).increase(SHOWN).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
        panel(Stat, "Attachments lost", "short", 4)
            .about(
                "Programs that somebody else removed in the shown time. They are attached again, but what passed in \
                 between is not counted.",
            )
            .query(agents(ATTACHMENTS_LOST).increase(SHOWN).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
        panel(Lines, "Reachable", "none", 8)
            .about("1 while Prometheus can scrape the agent.")
            .query(targets("up").now(), "{{instance}}")
            .within(0.0, Some(1.0)),
        panel(Lines, "Hooks", "none", 8)
            .about("Directions of interfaces that are counted, and those that are not: those are a gap.")
            .query(agents(ATTACHED).now().sum_by(HOST), "{{instance}} attached")
            .query(number(1).op("-", agents(ATTACHED).now()).sum_by(HOST), "{{instance}} not attached")
            .within(0.0, None),
        panel(Table, "Hooks that are not attached", "none", 8)
            .about("Interface, direction and means. Empty while all are attached; mpsec status says why one is not.")
            .query(agents(ATTACHED).now().op("==", number(0)), "")
            .when_empty("all are attached"),
        panel(Lines, "Interfaces by state", "none", 8)
            .about(
                "counted have counters of their own; folded share _other, for want of room (max_interfaces); \
                 excluded are left out by the configuration.",
            )
            .query(agents(INTERFACES).now(), "{{instance}} {{state}}")
            .within(0.0, None),
        panel(Lines, "Interfaces folded", "short", 8)
            .about("Interfaces that found no room of their own, in five minutes.")
            .query(agents(INTERFACES_FOLDED).increase("5m"), "{{instance}}")
            .within(0.0, None),
        panel(Lines, "Room in maps", "percentunit", 8)
            .about("Entries in use of those that there is room for.")
            .query(agents(MAP_ENTRIES).now().op("/", agents(MAP_CAPACITY).now()), "{{instance}} {{map}}")
            .within(0.0, Some(1.0)),
        panel(Lines, "Events in the kernel", "ops", 8)
            .about(
                "not_counted: a packet is missing from the counters. interface_without_slot: a packet went to \
                 _other. non_linear_header: a header had to be copied out, which only costs time.",
            )
            .query(agents(EBPF_EVENTS).rate(WINDOW), "{{instance}} {{event}}")
            .within(0.0, None),
        panel(Lines, "Lost events", "short", 8)
            .about("Events from the kernel that the agent missed, and those that its probes were not told, in five minutes.")
            .query(agents(EVENTS_LOST).increase("5m"), "{{instance}} {{source}}")
            .query(agents(PROBE_MISSED).increase("5m"), "{{instance}} {{probe}}")
            .within(0.0, None),
        panel(Lines, "Sources read without an error", "none", 8)
            .about("1 for good, 0 for a source whose metrics are missing.")
            .query(agents(COLLECTOR_SUCCESS).now(), "{{instance}} {{source}}")
            .within(0.0, Some(1.0)),
    ]
}

/// What the agent takes for itself, and whom it serves.
pub fn cost() -> Vec<Panel> {
    let per_run = agents(PROGRAM_RUN_TIME).rate(WINDOW).op("/", agents(PROGRAM_RUNS).rate(WINDOW).op(">", number(0)));
    let all_runs = agents(PROGRAM_RUN_TIME).rate(WINDOW).sum_by(HOST);
    vec![
        panel(Lines, "Processor time", "percentunit", 8)
            .about("Of one processor: the agent's process, without its kernel programs.")
            .query(processes("process_cpu_seconds_total").rate(WINDOW), "{{instance}}")
            .within(0.0, None),
        panel(Lines, "Memory", "bytes", 8)
            .about("Resident memory of the process.")
            .query(processes("process_resident_memory_bytes").now(), "{{instance}}")
            .within(0.0, None),
        panel(Lines, "File descriptors", "none", 8)
            .about("Open ones, and how many may be.")
            .query(processes("process_open_fds").now(), "{{instance}} open")
            .query(processes("process_max_fds").now(), "{{instance}} limit")
            .within(0.0, None),
        panel(Lines, "Kernel program, per packet", "s", 8)
            .about(
                "Time that a run of a program takes, one packet or super-packet each. Empty unless kernel_stats \
                    is on in mpsec.toml, which itself costs time.",
            )
            .query(per_run, "{{instance}} {{program}}")
            .within(0.0, None)
            .when_empty("kernel_stats is off"),
        panel(Lines, "Kernel programs, processor time", "percentunit", 8)
            .about("Of one processor. Empty unless kernel_stats is on in mpsec.toml.")
            .query(all_runs, "{{instance}}")
            .within(0.0, None)
            .when_empty("kernel_stats is off"),
        panel(Lines, "Reading the sources", "s", 8)
            .about("Time for each source when it was last read.")
            .query(agents(COLLECTOR_DURATION).now(), "{{instance}} {{source}}")
            .within(0.0, None),
        panel(Lines, "Scrape", "s", 8)
            .about("Time from Prometheus' request to the whole answer.")
            .query(targets("scrape_duration_seconds").now(), "{{instance}}")
            .within(0.0, None),
        panel(Lines, "Series in a scrape", "none", 8)
            .about("Grows with interfaces and the classes that they have seen.")
            .query(targets("scrape_samples_scraped").now(), "{{instance}}")
            .within(0.0, None),
        panel(Lines, "HTTP requests", "reqps", 8)
            .about("By handler and status code. 401 is a wrong password, 503 an agent that is busy.")
            .query(agents(HTTP_REQUESTS).rate(WINDOW), "{{instance}} {{handler}} {{code}}")
            .within(0.0, None),
        panel(Lines, "HTTP turned away", "short", 8)
            .about("Connections and requests in five minutes, by reason.")
            .query(agents(HTTP_REFUSED).increase("5m"), "{{instance}} {{reason}}")
            .within(0.0, None),
        panel(Lines, "HTTP connections", "none", 8)
            .about("Open ones.")
            .query(agents(HTTP_CONNECTIONS).now(), "{{instance}}")
            .within(0.0, None),
        panel(Table, "Versions", "none", 8)
            .about("The agents' versions, and the kernel object that each has built in.")
            .query(agents(BUILD_INFO).now(), ""),
    ]
}
