//! One consistent view of what the agent knows: plain data, which everything that tells reads from.

use std::time::{Duration, SystemTime};

use mpsec_common::Direction;
use mpsec_common::maps::Event;
use mpsec_common::traffic::{CLASS_SLOTS, Counter};
use serde::Serialize;

pub mod control;
pub mod host;
pub mod json;
pub mod mptcp;
#[cfg(test)]
pub(crate) mod sample;
pub mod subflow_series;

/// The label value under which traffic of interfaces without counters of their own is published.
pub const OTHER_INTERFACE: &str = "_other";

/// Everything, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: SystemTime,
    /// Interfaces that the configuration asks for, by name.
    pub interfaces: Vec<Interface>,
    /// What interfaces without counters of their own carried, in each network namespace, the agent's own first.
    pub others: Vec<OtherInterfaces>,
    /// How many interfaces there are of each state.
    pub interface_states: InterfaceStates,
    /// MPTCP in each network namespace that is watched, the agent's own first.
    pub namespaces: Vec<mptcp::Namespace>,
    /// The subflows that have series of their own; `None` while the configuration asks for none.
    pub per_subflow: Option<subflow_series::PerSubflow>,
    /// What was asked to be changed on the host, and whether it is so.
    pub control: control::Control,
    /// The host.
    pub host: host::Host,
    /// The agent's own condition.
    pub agent: Agent,
}

impl Snapshot {
    /// Of a host of which nothing is known: what measurements and tests begin with.
    pub fn empty() -> Snapshot {
        Snapshot {
            taken_at: SystemTime::UNIX_EPOCH,
            interfaces: Vec::new(),
            others: Vec::new(),
            interface_states: InterfaceStates::default(),
            namespaces: Vec::new(),
            per_subflow: None,
            control: control::Control::default(),
            host: host::Host::default(),
            agent: Agent::default(),
        }
    }
}

/// One counter a class, indexed by the class's number.
pub type Classes = [Counter; CLASS_SLOTS];

/// What the interfaces of a network namespace carried that have no counters of their own.
#[derive(Clone, Debug, Default)]
pub struct OtherInterfaces {
    /// Name of the network namespace; empty for the agent's own.
    pub netns: String,
    /// Received and sent.
    pub traffic: [Classes; 2],
}

/// An interface that is counted.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Name of its network namespace; empty for the agent's own.
    pub netns: String,
    /// Name.
    pub name: String,
    /// Index in its network namespace.
    pub index: u32,
    /// Kind of a virtual interface, empty for others.
    pub kind: String,
    /// The hooks, received and sent.
    pub hooks: [Hook; 2],
    /// False for an interface that is counted under [`OTHER_INTERFACE`].
    pub has_counters: bool,
    /// What it carried since the agent met it, received and sent.
    pub traffic: [Classes; 2],
}

impl Interface {
    /// The hook of a direction.
    pub fn hook(&self, direction: Direction) -> &Hook {
        &self.hooks[direction as usize]
    }
}

/// The state of one hook of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The means by which the program is attached, or would be.
    pub method: &'static str,
    /// Why it is not attached.
    pub error: Option<String>,
    /// How many programs and filters of others see a packet before it does.
    pub ahead: u32,
}

/// How many interfaces there are of each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct InterfaceStates {
    /// With counters of their own.
    pub counted: u64,
    /// Counted under [`OTHER_INTERFACE`], for want of room.
    pub folded: u64,
    /// Left out by the configuration.
    pub excluded: u64,
}

impl InterfaceStates {
    /// Adds those of another network namespace.
    pub const fn add(&mut self, other: InterfaceStates) {
        self.counted += other.counted;
        self.folded += other.folded;
        self.excluded += other.excluded;
    }
}

/// The agent's own condition.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// Interfaces that were counted under [`OTHER_INTERFACE`] since the start.
    pub folded_total: u64,
    /// Attempts to attach that failed.
    pub attach_failures_total: u64,
    /// Attachments that somebody else removed, or that the kernel dropped.
    pub attachments_lost_total: u64,
    /// Events that were lost, by source.
    pub lost_events: Vec<(&'static str, u64)>,
    /// How often something happened that a probe was not told, by its name.
    pub missed_by_probes: Vec<(&'static str, u64)>,
    /// What happened off the usual path in the kernel.
    pub kernel_events: Vec<(Event, u64)>,
    /// Entries and room of the maps.
    pub maps: Vec<Map>,
    /// How each probe got into the kernel.
    pub probes: Vec<Probe>,
    /// Run time of the programs; empty unless the kernel was told to keep it.
    pub programs: Vec<Program>,
    /// How each source fared.
    pub collectors: Vec<Collector>,
    /// The last attempt to load the configuration.
    pub reload: Reload,
    /// The HTTP server's own counts: metric name's suffix, labels, value.
    pub http: Vec<HttpCount>,
}

/// Entries and room of a map.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// Name.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Entries that there is room for.
    pub capacity: u64,
}

/// How a probe got into the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What it looks at.
    pub name: &'static str,
    /// The way in that it uses: `tp_btf`, `fentry`, `kprobe`, `sock_ops`, or `none`.
    pub entry: &'static str,
    /// Why it has none, or not the one that is best.
    pub error: Option<String>,
}

/// Run time and runs of a program.
#[derive(Clone, Debug, Serialize)]
pub struct Program {
    /// Name.
    pub name: &'static str,
    /// Time that it ran, in seconds.
    pub run_time_seconds: f64,
    /// How often it ran.
    pub runs: u64,
}

/// How a source fared when it was last read.
#[derive(Clone, Debug, Serialize)]
pub struct Collector {
    /// Name of the source.
    pub source: &'static str,
    /// Time that it took.
    pub duration: Duration,
    /// Why it failed.
    pub error: Option<String>,
}

/// The last attempt to load the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    /// Whether it succeeded.
    pub succeeded: bool,
    /// When the configuration in force was loaded.
    pub loaded_at: SystemTime,
}

impl Default for Reload {
    fn default() -> Reload {
        Reload { succeeded: true, loaded_at: SystemTime::UNIX_EPOCH }
    }
}

/// One count of the HTTP server's.
#[derive(Clone, Debug)]
pub struct HttpCount {
    /// What is counted.
    pub what: HttpWhat,
    /// Label values, in the order of the metric's labels.
    pub labels: Vec<String>,
    /// The count.
    pub value: u64,
}

/// What the HTTP server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpWhat {
    /// Requests by handler and status code.
    Requests,
    /// Open connections.
    Connections,
    /// Connections that ended otherwise than they should, by reason.
    Refused,
    /// Whether the web configuration file in force is the one that lies there.
    ConfigLoaded,
}
