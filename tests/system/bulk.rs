//! Packets that the kernel keeps together are counted as what they are on the wire.

use std::time::Duration;

use anyhow::Result;
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::bulk::{self, Sent, Transfer};
use mpsec_tests::counted::Counted;
use mpsec_tests::link::{self, Offload};
use mpsec_tests::need;
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;

use crate::watch::Watch;

const LIMIT: Duration = Duration::from_secs(60);
const LEN: u64 = 8_000_000;
const ETHERNET: u64 = 14;
/// Outer Ethernet, IPv4, UDP and VXLAN headers.
const VXLAN: u64 = 14 + 20 + 8 + 8;

/// An IP version: its name, an address on each side, the length of its header.
type Version = (&'static str, &'static str, u64);
const VERSIONS: [Version; 2] = [("v4", "192.0.2.2", 20), ("v6", "2001:db8::2", 40)];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for offload in Offload::ALL {
        let kind = format!("{offload:?}").to_lowercase();
        for version in VERSIONS {
            let name = version.0;
            trials.push(trial(&format!("bulk::tcp_{name}_{kind}"), LIMIT, move || tcp(offload, version)));
            trials.push(trial(&format!("bulk::udp_{name}_{kind}"), LIMIT, move || udp(offload, version)));
        }
        trials.push(trial(&format!("bulk::vxlan_{kind}"), LIMIT, move || vxlan(offload)));
    }
    trials
}

fn wire(offload: Offload) -> Result<Pair> {
    need::mpsec()?;
    need::command("ethtool")?;
    let pair = Pair::addressed()?;
    for (netns, device) in pair.ends() {
        bulk::plain_tcp(netns)?;
        offload.set(netns, device)?;
    }
    Ok(pair)
}

/// What one direction of a transfer is, behind link headers of `link_len` bytes.
fn counted(sent: Sent, transfer: &Transfer, ip_len: u64, link_len: u64) -> Counted {
    Counted::new(sent.segments, sent.l3_bytes(ip_len) + transfer.options, link_len)
}

fn tcp(offload: Offload, (_, address, ip_len): Version) -> Result<()> {
    let pair = wire(offload)?;
    let agents = [Agent::start(&pair.left)?, Agent::start(&pair.right)?];
    let west = Watch::new(&agents[0], &pair.left, Pair::WEST)?;
    let east = Watch::new(&agents[1], &pair.right, Pair::EAST)?;
    let transfer = bulk::tcp(&pair.left, &pair.right, address.parse()?, LEN)?;
    let up = counted(transfer.up, &transfer, ip_len, ETHERNET);
    let down = counted(transfer.down, &transfer, ip_len, ETHERNET);
    west.equals("tcp", down, up)?;
    east.equals("tcp", up, down)?;
    if offload == Offload::Full {
        return Ok(());
    }
    // A device that segments nothing itself counts what is on the wire, too.
    west.equals_device(up.packets)?;
    east.equals_device(up.packets)
}

fn udp(offload: Offload, (_, address, ip_len): Version) -> Result<()> {
    let pair = wire(offload)?;
    let agents = [Agent::start(&pair.left)?, Agent::start(&pair.right)?];
    let west = Watch::new(&agents[0], &pair.left, Pair::WEST)?;
    let east = Watch::new(&agents[1], &pair.right, Pair::EAST)?;
    let (packets, payload) = bulk::udp_segments(&pair.left, &pair.right, address.parse()?, 1200, 40, 100)?;
    let expected = Counted::new(packets, payload + packets * (ip_len + 8), ETHERNET);
    west.equals("udp", Counted::default(), expected)?;
    east.equals("udp", expected, Counted::default())
}

/// The kernel keeps packets together inside a tunnel as well; the headers that repeat are then all of both.
fn vxlan(offload: Offload) -> Result<()> {
    need::link_kind("vxlan")?;
    let pair = wire(offload)?;
    for ((netns, device), remote) in pair.ends().into_iter().zip(["192.0.2.2", "192.0.2.1"]) {
        netns.ip(&format!("link add name top0 type vxlan id 5 dstport 4789 remote {remote} dev {device}"))?;
        netns.ip("link set dev top0 arp off up")?;
        offload.set(netns, "top0")?;
    }
    let inner = [(&pair.left, "198.51.100.1"), (&pair.right, "198.51.100.2")];
    for (netns, address) in inner {
        link::address(netns, "top0", &format!("{address}/24"))?;
    }
    link::neighbours((&pair.left, "top0", inner[0].1), (&pair.right, "top0", inner[1].1))?;
    let agents = [Agent::start(&pair.left)?, Agent::start(&pair.right)?];
    let watches = |device: [&'static str; 2]| -> Result<[Watch<'_>; 2]> {
        Ok([Watch::new(&agents[0], &pair.left, device[0])?, Watch::new(&agents[1], &pair.right, device[1])?])
    };
    let (tops, wires) = (watches(["top0", "top0"])?, watches([Pair::WEST, Pair::EAST])?);
    let transfer = bulk::tcp(&pair.left, &pair.right, inner[1].1.parse()?, LEN)?;
    let top = |sent| counted(sent, &transfer, 20, ETHERNET);
    let wire = |sent| {
        let inside = top(sent);
        Counted::new(inside.packets, inside.bytes + inside.packets * (VXLAN - ETHERNET), ETHERNET)
    };
    tops[0].equals_from_l3("tcp", top(transfer.down), top(transfer.up))?;
    tops[1].equals_from_l3("tcp", top(transfer.up), top(transfer.down))?;
    wires[0].equals("udp", wire(transfer.down), wire(transfer.up))?;
    wires[1].equals("udp", wire(transfer.up), wire(transfer.down))
}
