//! A snapshot as JSON: what `mpsec status --json` prints, what `mpsec top` reads, and what the API takes its parts from.

use std::collections::BTreeMap;

use mpsec_common::{Class, Direction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Classes, Interface, OTHER_INTERFACE, Snapshot, control, host, mptcp};

/// The whole snapshot, ready to be written.
#[derive(Serialize)]
struct Document<'a> {
    taken_at: f64,
    version: &'static str,
    interfaces: Vec<InterfaceView>,
    interface_states: super::InterfaceStates,
    namespaces: &'a [mptcp::Namespace],
    control: &'a control::Control,
    host: &'a host::Host,
    agent: Value,
}

/// An interface that is counted. Only its name and traffic are there for `_other`, which is all interfaces without
/// counters of their own together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct InterfaceView {
    /// Name of its network namespace; empty for the agent's own.
    pub netns: String,
    /// Name.
    pub name: String,
    /// Index in its network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Kind of a virtual interface, empty for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name under which it is counted: its own, or `_other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_as: Option<String>,
    /// The hooks: `rx` and `tx`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<String, HookView>,
    /// What it carried since the agent met it: `rx` and `tx`, by class. Classes that have seen nothing are left out.
    pub traffic: BTreeMap<String, BTreeMap<String, ClassView>>,
}

/// The state of one hook of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HookView {
    /// The means by which the program is attached, or would be: `tcx` or `clsact`.
    pub method: String,
    /// Whether it is.
    pub attached: bool,
    /// Why it is not.
    pub error: Option<String>,
    /// How many programs and filters of others see a packet before it does: what these keep is not counted.
    pub programs_ahead: u32,
}

/// What was counted of one class of traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ClassView {
    /// `encrypted`, or what else protects the class.
    pub protection: String,
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes on the wire, link header included.
    pub bytes: u64,
    /// Bytes on the wire from the network header on.
    pub l3_bytes: u64,
}

impl Snapshot {
    /// The whole snapshot. Classes that have seen nothing are left out.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self.document()).expect(WRITABLE)
    }

    /// The same as text in one line.
    pub fn to_json_text(&self) -> String {
        serde_json::to_string(&self.document()).expect(WRITABLE)
    }

    /// Connections in all namespaces: what the size of the JSON depends on.
    pub fn connections(&self) -> usize {
        self.namespaces.iter().map(|namespace| namespace.connections.len()).sum()
    }

    /// When it was taken, in seconds since 1970.
    pub fn taken_at_seconds(&self) -> f64 {
        unix_seconds(self.taken_at)
    }

    /// The interfaces that are counted, `_other` last if there are any without counters of their own.
    pub fn interface_views(&self) -> Vec<InterfaceView> {
        let mut interfaces: Vec<InterfaceView> = self.interfaces.iter().map(interface).collect();
        for others in &self.others {
            if self.interface_states.folded > 0 || others.traffic.iter().flatten().any(|counter| !counter.is_zero()) {
                let (netns, traffic) = (others.netns.clone(), traffic(&others.traffic));
                let name = OTHER_INTERFACE.into();
                interfaces.push(InterfaceView { netns, name, traffic, ..InterfaceView::default() });
            }
        }
        interfaces
    }

    fn document(&self) -> Document<'_> {
        Document {
            taken_at: self.taken_at_seconds(),
            version: env!("CARGO_PKG_VERSION"),
            interfaces: self.interface_views(),
            interface_states: self.interface_states,
            namespaces: &self.namespaces,
            control: &self.control,
            host: &self.host,
            agent: self.agent_json(),
        }
    }

    fn agent_json(&self) -> Value {
        let agent = &self.agent;
        let counts = |counts: &[(&'static str, u64)]| -> Map<String, Value> {
            counts.iter().map(|(name, count)| ((*name).into(), json!(count))).collect()
        };
        let events: Map<String, Value> = agent.kernel_events.iter().map(|(e, n)| (e.name().into(), json!(n))).collect();
        let collectors: Vec<Value> = agent
            .collectors
            .iter()
            .map(|c| json!({"source": c.source, "seconds": c.duration.as_secs_f64(), "error": c.error}))
            .collect();
        json!({
            "interfaces_folded": agent.folded_total,
            "attach_failures": agent.attach_failures_total,
            "attachments_lost": agent.attachments_lost_total,
            "events_lost": counts(&agent.lost_events),
            "kernel_events": events,
            "maps": agent.maps,
            "probes": agent.probes,
            "missed_by_probes": counts(&agent.missed_by_probes),
            "programs": agent.programs,
            "collectors": collectors,
            "config": {
                "last_reload_succeeded": agent.reload.succeeded,
                "loaded_at": unix_seconds(agent.reload.loaded_at),
            },
        })
    }
}

const WRITABLE: &str = "maps have text for keys, and writing to memory does not fail";

fn interface(interface: &Interface) -> InterfaceView {
    let hook = |direction: Direction| {
        let hook = interface.hook(direction);
        let view = HookView {
            method: hook.method.into(),
            attached: hook.error.is_none(),
            error: hook.error.clone(),
            programs_ahead: hook.ahead,
        };
        (direction.name().to_owned(), view)
    };
    let counted_as = if interface.has_counters { interface.name.as_str() } else { OTHER_INTERFACE };
    InterfaceView {
        netns: interface.netns.clone(),
        name: interface.name.clone(),
        index: Some(interface.index),
        kind: Some(interface.kind.clone()),
        counted_as: Some(counted_as.to_owned()),
        hooks: Direction::ALL.into_iter().map(hook).collect(),
        traffic: traffic(&interface.traffic),
    }
}

fn traffic(both: &[Classes; 2]) -> BTreeMap<String, BTreeMap<String, ClassView>> {
    let direction = |direction: Direction| {
        let classes = Class::ALL
            .iter()
            .map(|class| (class, &both[direction as usize][*class as usize]))
            .filter(|(_, counter)| !counter.is_zero())
            .map(|(class, counter)| {
                let view = ClassView {
                    protection: class.protection().name().to_owned(),
                    packets: counter.packets,
                    bytes: counter.bytes,
                    l3_bytes: counter.l3_bytes,
                };
                (class.name().to_owned(), view)
            })
            .collect();
        (direction.name().to_owned(), classes)
    };
    Direction::ALL.into_iter().map(direction).collect()
}

fn unix_seconds(time: std::time::SystemTime) -> f64 {
    time.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}
