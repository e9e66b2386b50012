//! Devices come, go, change their names and move: the agent follows, and no packet is counted under a wrong name.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::bpf::Hook;
use mpsec_tests::counted::{Classes, interfaces};
use mpsec_tests::frames;
use mpsec_tests::netns::{Netns, devices_of_every_namespace};
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{hooks, link, need, wait};

use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);
/// How long the agent may take to follow a change.
const FOLLOW: Duration = Duration::from_secs(1);
/// How often the agent looks whether its programs are still attached.
const LOOKS_AFTER_ITS_PROGRAMS: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    let both = |name: &str, body: fn(&str) -> Result<()>| {
        ["tcx", "clsact"].map(|attach| {
            trial(&format!("hotplug::{name}_{attach}"), LIMIT, move || {
                need::mpsec()?;
                if attach == "tcx" {
                    need::tcx()?;
                }
                body(attach)
            })
        })
    };
    [
        both("a_new_device_is_counted_within_a_second", new_device),
        both("a_removed_device_is_forgotten", removed),
        both("a_renamed_device_keeps_its_counts", renamed),
        both("a_device_moved_away_is_let_go", moved),
        both("a_reused_index_starts_at_zero", reused_index),
        both("down_and_up_keep_the_counts", down_up),
        both("only_what_is_asked_for_is_touched", filtered),
        both("lost_events_leave_no_trace", lost_events),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A namespace with an agent, and another for the far ends of wires.
struct Host {
    here: Arc<Netns>,
    there: Arc<Netns>,
    agent: Agent,
}

impl Host {
    fn new(attach: &str, more: &str) -> Result<Self> {
        let (here, there) = (Arc::new(Netns::new()?), Arc::new(Netns::new()?));
        let agent = Options::default().with(&format!("--attach {attach} {more}")).start(&here)?;
        Ok(Self { here, there, agent })
    }

    /// A wire whose near end is `device`; waits until both of its hooks are taken.
    fn plug(&self, device: &str) -> Result<()> {
        link::veth((&self.here, device), (&self.there, &format!("far-{device}")))?;
        wait::until(FOLLOW, || attached_on_both(&self.here, device))
    }

    /// Sends frames out of a device.
    fn send(&self, device: &str, count: usize) -> Result<()> {
        let mut sender = Sender::new(&self.here, device, Buffer::Linear)?;
        let frame = &frames::all()[0].bytes;
        (0..count).try_for_each(|_| sender.send(frame))
    }

    /// Waits until exactly `count` packets have been counted on a device.
    fn counted(&self, device: &str, count: u64) -> Result<()> {
        wait::until(SHOWN, || {
            let sent = Classes::read(&self.agent.scrape()?, device, "tx")?.total();
            ensure!(sent.packets == count, "{device}: {sent:?} instead of {count} packets");
            Ok(())
        })
    }

    /// Waits until a device has no series.
    fn forgotten(&self, device: &str) -> Result<()> {
        wait::until(SHOWN, || {
            let there = interfaces(&self.agent.scrape()?);
            ensure!(!there.contains(device), "{there:?}");
            Ok(())
        })
    }
}

fn attached_on_both(netns: &Netns, device: &str) -> Result<()> {
    for hook in Hook::ALL {
        let there = hooks::attached(netns, device, hook)?;
        ensure!(there.len() == 1, "{} of {device}: {there:?}", hook.name());
    }
    Ok(())
}

fn new_device(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    let start = Instant::now();
    host.plug("new0")?;
    host.send("new0", 10)?;
    host.counted("new0", 10)?;
    // Making the wire is part of this; showing the counts need not be.
    println!("new0 was counted {} ms after it appeared", start.elapsed().as_millis());
    Ok(())
}

fn removed(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    host.plug("gone0")?;
    host.send("gone0", 3)?;
    host.counted("gone0", 3)?;
    host.here.ip("link del dev gone0")?;
    host.forgotten("gone0")
}

fn renamed(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    host.plug("old0")?;
    host.send("old0", 10)?;
    host.counted("old0", 10)?;
    for line in ["link set dev old0 down", "link set dev old0 name new0", "link set dev new0 up"] {
        host.here.ip(line)?;
    }
    host.send("new0", 5)?;
    host.counted("new0", 15)?;
    host.forgotten("old0")?;
    attached_on_both(&host.here, "new0")
}

fn moved(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    let elsewhere = Netns::new()?;
    host.plug("away0")?;
    host.send("away0", 3)?;
    host.counted("away0", 3)?;
    host.here.ip(&format!("link set dev away0 netns {}", elsewhere.path()))?;
    host.forgotten("away0")?;
    wait::until(FOLLOW, || {
        let left = hooks::attached_anywhere(&elsewhere, "away0")?;
        ensure!(left.is_empty(), "still attached in the other namespace: {left:?}");
        ensure!(!hooks::has_clsact(&elsewhere, "away0")?, "the qdisc went along");
        Ok(())
    })?;
    // And back: a device like any other.
    elsewhere.ip(&format!("link set dev away0 netns {}", host.here.path()))?;
    host.here.ip("link set dev away0 arp off up")?;
    wait::until(FOLLOW, || attached_on_both(&host.here, "away0"))
}

fn reused_index(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    for (device, count) in [("first0", 10), ("second0", 5)] {
        host.here
            .ip(&format!("link add name {device} index 4242 type veth peer name far netns {}", host.there.path()))?;
        host.there.ip("link set dev far arp off up")?;
        host.here.ip(&format!("link set dev {device} arp off up"))?;
        wait::until(FOLLOW, || attached_on_both(&host.here, device))?;
        host.send(device, count)?;
        host.counted(device, count as u64)?;
        if device == "first0" {
            host.here.ip("link del dev first0")?;
        }
    }
    host.forgotten("first0")
}

fn down_up(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    host.plug("flap0")?;
    host.send("flap0", 10)?;
    host.counted("flap0", 10)?;
    host.here.ip("link set dev flap0 down")?;
    host.here.ip("link set dev flap0 up")?;
    wait::until(FOLLOW, || attached_on_both(&host.here, "flap0"))?;
    host.send("flap0", 5)?;
    host.counted("flap0", 15)
}

fn filtered(attach: &str) -> Result<()> {
    let host = Host::new(attach, "--include we*,ea* --exclude *9")?;
    for device in [Pair::WEST, Pair::EAST] {
        host.plug(device)?;
    }
    for device in ["south", "west9"] {
        link::veth((&host.here, device), (&host.there, &format!("far-{device}")))?;
        host.send(device, 3)?;
    }
    // One that comes later and is followed shows that the agent has seen the others.
    host.plug("west1")?;
    for device in ["south", "west9", "lo"] {
        let there = hooks::attached_anywhere(&host.here, device)?;
        ensure!(there.is_empty(), "{device} was not asked for: {there:?}");
        host.forgotten(device)?;
    }
    host.send(Pair::WEST, 4)?;
    host.counted(Pair::WEST, 4)
}

/// More events than there is room for: none that was lost, and none that was kept and is outdated, is believed. Nor is it
/// taken for a removed program that a device is gone: the agent was stopped for so long that it looks after its programs
/// before it hears of anything.
fn lost_events(attach: &str) -> Result<()> {
    let host = Host::new(attach, "")?;
    let usual = devices_of_every_namespace()?;
    host.here.ip("link add name before0 index 4242 type veth peer name before1")?;
    host.here.ip("link set dev before0 arp off up")?;
    host.here.ip("link set dev before1 arp off up")?;
    wait::until(FOLLOW, || attached_on_both(&host.here, "before0"))?;
    host.send("before0", 10)?;
    host.counted("before0", 10)?;
    host.agent.signal(libc::SIGSTOP)?;
    let stopped = Instant::now();
    host.here.ip("link add name ghost0 type veth peer name ghost1")?;
    let flood = host.agent.folder().join("flood");
    fs::write(&flood, (0..20_000).map(|n| format!("link set dev lo alias {n}\n")).collect::<String>())?;
    host.here.ip(&format!("-batch {}", flood.display()))?;
    for line in ["link del dev ghost0", "link del dev before0"] {
        host.here.ip(line)?;
    }
    host.here.ip("link add name after0 index 4242 type veth peer name after1")?;
    host.here.ip("link set dev after0 arp off up")?;
    host.here.ip("link set dev after1 arp off up")?;
    thread::sleep(LOOKS_AFTER_ITS_PROGRAMS.saturating_sub(stopped.elapsed()));
    host.agent.signal(libc::SIGCONT)?;
    wait::until(SHOWN, || {
        let now = host.agent.scrape()?;
        ensure!(now.sum("mpsec_events_lost_total", &[])? > 0, "nothing was lost: this shows nothing");
        let mut seen = now.label_values(crate::names::ATTACHED.0, "interface");
        seen.retain(|device| !usual.contains(device));
        ensure!(seen.iter().eq(["after0", "after1", "lo"]), "{seen:?}");
        host.agent.ready()
    })?;
    attached_on_both(&host.here, "after0")?;
    host.send("after0", 5)?;
    host.counted("after0", 5)?;
    // And what comes next is told.
    host.plug("next0")
}
