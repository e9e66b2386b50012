//! MPTCP over interfaces of IPsec: each path is a tunnel with an interface of its own, which packets are routed to.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use mpsec_tests::counted::Counted;
use mpsec_tests::link::{self, Offload};
use mpsec_tests::mptcp::Conversation;
use mpsec_tests::paths::{self, Family, Paths, Plan, address, device};
use mpsec_tests::trial::trial;
use mpsec_tests::xfrm::{End, Mode, Tunnel, interface};
use mpsec_tests::{need, wait};

use super::multipath::{DOWN, HOSTS, LIMIT, PATHS, Scene, UP};
use crate::mptcp_view::{SHOWN, list, number, view};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in [Mode::Interface, Mode::Vti] {
        for family in Family::ALL {
            let name = format!("ipsec::multipath_{}_{family}", mode.name());
            trials.push(trial(&name, LIMIT, move || talk(mode, family)));
        }
    }
    trials
}

/// A subflow is on the path of its tunnel's interface, packet by packet, and nothing of it is in clear below.
fn talk(mode: Mode, family: Family) -> Result<()> {
    need::mptcp()?;
    mode.needed(family)?;
    let paths = Paths::new(Plan::wires(PATHS))?;
    (0..PATHS).try_for_each(|path| lay(&paths, mode, family, path))?;
    let scene = Scene::new(paths)?;
    scene.paths.add_endpoints(family)?;
    let mut talk = Conversation::open(&scene.paths, family)?;
    talk.joined(u32::try_from(PATHS)?)?;
    talk.exchange(UP, DOWN)?;
    let (sent, known) = scene.sent(&talk)?;
    scene.seen()?;
    for host in 0..HOSTS.len() {
        wait::until(SHOWN, || carried(&scene, host, [sent[1 - host], sent[host]], known))
            .with_context(|| format!("host {host}"))?;
    }
    talk.close()?;
    scene.agrees()?;
    for path in 0..PATHS {
        let clear = scene.clear(path)?;
        ensure!(clear == Counted::default(), "{clear:?} in clear on path {path}");
    }
    Ok(())
}

/// A host's address outside the tunnel of a path.
fn outer(family: Family, path: usize, host: usize) -> IpAddr {
    let host = host + 1;
    let text =
        if family == Family::V4 { format!("198.18.{path}.{host}") } else { format!("2001:db8:ff:{path}::{host}") };
    text.parse().expect("an address")
}

/// Puts a tunnel with an interface where a path was a wire. The path's addresses and routes move to the interface.
fn lay(paths: &Paths, mode: Mode, family: Family, path: usize) -> Result<()> {
    let devices = HOSTS.map(|host| &*Box::leak(device(host, path).into_boxed_str()));
    let bits = if family == Family::V4 { 32 } else { 128 };
    for (host, device) in devices.into_iter().enumerate() {
        let netns = paths.netns(HOSTS[host]);
        netns.ip(&format!("addr flush dev {device}"))?;
        link::address(netns, device, &format!("{}/{}", outer(family, path, host), bits - 8))?;
    }
    let [west, east] = [0, 1].map(|host| outer(family, path, host).to_string());
    link::neighbours((&paths.client, devices[0], &west), (&paths.server, devices[1], &east))?;
    let end = |host: usize| End {
        netns: paths.netns(HOSTS[host]),
        device: devices[host],
        outer: outer(family, path, host),
        // The client's subflow has the address of its path, and the server always its first one.
        inner: address(HOSTS[host], family, if host == 0 { path } else { 0 }),
    };
    let tunnel = Tunnel { mode, number: number_of(path), ends: [end(0), end(1)] };
    let [left, right] = &tunnel.ends;
    for (here, there) in [(left, right), (right, left)] {
        tunnel.states(here.netns)?;
        tunnel.policies(here, there, "required")?;
        let name = tunnel.make_interface(here, there)?;
        Offload::Off.set(here.netns, &name)?;
    }
    let name = interface(tunnel.number);
    for host in HOSTS {
        link::address(paths.netns(host), &name, &format!("{}/{bits}", address(host, family, path)))?;
    }
    let (server, client) = (right.inner, left.inner);
    if path == 0 {
        paths.client.ip(&format!("route add {server}/{bits} dev {name}"))?;
    }
    paths.client.ip(&format!("route replace {server}/{bits} dev {name} table {}", paths::table(path)))?;
    paths.server.ip(&format!("route add {client}/{bits} dev {name}")).map(drop)
}

fn number_of(path: usize) -> u32 {
    u32::try_from(path + 1).expect("no test has that many paths")
}

/// The subflows of a host carried what its program received and sent, and not less where it is not `known` what was sent twice; their
/// packets are those of their interfaces.
fn carried(scene: &Scene, host: usize, program: [u64; 2], known: bool) -> Result<()> {
    let view = view(&scene.agents[host])?;
    let connection = list(view.get("connections"))?.iter().find(|one| one["token"] != 0).context("no connection")?;
    let subflows = list(&connection["subflows"])?;
    let names: Vec<_> = (0..PATHS).map(|path| interface(number_of(path))).collect();
    let mut sums = [0; 2];
    for name in &names {
        let is_there = |one: &&serde_json::Value| one["interface"] == name.as_str();
        let subflow = subflows.iter().find(is_there).with_context(|| format!("none on {name}: {subflows:#?}"))?;
        let device = scene.paths.netns(HOSTS[host]).counters(name)?;
        let devices = [[device.rx_packets, device.rx_bytes], [device.tx_packets, device.tx_bytes]];
        for ((direction, sum), device) in ["rx", "tx"].into_iter().zip(&mut sums).zip(devices) {
            let said = &subflow[direction];
            *sum += number(&said["payload_bytes"])? - number(&said["retransmitted_bytes"])?;
            let wire = [number(&said["packets"])?, number(&said["bytes"])?];
            ensure!(wire == device && wire[0] > 0, "{name} {direction}: {wire:?} instead of {device:?}");
        }
    }
    ensure!(subflows.len() == PATHS, "{subflows:#?}");
    let enough = sums.iter().zip(&program).all(|(sum, program)| sum >= program);
    ensure!(sums == program || !known && enough, "{sums:?} instead of {program:?}");
    let metrics = scene.agents[host].scrape()?;
    for name in &names {
        let device = scene.paths.netns(HOSTS[host]).counters(name)?;
        for (direction, packets) in [("rx", device.rx_packets), ("tx", device.tx_packets)] {
            let said = metrics.sum("mpsec_path_packets_total", &[("interface", name), ("direction", direction)])?;
            ensure!(said == packets, "path {name} {direction}: {said} instead of {packets}");
        }
    }
    Ok(())
}
