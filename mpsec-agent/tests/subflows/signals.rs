//! Loading while signals come.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use mpsec_agent::kernel::ebpf::{Kernel, Settings};
use mpsec_tests::netns::Netns;
use mpsec_tests::signals::Interrupted;

use super::host::settings;

/// How often the programs are loaded, each time with signals at another moment.
const LOADS: u32 = 6;
/// Signals one after the other: each keeps one attempt from its end, and no program is tried as often without success.
const SIGNALS: usize = 20;
/// Much less than it takes to verify the classifier.
const PAUSE: Duration = Duration::from_millis(2);

/// The verifier breaks off when its thread has a signal to handle: all is loaded nevertheless.
pub(crate) fn while_loading() -> Result<()> {
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
    let sender = Interrupted::this_thread().interrupt(first, SIGNALS, PAUSE);
    let kernel = Kernel::load(settings);
    sender.join().map_err(|_| anyhow!("the sender panicked"))?;
    Ok(kernel?)
}

/// Subflows, the list of sockets, and every probe with its way into the kernel.
fn what_is_loaded(kernel: &Kernel) -> (bool, bool, Vec<(&'static str, &'static str)>) {
    let probes = kernel.probes.states().iter().map(|probe| (probe.name, probe.entry)).collect();
    (kernel.subflows.is_ok(), kernel.sockets.is_ok(), probes)
}
