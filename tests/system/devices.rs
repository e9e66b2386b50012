//! On every kind of device the sums equal the device's own counters.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Agent;
use mpsec_tests::bulk;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::{self, Case};
use mpsec_tests::netns::Netns;
use mpsec_tests::send::{Buffer, Sender};
use mpsec_tests::topology::Pair;
use mpsec_tests::trial::trial;
use mpsec_tests::tuntap::{Kind, TunTap};
use mpsec_tests::{link, need};

use crate::watch::Watch;

const LIMIT: Duration = Duration::from_secs(60);
/// Datagrams of all kinds of sizes, the longest that fit into a packet on a device with a tunnel's header taken off.
const SIZES: [usize; 9] = [0, 1, 18, 100, 511, 512, 1000, 1400, 1422];
const COUNT: u64 = SIZES.len() as u64;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("devices::veth", LIMIT, veth),
        trial("devices::bridge", LIMIT, bridge),
        trial("devices::macvlan", LIMIT, || stacked("macvlan", "mode bridge")),
        trial("devices::vlan", LIMIT, || stacked("vlan", "id 5")),
        trial("devices::vxlan", LIMIT, vxlan),
        trial("devices::tun", LIMIT, || tuntap(Kind::Tun)),
        trial("devices::tap", LIMIT, || tuntap(Kind::Tap)),
        trial("devices::ifb", LIMIT, ifb),
        trial("devices::dummy", LIMIT, dummy),
        trial("devices::lo", LIMIT, lo),
    ]
}

/// Datagrams both ways, of both versions where there are addresses.
fn talk(pair: &Pair, addresses: &[(&str, &str)]) -> Result<()> {
    for (left, right) in addresses {
        bulk::datagrams(&pair.left, &pair.right, right.parse()?, &SIZES)?;
        bulk::datagrams(&pair.right, &pair.left, left.parse()?, &SIZES)?;
    }
    Ok(())
}

/// Puts addresses on a device of each side and tells them of each other.
fn address(pair: &Pair, device: &str, net: &str) -> Result<(String, String)> {
    let (left, right) = (format!("{net}.1"), format!("{net}.2"));
    link::address(&pair.left, device, &format!("{left}/24"))?;
    link::address(&pair.right, device, &format!("{right}/24"))?;
    link::neighbours((&pair.left, device, &left), (&pair.right, device, &right))?;
    Ok((left, right))
}

fn veth() -> Result<()> {
    need::mpsec()?;
    let pair = Pair::addressed()?;
    let agent = Agent::start(&pair.left)?;
    let watch = Watch::new(&agent, &pair.left, Pair::WEST)?;
    talk(&pair, &[("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])?;
    watch.equals_device(4 * COUNT)
}

fn bridge() -> Result<()> {
    need::mpsec()?;
    need::link_kind("bridge")?;
    let pair = Pair::bare()?;
    pair.left.ip("link add name br0 type bridge stp_state 0 mcast_snooping 0")?;
    pair.left.ip(&format!("link set dev {} master br0", Pair::WEST))?;
    pair.left.ip("link set dev br0 arp off up")?;
    link::address(&pair.left, "br0", "192.0.2.1/24")?;
    link::address(&pair.right, Pair::EAST, "192.0.2.2/24")?;
    link::neighbours((&pair.left, "br0", "192.0.2.1"), (&pair.right, Pair::EAST, "192.0.2.2"))?;
    let agent = Agent::start(&pair.left)?;
    let bridge = Watch::new(&agent, &pair.left, "br0")?;
    let port = Watch::new(&agent, &pair.left, Pair::WEST)?;
    talk(&pair, &[("192.0.2.1", "192.0.2.2")])?;
    bridge.equals_device(2 * COUNT)?;
    port.equals_device(2 * COUNT)
}

/// A device on top of the wire, on both sides.
fn stacked(kind: &str, options: &str) -> Result<()> {
    need::mpsec()?;
    need::link_kind(kind)?;
    let pair = Pair::bare()?;
    for (netns, device) in pair.ends() {
        netns.ip(&format!("link add link {device} name top0 type {kind} {options}"))?;
        netns.ip("link set dev top0 arp off up")?;
    }
    let (left, right) = address(&pair, "top0", "198.51.100")?;
    let agent = Agent::start(&pair.left)?;
    let top = Watch::new(&agent, &pair.left, "top0")?;
    let wire = Watch::new(&agent, &pair.left, Pair::WEST)?;
    talk(&pair, &[(left.as_str(), right.as_str())])?;
    top.equals_device(2 * COUNT)?;
    // A veth takes a tag as one that hardware would add.
    wire.equals_device_but_for(if kind == "vlan" { 4 } else { 0 }, 2 * COUNT)
}

fn vxlan() -> Result<()> {
    need::mpsec()?;
    need::link_kind("vxlan")?;
    let pair = Pair::addressed()?;
    for ((netns, device), remote) in pair.ends().into_iter().zip(["192.0.2.2", "192.0.2.1"]) {
        netns.ip(&format!("link add name top0 type vxlan id 5 dstport 4789 remote {remote} dev {device}"))?;
        netns.ip("link set dev top0 arp off up")?;
        netns.sysctl("net/ipv6/conf/top0/disable_ipv6", "1")?;
    }
    let (left, right) = address(&pair, "top0", "198.51.100")?;
    let agent = Agent::start(&pair.left)?;
    let top = Watch::new(&agent, &pair.left, "top0")?;
    let wire = Watch::new(&agent, &pair.left, Pair::WEST)?;
    let sizes = &SIZES[..SIZES.len() - 1];
    bulk::datagrams(&pair.left, &pair.right, right.parse()?, sizes)?;
    bulk::datagrams(&pair.right, &pair.left, left.parse()?, sizes)?;
    top.equals_device(2 * sizes.len() as u64)?;
    wire.equals_device(2 * sizes.len() as u64)
}

fn tuntap(kind: Kind) -> Result<()> {
    need::mpsec()?;
    need::file("/dev/net/tun")?;
    let netns = Arc::new(Netns::new()?);
    let mut device = TunTap::new(&netns, "tunnel", kind)?;
    let agent = Agent::start(&netns)?;
    let watch = Watch::new(&agent, &netns, "tunnel")?;
    let mut sender = Sender::new(&netns, "tunnel", Buffer::Linear)?;
    let received: Vec<_> = frames::all().into_iter().filter(|case| kind == Kind::Tap || case.fits_tun()).collect();
    // A raw socket's packet gets its EtherType from the IP header, if there is all of one (`ip_tunnel_parse_protocol` in
    // net/ipv4/ip_tunnel_core.c, Linux 6.18); without one it would not be IP.
    let whole = |case: &&Case| kind == Kind::Tap || case.l3().len() >= if case.l3()[0] >> 4 == 4 { 20 } else { 40 };
    let sent: Vec<_> = received.iter().filter(whole).cloned().collect();
    let bytes = |case: &Case| if kind == Kind::Tun { case.l3().to_vec() } else { case.bytes.clone() };
    for case in &received {
        device.inject(&bytes(case))?;
    }
    for case in &sent {
        sender.send(&bytes(case))?;
        device.take()?;
    }
    watch.equals_device((received.len() + sent.len()) as u64)?;
    // And each in its class: a tun's frames begin with the network header.
    let (rx, tx) = watch.counted()?;
    for class in frames::class::ALL {
        for (direction, cases, got) in [("rx", &received, rx.get(class)), ("tx", &sent, tx.get(class))] {
            let link_len = |case: &Case| if kind == Kind::Tun { 0 } else { case.link_len as u64 };
            let of_class = cases.iter().filter(|case| case.class == class);
            let expected =
                of_class.fold(Counted::default(), |sum, case| sum + Counted::new(1, case.l3_bytes(), link_len(case)));
            ensure!(got == expected, "{direction} of {class}: {got:?} instead of {expected:?}");
        }
    }
    Ok(())
}

/// What an ifb device gets it sends on at once; only its sending side passes a TC hook.
fn ifb() -> Result<()> {
    need::mpsec()?;
    need::link_kind("ifb")?;
    let pair = Pair::addressed()?;
    pair.left.ip("link add name ifb0 type ifb")?;
    pair.left.ip("link set dev ifb0 up")?;
    pair.left.tc(&format!("qdisc add dev {} clsact", Pair::WEST))?;
    pair.left.tc(&format!(
        "filter add dev {} ingress protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0",
        Pair::WEST
    ))?;
    let agent = Agent::start(&pair.left)?;
    let ifb = Watch::new(&agent, &pair.left, "ifb0")?;
    let wire = Watch::new(&agent, &pair.left, Pair::WEST)?;
    bulk::datagrams(&pair.right, &pair.left, "192.0.2.1".parse()?, &SIZES)?;
    let l3 = SIZES.iter().map(|size| *size as u64 + 28).sum();
    ifb.equals("udp", Counted::default(), Counted::new(COUNT, l3, 14))?;
    wire.equals_device(COUNT)
}

fn dummy() -> Result<()> {
    need::mpsec()?;
    need::link_kind("dummy")?;
    let netns = Arc::new(Netns::new()?);
    link::make(&netns, "dummy", "dummy0")?;
    netns.ip("link set dev dummy0 arp off up")?;
    let agent = Agent::start(&netns)?;
    let watch = Watch::new(&agent, &netns, "dummy0")?;
    let mut sender = Sender::new(&netns, "dummy0", Buffer::Linear)?;
    let cases = frames::all();
    for case in &cases {
        sender.send(&case.bytes)?;
    }
    watch.equals_device(cases.len() as u64)
}

/// Scrapes cross `lo` too, so UDP alone is compared: what is sent there is received there, without a link header.
fn lo() -> Result<()> {
    need::mpsec()?;
    let netns = Arc::new(Netns::new()?);
    let agent = Agent::start(&netns)?;
    let watch = Watch::new(&agent, &netns, "lo")?;
    bulk::datagrams(&netns, &netns, "127.0.0.1".parse()?, &SIZES)?;
    let l3 = SIZES.iter().map(|size| *size as u64 + 28).sum();
    let expected = Counted::new(COUNT, l3, 0);
    watch.equals("udp", expected, expected)
}
