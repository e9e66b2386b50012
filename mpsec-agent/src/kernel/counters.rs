//! The kernel side's counters, read where they lie: the map is an array that is mapped into memory.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Mmap, MmapOptions};
use mpsec_common::Direction;
use mpsec_common::maps::counter_index;
use mpsec_common::traffic::{CLASS_SLOTS, Counter, CounterCell, InterfaceCounters};

/// One counter a class.
pub type Classes = [Counter; CLASS_SLOTS];

/// The mapped counters of the slots in use.
///
/// The kernel maps an array's pages at once, and mapped pages count as memory of this process; so only the first slots
/// are mapped, and more when they are needed.
pub struct Counters {
    map: OwnedFd,
    cpus: u32,
    /// Slots that the map holds.
    capacity: u32,
    memory: Mmap,
}

impl Counters {
    /// Maps the first slot of `map`, which holds `capacity` slots for `cpus` CPUs.
    pub fn new(map: OwnedFd, cpus: u32, capacity: u32) -> io::Result<Counters> {
        let memory = Self::map(&map, cpus, 1)?;
        Ok(Counters { map, cpus, capacity, memory })
    }

    fn map(map: &OwnedFd, cpus: u32, slots: u32) -> io::Result<Mmap> {
        let len = counter_index(slots, cpus, 0, Direction::Rx) as usize * size_of::<InterfaceCounters>();
        // SAFETY: the kernel changes the memory while it is mapped, so it is read through atomics only (see `word`); it
        // cannot be cut short, because the map outlives the mapping.
        unsafe { MmapOptions::new().len(len).map(map.as_raw_fd()) }
    }

    /// Makes `slot` readable.
    ///
    /// # Errors
    /// What `mmap(2)` says; what was readable before stays so.
    pub fn reach(&mut self, slot: u16) -> io::Result<()> {
        let needed = slot as u32 + 1;
        if self.offset(needed, 0, Direction::Rx) > self.memory.len() {
            let slots = needed.next_power_of_two().min(self.capacity);
            self.memory = Self::map(&self.map, self.cpus, slots)?;
        }
        Ok(())
    }

    /// The index in the map of a slot's first counter, as the kernel side wants it.
    pub fn first(&self, slot: u16) -> u32 {
        counter_index(slot as u32, self.cpus, 0, Direction::Rx)
    }

    /// What all CPUs together counted in a slot. Zero for a slot that was never reached.
    pub fn sum(&self, slot: u16, direction: Direction) -> Classes {
        let mut sums = [Counter::default(); CLASS_SLOTS];
        for cpu in 0..self.cpus {
            let start = self.offset(slot as u32, cpu, direction);
            let Some(bytes) = self.memory.get(start..start + size_of::<InterfaceCounters>()) else {
                break;
            };
            for (sum, counter) in sums.iter_mut().zip(bytes.chunks_exact(size_of::<CounterCell>())) {
                sum.add(&load(counter));
            }
        }
        sums
    }

    fn offset(&self, slot: u32, cpu: u32, direction: Direction) -> usize {
        counter_index(slot, self.cpus, cpu, direction) as usize * size_of::<InterfaceCounters>()
    }
}

/// A counter that the kernel may be writing: each of its words is whole.
fn load(bytes: &[u8]) -> Counter {
    debug_assert_eq!(bytes.len(), size_of::<CounterCell>());
    let word = |index: usize| {
        // SAFETY: the mapping starts on a page and every counter lies a multiple of 8 bytes behind, so the word is
        // aligned, and it is within `bytes`. Nobody in this process writes it.
        unsafe { AtomicU64::from_ptr(bytes.as_ptr().add(index * 8).cast_mut().cast()) }.load(Ordering::Relaxed)
    };
    Counter { packets: word(0), bytes: word(1), l3_bytes: word(2) }
}
