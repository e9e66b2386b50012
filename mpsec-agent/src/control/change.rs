//! What MPSec can change on a host, one thing at a time, and how it is taken back.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kernel::mptcp_pm::EndpointFlags;
use crate::snapshot::mptcp::Limits;

use super::client::shell_word;

/// One change. It knows what was before, so that it can be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Change {
    /// A setting of the kernel's, by its dotted name.
    Sysctl {
        /// Such as `net.mptcp.enabled`.
        name: String,
        /// What it is.
        from: String,
        /// What it will be.
        to: String,
    },
    /// The limits of the in-kernel path manager.
    Limits {
        /// What they are.
        from: Limits,
        /// What they will be.
        to: Limits,
    },
    /// A new endpoint.
    AddEndpoint(Endpoint),
    /// An endpoint of ours goes.
    RemoveEndpoint(Endpoint),
    /// An endpoint of ours becomes a backup, or the like.
    EndpointFlags {
        /// As it is.
        from: Endpoint,
        /// As it will be; only flags differ.
        to: Endpoint,
    },
    /// A new route in one of our tables.
    AddRoute(SourceRoute),
    /// One of our routes goes.
    RemoveRoute(SourceRoute),
    /// A new rule.
    AddRule(SourceRule),
    /// One of our rules goes.
    RemoveRule(SourceRule),
    /// An interface is switched on or off.
    Link {
        /// Name of the interface.
        name: String,
        /// Index of the interface.
        index: u32,
        /// Whether it will be on.
        up: bool,
    },
    /// The path manager inside the agent.
    Daemon {
        /// What it does; `None` if it does not run.
        from: Option<Daemon>,
        /// What it will do.
        to: Option<Daemon>,
    },
    /// What new subflows of a local address are given, by a BPF program.
    Policy {
        /// The local address.
        address: IpAddr,
        /// What they are given.
        from: Option<Policy>,
        /// What they will be given.
        to: Option<Policy>,
    },
    /// Whether the agent takes paths out that went down or silent.
    Failover {
        /// Whether it will.
        to: bool,
    },
    /// Programs that get MPTCP sockets when they ask for TCP ones.
    Force {
        /// Which they are.
        from: Force,
        /// Which they will be.
        to: Force,
    },
}

/// An endpoint of the in-kernel path manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "ChangedEndpoint"))]
pub struct Endpoint {
    /// The kernel's identifier; 0 while it has none.
    pub id: u8,
    /// The address.
    pub address: IpAddr,
    /// A port of its own.
    pub port: Option<u16>,
    /// Names of its flags, in the order of their bits.
    pub flags: Vec<String>,
    /// The interface that its subflows are bound to, by index.
    pub interface: Option<u32>,
}

impl Endpoint {
    /// Whether both are the same endpoint, whatever the kernel calls them.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.has_place_of(other) && self.flags == other.flags
    }

    /// Whether they differ at most in flags.
    #[must_use]
    pub fn has_place_of(&self, other: &Self) -> bool {
        self.address == other.address && self.port == other.port && self.interface == other.interface
    }

    /// Its flags as bits. A name that is none was never among them.
    #[must_use]
    pub fn bits(&self) -> EndpointFlags {
        let flags = self.flags.iter().filter_map(|name| EndpointFlags::from_name(name));
        flags.fold(EndpointFlags(0), |all, flag| all | flag)
    }

    /// Whether it has a flag.
    #[must_use]
    pub fn has(&self, flag: EndpointFlags) -> bool {
        self.bits().contains(flag)
    }
}

/// A route in a table of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceRoute {
    /// The table.
    pub table: u32,
    /// Where it leads; of length 0 for everywhere.
    #[cfg_attr(test, schemars(with = "String"))]
    pub destination: IpNet,
    /// The router; `None` for what is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
}

impl SourceRoute {
    /// As ip-route(8) takes it, which knows the interface of an index as `if` and the number.
    fn as_arguments(&self) -> String {
        let gateway = self.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        let onlink = if self.gateway.is_some() { " onlink" } else { "" };
        format!("{}{gateway} dev if{} table {}{onlink}", self.destination, self.interface, self.table)
    }
}

/// A rule that leads packets from an address into a table of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceRule {
    /// The address.
    pub source: IpAddr,
    /// The table.
    pub table: u32,
}

/// What the path manager inside the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Daemon {
    /// So many subflows between the same two addresses.
    Ndiffports(u32),
}

/// What new subflows are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Policy {
    /// Congestion control.
    pub congestion_control: Option<String>,
    /// Most that a subflow sends, in bytes per second.
    pub max_rate: Option<u64>,
}

/// Programs that get MPTCP sockets when they ask for TCP ones, by cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Force {
    /// cgroups of programs that make connections, below the root of the file system.
    pub clients: Vec<PathBuf>,
    /// cgroups of programs that accept them.
    pub servers: Vec<PathBuf>,
}

impl Force {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.servers.is_empty()
    }
}

impl Change {
    /// What takes it back.
    #[must_use]
    pub fn inverse(&self) -> Change {
        match self.clone() {
            Change::Sysctl { name, from, to } => Change::Sysctl { name, from: to, to: from },
            Change::Limits { from, to } => Change::Limits { from: to, to: from },
            Change::AddEndpoint(endpoint) => Change::RemoveEndpoint(endpoint),
            Change::RemoveEndpoint(endpoint) => Change::AddEndpoint(endpoint),
            Change::EndpointFlags { from, to } => Change::EndpointFlags { from: to, to: from },
            Change::AddRoute(route) => Change::RemoveRoute(route),
            Change::RemoveRoute(route) => Change::AddRoute(route),
            Change::AddRule(rule) => Change::RemoveRule(rule),
            Change::RemoveRule(rule) => Change::AddRule(rule),
            Change::Link { name, index, up } => Change::Link { name, index, up: !up },
            Change::Daemon { from, to } => Change::Daemon { from: to, to: from },
            Change::Policy { address, from, to } => Change::Policy { address, from: to, to: from },
            Change::Failover { to } => Change::Failover { to: !to },
            Change::Force { from, to } => Change::Force { from: to, to: from },
        }
    }

    /// The command that does the same by hand, where there is one: what a refusal is shown with.
    #[must_use]
    pub fn by_hand(&self) -> Option<String> {
        let device = |interface: &Option<u32>| interface.map_or(String::new(), |index| format!(" dev if{index}"));
        let version = |address: &IpAddr| if address.is_ipv4() { "-4" } else { "-6" };
        Some(match self {
            Change::Sysctl { name, to, .. } => format!("sysctl -w {name}={to:?}"),
            Change::Limits { to, .. } => {
                format!("ip mptcp limits set subflows {} add_addr_accepted {}", to.subflows, to.add_addr_accepted)
            }
            Change::AddEndpoint(endpoint) => {
                let port = endpoint.port.map_or(String::new(), |port| format!(" port {port}"));
                let (address, flags) = (endpoint.address, endpoint.flags.join(" "));
                format!("ip mptcp endpoint add {address}{port}{} {flags}", device(&endpoint.interface))
            }
            Change::RemoveEndpoint(endpoint) => format!("ip mptcp endpoint delete id {}", endpoint.id),
            Change::EndpointFlags { to, .. } => {
                let word = |flag, on, off| if to.has(flag) { on } else { off };
                let backup = word(EndpointFlags::BACKUP, "backup", "nobackup");
                let fullmesh = word(EndpointFlags::FULLMESH, "fullmesh", "nofullmesh");
                format!("ip mptcp endpoint change id {} {backup} {fullmesh}", to.id)
            }
            Change::AddRoute(route) => format!("ip route add {}", route.as_arguments()),
            Change::RemoveRoute(route) => format!("ip route delete {}", route.as_arguments()),
            Change::AddRule(SourceRule { source, table }) => {
                format!("ip {} rule add from {source} lookup {table}", version(source))
            }
            Change::RemoveRule(SourceRule { source, table }) => {
                format!("ip {} rule delete from {source} lookup {table}", version(source))
            }
            Change::Link { name, up, .. } => {
                format!("ip link set dev {} {}", shell_word(name), if *up { "up" } else { "down" })
            }
            Change::Daemon { .. } | Change::Policy { .. } | Change::Failover { .. } | Change::Force { .. } => {
                return None;
            }
        })
    }

    /// Index of the interface that its text speaks of, if it does by index.
    #[must_use]
    pub fn interface(&self) -> Option<u32> {
        match self {
            Change::AddEndpoint(endpoint) | Change::RemoveEndpoint(endpoint) => endpoint.interface,
            Change::AddRoute(route) | Change::RemoveRoute(route) => Some(route.interface),
            _ => None,
        }
    }

    /// Whether it lasts no longer than the agent.
    #[must_use]
    pub fn needs_agent(&self) -> bool {
        matches!(self, Change::Daemon { .. } | Change::Policy { .. } | Change::Failover { .. } | Change::Force { .. })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Sysctl { name, from, to } => write!(f, "{name}: {from} -> {to}"),
            Change::Limits { from, to } => {
                let both = [
                    ("subflows", from.subflows, to.subflows),
                    ("add_addr_accepted", from.add_addr_accepted, to.add_addr_accepted),
                ];
                let changed = both.into_iter().filter(|(_, from, to)| from != to);
                let words: Vec<String> = changed.map(|(name, from, to)| format!("{name} {from} -> {to}")).collect();
                write!(f, "limits: {}", words.join(", "))
            }
            Change::AddEndpoint(endpoint) => write!(f, "endpoint {endpoint}: add"),
            Change::RemoveEndpoint(endpoint) => write!(f, "endpoint {endpoint}: remove"),
            Change::EndpointFlags { from, to } => {
                write!(f, "endpoint {}: {} -> {}", from.address, from.flags.join(","), to.flags.join(","))
            }
            Change::AddRoute(route) => write!(f, "route {route}: add"),
            Change::RemoveRoute(route) => write!(f, "route {route}: remove"),
            Change::AddRule(rule) => write!(f, "rule {rule}: add"),
            Change::RemoveRule(rule) => write!(f, "rule {rule}: remove"),
            Change::Link { name, up, .. } => {
                let [from, to] = if *up { ["down", "up"] } else { ["up", "down"] };
                write!(f, "interface {name}: {from} -> {to}")
            }
            Change::Daemon { from, to } => {
                write!(f, "path manager of the agent: {} -> {}", shown(from.as_ref()), shown(to.as_ref()))
            }
            Change::Policy { address, from, to } => {
                write!(f, "new subflows from {address}: {} -> {}", shown(from.as_ref()), shown(to.as_ref()))
            }
            Change::Failover { to } => write!(f, "failover: {}", if *to { "off -> on" } else { "on -> off" }),
            Change::Force { from, to } => write!(f, "MPTCP for TCP programs: {from} -> {to}"),
        }
    }
}

fn shown<T: fmt::Display>(value: Option<&T>) -> String {
    value.map_or("none".to_owned(), ToString::to_string)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if let Some(interface) = self.interface {
            write!(f, " interface {interface}")?;
        }
        if self.id != 0 {
            write!(f, " id {}", self.id)?;
        }
        write!(f, " {}", self.flags.join(","))
    }
}

impl fmt::Display for SourceRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gateway = self.gateway.map_or(String::new(), |gateway| format!(" via {gateway}"));
        write!(f, "{}{gateway} interface {} table {}", self.destination, self.interface, self.table)
    }
}

impl fmt::Display for SourceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} table {}", self.source, self.table)
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Daemon::Ndiffports(n) => write!(f, "ndiffports {n}"),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let congestion_control = self.congestion_control.as_ref().map(|name| format!("congestion control {name}"));
        let max_rate = self.max_rate.map(|rate| format!("at most {} bit/s", rate.saturating_mul(8)));
        let all: Vec<String> = [congestion_control, max_rate].into_iter().flatten().collect();
        f.write_str(&if all.is_empty() { "nothing".to_owned() } else { all.join(", ") })
    }
}

impl fmt::Display for Force {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let list = |paths: &[PathBuf]| {
            let all: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            all.join(" ")
        };
        write!(f, "clients [{}] servers [{}]", list(&self.clients), list(&self.servers))
    }
}
