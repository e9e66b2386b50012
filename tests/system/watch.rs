//! Comparing what the agent counted on a device with what is known to have passed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mpsec_tests::agent::Agent;
use mpsec_tests::counted::{Classes, Counted};
use mpsec_tests::link::Counters;
use mpsec_tests::netns::Netns;
use mpsec_tests::wait;

/// How long the agent may take to show what has passed.
pub(crate) const SHOWN: Duration = Duration::from_secs(3);

/// One device, seen by the agent and by itself, from the moment that this was made.
pub(crate) struct Watch<'a> {
    agent: &'a Agent,
    netns: &'a Arc<Netns>,
    device: &'static str,
    rx: Classes,
    tx: Classes,
    counters: Counters,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(agent: &'a Agent, netns: &'a Arc<Netns>, device: &'static str) -> Result<Self> {
        let counters = netns.counters(device)?;
        let now = agent.scrape()?;
        let (rx, tx) = (Classes::read(&now, device, "rx")?, Classes::read(&now, device, "tx")?);
        Ok(Self { agent, netns, device, rx, tx, counters })
    }

    /// What the agent counted since, received and sent.
    pub(crate) fn counted(&self) -> Result<(Classes, Classes)> {
        let now = self.agent.scrape()?;
        let read = |direction| Classes::read(&now, self.device, direction);
        Ok((read("rx")?.since(&self.rx), read("tx")?.since(&self.tx)))
    }

    /// What the device counted since.
    pub(crate) fn passed(&self) -> Result<Counters> {
        Ok(self.netns.counters(self.device)? - self.counters)
    }

    /// The agent's sums equal the device's own counters, both ways, and they are of at least `packets` packets.
    pub(crate) fn equals_device(&self, packets: u64) -> Result<()> {
        self.equals_device_but_for(0, packets)
    }

    /// The same where the device leaves `tag` bytes of each packet out, which the kernel carries beside it.
    pub(crate) fn equals_device_but_for(&self, tag: u64, packets: u64) -> Result<()> {
        wait::until(SHOWN, || {
            let (rx, tx) = self.counted()?;
            let (r, t, passed) = (rx.total(), tx.total(), self.passed()?);
            let same = (r.packets, r.bytes - tag * r.packets, t.packets, t.bytes - tag * t.packets)
                == (passed.rx_packets, passed.rx_bytes, passed.tx_packets, passed.tx_bytes);
            ensure!(same, "{}: the device {passed:?}, the agent rx {:?}, tx {:?}", self.device, rx.0, tx.0);
            ensure!(r.packets + t.packets >= packets, "{}: only {passed:?} passed", self.device);
            Ok(())
        })
    }

    /// The agent counted exactly this of a class.
    pub(crate) fn equals(&self, class: &str, rx: Counted, tx: Counted) -> Result<()> {
        self.equals_in(|counted| counted, class, rx, tx)
    }

    /// The same without the link headers, of which not every device's own counter includes the same part.
    pub(crate) fn equals_from_l3(&self, class: &str, rx: Counted, tx: Counted) -> Result<()> {
        self.equals_in(|counted| Counted { bytes: 0, ..counted }, class, rx, tx)
    }

    fn equals_in(&self, part: fn(Counted) -> Counted, class: &str, rx: Counted, tx: Counted) -> Result<()> {
        let (rx, tx) = (part(rx), part(tx));
        wait::until(SHOWN, || {
            let (got_rx, got_tx) = self.counted()?;
            let (got_rx, got_tx) = (part(got_rx.get(class)), part(got_tx.get(class)));
            ensure!(got_rx == rx, "{}: rx of {class} is {got_rx:?} instead of {rx:?}", self.device);
            ensure!(got_tx == tx, "{}: tx of {class} is {got_tx:?} instead of {tx:?}", self.device);
            Ok(())
        })
    }
}
