//! Which received segments are new, and which came before, on whatever CPU.

use mpsec_common::Direction;
use mpsec_common::mptcp::{extend_sequence, first_sequence};

use super::{CPUS, counter, this_cpu};

/// Works out what a segment that is not the next one is: the first one, one behind a gap, one that was sent again, or the
/// next one of a subflow that another CPU has dealt with until now. A global function, so that the verifier follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mpsec_subflow_out_of_order(slot: u32, sequence: u32, payload: u32) -> i32 {
    if is_known_here(slot, sequence, payload) {
        return 0;
    }
    let latest = latest_sequence(slot);
    let (start, known) = if latest == 0 {
        (first_sequence(sequence), 0)
    } else {
        let start = extend_sequence(latest, sequence);
        (start, latest.saturating_sub(start))
    };
    let end = start + payload as u64;
    let is_latest = end > latest;
    let Some(counter) = counter(slot, this_cpu(), Direction::Rx) else { return 0 };
    // SAFETY: as in [`count`](super::count): only this CPU writes all but the expected sequence number.
    let counter = unsafe { &mut *counter };
    counter.retransmitted_bytes += if known < payload as u64 { known } else { payload as u64 };
    counter.known_sequence = if is_latest { end } else { latest };
    if is_latest || counter.next_sequence != latest {
        counter.next_sequence = if is_latest { end } else { 0 };
    }
    if is_latest {
        others_forget(slot);
    }
    0
}

/// What comes behind the last byte that any CPU received; 0 for unknown. What they knew is asked, too: of two that take over
/// at once each has the other forget.
#[inline(always)]
fn latest_sequence(slot: u32) -> u64 {
    let mut latest = 0;
    for cpu in 0..CPUS.load() {
        if let Some(counter) = counter(slot, cpu, Direction::Rx) {
            // SAFETY: the map returned a pointer to a whole value; volatile, because others write it.
            let [next, known] = unsafe {
                let counter = &raw const *counter;
                [
                    (&raw const (*counter).next_sequence).read_volatile(),
                    (&raw const (*counter).known_sequence).read_volatile(),
                ]
            };
            latest = if next > latest { next } else { latest };
            latest = if known > latest { known } else { latest };
        }
    }
    latest
}

/// Has all other CPUs forget what they expect. Where one of them was when another took over may be just where the peer begins to
/// send anew, and what comes again would pass for the next segment there.
#[inline(always)]
fn others_forget(slot: u32) {
    let this_cpu = this_cpu();
    for cpu in 0..CPUS.load() {
        if let Some(counter) = counter(slot, cpu, Direction::Rx) {
            // SAFETY: the map returned a pointer to a whole value; volatile, because others write it.
            unsafe {
                let next = &raw mut (*counter).next_sequence;
                if cpu != this_cpu && next.read_volatile() != 0 {
                    next.write_volatile(0);
                }
            }
        }
    }
}

/// So far below what a CPU knows, in bytes, a segment is taken for one that came before. What a CPU knows may be old, and the
/// sequence numbers may have come round since; but then they are hardly ever as close as this, and not for long.
const RECENT: u32 = 1 << 20;

/// Counts a segment of which this CPU knows that all of it has come: nobody else need be asked, whose counters are being
/// written.
#[inline(always)]
fn is_known_here(slot: u32, sequence: u32, payload: u32) -> bool {
    let Some(counter) = counter(slot, this_cpu(), Direction::Rx) else { return true };
    // SAFETY: as in [`count`](super::count): only this CPU writes all but the expected sequence number.
    let counter = unsafe { &mut *counter };
    let latest = if counter.next_sequence != 0 { counter.next_sequence } else { counter.known_sequence };
    let below = (latest as u32).wrapping_sub(sequence.wrapping_add(payload));
    let known = latest != 0 && below < RECENT;
    if known {
        counter.retransmitted_bytes += payload as u64;
    }
    known
}
