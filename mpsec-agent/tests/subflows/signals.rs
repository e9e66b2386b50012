//! Loading while signals come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mpsec_agent::kernel::ebpf::{Kernel, Settings};
use mpsec_tests::netns::Netns;

use super::host::settings;

/// How often the programs are loaded, each time with signals at another moment.
const LOADS: u32 = 6;
/// Signals one after the other: each keeps one attempt from its end, and no program is tried as often without success.
const SIGNALS: usize = 20;
/// Much less than it takes to verify the classifier.
const PAUSE: Duration = Duration::from_millis(2);

extern "C" fn do_nothing(_: libc::c_int) {}

/// The verifier breaks off when its thread has a signal to handle: all is loaded nevertheless.
pub(crate) fn while_loading() -> Result<()> {
    // SAFETY: the handler does nothing, and no other test uses this signal.
    unsafe { libc::signal(libc::SIGUSR2, do_nothing as *const () as libc::sighandler_t) };
    Netns::new()?.run(|| {
        let settings = settings()?;
        let start = Instant::now();
        let undisturbed = what_is_loaded(&Kernel::load(&settings)?);
        let took = start.elapsed();
        for load in 0..LOADS {
            let disturbed = what_is_loaded(&load_with_signals(&settings, took * load / LOADS)?);
            ensure!(disturbed == undisturbed, "{disturbed:?} instead of {undisturbed:?}");
        }
        Ok(())
    })
}

/// Loads the programs while signals come from some moment on.
fn load_with_signals(settings: &Settings, first: Duration) -> Result<Kernel> {
    // SAFETY: without arguments, and always successful.
    let loader = unsafe { libc::pthread_self() };
    let is_loaded = &AtomicBool::new(false);
    let interrupt = move || {
        thread::sleep(first);
        for _ in 0..SIGNALS {
            if is_loaded.load(Ordering::Acquire) {
                break;
            }
            // SAFETY: the thread outlives the scope, and with it this one.
            unsafe { libc::pthread_kill(loader, libc::SIGUSR2) };
            thread::sleep(PAUSE);
        }
    };
    thread::scope(|scope| {
        scope.spawn(interrupt);
        let kernel = Kernel::load(settings);
        is_loaded.store(true, Ordering::Release);
        Ok(kernel?)
    })
}

/// Subflows, the list of sockets, and every probe with its way into the kernel.
fn what_is_loaded(kernel: &Kernel) -> (bool, bool, Vec<(&'static str, &'static str)>) {
    let probes = kernel.probes.states().iter().map(|probe| (probe.name, probe.entry)).collect();
    (kernel.subflows.is_ok(), kernel.sockets.is_ok(), probes)
}
