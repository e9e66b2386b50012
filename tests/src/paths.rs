//! Two hosts and several paths between them, each a wire of its own, with the addresses and routes that MPTCP wants.
//!
//! Only what a test sends crosses the paths: the hosts know each other's link addresses, and nothing else speaks. A client's
//! subflow leaves by the path that its source address belongs to, whatever it leads to; the server answers by the path that
//! the client's address belongs to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::link::{self, Offload};
use crate::need;
use crate::netns::Netns;

/// The routing table of path 0; each path has one of its own on the client.
const TABLE: usize = 100;
/// Added to the identifiers of IPv6 endpoints, which IPv4 has the same of.
const V6_ID: usize = 100;
/// How many additional subflows and addresses each host takes. Every kernel with MPTCP allows 8.
const LIMIT: usize = 8;
/// Room of a subflow's sender. What it keeps on its way is far from `net.core.netdev_max_backlog` packets (1,000 unless set),
/// beyond which a veth loses them between its two ends and has the sender believe that it never sent them. Less room for the
/// receiver would do the same, but a receiver that is full of data that came too early may never again take what it waits
/// for (seen on Linux 6.18).
const SEND_BYTES: u32 = 200_000;
/// What TBF lets through at once: more than a super-packet, so that it need not be cut for that.
const BURST_BYTES: u32 = 70_000;

/// An IP version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// As the agent names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    /// Bytes of an IP header without options.
    pub const fn header_bytes(self) -> u64 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// One of the two hosts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Host {
    /// Makes connections. Its devices are `west0`, `west1`, ...
    Client,
    /// Accepts them. Its devices are `east0`, `east1`, ...
    Server,
}

/// What the paths are like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many.
    pub paths: usize,
    /// How far packets are kept together.
    pub offload: Offload,
    /// What lies between the hosts on each path; `None` for a bare wire.
    pub bottleneck: Option<Bottleneck>,
}

impl Plan {
    /// Bare wires on which everybody sees segments.
    pub const fn wires(paths: usize) -> Self {
        Self { paths, offload: Offload::Off, bottleneck: None }
    }

    /// The same with packets kept together as said.
    pub const fn offload(self, offload: Offload) -> Self {
        Self { offload, ..self }
    }

    /// The same with a bottleneck on each path.
    pub const fn bottleneck(self, mbit: u32, queue_bytes: u32) -> Self {
        Self { bottleneck: Some(Bottleneck { mbit, queue_bytes }), ..self }
    }
}

/// A bridge between the hosts that sends no faster than this, and drops what its queue has no room for. It is not on the
/// hosts, so that what it drops has been sent, for everybody who counts there.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck {
    /// Megabits per second, each way.
    pub mbit: u32,
    /// Length of the queue in bytes, each way.
    pub queue_bytes: u32,
}

/// What a queueing discipline has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Passed {
    /// Packets that it let go, what it made of one packet each by itself.
    pub packets: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// Packets that it dropped.
    pub dropped: u64,
}

/// The two hosts with their paths. Everything is gone when this is dropped and the sockets in it are closed.
#[derive(Debug)]
pub struct Paths {
    /// The client's namespace.
    pub client: Arc<Netns>,
    /// The server's namespace.
    pub server: Arc<Netns>,
    /// Where the bottlenecks are.
    middle: Option<Netns>,
    count: usize,
}

impl Paths {
    /// Makes them, addressed in both versions of IP. Only path 0 is used before [`Paths::add_endpoint`].
    pub fn new(plan: Plan) -> Result<Self> {
        need::mptcp()?;
        for program in ["ip", "tc", "nft", "ethtool"] {
            need::command(program)?;
        }
        let hosts = [Arc::new(Netns::new()?), Arc::new(Netns::new()?)];
        for host in &hosts {
            for scope in ["all", "default"] {
                host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            }
            // The one that every kernel has and every namespace may use.
            host.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
            host.sysctl("net/ipv4/tcp_wmem", &format!("4096 65536 {SEND_BYTES}"))?;
            host.enable_ipv6()?;
            host.ip(&format!("mptcp limits set subflow {LIMIT} add_addr_accepted {LIMIT}"))?;
            host.output("nft", &["add", "table", "netdev", "lab"])?;
        }
        let [client, server] = hosts;
        let middle = plan.bottleneck.map(|_| Netns::new()).transpose()?;
        let paths = Self { client, server, middle, count: plan.paths };
        for path in 0..plan.paths {
            paths.lay(path, plan)?;
            paths.configure(path)?;
        }
        Ok(paths)
    }

    fn lay(&self, path: usize, plan: Plan) -> Result<()> {
        let ends = [Host::Client, Host::Server].map(|host| (self.netns(host), device(host, path)));
        let [(client, west), (server, east)] = &ends;
        match (&self.middle, plan.bottleneck) {
            (Some(middle), Some(bottleneck)) => {
                let ports = [format!("near{path}"), format!("far{path}")];
                link::veth((client, west), (middle, &ports[0]))?;
                link::veth((server, east), (middle, &ports[1]))?;
                bottleneck.make(middle, &format!("bridge{path}"), &ports)?;
            }
            _ => link::veth((client, west), (server, east))?,
        }
        for (netns, device) in &ends {
            plan.offload.set(netns, device)?;
            in_order(netns, device)?;
        }
        Ok(())
    }

    /// Addresses, neighbours and routes of a path. May be repeated after a device was down, which loses most of them.
    fn configure(&self, path: usize) -> Result<()> {
        for host in [Host::Client, Host::Server] {
            let (netns, device) = (self.netns(host), device(host, path));
            let has = netns.ip(&format!("addr show dev {device}"))?;
            for (family, bits) in [(Family::V4, 24), (Family::V6, 64)] {
                let address = address(host, family, path);
                if !has.contains(&format!(" {address}/")) {
                    link::address(netns, &device, &format!("{address}/{bits}"))?;
                }
            }
        }
        for family in Family::ALL {
            let [near, far] = [Host::Client, Host::Server].map(|host| address(host, family, path).to_string());
            let (west, east) = (device(Host::Client, path), device(Host::Server, path));
            link::neighbours((&self.client, &west, &near), (&self.server, &east, &far))?;
            let (table, version) = (table(path), if family == Family::V4 { "-4" } else { "-6" });
            self.client.ip(&format!("{version} route replace default via {far} dev {west} table {table}"))?;
            let rules = self.client.ip(&format!("{version} rule list table {table}"))?;
            if rules.trim().is_empty() {
                self.client.ip(&format!("{version} rule add from {near} lookup {table}"))?;
            }
        }
        Ok(())
    }

    /// The number of paths.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A host's namespace.
    pub fn netns(&self, host: Host) -> &Arc<Netns> {
        match host {
            Host::Client => &self.client,
            Host::Server => &self.server,
        }
    }

    /// Tells the client's path manager to join by a path. `flags` are words that `ip mptcp endpoint add` knows beside
    /// `subflow`, such as `backup`.
    pub fn add_endpoint(&self, path: usize, family: Family, flags: &str) -> Result<()> {
        let (address, id) = (address(Host::Client, family, path), endpoint_id(path, family));
        self.client.ip(&format!("mptcp endpoint add {address} id {id} subflow {flags}")).map(drop)
    }

    /// The same for all paths but the first, over which connections are made.
    pub fn add_endpoints(&self, family: Family) -> Result<()> {
        (1..self.count).try_for_each(|path| self.add_endpoint(path, family, ""))
    }

    /// Takes an endpoint back, whose subflows the kernel then closes.
    pub fn remove_endpoint(&self, path: usize, family: Family) -> Result<()> {
        self.client.ip(&format!("mptcp endpoint delete id {}", endpoint_id(path, family))).map(drop)
    }

    /// Makes the subflows of an endpoint backup ones, or usual ones again.
    pub fn set_backup(&self, path: usize, family: Family, backup: bool) -> Result<()> {
        let flag = if backup { "backup" } else { "nobackup" };
        self.client.ip(&format!("mptcp endpoint change id {} {flag}", endpoint_id(path, family))).map(drop)
    }

    /// Lets the server announce its address on a path.
    pub fn announce(&self, path: usize, family: Family) -> Result<()> {
        let (address, id) = (address(Host::Server, family, path), endpoint_id(path, family));
        self.server.ip(&format!("mptcp endpoint add {address} id {id} signal")).map(drop)
    }

    /// Takes the client's device down: the server loses its carrier.
    pub fn down(&self, path: usize) -> Result<()> {
        self.client.ip(&format!("link set dev {} down", device(Host::Client, path))).map(drop)
    }

    /// Takes it up again.
    pub fn up(&self, path: usize) -> Result<()> {
        self.client.ip(&format!("link set dev {} up", device(Host::Client, path)))?;
        self.configure(path)
    }

    /// Drops, without a word, what arrives at a host by a path, after TC and captures have seen it. `which` is what a rule
    /// of nft selects packets by; empty for all of them.
    pub fn drop_arriving(&self, host: Host, path: usize, which: &str) -> Result<()> {
        self.handle_arriving(host, path, &format!("{which} drop"))
    }

    /// Has a rule of nft handle what arrives at a host by a path, after TC and captures have seen it. What it changes of a packet
    /// its receiver takes for what was sent: a veth leaves the checksum of TCP for a device to fill in.
    pub fn handle_arriving(&self, host: Host, path: usize, rule: &str) -> Result<()> {
        let (netns, device) = (self.netns(host), device(host, path));
        let hook = format!("{{ type filter hook ingress device {device} priority 0; }}");
        netns.output("nft", &["add", "chain", "netdev", "lab", &device, &hook])?;
        let rule = format!("add rule netdev lab {device} {rule}");
        netns.output("nft", &rule.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Lets everything through again.
    pub fn let_through(&self, host: Host, path: usize) -> Result<()> {
        let (netns, device) = (self.netns(host), device(host, path));
        netns.output("nft", &["flush", "chain", "netdev", "lab", &device])?;
        netns.output("nft", &["delete", "chain", "netdev", "lab", &device]).map(drop)
    }

    /// Packets that each path's devices have counted, sent and received, for both hosts.
    pub fn packets(&self) -> Result<Vec<u64>> {
        let of = |host, path| -> Result<u64> {
            let counters = self.netns(host).counters(&device(host, path))?;
            Ok(counters.tx_packets + counters.rx_packets)
        };
        (0..self.count).map(|path| Ok(of(Host::Client, path)? + of(Host::Server, path)?)).collect()
    }

    /// Has netem, in the place of a bottleneck, handle what goes to a host by a path: `how` is in the words of tc-netem(8).
    pub fn shape(&self, path: usize, to: Host, how: &str) -> Result<()> {
        let (middle, port) = self.port(path, to)?;
        middle.tc(&format!("qdisc delete dev {port} root"))?;
        middle.tc(&format!("qdisc add dev {port} root netem {how}")).map(drop)
    }

    /// What the bottleneck, or netem in its place, says of what went to a host by a path since it is there.
    pub fn passed(&self, path: usize, to: Host) -> Result<Passed> {
        let (middle, port) = self.port(path, to)?;
        let text = middle.tc(&format!("-s -j qdisc show dev {port}"))?;
        let all: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        let root = all.iter().find(|one| one["root"] == true).with_context(|| format!("no root in {text}"))?;
        let number = |name: &str| root[name].as_u64().with_context(|| format!("no {name} in {text}"));
        Ok(Passed { packets: number("packets")?, bytes: number("bytes")?, dropped: number("drops")? })
    }

    /// Where a bottleneck sends to a host by a path.
    fn port(&self, path: usize, to: Host) -> Result<(&Netns, String)> {
        let middle = self.middle.as_ref().context("no place for it: the plan has no bottleneck")?;
        Ok((middle, if to == Host::Client { format!("near{path}") } else { format!("far{path}") }))
    }

    /// Packets that the bottlenecks dropped. An error where there are none.
    pub fn dropped(&self) -> Result<u64> {
        let Some(middle) = &self.middle else { bail!("no bottleneck") };
        let text = middle.tc("-s qdisc show")?;
        let after = text.split("(dropped ").skip(1);
        let counts: Vec<u64> =
            after.map(|rest| rest.split(',').next().unwrap_or_default().parse()).collect::<Result<_, _>>()?;
        ensure!(!counts.is_empty(), "no counts in {text}");
        Ok(counts.iter().sum())
    }
}

impl Bottleneck {
    fn make(self, middle: &Netns, bridge: &str, ports: &[String; 2]) -> Result<()> {
        // Without snooping and with IPv6 off the bridge says nothing of its own.
        middle.ip(&format!("link add name {bridge} type bridge mcast_snooping 0 stp_state 0"))?;
        middle.ip(&format!("link set dev {bridge} arp off up"))?;
        let Self { mbit, queue_bytes } = self;
        for port in ports {
            middle.ip(&format!("link set dev {port} master {bridge}"))?;
            in_order(middle, port)?;
            let shape = format!("rate {mbit}mbit burst {BURST_BYTES} limit {queue_bytes}");
            middle.tc(&format!("qdisc add dev {port} root tbf {shape}"))?;
        }
        Ok(())
    }
}

/// Makes one processor take what arrives at a device. A veth hands a packet to the processor that sent it, and a sender
/// that moves to another one would overtake itself.
fn in_order(netns: &Netns, device: &str) -> Result<()> {
    let file = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
    netns.run(|| fs::write(&file, "1")).with_context(|| file)
}

/// The number of the client's routing table of a path.
pub fn table(path: usize) -> usize {
    TABLE + path
}

/// The name of a host's device on a path.
pub fn device(host: Host, path: usize) -> String {
    match host {
        Host::Client => format!("west{path}"),
        Host::Server => format!("east{path}"),
    }
}

/// A host's address on a path.
pub fn address(host: Host, family: Family, path: usize) -> IpAddr {
    let host = if host == Host::Client { 1 } else { 2 };
    let path = u8::try_from(path).expect("no test has that many paths");
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, path, host).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, path.into(), 0, 0, 0, 0, host.into()).into(),
    }
}

/// The path that an address belongs to, whichever host's it is.
pub fn path_of(address: IpAddr) -> usize {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets()[2].into(),
        IpAddr::V6(address) => address.segments()[2].into(),
    }
}

/// The identifier of a path's endpoint.
pub fn endpoint_id(path: usize, family: Family) -> usize {
    path + 1 + if family == Family::V6 { V6_ID } else { 0 }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
