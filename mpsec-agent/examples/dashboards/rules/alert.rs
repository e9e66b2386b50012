//! Alerting rules.

use mpsec_common::maps::Event;

use super::record::{cleartext, coverage, min_coverage};
use super::{Annotations, Group, JOB, Labels, Rule, multipath, yaml};
use crate::metric::{
    ATTACHED, ATTACHMENTS_LOST, COLLECTOR_SUCCESS, CONFIG_GOOD, CONTROL_ACTUAL, CONTROL_DESIRED, CONTROL_FAILURES,
    EBPF_EVENTS, EVENTS_LOST, HTTP_CONFIG_GOOD, INTERFACES, PROGRAMS_AHEAD,
};
use crate::promql::{Expr, number, of, target};

/// The text of mpsec-alerts.yml.
pub fn alerts() -> anyhow::Result<String> {
    let comment = "Made by `cargo xtask dashboards`.\n\
                   severity critical: something leaks, or nothing is known of a host. warning: the numbers have a gap,\n\
                       or will have one, or paths and MPTCP do not do what they could.";
    let rules = rules().into_iter().chain(multipath::alerts()).collect();
    yaml(comment, Group { name: "mpsec-alerts", rules })
}

/// THE table of alerts.
fn rules() -> Vec<Rule> {
    vec![
        alert(
            "MpsecAgentDown",
            "critical",
            "2m",
            target("up").is("job", JOB).now().op("==", number(0)),
            "MPSec's agent on {{ $labels.instance }} is down",
            "Prometheus cannot scrape it, so nothing is known of what this host sends in clear. On the host: \
             systemctl status mpsec, journalctl -u mpsec; then the way there (listen address, firewall, \
             certificate).",
        ),
        alert(
            "MpsecCleartextOnProtectedInterface",
            "critical",
            "5m",
            coverage().now().op_many_to_one("<", &["job", "instance", "interface"], min_coverage().now()),
            "{{ $labels.interface }} of {{ $labels.instance }} carries cleartext ({{ $labels.direction }})",
            "Only {{ $value | humanizePercentage }} of its bytes are encrypted, less than mpsec-protected.yml asks \
             for. The dashboard MPSec / Host shows which class leaks; ip xfrm policy and ipsec's or WireGuard's \
             state on the host show why.",
        ),
        alert(
            "MpsecCleartextWhereNoneMayBe",
            "critical",
            "0s",
            cleartext()
                .now()
                .op(">", number(0))
                .where_there_is(&["job", "instance", "interface"], min_coverage().now().op("==", number(1))),
            "{{ $labels.interface }} of {{ $labels.instance }} carried cleartext ({{ $labels.direction }})",
            "One packet is enough for this alert, where mpsec-protected.yml asks for 1; it ends five minutes behind the \
             last. mpsec_interface_bytes_total by class says what it was; ip xfrm policy and ipsec's or WireGuard's \
             state on the host show why.",
        ),
        alert(
            "MpsecAttachFailed",
            "warning",
            "2m",
            of(ATTACHED).now().op("==", number(0)),
            "{{ $labels.interface }} of {{ $labels.instance }} is not counted ({{ $labels.direction }})",
            "The program could not be attached by {{ $labels.method }}, so a leak on this interface would not be \
             seen. mpsec status on the host gives the reason, mpsec doctor what the kernel lacks.",
        ),
        alert(
            "MpsecProgramAhead",
            "warning",
            "5m",
            of(PROGRAMS_AHEAD).now().op(">", number(0)),
            "{{ $value }} programs come before MPSec's on {{ $labels.interface }} of {{ $labels.instance }}",
            "What they drop, redirect or let pass without giving it on is not counted ({{ $labels.direction }}), a leak \
             included. bpftool net show on the host names them. systemctl restart mpsec puts MPSec's in front again; \
             better see that the other program attaches itself behind.",
        ),
        alert(
            "MpsecAttachmentLost",
            "warning",
            "0s",
            of(ATTACHMENTS_LOST).increase("15m").op(">", number(0)),
            "Somebody removed MPSec's programs on {{ $labels.instance }}",
            "They were attached again, but what passed in between was not counted. Look for what else manages tc or \
             TCX on the host: a network manager, another agent, a script.",
        ),
        alert(
            "MpsecPacketsNotCounted",
            "warning",
            "0s",
            of(EBPF_EVENTS).is("event", Event::NoCounter.name()).increase("15m").op(">", number(0)),
            "Packets on {{ $labels.instance }} are missing from the counters",
            "The kernel program saw packets for which it found no counter. This should not happen: note the agent's \
             version and the kernel's, restart the agent, and report it.",
        ),
        alert(
            "MpsecEventsLost",
            "warning",
            "0s",
            of(EVENTS_LOST).increase("15m").op(">", number(0)),
            "The agent on {{ $labels.instance }} lost events ({{ $labels.source }})",
            "The kernel had more to tell than the agent could read. It has listed everything anew since; an \
             interface that came and went in between was not counted. If it recurs, the host is short of processor \
             time or makes interfaces by the hundred.",
        ),
        alert(
            "MpsecInterfacesFolded",
            "warning",
            "5m",
            of(INTERFACES).is("state", "folded").now().op(">", number(0)),
            "{{ $value }} interfaces of {{ $labels.instance }} share the counters of _other",
            "max_interfaces is reached. Raise it in mpsec.toml, or exclude interfaces that need not be counted, and \
             restart the agent.",
        ),
        alert(
            "MpsecCollectorFailed",
            "warning",
            "5m",
            of(COLLECTOR_SUCCESS).now().op("==", number(0)),
            "The agent on {{ $labels.instance }} cannot read {{ $labels.source }}",
            "The metrics of this source are missing, the others are right. mpsec status on the host gives the error.",
        ),
        alert(
            "MpsecNotAsWanted",
            "warning",
            "2m",
            (of(CONTROL_FAILURES).now().op(">", number(0)))
                .op("or", of(CONTROL_DESIRED).now().op("!=", of(CONTROL_ACTUAL).now())),
            "{{ $labels.instance }} is not as it is wanted",
            "MPSec was asked to change something on the host and could not. It tries again and again. mpsec status on the \
             host says what fails and why, mpsec plan what is left to do, mpsec audit what was done. mpsec release \
             gives everything back.",
        ),
        alert(
            "MpsecConfigReloadFailed",
            "warning",
            "5m",
            of(CONFIG_GOOD).now().op("==", number(0)).op("or", of(HTTP_CONFIG_GOOD).now().op("==", number(0))),
            "What was changed in the configuration on {{ $labels.instance }} is not in force",
            "journalctl -u mpsec has the reason. Either mpsec.toml (mpsec config check FILE) or the web configuration is \
             bad, and at its next restart the agent would not start; or mpsec.toml changes what a restart alone can \
             change: systemctl restart mpsec.",
        ),
    ]
}

/// One alert. Its texts may name only labels that its series carry.
pub fn alert(
    alert: &'static str,
    severity: &'static str,
    for_: &'static str,
    expr: Expr,
    summary: &'static str,
    description: &'static str,
) -> Rule {
    for text in [summary, description] {
        expr.check_template(text, "{{ $labels.", "}}");
    }
    let labels = Labels { protection: None, severity: Some(severity) };
    Rule::Alert { alert, expr: expr.to_string(), for_, labels, annotations: Annotations { summary, description } }
}
