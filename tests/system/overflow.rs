//! Interfaces beyond the limit are counted together, and a metric says that it is so.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
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
    vec![trial("overflow::what_is_beyond_the_limit_is_counted_together", LIMIT, overflow)]
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

/// The metric that says how many interfaces share `_other`.
fn says_so(now: &Exposition) -> Result<()> {
    let (name, labels) = crate::names::FOLDED;
    let value = now.sum(name, labels)?;
    ensure!(value == (DEVICES - ROOM) as u64, "{name} is {value}");
    Ok(())
}
