//! The watched interfaces as a snapshot shows them.

use mpsec_common::Direction;
use mpsec_common::maps::{MAP_COUNTERS, MAP_INTERFACES, OTHER_SLOT};
use mpsec_common::traffic::{CLASS_SLOTS, Counter};

use super::{Interfaces, Watched};
use crate::kernel::ebpf::MapCapacity;
use crate::kernel::link;
use crate::snapshot::{self, Classes, Hook, Interface, InterfaceStates, OTHER_INTERFACE};

impl Interfaces {
    /// How many interfaces there are of each state.
    pub fn states(&self) -> InterfaceStates {
        let folded = self.watched.values().filter(|watched| watched.slot() == OTHER_SLOT).count() as u64;
        InterfaceStates { counted: self.watched.len() as u64 - folded, folded, excluded: self.excluded.len() as u64 }
    }

    /// Entries and room of the maps.
    pub fn maps(&self) -> Vec<snapshot::Map> {
        let slots = self.states().counted + 1;
        let capacities = self.kernel.capacities();
        let used = |name: &str, capacity: u64| match name {
            MAP_COUNTERS => slots * self.kernel.counter_entries_per_slot(),
            MAP_INTERFACES => self.slots.entries(),
            _ => capacity,
        };
        let map = |map: &MapCapacity| {
            let capacity = u64::from(map.entries);
            snapshot::Map { name: map.name, entries: used(map.name, capacity), capacity }
        };
        capacities.iter().map(map).collect()
    }

    /// Every watched interface, by name, and what those without counters of their own did together.
    pub fn traffic(&self) -> (Vec<Interface>, [Classes; 2]) {
        let mut interfaces: Vec<Interface> = self.watched.values().map(|watched| self.view(watched)).collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        (interfaces, Direction::ALL.map(|direction| self.kernel.counters.sum(OTHER_SLOT, direction)))
    }

    fn view(&self, watched: &Watched) -> Interface {
        let has_counters = watched.slot() != OTHER_SLOT;
        let traffic = Direction::ALL.map(|direction| match has_counters {
            true => since(self.kernel.counters.sum(watched.slot(), direction), &watched.base[direction as usize]),
            false => [Counter::default(); CLASS_SLOTS],
        });
        let method = self.attacher.method().name();
        Interface {
            netns: String::new(),
            name: shown(&watched.interface),
            index: watched.interface.index,
            kind: watched.interface.kind.clone(),
            hooks: Direction::ALL.map(|direction| {
                let error = watched.hooks[direction as usize].as_ref().err().cloned();
                Hook { method, error, ahead: watched.ahead[direction as usize] }
            }),
            has_counters,
            traffic,
        }
    }
}

/// The name under which an interface is published. One that is called as the others together are gets its index appended,
/// behind a slash, which no interface's name holds.
fn shown(interface: &link::Interface) -> String {
    match interface.name.as_str() {
        OTHER_INTERFACE => format!("{OTHER_INTERFACE}/{}", interface.index),
        name => name.to_owned(),
    }
}

fn since(mut classes: Classes, base: &Classes) -> Classes {
    classes.iter_mut().zip(base).for_each(|(counter, base)| *counter = counter.since(base));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interface_is_called_as_the_others_together() {
        let interface = |name: &str| link::Interface { index: 7, name: name.into(), hardware: 1, ..Default::default() };
        assert_eq!(shown(&interface("eth0")), "eth0");
        assert_eq!(shown(&interface("_other")), "_other/7");
    }

    #[test]
    fn what_a_slot_counted_before_is_not_counted_again() {
        let counter = |packets| Counter { packets, bytes: packets * 60, l3_bytes: packets * 46 };
        let (mut now, mut base) = (Classes::default(), Classes::default());
        (base[3], now[3], now[4]) = (counter(5), counter(7), counter(1));
        let since = since(now, &base);
        assert_eq!((since[3], since[4], since[0]), (counter(2), counter(1), counter(0)));
    }
}
