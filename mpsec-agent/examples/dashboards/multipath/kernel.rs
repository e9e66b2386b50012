//! Panels on the kernel: how it is set, what of it is seen, and what it counts itself.

use mpsec_agent::metrics::{Kind, MIB, Metric, MibGroup};

use super::{NAMESPACE, WINDOW, chosen};
use crate::metric::{
    ENABLED, ENDPOINTS, HANDSHAKES_LOST, LIMIT_ADD_ADDR, LIMIT_SUBFLOWS, MIB_OTHER, MPTCP_INFO, PATHS_FOLDED,
    PROBE_INFO, SUBFLOWS_LOST, TABLE_CAPACITY, TABLE_ENTRIES,
};
use crate::panel::Kind::{Lines, Table};
use crate::panel::{Panel, panel};
use crate::promql::of;

const NAMESPACE_NAME: &str = "{{instance}} {{netns}}";

/// What an operator, or another program, has set.
pub fn settings() -> Vec<Panel> {
    vec![
        panel(Table, "Settings", "none", 12)
            .about("net.mptcp.*; they hold for connections that are new.")
            .query(chosen(MPTCP_INFO).now(), ""),
        panel(Lines, "MPTCP allowed", "none", 12)
            .about("1 while programs may use MPTCP (net.mptcp.enabled).")
            .query(chosen(ENABLED).now(), NAMESPACE_NAME)
            .within(0.0, Some(1.0)),
        panel(Lines, "Endpoints", "none", 12)
            .about("Of the in-kernel path manager, by flag; one with two flags counts under both.")
            .query(chosen(ENDPOINTS).now(), "{{instance}} {{netns}} {{flag}}")
            .within(0.0, None)
            .when_empty("no endpoints"),
        panel(Lines, "Limits", "none", 12)
            .about("How many subflows a connection may have beside its first one, and how many addresses it takes.")
            .query(chosen(LIMIT_SUBFLOWS).now(), &format!("{NAMESPACE_NAME} subflows"))
            .query(chosen(LIMIT_ADD_ADDR).now(), &format!("{NAMESPACE_NAME} addresses"))
            .within(0.0, None),
    ]
}

/// What could make the numbers above incomplete.
pub fn sight() -> Vec<Panel> {
    let rise = |metric| chosen(metric).increase("5m").sum_by(NAMESPACE);
    vec![
        panel(Lines, "Room in the table of subflows", "percentunit", 8)
            .about("Entries in use of those that there is room for. When it is full, new subflows are not counted.")
            .query(chosen(TABLE_ENTRIES).now().op("/", chosen(TABLE_CAPACITY).now()), NAMESPACE_NAME)
            .within(0.0, Some(1.0)),
        panel(Lines, "Not seen", "short", 8)
            .about(
                "In five minutes. lost: subflows without room, whose bytes are missing. late: subflows whose first \
                 packets are. folded: paths that are counted as _other.",
            )
            .query(rise(SUBFLOWS_LOST), &format!("{NAMESPACE_NAME} lost"))
            .query(rise(HANDSHAKES_LOST), &format!("{NAMESPACE_NAME} late"))
            .query(rise(PATHS_FOLDED), &format!("{NAMESPACE_NAME} folded"))
            .within(0.0, None),
        panel(Table, "Probes", "none", 8)
            .about("The way into the kernel that each probe uses; none where what it sees is missing.")
            .query(of(PROBE_INFO).like("job", "$job").like("instance", "$instance").now(), ""),
    ]
}

/// Every counter of `MPTcpExt`.
pub fn counters() -> Vec<Panel> {
    let mut panels: Vec<Panel> = MIB.iter().map(group).collect();
    panels.push(
        panel(Lines, "Any other counter", "ops", 12)
            .about("Counters that are younger than the agent, by the kernel's name.")
            .query(chosen(MIB_OTHER).rate(WINDOW).sum_by(&["name"]), "{{name}}")
            .when_empty("all are known"),
    );
    panels
}

fn group(group: &'static MibGroup) -> Panel {
    let panel = panel(Lines, group.title, "ops", 12).about(group.about);
    let counters = group.metrics.iter().zip(group.names);
    counters.fold(panel, |panel, (metric, name)| panel.query(counter(metric), name)).within(0.0, None)
}

fn counter(metric: &Metric) -> crate::promql::Expr {
    match metric.kind {
        Kind::Gauge => chosen(metric).now().sum_by(&[]),
        _ => chosen(metric).rate(WINDOW).sum_by(&[]),
    }
}
