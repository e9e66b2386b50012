//! MPTCP for programs that do not ask for it: an object of its own, which the agent loads only where it is wanted.
//!
//! The kernel calls `update_socket_protocol` before it makes a socket, for nothing but a program here to say which protocol
//! the socket has instead (net/socket.c, Linux 6.6 to 6.18). The section is named for fexit, which loaders know; the agent
//! loads it as BPF_MODIFY_RETURN.
#![no_std]
#![no_main]

#[path = "kernel/task.rs"]
mod task;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray};
use mpsec_common::force::{CGROUP_LEVELS, MAX_FORCED_CGROUPS, flags};

/// The network namespace whose sockets it is about; 0 for all.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

#[map]
static FORCED_CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_FORCED_CGROUPS, 0);
#[map]
static FORCED_SOCKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(flags::ALL + 1, 0);

/// What the caller need not be troubled with: the function runs and gives the protocol that it was given.
const UNCHANGED: i32 = 0;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const SOCK_STREAM: i32 = 1;
/// Beside the type there are flags in it (include/linux/net.h).
const SOCK_TYPE_MASK: i32 = 0xf;
const IPPROTO_TCP: i32 = 6;
const IPPROTO_MPTCP: i32 = 262;

/// `update_socket_protocol(family, type, protocol)`: the arguments are those of socket(2), one in eight bytes.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fexit/update_socket_protocol")]
pub extern "C" fn mpsec_mptcpify(arguments: *const u64) -> i32 {
    protocol(arguments)
}

#[inline(always)]
fn protocol(arguments: *const u64) -> i32 {
    // SAFETY: the function has three arguments.
    let argument = |index| unsafe { arguments.add(index).read_volatile() as i32 };
    if !is_tcp(argument(0), argument(1), argument(2)) || !is_own_namespace() {
        return UNCHANGED;
    }
    match listed() {
        None | Some(0) => UNCHANGED,
        Some(flags) => {
            count(flags);
            IPPROTO_MPTCP
        }
    }
}

#[inline(always)]
fn is_tcp(family: i32, kind: i32, protocol: i32) -> bool {
    matches!(family, AF_INET | AF_INET6) && kind & SOCK_TYPE_MASK == SOCK_STREAM && matches!(protocol, 0 | IPPROTO_TCP)
}

#[inline(always)]
fn is_own_namespace() -> bool {
    let own = NETNS_COOKIE.load();
    own == 0 || task::netns_cookie() == Some(own)
}

/// What the task's control group is listed for, or the nearest one above that is listed.
#[inline(always)]
fn listed() -> Option<u32> {
    let mut nearest = None;
    for level in 0..CGROUP_LEVELS as i32 {
        // SAFETY: the helper takes a number.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: the value is read at once, and the agent writes it whole.
        if let Some(flags) = unsafe { FORCED_CGROUPS.get(id) } {
            nearest = Some(*flags & flags::ALL);
        }
    }
    nearest
}

#[inline(always)]
fn count(flags: u32) {
    if let Some(count) = FORCED_SOCKETS.get_ptr_mut(flags) {
        // SAFETY: the map's values are aligned and live as long as the map. A task that is moved to another CPU meanwhile,
        // or another that runs in between, can lose a count, and nothing more.
        unsafe { *count += 1 };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The object check proves that nothing leads here.
    loop {}
}

/// Some of the helpers that are called are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
