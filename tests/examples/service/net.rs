//! A peer in a namespace of its own, with two wires to this host: `wan0` and `wan1` here.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use mpsec_tests::bpf::{self, Hook};
use mpsec_tests::hooks;
use mpsec_tests::netns::Netns;

use super::guest::sh;

/// The interfaces of this host.
pub const WIRES: [&str; 2] = ["wan0", "wan1"];

static PEER: OnceLock<Netns> = OnceLock::new();

/// The peer, made when it is asked for first.
pub fn peer() -> Result<&'static Netns> {
    if PEER.get().is_none() {
        let _ = PEER.set(make()?);
    }
    PEER.get().context("it is there")
}

fn make() -> Result<Netns> {
    let peer = Netns::new()?;
    for (number, wire) in WIRES.iter().enumerate() {
        sh(&format!(
            "ip link add {wire} type veth peer name east{number} netns {}
             ip addr add 10.9.{number}.1/24 dev {wire}
             ip link set {wire} up",
            peer.path()
        ))?;
        peer.ip(&format!("addr add 10.9.{number}.2/24 dev east{number}"))?;
        peer.ip(&format!("link set east{number} up"))?;
    }
    peer.ip("mptcp limits set subflow 8 add_addr_accepted 8")?;
    peer.ip("mptcp endpoint add 10.9.1.2 dev east1 signal")?;
    Ok(peer)
}

/// The names of the programs that are attached to an interface of this host, each way.
pub fn attached(wire: &str) -> Result<Vec<Vec<String>>> {
    let index: u32 = sh(&format!("cat /sys/class/net/{wire}/ifindex"))?.trim().parse()?;
    let on = |hook: Hook| -> Result<Vec<String>> {
        // A kernel without TCX cannot be asked, and then there is nothing.
        let tcx = bpf::query_tcx(index, hook).unwrap_or_default().into_iter().map(|(_, name)| name);
        let mut all: Vec<String> = tcx.collect();
        if sh(&format!("tc qdisc show dev {wire}"))?.contains("clsact") {
            let text = sh(&format!("tc -j filter show dev {wire} {}", hook.name()))?;
            all.extend(hooks::filters(&text)?.into_iter().map(|filter| filter.name));
        }
        Ok(all)
    };
    Hook::ALL.into_iter().map(on).collect()
}

/// Packets that the interface itself has counted, received and sent.
pub fn device_packets(wire: &str) -> Result<[u64; 2]> {
    let one = |name: &str| -> Result<u64> {
        Ok(sh(&format!("cat /sys/class/net/{wire}/statistics/{name}_packets"))?.trim().parse()?)
    };
    Ok([one("rx")?, one("tx")?])
}

/// Some packets over the first wire, both ways: connections that are refused.
pub fn talk() -> Result<()> {
    peer()?;
    sh("for i in 1 2 3 4 5 6 7 8 9 10; do curl --silent --max-time 2 http://10.9.0.2:9/ || true; done").map(drop)
}

/// Local and remote address of each established subflow to a port of the peer's.
pub fn subflows(port: u16) -> Result<BTreeSet<String>> {
    let text = sh(&format!("ss -Htn state established '( dport = :{port} )'"))?;
    let ends = |line: &str| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" > ");
    Ok(text.lines().map(ends).collect())
}
