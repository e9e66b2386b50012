//! A host on which something changes all the time.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use mpsec_tests::need;
use mpsec_tests::netns::Netns;

/// More than the kernel lists at once: a change comes between one part of the list and the next.
const ADDRESSES: u32 = 1000;
/// So that most lists are of one moment, and some of many are not.
const PAUSE: Duration = Duration::from_millis(10);
const LOOKS: u32 = 300;

pub(super) fn addresses() -> Result<()> {
    need::native()?;
    need::mptcp()?;
    let (netns, program) = (Netns::new()?, need::mpsec()?.display().to_string());
    let folder = tempfile::tempdir()?;
    let [batch, socket, state] =
        ["batch", "socket", "state"].map(|name| folder.path().join(name).display().to_string());
    let line = |n: u32| format!("addr add {}/32 dev lo\n", Ipv4Addr::from(0x0a63_0000 + n));
    fs::write(&batch, (0..ADDRESSES).map(line).collect::<String>())?;
    netns.ip(&format!("-batch {batch}"))?;
    let words: [&str; 7] = ["plan", "--set", "mptcp.reordering=9", "--control-socket", &socket, "--state-dir", &state];
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let changes = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                for verb in ["add", "del"] {
                    netns.ip(&format!("addr {verb} 10.98.0.1/32 dev lo"))?;
                    thread::sleep(PAUSE);
                }
            }
            Ok(())
        });
        let looks = (0..LOOKS).try_for_each(|_| netns.output(&program, &words).map(drop));
        is_over.store(true, Ordering::Relaxed);
        changes.join().map_err(|_| anyhow!("who changes them panicked"))??;
        looks
    })
}
