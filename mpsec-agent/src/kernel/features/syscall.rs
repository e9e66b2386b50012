//! The few calls of bpf(2) that the probes need and aya does not offer.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use aya::programs::ProgramError;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};

/// `r0 = 0; exit`: the same bytes on every machine.
const INSTRUCTIONS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// Interface numbers are positive `int`s, and the kernel hands them out from 1.
const NO_INTERFACE: u32 = i32::MAX.cast_unsigned();

/// Why a program was not loaded.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: io::Error,
    /// What the verifier had to say; empty where the program never came so far.
    pub(super) log: String,
}

/// Loads a program that does nothing.
pub(super) fn load(kind: bpf_prog_type, attach: Option<bpf_attach_type>, btf_id: u32) -> Result<OwnedFd, Refused> {
    let mut log = vec![0_u8; 4096];
    let mut attr = empty();
    // SAFETY: `attr` is all zeroes, which every member of the union accepts.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = kind as u32;
    program.insns = INSTRUCTIONS.as_ptr() as u64;
    program.insn_cnt = INSTRUCTIONS.len() as u32;
    program.license = c"GPL".as_ptr() as u64;
    program.expected_attach_type = attach.map_or(0, |attach| attach as u32);
    program.attach_btf_id = btf_id;
    (program.log_buf, program.log_size, program.log_level) = (log.as_mut_ptr() as u64, log.len() as u32, 1);
    // SAFETY: instructions, license and log outlive the call, and their lengths are those given.
    let loaded =
        load_despite_signals(|| unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }, io::Error::raw_os_error);
    loaded.map_err(|error| {
        let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
        Refused { error, log: log.trim().to_owned() }
    })
}

/// Makes a map of one or, where its kind wants pages, a few entries.
pub(super) fn map(kind: bpf_map_type, flags: u32) -> io::Result<OwnedFd> {
    let ring = kind == bpf_map_type::BPF_MAP_TYPE_RINGBUF;
    let mut attr = empty();
    // SAFETY: `attr` is all zeroes, which every member of the union accepts.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = kind as u32;
    (map.key_size, map.value_size) = if ring { (0, 0) } else { (4, 8) };
    // A ring buffer takes a power of two of at least a page, and no machine has larger pages.
    map.max_entries = if ring { 1 << 16 } else { 1 };
    map.map_flags = flags;
    // SAFETY: a map's attributes hold no pointers.
    unsafe { call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr) }
}

/// Reads an array with one call.
pub(super) fn lookup_batch(map: &OwnedFd) -> io::Result<()> {
    let (mut keys, mut values, mut next) = ([0_u32; 1], [0_u64; 1], 0_u32);
    let mut attr = empty();
    // SAFETY: `attr` is all zeroes, which every member of the union accepts.
    let batch = unsafe { &mut attr.batch };
    (batch.keys, batch.values) = (keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64);
    (batch.out_batch, batch.count) = ((&raw mut next) as u64, 1);
    batch.map_fd = map.as_raw_fd().cast_unsigned();
    // SAFETY: keys, values and the position have room for the one entry that is asked for, and outlive the call.
    match unsafe { call(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        // ENOENT says that the end was reached, which is where one entry leads.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
        _ => Ok(()),
    }
}

/// Tries to attach by TCX to an interface that cannot exist; the error tells whether the kernel would.
pub(super) fn tcx(program: &OwnedFd) -> io::Error {
    link(program.as_raw_fd(), bpf_attach_type::BPF_TCX_INGRESS)
}

/// Tries to make a link of no program; the error tells whether the kernel has links.
pub(super) fn link_of_nothing() -> io::Error {
    link(-1, bpf_attach_type::BPF_CGROUP_SOCK_OPS)
}

fn link(program: i32, attach: bpf_attach_type) -> io::Error {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = program.cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_ifindex = NO_INTERFACE;
    attr.link_create.attach_type = attach as u32;
    // SAFETY: a link's attributes hold no pointers.
    match unsafe { call_for_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr) } {
        Ok(_) => io::Error::other("the kernel attached to an interface that does not exist"),
        Err(error) => error,
    }
}

/// Turns the accounting of run times on until the descriptor is closed.
pub(super) fn enable_stats() -> io::Result<OwnedFd> {
    // All zeroes is BPF_STATS_RUN_TIME.
    // SAFETY: these attributes hold no pointers.
    unsafe { call_for_fd(bpf_cmd::BPF_ENABLE_STATS, &mut empty()) }
}

/// All zeroes.
pub(in crate::kernel) fn empty() -> bpf_attr {
    // SAFETY: bpf_attr is a C union of integers and structures of integers, for all of which zeroes are a value.
    unsafe { mem::zeroed() }
}

/// How often a program is loaded again that a signal kept from being loaded. A signal is pending once; the few that come
/// one after the other are those of children that end at once, or of whoever stops the process and lets it go on.
const LOAD_ATTEMPTS: usize = 20;

/// Loads a program, and again where a signal was pending: the verifier, which may take long, breaks off then with `EAGAIN`
/// (do_check, kernel/bpf/verifier.c, 5.0 to 6.18).
///
/// # Errors
/// Those of `load`, of which `errno` tells the number.
pub(in crate::kernel) fn load_despite_signals<T, E>(
    mut load: impl FnMut() -> Result<T, E>,
    errno: impl Fn(&E) -> Option<i32>,
) -> Result<T, E> {
    let is_broken_off = |result: &Result<T, E>| result.as_ref().err().and_then(&errno) == Some(libc::EAGAIN);
    let mut result = load();
    for _ in 1..LOAD_ATTEMPTS {
        if !is_broken_off(&result) {
            break;
        }
        result = load();
    }
    result
}

/// Loads a program with `load`, which is one of aya's, despite signals.
pub(in crate::kernel) fn load_by_aya(load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    load_despite_signals(load, |error| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        _ => None,
    })
}

/// Calls bpf(2) with a command that makes something.
///
/// # Safety
/// What `attr` points to must be valid for what `command` does with it; `command` must return a descriptor.
pub(in crate::kernel) unsafe fn call_for_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for `attr`.
    let fd = unsafe { call(command, attr) }?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::other("no descriptor"))?;
    // SAFETY: the kernel just returned it, so that it is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls bpf(2).
///
/// # Safety
/// What `attr` points to must be valid for what `command` does with it.
pub(in crate::kernel) unsafe fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live bpf_attr of the size that is given, and the caller vouches for its pointers.
    match unsafe { libc::syscall(libc::SYS_bpf, command as u32, &raw mut *attr, size_of::<bpf_attr>()) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
