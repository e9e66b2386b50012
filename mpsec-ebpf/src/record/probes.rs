//! What the probes count, and what they note down of a subflow.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use mpsec_common::mptcp::{SubflowInfo, flags};
use mpsec_common::probes::{CLOSER_FLAGS, Closer, ProbeCounts};

#[map]
static PROBE_COUNTS: PerCpuArray<ProbeCounts> = PerCpuArray::with_max_entries(1, 0);

/// Adds to the count that `which` takes of those of this CPU. A probe may be interrupted by another one, so nothing but an
/// atomic addition will do.
#[inline(always)]
pub fn add(amount: u64, which: impl FnOnce(*mut ProbeCounts) -> *mut u64) {
    if let Some(counts) = PROBE_COUNTS.get_ptr_mut(0) {
        // SAFETY: the map returned a pointer to a whole value, and the caller takes a count within it.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(which(counts), amount) };
    }
}

/// Notes down who began to end a subflow; the first one it was.
///
/// Its socket's callbacks, which are made while the socket is locked as it is here, write the flags too.
#[inline(always)]
pub fn closed_by(info: *mut SubflowInfo, closer: Closer) {
    // SAFETY: the caller's pointer is to a whole value of a map; volatile, because others write it.
    unsafe {
        let marks = (&raw const (*info).flags).read_volatile();
        if marks & CLOSER_FLAGS == 0 {
            (&raw mut (*info).flags).write_volatile(marks | closer.flags());
        }
    }
}

/// Notes down that a reset was received.
#[inline(always)]
pub fn reset_received(info: *mut SubflowInfo) {
    closed_by(info, Closer::ResetReceived);
    // SAFETY: as above.
    unsafe {
        let marks = (&raw const (*info).flags).read_volatile();
        (&raw mut (*info).flags).write_volatile(marks | flags::RESET_RECEIVED);
    }
}

/// Bits of [`flags`].
#[inline(always)]
pub fn marks(info: *mut SubflowInfo) -> u16 {
    // SAFETY: as above.
    unsafe { (&raw const (*info).flags).read_volatile() }
}
