//! The maps and the settings: the only place that declares them, and the only place that writes to a map.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use mpsec_common::maps::{Event, INTERFACE_ENTRIES, INTERFACE_PROBES, InterfaceSlot, WIREGUARD_PORTS};
use mpsec_common::maps::{OTHER_SLOT, counter_index_from, slot_index};
use mpsec_common::traffic::{CLASS_SLOTS, Counter, CounterCell, InterfaceCounters};
use mpsec_common::{Direction, LAYOUT_VERSION, Link};

pub mod policy;
pub mod probes;
pub mod subflows;

/// By its name the agent tells that the layout of the maps is the one that it knows.
#[used]
#[unsafe(no_mangle)]
static LAYOUT_2: Global<u32> = Global::new(LAYOUT_VERSION);
/// UDP ports of WireGuard; 0 for none.
#[unsafe(no_mangle)]
static WIREGUARD: Global<[u16; WIREGUARD_PORTS]> = Global::new([51820, 0, 0, 0]);

/// [`mpsec_common::packet::port_filter`] of those ports.
#[unsafe(no_mangle)]
static PORT_FILTER: Global<u64> = Global::new(u64::MAX);

/// The agent sets the number of entries when it loads the object.
#[map]
static COUNTERS: Array<InterfaceCounters> = Array::with_max_entries(2, BPF_F_MMAPABLE);
#[map]
static INTERFACES: Array<InterfaceSlot> = Array::with_max_entries(INTERFACE_ENTRIES, 0);
#[map]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Event::ALL.len() as u32, 0);

/// What an interface without an entry is taken for.
const UNKNOWN: InterfaceSlot =
    InterfaceSlot { ifindex: 0, first_counter: 0, link: Link::Foreign as u8, uncounted: [0; 2], flags: 0 };
const _: () = assert!(OTHER_SLOT == 0, "its first counter is the first of all");

/// One of the UDP ports of WireGuard. The verifier knows its value and takes out what compares to none, so each is loaded
/// on its own, where it is compared.
#[inline(always)]
pub fn wireguard_port(index: usize) -> u16 {
    // SAFETY: a `Global` is a plain static of its type, and the index is within the array. Volatile, as `Global::load` is:
    // the compiler must not take the value that the object has for the one that the agent sets.
    unsafe { (&raw const WIREGUARD).cast::<u16>().add(index).read_volatile() }
}

/// Which UDP ports tell what a datagram is.
#[inline(always)]
pub fn port_filter() -> u64 {
    PORT_FILTER.load()
}

/// What the agent said of an interface that lies in its home entry, as nearly all do.
#[inline(always)]
pub fn interface_at_home(ifindex: u32) -> Option<&'static InterfaceSlot> {
    INTERFACES.get(slot_index(ifindex, 0)).filter(|entry| entry.ifindex == ifindex)
}

/// What the agent said of an interface.
#[inline(always)]
pub fn interface(ifindex: u32) -> &'static InterfaceSlot {
    for probe in 0..INTERFACE_PROBES {
        if let Some(entry) = INTERFACES.get(slot_index(ifindex, probe))
            && entry.ifindex == ifindex
        {
            return entry;
        }
    }
    event(Event::NoSlot);
    &UNKNOWN
}

/// Adds one packet, or one super-packet, to its counter.
///
/// Only this CPU writes the counter, and a TC program is not interrupted by another one on the same CPU, so plain
/// additions do.
///
/// `class` is a class's number. Where the compiler knows that it is one, it leaves out the mask that the verifier wants to see.
#[inline(always)]
pub fn traffic(first_counter: u32, direction: Direction, class: usize, amount: &Counter) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let index = counter_index_from(first_counter, cpu, direction);
    let Some(counters) = COUNTERS.get_ptr_mut(index) else {
        return event(Event::NoCounter);
    };
    // SAFETY: the map returned a pointer to a whole value, and the class is masked to the array's length.
    unsafe {
        let counter = (&raw mut (*counters).classes).cast::<CounterCell>().add(class & (CLASS_SLOTS - 1));
        let counter = &mut (*counter).counter;
        counter.packets += amount.packets;
        counter.bytes += amount.bytes;
        counter.l3_bytes += amount.l3_bytes;
    }
}

/// Counts an event. Atomically: a packet may come while the program of a socket runs on the same CPU.
#[inline(always)]
pub fn event(event: Event) {
    if let Some(count) = EVENTS.get_ptr_mut(event as u32) {
        // SAFETY: the map returned a pointer to a whole value.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1) };
    }
}
