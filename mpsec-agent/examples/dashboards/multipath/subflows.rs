//! Panels on single subflows.

use super::{WINDOW, bits, chosen};
use crate::metric::{
    SUBFLOW_BYTES, SUBFLOW_CWND, SUBFLOW_DELIVERY, SUBFLOW_FOLDED, SUBFLOW_PACKETS, SUBFLOW_PAYLOAD,
    SUBFLOW_RETRANSMITTED, SUBFLOW_SRTT,
};
use crate::panel::Kind::{Bars, Lines};
use crate::panel::{Panel, panel};
use crate::promql::{of, share};

const SUBFLOW: &[&str] = &["instance", "netns", "interface", "local", "remote"];
const FLOW: &[&str] = &["instance", "netns", "interface", "local", "remote", "direction"];
const SUBFLOW_NAME: &str = "{{instance}} {{netns}} {{interface}} {{local}} {{remote}}";
const FLOW_NAME: &str = "{{instance}} {{netns}} {{interface}} {{local}} {{remote}} {{direction}}";
const OFF: &str = "max_subflow_series is 0";

/// The largest subflows; all others together are `_other`.
pub fn largest() -> Vec<Panel> {
    let sent = |metric| chosen(metric).is("direction", "tx").rate(WINDOW).sum_by(SUBFLOW);
    let lines = |title, unit, about| panel(Lines, title, unit, 12).about(about).when_empty(OFF);
    vec![
        panel(Bars, "Largest subflows now", "bps", 12)
            .about("By bits a second in one direction. _other is all that have no series of their own.")
            .query(bits(&chosen(SUBFLOW_BYTES), FLOW).largest(20), FLOW_NAME)
            .within(0.0, None)
            .when_empty(OFF),
        lines("Traffic by subflow", "bps", "Bits on the wire; received above the axis, sent below.")
            .query(bits(&chosen(SUBFLOW_BYTES), FLOW), FLOW_NAME)
            .below_axis(" tx$"),
        lines("Packets by subflow", "pps", "Packets on the wire; received above the axis, sent below.")
            .query(chosen(SUBFLOW_PACKETS).rate(WINDOW).sum_by(FLOW), FLOW_NAME)
            .below_axis(" tx$"),
        lines("Sent again by subflow", "percentunit", "Payload that had been sent before, of all payload sent.")
            .query(share(sent(SUBFLOW_RETRANSMITTED), sent(SUBFLOW_PAYLOAD)), SUBFLOW_NAME)
            .within(0.0, None),
        lines("Round-trip time by subflow", "s", "As TCP smooths it.")
            .query(chosen(SUBFLOW_SRTT).now(), SUBFLOW_NAME)
            .within(0.0, None),
        lines("Congestion window by subflow", "none", "In segments.")
            .query(chosen(SUBFLOW_CWND).now(), SUBFLOW_NAME)
            .within(0.0, None),
        lines("Delivery rate by subflow", "Bps", "What TCP last saw delivered.")
            .query(chosen(SUBFLOW_DELIVERY).now(), SUBFLOW_NAME)
            .within(0.0, None),
        lines("Subflows folded", "short", "How many were put under _other, in five minutes.")
            .query(of(SUBFLOW_FOLDED).like("job", "$job").like("instance", "$instance").increase("5m"), "{{instance}}")
            .within(0.0, None),
    ]
}
