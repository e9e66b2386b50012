//! What comes out of ESP elsewhere than on the device that ESP came by.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::agent::Options;
use mpsec_tests::counted::{Classes, Counted};
use mpsec_tests::frames::class;
use mpsec_tests::link::{self, Offload};
use mpsec_tests::netns::Netns;
use mpsec_tests::paths::Family;
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::{Mode, interface};
use mpsec_tests::{bulk, need, tally, wait};

use super::by_hand::{NUMBER, SIZES, laid};
use super::line::{DECRYPTED, Line, outer};
use crate::watch::SHOWN;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let one = |family| trial(&format!("ipsec::interface_in_another_namespace_{family}"), LIMIT, move || talk(family));
    let in_a_vrf = trial("ipsec::tunnel_in_a_vrf", LIMIT, in_a_vrf);
    Family::ALL.map(one).into_iter().chain([in_a_vrf]).collect()
}

/// Where the device belongs to a VRF (Documentation/networking/vrf.rst), what comes out of ESP is received by the VRF's own device.
fn in_a_vrf() -> Result<()> {
    const VRF: &str = "blue";
    let family = Family::V4;
    Mode::Tunnel.needed(family)?;
    need::link_kind("vrf")?;
    let line = Line::new(Offload::Off)?;
    let tunnel = laid(&line, Mode::Tunnel, family);
    let [left, right] = &tunnel.ends;
    right.netns.ip(&format!("link add {VRF} type vrf table 50"))?;
    right.netns.ip(&format!("link set dev {VRF} up"))?;
    right.netns.ip(&format!("link set dev {} master {VRF}", right.device))?;
    let [west, east] = [0, 1].map(|host| outer(family, host).to_string());
    link::neighbours((left.netns, left.device, &west), (right.netns, right.device, &east))?;
    tunnel.lay()?;
    // Programs that know of no VRF take what comes in one, too.
    right.netns.sysctl("net/ipv4/udp_l3mdev_accept", "1")?;
    right.netns.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
    right.netns.ip(&format!("addr del {}/32 dev lo", right.inner))?;
    link::address(right.netns, VRF, &format!("{}/32", right.inner))?;
    let watched = line.watched()?;
    let vrf = watched.watch(1, VRF)?;
    bulk::datagrams(left.netns, right.netns, right.inner, SIZES)?;
    let seen = watched.agrees()?;
    let count = SIZES.len() as u64;
    ensure!(tally::of(&seen[1].wire[0], class::ESP).packets == count, "{:?}", seen[1].wire);
    ensure!(seen[1].decrypted == Counted::default(), "by its own device, too");
    let sizes = SIZES.iter().map(|size| *size as u64 + 28).sum();
    vrf.equals(DECRYPTED, Counted::new(count, sizes, 14), Counted::default())?;
    let (rx, tx) = vrf.counted()?;
    ensure!(rx.total().packets + tx.total().packets == count, "more on {VRF}: {rx:?}, {tx:?}");
    Ok(())
}

/// An xfrm interface in another network namespace than the one that ESP is sent and received in, as for programs that shall have no
/// other way out. What is inside is counted where the interface is, and what carries it where that leaves.
fn talk(family: Family) -> Result<()> {
    Mode::Interface.needed(family)?;
    let line = Line::new(Offload::Off)?;
    let inside = Netns::new()?;
    inside.enable_ipv6()?;
    let tunnel = laid(&line, Mode::Interface, family);
    let [left, right] = &tunnel.ends;
    let bits = if family == Family::V4 { 32 } else { 128 };
    for (here, there, netns) in [(left, right, &inside), (right, left, right.netns)] {
        tunnel.states(here.netns)?;
        tunnel.policies(here, there, "required")?;
        let name = tunnel.make_interface(here, there)?;
        if !std::ptr::eq(here.netns, netns) {
            here.netns.ip(&format!("link set dev {name} netns {}", netns.path()))?;
            netns.ip(&format!("link set dev {name} up"))?;
        }
        link::address(netns, &name, &format!("{}/{bits}", here.inner))?;
        netns.ip(&format!("route add {}/{bits} dev {name}", there.inner))?;
    }
    let config = format!("[[netns]]\nname = \"inside\"\npath = \"{}\"\n", inside.path());
    let watched = line.watched_with(Options { config, ..Options::default() })?;
    bulk::datagrams(&inside, right.netns, right.inner, SIZES)?;
    bulk::datagrams(right.netns, &inside, left.inner, SIZES)?;
    let seen = watched.agrees()?;
    let count = SIZES.len() as u64;
    let packets = seen[0].wire.each_ref().map(|wire| tally::of(wire, class::ESP).packets);
    ensure!(packets == [count; 2] && seen[0].wire.iter().all(|wire| wire.len() == 1), "{:?}", seen[0].wire);
    ensure!(seen.iter().all(|seen| seen.decrypted == Counted::default()), "decrypted on the wire's device");
    let sizes = SIZES.iter().map(|size| *size as u64 + 8 + family.header_bytes()).sum();
    let expected = Counted::new(count, sizes, 0);
    let name = interface(NUMBER);
    for (host, netns) in ["inside", ""].into_iter().enumerate() {
        wait::until(SHOWN, || {
            let metrics = watched.agents[host].scrape()?;
            for direction in ["rx", "tx"] {
                let Classes(counted) = Classes::read(&metrics, &name, direction)?;
                let only = counted.len() == 1 && counted.get(DECRYPTED) == Some(&expected);
                ensure!(only, "{direction} of {host}: {counted:?} instead of {expected:?}");
                let labels = [("netns", netns), ("interface", name.as_str()), ("direction", direction)];
                ensure!(metrics.sum("mpsec_interface_packets_total", &labels)? == count, "not under {netns:?}");
            }
            Ok(())
        })?;
    }
    Ok(())
}
