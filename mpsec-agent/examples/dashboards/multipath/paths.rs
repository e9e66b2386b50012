//! Panels on paths.

use super::{
    FLOW, FLOW_NAME, NONE_IS_GOOD, PATH, PATH_NAME, SHOWN, WINDOW, bits, chosen, observed, retransmitted, shown,
};
use crate::metric::{
    BLACKHOLE, CONNECTIONS, DELIVERY_RATE, FALLBACKS, HANDSHAKES_LOST, JOIN_FAILURES, PATH_BYTES, PATH_PACKETS,
    PATH_PAYLOAD, PATH_RETRANSMITTED, PATH_SILENT, PATH_SUBFLOWS, RTT, SUBFLOWS_LOST,
};
use crate::panel::Kind::{Columns, Heatmap, Lines, Shares, Stack, Stat};
use crate::panel::{Panel, panel};
use crate::promql::number;

const QUIET: &str = "no traffic";

/// The first line: the answer, and whether it can be trusted.
pub fn verdict() -> Vec<Panel> {
    let lost = |metric| chosen(metric).increase(SHOWN).sum_by(&[]);
    vec![
        panel(Stat, "Silent paths", "none", 3)
            .about("Paths that carry nothing although they should. mpsec status on the host says why.")
            .query(shown(PATH_SILENT).now().sum_by(&[]), "")
            .limits(NONE_IS_GOOD)
            .when_empty("no paths"),
        panel(Stat, "Paths in use", "none", 3)
            .about("Paths with a subflow that is established and not backup.")
            .query(shown(PATH_SUBFLOWS).is("state", "active").now().op("> bool", number(0)).sum_by(&[]), "")
            .when_empty("no paths"),
        panel(Stat, "Throughput", "bps", 5)
            .about("Of all paths on the wire, sent (tx) and received (rx), now; without those whose ports IPsec hides.")
            .query(bits(&shown(PATH_BYTES), &["direction"]), "{{direction}}")
            .when_empty(QUIET),
        panel(Stat, "Connections", "none", 3)
            .about("Established ones that are MPTCP, and not plain TCP by now.")
            .query(chosen(CONNECTIONS).is("state", "established").is("fallback", "no").now().sum_by(&[]), ""),
        panel(Stat, "Fallbacks", "short", 3)
            .about("Connections that became plain TCP in the shown time. \"What fails, and why\" below has the causes.")
            .query(lost(FALLBACKS), "")
            .limits(&[(0.0, "green"), (1.0, "orange")]),
        panel(Stat, "Join failures", "short", 3)
            .about("Subflows that did not join in the shown time.")
            .query(lost(JOIN_FAILURES), "")
            .limits(&[(0.0, "green"), (1.0, "orange")]),
        panel(Stat, "Blackhole", "none", 2)
            .about(
                "Whether a host makes connections as plain TCP because an earlier MP_CAPABLE got no answer. Writing \
                 to net.mptcp.blackhole_timeout lets it try again at once.",
            )
            .query(chosen(BLACKHOLE).now().max_by(&[]), "")
            .words(&[(0, "none", "green"), (1, "in force", "red")])
            .when_empty("unknown"),
        panel(Stat, "Not counted", "short", 2)
            .about("Subflows in the shown time that found no room, or were met too late to count their first packets.")
            .query(lost(SUBFLOWS_LOST).op("+", lost(HANDSHAKES_LOST)), "")
            .limits(NONE_IS_GOOD),
    ]
}

/// What paths carry, and each one's part.
pub fn traffic() -> Vec<Panel> {
    let flow = |direction| shown(PATH_BYTES).is("direction", direction);
    let payload = |direction| shown(PATH_PAYLOAD).is("direction", direction);
    vec![
        panel(Columns, "Paths", "none", 24)
            .about("Each path now. Round-trip time is the median over its subflows. Where IPsec hides the ports, there is payload alone.")
            .column(bits(&flow("tx"), PATH), "sent", "bps")
            .column(bits(&flow("rx"), PATH), "received", "bps")
            .column(bits(&payload("tx"), PATH), "payload sent", "bps")
            .column(bits(&payload("rx"), PATH), "payload received", "bps")
            .column(shown(PATH_SUBFLOWS).is("state", "active").now().sum_by(PATH), "active", "none")
            .column(shown(PATH_SUBFLOWS).is("state", "backup").now().sum_by(PATH), "backup", "none")
            .column(observed(RTT, PATH).quantile(0.5), "round trip", "s")
            .column(retransmitted(PATH, PATH_RETRANSMITTED, PATH_PAYLOAD), "sent again", "percentunit")
            .column(shown(PATH_SILENT).now().sum_by(PATH), "silent", "none")
            .when_empty("no paths"),
        panel(Lines, "Traffic by path", "bps", 24)
            .about("Bits on the wire, link headers included; received above the axis, sent below. Without paths whose ports IPsec \
                 hides: see \"Payload by path\".")
            .query(bits(&shown(PATH_BYTES), FLOW), FLOW_NAME)
            .below_axis(" tx$")
            .when_empty(QUIET),
        panel(Shares, "Shares of paths, sent", "bps", 12)
            .about("Each path's part of the payload that is sent.")
            .query(bits(&payload("tx"), PATH), PATH_NAME)
            .when_empty(QUIET),
        panel(Shares, "Shares of paths, received", "bps", 12)
            .about("Each path's part of the payload that is received.")
            .query(bits(&payload("rx"), PATH), PATH_NAME)
            .when_empty(QUIET),
        panel(Lines, "Packets by path", "pps", 12)
            .about("Packets on the wire; received above the axis, sent below.")
            .query(shown(PATH_PACKETS).rate(WINDOW).sum_by(FLOW), FLOW_NAME)
            .below_axis(" tx$")
            .when_empty(QUIET),
        panel(Lines, "Payload by path", "bps", 12)
            .about("TCP payload, retransmissions included; received above the axis, sent below.")
            .query(bits(&shown(PATH_PAYLOAD), FLOW), FLOW_NAME)
            .below_axis(" tx$")
            .when_empty(QUIET),
        panel(Stack, "Subflows by state", "none", 12)
            .about("backup subflows are established, and carry only when nothing else is left.")
            .query(shown(PATH_SUBFLOWS).now().sum_by(&["state"]), "{{state}}")
            .within(0.0, None),
        panel(Lines, "Active subflows by path", "none", 12)
            .about("Established and not backup. A path that falls to 0 while others stay is down.")
            .query(shown(PATH_SUBFLOWS).is("state", "active").now().sum_by(PATH), PATH_NAME)
            .within(0.0, None),
    ]
}

/// Delay, speed, loss.
pub fn quality() -> Vec<Panel> {
    vec![
        panel(Lines, "Round-trip time, median", "s", 12)
            .about("Of each path's subflows, as TCP smooths it.")
            .query(observed(RTT, PATH).quantile(0.5), PATH_NAME)
            .within(0.0, None)
            .when_empty(QUIET),
        panel(Lines, "Round-trip time, 95 of 100", "s", 12)
            .about("What all but the slowest twentieth of measurements stay below, for each path.")
            .query(observed(RTT, PATH).quantile(0.95), PATH_NAME)
            .within(0.0, None)
            .when_empty(QUIET),
        panel(Heatmap, "Round-trip times", "s", 12)
            .about("How many measurements of all paths were of which length. Two bands are two kinds of paths.")
            .query(observed(RTT, &[]), "{{le}}")
            .when_empty(QUIET),
        panel(Heatmap, "Delivery rates", "Bps", 12)
            .about("How fast TCP saw data delivered, in bytes a second, over all subflows.")
            .query(observed(DELIVERY_RATE, &[]), "{{le}}")
            .when_empty(QUIET),
        panel(Lines, "Delivery rate of a subflow, median", "Bps", 12)
            .about("What TCP saw delivered on each path. A subflow with little to send shows less than the path has.")
            .query(observed(DELIVERY_RATE, PATH).quantile(0.5), PATH_NAME)
            .within(0.0, None)
            .when_empty(QUIET),
        panel(Lines, "Sent again", "percentunit", 12)
            .about("Payload that had been sent on the same subflow before, of all payload sent: what each path loses.")
            .query(retransmitted(PATH, PATH_RETRANSMITTED, PATH_PAYLOAD), PATH_NAME)
            .within(0.0, None)
            .when_empty(QUIET),
        panel(Lines, "Silent paths over time", "none", 12)
            .about("1 while a path carries nothing although it should.")
            .query(shown(PATH_SILENT).now(), PATH_NAME)
            .within(0.0, Some(1.0)),
    ]
}
