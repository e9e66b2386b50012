//! A host that passes on what comes out of a tunnel: in clear, or into another one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::counted::Counted;
use mpsec_tests::frames::class;
use mpsec_tests::layers::{Kind, Layer};
use mpsec_tests::link::{self, Offload};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::Family;
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::{End, Mode, Tunnel};
use mpsec_tests::{bulk, tally};

use super::by_hand::{NUMBER, SIZES};
use super::line::{DECRYPTED, DEVICES, Line, inner, outer};

const LIMIT: Duration = Duration::from_secs(60);
/// Devices between the gateway and the host behind it.
const LAN: [&str; 2] = ["lan", "inland"];

/// How the gateway passes on what it decrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Onward {
    /// As it is.
    Clear,
    /// In a second tunnel.
    Encrypted,
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for family in Family::ALL {
        for (name, onward) in [("gateway", Onward::Clear), ("hub", Onward::Encrypted)] {
            trials.push(trial(&format!("ipsec::{name}_{family}"), LIMIT, move || passed_on(family, onward)));
        }
    }
    trials
}

/// An address behind the gateway: its own, and that of the host there.
fn behind(family: Family, host: usize) -> IpAddr {
    let number = host + 1;
    let text = if family == Family::V4 { format!("203.0.113.{number}") } else { format!("2001:db8:2::{number}") };
    text.parse().expect("an address")
}

/// The host behind the gateway, and the ways through it.
fn inland(gateway: &Netns, family: Family) -> Result<Arc<Netns>> {
    let netns = Arc::new(Netns::new()?);
    netns.enable_ipv6()?;
    let forwarding = if family == Family::V4 { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
    gateway.sysctl(forwarding, "1")?;
    link::veth((gateway, LAN[0]), (&netns, LAN[1]))?;
    gateway.enable_ipv6()?;
    for (host, netns) in [gateway, &netns].into_iter().enumerate() {
        Offload::Off.set(netns, LAN[host])?;
        let bits = if family == Family::V4 { 24 } else { 64 };
        link::address(netns, LAN[host], &format!("{}/{bits}", behind(family, host)))?;
    }
    let [near, far] = [0, 1].map(|host| behind(family, host).to_string());
    link::neighbours((gateway, LAN[0], &near), (&netns, LAN[1], &far))?;
    way(&netns, inner(family, 0), behind(family, 0), LAN[1])?;
    way(gateway, inner(family, 0), outer(family, 0), DEVICES[1])?;
    Ok(netns)
}

fn way(netns: &Netns, to: IpAddr, via: IpAddr, device: &str) -> Result<()> {
    netns.ip(&format!("route add {to} via {via} dev {device}")).map(drop)
}

/// The traveller's tunnel to the gateway is for the host behind it.
fn passed_on(family: Family, onward: Onward) -> Result<()> {
    Mode::Tunnel.needed(family)?;
    let line = Line::new(Offload::Off)?;
    let [traveller, gateway] = &line.hosts;
    let inland = inland(gateway, family)?;
    let (own, target) = (inner(family, 0), behind(family, 1));
    let bits = if family == Family::V4 { 32 } else { 128 };
    link::address(traveller, "lo", &format!("{own}/{bits}"))?;
    traveller.ip(&format!("route add {target} via {} src {own} dev {}", outer(family, 1), DEVICES[0]))?;
    lay([traveller, gateway, &inland], family, onward)?;
    let watched = line.watched()?;
    let lan = watched.watch(1, LAN[0])?;
    bulk::datagrams(traveller, &inland, target, SIZES)?;
    bulk::datagrams(&inland, traveller, own, SIZES)?;
    let (plain, encrypted) = sums(family);
    for seen in watched.agrees()? {
        for wire in &seen.wire {
            ensure!(tally::of(wire, class::ESP) == encrypted && tally::of(wire, class::UDP).packets == 0, "{wire:?}");
        }
        ensure!(seen.decrypted == plain, "decrypted {:?} instead of {plain:?}", seen.decrypted);
    }
    let none = Counted::default();
    match onward {
        Onward::Clear => {
            lan.equals(class::UDP, plain, plain)?;
            lan.equals(DECRYPTED, none, none)
        }
        Onward::Encrypted => {
            lan.equals(class::UDP, none, none)?;
            lan.equals(class::ESP, encrypted, encrypted)?;
            lan.equals(DECRYPTED, plain, none)
        }
    }
}

/// Sets up the tunnel from the traveller to the gateway, and the one from there to the host behind it.
fn lay([traveller, gateway, inland]: [&Netns; 3], family: Family, onward: Onward) -> Result<()> {
    let (own, target) = (inner(family, 0), behind(family, 1));
    let west = End { netns: traveller, device: DEVICES[0], outer: outer(family, 0), inner: own };
    let east = End { netns: gateway, device: DEVICES[1], outer: outer(family, 1), inner: target };
    passes_on(&Tunnel { mode: Mode::Tunnel, number: NUMBER, ends: [west, east] }, 1)?;
    if onward == Onward::Clear {
        return Ok(());
    }
    let near = End { netns: gateway, device: LAN[0], outer: behind(family, 0), inner: own };
    let far = End { netns: inland, device: LAN[1], outer: target, inner: target };
    passes_on(&Tunnel { mode: Mode::Tunnel, number: NUMBER + 1, ends: [near, far] }, 0)
}

/// Sets a tunnel up, one end of which passes on what comes out of it.
fn passes_on(tunnel: &Tunnel<'_>, end: usize) -> Result<()> {
    let [left, right] = &tunnel.ends;
    for (here, there) in [(left, right), (right, left)] {
        tunnel.states(here.netns)?;
        tunnel.policies(here, there, "required")?;
    }
    tunnel.forwarding(&tunnel.ends[end], &tunnel.ends[1 - end])
}

/// What the datagrams are one way: in clear, and in a tunnel.
fn sums(family: Family) -> (Counted, Counted) {
    let plain = |size: &usize| *size as u64 + 8 + family.header_bytes();
    let encrypted = |size: &usize| Layer::tunnel(Kind::Esp).bytes_around(plain(size), family);
    let count = SIZES.len() as u64;
    let sum = |bytes: u64| Counted::new(count, bytes, 14);
    (sum(SIZES.iter().map(plain).sum()), sum(SIZES.iter().map(encrypted).sum()))
}
