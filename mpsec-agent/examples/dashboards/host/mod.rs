//! The dashboard "MPSec / Host": first whether something leaks, and whether that can be believed; then what travels;
//! then how the agent is.

mod agent;
mod control;
mod traffic;

use mpsec_agent::metrics::Metric;
use mpsec_common::traffic::Protection;

use crate::class;
use crate::dashboard::{Choice, Dashboard, Row, Variable};
use crate::metric::{ATTACHED, BUILD_INFO, BYTES, PACKETS};
use crate::promql::{Expr, Select, number, of, process, share, target};

/// Interfaces whose traffic is no host's leak: the loopback, and those inside of a tunnel or of this host. What they
/// carry shows again, as it leaves the host, on another one.
///
/// No backslash may be in it: Grafana would double it.
pub const INNER: &str = "lo|(wg|tun|tap|xfrm|ipsec|vti|gre|sit|ip6tnl|vxlan|geneve|ifb\
                         |veth|docker|br-|virbr|cni|flannel|cali|cilium|lxc).*";

/// Grafana's window for rates: wide enough for the scrape interval and the zoom.
const WINDOW: &str = "$__rate_interval";
/// The time that the dashboard shows.
const SHOWN: &str = "$__range";

/// The whole dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mpsec-host",
        title: "MPSec / Host",
        about: "What leaves and enters hosts in clear, what is encrypted, and how MPSec's agents are.",
        variables: variables(),
        rows: vec![
            Row { title: "Does anything leak, and can that be believed?", panels: traffic::verdict() },
            Row { title: "Where it leaks", panels: traffic::leaks() },
            Row { title: "Traffic", panels: traffic::traffic() },
            Row { title: "The agent: is everything counted?", panels: agent::completeness() },
            Row { title: "What MPSec changes: is the host as it is wanted?", panels: control::wanted() },
            Row { title: "The agent: what it costs", panels: agent::cost() },
        ],
    }
}

fn variables() -> Vec<Variable> {
    let either = format!("{}|{}", of(ATTACHED).text(), of(BYTES).text());
    let interfaces = format!("{{__name__=~\"{either}\",job=~\"$job\",instance=~\"$instance\",interface!~\"$inner\"}}");
    let hosts = of(BUILD_INFO).like("job", "$job").text();
    let chosen =
        |name, label, about, series| Variable { name, label, about, choice: Choice::Label { series, label: name } };
    vec![
        Variable {
            name: "datasource",
            label: "Data source",
            about: "The Prometheus that scrapes the agents.",
            choice: Choice::DataSource,
        },
        chosen("job", "Job", "The scrape job of the agents.", of(BUILD_INFO).text()),
        chosen("instance", "Host", "The agents, by the address at which they are scraped.", hosts),
        Variable {
            name: "inner",
            label: "Leave out",
            about: "Interfaces to leave out, as a regular expression on the whole name: the loopback and what is \
                    inside of tunnels, which is in clear by nature and shows again, encrypted, on the interface that \
                    it leaves through. Empty leaves out nothing.",
            choice: Choice::Text(INNER),
        },
        chosen(
            "interface",
            "Interface",
            "The interfaces to judge; _other stands for those without counters of their own.",
            interfaces,
        ),
    ]
}

/// A metric of the agents that the dashboard is about.
fn agents(metric: &Metric) -> Select {
    chosen(of(metric))
}

/// A metric of their interfaces, of those that are to be judged.
fn shown(metric: &Metric) -> Select {
    agents(metric).like("interface", "$interface").unlike("interface", "$inner")
}

/// A metric of their processes.
fn processes(name: &str) -> Select {
    chosen(process(name))
}

/// What Prometheus says of them.
fn targets(name: &str) -> Select {
    chosen(target(name))
}

fn chosen(select: Select) -> Select {
    select.like("job", "$job").like("instance", "$instance")
}

/// Bits a second of these series of [`BYTES`].
fn bits(select: &Select, by: &[&str]) -> Expr {
    select.rate(WINDOW).sum_by(by).op("*", number(8))
}

fn packets(select: &Select, by: &[&str]) -> Expr {
    select.rate(WINDOW).sum_by(by)
}

/// What can be read on the path; a class that is younger than this dashboard is taken for it.
fn cleartext(metric: &Metric) -> Select {
    shown(metric).unlike("class", &class::not_cleartext())
}

fn protected(metric: &Metric, protection: Protection) -> Select {
    match protection {
        Protection::Cleartext => cleartext(metric),
        other => shown(metric).like("class", &class::of(other)),
    }
}

/// encrypted / (encrypted + cleartext).
fn coverage(by: &[&str]) -> Expr {
    let judged = shown(BYTES).unlike("class", &class::not_judged()).rate(WINDOW).sum_by(by);
    share(protected(BYTES, Protection::Encrypted).rate(WINDOW).sum_by(by), judged)
}

/// Mean length of a packet from its network header on.
fn mean_length(l3_bytes: &Metric, by: &[&str]) -> Expr {
    let packets = packets(&shown(PACKETS), by);
    shown(l3_bytes).rate(WINDOW).sum_by(by).op("/", packets.op(">", number(0)))
}
