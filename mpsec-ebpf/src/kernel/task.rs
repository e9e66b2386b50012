//! What the kernel keeps of the task that is running.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};

/// `task_struct.nsproxy`
#[unsafe(no_mangle)]
static TASK_NSPROXY: Global<u32> = Global::new(0);
/// `nsproxy.net_ns`
#[unsafe(no_mangle)]
static NSPROXY_NET_NS: Global<u32> = Global::new(0);
/// `net.net_cookie`
#[unsafe(no_mangle)]
static NET_COOKIE: Global<u32> = Global::new(0);

/// The cookie of the network namespace that the task is in: that of the sockets that it makes (sock_create, net/socket.c,
/// Linux 6.18).
#[inline(always)]
pub fn netns_cookie() -> Option<u64> {
    // SAFETY: the helper takes nothing and gives an address.
    let task = unsafe { bpf_get_current_task() };
    let proxy = read(task, &TASK_NSPROXY)?;
    let net = read(proxy, &NSPROXY_NET_NS)?;
    read(net, &NET_COOKIE)
}

/// The eight bytes of a member of the structure at this address.
#[inline(always)]
fn read(structure: u64, offset: &Global<u32>) -> Option<u64> {
    let mut value = 0u64;
    let address = structure.wrapping_add(offset.load() as u64) as *const u8;
    // SAFETY: the helper checks the address itself and fills all of `value` or fails.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<u64>() as u32, address.cast()) };
    (result == 0).then_some(value)
}
