//! The table of MPTCP subflows: finding one by its tag, giving out slots, and counting.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};
use mpsec_common::Direction;
use mpsec_common::mptcp::{
    self, CHOICES, ENTRY_FREE, HANDSHAKES as HANDSHAKE_ENTRIES, Handshake, HandshakeCounter, PORT_ENTRIES,
    SubflowCounter, SubflowCounters, SubflowInfo, TagSet, WAYS, choose, entry_of, first_sequence, free, link,
    port_entry, set_of, slot_in, subflow_counter_index,
};
use mpsec_common::traffic::Counter;

mod sequence;

use sequence::mpsec_subflow_out_of_order;

/// 0 when no subflows are counted: nothing that has to do with them is in the loaded programs then.
#[unsafe(no_mangle)]
static SUBFLOWS_ON: Global<u32> = Global::new(0);
/// What hashes begin with.
#[unsafe(no_mangle)]
static SUBFLOW_SEED: Global<u64> = Global::new(0);
/// Sets of tags less one.
#[unsafe(no_mangle)]
static SUBFLOW_SET_MASK: Global<u32> = Global::new(0);
/// Slots there are.
#[unsafe(no_mangle)]
static SUBFLOW_SLOTS: Global<u32> = Global::new(WAYS as u32);
/// Possible CPUs.
#[unsafe(no_mangle)]
static CPUS: Global<u32> = Global::new(1);

/// The agent sets the numbers of entries when it loads the object.
#[map]
static SUBFLOW_TAGS: Array<TagSet> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static SUBFLOW_FREE: Array<u64> = Array::with_max_entries(WAYS as u32 + free::BEFORE, BPF_F_MMAPABLE);
#[map]
static SUBFLOWS: Array<SubflowInfo> = Array::with_max_entries(WAYS as u32, BPF_F_MMAPABLE);
#[map]
static SUBFLOW_COUNTERS: Array<SubflowCounters> = Array::with_max_entries(WAYS as u32, BPF_F_MMAPABLE);
#[map]
static HANDSHAKES: LruHashMap<u64, Handshake> = LruHashMap::with_max_entries(HANDSHAKE_ENTRIES, 0);

/// What an entry of [`HANDSHAKES`] begins as: not on the stack, of which the longest chain of calls has little left.
static NO_HANDSHAKE: Handshake = {
    let nothing = HandshakeCounter { packets: 0, bytes: 0, payload_bytes: 0, ifindex: 0, reserved: 0 };
    Handshake { directions: [nothing, nothing], next_sequence: 0 }
};

/// How many subflows have which ports, by [`port_entry`]. No map, so that a packet that is of none costs a single load: its
/// address is known when the program is loaded. The agent writes it through [`mpsec_ports`](crate::mpsec_ports).
static mut SUBFLOW_PORTS: [u32; PORT_ENTRIES as usize] = [0; PORT_ENTRIES as usize];

/// Whether subflows are counted at all.
#[inline(always)]
pub fn on() -> bool {
    SUBFLOWS_ON.load() != 0
}

/// What tags begin with.
#[inline(always)]
pub fn seed() -> u64 {
    SUBFLOW_SEED.load()
}

/// Whether any subflow may have these ports, as they lie in a packet of either direction.
#[inline(always)]
pub fn may_have_ports(ports: u32) -> bool {
    // SAFETY: the pointer is to one of the array's entries; volatile, because others write it.
    unsafe { port_count(ports).read_volatile() != 0 }
}

/// Counts so many subflows more, or less, with these ports; tells how many there may be.
#[inline(always)]
pub fn change_ports(ports: u32, change: i32) -> u32 {
    let count = port_count(ports);
    // SAFETY: the pointer is to one of the array's entries; volatile, because others write it.
    unsafe {
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(count, change as u32);
        count.read_volatile()
    }
}

#[inline(always)]
fn port_count(ports: u32) -> *mut u32 {
    // An entry's number is always below their number.
    (&raw mut SUBFLOW_PORTS).cast::<u32>().wrapping_add(port_entry(ports) as usize)
}

/// The slot of a tag.
#[inline(always)]
pub fn find(tag: u64) -> Option<u32> {
    for choice in 0..CHOICES {
        let set = set_of(tag, choice, SUBFLOW_SET_MASK.load());
        let tags = tags(set)?;
        for way in 0..WAYS {
            // SAFETY: `tags` points to a whole set. Volatile, because others write it.
            let slot = slot_in(unsafe { tags.add(way).read_volatile() }, tag);
            if slot.is_some() {
                return slot;
            }
        }
    }
    None
}

#[inline(always)]
fn tags(set: u32) -> Option<*mut u64> {
    SUBFLOW_TAGS.get_ptr_mut(set).map(|tags| tags.cast())
}

/// [`find`] where it need not be quick; [`NO_SLOT`] if there is none. A global function, so that the verifier follows once,
/// and not on every way that leads to it, in which of the sixteen places the tag may be. So are those below.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_find(tag: u64) -> u64 {
    find(tag).map_or(NO_SLOT, u64::from)
}

/// Takes a free slot, or gives [`NO_SLOT`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_take_slot() -> u64 {
    take_slot().map_or(NO_SLOT, u64::from)
}

/// Has packets with a tag counted in a slot, from now on; 0 if there is no room.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_enter(tag: u64, slot: u32) -> i32 {
    enter(tag, slot).into()
}

/// Has packets with a tag no longer counted in a slot, which keeps what it has until the agent has seen it. Gives 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_leave(tag: u64, slot: u32) -> i32 {
    leave(tag, slot);
    0
}

/// What stands for no slot.
const NO_SLOT: u64 = u64::MAX;

/// A slot as a global function gives it.
#[inline(always)]
pub fn slot(found: u64) -> Option<u32> {
    if found == NO_SLOT { None } else { Some(found as u32) }
}

/// The agent may do the same at the same time, and gives slots back.
#[inline(always)]
fn take_slot() -> Option<u32> {
    let latest = SUBFLOW_FREE.get_ptr_mut(free::LATEST)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the map returned a pointer to a whole value; volatile, because others write it.
        let seen = unsafe { latest.read_volatile() };
        let Some(slot) = (seen as u32).checked_sub(1) else { break };
        let before = SUBFLOW_FREE.get_ptr_mut(free::BEFORE + slot)?;
        // SAFETY: as above.
        if unsafe { exchange(latest, seen, link(seen, before.read_volatile() as u32)) } {
            return Some(slot);
        }
    }
    let given = SUBFLOW_FREE.get_ptr_mut(free::GIVEN)?;
    // SAFETY: as above.
    unsafe {
        if given.read_volatile() >= SUBFLOW_SLOTS.load() as u64 {
            return None;
        }
        let slot = atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(given, 1);
        if slot < SUBFLOW_SLOTS.load() as u64 { Some(slot as u32) } else { None }
    }
}

/// How often to try to get a slot that others are after as well.
const ATTEMPTS: u32 = 4;

/// Gives back a slot that was taken in vain.
#[inline(always)]
pub fn give_slot_back(slot: u32) -> Option<()> {
    let latest = SUBFLOW_FREE.get_ptr_mut(free::LATEST)?;
    let before = SUBFLOW_FREE.get_ptr_mut(free::BEFORE + slot)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: as in `take_slot`.
        unsafe {
            let seen = latest.read_volatile();
            before.write_volatile(seen & u32::MAX as u64);
            if exchange(latest, seen, link(seen, slot + 1)) {
                break;
            }
        }
    }
    Some(())
}

#[inline(always)]
fn enter(tag: u64, slot: u32) -> bool {
    let mask = SUBFLOW_SET_MASK.load();
    let sets = [set_of(tag, 0, mask), set_of(tag, 1, mask)];
    let first = choose([used(sets[0]), used(sets[1])]);
    let (first, second) = if first == 0 { (sets[0], sets[1]) } else { (sets[1], sets[0]) };
    let entry = entry_of(tag, slot);
    replace_in(first, ENTRY_FREE, entry) || replace_in(second, ENTRY_FREE, entry)
}

#[inline(always)]
fn leave(tag: u64, slot: u32) {
    let (mask, entry) = (SUBFLOW_SET_MASK.load(), entry_of(tag, slot));
    let _ = replace_in(set_of(tag, 0, mask), entry, ENTRY_FREE) || replace_in(set_of(tag, 1, mask), entry, ENTRY_FREE);
}

#[inline(always)]
fn used(set: u32) -> u32 {
    let Some(tags) = tags(set) else { return WAYS as u32 };
    let mut used = 0;
    for way in 0..WAYS {
        // SAFETY: as in `find`.
        used += mptcp::used(unsafe { tags.add(way).read_volatile() });
    }
    used
}

/// Replaces an entry of a set; true when it was there.
#[inline(always)]
fn replace_in(set: u32, from: u64, to: u64) -> bool {
    let Some(tags) = tags(set) else { return false };
    for way in 0..WAYS {
        // SAFETY: as in `find`.
        if unsafe { exchange(tags.add(way), from, to) } {
            return true;
        }
    }
    false
}

/// Replaces a word if it is what it is thought to be; true when it was.
#[inline(always)]
unsafe fn exchange(word: *mut u64, from: u64, to: u64) -> bool {
    // SAFETY: the caller's pointer is to a whole word of a map.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, from, to).1 }
}

/// What is known of the subflow in a slot.
#[inline(always)]
pub fn info(slot: u32) -> Option<*mut SubflowInfo> {
    SUBFLOWS.get_ptr_mut(slot)
}

/// What a packet, or a super-packet, is to its subflow.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Bytes of TCP payload; none if it is negative.
    pub payload: i32,
    /// Sequence number of the first one.
    pub sequence: u32,
    /// Index of the interface.
    pub ifindex: u32,
}

/// Counts a packet of a subflow. Only this CPU writes the counter, as in [`super::traffic`].
#[inline(always)]
pub fn count<E>(
    slot: u32,
    direction: Direction,
    amount: &Counter,
    segment: impl FnOnce() -> Result<Segment, E>,
) -> Result<(), E> {
    let Some(counter) = counter(slot, this_cpu(), direction) else { return Ok(()) };
    let Segment { payload, sequence, ifindex } = segment()?;
    // SAFETY: the map returned a pointer to a whole value.
    let counter = unsafe { &mut *counter };
    counter.packets += amount.packets;
    counter.bytes += amount.bytes;
    if counter.ifindex != ifindex {
        mpsec_subflow_moved(slot, direction as u32, ifindex);
    }
    if payload <= 0 {
        return Ok(());
    }
    let payload = payload as u32;
    counter.payload_bytes += payload as u64;
    if direction as u32 == Direction::Rx as u32 {
        if counter.next_sequence as u32 == sequence {
            counter.next_sequence += payload as u64;
        } else {
            mpsec_subflow_out_of_order(slot, sequence, payload);
        }
    }
    Ok(())
}

#[inline(always)]
fn this_cpu() -> u32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn counter(slot: u32, cpu: u32, direction: Direction) -> Option<*mut SubflowCounter> {
    let counters = SUBFLOW_COUNTERS.get_ptr_mut(subflow_counter_index(slot, SUBFLOW_SLOTS.load(), cpu))?;
    // SAFETY: the map returned a pointer to a whole value, and the array has an element for each direction.
    Some(unsafe { (&raw mut (*counters).directions).cast::<SubflowCounter>().add(direction as usize) })
}

/// Takes the socket's word for the interface where no packet has told: of one whose ports are encrypted none ever does.
#[inline(always)]
pub fn told_interface(slot: u32, ifindex: u32) {
    let is_untold = |direction| {
        counter(slot, this_cpu(), direction)
            // SAFETY: the map returned a pointer to a whole value; volatile, because others write it.
            .is_some_and(|counter| unsafe { (&raw const (*counter).ifindex).read_volatile() } == 0)
    };
    if ifindex != 0 && is_untold(Direction::Rx) && is_untold(Direction::Tx) {
        mpsec_subflow_moved(slot, Direction::Rx as u32, ifindex);
    }
}

/// Notes down for all CPUs which interface a subflow's packets come by on. It hardly ever changes. A global function, so that
/// the verifier follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_moved(slot: u32, direction: u32, ifindex: u32) -> i32 {
    let direction = if direction == Direction::Rx as u32 { Direction::Rx } else { Direction::Tx };
    for cpu in 0..CPUS.load() {
        if let Some(counter) = counter(slot, cpu, direction) {
            // SAFETY: the map returned a pointer to a whole value; volatile, because others write it too.
            unsafe { (&raw mut (*counter).ifindex).write_volatile(ifindex) };
        }
    }
    0
}

/// Notes down a packet of a subflow that is not registered and may be about to be: one that this host answers. Its SYN
/// begins an entry. A global function, as above.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_unknown(tag: u64, amount: u64, packets: u64, segment: u64, marks: u64) -> i32 {
    let (payload, sequence) = (segment as u32, (segment >> 32) as u32);
    let (ifindex, packets) = (packets as u32, packets >> 32);
    let direction = if marks & 1 == Direction::Rx as u64 { Direction::Rx } else { Direction::Tx };
    let first = marks & FIRST != 0 && marks & 1 == Direction::Rx as u64;
    let next = first_sequence(sequence.wrapping_add(1));
    let mut entry = HANDSHAKES.get_ptr_mut(tag);
    // SAFETY: the map returned a pointer to a whole value.
    if first && entry.is_none_or(|entry| unsafe { (*entry).next_sequence } != next) {
        #[expect(clippy::needless_borrows_for_generic_args, reason = "the value itself would be copied to the stack")]
        let inserted = HANDSHAKES.insert(tag, &NO_HANDSHAKE, 0);
        if inserted.is_err() {
            return 0;
        }
        entry = HANDSHAKES.get_ptr_mut(tag);
        if let Some(entry) = entry {
            // SAFETY: as above.
            unsafe { (&raw mut (*entry).next_sequence).write_volatile(next) };
        }
    }
    let Some(entry) = entry else { return 0 };
    // SAFETY: as above, and the array has an element for each direction.
    unsafe {
        let counter = (&raw mut (*entry).directions).cast::<HandshakeCounter>().add(direction as usize);
        add(&raw mut (*counter).packets, packets);
        add(&raw mut (*counter).bytes, amount);
        add(&raw mut (*counter).payload_bytes, payload as u64);
        (&raw mut (*counter).ifindex).write_volatile(ifindex);
    }
    0
}

/// Among the marks of [`mpsec_subflow_unknown`]: a SYN without ACK. The lowest bit is the direction.
const FIRST: u64 = 2;

/// [`mpsec_subflow_unknown`] with arguments that say what they are.
#[inline(always)]
pub fn unknown(tag: u64, direction: Direction, amount: &Counter, segment: Segment, first: bool) {
    mpsec_subflow_unknown(
        tag,
        amount.bytes,
        amount.packets << 32 | segment.ifindex as u64,
        (segment.sequence as u64) << 32 | segment.payload.max(0) as u64,
        direction as u64 | if first { FIRST } else { 0 },
    );
}

/// Moves what was noted down of a handshake into the counters of the subflow that it led to; false if there is nothing.
#[inline(always)]
pub fn take_handshake(tag: u64, slot: u32) -> bool {
    let Some(entry) = HANDSHAKES.get_ptr_mut(tag) else { return false };
    for direction in Direction::ALL {
        let Some(counter) = counter(slot, this_cpu(), direction) else { continue };
        // SAFETY: both maps returned pointers to whole values, and the array has an element for each direction. A packet may
        // be counted in between, on this CPU too, so nothing but atomic additions will do.
        let ifindex = unsafe {
            let noted = (&raw const (*entry).directions).cast::<HandshakeCounter>().add(direction as usize);
            add(&raw mut (*counter).packets, (*noted).packets);
            add(&raw mut (*counter).bytes, (*noted).bytes);
            add(&raw mut (*counter).payload_bytes, (*noted).payload_bytes);
            (*noted).ifindex
        };
        if ifindex != 0 {
            mpsec_subflow_moved(slot, direction as u32, ifindex);
        }
    }
    // Gone only if it was pushed out meanwhile.
    let _ = HANDSHAKES.remove(tag);
    true
}

#[inline(always)]
unsafe fn add(word: *mut u64, amount: u64) {
    // SAFETY: the caller's pointer is to a whole word of a map.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, amount) };
}
