//! Interfaces beyond the limit are counted together, and a metric says that it is so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Options;
use mpsec_tests::counted::{Classes, Counted, OVERFLOW, interfaces};
use mpsec_tests::exposition::Exposition;
use mpsec_tests::frames;
use mpsec_tests::netns::Netns;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::trial::trial;
use mpsec_tests::{link, need, wait};

use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);
const DEVICES: usize = 8;
const ROOM: usize = 4;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("overflow::what_is_beyond_the_limit_is_counted_together", LIMIT, overflow),
        trial("overflow::who_had_no_room_gets_what_becomes_free", LIMIT, promoted),
    ]
}

fn overflow() -> Result<()> {
    need::mpsec()?;
    let (here, there) = (Arc::new(Netns::new()?), Netns::new()?);
    let names: Vec<String> = (0..DEVICES).map(|number| format!("wire{number}")).collect();
    for name in &names {
        link::veth((&here, name), (&there, name))?;
    }
    let agent = Options::default().with(&format!("--include wire* --max-interfaces {ROOM}")).start(&here)?;
    let frame = &frames::all()[0];
    let mut sent = Counted::default();
    for (number, name) in names.iter().enumerate() {
        let mut sender = Sender::new(&here, name, Buffer::Linear)?;
        for _ in 0..=number {
            sender.send(&frame.bytes)?;
            sent += Counted::of(frame);
        }
    }
    wait::until(SHOWN, || {
        let now = agent.scrape()?;
        let shown = interfaces(&now);
        ensure!(shown.len() == ROOM + 1 && shown.contains(OVERFLOW), "{shown:?}");
        let mut total = Counted::default();
        for name in &shown {
            let counted = Classes::read(&now, name, "tx")?.total();
            total += counted;
            if let Some(number) = names.iter().position(|wire| wire == name) {
                ensure!(counted.packets == number as u64 + 1, "{name}: {counted:?}");
            }
        }
        ensure!(total == sent, "{total:?} instead of {sent:?}");
        says_so(&now)
    })
}

fn promoted() -> Result<()> {
    need::mpsec()?;
    let (here, there) = (Arc::new(Netns::new()?), Netns::new()?);
    for name in ["wire0", "wire1"] {
        link::veth((&here, name), (&there, name))?;
    }
    let agent = Options::default().with("--include wire* --max-interfaces 1").start(&here)?;
    let first = |now: &Exposition| interfaces(now).into_iter().find(|name| name != OVERFLOW);
    let frame = &frames::all()[0];
    for name in ["wire0", "wire1"] {
        let mut sender = Sender::new(&here, name, Buffer::Linear)?;
        (0..7).try_for_each(|_| sender.send(&frame.bytes))?;
    }
    let (own, other) = wait::until(SHOWN, || {
        let now = agent.scrape()?;
        let other = Classes::read(&now, OVERFLOW, "tx")?.total().packets;
        ensure!(other == 7, "{other} packets under {OVERFLOW}");
        let attached = now.label_values(crate::names::ATTACHED.0, "interface");
        let own = first(&now).context("neither has counters of its own")?;
        ensure!(attached.iter().eq([OVERFLOW, own.as_str()]), "{attached:?}");
        Ok((own.clone(), if own == "wire0" { "wire1" } else { "wire0" }))
    })?;
    here.ip(&format!("link del dev {own}"))?;
    wait::until(SHOWN, || {
        let folded = agent.scrape()?.sum(crate::names::FOLDED.0, crate::names::FOLDED.1)?;
        ensure!(folded == 0, "{folded} are folded");
        Ok(())
    })?;
    let mut sender = Sender::new(&here, other, Buffer::Linear)?;
    (0..3).try_for_each(|_| sender.send(&frame.bytes))?;
    wait::until(SHOWN, || {
        let now = agent.scrape()?;
        let counted = |name| Classes::read(&now, name, "tx").map(|classes| classes.total().packets);
        let (after, before) = (counted(other)?, counted(OVERFLOW)?);
        ensure!((after, before) == (3, 7), "{after} of its own, {before} together");
        Ok(())
    })
}

/// The metric that says how many interfaces share `_other`.
fn says_so(now: &Exposition) -> Result<()> {
    let (name, labels) = crate::names::FOLDED;
    let value = now.sum(name, labels)?;
    ensure!(value == (DEVICES - ROOM) as u64, "{name} is {value}");
    Ok(())
}
