//! The dashboard "MPSec / Multipath": first whether every path carries; then what and how well; then why connections
//! and subflows fail; then how the kernel is set, what it counts, and whether all of that can be seen.

mod connections;
mod kernel;
mod paths;
mod subflows;

use mpsec_agent::metrics::Metric;

use crate::dashboard::{Choice, Dashboard, Row, Variable};
use crate::metric::{CONNECTIONS, PATH_SUBFLOWS};
use crate::panel::Limit;
use crate::promql::{Expr, Select, buckets, number, of, share};

/// Grafana's window for rates: wide enough for the scrape interval and the zoom.
const WINDOW: &str = "$__rate_interval";
/// The time that the dashboard shows.
const SHOWN: &str = "$__range";

const NAMESPACE: &[&str] = &["instance", "netns"];
const PATH: &[&str] = &["instance", "netns", "interface", "family", "remote"];
const FLOW: &[&str] = &["instance", "netns", "interface", "family", "remote", "direction"];
const PATH_NAME: &str = "{{instance}} {{netns}} {{interface}} {{family}} {{remote}}";
const FLOW_NAME: &str = "{{instance}} {{netns}} {{interface}} {{family}} {{remote}} {{direction}}";

const NONE_IS_GOOD: &[Limit] = &[(0.0, "green"), (1.0, "red")];

/// The whole dashboard.
pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "mpsec-multipath",
        title: "MPSec / Multipath",
        about: "What each path of MPTCP connections carries, how well, and why some do not.",
        variables: variables(),
        rows: vec![
            Row { title: "Does every path carry?", panels: paths::verdict() },
            Row { title: "What paths carry", panels: paths::traffic() },
            Row { title: "How good paths are", panels: paths::quality() },
            Row { title: "Connections and subflows", panels: connections::life() },
            Row { title: "What fails, and why", panels: connections::failures() },
            Row { title: "Order", panels: connections::order() },
            Row { title: "How the kernel is set", panels: kernel::settings() },
            Row { title: "Is everything seen?", panels: kernel::sight() },
            Row { title: "The kernel's counters", panels: kernel::counters() },
            Row { title: "Single subflows (subflow_series)", panels: subflows::largest() },
        ],
    }
}

fn variables() -> Vec<Variable> {
    let label = |name, label, about, series: Select| {
        let choice = Choice::Label { series: series.text(), label: name };
        Variable { name, label, about, choice }
    };
    let hosts = of(CONNECTIONS).like("job", "$job");
    let namespaces = hosts.clone().like("instance", "$instance");
    // Every path has this one, also where IPsec hides the ports and nothing is seen on the wire.
    let paths = of(PATH_SUBFLOWS).like("job", "$job").like("instance", "$instance").like("netns", "$netns");
    vec![
        Variable {
            name: "datasource",
            label: "Data source",
            about: "The Prometheus that scrapes the agents.",
            choice: Choice::DataSource,
        },
        label("job", "Job", "The scrape job of the agents.", of(CONNECTIONS)),
        label("instance", "Host", "The agents, by the address at which they are scraped.", hosts),
        Variable {
            name: "netns",
            label: "Namespace",
            about: "Network namespaces. The agent's own has no name: it is among all, and ^$ stands for it alone.",
            choice: Choice::OptionalLabel { series: namespaces.text(), label: "netns" },
        },
        label("interface", "Interface", "The interfaces that paths leave by; _other for paths without room.", paths),
    ]
}

/// A metric of the namespaces that the dashboard is about.
fn chosen(metric: &Metric) -> Select {
    of(metric).like("job", "$job").like("instance", "$instance").like("netns", "$netns")
}

/// A metric of their paths.
fn shown(metric: &Metric) -> Select {
    chosen(metric).like("interface", "$interface")
}

/// The buckets of a histogram of their paths, by these labels.
fn observed(metric: &Metric, by: &[&str]) -> Expr {
    let buckets = buckets(metric).like("job", "$job").like("instance", "$instance");
    let buckets = buckets.like("netns", "$netns").like("interface", "$interface");
    buckets.rate(WINDOW).sum_by(&[by, &["le"]].concat())
}

fn bits(select: &Select, by: &[&str]) -> Expr {
    select.rate(WINDOW).sum_by(by).op("*", number(8))
}

/// Retransmitted payload of all payload that paths sent.
fn retransmitted(by: &[&str], part: &Metric, of: &Metric) -> Expr {
    let sent = |metric| shown(metric).is("direction", "tx").rate(WINDOW).sum_by(by);
    share(sent(part), sent(of))
}
