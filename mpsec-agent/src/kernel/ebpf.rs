//! Loading the eBPF object that is embedded in the agent.

mod ipsec;
mod offsets;

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, ProgramError, SchedClassifier, SockOps};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use mpsec_common::maps::{
    Event, InterfaceSlot, LAYOUT_SYMBOL, MAP_COUNTERS, MAP_EVENTS, MAP_HANDSHAKES, MAP_INTERFACES, MAP_IPSEC_IN_USE,
    MAP_POLICIES, MAP_SUBFLOW_COUNTERS, MAP_SUBFLOW_FREE, MAP_SUBFLOW_TAGS, MAP_SUBFLOWS, MAP_TIMEOUTS, PROGRAM_EGRESS,
    PROGRAM_INGRESS, PROGRAM_PORTS, PROGRAM_SOCKOPS, WIREGUARD_PORTS,
};
use mpsec_common::mptcp::{HANDSHAKES, free, sets_for, slots_for};
use mpsec_common::packet::port_filter;
use mpsec_common::{Direction, LAYOUT_VERSION};

use crate::snapshot::{Probe, Program};

use super::btf::{BtfError, KernelBtf};
use super::cgroup;
use super::counters::Counters;
use super::features::syscall::load_by_aya;
use super::policy::{Policies, Timeouts};
use super::probes::{self, Probes, Ways};
use super::sockets_iter::{self, SocketsIter};
use super::subflows::{self, Maps, Shape, Subflows};
use ipsec::Ipsec;
use offsets::Offsets;

/// The object, as `cargo xtask ebpf` built it.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../mpsec-ebpf/prebuilt/mpsec.bpf.o"));
/// SHA-256 of [`OBJECT`], in hexadecimal.
pub static OBJECT_SHA256: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../mpsec-ebpf/prebuilt/mpsec.bpf.o.sha256")).split_at(64).0;

/// Why the kernel side could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not.
    #[error(
        "loading eBPF programs is not permitted: run mpsec as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted(#[source] io::Error),
    /// The running kernel's type information cannot be read.
    #[error("MPSec needs a kernel built with CONFIG_DEBUG_INFO_BTF, and /sys mounted")]
    NoBtf(#[source] BtfError),
    /// The verifier refused a program.
    #[error("the kernel refused the program {program}: {error}{}", log(verifier_log))]
    Refused {
        /// Name of the program.
        program: &'static str,
        /// The error of the system call.
        error: io::Error,
        /// What the verifier says.
        verifier_log: String,
    },
    /// Anything else.
    #[error("cannot load the eBPF object: {0:#}")]
    Other(anyhow::Error),
}

fn log(verifier_log: &str) -> String {
    match verifier_log.trim() {
        "" => String::new(),
        text => format!("\n{text}"),
    }
}

/// What is set when the object is loaded.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interfaces that can have counters of their own.
    pub max_interfaces: u32,
    /// UDP ports of WireGuard; 0 for none.
    pub wireguard_ports: [u16; WIREGUARD_PORTS],
    /// MPTCP subflows that can be counted at once, rounded up to a power of two; 0 to count none. Each takes 152 bytes of
    /// the kernel's memory, and 128 more for every CPU.
    pub max_subflows: u32,
    /// The network namespace whose subflows are counted, as [`cgroup::netns_cookie`] tells it; 0 for those of all.
    pub netns_cookie: u64,
    /// Which ways into the kernel the probes may take; they need [`Settings::max_subflows`].
    pub probes: Ways,
    /// How much the programs log: 0 nothing, 1 errors, up to 5, traces. What is not logged is not in the loaded program.
    pub log_level: u8,
}

/// The loaded programs and maps.
pub struct Kernel {
    programs: [OwnedFd; 2],
    cpus: u32,
    log: Option<KernelLog>,
    /// The counters.
    pub counters: Counters,
    interfaces: Array<MapData, Slot>,
    events: PerCpuArray<MapData, u64>,
    ipsec: Ipsec,
    capacities: Vec<MapCapacity>,
    /// The MPTCP subflows, or why they are not counted.
    pub subflows: Result<Subflows, String>,
    /// The list of sockets that a program makes, or why there is none.
    pub sockets: Result<SocketsIter, String>,
    /// The probes of the kernel's functions.
    pub probes: Probes,
    /// What is set on subflows by their local address.
    pub policies: Policies,
    /// Reports of subflows that hear nothing; `None` once they were taken.
    pub timeouts: Option<Timeouts>,
    /// Keeps the program on the sockets attached.
    _sockets: Option<FdLink>,
}

/// Entries that a map has room for.
#[derive(Clone, Debug)]
pub struct MapCapacity {
    /// Name of the map.
    pub name: &'static str,
    /// Room for so many entries.
    pub entries: u32,
}

/// The log records of the programs, on their way to the agent's own log.
pub struct KernelLog(EbpfLogger<&'static dyn log::Log>);

impl KernelLog {
    /// Hands records on, on a thread of its own: whoever sends packets that are worth a record can send more than can be
    /// written, and nothing else is to wait for it.
    pub fn follow(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let follow = move || {
            if let Err(error) = runtime.block_on(self.hand_on()) {
                tracing::error!(%error, "the log of the eBPF programs has ended");
            }
        };
        std::thread::Builder::new().name("kernel-log".into()).spawn(follow).map(drop)
    }

    async fn hand_on(self) -> io::Result<()> {
        // SAFETY: the logger owns its descriptor and keeps it until it is dropped, after the registration.
        let mut logger = unsafe { tokio::io::unix::AsyncFd::register(self.0) }?;
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}

/// Keeps the kernel's accounting of the run time of programs on, for all programs of the host, until it is dropped.
/// It costs every run of a program a pair of time stamps.
pub struct KernelStats {
    _descriptor: OwnedFd,
}

impl KernelStats {
    /// Turns the accounting on (Linux 5.8).
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN.
    pub fn enable() -> io::Result<KernelStats> {
        let descriptor = aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| error.io_error)?;
        Ok(KernelStats { _descriptor: descriptor })
    }
}

/// [`InterfaceSlot`], so that it may be written to a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Slot(InterfaceSlot);
// SAFETY: `InterfaceSlot` is `mpsec_common::Pod`, which promises the same.
unsafe impl aya::Pod for Slot {}

const PROGRAMS: [&str; 2] = [PROGRAM_INGRESS, PROGRAM_EGRESS];

impl Kernel {
    /// Loads the object into the kernel. Nothing is attached to interfaces yet. If sockets cannot be followed, subflows are
    /// not counted, and [`Kernel::subflows`] says why.
    pub fn load(settings: &Settings) -> Result<Kernel, LoadError> {
        let kernel = Self::load_once(settings)?;
        let reason = match kernel.subflows {
            Err(reason) if settings.max_subflows > 0 => reason,
            subflows => return Ok(Kernel { subflows, ..kernel }),
        };
        // The programs that look subflows up are of no use then.
        drop((kernel.programs, kernel.counters, kernel.probes));
        let without = Self::load_once(&Settings { max_subflows: 0, ..settings.clone() })?;
        Ok(Kernel { probes: Probes::none(&reason), subflows: Err(reason), ..without })
    }

    fn load_once(settings: &Settings) -> Result<Kernel, LoadError> {
        let btf = KernelBtf::load().map_err(LoadError::NoBtf)?;
        let offsets = Offsets::resolve(&btf);
        let cpus = super::possible_cpus().map_err(other)?;
        let slots = settings.max_interfaces + 1;
        let counter_entries = slots * cpus * 2;
        let port_filter = port_filter(&settings.wireguard_ports);
        let subflows = SubflowGlobals::new(settings, cpus, &btf);
        let xfrm_state = u32::from(ipsec::can_ask());
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .map_max_entries(MAP_COUNTERS, counter_entries)
            .override_global(LAYOUT_SYMBOL, &LAYOUT_VERSION, true)
            .override_global("WIREGUARD", &settings.wireguard_ports, true)
            .override_global("PORT_FILTER", &port_filter, true)
            .override_global("XFRM_STATE", &xfrm_state, true);
        for (name, value) in offsets.globals() {
            loader.override_global(name, value, true);
        }
        subflows.set(&mut loader);
        let list = sockets_iter::Ready::find(&btf);
        for (name, value) in list.iter().flat_map(|list| list.offsets.globals()) {
            loader.override_global(name, value, true);
        }
        loader.override_global(aya_log::LEVEL, &settings.log_level, true);
        let mut object = loader.load(OBJECT).map_err(|error| not_permitted_or(error.into()))?;
        let log = (settings.log_level > 0).then(|| EbpfLogger::init(&mut object)).transpose().map_err(other)?;
        let programs = [load(&mut object, PROGRAM_INGRESS)?, load(&mut object, PROGRAM_EGRESS)?];
        let counters = array(&mut object, MAP_COUNTERS)?;
        let list = list.and_then(|list| list.load(&mut object).map_err(|error| format!("{error:#}")));
        let mut capacities = vec![
            MapCapacity { name: MAP_COUNTERS, entries: counter_entries },
            MapCapacity { name: MAP_INTERFACES, entries: mpsec_common::maps::INTERFACE_ENTRIES },
            MapCapacity { name: MAP_EVENTS, entries: Event::ALL.len() as u32 },
        ];
        let sockets = subflows.on().and_then(|()| follow_sockets(&mut object).map_err(|error| format!("{error:#}")));
        if sockets.is_ok() {
            capacities.push(MapCapacity { name: MAP_SUBFLOWS, entries: subflows.shape.slots });
        }
        let probes = match (&sockets, &subflows.probe_offsets) {
            (Ok(_), Ok(_)) => Probes::attach(&mut object, &btf, settings.probes),
            (Err(reason), _) | (_, Err(reason)) => Probes::none(reason),
        };
        let (subflows, sockets) = match sockets {
            Ok(link) => (Ok(Subflows::new(subflow_maps(&mut object)?, subflows.shape)), Some(link)),
            Err(reason) => (Err(reason), None),
        };
        Ok(Kernel {
            programs,
            cpus,
            log: log.map(KernelLog),
            counters: Counters::new(counters, cpus, slots).map_err(other)?,
            interfaces: take(&mut object, MAP_INTERFACES)?.try_into().map_err(other)?,
            events: take(&mut object, MAP_EVENTS)?.try_into().map_err(other)?,
            ipsec: Ipsec::new(take(&mut object, MAP_IPSEC_IN_USE)?, xfrm_state != 0).map_err(other)?,
            capacities,
            policies: Policies::new(take(&mut object, MAP_POLICIES)?).map_err(other)?,
            timeouts: Some(Timeouts::new(take(&mut object, MAP_TIMEOUTS)?).map_err(other)?),
            subflows,
            sockets: list,
            probes,
            _sockets: sockets,
        })
    }

    /// The program for a direction.
    pub fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        self.programs[direction as usize].as_fd()
    }

    /// Has the programs ask for what was decrypted as soon as this network namespace has an IPsec state.
    pub fn look_for_ipsec(&mut self) {
        self.ipsec.look();
    }

    /// What the programs log, if they were told to.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }

    /// Writes an entry of the interface table.
    pub fn set_interface(&mut self, entry: u32, slot: InterfaceSlot) -> Result<(), aya::maps::MapError> {
        self.interfaces.set(entry, Slot(slot), 0)
    }

    /// How often each event happened, on all CPUs together.
    pub fn events(&self) -> Result<Vec<(Event, u64)>, aya::maps::MapError> {
        let sum = |event: Event| Ok((event, self.events.get(&(event as u32), 0)?.iter().sum()));
        Event::ALL.into_iter().map(sum).collect()
    }

    /// Room in the maps.
    pub fn capacities(&self) -> &[MapCapacity] {
        &self.capacities
    }

    /// Entries of the counters' map that one slot takes.
    pub fn counter_entries_per_slot(&self) -> u64 {
        2 * u64::from(self.cpus)
    }

    /// Run time and runs of each program.
    pub fn program_stats(&self) -> io::Result<Vec<Program>> {
        PROGRAMS.iter().zip(&self.programs).map(|(name, program)| stats(name, program.as_fd())).collect()
    }
}

/// The way in that each probe would take here: they are attached, and detached at once. Nothing is counted meanwhile.
pub fn try_probes() -> Vec<Probe> {
    let settings = Settings {
        max_interfaces: 1,
        wireguard_ports: [0; WIREGUARD_PORTS],
        max_subflows: 1,
        // No namespace has this cookie.
        netns_cookie: u64::MAX,
        probes: Ways::Any,
        log_level: 0,
    };
    match Kernel::load(&settings) {
        Ok(kernel) => kernel.probes.states().to_vec(),
        Err(error) => Probes::none(&error.to_string()).states().to_vec(),
    }
}

fn stats(name: &'static str, program: BorrowedFd<'_>) -> io::Result<Program> {
    let [nanoseconds, runs] = told_of(program, &["run_time_ns:", "run_cnt:"])?;
    Ok(Program { name, run_time_seconds: nanoseconds as f64 / 1e9, runs })
}

/// Numbers that the kernel tells of a program through its descriptor (bpf_prog_show_fdinfo, kernel/bpf/syscall.c).
pub(super) fn told_of<const N: usize>(program: BorrowedFd<'_>, keys: &[&str; N]) -> io::Result<[u64; N]> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let mut numbers = [0; N];
    for (number, key) in numbers.iter_mut().zip(keys) {
        let told = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        *number = told.ok_or_else(|| io::Error::other(format!("the kernel does not tell a program's {key}")))?;
    }
    Ok(numbers)
}

fn other(error: impl Into<anyhow::Error>) -> LoadError {
    LoadError::Other(error.into())
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    object.take_map(name).ok_or_else(|| other(anyhow::anyhow!("the object has no map {name}")))
}

/// The descriptor of an array.
fn array(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    match take(object, name)? {
        Map::Array(map) => map.fd().as_fd().try_clone_to_owned().map_err(other),
        _ => Err(other(anyhow::anyhow!("{name} is not an array"))),
    }
}

fn subflow_maps(object: &mut Ebpf) -> Result<Maps, LoadError> {
    Ok(Maps {
        tags: array(object, MAP_SUBFLOW_TAGS)?,
        free: array(object, MAP_SUBFLOW_FREE)?,
        infos: array(object, MAP_SUBFLOWS)?,
        counters: array(object, MAP_SUBFLOW_COUNTERS)?,
        ports: load(object, PROGRAM_PORTS)?,
    })
}

/// Has every socket of the host tell of what happens to it. Others may be on the same hook: a link lets them
/// (cgroup_bpf_link_attach, kernel/bpf/cgroup.c, 5.7 to 6.18).
fn follow_sockets(object: &mut Ebpf) -> anyhow::Result<FdLink> {
    use anyhow::Context as _;
    let root = cgroup::open_root().context("cannot open the root of cgroup v2")?;
    let program = object.program_mut(PROGRAM_SOCKOPS).context("the object has no program for sockets")?;
    let program: &mut SockOps = program.try_into()?;
    load_by_aya(|| program.load()).context("the kernel refused the program for sockets")?;
    let link = program.attach(root, CgroupAttachMode::Single).context("cannot follow sockets")?;
    Ok(program.take_link(link)?.try_into()?)
}

/// What the kernel side is told for the sake of subflows.
struct SubflowGlobals {
    shape: Shape,
    offsets: Result<subflows::Offsets, String>,
    probe_offsets: Result<probes::Offsets, String>,
    on: u32,
    set_mask: u32,
    netns_cookie: u64,
}

impl SubflowGlobals {
    fn new(settings: &Settings, cpus: u32, btf: &KernelBtf) -> SubflowGlobals {
        let offsets = match settings.max_subflows {
            0 => Err("counting subflows is turned off".to_owned()),
            _ => subflows::Offsets::resolve(btf).map_err(|error| format!("this kernel has no MPTCP: {error}")),
        };
        let slots = slots_for(if offsets.is_ok() { settings.max_subflows } else { 0 });
        SubflowGlobals {
            shape: Shape { slots, cpus, seed: seed() },
            on: u32::from(offsets.is_ok()),
            offsets,
            probe_offsets: probes::Offsets::resolve(btf).map_err(|error| error.to_string()),
            set_mask: sets_for(slots) - 1,
            netns_cookie: settings.netns_cookie,
        }
    }

    /// The reason for which subflows are not counted, if they are not.
    fn on(&self) -> Result<(), String> {
        self.offsets.as_ref().map(drop).map_err(Clone::clone)
    }

    fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let Shape { slots, cpus, seed } = &self.shape;
        loader
            .map_max_entries(MAP_SUBFLOW_TAGS, sets_for(*slots))
            .map_max_entries(MAP_SUBFLOW_FREE, slots + free::BEFORE)
            .map_max_entries(MAP_SUBFLOWS, *slots)
            .map_max_entries(MAP_SUBFLOW_COUNTERS, slots * cpus)
            .map_max_entries(MAP_HANDSHAKES, HANDSHAKES.min(*slots))
            .override_global("SUBFLOWS_ON", &self.on, true)
            .override_global("SUBFLOW_SEED", seed, true)
            .override_global("SUBFLOW_SET_MASK", &self.set_mask, true)
            .override_global("SUBFLOW_SLOTS", slots, true)
            .override_global("CPUS", cpus, true)
            .override_global("NETNS_COOKIE", &self.netns_cookie, true);
        for (name, place) in self.offsets.iter().flat_map(subflows::Offsets::globals) {
            loader.override_global(name, place, true);
        }
        let Ok(offsets) = &self.probe_offsets else { return };
        for (name, place) in offsets.globals() {
            loader.override_global(name, place, true);
        }
        for (name, switch) in offsets.switches() {
            loader.override_global(name, switch, true);
        }
        let (name, registers) = probes::Offsets::registers();
        loader.override_global(name, registers, true);
    }
}

/// A number that nobody else can guess, so that nobody can make up addresses and ports that fall into the same set.
fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

/// [`LoadError::NotPermitted`] if that is what lies at the bottom of it.
fn not_permitted_or(error: anyhow::Error) -> LoadError {
    let denied = error.chain().find_map(|cause| {
        let cause = cause.downcast_ref::<io::Error>()?;
        matches!(cause.raw_os_error(), Some(libc::EPERM | libc::EACCES)).then(|| cause.raw_os_error())?
    });
    match denied {
        Some(errno) => LoadError::NotPermitted(io::Error::from_raw_os_error(errno)),
        None => LoadError::Other(error),
    }
}

fn load(object: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program = object.program_mut(name).ok_or_else(|| other(anyhow::anyhow!("the object has no program {name}")))?;
    let program: &mut SchedClassifier = program.try_into().map_err(other)?;
    match load_by_aya(|| program.load()) {
        Ok(()) => {}
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            return Err(refused(name, io_error, verifier_log.to_string()));
        }
        Err(error) => return Err(not_permitted_or(error.into())),
    }
    let fd = program.fd().map_err(other)?;
    fd.as_fd().try_clone_to_owned().map_err(other)
}

/// The verifier explains itself; an `EPERM` without a word comes from the permission check. Without CAP_PERFMON the verifier
/// refuses what it lets others do, such as arithmetic on pointers, and calls the program bad.
fn refused(program: &'static str, error: io::Error, verifier_log: String) -> LoadError {
    let unchecked = error.raw_os_error() == Some(libc::EPERM) && verifier_log.trim().is_empty();
    if unchecked || !may_trace() {
        return LoadError::NotPermitted(error);
    }
    LoadError::Refused { program, error, verifier_log }
}

/// Whether this process has CAP_PERFMON, or CAP_SYS_ADMIN in its stead. If it cannot be told, it is taken to have.
fn may_trace() -> bool {
    const CAPABILITIES: u64 = 1 << 38 | 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    effective.is_none_or(|effective| effective & CAPABILITIES != 0)
}
