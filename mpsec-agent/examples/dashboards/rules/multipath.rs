//! Rules on paths and MPTCP.

use super::alert::alert;
use super::{Rule, WINDOW, record};
use crate::metric::{
    BLACKHOLE, FALLBACKS, JOIN_FAILURES, MIB_SYN_RX, MIB_SYN_TX, PATH_BYTES, PATH_PAYLOAD, PATH_RETRANSMITTED,
    PATH_SILENT, PATH_SUBFLOWS, SUBFLOWS_LOST, TABLE_CAPACITY, TABLE_ENTRIES,
};
use crate::promql::{number, of, share};

const PATH_RATE: &str = "mpsec:path_bytes:rate5m";
const PATH_SHARE: &str = "mpsec:path_share:ratio_rate5m";
const PATH_LOSS: &str = "mpsec:path_retransmitted:ratio_rate5m";

const NAMESPACE: [&str; 3] = ["job", "instance", "netns"];
const FLOW: [&str; 7] = ["job", "instance", "netns", "interface", "family", "remote", "direction"];

/// How far back alerts look for what rose.
const LATELY: &str = "15m";
/// More fallbacks than this part of the connections that were tried are no accident.
const MANY: f64 = 0.1;
/// A table that is this full will not do for long.
const NEARLY_FULL: f64 = 0.9;

/// THE table of recorded rates and shares of paths.
pub fn recording() -> Vec<Rule> {
    // Not of bytes on the wire: those of paths inside IPsec are not known.
    let rate = || of(PATH_PAYLOAD).rate(WINDOW).sum_by(&FLOW);
    let whole = rate().sum_by(&[&NAMESPACE[..], &["direction"]].concat()).op(">", number(0));
    let sent = |metric| of(metric).is("direction", "tx").rate(WINDOW).sum_by(&FLOW[..6]);
    vec![
        record(PATH_RATE, &of(PATH_BYTES).rate(WINDOW).sum_by(&FLOW), None),
        record(PATH_SHARE, &rate().op_many_to_one("/", &["job", "instance", "netns", "direction"], whole), None),
        record(PATH_LOSS, &share(sent(PATH_RETRANSMITTED), sent(PATH_PAYLOAD)), None),
    ]
}

/// THE table of alerts on paths.
pub fn alerts() -> Vec<Rule> {
    vec![silent(), down(), fallbacks(), blackhole(), join_failures(), table_full(), subflows_lost()]
}

fn silent() -> Rule {
    alert(
        "MpsecPathSilent",
        "warning",
        "3m",
        of(PATH_SILENT).now().op("==", number(1)),
        "{{ $labels.interface }} of {{ $labels.instance }} carries nothing to {{ $labels.remote }}",
        "Subflows on this path are established and data is sent, but none of it here. mpsec status on the host says \
         why. Usual reasons: the path is far slower than the others, its subflows are backup, or packets are dropped \
         on the way (ping -I {{ $labels.interface }}, firewall, MTU, reverse path filter).",
    )
}

fn down() -> Rule {
    let active = || of(PATH_SUBFLOWS).is("state", "active");
    let peer = [&NAMESPACE[..], &["remote"]].concat();
    let others = active().now().sum_by(&peer).op(">", number(0));
    let gone = active().now().op("==", number(0)).op("and", active().max_over(LATELY).op(">", number(0)));
    alert(
        "MpsecPathDown",
        "warning",
        "2m",
        gone.where_there_is(&peer, others),
        "{{ $labels.interface }} of {{ $labels.instance }} has no subflow to {{ $labels.remote }} any more",
        "It had some in the last quarter of an hour, and other paths to the same place still have. On the host: ip \
         link show {{ $labels.interface }}, ip route, mpsec status for why the last ones were closed, and ip mptcp \
         endpoint show for whether new ones may be made. Harmless if the connections that used it have just ended.",
    )
}

fn fallbacks() -> Rule {
    let tried = |metric| of(metric).increase(LATELY).sum_by(&NAMESPACE);
    // What is not even tried has an alert of its own.
    let fallbacks = of(FALLBACKS).other_than("cause", "blackhole").increase(LATELY);
    let by_cause = fallbacks.sum_by(&[&NAMESPACE[..], &["cause"]].concat()).op(">", number(0));
    let part = by_cause.op_many_to_one("/", &NAMESPACE, tried(MIB_SYN_TX).op("+", tried(MIB_SYN_RX)));
    alert(
        "MpsecFallbacksRising",
        "warning",
        "5m",
        part.op(">", number(MANY)),
        "Connections of {{ $labels.instance }} become plain TCP ({{ $labels.cause }})",
        "{{ $value | humanizePercentage }} of the connections of the last quarter of an hour. \
         no_mp_capable_in_syn_ack: the servers do not speak MPTCP, or a middlebox strips its options. syn_dropped: a \
         middlebox drops them. no_mp_capable_in_ack, first_data, mapping, corruption, checksum: a middlebox changes \
         the stream; net.mptcp.checksum_enabled shows where. A capture on both ends (tcpdump) tells which it is.",
    )
}

fn blackhole() -> Rule {
    alert(
        "MpsecMptcpBlackhole",
        "warning",
        "1m",
        of(BLACKHOLE).now().op("==", number(1)),
        "{{ $labels.instance }} makes connections as plain TCP: MPTCP was dropped on the way",
        "A connection's MP_CAPABLE got no answer, so that the kernel does without MPTCP for a while, for all \
         destinations. Find and mend what drops TCP option 30; then sysctl -w net.mptcp.blackhole_timeout=3600 lets \
         the kernel try again at once, and 0 switches this off. The alert ends with the next connection that asks for \
         MPTCP.",
    )
}

fn join_failures() -> Rule {
    alert(
        "MpsecJoinFailures",
        "warning",
        "5m",
        of(JOIN_FAILURES).increase(LATELY).sum_by(&[&NAMESPACE[..], &["cause"]].concat()).op(">", number(0)),
        "Subflows of {{ $labels.instance }} do not join ({{ $labels.cause }})",
        "{{ $value | humanize }} in the last quarter of an hour. rejected: raise ip mptcp limits. token, hmac: \
         another host answers behind the same address. no_mp_join: a middlebox strips TCP option 30. port: an \
         endpoint with a port was removed. create_socket, bind, connect: an endpoint's address or route is missing \
         on this host (ip mptcp endpoint show, ip route get).",
    )
}

fn table_full() -> Rule {
    alert(
        "MpsecSubflowTableFull",
        "warning",
        "5m",
        of(TABLE_ENTRIES).now().op("/", of(TABLE_CAPACITY).now()).op(">", number(NEARLY_FULL)),
        "The table of subflows on {{ $labels.instance }} is nearly full",
        "{{ $value | humanizePercentage }} of its entries are in use. Subflows that find no room are not counted: \
         raise max_subflows in mpsec.toml and restart the agent.",
    )
}

fn subflows_lost() -> Rule {
    alert(
        "MpsecSubflowsLost",
        "warning",
        "0s",
        of(SUBFLOWS_LOST).increase(LATELY).op(">", number(0)),
        "Subflows of {{ $labels.instance }} are not counted",
        "{{ $value | humanize }} of them found no room in the last quarter of an hour: what they carry is missing \
         from the paths. Raise max_subflows in mpsec.toml and restart the agent.",
    )
}
