//! Arguments of a function at its first instruction, out of the registers.
//!
//! Which register holds which argument, and where it lies in `struct pt_regs`, differs by machine. The agent knows which one
//! it was built for, so that the object is the same for all.

use core::ffi::c_void;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// Where in `struct pt_regs` the first arguments are, in bytes.
#[unsafe(no_mangle)]
static ARGUMENT_REGISTERS: Global<[u32; 4]> = Global::new([0; 4]);

/// An argument, counted from 0, of the function that a kprobe with this context stands at.
#[inline(always)]
pub fn argument(context: *mut c_void, index: usize) -> Option<u64> {
    let offset = ARGUMENT_REGISTERS.load()[index & 3] as usize;
    let mut value = 0u64;
    // SAFETY: the helper checks the address itself and fills all of `value` or fails.
    let result = unsafe {
        let address = context.cast::<u8>().wrapping_add(offset);
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<u64>() as u32, address.cast())
    };
    (result == 0).then_some(value)
}
