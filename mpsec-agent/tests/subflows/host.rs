//! One host of a trial: the kernel side, in a namespace of its own.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use mpsec_agent::kernel::attach::{Attacher, Attachment};
use mpsec_agent::kernel::cgroup;
use mpsec_agent::kernel::ebpf::{Kernel, Settings};
use mpsec_agent::kernel::{probes::Ways, subflows::View};
use mpsec_common::maps::{Event, InterfaceSlot, interface_flags, slot_index};
use mpsec_common::mptcp::SubflowState;
use mpsec_common::traffic::Counter;
use mpsec_common::{Class, Direction, Link};
use mpsec_tests::trial::Skip;
use mpsec_tests::{netns::Netns, wait};

use super::SOON;

/// Those for this thread's network namespace.
pub(crate) fn settings() -> Result<Settings> {
    let netns_cookie = cgroup::netns_cookie()?;
    Ok(Settings {
        max_interfaces: 4,
        wireguard_ports: [0; 4],
        max_subflows: 64,
        netns_cookie,
        probes: Ways::Any,
        log_level: 0,
    })
}

/// The kernel side, in a namespace and on some of its interfaces.
pub(crate) struct Host {
    pub(crate) netns: Arc<Netns>,
    pub(crate) kernel: Kernel,
    /// Keeps the programs attached.
    _attached: Vec<Attachment>,
}

impl Host {
    pub(crate) fn new(netns: &Arc<Netns>, devices: &[&str]) -> Result<Host> {
        let load = || -> Result<(Kernel, Vec<Attachment>)> {
            let mut kernel = Kernel::load(&settings()?)?;
            match &kernel.subflows {
                Err(reason) if reason.contains("this kernel has no MPTCP") => return Err(Skip::because(reason)),
                Err(reason) => anyhow::bail!("{reason}"),
                Ok(_) => {}
            }
            let mut attacher = Attacher::new(None, kernel.program(Direction::Rx))?;
            let mut attached = Vec::new();
            for (number, device) in devices.iter().enumerate() {
                let ifindex = netns.ifindex(device)?;
                let slot = number as u16 + 1;
                kernel.counters.reach(slot)?;
                let entry = InterfaceSlot {
                    ifindex,
                    first_counter: kernel.counters.first(slot),
                    link: Link::Ethernet as u8,
                    uncounted: [0; 2],
                    flags: interface_flags::COUNTS_SUBFLOWS,
                };
                kernel.set_interface(slot_index(ifindex, 0), entry)?;
                for direction in Direction::ALL {
                    attached.push(attacher.attach(kernel.program(direction), ifindex, direction)?);
                }
            }
            Ok((kernel, attached))
        };
        let (kernel, attached) = netns.run(load)?;
        Ok(Host { netns: netns.clone(), kernel, _attached: attached })
    }

    pub(crate) fn poll(&mut self) -> Result<Vec<View>> {
        let mut views = Vec::new();
        let subflows = self.kernel.subflows.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
        subflows.poll(|view| views.push(*view))?;
        ensure!(subflows.used() as usize == views.len(), "{} in use, {} seen", subflows.used(), views.len());
        Ok(views)
    }

    /// The subflows, once there are so many and all of them are in a state.
    pub(crate) fn wait_for(&mut self, count: usize, state: SubflowState) -> Result<Vec<View>> {
        let mut views = Vec::new();
        wait::until(SOON, || {
            views = self.poll()?;
            let there = views.len() == count && views.iter().all(|view| view.info.state() == state);
            ensure!(there, "{views:?}");
            Ok(())
        })?;
        Ok(views)
    }

    /// What the interface counted of TCP.
    pub(crate) fn tcp(&self, interface: u16, direction: Direction) -> Counter {
        let classes = self.kernel.counters.sum(interface, direction);
        let mut sum = classes[Class::Mptcp as usize];
        sum.add(&classes[Class::Tcp as usize]);
        sum
    }

    /// Every packet of TCP on an interface was counted for this subflow.
    pub(crate) fn has_all(&self, interface: u16, view: &View) -> Result<()> {
        for (direction, counted) in [(Direction::Rx, view.rx), (Direction::Tx, view.tx)] {
            let all = self.tcp(interface, direction);
            ensure!(
                (counted.packets, counted.bytes) == (all.packets, all.bytes),
                "{direction:?}: {counted:?} of {all:?}"
            );
        }
        Ok(())
    }

    pub(crate) fn event(&self, event: Event) -> Result<u64> {
        let events = self.kernel.events()?;
        events.iter().find(|(which, _)| *which == event).map(|(_, count)| *count).context("no such event")
    }
}
