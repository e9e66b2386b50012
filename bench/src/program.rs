//! The programs under test: the agent's own, loaded as the agent loads them, and the anchors.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, PerCpuArray, PerCpuValues};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use mpsec_agent::kernel::cgroup;
use mpsec_agent::kernel::ebpf::{Kernel, Settings};
use mpsec_common::maps::{InterfaceSlot, interface_flags, slot_index};
use mpsec_common::{Class, Direction, Link};

use crate::measure::thread_cpu;

/// What `cargo xtask ebpf` made of mpsec-ebpf/src/anchors.rs.
static ANCHORS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../mpsec-ebpf/prebuilt/anchors.bpf.o"));

/// The slot that every interface of a measurement has.
const SLOT: u16 = 1;

/// Room for MPTCP subflows, unless a measurement says otherwise.
const SUBFLOWS: u32 = 32_768;

/// Loads the agent's programs, with the agent's own defaults, and tells them of interfaces.
pub fn load_agent(ifindexes: &[u32]) -> Result<Kernel> {
    load_agent_for(ifindexes, SUBFLOWS)
}

/// [`load_agent`] with room for so many subflows; 0 to count none.
pub fn load_agent_for(ifindexes: &[u32], max_subflows: u32) -> Result<Kernel> {
    let settings = Settings {
        max_interfaces: 1024,
        wireguard_ports: [51820, 0, 0, 0],
        max_subflows,
        netns_cookie: cgroup::netns_cookie()?,
        probes: mpsec_agent::kernel::probes::Ways::None,
        log_level: 0,
    };
    let mut kernel = Kernel::load(&settings)?;
    kernel.counters.reach(SLOT)?;
    for &ifindex in ifindexes {
        let slot = InterfaceSlot {
            ifindex,
            first_counter: kernel.counters.first(SLOT),
            link: Link::Ethernet as u8,
            uncounted: [0; 2],
            flags: interface_flags::COUNTS_SUBFLOWS,
        };
        kernel.set_interface(slot_index(ifindex, 0), slot)?;
    }
    Ok(kernel)
}

/// Packets of a class that the agent's programs have counted.
pub fn counted(kernel: &Kernel, direction: Direction, class: Class) -> u64 {
    kernel.counters.sum(SLOT, direction)[class as usize].packets
}

/// The loaded anchors.
pub struct Anchors {
    empty: OwnedFd,
    percpu: OwnedFd,
    hash: OwnedFd,
    /// Keeps the maps.
    _object: Ebpf,
}

impl Anchors {
    /// Loads them.
    pub fn load() -> Result<Anchors> {
        let mut object = EbpfLoader::new().load(ANCHORS)?;
        let mut load = |name: &str| -> Result<OwnedFd> {
            let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        };
        let (empty, percpu, hash) = (load("anchor_empty")?, load("anchor_percpu")?, load("anchor_hash")?);
        Ok(Anchors { empty, percpu, hash, _object: object })
    }

    /// The program that does nothing.
    pub fn empty(&self) -> BorrowedFd<'_> {
        self.empty.as_fd()
    }

    /// The program that counts everything in one place a CPU.
    pub fn percpu(&self) -> BorrowedFd<'_> {
        self.percpu.as_fd()
    }

    /// The program that keeps a hash map of flows.
    pub fn hash(&self) -> BorrowedFd<'_> {
        self.hash.as_fd()
    }
}

/// A walk over many flows in front of a program: each run of it makes the frame the next flow's next segment.
pub struct Walk {
    program: OwnedFd,
    /// Keeps the maps.
    _object: Ebpf,
}

/// What the walk's program keeps of it, on each CPU.
#[derive(Clone, Copy)]
#[repr(C)]
struct WalkState {
    flows: u32,
    next: u32,
    sequence: u32,
    payload: u32,
}
// SAFETY: four integers without padding.
unsafe impl aya::Pod for WalkState {}

impl Walk {
    /// Loads one in front of `then`, for segments of `payload` bytes.
    pub fn load(then: BorrowedFd<'_>, flows: u32, payload: u32) -> Result<Walk> {
        let mut object = EbpfLoader::new().load(ANCHORS)?;
        let program: &mut SchedClassifier = object.program_mut("walk_flows").context("no program")?.try_into()?;
        program.load()?;
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        let Some(Map::ProgramArray(next)) = object.map("NEXT") else { bail!("no map NEXT") };
        set_program(next.fd().as_fd(), then)?;
        let cpus = mpsec_agent::kernel::possible_cpus()?;
        let state = WalkState { flows, next: 0, sequence: 1, payload };
        let mut walk: PerCpuArray<_, WalkState> = object.map_mut("WALK").context("no map WALK")?.try_into()?;
        walk.set(0, PerCpuValues::try_from(vec![state; cpus as usize])?, 0)?;
        Ok(Walk { program, _object: object })
    }

    /// The program.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The address, in the frame's own order, and the port that a walk gives a flow.
pub fn walked(flow: u32) -> ([u8; 4], u16) {
    let [high, low] = ((flow >> 13) as u16).to_be_bytes();
    ([10, 77, high, low], 1024 + (flow & 0x1fff) as u16)
}

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// Puts a program into the only entry of an array of programs.
fn set_program(map: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// `union bpf_attr` as BPF_MAP_UPDATE_ELEM reads it (include/uapi/linux/bpf.h, 6.18).
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let (key, value) = (0u32, program.as_raw_fd());
    let update = Update {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: the pointer and the length describe `update`, which like the key and the value outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const update, size_of::<Update>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// `union bpf_attr` as BPF_PROG_TEST_RUN reads it (include/uapi/linux/bpf.h, 6.18).
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// Runs a TC program on a frame, as often as asked, in one system call; returns the CPU time that the call took.
pub fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<Duration> {
    let attributes = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    let start = thread_cpu();
    // SAFETY: the pointer and the length describe `attributes`, which like `frame` outlives the call; the frame is only
    // read, and no output is asked for.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw const attributes, size_of::<TestRun>() as libc::c_uint)
    };
    let time = thread_cpu() - start;
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(time) }
}

/// How often the kernel says that a program has run: it counts only while it keeps the run time of programs.
pub fn runs(program: BorrowedFd<'_>) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let runs = text.lines().find_map(|line| line.strip_prefix("run_cnt:")?.trim().parse().ok());
    Ok(runs.unwrap_or(0))
}

/// Proves that the agent's program takes a frame for what it is, on the way that is measured.
pub fn prove(kernel: &Kernel, direction: Direction, frame: &[u8], class: Class) -> Result<()> {
    let before = counted(kernel, direction, class);
    run(kernel.program(direction), frame, 7)?;
    let risen = counted(kernel, direction, class) - before;
    ensure!(risen == 7, "of 7 frames {risen} were counted as {} {}", class.name(), direction.name());
    Ok(())
}
