//! Panels on what travels.

use mpsec_common::Class;
use mpsec_common::maps::Event;
use mpsec_common::traffic::Protection::{Cleartext, Encrypted, Exempt};

use super::{SHOWN, agents, bits, cleartext, coverage, mean_length, packets, protected, shown, targets};
use crate::class;
use crate::metric::{ATTACHED, BYTES, EBPF_EVENTS, L3_BYTES, PACKETS};
use crate::panel::Kind::{Bars, Lines, Stack, Stat};
use crate::panel::{Limit, Panel, panel};
use crate::promql::number;

const FLOW: &[&str] = &["instance", "netns", "interface", "direction"];
const FLOW_NAME: &str = "{{instance}} {{netns}} {{interface}} {{direction}}";

/// Red until nearly all is encrypted: the little that is left is ICMP and name resolution on most hosts.
const SHARE: &[Limit] = &[(0.0, "red"), (0.9, "orange"), (0.99, "green")];
const NONE_IS_GOOD: &[Limit] = &[(0.0, "green"), (1.0, "red")];
const QUIET: &str = "no traffic";

/// The first line: the answer, and whether it can be trusted.
pub fn verdict() -> Vec<Panel> {
    vec![
        panel(Stat, "Encrypted share", "percentunit", 5)
            .about(
                "Encrypted bytes of all that could be encrypted, sent (tx) and received (rx), now. ARP, neighbour \
                 discovery, IKE and keepalives are left out: they must be in clear.",
            )
            .query(coverage(&["direction"]), "{{direction}}")
            .limits(SHARE)
            .within(0.0, Some(1.0))
            .when_empty(QUIET),
        panel(Stat, "Cleartext now", "bps", 5)
            .about(
                "What can be read on the path, sent (tx) and received (rx). \"Where it leaks\" below says what it \
                 is.",
            )
            .query(bits(&cleartext(BYTES), &["direction"]), "{{direction}}")
            .limits(&[(0.0, "green"), (1.0, "orange"), (100_000.0, "red")])
            .when_empty("none"),
        panel(Stat, "Cleartext so far", "bytes", 4)
            .about(
                "What passed in clear since the agents started, sent (tx) and received (rx): exact to the byte, so \
                 that a single packet shows, which a rate would not.",
            )
            .query(cleartext(BYTES).so_far().sum_by(&["direction"]), "{{direction}}")
            .limits(&[(0.0, "green"), (1.0, "orange")])
            .when_empty("none"),
        panel(Stat, "Worst interface", "percentunit", 4)
            .about("The interface and direction with the smallest encrypted share now.")
            .query(coverage(FLOW).smallest(1), "{{netns}} {{interface}} {{direction}}")
            .limits(SHARE)
            .within(0.0, Some(1.0))
            .when_empty(QUIET),
        panel(Stat, "Agents down", "none", 2)
            .about("Agents that Prometheus cannot reach: nothing is known of their hosts.")
            .query(number(1).op("-", targets("up").now()).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
        panel(Stat, "Not attached", "none", 2)
            .about("Interfaces' directions whose traffic is not counted, because the program could not be attached.")
            .query(number(1).op("-", agents(ATTACHED).now()).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
        panel(Stat, "Not counted", "short", 2)
            .about("Packets in the shown time that passed and are missing from the counters.")
            .query(agents(EBPF_EVENTS).is("event", Event::NoCounter.name()).increase(SHOWN).sum_by(&[]), "")
            .limits(NONE_IS_GOOD),
    ]
}

/// What is in clear, and where.
pub fn leaks() -> Vec<Panel> {
    const LEAK: &[&str] = &["instance", "netns", "interface", "direction", "class"];
    vec![
        panel(Lines, "Encrypted share by interface", "percentunit", 12)
            .about(
                "encrypted / (encrypted + cleartext) bytes, for each interface and direction. A gap means that there \
                 was no traffic to judge.",
            )
            .query(coverage(FLOW), FLOW_NAME)
            .limits(SHARE)
            .within(0.0, Some(1.0))
            .when_empty(QUIET),
        panel(Bars, "Largest leaks now", "bps", 12)
            .about(
                "The ten largest flows of cleartext: host, interface, direction and class. Empty where nothing is in \
                 clear.",
            )
            .query(
                bits(&cleartext(BYTES), LEAK).op(">", number(0)).largest(10),
                "{{instance}} {{netns}} {{interface}} {{direction}} {{class}}",
            )
            .limits(&[(0.0, "orange"), (100_000.0, "red")])
            .within(0.0, None)
            .when_empty("nothing is in clear"),
        panel(Stack, "Cleartext sent, by class", "bps", 12)
            .about(
                "What leaves in clear. ah is authenticated but readable; malformed and other are counted as leaks \
                 because they cannot be told from one. Empty where nothing is in clear.",
            )
            .query(bits(&cleartext(BYTES).is("direction", "tx"), &["class"]), "{{class}}")
            .within(0.0, None)
            .when_empty("nothing is in clear"),
        panel(Stack, "Cleartext received, by class", "bps", 12)
            .about("What comes in clear. Empty where nothing is in clear.")
            .query(bits(&cleartext(BYTES).is("direction", "rx"), &["class"]), "{{class}}")
            .within(0.0, None)
            .when_empty("nothing is in clear"),
    ]
}

/// What travels at all.
pub fn traffic() -> Vec<Panel> {
    vec![
        panel(Lines, "Traffic by interface", "bps", 12)
            .about("Bits on the wire, link headers included; received above the axis, sent below.")
            .query(bits(&shown(BYTES), FLOW), FLOW_NAME)
            .below_axis(" tx$"),
        by_class(panel(Stack, "Traffic by class", "bps", 12).about(
            "Bits on the wire of both directions. Green is encrypted, red can be read on the path, blue must be in \
             clear.",
        ))
        .query(bits(&shown(BYTES), &["class"]), "{{class}}")
        .within(0.0, None),
        panel(Lines, "Packets by interface", "pps", 12)
            .about(
                "Packets on the wire: a GSO or GRO super-packet counts as the packets that it stands for. Received \
                 above the axis, sent below.",
            )
            .query(packets(&shown(PACKETS), FLOW), FLOW_NAME)
            .below_axis(" tx$"),
        panel(Stack, "Traffic by protection", "bps", 12)
            .about("Encrypted, in clear, and exempt (must be in clear), both directions.")
            .query(bits(&protected(BYTES, Encrypted), &[]), Encrypted.name())
            .query(bits(&protected(BYTES, Cleartext), &[]), Cleartext.name())
            .query(bits(&protected(BYTES, Exempt), &[]), Exempt.name())
            .shades(&format!("^{}$", Encrypted.name()), "green")
            .shades(&format!("^{}$", Cleartext.name()), "red")
            .shades(&format!("^{}$", Exempt.name()), "blue")
            .within(0.0, None),
        panel(Lines, "Exempt traffic by class", "bps", 8)
            .about(
                "What must be in clear for link and tunnel to work: key exchange, keepalives, ARP, neighbour \
                 discovery. It is small; a flood here is an attack or a fault.",
            )
            .query(bits(&protected(BYTES, Exempt), &["instance", "class"]), "{{instance}} {{class}}")
            .within(0.0, None),
        panel(Lines, "Malformed packets", "pps", 8)
            .about("IP packets whose headers contradict themselves or are cut short. Empty until there is one.")
            .query(packets(&shown(PACKETS).is("class", Class::Malformed.name()), FLOW), FLOW_NAME)
            .within(0.0, None)
            .when_empty("none so far"),
        panel(Lines, "Mean packet length", "bytes", 8)
            .about(
                "From the network header on. Small packets cost the most; a sudden rise or fall is a change of \
                 traffic.",
            )
            .query(mean_length(L3_BYTES, FLOW), FLOW_NAME)
            .within(0.0, None)
            .when_empty(QUIET),
    ]
}

/// Colours by protection.
fn by_class(panel: Panel) -> Panel {
    let colors = [(Encrypted, "green"), (Cleartext, "red"), (Exempt, "blue")];
    colors
        .into_iter()
        .fold(panel, |panel, (protection, color)| panel.shades(&format!("^({})$", class::of(protection)), color))
}
