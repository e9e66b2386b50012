//! A snapshot as JSON: what `mpsec status --json` prints.

use mpsec_common::{Class, Direction};
use serde_json::{Map, Value, json};

use super::{Classes, Interface, OTHER_INTERFACE, Snapshot};

impl Snapshot {
    /// The whole snapshot. Classes that have seen nothing are left out.
    pub fn to_json(&self) -> Value {
        let mut interfaces: Vec<Value> = self.interfaces.iter().map(interface).collect();
        if self.interface_states.folded > 0 || self.other.iter().flatten().any(|counter| !counter.is_zero()) {
            interfaces.push(json!({"name": OTHER_INTERFACE, "traffic": traffic(&self.other)}));
        }
        json!({
            "taken_at": unix_seconds(self.taken_at),
            "version": env!("CARGO_PKG_VERSION"),
            "interfaces": interfaces,
            "interface_states": self.interface_states,
            "namespaces": self.namespaces,
            "agent": self.agent_json(),
        })
    }

    fn agent_json(&self) -> Value {
        let agent = &self.agent;
        let lost: Map<String, Value> =
            agent.lost_events.iter().map(|(source, n)| ((*source).into(), json!(n))).collect();
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
            "events_lost": lost,
            "kernel_events": events,
            "maps": agent.maps,
            "probes": agent.probes,
            "programs": agent.programs,
            "collectors": collectors,
            "config": {
                "last_reload_succeeded": agent.reload.succeeded,
                "loaded_at": unix_seconds(agent.reload.loaded_at),
            },
        })
    }
}

fn interface(interface: &Interface) -> Value {
    let hooks: Map<String, Value> = Direction::ALL
        .into_iter()
        .map(|direction| {
            let hook = interface.hook(direction);
            let state = json!({"method": hook.method, "attached": hook.error.is_none(), "error": hook.error});
            (direction.name().to_owned(), state)
        })
        .collect();
    let counted_as = if interface.has_counters { interface.name.as_str() } else { OTHER_INTERFACE };
    json!({
        "name": interface.name,
        "index": interface.index,
        "kind": interface.kind,
        "counted_as": counted_as,
        "hooks": hooks,
        "traffic": traffic(&interface.traffic),
    })
}

fn traffic(both: &[Classes; 2]) -> Value {
    let direction = |direction: Direction| {
        let classes: Map<String, Value> = Class::ALL
            .iter()
            .map(|class| (class, &both[direction as usize][*class as usize]))
            .filter(|(_, counter)| !counter.is_zero())
            .map(|(class, counter)| {
                let value = json!({
                    "protection": class.protection().name(),
                    "packets": counter.packets,
                    "bytes": counter.bytes,
                    "l3_bytes": counter.l3_bytes,
                });
                (class.name().to_owned(), value)
            })
            .collect();
        Value::Object(classes)
    };
    json!({"rx": direction(Direction::Rx), "tx": direction(Direction::Tx)})
}

fn unix_seconds(time: std::time::SystemTime) -> f64 {
    time.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}
