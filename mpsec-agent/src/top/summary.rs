//! What stands above the table: the host, sums over everything, and what is wrong.

use serde::Serialize;

use super::row::Row;
use super::status::Status;
use crate::control::client::plain;
use crate::snapshot::host::Host;

/// Sums and findings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The host.
    pub host: Host,
    /// Received by the host's own links, bytes per second; unknown before there are two answers.
    pub rx_bytes_per_second: Option<f64>,
    /// Sent likewise.
    pub tx_bytes_per_second: Option<f64>,
    /// Received by MPTCP subflows, bytes per second.
    pub mptcp_rx_bytes_per_second: f64,
    /// Sent likewise.
    pub mptcp_tx_bytes_per_second: f64,
    /// Connections.
    pub connections: usize,
    /// Those of them that fell back to TCP.
    pub fallbacks: usize,
    /// Subflows.
    pub subflows: usize,
    /// What is wrong, most important first.
    pub findings: Vec<Finding>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Network namespace; empty for the agent's own.
    pub netns: String,
    /// Its stable name.
    pub kind: String,
    /// What it is about.
    pub about: String,
    /// What is wrong and why.
    pub text: String,
    /// What mends it.
    pub remedy: Option<String>,
}

impl Finding {
    /// One line.
    pub fn line(&self) -> String {
        let about = if self.about.is_empty() { &self.kind } else { &self.about };
        let netns = if self.netns.is_empty() { String::new() } else { format!("[{}] ", self.netns) };
        let remedy = self.remedy.as_ref().map(|remedy| format!(" -> {remedy}")).unwrap_or_default();
        format!("{netns}{about}: {}{remedy}", self.text)
    }
}

impl Summary {
    /// From an answer, and the rows that were made of it.
    pub(super) fn new(status: &Status, rows: &[Vec<Row>; 3]) -> Summary {
        let [connections, _, interfaces] = rows;
        let links = own_links(status, interfaces);
        let sum = |value: fn(&Row) -> Option<f64>| links.iter().filter_map(|row| value(row)).reduce(|a, b| a + b);
        let mptcp = |value: fn(&Row) -> Option<f64>| connections.iter().filter_map(value).sum();
        Summary {
            host: Host { interfaces: Vec::new(), ..status.host.clone() },
            rx_bytes_per_second: sum(|row| row.rx_bytes_per_second),
            tx_bytes_per_second: sum(|row| row.tx_bytes_per_second),
            mptcp_rx_bytes_per_second: mptcp(|row| row.rx_bytes_per_second),
            mptcp_tx_bytes_per_second: mptcp(|row| row.tx_bytes_per_second),
            connections: connections.len(),
            fallbacks: status
                .namespaces
                .iter()
                .flat_map(|namespace| &namespace.connections)
                .filter(|connection| connection.fallback.is_some())
                .count(),
            subflows: connections.iter().map(|row| row.children.len()).sum(),
            findings: findings(status),
        }
    }
}

/// Interfaces whose traffic is the host's: those with a device behind them, as what crosses a bridge or a tunnel crosses
/// them too. Where there is none, as in a container, all but the loopback.
fn own_links<'a>(status: &Status, rows: &'a [Row]) -> Vec<&'a Row> {
    let outside = || status.interfaces.iter().zip(rows).filter(|(view, _)| view.name != "lo" && view.index.is_some());
    let real: Vec<&Row> = outside().filter(|(view, _)| view.kind.as_deref() == Some("")).map(|(_, row)| row).collect();
    if real.is_empty() { outside().map(|(_, row)| row).collect() } else { real }
}

fn findings(status: &Status) -> Vec<Finding> {
    let finding = |netns: &str, finding: &crate::snapshot::mptcp::Finding| Finding {
        netns: plain(netns),
        kind: plain(&finding.kind),
        about: plain(&finding.about),
        text: plain(&finding.text),
        remedy: finding.remedy.as_deref().map(plain),
    };
    let all = status
        .namespaces
        .iter()
        .flat_map(|namespace| namespace.findings.iter().map(move |one| finding(&namespace.netns, one)));
    all.collect()
}
