//! Interfaces that are switched on and off, and what is said of addresses.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mpsec_agent::kernel::address::{self, Address};
use mpsec_agent::kernel::link::{self, Interface};
use mpsec_tests::netns::Netns;
use mpsec_tests::trial::trial;

use super::{Place, refused};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("interfaces::they_are_switched_and_nothing_else_changes", LIMIT, switched),
        trial("addresses::how_long_they_stay_and_who_sees_to_routes", LIMIT, addresses),
    ]
}

fn interface(netns: &Netns, name: &str) -> Result<Interface> {
    netns.run(link::list)?.into_iter().find(|interface| interface.name == name).context("it is not listed")
}

fn switched() -> Result<()> {
    let mut place = Place::new()?;
    place.netns.ip("link set west mtu 1400 promisc on multicast off")?;
    let flags = || place.netns.read("/sys/class/net/west/flags");
    let before = flags()?;
    let up = interface(&place.netns, "west")?;
    ensure!(up.is_up && up.is_enabled && up.mtu == Some(1400), "{up:?}");
    link::set_up(&mut place.client, place.west, false)?;
    let down = interface(&place.netns, "west")?;
    ensure!(!down.is_up && !down.is_enabled, "{down:?}");
    let other = interface(&place.netns, "east")?;
    ensure!(!other.is_up && other.is_enabled, "without a carrier it is on, and not up: {other:?}");
    link::set_up(&mut place.client, place.west, false)?;
    link::set_up(&mut place.client, place.west, true)?;
    ensure!(flags()? == before && interface(&place.netns, "west")? == up, "it is not as it was");
    refused(link::set_up(&mut place.client, 4711, true), libc::ENODEV, "")
}

fn addresses() -> Result<()> {
    let place = Place::new()?;
    for words in [
        "198.51.100.1/24 dev west valid_lft 500 preferred_lft 100",
        "198.51.100.9 peer 198.51.100.10/32 dev west",
        "203.0.113.1/24 dev west noprefixroute",
        "2001:db8:1::1/64 dev west noprefixroute nodad",
        "2001:db8:2::1/64 dev west valid_lft 500 preferred_lft 0 nodad",
    ] {
        place.netns.ip(&format!("addr add {words}"))?;
    }
    let all = place.netns.run(address::list)?;
    let find = |text: &str| -> Result<&Address> {
        let wanted: std::net::IpAddr = text.parse()?;
        all.iter().find(|address| address.address == wanted).with_context(|| format!("no {text}"))
    };
    let plain = find("192.0.2.1")?;
    ensure!(plain.is_permanent() && !plain.is_without_prefix_route() && plain.peer.is_none(), "{plain:?}");
    for limited in ["198.51.100.1", "2001:db8:2::1"] {
        ensure!(!find(limited)?.is_permanent(), "{:?}", find(limited)?);
    }
    ensure!(find("2001:db8:2::1")?.readiness == address::Readiness::Deprecated);
    for without in ["203.0.113.1", "2001:db8:1::1"] {
        let found = find(without)?;
        ensure!(found.is_without_prefix_route() && found.is_permanent() && !found.is_temporary(), "{found:?}");
    }
    ensure!(find("198.51.100.9")?.peer == Some("198.51.100.10".parse()?), "{:?}", find("198.51.100.9")?);
    Ok(())
}
