//! Two hosts and a line between them that is tapped in the middle.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use mpsec_tests::agent::{Agent, Options};
use mpsec_tests::counted::{Classes, Counted};
use mpsec_tests::frames::{self, class};
use mpsec_tests::link::{self, Offload};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::Family;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::tally::{self, Sums, Tally};
use mpsec_tests::tcpdump::Tcpdump;
use mpsec_tests::{need, sniffer, wait};

use crate::watch::{SHOWN, Watch};

/// The class of what comes by a second time.
pub(crate) const DECRYPTED: &str = "decrypted";
pub(crate) const DEVICES: [&str; 2] = ["west", "east"];
const PORTS: [&str; 2] = ["near", "far"];

/// Hosts, devices, and what lies between them.
pub(crate) struct Line {
    /// The hosts: the one with `west`, and the one with `east`.
    pub(crate) hosts: [Arc<Netns>; 2],
    middle: Netns,
}

/// A host's address on the line.
pub(crate) fn outer(family: Family, host: usize) -> IpAddr {
    let number = host + 1;
    let text = if family == Family::V4 { format!("192.0.2.{number}") } else { format!("2001:db8::{number}") };
    text.parse().expect("an address")
}

/// A host's address inside a tunnel.
pub(crate) fn inner(family: Family, host: usize) -> IpAddr {
    let number = host + 1;
    let text = if family == Family::V4 { format!("198.51.100.{number}") } else { format!("2001:db8:1::{number}") };
    text.parse().expect("an address")
}

impl Line {
    /// A line that nothing crosses unasked, between hosts that know each other.
    pub(crate) fn new(offload: Offload) -> Result<Self> {
        need::mpsec()?;
        need::command("ethtool")?;
        let line = Self { hosts: [Arc::new(Netns::new()?), Arc::new(Netns::new()?)], middle: Netns::new()? };
        // Without snooping and with IPv6 off the bridge says nothing of its own.
        line.middle.ip("link add name bridge type bridge mcast_snooping 0 stp_state 0")?;
        line.middle.ip("link set dev bridge arp off up")?;
        for (host, netns) in line.hosts.iter().enumerate() {
            link::veth((netns, DEVICES[host]), (&line.middle, PORTS[host]))?;
            line.middle.ip(&format!("link set dev {} master bridge", PORTS[host]))?;
            offload.set(netns, DEVICES[host])?;
            netns.enable_ipv6()?;
            link::address(netns, DEVICES[host], &format!("{}/24", outer(Family::V4, host)))?;
            link::address(netns, DEVICES[host], &format!("{}/64", outer(Family::V6, host)))?;
        }
        for family in Family::ALL {
            let [west, east] = [0, 1].map(|host| outer(family, host).to_string());
            link::neighbours((&line.hosts[0], DEVICES[0], &west), (&line.hosts[1], DEVICES[1], &east))?;
        }
        Ok(line)
    }

    /// Has the hosts' devices gather what they receive: a veth does where its peer sends no super-packets.
    pub(crate) fn receives_by_gro(&self) -> Result<()> {
        PORTS.iter().try_for_each(|port| Offload::Off.set(&self.middle, port))
    }

    /// Agents on both hosts, and captures on the wire and on the hosts' devices, all from now on.
    pub(crate) fn watched(&self) -> Result<Watched<'_>> {
        self.watched_with(Options::default())
    }

    /// The same, where the first host's agent is started in a way of its own.
    pub(crate) fn watched_with(&self, first: Options) -> Result<Watched<'_>> {
        let agents = [first.start(&self.hosts[0])?, Agent::start(&self.hosts[1])?];
        let wire = Tally::watch(&self.middle, PORTS[0])?;
        let devices = [Tally::watch(&self.hosts[0], DEVICES[0])?, Tally::watch(&self.hosts[1], DEVICES[1])?];
        Ok(Watched { line: self, agents, wire, devices })
    }

    /// Puts TCP and UDP on the wire beside a tunnel, the same both ways: one of so many of the crafted frames. Says how much each
    /// way.
    pub(crate) fn leak(&self, one_of: usize) -> Result<Counted> {
        let is_leak = |case: &frames::Case| case.link_len == 14 && [class::TCP, class::UDP].contains(&case.class);
        let leaks: Vec<_> = frames::all().into_iter().filter(is_leak).step_by(one_of).collect();
        for (netns, device) in self.hosts.iter().zip(DEVICES) {
            let mut sender = Sender::new(netns, device, Buffer::Linear)?;
            leaks.iter().try_for_each(|case| sender.send(&case.bytes))?;
        }
        Ok(leaks.iter().fold(Counted::default(), |sum, case| sum + Counted::of(case)))
    }

    /// What each host sends from now on, written down in the middle.
    pub(crate) fn tcpdumps(&self) -> Result<[Tcpdump; 2]> {
        Ok([Tcpdump::watch(&self.middle, PORTS[0])?, Tcpdump::watch(&self.middle, PORTS[1])?])
    }
}

/// A line on which everything is counted.
pub(crate) struct Watched<'a> {
    line: &'a Line,
    pub(crate) agents: [Agent; 2],
    wire: Tally,
    devices: [Tally; 2],
}

/// What a host's device has seen, as the captures have it, received and sent.
#[derive(Debug)]
pub(crate) struct Seen {
    /// What crossed the wire, by class.
    pub(crate) wire: Sums,
    /// What came by on the device again, having been decrypted.
    pub(crate) decrypted: Counted,
}

impl Watched<'_> {
    /// What the captures have for each host, when nothing more comes.
    pub(crate) fn seen(&self) -> Result<[Seen; 2]> {
        let read = || Ok((self.wire.sums()?, self.devices[0].sums()?, self.devices[1].sums()?));
        let ([from_west, to_west], west, east) = sniffer::settled(read)?;
        // The port in the middle sends what the host receives.
        let west_wire = [to_west.clone(), from_west.clone()];
        let east_wire = [from_west, to_west];
        Ok([Seen::of(west_wire, &west)?, Seen::of(east_wire, &east)?])
    }

    /// Both agents have counted on their devices what the captures have, class by class, and nothing else: what was decrypted as
    /// that, once, and what crossed the wire as what it is.
    pub(crate) fn agrees(&self) -> Result<[Seen; 2]> {
        let seen = self.seen()?;
        for (host, seen) in seen.iter().enumerate() {
            wait::until(SHOWN, || self.host_agrees(host, seen))?;
        }
        Ok(seen)
    }

    fn host_agrees(&self, host: usize, seen: &Seen) -> Result<()> {
        let metrics = self.agents[host].scrape()?;
        for (direction, wire) in ["rx", "tx"].into_iter().zip(&seen.wire) {
            let mut expected = Classes(wire.iter().map(|(class, sum)| ((*class).to_owned(), *sum)).collect());
            if direction == "rx" && seen.decrypted != Counted::default() {
                expected.0.insert(DECRYPTED.to_owned(), seen.decrypted);
            }
            let counted = Classes::read(&metrics, DEVICES[host], direction)?;
            ensure!(counted == expected, "{} {direction}: {counted:?} instead of {expected:?}", DEVICES[host]);
        }
        Ok(())
    }

    /// Waits until what a host's agent has counted on its device is as it shall be.
    pub(crate) fn shows(&self, host: usize, direction: &str, is: impl Fn(&Classes) -> Result<()>) -> Result<()> {
        let read = || Classes::read(&self.agents[host].scrape()?, DEVICES[host], direction);
        wait::until(SHOWN, || is(&read()?))
    }

    /// What a host's agent counts on a device from now on.
    pub(crate) fn watch(&self, host: usize, device: &'static str) -> Result<Watch<'_>> {
        Watch::new(&self.agents[host], &self.line.hosts[host], device)
    }
}

impl Seen {
    fn of(wire: Sums, [rx, tx]: &Sums) -> Result<Self> {
        ensure!(tx == &wire[1], "the device sent {tx:?}, the wire has {:?}", wire[1]);
        let mut decrypted = Counted::default();
        for (class, sum) in rx {
            decrypted += *sum - tally::of(&wire[0], class);
        }
        let missing = wire[0].iter().find(|(class, sum)| tally::of(rx, class).packets < sum.packets);
        ensure!(missing.is_none(), "the device did not see {missing:?}");
        Ok(Self { wire, decrypted })
    }

    /// Everything of the wire in a direction that is neither encrypted nor exempt.
    pub(crate) fn clear(&self, direction: usize) -> Counted {
        let hidden =
            [class::ESP, class::ESP_UDP, class::IKE, class::NAT_KEEPALIVE, class::ARP, class::NEIGHBOR_DISCOVERY];
        let clear = self.wire[direction].iter().filter(|(class, _)| !hidden.contains(class));
        clear.map(|(_, sum)| *sum).fold(Counted::default(), |all, one| all + one)
    }
}
