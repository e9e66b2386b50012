//! Reading ten thousand counters out of the kernel.

use std::hint::black_box;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Result, ensure};
use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction};

use crate::Options;
use crate::measure::{cpu_time, interleave, median, pairs};
use crate::program::load_agent;
use crate::report::{Row, Section};

/// Slots that hold ten thousand counters: two directions, fifteen classes.
const SLOTS: u16 = 334;
const COUNTERS: u32 = SLOTS as u32 * 2 * Class::ALL.len() as u32;
/// In milliseconds.
const GOAL: f64 = 1.0;

/// `cargo xtask bench read`
pub fn run(options: &Options) -> Result<Vec<Section>> {
    let mut kernel = load_agent(&[])?;
    kernel.counters.reach(SLOTS)?;
    let hash = HashMap::filled(COUNTERS)?;
    ensure!(hash.one_by_one()? == COUNTERS as usize && hash.in_batches()? == COUNTERS as usize, "not all were read");
    let subjects: [&dyn Fn() -> io::Result<usize>; 3] = [
        &|| {
            let slots = 1..=SLOTS;
            let both = slots.flat_map(|slot| Direction::ALL.map(|direction| (slot, direction)));
            Ok(both.map(|(slot, direction)| black_box(kernel.counters.sum(slot, direction)).len()).sum())
        },
        &|| hash.one_by_one(),
        &|| hash.in_batches(),
    ];
    let times = interleave(options.rounds, subjects.len(), |_, subject| {
        let (time, read) = cpu_time(subjects[subject]);
        black_box(read?);
        io::Result::Ok(time.as_secs_f64() * 1e3)
    })?;
    let row = |case, index: usize| {
        Row::new(case, median(&times[index])).ratio(median(&pairs(&times[index], &times[0], |time, ours| time / ours)))
    };
    Ok(vec![Section {
        bench: "read",
        title: format!("Reading {COUNTERS} counters"),
        method:
            "CPU time to read them all once: ours from the memory-mapped array, summed over the CPUs; beside them as \
                 many values of a hash map."
                .into(),
        unit: "ms",
        against: "ours",
        rows: vec![
            row("memory-mapped array (ours)", 0).at_most(GOAL),
            row("hash map, GET_NEXT_KEY and LOOKUP_ELEM", 1),
            row("hash map, LOOKUP_BATCH", 2),
        ],
    }])
}

/// A hash map of counters, by number.
struct HashMap(OwnedFd);

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_TYPE_HASH: u32 = 1;
/// Entries that one LOOKUP_BATCH asks for.
const BATCH: usize = 4096;

/// `union bpf_attr` as the calls for one element read it.
#[repr(C)]
struct Element {
    map: u64,
    key: u64,
    /// The value; of GET_NEXT_KEY, the next key.
    value: u64,
    flags: u64,
}

/// `union bpf_attr` as BPF_MAP_LOOKUP_BATCH reads and writes it.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl HashMap {
    fn filled(entries: u32) -> io::Result<HashMap> {
        let create = [BPF_MAP_TYPE_HASH, 4, size_of::<Counter>() as u32, entries, 0];
        // SAFETY: a map's attributes hold no pointers.
        let fd = unsafe { bpf(BPF_MAP_CREATE, &create) }?;
        // SAFETY: on success the kernel returns a new descriptor that nobody else owns.
        let map = HashMap(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        for key in 0..entries {
            let value = Counter { packets: u64::from(key), bytes: 1, l3_bytes: 1 };
            // SAFETY: key and value are as large as the map's.
            unsafe { bpf(BPF_MAP_UPDATE_ELEM, &map.element(&raw const key, (&raw const value).cast_mut()))? };
        }
        Ok(map)
    }

    fn element<V>(&self, key: *const u32, value: *mut V) -> Element {
        Element { map: self.0.as_raw_fd() as u64, key: key as u64, value: value as u64, flags: 0 }
    }

    fn one_by_one(&self) -> io::Result<usize> {
        let (mut key, mut value, mut read) = (None::<u32>, Counter::default(), 0);
        loop {
            let last = key.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            let mut next = 0u32;
            // SAFETY: `next` is as large as a key; the last key is one, or null for none.
            match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &self.element(last, &raw mut next)) } {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(read),
                result => result?,
            };
            // SAFETY: key and value are as large as the map's.
            unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &self.element(&raw const next, &raw mut value))? };
            black_box(value);
            key = Some(next);
            read += 1;
        }
    }

    fn in_batches(&self) -> io::Result<usize> {
        let (mut keys, mut values) = (vec![0u32; BATCH], vec![Counter::default(); BATCH]);
        let (mut position, mut started, mut read) = (0u32, false, 0);
        loop {
            let mut batch = Batch {
                from: if started { &raw const position as u64 } else { 0 },
                to: &raw mut position as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: BATCH as u32,
                map: self.0.as_raw_fd() as u32,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: keys and values have room for as many as `count` says, and a hash map's position takes four bytes.
            // The kernel writes `count`.
            let result = unsafe { bpf_mut(BPF_MAP_LOOKUP_BATCH, &mut batch) };
            read += batch.count as usize;
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(read),
                result => result?,
            };
            started = true;
        }
    }
}

/// bpf(2).
///
/// # Safety
/// What the attributes point to must be as the command wants it.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the pointer and the length describe `attributes`; the rest is the caller's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// bpf(2), for commands that write into the attributes.
///
/// # Safety
/// As for [`bpf`].
unsafe fn bpf_mut<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: as in `bpf`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
