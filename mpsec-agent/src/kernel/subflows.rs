//! MPTCP subflows as the kernel side knows and counts them, read where they lie: the maps are arrays that are mapped into
//! memory.
//!
//! The kernel side gives slots to subflows; only [`Subflows::release`] takes them back, so that nothing is counted in a slot
//! of which the reader has not seen the end.

mod memory;
mod offsets;
mod ports;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use mpsec_common::Direction;
use mpsec_common::mptcp::{
    CHOICES, ENTRY_FREE, SubflowCounter, SubflowCounters, SubflowInfo, SubflowKey, SubflowState, TagSet, WAYS, choose,
    entry_of, flags, free, link, set_of, sets_for, slot_in, subflow_counter_index,
};

pub use memory::Memory;
pub(super) use offsets::Offsets;
use ports::Ports;

/// A subflow at the time of a poll.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its slot: what [`Subflows::release`] takes.
    pub slot: u32,
    /// What is known of it.
    pub info: SubflowInfo,
    /// Received since the slot was given to it. Only the counts are told.
    pub rx: SubflowCounter,
    /// Sent, likewise; `retransmitted_bytes` are those of its socket, which are exact, and 0 for an adopted one.
    pub tx: SubflowCounter,
    /// Index of the interface that its last packet was received on; 0 for none.
    pub rx_ifindex: u32,
    /// Index of the interface that its last packet was sent on; 0 for none.
    pub tx_ifindex: u32,
}

/// Why a subflow cannot be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// There is no free slot, or both of its sets are full.
    #[error("the table of subflows is full")]
    Full,
    /// The maps cannot be reached.
    #[error("the table of subflows cannot be mapped: {0}")]
    Memory(#[from] io::Error),
}

/// The maps, and the program, that subflows take.
pub struct Maps {
    /// [`mpsec_common::maps::MAP_SUBFLOW_TAGS`]
    pub tags: OwnedFd,
    /// [`mpsec_common::maps::MAP_SUBFLOW_FREE`]
    pub free: OwnedFd,
    /// [`mpsec_common::maps::MAP_SUBFLOWS`]
    pub infos: OwnedFd,
    /// [`mpsec_common::maps::MAP_SUBFLOW_COUNTERS`]
    pub counters: OwnedFd,
    /// The program [`mpsec_common::maps::PROGRAM_PORTS`].
    pub ports: OwnedFd,
}

/// How the maps are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Slots: a power of two.
    pub slots: u32,
    /// Possible CPUs.
    pub cpus: u32,
    /// The seed of tags.
    pub seed: u64,
}

/// Words of a [`SubflowInfo`].
const INFO_WORDS: usize = size_of::<SubflowInfo>() / 8;
/// The word that holds [`SubflowInfo::state`].
const STATE_WORD: usize = std::mem::offset_of!(SubflowInfo, state) / 8;
const _: () = assert!(std::mem::offset_of!(SubflowInfo, state).is_multiple_of(8), "it is the word's first byte");
/// Words of what one CPU counts of a subflow.
const COUNTER_WORDS: usize = size_of::<SubflowCounter>() / 8;
/// The counts among those of one direction: packets, bytes, payload and retransmitted bytes.
const COUNTS: usize = 4;
/// Words behind the counts: two sequence numbers, and the interface.
const SEQUENCE_WORDS: std::ops::Range<usize> = COUNTS..COUNTS + 2;
const INTERFACE_WORD: usize = COUNTS + 2;

/// The counts of both directions.
type Counts = [u64; 2 * COUNTS];

/// The subflows of the network namespace that the kernel side was loaded for.
pub struct Subflows {
    shape: Shape,
    tags: Memory,
    free: Memory,
    infos: Memory,
    counters: Memory,
    ports: Ports,
    /// What each slot had counted when it was given away. Pages that are never written take no memory.
    base: Vec<Counts>,
    used: u32,
}

impl Subflows {
    /// Maps nothing yet.
    pub fn new(maps: Maps, shape: Shape) -> Subflows {
        let Shape { slots, cpus, .. } = shape;
        let bytes = |entries: u32, size: usize| entries as usize * size;
        Subflows {
            shape,
            tags: Memory::new(maps.tags, bytes(sets_for(slots), size_of::<TagSet>())),
            free: Memory::new(maps.free, bytes(slots + free::BEFORE, size_of::<u64>())),
            infos: Memory::new(maps.infos, bytes(slots, size_of::<SubflowInfo>())),
            counters: Memory::new(
                maps.counters,
                bytes(subflow_counter_index(0, slots, cpus), size_of::<SubflowCounters>()),
            ),
            ports: Ports::new(maps.ports),
            base: vec![[0; 2 * COUNTS]; slots as usize],
            used: 0,
        }
    }

    /// Slots in use, as of the last poll.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Slots there are.
    pub fn capacity(&self) -> u32 {
        self.shape.slots
    }

    /// Shows every subflow that has a slot, in the order of slots.
    ///
    /// # Errors
    /// What `mmap(2)` says.
    pub fn poll(&mut self, mut visit: impl FnMut(&View)) -> io::Result<()> {
        self.used = 0;
        self.ports.flush()?;
        for slot in 0..self.given()? {
            if let Some(view) = self.view(slot)? {
                visit(&view);
                self.used += 1;
            }
        }
        Ok(())
    }

    /// How many subflows, released ones not among them, have ports that packets are not told apart by.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn sharing_ports(&mut self, key: &SubflowKey) -> io::Result<u32> {
        self.ports.count(key.ports())
    }

    /// How many slots were ever given out: the first ones.
    fn given(&mut self) -> io::Result<u32> {
        let given = self.free.words(free::GIVEN as usize, 1)?[0].load(Ordering::Acquire);
        Ok(given.min(u64::from(self.shape.slots)) as u32)
    }

    /// Takes a slot back, whatever its subflow does. What packets of it still come is counted no more; so wait until a
    /// subflow that was closed has been silent.
    ///
    /// # Errors
    /// What `mmap(2)` says.
    pub fn release(&mut self, slot: u32) -> io::Result<()> {
        let Some(info) = self.info(slot)? else { return Ok(()) };
        self.replace(info.key.tag(self.shape.seed), |entry, tag| slot_in(entry, tag) == Some(slot), ENTRY_FREE)?;
        let state = self.infos.words(slot as usize * INFO_WORDS, INFO_WORDS)?;
        state[STATE_WORD].store(0, Ordering::Relaxed);
        let (counts, _) = self.counts(slot)?;
        self.base[slot as usize] = counts;
        for cpu in 0..self.shape.cpus {
            for counter in self.counters(slot, cpu)?.chunks_exact(COUNTER_WORDS) {
                counter[SEQUENCE_WORDS].iter().for_each(|word| word.store(0, Ordering::Relaxed));
                counter[INTERFACE_WORD].store(0, Ordering::Relaxed);
            }
        }
        self.give_back(slot)?;
        self.used = self.used.saturating_sub(1);
        self.ports.remove(info.key.ports())
    }

    /// Registers a subflow that is older than the kernel side, so that its packets are counted from now on; or gives the
    /// slot that it has. `retransmitted_bytes` are those that its socket has sent again up to now: the kernel side does not ask
    /// such a socket.
    ///
    /// # Errors
    /// [`AdoptError::Full`], and what `mmap(2)` says.
    pub fn adopt(
        &mut self,
        key: &SubflowKey,
        token: u32,
        [local_id, remote_id]: [u8; 2],
        [joined, backup]: [bool; 2],
        retransmitted_bytes: u64,
    ) -> Result<u32, AdoptError> {
        if let Some(slot) = self.find(key)? {
            return Ok(slot);
        }
        let slot = self.take_slot()?.ok_or(AdoptError::Full)?;
        let mut marks = flags::ADOPTED;
        marks |= if joined { flags::JOINED } else { 0 };
        marks |= if backup { flags::BACKUP } else { 0 };
        let now = monotonic_ns();
        let info = SubflowInfo {
            key: *key,
            token,
            state: SubflowState::Established as u8,
            local_id,
            remote_id,
            flags: marks,
            incarnation: self.raw_info(slot)?.incarnation.wrapping_add(1),
            opened_ns: now,
            established_ns: now,
            bytes_retrans: retransmitted_bytes,
            ..SubflowInfo::default()
        };
        if let Err(error) = self.ports.add(key.ports()) {
            self.give_back(slot)?;
            return Err(error.into());
        }
        let tag = key.tag(self.shape.seed);
        if !self.replace(tag, |entry, _| entry == ENTRY_FREE, entry_of(tag, slot))? {
            self.give_back(slot)?;
            self.ports.remove(key.ports())?;
            return Err(AdoptError::Full);
        }
        self.write_info(slot, &info)?;
        self.used += 1;
        Ok(slot)
    }

    /// The slot of a subflow; not of one that has ended and whose addresses and ports another one has got.
    ///
    /// # Errors
    /// What `mmap(2)` says.
    pub fn find(&mut self, key: &SubflowKey) -> io::Result<Option<u32>> {
        let tag = key.tag(self.shape.seed);
        for choice in 0..CHOICES {
            let set = set_of(tag, choice, self.mask());
            let entries = self.tags.words(set as usize * WAYS, WAYS)?;
            let slot = entries.iter().find_map(|entry| slot_in(entry.load(Ordering::Relaxed), tag));
            if slot.is_some() {
                return Ok(slot);
            }
        }
        Ok(None)
    }

    fn mask(&self) -> u32 {
        sets_for(self.shape.slots) - 1
    }

    /// Replaces an entry in one of a tag's sets, while the kernel side may do the same; false if there is no such entry.
    fn replace(&mut self, tag: u64, from: impl Fn(u64, u64) -> bool, to: u64) -> io::Result<bool> {
        let sets = [0, 1].map(|choice| set_of(tag, choice, self.mask()));
        let mut used = [0; CHOICES as usize];
        for (set, used) in sets.iter().zip(&mut used) {
            let entries = self.tags.words(*set as usize * WAYS, WAYS)?;
            *used = entries.iter().filter(|entry| entry.load(Ordering::Relaxed) != ENTRY_FREE).count() as u32;
        }
        let first = choose(used) as usize;
        for set in [sets[first], sets[1 - first]] {
            let entries = self.tags.words(set as usize * WAYS, WAYS)?;
            let replaced = entries.iter().any(|entry| {
                let seen = entry.load(Ordering::Relaxed);
                from(seen, tag) && entry.compare_exchange(seen, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            });
            if replaced {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a free slot, as the kernel side does at the same time.
    fn take_slot(&mut self) -> io::Result<Option<u32>> {
        loop {
            let seen = self.free.words(free::LATEST as usize, 1)?[0].load(Ordering::Acquire);
            let Some(slot) = (seen as u32).checked_sub(1) else { break };
            let before = self.free.words((free::BEFORE + slot) as usize, 1)?[0].load(Ordering::Acquire);
            if self.set_latest(seen, before as u32)? {
                return Ok(Some(slot));
            }
        }
        let given = &self.free.words(free::GIVEN as usize, 1)?[0];
        if given.load(Ordering::Relaxed) >= u64::from(self.shape.slots) {
            return Ok(None);
        }
        let slot = given.fetch_add(1, Ordering::AcqRel);
        Ok((slot < u64::from(self.shape.slots)).then_some(slot as u32))
    }

    /// Lets the next subflow have a slot.
    fn give_back(&mut self, slot: u32) -> io::Result<()> {
        loop {
            let seen = self.free.words(free::LATEST as usize, 1)?[0].load(Ordering::Acquire);
            self.free.words((free::BEFORE + slot) as usize, 1)?[0].store(seen & u64::from(u32::MAX), Ordering::Release);
            if self.set_latest(seen, slot + 1)? {
                return Ok(());
            }
        }
    }

    fn set_latest(&mut self, seen: u64, slot: u32) -> io::Result<bool> {
        let latest = &self.free.words(free::LATEST as usize, 1)?[0];
        Ok(latest.compare_exchange(seen, link(seen, slot), Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    fn view(&mut self, slot: u32) -> io::Result<Option<View>> {
        let Some(info) = self.info(slot)? else { return Ok(None) };
        let (counts, [rx_ifindex, tx_ifindex]) = self.counts(slot)?;
        let base = &self.base[slot as usize];
        let since = |direction: Direction| {
            let of = |index: usize| {
                let index = direction as usize * COUNTS + index;
                counts[index].wrapping_sub(base[index])
            };
            SubflowCounter {
                packets: of(0),
                bytes: of(1),
                payload_bytes: of(2),
                retransmitted_bytes: of(3),
                ..SubflowCounter::default()
            }
        };
        let (rx, mut tx) = (since(Direction::Rx), since(Direction::Tx));
        tx.retransmitted_bytes = if info.has(flags::ADOPTED) { 0 } else { info.bytes_retrans };
        Ok(Some(View { slot, info, rx, tx, rx_ifindex, tx_ifindex }))
    }

    /// What is known of the subflow in a slot; `None` while there is none, or it is being filled.
    fn info(&mut self, slot: u32) -> io::Result<Option<SubflowInfo>> {
        let words = self.infos.words(slot as usize * INFO_WORDS, INFO_WORDS)?;
        // One look is enough for a slot that is free.
        let [state, ..] = words[STATE_WORD].load(Ordering::Relaxed).to_ne_bytes();
        if state == SubflowState::Free as u8 {
            return Ok(None);
        }
        self.raw_info(slot).map(Some)
    }

    fn raw_info(&mut self, slot: u32) -> io::Result<SubflowInfo> {
        let memory = self.infos.words(slot as usize * INFO_WORDS, INFO_WORDS)?;
        // The state is written last; what is read behind it is what belongs to it.
        let state = memory[STATE_WORD].load(Ordering::Acquire);
        let mut words: [u64; INFO_WORDS] = std::array::from_fn(|index| memory[index].load(Ordering::Relaxed));
        words[STATE_WORD] = state;
        // SAFETY: both are 128 bytes, and every byte pattern is a `SubflowInfo`, which is `mpsec_common::Pod`.
        Ok(unsafe { std::mem::transmute::<[u64; INFO_WORDS], SubflowInfo>(words) })
    }

    fn write_info(&mut self, slot: u32, info: &SubflowInfo) -> io::Result<()> {
        // SAFETY: both are 128 bytes without padding, as `shared!` proves.
        let words = unsafe { std::mem::transmute::<SubflowInfo, [u64; INFO_WORDS]>(*info) };
        let memory = self.infos.words(slot as usize * INFO_WORDS, INFO_WORDS)?;
        for index in (0..INFO_WORDS).filter(|index| *index != STATE_WORD) {
            memory[index].store(words[index], Ordering::Relaxed);
        }
        memory[STATE_WORD].store(words[STATE_WORD], Ordering::Release);
        Ok(())
    }

    /// What all CPUs together ever counted in a slot, and the interfaces of the last packets: those the kernel side writes for
    /// all CPUs alike, whenever they change.
    fn counts(&mut self, slot: u32) -> io::Result<(Counts, [u32; 2])> {
        let (mut sums, mut interfaces) = ([0u64; 2 * COUNTS], [0; 2]);
        for cpu in 0..self.shape.cpus {
            let counters = self.counters(slot, cpu)?.chunks_exact(COUNTER_WORDS);
            for ((counter, sums), interface) in counters.zip(sums.chunks_exact_mut(COUNTS)).zip(&mut interfaces) {
                for (sum, word) in sums.iter_mut().zip(counter) {
                    *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
                }
                if cpu == 0 {
                    *interface = counter[INTERFACE_WORD].load(Ordering::Relaxed) as u32;
                }
            }
        }
        Ok((sums, interfaces))
    }

    /// What a CPU counts of a slot: [`COUNTER_WORDS`] for each direction.
    fn counters(&mut self, slot: u32, cpu: u32) -> io::Result<&[std::sync::atomic::AtomicU64]> {
        let index = subflow_counter_index(slot, self.shape.slots, cpu) as usize;
        self.counters.words(index * 2 * COUNTER_WORDS, 2 * COUNTER_WORDS)
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which is what `bpf_ktime_get_ns` reads.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a whole `timespec` that outlives the call; this clock cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
