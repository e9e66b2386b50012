//! A network namespace that lives as long as the thread that tries things in it.

use std::io;

/// Moves this thread, and only it, into a new network namespace, which ends with the thread. What was opened before
/// stays in the old one.
pub(super) fn enter_new() -> io::Result<()> {
    // SAFETY: unshare takes flags alone; CLONE_NEWNET concerns nothing but which network namespace the calling thread is
    // in (copy_namespaces in kernel/nsproxy.c, Linux 6.18).
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
