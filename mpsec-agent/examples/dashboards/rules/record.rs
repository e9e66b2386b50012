//! Recording rules.

use mpsec_common::traffic::Protection::{Cleartext, Encrypted, Exempt};

use super::{Group, WINDOW, multipath, record, yaml};
use crate::class;
use crate::host::INNER;
use crate::metric::{ATTACHED, BYTES, CLEARTEXT_BYTES, CLEARTEXT_PACKETS, ENCRYPTED_BYTES, ENCRYPTED_PACKETS, PACKETS};
use crate::promql::{Expr, Select, TARGET, number, of, recorded, share};

const BYTE_RATE: &str = "mpsec:interface_bytes:rate5m";
const PACKET_RATE: &str = "mpsec:interface_packets:rate5m";
const COVERAGE: &str = "mpsec:interface_coverage:ratio_rate5m";
const HOST_BYTE_RATE: &str = "mpsec:host_bytes:rate5m";
const HOST_COVERAGE: &str = "mpsec:host_coverage:ratio_rate5m";
const MIN_COVERAGE: &str = "mpsec:protected_interface:min_ratio";

const FLOW: [&str; 5] = ["job", "instance", "netns", "interface", "direction"];
const PROTECTED_FLOW: [&str; 6] = ["job", "instance", "netns", "interface", "direction", "protection"];

/// The encrypted share of what an interface sends or receives.
pub fn coverage() -> Select {
    recorded(COVERAGE, &FLOW)
}

/// The rate of what an interface sends or receives in clear, in bytes.
pub fn cleartext() -> Select {
    recorded(BYTE_RATE, &PROTECTED_FLOW).is("protection", Cleartext.name())
}

/// The least that it may be, where an operator has said so.
pub fn min_coverage() -> Select {
    recorded(MIN_COVERAGE, &["interface"])
}

/// The text of mpsec-recording.yml.
pub fn recording() -> anyhow::Result<String> {
    let mut rules = Vec::new();
    for (name, metric, encrypted, in_clear) in [
        (BYTE_RATE, BYTES, ENCRYPTED_BYTES, CLEARTEXT_BYTES),
        (PACKET_RATE, PACKETS, ENCRYPTED_PACKETS, CLEARTEXT_PACKETS),
    ] {
        for protection in [Encrypted, Cleartext, Exempt] {
            let rate = |select: Select| select.rate(WINDOW).sum_by(&FLOW);
            let by_class = || rate(of(metric).like("class", &class::of(protection)));
            // A class has no series before its first packet, whose rise no rate sees: the agent sums classes up. By the classes,
            // where it is older than that.
            let rate = match protection {
                Encrypted => rate(of(encrypted)).op("or", by_class()),
                // A class that is younger than these rules is taken for cleartext.
                Cleartext => rate(of(in_clear)).op("or", rate(of(metric).unlike("class", &class::not_cleartext()))),
                _ => by_class(),
            };
            rules.push(record(name, &rate, Some(protection.name())));
        }
    }
    let host_flow = [TARGET[0], TARGET[1], "direction"];
    let host_rate = recorded(BYTE_RATE, &PROTECTED_FLOW).unlike("interface", INNER).now();
    let host_rate = host_rate.sum_by(&[TARGET[0], TARGET[1], "direction", "protection"]);
    rules.extend([
        record(COVERAGE, &ratio(BYTE_RATE, &FLOW), None),
        record(HOST_BYTE_RATE, &host_rate, None),
        record(HOST_COVERAGE, &ratio(HOST_BYTE_RATE, &host_flow), None),
    ]);
    rules.extend(multipath::recording());
    let comment = format!(
        "Made by `cargo xtask dashboards`.\n\
         Rates in bytes and packets a second by protection, and encrypted / (encrypted + cleartext) bytes, from 0\n\
         to 1; exempt traffic (ARP, neighbour discovery, IKE, keepalives) must be in clear and is left out of it.\n\
         {HOST_BYTE_RATE} and {HOST_COVERAGE} leave out the loopback and what is inside of\n\
         tunnels or of the host, by the interface's name: it shows again on the interface that it leaves through.\n\
         mpsec:path_*: bytes a second of each path, its share of the payload that its network namespace sends or\n\
         receives on all paths, and the part of what it sent that had been sent before."
    );
    yaml(&comment, Group { name: "mpsec-recording", rules })
}

fn ratio(rates: &str, by: &[&str]) -> Expr {
    let labels = [by, &["protection"]].concat();
    let of = || recorded(rates, &labels);
    share(
        of().is("protection", Encrypted.name()).now().sum_by(by),
        of().other_than("protection", Exempt.name()).now().sum_by(by),
    )
}

/// The text of mpsec-protected.yml, which is an operator's to change.
pub fn protected() -> anyhow::Result<String> {
    let interfaces = of(ATTACHED).like("interface", "").now().group_by(&["job", "instance", "interface"]);
    let rules = vec![record(MIN_COVERAGE, &interfaces.op("*", number(0.99)), None)];
    let comment = "Made by `cargo xtask dashboards`, and yours to change.\n\
                   Says which interfaces must carry nothing in clear; MpsecCleartextOnProtectedInterface watches them.\n\
                   As it is, none: put a regular expression on the whole name between the quotes, such as\n\
                   interface=~\"wan.*|eth0\", and instance=~\"...\" beside it for some hosts only. The number is the\n\
                   least encrypted share of bytes, from 0 to 1, that is good enough. Ping and name resolution are\n\
                   cleartext, too: 1 is for links that carry tunnels and nothing else, where one packet is enough for\n\
                   MpsecCleartextWhereNoneMayBe.";
    yaml(comment, Group { name: "mpsec-protected", rules })
}
