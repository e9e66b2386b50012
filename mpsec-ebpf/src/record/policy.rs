//! What is set on subflows, and the reports of those that hear nothing.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, RingBuf};
use mpsec_common::maps::Event;
use mpsec_common::policy::{EVERY_ADDRESS, POLICY_ENTRIES, Policy, PolicyKey, TIMEOUTS_BYTES, Timeout};

#[map]
static POLICIES: HashMap<PolicyKey, Policy> = HashMap::with_max_entries(POLICY_ENTRIES, 0);
#[map]
static TIMEOUTS: RingBuf = RingBuf::with_byte_size(TIMEOUTS_BYTES, 0);

/// The policy for a local address: its own one, or that for every address.
#[inline(always)]
pub fn of(local: &PolicyKey) -> Option<*const Policy> {
    POLICIES.get_ptr(local).or_else(|| POLICIES.get_ptr(EVERY_ADDRESS))
}

/// Reports a timeout and wakes the agent up.
#[inline(always)]
pub fn report(timeout: Timeout) {
    if TIMEOUTS.output::<Timeout>(timeout, 0).is_err() {
        super::event(Event::TimeoutUnreported);
    }
}
