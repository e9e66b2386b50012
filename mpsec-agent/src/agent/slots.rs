//! Which places in the kernel's tables are taken. Pure bookkeeping: nothing is written here.

use std::collections::BTreeSet;

use mpsec_common::maps::{INTERFACE_PROBES, OTHER_SLOT, slot_index};

/// An interface's place in the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its entry in the interface table.
    pub entry: u32,
    /// Its slot of the counters; [`OTHER_SLOT`] if it shares that with others.
    pub slot: u16,
}

/// The places that are taken and free.
#[derive(Debug)]
pub struct Slots {
    free: BTreeSet<u16>,
    entries: BTreeSet<u32>,
}

impl Slots {
    /// Room for `max_interfaces` interfaces with counters of their own.
    pub fn new(max_interfaces: u16) -> Slots {
        Slots { free: (OTHER_SLOT + 1..=max_interfaces).collect(), entries: BTreeSet::new() }
    }

    /// The best place that an interface can have now, which is then taken: what it has, or more. `None` if all entries that
    /// it may lie in are taken.
    pub fn take(&mut self, ifindex: u32, has: Option<Place>) -> Option<Place> {
        let entry = has.map(|place| place.entry).or_else(|| self.free_entry(ifindex))?;
        self.entries.insert(entry);
        let slot = match has {
            Some(place) if place.slot != OTHER_SLOT => place.slot,
            _ => self.free.pop_first().unwrap_or(OTHER_SLOT),
        };
        Some(Place { entry, slot })
    }

    /// Gives a place back.
    pub fn free(&mut self, place: Place) {
        self.entries.remove(&place.entry);
        if place.slot != OTHER_SLOT {
            self.free.insert(place.slot);
        }
    }

    /// Whether an interface could have counters of its own.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Entries of the interface table that are taken.
    pub fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    fn free_entry(&self, ifindex: u32) -> Option<u32> {
        (0..INTERFACE_PROBES).map(|probe| slot_index(ifindex, probe)).find(|entry| !self.entries.contains(entry))
    }
}

#[cfg(test)]
mod tests {
    use mpsec_common::maps::INTERFACE_ENTRIES;

    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_the_next_one_s() {
        let mut slots = Slots::new(2);
        let first = slots.take(7, None).unwrap();
        assert_eq!(first, Place { entry: 7, slot: 1 });
        assert_eq!(slots.take(8, None), Some(Place { entry: 8, slot: 2 }));
        assert!(!slots.has_free());
        slots.free(first);
        assert_eq!(slots.take(7, None), Some(first));
    }

    #[test]
    fn who_came_too_late_keeps_its_entry_and_gets_the_next_slot() {
        let mut slots = Slots::new(1);
        let first = slots.take(7, None).unwrap();
        let late = slots.take(8, None).unwrap();
        assert_eq!(late, Place { entry: 8, slot: OTHER_SLOT });
        assert_eq!(slots.take(8, Some(late)), Some(late));
        slots.free(first);
        assert_eq!(slots.take(8, Some(late)), Some(Place { entry: 8, slot: 1 }));
        assert_eq!(slots.entries(), 1);
    }

    #[test]
    fn indices_that_collide_take_no_slot_that_others_could_have() {
        let mut slots = Slots::new(10);
        let colliding = |n: u32| 65_533 + n * INTERFACE_ENTRIES;
        let places: Vec<_> = (0..4).map(|n| slots.take(colliding(n), None).unwrap()).collect();
        assert_eq!(places.iter().map(|place| place.entry).collect::<Vec<_>>(), [65_533, 65_534, 65_535, 0]);
        assert_eq!(slots.take(colliding(4), None), None);
        assert_eq!(slots.take(1, None), Some(Place { entry: 1, slot: 5 }));
        slots.free(places[2]);
        assert_eq!(slots.take(colliding(4), None), Some(Place { entry: 65_535, slot: 3 }));
    }
}
