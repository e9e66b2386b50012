//! Every frame is counted in its class, exactly, whatever it is and however its bytes lie in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::counted::{Classes, Counted};
use mpsec_tests::frames::{self, Case, class};
use mpsec_tests::link::{Counters, Offload};
use mpsec_tests::netns::Netns;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::{bulk, need, wait};

/// How long the agent may take to show what has passed.
const SHOWN: Duration = Duration::from_secs(3);
/// How many wrong frames are named.
const NAMED: usize = 12;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for attach in ["tcx", "clsact"] {
        for (buffer, kind) in [(Buffer::Linear, "linear"), (Buffer::Paged, "paged")] {
            for direction in ["rx", "tx"] {
                let name = format!("classes::{direction}_{attach}_{kind}");
                trials.push(trial(&name, Duration::from_secs(180), move || run(attach, buffer, direction)));
            }
        }
        let name = format!("classes::copies_for_own_listeners_are_not_received_{attach}");
        trials.push(trial(&name, Duration::from_secs(60), move || own_copies(attach)));
    }
    trials
}

/// What is sent to many comes up again for listeners on the same host, without a link header and on no wire: the device counts
/// it once, as sent.
fn own_copies(attach: &str) -> Result<()> {
    need::mpsec()?;
    if attach == "tcx" {
        need::tcx()?;
    }
    let pair = Pair::addressed()?;
    // The device counts segments where it has none made for it.
    Offload::Software.set(&pair.left, Pair::WEST)?;
    pair.left.ip(&format!("route add 224.0.0.0/4 dev {}", Pair::WEST))?;
    let agent = Options::default().with(&format!("--attach {attach}")).start(&pair.left)?;
    let counted =
        |direction: &str| Ok::<_, anyhow::Error>(Classes::read(&agent.scrape()?, Pair::WEST, direction)?.total());
    let (device_before, before) = (pair.left.counters(Pair::WEST)?, [counted("rx")?, counted("tx")?]);
    pair.left.run(|| -> Result<()> {
        let own = Ipv4Addr::new(192, 0, 2, 1);
        let (group, broadcast) = (Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(192, 0, 2, 255));
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353))?;
        socket.join_multicast_v4(&group, &own)?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(SHOWN))?;
        let receive = |to| -> Result<()> {
            ensure!(socket.recv(&mut [0; 200])? == 100, "no copy of what is sent to {to}");
            Ok(())
        };
        for to in [group, broadcast] {
            for _ in 0..5 {
                socket.send_to(&[7; 100], (to, 5353))?;
                receive(to)?;
            }
        }
        // As one super-packet, of which the kernel makes five datagrams.
        bulk::send_in_segments_of(&socket, 100)?;
        socket.send_to(&[7; 500], (group, 5353))?;
        (0..5).try_for_each(|_| receive(group))
    })?;
    wait::until(SHOWN, || {
        let device = pair.left.counters(Pair::WEST)? - device_before;
        let [rx, tx] = [counted("rx")?, counted("tx")?];
        let since = |now: Counted, before: Counted| (now.packets - before.packets, now.bytes - before.bytes);
        let (rx, tx) = (since(rx, before[0]), since(tx, before[1]));
        ensure!(tx.0 >= 15 && tx == (device.tx_packets, device.tx_bytes), "sent {tx:?}, and {device:?} by the device");
        ensure!(rx == (device.rx_packets, device.rx_bytes), "received {rx:?}, and {device:?} by the device");
        Ok(())
    })
}

fn run(attach: &str, buffer: Buffer, direction: &'static str) -> Result<()> {
    need::mpsec()?;
    if attach == "tcx" {
        need::tcx()?;
    }
    let pair = Pair::bare()?;
    let [left, right] = pair.ends();
    let (netns, device) = if direction == "tx" { left } else { right };
    let agent = Options::default().with(&format!("--attach {attach}")).start(netns)?;
    let sender = Sender::new(&pair.left, Pair::WEST, buffer)?;
    let mut bench = Bench { agent, netns, device, direction, sender };
    let wrong: Vec<String> =
        class::ALL.into_iter().map(|class| bench.class(class)).collect::<Result<Vec<_>>>()?.concat();
    let named: Vec<_> = wrong.iter().take(NAMED).map(String::as_str).collect();
    ensure!(wrong.is_empty(), "{} frames are counted wrongly, such as\n{}", wrong.len(), named.join("\n"));
    Ok(())
}

/// One agent, one device, one direction.
struct Bench<'a> {
    agent: Agent,
    netns: &'a Arc<Netns>,
    device: &'static str,
    direction: &'static str,
    sender: Sender,
}

impl Bench<'_> {
    /// Sends all frames of a class at once: nothing may show elsewhere. Gives what is wrong, frame by frame.
    fn class(&mut self, class: &str) -> Result<Vec<String>> {
        let cases: Vec<Case> = frames::all().into_iter().filter(|case| case.class == class).collect();
        let expected = expected(&cases);
        if self.difference(&cases, &expected)?.is_none() {
            return Ok(Vec::new());
        }
        let mut wrong = Vec::new();
        for case in cases.chunks(1) {
            if let Some(got) = self.difference(case, &self::expected(case))? {
                wrong.push(format!("{}: as {got}", case[0].name));
            }
            if wrong.len() == NAMED {
                break;
            }
        }
        if wrong.is_empty() {
            wrong.push(format!("{} frames of {class}, together but not one by one", cases.len()));
        }
        Ok(wrong)
    }

    /// Sends frames; gives what was counted where that is not what was expected.
    fn difference(&mut self, cases: &[Case], expected: &Classes) -> Result<Option<String>> {
        let (before, device_before) = (self.read()?, self.netns.counters(self.device)?);
        for case in cases {
            self.sender.send(&case.bytes)?;
        }
        self.check_device(device_before, expected)?;
        let seen = wait::until(SHOWN, || {
            let seen = self.read()?.since(&before);
            ensure!(seen.total().packets >= expected.total().packets, "counted {:?}", seen.0);
            Ok(seen)
        });
        Ok(match seen {
            Ok(seen) if seen == *expected => None,
            Ok(seen) => Some(format!("{:?} instead of {:?}", seen.0, expected.0)),
            Err(error) => Some(format!("{error:#} instead of {:?}", expected.0)),
        })
    }

    /// The device is the judge of whether all frames passed at all.
    fn check_device(&self, before: Counters, expected: &Classes) -> Result<()> {
        let passed = self.netns.counters(self.device)? - before;
        let total = expected.total();
        let (packets, bytes) = match self.direction {
            "tx" => (passed.tx_packets, passed.tx_bytes),
            _ => (passed.rx_packets, passed.rx_bytes),
        };
        ensure!((packets, bytes) == (total.packets, total.bytes), "the device counted {passed:?}, not {total:?}");
        Ok(())
    }

    fn read(&self) -> Result<Classes> {
        Classes::read(&self.agent.scrape()?, self.device, self.direction)
    }
}

fn expected(cases: &[Case]) -> Classes {
    let mut classes: BTreeMap<String, Counted> = BTreeMap::new();
    for case in cases {
        *classes.entry(case.class.to_owned()).or_default() += Counted::of(case);
    }
    Classes(classes)
}
