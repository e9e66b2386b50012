//! Being on time: waiting for descriptors by the clock, going before other programs, ending at once on Ctrl-C.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

/// Exit code of a program that Ctrl-C ended, as shells have it: 128 and the signal's number.
const INTERRUPTED: libc::c_int = 128 + libc::SIGINT;

/// Waits until one of the descriptors can be read or `timeout` is over.
///
/// # Errors
/// Those of ppoll(2), but for an interruption, which counts as the end of the wait.
pub fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<()> {
    let one = |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut all: Vec<_> = descriptors.iter().map(one).collect();
    let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
    // SAFETY: the pointer and the length are those of `all`, and the timeout outlives the call; no mask is given.
    let ready =
        unsafe { libc::ppoll(all.as_mut_ptr(), all.len() as libc::nfds_t, &raw const timeout, std::ptr::null()) };
    match ready {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

/// Lets the calling thread run before all usual ones, and wake to the microsecond.
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE or in a control group without real time; the thread then runs as before.
pub fn become_urgent() -> io::Result<()> {
    // The kernel's `struct sched_param`: one number.
    let priority: libc::c_int = 1;
    // SAFETY: 0 is the calling thread, and the parameter outlives the call. The system call itself, because musl's function
    // does nothing: to POSIX it is about processes.
    if unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_RR, &raw const priority) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends this process at once, with the exit code 130, when the terminal's user wants it (SIGINT). Whatever it made must go
/// by itself.
pub fn exit_on_interrupt() {
    extern "C" fn exit(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(INTERRUPTED) }
    }
    let handler: extern "C" fn(libc::c_int) = exit;
    // SAFETY: the handler takes a signal's number, as one without SA_SIGINFO does, and is async-signal-safe.
    unsafe { libc::signal(libc::SIGINT, handler as *const () as libc::sighandler_t) };
}

/// Whether this process may do what root does.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
