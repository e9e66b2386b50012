//! Doing without what a thread may do.

use std::io;

use anyhow::Result;

use crate::netns::check;

/// CAP_SYS_ADMIN (include/uapi/linux/capability.h).
pub const SYS_ADMIN: u32 = 21;

/// Takes a capability below 32 from the calling thread, for good.
pub fn drop_capability(number: u32) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    // Version and thread (0 for this one); then effective, permitted and inheritable, of the lower and the upper capabilities.
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: the header and the sets are as large as this version of the call takes them to be, and outlive it.
    let read = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    check(i32::try_from(read).unwrap_or(-1))?;
    sets[..3].iter_mut().for_each(|set| *set &= !(1 << number));
    // SAFETY: as above.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}

/// Makes the calling thread another user's, for good: one that owns nothing, without capabilities.
pub fn become_nobody() -> Result<()> {
    const NOBODY: libc::c_long = 65_534;
    // The system calls are for the calling thread alone; those of the C library are for all threads.
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: numbers, and no pointers.
        let outcome = unsafe { libc::syscall(call, NOBODY, NOBODY, NOBODY) };
        check(i32::try_from(outcome).unwrap_or(-1))?;
    }
    Ok(())
}
