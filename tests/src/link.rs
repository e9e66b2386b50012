//! Devices: making them, switching their offloads, reading their own counters.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::{need, wait};

/// How long the kernel may take to put a route in place.
const ROUTE: Duration = Duration::from_secs(5);

/// A veth pair, one end in each namespace (which may be the same), both up, ARP off: nothing crosses it unasked.
pub fn veth(left: (&Netns, &str), right: (&Netns, &str)) -> Result<()> {
    let ((here, name), (there, peer)) = (left, right);
    here.ip(&format!("link add name {name} type veth peer name {peer} netns {}", there.path()))?;
    there.ip(&format!("link set dev {peer} arp off up"))?;
    here.ip(&format!("link set dev {name} arp off up"))?;
    Ok(())
}

/// Makes a device of a kind that needs no more than defaults, and what it has to stand on.
pub fn make(netns: &Netns, kind: &str, name: &str) -> Result<()> {
    match kind {
        "veth" => netns.ip(&format!("link add name {name} type veth peer name {name}.peer")),
        "vlan" | "macvlan" | "ipvlan" => {
            let id = if kind == "vlan" { "id 5" } else { "" };
            netns.ip(&format!("link add name {name}.base type veth peer name {name}.peer"))?;
            netns.ip(&format!("link add link {name}.base name {name} type {kind} {id}"))
        }
        "vxlan" | "geneve" => {
            let port = if kind == "vxlan" { "dstport 4789" } else { "" };
            netns.ip(&format!("link add name {name} type {kind} id 5 {port} remote 192.0.2.2"))
        }
        "gre" | "ipip" | "sit" => {
            netns.ip(&format!("link add name {name} type {kind} local 192.0.2.1 remote 192.0.2.2"))
        }
        "vrf" => netns.ip(&format!("link add name {name} type vrf table 50")),
        "tun" | "tap" => netns.ip(&format!("tuntap add dev {name} mode {kind}")),
        _ => netns.ip(&format!("link add name {name} type {kind}")),
    }?;
    Ok(())
}

/// Gives a device an address (with its prefix length), without duplicate address detection. The address receives when
/// this returns.
pub fn address(netns: &Netns, device: &str, address: &str) -> Result<()> {
    if !address.contains(':') {
        return netns.ip(&format!("addr add {address} dev {device}")).map(drop);
    }
    netns.ip(&format!("addr add {address} dev {device} nodad"))?;
    // The kernel leaves the route to an IPv6 address of its own to a worker (`addrconf_dad_work` in net/ipv6/addrconf.c,
    // Linux 6.18); until then it drops what comes for it.
    let (host, _) = address.split_once('/').context("an address without a prefix length")?;
    let wanted = format!("local {host} dev {device} ");
    wait::until(ROUTE, || {
        let routes = netns.ip("-6 route show table local")?;
        ensure!(routes.contains(&wanted), "no route to {host}: {routes}");
        Ok(())
    })
}

/// Tells two devices of each other's addresses, so that neither has to ask.
pub fn neighbours(left: (&Netns, &str, &str), right: (&Netns, &str, &str)) -> Result<()> {
    for ((netns, device, _), (other, peer, address)) in [(left, right), (right, left)] {
        let mac = other.read(&format!("/sys/class/net/{peer}/address"))?;
        netns.ip(&format!("neigh replace {address} lladdr {} dev {device} nud permanent", mac.trim()))?;
    }
    Ok(())
}

/// How far packets are kept together on their way through a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offload {
    /// TSO, GSO and GRO on: the device itself sees super-packets.
    Full,
    /// GSO on, the device's own segmentation off: TC sees super-packets, the device sees segments.
    Software,
    /// All off: everybody sees segments.
    Off,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Software, Self::Off];

    /// Sets a device to this. The trial ends where there is no ethtool(8).
    pub fn set(self, netns: &Netns, device: &str) -> Result<()> {
        need::command("ethtool")?;
        let (tso, gso, gro) = match self {
            Self::Full => ("on", "on", "on"),
            Self::Software => ("off", "on", "off"),
            Self::Off => ("off", "off", "off"),
        };
        let words = ["-K", device, "tso", tso, "gso", gso, "gro", gro, "tx-udp-segmentation", tso];
        netns.output("ethtool", &words).map(drop)
    }
}

/// A device's own counters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}

impl Counters {
    /// Finds a device in the text of `/proc/net/dev`.
    pub fn parse(table: &str, device: &str) -> Result<Self> {
        let row = table.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == device);
        let (_, numbers) = row.with_context(|| format!("no device {device}"))?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(numbers.len() == 16, "/proc/net/dev has {} columns", numbers.len());
        Ok(Self { rx_bytes: numbers[0], rx_packets: numbers[1], tx_bytes: numbers[8], tx_packets: numbers[9] })
    }
}

impl Sub for Counters {
    type Output = Self;

    /// What came since `before`.
    fn sub(self, before: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - before.rx_bytes,
            rx_packets: self.rx_packets - before.rx_packets,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            tx_packets: self.tx_packets - before.tx_packets,
        }
    }
}
