//! The agent is killed, started again, told to stop, and started wrongly; and it is not alone on its devices.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options, START};
use mpsec_tests::bpf::{Hook, Link, Program};
use mpsec_tests::counted::{Classes, interfaces};
use mpsec_tests::hooks::{Attached, Way};
use mpsec_tests::netns::Netns;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{frames, hooks, link, need, wait};

use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);
const WEST: &str = Pair::WEST;
/// How often the agent looks whether its programs are still attached.
const LOOKS_AFTER_ITS_PROGRAMS: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for attach in ["tcx", "clsact"] {
        for (signal, name) in [(libc::SIGKILL, "kill"), (libc::SIGTERM, "term"), (libc::SIGINT, "interrupt")] {
            let name = format!("survive::{name}_and_restart_counts_once_{attach}");
            trials.push(trial(&name, LIMIT, move || restart(attach, signal)));
        }
        for (signal, name) in [(libc::SIGTERM, "term"), (libc::SIGINT, "interrupt")] {
            let name = format!("survive::{name}_leaves_nothing_{attach}");
            trials.push(trial(&name, LIMIT, move || leaves_nothing(attach, signal)));
        }
        let name = format!("survive::foreign_things_stay_{attach}");
        trials.push(trial(&name, LIMIT, move || foreign_things_stay(attach)));
        let name = format!("survive::a_program_that_comes_first_is_told_{attach}");
        trials.push(trial(&name, LIMIT, move || told_of_the_first(attach)));
        let name = format!("survive::foreign_things_stay_after_a_kill_{attach}");
        trials.push(trial(&name, LIMIT, move || foreign_things_stay_after_a_kill(attach)));
    }
    for (signal, name) in [(libc::SIGKILL, "kill"), (libc::SIGTERM, "term")] {
        for (from, to) in [("clsact", "tcx"), ("tcx", "clsact")] {
            let name = format!("survive::{name}_and_restart_by_another_way_{from}_to_{to}");
            trials.push(trial(&name, LIMIT, move || another_way(from, to, signal)));
        }
    }
    trials.push(trial("survive::term_during_the_start_leaves_nothing", LIMIT, term_during_start));
    trials.push(trial("survive::a_replaced_qdisc_is_not_ours", LIMIT, replaced_qdisc));
    trials.push(trial("survive::removed_filters_do_not_keep_the_qdisc", LIMIT, removed_filters));
    trials.push(trial("survive::a_qdisc_without_filters_is_found_by_its_mark", LIMIT, marked_qdisc));
    trials.push(trial("survive::an_ingress_qdisc_does_not_turn_the_direction", LIMIT, ingress_qdisc));
    trials
}

fn needs(attach: &str) -> Result<()> {
    need::mpsec()?;
    need::command("tc")?;
    if attach == "tcx" { need::tcx() } else { Ok(()) }
}

fn start(attach: &str, netns: &Arc<Netns>) -> Result<Agent> {
    Options::default().with(&format!("--attach {attach}")).start(netns)
}

/// Sends frames out of `west`.
fn send(netns: &Netns, count: u64) -> Result<()> {
    let mut sender = Sender::new(netns, WEST, Buffer::Linear)?;
    let frame = &frames::all()[0].bytes;
    (0..count).try_for_each(|_| sender.send(frame))
}

fn sent(agent: &Agent) -> Result<u64> {
    Ok(Classes::read(&agent.scrape()?, WEST, "tx")?.total().packets)
}

fn counts_exactly(agent: &Agent, count: u64) -> Result<()> {
    let before = sent(agent)?;
    send(agent.netns(), count)?;
    wait::until(SHOWN, || {
        let got = sent(agent)? - before;
        ensure!(got == count, "{got} counted instead of {count}");
        Ok(())
    })
}

fn restart(attach: &str, signal: libc::c_int) -> Result<()> {
    needs(attach)?;
    let pair = Pair::bare()?;
    for round in 0..3 {
        let mut agent = start(attach, &pair.left)?;
        for hook in Hook::ALL {
            let there = hooks::attached(&pair.left, WEST, hook)?;
            ensure!(there.len() == 1, "round {round}, {}: {there:?}", hook.name());
        }
        counts_exactly(&agent, 20 + round)?;
        agent.stop(signal)?;
    }
    Ok(())
}

/// As when the kernel or the setting is another one than before: the new agent takes what the old one left behind away, and packets
/// are counted once.
fn another_way(from: &str, to: &str, signal: libc::c_int) -> Result<()> {
    needs(from)?;
    needs(to)?;
    let pair = Pair::bare()?;
    let way = |attach: &str| if attach == "tcx" { Way::Tcx } else { Way::Clsact };
    let mut old = start(from, &pair.left)?;
    counts_exactly(&old, 20)?;
    old.stop(signal)?;
    let mut new = start(to, &pair.left)?;
    wait::until(SHOWN, || {
        for hook in Hook::ALL {
            let there = hooks::attached(&pair.left, WEST, hook)?;
            ensure!(there.len() == 1 && there[0].way == way(to), "{}: {there:?}", hook.name());
        }
        ensure!(hooks::has_clsact(&pair.left, WEST)? == (to == "clsact"), "the queueing discipline");
        Ok(())
    })?;
    counts_exactly(&new, 30)?;
    new.stop(libc::SIGTERM)?;
    for device in [WEST, "lo"] {
        let left = hooks::attached_anywhere(&pair.left, device)?;
        ensure!(left.is_empty() && !hooks::has_clsact(&pair.left, device)?, "{device} still has {left:?}");
    }
    Ok(())
}

fn leaves_nothing(attach: &str, signal: libc::c_int) -> Result<()> {
    needs(attach)?;
    let pair = Pair::bare()?;
    let pinned = pinned(&pair.left)?;
    let mut agent = start(attach, &pair.left)?;
    counts_exactly(&agent, 5)?;
    ensure!(!interfaces(&agent.scrape()?).is_empty(), "nothing was counted");
    let status = agent.stop(signal)?;
    ensure!(status.success(), "{status}; {}", agent.stderr());
    for device in [WEST, "lo"] {
        let left = hooks::attached_anywhere(&pair.left, device)?;
        ensure!(left.is_empty(), "{device} still has {left:?}");
        ensure!(!hooks::has_clsact(&pair.left, device)?, "{device} still has the qdisc");
    }
    ensure!(self::pinned(&pair.left)? == pinned, "pinned before: {pinned}, now: {}", self::pinned(&pair.left)?);
    ensure!(!agent.folder().join("mpsec.sock").exists(), "the socket is still there");
    Ok(())
}

fn term_during_start() -> Result<()> {
    needs("clsact")?;
    let pair = Pair::bare()?;
    for number in 0..20 {
        link::veth((&pair.left, &format!("more{number}")), (&pair.right, &format!("more{number}")))?;
    }
    let mut agent = Options::default().with("--attach clsact").spawn(&pair.left)?;
    wait::until(START, || {
        ensure!(hooks::has_clsact(&pair.left, "lo")?, "nothing is attached yet");
        Ok(())
    })?;
    let status = agent.stop(libc::SIGTERM)?;
    ensure!(status.success(), "{status}; {}", agent.stderr());
    for device in pair.left.devices()? {
        let left = hooks::attached_anywhere(&pair.left, &device)?;
        ensure!(left.is_empty() && !hooks::has_clsact(&pair.left, &device)?, "{device} still has {left:?}");
    }
    Ok(())
}

/// The pinned objects. A fresh BPF file system has some of the kernel's own.
fn pinned(netns: &Netns) -> Result<String> {
    netns.output("find", &["/sys/fs/bpf"])
}

/// What somebody else has put on `west`: a clsact qdisc, a BPF filter and another filter, and a TCX program.
struct Foreign {
    netns: Arc<Netns>,
    before: Vec<Attached>,
    _links: Vec<Link>,
}

impl Foreign {
    fn install(netns: &Arc<Netns>) -> Result<Self> {
        let program = Program::pass("foreign")?;
        netns.run(|| program.pin("/sys/fs/bpf/foreign"))?;
        netns.tc("qdisc add dev west clsact")?;
        netns.tc("filter add dev west egress protocol all u32 match u32 0 0 classid 1:1")?;
        for hook in Hook::ALL {
            let line =
                format!("filter add dev west {} bpf direct-action object-pinned /sys/fs/bpf/foreign", hook.name());
            netns.tc(&line)?;
        }
        let mut links = Vec::new();
        if need::tcx().is_ok() {
            let index = netns.ifindex(WEST)?;
            for hook in Hook::ALL {
                links.push(netns.run(|| program.attach_tcx(index, hook))?);
            }
        }
        let before = hooks::attached_anywhere(netns, WEST)?;
        ensure!(before.iter().any(|one| one.kind == "u32"), "{before:?}");
        Ok(Self { netns: Arc::clone(netns), before, _links: links })
    }

    /// What there is now beside what was there before.
    fn added(&self) -> Result<Vec<Attached>> {
        let mut now = hooks::attached_anywhere(&self.netns, WEST)?;
        for one in &self.before {
            let at = now.iter().position(|other| other == one);
            let at = at.ok_or_else(|| anyhow::anyhow!("{one} is gone; there is {now:?}"))?;
            now.remove(at);
        }
        Ok(now)
    }

    fn alone(&self) -> Result<()> {
        let added = self.added()?;
        ensure!(added.is_empty(), "left behind: {added:?}");
        ensure!(hooks::has_clsact(&self.netns, WEST)?, "the foreign qdisc is gone");
        Ok(())
    }
}

fn foreign_things_stay(attach: &str) -> Result<()> {
    needs(attach)?;
    let pair = Pair::bare()?;
    let foreign = Foreign::install(&pair.left)?;
    let mut agent = start(attach, &pair.left)?;
    let ours = foreign.added()?;
    let way = if attach == "tcx" { Way::Tcx } else { Way::Clsact };
    ensure!(ours.len() == 2 && ours.iter().all(|one| one.way == way), "{ours:?}");
    counts_exactly(&agent, 20)?;
    agent.stop(libc::SIGTERM)?;
    foreign.alone()
}

/// What a program in front keeps is not counted, and nothing else says so.
fn told_of_the_first(attach: &str) -> Result<()> {
    needs(attach)?;
    need::tcx()?;
    let pair = Pair::bare()?;
    let agent = start(attach, &pair.left)?;
    let ahead = |direction: &str| {
        agent.scrape()?.sum("mpsec_interface_programs_ahead", &[("interface", WEST), ("direction", direction)])
    };
    ensure!((ahead("rx")?, ahead("tx")?) == (0, 0), "there was one before");
    let program = Program::pass("foreign")?;
    let index = pair.left.ifindex(WEST)?;
    let link = pair.left.run(|| program.attach_tcx_first(index, Hook::Egress))?;
    wait::until(LOOKS_AFTER_ITS_PROGRAMS + SHOWN, || {
        ensure!((ahead("rx")?, ahead("tx")?) == (0, 1), "rx {}, tx {}", ahead("rx")?, ahead("tx")?);
        Ok(())
    })?;
    drop(link);
    wait::until(LOOKS_AFTER_ITS_PROGRAMS + SHOWN, || {
        ensure!(ahead("tx")? == 0, "it is told after it has gone");
        Ok(())
    })
}

fn foreign_things_stay_after_a_kill(attach: &str) -> Result<()> {
    needs(attach)?;
    let pair = Pair::bare()?;
    let foreign = Foreign::install(&pair.left)?;
    start(attach, &pair.left)?.stop(libc::SIGKILL)?;
    let mut agent = start(attach, &pair.left)?;
    ensure!(foreign.added()?.len() == 2, "{:?}", foreign.added()?);
    counts_exactly(&agent, 20)?;
    agent.stop(libc::SIGTERM)?;
    foreign.alone()
}

/// Somebody who replaces the qdisc takes it over, filters or not.
fn replaced_qdisc() -> Result<()> {
    needs("clsact")?;
    let pair = Pair::bare()?;
    let mut agent = start("clsact", &pair.left)?;
    pair.left.tc("qdisc del dev west clsact")?;
    pair.left.tc("qdisc add dev west clsact")?;
    agent.stop(libc::SIGTERM)?;
    ensure!(hooks::has_clsact(&pair.left, WEST)?, "the agent removed a qdisc that it did not make");
    let left = hooks::attached_anywhere(&pair.left, WEST)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

fn removed_filters() -> Result<()> {
    needs("clsact")?;
    let pair = Pair::bare()?;
    let mut agent = start("clsact", &pair.left)?;
    for hook in Hook::ALL {
        pair.left.tc(&format!("filter del dev west {}", hook.name()))?;
    }
    agent.stop(libc::SIGTERM)?;
    ensure!(!hooks::has_clsact(&pair.left, WEST)?, "the qdisc is still there");
    Ok(())
}

/// What an agent leaves that is killed between making a qdisc and attaching to it.
fn marked_qdisc() -> Result<()> {
    needs("clsact")?;
    let pair = Pair::bare()?;
    pair.left.tc("qdisc add dev west stab overhead 1297109861 clsact")?;
    Options::default().start(&pair.left)?.stop(libc::SIGTERM)?;
    ensure!(!hooks::has_clsact(&pair.left, WEST)?, "the qdisc is still there");
    Ok(())
}

/// An `ingress` qdisc gives what is received to a filter that asks for what is sent.
fn ingress_qdisc() -> Result<()> {
    needs("clsact")?;
    let pair = Pair::bare()?;
    pair.left.tc("qdisc add dev west ingress")?;
    let mut agent = Options::default().with("--attach clsact").spawn(&pair.left)?;
    let frame = &frames::all()[0].bytes;
    wait::until(SHOWN, || agent.get("/-/healthy"))?;
    Sender::new(&pair.right, Pair::EAST, Buffer::Linear)?.send(frame)?;
    wait::until(SHOWN, || {
        let now = agent.scrape()?;
        let rx = Classes::read(&now, WEST, "rx")?.total().packets;
        ensure!(rx == 1, "{rx} packets received");
        let tx = Classes::read(&now, WEST, "tx")?.total().packets;
        ensure!(tx == 0, "{tx} packets sent");
        Ok(())
    })?;
    ensure!(agent.stderr().contains("ingress"), "{}", agent.stderr());
    agent.stop(libc::SIGTERM)?;
    let left = hooks::attached_anywhere(&pair.left, WEST)?;
    ensure!(left.is_empty(), "{left:?}");
    pair.left.tc("qdisc del dev west ingress").map(drop)
}
