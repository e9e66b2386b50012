//! Panels on connections and subflows: how they come and go, what fails, and in which order data arrives.

use super::{NAMESPACE, PATH_NAME, WINDOW, chosen, shown};
use crate::metric::{
    BLACKHOLE, CONNECTIONS, CONNECTIONS_CLOSED, CONNECTIONS_OPENED, DATA_TIMEOUTS, FALLBACKS, FINDINGS, JOIN_FAILURES,
    MIB_DUPLICATE, MIB_OFO_MERGE, MIB_OFO_QUEUE, MIB_OFO_QUEUE_TAIL, MIB_RETRANS, PATH_CLOSED, PATH_OPENED, REORDERING,
    SUBFLOW_RESETS, SUBFLOW_RETRANSMISSIONS, SUBFLOWS_CLOSED, SUBFLOWS_OPENED,
};
use crate::panel::Kind::{Lines, Stack};
use crate::panel::{Panel, panel};

const NAMESPACE_NAME: &str = "{{instance}} {{netns}}";
/// Few connections begin in a second: what came in a while is easier to read than a rate.
const WHILE: &str = "5m";

/// How many there are, and how they come and go.
pub fn life() -> Vec<Panel> {
    let rise = |metric| chosen(metric).increase(WHILE).sum_by(NAMESPACE);
    vec![
        panel(Stack, "Connections by state", "none", 12)
            .about("Of the MPTCP-level sockets. fallback yes: plain TCP by now, which only the client's end can tell.")
            .query(chosen(CONNECTIONS).now().sum_by(&["state", "fallback"]), "{{state}}, fallback {{fallback}}")
            .within(0.0, None),
        panel(Lines, "Connections opened and closed", "short", 12)
            .about("In five minutes; opened above the axis, closed below.")
            .query(rise(CONNECTIONS_OPENED), &format!("{NAMESPACE_NAME} opened"))
            .query(rise(CONNECTIONS_CLOSED), &format!("{NAMESPACE_NAME} closed"))
            .below_axis(" closed$"),
        panel(Lines, "Subflows opened and closed", "short", 12)
            .about("In five minutes; opened above the axis, closed below.")
            .query(rise(SUBFLOWS_OPENED), &format!("{NAMESPACE_NAME} opened"))
            .query(rise(SUBFLOWS_CLOSED), &format!("{NAMESPACE_NAME} closed"))
            .below_axis(" closed$"),
        panel(Lines, "Subflows opened by path", "short", 12)
            .about("In five minutes.")
            .query(shown(PATH_OPENED).increase(WHILE), PATH_NAME)
            .within(0.0, None),
        panel(Stack, "Subflows closed by reason", "short", 12)
            .about("In five minutes, on all paths. Empty until one was closed.")
            .query(shown(PATH_CLOSED).increase(WHILE).sum_by(&["reason"]), "{{reason}}")
            .within(0.0, None)
            .when_empty("none so far"),
    ]
}

/// Fallbacks and joins by cause.
pub fn failures() -> Vec<Panel> {
    let causes = |metric| chosen(metric).increase(WHILE).sum_by(&["cause"]);
    vec![
        panel(Stack, "Fallbacks by cause", "short", 12)
            .about(
                "Connections that became plain TCP, in five minutes. no_mp_capable_in_syn_ack: the server, or \
                 something on the way, does without MPTCP. syn_dropped: something on the way drops MP_CAPABLE. \
                 blackhole: MPTCP was not tried because of that.",
            )
            .query(causes(FALLBACKS), "{{cause}}")
            .within(0.0, None)
            .when_empty("none so far"),
        panel(Stack, "Join failures by cause", "short", 12)
            .about(
                "Subflows that did not join, in five minutes. rejected: a limit of the path manager was reached. \
                 token: the connection was gone, or another host answered. create_socket, bind, connect: this host's \
                 own failures.",
            )
            .query(causes(JOIN_FAILURES), "{{cause}}")
            .within(0.0, None)
            .when_empty("none so far"),
        panel(Lines, "Resets of subflows", "short", 12)
            .about(
                "In five minutes; received above the axis, sent below. A received one is without_option if it had no MP_TCPRST, \
                 as from a firewall on the way.",
            )
            .query(chosen(SUBFLOW_RESETS).increase("5m").sum_by(&["direction", "reason"]), "{{direction}} {{reason}}")
            .below_axis("^sent ")
            .when_empty("none so far"),
        panel(Lines, "Blackhole over time", "none", 12)
            .about("1 while new connections are made as plain TCP because an earlier MP_CAPABLE got no answer.")
            .query(chosen(BLACKHOLE).now(), NAMESPACE_NAME)
            .within(0.0, Some(1.0))
            .when_empty("unknown"),
        panel(Stack, "Findings", "none", 12)
            .about("What mpsec status finds wrong, by kind; it says more on the host.")
            .query(chosen(FINDINGS).now().sum_by(&["kind"]), "{{kind}}")
            .within(0.0, None)
            .when_empty("nothing is wrong"),
    ]
}

/// What overtakes what.
pub fn order() -> Vec<Panel> {
    let speed = |metric| chosen(metric).rate(WINDOW).sum_by(NAMESPACE);
    vec![
        panel(Lines, "Out of order between subflows", "ops", 12)
            .about(
                "Segments that MPTCP had to queue because one on another path was late. Some are normal; many mean \
                 that paths differ much in delay.",
            )
            .query(speed(MIB_OFO_QUEUE), &format!("{NAMESPACE_NAME} queued"))
            .query(speed(MIB_OFO_QUEUE_TAIL), &format!("{NAMESPACE_NAME} queued at the end"))
            .query(speed(MIB_OFO_MERGE), &format!("{NAMESPACE_NAME} merged"))
            .within(0.0, None),
        panel(Lines, "Sent again by MPTCP", "ops", 12)
            .about("Segments that were sent once more on another subflow, and data that came twice for it.")
            .query(speed(MIB_RETRANS), &format!("{NAMESPACE_NAME} sent again"))
            .query(speed(MIB_DUPLICATE), &format!("{NAMESPACE_NAME} came twice"))
            .within(0.0, None),
        panel(Lines, "Timeouts of MPTCP", "ops", 12)
            .about("How often its own timer ran out while data was not acknowledged; only where functions can be probed.")
            .query(speed(DATA_TIMEOUTS), NAMESPACE_NAME)
            .within(0.0, None)
            .when_empty("not probed here"),
        panel(Lines, "Sent again by subflows", "ops", 12)
            .about(
                "Segments, by the state of congestion control. recovery: fast retransmission. loss: after a timeout. open: SYNs, \
                 and probes for the loss of the last segments.",
            )
            .query(chosen(SUBFLOW_RETRANSMISSIONS).rate(WINDOW).sum_by(&["state"]), "{{state}}")
            .within(0.0, None)
            .when_empty("not probed here"),
        panel(Lines, "Reordering within TCP", "ops", 12)
            .about("Signs of it in all of TCP, plain connections included, by kind.")
            .query(chosen(REORDERING).rate(WINDOW).sum_by(&["kind"]), "{{kind}}")
            .within(0.0, None),
    ]
}
