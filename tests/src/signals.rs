//! Signals to one thread, which do nothing but interrupt it.

use std::thread::{self, JoinHandle};
use std::time::Duration;

extern "C" fn do_nothing(_: libc::c_int) {}

/// A thread that can be interrupted.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted(libc::pthread_t);

impl Interrupted {
    /// The calling thread, which has to outlive what is made of this. SIGUSR2 does nothing from now on.
    pub fn this_thread() -> Self {
        // SAFETY: the handler does nothing; the other call has no arguments and is always successful.
        unsafe {
            libc::signal(libc::SIGUSR2, do_nothing as *const () as libc::sighandler_t);
            Self(libc::pthread_self())
        }
    }

    /// So many signals, one after the other, from some moment on. To be joined before the thread ends.
    pub fn interrupt(self, first: Duration, signals: usize, pause: Duration) -> JoinHandle<()> {
        thread::spawn(move || {
            thread::sleep(first);
            for _ in 0..signals {
                // SAFETY: the thread still runs, as the caller promised.
                unsafe { libc::pthread_kill(self.0, libc::SIGUSR2) };
                thread::sleep(pause);
            }
        })
    }
}
