//! TCX: attaching to an interface through a BPF link, which the kernel undoes when its descriptor is closed.
//!
//! By interface index, so that a rename between being told of an interface and attaching to it does no harm. Source:
//! include/uapi/linux/bpf.h and kernel/bpf/tcx.c, 6.6 to 6.18.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use mpsec_common::Direction;

const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Without a program or link to be relative to: before all others.
const BPF_F_BEFORE: u32 = 1 << 3;

/// `union bpf_attr` as BPF_LINK_CREATE reads it for TCX.
#[repr(C)]
struct LinkCreate {
    program_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

/// As many programs as a hook can have (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MOST_PROGRAMS: usize = 64;

/// `union bpf_attr` as BPF_PROG_QUERY reads and writes it.
#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Attaches a program in front of all others. Dropping the descriptor detaches it.
///
/// # Errors
/// `EINVAL` where the kernel has no TCX, `ENODEV` where there is no such interface (any more), `EPERM` without
/// CAP_BPF and CAP_NET_ADMIN.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: attach_type(direction),
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        padding: 0,
        expected_revision: 0,
    };
    // SAFETY: the pointer and the length describe `attributes`, which outlives the call and is only read.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>() as libc::c_uint)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the kernel returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
}

/// How many programs see a packet before the one of `link`, or, without it, at all: before any filter of clsact.
///
/// # Errors
/// `EINVAL` where the kernel has no TCX, `ENODEV` where there is no such interface (any more).
pub fn ahead(ifindex: u32, direction: Direction, link: Option<&OwnedFd>) -> io::Result<u32> {
    let ours = link.map(|link| fdinfo(link, "link_id:")).transpose()?;
    let (mut programs, mut links) = ([0u32; MOST_PROGRAMS], [0u32; MOST_PROGRAMS]);
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: attach_type(direction),
        query_flags: 0,
        attach_flags: 0,
        program_ids: programs.as_mut_ptr() as u64,
        count: MOST_PROGRAMS as u32,
        padding: 0,
        program_attach_flags: 0,
        link_ids: links.as_mut_ptr() as u64,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the pointer and the length describe `query`, and the two pointers in it are to room for as many numbers as it
    // says; all of them outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>() as libc::c_uint) };
    match io::Error::last_os_error() {
        _ if result >= 0 => {}
        // Nothing was ever attached (tcx_prog_query, kernel/bpf/tcx.c).
        error if error.raw_os_error() == Some(libc::ENOENT) => return Ok(0),
        error => return Err(error),
    }
    let there = links.iter().take(query.count as usize);
    Ok(there.take_while(|link| ours != Some(**link)).count() as u32)
}

/// The index of the interface that a link is attached to; 0 when the interface is gone or the link was detached
/// (tcx_link_fdinfo, kernel/bpf/tcx.c).
pub fn target(link: &OwnedFd) -> io::Result<u32> {
    fdinfo(link, "ifindex:")
}

/// A number that the kernel tells of a link (bpf_link_show_fdinfo, kernel/bpf/syscall.c).
fn fdinfo(link: &OwnedFd, name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other(format!("the kernel does not tell the link's {name}")))
}

fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::Rx => BPF_TCX_INGRESS,
        Direction::Tx => BPF_TCX_EGRESS,
    }
}
