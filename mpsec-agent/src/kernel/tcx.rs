//! TCX: attaching to an interface through a BPF link, which the kernel undoes when its descriptor is closed.
//!
//! By interface index, so that a rename between being told of an interface and attaching to it does no harm. Source:
//! include/uapi/linux/bpf.h and kernel/bpf/tcx.c, 6.6 to 6.18.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use mpsec_common::Direction;

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

/// Attaches a program in front of all others. Dropping the descriptor detaches it.
///
/// # Errors
/// `EINVAL` where the kernel has no TCX, `ENODEV` where there is no such interface (any more), `EPERM` without
/// CAP_BPF and CAP_NET_ADMIN.
pub fn attach(program: BorrowedFd<'_>, ifindex: u32, direction: Direction) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Rx => BPF_TCX_INGRESS,
            Direction::Tx => BPF_TCX_EGRESS,
        },
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

/// The index of the interface that a link is attached to; 0 when the interface is gone or the link was detached
/// (tcx_link_fdinfo, kernel/bpf/tcx.c).
pub fn target(link: &OwnedFd) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let ifindex = text.lines().find_map(|line| line.strip_prefix("ifindex:")?.trim().parse().ok());
    ifindex.ok_or_else(|| io::Error::other("the kernel does not tell what the link is attached to"))
}
