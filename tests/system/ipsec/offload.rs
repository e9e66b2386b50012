//! A kernel that may leave ESP to devices (`esp4_offload`) does it elsewhere than others, even where no device can: GRO takes it off
//! before anybody sees it, and it is finished behind the hook of what is sent.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::class;
use mpsec_tests::layers::{Kind, Layer};
use mpsec_tests::link::Offload;
use mpsec_tests::paths::Family;
use mpsec_tests::trial::{Skip, trial};
use mpsec_tests::xfrm::Mode;
use mpsec_tests::{bulk, wait};

use super::by_hand::{SIZES, laid};
use super::line::{DECRYPTED, DEVICES, Line};

const LIMIT: Duration = Duration::from_secs(60);
/// How long states may hold the module after the namespace is gone that they were in.
const RELEASE: Duration = Duration::from_secs(10);
/// Header and counter of ESP, which are there before anything is encrypted.
const ESP_HEADER: u64 = 16;

pub(crate) fn trials() -> Vec<Trial> {
    let each = |mode: Mode| trial(&format!("ipsec::offload_{}", mode.name()), LIMIT, move || offloaded(mode));
    [Mode::Transport, Mode::Tunnel].map(each).into()
}

/// What is received has only its inside; what is sent is ESP without what encryption adds at its end.
fn offloaded(mode: Mode) -> Result<()> {
    mode.needed(Family::V4)?;
    let _module = Module::load("esp4_offload")?;
    let line = Line::new(Offload::Full)?;
    line.receives_by_gro()?;
    let tunnel = laid(&line, mode, Family::V4);
    tunnel.lay()?;
    let watched = line.watched()?;
    let [west, east] = [watched.watch(0, DEVICES[0])?, watched.watch(1, DEVICES[1])?];
    bulk::datagrams(&line.hosts[0], &line.hosts[1], tunnel.ends[1].inner, SIZES)?;
    let layer = Layer { kind: Kind::Esp, tunnel: mode.has_inside() };
    let plain = |size: &usize| *size as u64 + 28;
    let unfinished = |size: &usize| plain(size) + ESP_HEADER + if layer.tunnel { 20 } else { 0 };
    let sum = |bytes: &dyn Fn(&usize) -> u64| Counted::new(SIZES.len() as u64, SIZES.iter().map(bytes).sum(), 14);
    let (wire, none) = (sum(&|size| layer.bytes_around(plain(size), Family::V4)), Counted::default());
    west.equals(class::ESP, none, sum(&unfinished))?;
    east.equals(DECRYPTED, sum(&plain), none)?;
    east.equals(class::ESP, none, none)?;
    // A veth that gathers what it receives leaves the link header out of its own count.
    let crossed = (west.passed()?.tx_packets, west.passed()?.tx_bytes, east.passed()?.rx_packets);
    ensure!(crossed == (wire.packets, wire.bytes, wire.packets), "{crossed:?} instead of {wire:?}");
    let [only_sent, only_received] = [west.counted()?.1, east.counted()?.0];
    ensure!(only_sent.0.len() == 1 && only_received.0.len() == 1, "{only_sent:?}, {only_received:?}");
    Ok(())
}

/// A module that goes when this does, if it came with it: others would find the kernel otherwise than it usually is.
struct Module(Option<CString>);

impl Module {
    fn load(name: &str) -> Result<Self> {
        if Path::new("/sys/module").join(name).exists() {
            return Ok(Self(None));
        }
        let loaded = Command::new("modprobe").arg(name).output().is_ok_and(|output| output.status.success());
        if loaded {
            Ok(Self(Some(CString::new(name)?)))
        } else {
            Err(Skip::because(format!("needs the module {name}")))
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let Some(name) = &self.0 else { return };
        let _ = wait::until(RELEASE, || {
            // SAFETY: the name is a C string that outlives the call.
            let done = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
            ensure!(done == 0, "{}", io::Error::last_os_error());
            Ok(())
        });
    }
}
